"""Gauss-Newton with a smooth prior, for what a mask has left of a gradient."""

import copy
import math
from collections.abc import Callable, Sequence

import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn
from torch.func import grad, jacrev, jvp, vmap

from attacks.base import Attack, Observation, Reconstruction
from attacks.engine.labels import best_labels
from attacks.engine.priors import outside, total_variation
from attacks.engine.starts import STARTS, draw_start
from attacks.gradients import call, differentiable_twice
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

    For one image per victim, in double precision, one victim after the other: the work is that of dense matrices,
    which more victims at once would not make less. The label is that of the sign rule. The loss is the squared residual
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
        generators = [torch.Generator().manual_seed(seed) for seed in observation.seeds]
        drawn = draw_start(self.start, observation, generators)
        starts = drawn if start_images is None else start_images
        model = copy.deepcopy(observation.model).double()
        labels = best_labels(observation)[:, 0]
        solved = [
            self._solve(observation.take([victim]), model, int(labels[victim]), starts[victim, 0].double(), generator)
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
        self, seen: Observation, model: nn.Module, label: int, start: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, float, int, str]:
        """Image ``[C, H, W]``, loss, gradient evaluations and status of one victim."""
        residual, equations, scale = self._equations(seen, model, label, generator)
        noise = seen.defense.noise_std if seen.defense else 0.0
        least = max(self.last_total_variation * scale, 2 * noise**2 / (self.prior_scale * seen.mean_step))
        first = max(self.total_variation * scale, least)
        image, damping, spent = start, LEAST_DAMPING, 1
        off = residual(image)
        if not (math.isfinite(scale) and off.isfinite().all()):
            return start, math.inf, spent, "diverged"
        if scale == 0:  # nothing is left to solve
            return start, 0.0, spent, "stalled"
        status, best, loss = "exhausted", image, off.square().sum() + least * roughness(image)
        eye = torch.eye(image[0].numel()).to(image)
        for iteration in range(self.iterations):
            weight = first * (least / first) ** (iteration / max(1, self.iterations - 1))
            jacobian = derivative(residual, image, equations)
            spent += min(jacobian.shape)
            slope, curvature = smoothness(image)
            before = off.square().sum() + weight * roughness(image)
            while damping <= MOST_DAMPING:
                step = damped_step(off, jacobian, weight * slope, weight * (curvature + damping * eye))
                moved = image + step.view_as(image)
                off_there = residual(moved)
                spent += 1
                if off_there.square().sum() + weight * roughness(moved) < before:  # False for NaN
                    image, off = moved, off_there
                    there = off.square().sum() + least * roughness(image)
                    best, loss = (image, there) if there < loss else (best, loss)
                    damping = max(damping / 10, LEAST_DAMPING)
                    break
                damping *= 10
            else:
                status = "stalled"
                break
        return best, float(loss), spent, status

    def _equations(
        self, seen: Observation, model: nn.Module, label: int, generator: torch.Generator
    ) -> tuple[Callable[[Tensor], Tensor], int, float]:
        """The residual ``[M]`` as a function of the image, M, and the squared norm of the observed entries."""
        known = seen.defense
        observed = {name: value[:1].double() for name, value in seen.update.items()}
        parameters = {name: value[0].double() for name, value in seen.own_networks.items()}
        trained = {name: parameters[name] for name in observed}
        frozen = {name: value for name, value in parameters.items() if name not in trained}

        def shared(gradient: Update) -> Update:
            return known.simulate(gradient, observed) if known else gradient

        # Behind a defense the true zeros are left out: those of saturated units say next to nothing where the image is,
        # and lead away from it elsewhere.
        removes = known is not None and known.kept is not None
        kept = (known or KnownDefense()).kept_entries(observed)
        of_tensors = [
            ((kept[name] != 0) & ((observed[name] != 0) | (not removes))).flatten().nonzero()[:, 0] for name in observed
        ]
        shares = even_shares([len(entries) for entries in of_tensors], self.max_equations)
        chosen = [
            entries[torch.randperm(len(entries), generator=generator)[:share].sort().values.to(entries.device)]
            for entries, share in zip(of_tensors, shares, strict=True)
        ]

        def flat(update: Update) -> Tensor:
            return torch.cat([update[name].flatten()[entries] for name, entries in zip(observed, chosen, strict=True)])

        def loss(weights: Update, image: Tensor) -> Tensor:
            return -call(model, frozen | weights, image[None])[0].log_softmax(-1)[label]

        def residual(image: Tensor) -> Tensor:
            with differentiable_twice():
                gradient = {name: value[None] for name, value in grad(loss)(trained, image).items()}
            return flat(shared(gradient)) - target

        target = flat(observed)
        return residual, len(target), float(target.square().sum())


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
    between = torch.zeros(channels, pixels, pixels).to(image)
    between[:, first, second] = pull
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
