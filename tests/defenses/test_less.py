"""The defenses that share less of an update: by hand, and what an attacker who knows them makes of it."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from attacks import IDLG, GaussNewton, InvertingGradients, LabelInference
from attacks.engine.label_rules import label_logits
from attacks.rgap import true_gradient
from benchmark.federation.client import PublicData, observe
from benchmark.federation.setting import Setting
from benchmark.models import LeNet
from benchmark.rehearsal.attackers_model import check_known
from benchmark.rehearsal.hooks import check_protect
from benchmark.seeds import generators
from datamodules import Digits
from defenses import (
    Clipping,
    CountSketch,
    Defense,
    GlobalPruning,
    KeptAtHome,
    LayerMasking,
    Masking,
    Pruning,
    QuantileClipping,
    TensorClipping,
    TruncatedSVD,
    Update,
    ValueClipping,
)
from defenses.base import joined, parted
from defenses.count_sketch import hashes

MakeVictims = Callable[..., Any]

CPU = torch.device("cpu")

IDENTITIES: list[Defense] = [
    TensorClipping(math.inf),
    TensorClipping(1e6),
    QuantileClipping(1.0),
    ValueClipping(math.inf),
    ValueClipping(1e6),
    GlobalPruning(0.0),
    LayerMasking(0.0),
    LayerMasking(0.0, rescale=True),
    KeptAtHome([]),
    TruncatedSVD(1.0),
    CountSketch(1.0),
]
STRONG: list[Defense] = [
    TensorClipping(0.5),
    QuantileClipping(0.0),
    QuantileClipping(0.5),
    ValueClipping(0.2),
    GlobalPruning(0.9),
    LayerMasking(0.4),
    KeptAtHome(["head"]),
    TruncatedSVD(0.5),
    CountSketch(10.0),
]


def named(defense: Defense) -> str:
    return f"{type(defense).__name__}{tuple(vars(defense).values())}"


every_identity = pytest.mark.parametrize("defense", IDENTITIES, ids=named)
every_strong = pytest.mark.parametrize("defense", STRONG, ids=named)


def updates(victims: int = 4) -> Update:
    """Updates without a zero entry, of norms far above 1."""
    generator = torch.Generator().manual_seed(7)
    shapes = {"body.weight": (4, 3, 5, 5), "body.bias": (4,), "head.weight": (10, 12), "head.bias": (10,)}
    return {name: torch.randn(victims, *shape, generator=generator) for name, shape in shapes.items()}


def protect(defense: Defense, update: Update, victims: range | None = None, place: str = "defense") -> Update:
    count = len(next(iter(update.values())))
    return defense.protect(update, generators(0, victims or range(count), place))


def whole(update: Update) -> Tensor:
    """All entries of each victim, ``[V, D]``."""
    return torch.cat([value.flatten(1) for value in update.values()], 1)


# All of them.


@every_identity
def test_a_defense_of_strength_zero_is_none_to_client_and_attacker(defense: Defense) -> None:
    update = updates()
    shared = protect(defense, update)
    assert torch.equal(whole(shared), whole(updates()))
    dummy = {name: (value + 1).requires_grad_() for name, value in update.items()}
    known = defense.known_to_attacker()
    simulated = known.simulate(dummy, shared)
    assert known.noise_std == 0 and torch.equal(whole(simulated), whole(dummy))
    assert torch.equal(known.weight(shared), torch.ones(4))
    assert (whole(known.kept_entries(shared)) == 1).all()
    slopes = torch.autograd.grad(whole(simulated).sum(), list(dummy.values()))
    assert all(torch.equal(slope, torch.ones_like(slope)) for slope in slopes)
    assert defense.bytes_sent(shared).tolist() == [4 * whole(update).shape[1]] * 4


@every_strong
def test_a_client_shares_another_update_alone_as_in_company(defense: Defense) -> None:
    update = updates()
    together = protect(defense, update)
    assert torch.equal(whole(update), whole(updates()))
    assert list(together) == list(update)
    assert (whole(together) != whole(update)).any(1).all()
    for victim in range(4):
        row = {name: value[victim : victim + 1] for name, value in update.items()}
        alone = protect(defense, row, range(victim, victim + 1))
        torch.testing.assert_close(whole(alone)[0], whole(together)[victim], rtol=1e-5, atol=1e-6)


@every_strong
def test_the_attackers_model_makes_the_shared_update_of_the_true_one_and_of_no_other(defense: Defense) -> None:
    update = {name: value.double() for name, value in updates().items()}
    shared = protect(defense, update)
    simulate = defense.known_to_attacker().simulate
    torch.testing.assert_close(whole(simulate(update, shared)), whole(shared), rtol=1e-9, atol=1e-9)
    other = {name: value.roll(1, 0) for name, value in update.items()}
    off = (whole(simulate(other, shared)) - whole(shared)).norm(dim=1) / whole(shared).norm(dim=1)
    assert (off.nan_to_num(1.0) > 0.5).all()  # of one client all layers are masked


@every_strong
def test_the_attackers_model_can_be_differentiated_twice(defense: Defense) -> None:
    shared = {name: value.double() for name, value in protect(defense, updates(2)).items()}
    names = list(shared)
    generator = torch.Generator().manual_seed(1)
    dummy = [torch.randn(shared[n].shape, generator=generator, dtype=torch.float64).requires_grad_() for n in names]
    known = defense.known_to_attacker()

    def simulated(*values: Tensor) -> Tensor:
        return whole(known.simulate(dict(zip(names, values, strict=True)), shared)).square().sum(1)

    assert torch.autograd.gradcheck(simulated, dummy, fast_mode=True)
    assert torch.autograd.gradgradcheck(simulated, dummy, fast_mode=True)


@every_strong
def test_a_zero_tensor_has_finite_slopes(defense: Defense) -> None:
    """As that of a layer whose units are all silent."""
    update = updates() | {"body.bias": torch.zeros(4, 4)}
    shared = protect(defense, update)
    dummy = {name: value.clone().requires_grad_() for name, value in update.items()}
    simulated = whole(defense.known_to_attacker().simulate(dummy, shared))
    slopes = torch.autograd.grad(
        simulated.square().sum(), list(dummy.values()), materialize_grads=True, allow_unused=True
    )
    assert whole(shared).isfinite().all() and simulated.isfinite().all()
    assert all(slope.isfinite().all() for slope in slopes)


@every_strong
def test_a_parameter_can_be_a_single_number(defense: Defense) -> None:
    update = updates() | {"temperature": torch.tensor([0.5, -1.5, 2.5, 1.0])}
    check_protect(defense, update, "mine")
    check_known(defense, defense.known_to_attacker(), update, "mine")
    assert defense.bytes_sent(protect(defense, update)).shape == (4,)


@every_strong
def test_an_update_that_is_not_finite_is_shared_and_spoils_no_other(defense: Defense) -> None:
    """It is told elsewhere: a client of a training may have diverged."""
    update = updates()
    update["body.weight"][0, 0, 0, 0, 0] = torch.nan
    shared, fine = whole(protect(defense, update)), whole(protect(defense, updates()))
    assert not shared[0].isfinite().all() or not protect(defense, update)["body.weight"][0].any()
    torch.testing.assert_close(shared[1:], fine[1:], rtol=1e-5, atol=1e-6)


ON_LENET = {
    "KeptAtHome": KeptAtHome(["last"]),
    "ValueClipping": ValueClipping(0.01),
    "TensorClipping": TensorClipping(0.1),
}


@every_strong
def test_who_knows_it_takes_another_way(defense: Defense, victims_of: MakeVictims) -> None:
    """An adaptive attack that is the oblivious one by mistake gives the same numbers."""
    used = ON_LENET.get(type(defense).__name__, defense)
    images = []
    for adaptive in (False, True):
        seen = victims_of(2, defense=used, adaptive=adaptive).observation
        start = torch.full((2, 1, 1, 8, 8), 0.3)
        images.append(IDLG(max_evaluations=3).reconstruct(seen, start_images=start).images)
        assert not torch.equal(whole(seen.update), whole(victims_of(2).observation.update))
    assert not torch.allclose(*images, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("defense", "argument", "value"),
    [
        *[(TensorClipping, "max_norm", value) for value in (0.0, -1.0, math.nan)],
        *[(ValueClipping, "max_value", value) for value in (0.0, -1.0, math.nan)],
        *[(QuantileClipping, "quantile", value) for value in (-0.1, 1.1, math.nan)],
        *[(kind, "ratio", value) for kind in (GlobalPruning, LayerMasking) for value in (-0.1, 1.0, math.nan)],
        *[(TruncatedSVD, "energy", value) for value in (0.0, 1.1, math.nan)],
        *[(CountSketch, "compression", value) for value in (0.5, math.inf, math.nan)],
        *[(CountSketch, "rows", 0), (CountSketch, "seed", -1)],
    ],
)
def test_a_strength_out_of_range_is_named_in_one_sentence(defense: type[Defense], argument: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"^{argument} is ") as raised:
        defense(**{argument: value})
    assert "\n" not in str(raised.value) and ". " not in str(raised.value)


# Clipping.


def test_tensors_are_clipped_by_themselves() -> None:
    update = {"a": torch.tensor([[3.0, 4.0]]), "b": torch.tensor([[0.3, 0.4]]), "c": torch.zeros(1, 2)}
    shared = protect(TensorClipping(1.0), update)
    torch.testing.assert_close(whole(shared), torch.tensor([[0.6, 0.8, 0.3, 0.4, 0.0, 0.0]]))


def test_a_quantile_is_that_of_the_clients_own_tensors_that_are_not_zero() -> None:
    update = {n: torch.full((1, 1), v) for n, v in {"a": 1.0, "b": -3.0, "c": 9.0, "d": 5.0, "e": 0.0}.items()}
    for quantile, limit in ((0.0, 1.0), (0.5, 3.0), (0.67, 5.0), (1.0, 9.0)):
        wanted = [[min(1.0, limit), -min(3.0, limit), min(9.0, limit), min(5.0, limit), 0.0]]
        assert whole(protect(QuantileClipping(quantile), update)).tolist() == wanted
    nothing = {"a": torch.zeros(2, 3)}
    assert whole(protect(QuantileClipping(0.5), nothing)).tolist() == [[0.0] * 3] * 2


def test_a_tensor_that_was_not_clipped_is_held_against_the_dummy_in_its_length() -> None:
    observed = {"a": torch.tensor([[0.6, 0.8]]), "b": torch.tensor([[0.3, 0.4]])}
    known = TensorClipping(1.0).known_to_attacker()
    found = known.simulate({"a": torch.tensor([[6.0, 8.0]]), "b": torch.tensor([[3.0, 4.0]])}, observed)
    torch.testing.assert_close(whole(found), torch.tensor([[0.6, 0.8, 3.0, 4.0]]))


def test_an_entry_at_the_bound_is_an_inequality() -> None:
    """Free beyond the bound, a slope of 1 short of it and on the wrong side; one within is the gradient's own."""
    observed = {"a": torch.tensor([[0.5, 0.5, 0.5, -0.5, -0.5, 0.2, 0.2]])}
    dummy = {"a": torch.tensor([[3.0, 0.1, -2.0, -3.0, 2.0, 4.0, -4.0]], requires_grad=True)}
    known = ValueClipping(0.5).known_to_attacker()
    found = known.simulate(dummy, observed)["a"]
    assert found.tolist()[0] == pytest.approx([0.5, 0.1, -2.0, -0.5, 2.0, 4.0, -4.0])
    assert torch.autograd.grad(found.sum(), dummy["a"])[0].tolist() == [[0, 1, 1, 0, 1, 1, 1]]
    assert known.kept_entries(observed)["a"].tolist() == [[0, 0, 0, 0, 0, 1, 1]]
    as_double = {"a": observed["a"].double()}  # 0.1 in 32 bits is not 0.1 in 64
    assert ValueClipping(0.1).known_to_attacker().kept_entries({"a": torch.full((1, 1), 0.1).double()})[
        "a"
    ].tolist() == [[0]]
    assert known.kept_entries(as_double)["a"].tolist() == [[0, 0, 0, 0, 0, 1, 1]]


