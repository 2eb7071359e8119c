"""What the client does: one file for each defense. A new one is added to this list."""

from defenses.base import Defense, KnownDefense, Update
from defenses.clipping import Clipping
from defenses.count_sketch import CountSketch
from defenses.gaussian_noise import GaussianNoise
from defenses.global_pruning import GlobalPruning
from defenses.kept_at_home import KeptAtHome
from defenses.layer_masking import LayerMasking
from defenses.masking import Masking
from defenses.pruning import Pruning
from defenses.quantile_clipping import QuantileClipping
from defenses.tensor_clipping import TensorClipping
from defenses.truncated_svd import TruncatedSVD
from defenses.value_clipping import ValueClipping

__all__ = [
    "Clipping",
    "CountSketch",
    "Defense",
    "GaussianNoise",
    "GlobalPruning",
    "KeptAtHome",
    "KnownDefense",
    "LayerMasking",
    "Masking",
    "Pruning",
    "QuantileClipping",
    "TensorClipping",
    "TruncatedSVD",
    "Update",
    "ValueClipping",
]
