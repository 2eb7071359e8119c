"""Tables in the terminal."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import rich.console
from rich import box
from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from benchmark import table
from benchmark.leaderboard import Board, Leaderboard

if TYPE_CHECKING:
    from benchmark.estimate import Row

SPARED = (
    "s / victim",
    "evaluations",
    "label acc.",
    "LPIPS",
    "SSIM",
    "95 % interval",
    "its interval",
    "PSNR",
    "all images",
)
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


def print_table(leaderboard: Leaderboard, console: Console) -> None:
    """The leaderboard in the terminal, whole where it goes to a file."""
    if not console.is_terminal:
        console = Console(width=max(200, *(width_of(rich_table(board)) for board in leaderboard.boards)))
    for board in leaderboard.boards:
        for spared in range(len(SPARED) + 1):
            shown = rich_table(board, hidden=SPARED[:spared])
            if width_of(shown) <= console.width:
                break
        console.print(shown)
        names = {column.name for column in table.columns_of(board)}
        if hidden := [name for name in SPARED[:spared] if name in names]:
            console.print(f"(columns for a wider window: {', '.join(hidden)})\n", style="dim", highlight=False)
        for note in board.notes:
            console.print(f"- {printable(note)}", highlight=False, markup=False)
        console.print()
    for sentence in leaderboard.left_out:
        console.print(f"- {printable(sentence)}\n", highlight=False, markup=False)
    console.print(table.NOTE, style="dim", highlight=False)


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
        f"{folder} and in results/, or else the upper bound. Time is estimated from short attacks on this "
        f"machine{shared}. Left is the work without a record in {folder}.",
        style="dim",
        highlight=False,
    )


def rich_table(board: Board, hidden: tuple[str, ...] = ()) -> Table:
    """The rows of one board without the hidden columns."""
    columns = [column for column in table.columns_of(board) if column.name not in hidden]
    title = Text(printable(board.heading))
    shown = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=0, pad_edge=False)
    cells = [[printable(column.text(row, board)) for row in board.rows] for column in columns]
    for column, texts in zip(columns, cells, strict=True):
        width = max(map(cell_len, [column.name, *texts]))  # rich would measure every text three times
        shown.add_column(column.name, justify="left" if column.words else "right", no_wrap=True, width=width)
    for row in zip(*cells, strict=True):
        shown.add_row(*map(Text, row))
    return shown


def width_of(shown: Table) -> int:
    """Letters in its widest line."""
    return Console(width=10_000).measure(shown).maximum


def printable(text: str) -> str:
    """In one line, without what moves the cursor or changes colors."""
    return "".join(letter if letter.isprintable() else " " for letter in text)


def print_training(rows: list[dict[str, Any]], console: Console) -> None:
    """The table of ``leakboard train``, whole where it goes to a file."""
    from benchmark.training import table as training_table

    if not console.is_terminal:
        console = Console(width=200)
    for heading, board in training_table.boards(rows).items():
        shown = Table(title=heading, title_justify="left", box=box.SIMPLE_HEAD, padding=0, pad_edge=False)
        for name in training_table.COLUMNS:
            shown.add_column(name, justify="left" if name == "defense" else "right")
        for row in board:
            shown.add_row(*training_table.cells_of(row))
        console.print(shown)
    console.print(training_table.note(rows), style="dim", highlight=False)
