"""The table of a training, from its records alone: accuracy by scenario and defense, and what the defense costs."""

import json
import math
from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmark.boards.grid import Grid
from benchmark.boards.grid import as_csv as grid_as_csv
from benchmark.boards.outcome import listed
from benchmark.boards.template import render
from benchmark.metrics.intervals import t_interval
from benchmark.store.store import Record, write_whole
from benchmark.suite.nesting import part_as_text

Row = dict[str, Any]

VALIDATION, TEST = "validation", "test"

DID_NOT_ACT = "did not act"

NOTE = (
    "Accuracy and loss are of the test images after the last round, as means over n seeds, with the part of a 95 % t "
    "interval over seeds that is possible, as accuracies are from 0 to 100 %. Rate is the learning rate. The "
    "difference is to no defense, in percentage points, paired by seed. Changed are the shares of the clients' "
    "updates, and of their entries, that the defense changed by more than rounding: a defense that changed none did "
    "not act, and its row is void: it says nothing about what the defense costs. A run that ends at or below the "
    "accuracy of always predicting the most frequent class has collapsed; it counts with its accuracy. A diverged run"
    " (NaN or infinity) counts as accuracy 0. Where a run without a defense collapsed or diverged, no difference is "
    "given."
)

CHOSEN_ON_TEST = (
    "Rates in records of an older version are the best on the very test images and seeds that are reported: those "
    "accuracies are too high, and differences between them are uncertain by as much."
)

OLDER = (
    "Records of an older version do not say whether a defense acted or a run collapsed: there, a defense did not act "
    "where accuracy and loss are those of no defense at every test of every seed, and a run has collapsed where it "
    "ends no better than an untrained network of its scenario."
)


ONE_POINT = 0.01
"""Of accuracy, as a share."""

SMALL, LARGE, OPEN = "less than a point", "more than a point", "open"
"""What a defense costs where the whole interval of the cost is on one side of :data:`ONE_POINT`, or not."""

COSTS = (
    "Sent is what a client sends in a round, in the coding that suits its defense; ms / client is how long it works "
    "for that."
)


def note(table: list[Row]) -> str:
    """What the columns of a table mean, and what its rows cannot carry."""
    costs = [COSTS] if any(one["bytes"] is not None for one in table) else []
    older = [OLDER] if any(one["older"] for one in table) else []
    guaranteed = dict.fromkeys(one["privacy"] for one in table if one["privacy"])
    return " ".join([NOTE, *costs, *how_chosen(table), *below_a_defense(table), *older, *guaranteed])


def how_chosen(table: list[Row]) -> list[str]:
    """Sentences on how the learning rates were chosen; none where there was no choice."""
    said, seeds = [], max((one["tuning_seeds"] for one in table), default=0)
    if seeds:
        two = f"the two best on validation images with {seeds}, and the better of them"
        then = two if seeds > 1 else "and the best on validation images"
        said.append(
            f"Where several rates were tried, each was trained with one tuning seed, {then} with the n seeds reported "
            "here; validation images belong to no client and are not test images, and the tuning seeds are not "
            "reported."
        )
    return said + [CHOSEN_ON_TEST] * any(one["rate_chosen_on"] == TEST for one in table)


def below_a_defense(table: list[Row]) -> list[str]:
    """A sentence on the controls that end below a defense at another learning rate, if there are any: their own may be
    badly chosen."""
    said, seeds = [], set[int]()
    for control, *others in boards(table).values():  # no defense is first, if it is there
        if control["config"]["defense"] is None and control["rate_chosen_on"] == VALIDATION:
            above = [one for one in others if one["learning_rate"] != control["learning_rate"]]
            above = [one for one in above if one["accuracy"] > control["accuracy"]]
            if above:
                above.sort(key=lambda one: -float(one["accuracy"]))
                with_one = [f"{at_rate(one)} with {one['defense']}" for one in above]
                said.append(f"{network_of(control)} ({at_rate(control)}, but {listed(with_one)})")
                seeds.add(control["tuning_seeds"])
    if not said:
        return []
    by = "one tuning seed" if seeds == {1} else f"at most {max(seeds)} tuning seeds"
    return [
        f"Without a defense these networks end below what they reach with one at another rate: {'; '.join(said)}. The "
        f"rate of no defense was chosen with {by} and may not be its best there: then defenses cost more than these "
        "differences say."
    ]


def at_rate(found: Row) -> str:
    """The accuracy of a row and its learning rate, for a sentence."""
    return f"{100 * found['accuracy']:.1f} % at rate {found['learning_rate']:g}"


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
        ends = (end if end is None else clipped(end, key) for end in t_interval(values))
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


def data_of(found: Row) -> str:
    """The class of a row's data."""
    return str(found["data"]).partition("(")[0]


def network(found: Row) -> str:
    """What was trained, and how."""
    split = "" if found["split"] == "iid" else f", {found['split']}"
    return f"{found['model'].partition('(')[0]} {found['algorithm']}{split}"


def network_of(found: Row) -> str:
    """What was trained, on which data, and how."""
    return f"{network(found)} on {data_of(found)}"


