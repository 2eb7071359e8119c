"""What a network does not see of images, and that it hides none of them."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from attacks import DLG, IDLG, AutoLeak, Observation, Reconstruction
from attacks.autoleak import with_contrast
from attacks.choice import NOT_TRIED, most_probable
from attacks.engine.contrast import FILLED, KINDS, Unseen, unseen_by
from benchmark.federation.client import PublicData, observe
from benchmark.federation.setting import Setting
from benchmark.jobs.worst_case import worst_case
from benchmark.metrics.contrast import aligned_mse, found_but_for_contrast
from benchmark.metrics.leak import leaked
from benchmark.metrics.misfit import misfits
from benchmark.metrics.scores import matched_psnr, null_scores
from benchmark.models import LeNet, ResNet20
from benchmark.models.draw import Model
from datamodules import Digits
from datamodules.base import PrivateData


def as_found(images: Tensor, labels: Tensor) -> Reconstruction:
    victims = len(images)
    return Reconstruction(
        images, labels, torch.zeros(victims), torch.ones(victims, dtype=torch.long), ["converged"] * victims
    )


def network(first: Callable[[int], list[nn.Module]]) -> Callable[[tuple[int, int, int], int], Model]:
    """Convolutions with sigmoids behind these layers, of an own draw."""

    class Convolutions(Model, nn.Sequential):
        def __init__(self, image_shape: tuple[int, int, int], classes: int) -> None:
            channels, height, width = image_shape
            rest = [
                nn.Conv2d(12, 12, 5, padding=2),
                nn.Sigmoid(),
                nn.Flatten(),
                nn.Linear(12 * height * width, classes),
            ]
            nn.Sequential.__init__(self, *first(channels), nn.Sigmoid(), *rest)

        def draw(self, generator: torch.Generator) -> dict[str, Tensor]:
            return {name: torch.rand(value.shape, generator=generator) - 0.5 for name, value in self.named_parameters()}

    return Convolutions


def convolution(channels: int, bias: bool = False) -> nn.Module:
    return nn.Conv2d(channels, 12, 5, padding=2, bias=bias)


BY_CHANNEL = network(lambda c: [nn.InstanceNorm2d(c), convolution(c, bias=True)])
BY_IMAGE = network(lambda c: [convolution(c), nn.GroupNorm(3, 12)])
BY_BATCH = network(lambda c: [convolution(c), nn.BatchNorm2d(12)])
ALL_PIXELS = network(lambda c: [nn.GroupNorm(1, c), convolution(c, bias=True)])
BIASED = network(lambda c: [convolution(c, bias=True), nn.GroupNorm(3, 12)])
TRAIN, EVALUATED = Setting(mode="train"), Setting()


def seen_of(
    made: Any, count: int, batch_size: int, setting: Setting, digits: PrivateData, channels: int = 1, **others: Any
) -> tuple[Tensor, Tensor, Observation]:
    images, labels = digits.victims(count, batch_size)
    public = PublicData.of(digits)
    if channels > 1:
        images = images.repeat(1, 1, channels, 1, 1)
        public = replace(
            public,
            mean_image=public.mean_image.repeat(channels, 1, 1),
            class_means=public.class_means.repeat(1, channels, 1, 1),
            channel_stds=public.channel_stds.repeat(channels),
            covariance=None,
        )
    shape = (channels, *digits.image_shape[1:])
    seen = observe(made(shape, 10), images, labels, public, None, False, 0, range(count), setting, **others)
    return images, labels, seen


@pytest.mark.parametrize(
    ("made", "setting", "batch_size", "wanted"),
    [
        (BY_CHANNEL, EVALUATED, 2, Unseen((3, 4), True)),
        (BY_CHANNEL, TRAIN, 2, Unseen((3, 4), True)),
        (ALL_PIXELS, EVALUATED, 2, Unseen((2, 3, 4), True)),
        (BY_IMAGE, EVALUATED, 2, Unseen((2, 3, 4), False)),
        (BY_BATCH, TRAIN, 1, Unseen((2, 3, 4), False)),
        (BY_BATCH, TRAIN, 2, Unseen((1, 2, 3, 4), False)),
        (ResNet20, TRAIN, 2, Unseen((1, 2, 3, 4), False)),
        (BY_BATCH, EVALUATED, 2, None),
        (ResNet20, EVALUATED, 2, None),
        (LeNet, EVALUATED, 1, None),
        (LeNet, EVALUATED, 3, None),
    ],
)
def test_what_is_not_seen_is_found_by_a_trial(
    made: Any, setting: Setting, batch_size: int, wanted: Unseen | None, digits: Digits
) -> None:
    assert unseen_by(seen_of(made, 2, batch_size, setting, digits, channels=3)[2]) == [wanted] * 2


class Clamped(LeNet):
    """To whose input all bright images are the same."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images.clamp(0, 1))


