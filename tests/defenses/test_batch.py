"""Defenses that change the batch: by hand, and beside what numpy and torchvision make."""

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.transforms.functional import rotate

from benchmark.seeds import generators
from defenses import Augmentation, Defense, IntraInstaHide, MixUp
from defenses.augmentation import TRANSFORMS
from defenses.intra_instahide import LARGEST_SHARE
from defenses.mixup import LARGEST, unmixed

STRONG: list[Defense] = [MixUp(), MixUp(0.2), IntraInstaHide(3), Augmentation(), Augmentation(0.5, "shear-brightness")]
IDENTITIES: list[Defense] = [MixUp(0), IntraInstaHide(1), Augmentation(0)]


def named(defense: Defense) -> str:
    return f"{type(defense).__name__}{tuple(vars(defense).values())}"


def a_batch(clients: int = 3, images: int = 5) -> tuple[Tensor, Tensor]:
    """Images of noise, and labels that all differ."""
    noise = torch.rand(clients, images, 3, 6, 6, generator=torch.Generator().manual_seed(3))
    return noise, torch.eye(images).expand(clients, images, images).clone()


def smooth(clients: int, images: int) -> Tensor:
    """Images in [0, 1] that reach both ends, as those of a data set do: what is outside tells a wrong circle."""
    made, _ = a_batch(clients, images)
    low, high = made.flatten(2).amin(2), made.flatten(2).amax(2)
    return (made - low[..., None, None, None]) / (high - low)[..., None, None, None]


def undone(mixed: Tensor, soft: Tensor) -> tuple[Tensor, Tensor]:
    found = unmixed(mixed, soft)
    assert found is not None and found[0].dtype == mixed.dtype and found[1].dtype == torch.long
    return found


def trained_on(defense: Defense, seed: int = 0, clients: range = range(3), **sizes: int) -> tuple[Tensor, Tensor]:
    images, labels = a_batch(**sizes)
    rows = slice(clients.start, clients.stop)
    return defense.on_batch(images[rows], labels[rows], generators(seed, clients, "on_batch"))


@pytest.mark.parametrize("defense", STRONG, ids=named)
def test_what_is_trained_on_is_a_batch_that_each_client_draws_for_itself(defense: Defense) -> None:
    images, labels = trained_on(defense)
    private, _ = a_batch()
    assert images.shape == private.shape and images.min() >= 0 and images.max() <= 1
    torch.testing.assert_close(labels.sum(-1), torch.ones(3, 5))
    assert ((images - private).abs().flatten(2).amax(2) > 1e-3).all(), "every image is another one"
    for again in (trained_on(defense), trained_on(defense, clients=range(1, 2))):
        first = 0 if len(again[0]) == 3 else 1
        assert torch.equal(again[0], images[first : first + len(again[0])])
        assert torch.equal(again[1], labels[first : first + len(again[1])])
    assert not torch.equal(trained_on(defense, seed=1)[0], images)


@pytest.mark.parametrize("defense", IDENTITIES, ids=named)
def test_without_strength_no_hook_is_called(defense: Defense) -> None:
    assert defense.hooks == frozenset()
    known = defense.known_to_attacker()
    assert not (known.soft_labels or known.no_adaptive_attack or known.is_simulated or known.noise_std)


@pytest.mark.parametrize("images", [2, 3, 7])
def test_mixup_mixes_each_image_and_its_label_with_one_other_by_the_share_of_the_batch(images: int) -> None:
    private, _ = a_batch(images=images)
    for seed in range(5):
        mixed, labels = trained_on(MixUp(), seed, images=images)
        torch.testing.assert_close(mixed.flatten(2), labels @ private.flatten(2))  # labels are the shares here
        assert ((labels > 0).sum(-1) == 2).all() and (labels.diagonal(dim1=1, dim2=2) > 0).all()
        own = labels.diagonal(dim1=1, dim2=2)
        assert (own - own[:, :1]).abs().max() < 1e-6 and len({round(float(one), 6) for one in own[:, 0]}) == 3
        assert ((labels > 0).sum(1) == 2).all(), "each is a partner once"


