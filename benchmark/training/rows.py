"""What the records of trainings say of each scenario and defense: a row with accuracy and what the defense costs."""

import json
import math
from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from benchmark.metrics.intervals import t_interval
from benchmark.store.store import Record
from benchmark.suite.nesting import part_as_text

Row = dict[str, Any]

VALIDATION, TEST = "validation", "test"

DID_NOT_ACT = "did not act"

Seeds = dict[int, Record]
"""Seed -> record."""


@dataclass
class Cell:
    """The records of one scenario and defense: learning rate -> seed -> record.

    Attributes:
        reported: those whose accuracy stands in the table.
        tuning: those that choose the learning rate; none where there was no choice, or in an older version.
        untrained: highest accuracy before the first round.
    """

    reported: dict[float, Seeds] = field(default_factory=dict)
    tuning: dict[float, Seeds] = field(default_factory=dict)
    untrained: float = 0.0

    def add(self, record: Record) -> None:
        """One more of its records."""
        config, begun = record["config"], record["curve"].get("accuracy", [])[:1]
        of_rate = self.tuning if config.get("tuning") else self.reported
        of_rate.setdefault(config["learning_rate"], {})[config["seed"]] = record
        self.untrained = max(self.untrained, *begun, 0.0)

    @property
    def rates(self) -> list[float]:
        """All learning rates that were tried, in order."""
        return sorted({*self.reported, *self.tuning})

    @property
    def chosen_on(self) -> str:
        """Which images chose the learning rate; nothing where there was no choice."""
        return "" if len(self.rates) == 1 else VALIDATION if self.tuning else TEST

    @property
    def tuning_seeds(self) -> int:
        """With how many seeds the learning rates that came nearest were tried."""
        return max(map(len, self.tuning.values()), default=0)

    @property
    def best(self) -> Seeds:
        """The reported records of the best learning rate."""
        return self.reported.get(best_rate(self.tuning or self.reported), {})


def rows(records: list[Record]) -> list[Row]:
    """A row for each scenario and defense, no defense first.

    The learning rate is no setting to compare: each defense stands with the best of those that it was trained with.

    Args:
        records: of any runs; see :func:`of_one_code` for those that count.

    Returns:
        Rows with the keys of :data:`KEYS`, ``privacy``, a sentence or nothing, ``config`` of one of its records,
        ``accuracies`` by seed, and the number of ``tuning_seeds``. Intervals are None for one seed, the loss where a
        run diverged, the difference where it would say nothing. There is no row where the best rate has no reported
        run yet.
    """
    scenarios: dict[str, dict[str, Cell]] = defaultdict(lambda: defaultdict(Cell))
    for record in of_one_code(records)[0]:
        scenarios[of_cell(record["config"], defense=None)][of_cell(record["config"])].add(record)
    table = []
    for scenario, cells in scenarios.items():
        untrained = max(cell.untrained for cell in cells.values())
        for name, cell in cells.items():
            if cell.best:
                control = cells.get(scenario, Cell()) if name != scenario else Cell()
                table.append(row(cell, control, untrained))
    return sorted(table, key=place)


def of_one_code(records: list[Record], current: Collection[str] | None = None) -> tuple[list[Record], list[str]]:
    """The records that make the table: of each scenario and defense those of one code and data.

    Args:
        records: of any runs.
        current: keys of those of the present code and data, which alone count; None where that is not known: then the
            newest record of a scenario and defense decides.

    Returns:
        One record of each configuration, and a sentence on the runs that no other record stands for, if there are any.
    """
    codes: dict[str, Any] = {}
    shown: dict[str, Record] = {}
    others: dict[str, str] = {}
    for record in sorted(records, key=lambda record: record["provenance"]["date"], reverse=True):
        config, code = record["config"], (record.get("code_sha256"), record.get("data_sha256"))
        if record["key"] in current if current is not None else codes.setdefault(of_cell(config), code) == code:
            shown.setdefault(as_text(config), record)
        else:
            others[as_text(config)] = label(config["defense"])
    left_out = [defense for config, defense in others.items() if config not in shown]
    of, runs = " and ".join(sorted(set(left_out))), "run" if len(left_out) == 1 else "runs"
    than = "newest" if current is None else "present"
    said = f"{len(left_out)} {runs} of {of} left out, because of other code than the {than}: run their suite again"
    return list(shown.values()), [said] if left_out else []


def of_cell(config: dict[str, Any], **changed: Any) -> str:
    """Which cell a run is of."""
    return as_text(config, seed=None, learning_rate=None, tuning=None, **changed)


def best_rate(found: dict[float, Seeds]) -> float:
    """The best learning rate of the finalists."""
    if not found:
        return math.nan
    return by_merit({rate: found[rate] for rate in finalists(found)})[0]


