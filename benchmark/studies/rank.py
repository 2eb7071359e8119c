"""How many equations an update gives for what comes into each layer, and for its images, against how many unknowns.

The first is the rank analysis of R-GAP, the second the numerical rank of the Jacobian, as in ``leakboard spectrum``.
"""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attacks.closed_form.chain import Stage, stages
from attacks.closed_form.equations import passed
from benchmark.boards.grid import Grid
from benchmark.boards.outcome import listed
from benchmark.jobs.blocks import Workbench
from benchmark.studies.spectrum import LEVELS, jacobian, singular_values
from benchmark.suite.registry import Spec
from benchmark.suite.suite import Scenario
from defenses.base import Update

LEVEL = LEVELS[-1]
"""Singular values below this part of the largest one are rounding of an update in 32 bits."""

MOST_UNKNOWNS = 8192
"""Of more unknowns of a layer the rank is not measured: it would take many minutes."""

MOST_ENTRIES = 2**27
"""Of a Jacobian with more entries, which take a GiB, neither."""

WHOLE = "whole update"


@dataclass(frozen=True)
class Equations:
    """The equations for what comes into a layer, or for the images.

    Attributes:
        layer: its name, or ``WHOLE``.
        unknowns: entries of the layer's inputs of all images, or pixels.
        weights: equations from the layer's weights: its outputs that the activation lets through; None for the images.
        gradients: equations from its weight's gradient: entries that are kept.
        rank: of both together, as measured; None where that would take too long.
    """

    layer: str
    unknowns: int
    weights: int | None
    gradients: int
    rank: int | None

    @property
    def open(self) -> int | None:
        """Unknowns that the equations leave open."""
        return None if self.rank is None else self.unknowns - self.rank


def of_layer(stage: Stage, kernel: Tensor, slope: Tensor, told: Tensor, known: Tensor) -> Equations:
    """The equations for the input of a layer when all behind it is known.

    The gradient's are the same for each channel of the input, but for what is kept; what they leave open is looked for
    in the layer's outputs.

    Args:
        stage: the layer.
        kernel: its own, ``[O, C, h, w]``.
        slope: of the loss at its output for N images, ``[N, O, H', W']``.
        told: the outputs that are equations, as ``slope``.
        known: not 0 for each entry of the kernel's gradient that is kept.
    """
    unknowns, kept = len(slope) * math.prod(stage.shape), known != 0
    rank = None
    if unknowns <= MOST_UNKNOWNS:
        of_gradient = gradient_equations(stage, kernel, slope)
        all_alike = bool((kept == kept[:, :1]).all())
        free: list[Tensor] = []
        rank = 0
        for channel in range(stage.shape[0]):
            if channel == 0 or not all_alike:
                basis = null_space(of_gradient[kept[:, channel].flatten()])
            rank += basis.shape[1] - basis.shape[0]
            free.append(through(stage, kernel[:, channel : channel + 1], basis, told))
        rank += numerical_rank(torch.cat(free), float(kernel.norm()))
    return Equations(stage.name, unknowns, int(told.sum()), int(kept.sum()), rank)


def gradient_equations(stage: Stage, kernel: Tensor, slope: Tensor) -> Tensor:
    """The gradient of the kernel in one channel as a function of that channel, ``[O h w, N H W]``."""
    size = math.prod(kernel.shape[2:])
    one_channel = Stage(stage.name, (size, *stage.shape[1:]), stage.stride, stage.padding, stage.dilation, None)
    single = torch.eye(size).to(slope).view(1, 1, size, *kernel.shape[2:])
    images, outputs = slope.shape[:2]
    moved = one_channel.backward(slope.flatten(0, 1)[:, None], single.expand(images * outputs, *single.shape[1:]))
    return moved.view(images, outputs * size, -1).movedim(0, 1).flatten(1)


def null_space(equations: Tensor) -> Tensor:
    """An orthonormal basis ``[D, M]`` of what equations ``[E, M]`` do not decide."""
    _, values, vectors = torch.linalg.svd(equations, full_matrices=True)
    return vectors[int((values > LEVEL * values.amax()).sum()) if len(values) else 0 :]


def through(stage: Stage, kernel: Tensor, basis: Tensor, told: Tensor) -> Tensor:
    """What a layer makes of one channel of its input, ``[D, outputs that are told]``.

    Args:
        stage: the layer.
        kernel: of this channel, ``[O, 1, h, w]``.
        basis: D inputs of N images each, ``[D, N H W]``.
        told: ``[N, O, H', W']``.
    """
    inputs = basis.reshape(-1, 1, *stage.shape[1:])
    out = F.conv2d(inputs, kernel, None, stage.stride, stage.padding, stage.dilation)
    return out.view(len(basis), *told.shape)[:, told]


