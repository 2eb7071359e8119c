"""What the client does: one file for each defense. A new one is added to this list."""

from defenses.augmentation import Augmentation
from defenses.base import Clients, Defense, HookDefense, KnownDefense, Update
from defenses.clipping import Clipping
from defenses.compose import Compose
from defenses.dp_sgd import DPSGD
from defenses.gaussian_noise import GaussianNoise
from defenses.half_precision import HalfPrecision
from defenses.intra_instahide import IntraInstaHide
from defenses.laplace_noise import LaplaceNoise
from defenses.masking import Masking
from defenses.mixup import MixUp
from defenses.pruning import Pruning
from defenses.qsgd import QSGD
from defenses.quantization import Quantization
from defenses.sign import Sign
from defenses.soteria import Soteria

__all__ = [
    "DPSGD",
    "QSGD",
    "Augmentation",
    "Clients",
    "Clipping",
    "Compose",
    "Defense",
    "GaussianNoise",
    "HalfPrecision",
    "HookDefense",
    "IntraInstaHide",
    "KnownDefense",
    "LaplaceNoise",
    "Masking",
    "MixUp",
    "Pruning",
    "Quantization",
    "Sign",
    "Soteria",
    "Update",
]
