"""What the bar of a run shows, on terminals of two widths."""

import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmark.boards.terminal import Console
from benchmark.jobs.progress import ProgressBar
from benchmark.store.store import Store


@pytest.mark.parametrize("width", [80, 120])
def test_what_is_said_of_a_job_stands_behind_its_name_or_not_at_all(width: int, tmp_path: Path) -> None:
    """Of two workers one has begun another cell, of which nothing is known yet."""
    first, second = (SimpleNamespace(key=key, label=f"cell {key}", group=key, size=2) for key in "ab")
    tally = SimpleNamespace(add=lambda job, record: f", {record} of 2 leaked", total=lambda steps: f", {steps} victims")
    kind: Any = SimpleNamespace(groups="cells", tally=lambda: tally, so_far=lambda job, store: 0.0)
    shown = io.StringIO()
    console = Console(width=width, file=shown)
    console._force_terminal = True
    with ProgressBar[Any]([first, second], kind, console) as bar:
        bar.resumes([first, second], Store(tmp_path))
        bar.begins(first)
        bar.begins(second)
        bar.ends(first, 0)  # type: ignore[arg-type] # only the tally reads it
    last = [line for line in shown.getvalue().splitlines() if "1/2 cells, 2 victims" in line][-1]
    assert ("cell a, 0 of 2 leaked" in last) == (width == 120) == ("leaked" in last) and "cell b" not in last