def numerical_rank(columns: Tensor, size: float) -> int:
    """Of a matrix given by its columns ``[D, E]``: singular values that are no rounding of a matrix of this size."""
    if not columns.numel():
        return 0
    rows = {
        "": columns if len(columns) > columns.shape[1] else columns.T
    }  # the Gram matrix is that of the shorter side
    values = singular_values(rows, {"": torch.ones(len(rows[""])).to(columns)})
    return int((values > LEVEL * size).sum())


def of_layers(layers: list[Stage], weights: Update, images: Tensor, labels: Tensor, known: Update) -> list[Equations]:
    """Of each layer of a chain, first to last.

    Args:
        layers: as :func:`stages` finds them.
        weights: name -> ``[...]``.
        images: ``[N, C, H, W]``.
        labels: class probabilities ``[N, K]``.
        known: not 0 for each entry of the update that is kept, name -> ``[...]``.
    """
    each = {name: value.expand(len(images), *value.shape) for name, value in weights.items()}
    found = []
    for stage, (slope, told) in zip(layers, passed(layers, each, images, labels), strict=True):
        kernel, kept = (stage.kernel(of[f"{stage.name}.weight"][None])[0] for of in (weights, known))
        found.append(of_layer(stage, kernel, slope, told, kept))
    return found


def of_update(model: nn.Module, weights: Update, images: Tensor, labels: Tensor, known: Update) -> Equations:
    """Of the images themselves, with arguments as in :func:`of_layers`."""
    entries, pixels = sum(value.numel() for value in known.values()), images.numel()
    kept, rank = sum(int((value != 0).sum()) for value in known.values()), None
    if entries * pixels <= MOST_ENTRIES:
        each = [jacobian(model, weights, image, label) for image, label in zip(images, labels, strict=True)]
        whole = {name: torch.cat([one[name] for one in each], 1) for name in each[0]}
        values, rank = singular_values(whole, {name: torch.ones_like(value) for name, value in known.items()}), 0
        if kept:
            rank = int((singular_values(whole, known) >= LEVEL * values[0]).sum())
    return Equations(WHOLE, pixels, None, kept, rank)


def measure(scenario: Scenario, defense: Spec | None, bench: Workbench) -> tuple[list[Equations], str]:
    """The equations of the first victim of a scenario, in 64 bits, as an attacker sees them who knows the defense.

    Returns:
        Those of each layer, of which there are none where R-GAP cannot take the network, and of the whole update; and
        why it cannot, empty where it can.
    """
    model = copy.deepcopy(bench.model(scenario)).double()
    images, labels = bench.victims(scenario, range(1))
    seen = bench.observe(scenario, images, labels, range(1), defense, defense is not None, model)
    weights = {name: value[0] for name, value in seen.own_networks.items()}
    known = {name: torch.ones_like(value) for name, value in seen.update.items()}
    if seen.defense is not None:
        known = seen.defense.kept_entries(seen.update)
    known = {name: value[0].double() for name, value in known.items()}
    one_hot = F.one_hot(labels[0], seen.num_classes)
    pair = images[0].to(bench.device).double(), one_hot.to(bench.device).double()
    whole = of_update(seen.model, weights, *pair, known)
    try:
        layers = stages(seen.model, seen.image_shape[1:])
    except ValueError as error:
        return [whole], str(error)
    return [*of_layers(layers, weights, *pair, known), whole], ""


def grid(found: Sequence[Equations]) -> Grid:
    """The table."""
    names = ("layer", "unknowns", "from weights", "from gradients", "numerical rank", "left open")
    return Grid(names, [tuple(map(as_text, values_of(one))) for one in found], words=("layer",))


def values_of(one: Equations) -> tuple[str | int | None, ...]:
    return one.layer, one.unknowns, one.weights, one.gradients, one.rank, one.open


def as_text(value: str | int | None) -> str:
    return "-" if value is None else value if isinstance(value, str) else f"{value:,}"


def verdict(found: Sequence[Equations], no_layers: str, images: int) -> str:
    """What the numbers say, in one sentence."""
    *layers, whole = found
    if whole.rank is None:
        by_search = "the rank of the whole update is not measured, since its Jacobian is too large"
    elif whole.open:
        by_search = (
            f"the whole update leaves {whole.open:,} of {whole.unknowns:,} directions of the pixels open to first "
            "order, which a prior on images may still fill"
        )
    else:
        by_search = "the whole update decides every pixel to first order, so that an attack that searches can find all"
    short = [f"{one.layer} ({one.open:,} of {one.unknowns:,})" for one in layers if one.open]
    if not layers:
        by_layers = f"no layers are counted, since {no_layers.partition(':')[0]}"
    elif short:
        by_layers = f"R-GAP finds the image in part at best, as its equations leave layers open: {listed(short)}"
    elif any(one.rank is None for one in layers):
        by_layers = "a layer is too large for its rank to be measured, and the others are decided"
    else:
        then = ", so that R-GAP finds the image from an update without noise"
        by_layers = "the equations decide the input of every layer" + (
            then if images == 1 else " where all behind it is known"
        )
    return f"{by_layers[0].upper()}{by_layers[1:]}; {by_search}."
