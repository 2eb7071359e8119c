"""The rows of a table, which are written without Rich, beside what Rich makes of them; and the same in Markdown."""

import csv
import io

import pytest
from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from benchmark.boards.grid import FEWEST, Grid, as_csv, as_latex

NAMES, WORDS = ("rank", "worst case", "defense"), {"rank", "defense"}

ROWS = (["1", "0.50 (8/16)", "Masking"], ["2", "-", "mine.Größe"], ["-", "0.00 (0/8)", "my.防御"])


def grid(title: str = "Digits with LeNet") -> Grid:
    return Grid(NAMES, ROWS, WORDS, title)


def console(width: int, encoding: str) -> Console:
    return Console(file=io.TextIOWrapper(io.BytesIO(), encoding), width=width, force_terminal=True)


def written(to: Console) -> str:
    to.file.flush()
    return to.file.buffer.getvalue().decode(to.encoding)  # type: ignore[attr-defined] # it is a TextIOWrapper


def by_rich(of: Grid, to: Console) -> None:
    shown = Table(title=Text(of.title), title_justify="left", box=box.SIMPLE_HEAD, padding=0, pad_edge=False)
    for name, *texts in zip(of.names, *of.rows, strict=True):
        width = max(map(cell_len, [name, *texts]))
        if name in WORDS and to.width < of.width:
            width = min(width, FEWEST)
        shown.add_column(name, justify="left" if name in WORDS else "right", no_wrap=True, width=width)
    for row in of.rows:
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
    plain = Grid(NAMES[:2], [row[:2] for row in ROWS], WORDS, "Digits")
    ours, theirs = console(80, "ascii"), console(80, "ascii")
    plain.print(ours)  # type: ignore[arg-type] # any console will do
    by_rich(plain, theirs)
    assert written(ours) == written(theirs)
    assert "|" in written(ours)


def test_a_hidden_column_takes_its_cells_and_its_width_with_it() -> None:
    left = grid().without(["rank"])
    assert left.names == ["worst case", "defense"]
    assert left.rows == [row[1:] for row in ROWS]
    assert left.width == grid().width - len("rank") - 1


def test_markdown_has_the_same_cells_and_no_markup_in_them() -> None:
    rows = [["1", "a | b", "<b>"], ["", "*c*", "d\ne"]]
    assert Grid(("x", "y|z", "w"), rows).markdown().split("\n") == [
        r"| x | y\|z | w |",
        "|---|---|---|",
        r"| 1 | a \| b | &lt;b&gt; |",
        r"|  | \*c\* | d e |",
    ]


def test_a_row_may_end_early_and_what_is_missing_is_empty() -> None:
    short = Grid(("x", "y", "z"), [["1"], ["1", "2", "3"]])
    assert short.markdown().split("\n")[2:] == ["| 1 | | |", "| 1 | 2 | 3 |"]
    to = console(80, "utf-8")
    short.print(to)  # type: ignore[arg-type] # any console will do
    assert [line.split() for line in written(to).splitlines()[-3:-1]] == [["1"], ["1", "2", "3"]]
    assert short.without(["x"]).rows == [[], ["2", "3"]]


def test_a_narrow_console_does_without_spared_columns_and_names_them() -> None:
    to = console(grid().without(["worst case"]).width, "utf-8")
    grid().print(to, ["missing", "worst case", "rank"])  # type: ignore[arg-type] # any console will do
    said = Text.from_ansi(written(to)).plain
    assert "(columns for a wider window: worst case)" in " ".join(said.split())
    assert "0.50" not in said and "rank" in said and "Masking" in said


def test_in_a_narrow_console_long_words_are_cut_and_numbers_are_not() -> None:
    to = console(60, "utf-8")
    long = Grid(("scenario", "attack", "h:mm:ss"), [["Digits " * 9, "IDLG", "12:34:56"]], ("scenario", "attack"))
    long.print(to)  # type: ignore[arg-type] # any console will do
    said = Text.from_ansi(written(to)).plain
    assert "12:34:56" in said and "IDLG" in said and "Digits Digits Digits" in said
    assert max(map(len, said.splitlines())) <= 60


@pytest.mark.parametrize("width", range(41, 140, 7))
def test_no_number_is_cut_where_words_have_letters_to_spare(width: int) -> None:
    """Such as "0.00 (0/1…", which could be 16 victims or 100."""
    rows = [["Masking ratio=0.99", "DLG adaptive", "1.00 (100/100)", "0.00 (0/100)"], ["a " * 40, "-", "1", "2"]]
    to = console(width, "utf-8")
    Grid(("defense", "attack", "leak rate", "unknown"), rows, ("defense", "attack")).print(to)  # type: ignore[arg-type] # any console will do
    said = Text.from_ansi(written(to)).plain
    assert "1.00 (100/100)" in said and "0.00 (0/100)" in said and "leak rate" in said
    assert max(map(len, said.splitlines())) <= width


def test_csv_has_values_as_they_are_and_arguments_as_json() -> None:
    rows = [["a,b", None, 1e-05, {"x": 1}], ["", True, 2, {}]]
    read = list(csv.reader(io.StringIO(as_csv(("n", "m", "o", "p"), rows))))
    assert read == [["n", "m", "o", "p"], ["a,b", "", "1e-05", '{"x": 1}'], ["", "True", "2", "{}"]]


def test_latex_has_a_row_for_each_row_and_no_text_becomes_a_command() -> None:
    lines = grid("50 % of a_b").latex().splitlines()
    header = [r"\toprule", r"rank & worst case & defense \\", r"\midrule"]
    assert lines[:6] == [r"\begin{longtable}{lrl}", r"\caption{50 \% of a\_b} \\", *header, r"\endfirsthead"]
    assert lines[6:10] == [*header, r"\endhead"]
    assert lines[10] == r"1 & 0.50 (8/16) & Masking \\" and lines[-2:] == [r"\bottomrule", r"\end{longtable}"]
    for text, escaped in {
        "a & b": r"a \& b",
        r"\input{x}": r"\textbackslash{}input\{x\}",
        "#1 $x$ ~^": r"\#1 \$x\$ \textasciitilde{}\textasciicircum{}",
        "[2pt]*": "{[}2pt{]}{*}",
        "a\nb\x1b": "a b",
        "1 < 2 | 3": r"1 \textless{} 2 \textbar{} 3",
        "-0.50 ± 0.1": r"$-$0.50 $\pm$ 0.1",
        "0.81-1.00, 1e-05, -, --x": "0.81-1.00, 1e-05, -, -{}-x",
    }.items():
        assert Grid(["a"], [[text]]).latex().splitlines()[9] == escaped + r" \\"
    assert Grid(["a", "b"], [["1"]]).latex().splitlines()[9] == r"1 &  \\"


def test_a_file_of_tables_says_what_it_takes() -> None:
    assert as_latex("mine\n", [grid(), grid()]).startswith("% mine : takes \\usepackage{booktabs,longtable}\n\n\\begin")