@pytest.mark.parametrize("alpha", [0.2, 1.0, 5.0])
def test_the_shares_of_mixup_are_beta_distributed(alpha: float) -> None:
    """Mean 1/2 and variance 1 / (4 (2 alpha + 1)); bounds are five standard errors."""
    count = 1000
    images, labels = torch.zeros(count, 2, 1, 1, 1), torch.eye(2).expand(count, 2, 2)
    shares = MixUp(alpha).on_batch(images, labels, generators(0, range(count), "on_batch"))[1][:, 0, 0].double()
    variance = 1 / (4 * (2 * alpha + 1))
    assert abs(shares.mean() - 0.5) < 5 * math.sqrt(variance / count)
    fourth = ((shares - 0.5) ** 4).mean()
    assert abs(shares.var() - variance) < 5 * math.sqrt(float(fourth - variance**2) / count)


def test_instahide_mixes_k_images_with_shares_of_at_most_065_and_then_flips_half_of_the_signs() -> None:
    private, _ = a_batch(images=6)
    flipped = []
    for seed in range(4):
        hidden, shares = trained_on(IntraInstaHide(3), seed, images=6)
        assert ((shares > 0).sum(-1) == 3).all() and (shares.diagonal(dim1=1, dim2=2) > 0).all()
        assert shares.max() <= LARGEST_SHARE and (shares.sum(-1) - 1).abs().max() < 1e-6
        mixed = shares @ private.flatten(2)
        kept, turned = ((hidden.flatten(2) - one).abs() < 1e-5 for one in (mixed, 1 - mixed))
        assert (kept | turned).all()
        flipped.append((turned & ~kept).double().mean())
    entries = 4 * private.numel()
    assert abs(sum(flipped) / 4 - 0.5) < 5 * math.sqrt(0.25 / entries) + 1e-3


def test_a_last_batch_that_is_smaller_is_mixed_as_far_as_it_goes() -> None:
    hidden, shares = trained_on(IntraInstaHide(4), images=2)
    assert ((shares > 0).sum(-1) == 2).all() and hidden.shape == (3, 2, 3, 6, 6)
    assert torch.equal(trained_on(IntraInstaHide(4), images=1)[1], torch.ones(3, 1, 1))


@pytest.mark.parametrize("name", TRANSFORMS)
def test_a_transform_that_draws_0_changes_nothing_and_more_changes_more(name: str) -> None:
    images = a_batch()[0][0]
    made = [TRANSFORMS[name](images, torch.full((5,), draw)) for draw in (0.0, 0.3, 1.0)]
    torch.testing.assert_close(made[0], images, atol=1e-5, rtol=0)
    off = [float((one - images).abs().mean()) for one in made]
    assert all(less < more for less, more in pairwise(off))


def test_rotation_is_torchvisions() -> None:
    ramp = torch.linspace(0, 1, 41)
    images = (ramp[:, None] * ramp * (1 - ramp)).expand(2, 1, 41, 41).clone()
    made = TRANSFORMS["rotate"](images, torch.tensor([1.0, -0.5]))
    for one, image, angle in zip(made, images, (30.0, -15.0), strict=True):
        wanted = rotate(image, angle, interpolation=2, fill=[0.5])  # type: ignore[arg-type] # bilinear
        inside = (slice(None), slice(12, 29), slice(12, 29))
        torch.testing.assert_close(one[inside], wanted[inside], atol=0.01, rtol=0)


def test_contrast_keeps_the_mean_and_brightness_keeps_the_ratios() -> None:
    images, draws = a_batch()[0][0], torch.linspace(-1, 1, 5)
    more = TRANSFORMS["contrast"](images, draws)
    torch.testing.assert_close(more.mean((1, 2, 3)), images.mean((1, 2, 3)))
    torch.testing.assert_close(more.std((1, 2, 3)) / images.std((1, 2, 3)), 1 + 0.9 * draws)
    torch.testing.assert_close(TRANSFORMS["brightness"](images, draws)[4], 1.9 * images[4])


@pytest.mark.parametrize(
    ("kind", "argument", "value"),
    [
        *[(MixUp, "alpha", value) for value in (-0.1, math.inf, math.nan)],
        *[(IntraInstaHide, "images", value) for value in (0, -1)],
        *[(Augmentation, "magnitude", value) for value in (-0.1, 1.1, math.nan)],
        (Augmentation, "policy", "rotate-spin"),
    ],
)
def test_a_strength_out_of_range_is_named_in_one_sentence(kind: type[Defense], argument: str, value: Any) -> None:
    with pytest.raises(ValueError) as raised:
        kind(**{argument: value})
    message = str(raised.value)
    assert message.startswith(f"{argument} ") and "\n" not in message and ". " not in message


