"""Leak rate over accuracy: what each defense protects and what it costs, and which of them no other one beats."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from benchmark.boards.leaderboard import Board
from benchmark.boards.outcome import Names, counted, listed, strength
from benchmark.boards.ranking import LEVEL, Standing
from benchmark.metrics.intervals import mcnemar, partly_known, t_interval
from benchmark.store.store import Record
from benchmark.training import rows as training
from benchmark.training import table

NOTHING_TRAINED = (
    "There is no trade-off of leak rate and accuracy, because this folder holds no usable records of federated "
    "trainings: run leakboard train into it."
)
NOT_TRAINED = "No training was run with any defense of these boards, so that nothing is known of costs there"

NOTHING_SHARED = (
    "There is no trade-off of leak rate and accuracy, because no defense was both attacked and trained with, at the "
    "same strength, on the same data set and network."
)

MISSING = "some attacks of the board are missing here, so it has no rank"

FRONT, NEAR, DOMINATED = "on the front", "not told apart", "dominated"
"""Where a point stands: no other one is better; one is, but perhaps by chance; one is significantly better."""

TRAINING = "training: "
"""Begins what makes a point void because of how it was trained."""

UNPAIRED = "no training without a defense has its seeds"

EACH = LEVEL / 2
"""Two-sided level of the test of the leak rates and of that of the accuracies, either of which can tell two apart."""


@dataclass(frozen=True)
class Point:
    """A defense, or none, that was both attacked and trained with.

    Attributes:
        defense: class and arguments; None for no defense.
        victims: that were attacked.
        leaking: those that leak to any of the attacks.
        unknown: those of whom nothing is known, as attacks that know the defense did not converge.
        rank: on the board of attacks.
        row: of the table of training, of the same defense.
        void: why the point says nothing; empty where it does.
    """

    defense: dict[str, Any] | None
    victims: frozenset[int]
    leaking: frozenset[int]
    unknown: frozenset[int]
    rank: int | None
    row: training.Row
    void: str

    @property
    def kind(self) -> str:
        """The class of the defense."""
        return self.defense["class"] if self.defense else "no defense"

    @property
    def strength(self) -> str:
        """The arguments of the defense, without those that are off."""
        return strength(self.defense) if self.defense else ""

    @property
    def name(self) -> str:
        """As in "Masking ratio=0.2"."""
        return Names.defense(self.defense)

    @property
    def found(self) -> str:
        """How many of the victims leak, for people."""
        return counted(len(self.leaking), len(self.unknown), len(self.victims))

    @property
    def leak(self) -> float:
        """Share of the victims that leak."""
        return len(self.leaking) / len(self.victims)

    @property
    def leak_interval(self) -> tuple[float, float]:
        """Of 95 %, by Wilson, up to where all victims of whom nothing is known leak, too."""
        return partly_known(len(self.leaking), len(self.unknown), len(self.victims))

    @property
    def may_leak(self) -> float:
        """Share of the victims that leak or of whom nothing is known."""
        return len(self.leaking | self.unknown) / len(self.victims)

    @property
    def accuracy(self) -> float:
        """Mean over seeds, a share."""
        return float(self.row["accuracy"])

    @property
    def accuracy_interval(self) -> tuple[float, float]:
        """Of 95 %, of the mean over seeds; of one seed that number twice."""
        low, high = self.row["accuracy_low"], self.row["accuracy_high"]
        return (self.accuracy,) * 2 if low is None else (low, high)

    @property
    def cost(self) -> float | None:
        """Accuracy that is lost to the defense, a share, paired by seed; None where that is unknown."""
        return None if self.row["difference"] is None else -float(self.row["difference"])


@dataclass(frozen=True)
class TradeOff:
    """The points of one board of attacks and one scenario of training, by falling accuracy.

    Attributes:
        attacked: heading of the board.
        trained: heading of the training.
        notes: sentences on what differs between the two, and on what the numbers cannot carry.
        points: those that are void, too.
    """

    attacked: str
    trained: str
    notes: list[str]
    points: list[Point]

    @cached_property
    def judged(self) -> list[Point]:
        """The points that are not void."""
        return [point for point in self.points if not point.void]

    def dominating(self, point: Point) -> list[Point]:
        """The points that dominate a point; void ones neither dominate nor are dominated."""
        return [] if point.void else [other for other in self.judged if dominates(other, point)]

    def standing(self, point: Point) -> str:
        """:data:`FRONT`, :data:`NEAR` or :data:`DOMINATED`; nothing for a void point."""
        if point.void:
            return ""
        if not any(is_better(other, point) for other in self.judged):
            return FRONT
        return DOMINATED if self.dominating(point) else NEAR

    @cached_property
    def front(self) -> list[Point]:
        """The points on the front, by rising accuracy."""
        return [point for point in reversed(self.points) if self.standing(point) == FRONT]


def is_better(one: Point, other: Point) -> bool:
    """Whether one leaks and costs no more than another and is better in one, by the numbers alone.

    A victim of whom nothing is known counts as one that leaks, as in the ranks.
    """
    no_worse = one.may_leak <= other.may_leak and one.accuracy >= other.accuracy
    return no_worse and (one.may_leak, one.accuracy) != (other.may_leak, other.accuracy)


def dominates(one: Point, other: Point) -> bool:
    """Whether one leaks and costs no more than another by the numbers, and significantly less in one of the two.

    Leak rates are compared on the same victims (McNemar's exact test) and accuracies on the same seeds (Student's t of
    their differences), each at half the level: of two defenses that are equal in both, one dominates the other with a
    probability of 5 % at most. A victim of ``one`` of whom nothing is known counts as leaking. Seeds that all differ
    by the same tell nothing of their spread, and so decide nothing.
    """
    common = one.victims & other.victims
    may_leak, leaking = (one.leaking | one.unknown) & common, other.leaking & common
    more, fewer = len(may_leak - leaking), len(leaking - may_leak)
    if more > fewer or not is_better(one, other):
        return False
    accuracies, others = one.row["accuracies"], other.row["accuracies"]
    gains = [round(accuracies[seed] - others[seed], 9) for seed in accuracies.keys() & others.keys()]
    low, _ = t_interval(gains, 1 - EACH) if len(set(gains)) > 1 else (None, None)
    return mcnemar(more, fewer) <= EACH or (low is not None and low > 0)


def trade_offs(boards: Sequence[Board], trainings: Sequence[Record]) -> tuple[list[TradeOff], str | None, list[str]]:
    """What can be compared.

    Args:
        boards: of attacks.
        trainings: records of federated trainings.

    Returns:
        For each board those of the scenarios of training that fit it best, of the same data set and network; a sentence
        where there is none; sentences on boards without one, and on trainings that were left out.
    """
    if not trainings:
        return [], NOTHING_TRAINED, []
    scenarios = table.boards(training.rows(list(trainings)))
    found: list[TradeOff] = []
    bare = []
    for board in (board for board in boards if board.standings):
        config, fitting = board.standings[0].outcomes[0].config, []
        for heading, rows in scenarios.items():
            differing, points = differences(config, rows), points_of(board.standings, rows)
            if differing is not None and any(point.defense for point in points):
                said = [*notes(differing, points), *apart(board.standings, rows)]
                said += [*table.below_a_defense(rows), *table.one_rate(rows)]
                made = TradeOff(board.heading, heading, said, points)
                fitting.append(([part in differing for part in PARTS], made))
        best = min((distance for distance, _ in fitting), default=[])
        found += [made for distance, made in fitting if distance == best]
        bare += [] if fitting else [board.heading]
    left_out = training.of_one_code(list(trainings))[1]
    if not found:
        return [], NOTHING_SHARED, left_out
    return found, None, [*([f"{NOT_TRAINED}: {'; '.join(bare)}"] if bare else []), *left_out]


def points_of(standings: Sequence[Standing], rows: Sequence[training.Row]) -> list[Point]:
    """The defenses that were both attacked and trained with, in one scenario of each."""
    trained = {as_key(row["config"]["defense"]): row for row in rows}
    pairs = [(one, trained.get(as_key(one.outcomes[0].config["defense"]))) for one in standings]
    points = [point(standing, row) for standing, row in pairs if row]
    return sorted(points, key=lambda one: (-one.accuracy, one.leak, one.name))


def point(standing: Standing, row: training.Row) -> Point:
    """A defense with its attacks and its trainings."""
    defense, failed = row["config"]["defense"], [key for key in ("diverged", "collapsed") if row[key]]
    alone = f"{failed[0]} in {row[failed[0]]} of {row['seeds']}" if failed and not defense else ""
    unranked = "" if standing.rank is not None else standing.unranked or MISSING
    void = row["void"] or alone
    said = [f"{TRAINING}{void}"] if void else [UNPAIRED] if defense and row["difference"] is None else []
    said += [unranked] if unranked else []
    return Point(defense, standing.indices, standing.worst, standing.unknown, standing.rank, row, "; ".join(said))


def as_key(defense: dict[str, Any] | None) -> str:
    """The same for the same class and arguments, in any order."""
    return json.dumps(defense, sort_keys=True)


PARTS = ("network", "data set", "protocol", "local epochs", "batch size", "learning rate")
"""In which a board and a training can differ, what weighs most first."""


def differences(attacked: dict[str, Any], rows: Sequence[training.Row]) -> dict[str, tuple[str, str]] | None:
    """In which of :data:`PARTS` a board and a training differ, as texts; None where data set or network are others.

    Args:
        attacked: configuration of a record of the board.
        rows: of the training.
    """
    trained = rows[0]["config"]
    if any(attacked[part]["class"] != trained[part]["class"] for part in ("data", "model")):
        return None
    local = attacked.get("protocol")
    rates = ", ".join(f"{rate:g}" for rate in sorted({row["learning_rate"] for row in rows}))
    both = (
        (training.label(attacked["model"]), training.label(trained["model"])),
        (training.label(attacked["data"]), training.label(trained["data"])),
        ("FedAvg" if local else "FedSGD", trained["algorithm"]),
        (local["epochs"] if local else None, trained["local_epochs"]),
        ((local or {}).get("batch_size") or attacked["batch_size"], trained["batch_size"]),
        (f"{local['learning_rate']:g}" if local else rates, rates),  # with FedSGD, that of the server
    )
    found = {name: (str(one), str(other)) for name, (one, other) in zip(PARTS, both, strict=True) if one != other}
    if "protocol" in found:  # of which the other one has no epochs, and a rate that is the server's
        found = {name: texts for name, texts in found.items() if name not in ("local epochs", "learning rate")}
    return found


def notes(differing: dict[str, tuple[str, str]], points: Sequence[Point]) -> list[str]:
    """Sentences on what differs, and on what the accuracies cannot carry."""
    rows = [point.row for point in points]
    said = [
        f"Attacks and trainings differ in their {part}: {one} and {other}." for part, (one, other) in differing.items()
    ]
    if any(row["rate_chosen_on"] == training.TEST for row in rows):
        said.append(table.CHOSEN_ON_TEST)
    return [*said, *dict.fromkeys(row["privacy"] for row in rows if row["privacy"])]


def apart(standings: Sequence[Standing], rows: Sequence[training.Row]) -> list[str]:
    """Sentences on the defenses that were attacked alone or trained with alone, which are no points."""
    both = [[one.outcomes[0].config["defense"] for one in standings], [row["config"]["defense"] for row in rows]]
    attacked, trained = ({as_key(one): Names.defense(one) for one in defenses} for defenses in both)
    sides = (("Attacked but not trained with", attacked, trained), ("Trained with but not attacked", trained, attacked))
    return [
        f"{side}: {listed(alone)}."
        for side, own, others in sides
        if (alone := [name for key, name in own.items() if key not in others])
    ]
