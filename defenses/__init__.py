"""What the client does: one file for each defense. A new one is added to this list."""

from defenses.base import Defense, KnownDefense, Update
from defenses.clipping import Clipping
from defenses.compose import Compose
from defenses.gaussian_noise import GaussianNoise
from defenses.half_precision import HalfPrecision
from defenses.laplace_noise import LaplaceNoise
from defenses.masking import Masking
from defenses.pruning import Pruning
from defenses.qsgd import QSGD
from defenses.quantization import Quantization
from defenses.relative_noise import RelativeNoise
from defenses.sign import Sign

__all__ = [
    "QSGD",
    "Clipping",
    "Compose",
    "Defense",
    "GaussianNoise",
    "HalfPrecision",
    "KnownDefense",
    "LaplaceNoise",
    "Masking",
    "Pruning",
    "Quantization",
    "RelativeNoise",
    "Sign",
    "Update",
]