# Pruning and masking.


@pytest.mark.parametrize("ratio", [0.1, 0.5, 0.9, 0.99])
def test_pruning_of_all_tensors_together_keeps_the_largest_entries_of_all(ratio: float) -> None:
    update = {name: value * scale for scale, (name, value) in enumerate(updates().items(), 1)}
    before, after = whole(update), whole(protect(GlobalPruning(ratio), update))
    count = before.shape[1]
    for own, shared in zip(before.numpy(), after.numpy(), strict=True):
        largest = np.argsort(-np.abs(own), kind="stable")[: count - round(ratio * count)]
        wanted = np.zeros_like(own)
        wanted[largest] = own[largest]
        assert (shared == wanted).all()


def test_what_global_pruning_removed_is_bounded_by_what_it_kept_anywhere() -> None:
    observed = {"a": torch.tensor([[0.0, 0.0]]), "b": torch.tensor([[3.0, -4.0]])}
    known = GlobalPruning(0.5).known_to_attacker()
    found = known.simulate({"a": torch.tensor([[2.0, -5.0]]), "b": torch.tensor([[1.0, 1.0]])}, observed)
    assert whole(found).tolist() == [[0.0, -2.0, 1.0, 1.0]]
    assert whole(known.kept_entries(observed)).tolist() == [[0, 0, 1, 1]]
    more_zeros = {"a": torch.tensor([[0.0, 0.0]]), "b": torch.tensor([[3.0, 0.0]])}  # so all of them are true
    assert whole(known.kept_entries(more_zeros)).tolist() == [[1, 1, 1, 1]]


