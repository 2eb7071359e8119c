"""Strengths in parts of an update, by hand."""

import pytest

from benchmark.suite.registry import Spec, spec
from benchmark.thresholds.relative import Size, carried_over

ATTACKED, TRAINED = Size(norm=12.0, entries=9), Size(norm=3.0, entries=36)
"""The root mean squares of their entries are 4 and 0.5."""


@pytest.mark.parametrize(
    ("name", "argument", "attacked", "trained"),
    [
        ("Clipping", "max_norm", 6.0, 1.5),  # half of the norm
        ("GaussianNoise", "std", 2.0, 0.25),  # half of the root mean square
        ("LaplaceNoise", "scale", 2.0, 0.25),
        ("ValueClipping", "max_value", 1.0, 0.125),
        ("GaussianNoise", "std", 0.0, 0.0),
        ("Masking", "ratio", 0.9, 0.9),  # a share already
        ("RelativeNoise", "std", 2.0, 2.0),
    ],
)
def test_a_strength_keeps_its_proportion_to_the_update(
    name: str, argument: str, attacked: float, trained: float
) -> None:
    found = carried_over(spec("defense", name, {argument: attacked}), argument, ATTACKED, TRAINED)
    assert found == spec("defense", name, {argument: trained})


def test_a_strength_that_was_carried_over_has_three_digits_and_the_other_arguments() -> None:
    found = carried_over(Spec("Clipping", {"max_norm": 1.0}), "max_norm", Size(3.0, 9), Size(1.0, 9))
    assert found.args == {"max_norm": 0.333}
    kept = carried_over(spec("defense", "Masking", {"ratio": 0.9, "rescale": True}), "ratio", ATTACKED, TRAINED)
    assert kept.args == {"ratio": 0.9, "rescale": True}
