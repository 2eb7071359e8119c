"""thresholds.json and thresholds.md of a folder: the searches that were made, and what its records say of each.

Everything here is made from the records alone, whatever code made them and whenever: the file names the searches and
the strengths that were tested, and all else in it is computed anew.
"""

import inspect
import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from benchmark.crossing import Curve, bracket, interval, rises, victims_to_certify
from benchmark.errors import UsageError
from benchmark.intervals import wilson
from benchmark.leaderboard import newest_victims
from benchmark.leak import LEAKED_PSNR, leaks
from benchmark.registry import find_class
from benchmark.store import Record, write_whole

Victim = dict[str, Any]

Row = dict[str, Any]
"""A search: what ``IDENTITY`` names, victims, and strengths from weak to strong; and what was found, as JSON."""

IDENTITY = ("scenario", "defense", "argument", "fixed", "attack", "adaptive")
"""What makes two searches the same one: their strengths are on one curve."""

ABOUT = ("dataset", "model", "scenario", "where", "defense", "argument", "fixed", "attack", "adaptive", "victims")
"""What is known of a search before it begins, but the strengths."""

FILE = "thresholds.json"


@dataclass(frozen=True)
class Criterion:
    """When leakage has stopped.

    Attributes:
        ssim: a victim leaks by the SSIM where an image of its batch reaches at least this, and more than every null
            baseline on that image: a class mean of MNIST comes to 0.5 and more.
        stop: largest share of victims that may leak where leakage has stopped.
    """

    ssim: float = 0.5
    stop: float = 0.05

    def __post_init__(self) -> None:
        if not 0 < self.ssim <= 1:
            raise UsageError(f"--ssim must be above 0 and at most 1, not {self.ssim}")
        if not 0 <= self.stop < 1:
            raise UsageError(f"--stop must be at least 0 and below 1, not {self.stop}")

    def leaks_by_ssim(self, victim: Victim) -> bool:
        """Whether a victim of a record leaks, as the paper on masking judges; a diverged attack found nothing."""
        pairs = zip(victim["ssim"], victim["null_ssim"], strict=True)
        return victim["status"] != "diverged" and any(found >= self.ssim and found > null for found, null in pairs)

    @property
    def measures(self) -> dict[str, Callable[[Victim], bool]]:
        """The two ways in which a victim can leak: by the SSIM, and by the PSNR of the leaderboard."""
        return {"ssim": self.leaks_by_ssim, "psnr": leaks}


def identity(search: Row) -> str:
    """``IDENTITY`` of a search, as a key."""
    return json.dumps({name: search[name] for name in IDENTITY}, sort_keys=True)


def merged(searches: Iterable[Row]) -> list[Row]:
    """Searches of several runs, each once; one that was made twice has the strengths of both, the rest of the later.

    Strengths are in order, from weak to strong.
    """
    found: dict[str, Row] = {}
    for search in searches:
        earlier = found.get(identity(search), {"strengths": []})
        weak, *_, strong = search["strengths"]
        tested = {*earlier["strengths"], *search["strengths"], *search.get("left_out", ())}
        found[identity(search)] = search | {"strengths": sorted(tested, reverse=weak > strong)}
    return list(found.values())


@dataclass(frozen=True)
class Cell:
    """What was found at one strength.

    Attributes:
        victims: in the order of their numbers.
        made_by: checksums of the code and of the images.
        date: of the newest record.
    """

    victims: list[Victim]
    made_by: frozenset[tuple[str, str]]
    date: str


