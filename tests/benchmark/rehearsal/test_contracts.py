"""Each contract finds what breaks it, and says where."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from benchmark.errors import UsageError
from benchmark.federation.state import TrainingState
from benchmark.jobs import states
from benchmark.rehearsal.contracts import BEGINNING, CONTRACTS, DIGITS, NETWORKS, Place, Verdict, places, verdicts
from benchmark.suite.registry import Spec, spec

pytestmark = pytest.mark.usefixtures("nothing_of_the_developers")

OWN = '''
import random

import torch

from attacks import IDLG, Attack, Reconstruction
from attacks.engine.problem import MatchingProblem
from benchmark.models import MLP
from datamodules import PrivateData
from datamodules.base import TensorSplit
from defenses import Defense, KnownDefense


def scaled(update):
    return {n: g / 2 for n, g in update.items()}


class Half(Defense):
    def protect(self, update, generators):
        return scaled(update)

    def known_to_attacker(self):
        return KnownDefense(simulate=lambda dummy, observed: scaled(dummy))


class Cut(Half):
    def protect(self, update, generators):
        return {n: g[..., :1] for n, g in update.items()}


class Random(Half):
    def protect(self, update, generators):
        return {n: g + random.random() for n, g in update.items()}


class InPlace(Half):
    def protect(self, update, generators):
        return {n: g.div_(2) for n, g in update.items()}


class NotFinite(Half):
    def protect(self, update, generators):
        return {n: g / 0 for n, g in update.items()}


class Counting(Half):
    calls = 0

    def protect(self, update, generators):
        self.calls += 1
        return {n: g / self.calls for n, g in update.items()}


class Mixing(Half):
    def protect(self, update, generators):
        return {n: g - g.mean(0) for n, g in update.items()}


LARGEST = [0.0]


class Remembers(Half):
    """The largest entry that it has seen."""

    def protect(self, update, generators):
        LARGEST[0] = max(LARGEST[0], *(float(g.abs().max()) for g in update.values()))
        return {n: g / LARGEST[0] for n, g in update.items()}


class OtherModel(Half):
    def known_to_attacker(self):
        return KnownDefense(simulate=lambda dummy, observed: {n: g * 3 for n, g in dummy.items()})


def identity(update):
    return update


def drawn(update, generator):
    return {n: g + torch.randn(g.shape, generator=generator) for n, g in update.items()}


class Gray(Attack):
    simulates = True

    def images(self, observation):
        return torch.full((observation.num_victims, *observation.image_shape), 0.5)

    def reconstruct(self, observation, callbacks=()):
        victims, images = observation.num_victims, observation.image_shape[0]
        return Reconstruction(
            images=self.images(observation),
            labels=torch.zeros(victims, images, dtype=torch.long),
            loss=torch.zeros(victims),
            evaluations=torch.zeros(victims, dtype=torch.long),
            status=["closed form"] * victims,
        )


class Flat(Gray):
    def images(self, observation):
        return super().images(observation).flatten(1)


class OneByOne(Gray):
    def images(self, observation):
        assert observation.image_shape[0] == 1, "one image"
        return super().images(observation)


class Declines(Gray):
    def check(self, model, image_shape):
        raise ValueError("these victims are not to my taste: give others")


class Unmasked(Gray):
    def images(self, observation):
        assert all((g != 0).float().mean() > 0.8 for g in list(observation.update.values())[-1:]), "zeros"
        return super().images(observation)


class Unknowing(Gray):
    def images(self, observation):
        assert observation.defense is None, "no defense"
        return super().images(observation)


class Noiseless(Gray):
    def images(self, observation):
        assert not (observation.defense and observation.defense.noise_std), "no noise"
        return super().images(observation)


class Offset(MatchingProblem):
    def note(self, losses):
        super().note(losses + 1)


class Elsewhere(IDLG):
    problem_class = Offset


class Unseeded(Gray):
    calls = 0

    def images(self, observation):
        Unseeded.calls += 1
        return super().images(observation) / Unseeded.calls


class Averaging(Gray):
    def images(self, observation):
        first = next(iter(observation.update.values()))
        return super().images(observation) + first.mean(0).sum()


class Drawing(Gray):
    def images(self, observation):
        torch.rand(1)
        return super().images(observation)


class Training(Gray):
    def images(self, observation):
        with torch.no_grad():
            next(observation.model.parameters()).add_(1)
        return super().images(observation)


class Detached(MLP):
    def forward(self, images):
        return super().forward(images.detach())


class Bright(PrivateData):
    num_classes, image_shape, scale = 3, (1, 8, 8), 255.0

    def load(self, train):
        return TensorSplit(self.scale * torch.linspace(0, 1, 640).view(10, 1, 8, 8), torch.arange(10) % 3)


class Shuffled(Bright):
    scale = 1.0

    def load(self, train):
        split = super().load(train)
        order = torch.randperm(10)
        return TensorSplit(split.pixels[order], split.labels[order])


class Private(Bright):
    scale = 1.0

    def load(self, train):
        split = super().load(train)
        return TensorSplit(split.pixels[:0], split.labels[:0]) if train else split


class Lone(Bright):
    scale = 1.0

    def load(self, train):
        split = super().load(train)
        return TensorSplit(split.pixels[:1], split.labels[:1]) if train else split


class Same(Bright):
    """Public images are the private ones: load does not look at train."""

    scale = 1.0


class Dim(Private):
    scale = 1 / 255
'''

SIGMOID = Spec("MLP", {"activation": "sigmoid", "depth": 1, "hidden": 8})

STEP = "completes a step, returns reconstructions of the right form, and has no loss at the true images"

BROKEN = {
    "attack": {
        STEP: "Flat",
        "completes a step on batches of several images": "OneByOne",
        "completes a step against a mask that it does not know": "Unmasked",
        "completes a step against a mask that it knows": "Unknowing",
        "completes a step against noise that it knows": "Noiseless",
        "finds the same when it is called again": "Unseeded",
        "finds the same of a victim alone": "Averaging",
        "leaves the network and global random numbers as they are": "Drawing",
    },
    "defense": {
        "shares the names, shapes and types of the update": "Cut",
        "draws random numbers from its generators alone": "Random",
        "leaves the update that it is given as it is": "InPlace",
        "shares finite numbers": "NotFinite",
        "shares the same for the same update and generators": "Counting",
        "treats each client alone": "Mixing",
        "keeps nothing from call to call, in no module either": "Remembers",
        "gives attackers a model that does what it does": "OtherModel",
    },
    "model": {"gives clients the update of a plain autograd loop, which can be matched": "Detached"},
    "data": {
        "gives images and labels of the right form": "Bright",
        "gives the same when it is made again": "Shuffled",
        "keeps private images from the public": "Same",
    },
}
"""By kind and contract: a class of the file above that breaks it."""

SKIPPED = {
    "attack": {"takes such victims, or says why not": "Declines"},
    "defense": {"changes the update": "identity", "gives attackers a model that does what it does": "drawn"},
    "data": {"has public images": "Private", "keeps private images from the public": "Private"},
}
"""By kind and contract: what it does not apply to."""


@pytest.fixture(autouse=True)
def own_file(nothing_of_the_developers: None) -> None:
    Path("con_mine.py").write_text(OWN)


def verdict_on(kind: str, name: str, contract: str) -> Verdict:
    one = spec(kind, f"con_mine.{name}", {})
    place = {"model": Place("", one), "data": Place("", SIGMOID, one)}.get(kind, Place("", SIGMOID))
    found = {verdict.contract: verdict for of_contract in verdicts(kind, one, [place]) for verdict in of_contract}
    return found[contract]


def each(of: dict[str, dict[str, str]]) -> list[Any]:
    return [pytest.param(kind, name, one, id=name) for kind, named in of.items() for one, name in named.items()]


@pytest.mark.parametrize(("kind", "name", "contract"), each(BROKEN))
def test_what_breaks_a_contract_is_found_and_its_line_told(kind: str, name: str, contract: str) -> None:
    found = verdict_on(kind, name, contract)
    assert found.word == "fails" and "\n" not in found.reason
    assert "con_mine.py, line " in found.reason or (kind == "data" and name in found.reason), found.reason


@pytest.mark.parametrize(("kind", "name", "contract"), each(SKIPPED))
def test_what_a_contract_says_nothing_of_is_skipped_with_a_reason(kind: str, name: str, contract: str) -> None:
    found = verdict_on(kind, name, contract)
    assert found.word == "skipped" and found.reason


@pytest.mark.parametrize(
    ("attack", "contract", "sentence"),
    [
        ("Training", "leaves the network and global random numbers as they are", "changes the network ("),
        ("Elsewhere", STEP, "has a loss of 1 at the true images of the model MLP, where it must be zero"),
    ],
)
def test_so_is_a_second_way_to_break_one(attack: str, contract: str, sentence: str) -> None:
    assert sentence in verdict_on("attack", attack, contract).reason


def test_pixels_that_were_divided_twice_are_told() -> None:
    found = verdict_on("data", "Dim", "gives images and labels of the right form")
    assert found.word == "fails" and "con_mine.Dim is above 0.0039: give pixels from 0 to 1" in found.reason


def test_a_whole_one_keeps_everything() -> None:
    for kind, name in (("attack", "Gray"), ("defense", "Half")):
        found = [
            one for each in verdicts(kind, spec(kind, f"con_mine.{name}", {}), [Place("", SIGMOID)]) for one in each
        ]
        assert len(found) == len(CONTRACTS[kind]) and not [one for one in found if one.word == "fails"]


def test_what_cannot_begin_is_not_tried_further() -> None:
    for kind, name in (("attack", "Declines"), ("attack", "Flat"), ("defense", "Cut"), ("data", "Bright")):
        one = spec(kind, f"con_mine.{name}", {})
        place = Place("", SIGMOID, one if kind == "data" else DIGITS)
        assert len(list(verdicts(kind, one, [place]))) <= BEGINNING[kind]


@pytest.mark.parametrize("name", ["Private", "Lone"])
def test_data_of_few_or_no_public_images_serve_as_others_do(name: str) -> None:
    one = spec("data", f"con_mine.{name}", {})
    said = [each for of in verdicts("data", one, [Place("", SIGMOID, one)]) for each in of]
    assert not [each for each in said if each.word == "fails"]
    with pytest.raises(UsageError, match="Private has no public images") if name == "Private" else nullcontext():
        states.named(TrainingState(epochs=1), SIGMOID, Place("", SIGMOID, one).opened, 0, Path())


OF = {"sigmoid": "Sigmoid", "ReLU": "ReLU", "batch norm": "BatchNorm2d"}


def test_the_networks_are_of_all_kinds_and_so_is_what_clients_compute() -> None:
    where = places()
    assert len({place.name for place in where}) == 12
    for place in where:
        kinds = {type(layer).__name__ for layer in place.network.modules()}
        assert next(of for name, of in OF.items() if place.name.startswith(name)) in kinds
        assert place.setting.shared == ("shared" in place.name)
        assert (place.setting.local is not None) == ("FedAvg" in place.name)
        assert place.scene.observe(None, adaptive=False).shared == place.setting.shared
    assert set(NETWORKS) == {"sigmoid", "ReLU", "batch norm"}
