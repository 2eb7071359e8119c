"""How much a defended update still determines its image: the numerical rank of the update's Jacobian in the pixels.

The number of entries that a defense leaves is an upper bound of that rank, which is the number of directions in which
the image cannot move without moving the update; the singular values say by how much it moves.
"""

import copy
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import groupby

import torch
from torch import Tensor, nn
from torch.func import grad, jvp, vmap

from attacks import Observation
from attacks.network.gradients import call, differentiable_twice, trained_names
from attacks.update import Protocol
from benchmark.boards.grid import Grid
from benchmark.boards.template import render
from benchmark.errors import UsageError
from benchmark.jobs import blocks
from benchmark.jobs.blocks import Block, Workbench, check_unchanged
from benchmark.jobs.job import Watch
from benchmark.store.store import RANKS, Record, Store
from benchmark.studies.study import Row, Studies, Study, version_of
from benchmark.suite.registry import Spec
from benchmark.suite.suite import Cell, Scenario, Suite, baselines
from defenses.base import Update

LEVELS = (1e-1, 1e-2, 1e-3, 1e-4, 1e-6)
"""Singular values are counted down to these parts of the largest one without a defense."""

CHUNK = 128
"""Directions that the Jacobian is computed in at a time."""


def jacobian(model: nn.Module, parameters: Update, image: Tensor, label: Tensor) -> dict[str, Tensor]:
    """Derivative of one victim's gradient in the pixels of its image.

    Args:
        model: the architecture.
        parameters: of the victim, name -> ``[...]``; also of what is frozen, and running statistics.
        image: ``[C, H, W]``.
        label: class probabilities ``[K]``.

    Returns:
        name -> ``[entries, pixels]``.
    """

    names = trained_names(model)
    trained = {name: value for name, value in parameters.items() if name in names}

    def loss(weights: Update, pixels: Tensor) -> Tensor:
        logits = call(model, parameters | weights, pixels.view(1, *image.shape))[0]
        return -(label * logits.log_softmax(-1)).sum()

    def along(direction: Tensor) -> Update:
        moved: Update = jvp(lambda pixels: grad(loss)(trained, pixels), (image.flatten(),), (direction,))[1]
        return moved

    with differentiable_twice():
        found = vmap(along, out_dims=-1, chunk_size=CHUNK)(
            torch.eye(image.numel(), dtype=image.dtype, device=image.device)
        )
    return {name: value.flatten(0, -2) for name, value in found.items()}


def singular_values(derivative: dict[str, Tensor], factor: dict[str, Tensor]) -> Tensor:
    """Those of the derivative with each row times the factor of its entry, ``[pixels]``, largest first."""
    first = next(iter(derivative.values()))
    gram = torch.zeros(first.shape[1], first.shape[1], dtype=torch.float64, device=first.device)
    for name, rows in derivative.items():
        kept = factor[name].flatten()
        weighted = (rows * kept[:, None])[kept != 0].double()
        gram += weighted.T @ weighted
    return torch.linalg.eigvalsh(gram).clamp(min=0).sqrt().flip(0)


@dataclass(frozen=True)
class JacobianRank:
    """Numerical rank of the Jacobian of one victim's update.

    Attributes:
        equations: entries that are not zero.
        pixels: unknowns.
        directions: for each of ``LEVELS``, singular values at or above that part of the undefended largest one.
    """

    equations: int
    pixels: int
    directions: list[int]


def rank_per_defense(
    scenario: Scenario, defenses: list[Spec | None], victim: int, images: Tensor, labels: Tensor, bench: Workbench
) -> list[JacobianRank]:
    """The ranks of a victim for each of some defenses, as an attacker sees them who knows the defense.

    Args:
        scenario: of the victim.
        defenses: None is no defense.
        victim: its number.
        images: its batch of one image, ``[1, 1, C, H, W]``.
        labels: ``[1, 1]``.
        bench: data and device.
    """
    model = copy.deepcopy(bench.model(scenario)).double()
    undefended = bench.observe(scenario, images, labels, range(victim, victim + 1), model=model)
    one_hot = torch.nn.functional.one_hot(labels[0, 0], bench.data(scenario.data).num_classes)
    image, label = (each.to(bench.device).double() for each in (images[0, 0], one_hot))

    def jacobian_of(seen: Observation) -> Update:
        return jacobian(seen.model, {name: value[0] for name, value in seen.own_networks.items()}, image, label)

    derivative = jacobian_of(undefended)
    ones = {name: torch.ones_like(value[0]) for name, value in undefended.update.items()}
    whole = singular_values(derivative, ones)
    found = []
    for spec in defenses:
        kept, values = ones, whole
        if spec is not None:
            seen = bench.observe(scenario, images, labels, range(victim, victim + 1), spec, True, model)
            assert seen.defense is not None
            kept = {name: value[0].double() for name, value in seen.defense.kept_entries(seen.update).items()}
            values = singular_values(derivative if seen.model is model else jacobian_of(seen), kept)
        found.append(
            JacobianRank(
                equations=sum(int(value.sum()) for value in kept.values()),
                pixels=len(values),
                directions=[int((values >= level * float(whole[0])).sum()) for level in LEVELS],
            )
        )
    return found


