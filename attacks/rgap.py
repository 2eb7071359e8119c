"""R-GAP: one image from its gradient by linear algebra, layer by layer from the output to the input."""

import itertools
import math
from collections.abc import Callable, Sequence

import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn
from torch.nn import functional as F

from attacks.base import Attack, Observation, Reconstruction, unheard
from attacks.closed_form.chain import SIGMOID, Stage, is_plain, stages
from attacks.closed_form.equations import check_rank
from attacks.engine.labels import idlg_labels
from defenses.base import KnownDefense, Update, flattened

GRADIENT_SHARE = 4.0
"""Energy of a layer's gradient equations against that of its output equations: they are fewer per unknown but exact,
and the products with both converge fastest when they weigh somewhat more."""


TOLERANCE = 1e-11
"""Squared norm of the normal equations' residual, relative to that at the start, at which a layer is solved."""

FINE_TOLERANCE = 1e-18
"""The same, in 64 bits, for a network with a ReLU or a layer without a bias: the errors of one layer are those of all
before it, and where a ReLU leaves hardly enough equations, those of rounding would be as large as an image."""

FINE_ITERATIONS = 3
"""How many times as many conjugate-gradient steps that tolerance takes."""

SCALES = 10.0**8
"""Largest ratio between the length of the last layer's input and the least possible one, where no bias tells it: the
inverse of the probability that the network gives to all wrong labels together."""


def true_gradient(observation: Observation) -> tuple[Update, Update]:
    """The gradient as far as the attacker knows it, and 1 where an entry is known, else 0.

    What a known defense makes of a gradient of ones is the factor of each entry that it keeps; a factor that all
    entries share (clipping) changes no image. A defense that does not multiply entries, one by one, has no factors.
    """
    observed = observation.update
    ones = {name: torch.ones_like(value) for name, value in observed.items()}
    if observation.defense is None:
        return observed, ones
    known = observation.defense.kept_entries(observed)
    factor = factors_of_entries(observation.defense, observed, known)
    usable = {name: (known[name] != 0) & (factor[name] != 0) for name in observed}
    return {name: value / torch.where(usable[name], factor[name], 1) for name, value in observed.items()}, known


def factors_of_entries(defense: KnownDefense, observed: Update, known: Update) -> Update:
    """What a defense multiplies each known entry by, up to a common factor; 1 for victims where it does no such thing.

    Seen on gradients of ones and of other numbers, of which it must make the same in parts of each.

    Args:
        defense: as the attacker knows it.
        observed: the update ``[V, ...]``.
        known: 1 for an entry that is known, else 0.
    """
    generator = torch.Generator().manual_seed(1)
    drawn = {n: (1 + torch.rand(value.shape[1:], generator=generator)).to(value) for n, value in observed.items()}
    ones = defense.simulate({name: torch.ones_like(value) for name, value in observed.items()}, observed)
    others = defense.simulate({name: drawn[name].expand_as(value) for name, value in observed.items()}, observed)
    one, other = (
        torch.cat([flattened(of[name] * known[name] / by).double() for name, by in drawn.items()], 1)
        for of, drawn in ((ones, dict.fromkeys(drawn, 1)), (others, drawn))
    )
    common = (one * other).sum(1, keepdim=True) / one.square().sum(1, keepdim=True).clamp(min=1e-30)
    multiplies = ((other - common * one).abs() <= 1e-3 * (common * one).abs()).all(1)
    return {n: torch.where(multiplies.view(-1, *[1] * (v.dim() - 1)), v, torch.ones_like(v)) for n, v in ones.items()}


def rank_one(matrix: Tensor, known: Tensor, sweeps: int = 200) -> tuple[Tensor, Tensor, Tensor]:
    """The product ``left right^T`` that is nearest to the known entries, whose last column is a bias's gradient.

    Args:
        matrix: ``[V, K, F]``.
        known: 1 for an entry that counts, 0 for one that does not.
        sweeps: as in :func:`factors`.

    Returns:
        left ``[V, K]``, right ``[V, F]`` with its last entry 1, and ``[V, F]``: 1 where right is known, else 0.
    """
    left, right, weight, scale = factors(matrix, known, sweeps)
    last = right[:, -1:]
    last = torch.where(last == 0, 1.0, last)
    return left * last * scale[:, None], right / last, (weight > 1e-6).to(right)


