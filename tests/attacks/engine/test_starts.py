"""Patterned starts against plain loops."""

from math import ceil
from statistics import NormalDist

import pytest
import torch

from attacks import DLG
from attacks.engine.labels import best_labels
from attacks.engine.starts import APART, GUESSES, PATTERNS, RANDOM, STARTS, colored, draw_start, tiled
from tests.conftest import MakeVictims


@pytest.mark.parametrize("shape", [(2, 3, 8, 8), (1, 1, 7, 10), (1, 2, 3, 2), (1, 1, 1, 1)])
def test_a_tile_of_evenly_spread_pixels_stands_in_all_places(shape: tuple[int, ...]) -> None:
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found, spread = tiled(noise), NormalDist()
    assert found.shape == noise.shape
    high, wide = ceil(shape[2] / 4), ceil(shape[3] / 4)
    for place in torch.cartesian_prod(*(torch.arange(size) for size in shape)).view(-1, 4).tolist():
        n, c, y, x = place
        assert float(found[n, c, y, x]) == pytest.approx(spread.cdf(float(noise[n, c, y % high, x % wide])), rel=1e-9)


def test_a_color_is_the_same_everywhere_and_spread_evenly() -> None:
    noise = torch.randn(4000, 1, 3, 5, 4, generator=torch.Generator().manual_seed(0))
    found = colored(noise)
    assert torch.equal(found, found[..., :1, :1].expand(noise.shape))
    values = found[:, 0, :, 0, 0]
    for channel in values.unbind(1):  # a uniform distribution: an eighth of the colors in each eighth of [0, 1]
        counts = torch.histc(channel, 8, 0, 1)
        assert float((counts - 500).abs().max()) < 5 * 500**0.5


def test_every_image_and_victim_has_a_pattern_of_its_own_that_is_drawn_as_noise_is(victims_of: MakeVictims) -> None:
    seen = victims_of(3, batch_size=2).observation

    def generators() -> list[torch.Generator]:
        return [torch.Generator().manual_seed(seed) for seed in seen.seeds]

    after = []
    for start in STARTS:
        drawn = generators()
        images = draw_start(start, seen, drawn)
        after.append([float(torch.rand((), generator=one)) for one in drawn])
        if start in RANDOM:
            assert len({tuple(image.flatten().tolist()) for image in images.flatten(0, 1)}) == 6
            alone = draw_start(start, seen.take([1]), generators()[1:2])
            assert torch.equal(alone[0], images[1])
        if start in PATTERNS:
            assert float(images.min()) >= 0 and float(images.max()) <= 1
    assert all(one == after[0] for one in after)


@pytest.mark.parametrize("start", PATTERNS)
def test_attacks_start_again_and_side_by_side_at_other_patterns(start: str, victims_of: MakeVictims) -> None:
    seen = victims_of(2).observation
    starts = DLG(start=start, restarts=2).starts(seen)
    assert starts.names == [start] * 3
    attempts = [starts.of(1, attempt)["images"] for attempt in range(3)]
    assert len({float(one.sum()) for one in attempts}) == 3
    assert all(bool(((one >= 0) & (one <= 1)).all()) for one in attempts)
    one, three = (DLG(start=start, trials=trials, max_evaluations=8).reconstruct(seen) for trials in (1, 3))
    assert bool((three.loss <= one.loss).all()) and three.starts == [start] * 2


@pytest.mark.parametrize("start", GUESSES)
def test_images_of_a_batch_start_a_little_apart_and_one_alone_at_the_guess_itself(
    start: str, victims_of: MakeVictims
) -> None:
    for batch_size in (1, 4):
        seen = victims_of(3, batch_size=batch_size).observation
        drawn = [torch.Generator().manual_seed(seed) for seed in seen.seeds]
        off = draw_start(start, seen, drawn) - GUESSES[start](seen, best_labels(seen))
        if batch_size == 1:
            assert not off.any()
        else:
            assert float(off.std()) == pytest.approx(APART, rel=0.1) and abs(float(off.mean())) < APART / 5
            assert len({tuple(one.flatten().tolist()) for one in off.flatten(0, 1)}) == 12
