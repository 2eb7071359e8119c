"""The ensemble against its own parts, one by one."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from attacks import AutoLeak, InvertingGradients, Observation, Peeling, Reconstruction
from attacks.autoleak import MERGED, SIMULATED_ONLY, STRONG, UNDONE, carried_out
from attacks.choice import NOT_TRIED
from attacks.engine import problem
from attacks.engine.inverter import Inverter
from attacks.engine.step import COMPILED, EAGER, Step
from attacks.gradient_matching import GradientMatching
from attacks.threat import ThreatModel
from attacks.update import FedAvg, Protocol
from benchmark.federation.client import PublicData, observe
from benchmark.federation.setting import Setting
from benchmark.models import MLP, ConvNet, LeNet
from datamodules import Digits
from defenses import GaussianNoise, LayerMasking, Masking, MixUp, Pruning
from defenses.base import Defense

MakeVictims = Callable[..., Any]


@pytest.mark.parametrize(
    ("model", "arguments", "batch_size", "defense"),
    [
        (LeNet, {}, 1, Masking(0.5)),
        (ConvNet, {}, 2, None),
        (ConvNet, {}, 2, Pruning(0.5)),
        (MLP, {"activation": "relu", "hidden": 40}, 2, GaussianNoise(1e-4)),
    ],
)
def test_it_holds_what_each_of_its_parts_finds_alone(
    model: type, arguments: dict[str, Any], batch_size: int, defense: Defense | None, victims_of: MakeVictims
) -> None:
    def made(shape: tuple[int, int, int], classes: int) -> Any:
        return model(shape, classes, **arguments)

    seen = victims_of(2, model=made, batch_size=batch_size, defense=defense, adaptive=True).observation
    attack = AutoLeak(6)
    found = attack.reconstruct(seen)
    alone = {
        name: part
        for name, part in attack.parts_for(
            seen.model, seen.image_shape, seen.protocol, seen.threat, seen.shared
        ).items()
        if isinstance(defense, (Pruning, Masking)) or name not in SIMULATED_ONLY
    }
    assert list(found.candidates) == list(alone) and len(alone) > 2
    for name, part in alone.items():
        by_itself = part.reconstruct(seen)
        for one, other in (
            (found.candidates[name], by_itself),
            (found.candidates[name].take([1]), by_itself.take([1])),
        ):
            torch.testing.assert_close(one.images, other.images)
            assert torch.equal(one.labels, other.labels) and one.status == other.status
    spent = sum(one.evaluations for one in found.candidates.values())
    assert torch.equal(found.evaluations, spent)


@pytest.mark.parametrize(("batch_size", "priors"), [(1, [0.01]), (4, [0.01, STRONG])])
def test_a_batch_is_matched_with_a_stronger_prior_as_well(batch_size: int, priors: list[float]) -> None:
    shape, setting = (batch_size, 1, 8, 8), Setting()
    parts = AutoLeak().parts_for(ConvNet(shape[1:], 10), shape, Protocol(), setting.threat, shared=False)
    variants = [part for part in parts.values() if type(part) is InvertingGradients]
    assert [part.total_variation for part in variants if not part.nearness] == priors


ONE_IMAGE = ["RGAP", "IDLG from R-GAP", "IDLG from the mean", "IDLG from a plain match", "GaussNewton"]
SURROGATES = ["SurrogateModel without a prior", "SurrogateModel"]


@pytest.mark.parametrize(
    ("batch_size", "protocol", "left_out"),
    [
        (
            1,
            Protocol(),
            {
                "InvertingGradients with a strong prior",
                "InvertingGradients near what was shared",
                "GradInversion",
                "FedAvgInversion",
                *SURROGATES,
            },
        ),
        (3, Protocol(), {"AnalyticLinear", *ONE_IMAGE, "GradInversion", "FedAvgInversion", *SURROGATES}),
        (3, Protocol(local=FedAvg(0.1)), {"AnalyticLinear", "Peeling", *ONE_IMAGE, "GradInversion"}),
    ],
)
def test_each_attack_of_the_ensemble_is_tried_but_those_that_cannot_be_or_are_another_there(
    batch_size: int, protocol: Protocol, left_out: set[str]
) -> None:
    shape = (batch_size, 1, 8, 8)
    network = MLP(shape[1:], 10, activation="relu")
    found = AutoLeak().parts_for(network, shape, protocol, ThreatModel(), shared=False)
    assert {*AutoLeak().parts()} - {*found} == left_out


@pytest.mark.parametrize("batch_size", [1, 2])
@pytest.mark.parametrize(
    ("defense", "adaptive", "is_simulated"),
    [(Pruning(0.5), True, True), (Pruning(0.5), False, False), (GaussianNoise(1e-3), True, False)],
)
def test_where_a_known_defense_is_simulated_what_was_shared_is_also_taken_as_it_is(
    batch_size: int, defense: Defense, adaptive: bool, is_simulated: bool, victims_of: MakeVictims
) -> None:
    """One image by matching that first; a batch by staying near it."""
    seen = victims_of(1, batch_size, defense=defense, adaptive=adaptive).observation
    found = AutoLeak(2).reconstruct(seen).candidates
    assert ("IDLG from a plain match" in found) == (is_simulated and batch_size == 1)
    assert ("InvertingGradients near what was shared" in found) == (is_simulated and batch_size == 2)
    assert "InvertingGradients" in found


def test_each_part_that_matches_gradients_takes_its_steps_as_it_is_told(
    victims_of: MakeVictims, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []

    class Noted(Step):
        def __init__(self, how: str, *others: Any) -> None:
            told.append(how)
            super().__init__(EAGER, *others)

    monkeypatch.setattr(problem, "Step", Noted)
    seen = victims_of(2, defense=GaussianNoise(1e-4), adaptive=True).observation
    eager, compiled = (AutoLeak(3).reconstruct(seen, step=step) for step in (EAGER, COMPILED))
    matching = [name for name, part in AutoLeak(3).parts().items() if isinstance(part, GradientMatching)]
    assert told == [COMPILED] * len(told) and len(told) >= len(set(matching) & set(compiled.candidates)) > 3
    torch.testing.assert_close(compiled.images, eager.images)
    assert compiled.starts == eager.starts


def test_it_returns_what_fits_the_update_best_and_of_equal_ones_the_cheapest(victims_of: MakeVictims) -> None:
    images, labels, seen = victims_of(2)
    found = AutoLeak(8).reconstruct(seen)
    assert found.starts == ["RGAP"] * 2  # exact, as some that come later are
    torch.testing.assert_close(found.images, images, atol=1e-2, rtol=0)
    assert torch.equal(found.labels, labels)
    masked = victims_of(2, defense=Masking(0.9), adaptive=True).observation
    best = AutoLeak(8).reconstruct(masked)
    losses = {n: AutoLeak().loss_at(masked, one.images.clamp(0, 1), one.labels) for n, one in best.candidates.items()}
    together = torch.stack([losses[name].nan_to_num(torch.inf) for name in losses])
    chosen = torch.stack([losses[name][row] for row, name in enumerate(best.starts)])
    assert (chosen <= 1.002 * together.amin(0)).all() and (together.amax(0) > 2 * chosen).all()


@pytest.mark.parametrize("batch_size", [1, 3])
def test_undefended_local_steps_leak_to_who_is_granted_nothing(batch_size: int, digits: Any) -> None:
    images, labels = digits.victims(2, batch_size)
    network, setting = LeNet(digits.image_shape, 10), Setting(local=FedAvg(0.01), threat_model="A")
    seen = observe(network, images, labels, PublicData.of(digits, 1), None, False, 0, range(2), setting)
    found = AutoLeak(300).reconstruct(seen)
    off = [torch.cdist(one.images.flatten(2), images.flatten(2)).amin(2) for one in found.candidates.values()]
    assert torch.stack(off).amin(0).square().max() / 64 < 0.01  # 20 dB


def test_where_batches_are_mixed_it_also_tries_and_returns_what_they_were_mixed_of(victims_of: MakeVictims) -> None:
    def wide(shape: tuple[int, int, int], classes: int) -> Any:
        return MLP(shape, classes, hidden=200, activation="relu")

    images, _, seen = victims_of(3, 3, model=wide, defense=MixUp(5.0), adaptive=True)
    found = AutoLeak(3).reconstruct(seen)
    assert found.starts == ["Peeling"] * 3 and found.mixed is not None
    distance = torch.cdist(found.images.flatten(2), images.to(found.images).flatten(2)).amin(2)
    assert distance.max() < 0.01, "the private images, in any order"
    torch.testing.assert_close(found.mixed.images, found.candidates["Peeling"].images)
    torch.testing.assert_close(found.images, found.candidates[f"Peeling{UNDONE}"].images)
    soft = {name for name, one in found.candidates.items() if one.label_probabilities is not None}
    assert {name for name in found.candidates if name.endswith(UNDONE)} == {f"{name}{UNDONE}" for name in soft}
    assert found.take([1]).mixed is not None and AutoLeak(1).reconstruct(replace(seen, defense=None)).mixed is None
    tried: list[Observation] = []

    def spares(some: Observation, found: Reconstruction) -> list[bool]:
        tried.append(some)
        return [len(tried) == 2] * some.num_victims  # by what was undone of the first one

    assert list(carried_out(AutoLeak(3).attempts(seen), spares).candidates) == ["Peeling", f"Peeling{UNDONE}"]


def test_a_victim_who_is_spared_is_tried_no_more(victims_of: MakeVictims) -> None:
    seen = victims_of(3, defense=Masking(0.5), adaptive=True).observation
    first = seen.seeds[1]
    tried: list[list[int]] = []

    def spares(some: Observation, found: Reconstruction) -> list[bool]:
        tried.append(list(some.seeds))
        assert len(found.status) == len(some.seeds)
        return [seed == first for seed in some.seeds]

    found = carried_out(AutoLeak(2).attempts(seen), spares)
    assert tried[0] == list(seen.seeds) and all(first not in seeds for seeds in tried[1:]) and len(tried) > 3
    (only, *others) = found.candidates.values()
    assert NOT_TRIED not in only.status
    assert all([status == NOT_TRIED for status in one.status] == [False, True, False] for one in others)
    whole = AutoLeak(2).reconstruct(seen)
    for name, one in found.candidates.items():
        torch.testing.assert_close(one.images[[0, 2]], whole.candidates[name].images[[0, 2]])  # whoever else is there


def test_its_progress_runs_from_nothing_to_all_without_going_back(victims_of: MakeVictims) -> None:
    attack, shares = AutoLeak(4), []
    attack.told = shares.append
    attack.reconstruct(victims_of(2).observation)
    assert shares == sorted(shares) and shares[0] < 0.7 and 0.9 < shares[-1] <= 1


def test_the_second_tier_comes_last_and_is_what_its_attack_finds_alone(
    victims_of: MakeVictims, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = victims_of(2, shared=True, public_images=20, defense=Masking(0.9), adaptive=True).observation
    attack = AutoLeak(1, training_steps=1)
    full = attack.second_tier()
    assert full is not None and full.training_steps == 1 and AutoLeak().second_tier() is None
    second = replace(full, pairs=4, hidden=8)
    monkeypatch.setattr(AutoLeak, "second_tier", lambda self: second)
    found = attack.reconstruct(seen)
    *first, last = found.candidates
    assert last == "LearnedInversion" and "Bayes" in first
    torch.testing.assert_close(found.candidates["LearnedInversion"].images, second.reconstruct(seen).images)


def test_nothing_is_trained_for_networks_of_their_own_or_for_victims_who_are_spared(
    victims_of: MakeVictims, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Inverter, "learn", lambda *_: pytest.fail("trained"))
    attack = AutoLeak(2, training_steps=1)
    own = victims_of(2, public_images=20, defense=Masking(0.9)).observation
    assert "LearnedInversion" not in attack.reconstruct(own).candidates
    shared = victims_of(2, shared=True, public_images=20).observation
    found = carried_out(attack.attempts(shared), lambda seen, found: [True] * seen.num_victims)
    assert len(found.candidates) == 1


@pytest.mark.parametrize(
    ("arguments", "least"), [({"max_evaluations": 0}, 1), ({"at_once": 0}, 1), ({"training_steps": -1}, 0)]
)
def test_what_cannot_be_is_said(arguments: dict[str, int], least: int) -> None:
    with pytest.raises(ValueError, match=f"must be at least {least}"):
        AutoLeak(**arguments)


def wide(shape: tuple[int, int, int], classes: int) -> MLP:
    return MLP(shape, classes, activation="relu", hidden=100)


def test_closed_forms_take_each_round_by_itself(digits: Digits) -> None:
    """Of layers that are masked anew in each round, the first one is in some of them alone."""
    images, labels = digits.victims(6, 1)
    setting = Setting(rounds=3)
    public = PublicData.of(digits, 3)
    network = wide(digits.image_shape, digits.num_classes)
    seen = observe(network, images, labels, public, LayerMasking(0.5), True, 0, range(6), setting)

    def is_found(one: Reconstruction) -> torch.Tensor:
        return (one.images.clamp(0, 1) - images).square().mean((1, 2, 3, 4)) < 1e-4

    found = AutoLeak(1).reconstruct(seen)
    every = [is_found(Peeling().reconstruct(replace(one, later=()))) for one in (seen, *seen.later)]
    assert not every[0].all() and torch.stack(every).any(0).sum() > every[0].sum(), "or the test shows nothing"
    for number, wanted in enumerate(every, 1):
        name = "Peeling" if number == 1 else f"Peeling, round {number}"
        assert torch.equal(is_found(found.candidates[name]), wanted)
    assert not any("round" in name for name in AutoLeak(1).reconstruct(replace(seen, later=())).candidates)


@pytest.mark.parametrize(
    ("norm", "same"), [(None, True), (nn.Dropout(0.5), False), (nn.BatchNorm1d(100, affine=False), False)]
)
def test_train_mode_is_no_obstacle_to_closed_forms_where_it_changes_nothing(
    norm: nn.Module | None, same: bool, digits: Digits
) -> None:
    images, labels = digits.victims(2, 2)
    network = wide(digits.image_shape, digits.num_classes)
    if norm is not None:
        network.insert(2, norm)
    seen = {
        mode: observe(network, images, labels, PublicData.of(digits), None, False, 0, range(2), Setting(mode=mode))
        for mode in ("eval", "train")
    }
    found = {mode: AutoLeak(1).reconstruct(one).candidates for mode, one in seen.items()}
    assert "Peeling" in found["eval"] and ("Peeling" in found["train"]) == same
    if same:
        torch.testing.assert_close(found["train"]["Peeling"].images, found["eval"]["Peeling"].images)


def test_the_mean_of_images_of_one_label_stands_for_what_noise_cannot_tell_apart(digits: Digits) -> None:
    images, labels = digits.victims(2, 3, same_class=2)
    labels[1] = torch.tensor([1, 2, 3])
    observed = observe(
        LeNet(digits.image_shape, digits.num_classes),
        *(images, labels, PublicData.of(digits), GaussianNoise(0.01), True, 0, range(2), Setting(labels="known")),
    )
    every = AutoLeak(4).reconstruct(observed).candidates
    assert {name for name in every if name.endswith(MERGED)} == {f"Bayes{MERGED}", f"Wiener{MERGED}"}
    for name in ("Bayes", "Wiener"):
        alone, merged = every[name], every[f"{name}{MERGED}"]
        assert torch.equal(alone.labels, merged.labels) and merged.evaluations.sum() == 0
        for victim in range(2):
            for place, label in enumerate(alone.labels[victim].tolist()):
                those = alone.images[victim][alone.labels[victim] == label].clamp(0, 1)
                torch.testing.assert_close(merged.images[victim, place], those.mean(0))
