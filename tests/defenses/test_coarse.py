"""Noise of other kinds, and updates that are shared in fewer bits: by hand, and by other libraries."""

import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.stats import kstest, laplace
from torch import Tensor

from attacks import DLG, IDLG, Bayes, Wiener
from benchmark.metrics.leak import leaked
from benchmark.metrics.misfit import misfits
from benchmark.metrics.scores import matched_psnr, null_scores
from benchmark.models import ConvNet
from benchmark.seeds import generators
from defenses import (
    OUTPOST,
    QSGD,
    Compose,
    Defense,
    HalfPrecision,
    KnownDefense,
    LaplaceNoise,
    Quantization,
    RelativeNoise,
    Sign,
    Update,
)
from defenses.qsgd import SMOOTH

MakeVictims = Callable[..., Any]


def protect(defense: Defense, update: Update) -> Update:
    return defense.protect(update, generators(0, range(len(next(iter(update.values())))), "defense"))


def drawn(*shape: int, size: float = 1.0) -> Tensor:
    return size * torch.randn(*shape, generator=torch.Generator().manual_seed(7))


# Noise.


def test_laplace_noise_is_what_scipy_says() -> None:
    noise = protect(LaplaceNoise(0.3), {"a": torch.zeros(2, 100, 100, dtype=torch.float64)})["a"].flatten(1)
    for client in noise:
        assert kstest(client.numpy(), laplace(scale=0.3).cdf).pvalue > 1e-3
    assert LaplaceNoise(0.3).known_to_attacker().noise({}) == pytest.approx(laplace(scale=0.3).std())


@pytest.mark.parametrize("std", [0.1, 1.0, 5.0])
def test_noise_relative_to_an_update_is_as_many_times_as_long(std: float) -> None:
    """Of 22,500 entries; what the attacker takes it for, from the shared update alone, is within two percent."""
    update = {"a": drawn(3, 100, 200) * torch.tensor([1e-3, 1.0, 1e3]).view(3, 1, 1), "b": torch.zeros(3, 2500)}
    shared = protect(RelativeNoise(std), update)
    apart = torch.cat([(shared[name] - value).flatten(1) for name, value in update.items()], 1)
    length = update["a"].flatten(1).norm(dim=1)
    torch.testing.assert_close(apart.norm(dim=1), std * length, rtol=0.03, atol=0)
    known = RelativeNoise(std).known_to_attacker().noise(shared)
    torch.testing.assert_close(torch.as_tensor(known), std * length / math.sqrt(22_500), rtol=0.03, atol=0)


# Fewer bits.


@pytest.mark.parametrize("size", [1e-6, 1.0, 1e4])
def test_sixteen_bits_are_those_of_numpy(size: float) -> None:
    value = drawn(2, 1000, size=size)
    shared = protect(HalfPrecision("fp16"), {"a": value})["a"]
    assert np.array_equal(shared.numpy(), value.numpy().astype(np.float16).astype(np.float32))


def test_bf16_keeps_the_first_sixteen_bits_rounded() -> None:
    value = drawn(1, 1000)
    shared = protect(HalfPrecision("bf16"), {"a": value})["a"]
    bits = value.numpy().view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000  # to the nearest, ties to the even one
    assert np.array_equal(shared.numpy().view(np.uint32), rounded)


def test_what_is_too_large_for_sixteen_bits_is_their_largest_number() -> None:
    shared = protect(HalfPrecision("fp16"), {"a": torch.tensor([[1e6, -1e6, 1.0]])})["a"]
    assert shared.tolist() == [[65504.0, -65504.0, 1.0]]


def test_int8_has_levels_up_to_the_largest_magnitude() -> None:
    shared = protect(Quantization(8), {"a": torch.tensor([[127.0, -3.4, 0.6, 0.4], [-1.27, 0.0149, 0.0, 0.5]])})["a"]
    torch.testing.assert_close(shared, torch.tensor([[127.0, -3.0, 1.0, 0.0], [-1.27, 0.01, 0.0, 0.5]]))


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_so_many_bits_tell_so_many_levels_apart(bits: int) -> None:
    shared = protect(Quantization(bits), {"a": drawn(1, 20_000)})["a"]
    assert len(shared.unique()) <= 2**bits - 1
    assert (shared - drawn(1, 20_000)).abs().max() <= drawn(1, 20_000).abs().max() / (2 ** (bits - 1) - 1) / 2 * 1.0001


