"""What the attacker does: one file for each attack. A new one is added to this list."""

from attacks.analytic_linear import AnalyticLinear
from attacks.base import Attack, Observation, Reconstruction
from attacks.baselines import ClassMeanImage, ConstantImage, MeanImage
from attacks.dlg import DLG
from attacks.dlg_fb import DLGFB
from attacks.gauss_newton import GaussNewton
from attacks.idlg import IDLG
from attacks.inverting_gradients import InvertingGradients
from attacks.label_inference import LabelInference
from attacks.peeling import Peeling
from attacks.rgap import RGAP

__all__ = [
    "DLG",
    "DLGFB",
    "IDLG",
    "RGAP",
    "AnalyticLinear",
    "Attack",
    "ClassMeanImage",
    "ConstantImage",
    "GaussNewton",
    "InvertingGradients",
    "LabelInference",
    "MeanImage",
    "Observation",
    "Peeling",
    "Reconstruction",
]
