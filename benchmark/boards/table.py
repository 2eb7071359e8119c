"""The leaderboard as text: its columns in the terminal and in Markdown, and all numbers as CSV and JSON."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from benchmark.boards.grid import Grid, as_latex
from benchmark.boards.grid import as_csv as grid_as_csv
from benchmark.boards.leaderboard import LABEL_SCORES, SELDOM, Board, Leaderboard, Row
from benchmark.boards.outcome import strength
from benchmark.boards.template import render
from benchmark.boards.terminal import Console, printable, wide_enough
from benchmark.metrics.leak import LEAKED_PSNR
from benchmark.store.store import Record, write_whole


@dataclass(frozen=True)
class Column:
    """A column as a person reads it.

    Attributes:
        name: its title.
        text: of a row on a board.
        words: whether it holds words, which stand on the left, or numbers.
        shown: whether a board has it.
    """

    name: str
    text: Callable[[Row, Board], str]
    words: bool = False
    shown: Callable[[Board], bool] = lambda board: True


def in_batches(board: Board) -> bool:
    return board.rows[0].batch_size > 1


def attack_of(row: Row, board: Board) -> str:
    """Class, arguments that differ on the board, what it knows, and whether the cell is void."""
    name = board.names.attack({"class": row.attack, **row.attack_args}, row.adaptive)
    return name + (" (void)" if row.void else "")


def share(count: int | None, of: int | None) -> str:
    """As in "0.50 (8/16)"; "-" where there is none."""
    return f"{count / of:.2f} ({count}/{of})" if count is not None and of else "-"


def interval(low: float | None, high: float | None) -> str:
    return "-" if low is None else f"{low:.2f}-{high:.2f}"


def score(value: float | None, form: str) -> str:
    """A number of the images; "-" where they were not scored."""
    return "-" if value is None else format(value, form)


def label_accuracy(row: Row, board: Board) -> str:
    if row.label_accuracy is None:
        return "-" if row.leaked is None else "known"
    return f"{row.label_accuracy:.2f}"


def label_score(name: str, row: Row, board: Board) -> str:
    value = getattr(row, name)
    return "-" if value is None else f"{value:.3f}"


def tells_labels(board: Board) -> bool:
    return any(row.label_existence is not None for row in board.rows)


COLUMNS = (
    Column("rank", lambda row, board: "-" if row.rank is None else str(row.rank), words=True),
    Column("worst case", lambda row, board: share(row.worst_leaked, row.worst_victims)),
    Column("its interval", lambda row, board: interval(row.worst_leak_rate_low, row.worst_leak_rate_high)),
    Column(
        "unknown",
        lambda row, board: "-" if row.worst_victims is None else str(row.worst_unknown or "-"),
        shown=lambda board: any(row.worst_unknown for row in board.rows),
    ),
    Column("defense", lambda row, board: row.defense, words=True),
    Column("strength", lambda row, board: strength(row.defense_args) or "-", words=True),
    Column("attack", attack_of, words=True),
    Column("leak rate", lambda row, board: share(row.leaked, row.victims)),
    Column("95 % interval", lambda row, board: interval(row.leak_rate_low, row.leak_rate_high)),
    Column("all images", lambda row, board: share(row.leaked_wholly, row.victims), shown=in_batches),
    Column(
        "diverged",
        lambda row, board: share(row.diverged, row.victims),
        shown=lambda board: any(row.diverged for row in board.rows),
    ),
    Column(
        "returned",
        lambda row, board: share(row.returned_leaked, row.victims),
        shown=lambda board: any(row.returned_leaked is not None for row in board.rows),
    ),
    Column(
        "not converged",
        lambda row, board: share(row.unconverged, row.victims),
        shown=lambda board: any(row.unconverged for row in board.rows),
    ),
    Column("PSNR", lambda row, board: score(row.psnr_mean, ".1f")),
    Column("SSIM", lambda row, board: score(row.ssim_mean, ".3f")),
    Column("LPIPS", lambda row, board: score(row.lpips_mean, ".3f")),
    Column("label acc.", label_accuracy),
    *(Column(f"label {name}", partial(label_score, f"label_{name}"), shown=tells_labels) for name in LABEL_SCORES),
    Column(
        "certified",
        lambda row, board: share(row.certified, row.victims * row.batch_size),
        shown=lambda board: any(row.certified is not None for row in board.rows),
    ),
    Column("evaluations", lambda row, board: f"{row.evaluations_mean:.0f}"),
    Column("s / victim", lambda row, board: f"{row.seconds_per_victim:.3f}"),
    Column(
        "training CPU s",
        lambda row, board: "-" if row.training_cpu_seconds is None else f"{row.training_cpu_seconds:.0f}",
        shown=lambda board: any(row.training_cpu_seconds is not None for row in board.rows),
    ),
)

NOTE = (
    f"Leak rate: share of victims with a leaked image, that is, one reconstructed with a PSNR of at least "
    f"{LEAKED_PSNR:.0f} dB and better than by any null baseline; one image of a batch is enough (all images: all of "
    "them leaked). Worst case: share of victims that leak to any of the attacks on the defense, with or without "
    "knowledge of it. Rank: by the worst case, with a victim of whom nothing is known as one that leaks; 1 plus the "
    "number of defenses that leak significantly less, so defenses share a rank unless an exact paired test on the same "
    "victims tells them apart (5 % level). Intervals are 95 % Wilson; the upper end of the worst case assumes that all "
    "unknown victims leak. Void: the cell cannot show that a defense protects, for the reason under the table. A "
    "victim on whom an attack diverged counts as not leaked in its row. "
    "PSNR in dB and SSIM are means over victims; evaluations are gradient evaluations of one victim. The last rows are "
    "null baselines, which do not look at the update."
)


SPARED = (
    "s / victim",
    "training CPU s",
    "evaluations",
    "label acc.",
    "LPIPS",
    "SSIM",
    "95 % interval",
    "its interval",
    "PSNR",
    "all images",
    "label instances",
    "label counts",
    "label existence",
)
"""Columns that a narrow terminal does without, the first one first."""


def grid(board: Board) -> Grid:
    """The table of one board, with the columns that it has."""
    columns = [column for column in COLUMNS if column.shown(board)]
    rows = [[column.text(row, board) for column in columns] for row in board.rows]
    rows += [[blank.get(column.name, "-") for column in columns] for blank in board.blank]
    words = {column.name for column in columns if column.words}
    return Grid([column.name for column in columns], rows, words, board.heading)


def print_table(leaderboard: Leaderboard, console: Console) -> None:
    """The leaderboard in the terminal, whole where it goes to a file."""
    grids = list(map(grid, leaderboard.boards))
    console = wide_enough(console, *(of_board.width for of_board in grids))
    for board, whole in zip(leaderboard.boards, grids, strict=True):
        whole.print(console, SPARED)
        for note in board.notes:
            console.print(f"- {printable(note)}", highlight=False, markup=False)
        console.print()
    for sentence in leaderboard.left_out:
        console.print(f"- {printable(sentence)}\n", highlight=False, markup=False)
    console.print(NOTE, style="dim", highlight=False)


def columns(leaderboard: Leaderboard) -> list[str]:
    """The names of all numbers of a row, but for those that no row has."""
    present = {name for row in leaderboard.rows for name in row.as_dict()}
    return [name for name in Row.__struct_fields__ if name in present or name not in SELDOM]


def as_csv(leaderboard: Leaderboard) -> str:
    """All columns of all rows."""
    names = columns(leaderboard)
    return grid_as_csv(names, ([getattr(row, name) for name in names] for row in leaderboard.rows))


def as_json(leaderboard: Leaderboard) -> str:
    """All columns of all rows, as a list."""
    return msgspec.json.format(msgspec.json.encode(rows(leaderboard)), indent=1).decode()


def rows(leaderboard: Leaderboard) -> list[dict[str, Any]]:
    """The same for programs here."""
    names = columns(leaderboard)
    return [{name: getattr(row, name) for name in names} for row in leaderboard.rows]


def as_markdown(leaderboard: Leaderboard, title: str, no_lpips: str | None) -> str:
    """A page with a table for each data set and model.

    Args:
        leaderboard: what it shows.
        title: of the page.
        no_lpips: why the column LPIPS is empty, where it is.
    """
    boards = [(board, grid(board).markdown()) for board in leaderboard.boards]
    numbers = {"title": title, "note": NOTE, "no_lpips": no_lpips, "left_out": leaderboard.left_out}
    return render("boards/leaderboard.md.j2", boards=boards, **numbers)


def write(folder: Path, found: Leaderboard, records: Sequence[Record], latex: bool = True) -> None:
    """leaderboard.csv, leaderboard.md and, where it is wanted, leaderboard.tex of the records."""
    title = folder.resolve().name
    write_whole(folder / "leaderboard.csv", as_csv(found).encode())
    write_whole(folder / "leaderboard.md", as_markdown(found, title, missing_lpips(records)).encode())
    if latex:
        write_whole(folder / "leaderboard.tex", as_latex(title, map(grid, found.boards)).encode())


def missing_lpips(records: Sequence[Record]) -> str | None:
    """Why the LPIPS column is empty, where images were scored and it is."""
    scored = (r["provenance"]["lpips"] for r in records if r["victims"][0]["psnr"])
    return next((reason for reason in scored if isinstance(reason, str)), None)
