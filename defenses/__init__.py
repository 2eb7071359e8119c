"""What the client does: one file for each defense. A new one is added to this list."""

from defenses.augmentation import Augmentation
from defenses.base import Clients, Defense, HookDefense, KnownDefense, Update
from defenses.clipping import Clipping
from defenses.dp_sgd import DPSGD
from defenses.gaussian_noise import GaussianNoise
from defenses.intra_instahide import IntraInstaHide
from defenses.masking import Masking
from defenses.mixup import MixUp
from defenses.pruning import Pruning
from defenses.soteria import Soteria

__all__ = [
    "DPSGD",
    "Augmentation",
    "Clients",
    "Clipping",
    "Defense",
    "GaussianNoise",
    "HookDefense",
    "IntraInstaHide",
    "KnownDefense",
    "Masking",
    "MixUp",
    "Pruning",
    "Soteria",
    "Update",
]
