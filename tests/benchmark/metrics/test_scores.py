"""Scores: hand-worked values, scikit-image as a second opinion, matching, and the edges."""

import itertools
import math

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import Tensor

from benchmark.metrics.scores import (
    PSNR_CAP,
    Scores,
    match,
    matched_psnr,
    score,
    ssim_window,
)

torch.set_num_threads(1)


def pair(*shape: int, noise: float = 0.1, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Random images and a noisy copy, both in [0, 1]."""
    generator = torch.Generator().manual_seed(seed)
    true = torch.rand(shape, generator=generator)
    return true, (true + noise * torch.randn(shape, generator=generator)).clamp(0, 1)


def scored(true: Tensor, found: Tensor) -> Scores:
    labels = torch.zeros(true.shape[:2], dtype=torch.int64)
    return score(true, labels, found, labels, None)


def gray(*levels: float) -> Tensor:
    """One victim whose images are flat, `[1, N, 1, 8, 8]`."""
    return torch.tensor(levels)[None, :, None, None, None].expand(-1, -1, 1, 8, 8).contiguous()


# Matching


def test_match_undoes_a_known_permutation() -> None:
    true, near = pair(3, 5, 3, 8, 8, noise=0.02)
    orders = torch.tensor([[0, 1, 2, 3, 4], [4, 3, 2, 1, 0], [2, 0, 4, 1, 3]])
    found = torch.stack([images[order] for images, order in zip(near, orders, strict=True)])
    # Found image j shows true image order[j], so true image i is found at order's inverse.
    permutation = match(true, found)
    assert permutation.dtype == torch.int64
    assert torch.equal(permutation, orders.argsort(dim=1))


def test_match_where_greedy_pairs_wrongly() -> None:
    # Squared distances:      found 0.3   found 0.9
    #   true 0.1                0.04        0.64
    #   true 0.5                0.04        0.16
    # True 0.5 alone would take 0.3 (0.04 against 0.16); so would greedy from that row, at a
    # total of 0.68. The best total is 0.20.
    assert match(gray(0.5, 0.1), gray(0.3, 0.9)).tolist() == [[1, 0]]


def test_match_is_on_squared_error() -> None:
    # Images of two pixels. In order the squared distances are 0.25 + 0.27 = 0.52, crossed
    # 0.64 + 0.02 = 0.66; plain distances would prefer crossed, 0.95 to 1.02.
    true = torch.tensor([[0.0, 0.0], [0.49, 0.42]]).reshape(1, 2, 1, 1, 2)
    found = torch.tensor([[0.4, 0.3], [0.8, 0.0]]).reshape(1, 2, 1, 1, 2)
    assert match(true, found).tolist() == [[0, 1]]


@pytest.mark.parametrize("rest", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("images", [2, 4, 8])
def test_an_image_that_was_found_is_not_given_away_for_a_better_rest(images: int, rest: float) -> None:
    """One image of a batch is enough to leak. The least error alone would part it from its exact copy."""
    generator = torch.Generator().manual_seed(images)
    levels = torch.linspace(0.1, 0.85, images).view(1, images, 1, 1, 1)
    true = levels + 0.02 * torch.rand((1, images, 1, 8, 8), generator=generator)
    for one in range(images):
        found = torch.full_like(true, rest)
        found[:, 0] = true[:, one]
        psnr = matched_psnr(true, found)
        assert torch.equal(psnr, scored(true, found).psnr) and psnr[0, one] >= 20
        if rest != 0.5:  # which is within 20 dB of some images
            assert match(true, found)[0, one] == 0 and psnr[0, one] == PSNR_CAP


def test_match_is_that_of_a_search_over_all_orders() -> None:
    """Most images that leaked first, each by 20 dB and its own null baseline; then the least error."""
    generator = torch.Generator().manual_seed(0)
    counts = set()
    for victims in range(30):
        true = torch.rand((1, 4, 1, 3, 3), generator=generator) * 0.4
        noise = torch.rand((4, 1, 1, 1), generator=generator) * 0.4
        found = true[:, torch.randperm(4, generator=generator)] + noise * torch.randn(true.shape, generator=generator)
        null = torch.rand((1, 4), generator=generator) * 30
        best: tuple[int, float, tuple[int, ...]] = (-1, 0.0, ())
        for order in itertools.permutations(range(4)):
            mse = [float((true[0, i] - found[0, j]).double().square().mean()) for i, j in enumerate(order)]
            psnr = [-10 * math.log10(each) for each in mse]
            leaked = sum(one >= 20 and one > float(other) for one, other in zip(psnr, null[0], strict=True))
            best = max(best, (leaked, -sum(mse), order))
        assert match(true, found, null).tolist() == [list(best[2])], victims
        counts.add(best[0])
    assert len(counts) > 2


def test_match_never_uses_an_image_twice() -> None:
    permutation = match(gray(0.5, 0.5, 0.5), gray(0.5, 0.9, 0.1))
    assert sorted(permutation[0].tolist()) == [0, 1, 2]


def test_match_tells_nearly_identical_images_apart() -> None:
    # Distances that float32 matrix products would round to zero.
    true = gray(0.9, 0.9 + 1e-6, 0.9 + 2e-6)
    assert match(true, true[:, [2, 0, 1]]).tolist() == [[1, 2, 0]]


def test_match_of_single_images_and_of_no_victims() -> None:
    assert match(*pair(4, 1, 1, 8, 8)).tolist() == [[0]] * 4
    assert match(*pair(0, 3, 1, 8, 8)).shape == (0, 3)


# One image at a time


def test_scores_follow_the_order_of_the_true_images() -> None:
    true = gray(0.2, 0.8)
    found = gray(0.7, 0.2)  # in the other order; off by 0.1 from the second
    result = score(true, torch.tensor([[3, 4]]), found, torch.tensor([[4, 5]]), None)
    assert result.mse[0].tolist() == pytest.approx([0.0, 0.01], abs=1e-8)
    assert result.label_correct.tolist() == [[False, True]]
    assert result.label_correct.dtype == torch.bool
    assert result.lpips is None


def test_psnr_by_hand() -> None:
    # One pixel of 64 is off by 0.8: MSE 0.64 / 64 = 0.01, hence 20 dB. Off by 0.5 everywhere:
    # MSE 0.25, 10 log10(4) dB.
    true = gray(0.1, 0.5)
    found = true.clone()
    found[0, 0, 0, 3, 3] = 0.9
    found[0, 1] = 1.0
    result = scored(true, found)
    assert result.mse[0].tolist() == pytest.approx([0.01, 0.25], abs=1e-8)
    assert result.psnr[0].tolist() == pytest.approx([20.0, 6.0206], abs=1e-4)


@pytest.mark.parametrize("channels", [1, 3])
def test_psnr_is_scikit_images(channels: int) -> None:
    true, found = pair(2, 3, channels, 32, 32)
    result = scored(true, found)
    for v in range(2):
        for n in range(3):
            expected = peak_signal_noise_ratio(  # scikit-image
                true[v, n].double().numpy(), found[v, n].double().numpy(), data_range=1.0
            )
            assert result.psnr[v, n].item() == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(
    ("channels", "height", "width", "window"),
    [(3, 32, 32, 11), (1, 28, 28, 11), (1, 8, 8, 7), (3, 24, 12, 11), (1, 9, 40, 9)],
)
def test_ssim_is_scikit_images(channels: int, height: int, width: int, window: int) -> None:
    """Same window and same sums: equal to rounding, once the borders are treated alike.

    scikit-image leaves half a window out at each border, torchmetrics reflects the image there.
    An image that is reflected before scikit-image sees it loses just what was put on.
    """
    true, found = pair(1, 2, channels, height, width)
    result = scored(true, found)
    assert ssim_window(height, width) == window
    half = window // 2
    for n in range(2):
        a, b = (
            np.pad(x[0, n].double().numpy(), ((0, 0), (half, half), (half, half)), mode="reflect")
            for x in (true, found)
        )
        expected = structural_similarity(  # scikit-image
            a,
            b,
            data_range=1.0,
            channel_axis=0,
            gaussian_weights=True,
            sigma=1.5 * window / 11,
            use_sample_covariance=False,
        )
        assert result.ssim[0, n].item() == pytest.approx(expected, abs=1e-6)


def test_ssim_differs_from_scikit_images_only_by_the_border() -> None:
    true, found = pair(1, 1, 1, 64, 64)
    expected = structural_similarity(  # scikit-image
        true[0, 0, 0].double().numpy(),
        found[0, 0, 0].double().numpy(),
        data_range=1.0,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
    )
    # The border is 29 % of these pixels, and its SSIM has the spread of the rest.
    assert scored(true, found).ssim.item() == pytest.approx(expected, abs=5e-3)


@pytest.mark.parametrize(
    ("height", "width", "window"),
    [(224, 224, 11), (16, 16, 11), (11, 11, 11), (10, 32, 9), (8, 8, 7), (2, 9, 1), (1, 1, 1)],
)
def test_ssim_window(height: int, width: int, window: int) -> None:
    assert ssim_window(height, width) == window == ssim_window(width, height)


@pytest.mark.parametrize("side", [1, 2, 3, 5, 6, 7, 8, 9, 10, 11, 15])
def test_small_images_have_finite_scores(side: int) -> None:
    result = scored(*pair(2, 2, 1, side, side))
    for tensor in (result.mse, result.psnr, result.ssim):
        assert tensor.shape == (2, 2)
        assert torch.isfinite(tensor).all()
    assert (result.ssim < 1).all()
    assert (result.ssim >= -1).all()


def test_no_window_for_no_image() -> None:
    with pytest.raises(ValueError, match="0 x 8"):
        ssim_window(0, 8)


def test_each_score_is_its_images_own() -> None:
    """The other images, of the batch and of other victims, change nothing."""
    true, found = pair(3, 2, 3, 16, 16)
    found[1, 0] = 1 - true[1, 0]
    together = scored(true, found)
    for v in range(3):
        alone = scored(true[v : v + 1], found[v : v + 1])
        for name in ("mse", "psnr", "ssim"):
            assert torch.equal(getattr(together, name)[v], getattr(alone, name)[0])


def test_identical_images_get_the_cap() -> None:
    true, _ = pair(2, 2, 3, 32, 32)
    result = scored(true, true.clone())
    assert (result.mse == 0).all()
    assert (result.psnr == PSNR_CAP).all()
    torch.testing.assert_close(result.ssim, torch.ones_like(result.ssim))
    # Nearly identical must not come out better than identical.
    assert scored(gray(0.5), gray(0.5 + 1e-6)).psnr.item() == PSNR_CAP


def test_flat_images_have_an_exact_ssim() -> None:
    # No structure: only the luminance term is left, (2ab + c1) / (a^2 + b^2 + c1), c1 = 1e-4.
    expected = (2 * 0.25 * 0.75 + 1e-4) / (0.25**2 + 0.75**2 + 1e-4)
    assert scored(gray(0.25), gray(0.75)).ssim.item() == pytest.approx(expected, abs=1e-7)


def test_found_pixels_are_clamped_first() -> None:
    true, found = pair(2, 2, 1, 8, 8)
    wild = torch.where(found > 0.5, found + 5 * (found == 1), found - 5 * (found == 0))
    assert wild.max() > 1 and wild.min() < 0
    for name in ("mse", "psnr", "ssim"):
        assert torch.equal(getattr(scored(true, wild), name), getattr(scored(true, found), name))


def test_inputs_are_left_alone() -> None:
    true, found = pair(1, 2, 1, 8, 8)
    found = (found + 0.5).requires_grad_()
    before = found.detach().clone()
    result = scored(true, found)
    assert torch.equal(found.detach(), before)
    assert not result.ssim.requires_grad


# Refusals


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_pixels_that_are_not_finite_are_an_error(bad: float) -> None:
    true, found = pair(2, 2, 1, 8, 8)
    found[1, 0, 0, 0, 0] = bad
    with pytest.raises(ValueError, match="found images hold pixels that are not finite"):
        scored(true, found)


def test_shapes_must_agree() -> None:
    true, found = pair(2, 2, 1, 8, 8)
    labels = torch.zeros(2, 2)
    with pytest.raises(ValueError, match="images must be"):
        score(true, labels, found[:, :1], labels, None)
    with pytest.raises(ValueError, match="images must be"):
        match(true[0], found[0])
    with pytest.raises(ValueError, match="labels must be"):
        score(true, labels[0], found, labels, None)


# Perceptual distance and thresholds


def test_perceptual_sees_the_matched_clamped_pairs() -> None:
    true, near = pair(2, 3, 3, 8, 8, noise=0.01)

    def mean_difference(a: Tensor, b: Tensor) -> Tensor:
        assert a.shape == b.shape == (6, 3, 8, 8)
        assert b.min() >= 0 and b.max() <= 1
        return (a - b).abs().mean(dim=(1, 2, 3))

    labels = torch.zeros(2, 3)
    found = near.flip(1) * 1.001
    result = score(true, labels, found, labels, mean_difference)
    assert result.lpips is not None
    expected = (true - found.flip(1).clamp(0, 1)).abs().mean(dim=(2, 3, 4))
    torch.testing.assert_close(result.lpips, expected)


def test_perceptual_must_return_one_value_per_image() -> None:
    true, found = pair(2, 3, 3, 8, 8)
    labels = torch.zeros(2, 3)
    with pytest.raises(ValueError, match="one value per image"):
        score(true, labels, found, labels, lambda a, b: (a - b).mean())
