"""Ranges in which a threshold is searched: whole numbers stay whole, and the search ends where none is left."""

import sys
from pathlib import Path

import pytest

from benchmark.errors import UsageError
from benchmark.thresholds.search import Range, ranges

QUANTIZING = """
from defenses import Defense, KnownDefense


class Bits(Defense):
    def __init__(self, bits: int = 8, scale: float = 1.0, levels: int | None = None, untyped=3) -> None:
        if not isinstance(bits, int) or not isinstance(untyped, int):
            raise TypeError("not whole")

    def protect(self, update, generators):
        return update

    def known_to_attacker(self):
        return KnownDefense()
"""


@pytest.fixture(autouse=True)
def own_bits(nothing_of_the_developers: None) -> None:
    Path("own_bits.py").write_text(QUANTIZING)
    sys.modules.pop("own_bits", None)


def of(argument: str, *ends: float) -> Range:
    """The range of a defense of the user's own."""
    (made,) = ranges([{"class": "own_bits.Bits", "range": {argument: list(ends)}}])
    return made


@pytest.mark.parametrize("argument", ["bits", "levels", "untyped"])
@pytest.mark.parametrize("ends", [(16, 1), (1, 16), (1, 1000), (5000, 1), (-5, 5), (-1, -1000), (3, 4), (8.0, 2.0)])
def test_bisection_between_whole_numbers_stays_on_them_and_ends_between_neighbors(
    argument: str, ends: tuple[int, int]
) -> None:
    made = of(argument, *ends)
    assert (made.strength(0), made.strength(1)) == ends
    for towards_strong in (False, True):
        first, last, tested = 0.0, 1.0, {*map(int, ends)}
        while (middle := made.between(first, last)) is not None:
            strength = made.defense(middle).args[argument]
            assert type(strength) is int and strength not in tested
            tested.add(strength)
            first, last = (middle, last) if towards_strong else (first, middle)
        assert abs(made.strength(first) - made.strength(last)) == 1
        assert len(tested) <= 2 + 20


def test_a_range_of_other_numbers_is_as_it_was() -> None:
    made = of("scale", 1, 3)
    assert [made.strength(position) for position in (0, 0.5, 1)] == [1.0, 2.0, 3.0]
    assert type(made.strength(0.5)) is float and made.between(0, 1) == 0.5
    assert made.between(0.5, 0.5 + 1e-9) is None  # the same in the six digits of a strength


@pytest.mark.parametrize(
    ("argument", "ends", "sentence"),
    [
        ("bits", (16.5, 1), "needs whole numbers for bits"),
        ("bits", (3, 3), "needs two different numbers"),
        ("scale", (1, 1.0000001), "that differ in six digits"),
        ("scale", (0, 1e300), "needs two different numbers"),
        ("scale", (0, 10**400), "needs two different numbers"),
        ("scale", (0, float("nan")), "needs two different numbers"),
        ("scale", (0, True), "needs two different numbers"),
        ("bit", (0, 1), "unknown argument of own_bits.Bits 'bit': did you mean bits?"),
    ],
)
def test_a_wrong_range_is_one_sentence(argument: str, ends: tuple[float, float], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence.replace("?", r"\?")):
        of(argument, *ends)
