"""What the attacker does: one file for each attack. A new one is added to this list."""

from attacks.analytic_linear import AnalyticLinear
from attacks.base import Attack, Observation, Reconstruction
from attacks.baselines import ClassMeanImage, ConstantImage, MeanImage
from attacks.bayes import Bayes
from attacks.dlg import DLG
from attacks.dlg_fb import DLGFB
from attacks.fedavg_inversion import FedAvgInversion
from attacks.gauss_newton import GaussNewton
from attacks.idlg import IDLG
from attacks.inverting_gradients import InvertingGradients
from attacks.peeling import Peeling
from attacks.rgap import RGAP
from attacks.surrogate_model import SurrogateModel

__all__ = [
    "DLG",
    "DLGFB",
    "IDLG",
    "RGAP",
    "AnalyticLinear",
    "Attack",
    "Bayes",
    "ClassMeanImage",
    "ConstantImage",
    "FedAvgInversion",
    "GaussNewton",
    "InvertingGradients",
    "MeanImage",
    "Observation",
    "Peeling",
    "Reconstruction",
    "SurrogateModel",
]
