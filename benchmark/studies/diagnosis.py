"""Why an attack misses an image: because it does not get there, or because other images fit the update as well.

The same attack is run again in double precision, from the true image, which no attacker has, and from near it.
"""

import copy
from collections.abc import Iterator
from dataclasses import replace
from math import isfinite
from typing import Any, get_args

import torch
from torch import Tensor

from attacks import IDLG, GaussNewton
from attacks.base import Observation
from benchmark.boards.grid import Grid
from benchmark.boards.outcome import listed
from benchmark.boards.template import render
from benchmark.errors import UsageError
from benchmark.jobs import blocks
from benchmark.jobs.blocks import Workbench, check_unchanged
from benchmark.jobs.job import Watch
from benchmark.jobs.records import without_nan
from benchmark.jobs.scored import finite
from benchmark.metrics.leak import BASELINES, leaked
from benchmark.metrics.scores import null_scores, score
from benchmark.seeds import generators
from benchmark.store.store import DIAGNOSES, Record, Store, say
from benchmark.store.study_schema import Run, RunName
from benchmark.studies.study import Row, Studies, Study, version_of
from benchmark.suite.registry import Spec, build
from benchmark.suite.suite import Cell, Suite
from benchmark.thresholds.page import attack_label
from defenses.base import global_norm

OWN, DOUBLE, TRUTH, NEAR = get_args(RunName)

RUNS: dict[str, tuple[torch.dtype, float | None]] = {
    OWN: (torch.float32, None),
    DOUBLE: (torch.float64, None),
    TRUTH: (torch.float32, 0.0),
    NEAR: (torch.float32, 0.2),
}
"""The attacks on each victim: precision, and where they start at the true image, the deviation of the noise on it."""

ROUNDING = 1e-3
"""Objectives closer to each other than this part of the larger one are the same: they are sums of squares, in 32
bits."""

SOLVED = 1e-10
"""An objective of no more than this part of the squared norm of what is matched is one of a solution: its residual is
within a few dozen roundings in 32 bits."""

NOT_JUDGED = "not judged"

VERDICTS = {
    "found": "the attack finds the image (PSNR of 20 dB or more, and better than every null baseline)",
    "label": "it does not, and its label is wrong",
    "ambiguous": (
        "another image fits as well: the attack's own objective is, within rounding, no higher there than where the "
        "attack ends that starts at the true image, or that one leaves the true image for another"
    ),
    "tolerance": (
        "the attack has reached its tolerance at another image, though the objective is lower at the true one: whether "
        "the update tells them apart is not known"
    ),
    "optimizer": (
        "the objective is lower at the true image, but the attack does not get there, though it does in 64 bits or "
        "from near it"
    ),
    "open": "the objective is lower at the true image, but the attack does not even get there from near it",
    NOT_JUDGED: (
        "Gauss-Newton misses the image, and its runs from the true image and from near it, of an older version, were "
        "those of another attack: with the weight of the prior at its last value from the start"
    ),
}
"""What can be said of a victim, and when: the first that holds."""


def diagnose(cell: Cell, images: Tensor, labels: Tensor, bench: Workbench) -> Iterator[tuple[str, Run]]:
    """Attacks the victims of a cell in each of ``RUNS``.

    Args:
        cell: with as many victims as there are.
        images: their batches ``[V, N, C, H, W]``.
        labels: ``[V, N]``.
        bench: data and device.
    """
    scenario, victims = cell.scenario, range(len(images))
    data = bench.data(scenario.data)
    sources = generators(scenario.seed, victims, "diagnosis")
    noise = torch.stack([torch.randn(images.shape[1:], generator=source) for source in sources])
    null, _ = null_scores(images, labels, data.mean_image(), data.class_means())
    for name, (precision, deviation) in RUNS.items():
        model = copy.deepcopy(bench.model(scenario)).to(precision)
        seen = bench.observe(scenario, images, labels, victims, cell.defense, cell.adaptive, model)
        start = None if deviation is None else (images + deviation * noise).to(bench.device)
        attack: IDLG | GaussNewton = build("attack", cell.attack if start is None else without_restarts(cell.attack))
        made = without_nan(attack.reconstruct(seen, start_images=start))
        scores = score(images, labels, made.images.float().cpu(), made.labels.cpu(), None, null)
        is_found = leaked(scores.psnr, null).any(1).tolist()
        run: Run = {
            "leaked": [ok and status != "diverged" for ok, status in zip(is_found, made.status, strict=True)],
            "status": made.status,
            "label_right": scores.label_correct.all(1).tolist(),
            "objective": [finite(loss) for loss in made.loss.tolist()],
            "size": [size if isfinite(size) else None for size in size_of(seen, attack).tolist()],
        }
        yield name, run


def size_of(seen: Observation, attack: IDLG | GaussNewton) -> Tensor:
    """The squared norm of each victim's update ``[V]``, with the weight that the attack gives to it."""
    squared = global_norm(seen.update).double().square()
    if seen.defense is None or isinstance(attack, GaussNewton):
        return squared
    return squared * seen.defense.weight(seen.update)


def without_restarts(attack: Spec) -> Spec:
    """The same attack, but that it stays with the start that it is given."""
    return replace(attack, args=attack.args | {"restarts": 0}) if "restarts" in attack.args else attack