@pytest.mark.parametrize("kind", [Masking, LayerMasking])
def test_masks_are_drawn_anew_in_each_round(kind: Callable[[float], Defense], digits: Digits) -> None:
    images, labels = digits.victims(8, 1)
    network, setting = LeNet(digits.image_shape, digits.num_classes), Setting(rounds=2)
    public = PublicData.of(digits, rounds=2)
    seen = observe(network, images, labels, public, kind(0.5), False, 0, range(8), setting)
    zeros = [
        torch.stack([(value == 0).flatten(1).all(1) for value in one.update.values()]) for one in (seen, *seen.later)
    ]
    if kind is Masking:
        zeros = [whole(one.update) == 0 for one in (seen, *seen.later)]
    assert not torch.equal(zeros[0], zeros[1])
    again = observe(network, images, labels, public, kind(0.5), False, 0, range(8), setting)
    assert all(torch.equal(value, again.later[0].update[name]) for name, value in seen.later[0].update.items())


@pytest.mark.parametrize("rescale", [False, True])
def test_whole_layers_are_masked_with_the_probability_that_it_says(rescale: bool) -> None:
    """Of 20,000 layers; bounds are five standard deviations."""
    ones = {f"{layer}.{kind}": torch.ones(1000, 2) for layer in range(20) for kind in ("weight", "bias")}
    shared = protect(LayerMasking(0.3, rescale), ones)
    for layer in range(20):
        assert torch.equal(shared[f"{layer}.weight"], shared[f"{layer}.bias"])
    kept = whole(shared) != 0
    assert abs(float(kept.double().mean()) - 0.7) < 5 * math.sqrt(0.21 / 20_000)
    assert whole(shared).unique().tolist() == pytest.approx([0.0, 1 / 0.7 if rescale else 1.0])
    per_client = kept.double().mean(1)
    assert per_client.std() > 0.05, "each client must draw for itself"


