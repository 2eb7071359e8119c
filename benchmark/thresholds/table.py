"""thresholds.json of a folder: the searches that were made, and what the records say of each.

Everything is made from the records alone, whatever code made them and whenever: the file names the searches and the
strengths that were tested, and all else in it is computed anew.
"""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any, NotRequired, TypedDict

import msgspec
import numpy as np
from msgspec import Meta

from benchmark.boards.cells import cells_of_one_code
from benchmark.boards.outcome import Outcome
from benchmark.errors import UsageError
from benchmark.metrics.leak import leaks
from benchmark.store.store import Record
from benchmark.suite.documents import read_json
from benchmark.thresholds.crossing import Curve, bracket, interval, rises

Victim = dict[str, Any]

Row = dict[str, Any]
"""A search: what :class:`Search` names, and what was found, as JSON."""

_Class = TypedDict("_Class", {"class": str})


class _Measured(TypedDict):
    stopped: str
    strength: float | None
    rates: list[float]


class Search(TypedDict):
    """What thresholds.json holds of a search at least; its strengths go from weak to strong."""

    dataset: str
    model: str
    scenario: dict[str, Any]
    where: str
    defense: str
    argument: str
    fixed: dict[str, Any]
    attack: _Class
    adaptive: bool
    victims: Annotated[int, Meta(ge=1)]
    strengths: Annotated[list[float], Meta(min_length=2)]
    ssim: NotRequired[_Measured]


class _File(TypedDict):
    ssim: Annotated[float, Meta(gt=0, le=1)]
    stop: Annotated[float, Meta(ge=0, lt=1)]
    thresholds: Annotated[list[Search], Meta(min_length=1)]


IDENTITY = ("scenario", "defense", "argument", "fixed", "attack", "adaptive")
"""What makes two searches the same one: their strengths are on one curve."""

ABOUT = tuple(name for name in Search.__annotations__ if name not in ("strengths", "ssim"))
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


class Cells:
    """The cells of a folder, by their configuration."""

    def __init__(self, records: list[Record]) -> None:
        cells = cells_of_one_code(records)[0].values()
        self._found = {self._key(next(iter(victims.values()))[1]["config"]): victims for victims in cells}

    @staticmethod
    def _key(config: dict[str, Any]) -> str:
        return json.dumps({name: part for name, part in config.items() if name != "schema"}, sort_keys=True)

    def at(self, search: Row, strength: float | None) -> Outcome:
        """What was found of the first victims of a search at a strength, None for no defense.

        Raises:
            UsageError: it has no records.
        """
        defended = strength is not None
        defense = {"class": search["defense"], **search["fixed"], search["argument"]: strength} if defended else None
        adaptive = search["adaptive"] and defended
        config = search["scenario"] | {"defense": defense, "attack": search["attack"], "adaptive": adaptive}
        key = self._key(config)
        if key not in self._found:
            at = f"{search['defense']} {search['argument']} {strength:g}" if defended else "no defense"
            raise UsageError(
                f"there is no record of {search['where']}, {at}, {search['attack']['class']}, though {FILE} names it: "
                "run leakboard threshold again, or remove the search from the file"
            )
        first = {index: of for index, of in self._found[key].items() if index < search["victims"]}
        victims = {index: victim for index, (victim, _) in first.items()}
        return Outcome(key, config, victims, tuple(record for _, record in first.values()))

    def curve(self, search: Row) -> dict[float, Outcome]:
        """What was found at each strength of a search, from the weakest to the strongest.

        Those of other code or other images than the newest, or of fewer victims, are left out.

        Raises:
            UsageError: one has no records.
        """
        found = {strength: self.at(search, strength) for strength in search["strengths"]}
        whole = {strength: cell for strength, cell in found.items() if len(cell.victims) == search["victims"]}
        newest = made_by(max(whole.values(), key=date, default=None))
        return {strength: cell for strength, cell in whole.items() if made_by(cell) == newest}


def made_by(cell: Outcome | None) -> set[tuple[str, str]]:
    """Checksums of the code and of the images; none of no cell."""
    records = cell.records if cell else ()
    return {(record["code_sha256"], record["provenance"]["data_sha256"]) for record in records}


def date(cell: Outcome) -> str:
    """Of the newest record."""
    return max(record["provenance"]["date"] for record in cell.records)


def as_curve(cells: dict[float, Outcome], leaks_by: Callable[[Victim], bool]) -> Curve:
    """Which victims leak at each strength, by one of the measures."""
    return {at: np.array([leaks_by(victim) for victim in cell.victims.values()]) for at, cell in cells.items()}


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
    control, tested = cells.at(search, None), cells.curve(search)
    if not tested or len(control.victims) < search["victims"]:
        raise UsageError(f"{search['where']}, {search['defense']}: not all {search['victims']} victims are done yet")
    found = {name: search[name] for name in ABOUT} | {
        "strengths": list(tested),
        "left_out": [strength for strength in search["strengths"] if strength not in tested],
        "mean_ssim": [fmean(max(victim["ssim"]) for victim in cell.victims.values()) for cell in tested.values()],
        "unknown": {
            "without": len(control.untold(criterion.leaks_by_ssim)),
            "strengths": [len(cell.untold(criterion.leaks_by_ssim)) for cell in tested.values()],
        },
    }
    for name, leaks_by in criterion.measures.items():
        without = fmean(map(leaks_by, control.victims.values()))
        curve = as_curve(tested, leaks_by)
        untold = {at: cell.untold(leaks_by) for at, cell in tested.items()}
        failed = {at: np.array([index in untold[at] for index in cell.victims]) for at, cell in tested.items()}
        found[name] = measured(curve, failed, without, criterion.stop, search["argument"])
    return found


def measured(curve: Curve, failed: Curve, without: float, stop: float, argument: str) -> Row:
    """Where leakage stops by one measure.

    Args:
        curve: which victims leak at each strength.
        failed: of which of them the attack tells nothing if they do not.
        without: leak rate without a defense.
        stop: largest leak rate where leakage has stopped.
        argument: what the strength is called.
    """
    (weak, *_, strong), (leaking, stops) = curve, bracket(curve, stop)
    low, high = interval(curve, failed, stop)
    how = VOID if without <= stop else NEVER if stops is None else WEAK if leaking is None else WITHIN
    note = {
        VOID: f"void: {without:.0%} leak without a defense, so there is nothing to stop",
        WEAK: f"already stopped at the weak end, {argument} {weak:g} ({curve[weak].mean():.0%} leak)",
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
        found: dict[str, Any] = read_json(path)
        msgspec.convert(found, _File)
    except (OSError, ValueError):
        raise unreadable(folder) from None
    return found


def unreadable(folder: Path) -> UsageError:
    """There is no thresholds.json, or it is damaged."""
    return UsageError(
        f"{folder / FILE} cannot be read: delete it if it is damaged, and run leakboard threshold SUITE --out {folder}"
    )
