"""The contracts of ``leakboard check``, on every attack and defense of ours in every place that it does not decline."""

from collections.abc import Iterator

import pytest

from benchmark.rehearsal.contracts import CONTRACTS, Place, Verdict, places, verdicts
from benchmark.suite.registry import Spec, classes, spec

PLACES = places()

DEFENSES = [
    spec("defense", "GaussianNoise", {"std": 0.01}),
    spec("defense", "Clipping", {"max_norm": 1.0}),
    spec("defense", "Pruning", {"ratio": 0.5}),
    spec("defense", "Masking", {"ratio": 0.5}),
    spec("defense", "Masking", {"ratio": 0.5, "rescale": True}),
]

DECLINED = {
    "RGAP": {"takes such victims, or says why not (batch norm)"},
}
"""What attacks of ours do not take, beside batches of those that attack one image."""


def each(made: list[Spec]) -> Iterator[object]:
    for one in made:
        for place in PLACES:
            yield pytest.param(one, place, id=f"{one.name}-{place.name}")


def of(kind: str, one: Spec, place: Place) -> list[Verdict]:
    return [verdict for found in verdicts(kind, one, [place]) for verdict in found]


@pytest.mark.parametrize(("attack", "place"), each([spec("attack", name, {}) for name in classes("attack")]))
def test_an_attack_of_ours_keeps_its_contracts(attack: Spec, place: Place) -> None:
    found = of("attack", attack, place)
    assert [one for one in found if one.word == "fails"] == []
    skipped = {f"{one.contract} ({one.where})" for one in found[:2] if one.word == "skipped"}
    assert skipped == {one for one in DECLINED.get(attack.name, set()) if f"({place.name})" in one}
    assert skipped or len(found) == len(CONTRACTS["attack"])


@pytest.mark.parametrize(("defense", "place"), each(DEFENSES))
def test_a_defense_of_ours_keeps_its_contracts(defense: Spec, place: Place) -> None:
    found = of("defense", defense, place)
    assert [one for one in found if one.word != "holds"] == []
    assert len(found) == len(CONTRACTS["defense"])


def test_every_defense_of_ours_is_tried() -> None:
    assert {one.name for one in DEFENSES} == set(classes("defense"))
