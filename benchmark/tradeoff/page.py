"""The trade-off of leak rate and accuracy as files: a page, tables for programs and papers, and the figure."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmark.boards.grid import Grid, as_csv, as_latex
from benchmark.boards.leaderboard import Leaderboard, of_records
from benchmark.boards.outcome import listed
from benchmark.boards.table import interval, share
from benchmark.boards.template import render
from benchmark.store.declined import declined_in
from benchmark.store.schema import attack_scores
from benchmark.store.store import ATTACKS, TRAININGS, Record, keys_in, read_all, write_whole
from benchmark.tradeoff.figure import figure
from benchmark.tradeoff.one_point import COSTS_SAID, sentences
from benchmark.tradeoff.points import Point, TradeOff, trade_offs
from benchmark.training import table as training

NOTE = (
    "Leak rate: share of the victims that leak to any of the attacks on the defense, with its 95 % Wilson interval, "
    "up to where all that are unknown leak, too: no attack that knows the defense converged on them. Accuracy is a "
    "mean over seeds, with a 95 % t interval, cut to what is possible. The difference is to no defense, in "
    "percentage points, paired by seed. Rate is the learning rate; where it is the smallest or the largest tried, "
    f"another may cost less. {training.COSTS} On the front: no other defense leaks and costs no more and is better in "
    "one of the two, with the unknown as victims that leak. Not told apart: another one is, but perhaps by chance. "
    "Dominated: another one leaks and costs no more, and significantly less in one of the two, on the same victims "
    "(McNemar's exact test) or the same seeds (Student's t), each at the 2.5 % level and each pair for itself; a "
    "victim of whom nothing is known counts against the better one. What is not judged is never on the front."
)


def trained(column: str) -> Callable[[Point, TradeOff], str]:
    """A column of the table of training; "-" where it says nothing."""
    return lambda point, _: training.COLUMNS[column](point.row) or "-"


KNOWN_COSTS = ("sent", "ms / client", "epsilon")
"""Columns that a table has in any case."""

COLUMNS: dict[str, Callable[[Point, TradeOff], str]] = {
    "rank": lambda point, _: "-" if point.rank is None else str(point.rank),
    "defense": lambda point, _: point.kind,
    "strength": lambda point, _: point.strength or "-",
    "leak rate": lambda point, _: share(len(point.leaking), len(point.victims)),
    "its interval": lambda point, _: interval(*point.leak_interval),
    "unknown": lambda point, _: str(len(point.unknown) or "-"),
    "rate": trained("rate"),
    "accuracy %": trained("accuracy %"),
    "seeds": lambda point, _: str(point.row["seeds"]),
    "difference": lambda point, _: "-" if point.cost is None else training.difference(point.row),
    **{name: trained(name) for name in KNOWN_COSTS},
    "front": lambda point, found: found.standing(point) or "-",
    "dominated by": lambda point, found: listed([one.name for one in found.dominating(point)]) or "-",
    "not judged": lambda point, _: point.void or "-",
}
"""The text of a point in each column."""

WORDS = {"rank", "defense", "strength", "front", "dominated by", "not judged"}


def grid(found: TradeOff) -> Grid:
    """The table for people; without columns that are empty."""
    rows = [[text(point, found) for text in COLUMNS.values()] for point in found.points]
    empty = {name for name, column in zip(COLUMNS, zip(*rows, strict=True), strict=True) if set(column) == {"-"}}
    return Grid(list(COLUMNS), rows, WORDS, found.attacked).without(empty.difference(KNOWN_COSTS))


def numbers(found: TradeOff, point: Point) -> dict[str, Any]:
    """A point for programs."""
    leak, accuracy = point.leak_interval, point.accuracy_interval
    return {
        "attacked": found.attacked,
        "trained": found.trained,
        "defense": point.kind,
        "defense_args": {key: value for key, value in (point.defense or {}).items() if key != "class"},
        "rank": point.rank,
        "victims": len(point.victims),
        "leaked": len(point.leaking),
        "unknown": len(point.unknown),
        "leak_rate": point.leak,
        "leak_rate_low": leak[0],
        "leak_rate_high": leak[1],
        "seeds": point.row["seeds"],
        "accuracy": point.accuracy,
        "accuracy_low": accuracy[0],
        "accuracy_high": accuracy[1],
        **{key: point.row[key] for key in ("difference", "difference_low", "difference_high")},
        **{key: point.row[key] for key in ("bytes", "client_seconds", "epsilon", "delta")},
        "front": found.standing(point),
        "dominated_by": "; ".join(one.name for one in found.dominating(point)),
        "void": point.void,
    }


def write_beside(folder: Path, links: bool = True, empty: bool = True) -> list[dict[str, Any]]:
    """Writes the trade-off of a folder that holds records of attacks and of trainings, and nothing in another.

    Args:
        folder: of runs.
        links: whether records that are symbolic links count.
        empty: whether a page is written, too, that says why nothing can be compared, or no defense judged.

    Returns:
        The points, as :func:`numbers` has them.
    """
    if all(keys_in(folder / shelf.name) for shelf in (ATTACKS, TRAININGS)):
        records = read_all(folder, attack_scores, links=links)
        found = of_records(records, intervals=False, declined=declined_in(folder))
        return write(folder, found, read_all(folder, TRAININGS.parse, links, TRAININGS), empty)
    return []


def write(
    folder: Path, leaderboard: Leaderboard, trainings: Sequence[Record], empty: bool = True
) -> list[dict[str, Any]]:
    """Writes tradeoff.md, .csv, .tex, .png and .pdf of a folder.

    Where nothing can be compared, the page says why and is the only file of the trade-off.

    Args:
        folder: of a run.
        leaderboard: of its attacks.
        trainings: its records of federated trainings.
        empty: whether that page is written, or one on which no defense can be judged.

    Returns:
        The points, as :func:`numbers` has them.
    """
    found, without, left_out = trade_offs(leaderboard.boards, trainings)
    if not (empty or any(point.defense and not point.void for one in found for point in one.points)):
        return []
    title = folder.resolve().name
    sections = [(one, sentences(one.points), grid(one)) for one in found]
    page = render(
        "tradeoff/tradeoff.md.j2",
        title=title,
        reading=COSTS_SAID,
        note=NOTE,
        sections=sections,
        without=without,
        left_out=left_out,
    )
    files = {"tradeoff.md": page.encode()}
    rows = [numbers(one, point) for one in found for point in one.points]
    if found:
        files |= {
            "tradeoff.csv": as_csv(list(rows[0]), (row.values() for row in rows)).encode(),
            "tradeoff.tex": as_latex(title, [of_one for _, _, of_one in sections]).encode(),
            **{f"tradeoff.{ending}": content for ending, content in figure(found).items()},
        }
    for name, content in files.items():
        write_whole(folder / name, content)
    return rows
