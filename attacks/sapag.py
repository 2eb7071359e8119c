from dataclasses import dataclass

from attacks.gradient_matching import GradientMatching


@dataclass(eq=False)
class SAPAG(GradientMatching):
    """SAPAG: a self-adaptive privacy attack, by Gaussian kernels of the layers' gradients (arXiv 2009.06228).

    Wang et al. 2020: from noise, the mean over the layers of 1 minus a Gaussian kernel of the gradients' difference is
    minimized. The kernel is as wide as what was observed of the layer is large, so that layers with small gradients
    count as much as others. No numbers with
    code exist, so nothing is reproduced here: the widths and the optimizer, Adam, are ours. The kernels are flat far
    from the update, where L-BFGS stalls.
    """

    tolerance: float = 0.0
    optimizer: str = "adam"
    distance: str = "kernel"
