"""An update that is measured is the one that was attacked, or the run ends with a sentence."""

from typing import Any

import pytest
import torch
from torch import Tensor

from benchmark.api import run
from benchmark.errors import UsageError
from benchmark.jobs import records
from benchmark.jobs.records import sizes_of
from defenses import Masking
from tests.conftest import MakeVictims


def test_a_defense_that_changes_after_it_was_attacked_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was found would be measured by an update that nobody has attacked."""
    attack, done = records.attack_within_memory, [False]

    def late(update: dict[str, Tensor]) -> dict[str, Tensor]:
        """Shares nothing once it has been attacked, when the defense has long been tried."""
        return {name: value * (not done[0]) for name, value in update.items()}

    def attacked(*given: Any) -> Any:
        done[0] = False
        found = attack(*given)
        done[0] = True
        return found

    monkeypatch.setattr(records, "attack_within_memory", attacked)
    with pytest.raises(UsageError, match="made another update of the same batch with the same generators"):
        run(data="Digits", model="LeNet", victims=2, defense=late, attack={"class": "IDLG", "max_evaluations": 3})


@pytest.mark.parametrize("ratio", [0.0, 0.9])
def test_updates_of_other_sizes_or_other_entries_are_told_apart_and_rounding_is_not(
    ratio: float, victims_of: MakeVictims
) -> None:
    *_, seen = victims_of(3, defense=Masking(ratio))
    sizes = sizes_of(seen)
    assert sizes.shape == (3, len(seen.update), 2)
    for row in range(3):
        entries = [value[row].flatten().double() for value in seen.update.values()]
        torch.testing.assert_close(sizes[row, :, 0], torch.stack([each.norm() for each in entries]))
    rounded = seen.take([0, 1, 2])
    rounded.update.update({name: value * (1 + 1e-6) for name, value in rounded.update.items()})
    torch.testing.assert_close(sizes_of(rounded), sizes, rtol=1e-5, atol=1e-5)
    shuffled = seen.take([0, 1, 2])
    order = torch.Generator().manual_seed(0)
    shuffled.update.update(
        {
            name: value.flatten(1)[:, torch.randperm(value[0].numel(), generator=order)].view_as(value)
            for name, value in shuffled.update.items()
        }
    )
    assert ((sizes_of(shuffled) - sizes)[..., 1].abs() > 0.05).double().mean() > 0.5
