"""Scores of labels, against the figures that the code of iLRG logged of the same labels."""

import pytest
import torch

from benchmark.metrics.labels import label_scores


@pytest.mark.parametrize(
    ("true", "found", "existence", "counts", "instances"),
    [
        ([0, 0, 0, 3, 4, 4, 5, 8], [0, 3, 4, 5, 6, 7, 8, 9], 0.7, 0.5, 5 / 8),  # existence as logged: 0.700
        ([0, 2, 3, 3, 5, 9, 9, 9], [0, 2, 3, 9, 9, 9, 3, 3], 0.9, 0.8, 7 / 8),  # as logged: 0.900
        ([4, 4, 5, 6, 6, 6, 6, 7], [7, 6, 4, 6, 4, 6, 5, 6], 1, 1, 1),
        ([1, 1], [2, 2], 0.8, 0.8, 0),
    ],
)
def test_labels_are_scored_in_any_order(
    true: list[int], found: list[int], existence: float, counts: float, instances: float
) -> None:
    scores = label_scores(torch.tensor([true]), torch.tensor([found]), 10).of(0)
    assert scores == pytest.approx({"existence": existence, "counts": counts, "instances": instances})
