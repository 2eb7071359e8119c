"""How much a defended update still determines its image: the numerical rank of the update's Jacobian in the pixels.

The number of entries that a defense leaves is an upper bound of that rank, which is the number of directions in which
the image cannot move without moving the update; the singular values say by how much it moves.
"""

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import grad, jvp, vmap

from attacks.gradients import call, differentiable_twice, trained_names
from attacks.update import Protocol
from benchmark.boards.grid import Grid
from benchmark.boards.template import render
from benchmark.errors import UsageError
from benchmark.jobs.blocks import Workbench
from benchmark.suite.registry import Spec
from benchmark.suite.suite import Scenario, Suite
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
        found = vmap(along, out_dims=-1, chunk_size=CHUNK)(torch.eye(image.numel(), dtype=image.dtype))
    return {name: value.flatten(0, -2) for name, value in found.items()}


def singular_values(derivative: dict[str, Tensor], factor: dict[str, Tensor]) -> Tensor:
    """Those of the derivative with each row times the factor of its entry, ``[pixels]``, largest first."""
    pixels = next(iter(derivative.values())).shape[1]
    gram = torch.zeros(pixels, pixels, dtype=torch.float64)
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
    scenario: Scenario, defenses: list[Spec], victims: int, bench: Workbench
) -> dict[str, list[JacobianRank]]:
    """By the label of the defense, the ranks for the first victims, as an attacker sees them who knows the defense.

    The first entry is that without a defense.
    """
    if scenario.batch_size > 1 or scenario.setting.protocol != Protocol() or scenario.setting.rounds > 1:
        raise UsageError(
            f"leakboard spectrum is for the gradient of one image in mode eval, not for {scenario.label}: leave "
            "batch_size, mode, protocol and rounds out of its scenario"
        )
    data, model = bench.data(scenario.data), copy.deepcopy(bench.model(scenario)).double()
    images, labels = bench.victims(scenario, range(victims))
    found: dict[str, list[JacobianRank]] = {}
    for victim in range(victims):
        derivative: dict[str, Tensor] = {}
        largest = 0.0
        for spec in [None, *defenses]:
            one = range(victim, victim + 1)
            rows = slice(victim, victim + 1)
            seen = bench.observe(scenario, images[rows], labels[rows], one, spec, True, model)
            if not derivative:
                one_hot = torch.nn.functional.one_hot(labels[victim, 0], data.num_classes).double()
                weights = {name: value[0] for name, value in seen.own_networks.items()}
                derivative = jacobian(model, weights, images[victim, 0].double(), one_hot)
            ones = {name: torch.ones_like(value) for name, value in seen.update.items()}
            entries = seen.defense.kept_entries(seen.update) if seen.defense else ones
            kept = {name: value[0].double() for name, value in entries.items()}
            values = singular_values(derivative, kept)
            largest = largest or float(values[0])
            found.setdefault(spec.label if spec else "no defense", []).append(
                JacobianRank(
                    equations=sum(int(value.sum()) for value in kept.values()),
                    pixels=len(values),
                    directions=[int((values >= level * largest).sum()) for level in LEVELS],
                )
            )
    return found


def scenarios(suite: Suite) -> list[tuple[Scenario, list[Spec]]]:
    """The scenarios of a suite, each with its defenses."""
    found: dict[str, tuple[Scenario, dict[str, Spec]]] = {}
    for cell in suite.cells:
        _, defenses = found.setdefault(repr(cell.scenario), (cell.scenario, {}))
        if cell.defense:
            defenses[cell.defense.label] = cell.defense
    return [(scenario, list(defenses.values())) for scenario, defenses in found.values()]


def rows(found: dict[str, list[JacobianRank]], scenario: Scenario) -> list[dict[str, Any]]:
    """One row for each defense: means over victims, as JSON."""
    return [
        {
            "dataset": scenario.data.name,
            "model": scenario.model.name,
            "defense": label,
            "victims": len(each),
            "pixels": each[0].pixels,
            "equations": sum(one.equations for one in each) / len(each),
            "directions": {
                f"{level:g}": sum(one.directions[place] for one in each) / len(each)
                for place, level in enumerate(LEVELS)
            },
        }
        for label, each in found.items()
    ]


def as_markdown(table: list[dict[str, Any]]) -> str:
    """The table as a page."""
    names = ("data", "defense", "victims", "pixels", "equations", *(f"{level:g}" for level in LEVELS))
    rows = []
    for row in table:
        ranks = (f"{rank:,.0f}" for rank in row["directions"].values())
        counts = str(row["victims"]), f"{row['pixels']:,}", f"{row['equations']:,.0f}"
        rows.append((row["dataset"], row["defense"], *counts, *ranks))
    return render("studies/spectrum.md.j2", table=Grid(names, rows).markdown())
