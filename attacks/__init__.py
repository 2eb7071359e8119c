"""What the attacker does: one file for each attack. A new one is added to this list."""

from attacks.analytic_linear import AnalyticLinear
from attacks.autoleak import AutoLeak
from attacks.base import Attack, Observation, Reconstruction
from attacks.baselines import ClassMeanImage, ConstantImage, MeanImage
from attacks.bayes import Bayes
from attacks.cpl import CPL
from attacks.dlg import DLG
from attacks.dlg_fb import DLGFB
from attacks.fedavg_inversion import FedAvgInversion
from attacks.gauss_newton import GaussNewton
from attacks.gradinversion import GradInversion
from attacks.idlg import IDLG
from attacks.inverting_gradients import InvertingGradients
from attacks.label_inference import LabelInference
from attacks.learned_inversion import LearnedInversion
from attacks.peeling import Peeling
from attacks.rgap import RGAP
from attacks.sapag import SAPAG
from attacks.surrogate_model import SurrogateModel
from attacks.wiener import Wiener

__all__ = [
    "CPL",
    "DLG",
    "DLGFB",
    "IDLG",
    "RGAP",
    "SAPAG",
    "AnalyticLinear",
    "Attack",
    "AutoLeak",
    "Bayes",
    "ClassMeanImage",
    "ConstantImage",
    "FedAvgInversion",
    "GaussNewton",
    "GradInversion",
    "InvertingGradients",
    "LabelInference",
    "LearnedInversion",
    "MeanImage",
    "Observation",
    "Peeling",
    "Reconstruction",
    "SurrogateModel",
    "Wiener",
]
