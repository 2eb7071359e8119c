"""What the client does: one file for each defense. A new one is added to this list."""

from defenses.augmentation import Augmentation
from defenses.base import Clients, Defense, HookDefense, KnownDefense, Update
from defenses.clipping import Clipping
from defenses.compose import Compose
from defenses.count_sketch import CountSketch
from defenses.dp_sgd import DPSGD
from defenses.gaussian_noise import GaussianNoise
from defenses.global_pruning import GlobalPruning
from defenses.grad_defense import GradDefense
from defenses.half_precision import HalfPrecision
from defenses.intra_instahide import IntraInstaHide
from defenses.kept_at_home import KeptAtHome
from defenses.laplace_noise import LaplaceNoise
from defenses.layer_masking import LayerMasking
from defenses.masking import Masking
from defenses.mixup import MixUp
from defenses.outpost import OUTPOST
from defenses.precode import PRECODE
from defenses.pruning import Pruning
from defenses.qsgd import QSGD
from defenses.quantile_clipping import QuantileClipping
from defenses.quantization import Quantization
from defenses.relative_noise import RelativeNoise
from defenses.sign import Sign
from defenses.soteria import Soteria
from defenses.tensor_clipping import TensorClipping
from defenses.truncated_svd import TruncatedSVD
from defenses.value_clipping import ValueClipping

__all__ = [
    "DPSGD",
    "OUTPOST",
    "PRECODE",
    "QSGD",
    "Augmentation",
    "Clients",
    "Clipping",
    "Compose",
    "CountSketch",
    "Defense",
    "GaussianNoise",
    "GlobalPruning",
    "GradDefense",
    "HalfPrecision",
    "HookDefense",
    "IntraInstaHide",
    "KeptAtHome",
    "KnownDefense",
    "LaplaceNoise",
    "LayerMasking",
    "Masking",
    "MixUp",
    "Pruning",
    "QuantileClipping",
    "Quantization",
    "RelativeNoise",
    "Sign",
    "Soteria",
    "TensorClipping",
    "TruncatedSVD",
    "Update",
    "ValueClipping",
]
