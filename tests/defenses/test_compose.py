"""Defenses one after another: what is shared, what the attacker makes of it, and which orders are refused."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from attacks import IDLG
from benchmark.federation.client import known
from benchmark.seeds import generators
from defenses import (
    DPSGD,
    QSGD,
    Augmentation,
    Clipping,
    Compose,
    Defense,
    GaussianNoise,
    HalfPrecision,
    KeptAtHome,
    KnownDefense,
    LaplaceNoise,
    Masking,
    MixUp,
    Pruning,
    Quantization,
    RelativeNoise,
    Sign,
    Soteria,
    Update,
)
from defenses.base import HookDefense, unchanged

MakeVictims = Callable[..., Any]

ONES: list[Defense] = [
    GaussianNoise(0.1),
    RelativeNoise(0.1),
    LaplaceNoise(0.1),
    Masking(0.5),
    Pruning(0.5),
    Clipping(1.0),
    Sign(),
    QSGD(4),
    Quantization(4),
    HalfPrecision(),
]
IDENTITIES: list[Defense] = [GaussianNoise(0), Masking(0), Clipping(math.inf), Sign(0), Quantization(32), Compose([])]


def named(one: Any) -> str:
    parts = one.defenses if isinstance(one, Compose) else [one]
    return "+".join(type(part).__name__ for part in parts) or "nothing"


def updates(victims: int = 3) -> Update:
    generator = torch.Generator().manual_seed(7)
    shapes = {"conv.weight": (4, 3, 5, 5), "conv.bias": (4,), "linear.weight": (10, 12)}
    return {name: torch.randn(victims, *shape, generator=generator) for name, shape in shapes.items()}


def protect(defense: Defense, update: Update) -> Update:
    return defense.protect(update, generators(0, range(len(next(iter(update.values())))), "defense"))


def same(one: Update, other: Update) -> bool:
    return all(torch.equal(value, other[name]) for name, value in one.items())


def whole(update: Update) -> Tensor:
    return torch.cat([value.flatten(1) for value in update.values()], 1)


@pytest.mark.parametrize("one", ONES, ids=named)
def test_one_alone_is_that_one_bit_for_bit(one: Defense) -> None:
    shared = protect(one, updates())
    for composed in (Compose([one]), Compose([Compose([one])]), Compose([Clipping(math.inf), one])):
        assert same(protect(composed, updates()), shared)
        alone, known = one.known_to_attacker(), composed.known_to_attacker()
        dummy = {name: value.roll(1, 0) for name, value in updates().items()}
        assert same(known.simulate(dummy, shared), alone.simulate(dummy, shared))
        assert same(known.kept_entries(shared), alone.kept_entries(shared))
        assert torch.equal(torch.as_tensor(known.noise(shared)), torch.as_tensor(alone.noise(shared)))
        assert torch.equal(known.weight(shared), alone.weight(shared)) and known.noise_law == alone.noise_law
        assert (known.simulate is unchanged) == (alone.simulate is unchanged)


@pytest.mark.parametrize("parts", [[], [IDENTITIES[1]], IDENTITIES], ids=len)
def test_nothing_and_identities_are_the_identity(parts: list[Defense]) -> None:
    composed = Compose(parts)
    assert same(protect(composed, updates()), updates())
    known = composed.known_to_attacker()
    assert known.simulate is unchanged and known.noise(updates()) == 0 and known.kept is None


def test_each_changes_what_the_one_before_shares() -> None:
    shared = protect(Compose([Pruning(0.5), Clipping(1.0), Quantization(4)]), updates())
    by_hand = protect(Quantization(4), protect(Clipping(1.0), protect(Pruning(0.5), updates())))
    assert same(shared, by_hand)
    assert not same(shared, protect(Compose([Quantization(4), Clipping(1.0), Pruning(0.5)]), updates()))


def test_two_noises_draw_different_numbers() -> None:
    zeros = {"a": torch.zeros(2, 100, 100)}
    one, both = (protect(Compose([GaussianNoise(1.0)] * count), zeros)["a"] for count in (1, 2))
    second = (both - one).flatten(1)
    for client in range(2):
        together = torch.stack([one[client].flatten(), second[client]])
        assert abs(float(torch.corrcoef(together)[0, 1])) < 5 / 100  # five standard deviations
    assert float(both.std()) == pytest.approx(math.sqrt(2), rel=0.05)


DETERMINISTIC = [
    Compose([Clipping(1.0), Pruning(0.5)]),
    Compose([Pruning(0.5), Clipping(1.0)]),
    Compose([Quantization(3), Clipping(1.0)]),
    Compose([Sign(), Pruning(0.2), HalfPrecision()]),
]


@pytest.mark.parametrize("composed", DETERMINISTIC, ids=named)
def test_the_attackers_model_makes_the_shared_update_of_the_true_gradient(composed: Compose) -> None:
    shared = protect(composed, updates())
    dummy = {name: value.clone().requires_grad_() for name, value in updates().items()}
    simulated = whole(composed.known_to_attacker().simulate(dummy, shared))
    assert (simulated - whole(shared)).norm() < 1e-3 * whole(shared).norm()
    slopes = torch.autograd.grad(simulated.square().sum(), list(dummy.values()))
    assert all(slope.any() for slope in slopes)


def test_the_attacker_reads_a_mask_through_what_comes_after_it() -> None:
    composed = Compose([Masking(0.5, rescale=True), Clipping(1.0)])
    shared = protect(composed, updates())
    known = composed.known_to_attacker()
    torch.testing.assert_close(whole(known.simulate(updates(), shared)), whole(shared))
    assert torch.equal(whole(known.kept_entries(shared)) != 0, whole(shared) != 0)


@pytest.mark.parametrize("noises", [(0.3, 0.4), (0.4, 0.3)])
def test_the_noises_of_several_add_up_and_one_that_is_rescaled_with_what_is_kept_grows(noises: Sequence[float]) -> None:
    one, other = map(GaussianNoise, noises)
    shared = protect(Compose([one, other]), updates())
    known = Compose([Clipping(1.0), one, other]).known_to_attacker()
    torch.testing.assert_close(known.noise(shared), torch.full((3,), 0.5))
    masked = Compose([one, Masking(0.5, rescale=True), Pruning(0.0)])
    known, shared = masked.known_to_attacker(), protect(masked, updates())
    torch.testing.assert_close(known.noise(shared), torch.full((3,), 2 * noises[0]))
    apart = (whole(known.simulate(updates(), shared)) - whole(shared))[whole(shared) != 0]
    assert float(apart.std()) == pytest.approx(2 * noises[0], rel=0.1)


@pytest.mark.parametrize("last", [GaussianNoise(0.1), Pruning(0.5)], ids=named)
def test_levels_that_noise_or_pruning_hides_are_taken_for_noise_alone(last: Defense) -> None:
    dummy, composed = updates(), Compose([QSGD(4), last])
    shared = composed.protect(dummy, generators(0, range(3), "defense"))
    simulated = composed.known_to_attacker().simulate(dummy, shared)
    alone = last.known_to_attacker().simulate(dummy, shared)
    assert all(torch.equal(simulated[name], alone[name]) for name in dummy)


def test_laplace_noise_at_the_end_keeps_its_law_and_a_sum_of_noises_has_none() -> None:
    laplace = LaplaceNoise(0.1)
    assert Compose([Clipping(1.0), laplace]).known_to_attacker().noise_law == "laplace"
    assert Compose([GaussianNoise(0.1), laplace]).known_to_attacker().noise_law == "gaussian"


class Unmodeled(Defense):
    def protect(self, update: Update, generators: Sequence[torch.Generator]) -> Update:
        return {name: 2 * value for name, value in update.items()}

    def known_to_attacker(self) -> KnownDefense:
        return KnownDefense()


def test_with_one_that_attackers_have_no_model_of_they_have_none_of_all() -> None:
    known = Compose([Unmodeled(), Clipping(1.0)]).known_to_attacker()
    assert known.simulate is unchanged and known.noise(updates()) == 0


class OfConvolutions(Unmodeled):
    def protect(self, update: Update, generators: Sequence[torch.Generator]) -> Update:
        return {name: value.flip(1) if value.dim() == 5 else value for name, value in update.items()}


class OfBiases(Unmodeled):
    def protect(self, update: Update, generators: Sequence[torch.Generator]) -> Update:
        return {name: -value if name.endswith("bias") else value for name, value in update.items()}


class Mirror(HookDefense):
    def on_batch(self, images: Tensor, labels: Tensor, generators: Sequence[torch.Generator]) -> tuple[Tensor, Tensor]:
        return images.flip(-1), labels

    def known_to_attacker(self) -> KnownDefense:
        return KnownDefense()


@pytest.mark.parametrize("part", [OfConvolutions(), OfBiases(), Mirror()], ids=named)
def test_what_acts_on_some_layers_or_elsewhere_is_no_identity(part: Defense) -> None:
    known = Compose([part, GaussianNoise(0.1)]).known_to_attacker()
    assert not known.says_anything


def test_what_has_a_reason_or_a_model_elsewhere_leaves_that_of_the_others() -> None:
    for part in (Augmentation(), MixUp()):
        assert Compose([part, GaussianNoise(0.1)]).known_to_attacker().noise(updates()) == pytest.approx(0.1)


class SaysItKeepsAll(Defense):
    """Clips each entry, and says that it removes none."""

    def protect(self, update: Update, generators: Sequence[torch.Generator]) -> Update:
        return {name: value.clamp(-0.5, 0.5) for name, value in update.items()}

    def known_to_attacker(self) -> KnownDefense:
        return KnownDefense(
            simulate=lambda dummy, observed: self.protect(dummy, []),
            kept=lambda observed: {name: torch.ones_like(value) for name, value in observed.items()},
        )


class OfALayer(Defense):
    """Needs a layer that only some networks have."""

    def protect(self, update: Update, generators: Sequence[torch.Generator]) -> Update:
        return update | {"linear.weight": update["linear.weight"] / 2}

    def known_to_attacker(self) -> KnownDefense:
        return KnownDefense(simulate=lambda dummy, observed: self.protect(dummy, []))


def test_one_that_needs_a_layer_is_tried_on_the_network_alone() -> None:
    composed = Compose([OfALayer(), Clipping(1.0)])
    shared = protect(composed, updates())
    torch.testing.assert_close(whole(composed.known_to_attacker().simulate(updates(), shared)), whole(shared))


@pytest.mark.parametrize(
    ("parts", "sentence"),
    [
        ([GaussianNoise(0.1), Clipping(1.0)], "GaussianNoise before Clipping cannot be simulated"),
        ([LaplaceNoise(0.1), Masking(0.5), Sign()], "LaplaceNoise before Sign cannot be simulated"),
        ([QSGD(4), HalfPrecision()], "QSGD before HalfPrecision cannot be simulated"),
        ([Clipping(1.0), Masking(0.5), GaussianNoise(0.1)], "what Masking draws cannot be read"),
        ([GaussianNoise(0.1), SaysItKeepsAll()], "GaussianNoise before SaysItKeepsAll cannot be simulated"),
        ([Compose([GaussianNoise(0.1)]), Quantization(8)], "Compose before Quantization cannot be simulated"),
    ],
    ids=lambda value: "" if isinstance(value, str) else "+".join(map(named, value)),
)
def test_an_order_that_no_attacker_can_simulate_is_refused_in_one_sentence(parts: list[Defense], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence) as raised:
        Compose(parts)
    assert "\n" not in str(raised.value) and ". " not in str(raised.value)


def test_a_strength_of_zero_is_refused_in_no_order() -> None:
    Compose([GaussianNoise(0), Masking(0), Clipping(1.0), GaussianNoise(0.1)])


def test_rounding_is_simulated_where_others_follow_it_and_is_noise_where_it_comes_last() -> None:
    alone, first, last = (
        Quantization(3),
        Compose([Quantization(3), Clipping(1.0)]),
        Compose([Clipping(1.0), Quantization(3)]),
    )
    shared = protect(last, updates())
    torch.testing.assert_close(last.known_to_attacker().noise(shared), alone.known_to_attacker().noise(shared))
    assert first.known_to_attacker().noise(protect(first, updates())) == 0.0


def test_clipping_with_noise_leaks_to_who_knows_both(victims_of: MakeVictims) -> None:
    """Clipping to a thousandth of the norm, with noise that is small beside that."""
    composed = Compose([Clipping(0.01), GaussianNoise(1e-6)])

    def errors(adaptive: bool) -> torch.Tensor:
        images, _, seen = victims_of(8, defense=composed, adaptive=adaptive)
        found = IDLG(max_evaluations=50, trials=4).reconstruct(seen).images  # single starts fail, undefended as well
        return (found.clamp(0, 1) - images).square().mean((1, 2, 3, 4))

    known, unknown = errors(adaptive=True), errors(adaptive=False)
    assert (known < 0.03).all() and (known < unknown / 2).all()


def test_what_changes_the_batch_acts_before_what_changes_the_update() -> None:
    made = Compose([Clipping(0.5), MixUp(), Augmentation()])
    assert made.hooks == {"protect", "on_batch"} and Compose([Clipping(0.5), MixUp(0)]).hooks == {"protect"}
    generator = torch.Generator().manual_seed(1)
    images, labels = torch.rand(2, 3, 1, 6, 6, generator=generator), torch.eye(3).expand(2, 3, 3)
    found = made.on_batch(images, labels, generators(0, range(2), "x"))
    one_by_one = generators(0, range(2), "x")
    wanted = Augmentation().on_batch(*MixUp().on_batch(images, labels, one_by_one), one_by_one)
    assert all(torch.equal(one, other) for one, other in zip(found, wanted, strict=True))
    known = made.known_to_attacker()
    assert known.soft_labels and known.no_adaptive_attack == Augmentation().known_to_attacker().no_adaptive_attack
    assert known.is_simulated
    alone = Compose([Clipping(0.5), MixUp()]).known_to_attacker()
    assert alone.undo is MixUp().known_to_attacker().undo and known.undo is None, "an augmentation is not undone"
    with pytest.raises(ValueError, match="give batch_size 2 or more"):
        made.check_clients(torch.nn.Linear(1, 1), (1, 1, 6, 6), False, False)


def test_what_one_of_them_needs_they_need_together() -> None:
    with pytest.raises(ValueError, match="layers names 'nope'"):
        Compose([Clipping(1.0), KeptAtHome(["nope"])]).check(["0.weight", "0.bias"])


@pytest.mark.parametrize("defense", [DPSGD(), Soteria()])
def test_what_is_no_function_of_update_or_batch_is_refused(defense: Defense) -> None:
    with pytest.raises(ValueError, match=f"{type(defense).__name__} is no function of the update or the batch alone"):
        Compose([Clipping(1.0), defense])


@pytest.mark.parametrize("last", [Quantization(4), QSGD(4)], ids=named)
def test_what_is_known_of_the_last_one_on_batches_is_known_behind_others(last: Defense) -> None:
    model, shape, given = nn.Linear(4, 2), (4, 1, 2, 2), updates()
    alone = known(last, model, shape)
    mixed, clipped = (known(Compose([one, last]), model, shape) for one in (MixUp(1.0), Clipping(1.0)))
    shared = last.protect(given, generators(0, range(3), "defense"))
    for one in (mixed, clipped):
        torch.testing.assert_close(one.noise(shared), alone.noise(shared))
    assert mixed.soft_labels and mixed.undo and mixed.simulate is unchanged and not alone.soft_labels
    of_clipping = Clipping(1.0).protect(given, [])
    assert all(torch.allclose(value, of_clipping[name]) for name, value in clipped.simulate(given, shared).items())
    assert not torch.equal(
        known(Compose([Clipping(1.0), last]), model, (1, 1, 2, 2)).simulate(given, shared)["conv.bias"],
        of_clipping["conv.bias"],
    )
