"""``from benchmark import show, board``: a folder's leaderboard as rows for programs, and as tables for people."""

import io
import os
from collections.abc import Iterable
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from benchmark.boards import leaderboard, table
from benchmark.boards.leaderboard import Board, Leaderboard
from benchmark.boards.terminal import Console
from benchmark.errors import UsageError, a_kind, unusable
from benchmark.garbage import uncollected
from benchmark.store.declined import declined_in
from benchmark.store.schema import attack_scores
from benchmark.store.store import read_all

WIDTH = 200
"""Letters of a line of text."""


class Rows(list[dict[str, Any]]):
    """Rows of a leaderboard: a list of dicts, as ``pandas.DataFrame`` takes it, which shows itself as the tables."""

    def __init__(self, rows: Iterable[dict[str, Any]], ranked: "Table") -> None:
        super().__init__(rows)
        self._ranked = ranked

    def __repr__(self) -> str:
        return repr(self._ranked)

    def _repr_html_(self) -> str:
        return self._ranked._repr_html_()

    def _repr_markdown_(self) -> str:
        return self._ranked._repr_markdown_()


@dataclass(frozen=True, repr=False)
class Table:
    """The ranked tables of a folder, one for each scenario.

    Attributes:
        leaderboard: what they show.
        title: name of the folder.
        no_lpips: why the column LPIPS is empty, where it is.
    """

    leaderboard: Leaderboard
    title: str
    no_lpips: str | None = None

    @property
    def rows(self) -> Rows:
        """All columns of all rows."""
        return Rows(table.rows(self.leaderboard), self)

    @property
    def notes(self) -> list[str]:
        """The sentences under the tables, and those on what stands in none."""
        of_boards = [f"{one.heading}: {note}" for one in self.leaderboard.boards for note in one.notes]
        return of_boards + self.leaderboard.left_out

    def __repr__(self) -> str:
        console = Console(width=WIDTH, file=io.StringIO())
        table.print_table(self.leaderboard, console)
        return str(console.file.getvalue()).rstrip()  # type: ignore[attr-defined] # the StringIO above

    def _repr_markdown_(self) -> str:
        return table.as_markdown(self.leaderboard, self.title, self.no_lpips)

    def _repr_html_(self) -> str:
        """The same columns, notes and words as in the terminal."""
        parts = [html_of(one) for one in self.leaderboard.boards]
        return "".join([*parts, *map(_paragraph, self.leaderboard.left_out), _paragraph(table.NOTE)])


def board(folder: str | Path, intervals: bool = True) -> Table:
    """The ranked tables of a folder, from its records; it shows itself in a terminal or a notebook.

    Args:
        folder: of a run.
        intervals: whether means have theirs, which take longer than all else and which only rows hold.

    Raises:
        UsageError: there are no records that can be used.
    """
    if not isinstance(folder, str | os.PathLike):
        raise UsageError(f"give the folder of a run as a text or path, not {a_kind(folder)}")
    place = Path(folder)
    with uncollected():
        try:
            records = read_all(place, attack_scores)
        except OSError as error:
            raise unusable(error, "a record cannot be read") from None
        found = leaderboard.of_records(records, intervals=intervals, declined=declined_in(place))
    return Table(found, place.resolve().name, table.missing_lpips(records))


def show(folder: str | Path) -> Rows:
    """The rows of :func:`board`, one dict for each cell, as ``pandas.DataFrame`` takes them.

    Raises:
        UsageError: there are no records that can be used.
    """
    return board(folder).rows


def html_of(one: Board) -> str:
    """The table of one scenario with its notes, every value escaped."""
    shown = table.grid(one)
    head = "".join(f"<th>{escape(name)}</th>" for name in shown.names)
    body = "".join(f"<tr>{''.join(f'<td>{escape(str(text))}</td>' for text in row)}</tr>" for row in shown.rows)
    notes = "".join(f"<li>{escape(note)}</li>" for note in one.notes)
    listed = f"<ul>{notes}</ul>" if notes else ""
    caption = f"<caption>{escape(one.heading)}</caption>"
    return f"<table>{caption}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{listed}"


def _paragraph(text: str) -> str:
    return f"<p>{escape(text)}</p>"
