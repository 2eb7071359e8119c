"""What the client does: one file for each defense. A new one is added to this list."""

from defenses.base import Defense, KnownDefense, Update
from defenses.clipping import Clipping
from defenses.gaussian_noise import GaussianNoise
from defenses.masking import Masking
from defenses.pruning import Pruning

__all__ = ["Clipping", "Defense", "GaussianNoise", "KnownDefense", "Masking", "Pruning", "Update"]
