"""Random gradient masking (Kim and Park 2024, arXiv 2408.08430): what protects, against whom, and at what cost."""

import json
import math
from pathlib import Path
from typing import Any

from benchmark.boards.grid import Grid
from benchmark.boards.outcome import listed
from benchmark.boards.template import render
from benchmark.papers.masking_caveats import caveats, described, prior_scale
from benchmark.papers.masking_figure import figure, short_name
from benchmark.papers.masking_finding import answer, ranking, together, trained, verdicts, why_not_trained
from benchmark.papers.masking_information import information
from benchmark.papers.sources import provenance, trainings
from benchmark.store.store import Record, write_whole
from benchmark.thresholds import page as threshold_page
from benchmark.thresholds import strengths
from benchmark.thresholds.page import range_of, sample_size_caveat
from benchmark.thresholds.relative import is_absolute
from benchmark.thresholds.strengths import DefenseThresholds, Thresholds
from benchmark.thresholds.table import WITHIN
from benchmark.training import sizes
from benchmark.training.rows import Row, rows, scenario_of
from benchmark.training.sizes import Sizes
from benchmark.training.table import ONE_POINT, data_of, interval, network, rate


def page(records: list[Record], folder: Path) -> str:
    """Writes thresholds.json, thresholds.md, diagnosis.md, spectrum.md and leakage.png anew, and returns the page.

    It is made from the searches that thresholds.json names, from the records and from the trainings in the folder.

    Raises:
        UsageError: thresholds.json is missing or names strengths without records, or a file is damaged.
    """
    threshold_page.write(folder, records)
    found, trained_so_far, measured = strengths.read(folder), trainings(folder), sizes.read(folder)
    table = rows(trained_so_far)
    write_whole(folder / "leakage.png", figure(found.searches, found.stop))
    told, origins = information(folder)
    return render(
        "papers/masking.md.j2",
        **numbers(found, table, trained_so_far, measured),
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
        accuracies={(one.where, one.label): accuracies(one, table, measured) for one in found.defenses},
        small_loss=100 * ONE_POINT,
        sizes=sizes_table(found.defenses, measured),
        provenance=provenance(records, trained_so_far, origins),
    )


def summary(records: list[Record], folder: Path) -> str:
    """Claim, and the verdict on each defense against either attacker.

    Raises:
        UsageError: thresholds.json is missing, or a file is damaged.
    """
    found, trained_so_far = strengths.read(folder), trainings(folder)
    told = numbers(found, rows(trained_so_far), trained_so_far, sizes.read(folder))
    return render("papers/masking_summary.md.j2", **told)


def numbers(found: Thresholds, table: list[Row], trained_so_far: list[Record], measured: Sizes) -> dict[str, Any]:
    """What both texts say: caveats, verdicts on each defense and on the claim by attacker, and ranks."""
    judged = verdicts(found.defenses, table, measured)
    return {
        "caveats": caveats(found.defenses, table, trained_so_far, measured),
        "verdicts": judged,
        "answers": {attacker: answer(of_defense) for attacker, of_defense in judged.items()},
        "ranking": ranking(found.defenses, table, measured),
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


def sizes_table(defenses: list[DefenseThresholds], measured: Sizes) -> str:
    """The sizes by which norms and noise were carried over from what was attacked to what was trained, if they were."""
    where = {json.dumps(one.scenario): one.where for one in defenses}
    attacked = [(f"{where.get(json.dumps(one.of), '')}, attacked", one) for one in measured.attacked]
    trained_here = [(f"{described(one.of)}, trained", one) for one in measured.trained]
    cells = [
        (name, str(one.updates), f"{one.size.norm:.3g}", f"{one.size.entries:,}", f"{one.size.root_mean_square:.3g}")
        for name, one in (*attacked, *trained_here)
        if one.size
    ]
    return (
        Grid(("updates", "measured", "median norm", "entries", "root mean square"), cells).markdown() if cells else ""
    )


def accuracies(one: DefenseThresholds, table: list[Row], measured: Sizes) -> list[tuple[str, ...]]:
    """Of each network: what it is, its accuracy, and that with the defense as strong as where each attacker stops."""
    found = []
    for control in table:
        if one.is_trained_on(data_of(control)) and control["defense"] == "no defense":
            cells = [protected(one, attacker, control, table, measured) for attacker in one.strongest]
            found.append((network(control), accuracy(control), *cells))
    return found


def protected(one: DefenseThresholds, attacker: str, control: Row, table: list[Row], measured: Sizes) -> str:
    """The accuracy of a network with the defense as strong as where the attacker stops, or why there is none.

    A strength that was carried over to the network stands before it.
    """
    here = [row for row in trained(one, attacker, table, measured) if scenario_of(row) == scenario_of(control)]
    if not here:
        return why_not_trained(one, attacker, control, measured)
    strength = here[0]["config"]["defense"][one.argument]
    return (f"{strength:.3g}: " if is_absolute(one.defense, one.argument) else "") + accuracy(here[0])


def accuracy(row: Row) -> str:
    """Accuracy in percent and learning rate, where there was a choice, and what makes them doubtful."""
    chosen = f", rate {rate(row)}" if " " in row["learning_rates"] else ""
    failed = [f"{row[how]} of {row['seeds']} {how}" for how in ("diverged", "collapsed") if row[how]]
    doubts = "".join(f", {doubt}" for doubt in (*failed, row["void"]) if doubt)
    return f"{100 * row['accuracy']:.1f} %{interval(row, 'accuracy', 100, 1)}{chosen}{doubts}"
