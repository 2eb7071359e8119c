"""How close a reconstruction is to the private batch: matching first, then one score per image.

Images are float in [0, 1], `[V, N, C, H, W]`: V victims, N images of each victim's batch. Scores
are `[V, N]`, one for each *true* image; averaging comes later, over victims, and pools no pixels of
different images.

Scores are computed in float64 on the CPU, wherever the images lie: the same images then score the
same on every device, and float32 cancellation does not blur the SSIM of flat images. LPIPS is the
exception: it runs as its caller set it up (see `benchmark.metrics.perceptual`).
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torchmetrics.functional.image import (
    peak_signal_noise_ratio,
    structural_similarity_index_measure,
)

from benchmark.metrics.leak import PSNR_CAP, leaked

_SSIM_WINDOW = 11
_SSIM_SIGMA = 1.5


@dataclass(frozen=True)
class Scores:
    """Scores of V victims with N images each; all tensors are `[V, N]`, on the CPU.

    Attributes:
        mse: Mean squared error over pixels and channels, float64, 0 (identical) to 1.
        psnr: Peak signal-to-noise ratio in dB at a peak of 1, float64, 0 to `PSNR_CAP`.
        ssim: Structural similarity, float64, -1 to 1 (identical).
        lpips: LPIPS, 0 (identical) upwards, or None where it was not measured.
        label_correct: Whether the matched image carries the true label, bool.
        pairs: Which image of the reconstruction it is, int64.
    """

    mse: Tensor
    psnr: Tensor
    ssim: Tensor
    lpips: Tensor | None
    label_correct: Tensor
    pairs: Tensor


def match(true: Tensor, found: Tensor, null_psnr: Tensor | None = None) -> Tensor:
    """Pair the images of each batch one to one so that most have leaked and the total squared error is least.

    An update does not tell the order of its batch, so an attacker's order means nothing. A
    greedy choice (each true image takes its nearest) could use one found image twice, or leave
    a bad rest; the Hungarian method finds the best one-to-one pairing. The least error alone
    would part an image from its exact copy where the rest, which is bad anyway, then fits better.

    Args:
        true: Private images, `[V, N, C, H, W]`.
        found: Reconstructed images, same shape, finite.
        null_psnr: PSNR in dB that each true image reaches without the update, `[V, N]`: what is
            no better has not leaked. None where that is not asked.

    Returns:
        `[V, N]` int64 on the CPU: `[v, i]` is the index of the found image that is paired with
        true image i of victim v. Each row is a permutation of 0 to N - 1.

    Raises:
        ValueError: The shapes differ or are not five-dimensional, or a pixel is not finite.
    """
    _check_images(true, found)
    victims, images = true.shape[:2]
    permutation = torch.zeros(victims, images, dtype=torch.int64)
    if images < 2:
        return permutation
    left, right = _exact(true).flatten(2), _exact(found).flatten(2)
    null = torch.zeros(victims, images) if null_psnr is None else null_psnr.cpu()
    for victim in range(victims):  # one at a time: all pairs of all victims need not fit in memory
        mse = torch.cdist(left[victim], right[victim]).square() / left.shape[2]
        has_leaked = leaked((-10 * mse.log10()).clamp(max=PSNR_CAP), null[victim][:, None])
        worth = images * float(mse.max()) + 1  # more than any errors add up to
        _, columns = linear_sum_assignment((mse - worth * has_leaked).numpy())
        permutation[victim] = torch.from_numpy(columns)
    return permutation


def score(
    true_images: Tensor,
    true_labels: Tensor,
    found_images: Tensor,
    found_labels: Tensor,
    perceptual: Callable[[Tensor, Tensor], Tensor] | None,
    null_psnr: Tensor | None = None,
) -> Scores:
    """Match a reconstruction to the private batch and score it image by image.

    Reconstructed pixels are clamped to [0, 1] before anything else, as any attacker would do.

    Args:
        true_images: Private images, `[V, N, C, H, W]` in [0, 1].
        true_labels: Their labels, `[V, N]`.
        found_images: Reconstructed images, same shape, finite. What a diverged victim is
            scored as is for the caller to say.
        found_labels: The labels that the attack gives its images, `[V, N]`.
        perceptual: Maps two batches `[M, C, H, W]` in [0, 1] to their `[M]` distances, or None.
        null_psnr: As for :func:`match`.

    Returns:
        Scores in the order of the true images.

    Raises:
        ValueError: Shapes disagree, a pixel is not finite, or `perceptual` does not return one
            value for each image.
    """
    _check_images(true_images, found_images)
    shape = true_images.shape[:2]
    if true_labels.shape != shape or found_labels.shape != shape:
        raise ValueError(
            f"labels must be {list(shape)}, not {list(true_labels.shape)} (true) and {list(found_labels.shape)} (found)"
        )
    found_images = found_images.clamp(0, 1)
    permutation = match(true_images, found_images, null_psnr)

    victim = torch.arange(shape[0])[:, None]
    labels = found_labels.cpu()[victim, permutation]
    on_device = permutation.to(found_images.device)
    paired = found_images[victim.to(found_images.device), on_device]

    true, found = _exact(true_images).flatten(0, 1), _exact(paired).flatten(0, 1)
    return Scores(
        mse=(true - found).square().mean(dim=(1, 2, 3)).reshape(shape),
        psnr=_psnr(true, found).reshape(shape),
        ssim=_ssim(true, found).reshape(shape),
        lpips=_perceptual(perceptual, true_images, paired),
        label_correct=labels == true_labels.cpu(),
        pairs=permutation,
    )


def null_scores(images: Tensor, labels: Tensor, mean_image: Tensor, class_means: Tensor) -> tuple[Tensor, Tensor]:
    """The best that an attacker reaches who does not look at the update, for each image.

    The null baselines are 0.5 everywhere, the public mean image, and the public mean image of any class: whoever
    answers for a batch, or takes its labels for others, may give one of another class than the image's own.

    Args:
        images: private images, ``[V, N, C, H, W]`` in [0, 1].
        labels: their labels, ``[V, N]``.
        mean_image: ``[C, H, W]``.
        class_means: ``[K, C, H, W]``.

    Returns:
        PSNR in dB and SSIM, ``[V, N]`` each, float64.
    """
    exact = _exact(images).flatten(2)
    nearest = torch.cdist(exact, _exact(class_means).flatten(1).expand(len(exact), -1, -1)).argmin(2).to(images.device)
    of_classes = class_means[labels], class_means[nearest]
    guesses = (torch.full_like(images, 0.5), mean_image.expand_as(images), *of_classes)
    # As victims of one image each, or the matching would pair a guess with another image of the batch.
    alone = images.flatten(0, 1).unsqueeze(1)
    of_one = labels.flatten().unsqueeze(1)
    scores = [score(alone, of_one, guess.to(images).flatten(0, 1).unsqueeze(1), of_one, None) for guess in guesses]
    psnr, ssim = (torch.stack([getattr(one, name) for one in scores]).amax(0) for name in ("psnr", "ssim"))
    return psnr.view(labels.shape), ssim.view(labels.shape)


def matched_psnr(true_images: Tensor, found_images: Tensor, null_psnr: Tensor | None = None) -> Tensor:
    """The PSNR of :func:`score` alone, `[V, N]`, many times cheaper: for curves.

    Args:
        true_images: Private images, `[V, N, C, H, W]` in [0, 1].
        found_images: Reconstructed images, same shape, finite; clamped to [0, 1].
        null_psnr: As for :func:`match`.

    Raises:
        ValueError: Shapes disagree, or a pixel is not finite.
    """
    _check_images(true_images, found_images)
    found_images = found_images.clamp(0, 1)
    permutation = match(true_images, found_images, null_psnr).to(found_images.device)
    paired = found_images[torch.arange(len(permutation), device=found_images.device)[:, None], permutation]
    return _psnr(_exact(true_images).flatten(0, 1), _exact(paired).flatten(0, 1)).reshape(permutation.shape)


def ssim_window(height: int, width: int) -> int:
    """Side of the SSIM window for images of this size: 11, or the largest odd one that fits.

    Where a side is shorter than 11 (the 8 x 8 digits: 7), the width of the Gaussian shrinks in
    proportion, so that it is cut off at the same height as in the standard window. That is
    another metric than the 11-pixel one: compare it among images of the same size only.

    Args:
        height: Image height in pixels, at least 1.
        width: Image width in pixels, at least 1.

    Returns:
        An odd number, 1 to 11.

    Raises:
        ValueError: A side is not positive.
    """
    side = min(height, width)
    if side < 1:
        raise ValueError(f"no image is {height} x {width} pixels")
    return min(_SSIM_WINDOW, side - 1 + side % 2)


def _psnr(true: Tensor, found: Tensor) -> Tensor:
    """PSNR of each image, `[M, C, H, W]` to `[M]`, in dB, at most `PSNR_CAP`."""
    # Without `dim`, torchmetrics silently pools the whole batch into one value.
    ratio = peak_signal_noise_ratio(found, true, data_range=1.0, reduction="none", dim=(1, 2, 3))
    return ratio.clamp(max=PSNR_CAP)


def _ssim(true: Tensor, found: Tensor) -> Tensor:
    """SSIM (Wang et al. 2004) of each image, `[M, C, H, W]` to `[M]`.

    torchmetrics' value: Gaussian window, reflected border, mean over all pixels and channels.
    scikit-image leaves out a border of half a window instead, so its mean differs.
    """
    window = ssim_window(true.shape[-2], true.shape[-1])
    # torchmetrics ignores `kernel_size` for Gaussian windows and derives it from sigma, as
    # 2 * int(3.5 * sigma + 0.5) + 1. A sigma in proportion gives just the window wanted.
    similarity = structural_similarity_index_measure(
        found,
        true,
        gaussian_kernel=True,
        sigma=_SSIM_SIGMA * window / _SSIM_WINDOW,
        kernel_size=window,
        reduction="none",
        data_range=1.0,
    )
    assert isinstance(similarity, Tensor)  # a tuple only where the full map is asked for
    return similarity


def _perceptual(perceptual: Callable[[Tensor, Tensor], Tensor] | None, true: Tensor, found: Tensor) -> Tensor | None:
    """`perceptual` over `[V, N, C, H, W]` pairs as `[V, N]` on the CPU, None without one."""
    if perceptual is None:
        return None
    distance = perceptual(true.flatten(0, 1), found.flatten(0, 1))
    if distance.shape != (true.shape[0] * true.shape[1],):
        raise ValueError(f"perceptual returned {list(distance.shape)}, not one value per image")
    return distance.detach().cpu().reshape(true.shape[:2])


def _exact(images: Tensor) -> Tensor:
    return images.detach().cpu().double()


def _check_images(true: Tensor, found: Tensor) -> None:
    if true.ndim != 5 or true.shape != found.shape:
        raise ValueError(
            f"images must be [V, N, C, H, W] and alike, not {list(true.shape)} (true) and {list(found.shape)} (found)"
        )
    # Looked at before any clamping, which would turn an infinite pixel into a plausible one.
    for name, images in (("true", true), ("found", found)):
        if not torch.isfinite(images).all():
            raise ValueError(f"{name} images hold pixels that are not finite")
