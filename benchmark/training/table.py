"""The table of a training, from its records alone: accuracy by scenario and defense, and what the defense costs."""

import csv
import io
import json
import math
from collections.abc import Sequence
from statistics import fmean, stdev
from typing import Any

from benchmark.store import Record

Row = dict[str, Any]

NOTE = (
    "Accuracy and loss are of the test images after the last round, as means over n seeds; ± is half the width of a "
    "95 % t interval over seeds. Rate is the learning rate, where several were tried the better of the two that were "
    "best with the first seed. The difference is to no defense, in percentage points, paired by seed. A diverged run "
    "(NaN or infinity) tells nothing: its accuracy counts as 0."
)


def rows(records: list[Record]) -> list[Row]:
    """A row for each scenario and defense, no defense first.

    The learning rate is no setting to compare: each defense stands with the best of those that it was trained with.

    Args:
        records: of any runs; of two of one configuration the newer counts.

    Returns:
        Rows with the keys of :data:`KEYS`. Intervals are None for one seed, the loss where a run diverged.
    """
    newest: dict[str, Record] = {}
    for record in sorted(records, key=lambda record: record["provenance"]["date"]):
        newest[as_text(record["config"])] = record
    cells: dict[str, dict[float, dict[int, Record]]] = {}
    for record in newest.values():
        config = record["config"]
        of_rate = cells.setdefault(as_text(config, seed=None, learning_rate=None), {})
        of_rate.setdefault(config["learning_rate"], {})[config["seed"]] = record
    best = {cell: of_rate[best_rate(of_rate)] for cell, of_rate in cells.items()}
    table = []
    for cell, by_seed in best.items():
        config = next(iter(by_seed.values()))["config"]
        controls = best.get(as_text(config, seed=None, learning_rate=None, defense=None), {})
        table.append(row(by_seed, controls, sorted(cells[cell])))
    return sorted(table, key=place)


def best_rate(found: dict[float, dict[int, Record]]) -> float:
    """The learning rate of the highest mean accuracy, of the finalists.

    Args:
        found: learning rate -> seed -> record.
    """
    return by_accuracy({rate: found[rate] for rate in finalists(found)})[0]


def finalists(found: dict[float, dict[int, Record]]) -> list[float]:
    """The two best learning rates, which every seed is trained with: the first seed alone may like an unsteady one."""
    return by_accuracy(found)[:2]


def by_accuracy(found: dict[float, dict[int, Record]]) -> list[float]:
    """Learning rates by mean accuracy over the seeds that each of them has, best first; of equals the smaller."""
    common = set.intersection(*map(set, found.values()))

    def mean(rate: float) -> float:
        return fmean(accuracy(record) for seed, record in found[rate].items() if seed in common or not common)

    return sorted(sorted(found), key=mean, reverse=True)


def as_text(config: dict[str, Any], **changed: Any) -> str:
    """A configuration as a key."""
    return json.dumps(config | changed, sort_keys=True)


KEYS = (
    "data", "model", "algorithm", "clients", "clients_per_round", "rounds", "local_epochs", "batch_size",
    "decay", "server_momentum", "split", "batch_norm", "train_images", "test_images", "defense", "learning_rate",
    "learning_rates", "seeds", "diverged", "accuracy", "accuracy_low", "accuracy_high", "loss", "loss_low", "loss_high",
    "pairs", "difference", "difference_low", "difference_high", "seconds",
)  # fmt: skip # a column for each would take a page
"""Accuracies and their differences are shares; ``pairs`` counts the seeds of the difference; ``learning_rates`` are all
that were tried."""


