"""The published board of all defenses, short: what leaks in the worst case, and which accuracy is left."""

import csv
import io
import itertools
import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmark.boards.leaderboard import Row, of_records
from benchmark.boards.outcome import strength
from benchmark.errors import UsageError
from benchmark.store.declined import declined_in
from benchmark.store.store import Record
from benchmark.suite.documents import regular
from benchmark.tradeoff.points import TRAINING

TRADE_OFF = "tradeoff.csv"
"""The table of leak rate and accuracy in the folder of a run."""

MOST = 300
"""Lines of all scenarios that are shown."""

Defense = tuple[str, str]
"""Class and arguments as JSON; ``none`` without."""


@dataclass(frozen=True)
class Line:
    """A defense at one strength.

    Attributes:
        rank: on the board; None where nothing was shown to protect.
        defense: its class, or ``none``.
        strength: its arguments.
        leak: worst leak rate and the ends of its interval.
        unknown: victims of whom nothing is known.
        victims: that were attacked.
        accuracies: of each scenario of training, the mean over seeds and the ends of its interval.
    """

    rank: int | None
    defense: str
    strength: str
    leak: tuple[float, float, float]
    unknown: int
    victims: int
    accuracies: list[tuple[float, float, float]]


def scenarios(records: Sequence[Record], folder: Path) -> dict[str, list[Line]]:
    """The defenses of each scenario in the order of the board, by the heading of the scenario.

    Args:
        records: of the published attacks.
        folder: that they are in, with the table of the trade-off where there are trainings.

    Raises:
        UsageError: that table is damaged.
    """
    trained = accuracies(folder / TRADE_OFF)
    found = {}
    for board in of_records(records, intervals=False, declined=declined_in(folder)).boards:
        worst = {named(row.defense, row.defense_args): row for row in board.rows if row.worst_leak_rate is not None}
        found[board.heading] = [line(row, trained[board.heading, *which]) for which, row in worst.items()]
    return found


def not_run(folder: Path) -> int:
    """How many cells of the suite of a board have no records yet.

    Raises:
        UsageError: the file that names them is damaged.
    """
    return sum(not one.reason for one in declined_in(folder))


def shown(found: dict[str, list[Line]]) -> dict[str, list[Line]]:
    """The first scenarios, of which a page shows all defenses: no more than :data:`MOST` lines."""
    ends = itertools.accumulate(map(len, found.values()))
    return {heading: lines for (heading, lines), end in zip(found.items(), ends, strict=True) if end <= MOST}


def line(row: Row, trained: list[tuple[float, float, float]]) -> Line:
    """What a row of the board says of its defense."""
    rate, low, high = row.worst_leak_rate, row.worst_leak_rate_low, row.worst_leak_rate_high
    assert rate is not None and low is not None and high is not None and row.worst_victims is not None
    how = strength({"class": row.defense, **row.defense_args})
    return Line(row.rank, row.defense, how, (rate, low, high), row.worst_unknown, row.worst_victims, trained)


def named(defense: str, args: dict[str, Any]) -> Defense:
    """The same for the same class and arguments."""
    return defense, json.dumps(args, sort_keys=True)


def accuracies(path: Path) -> dict[tuple[str, ...], list[tuple[float, float, float]]]:
    """The accuracies in a table of the trade-off, by the heading of the board and the defense; none without a file.

    Raises:
        UsageError: it is damaged.
    """
    found: dict[tuple[str, ...], list[tuple[float, float, float]]] = defaultdict(list)
    if not path.exists():
        return found
    try:
        regular(path)
        for row in csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"))):
            if row["void"].startswith(TRAINING):  # its accuracy says nothing
                continue
            defense = named(
                "none" if row["defense"] == "no defense" else row["defense"], json.loads(row["defense_args"])
            )
            rate, low, high = (float(row[key]) for key in ("accuracy", "accuracy_low", "accuracy_high"))
            found[row["attacked"], *defense].append((rate, low, high))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path} cannot be read ({error}): publish the run again") from None
    return found