def runs_of(row: dict[str, Any]) -> dict[str, Run]:
    """The runs of a row; of an older version those alone that were of the same attack."""
    attack, found = row["attack"], dict[str, Run]()
    for name, run in row["runs"].items():
        if "status" in run or attack["class"] != "GaussNewton" or name not in (TRUTH, NEAR):
            found[name] = run if "status" in run else run | {"status": older_status(attack, run)}
    return found


def older_status(attack: dict[str, Any], run: dict[str, Any]) -> list[str]:
    """How the attacks ended: older versions did not say who had converged."""
    tolerance = float(attack.get("tolerance", 0.0))
    return [
        "diverged" if diverged else "converged" if objective is not None and objective < tolerance else "exhausted"
        for diverged, objective in zip(run["diverged"], run["objective"], strict=True)
    ]


def verdicts_of(row: dict[str, Any]) -> list[str]:
    """One of ``VERDICTS`` for each victim of a row."""
    runs = runs_of(row)
    return [verdict(runs, victim) for victim in range(len(runs[OWN]["leaked"]))]


def verdict(runs: dict[str, Run], victim: int) -> str:
    """What can be said of one victim."""
    own, truth, near = runs[OWN], runs.get(TRUTH), runs.get(NEAR)
    if own["leaked"][victim]:
        return "found"
    if not own["label_right"][victim]:
        return "label"
    if truth is None or near is None:
        return NOT_JUDGED
    here, there = own["objective"][victim], truth["objective"][victim]
    rounding = SOLVED * (own["size"][victim] or 0.0) if "size" in own else 0.0
    fits = here is not None and there is not None and here <= max(there * (1 + ROUNDING), rounding)
    leaves = not truth["leaked"][victim] and truth["status"][victim] != "diverged"
    if fits or leaves:
        return "ambiguous"
    if own["status"][victim] == "converged":
        return "tolerance"
    return "optimizer" if runs[DOUBLE]["leaked"][victim] or near["leaked"][victim] else "open"


class Diagnoses(Studies):
    """Cells that are diagnosed; a step of the progress bar is a run of the attack on all victims."""

    plural, groups, shelf = "cells", "cells", DIAGNOSES

    def do(self, jobs: list[Study], store: Store, bench: Workbench, watch: Watch[Study]) -> list[Record]:
        (job,) = jobs
        images, labels = bench.victims(job.block.cell.scenario, job.block.victims)
        runs: dict[str, Run] = {}
        for name, found in diagnose(job.block.cell, images, labels, bench):
            runs[name] = found
            watch.reached(job, len(runs))
        check_unchanged(job.block, images, labels)
        return [job.record({"runs": runs}, bench)]

    def rows(self, found: list[tuple[Study, Record]]) -> list[Row]:
        """One row for each cell, with what became of each victim."""
        return [
            job.row(record) | {"attack": record["config"]["attack"], "runs": record["runs"]} for job, record in found
        ]

    def about(self, row: Row) -> tuple[str, ...]:
        """An attack may have got more arguments since, with the values that it had before."""
        return row["where"], row["defense"], attack_label(row["attack"])

    def page(self, rows: list[Row]) -> str:
        given = {verdict for row in rows for verdict in verdicts_of(row)}
        said = {name: meaning for name, meaning in VERDICTS.items() if name != NOT_JUDGED or name in given}
        shown = list(said)[1:]
        columns = ("data", "defense", "attack", "victims", *(f"found {name}" for name in RUNS), *shown)
        table = Grid(columns, [cells_of(row, shown) for row in rows]).markdown()
        return render("studies/diagnosis.md.j2", noise=RUNS[NEAR][1], said=said, table=table)


def plan(suite: Suite, victims: int, bench: Workbench) -> list[Study]:
    """The cells of a suite whose attacker knows the defense and can be started at the true image.

    Args:
        suite: of which they are.
        victims: that each of them gets.
        bench: with their networks and data.

    Raises:
        UsageError: there is none, or its network, defense, attack or data cannot be used.
    """
    known = [cell for cell in suite.cells if cell.defense and cell.adaptive and cell.attack.name not in BASELINES]
    if not known:
        raise UsageError(f"{suite.name} has no attack on a defense that it knows: give it attacks and defenses")
    # The label that DLG looks for would not start at the true one.
    cells = [
        replace(cell, scenario=replace(cell.scenario, victims=victims))
        for cell in known
        if isinstance(build("attack", cell.attack), IDLG | GaussNewton)
    ]
    others = listed(sorted({cell.attack.name for cell in known} - {cell.attack.name for cell in cells}))
    if not cells:
        raise UsageError(f"{others} cannot be started at the true image: give IDLG or GaussNewton")
    if others:
        say(f"not diagnosed, since they cannot be started at the true image: {others}")
    code, found = version_of(__file__), blocks.plan(Suite(suite.name, tuple(cells), block_size=victims), bench)
    return [Study(block, code, block.label, block.group, len(RUNS)) for block in found]


def cells_of(row: Row, shown: list[str]) -> tuple[str, ...]:
    """The row as a person reads it: how many each run finds, and how many there are of each of the verdicts shown."""
    runs, verdicts = runs_of(row), verdicts_of(row)
    found = [str(sum(runs[name]["leaked"])) if name in runs else "-" for name in RUNS]
    counts = [str(verdicts.count(verdict)) for verdict in shown]
    return row["where"], row["defense"], attack_label(row["attack"]), str(len(verdicts)), *found, *counts