# Layers at home.


@pytest.mark.parametrize(
    ("layers", "kept"),
    [
        (["fc"], {"fc"}),
        (["layer1"], {"layer1.0.conv", "layer1.1.conv"}),
        (["layer1.0*", "fc"], {"layer1.0.conv", "fc"}),
        (["first"], {"conv"}),
        (["last"], {"fc"}),
        (["layer*"], {"layer1.0.conv", "layer1.1.conv", "layer10.conv"}),
    ],
)
def test_layers_are_kept_by_name_by_what_holds_them_and_by_place(layers: list[str], kept: set[str]) -> None:
    names = ["conv", "layer1.0.conv", "layer1.1.conv", "layer10.conv", "fc"]
    update = {f"{name}.{kind}": torch.ones(2, 3) for name in names for kind in ("weight", "bias")}
    KeptAtHome(layers).check(list(update))
    shared = protect(KeptAtHome(layers), update)
    for name, value in shared.items():
        assert bool((value == 0).all()) == (name.rpartition(".")[0] in kept)
        assert bool((value == 1).all()) == (name.rpartition(".")[0] not in kept)


@pytest.mark.parametrize(
    ("layers", "said"),
    [
        (["nope"], "layers names 'nope', but the network has conv, fc: give some of these"),
        (["fc", "con"], "layers names 'con', but the network has conv, fc: give some of these"),
        (["*"], "layers names all layers of the network (conv, fc): leave out some to share"),
        (["conv", "fc"], "layers names all layers of the network (conv, fc): leave out some to share"),
    ],
)
def test_layers_that_a_network_lacks_are_refused(layers: list[str], said: str) -> None:
    with pytest.raises(ValueError) as raised:
        KeptAtHome(layers).check(["conv.weight", "conv.bias", "fc.weight"])
    assert str(raised.value) == said