def test_the_sign_is_scaled_by_the_mean_magnitude_of_each_tensor() -> None:
    update = {"a": torch.tensor([[1.0, -2.0, 0.0, 5.0]]), "b": torch.tensor([[-10.0, 20.0]])}
    shared = protect(Sign(), update)
    assert shared["a"].tolist() == [[2.0, -2.0, 0.0, 2.0]] and shared["b"].tolist() == [[-15.0, 15.0]]


def test_a_share_of_the_signs_leaves_the_largest_magnitudes() -> None:
    shared = protect(Sign(0.5), {"a": torch.tensor([[1.0, -3.0, 10.0, -20.0]])})["a"]
    assert shared.tolist() == [[2.0, -2.0, 10.0, -20.0]]


def test_what_was_shared_tells_which_entries_are_signs() -> None:
    """The attacker cannot see the gradient, by which the client chose them."""
    known = Sign(0.5).known_to_attacker()
    for entries, kept in (
        ([1.0, -3.0, 10.0, -20.0], [0.0, 0.0, 1.0, 1.0]),
        ([0.0, -3.0, 10.0, -20.0], [0.0, 0.0, 1.0, 1.0]),
        ([0.0, 0.0, 10.0, -20.0], [1.0, 1.0, 1.0, 1.0]),  # the mean of the smallest is 0, as they are
        ([0.0, 0.0, 0.0, -20.0], [1.0, 1.0, 1.0, 1.0]),
        ([0.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0]),
    ):
        shared = protect(Sign(0.5), {"a": torch.tensor([entries])})
        assert known.kept_entries(shared)["a"].tolist() == [kept]
        assert known.simulate({"a": torch.tensor([entries])}, shared)["a"].equal(shared["a"])
    wide = torch.randn(2, 501, generator=torch.Generator().manual_seed(0))
    told = known.kept_entries(protect(Sign(0.5), {"a": wide}))["a"]
    for sizes, is_kept in zip(wide.abs(), told.bool(), strict=True):
        assert is_kept.sum() == 251  # Python rounds 250.5 to 250
        assert sizes[~is_kept].max() < sizes[is_kept].min()
    noisy = {"a": protect(Sign(0.5), {"a": wide})["a"] + 1e-3 * wide.flip(1)}  # where Compose adds noise
    assert known.kept_entries(noisy)["a"].equal(told)


@pytest.mark.parametrize("levels", [1, 4, 1000])
def test_qsgd_shares_neighboring_levels_and_is_right_on_average(levels: int) -> None:
    """Of 4,000 clients with the same update; bounds are five standard deviations, at most half a step each."""
    value = drawn(1, 3, 4).expand(4000, 3, 4)
    shared = protect(QSGD(levels), {"a": value})["a"].double()
    step = float(value[0].norm()) / levels
    multiples = shared / step
    assert (multiples - multiples.round()).abs().max() < 1e-3
    assert (shared - value).abs().max() <= step * 1.001
    assert (shared.mean(0) - value[0]).abs().max() < 5 * step / 2 / math.sqrt(4000)


@pytest.mark.parametrize("levels", [1, 3, 16, 256, 100_000])
@pytest.mark.parametrize("entries", [100, 1000])
def test_the_attacker_of_qsgd_knows_how_large_its_noise_is(levels: int, entries: int) -> None:
    """Within a third, on average over 200 clients, from what is shared alone."""
    update = {"a": drawn(200, entries) ** 3, "b": drawn(200, 10)}
    shared = protect(QSGD(levels), update)
    apart = torch.cat([(shared[name] - value).flatten(1) for name, value in update.items()], 1).square().mean()
    known = QSGD(levels).known_to_attacker().noise(shared)
    assert float(torch.as_tensor(known).square().mean()) == pytest.approx(float(apart), rel=1 / 3)