def factors(matrix: Tensor, known: Tensor, sweeps: int = 200) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The product ``scale left right^T`` that is nearest to the known entries, by alternating least squares.

    Args:
        matrix: ``[V, K, F]``.
        known: 1 for an entry that counts, 0 for one that does not.
        sweeps: how often each side is solved for; once where all entries are known.

    Returns:
        left ``[V, K]`` of length 1, right ``[V, F]``, how well each entry of right is known, 0 for not at all, and the
        scale ``[V]``.
    """
    scale = matrix.abs().amax((1, 2)).clamp(min=1e-30)
    usable = scale.isfinite()[:, None, None]  # a victim that is not finite must not end the work on the others
    matrix = torch.where(usable, matrix / scale[:, None, None], 0.0) * known

    def solve(matrix: Tensor, known: Tensor, factor: Tensor) -> tuple[Tensor, Tensor]:
        weight = (known @ factor.square()[..., None])[..., 0]
        right_side = (matrix @ factor[..., None])[..., 0]
        return torch.where(weight > 0, right_side / weight.clamp(min=1e-30), 0.0), weight

    gram = (matrix @ matrix.mT).cpu()  # as if what is missing were zero; CUDA's eigh fails on equal eigenvalues
    left = torch.linalg.eigh(gram).eigenvectors[..., -1].to(matrix)
    for _ in range(1 if known.all() else sweeps):
        right, weight = solve(matrix.mT, known.mT, left)
        left, _ = solve(matrix, known, right)
        left = left / left.norm(dim=1, keepdim=True).clamp(min=1e-30)
    right, weight = solve(matrix.mT, known.mT, left)
    return left, right, weight, scale


def scaled_by_softmax(left: Tensor, right: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """The slope and the input of a last layer without a bias, of which the gradient tells the product alone.

    The input is t times the unit vector along ``right``. The slope, which is the rest of the product, is also what the
    layer makes of that input, ``softmax(W a) - e_label``, and its label is its only negative entry: K equations for the
    one unknown t. All t up to ``SCALES`` times the least possible are tried, and Newton's method goes on from the best.
    With two classes, whose equations are the same, the product is that of the other label and the opposite input, too,
    and there can be two values of t; then, as by the sign rule of iDLG, it is the input whose sum is positive, and the
    shorter one.

    Args:
        left: ``[V, K]``.
        right: ``[V, F]``.
        weight: of the layer, ``[V, K, F]``.

    Returns:
        slope ``[V, K]`` and input ``[V, F]``.
    """
    sign = torch.where(right.sum(1, keepdim=True) < 0, -1.0, 1.0)
    length = sign * right.norm(dim=1, keepdim=True).clamp(min=1e-30)
    of_sign = [scale_of(way * left * length, (weight @ (way * right / length)[..., None])[..., 0]) for way in (1, -1)]
    (scale, residual), (opposite, other) = of_sign
    scale = torch.where(other + 1e-4 < residual, -opposite, scale)[:, None]
    return left * length / scale, right / length * scale


def scale_of(product: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
    """The t > 0 for which ``product / t`` is most nearly ``softmax(t logits) - e_label``, the label's being its least.

    Args:
        product: ``[V, K]``.
        logits: of an input of length 1, ``[V, K]``.

    Returns:
        t ``[V]``, the least where there are several, and the distance ``[V]`` there, relative to the size of
        ``product / t``.
    """
    product, logits = product[:, None], logits[:, None]  # [V, T, K] of T values of t
    label = F.one_hot(product.argmin(-1), product.shape[-1]).to(product)
    size = product.norm(dim=-1, keepdim=True).clamp(min=1e-30)
    least = product.abs().sum(-1, keepdim=True) / 2  # the slope's entries sum to 0, and the positive ones to 1 at most

    def apart(scale: Tensor) -> tuple[Tensor, Tensor]:
        """The distance and its derivative in log t, relative to the product, ``[V, T, K]``."""
        chance = (scale * logits).softmax(-1)
        mean = (chance * logits).sum(-1, keepdim=True)
        off = scale * (chance - label) - product
        return off / size, (scale * (chance - label) + scale**2 * chance * (logits - mean)) / size

    scale = least * torch.logspace(0, math.log10(SCALES), 1000).to(product)[:, None]
    best = apart(scale)[0].norm(dim=-1).topk(8, largest=False).indices
    scale = scale.gather(1, best[..., None])
    for _ in range(30):
        off, slope = apart(scale)
        step = (off * slope).sum(-1, keepdim=True) / slope.square().sum(-1, keepdim=True).clamp(min=1e-30)
        scale = scale * step.clamp(-0.1, 0.1).neg().exp()
    distance = apart(scale)[0].norm(dim=-1)
    least_distance = distance.amin(1)
    solves = distance <= least_distance[:, None] + 1e-6
    return torch.where(solves, scale[..., 0], torch.inf).amin(1), least_distance


def solve_layer(
    stage: Stage,
    kernel: Tensor,
    gradient: Tensor,
    known: Tensor,
    before: Tensor,
    certain: Tensor,
    slope: Tensor,
    iterations: int,
    tolerance: float = TOLERANCE,
) -> Tensor:
    """The layer's input by least squares, with conjugate gradients (CGLS) from the constant 0.5.

    The equations are those of R-GAP: kernel * x = before, and the gradient of the kernel, which is linear in x because
    the loss's slope at the layer's output is known. Where they do not decide x, the solution nearest to 0.5 is found.

    Args:
        stage: the layer.
        kernel: ``[V, O, C, h, w]``.
        gradient: of the kernel, as it was shared.
        known: 1 for each of its entries that counts.
        before: the layer's output without the bias, ``[V, O, H', W']``.
        certain: how well each of its entries is known, 0 for not at all.
        slope: of the loss at the layer's output, like ``before``.
        iterations: products with the equations at most.
        tolerance: squared norm of the normal equations' residual, relative to that at the start, that is enough.

    Returns:
        ``[V, C, H, W]``.
    """

    def each(values: Tensor, like: Tensor) -> Tensor:
        return values.view(-1, *[1] * (like.dim() - 1))

    def dot(first: Tensor, second: Tensor) -> Tensor:
        return (first * second).flatten(1).sum(1)

    # Rows of equal norm: each output channel's gradient rows are as long as its slope. Then both kinds of equations
    # get a given ratio of energies.
    channel = slope.flatten(2).norm(dim=2)
    equal = 1 / channel.clamp(min=1e-6).maximum(1e-6 * channel.amax(1, keepdim=True))
    output_energy = (certain.square().flatten(2).sum(2) * kernel.flatten(2).square().sum(2)).sum(1)
    gradient_energy = kernel[0, 0].numel() * (channel * equal).square().sum(1)
    balance = (GRADIENT_SHARE * output_energy / gradient_energy.clamp(min=1e-30)).sqrt()
    row_weight = (balance[:, None] * equal)[..., None, None, None] * known

    def forward(x: Tensor) -> tuple[Tensor, Tensor]:
        return certain * stage.forward(x, kernel), row_weight * stage.kernel_gradient(x, slope, kernel)

    def transposed(outputs: Tensor, gradients: Tensor) -> Tensor:
        # Both transposes are the same convolution: of the residual with the kernel, of the slope with the residual.
        signal = torch.cat([certain * outputs, slope], 1)
        return stage.backward(signal, torch.cat([kernel, row_weight * gradients], 1))

    x = torch.full((len(kernel), *stage.shape), 0.5).to(kernel)
    out, grad = forward(x)
    out, grad = certain * before - out, row_weight * gradient - grad
    residual = transposed(out, grad)
    direction = residual
    size = dot(residual, residual)
    enough = tolerance * size
    for iteration in range(iterations):
        running = size > enough
        if iteration % 10 == 0 and not running.any():
            break
        moved_out, moved_grad = forward(direction)
        length = size / (dot(moved_out, moved_out) + dot(moved_grad, moved_grad)).clamp(min=1e-30)
        length = torch.where(running, length, 0.0)
        x = x + each(length, x) * direction
        out = out - each(length, out) * moved_out
        grad = grad - each(length, grad) * moved_grad
        residual = transposed(out, grad)
        new_size = torch.where(running, dot(residual, residual), size)
        direction = residual + each(new_size / size.clamp(min=1e-30), x) * direction
        size = new_size
    return x


def recursive_solution(
    observation: Observation, iterations: int = 400, told: Callable[[float], None] = unheard
) -> tuple[Tensor, Tensor]:
    """Images and labels by R-GAP for V victims with one image each.

    Args:
        observation: of victims with one image each.
        iterations: conjugate-gradient steps for each layer at most; ``FINE_ITERATIONS`` times as many in a network that
            has not only sigmoids and biases.
        told: is called with the share of the layers that are solved.

    Returns:
        Images ``[V, C, H, W]``, NaN or Inf where the update is, and label probabilities ``[V, K]``, right where the
        update has the size of a gradient.

    Raises:
        ValueError: the network is not of the kind that R-GAP solves.
    """
    layers = stages(observation.model, observation.image_shape[1:])
    gradient, known = true_gradient(observation)
    parameters = observation.own_networks
    precision = next(iter(gradient.values())).dtype
    tolerance = TOLERANCE
    if not all(layer.biased and layer.activation in (SIGMOID, None) for layer in layers):
        tolerance, iterations = FINE_TOLERANCE, FINE_ITERATIONS * iterations
        gradient, known, parameters = (
            {name: value.double() for name, value in each.items()} for each in (gradient, known, parameters)
        )
    slope, inputs, certain, labels = solve_head(layers[-1], gradient, known, parameters)
    for layer, after in reversed(list(itertools.pairwise(layers))):
        kernel = layer.kernel(parameters[f"{layer.name}.weight"])
        shape = layer.forward(torch.zeros(1, *layer.shape).to(kernel), kernel[:1]).shape[1:]
        upstream = after.backward(
            slope.view(len(slope), -1, *slope.shape[2:] or (1, 1)), after.kernel(parameters[f"{after.name}.weight"])
        )
        activation = layer.activation
        assert activation is not None
        inputs, certain = inputs.reshape(-1, *shape), certain.expand(-1, *inputs.shape[1:]).reshape(-1, *shape)
        inputs = inputs.clamp(activation.low, activation.high)
        local_slope = activation.slope(inputs)
        slope = upstream.reshape(-1, *shape) * local_slope
        before = activation.inverse(inputs)
        inputs = solve_layer(
            layer,
            kernel,
            layer.kernel(gradient[f"{layer.name}.weight"]),
            layer.kernel(known[f"{layer.name}.weight"]),
            before - parameters[f"{layer.name}.bias"][..., None, None] if layer.biased else before,
            certain * local_slope.sqrt(),
            slope,
            iterations,
            tolerance,
        )
        certain = torch.ones_like(inputs)
        told(1 - layers.index(layer) / len(layers))
    return inputs.reshape(-1, *observation.image_shape[1:]).to(precision), labels.to(precision)


def solve_head(
    layer: Stage, gradient: Update, known: Update, parameters: Update
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What the gradient of the last layer tells.

    Args:
        layer: the last one.
        gradient, known: as :func:`true_gradient` returns them.
        parameters: name -> ``[V, ...]``.

    Returns:
        The loss's slope at the logits ``[V, K]``, the layer's input ``[V, F, 1, 1]``, 1 where that is known, else 0,
        and label probabilities ``[V, K]``.
    """
    name, bias = f"{layer.name}.weight", f"{layer.name}.bias"
    if layer.biased:
        joined, kept = (torch.cat([update[name], update[bias][..., None]], 2) for update in (gradient, known))
        slope, inputs, certain = rank_one(joined, kept)
        inputs, certain = inputs[:, :-1], certain[:, :-1]
    else:
        left, right, weight, scale = factors(gradient[name], known[name])
        slope, inputs = scaled_by_softmax(left * scale[:, None], right, parameters[name])
        certain = (weight > 1e-6).to(right)
    inputs, certain = inputs[..., None, None], certain[..., None, None]
    logits = layer.forward(inputs, layer.kernel(parameters[name]))[..., 0, 0]
    return slope, inputs, certain, (logits + parameters[bias] if layer.biased else logits).softmax(-1) - slope


