"""Gauss-Newton with a smooth prior, for what a mask has left of a gradient."""

import copy
import math
from collections.abc import Callable, Sequence

import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn
from torch.func import functional_call, grad, jacrev, jvp, vmap

from attacks.base import Attack, Observation, Reconstruction
from attacks.gradient_matching import STEP
from attacks.labels import idlg_labels
from attacks.starts import STARTS, draw_start
from defenses.base import Update

EDGE = 1e-3
"""Differences of neighbouring pixels below it, a quarter of a grey level, count as their square."""

BOX = 100.0
"""Weight of the squared distance of pixels from [0, 1] beside the total variation."""

LEAST_DAMPING, MOST_DAMPING = 1e-3, 1e4
"""Range of the damping of a step, in parts of the prior's weight."""

CHUNK = 64
"""Rows or columns of the Jacobian that are computed at a time."""


class GaussNewton(Attack):
    """Solves the equations that a defense has left for the image, and takes the smoothest image that solves them.

    With r(x) the gradient at the image x less the observed one and J its Jacobian, each iteration minimises
    ``|r + J s|^2 + w (TV(x + s) + box)`` over the step s, damped as by Levenberg and Marquardt (Nocedal and Wright
    2006, chapter 10.3); total variation is replaced by the quadratic that touches it from above at x (Vogel and Oman
    1996). The weight w falls from iteration to iteration by a fixed factor: the image is smooth at first, and at the
    end as smooth as the equations allow. L-BFGS, which sees the equations through their sum of squares alone, loses the
    small singular values of J; here each of them counts.

    For one image per victim, in double precision, one victim after the other: the work is that of dense matrices.
    The label is that of the sign rule.

    Args:
        iterations: Jacobians for each victim, at least 1.
        max_equations: entries of the update that are used at most, drawn at random, at least 1; the work grows with
            their square.
        start: "mean", a null baseline ("constant", "class_mean"), or "noise".
        total_variation: weight of the prior at the start, in parts of the squared norm of the entries used; above 0.
        last_total_variation: the weight at the end, above 0 and no greater. Against known noise it does not fall below
            what the noise calls for.
    """

    one_image_only = True

    def __init__(
        self,
        iterations: int = 8,
        max_equations: int = 1000,
        start: str = "mean",
        total_variation: float = 1e-3,
        last_total_variation: float = 1e-14,
    ) -> None:
        for name, value in (("iterations", iterations), ("max_equations", max_equations)):
            if value < 1:
                raise ValueError(f"{name} is {value}, but must be at least 1")
        if start not in STARTS:
            raise ValueError(f"start is {start!r}, but must be one of {', '.join(STARTS)}")
        if not 0 < last_total_variation <= total_variation < math.inf:
            raise ValueError(
                f"total_variation is {total_variation} and last_total_variation {last_total_variation}, but both must "
                "be above 0, and the last one no greater"
            )
        self.iterations = iterations
        self.max_equations = max_equations
        self.start = start
        self.total_variation = total_variation
        self.last_total_variation = last_total_variation

    def reconstruct(
        self, observation: Observation, callbacks: Sequence[Callback] = (), start_images: Tensor | None = None
    ) -> Reconstruction:
        """Attacks all V victims, from ``start_images`` ``[V, 1, C, H, W]`` where they are given."""
        self.check(observation.model, observation.image_shape)
        generators = [torch.Generator().manual_seed(seed) for seed in observation.seeds]
        drawn = draw_start(self.start, observation, generators)
        starts = drawn if start_images is None else start_images
        model = copy.deepcopy(observation.model).double()
        labels = idlg_labels(observation.update)
        solved = [
            self._solve(observation.take([victim]), model, starts[victim, 0].double(), generator)
            for victim, generator in enumerate(generators)
        ]
        images, losses, evaluations, status = zip(*solved, strict=True)
        return Reconstruction(
            images=torch.stack(images)[:, None].to(drawn),
            labels=labels[:, None],
            loss=torch.tensor(losses, dtype=drawn.dtype, device=drawn.device),
            evaluations=torch.tensor(evaluations),
            status=list(status),
            starts=[self.start] * len(solved),
        )

    def _solve(
        self, seen: Observation, model: nn.Module, start: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, float, int, str]:
        """Image ``[C, H, W]``, squared residual, gradient evaluations and status of one victim."""
        residual, equations, scale = self._equations(seen, model, generator)
        noise = seen.defense.noise_std if seen.defense else 0.0
        least = max(self.last_total_variation * scale, 2 * noise**2 / STEP)
        first = max(self.total_variation * scale, least)
        image, damping, spent = start, LEAST_DAMPING, 1
        off = residual(image)
        if not (scale > 0 and off.isfinite().all()):
            return start, math.inf, spent, "diverged"
        status = "exhausted"
        for iteration in range(self.iterations):
            weight = first * (least / first) ** (iteration / max(1, self.iterations - 1))
            jacobian = derivative(residual, image, equations)
            spent += min(jacobian.shape)
            slope, curvature = smoothness(image)
            before = off.square().sum() + weight * roughness(image)
            while damping <= MOST_DAMPING:
                eye = torch.eye(image[0].numel()).to(image)
                step = damped_step(off, jacobian, weight * slope, weight * (curvature + damping * eye))
                moved = image + step.view_as(image)
                off_there = residual(moved)
                spent += 1
                if off_there.square().sum() + weight * roughness(moved) < before:  # False for NaN
                    image, off = moved, off_there
                    damping = max(damping / 10, LEAST_DAMPING)
                    break
                damping *= 10
            else:
                status = "stalled"
                break
        return image, float(off.square().sum()), spent, status

    def _equations(
        self, seen: Observation, model: nn.Module, generator: torch.Generator
    ) -> tuple[Callable[[Tensor], Tensor], int, float]:
        """The residual ``[M]`` as a function of the image, M, and the squared norm of the observed entries."""
        known = seen.defense
        observed = {name: value[:1].double() for name, value in seen.update.items()}
        parameters = {name: value[0].double() for name, value in seen.parameters.items()}
        label = nn.functional.one_hot(idlg_labels(observed)[0], seen.num_classes).double()

        def shared(gradient: Update) -> Update:
            return known.simulate(gradient, observed) if known else gradient

        counts = shared({name: torch.ones_like(value) for name, value in observed.items()})
        entries = torch.cat([(value != 0).flatten() for value in counts.values()]).nonzero()[:, 0]
        if len(entries) > self.max_equations:
            chosen = torch.randperm(len(entries), generator=generator)[: self.max_equations].sort().values
            entries = entries[chosen.to(entries.device)]
        factor = known.weight(observed)[0].sqrt() if known else 1.0

        def flat(update: Update) -> Tensor:
            return factor * torch.cat([value.flatten() for value in update.values()])[entries]

        def loss(weights: Update, image: Tensor) -> Tensor:
            return -(label * functional_call(model, weights, (image[None],))[0].log_softmax(-1)).sum()

        def residual(image: Tensor) -> Tensor:
            gradient = {name: value[None] for name, value in grad(loss)(parameters, image).items()}
            return flat(shared(gradient)) - target

        target = flat(observed)
        return residual, len(entries), float(target.square().sum())