class Spectra(Studies):
    """Ranks of Jacobians, one of a victim and a defense; a step of the progress bar is one of them."""

    plural, groups, shelf = "ranks", "victims", RANKS

    def together(self, job: Study, pending: Sequence[Study], bench: Workbench) -> list[Study]:
        """All defenses of the victim, which share the Jacobian of its update."""
        return [job, *(other for other in pending if other.group == job.group and other != job)]

    def do(self, jobs: list[Study], store: Store, bench: Workbench, watch: Watch[Study]) -> list[Record]:
        block, defenses = jobs[0].block, [job.block.cell.defense for job in jobs]
        scenario, victims = block.cell.scenario, block.victims
        images, labels = bench.victims(scenario, victims)
        found = rank_per_defense(scenario, defenses, victims.start, images, labels, bench)
        check_unchanged(block, images, labels)
        return [job.record(asdict(rank), bench) for job, rank in zip(jobs, found, strict=True)]

    def rows(self, found: list[tuple[Study, Record]]) -> list[Row]:
        """One row for each defense: means over victims."""
        by_cell = groupby(found, key=lambda one: one[0].block.cell.id)  # the plan goes from cell to cell
        return [means(*zip(*of_it, strict=True)) for _, of_it in by_cell]

    def about(self, row: Row) -> tuple[str, ...]:
        return row["dataset"], row["model"], row["defense"]

    def page(self, rows: list[Row]) -> str:
        names = ("data", "defense", "victims", "pixels", "equations", *(f"{level:g}" for level in LEVELS))
        return render("studies/spectrum.md.j2", table=Grid(names, [cells_of(row) for row in rows]).markdown())


def means(jobs: Sequence[Study], records: Sequence[Record]) -> Row:
    """The row of a cell, from those of its victims."""
    scenario, count = jobs[0].block.cell.scenario, len(records)
    directions = [sum(ranks) / count for ranks in zip(*(record["directions"] for record in records), strict=True)]
    return jobs[0].row(records[0]) | {
        "dataset": scenario.data.name,
        "model": scenario.model.name,
        "victims": count,
        "pixels": records[0]["pixels"],
        "equations": sum(record["equations"] for record in records) / count,
        "directions": {f"{level:g}": mean for level, mean in zip(LEVELS, directions, strict=True)},
    }


def plan(suite: Suite, bench: Workbench) -> list[Study]:
    """The ranks of a suite: of each scenario without a defense and with each of its defenses, for each victim.

    Raises:
        UsageError: an update is not the gradient of one image, or a network, defense or data set cannot be used.
    """
    cells: dict[str, Cell] = {}
    for given in suite.cells:
        scenario = given.scenario
        if scenario.batch_size > 1 or scenario.setting.protocol != Protocol() or scenario.setting.rounds > 1:
            raise UsageError(
                f"leakboard spectrum is for the gradient of one image in mode eval, not for {scenario.label}: leave "
                "batch_size, mode, protocol and rounds out of its scenario"
            )
        # A null baseline does not look at the update, so that no attack has a say in what is computed.
        cell = Cell(scenario, given.defense, baselines()[0], adaptive=given.defense is not None)
        cells[cell.id] = cell
    return [of_victim(block) for block in blocks.plan(Suite(suite.name, tuple(cells.values()), block_size=1), bench)]


def of_victim(block: Block) -> Study:
    """The job of a block of one victim; people count victims with all their defenses."""
    label = f"{block.cell.scenario.label}, victim {block.victims.start}"
    return Study(block, version_of(__file__), label, f"{block.cell.scenario.name} {block.victims.start}")


def cells_of(row: Row) -> tuple[str, ...]:
    """The row as a person reads it; those of older versions name the data alone."""
    ranks = (f"{rank:,.0f}" for rank in row["directions"].values())
    counts = str(row["victims"]), f"{row['pixels']:,}", f"{row['equations']:,.0f}"
    return row["where" if "cell" in row else "dataset"], row["defense"], *counts, *ranks