def test_a_zero_in_a_layer_that_is_shared_is_matched() -> None:
    update = updates() | {"body.bias": torch.zeros(4, 4)}
    known = KeptAtHome(["head"]).known_to_attacker()
    shared = protect(KeptAtHome(["head"]), update)
    kept = known.kept_entries(shared)
    assert {name: bool(value.all()) for name, value in kept.items()} == {
        "body.weight": True,
        "body.bias": True,
        "head.weight": False,
        "head.bias": False,
    }
    assert not kept["head.weight"].any()
    simulated = known.simulate(updates(), shared)
    assert torch.equal(simulated["body.bias"], updates()["body.bias"]) and not simulated["head.bias"].any()


# The label, where the head is at home.


def at_home(victims_of: MakeVictims, count: int, adaptive: bool = True, **more: Any) -> Any:
    return victims_of(count, defense=KeptAtHome(["last"]), adaptive=adaptive, **more).observation


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("rule", ["idlg", "bias", "llg", "rlg", "ilrg"])
def test_no_rule_tells_a_label_where_the_head_is_known_to_be_at_home(
    rule: str, batch_size: int, victims_of: MakeVictims
) -> None:
    def sources() -> list[torch.Generator]:
        return [torch.Generator().manual_seed(seed) for seed in range(2)]

    seen = at_home(victims_of, 2, batch_size=batch_size)
    logits, are_optimized = label_logits(rule, seen, sources())
    joint, _ = label_logits("joint", seen, sources())
    assert are_optimized and torch.equal(logits, joint)
    assert (LabelInference(rule).reconstruct(seen).label_counts == 0).all()
    oblivious = at_home(victims_of, 2, adaptive=False, batch_size=batch_size)
    assert not label_logits(rule, oblivious, sources())[1]


def test_a_granted_label_is_taken_where_the_head_is_at_home(victims_of: MakeVictims) -> None:
    _, labels, seen = victims_of(2, defense=KeptAtHome(["last"]), adaptive=True)
    granted = replace(seen, labels=labels)
    assert not InvertingGradients().label_logits(granted, [torch.Generator()] * 2)[1]


def mixed(victims_of: MakeVictims, count: int) -> Any:
    """Victims of whom some have lost their heads to a mask, by a defense that masks no other layer."""
    seen = victims_of(count, defense=LayerMasking(0.5), adaptive=True, dtype=torch.float64).observation
    true = victims_of(count, dtype=torch.float64).observation
    heads = [name for name in seen.update if name.startswith("7.")]
    lost = torch.arange(count) % 2 == 0
    update = {
        name: torch.where((lost & torch.tensor(name in heads)).view(-1, *[1] * (value.dim() - 1)), 0.0, value)
        for name, value in true.update.items()
    }
    return replace(seen, update=update)