def derivative(residual: Callable[[Tensor], Tensor], image: Tensor, equations: int) -> Tensor:
    """The Jacobian ``[M, C P]`` of M equations: a backward pass for each, or a forward one for each pixel."""
    if equations < image.numel():
        return jacrev(residual, chunk_size=CHUNK)(image).flatten(1)
    units = torch.eye(image.numel()).to(image).view(-1, *image.shape)
    found: Tensor = vmap(lambda unit: jvp(residual, (image,), (unit,))[1], out_dims=1, chunk_size=CHUNK)(units)
    return found


def roughness(image: Tensor) -> Tensor:
    """Total variation of each channel of an image ``[C, H, W]``, smooth at 0, and what pixels outside [0, 1] cost."""
    steps = torch.cat([image.diff(dim=1).flatten(), image.diff(dim=2).flatten()])
    return ((steps.square() + EDGE**2).sqrt() - EDGE).sum() + BOX * (image - image.clamp(0, 1)).square().sum()


def smoothness(image: Tensor) -> tuple[Tensor, Tensor]:
    """Half the slope ``[C, P]`` of the roughness of an image, and a curvature ``[C, P, P]``, of P pixels of a channel.

    The curvature is half that of the quadratic that touches the roughness at the image and is nowhere below it.
    """
    channels, pixels = len(image), image[0].numel()
    numbers = torch.arange(pixels, device=image.device).view(image.shape[1:])
    first = torch.cat([numbers[:-1].flatten(), numbers[:, :-1].flatten()])
    second = torch.cat([numbers[1:].flatten(), numbers[:, 1:].flatten()])
    flat = image.flatten(1)
    pull = 0.5 / ((flat[:, first] - flat[:, second]).square() + EDGE**2).sqrt()
    between = torch.zeros(channels, pixels, pixels).to(image)
    between[:, first, second] = pull
    between = between + between.mT
    outside = BOX * ((flat < 0) | (flat > 1)).to(image)
    laplacian = torch.diag_embed(between.sum(2)) - between
    slope = (laplacian @ flat[..., None])[..., 0] + outside * (flat - flat.clamp(0, 1))
    return slope, laplacian + torch.diag_embed(outside)


def damped_step(residual: Tensor, jacobian: Tensor, slope: Tensor, curvature: Tensor) -> Tensor:
    """The step s ``[C, P]`` with ``(J^T J + H) s = -(J^T r + p)``; NaN where it can not be made.

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
