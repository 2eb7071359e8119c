"""The defenses: what they share, what an attacker who knows them makes of it, and that they are told apart."""

import math
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from attacks import IDLG
from benchmark.seeds import generators
from defenses import (
    QSGD,
    Clipping,
    Compose,
    Defense,
    GaussianNoise,
    HalfPrecision,
    LaplaceNoise,
    Masking,
    Pruning,
    Quantization,
    RelativeNoise,
    Sign,
    Update,
)
from defenses.base import remembered

MakeVictims = Callable[..., Any]

IDENTITIES: list[Defense] = [
    GaussianNoise(0.0),
    Clipping(math.inf),
    Clipping(1e6),
    Pruning(0.0),
    Masking(0.0),
    Masking(0.0, rescale=True),
    RelativeNoise(0.0),
    LaplaceNoise(0.0),
    HalfPrecision("fp32"),
    Quantization(32),
    QSGD(math.inf),
    Sign(0.0),
    Compose([]),
    Compose([GaussianNoise(0.0), Masking(0.0), Clipping(1e6)]),
]
STRONG: list[Defense] = [GaussianNoise(0.1), Clipping(0.5), Pruning(0.9), Masking(0.9), Masking(0.9, rescale=True)]


def named(defense: Defense) -> str:
    """The same in every process: of numbers and texts alone."""
    plain = tuple(value for value in vars(defense).values() if isinstance(value, int | float | str))
    return f"{type(defense).__name__}{plain}"


every_identity = pytest.mark.parametrize("defense", IDENTITIES, ids=named)
every_strong = pytest.mark.parametrize("defense", STRONG, ids=named)


def updates(victims: int = 5) -> Update:
    """Updates without a zero entry, of norms far above 1."""
    generator = torch.Generator().manual_seed(7)
    shapes = {"conv": (4, 3, 5, 5), "bias": (4,), "linear": (10, 12)}
    return {name: torch.randn(victims, *shape, generator=generator) for name, shape in shapes.items()}


def protect(defense: Defense, update: Update, victims: range | None = None) -> Update:
    count = len(next(iter(update.values())))
    return defense.protect(update, generators(0, victims or range(count), "defense"))


def whole(update: Update) -> Tensor:
    """All entries of each victim, ``[V, D]``."""
    return torch.cat([value.flatten(1) for value in update.values()], 1)


# All of them.


@every_identity
def test_a_defense_of_strength_zero_shares_the_update_itself(defense: Defense) -> None:
    assert torch.equal(whole(protect(defense, updates())), whole(updates()))


@every_identity
def test_the_attacker_of_a_defense_of_strength_zero_matches_the_gradient_itself(defense: Defense) -> None:
    update = updates()
    dummy = {name: (value + 1).requires_grad_() for name, value in update.items()}
    known = defense.known_to_attacker()
    simulated = known.simulate(dummy, protect(defense, update))
    assert known.noise_std == 0 and torch.equal(whole(simulated), whole(dummy))
    slopes = torch.autograd.grad(whole(simulated).sum(), list(dummy.values()))
    assert all(torch.equal(slope, torch.ones_like(slope)) for slope in slopes)


@every_strong
def test_a_real_strength_changes_every_clients_update(defense: Defense) -> None:
    before, after = updates(), protect(defense, updates())
    assert list(after) == list(before)
    for name in before:
        assert after[name].shape == before[name].shape and after[name].dtype == before[name].dtype
        assert (after[name] != before[name]).flatten(1).any(1).all()


@every_strong
def test_the_true_update_is_not_changed_in_place(defense: Defense) -> None:
    update = updates()
    protect(defense, update)
    assert torch.equal(whole(update), whole(updates()))


@every_strong
def test_what_a_client_shares_depends_on_no_other_client(defense: Defense) -> None:
    together = protect(defense, updates())
    for victim in range(5):
        alone = protect(
            defense,
            {name: value[victim : victim + 1] for name, value in updates().items()},
            range(victim, victim + 1),
        )
        torch.testing.assert_close(whole(alone)[0], whole(together)[victim], rtol=1e-6, atol=0)


@pytest.mark.parametrize("defense", [GaussianNoise(0.1), Masking(0.5)], ids=named)
def test_clients_and_tensors_draw_for_themselves_and_a_seed_draws_the_same_again(defense: Defense) -> None:
    ones = {"first": torch.ones(2, 50), "second": torch.ones(2, 50)}
    shared = protect(defense, ones)
    for name in ones:
        assert torch.equal(shared[name], protect(defense, ones)[name])
        assert not torch.equal(shared[name][0], shared[name][1])
        assert not torch.equal(shared[name], protect(defense, ones, range(2, 4))[name])
    assert not torch.equal(shared["first"], shared["second"])


@every_strong
def test_the_attackers_model_makes_the_shared_update_of_the_true_gradient(defense: Defense) -> None:
    """Exactly, but for the noise, which nobody knows."""
    shared = protect(defense, updates())
    known = defense.known_to_attacker()
    simulated = known.simulate(updates(), shared)
    if isinstance(defense, GaussianNoise):
        assert known.noise_std == defense.std
        assert torch.equal(whole(simulated), whole(updates()))
    else:
        assert known.noise_std == 0
        assert torch.equal(whole(simulated), whole(shared))