class RGAP(Attack):
    """Recursive gradient attack: each layer's input by least squares (Zhu and Blaschko 2021, arXiv 2010.07733).

    For one image per victim, and networks that are a sequence of convolutions, linear layers, sigmoids, ReLU and leaky
    ReLU, with biases or without. The label, which it does not need, is that of the sign rule; of a last layer without a
    bias it is found with the scale of the layer's input. A known defense that removes entries of the update takes away
    their equations. Where the paper solves each system by a factorisation, this takes products only, for all victims at
    once. ``leakboard rank`` counts the equations of each layer.

    Args:
        iterations: conjugate-gradient steps for each layer at most, at least 1. A network with a ReLU or a layer
            without a bias is solved in 64 bits to a finer tolerance, in up to three times as many.
    """

    one_image_only = True

    def __init__(self, iterations: int = 400) -> None:
        if iterations < 1:
            raise ValueError(f"iterations is {iterations}, but must be at least 1")
        self.iterations = iterations

    def check(self, model: nn.Module, image_shape: tuple[int, int, int, int]) -> None:
        super().check(model, image_shape)
        layers = stages(model, image_shape[1:])
        if not is_plain(layers):
            check_rank(model, layers, image_shape[1:])

    def reconstruct(self, observation: Observation, callbacks: Sequence[Callback] = ()) -> Reconstruction:
        self.check(observation.model, observation.image_shape)
        images, labels = recursive_solution(observation, self.iterations, self.told)
        victims = observation.num_victims
        by_sign = stages(observation.model, observation.image_shape[1:])[-1].biased
        return Reconstruction(
            images=images.unsqueeze(1),
            labels=(idlg_labels(observation) if by_sign else labels.argmax(-1))[:, None],
            loss=torch.full((victims,), torch.inf),
            evaluations=torch.zeros(victims, dtype=torch.long),
            status=["closed form"] * victims,
        )
