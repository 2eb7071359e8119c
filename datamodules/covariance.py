"""The covariance of what many values of few images tell."""

from torch import Tensor


def shrunk_covariance(samples: Tensor) -> Tensor:
    """Return the covariance `[D, D]` of samples `[P, D]`, positive definite where not all of them are alike.

    With fewer samples than values some directions would seem not to vary at all. So it is drawn towards
    values that vary alone and alike, by the share that comes nearest to the true covariance if they are
    normal: oracle approximating shrinkage (Chen, Wiesel, Eldar and Hero 2010, arXiv 0907.4698, eq. 23).
    """
    count, size = samples.shape
    centered = samples.double()  # in float32 the sums over images, most of which are alike, are not exact enough
    centered = centered - centered.mean(0)
    found = centered.T @ centered / count
    spread, level = found.square().mean(), found.diagonal().mean()
    apart = (count + 1) * (spread - level.square() / size)
    share = float(((spread + level.square()) / apart).clamp(max=1)) if apart > 0 else 1.0
    found.mul_(1 - share).diagonal().add_(share * level)
    return found.to(samples)
