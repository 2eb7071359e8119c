"""Random gradient masking (Kim and Park 2024, arXiv 2408.08430): what protects, against whom, and at what cost."""

import math
from pathlib import Path
from typing import Any

from benchmark.boards.outcome import listed
from benchmark.boards.template import render
from benchmark.papers.masking_caveats import caveats, data_of, network, prior_scale
from benchmark.papers.masking_figure import figure, short_name
from benchmark.papers.masking_finding import SMALL_LOSS, ranking, together, trained, verdicts
from benchmark.papers.masking_information import information
from benchmark.papers.sources import provenance, trainings
from benchmark.store.store import Record, write_whole
from benchmark.thresholds import page as threshold_page
from benchmark.thresholds import strengths
from benchmark.thresholds.page import range_of, sample_size_caveat
from benchmark.thresholds.strengths import DefenseThresholds, Thresholds
from benchmark.thresholds.table import WITHIN
from benchmark.training.table import Row, half, rate, rows, scenario_of


def page(records: list[Record], folder: Path) -> str:
    """Writes thresholds.json, thresholds.md, diagnosis.md, spectrum.md and leakage.png anew, and returns the page.

    It is made from the searches that thresholds.json names, from the records and from the trainings in the folder.

    Raises:
        UsageError: thresholds.json is missing or names strengths without records, or a file is damaged.
    """
    threshold_page.write(folder, records)
    found, trained_so_far = strengths.read(folder), trainings(folder)
    table = rows(trained_so_far)
    write_whole(folder / "leakage.png", figure(found.searches, found.stop))
    told, origins = information(folder)
    return render(
        "papers/masking.md.j2",
        **numbers(found, table, trained_so_far),
        **told,
        ssim=found.ssim,
        stop=found.stop,
        sample_size=sample_size_caveat(min(search["victims"] for search in found.searches), found.stop),
        scenarios={
            where: [one for one in found.defenses if one.where == where]
            for where in dict.fromkeys(one.where for one in found.defenses)
        },
        tuned=any(" " in row["learning_rates"] for row in table),
        at_the_end=any("tried" in rate(row) for row in table),
        threshold=threshold,
        accuracies={(one.where, one.label): accuracies(one, table) for one in found.defenses},
        small_loss=SMALL_LOSS,
        provenance=provenance(records, trained_so_far, origins),
    )


def summary(records: list[Record], folder: Path) -> str:
    """Claim, and the verdict on each defense against either attacker.

    Raises:
        UsageError: thresholds.json is missing, or a file is damaged.
    """
    found, trained_so_far = strengths.read(folder), trainings(folder)
    return render("papers/masking_summary.md.j2", **numbers(found, rows(trained_so_far), trained_so_far))


def numbers(found: Thresholds, table: list[Row], trained_so_far: list[Record]) -> dict[str, Any]:
    """What both texts say: caveats, verdicts on each defense by attacker, and ranks."""
    return {
        "caveats": caveats(found.defenses, table, trained_so_far),
        "verdicts": verdicts(found.defenses, table),
        "ranking": ranking(found.defenses, table),
        "together": together,
        "listed": listed,
        "inf": math.inf,
    }


def threshold(one: DefenseThresholds, attacker: str) -> tuple[str, str]:
    """Where leakage stops, with its interval, or why that is not known; and the attack that needs most."""
    search = one.strongest[attacker]
    found, name = search["ssim"], short_name(search["attack"])
    if found["stopped"] != WITHIN:
        return str(found["note"]), name
    scale = prior_scale(search)
    return f"{found['strength']:.3g} ({range_of(found)})", name + ("" if scale is None else f", scale {scale:g}")


def accuracies(one: DefenseThresholds, table: list[Row]) -> list[tuple[str, ...]]:
    """Of each network: what it is, its accuracy, and that with the defense at the strength that stops each attacker."""
    found = []
    for control in table:
        if one.is_trained_on(data_of(control)) and control["defense"] == "no defense":
            protected = [
                [row for row in trained(one, attacker, table) if scenario_of(row) == scenario_of(control)]
                for attacker in one.strongest
            ]
            cells = [accuracy(each[0]) if each else "not trained" for each in ([control], *protected)]
            found.append((network(control), *cells))
    return found


def accuracy(row: Row) -> str:
    """Accuracy in percent and learning rate, where there was a choice, and what makes them doubtful."""
    chosen = f", rate {rate(row)}" if " " in row["learning_rates"] else ""
    failed = [f"{row[how]} of {row['seeds']} {how}" for how in ("diverged", "collapsed") if row[how]]
    doubts = "".join(f", {doubt}" for doubt in (*failed, row["void"]) if doubt)
    return f"{100 * row['accuracy']:.1f}{half(row, 'accuracy', 100, 1)} %{chosen}{doubts}"
