"""Tables in the terminal."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import IO, Literal

import rich.console
from rich import box
from rich.cells import cell_len
from rich.segment import Segment, Segments
from rich.table import Table
from rich.text import Text

from benchmark.boards import table
from benchmark.boards.leaderboard import Board, Leaderboard

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
        file: instead of the standard output.
        quiet: whether nothing is written at all.
    """

    def __init__(
        self, stderr: bool = False, width: int | None = None, file: IO[str] | None = None, quiet: bool = False
    ) -> None:
        super().__init__(stderr=stderr, width=width, file=file, quiet=quiet, markup=False, emoji=False)

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError  # the program ends as with any other output whose reader has gone


def print_table(leaderboard: Leaderboard, console: Console) -> None:
    """The leaderboard in the terminal, whole where it goes to a file."""
    grids = [Grid.of(board) for board in leaderboard.boards]
    if not console.is_terminal:
        console = Console(width=max(200, *(grid.width for grid in grids)), file=console.file)
    for board, whole in zip(leaderboard.boards, grids, strict=True):
        for spared in range(len(SPARED) + 1):
            grid = whole.without(SPARED[:spared])
            if grid.width <= console.width:
                break
        grid.print(console)
        names = {column.name for column in whole.columns}
        if hidden := [name for name in SPARED[:spared] if name in names]:
            console.print(f"(columns for a wider window: {', '.join(hidden)})\n", style="dim", highlight=False)
        for note in board.notes:
            console.print(f"- {printable(note)}", highlight=False, markup=False)
        console.print()
    for sentence in leaderboard.left_out:
        console.print(f"- {printable(sentence)}\n", highlight=False, markup=False)
    console.print(table.NOTE, style="dim", highlight=False)


@dataclass(frozen=True)
class Grid:
    """The table of one board, as texts.

    Attributes:
        title: stands above it.
        columns: those that are shown.
        cells: of each column, a text for each row.
        widths: of each column, the letters of its widest text.
    """

    title: str
    columns: tuple[table.Column, ...]
    cells: tuple[list[str], ...]
    widths: tuple[int, ...]

    @classmethod
    def of(cls, board: Board) -> Grid:
        """All columns of a board."""
        columns = tuple(table.columns_of(board))
        cells = tuple([printable(column.text(row, board)) for row in board.rows] for column in columns)
        widths = (max(map(letters, [column.name, *texts])) for column, texts in zip(columns, cells, strict=True))
        return cls(printable(board.heading), columns, cells, tuple(widths))

    def without(self, hidden: Collection[str]) -> Grid:
        """The grid without some of its columns."""
        kept = [place for place, column in enumerate(self.columns) if column.name not in hidden]
        return Grid(
            self.title,
            tuple(self.columns[place] for place in kept),
            tuple(self.cells[place] for place in kept),
            tuple(self.widths[place] for place in kept),
        )

    @property
    def width(self) -> int:
        """Letters of a line."""
        return sum(self.widths) + len(self.widths) + 1

    def print(self, console: Console) -> None:
        """Writes the grid; where it is wider than the console, its columns are cut.

        Rich, which takes a millisecond for a row, does the rows of a grid that is cut, and else the rest alone.
        """
        shown = Table(title=Text(self.title), title_justify="left", box=box.SIMPLE_HEAD, padding=0, pad_edge=False)
        for column, width in zip(self.columns, self.widths, strict=True):
            justify: Literal["left", "right"] = "left" if column.words else "right"
            shown.add_column(column.name, justify=justify, no_wrap=True, width=width)
        if self.width > console.width:
            for row in zip(*self.cells, strict=True):
                shown.add_row(*map(Text, row))
            console.print(shown)
            return
        *above, below = console.render_lines(shown, pad=False, new_lines=True)
        segments = [segment for line in above for segment in line]
        console.print(Segments([*segments, Segment(self.body(console)), *below]), crop=False, end="")

    def body(self, console: Console) -> str:
        """The rows as Rich would write them."""
        lines = box.SIMPLE_HEAD.substitute(console.options)
        padded = [
            [fitted(text, width, column.words) for text in texts]
            for column, texts, width in zip(self.columns, self.cells, self.widths, strict=True)
        ]
        between = lines.mid_vertical.join
        return "".join(f"{lines.mid_left}{between(row)}{lines.mid_right}\n" for row in zip(*padded, strict=True))


def letters(text: str) -> int:
    """The width of a text in the terminal."""
    return len(text) if text.isascii() else cell_len(text)


def fitted(text: str, width: int, left: bool) -> str:
    """A text with spaces on its right, or on its left, to a width."""
    space = " " * (width - letters(text))
    return text + space if left else space + text


def printable(text: str) -> str:
    """In one line, without what moves the cursor or changes colors."""
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() else " " for letter in text)