class Blind(LeNet):
    """Which sees nothing of an image at all."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(0 * images)


@pytest.mark.parametrize("made", [Clamped, Blind])
def test_a_network_that_sees_no_bright_images_or_none_is_not_taken_for_one(made: Any, digits: Digits) -> None:
    assert unseen_by(seen_of(made, 1, 2, EVALUATED, digits)[2]) == [None]


@pytest.mark.parametrize("kind", KINDS)
def test_images_fill_the_range_by_a_change_of_their_kind(kind: Unseen) -> None:
    """By a loop over what has one gain."""
    images = torch.rand(2, 3, 3, 4, 4, generator=torch.Generator().manual_seed(0)) * 0.3 + 0.2
    flat = images[:1, :1].clone()
    filled = kind.filled(images)
    torch.testing.assert_close(kind.filled(kind.changed(images, 1.0)), filled)
    whole = [dim in kind.dims for dim in (1, 2)]
    for victim in range(2):
        for image in [slice(None)] if whole[0] else [slice(n, n + 1) for n in range(3)]:
            for channel in [slice(None)] if whole[1] else [slice(n, n + 1) for n in range(3)]:
                own, made = images[victim, image, channel], filled[victim, image, channel]
                least = own.min() if kind.offset else 0.0
                torch.testing.assert_close(made, (own - least) / (own.max() - least))
                assert made.max() == 1 and (made.min() == 0) == kind.offset
    flat[:] = 0.0 if not kind.offset else 0.4
    assert torch.equal(kind.filled(flat), flat), "what has no contrast has none to fill"


@pytest.mark.parametrize(
    ("made", "setting", "batch_size"),
    [(BY_CHANNEL, EVALUATED, 1), (BY_IMAGE, EVALUATED, 2), (BY_BATCH, TRAIN, 2), (ALL_PIXELS, EVALUATED, 1)],
)
def test_images_are_found_by_networks_that_see_no_contrast(
    made: Any, setting: Setting, batch_size: int, digits: Digits
) -> None:
    images, labels, seen = seen_of(made, 2, batch_size, setting, digits)
    null = null_scores(images, labels, seen.mean_image, seen.class_means)[0]
    found = AutoLeak(100).reconstruct(seen)
    worst, parts = worst_case(found, images, null)
    assert leaked(matched_psnr(images, worst.images, null), null).any(1).all()
    assert parts is not None and parts.returned_leaked.any(1).all(), "and it is what is returned"
    assert all(name.endswith(FILLED) for name in found.starts)
    names = [name for name in found.candidates if not name.endswith(FILLED)]
    assert set(found.candidates) == {*names, *(f"{name}{FILLED}" for name in names)}
    assert found.evaluations.equal(torch.stack([found.candidates[name].evaluations for name in names]).sum(0))


def test_a_contrast_that_is_nearly_unseen_is_as_it_was_found(digits: Digits) -> None:
    """Of bright images this network does not see it; of others a little, by the biases, and then it is not made up."""
    images, labels, seen = seen_of(BIASED, 4, 1, EVALUATED, digits)
    faint = 0.3 * images + 0.3
    probabilities = nn.functional.one_hot(labels, 10).to(faint)
    seen = replace(seen, update=seen.update_of(faint, probabilities))
    unseen = unseen_by(seen)
    assert sum(kind is not None for kind in unseen) >= 2
    both = with_contrast({"IDLG": as_found(faint, labels)}, unseen)
    assert list(both) == [f"IDLG{FILLED}", "IDLG"]
    assert most_probable(seen, both).starts == ["IDLG"] * 4
    # Where it is not seen, what fills the range comes first, although a prior would have less contrast.
    images, labels, seen = seen_of(BY_CHANNEL, 4, 1, EVALUATED, digits)
    both = with_contrast({"IDLG": as_found(faint, labels)}, unseen_by(seen))
    assert most_probable(seen, both).starts == [f"IDLG{FILLED}"] * 4


def test_where_contrast_is_seen_nothing_is_filled(digits: Digits) -> None:
    found = AutoLeak(4).reconstruct(seen_of(LeNet, 2, 1, EVALUATED, digits)[2])
    assert not any(FILLED in name for name in found.candidates)


@pytest.mark.parametrize(("made", "is_blind"), [(BY_CHANNEL, True), (LeNet, False)])
def test_to_find_an_image_but_for_its_contrast_settles_nothing(made: Any, is_blind: bool, digits: Digits) -> None:
    """It explains the update as well as the private one, and nobody would call that safe."""
    images, labels, seen = seen_of(made, 4, 1, EVALUATED, digits)
    faint = 0.2 * images + 0.5
    assert found_but_for_contrast(seen, [faint], images).tolist() == [is_blind] * 4
    fit = misfits(seen, as_found(faint, labels), images, labels)
    assert fit.contrast_unseen.tolist() == [is_blind] * 4
    assert not fit.settled.any() and bool((fit.found < 1e-3).all()) == is_blind
    for others in (images.roll(1, 0), seen.mean_image.expand_as(images), 1 - images):
        assert not found_but_for_contrast(seen, [others], images).any(), "another image is not the private one"


@pytest.mark.parametrize("attack", [DLG(150), IDLG(150)])
def test_an_attack_alone_that_finds_no_contrast_tells_nobody_that_nothing_leaks(attack: Any, digits: Digits) -> None:
    images, labels, seen = seen_of(BY_CHANNEL, 6, 1, EVALUATED, digits)
    null = null_scores(images, labels, seen.mean_image, seen.class_means)[0]
    found = attack.reconstruct(seen)
    near = found_but_for_contrast(seen, [found.images], images)
    fit = misfits(seen, found, images, labels)
    leaks = leaked(matched_psnr(images, found.images, null), null)[:, 0]
    assert (near & ~leaks).sum() >= 3
    assert not (fit.settled & near).any()


def test_what_any_part_of_an_ensemble_finds_but_for_its_contrast_settles_nothing(digits: Digits) -> None:
    """Though another part comes nearer by plain PSNR: the mean image does."""
    images, labels, seen = seen_of(BY_CHANNEL, 4, 1, EVALUATED, digits)
    shown = as_found(images.roll(1, 0), labels)
    parts, others = {"Wiener": as_found(0.2 * images + 0.5, labels), "Bayes": shown}, {"Bayes": shown}
    assert misfits(seen, replace(shown, candidates=parts), images, labels).contrast_unseen.all()
    assert not misfits(seen, replace(shown, candidates=parts), images, labels).settled.any()
    assert not misfits(seen, replace(shown, candidates=others), images, labels).contrast_unseen.any()


def test_out_of_the_range_images_are_as_probable_as_within_it(digits: Digits) -> None:
    """Contrast is arbitrary where it is not seen: an attack may end at five times that of the private image."""
    images, labels, seen = seen_of(BY_CHANNEL, 4, 1, EVALUATED, digits)
    unseen = unseen_by(seen)
    found = {"IDLG": as_found(5 * images - 2, labels), "Bayes": as_found((images + 2 * seen.mean_image) / 3, labels)}
    assert most_probable(seen, with_contrast(found, unseen)).starts == [f"IDLG{FILLED}"] * 4


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_what_is_not_seen_is_told_in_any_precision(dtype: torch.dtype, digits: Digits) -> None:
    images, labels = digits.victims(2, 2)
    for made, wanted in ((BY_IMAGE, Unseen((3, 4), False)), (BY_CHANNEL, Unseen((3, 4), True)), (LeNet, None)):
        model = made(digits.image_shape, 10).to(dtype)
        seen = observe(model, images, labels, PublicData.of(digits), None, False, 0, range(2), EVALUATED)
        assert unseen_by(seen) == [wanted] * 2


def test_nothing_that_was_stretched_is_certified(digits: Digits) -> None:
    images, labels, seen = seen_of(BY_IMAGE, 2, 1, EVALUATED, digits)
    sure = replace(as_found(images, labels), certified=torch.ones(2, 1, dtype=torch.bool))
    both = with_contrast({"Peeling": sure}, unseen_by(seen))
    assert both[f"Peeling{FILLED}"].certified is None and both["Peeling"].certified is not None


def test_the_best_contrast_is_that_of_least_squares() -> None:
    """By torch's own solver, for each pair of images."""
    generator = torch.Generator().manual_seed(0)
    found, true = (torch.rand(n, 3, 4, 4, generator=generator).double() for n in (3, 2))
    for kind in KINDS:
        mine = aligned_mse(kind, found, true)
        assert mine.shape == (3, 2)
        for i in range(3):
            for j in range(2):
                off = 0.0
                parts = zip(found[i], true[j], strict=True)
                for x, y in [(found[i], true[j])] if 2 in kind.dims else parts:
                    x, y = x.flatten(), y.flatten()
                    columns = torch.stack([x, torch.ones_like(x)] if kind.offset else [x], 1)
                    solved = torch.linalg.lstsq(columns, y[:, None]).solution
                    if solved[0] < 0:
                        solved[0] = 0
                        solved[1:] = y.mean()
                    off += float((columns @ solved - y[:, None]).square().sum())
                assert float(mine[i, j]) == pytest.approx(off / 48)