def test_a_victim_whose_head_was_masked_changes_nothing_for_one_whose_was_not(victims_of: MakeVictims) -> None:
    seen = mixed(victims_of, 4)
    attack = IDLG(max_evaluations=12, restarts=1)
    together = attack.reconstruct(seen)
    for victim in range(2):
        alone = attack.reconstruct(seen.take([victim]))
        torch.testing.assert_close(alone.images[0], together.images[victim], rtol=1e-6, atol=1e-8)
        assert int(alone.labels[0, 0]) == int(together.labels[victim, 0])
    true = victims_of(4, dtype=torch.float64).labels
    assert torch.equal(together.labels[1::2], true[1::2])


def test_an_attack_that_knows_the_head_is_at_home_finds_images_and_labels(victims_of: MakeVictims) -> None:
    images, labels, _ = victims_of(3, first=4)
    found = IDLG(max_evaluations=100).reconstruct(at_home(victims_of, 3, first=4))
    near = (found.images.clamp(0, 1) - images).square().mean((1, 2, 3, 4)) <= 0.01
    assert int(near.sum()) >= 2
    assert torch.equal(found.labels[near], labels[near])


def test_gauss_newton_tries_every_label_where_none_is_told(victims_of: MakeVictims) -> None:
    labels = victims_of(1, first=4).labels
    found = GaussNewton(iterations=2, max_equations=32).reconstruct(at_home(victims_of, 1, first=4))
    assert torch.equal(found.labels, labels) and found.evaluations.tolist()[0] > 10 * 2 * 32


# Truncated SVD.


@pytest.mark.parametrize("energy", [1e-6, 0.3, 0.5, 0.9, 0.999])
def test_the_smallest_rank_with_the_energy_is_shared(energy: float) -> None:
    update = updates()
    shared = protect(TruncatedSVD(energy), update)
    for name, value in update.items():
        for own, seen in zip(value.numpy(), shared[name].numpy(), strict=True):
            if own.ndim == 1:
                assert (own == seen).all()
                continue
            sizes = np.linalg.svd(own.reshape(len(own), -1).astype(float), compute_uv=False)
            shares = np.cumsum(sizes**2) / np.sum(sizes**2)
            rank = int(np.argmax(shares >= energy)) + 1
            found = np.linalg.svd(seen.reshape(len(own), -1).astype(float), compute_uv=False)
            assert int((found > 1e-5 * found[0]).sum()) == rank
            assert found[:rank] == pytest.approx(sizes[:rank], rel=1e-4)
            off = np.sum((own - seen) ** 2) / np.sum(own**2)
            assert off == pytest.approx(1 - shares[rank - 1], abs=1e-5) and off <= 1 - energy + 1e-5


def test_the_linear_layers_gradient_of_one_image_is_shared_as_it_is(victims_of: MakeVictims) -> None:
    """It is an outer product: truncation protects convolutions alone, and batches."""
    one, batch = victims_of(3).observation.update, victims_of(3, batch_size=4).observation.update
    for update, is_same in ((one, True), (batch, False)):
        shared = protect(TruncatedSVD(0.5), update)
        same = torch.isclose(shared["7.weight"], update["7.weight"], rtol=1e-4, atol=1e-6)
        assert bool(same.all()) == is_same


def test_all_but_the_block_that_was_cut_off_is_matched() -> None:
    """In the basis of the singular vectors: rank 1 of a 2 x 2 matrix leaves the last entry of four unknown."""
    true = {"a": torch.tensor([[[5.0, 0.0], [0.0, 1.0]]])}
    shared = protect(TruncatedSVD(0.5), true)
    assert shared["a"].tolist() == [[[5.0, 0.0], [0.0, 0.0]]]
    dummy = {"a": torch.tensor([[[1.0, 2.0], [3.0, 4.0]]])}
    found = TruncatedSVD(0.5).known_to_attacker().simulate(dummy, shared)
    torch.testing.assert_close(found["a"], torch.tensor([[[1.0, 2.0], [3.0, 0.0]]]))


# Count-Sketch.