@every_strong
def test_the_attackers_model_can_be_differentiated(defense: Defense) -> None:
    shared = {name: value.double() for name, value in protect(defense, updates(2)).items()}
    names = list(shared)
    generator = torch.Generator().manual_seed(1)
    dummy = [torch.randn(shared[n].shape, generator=generator, dtype=torch.float64).requires_grad_() for n in names]
    weights = torch.rand(whole(shared).shape, generator=generator, dtype=torch.float64)

    def simulated(*values: Tensor) -> Tensor:
        as_update = dict(zip(names, values, strict=True))
        return (weights * whole(defense.known_to_attacker().simulate(as_update, shared)).square()).sum(1)

    assert torch.autograd.gradcheck(simulated, dummy, fast_mode=True)
    assert torch.autograd.gradgradcheck(simulated, dummy, fast_mode=True)
    slopes = torch.autograd.grad(simulated(*dummy).sum(), dummy)
    assert (torch.cat([slope.flatten(1) for slope in slopes], 1) != 0).any(1).all()


@pytest.mark.parametrize(
    ("defense", "argument", "value"),
    [
        *[(GaussianNoise, "std", value) for value in (-0.1, math.inf, math.nan)],
        *[(Clipping, "max_norm", value) for value in (0.0, -1.0, math.nan)],
        *[(kind, "ratio", value) for kind in (Pruning, Masking) for value in (-0.1, 1.0, 1.5, math.nan)],
    ],
)
def test_a_strength_out_of_range_is_named_in_one_sentence(defense: type[Defense], argument: str, value: float) -> None:
    with pytest.raises(ValueError) as raised:
        defense(**{argument: value})
    message = str(raised.value)
    assert message.startswith(f"{argument} is ") and "\n" not in message and ". " not in message


# One by one, by hand.


def test_clipping_shortens_long_updates_alone_and_keeps_their_direction() -> None:
    update = {"a": torch.tensor([[3.0, 0.0], [0.3, 0.0]]), "b": torch.tensor([[[4.0]], [[-0.4]]])}  # norms 5 and 0.5
    shared = protect(Clipping(2.0), update)
    torch.testing.assert_close(whole(shared), torch.tensor([[1.2, 0.0, 1.6], [0.3, 0.0, -0.4]]))
    assert whole(shared).norm(dim=1).tolist() == pytest.approx([2.0, 0.5])
    assert torch.equal(whole(shared)[1], whole(update)[1])


def test_clipping_leaves_a_zero_update_zero() -> None:
    assert whole(protect(Clipping(1.0), {"a": torch.zeros(2, 3)})).tolist() == [[0.0] * 3] * 2


def test_pruning_zeroes_the_smallest_of_each_tensor() -> None:
    update = {
        "a": torch.tensor([[1.0, -5.0, 2.0, -0.1, 3.0], [9.0, 8.0, 7.0, 6.0, 5.0]]),
        "b": torch.tensor([[[100.0, 300.0], [-200.0, 400.0]], [[-1.0, 1.0], [1.0, -1.0]]]),
    }
    shared = protect(Pruning(0.5), update)  # 2 of 5, 2 of 4
    assert shared["a"].tolist() == [[0.0, -5.0, 2.0, 0.0, 3.0], [9.0, 8.0, 7.0, 0.0, 0.0]]
    assert shared["b"][0].tolist() == [[0.0, 300.0], [0.0, 400.0]]
    assert (shared["b"][1] == 0).sum() == 2, "a tie must not change the count"


@pytest.mark.parametrize("ratio", [0.1, 0.5, 0.9, 0.99])
def test_pruning_zeroes_the_exact_share_of_each_tensor_and_the_rest_is_larger(ratio: float) -> None:
    before, after = updates(), protect(Pruning(ratio), updates())
    for name in before:
        for value, kept in zip(before[name].flatten(1), after[name].flatten(1), strict=True):
            zeroed = kept == 0
            assert int(zeroed.sum()) == round(ratio * len(value))
            assert torch.equal(kept[~zeroed], value[~zeroed])
            if zeroed.any() and not zeroed.all():
                assert value[zeroed].abs().max() <= value[~zeroed].abs().min()


@pytest.mark.parametrize("ratio", [0.2, 0.5, 0.9])
@pytest.mark.parametrize("rescale", [False, True])
def test_masking_zeroes_the_share_it_says_and_rescaled_is_right_on_average(ratio: float, rescale: bool) -> None:
    """Of 40,000 entries of each client; bounds are five standard deviations."""
    ones = {"a": torch.ones(3, 200, 200)}
    shared = protect(Masking(ratio, rescale), ones)["a"].flatten(1)
    kept = 1 / (1 - ratio) if rescale else 1.0
    assert ((shared == 0) | (shared == torch.tensor(kept))).all()
    spread = 5 * math.sqrt(ratio * (1 - ratio) / 40_000)
    assert ((shared == 0).double().mean(1) - ratio).abs().max() < spread
    assert (shared.double().mean(1) - (1 - ratio) * kept).abs().max() < spread * kept
    if rescale:
        assert (shared.double().mean(1) - 1).abs().max() < spread * kept