def test_faint_private_images_are_not_found_by_any_image(digits: Digits) -> None:
    """Of which anything is within 20 dB, with the best contrast."""
    _, _, seen = seen_of(BY_CHANNEL, 8, 1, EVALUATED, digits)
    generator = torch.Generator().manual_seed(0)
    faint, others = (0.4 + 0.1 * torch.rand(8, 1, 1, 8, 8, generator=generator) for _ in range(2))
    assert not found_but_for_contrast(seen, [others], faint).any()
    assert found_but_for_contrast(seen, [5 * faint - 1.9], faint).all()


def test_each_victim_is_judged_by_its_own_network(digits: Digits) -> None:
    """Of the first nothing passes, so that its update tells nothing of contrast either."""
    images, labels, seen = seen_of(BY_IMAGE, 4, 1, EVALUATED, digits)
    parameters = {name: value.clone() for name, value in seen.parameters.items()}
    for name in parameters:
        parameters[name][0] = 0.0
    seen = replace(seen, parameters=parameters)
    alone = [unseen_by(seen.take([victim]))[0] for victim in range(4)]
    assert unseen_by(seen) == alone and alone[0] is None and None not in alone[1:]
    both = with_contrast({"IDLG": as_found(images, labels)}, alone)
    assert both[f"IDLG{FILLED}"].status == [NOT_TRIED, *["converged"] * 3]


class Table(LeNet):
    """Which looks up each pixel's value in a table of 256."""

    def forward(self, images: Tensor) -> Tensor:
        table = torch.linspace(0, 1, 256).to(images)
        return super().forward(images + 0 * table[(255 * images).long()])


class ClampedFirst(Model, nn.Module):
    """Which takes bright images for white ones, and normalizes then."""

    def __init__(self, shape: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        self.inner: Any = BY_CHANNEL(shape, classes)

    def forward(self, images: Tensor) -> Tensor:
        made: Tensor = self.inner(images.clamp(0, 1))
        return made

    def draw(self, generator: torch.Generator) -> dict[str, Tensor]:
        return {f"inner.{name}": value for name, value in self.inner.draw(generator).items()}


def test_a_network_may_take_no_images_beyond_the_range(digits: Digits) -> None:
    assert unseen_by(seen_of(Table, 1, 1, EVALUATED, digits)[2]) == [None]
    assert unseen_by(seen_of(ClampedFirst, 1, 2, EVALUATED, digits)[2]) != [None]
