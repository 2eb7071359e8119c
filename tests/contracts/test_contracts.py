"""The contracts of ``leakboard check``, on every attack and defense of ours with every network that it takes."""

from itertools import product
from math import ceil

import pytest
from torch import nn

from benchmark.rehearsal.contracts import CONTRACTS, Place, Verdict, places, verdicts
from benchmark.suite.registry import Spec, classes, spec


class Leaky(nn.Sequential):
    """A small CNN6: two convolutions with leaky ReLU and a linear layer, all without biases."""

    def __init__(self, image_shape: tuple[int, int, int], num_classes: int) -> None:
        channels, height, width = image_shape
        first = nn.Conv2d(channels, 6, 3, stride=2, padding=1, bias=False)
        second = nn.Conv2d(6, 6, 3, padding=1, bias=False)
        features = 6 * ceil(height / 2) * ceil(width / 2)
        last = nn.Linear(features, num_classes, bias=False)
        super().__init__(first, nn.LeakyReLU(0.2), second, nn.LeakyReLU(0.2), nn.Flatten(), last)


PLACES = [*places(), *places({"leaky ReLU": Spec(f"{__name__}.Leaky")})[:2]]

PAIRED = [
    place
    for place in PLACES
    if place.name
    in {
        "sigmoid",
        "sigmoid shared FedAvg",
        "ReLU shared",
        "ReLU FedAvg",
        "batch norm",
        "batch norm shared FedAvg",
        "leaky ReLU",
        "leaky ReLU shared",
    }
]
"""Each network with one of its own for each client and with one that all share, with a gradient and with FedAvg.

``leakboard check`` tries all places.
"""

PERCEPTRON = {"perceptron": Spec("MLP", {"hidden": 32, "activation": "relu"})}

SHORT = {"DLGFB": {"length": 3}, "GradInversion": {"trials": 2}}
"""Arguments that make an attack shorter and change nothing of what it promises."""

ATTACKS = [spec("attack", name, SHORT.get(name, {})) for name in classes("attack")]

CLIPPING = {"class": "Clipping", "max_norm": 0.01}

DEFENSES = [
    spec("defense", "GaussianNoise", {"std": 0.01}),
    spec("defense", "Clipping", {"max_norm": 0.01}),
    spec("defense", "Pruning", {"ratio": 0.5}),
    spec("defense", "Masking", {"ratio": 0.5}),
    spec("defense", "Masking", {"ratio": 0.5, "rescale": True}),
    spec("defense", "RelativeNoise", {"std": 0.3}),
    spec("defense", "LaplaceNoise", {"scale": 0.01}),
    spec("defense", "HalfPrecision", {"format": "bf16"}),
    spec("defense", "Quantization", {"bits": 4}),
    spec("defense", "QSGD", {"levels": 4}),
    spec("defense", "Sign", {"ratio": 1.0}),
    spec("defense", "Compose", {"defenses": [CLIPPING, {"class": "GaussianNoise", "std": 0.001}]}),
    spec("defense", "Compose", {"defenses": ["Masking", {"class": "Pruning", "ratio": 0.5}, CLIPPING, "Sign"]}),
]

EARLY = [
    spec("defense", "Augmentation", {}),
    spec("defense", "MixUp", {}),
    spec("defense", "Soteria", {"ratio": 0.9}),
    spec("defense", "DPSGD", {"max_norm": 0.1, "noise_multiplier": 0.01}),
    spec("defense", "Compose", {"defenses": ["MixUp", CLIPPING]}),
    spec("defense", "IntraInstaHide", {"images": 2}),
    spec("defense", "PRECODE", {"size": 16}),
    spec("defense", "GradDefense", {}),
    spec("defense", "OUTPOST", {"noise": 0.1}),
]
"""Defenses of ours that do not change the update alone."""

SHARING_LESS = [
    spec("defense", "TensorClipping", {"max_norm": 0.01}),
    spec("defense", "QuantileClipping", {"quantile": 0.25}),
    spec("defense", "ValueClipping", {"max_value": 0.001}),
    spec("defense", "GlobalPruning", {"ratio": 0.9}),
    spec("defense", "LayerMasking", {"ratio": 0.5}),
    spec("defense", "KeptAtHome", {"layers": ["last"]}),
    spec("defense", "TruncatedSVD", {"energy": 0.7}),
    spec("defense", "CountSketch", {"compression": 10.0}),
]
"""Tried in fewer places: what clients compute makes no difference to them."""

FEWER = [place for place in PLACES if place.name in ("sigmoid", "ReLU shared", "batch norm shared FedAvg")]

CONVOLUTIONAL = ("sigmoid", "ReLU", "batch norm")

DECLINED = {
    "RGAP": ("batch norm", "FedAvg"),
    "GaussNewton": ("FedAvg",),
    "Peeling": (*CONVOLUTIONAL, "FedAvg"),
    "AnalyticLinear": (*CONVOLUTIONAL, "FedAvg"),
    "GradInversion": ("sigmoid", "ReLU"),
    "LabelInference": ("leaky ReLU",),  # its last layer has no bias
    "DPSGD": ("FedAvg",),
    "Soteria": ("FedAvg",),
    "OUTPOST": ("FedAvg",),
}
"""Of attacks and defenses of ours, the places that they do not take."""

