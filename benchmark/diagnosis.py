"""Why an attack misses an image: because it does not get there, or because the update does not say where that is.

The attack is run again with double precision, from the true image, which no attacker has, and from near it.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from attacks import IDLG, GaussNewton
from benchmark.blocks import Workbench, check_attack, check_fit, checksum
from benchmark.client import observe
from benchmark.errors import UsageError
from benchmark.leak import leaked, null_scores
from benchmark.records import finite, provenance
from benchmark.registry import Spec, build, code_checksum
from benchmark.scores import score
from benchmark.seeds import generators
from benchmark.suite import BASELINES, Cell, Suite, digest
from benchmark.threshold_table import attack_label

OWN, DOUBLE, TRUTH, NEAR = "as it is", "float64", "from the true image", "from near it"

RUNS: dict[str, tuple[torch.dtype, float | None]] = {
    OWN: (torch.float32, None),
    DOUBLE: (torch.float64, None),
    TRUTH: (torch.float32, 0.0),
    NEAR: (torch.float32, 0.2),
}
"""The attacks on each victim: precision, and where they start at the true image, the deviation of the noise on it."""

CONTENT = 1e-6
"""Matching loss with which the published attacks are content: for an attack without a tolerance of its own, an image
that has less than this does as well as the true one."""

SAME = 0.01
"""Objectives closer to each other than this part of the larger one are the same."""

VERDICTS = {
    "found": "the attack finds the image (PSNR of 20 dB or more)",
    "label": "it does not, and it goes by a wrong label",
    "optimizer": (
        "the label is right and the objective is lower at the image, but the attack does not get there, though it does "
        "with 64 bits or from near it"
    ),
    "information": (
        "another image does as well, down to the tolerance with which the attack is content, or the attack leaves the "
        "true image for another: what the defense has left, with the priors, does not say which one it was"
    ),
    "open": "the objective is lower at the image, but not even from near it does the attack get there, or it diverges",
}
"""What can be said of a victim, and when."""


@dataclass(frozen=True)
class Found:
    """What one run made of each victim.

    Attributes:
        leaked: whether the image was found, by the PSNR.
        diverged: whether the attack did.
        label_right: whether the label was.
        objective: the lowest loss of the attack's own, with its priors; None where it was never finite.
    """

    leaked: list[bool]
    diverged: list[bool]
    label_right: list[bool]
    objective: list[float | None]


def diagnose(cell: Cell, bench: Workbench) -> dict[str, Found]:
    """Attacks the victims of a cell in each of ``RUNS``."""
    scenario, victims = cell.scenario, range(cell.scenario.victims)
    data = bench.data(scenario.data)
    images, labels = bench.victims(scenario, victims)
    defense = build("defense", cell.defense) if cell.defense else None
    sources = generators(scenario.seed, victims, "diagnosis")
    noise = torch.stack([torch.randn(images.shape[1:], generator=source) for source in sources])
    null, _ = null_scores(images, labels, data.mean_image(), data.class_means())
    found = {}
    for name, (precision, deviation) in RUNS.items():
        given = images.to(bench.device), labels.to(bench.device)
        model = bench.model(scenario).to(precision)
        seen = observe(
            model,
            *given,
            data.num_classes,
            defense,
            cell.adaptive,
            data.mean_image(),
            data.class_means(),
            data.mean_step(),
            scenario.seed,
            victims,
        )
        start = None if deviation is None else (images + deviation * noise).to(bench.device)
        attack: IDLG | GaussNewton = build("attack", cell.attack if start is None else once(cell.attack))
        made = attack.reconstruct(seen, start_images=start)
        scores = score(images, labels, made.images.float().cpu(), made.labels.cpu(), None)
        is_found = leaked(scores.psnr, null).any(1).tolist()
        found[name] = Found(
            leaked=[ok and status != "diverged" for ok, status in zip(is_found, made.status, strict=True)],
            diverged=[status == "diverged" for status in made.status],
            label_right=scores.label_correct.all(1).tolist(),
            objective=[finite(loss) for loss in made.loss.tolist()],
        )
    return found


def once(attack: Spec) -> Spec:
    """The attack without what would make it leave the start that it is given: restarts, and weights that fall."""
    fixed = {"restarts": 0, "start": "noise"}
    if attack.name == "GaussNewton":  # its first weights would smooth away the start
        fixed["total_variation"] = attack.args["last_total_variation"]
    return replace(attack, args=attack.args | {key: value for key, value in fixed.items() if key in attack.args})


def verdicts_of(row: dict[str, Any]) -> list[str]:
    """One of ``VERDICTS`` for each victim of a row."""
    runs, tolerance = row["runs"], float(row["attack"].get("tolerance", CONTENT))
    objectives = {name: [float("inf") if o is None else o for o in run["objective"]] for name, run in runs.items()}
    verdicts = []
    for victim, here in enumerate(objectives[OWN]):
        stays, there = runs[TRUTH]["leaked"][victim], objectives[TRUTH][victim]
        if runs[OWN]["leaked"][victim]:
            verdicts.append("found")
        elif not runs[OWN]["label_right"][victim]:
            verdicts.append("label")
        elif here <= max(tolerance, there * (1 + SAME)) or not (stays or runs[TRUTH]["diverged"][victim]):
            verdicts.append("information")
        else:
            arrives = runs[DOUBLE]["leaked"][victim] or runs[NEAR]["leaked"][victim]
            verdicts.append("optimizer" if arrives else "open")
    return verdicts


def adaptive_cells(suite: Suite, victims: int, bench: Workbench) -> list[Cell]:
    """The cells of the suite whose attacker knows the defense, with so many victims.

    Raises:
        UsageError: there is none, or one that can not be diagnosed.
    """
    found = [cell for cell in suite.cells if cell.defense and cell.adaptive and cell.attack.name not in BASELINES]
    if not found:
        raise UsageError(f"{suite.name} has no attack on a defense that it knows: give it attacks and defenses")
    cells = [replace(cell, scenario=replace(cell.scenario, victims=victims)) for cell in found]
    for cell in cells:
        attack = build("attack", cell.attack)
        if not isinstance(attack, IDLG | GaussNewton):  # the label that DLG looks for would not start at the true one
            raise UsageError(f"{cell.attack.name} can not be started at the true image: give IDLG or GaussNewton")
        check_attack(cell.scenario, cell.attack, check_fit(cell.scenario, bench), bench)
    return cells


def run(cells: list[Cell], bench: Workbench, done: list[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """All rows that there are by then, after each cell; at the end, those of the cells alone.

    Args:
        cells: what is diagnosed.
        bench: device and data root.
        done: rows of an earlier run; those of the same cells, images and code are taken over.
    """
    earlier = {str(row["key"]): row for row in done}
    table: list[dict[str, Any]] = []
    for cell in cells:
        key = key_of(cell, bench)
        table.append(earlier.pop(key) if key in earlier else {"key": key} | row_of(cell, bench))
        yield [*table, *earlier.values()]  # a run that is stopped has lost none of them
    yield table


def row_of(cell: Cell, bench: Workbench) -> dict[str, Any]:
    """One row of the table, as JSON, with what became of each victim."""
    assert cell.defense is not None
    return {
        "where": cell.scenario.label,
        "defense": cell.defense.label,
        "attack": cell.attack.as_dict(),
        "runs": {name: asdict(found) for name, found in diagnose(cell, bench).items()},
        "provenance": provenance(bench) | {"data_notes": bench.data(cell.scenario.data).notes},
    }


def key_of(cell: Cell, bench: Workbench) -> str:
    """Everything that decides a row."""
    parts = {"data": cell.scenario.data, "model": cell.scenario.model, "attack": cell.attack, "defense": cell.defense}
    code = code_checksum({kind: part for kind, part in parts.items() if part is not None})
    data = bench.data(cell.scenario.data)
    images = checksum(
        *bench.victims(cell.scenario, range(cell.scenario.victims)), data.mean_image(), data.class_means()
    )
    here = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()
    return digest(cell.config() | {"code_sha256": code, "data_sha256": images, "diagnosis_sha256": here})


COLUMNS = ("data", "defense", "attack", "victims", *(f"found {name}" for name in RUNS), *list(VERDICTS)[1:])


def cells_of(row: dict[str, Any]) -> tuple[str, ...]:
    """The row as a person reads it, in the order of ``COLUMNS``."""
    found = [str(sum(row["runs"][name]["leaked"])) for name in RUNS]
    verdicts = verdicts_of(row)
    counts = [str(verdicts.count(verdict)) for verdict in list(VERDICTS)[1:]]
    return row["where"], row["defense"], attack_label(row["attack"]), str(len(verdicts)), *found, *counts


def as_markdown(table: list[dict[str, Any]]) -> str:
    """The table as a page."""
    lines = [
        "# Why attacks that know the defense miss an image",
        "",
        "The same victims are attacked as usual, with 64 instead of 32 bits, from the true image, and from near it",
        f"(noise with a deviation of {RUNS[NEAR][1]:g} on each pixel, which is no leak). What can be said of a victim,",
        "the first that holds:",
        "",
        *(f"- **{verdict}**: {meaning}." for verdict, meaning in VERDICTS.items()),
        "",
        "| " + " | ".join(COLUMNS) + " |",
        "|" + "---|" * len(COLUMNS),
        *("| " + " | ".join(cells_of(row)) + " |" for row in table),
    ]
    return "\n".join(lines) + "\n"
