"""iLRG (Ma et al. 2023, ICLR): the label rules by themselves, beside the logs of the authors."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t

from benchmark.boards.cells import cells_of_one_code
from benchmark.boards.figure import as_png, blank
from benchmark.boards.outcome import of_cells
from benchmark.boards.template import render
from benchmark.errors import UsageError
from benchmark.papers.sources import paper, provenance
from benchmark.store.store import Record, write_whole

PAPER = paper("labels")
"""The logged figures, and how ours are compared with them."""

WITHIN, EXPLAINED, DIFFERS = PAPER["marks"]
"""Verdicts on a value beside the logged one."""

Networks = dict[int, list[dict[str, Any]]]
"""By the seed of a network, the victims that share it: the same batches with each."""


@dataclass(frozen=True)
class Comparison:
    """A logged mean, of batches on one network, beside ours of several networks.

    Attributes:
        logged: from 0 to 1.
        ours: of each batch on each network, ``[networks, batches]``.
    """

    logged: float
    ours: NDArray[np.float64]

    @cached_property
    def mean(self) -> float:
        return float(self.ours.mean())

    @cached_property
    def margin(self) -> float:
        """Half the 95 % interval of our mean, over networks and batches."""
        networks, batches = self.ours.shape
        return self._half(1 / networks, 1 / batches)

    @cached_property
    def reach(self) -> float:
        """How far off our mean the mean of one other network and other batches is, at a probability of 95 %."""
        networks, batches = self.ours.shape
        return self._half(1 + 1 / networks, 1 / PAPER["batches"] + 1 / batches)

    def _half(self, of_networks: float, of_batches: float) -> float:
        spread = of_networks * variance(self.ours.mean(1)) + of_batches * variance(self.ours.mean(0))
        networks = len(self.ours)
        return float(t.ppf(1 - PAPER["level"] / 2, networks - 1) * spread**0.5) if networks > 1 else 0.0

    @property
    def verdict(self) -> str:
        """Whether the difference is small, what one network can make, or neither; one batch says nothing of others."""
        difference = abs(self.mean - self.logged)
        if difference <= PAPER["margin"] + PAPER["rounding"]:
            return WITHIN
        return EXPLAINED if difference <= self.reach or self.ours.shape[1] == 1 else DIFFERS


@dataclass(frozen=True)
class Row:
    """What was logged of one batch size on one kind of network.

    Attributes:
        name: what differs in it from the others of its table.
        values: the comparison of each score; the logged value alone where we have none; None where nothing was logged.
        networks, batches: how many of ours.
    """

    name: str
    values: dict[str, Comparison | float | None]
    networks: int
    batches: int

    @property
    def comparisons(self) -> dict[str, Comparison]:
        """Where there are both."""
        return {name: value for name, value in self.values.items() if isinstance(value, Comparison)}


@dataclass(frozen=True)
class Table:
    """Rows that differ in one thing.

    Attributes:
        about: the entry of the file of figures.
        rows: as logged.
    """

    about: dict[str, Any]
    rows: list[Row]


def page(records: list[Record], folder: Path) -> str:
    """Writes counts.png, and returns the page.

    Raises:
        UsageError: the records are not of this suite.
    """
    tables = of_the_paper(records, folder)
    write_whole(folder / "counts.png", figure(tables[0]))
    numbers = {"each": by_verdict(tables), "missing": missing(tables)}
    return render("papers/labels.md.j2", paper=PAPER, tables=tables, **numbers, provenance=provenance(records))


def summary(records: list[Record], folder: Path) -> str:
    """Claim, measurement and verdict.

    Raises:
        UsageError: the records are not of this suite.
    """
    tables = of_the_paper(records, folder)
    return render("papers/labels_summary.md.j2", paper=PAPER, tables=tables, each=by_verdict(tables))


def of_the_paper(records: list[Record], folder: Path) -> list[Table]:
    """The tables of the logs, with ours in them.

    Raises:
        UsageError: none of it was run.
    """
    found: dict[tuple[str, Any], Networks] = defaultdict(dict)
    configs: dict[Any, dict[str, Any]] = {}
    for cell in of_cells(cells_of_one_code(records)[0]):
        config = cell.config
        if config["attack"]["class"] == "LabelInference" and config.get("shared") and not cell.defended:
            place = config["data"]["class"], config["batch_size"], repr(sorted(config["model"].items()))
            configs[place] = config
            found[config["attack"]["rule"], place][config["seed"]] = list(cell.victims.values())
    tables = [Table(table, [row_of(table, row, found, configs) for row in table["rows"]]) for table in PAPER["tables"]]
    if not tables[0].rows[0].comparisons:
        raise UsageError(f"{folder} holds no scores of label rules: run configs/labels.yaml into it first")
    return tables


def row_of(
    table: dict[str, Any],
    row: dict[str, Any],
    found: dict[tuple[str, Any], Networks],
    configs: dict[Any, dict[str, Any]],
) -> Row:
    """A logged row with ours in it.

    Args:
        table: that it is of.
        row: of the file of figures.
        found: victims by the rule and the scenario.
        configs: of the scenarios.
    """
    wanted = table["model"] | {name: row[name] for name in ("depth", "activation") if name in row}
    place = next(
        (
            place
            for place, config in configs.items()
            if config["data"]["class"] == table["data"]
            and config["batch_size"] == row["batch_size"]
            and wanted.items() <= config["model"].items()
        ),
        None,
    )
    values: dict[str, Comparison | float | None] = {}
    most = np.zeros((0, 0))
    for name, (rule, score) in PAPER["scores"].items():
        logged = row[rule][PAPER["logged"].index(score)] if isinstance(row[rule], list) else row[rule]
        networks = found.get((rule, place), {})
        values[name] = logged
        if networks and logged is not None:
            ours = np.array([[victim["labels"][score] for victim in victims] for victims in networks.values()])
            values[name], most = Comparison(logged, ours), max(most, ours, key=np.size)
    named = {"batch size": "batch_size", "hidden layers": "depth", "activation": "activation"}[table["varies"]]
    return Row(str(row[named]), values, *most.shape)


def variance(values: NDArray[np.float64]) -> float:
    """Of a sample, 0 of a single value."""
    return float(values.var(ddof=1)) if len(values) > 1 else 0.0


def comparisons(tables: Sequence[Table]) -> Iterator[tuple[str, Comparison]]:
    """All of them, each once, with where it stands."""
    seen: set[tuple[Any, ...]] = set()
    for table in tables:
        for row, logged in zip(table.rows, table.about["rows"], strict=True):
            place = table.about["data"], *sorted((table.about["model"] | logged).items(), key=str)
            if (key := tuple(map(repr, place))) not in seen:
                seen.add(key)
                for name, one in row.comparisons.items():
                    yield f"{name}, {table.about['name'].partition(',')[0]}, {table.about['varies']} {row.name}", one


def by_verdict(tables: Sequence[Table]) -> dict[str, list[str]]:
    """Where the values of each verdict stand."""
    found: dict[str, list[str]] = {verdict: [] for verdict in PAPER["marks"]}
    for where, one in comparisons(tables):
        found[one.verdict].append(where)
    return found


def missing(tables: Sequence[Table]) -> list[str]:
    """The rows without any value of ours."""
    return [
        f"{table.about['name'].partition(',')[0]}, {table.about['varies']} {row.name}"
        for table in tables
        for row in table.rows
        if not row.comparisons
    ]


def figure(table: Table) -> bytes:
    """iLRG's counts by batch size: the logged ones, and ours with the reach of one network."""
    drawn = blank(5.0, 3.4, 110)
    axes = drawn.subplots()
    rows = [row for row in table.rows if "iLRG counts" in row.comparisons]
    ours = [row.comparisons["iLRG counts"] for row in rows]
    places = np.arange(len(rows))
    means, reach = np.array([one.mean for one in ours]), np.array([one.reach for one in ours])
    low, high = (means - reach).clip(0, 1), (means + reach).clip(0, 1)
    axes.fill_between(places, low, high, color="tab:blue", alpha=0.2, label="one network, 95 %")
    axes.errorbar(places, means, yerr=[one.margin for one in ours], color="tab:blue", marker="o", ms=4, capsize=3)
    axes.plot(places, [one.logged for one in ours], color="tab:orange", linestyle="--", marker="x", label="logged")
    axes.set_xticks(places, [row.name for row in rows])
    axes.set_xlabel("images in a batch")
    axes.set_ylabel("classes counted right")
    axes.set_ylim(0, 1.02)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize=8, loc="lower left")
    return as_png(drawn)