def by_a_loop(entries: list[float], rows: int, width: int, seed: int) -> list[float]:
    """The estimate, bucket by bucket."""
    generator = torch.Generator().manual_seed(seed)
    estimates = []
    for _ in range(rows):
        places = torch.randint(width, (len(entries),), generator=generator).tolist()
        signs = [2 * coin - 1 for coin in torch.randint(2, (len(entries),), generator=generator).tolist()]
        buckets = [0.0] * width
        for place, sign, entry in zip(places, signs, entries, strict=True):
            buckets[place] += sign * entry
        estimates.append([sign * buckets[place] for place, sign in zip(places, signs, strict=True)])
    return [sum(each) / rows for each in zip(*estimates, strict=True)]


@pytest.mark.parametrize(("compression", "rows", "seed"), [(10.0, 5, 0), (3.0, 1, 4), (1.5, 2, 9)])
def test_a_sketch_is_that_of_a_loop_over_rows_and_buckets(compression: float, rows: int, seed: int) -> None:
    update = {name: value.double() for name, value in updates().items()}
    shared = protect(CountSketch(compression, rows, seed), update)
    entries = joined(update)[""]
    width = int(entries.shape[1] / compression) // rows
    wanted = torch.tensor([by_a_loop(one, rows, width, seed) for one in entries.tolist()]).double()
    torch.testing.assert_close(joined(shared)[""], wanted)


def test_a_sketch_is_right_on_average() -> None:
    """Over hash functions; of 1,000 the mean of each entry is within five standard deviations."""
    update = {"a": torch.arange(1.0, 31.0)[None].double()}
    found = torch.stack([protect(CountSketch(3.0, 2, seed), update)["a"][0] for seed in range(1000)])
    off = (found.mean(0) - update["a"][0]).abs() / (found.std(0) / math.sqrt(1000))
    assert float(off.max()) < 5


@pytest.mark.parametrize("entries", [1, 3, 17, 1000])
@pytest.mark.parametrize("compression", [1.0001, 2.0, 10.0, 1e6])
@pytest.mark.parametrize("rows", [1, 5, 64])
def test_a_sketch_never_has_more_numbers_than_it_may(entries: int, compression: float, rows: int) -> None:
    """A size in numbers, rather than in parts of the update, has expanded small updates elsewhere."""
    used, width = CountSketch(compression, rows).size(entries)
    assert 1 <= used <= rows and width >= 1 and used * width <= max(1, entries / compression)
    sent = CountSketch(compression, rows).bytes_sent({"a": torch.zeros(2, entries)})
    assert sent.tolist() == [4 * used * width] * 2 and int(sent[0]) <= 4 * entries


def test_hash_functions_are_those_of_their_seed() -> None:
    first, other = hashes(100, 3, 7, 0, CPU), hashes(100, 3, 7, 1, CPU)
    hashes.cache_clear()
    again = hashes(100, 3, 7, 0, CPU)
    assert torch.equal(first[0], again[0]) and not torch.equal(first[0], other[0])
    assert first[0].unique().tolist() == list(range(7)) and first[1].unique().tolist() == [-1, 1]
    assert all(not torch.equal(one, two) for one, two in pairwise(first[0]))


def test_an_estimate_tells_the_whole_sketch() -> None:
    """Its entries have the rank of the sketch, so that to match estimates is to match sketches."""
    eye = {"a": torch.eye(60).double()}
    rows, width = CountSketch(5.0, 2).size(60)
    buckets, signs = hashes(60, rows, width, 0, CPU)
    sketches = torch.cat(
        [torch.nn.functional.one_hot(p.long(), width).T * s for p, s in zip(buckets, signs, strict=True)]
    )
    estimates = protect(CountSketch(5.0, 2), eye)["a"]
    assert torch.linalg.matrix_rank(estimates) == torch.linalg.matrix_rank(sketches.double())


def test_tensors_are_joined_in_the_order_of_their_names() -> None:
    update = {"b": torch.tensor([[[3.0, 4.0]]]), "a": torch.tensor([[1.0, 2.0]]), "c": torch.tensor([5.0])}
    assert joined(update)[""].tolist() == [[1.0, 2.0, 3.0, 4.0, 5.0]]
    back = parted(joined(update), update)
    assert list(back) == list(update) and all(torch.equal(value, update[name]) for name, value in back.items())


