"""Writes thresholds.json and thresholds.md of a folder from its records, and names searches for people."""

import inspect
import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmark.boards.grid import Grid
from benchmark.boards.template import render
from benchmark.metrics.intervals import wilson
from benchmark.metrics.leak import LEAKED_PSNR
from benchmark.store.store import Record, write_whole
from benchmark.suite.registry import find_class
from benchmark.thresholds.crossing import victims_to_certify
from benchmark.thresholds.table import FILE, NEVER, VOID, WEAK, WITHIN, Criterion, Row, merged, read, rows, unreadable


def write(folder: Path, records: list[Record], searches: Iterable[Row] = (), criterion: Criterion | None = None) -> str:
    """Makes thresholds.json and thresholds.md anew from the records, and returns the page.

    Args:
        folder: of a run; the searches that its thresholds.json names already stay.
        records: all of the folder.
        searches: those that are new, or have new strengths.
        criterion: by default that of the file.

    Raises:
        UsageError: the file is damaged, or a search has strengths without records.
    """
    earlier = read(folder) or {"thresholds": []}
    searches = [*earlier["thresholds"], *searches]
    if not searches:
        raise unreadable(folder)
    criterion = criterion or Criterion(**{name: earlier[name] for name in ("ssim", "stop") if name in earlier})
    table = rows(merged(searches), records, criterion)
    found = {"ssim": criterion.ssim, "stop": criterion.stop, "thresholds": table}
    page = as_markdown(table, folder.resolve().name, criterion)
    write_whole(folder / FILE, (json.dumps(found, indent=1) + "\n").encode())
    write_whole(folder / "thresholds.md", page.encode())
    return page


COLUMNS = ("data", "defense", "attack", "attacker", "stops at, SSIM", "95 %", "stops at, PSNR", "95 %", "remarks")


def cells_of(row: Row) -> tuple[str, ...]:
    """The row as a person reads it, in the order of ``COLUMNS``."""
    shown: list[str] = []
    remarks: list[str] = []
    for name in ("ssim", "psnr"):
        found = row[name]
        shown.append("-" if found["strength"] is None else f"{found['strength']:.3g}")
        shown.append("-" if found["stopped"] == VOID else range_of(found))
        remarks += [f"{name.upper()}: {found['note']}"] if found["note"] else []
        remarks += [f"{name.upper()} rises from {first:.3g} to {second:.3g}" for first, second in found["rises"]]
    if open_ones := unknown(row):
        remarks.append(open_ones)
    if row["left_out"]:
        remarks.append(f"{len(row['left_out'])} strengths of other code, other images or fewer victims left out")
    attacker = "adaptive" if row["adaptive"] else "oblivious"
    defense = defense_label(row["defense"], row["argument"], row["fixed"])
    return (row["where"], defense, attack_label(row["attack"]), attacker, *shown, "; ".join(remarks))


def unknown(row: Row) -> str:
    """Of how many victims the attack tells nothing without the defense and where leakage stops; empty where of none."""
    failed, weak = row["unknown"], row["strengths"][0]
    places = {"without a defense": failed["without"]}
    for found in (row["ssim"], row["psnr"]):
        strength = {WITHIN: found["strength"], WEAK: weak}.get(found["stopped"])
        if strength is not None:
            places[f"at {strength:.3g}"] = failed["strengths"][row["strengths"].index(strength)]
    counts = [f"{count} of {row['victims']} victims {place}" for place, count in places.items() if count]
    return f"nothing known of {', '.join(counts)}" if counts else ""


def range_of(found: Row) -> str:
    """The interval of a threshold; without a high end nothing is certified."""
    low, high = ("" if end is None else f"{end:.3g}" for end in (found["low"], found["high"]))
    if not high:
        beyond = f"beyond {low}" if low else ""
        return beyond if found["stopped"] == NEVER else ", ".join(filter(None, (beyond, "not certified")))
    return f"{low} to {high}" if low else f"up to {high}"


def defense_label(name: str, argument: str, fixed: dict[str, Any]) -> str:
    """The defense without its strength, for people."""
    others = changed("defense", {"class": name} | fixed)
    return f"{name} {argument}" + (f" ({others})" if others else "")


def attack_label(attack: dict[str, Any]) -> str:
    """The attack with the arguments that are not the class's own defaults."""
    return f"{attack['class']} {changed('attack', attack)}".strip()


def changed(kind: str, part: dict[str, Any]) -> str:
    """The arguments that are not the class's own defaults, for people."""
    usual = {p.name: p.default for p in inspect.signature(find_class(kind, part["class"])).parameters.values()}
    given = {name: value for name, value in part.items() if name != "class"}
    return ", ".join(f"{name}={value}" for name, value in given.items() if usual.get(name, ...) != value)


def sample_size_caveat(victims: int, stop: float) -> str:
    """What a sample of this size cannot show, as sentences."""
    most = math.floor(stop * victims)
    needed = victims_to_certify(stop)
    enough = f"it takes {needed} victims none of whom leaks" if needed else "no number of victims is enough"
    few = needed is None or victims < needed
    return (
        f"With {victims} victims that means at most {most}, which is compatible with a leak rate of up "
        f"to {wilson(most, victims)[1]:.0%} (Wilson, 95 %)."
        + (f" So these strengths are not certified: for at most {stop:.0%}, {enough}." if few else "")
    )


def as_markdown(table: Sequence[Row], title: str, criterion: Criterion) -> str:
    """The table as a page."""
    return render(
        "thresholds/thresholds.md.j2",
        title=title,
        criterion=criterion,
        sample_size=sample_size_caveat(min(row["victims"] for row in table), criterion.stop),
        leaked_psnr=LEAKED_PSNR,
        table=Grid(COLUMNS, [cells_of(row) for row in table]).markdown(),
        any_unknown=any(map(unknown, table)),
    )
