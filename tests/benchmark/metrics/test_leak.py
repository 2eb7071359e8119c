"""One definition of a leak: 20 dB, and better than what needs no update."""

import torch

from benchmark.metrics.leak import LEAKED_PSNR, THRESHOLDS, leaked
from benchmark.metrics.scores import null_scores, score


def test_a_leak_starts_at_twenty_decibels_and_above_the_null_baselines() -> None:
    psnr = torch.tensor([[LEAKED_PSNR, 19.999, 100.0, float("nan"), 27.0, 27.1]])
    null = torch.tensor([[10.0, 10.0, 30.0, 10.0, 27.0, 27.0]])
    assert leaked(psnr, null).tolist() == [[True, False, True, False, False, True]]


def test_twenty_decibels_are_the_first_threshold_of_the_mse() -> None:
    assert abs(10 ** (-LEAKED_PSNR / 10) - THRESHOLDS[0]) < 1e-12


def test_the_null_baselines_of_an_image_are_those_of_any_class_whatever_stands_beside_it() -> None:
    class_means = torch.stack([torch.full((1, 12, 12), level) for level in (0.0, 1.0)])
    mean = torch.full((1, 12, 12), 0.3)
    # Of one victim: an image near the mean of its class, one near that of the other class, one near gray, one near
    # the mean of all; their own labels make no difference.
    images = torch.stack([torch.full((1, 12, 12), level) for level in (0.1, 0.9, 0.5, 0.35)])[None]
    labels = torch.tensor([[0, 0, 1, 1]])
    psnr, ssim = null_scores(images, labels, mean, class_means)
    errors = torch.tensor([[0.1, 0.1, 0.0, 0.05]]).square()
    wanted = torch.where(errors > 0, -10 * errors.log10(), torch.tensor(100.0))
    torch.testing.assert_close(psnr.float(), wanted, atol=1e-3, rtol=0)
    assert psnr.shape == ssim.shape == (1, 4)


def test_the_null_baselines_are_scored_as_a_reconstruction_is() -> None:
    torch.manual_seed(0)
    images, labels = torch.rand(2, 1, 3, 12, 12), torch.tensor([[1], [0]])
    mean, class_means = torch.rand(3, 12, 12), torch.rand(2, 3, 12, 12)
    psnr, ssim = null_scores(images, labels, mean, class_means)
    guesses = [torch.full_like(images, 0.5), mean.expand_as(images), *(one.expand_as(images) for one in class_means)]
    each = [score(images, labels, guess, labels, None) for guess in guesses]
    torch.testing.assert_close(psnr, torch.stack([one.psnr for one in each]).max(0).values)
    torch.testing.assert_close(ssim, torch.stack([one.ssim for one in each]).max(0).values)


def test_no_answer_that_looks_at_no_update_is_a_leak() -> None:
    """Images near the means of classes: whichever of these are given, for whichever images of the batch."""
    generator = torch.Generator().manual_seed(0)

    def drawn(*shape: int) -> torch.Tensor:
        return torch.rand(*shape, generator=generator)

    class_means, mean = drawn(5, 1, 6, 6), drawn(1, 6, 6)
    labels, near, given = (torch.randint(5, (40, 3), generator=generator) for _ in range(3))
    images = (class_means[near] + 0.05 * (drawn(40, 3, 1, 6, 6) - 0.5)).clamp(0, 1)
    null, _ = null_scores(images, labels, mean, class_means)
    found = score(images, labels, class_means[given], given, None).psnr
    assert (found >= LEAKED_PSNR).any() and not leaked(found, null).any()