LOCAL_STEPS_ALONE = {"SurrogateModel"}
"""Attacks of ours that take no gradient."""

ONE_NETWORK_ALONE = {"LearnedInversion"}
"""Attacks of ours that take only victims who share one network."""

OF_FIRST_LAYER = [one for one in ATTACKS if set(CONVOLUTIONAL) <= set(DECLINED.get(one.name, ()))]
"""Attacks of ours that take networks whose first layer is linear, and no others."""


def of(kind: str, one: Spec, place: Place) -> list[Verdict]:
    return [verdict for found in verdicts(kind, one, [place]) for verdict in found]


@pytest.mark.parametrize("place", places(PERCEPTRON), ids=lambda place: place.name)
@pytest.mark.parametrize("attack", OF_FIRST_LAYER, ids=lambda attack: attack.name)
def test_an_attack_of_ours_on_the_first_layer_keeps_its_contracts(attack: Spec, place: Place) -> None:
    test_an_attack_of_ours_keeps_its_contracts(attack, place)


OF_ENSEMBLE = [place for place in PLACES if place.name in {"sigmoid", "ReLU shared", "batch norm shared FedAvg"}]
"""Places of AutoLeak, whose parts keep their contracts everywhere."""


def tried_in(attack: Spec) -> list[Place]:
    """All places for an attack that does not take all, as it may take none of those in pairs."""
    if attack.name == "AutoLeak":
        return OF_ENSEMBLE
    return PLACES if attack.name in {*DECLINED, *LOCAL_STEPS_ALONE, *ONE_NETWORK_ALONE} else PAIRED


PAIRS = [
    pytest.param(attack, place, id=f"{attack.name}-{place.name}") for attack in ATTACKS for place in tried_in(attack)
]


@pytest.mark.parametrize(("attack", "place"), PAIRS)
def test_an_attack_of_ours_keeps_its_contracts(attack: Spec, place: Place) -> None:
    found = of("attack", attack, place)
    assert [one for one in found if one.word == "fails"] == []
    declines = any(word in place.name for word in DECLINED.get(attack.name, ()))
    declines |= attack.name in LOCAL_STEPS_ALONE and "FedAvg" not in place.name
    declines |= attack.name in ONE_NETWORK_ALONE and "shared" not in place.name
    assert [one.word for one in found[:2]] == (["skipped"] if declines else ["holds", "holds"])
    assert declines or len(found) == len(CONTRACTS["attack"])


@pytest.mark.parametrize("place", PAIRED, ids=lambda place: place.name)
@pytest.mark.parametrize("defense", DEFENSES[:5], ids=lambda defense: defense.label)
def test_a_defense_of_ours_keeps_its_contracts(defense: Spec, place: Place) -> None:
    found = of("defense", defense, place)
    if any(word in place.name for word in DECLINED.get(defense.name, ())):
        assert [one.word for one in found] == ["skipped"]
        return
    assert [one for one in found if one.word != "holds"] == []
    assert len(found) == len(CONTRACTS["defense"])


@pytest.mark.parametrize("place", [PLACES[0], PLACES[-3]], ids=lambda place: place.name)
@pytest.mark.parametrize("defense", DEFENSES[5:], ids=lambda defense: defense.label)
def test_a_defense_that_treats_all_entries_alike_keeps_its_contracts(defense: Spec, place: Place) -> None:
    """In two places: ``leakboard check`` tries it in all of them."""
    test_a_defense_of_ours_keeps_its_contracts(defense, place)


@pytest.mark.parametrize("place", [PLACES[2], PLACES[9]], ids=lambda place: place.name)
@pytest.mark.parametrize("defense", EARLY, ids=lambda defense: defense.label)
def test_a_defense_that_acts_early_keeps_its_contracts(defense: Spec, place: Place) -> None:
    """On batch norm and sigmoid shared FedAvg."""
    test_a_defense_of_ours_keeps_its_contracts(defense, place)


@pytest.mark.parametrize("place", FEWER, ids=lambda place: place.name)
@pytest.mark.parametrize("defense", SHARING_LESS, ids=lambda defense: defense.label)
def test_a_defense_that_shares_less_keeps_its_contracts(defense: Spec, place: Place) -> None:
    test_a_defense_of_ours_keeps_its_contracts(defense, place)


def test_a_defense_is_tried_only_on_networks_that_have_its_layers() -> None:
    (verdict,) = of("defense", spec("defense", "KeptAtHome", {"layers": ["nope"]}), PLACES[0])
    assert verdict.word == "skipped" and "layers names 'nope', but the network has 0, 2, 4, 7" in verdict.reason


def test_every_network_meets_both_halves_of_a_setting_and_these_each_other() -> None:
    met = {(one.model.label, one.setting.shared, one.setting.local is not None) for one in PAIRED}
    for network in {place.model.label for place in places()}:
        settings = [(shared, local) for label, shared, local in met if label == network]
        assert {shared for shared, _ in settings} == {local for _, local in settings} == {False, True}
    assert {(shared, local) for _, shared, local in met} == set(product([False, True], repeat=2))


def test_every_defense_of_ours_is_tried() -> None:
    assert len(FEWER) == 3
    assert {one.name for one in [*DEFENSES, *EARLY, *SHARING_LESS]} == set(classes("defense"))
