"""The rows of a board, which are written without Rich, beside what Rich makes of them."""

import io

import pytest
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from benchmark.boards import table
from benchmark.boards.terminal import Grid, letters

CELLS = (["1", "2", "-"], ["0.50 (8/16)", "-", "0.00 (0/8)"], ["Masking", "mine.Größe", "my.防御"])


def grid(title: str = "Digits with LeNet") -> Grid:
    columns = table.COLUMNS[0], table.COLUMNS[1], table.COLUMNS[3]
    widths = tuple(max(map(letters, [column.name, *texts])) for column, texts in zip(columns, CELLS, strict=True))
    return Grid(title, columns, CELLS, widths)


def console(width: int, encoding: str) -> Console:
    return Console(file=io.TextIOWrapper(io.BytesIO(), encoding), width=width, force_terminal=True)


def written(to: Console) -> str:
    to.file.flush()
    return to.file.buffer.getvalue().decode(to.encoding)  # type: ignore[attr-defined]


def by_rich(of: Grid, to: Console) -> None:
    shown = Table(title=Text(of.title), title_justify="left", box=box.SIMPLE_HEAD, padding=0, pad_edge=False)
    for column, width in zip(of.columns, of.widths, strict=True):
        shown.add_column(column.name, justify="left" if column.words else "right", no_wrap=True, width=width)
    for row in zip(*of.cells, strict=True):
        shown.add_row(*map(Text, row))
    to.print(shown)


@pytest.mark.parametrize("title", ["Digits with LeNet", "a title of a table that is far longer than the table is wide"])
@pytest.mark.parametrize("width", [10, 20, 30, 200])
def test_rows_are_those_of_rich(width: int, title: str) -> None:
    ours, theirs = console(width, "utf-8"), console(width, "utf-8")
    grid(title).print(ours)  # type: ignore[arg-type] # any console will do
    by_rich(grid(title), theirs)
    assert written(ours) == written(theirs)


def test_a_terminal_of_ascii_has_a_table_of_ascii() -> None:
    plain = Grid("Digits", table.COLUMNS[:2], (CELLS[0], CELLS[1]), (4, 11))
    ours, theirs = console(80, "ascii"), console(80, "ascii")
    plain.print(ours)  # type: ignore[arg-type]
    by_rich(plain, theirs)
    assert written(ours) == written(theirs)
    assert "|" in written(ours)


def test_a_hidden_column_takes_its_cells_and_its_width_with_it() -> None:
    left = grid().without(["rank"])
    assert [column.name for column in left.columns] == ["worst case", "defense"]
    assert left.cells == CELLS[1:]
    assert left.width == grid().width - len("rank") - 1