def finalists(found: dict[float, Seeds]) -> list[float]:
    """The two best learning rates, which every seed is tried with: the first seed alone may like an unsteady one."""
    return by_merit(found)[:2]


def by_merit(found: dict[float, Seeds]) -> list[float]:
    """Learning rates by mean accuracy over the seeds that each of them has, best first.

    Of equal ones the one of smaller loss is better, then the smaller one.

    Args:
        found: learning rate -> seed -> record.
    """
    common = set.intersection(*map(set, found.values()))

    def merit(rate: float) -> tuple[float, float, float]:
        chosen = [merit_of(record) for seed, record in found[rate].items() if seed in common or not common]
        accuracies, losses = zip(*chosen, strict=True) if chosen else ((0.0,), (math.inf,))
        return -fmean(accuracies), fmean(losses), rate

    return sorted(found, key=merit)


def merit_of(record: Record) -> tuple[float, float]:
    """Accuracy and loss that choose a learning rate: of the validation, or of the test in an older version."""
    if record["status"] == "diverged":
        return 0.0, math.inf
    judged = record.get("validation") or record
    return float(judged["accuracy"]), math.inf if judged["loss"] is None else float(judged["loss"])


def as_text(config: dict[str, Any], **changed: Any) -> str:
    """A configuration as a key."""
    return json.dumps(config | changed, sort_keys=True)


KEYS = (
    "data", "model", "algorithm", "clients", "clients_per_round", "rounds", "local_epochs", "batch_size",
    "decay", "server_momentum", "split", "batch_norm", "train_images", "validation_images", "test_images", "defense",
    "learning_rate", "learning_rates", "rate_chosen_on", "seeds", "diverged", "collapsed", "clients_changed",
    "entries_changed", "void", "validation_accuracy", "accuracy", "accuracy_low", "accuracy_high", "loss", "loss_low",
    "loss_high", "pairs", "difference", "difference_low", "difference_high", "seconds", "bytes", "client_seconds",
    "epsilon", "delta", "older",
)  # fmt: skip # a column for each would take a page
"""Accuracies, their differences and what was changed are shares; ``pairs`` counts the seeds of the difference;
``learning_rates`` are all that were tried; ``bytes`` and ``client_seconds`` are of a client in a round; ``epsilon`` is
that of the seed that has the largest, infinite where a defense gives no privacy at this strength, and None where it
never gives any; ``void`` says why a row says nothing of what its defense costs; ``older`` is 1 for records of an older
version, which lack some of this."""


def row(cell: Cell, control: Cell, untrained: float) -> Row:
    """The row of one scenario and defense.

    Args:
        cell: its records.
        control: those of the scenario without a defense; empty where it is the row itself.
        untrained: highest accuracy of an untrained network of the scenario.
    """
    by_seed, controls = dict(sorted(cell.best.items())), control.best
    records = list(by_seed.values())
    config, statuses = records[0]["config"], [status_of(record, untrained) for record in records]
    why = void(by_seed, control, untrained) if config["defense"] else ""
    pairs = [] if why or not config["defense"] else [seed for seed in by_seed if seed in controls]
    lost = {status: statuses.count(status) for status in ("diverged", "collapsed")}
    tested = records[0].get("images_tested")  # which older ones do not tell
    found = config | {key: label(config[key]) for key in ("data", "model", "defense")} | lost
    found |= {
        "decay": schedule(config),
        "split": split_of(config),
        "learning_rates": " ".join(f"{rate:g}" for rate in cell.rates),
        "rate_chosen_on": cell.chosen_on,
        "seeds": len(records),
        "older": int("majority" not in records[0]),
        "void": why,
        "pairs": len(pairs),
        "seconds": fmean(record["cost"]["seconds"] for record in records),
    } | worst_privacy(records)
    for key, of_key in (
        ("clients_changed", [record.get("clients_changed") for record in records]),
        ("entries_changed", [record.get("entries_changed") for record in records]),
        ("validation_accuracy", [merit_of(record)[0] for record in records if record.get("validation")]),
        ("accuracy", [accuracy(record) for record in records]),
        ("bytes", [record["cost"].get("client_bytes") for record in records]),
        ("client_seconds", [record["cost"].get("client_seconds") for record in records]),
        ("loss", [] if lost["diverged"] else [record["loss"] for record in records]),
        ("difference", [accuracy(by_seed[seed]) - accuracy(controls[seed]) for seed in pairs]),
    ):
        values = [value for value in of_key if value is not None]
        one_image = 1 / tested if key in ("accuracy", "difference") and tested else 0.0
        ends = (None if end is None else clipped(end, key) for end in t_interval(values, resolution=one_image))
        found |= {key: fmean(values) if values else None} | dict(zip((f"{key}_low", f"{key}_high"), ends, strict=True))
    # An older one has no validation images.
    beside = {"config": config, "accuracies": {seed: accuracy(one) for seed, one in by_seed.items()}}
    beside |= {"privacy": privacy(found["defense"], records), "tuning_seeds": cell.tuning_seeds}
    return {key: found.get(key) for key in KEYS} | beside


