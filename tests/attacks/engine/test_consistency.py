"""Group consistency against plain loops, and the room in which its groups are under attack."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from attacks import DLG
from attacks.engine.consistency import GroupConsistency
from attacks.engine.ledger import Ledger
from tests.conftest import MakeVictims


def images(rows: int) -> Tensor:
    return torch.randn(rows, 2, 3, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("rows", [[0, 1, 2, 3, 4, 5], [4, 0, 5, 2, 1, 3], [7, 3], [2, 5, 8], [1]])
def test_each_trial_is_drawn_to_the_mean_of_those_of_its_victim(rows: list[int]) -> None:
    group, shown = GroupConsistency(0.3, 3, (1.0, 0.5, 2.0)), images(len(rows))
    centers = group.centers(shown, torch.tensor(rows))
    losses = group(shown, centers)
    for place, row in enumerate(rows):
        own = [shown[other] for other, one in enumerate(rows) if one // 3 == row // 3]
        center = sum(own) / len(own)
        torch.testing.assert_close(centers[place], center)
        off = (shown[place] - center) / torch.tensor([1.0, 0.5, 2.0])[:, None, None]
        assert float(losses[place]) == pytest.approx(0.3 * float((off**2).mean()), rel=1e-12, abs=1e-15)


def test_a_trial_that_has_diverged_leaves_the_others_as_they_are() -> None:
    group, shown = GroupConsistency(1.0, 3, (1.0, 1.0, 1.0)), images(6)
    broken = shown.clone()
    broken[1, 0, 0, 0, 0], broken[4] = torch.nan, torch.inf
    centers = group.centers(broken, torch.arange(6))
    torch.testing.assert_close(centers[0], (shown[0] + shown[2]) / 2)
    torch.testing.assert_close(centers[5], (shown[3] + shown[5]) / 2)
    assert bool(group(broken, centers)[[0, 2, 3, 5]].isfinite().all())


def test_the_mean_is_a_target_that_carries_no_gradient() -> None:
    group, shown = GroupConsistency(0.5, 2, (1.0, 1.0, 1.0)), images(2).requires_grad_()
    centers = group.centers(shown, torch.arange(2))
    assert not centers.requires_grad
    (slope,) = torch.autograd.grad(group(shown, centers).sum(), shown)
    torch.testing.assert_close(slope, 2 * 0.5 * (shown - centers).detach() / shown[0].numel())


@pytest.mark.parametrize("leaving", [[0], [0, 1], [0, 1, 2], [1, 2, 3, 4, 5]])
def test_trials_enter_with_all_of_their_victim_or_not_at_all(leaving: Sequence[int], victims_of: MakeVictims) -> None:
    ledger = Ledger(DLG().starts(victims_of(12).observation), 10, at_once=6, together=3)
    ledger.replace([])
    assert ledger.victims == [0, 1, 2, 3, 4, 5]
    for _ in range(3):
        ledger.replace([row for row, victim in enumerate(ledger.victims) if victim in leaving])
        assert len(ledger.victims) <= 6
        for victim in {one // 3 for one in ledger.victims} - {0, 1}:
            assert {3 * victim, 3 * victim + 1, 3 * victim + 2} <= set(ledger.victims)
    gone = sum(set(range(3 * victim, 3 * victim + 3)) <= set(leaving) for victim in (0, 1))
    assert len({one // 3 for one in ledger.victims}) == 2 and len(ledger.victims) == 6 - len(leaving) + 3 * gone


def test_without_groups_every_row_that_is_free_is_taken(victims_of: MakeVictims) -> None:
    ledger = Ledger(DLG().starts(victims_of(7).observation), 10, at_once=4)
    ledger.replace([])
    ledger.replace([1, 3])
    assert sorted(ledger.victims) == [0, 2, 4, 5]
