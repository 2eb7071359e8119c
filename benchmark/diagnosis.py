"""Why an attack misses an image: because it does not get there, or because the update does not say where that is.

The attack is run again from near the true image, which no attacker has. Where it comes back to the image, with a lower
objective than it found from its own start, its optimizer is at fault. Where it does not come back, or where other
images do as well, the information is: what the defense has left, and the priors, do not say which image it was.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from attacks.gradient_matching import GradientMatching
from benchmark.blocks import Workbench
from benchmark.client import observe
from benchmark.errors import UsageError
from benchmark.registry import build, code_checksum
from benchmark.scores import leaked, score
from benchmark.seeds import generators
from benchmark.suite import BASELINES, Cell, Suite, digest
from benchmark.threshold import attack_label

RUNS: dict[str, tuple[torch.dtype, float | None]] = {
    "as it is": (torch.float32, None),
    "float64": (torch.float64, None),
    "from the true image": (torch.float32, 0.0),
    "from near it": (torch.float32, 0.2),
}
"""The attacks on each victim: precision, and where they start at the true image, the deviation of the noise on it.

With a deviation of 0.2 the start has a PSNR of 14 dB, which is no leak.
"""

SAME = 0.01
"""Objectives closer to each other than this part of the larger one are the same."""


@dataclass(frozen=True)
class Found:
    """What one run made of each victim.

    Attributes:
        leaked: whether the image was found, by the PSNR.
        objective: the lowest matching loss, with the priors, infinite where there was none.
    """

    leaked: list[bool]
    objective: list[float]


def diagnose(cell: Cell, bench: Workbench) -> dict[str, Found]:
    """Attacks the victims of a cell in each of ``RUNS``.

    Raises:
        UsageError: the attack has no start, as those in closed form.
    """
    attack = build("attack", cell.attack)
    if not isinstance(attack, GradientMatching):
        raise UsageError(f"{cell.attack.name} has no start that could be the true image: give DLG or IDLG")
    scenario, victims = cell.scenario, range(cell.scenario.victims)
    data = bench.data(scenario.data)
    images, labels = bench.victims(scenario, victims)
    defense = build("defense", cell.defense) if cell.defense else None
    found = {}
    sources = generators(scenario.seed, victims, "diagnosis")
    noise = torch.stack([torch.randn(images.shape[1:], generator=source) for source in sources])
    for name, (precision, deviation) in RUNS.items():
        model = bench.model(scenario).to(precision)
        public = data.mean_image(), data.class_means()
        seen = observe(
            model,
            images.to(bench.device),
            labels.to(bench.device),
            data.num_classes,
            defense,
            cell.adaptive,
            *public,
            scenario.seed,
            victims,
        )
        start = None if deviation is None else (images + deviation * noise).to(bench.device)
        made = attack.reconstruct(seen, start_images=start)
        scores = score(images, labels, made.images.float().cpu(), made.labels.cpu(), None)
        found[name] = Found(seen_in(scores.psnr, made.status), made.loss.tolist())
    return found


def seen_in(psnr: Tensor, status: list[str]) -> list[bool]:
    """Whether an image of each victim leaked; never where the attack diverged."""
    return [ok and how != "diverged" for ok, how in zip(leaked(psnr).any(1).tolist(), status, strict=True)]


def faults(found: dict[str, Found], tolerance: float) -> list[str]:
    """For each victim "found", or what is at fault: "optimizer" or "information".

    Args:
        found: by the names of ``RUNS``.
        tolerance: the matching loss below which the attack stops, content with any image.
    """
    own, near = found["as it is"], found["from near it"]
    verdicts = []
    for is_found, here, returns, there in zip(own.leaked, own.objective, near.leaked, near.objective, strict=True):
        could_be_lower = returns and here > max(tolerance, there * (1 + SAME))
        verdicts.append("found" if is_found else "optimizer" if could_be_lower else "information")
    return verdicts


def adaptive_cells(suite: Suite, victims: int) -> list[Cell]:
    """The cells of the suite whose attacker knows the defense, with so many victims."""
    cells = [cell for cell in suite.cells if cell.defense and cell.adaptive and cell.attack.name not in BASELINES]
    return [replace(cell, scenario=replace(cell.scenario, victims=victims)) for cell in cells]


def row(cell: Cell, found: dict[str, Found]) -> dict[str, Any]:
    """One row of the table, as JSON, with what became of each victim."""
    assert cell.defense is not None
    return {
        "dataset": cell.scenario.data.name,
        "model": cell.scenario.model.name,
        "defense": cell.defense.label,
        "attack": cell.attack.as_dict(),
        "runs": {name: {"leaked": run.leaked, "objective": run.objective} for name, run in found.items()},
        "faults": faults(found, float(cell.attack.args["tolerance"])),
    }


def run(cells: list[Cell], bench: Workbench, done: list[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """The table, whenever there is another row.

    Args:
        cells: what is diagnosed.
        bench: device and data root.
        done: rows of an earlier run; those of the same cells and code are taken over.
    """
    earlier = {row["key"]: row for row in done}
    table: list[dict[str, Any]] = []
    for cell in cells:
        key = key_of(cell)
        table.append(earlier.get(key) or {"key": key} | row(cell, diagnose(cell, bench)))
        yield table


def key_of(cell: Cell) -> str:
    """Everything that decides a row but the pixels."""
    parts = {"data": cell.scenario.data, "model": cell.scenario.model, "attack": cell.attack, "defense": cell.defense}
    code = code_checksum({kind: part for kind, part in parts.items() if part is not None})
    return digest(cell.config() | {"victims": cell.scenario.victims, "code_sha256": code})


COLUMNS = ("data", "defense", "attack", "victims", *RUNS, "optimizer at fault", "information at fault")


def cells_of(row: dict[str, Any]) -> tuple[str, ...]:
    """The row as a person reads it, in the order of ``COLUMNS``."""
    runs = [str(sum(row["runs"][name]["leaked"])) for name in RUNS]
    at_fault = [str(row["faults"].count(which)) for which in ("optimizer", "information")]
    names = row["dataset"], row["defense"], attack_label(row["attack"])
    return (*names, str(len(row["faults"])), *runs, *at_fault)


def as_markdown(table: list[dict[str, Any]]) -> str:
    """The table as a page."""
    lines = [
        "# Why attacks that know the defense miss an image",
        "",
        "The same victims are attacked as usual, with 64 instead of 32 bits, from the true image, and from near it",
        f"(noise of {RUNS['from near it'][1]:g} on each pixel, 14 dB): how many are found (PSNR of 20 dB or more)?",
        "Where an image is missed, the optimizer is at fault if the attack comes back to the image from near it, and",
        f"its objective there is lower by more than {SAME:.0%} than what was reached, which is above the tolerance",
        "with which the attack is content. Else the information is: what the defense leaves of the update, with the",
        "priors, does not say which image it was.",
        "",
        "| " + " | ".join(COLUMNS) + " |",
        "|" + "---|" * len(COLUMNS),
        *("| " + " | ".join(cells_of(row)) + " |" for row in table),
    ]
    return "\n".join(lines) + "\n"