@pytest.mark.parametrize("alpha", [0.2, 1.0, 20.0])
@pytest.mark.parametrize(
    "classes", [[0, 1], [0, 1, 2], [0, 1, 2, 3], [3, 1, 1, 2], [0, 1, 2, 3, 4, 5], [0, 0, 1, 1, 2]]
)
def test_the_mixing_is_undone_by_its_labels(classes: list[int], alpha: float) -> None:
    """Where a share is so near 1 that it tells no circle, as one here is, next to nothing was mixed."""
    images = smooth(clients=4, images=len(classes)).double()
    labels = torch.eye(6, dtype=torch.double)[classes].expand(4, -1, -1)
    mixed, soft = MixUp(alpha).on_batch(images, labels, generators(0, range(4), "on_batch"))
    assert (mixed - images).abs().flatten(1).amax(1).min() > 1e-3
    found, told = undone(mixed, soft)
    distance = torch.cdist(found.flatten(2), images.flatten(2))  # in any order
    assert distance.amin(2).max() < 1e-4 and distance.amin(1).max() < 1e-4
    assert torch.equal(told.sort(1).values, torch.tensor(classes).sort().values.expand(4, -1))
    assert torch.equal(torch.tensor(classes)[distance.argmin(2)], told), "each with its own label"


def test_labels_that_are_found_roughly_do_and_of_a_batch_with_too_many_circles_nothing_is_told() -> None:
    images, labels = smooth(3, 4), torch.eye(4).expand(3, 4, 4)
    mixed, soft = MixUp(1.0).on_batch(images, labels, generators(3, range(3), "on_batch"))
    noise = torch.randn(soft.shape, generator=torch.Generator().manual_seed(1))
    found, told = undone(mixed, (soft + 0.01 * noise).clamp(min=0))
    assert torch.equal(told.sort(1).values, torch.arange(4).expand(3, 4))
    before, after = (torch.cdist(one.flatten(2), images.flatten(2)).amin(2).mean() for one in (mixed, found))
    assert after < before / 3 and found.min() >= 0 and found.max() <= 1
    assert unmixed(torch.rand(1, LARGEST + 1, 1, 2, 2), torch.rand(1, LARGEST + 1, 5)) is None
    one = torch.rand(2, 1, 1, 2, 2), torch.rand(2, 1, 5)
    alone = unmixed(*one)
    assert alone is not None and torch.equal(alone[0], one[0])


def test_images_of_one_class_whose_labels_tell_nothing_are_undone_as_far_as_they_stay_images() -> None:
    """The smallest share that leaves them in [0, 1] is nearly theirs, as their pixels are at both ends."""
    images, labels = a_batch(4, 4)[0].round(), torch.eye(7)[[5, 5, 5, 5]].expand(4, 4, 7)
    mixed, soft = MixUp(1.0).on_batch(images, labels, generators(0, range(4), "on_batch"))  # shares from 0.59 to 0.95
    found, told = undone(mixed, soft)
    before, after = (torch.cdist(one.flatten(2), images.flatten(2)).amin(2).amax(1) for one in (mixed, found))
    assert (after < before / 40).all() and (told == 5).all()


def test_a_share_of_one_half_and_many_classes_end_in_images_too() -> None:
    images, labels = smooth(1, 8), torch.eye(200)[torch.arange(8) * 20][None]
    share, circle = 0.7, torch.tensor([3, 1, 0, 2, 7, 5, 6, 4])
    partners = circle.roll(-1)[circle.argsort()]
    mixed, soft = (share * one + (1 - share) * one[:, partners] for one in (images, labels))
    found, told = undone(mixed, soft)
    assert torch.cdist(found.flatten(2), images.flatten(2)).amin(2).max() < 1e-3
    assert torch.equal(told[0].sort().values, torch.arange(8) * 20)
    half = 0.5 * images[:, :4] + 0.5 * images[:, [1, 2, 3, 0]]  # has no inverse
    blurred = undone(half, 0.5 * labels[:, :4] + 0.5 * labels[:, [1, 2, 3, 0]])[0]
    assert blurred.isfinite().all() and blurred.min() >= 0 and blurred.max() <= 1
    halves = undone(mixed.bfloat16(), soft.bfloat16())[0]
    assert halves.isfinite().all()