POSSIBLE = {"accuracy": (0.0, 1.0), "difference": (-1.0, 1.0), "loss": (0.0, math.inf)}
"""The least and the most that something can be."""


def clipped(end: float, key: str) -> float:
    """An end of an interval, or what is nearest to it of what is possible."""
    least, most = POSSIBLE.get(key, (-math.inf, math.inf))
    return min(max(end, least), most)


def worst_privacy(records: list[Record]) -> dict[str, Any]:
    """What the seed with the largest epsilon says of differential privacy; nothing where the defense gives none.

    Args:
        records: of a row.
    """
    given = [record["privacy"] for record in records if "privacy" in record]
    found = [one | {"epsilon": math.inf if one["epsilon"] is None else one["epsilon"]} for one in given]
    return max(found, key=lambda one: float(one["epsilon"]), default={})


def privacy(defense: str, records: list[Record]) -> str:
    """The sentence on the differential privacy of the runs of a row; empty where there is none.

    Args:
        defense: for people.
        records: of its seeds.
    """
    worst = worst_privacy(records)
    if not worst:
        return ""
    if worst["epsilon"] == math.inf:
        return f"{defense}: epsilon is infinite, which is no privacy."
    return (
        f"{defense}: epsilon {worst['epsilon']:.3g} at delta {worst['delta']:g} for each image of a client, after "
        f"{worst['steps']} steps of {100 * worst['sample_rate']:.3g} % of its images each, if each of these were drawn "
        "by itself (Poisson sampling), which shuffled batches are not."
    )


def void(by_seed: Seeds, control: Cell, untrained: float) -> str:
    """Why the records of a defense say nothing of what it costs; nothing where they do.

    Args:
        by_seed: the records that are reported.
        control: those without a defense.
        untrained: highest accuracy of an untrained network of the scenario.
    """
    if not any(acted(record, control) for record in by_seed.values()):
        return DID_NOT_ACT
    failed = [status_of(record, untrained) for record in control.best.values()]
    for status in ("diverged", "collapsed"):
        if count := failed.count(status):
            return f"no defense {status} in {count} of {len(failed)}"
    return ""


def acted(record: Record, control: Cell) -> bool:
    """Whether the defense changed anything in a run; in an older version, whether the run differs from no defense."""
    if record.get("entries_changed") is not None:
        return bool(record["entries_changed"] > 0)
    config = record["config"]
    without = control.reported.get(config["learning_rate"], {}).get(config["seed"])
    return (
        without is None
        or record["status"] != without["status"]
        or not record["curve"]
        or (record["curve"] != without["curve"])
    )


def status_of(record: Record, untrained: float) -> str:
    """``done``, ``collapsed`` or ``diverged``; in an older version a run that has collapsed is found by its end."""
    status = str(record["status"])
    older = "majority" not in record and bool(record["curve"])
    return "collapsed" if older and status == "done" and record["accuracy"] <= untrained else status


def accuracy(record: Record) -> float:
    """Of the last test; 0 where the run diverged."""
    return 0.0 if record["status"] == "diverged" else float(record["accuracy"])


def label(part: dict[str, Any] | None) -> str:
    """A class with its arguments, for people."""
    return "no defense" if part is None else part_as_text(part)


def schedule(config: dict[str, Any]) -> str | None:
    """How the learning rate of a training falls, and whether it rises before, for people; None where it stays."""
    falls: str | None = config.get("decay")
    return f"{falls or 'no'} (warm-up of {config['warm_up']} rounds)" if "warm_up" in config else falls


def split_of(config: dict[str, Any]) -> str:
    """How a training splits its images, for people."""
    return "iid" if config["split"] == "iid" else f"Dirichlet({config['split']['dirichlet']:g})"


def place(found: Row) -> tuple[Any, ...]:
    """Where a row stands: scenarios by their settings, and within them no defense, then defenses by strength."""
    name, _, args = found["defense"].partition("(")
    numbers = []
    for part in args.rstrip(")").split(", "):
        try:
            numbers.append((0, float(part.partition("=")[2]), part))
        except ValueError:
            numbers.append((1, 0.0, part))
    return *scenario_of(found), name != "no defense", name, numbers


def scenario_of(found: Row) -> tuple[str, ...]:
    """The settings of a row's scenario."""
    return tuple(str(found[key]) for key in KEYS[: KEYS.index("defense")])