def test_the_attacker_of_qsgd_holds_against_an_entry_how_unlikely_it_is() -> None:
    """In steps of 1, of which 5 is the norm of the tensor: entries at 3 and 4 can be known by nothing but chance."""
    shared = {"a": torch.tensor([[3.0, -4.0, 0.0, 1.0]], dtype=torch.float64)}
    known = QSGD(5).known_to_attacker()
    noise = float(torch.as_tensor(known.noise(shared)))
    for off in (0.0, 0.1, 0.35, 0.6, 0.88):
        for sign in (1, -1):
            simulated = known.simulate({"a": shared["a"] + sign * off}, shared)["a"]
            held = (simulated - shared["a"]).square() / (2 * noise**2)
            smooth = math.sqrt(off**2 + SMOOTH**2) - SMOOTH
            torch.testing.assert_close(held, torch.full_like(held, -math.log(1 - smooth)), atol=1e-6, rtol=0)
            assert -math.log(1 - smooth) == pytest.approx(-math.log(1 - off), rel=0.1, abs=0.02)
    far = [
        (known.simulate({"a": shared["a"] + off}, shared)["a"] - shared["a"]) / noise for off in (0.9, 1.1, 3.0, 30.0)
    ]
    assert all((more > 1.15 * less).all() for less, more in itertools.pairwise(far)) and (far[-1] > 30).all()


@pytest.mark.parametrize("levels", [1, 4, 16, 256])
def test_the_attacker_of_qsgd_reads_how_long_a_step_is(levels: int, victims_of: MakeVictims) -> None:
    """Wrongly only where a tensor has so few entries that none of them was rounded to the first level."""
    update = victims_of(32).observation.update
    shared, defense = protect(QSGD(levels), update), QSGD(levels)
    is_right = {
        name: (defense._step(shared[name]) * levels / value.flatten(1).norm(dim=1) - 1).abs() < 1e-3
        for name, value in update.items()
        if (shared[name] != 0).any()
    }
    assert all(one.all() for name, one in is_right.items() if name.endswith("weight"))
    assert torch.cat(list(is_right.values())).double().mean() > 0.95


@pytest.mark.parametrize("true", [0.0, 0.25, 0.6, 1.5, -2.8])
def test_what_the_attacker_of_qsgd_holds_is_least_at_the_true_entry(true: float) -> None:
    """On average over 4,000 draws, in steps, to a tenth of one. Small entries tell how long a step is."""
    small = [0.5] * 8
    entries = [true, math.sqrt(16 - true**2 - sum(one**2 for one in small)), *small]
    shared = protect(QSGD(4), {"a": torch.tensor(entries, dtype=torch.float64).expand(4000, -1)})
    known, places = QSGD(4).known_to_attacker(), torch.linspace(true - 1, true + 1, 41)
    usable = (known.noise(shared) > 0) & (shared["a"] != 0).any(1)
    held = [
        ((known.simulate({"a": shared["a"] * 0 + place}, shared)["a"] - shared["a"])[:, 0] / known.noise(shared))[
            usable
        ]
        for place in places
    ]
    assert float(places[torch.stack(held).square().mean(1).argmin()]) == pytest.approx(true, abs=0.101)


COARSE = [HalfPrecision("fp16"), HalfPrecision("bf16"), Quantization(8), Quantization(3), Sign(1.0), Sign(0.7)]


def named(defense: Defense) -> str:
    return f"{type(defense).__name__}{tuple(vars(defense).values())}"


@pytest.mark.parametrize("size", [1e-7, 1.0, 1e6])
@pytest.mark.parametrize("defense", COARSE, ids=named)
def test_little_is_held_against_the_true_update_and_much_against_one_beyond_its_intervals(
    defense: Defense, size: float
) -> None:
    """Little is 1 % of what the defense took."""
    update = {"a": drawn(3, 40, 50, size=size), "b": drawn(3, 10, size=size)}
    shared, simulate = protect(defense, update), defense.known_to_attacker().simulate
    for name, value in simulate(update, shared).items():
        assert (value - shared[name]).norm() <= 0.01001 * (update[name] - shared[name]).norm() + 1e-5 * size
    far = {name: -3 * value for name, value in update.items()}
    for name, value in simulate(far, shared).items():
        assert (value - shared[name]).norm() > 0.5 * shared[name].norm()