@pytest.mark.parametrize("std", [0.01, 2.0])
def test_noise_has_the_spread_it_says_and_is_added(std: float) -> None:
    """Of 40,000 entries of each client; bounds are five standard deviations."""
    update = {"a": torch.full((3, 200, 200), 0.25, dtype=torch.float64)}
    noise = (protect(GaussianNoise(std), update)["a"] - 0.25).flatten(1)
    assert noise.mean(1).abs().max() < 5 * std / 200
    assert (noise.std(1) / std - 1).abs().max() < 5 / math.sqrt(2 * 40_000)
    share_within_one = (noise.abs() < std).double().mean(1)
    assert (share_within_one - 0.6827).abs().max() < 5 * math.sqrt(0.6827 * 0.3173 / 40_000)


# In the hands of a client.


def test_what_is_read_of_an_update_is_remembered_as_long_as_its_tensors_are_there() -> None:
    read: list[Update] = []

    @remembered
    def total(update: Update) -> Tensor:
        read.append(update)
        return whole(update).sum()

    first, second = updates(), updates(3)
    first = {name: value.requires_grad_() for name, value in first.items()}
    assert total(first) == whole(first).sum() and not total(first).requires_grad
    assert total({**first}) == whole(first).sum() and len(read) == 1  # the tensors count, not what holds them
    assert total(second) == whole(second).sum() and total(first) == whole(first).sum() and len(read) == 2
    names = list(first)
    for changed in (
        first | {names[-1]: first[names[-1]] + 1},  # another tensor behind the same first one
        {name: first[name] for name in names[:1]},
        {name: value.clone() for name, value in first.items()},
    ):
        assert total(changed) == whole(changed).sum()
    assert len(read) == 5
    gone = weakref.ref(second[names[0]])
    del second
    read.clear()
    assert gone() is None


@pytest.mark.parametrize("defense", [None, *STRONG], ids=lambda d: named(d) if d else "none")
def test_an_observation_of_a_victim_depends_on_no_other_victim(
    defense: Defense | None, victims_of: MakeVictims
) -> None:
    block = victims_of(5, defense=defense).observation
    alone = victims_of(1, defense=defense, first=3).observation
    assert alone.seeds == block.seeds[3:4]
    for name in block.update:
        assert torch.equal(alone.parameters[name][0], block.parameters[name][3])
        torch.testing.assert_close(alone.update[name][0], block.update[name][3], rtol=1e-4, atol=1e-5)


def test_the_attacker_is_told_of_the_defense_only_where_granted(victims_of: MakeVictims) -> None:
    assert victims_of(2, defense=Clipping(1.0), adaptive=False).observation.defense is None
    assert victims_of(2, defense=Clipping(1.0), adaptive=True).observation.defense is not None
    assert victims_of(2, adaptive=True).observation.defense is None


# What leaks.


def leaks(victims_of: MakeVictims, defense: Defense, adaptive: bool, evaluations: int = 150) -> int:
    """How many of 12 digits leak to IDLG: mean squared error of at most 0.01."""
    images, _, observation = victims_of(12, defense=defense, adaptive=adaptive)
    found = IDLG(max_evaluations=evaluations).reconstruct(observation).images.clamp(0, 1)
    return int(((found - images).square().mean((1, 2, 3, 4)) <= 0.01).sum())


# Clipping and masking without rescaling have the stronger test below.
@pytest.mark.parametrize("defense", [GaussianNoise(0.01), Pruning(0.6), Masking(0.6, rescale=True)], ids=named)
def test_an_attacker_who_knows_the_defense_is_not_weaker(defense: Defense, victims_of: MakeVictims) -> None:
    assert leaks(victims_of, defense, adaptive=True) >= leaks(victims_of, defense, adaptive=False) - 1


@pytest.mark.parametrize("defense", [Clipping(1.0), Pruning(0.9), Masking(0.6)], ids=named)
def test_a_defense_that_holds_against_the_oblivious_falls_to_who_knows_it(
    defense: Defense, victims_of: MakeVictims
) -> None:
    assert leaks(victims_of, defense, adaptive=False) <= 1
    assert leaks(victims_of, defense, adaptive=True) >= 6


@pytest.mark.parametrize("max_norm", [0.1, 0.01])
def test_clipping_harder_hides_nothing_more_from_who_knows_it(max_norm: float, victims_of: MakeVictims) -> None:
    """Below the norms of all gradients (about 4.5 here) only the direction is shared, however small it is made."""
    assert leaks(victims_of, Clipping(max_norm), adaptive=True) >= 6


def test_clipping_that_clips_nobody_leaks_the_same_to_who_knows_it(victims_of: MakeVictims) -> None:
    clipping = Clipping(math.inf)
    assert leaks(victims_of, clipping, adaptive=True) == leaks(victims_of, clipping, adaptive=False) >= 10