class Cells:
    """The cells of a folder, by their configuration."""

    def __init__(self, records: list[Record]) -> None:
        self._found: dict[str, dict[int, tuple[Victim, Record]]] = {}
        for of_cell in newest_victims(records).values():
            self._found[self._key(next(iter(of_cell.values()))[1]["config"])] = of_cell

    @staticmethod
    def _key(config: dict[str, Any]) -> str:
        return json.dumps({name: part for name, part in config.items() if name != "schema"}, sort_keys=True)

    def at(self, search: Row, strength: float | None) -> Cell:
        """The first victims of a search at a strength, None for no defense.

        Raises:
            UsageError: it has no records.
        """
        defense = None if strength is None else {"class": search["defense"]} | search["fixed"]
        if defense is not None:
            defense[search["argument"]] = strength
        adaptive = search["adaptive"] and defense is not None
        config = search["scenario"] | {"defense": defense, "attack": search["attack"], "adaptive": adaptive}
        of_cell = self._found.get(self._key(config))
        if of_cell is None:
            at = "no defense" if strength is None else f"{search['defense']} {search['argument']} {strength:g}"
            raise UsageError(
                f"there is no record of {search['where']}, {at}, {search['attack']['class']}, though {FILE} names it: "
                "run leakboard threshold again, or take the search out of the file"
            )
        first = [of_cell[index] for index in sorted(of_cell) if index < search["victims"]]
        return Cell(
            victims=[victim for victim, _ in first],
            made_by=frozenset((record["code_sha256"], record["provenance"]["data_sha256"]) for _, record in first),
            date=max((record["provenance"]["date"] for _, record in first), default=""),
        )

    def curve(self, search: Row) -> dict[float, Cell]:
        """The cells of a search, from the weakest strength to the strongest.

        Those of other code or other images than the newest, or of fewer victims, are left out.

        Raises:
            UsageError: one has no records.
        """
        found = {strength: self.at(search, strength) for strength in search["strengths"]}
        whole = {strength: cell for strength, cell in found.items() if len(cell.victims) == search["victims"]}
        newest = max(whole.values(), key=lambda cell: cell.date, default=None)
        return {strength: cell for strength, cell in whole.items() if newest and cell.made_by == newest.made_by}


def as_curve(cells: dict[float, Cell], leaks_by: Callable[[Victim], bool]) -> Curve:
    """Which victims leak at each strength, by one of the measures."""
    return {strength: np.array([leaks_by(victim) for victim in cell.victims]) for strength, cell in cells.items()}


VOID, WEAK, WITHIN, NEVER = "void", "at the weak end", "within", "never"
"""Whether leakage stops in a range: there was none without a defense; everywhere; from a strength on; nowhere."""


def rows(searches: Iterable[Row], records: list[Record], criterion: Criterion) -> list[Row]:
    """Each search with the strength at which leakage stops by each measure, its interval, and the whole curve.

    Raises:
        UsageError: a search has strengths without records.
    """
    cells = Cells(records)
    return [row(search, cells, criterion) for search in searches]


def row(search: Row, cells: Cells, criterion: Criterion) -> Row:
    """One search, with what its records say."""
    control, tested = cells.at(search, None).victims, cells.curve(search)
    if not tested or len(control) < search["victims"]:
        raise UsageError(f"{search['where']}, {search['defense']}: there are not all {search['victims']} victims yet")
    found = {name: search[name] for name in ABOUT} | {
        "strengths": list(tested),
        "left_out": [strength for strength in search["strengths"] if strength not in tested],
        "mean_ssim": [fmean(max(victim["ssim"]) for victim in cell.victims) for cell in tested.values()],
    }
    for name, leaks_by in criterion.measures.items():
        curve = as_curve(tested, leaks_by)
        found[name] = measured(curve, fmean(map(leaks_by, control)), criterion.stop, search["argument"])
    return found