def test_the_noise_of_quantization_is_the_pull_of_its_rounding_errors_by_hand() -> None:
    """Levels of 2 bits are -2, 0 and 2: of four entries one is shared, and its error is uniform below 1.

    Of exponential magnitudes with a mean of 1 / log 4 as many, a quarter, are beyond 1; the square of the others is
    integrated numerically.
    """
    shared = {"a": torch.tensor([[2.0, 0.0, 0.0, 0.0]])}
    zeros, _ = quad(lambda x: x**2 * math.log(4) * 4**-x / 0.75, 0, 1)
    wanted = 0.01 * math.sqrt((1 / 3 + 3 * zeros) / 4)
    assert float(Quantization(2).known_to_attacker().noise(shared)) == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize(("law", "bits"), list(itertools.product(["exponential", "uniform"], [2, 4, 8])))
def test_what_is_held_against_the_true_entries_is_the_noise_that_is_known(law: str, bits: int) -> None:
    draw = np.random.default_rng(1)
    magnitudes = draw.exponential(size=(2, 40_000)) if law == "exponential" else draw.random((2, 40_000))
    update = {"a": torch.from_numpy(magnitudes * draw.choice([-1, 1], (2, 40_000))), "b": torch.zeros(2, 5).double()}
    shared, known = protect(Quantization(bits), update), Quantization(bits).known_to_attacker()
    held = torch.cat([value - shared[name] for name, value in known.simulate(update, shared).items()], 1)
    torch.testing.assert_close(torch.as_tensor(known.noise(shared)), held.square().mean(1).sqrt(), rtol=0.12, atol=0)


@pytest.mark.parametrize("bits", [2, 3, 8])
def test_the_true_images_explain_a_quantized_update(bits: int, victims_of: MakeVictims) -> None:
    """With 2 bits the mean image fits nearly as well, as most of its update is rounded to zero, too."""
    images, labels, seen = victims_of(4, defense=Quantization(bits), adaptive=True)
    assert misfits(seen, IDLG(max_evaluations=1).reconstruct(seen), images, labels).explained.all()


def test_the_edges_of_intervals_are_hard_enough_for_what_two_bits_leave(victims_of: MakeVictims) -> None:
    """Three times as soft, these digits are found to 21.5 dB on average, not to 23.1, and two less of them."""
    images, labels, seen = victims_of(8, defense=Quantization(2), adaptive=True)
    null = null_scores(images, labels, seen.mean_image, seen.class_means)[0]
    psnr = matched_psnr(images, Wiener(150).reconstruct(seen).images, null)
    assert leaked(psnr, null).sum() >= 7 and psnr.mean() > 22.5


def test_a_wrong_sign_is_held_against_a_dummy_in_proportion() -> None:
    shared = protect(Sign(), {"a": torch.tensor([[1.0, 1.0, -1.0, -1.0]])})
    dummy = {"a": torch.tensor([[1.0, -0.5, -1.5, -1.0]])}  # of the right mean magnitude
    off = Sign().known_to_attacker().simulate(dummy, shared)["a"] - shared["a"]
    assert off[0, 0] == off[0, 3] == 0
    assert off[0, 1] == -0.5 and off[0, 2] == 0, "the magnitude is free"


@pytest.mark.parametrize("defense", COARSE[2:5], ids=named)
def test_the_attackers_model_of_a_coarse_update_has_true_slopes(defense: Defense) -> None:
    shared = protect(defense, {"a": drawn(2, 3, 4).double()})
    dummy = torch.rand(2, 3, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64).requires_grad_()
    simulate = defense.known_to_attacker().simulate
    assert torch.autograd.gradcheck(lambda value: simulate({"a": value}, shared)["a"], dummy)


