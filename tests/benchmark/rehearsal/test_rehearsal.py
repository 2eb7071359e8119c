"""What cannot be trusted is told before any work: networks, defenses, attacks and data of the user's own."""

import re
from pathlib import Path

import pytest
import torch

from benchmark.boards.outcome import outcomes
from benchmark.boards.ranking import UNEXPLAINED, UNTESTED, ranked
from benchmark.cli.main import main
from benchmark.jobs.blocks import Workbench, plan
from benchmark.jobs.records import run_block
from benchmark.suite.suite import parse

pytestmark = pytest.mark.usefixtures("nothing_of_the_developers")

OWN = '''
from dataclasses import replace

import numpy
import torch
from torch import nn

from attacks import IDLG, Attack, Reconstruction
from benchmark.models import LeNet
from defenses import Defense, KnownDefense


class Base(nn.Module):
    def __init__(self, image_shape, num_classes):
        super().__init__()
        self.body = nn.Linear(image_shape[0] * image_shape[1] * image_shape[2], 16)
        self.head = nn.Linear(16, num_classes)

    def forward(self, images):
        return self.head(self.body(images.flatten(1)).sigmoid())


class Plain(Base):
    """Without a draw."""


class Dropped(Base):
    def forward(self, images):
        return self.head(nn.functional.dropout(self.body(images.flatten(1)).sigmoid(), 0.5, self.training))


class Noisy(Base):
    def forward(self, images):
        return super().forward(images) + torch.randn(())


class Detached(Base):
    def forward(self, images):
        return self.head(self.body(images.detach().flatten(1)).sigmoid())


class Counting(Base):
    calls = 0

    def forward(self, images):
        Counting.calls += 1
        return super().forward(images) * (1 + Counting.calls % 2)


class Complex(Base):
    def __init__(self, image_shape, num_classes):
        super().__init__(image_shape, num_classes)
        self.phase = nn.Parameter(torch.randn(16, dtype=torch.cfloat))

    def forward(self, images):
        return self.head((self.body(images.flatten(1)) * self.phase).abs().sigmoid())


class Raises(Base):
    def forward(self, images):
        raise RuntimeError("no such thing")


class TooWide(Base):
    def forward(self, images):
        return torch.cat([super().forward(images)] * 2, 1)


class NotANumber(Base):
    def forward(self, images):
        return super().forward(images) / 0


class FrozenWhole(Base):
    def __init__(self, image_shape, num_classes):
        super().__init__(image_shape, num_classes)
        self.requires_grad_(False)


class ForgetsOne(Base):
    def draw(self, generator):
        return {"head.weight": torch.zeros(10, 16), "head.bias": torch.zeros(10)}


class DrawsBuffers(Base):
    def draw(self, generator):
        return dict(self.state_dict()) | {"running_mean": torch.zeros(3)}


class DrawsOtherwise(Base):
    def draw(self, generator):
        return {name: torch.rand_like(p) for name, p in self.named_parameters()}


class HooksGradients(Base):
    def __init__(self, image_shape, num_classes):
        super().__init__(image_shape, num_classes)
        self.body.weight.register_hook(lambda slope: slope * 0)


def factory(image_shape, num_classes, width: int = 8):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, num_classes))


def no_network(image_shape, num_classes):
    return 3


class Kept(Defense):
    def protect(self, update, generators):
        return dict(update)

    def known_to_attacker(self):
        return KnownDefense()


class LateNan(Kept):
    """Finite for the clients of the rehearsal, and not for one of those that are attacked."""

    def protect(self, update, generators):
        return {n: v if len(generators) < 4 else v / 0 for n, v in update.items()}


class KnowsNothing(Kept):
    def known_to_attacker(self):
        return None


class KnowsOneName(Kept):
    def known_to_attacker(self):
        return KnownDefense(simulate=lambda dummy, observed: {n: dummy[n] for n in list(dummy)[:1]})


class KnowsNan(Kept):
    def known_to_attacker(self):
        return KnownDefense(simulate=lambda dummy, observed: {n: v / 0 for n, v in dummy.items()})


class WeighsWrongly(Kept):
    def known_to_attacker(self):
        return KnownDefense(weight=lambda observed: torch.ones(3))


class NegativeNoise(Kept):
    def known_to_attacker(self):
        return KnownDefense(noise_std=-1)


def found(seen, **changes):
    count, batch = seen.num_victims, seen.image_shape[0]
    parts = dict(images=torch.zeros(count, *seen.image_shape), labels=torch.zeros(count, batch, dtype=torch.long))
    parts |= dict(loss=torch.zeros(count), evaluations=torch.zeros(count, dtype=torch.long), status=["found"] * count)
    return Reconstruction(**parts | changes)


class OneTooMany(Attack):
    def reconstruct(self, observation, callbacks=()):
        return found(observation, images=torch.zeros(observation.num_victims + 1, *observation.image_shape))


class Nothing(Attack):
    def reconstruct(self, observation, callbacks=()):
        return None


class FarLabels(Attack):
    def reconstruct(self, observation, callbacks=()):
        return found(observation, labels=torch.full((observation.num_victims, 1), 10))


class NegativeSequence(Attack):
    sequence = -1

    def reconstruct(self, observation, callbacks=()):
        return found(observation)


class WritesInPlace(Attack):
    def reconstruct(self, observation, callbacks=()):
        for value in observation.update.values():
            value.mul_(2)
        return found(observation)


class OtherNetwork(IDLG):
    """Matches the gradient of another network than the client's, as a fast path of its own might."""

    def problem(self, observation, start_images=None):
        other = {name: value + 0.1 for name, value in observation.parameters.items()}
        return super().problem(replace(observation, parameters=other), start_images)


class Toggles(Base):
    """Freezes its body once it is called."""

    def forward(self, images):
        self.body.requires_grad_(False)
        return super().forward(images)


class Answers(Base):
    def forward(self, images):
        return {"logits": super().forward(images)}


class FirstSize(Kept):
    """Shares updates in units of the first one that it ever saw."""

    size = None

    def protect(self, update, generators):
        if FirstSize.size is None:
            FirstSize.size = max(float(value.abs().max()) for value in update.values())
        return {name: value / FirstSize.size for name, value in update.items()}


LARGEST = {}


class EveryOther(Kept):
    """Shares nothing of every second client that it is called for."""

    count = 0

    def protect(self, update, generators):
        shared = {name: value.clone() for name, value in update.items()}
        for client in range(len(generators)):
            EveryOther.count += 1
            for value in shared.values():
                value[client] *= EveryOther.count % 2
        return shared


class Scripted(nn.Module):
    def __new__(cls, image_shape, num_classes):
        size = image_shape[0] * image_shape[1] * image_shape[2]
        return torch.jit.script(nn.Sequential(nn.Flatten(), nn.Linear(size, num_classes)))


class LargestSize(Kept):
    """So, with the largest, in its module."""

    def protect(self, update, generators):
        LARGEST.setdefault("size", max(float(value.abs().max()) for value in update.values()))
        return {name: value / LARGEST["size"] for name, value in update.items()}


class InItself(Kept):
    def protect(self, update, generators):
        self.__dict__.setdefault("size", max(float(value.abs().max()) for value in update.values()))
        return {name: value.clamp(-self.size, self.size) for name, value in update.items()}


class Halves(Kept):
    def known_to_attacker(self):
        return KnownDefense(simulate=lambda dummy, observed: {n: v * 0.5 for n, v in dummy.items()})


class Negates(Kept):
    """Of one tensor alone."""

    def protect(self, update, generators):
        return {name: -value if name == "3.bias" else value for name, value in update.items()}

    def known_to_attacker(self):
        return KnownDefense(simulate=lambda dummy, observed: {n: v * 1.0 for n, v in dummy.items()})


class LoudWithout(Kept):
    def known_to_attacker(self):
        return KnownDefense(noise_std=0.1)


class LoudAbove(Kept):
    """Whose model is wrong at some strengths alone."""

    def __init__(self, step: float) -> None:
        self.step = step

    def known_to_attacker(self):
        return KnownDefense(noise_std=0.1 if self.step > 0.5 else 0)


class LouderThanItIs(Kept):
    def protect(self, update, generators):
        return {
            name: value + 1e-3 * torch.stack([torch.randn(value.shape[1:], generator=g) for g in generators])
            for name, value in update.items()
        }

    def known_to_attacker(self):
        return KnownDefense(noise_std=0.01)


class Rounds(Kept):
    """To bfloat16, straight through for the attacker."""

    def protect(self, update, generators):
        return {name: value.bfloat16().to(value) for name, value in update.items()}

    def known_to_attacker(self):
        def simulate(dummy, observed):
            return {n: v + (v.bfloat16().to(v) - v).detach() for n, v in dummy.items()}

        return KnownDefense(simulate=simulate)


class Largest(Kept):
    """A tenth of the entries, of which the attacker knows which."""

    def protect(self, update, generators):
        shared = {}
        for name, value in update.items():
            flat = value.flatten(1)
            at = flat.abs().topk(max(1, flat.shape[1] // 10), 1).indices
            shared[name] = torch.zeros_like(flat).scatter(1, at, flat.gather(1, at)).view_as(value)
        return shared

    def known_to_attacker(self):
        return KnownDefense(simulate=lambda dummy, observed: {n: v * (observed[n] != 0) for n, v in dummy.items()})


class Caches(Kept):
    """What it keeps changes nothing."""

    half = None

    def protect(self, update, generators):
        Caches.half = Caches.half or 0.5
        return {name: value * Caches.half for name, value in update.items()}

    def known_to_attacker(self):
        return KnownDefense(simulate=lambda dummy, observed: {n: v * 0.5 for n, v in dummy.items()})


def scaled(update, factors):
    return {n: torch.stack([f * row for f, row in zip(factors, v, strict=True)]) for n, v in update.items()}


class Drops(Kept):
    """Three tenths of the entries, at random: of which the attacker knows which."""

    def protect(self, update, generators):
        keeps = [{n: torch.rand(v.shape[1:], generator=g) > 0.3 for n, v in update.items()} for g in generators]
        return {n: v * torch.stack([one[n] for one in keeps]) for n, v in update.items()}

    def known_to_attacker(self):
        return KnownDefense(simulate=lambda dummy, observed: {n: v * (observed[n] != 0) for n, v in dummy.items()})


class DropsOthers(Drops):
    def known_to_attacker(self):
        return KnownDefense(simulate=lambda dummy, observed: {n: v * (observed[n] == 0) for n, v in dummy.items()})


class SecretScale(Kept):
    """From 5 to 10, which the attacker takes from the size of what he sees."""

    def protect(self, update, generators):
        return scaled(update, [5 + 5 * torch.rand((), generator=g) for g in generators])

    def known_to_attacker(self):
        def size(update):
            return torch.stack([value.flatten(1).square().sum(1) for value in update.values()]).sum(0).sqrt()

        return KnownDefense(simulate=lambda dummy, observed: scaled(dummy, size(observed) / size(dummy)))


class OneScale(SecretScale):
    def known_to_attacker(self):
        return KnownDefense(simulate=lambda dummy, observed: {n: 1.5 * v for n, v in dummy.items()})


class Turns(Kept):
    """Each tensor by one place."""

    def protect(self, update, generators):
        return {n: v.flatten(1).roll(1, 1).view_as(v) for n, v in update.items()}

    def known_to_attacker(self):
        return KnownDefense(simulate=lambda dummy, observed: self.protect(dummy, []))


class TurnsBack(Turns):
    """And the attacker turns each tensor round; with a last digit at random."""

    def protect(self, update, generators):
        return scaled(super().protect(update, generators), [1 + 1e-5 * torch.rand((), generator=g) for g in generators])

    def known_to_attacker(self):
        return KnownDefense(
            simulate=lambda dummy, observed: {n: v.flatten(1).flip(1).view_as(v) for n, v in dummy.items()}
        )


class CopiesWhatItSees(Turns):
    def known_to_attacker(self):
        return KnownDefense(simulate=lambda dummy, observed: {n: observed[n] + 1e-3 * v for n, v in dummy.items()})


class KeepsNothing(Turns):
    """An attacker who says that every entry was removed."""

    def known_to_attacker(self):
        return KnownDefense(
            simulate=lambda dummy, observed: {n: -v for n, v in dummy.items()},
            kept=lambda observed: {n: torch.zeros_like(v) for n, v in observed.items()},
        )


class TurnsUnknown(Turns):
    """The attacker is not told."""

    def known_to_attacker(self):
        return KnownDefense()


class NoFunction(Kept):
    def known_to_attacker(self):
        return KnownDefense(simulate=None)


class OddlyWrong(Kept):
    def protect(self, update, generators):
        raise GeneratorExit


class Unspeakable(Exception):
    def __str__(self):
        raise ValueError


class CannotSay(Kept):
    def protect(self, update, generators):
        raise Unspeakable


class StepsItself(IDLG):
    """As attacks could when they were LightningModules."""

    def training_step(self, batch, batch_idx):
        return super().training_step(batch, batch_idx)


class TakesNoCallbacks(Attack):
    def reconstruct(self, observation):
        return found(observation)


class OnNoDevice(Attack):
    def reconstruct(self, observation, callbacks=()):
        return found(observation, images=torch.zeros(observation.num_victims, *observation.image_shape, device="meta"))


class WrongAtLast(Attack):
    """As it should be, but for what it returns at the full budget."""

    def __init__(self, wrong: str, max_evaluations: int = 100):
        self.wrong, self.max_evaluations = wrong, max_evaluations

    def reconstruct(self, observation, callbacks=()):
        whole = found(observation)
        if self.max_evaluations < 100:
            return whole
        return {
            "nothing": None,
            "shape": replace(whole, images=whole.images[..., :4]),
            "meta": replace(whole, images=whole.images.to("meta")),
            "labels": replace(whole, labels=whole.labels + 10),
            "status": replace(whole, status=["found"]),
            "loss": replace(whole, loss=None),
        }[self.wrong]


class Leaves(Attack):
    def reconstruct(self, observation, callbacks=()):
        raise SystemExit(0)
'''