def measured(curve: Curve, without: float, stop: float, argument: str) -> Row:
    """Where leakage stops by one measure.

    Args:
        curve: which victims leak at each strength.
        without: leak rate without a defense.
        stop: largest leak rate where leakage has stopped.
        argument: what the strength is called.
    """
    (weak, *_, strong), (leaking, stops) = curve, bracket(curve, stop)
    low, high = interval(curve, stop)
    how = VOID if without <= stop else NEVER if stops is None else WEAK if leaking is None else WITHIN
    note = {
        VOID: f"void: without a defense {without:.0%} leak, so that there is nothing to stop",
        WEAK: f"stopped at the weak end, {argument} {weak:g}, already ({curve[weak].mean():.0%} leak)",
        NEVER: f"not stopped at the strong end, {argument} {strong:g} ({curve[strong].mean():.0%} leak)",
    }
    return {
        "stopped": how,
        "strength": stops if how == WITHIN else None,
        "low": low,
        "high": high,
        "note": note.get(how, ""),
        "without": without,
        "rates": [float(leaking.mean()) for leaking in curve.values()],
        "rises": [list(pair) for pair in rises(curve)],
    }


def read(folder: Path) -> dict[str, Any] | None:
    """What thresholds.json in the folder holds; None where there is none.

    Raises:
        UsageError: it is damaged.
    """
    path = folder / FILE
    if not path.exists():
        return None
    try:
        found: dict[str, Any] = json.loads(path.read_text())
        Criterion(found["ssim"], found["stop"])
        for search in found["thresholds"]:
            if not {*IDENTITY, "strengths"} <= search.keys() or not search["strengths"]:
                raise ValueError
    except (OSError, ValueError, KeyError, TypeError, AttributeError, UsageError):
        raise unreadable(folder) from None
    return found


def unreadable(folder: Path) -> UsageError:
    """There is no thresholds.json, or it is damaged."""
    return UsageError(
        f"{folder / FILE} cannot be read: run leakboard threshold SUITE --out {folder}, after deleting a damaged one"
    )


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
    earlier = read(folder) or {"ssim": Criterion.ssim, "stop": Criterion.stop, "thresholds": []}
    criterion = criterion or Criterion(earlier["ssim"], earlier["stop"])
    table = rows(merged([*earlier["thresholds"], *searches]), records, criterion)
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
    if row["left_out"]:
        remarks.append(f"{len(row['left_out'])} strengths of other code, other images or fewer victims left out")
    attacker = "adaptive" if row["adaptive"] else "oblivious"
    defense = defense_label(row["defense"], row["argument"], row["fixed"])
    return (row["where"], defense, attack_label(row["attack"]), attacker, *shown, "; ".join(remarks))


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
    """What so many victims do not tell, as sentences."""
    most = math.floor(stop * victims)
    needed = victims_to_certify(stop)
    enough = f"it takes {needed} victims none of whom leaks" if needed else "no number of victims is enough"
    few = needed is None or victims < needed
    return (
        f"With {victims} victims that means at most {most}, which a leak rate of up to "
        f"{wilson(most, victims)[1]:.0%} can bring about too (Wilson, 95 %)."
        + (f" So these strengths are not certified: to be sure of at most {stop:.0%}, {enough}." if few else "")
    )


def as_markdown(table: Sequence[Row], title: str, criterion: Criterion) -> str:
    """The table as a page."""
    stop, fewest = criterion.stop, min(row["victims"] for row in table)
    lines = [
        f"# {title}: where leakage stops",
        "",
        f"The weakest tested strength from which on at most {stop:.0%} of the victims leak, by bisection with the same "
        f"victims at every strength. {sample_size_caveat(fewest, stop)} By SSIM a victim leaks at {criterion.ssim:g} "
        f"or more, by PSNR at {LEAKED_PSNR:g} dB or more, and only where that is more than every null baseline reaches "
        "on it. The 95 % interval goes from the strongest tested strength at which the leak rate is surely above "
        f"{stop:.0%} to the weakest from which on it is surely no more than that. Without a high end the threshold is "
        "not certified: leakage may go on beyond the strength at which it stops here.",
        "",
        "| " + " | ".join(COLUMNS) + " |",
        "|" + "---|" * len(COLUMNS),
        *("| " + " | ".join(cells_of(row)) + " |" for row in table),
    ]
    return "\n".join(lines) + "\n"