@pytest.mark.parametrize(
    ("defense", "argument", "value"),
    [
        *[(LaplaceNoise, "scale", value) for value in (-0.1, math.inf, math.nan)],
        *[(Quantization, "bits", value) for value in (1, 33)],
        *[(QSGD, "levels", value) for value in (0, 0.5, 2.5, math.nan)],
        *[(Sign, "ratio", value) for value in (-0.1, 1.1, math.nan)],
        (HalfPrecision, "format", "fp8"),
    ],
)
def test_a_strength_out_of_range_is_named_in_one_sentence(defense: type[Defense], argument: str, value: Any) -> None:
    with pytest.raises(ValueError) as raised:
        defense(**{argument: value})
    message = str(raised.value)
    assert message.startswith(f"{argument} is ") and "\n" not in message and ". " not in message


# What leaks.


def test_who_knows_how_qsgd_rounds_finds_more_than_who_takes_it_for_noise(victims_of: MakeVictims) -> None:
    images, _, seen = victims_of(2, defense=QSGD(32), adaptive=True)
    as_noise = KnownDefense(noise_std=seen.defense.noise_std)
    psnr = [
        -10 * (Bayes(40).reconstruct(replace(seen, defense=known)).images.clamp(0, 1) - images).square().mean().log10()
        for known in (seen.defense, as_noise)
    ]
    assert psnr[0] > 23 and psnr[0] > psnr[1] + 5  # 26.6 and 16.6 dB


@pytest.mark.parametrize("defense", [Quantization(4), Sign(0.9)], ids=named)
def test_a_coarse_update_that_holds_against_the_oblivious_falls_to_who_knows_it(
    defense: Defense, victims_of: MakeVictims
) -> None:
    def leaked(adaptive: bool) -> int:
        images, _, seen = victims_of(4, defense=defense, adaptive=adaptive)
        found = IDLG(max_evaluations=100).reconstruct(seen).images.clamp(0, 1)
        return int(((found - images).square().mean((1, 2, 3, 4)) <= 0.01).sum())

    assert leaked(adaptive=True) >= leaked(adaptive=False) + 2


@pytest.mark.parametrize(
    ("defense", "wanted"),
    [
        (HalfPrecision("bf16"), 2 * 30 + 2 * 6),
        (HalfPrecision("fp32"), 4 * 36),
        (Quantization(8), (30 + 4) + (6 + 4)),
        (Quantization(3), (12 + 4) + (3 + 4)),  # 90 and 18 bits
        (QSGD(4), (15 + 4) + (3 + 4)),  # a sign and one of 5 multiples: 4 bits
        (Sign(1.0), (4 + 4) + (1 + 4)),
        (Sign(0.5), (66 + 4) + (14 + 4)),  # 17.5 bits on average
        (Compose([Quantization(8), Sign(1.0)]), (4 + 4) + (1 + 4)),
        (Compose([]), 4 * 36),
    ],
)
def test_the_bytes_of_coarse_numbers_are_those_of_a_count_by_hand(defense: Defense, wanted: int) -> None:
    shared = {"0.weight": torch.ones(2, 6, 5), "0.bias": torch.ones(2, 6)}
    assert defense.bytes_sent(shared).tolist() == [wanted, wanted]


@pytest.mark.parametrize(
    "defense", [QSGD(256), Quantization(4), OUTPOST(0.1, 0.4, 0.0)], ids=lambda one: type(one).__name__
)
def test_of_a_batch_who_knows_of_a_rounding_or_noise_finds_no_less(defense: Defense, victims_of: Any) -> None:
    """At the edges of what is rounded alike, or of the columns without noise alone, he found far less."""

    def quality(adaptive: bool) -> Tensor:
        images, _, seen = victims_of(3, 3, model=ConvNet, defense=defense, adaptive=adaptive)
        found = DLG(150).reconstruct(seen).images.clamp(0, 1)
        off = torch.cdist(found.flatten(2), images.to(found).flatten(2)).amin((1, 2))
        return -20 * (off / images[0, 0].numel() ** 0.5).log10()

    knowing, blind = quality(True), quality(False)
    assert knowing.mean() > blind.mean() - 0.5 and blind.mean() > 18
