"""Gauss-Newton with a smooth prior, for what a mask has left of a gradient."""

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate
from typing import Any

import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn
from torch.func import grad, jacrev, jvp, vjp, vmap
from torch.utils._pytree import tree_map

from attacks.base import Attack, Observation, Reconstruction
from attacks.engine.labels import best_labels
from attacks.engine.last_layer import lost_heads
from attacks.engine.priors import outside, total_variation
from attacks.engine.starts import STARTS, draw_start
from attacks.network.gradients import call, differentiable_twice
from attacks.network.memory import is_out_of_memory
from defenses.base import KnownDefense, Update

EDGE = 1e-3
"""Differences of neighboring pixels below it count as their square, as in :func:`total_variation`."""

OUTSIDE = 100.0
"""Weight of the squared distance of pixels from [0, 1] beside the total variation."""

LEAST_DAMPING, MOST_DAMPING = 1e-3, 1e12
"""Range of the damping of a step, in parts of the prior's weight."""

MOST_PIXELS = 10_000
"""Of a channel: its curvature is a matrix with the square of them."""

CHUNK = 16
"""Rows or columns of the Jacobian that are computed at a time."""


class GaussNewton(Attack):
    """Solves the equations that a defense has left for the image, and takes the smoothest image that solves them.

    With r(x) the gradient at the image x less the observed one and J its Jacobian, each iteration minimizes
    ``|r + J s|^2 + w (TV(x + s) + box)`` over the step s, damped as by Levenberg and Marquardt (Nocedal and Wright
    2006, chapter 10.3); total variation is replaced by the quadratic that touches it from above at x (Vogel and Oman
    1996). The weight w falls from iteration to iteration by a fixed factor: the image is smooth at first, and at the
    end as smooth as the equations allow. L-BFGS, which sees the equations through their sum of squares alone, loses the
    small singular values of J; here each of them counts.

    For one image per victim, in double precision. On a CPU one victim after the other, since the work is that of dense
    matrices; on a GPU several at once, each of which takes 0.24 GiB for 32 x 32 pixels in three channels, as
    :meth:`bytes_per_victim` says. The label is that of the sign rule. The loss is the squared residual
    of the entries used, and the prior with its last weight; each row or column of a Jacobian counts as an evaluation.

    Args:
        iterations: Jacobians for each victim, at least 1.
        max_equations: entries of the update that are used at most, at least 1; the work grows with their square. They
            are drawn at random from every tensor alike: the last layer has most, which say the same many times over.
        start: "mean", a null baseline ("constant", "class_mean"), or "noise".
        total_variation: weight of the prior at the start, in parts of the squared norm of the entries used; above 0.
        last_total_variation: the weight at the end, above 0 and no greater. Against known noise it does not fall below
            what the noise calls for.
        prior_scale: against known noise, scale of the Laplace prior on the differences of neighboring pixels, above 0,
            in parts of their mean size in public images.
    """

    one_image_only = True
    at_once = 1

    def __init__(
        self,
        iterations: int = 8,
        max_equations: int = 1000,
        start: str = "mean",
        total_variation: float = 1e-3,
        last_total_variation: float = 1e-14,
        prior_scale: float = 1.0,
    ) -> None:
        for name, value in (("iterations", iterations), ("max_equations", max_equations)):
            if value < 1:
                raise ValueError(f"{name} is {value}, but must be at least 1")
        if start not in STARTS:
            raise ValueError(f"start is {start!r}, but must be one of {', '.join(STARTS)}")
        if not 0 < last_total_variation <= total_variation < math.inf:
            raise ValueError(
                f"total_variation is {total_variation} and last_total_variation {last_total_variation}, but both must "
                "be above 0 and finite, and the last one no greater"
            )
        if not 0 < prior_scale < math.inf:
            raise ValueError(f"prior_scale is {prior_scale}, but must be above 0 and finite")
        self.iterations = iterations
        self.prior_scale = prior_scale
        self.max_equations = max_equations
        self.start = start
        self.total_variation = total_variation
        self.last_total_variation = last_total_variation

    def check(self, model: nn.Module, image_shape: tuple[int, int, int, int]) -> None:
        super().check(model, image_shape)
        height, width = image_shape[2:]
        if height * width > MOST_PIXELS:
            raise ValueError(
                f"GaussNewton takes images of up to {MOST_PIXELS:,} pixels, not {height} x {width}: attack with IDLG"
            )

    def reconstruct(
        self, observation: Observation, callbacks: Sequence[Callback] = (), start_images: Tensor | None = None
    ) -> Reconstruction:
        """Attacks all V victims, from ``start_images`` ``[V, 1, C, H, W]`` where they are given."""
        self.check(observation.model, observation.image_shape)
        if observation.labels is None and any(lost := lost_heads(observation).tolist()):
            return self._with_each_label(observation, lost, callbacks, start_images)
        generators = [torch.Generator().manual_seed(seed) for seed in observation.seeds]
        drawn = draw_start(self.start, observation, generators)
        starts = drawn if start_images is None else start_images
        model = copy.deepcopy(observation.model).double()
        labels = best_labels(observation)[:, 0]
        self.at_once = self.fitting(observation)
        solved: list[Solution] = []
        for first in range(0, observation.num_victims, self.at_once):
            some = range(first, min(first + self.at_once, observation.num_victims))
            posed = [
                self._posed(observation.take([victim]), model, labels[victim], starts[victim, 0], generators[victim])
                for victim in some
            ]
            for alike in {one.equations for one in posed}:  # what is of one shape is computed together
                self._solve([one for one in posed if one.equations == alike], observation, model)
            solved += posed
            self.told(len(solved) / observation.num_victims)
        return Reconstruction(
            images=torch.stack([one.best for one in solved])[:, None].to(drawn),
            labels=labels[:, None],
            loss=torch.tensor([float(one.loss) for one in solved], dtype=drawn.dtype, device=drawn.device),
            evaluations=torch.tensor([one.evaluations for one in solved]),
            status=[one.status for one in solved],
            starts=[self.start] * len(solved),
        )

    def _with_each_label(
        self, seen: Observation, lost: list[bool], callbacks: Sequence[Callback], start_images: Tensor | None
    ) -> Reconstruction:
        """Solves with every label where the update is known to tell none, and takes the one that fits best."""
        told = best_labels(seen)[:, 0].tolist()
        labels = [[*range(seen.num_classes)] if gone else [own] for gone, own in zip(lost, told, strict=True)]
        rows = [victim for victim, each in enumerate(labels) for _ in each]
        every = torch.tensor([label for each in labels for label in each], device=seen.device)
        tried = replace(seen.take(rows), labels=every[:, None])
        found = self.reconstruct(tried, callbacks, None if start_images is None else start_images[rows])
        parts = [each.nan_to_num(torch.inf) for each in found.loss.split([len(each) for each in labels])]
        ends = [*accumulate(len(each) for each in labels)]
        best = [end - len(each) + int(each.argmin()) for end, each in zip(ends, parts, strict=True)]
        spent = torch.stack([each.sum() for each in found.evaluations.split([len(each) for each in labels])])
        return replace(found.take(best), evaluations=spent)

    def fitting(self, observation: Observation) -> int:
        """Victims at once: one on a CPU, on a GPU as many as fit into half of the memory that is free."""
        if observation.device.type == "cpu":
            return 1
        free = torch.cuda.mem_get_info(observation.device)[0] // 2
        return max(1, min(observation.num_victims, free // self.bytes_per_victim(observation)))

    def bytes_per_victim(self, observation: Observation) -> int:
        """Memory that a victim takes: some matrices of a channel's pixels, of equations and pixels, and gradients.

        On a CPU 205 MiB were measured for 32 x 32 pixels in three channels, of which this says 237.
        """
        _, channels, height, width = observation.image_shape
        pixels, entries = height * width, sum(value[0].numel() for value in observation.update.values())
        equations = min(self.max_equations, entries)
        numbers = 5 * channels * pixels**2 + 4 * channels * pixels * equations
        numbers += 2 * min(equations, channels * pixels) ** 2 + 4 * CHUNK * entries
        return 8 * numbers

    def _solve(self, solving: "list[Solution]", observation: Observation, model: nn.Module) -> None:
        """Solves the equations of victims that have equally many of them."""
        known = observation.defense
        shares = observation.shared
        common = {name: value.double() for name, value in observation.parameters.items()} if shares else {}
        equations = solving[0].equations

        def gradient_of(image: Tensor, given: Given) -> Update:
            weights = common | given["own"]
            trained = {name: weights[name] for name in given["observed"]}

            def loss(of: Update) -> Tensor:
                logits = call(model, weights | of, image[None])[0]
                return -logits.log_softmax(-1).gather(0, given["label"])[0]

            with differentiable_twice():
                return {name: value[None] for name, value in grad(loss)(trained).items()}

        def entries_of(gradient: Update, given: Given) -> Tensor:
            return flat(known.simulate(gradient, given["observed"]) if known else gradient, given["chosen"])

        def residual(image: Tensor, given: Given) -> Tensor:
            return entries_of(gradient_of(image, given), given) - given["target"]

        def slope_of(image: Tensor, given: Given) -> Tensor:
            try:
                return derivative(lambda x: residual(x, given), image, equations)
            except RuntimeError as error:
                if is_out_of_memory(error):
                    raise
                # torch.func cannot derive a model that draws numbers, or looks at a value.
                return chained(partial(gradient_of, given=given), partial(entries_of, given=given), image)

        for one, off in zip(solving, several(residual, [(one.image, one.given) for one in solving]), strict=True):
            one.least = max(
                self.last_total_variation * one.scale, 2 * one.noise**2 / (self.prior_scale * observation.mean_step)
            )
            one.first = max(self.total_variation * one.scale, one.least)
            if not (math.isfinite(one.scale) and off.isfinite().all()):
                one.status = "diverged"
            elif one.scale == 0:  # nothing is left to solve
                one.status, one.loss = "stalled", 0.0
            else:
                one.off, one.loss = off, off.square().sum() + one.least * roughness(one.image)
        eye = torch.eye(solving[0].image[0].numel()).to(solving[0].image)
        for iteration in range(self.iterations):
            running = [one for one in solving if one.status == "exhausted"]
            if not running:
                return
            jacobians = several(slope_of, [(one.image, one.given) for one in running])
            smooth = several(smoothness, [(one.image,) for one in running])
            trying = []
            for one, jacobian, (slope, curvature) in zip(running, jacobians, smooth, strict=True):
                weight = one.first * (one.least / one.first) ** (iteration / max(1, self.iterations - 1))
                one.evaluations += min(jacobian.shape)
                before = one.off.square().sum() + weight * roughness(one.image)
                trying.append((one, weight, jacobian, slope, curvature, before))
            while trying:
                steps = several(
                    damped_step,
                    [
                        (one.off, jacobian, weight * slope, weight * (curvature + one.damping * eye))
                        for one, weight, jacobian, slope, curvature, _ in trying
                    ],
                )
                moved = [one.image + step.view_as(one.image) for (one, *_), step in zip(trying, steps, strict=True)]
                there = several(residual, [(x, one.given) for (one, *_), x in zip(trying, moved, strict=True)])
                rejected = []
                for trial, image, off in zip(trying, moved, there, strict=True):
                    one, weight, before = trial[0], trial[1], trial[-1]
                    one.evaluations += 1
                    if off.square().sum() + weight * roughness(image) < before:  # False for NaN
                        one.move(image, off)
                        continue
                    one.damping *= 10
                    if one.damping <= MOST_DAMPING:
                        rejected.append(trial)
                    else:
                        one.status = "stalled"
                trying = rejected

    def _posed(
        self, seen: Observation, model: nn.Module, label: Tensor, start: Tensor, generator: torch.Generator
    ) -> "Solution":
        """The equations of one victim."""
        known = seen.defense
        observed = {name: value[:1].double() for name, value in seen.update.items()}
        own = {} if seen.shared else {name: value[0].double() for name, value in seen.own_networks.items()}
        # Behind a defense the true zeros are left out: those of saturated units say next to nothing where the image is,
        # and lead away from it elsewhere.
        removes = known is not None and known.kept is not None
        kept = (known or KnownDefense()).kept_entries(observed)
        of_tensors = [
            ((kept[name] != 0) & ((observed[name] != 0) | (not removes))).flatten().nonzero()[:, 0] for name in observed
        ]
        shares = even_shares([len(entries) for entries in of_tensors], self.max_equations)
        drawn = [
            entries[torch.randperm(len(entries), generator=generator)[:share].sort().values.to(entries.device)]
            for entries, share in zip(of_tensors, shares, strict=True)
        ]
        before = accumulate([value.numel() for value in observed.values()], initial=0)
        chosen = torch.cat([entries + first for entries, first in zip(drawn, before, strict=False)])
        target = flat(observed, chosen)
        given = {"own": own, "observed": observed, "label": label[None], "chosen": chosen, "target": target}
        noise = float(known.noise(observed)) if known else 0.0
        return Solution(start.double(), given, float(target.square().sum()), noise)


Given = dict[str, Any]
"""What the equations of one victim depend on, as tensors."""


@dataclass
class Solution:
    """How far the equations of one victim are solved.

    Attributes:
        image: of the present iteration, ``[C, H, W]``.
        given: what the equations depend on.
        scale: squared norm of the observed entries.
        noise: standard deviation of the known noise on each of them.
        least: weight of the prior at the end.
        first: that at the start.
        off: residual at the image, ``[M]``.
        damping: of the next step.
        evaluations: gradients that were computed.
        status: "exhausted" until it is another.
        best: image of the lowest loss.
        loss: that.
    """

    image: Tensor
    given: Given
    scale: float
    noise: float = 0.0
    least: float = 0.0
    first: float = 0.0
    damping: float = LEAST_DAMPING
    evaluations: int = 1
    status: str = "exhausted"
    loss: Tensor | float = math.inf

    def __post_init__(self) -> None:
        self.best, self.off = self.image, self.given["target"]

    @property
    def equations(self) -> int:
        """M."""
        return len(self.given["target"])

    def move(self, image: Tensor, off: Tensor) -> None:
        """Takes a step, to where the residual is ``off``."""
        self.image, self.off = image, off
        there = off.square().sum() + self.least * roughness(image)
        if there < self.loss:
            self.best, self.loss = image, there
        self.damping = max(self.damping / 10, LEAST_DAMPING)


def flat(update: Update, chosen: Tensor) -> Tensor:
    """The chosen entries ``[M]`` of all tensors ``[1, ...]`` one after the other."""
    return torch.cat([value.flatten() for value in update.values()])[chosen]


def several(function: Callable[..., Any], rows: Sequence[tuple[Any, ...]]) -> list[Any]:
    """What a function of tensors, in dictionaries or not, gives for each row: for several all at once."""
    if len(rows) == 1:
        return [function(*rows[0])]
    stacked = [tree_map(lambda *parts: torch.stack(parts), *column) for column in zip(*rows, strict=True)]
    try:
        found = vmap(function)(*stacked)
    except RuntimeError as error:  # as above
        if is_out_of_memory(error):
            raise
        return [function(*row) for row in rows]
    return [tree_map(lambda value, row=row: value[row], found) for row in range(len(rows))]


def even_shares(sizes: Sequence[int], total: int) -> list[int]:
    """How many to take of each, as evenly as their sizes allow, so that there are ``total`` of them or fewer."""
    shares = [0] * len(sizes)
    for taken, place in enumerate(sorted(range(len(sizes)), key=sizes.__getitem__)):
        shares[place] = min(sizes[place], (total - sum(shares)) // (len(sizes) - taken))
    return shares


def derivative(residual: Callable[[Tensor], Tensor], image: Tensor, equations: int) -> Tensor:
    """The Jacobian ``[M, C P]`` of M equations: a backward pass for each, or a forward one for each pixel."""
    if equations < image.numel():
        return jacrev(residual, chunk_size=CHUNK)(image).flatten(1)
    units = torch.eye(image.numel()).to(image).view(-1, *image.shape)
    found: Tensor = vmap(lambda unit: jvp(residual, (image,), (unit,))[1], out_dims=1, chunk_size=CHUNK)(units)
    return found


def chained(gradient_of: Callable[[Tensor], Update], entries_of: Callable[[Update], Tensor], image: Tensor) -> Tensor:
    """The same of a function of a gradient that autograd alone can derive, and that is called only once."""
    gradient, pull, *_ = vjp(gradient_of, image)
    leaves = {name: value.detach().requires_grad_() for name, value in gradient.items()}
    with torch.enable_grad():
        entries = entries_of(leaves)
    rows = []
    for units in torch.eye(len(entries)).to(image).split(CHUNK):
        slopes = torch.autograd.grad(
            entries, list(leaves.values()), units, True, is_grads_batched=True, materialize_grads=True
        )
        rows.append(vmap(lambda *each: pull(dict(zip(leaves, each, strict=True)))[0])(*slopes))
    return torch.cat(rows).flatten(1)


def roughness(image: Tensor) -> Tensor:
    """Total variation of each channel of an image ``[C, H, W]``, smooth at 0, and what pixels outside [0, 1] cost."""
    return total_variation(image[None])[0] + OUTSIDE * outside(image[None])[0]


def smoothness(image: Tensor) -> tuple[Tensor, Tensor]:
    """Half the slope ``[C, P]`` of the roughness of an image, and a curvature ``[C, P, P]``, of P pixels of a channel.

    The curvature is half that of the quadratic that touches the total variation at the image and is nowhere below it,
    and of the box where a pixel is outside [0, 1].
    """
    channels, pixels = len(image), image[0].numel()
    numbers = torch.arange(pixels, device=image.device).view(image.shape[1:])
    first = torch.cat([numbers[:-1].flatten(), numbers[:, :-1].flatten()])
    second = torch.cat([numbers[1:].flatten(), numbers[:, 1:].flatten()])
    flat = image.flatten(1)
    pull = 0.5 / ((flat[:, first] - flat[:, second]).square() + EDGE**2).sqrt()
    places = (first * pixels + second).expand(channels, -1)
    between = torch.zeros(channels, pixels**2).to(image).scatter(1, places, pull).view(channels, pixels, pixels)
    between = between + between.mT
    box = OUTSIDE * ((flat < 0) | (flat > 1)).to(image)
    laplacian = torch.diag_embed(between.sum(2)) - between
    slope = (laplacian @ flat[..., None])[..., 0] + box * (flat - flat.clamp(0, 1))
    return slope, laplacian + torch.diag_embed(box)


def damped_step(residual: Tensor, jacobian: Tensor, slope: Tensor, curvature: Tensor) -> Tensor:
    """The step s ``[C, P]`` with ``(J^T J + H) s = -(J^T r + p)``; NaN where something is.

    Where J has fewer rows than the image has pixels, a matrix with a row for each equation is solved for, and not one
    with a row for each pixel: with ``H = L L^T``, which has a block for each channel, and ``Z = L^-1 J^T`` (Woodbury).

    Args:
        residual: r ``[M]``.
        jacobian: J ``[M, C P]``.
        slope: p ``[C, P]``.
        curvature: H ``[C, P, P]``, positive definite.
    """
    equations, pixels = jacobian.shape
    if equations >= pixels:
        matrix = jacobian.T @ jacobian + torch.block_diag(*curvature)
        return -torch.linalg.solve_ex(matrix, jacobian.T @ residual + slope.flatten())[0].view_as(slope)
    lower = torch.linalg.cholesky_ex(curvature)[0]
    columns = jacobian.view(equations, *slope.shape).permute(1, 2, 0)
    rows = torch.linalg.solve_triangular(lower, columns, upper=False)
    pull = torch.linalg.solve_triangular(lower, slope[..., None], upper=False)
    flat = rows.flatten(0, 1)
    small = flat.T @ flat + torch.eye(equations).to(jacobian)
    weights = torch.linalg.solve_ex(small, residual - flat.T @ pull.flatten())[0]
    return -torch.linalg.solve_triangular(lower.mT, (rows @ weights)[..., None] + pull, upper=True)[..., 0]