def run(capsys: pytest.CaptureFixture[str], **parts: str) -> tuple[int | str | None, str]:
    Path("own_rehearsed.py").write_text(OWN)
    given = {"data": "Digits", "model": "MLP", "attack": "IDLG"} | parts
    words = [f"--{kind}={name}" for kind, name in given.items()]
    if given["attack"] == "IDLG":
        words.append("--attack.max_evaluations=5")
    with pytest.raises(SystemExit) as stop:
        main(["run", *words, "--victims", "2"])
    return stop.value.code, capsys.readouterr().err


def test_a_scripted_network_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    """Torch says neither its class nor where it is written."""
    code, said = run(capsys, model="own_rehearsed.Scripted")
    assert code == 2 and "the model own_rehearsed.Scripted is a scripted module (torch.jit)" in said


@pytest.mark.parametrize(
    ("kind", "name", "said"),
    [
        ("model", "Noisy", "gives other logits each time"),
        ("model", "Detached", "no slope in the images"),
        ("model", "Counting", "gives other logits each time"),
        ("model", "Complex", "has complex parameters (phase), which no attack can take"),
        ("model", "Raises", "no such thing"),
        ("model", "TooWide", "not a logit for each"),
        ("model", "NotANumber", "NaN or infinite"),
        ("model", "FrozenWhole", "trains no parameter"),
        ("model", "ForgetsOne", "gives no weights for body.weight, body.bias"),
        ("model", "DrawsBuffers", "gives weights for what is no parameter: running_mean"),
        ("model", "DrawsOtherwise", "draws other weights from the same generator"),
        ("model", "HooksGradients", "differs from a plain loop of autograd"),
        ("model", "no_network", "makes an int, not a torch.nn.Module"),
        ("defense", "KnowsNothing", "must return a KnownDefense, not None ("),
        ("defense", "KnowsOneName", "must return every name of the update"),
        ("defense", "KnowsNan", "gives NaN or infinity"),
        ("defense", "WeighsWrongly", "weight of the attacker's model"),
        ("defense", "NegativeNoise", "noise_std of the attacker's model"),
        ("model", "Toggles", "changes requires_grad when it is called (body.bias): freeze parameters in __init__ ("),
        ("model", "Answers", "gives a dict, not a logit for each of 10 classes ("),
        ("defense", "FirstSize", "protect shares something else once it has seen other updates"),
        ("defense", "EveryOther", "protect shares for a client what depends on the other clients"),
        ("defense", "LargestSize", "protect shares something else once it has seen other updates"),
        ("defense", "InItself", "protect shares something else once it has seen other updates"),
        ("defense", "Halves", "makes another update of the true one than protect shares"),
        ("defense", "Negates", "makes another update of the true one than protect shares (3.bias)"),
        ("defense", "LoudWithout", "noise_std of the attacker's model of own_rehearsed.LoudWithout is 0.1, but what "),
        ("defense", "LouderThanItIs", "is 0.01, but what protect shares is 0.001 from simulate"),
        ("defense", "DropsOthers", "as far from what protect shares with the true update as with another client's"),
        ("defense", "OneScale", "as far from what protect shares with the true update as with another client's"),
        ("defense", "TurnsBack", "as far from what protect shares with the true update as with another client's"),
        ("defense", "CopiesWhatItSees", "as far from what protect shares with the true update as with another"),
        ("defense", "KeepsNothing", "as far from what protect shares with the true update as with another client's"),
        (
            "defense",
            "NoFunction",
            "the attacker's model of own_rehearsed.NoFunction must be a function, not None (",
        ),
        ("defense", "OddlyWrong", "protect fails (GeneratorExit, "),
        ("defense", "CannotSay", "protect fails (Unspeakable, "),
        ("attack", "OneTooMany", "must have the shape [2, 1, 1, 8, 8], not [3, 1, 1, 8, 8]"),
        ("attack", "Nothing", "must return a Reconstruction, not None ("),
        ("attack", "FarLabels", "whole numbers from 0 to 9"),
        ("attack", "NegativeSequence", "sequence"),
        ("attack", "WritesInPlace", "changes the update that it was given"),
        ("attack", "OtherNetwork", "where it must be zero"),
        ("attack", "Leaves", "calls sys.exit(0)"),
        ("attack", "StepsItself", "overrides training_step, which nobody calls there"),
        ("attack", "TakesNoCallbacks", "has failed on the model MLP"),
        ("attack", "OnNoDevice", "holds no numbers: it is on the meta device"),
    ],
)
def test_what_cannot_be_trusted_is_one_sentence_before_any_work(
    kind: str, name: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, error = run(capsys, **{kind: f"own_rehearsed.{name}"})
    assert code == 2 and said in error, error
    if name not in ("FrozenWhole", "ForgetsOne", "DrawsBuffers", "no_network"):
        assert re.search(r"own_rehearsed\.py, line \d+\)", error), error  # where it is to be mended
    assert name in error or (kind == "model" and "own_rehearsed" in error)
    assert "Traceback" not in error and not list(Path().glob("runs/*/records/*"))


def test_a_defense_that_keeps_its_contract_at_some_strengths_alone_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    strengths = {"defense": "own_rehearsed.LoudAbove", "defense.sweep": "{step: [0.1, 0.5, 1.0]}"}
    code, error = run(capsys, **strengths)
    assert code == 2 and "own_rehearsed.LoudAbove(step=1.0) is 0.1, but what protect shares" in error, error
    assert not list(Path().glob("runs/*/records/*"))


@pytest.mark.parametrize("name", ["Rounds", "Largest", "Caches", "Drops", "SecretScale", "Turns", "TurnsUnknown"])
def test_a_defense_whose_attacker_models_it_rightly_passes(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, error = run(capsys, defense=f"own_rehearsed.{name}")
    assert code == 0, error


@pytest.mark.parametrize("name", ["Plain", "Dropped", "factory"])
def test_a_network_needs_no_draw_and_may_come_from_a_function(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, error = run(capsys, model=f"own_rehearsed.{name}")
    assert code == 0, error


def test_a_network_without_draw_has_its_own_initialization_from_the_seed_alone() -> None:
    Path("own_rehearsed.py").write_text(OWN)
    bench = Workbench(torch.device("cpu"))
    given = {
        "scenarios": [{"data": "Digits", "model": "own_rehearsed.Plain"}],
        "attacks": ["ConstantImage"],
        "victims": 2,
    }
    model = bench.model(parse(given, "own").cells[0].scenario)
    torch.manual_seed(3)
    first = model.draw(torch.Generator().manual_seed(1))
    torch.manual_seed(4)
    again, other = (model.draw(torch.Generator().manual_seed(seed)) for seed in (1, 2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["body.weight"], other["body.weight"])
    bound = 64**-0.5  # of torch's own initialization
    assert 0.9 * bound < float(first["body.weight"].abs().max()) <= bound


def test_an_update_that_is_not_finite_makes_the_record_void() -> None:
    Path("own_late.py").write_text(OWN)
    given = {
        "scenarios": [{"data": "Digits", "model": "MLP"}],
        "attacks": [{"class": "IDLG", "max_evaluations": 3}],
        "defenses": ["own_late.LateNan"],
        "victims": 4,
    }
    bench = Workbench(torch.device("cpu"))
    records = [run_block(block, bench) for block in plan(parse(given, "own"), bench) if block.cell.defense]
    assert len(records) == 2
    for record in records:
        assert record["void"] == "the update of 4 of 4 victims was not finite"
        assert {victim["status"] for victim in record["victims"]} == {"diverged"}


@pytest.mark.parametrize(("defense", "right"), [("TurnsUnknown", False), ("Turns", True), ("Drops", True)])
def test_whether_the_model_of_an_attacker_explains_the_update_is_told_of_who_is_to_know_the_defense(
    defense: str, right: bool
) -> None:
    Path("own_void.py").write_text(OWN)
    given = {
        "scenarios": [{"data": "Digits", "model": "MLP"}],
        "attacks": [{"class": "IDLG", "max_evaluations": 3}, "MeanImage"],
        "defenses": [f"own_void.{defense}"],
        "victims": 3,
    }
    bench = Workbench(torch.device("cpu"))
    records = [run_block(block, bench) for block in plan(parse(given, "own"), bench)]
    told = [victim["explained"] for record in records for victim in record["victims"] if "explained" in victim]
    assert told == [right] * 3
    standing = next(one for one in ranked(outcomes(records)[0]) if one.outcomes[0].defended)
    assert standing.unranked == (UNTESTED if right else UNEXPLAINED)  # three evaluations are too few


@pytest.mark.parametrize("wrong", ["nothing", "shape", "meta", "labels", "status", "loss"])
def test_what_an_attack_returns_wrongly_at_its_full_budget_alone_is_one_sentence(
    wrong: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, error = run(capsys, **{"attack": "own_rehearsed.WrongAtLast", "attack.wrong": wrong})
    assert code == 2 and "Traceback" not in error
    assert re.search(r"^leakboard: .*own_rehearsed\.WrongAtLast.*own_rehearsed\.py, line \d+\)$", error, re.M), error


def test_a_suite_is_rehearsed_once_for_what_differs_in_strength_alone() -> None:
    """And for all defenses of ours, where an attack of ours does not know them; an own one can do anything to it."""
    Path("own_rehearsed.py").write_text(OWN)
    own = "own_rehearsed.Kept"
    for defenses, expected in (
        ([{"class": "Masking", "sweep": {"ratio": [0.1, 0.2, 0.3]}}], [("", "False"), ("Masking", "True")]),
        (["Clipping", {"class": "Masking", "ratio": 0.1}], [("", "False"), ("Clipping", "True"), ("Masking", "True")]),
        ([own], [("", "False"), (own, "False"), (own, "True")]),
    ):
        given = {
            "scenarios": [{"data": "Digits", "model": "MLP"}],
            "attacks": [{"class": "IDLG", "sweep": {"max_evaluations": [5, 6, 7]}}],
            "defenses": defenses,
            "victims": 2,
        }
        bench = Workbench(torch.device("cpu"))
        plan(parse(given, "own"), bench)
        attacks = [tried for tried in bench.rehearsal.tried if len(tried) == 4 and tried[1] == "IDLG"]
        assert sorted(tried[2:] for tried in attacks) == expected
