"""Tables in the terminal."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import rich.console
from rich import box
from rich.table import Table

from benchmark import leaderboard

if TYPE_CHECKING:
    from benchmark.estimate import Row

SPARED = ("s / victim", "evaluations", "label acc.", "LPIPS", "SSIM", "95 % interval")
"""Columns that a narrow terminal does without, the first one first."""


class Console(rich.console.Console):
    """The terminal, which takes names and paths as they are: ``[/x]`` is no markup.

    Args:
        stderr: whether it is the standard error.
        width: instead of the terminal's.
    """

    def __init__(self, stderr: bool = False, width: int | None = None) -> None:
        super().__init__(stderr=stderr, width=width, markup=False, emoji=False)

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError  # the program ends as with any other output whose reader has gone


def print_table(table: list[leaderboard.Row], console: Console) -> None:
    """The leaderboard in the terminal, whole where it goes to a file."""
    if not console.is_terminal:
        console = Console(width=200)
    for heading, board in leaderboard.boards(table).items():
        for spared in range(len(SPARED) + 1):
            shown = rich_table(heading, board, hidden=SPARED[:spared])
            if Console(width=1000).measure(shown).maximum <= console.width:
                break
        console.print(shown)
        if spared:
            console.print(f"(in a wider window also: {', '.join(SPARED[:spared])})\n", style="dim", highlight=False)
    console.print(leaderboard.NOTE, style="dim", highlight=False)


def print_costs(costs: list[Row], workers: int, folder: Path, console: Console) -> None:
    """The table of ``leakboard plan``, whole where it goes to a file."""
    from benchmark import estimate

    if not console.is_terminal:
        console = Console(width=200)
    shown = Table(box=box.SIMPLE_HEAD, padding=0, pad_edge=False)
    for name in estimate.COLUMNS:
        shown.add_column(name, justify="left" if name in ("scenario", "attack", "from") else "right")
    for row in costs:
        shown.add_row(*estimate.cells_of(row, workers))
    shown.add_section()
    shown.add_row(*estimate.cells_of(estimate.total(costs), workers))
    console.print(shown)
    shared = f", shared by {workers} workers" if workers > 1 else ""
    console.print(
        f"Evaluations are gradient evaluations of all victims: the mean of finished records of the same attack, in "
        f"{folder} and in results/, or else the upper bound. Time is that of short attacks on this machine{shared}. "
        f"Left is what has no record in {folder}.",
        style="dim",
        highlight=False,
    )


def rich_table(heading: str, board: list[leaderboard.Row], hidden: tuple[str, ...]) -> Table:
    """The rows of one board without the hidden columns."""
    columns = [(number, name) for number, name in enumerate(leaderboard.COLUMNS) if name not in hidden]
    shown = Table(title=heading, title_justify="left", box=box.SIMPLE_HEAD, padding=0, pad_edge=False)
    for number, name in columns:
        shown.add_column(name, justify="left" if number < 4 else "right", no_wrap=True)
    args = leaderboard.varying(board)
    for row in board:
        cells = leaderboard.cells_of(row, args)
        shown.add_row(*(cells[number] for number, _ in columns))
    return shown


def print_training(table: list[dict[str, Any]], console: Console) -> None:
    """The table of ``leakboard train``, whole where it goes to a file."""
    from benchmark.training import table as training_table

    if not console.is_terminal:
        console = Console(width=200)
    for heading, board in training_table.boards(table).items():
        shown = Table(title=heading, title_justify="left", box=box.SIMPLE_HEAD, padding=0, pad_edge=False)
        for name in training_table.COLUMNS:
            shown.add_column(name, justify="left" if name == "defense" else "right")
        for row in board:
            shown.add_row(*training_table.cells_of(row))
        console.print(shown)
    console.print(training_table.NOTE, style="dim", highlight=False)