def heading(found: Row) -> str:
    """A row's scenario, for people."""
    clients = f"{found['clients']} clients"
    if found["clients_per_round"] < found["clients"]:
        clients += f", {found['clients_per_round']} in a round"
    epochs = f", {found['local_epochs']} local epochs" if (found["local_epochs"] or 1) > 1 else ""
    kind, _, rises = (found["decay"] or "").partition(" ")
    falls = f", {kind} decay{rises and ' '}{rises}" if kind else ""
    momentum = f", server momentum {found['server_momentum']:g}" if found["server_momentum"] else ""
    protected = ", BatchNorm protected" if found["batch_norm"] == "include" else ""
    return (
        f"{found['data']}, {found['model']}: {found['algorithm']}, {clients} ({found['split']}), "
        f"{found['rounds']} rounds{epochs}, batches of {found['batch_size']}{falls}{momentum}{protected}"
    )


def boards(table: list[Row]) -> dict[str, list[Row]]:
    """The rows of each scenario, under its heading."""
    found: dict[tuple[str, ...], list[Row]] = {}
    for one in table:
        found.setdefault(scenario_of(one), []).append(one)
    named: dict[str, list[Row]] = {}
    for board in found.values():
        title = heading(board[0])
        caps = [f"{key} {board[0][key]}" for key in KEYS if key.endswith("_images") and board[0][key]]
        named[", ".join([title, *caps])] = board
    return named


def changed(share: float | None) -> str:
    """A share in percent that is not rounded to none or to all; nothing where it is unknown."""
    if share is None:
        return ""
    if 0 < share < 5e-4:
        return "< 0.1 %"
    return "> 99.9 %" if 0.9995 <= share < 1 else f"{100 * share:.3g} %"


def size(count: float) -> str:
    """A number of bytes, for people."""
    return f"{count / 1000:.3g} kB" if count < 1e6 else f"{count / 1e6:.3g} MB"


def rate(found: Row) -> str:
    """The learning rate, and whether a larger or smaller one than those tried may be better."""
    own, tried = f"{found['learning_rate']:g}", found["learning_rates"].split()
    end = {tried[0]: " (smallest tried)", tried[-1]: " (largest tried)"} if len(tried) > 1 else {}
    return own + end.get(own, "")


def interval(found: Row, key: str, scale: float, digits: int, sign: str = "") -> str:
    """An interval, as it stands behind its mean; nothing where there is none."""
    ends = found[f"{key}_low"], found[f"{key}_high"]
    return "" if None in ends else f" ({' to '.join(f'{scale * end:{sign}z.{digits}f}' for end in ends)})"


def difference(found: Row) -> str:
    """The difference to no defense in percentage points, or why it would say nothing."""
    if found["difference"] is None:
        return f"void: {found['void']}" if found["void"] else ""
    return f"{100 * found['difference']:+z.2f}{interval(found, 'difference', 100, 2, '+')}"


def costs(found: Row) -> str:
    """Whether a defense costs less or more than a point of accuracy: :data:`SMALL`, :data:`LARGE` or :data:`OPEN`."""
    gained, lost = found["difference_high"], found["difference_low"]
    if lost is None:
        return OPEN
    return LARGE if -gained > ONE_POINT else SMALL if -lost <= ONE_POINT else OPEN


COLUMNS: dict[str, Callable[[Row], str]] = {
    "defense": lambda found: found["defense"],
    "rate": lambda found: rate(found) + (" (on test)" if found["rate_chosen_on"] == TEST else ""),
    "n": lambda found: str(found["seeds"]),
    "accuracy %": lambda found: f"{100 * found['accuracy']:.2f}{interval(found, 'accuracy', 100, 2)}",
    "difference": difference,
    "loss": lambda found: "" if found["loss"] is None else f"{found['loss']:.3f}{interval(found, 'loss', 1, 3)}",
    "clients changed": lambda found: changed(found["clients_changed"]),
    "entries changed": lambda found: changed(found["entries_changed"]),
    "collapsed": lambda found: str(found["collapsed"] or ""),
    "diverged": lambda found: str(found["diverged"] or ""),
    "sent": lambda found: "" if found["bytes"] is None else size(found["bytes"]),
    "ms / client": lambda f: "" if f["client_seconds"] is None else f"{1000 * f['client_seconds']:.3g}",
    "epsilon": lambda found: "" if found["epsilon"] is None else f"{found['epsilon']:.3g}",
    "s / run": lambda found: f"{found['seconds']:.1f}",
}
"""The text of a row in each column."""


def as_csv(table: list[Row]) -> str:
    """The table for programs, with six significant digits."""
    values = ([one[key] for key in KEYS] for one in table)
    return grid_as_csv(KEYS, ([f"{v:.6g}" if isinstance(v, float) else v for v in of_row] for of_row in values))


def grids(table: list[Row]) -> list[Grid]:
    """The table for people, of each scenario."""
    found = []
    for title, board in boards(table).items():
        columns = {name: cells for name, text in COLUMNS.items() if any(cells := [text(one) for one in board])}
        found.append(Grid(list(columns), list(map(list, zip(*columns.values(), strict=True))), {"defense"}, title))
    return found


def as_markdown(table: list[Row], title: str, left_out: Sequence[str] = ()) -> str:
    """The table as a page.

    Args:
        table: its rows.
        title: of the page.
        left_out: sentences on what stands in none of them.
    """
    said = " ".join([note(table), *(f"{sentence}." for sentence in left_out)])
    return render("training/training.md.j2", title=title, grids=grids(table), note=said)


def write(folder: Path, table: list[Row], title: str, left_out: Sequence[str] = ()) -> None:
    """Writes training.csv and training.md of a folder; the arguments are those of :func:`as_markdown`."""
    write_whole(folder / "training.csv", as_csv(table).encode())
    write_whole(folder / "training.md", as_markdown(table, title, left_out).encode())