def row(by_seed: dict[int, Record], controls: dict[int, Record], rates: list[float]) -> Row:
    """The row of one scenario and defense.

    Args:
        by_seed: its records.
        controls: those of the scenario without a defense.
        rates: learning rates that were tried, in order.
    """
    records = [by_seed[seed] for seed in sorted(by_seed)]
    config = records[0]["config"]
    found: Row = {"decay": None} | {key: config[key] for key in KEYS if key in config}
    found |= {key: label(config[key]) for key in ("data", "model", "defense")}
    found["split"] = config["split"] if config["split"] == "iid" else f"Dirichlet({config['split']['dirichlet']:g})"
    diverged = sum(record["status"] == "diverged" for record in records)
    losses = [] if diverged else [record["loss"] for record in records]
    pairs = [seed for seed in sorted(by_seed) if seed in controls] if config["defense"] else []
    differences = [accuracy(by_seed[seed]) - accuracy(controls[seed]) for seed in pairs]
    found["learning_rates"] = " ".join(f"{rate:g}" for rate in rates)
    found |= {"seeds": len(records), "diverged": diverged, "pairs": len(pairs)}
    for name, values in (
        ("accuracy", [accuracy(record) for record in records]),
        ("loss", losses),
        ("difference", differences),
    ):
        low, high = t_interval(values)
        found |= {name: fmean(values) if values else None, f"{name}_low": low, f"{name}_high": high}
    found["seconds"] = fmean(record["cost"]["seconds"] for record in records)
    return {key: found[key] for key in KEYS}


def accuracy(record: Record) -> float:
    """Of the last test; 0 where the run diverged."""
    return 0.0 if record["status"] == "diverged" else float(record["accuracy"])


def t_interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float | None, float | None]:
    """Student's interval of the mean of independent values, None for fewer than two of them."""
    if len(values) < 2:
        return None, None
    from scipy.stats import t  # a good part of a second

    half = float(t.ppf((1 + confidence) / 2, len(values) - 1)) * stdev(values) / math.sqrt(len(values))
    return fmean(values) - half, fmean(values) + half


def label(part: dict[str, Any] | None) -> str:
    """A class with its arguments, for people."""
    if part is None:
        return "no defense"
    args = ", ".join(f"{key}={value}" for key, value in part.items() if key != "class")
    return f"{part['class']}({args})" if args else str(part["class"])


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


def heading(found: Row) -> str:
    """A row's scenario, for people."""
    clients = f"{found['clients']} clients"
    if found["clients_per_round"] < found["clients"]:
        clients += f", {found['clients_per_round']} in a round"
    epochs = f", {found['local_epochs']} local epochs" if (found["local_epochs"] or 1) > 1 else ""
    falls = f", {found['decay']} decay" if found["decay"] else ""
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
        caps = [f"{key} {board[0][key]}" for key in ("train_images", "test_images") if board[0][key]]
        named[", ".join([title, *caps])] = board
    return named


COLUMNS = ("defense", "rate", "n", "accuracy %", "difference", "loss", "diverged", "s / run")


def cells_of(found: Row) -> list[str]:
    """A row as text, under :data:`COLUMNS`."""
    difference = ""
    if found["difference"] is not None:
        difference = f"{100 * found['difference']:+.2f}{half(found, 'difference', 100, 2)}"
    loss = "" if found["loss"] is None else f"{found['loss']:.3f}{half(found, 'loss', 1, 3)}"
    return [
        found["defense"],
        rate(found),
        str(found["seeds"]),
        f"{100 * found['accuracy']:.2f}{half(found, 'accuracy', 100, 2)}",
        difference,
        loss,
        str(found["diverged"] or ""),
        f"{found['seconds']:.1f}",
    ]


def rate(found: Row) -> str:
    """The learning rate, and whether a larger or smaller one than those tried may be better."""
    own, tried = f"{found['learning_rate']:g}", found["learning_rates"].split()
    end = {tried[0]: " (smallest tried)", tried[-1]: " (largest tried)"} if len(tried) > 1 else {}
    return own + end.get(own, "")


def half(found: Row, key: str, scale: float, digits: int) -> str:
    """Half the width of an interval, behind its mean; nothing where there is none."""
    low, high = found[f"{key}_low"], found[f"{key}_high"]
    return "" if low is None else f" ± {scale * (high - low) / 2:.{digits}f}"


def as_csv(table: list[Row]) -> str:
    """The table for programs, with six significant digits."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(KEYS)
    for found in table:
        writer.writerow([f"{v:.6g}" if isinstance(v, float) else "" if v is None else v for v in found.values()])
    return out.getvalue()


def as_markdown(table: list[Row], title: str) -> str:
    """The table for people."""
    lines = [f"# {title}: accuracy after federated training", ""]
    for name, board in boards(table).items():
        lines += [f"## {name}", "", f"| {' | '.join(COLUMNS)} |", f"|{'---|' * len(COLUMNS)}"]
        lines += [f"| {' | '.join(cells_of(found))} |" for found in board]
        lines.append("")
    return "\n".join([*lines, NOTE, ""])