# Bytes.


@pytest.mark.parametrize(
    ("defense", "update", "sent"),
    [
        (Clipping(1.0), {"a": torch.ones(2, 10), "b": torch.ones(2, 3, 2)}, [64, 64]),
        (Clipping(1.0), {"a": torch.ones(2, 10).double()}, [80, 80]),
        # Of 100 entries 10 are kept, with 4 bytes for each and 4 for its place; 5 of a tensor of 10 are no gain.
        (Pruning(0.9), {"a": torch.arange(1.0, 101.0).repeat(2, 1)}, [80, 80]),
        (Pruning(0.5), {"a": torch.arange(1.0, 11.0)[None]}, [40]),
        (Pruning(0.4), {"a": torch.arange(1.0, 11.0)[None]}, [40]),
        (GlobalPruning(0.75), {"a": torch.arange(1.0, 5.0)[None], "b": torch.arange(5.0, 9.0)[None]}, [16]),
        # 2 of 3 layers are at home, with 4 + 1 and 6 of 17 numbers.
        (
            KeptAtHome(["a", "c"]),
            {
                "a.weight": torch.ones(1, 4),
                "a.bias": torch.ones(1, 1),
                "b.w": torch.ones(1, 6),
                "c.w": torch.ones(1, 6),
            },
            [24],
        ),
        # Rank 1 of 4 x 6 has 10 numbers; the bias is sent as it is.
        (
            TruncatedSVD(0.5),
            {
                "a.weight": torch.diag(torch.tensor([9.0, 1.0, 1.0, 1.0])) @ torch.eye(4, 6)[None],
                "a.bias": torch.ones(1, 4),
            },
            [56],
        ),
        (CountSketch(10.0), {"a": torch.ones(3, 1000)}, [400] * 3),
        (CountSketch(7.0, 5), {"a": torch.ones(1, 100)}, [40]),  # 14 numbers, which are 5 rows of 2
    ],
)
def test_the_bytes_that_a_client_sends_are_those_worked_by_hand(
    defense: Defense, update: Update, sent: Sequence[int]
) -> None:
    found = defense.bytes_sent(protect(defense, update))
    assert found.dtype == torch.long and found.tolist() == list(sent)


def test_bytes_of_masks_are_those_of_what_was_left() -> None:
    update = {"a.weight": torch.ones(50, 40), "b.weight": torch.ones(50, 20)}
    shared = protect(Masking(0.9), update)
    assert Masking(0.9).bytes_sent(shared).tolist() == [8 * n for n in (whole(shared) != 0).sum(1).tolist()]
    layers = protect(LayerMasking(0.5), update)
    sent = LayerMasking(0.5).bytes_sent(layers).tolist()
    assert sent == [4 * n for n in (whole(layers) != 0).sum(1).tolist()] and set(sent) == {0, 80, 160, 240}


# Closed forms.


def test_entries_have_no_factors_where_a_defense_does_not_multiply_them(victims_of: MakeVictims) -> None:
    """A gradient of ones would be projected, or clipped elsewhere than the true one."""
    for defense in (TensorClipping(0.1), QuantileClipping(0.3), ValueClipping(0.01), TruncatedSVD(0.8), CountSketch()):
        seen = victims_of(3, defense=defense, adaptive=True).observation
        assert torch.equal(whole(true_gradient(seen)[0]), whole(seen.update))
    masked = victims_of(3, defense=LayerMasking(0.5, rescale=True), adaptive=True).observation
    gradient, known = true_gradient(masked)
    true = victims_of(3).observation.update
    torch.testing.assert_close(whole(gradient), whole(true) * whole(known))
    clipped = victims_of(3, defense=Clipping(0.1), adaptive=True).observation
    ratio = whole(true_gradient(clipped)[0]) / whole(true)
    torch.testing.assert_close(ratio.nanquantile(0.01, 1), ratio.nanquantile(0.99, 1), rtol=1e-3, atol=0)
