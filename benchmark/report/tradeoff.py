"""Leak rate over accuracy: the defenses that were both attacked and trained with, each a point with two intervals."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from benchmark.boards.leaderboard import Board, Row
from benchmark.store.store import Record
from benchmark.training import table as training

NOTHING_TRAINED = (
    "There is no trade-off of leak rate and accuracy, because this folder holds no usable records of federated "
    "trainings: run leakboard train into it."
)
NOTHING_SHARED = (
    "There is no trade-off of leak rate and accuracy, because no defense was both attacked and trained with, at the "
    "same strength, on the same data set and network."
)

UNRANKED = "it has no rank on the board, which says why"


@dataclass(frozen=True)
class Point:
    """A defense: both numbers are shares, each with the ends of its 95 % interval; why it says nothing, if so."""

    name: str
    leak: float
    leak_low: float
    leak_high: float
    accuracy: float
    accuracy_low: float
    accuracy_high: float
    seeds: int
    void: str


@dataclass(frozen=True)
class TradeOff:
    """The points of one board and one scenario of training.

    Attributes:
        attacked: heading of the board.
        trained: heading of the training.
        differ: whether data set or network have other arguments in the two.
        points: by falling accuracy.
    """

    attacked: str
    trained: str
    differ: bool
    points: list[Point]

    @property
    def values(self) -> list[dict[str, Any]]:
        """The points of the plot, which has none that says nothing, and where their names stand."""
        plotted = [point for point in self.points if not point.void]
        return [asdict(one) | place for one, place in zip(plotted, places(plotted), strict=True)]


HEIGHT, LINE, FARTHEST = 340, 13, 8
"""Pixels of the plot and of a line of text, and lines that a name stands away from its point at most."""


def places(points: Sequence[Point]) -> list[dict[str, Any]]:
    """The name beside each point: towards the middle of the plot, and not on another name.

    Where there is no room it is left out; then it is in the legend and in the tooltip.
    """
    accuracies = [point.accuracy for point in points]
    middle = (min(accuracies) + max(accuracies)) / 2 if points else 0.0
    found, taken = [], list[float]()
    for one in points:
        at, away = HEIGHT * (1 - one.leak), -LINE if one.leak <= 0.5 else LINE
        tried = (0.7 * away + line * away for line in range(FARTHEST))
        down = next((dy for dy in tried if all(abs(at + dy - other) >= LINE for other in taken)), None)
        if down is not None:
            taken.append(at + down)
        side = {"align": "right", "dx": -8} if one.accuracy > middle else {"align": "left", "dx": 8}
        found.append({"label": "" if down is None else one.name, "dy": down or 0, **side})
    return found


def trade_offs(boards: Sequence[Board], trainings: Sequence[Record]) -> tuple[list[TradeOff], str | None, list[str]]:
    """What can be compared.

    Args:
        boards: of attacks.
        trainings: records of federated trainings.

    Returns:
        One for each board and scenario of training of the same data set and network; a sentence where there is none;
        sentences on trainings that were left out.
    """
    if not trainings:
        return [], NOTHING_TRAINED, []
    _, left_out = training.of_one_code(list(trainings))
    specs = {training.label(spec): spec for record in trainings for spec in [record["config"]["defense"]]}
    found = []
    for board in boards:
        attacked = worst_of(board)
        for trained, rows in training.boards(training.rows(list(trainings))).items():
            pairs = [(attacked.get(key(specs[row["defense"]])), row) for row in rows]
            points = [point(worst, row) for worst, row in pairs if worst and same_network(worst, row)]
            if any(one.name != training.label(None) for one in points):
                points.sort(key=lambda one: (-one.accuracy, one.leak, one.name))
                found.append(TradeOff(board.heading, trained, differ(board.rows[0], rows[0]), points))
    return found, None if found else NOTHING_SHARED, left_out


def worst_of(board: Board) -> dict[str, Row]:
    """A row with the worst case of each defense."""
    found: dict[str, Row] = {}
    for row in board.rows:
        if row.worst_leak_rate is not None:
            spec = None if row.defense == "none" else {"class": row.defense, **row.defense_args}
            found.setdefault(key(spec), row)
    return found


def key(defense: dict[str, Any] | None) -> str:
    """The same for the same class and arguments, in any order."""
    return json.dumps(defense, sort_keys=True)


def differ(attacked: Row, trained: dict[str, Any]) -> bool:
    """Whether data set or network have other arguments in the two."""
    parts = (("data", attacked.dataset, attacked.data_args), ("model", attacked.model, attacked.model_args))
    return any(training.label({"class": name, **args}) != trained[key] for key, name, args in parts)


def same_network(attacked: Row, trained: dict[str, Any]) -> bool:
    """Whether data set and network are of the same classes."""
    return (attacked.dataset, attacked.model) == tuple(trained[key].partition("(")[0] for key in ("data", "model"))


def point(attacked: Row, trained: dict[str, Any]) -> Point:
    """A defense; without an interval of its accuracy where there was one seed."""
    accuracy = trained["accuracy"]
    low, high = trained["accuracy_low"], trained["accuracy_high"]
    assert attacked.worst_leak_rate is not None  # of worst_of
    return Point(
        name=trained["defense"],
        leak=attacked.worst_leak_rate,
        leak_low=attacked.worst_leak_rate_low or 0.0,
        leak_high=1.0 if attacked.worst_leak_rate_high is None else attacked.worst_leak_rate_high,
        accuracy=accuracy,
        accuracy_low=accuracy if low is None else max(0.0, low),
        accuracy_high=accuracy if high is None else min(1.0, high),
        seeds=trained["seeds"],
        void=trained["void"] or (UNRANKED if attacked.rank is None else ""),
    )
