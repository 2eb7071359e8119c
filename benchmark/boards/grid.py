"""A table of texts, and the one way in which every table is shown: in the terminal, in Markdown, LaTeX and as CSV."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import zip_longest
from typing import Any, Literal

from markupsafe import Markup
from rich import box
from rich.segment import Segment, Segments
from rich.table import Table
from rich.text import Text

from benchmark.boards.markdown import escaped
from benchmark.boards.terminal import Console, letters, printable

LEGIBLE = 20
"""Letters that are left of a long text in a narrow terminal."""

FEWEST = 5
"""Letters that are left of each text where numbers would else be cut, which say nothing then."""

_TEX = {letter: f"\\{letter}" for letter in "&%$#_{}"} | {letter: f"{{{letter}}}" for letter in "[]*`'"}
_TEX |= {"~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "\\": r"\textbackslash{}"}
_TEX |= {"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", "±": r"$\pm$"}
"""Letters that LaTeX takes for commands, or joins with what stands beside them."""


@dataclass(frozen=True)
class Grid:
    """A table as a person reads it.

    Attributes:
        names: of the columns.
        rows: a text for each column; the last ones may be missing.
        words: the columns that hold words, which stand on the left; the others hold numbers.
        title: stands above it in the terminal.
    """

    names: Sequence[str]
    rows: Sequence[Sequence[str]]
    words: Collection[str] = ()
    title: str = ""

    def without(self, hidden: Collection[str]) -> Grid:
        """The grid without some of its columns."""
        kept = [place for place, name in enumerate(self.names) if name not in hidden]
        rows = [[row[place] for place in kept if place < len(row)] for row in self.rows]
        return replace(self, names=[self.names[place] for place in kept], rows=rows)

    def markdown(self) -> str:
        """The lines of the table."""
        count = len(self.names)
        rows = ((" | ".join(map(escaped, row)), count - len(row)) for row in (self.names, *self.rows))
        head, *body = (f"| {row} |{' |' * missing}" for row, missing in rows)
        return Markup("\n".join([head, f"|{'---|' * count}", *body]))

    def latex(self) -> str:
        """The table for a paper, of any length; takes the packages booktabs and longtable."""
        sides = "".join("l" if name in self.words else "r" for name in self.names)
        head, *body = (
            " & ".join(_tex(text) for _, text in zip_longest(self.names, row, fillvalue="")) + r" \\"
            for row in (self.names, *self.rows)
        )
        caption = [rf"\caption{{{_tex(self.title)}}} \\"] if self.title else []
        header = [r"\toprule", head, r"\midrule"]
        top = [rf"\begin{{longtable}}{{{sides}}}", *caption, *header, r"\endfirsthead", *header, r"\endhead"]
        return "\n".join([*top, *body, r"\bottomrule", r"\end{longtable}"])

    @cached_property
    def _cells(self) -> list[list[str]]:
        """Of each column, its name and a text for each row."""
        return [list(map(printable, column)) for column in zip_longest(self.names, *self.rows, fillvalue="")]

    @cached_property
    def _widths(self) -> list[int]:
        return [max(map(letters, column)) for column in self._cells]

    @property
    def width(self) -> int:
        """Letters of a line in the terminal."""
        return sum(self._widths) + len(self._widths) + 1

    def print(self, console: Console, spared: Sequence[str] = ()) -> None:
        """Writes the grid, without as many of the spared columns as make it fit; where none do, columns are cut.

        Args:
            console: where it is written.
            spared: the columns that a narrow console does without, the first one first; they are named under the grid.
        """
        fewer = (self.without(spared[:count]) for count in range(len(spared) + 1))
        shown = next((grid for grid in fewer if grid.width <= console.width), self.without(spared))
        shown._print(console)
        if hidden := [name for name in spared if name in self.names and name not in shown.names]:
            console.print(f"(columns for a wider window: {', '.join(hidden)})\n", style="dim", highlight=False)

    def _print(self, console: Console) -> None:
        """Writes all columns, which are cut where they are wider than the console: long words before numbers.

        Rich, which takes a millisecond for a row, does the rows of a grid that is cut, and else the rest alone.
        """
        title = Text(printable(self.title)) if self.title else None
        shown = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=0, pad_edge=False)
        for name, width in zip(self.names, self._cut(console.width), strict=True):
            justify: Literal["left", "right"] = "left" if name in self.words else "right"
            shown.add_column(name, justify=justify, no_wrap=True, width=width)
        if self.width > console.width:
            for row in self.rows:
                shown.add_row(*(Text(printable(text)) for text in row))
            console.print(shown)
            return
        *above, below = console.render_lines(shown, pad=False, new_lines=True)
        segments = [segment for line in above for segment in line]
        console.print(Segments([*segments, Segment(self._body(console)), *below]), crop=False, end="")

    def _cut(self, width: int) -> list[int]:
        """The widths of the columns, where those of words are cut for this width: to ``LEGIBLE``, the longest first,
        and then alike, as far as ``FEWEST``."""
        widths, excess = list(self._widths), self.width - width
        words = [place for place, name in enumerate(self.names) if name in self.words]
        for place in sorted(words, key=lambda place: -widths[place]):
            less = min(max(0, excess), max(0, widths[place] - LEGIBLE))
            widths[place], excess = widths[place] - less, excess - less
        for most in range(LEGIBLE, FEWEST - 1, -1):
            over = [place for place in words if widths[place] > most]
            for place in over[: max(0, excess)]:
                widths[place], excess = most, excess - 1
        return widths

    def _body(self, console: Console) -> str:
        """The rows as Rich would write them."""
        lines = box.SIMPLE_HEAD.substitute(console.options)
        padded = [
            [_fitted(text, width, name in self.words) for text in texts]
            for name, (_, *texts), width in zip(self.names, self._cells, self._widths, strict=True)
        ]
        between = lines.mid_vertical.join
        return "".join(f"{lines.mid_left}{between(row)}{lines.mid_right}\n" for row in zip(*padded, strict=True))


def as_csv(names: Sequence[str], rows: Iterable[Iterable[Any]]) -> str:
    """A table for programs; what is no number or text is JSON, and nothing where there is none."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(names)
    writer.writerows([json.dumps(value) if isinstance(value, dict) else value for value in row] for row in rows)
    return file.getvalue()


def as_latex(title: str, grids: Iterable[Grid]) -> str:
    """A file of tables for a paper, which is read by ``\\input``."""
    needs = f"% {printable(title)}: takes \\usepackage{{booktabs,longtable}}"
    return "\n\n".join([needs, *(grid.latex() for grid in grids)]) + "\n"


def _tex(text: str) -> str:
    """A text in one line, without what LaTeX takes for a command; negative numbers have a minus sign."""
    line = "".join(_TEX.get(letter, letter) for letter in " ".join(printable(text).split()))
    return re.sub(r"(?<![\w.-])-(?=\d)", "$-$", line).replace("--", "-{}-")


def _fitted(text: str, width: int, left: bool) -> str:
    """A text with spaces on its right, or on its left, to a width."""
    space = " " * (width - letters(text))
    return text + space if left else space + text
