"""The page on a board of all defenses: what each buys, whether older verdicts hold on it, and the rules for entries."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmark.boards.leaderboard import Board, of_records
from benchmark.boards.outcome import Outcome, counted
from benchmark.boards.ranking import Standing
from benchmark.boards.template import render
from benchmark.papers.sources import provenance, trainings
from benchmark.store.declined import declined_in
from benchmark.store.store import Record
from benchmark.thresholds import strengths
from benchmark.thresholds.strengths import ADAPTIVE, DefenseThresholds
from benchmark.thresholds.table import NEVER, VOID, WITHIN
from benchmark.tradeoff.one_point import COSTS_SAID, sentences
from benchmark.tradeoff.page import write
from benchmark.tradeoff.points import trade_offs

MASKING = "masking"
"""The folder beside this one with the strengths that stopped attackers of one defense at a time."""


ABSOLUTE = ("Clipping", "GaussianNoise")
"""Of the defenses there, those whose strength is in units of the update."""


@dataclass(frozen=True)
class Verdict:
    """What was found of a defense before, and whether a board agrees.

    Attributes:
        board: heading.
        defense: class and the name of its strength.
        before: the strengths from which nothing leaked, of each data set.
        here: the leak rates of the strengths on the board.
        differs: where the two contradict each other; empty where they do not.
    """

    board: str
    defense: str
    before: str
    here: str
    differs: str


def page(records: list[Record], folder: Path) -> str:
    """The page of a folder with a board, as Markdown; it writes the trade-off again, too.

    Args:
        records: of the attacks.
        folder: of the run, with its trainings; beside it may be that of the masking paper.
    """
    board, trained = of_records(records, intervals=False, declined=declined_in(folder)), trainings(folder)
    boards = board.boards
    if trained:
        write(folder, board, trained)
    found, without, lacking = trade_offs(boards, trained)
    beside = folder.parent / MASKING
    attacks = [record["config"]["attack"] for record in records]
    before = strengths.read(beside).defenses if (beside / "thresholds.json").exists() else []
    found_verdicts = [verdict for board in boards for verdict in verdicts(board, before)]
    return render(
        "papers/leaderboard.md.j2",
        title=folder.resolve().name,
        sections=[(one.attacked, [*sentences(one.points), *one.notes]) for one in found],
        reading=COSTS_SAID,
        without=without,
        lacking=lacking,
        has_figure=bool(found),
        budgets=sorted({str(of["max_evaluations"]) for of in attacks if "max_evaluations" in of}),
        counts=[counts(one) for one in boards],
        left_out=board.left_out,
        verdicts=found_verdicts,
        absolute=[kind for kind in ABSOLUTE if any(one.defense.startswith(f"{kind} ") for one in found_verdicts)],
        provenance=provenance(records, trained),
    )


def counts(board: Board) -> dict[str, Any]:
    """How many defenses a board ranks, how many leak or may do so, and how many cells were not run."""
    defended = [standing for standing in board.standings if standing.outcomes[0].config["defense"]]
    return {
        "heading": board.heading,
        "classes": len({standing.outcomes[0].config["defense"]["class"] for standing in defended}),
        "strengths": len(defended),
        "ranked": sum(standing.rank is not None for standing in defended),
        "leaking": sum(bool(standing.worst) for standing in defended),
        "unknown": sum(bool(standing.unknown and not standing.worst) for standing in defended),
        "not_run": sum(blank["leak rate"] == "not run" for blank in board.blank),
    }


def verdicts(board: Board, before: Sequence[DefenseThresholds]) -> list[Verdict]:
    """What was found of each defense in one network, beside the board of another data set or network."""
    found = []
    for kind, argument in dict.fromkeys((one.defense, one.argument) for one in before):
        of_kind = [one for one in before if (one.defense, one.argument) == (kind, argument)]
        here = sorted((of_defense(one)[argument], one) for one in board.standings if of_defense(one)["class"] == kind)
        if here:
            texts = [f"{value:g}: {counted(len(one.worst), len(one.unknown), len(one.indices))}" for value, one in here]
            data = here[0][1].outcomes[0].config["data"]["class"]
            alike = [one for one in of_kind if one.dataset == data] or of_kind
            differs = [said for value, one in here if (said := contradiction(value, one, alike))]
            stopped = "; ".join(f"{one.dataset}: {stops(one)}" for one in of_kind)
            about = board.heading, f"{kind} {argument}"
            found.append(Verdict(*about, stopped, "; ".join(texts), "; ".join(differs)))
    return found


def of_defense(standing: Standing) -> dict[str, Any]:
    """The configuration of a defense; empty but for its class without one."""
    outcome: Outcome = standing.outcomes[0]
    return outcome.config["defense"] or {"class": "none"}


def stops(one: DefenseThresholds) -> str:
    """Where an attacker who knows a defense was stopped, for people."""
    strongest = one.strongest[ADAPTIVE]
    search, strengths_there = strongest["ssim"], strongest["strengths"]
    if search["stopped"] == VOID:
        return "unknown"
    if search["stopped"] == NEVER:
        return "never"
    at = search["strength"] if search["stopped"] == WITHIN else strengths_there[0]
    open_ones = strongest["unknown"]["strengths"][strengths_there.index(at)]
    return f"from {at} on" + (f", where {open_ones} of {strongest['victims']} are unknown" if open_ones else "")


def contradiction(value: float, standing: Standing, before: Sequence[DefenseThresholds]) -> str:
    """Why a strength on a board contradicts what was found before; nothing where it does not.

    Leakage at a strength that stopped every attacker everywhere, or none at one that stopped nobody anywhere, where
    all victims are judged.

    Args:
        value: the strength.
        standing: what leaks there.
        before: of the same data, or of all where that was not among them.
    """
    upwards = all(one.strongest[ADAPTIVE]["strengths"][-1] > one.strongest[ADAPTIVE]["strengths"][0] for one in before)
    searches = [one.strongest[ADAPTIVE]["ssim"] for one in before]
    found = [s["strength"] for s in searches if s["stopped"] == WITHIN]
    stronger = [value >= other if upwards else value <= other for other in found]
    if found and len(found) == len(searches) and all(stronger) and standing.worst:
        return f"{value:g} leaks here, and stopped every attacker there"
    judged = all(s["stopped"] in (WITHIN, NEVER) for s in searches)
    if judged and not any(stronger) and not standing.worst and not standing.unknown:
        return f"{value:g} leaks nothing here, and stopped nobody there"
    return ""
