from collections.abc import Sequence
from dataclasses import dataclass

import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn
from torch.nn.functional import one_hot, pad

from attacks.base import Attack, Observation, Reconstruction
from attacks.closed_form.first_layer import FirstLayer, first_layer, seen_exactly, with_outputs
from attacks.engine.labels import best_labels
from attacks.engine.step import TOGETHER
from attacks.rgap import true_gradient

ROUNDS = 200
"""At most; a batch of 128 takes about thirty."""

ROUNDING = 8
"""Error of a slope in float32 or float64, in units of the last place."""

CLEAR = 100
"""A slope is clear where it is so many times as large as its error: the image has 40 dB then."""

NOTHING = 8
"""A remainder is none where it is at most so many times its error."""

ALIKE = 0.02
"""Root mean square of the difference of two images that are taken for the same one."""

EVIDENCE = 2
"""Neurons that an image must explain to be certified, each by an equation for each pixel and one more."""

MOST_CLASSES = 100
"""Of which labels of two are tried."""

CLUSTER = 8
"""Neurons that must agree on the factor by which an update was scaled."""

EXPLAINED = 1e-6
"""Part of its influence on a neuron that an image leaves unexplained there, and is certified all the same: errors of
samples that were found one after the other are not independent, and can be larger than estimated."""

CERTAIN = 2e-3
"""The same at most, however large the errors are: two more images that are mixed to one can nearly cancel."""

TRIES = 3
"""Random errors of an image that are tried for what they make of its slopes."""

SPARE = 16
"""Directions beyond the size of a batch in which a gradient is looked at: there is nothing but noise."""

GLANCE = 64
"""Pixels that are looked at before the others."""


class Rest:
    """The network around the first layer, of V victims.

    Args:
        seen: of the victims, in float64.
        layer: the first layer.

    Attributes:
        mixed: the class probabilities of each of H labels that an image can have, ``[V, H, K]``; None where it has one
            of the K classes.
    """

    mixed: Tensor | None = None

    def __init__(self, seen: Observation, layer: FirstLayer) -> None:
        self.seen, self.layer = seen, layer
        self.factor, self.offset = layer.scaling(seen.model, seen.own_networks, seen.image_shape[1:])
        ends = torch.stack([torch.ones_like(self.offset), self.offset, self.offset + self.factor])
        self.reach = ends.abs().amax((0, 2))[:, None]  # of an entry of the weight's gradient, for a slope of 1

    def inputs(self, pixels: Tensor) -> Tensor:
        """The layer's inputs ``[V, M, D]`` of pixels in its order."""
        return pixels * self.factor[:, None] + self.offset[:, None]

    def pixels(self, inputs: Tensor, step: int = 1) -> Tensor:
        """Pixels ``[V, M, D]`` from the layer's inputs; of each ``step``-th of them where it is above 1."""
        return (inputs - self.offset[:, None, ::step]) / self.factor[:, None, ::step]

    def slopes(self, pixels: Tensor, labels: Tensor) -> Tensor:
        """What each image of a batch adds to the gradient of the bias with its label ``[V, M]``: ``[V, M, N]``."""
        logits, shift = self._forward(pixels)
        off = logits.detach().softmax(-1) - self.probabilities(labels)
        return torch.autograd.grad(logits, shift, off)[0] / self.seen.image_shape[0]

    def probabilities(self, labels: Tensor) -> Tensor:
        """Of labels ``[V, M]``, ``[V, M, K]``."""
        return one_hot(labels, self.seen.num_classes) if self.mixed is None else rows(self.mixed, labels)

    def slopes_of_each_label(self, pixels: Tensor, neurons: Tensor) -> Tensor:
        """The same for each label, at one neuron ``[V, M]`` for each image: ``[V, M, K]``, or ``[V, M, H]``."""
        logits, shift = self._forward(pixels)
        each = logits.sum((0, 1))
        jacobian = torch.cat(
            [torch.autograd.grad(one, shift, retain_graph=True)[0].gather(2, neurons[..., None]) for one in each], -1
        )
        expected = (logits.detach().softmax(-1) * jacobian).sum(-1, keepdim=True)
        of_classes = (expected - jacobian) / self.seen.image_shape[0]
        return of_classes if self.mixed is None else of_classes @ self.mixed.mT

    def _forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Logits ``[V, M, K]``, and zeros ``[V, M, N]`` that are added to the layer's output, to derive in."""
        seen, name = self.seen, self.layer.name
        images = self.layer.pixels(pixels).view(*pixels.shape[:2], *seen.image_shape[1:])
        shift = pixels.new_zeros(*pixels.shape[:2], seen.parameters[f"{name}.bias"].shape[-1]).requires_grad_()
        with torch.enable_grad():
            return with_outputs(seen.model, name, seen.parameters, images, torch.add, shift), shift


@dataclass
class Candidates:
    """Images that neurons give away if no other image has an influence on them.

    Attributes:
        neurons: that each is from, ``[V, M]``.
        usable: whether it has the pixels of an image, ``[V, M]``; the others only fill up.
        pixels: in the layer's order, ``[V, M, D]``.
        error: of a pixel, ``[V, M]``.
    """

    neurons: Tensor
    usable: Tensor
    pixels: Tensor
    error: Tensor

    def only(self, some: Tensor, usable: Tensor) -> "Candidates":
        """Those at some places ``[V, M']``, of which these are usable ``[V, M]``."""
        neurons, left, error = (one.gather(1, some) for one in (self.neurons, usable, self.error))
        return Candidates(neurons, left, rows(self.pixels, some), error)


class Remains:
    """What is left of the first layer's gradient of V victims without the samples that were found.

    Args:
        rest: of the network.
        weight: gradient of the layer's weight ``[V, N, D]``.
        bias: of its bias ``[V, N]``.
        noise: standard deviation of noise on each of their entries, ``[V, 1]``.
        precision: relative error of a slope ``[V, 1]``.

    Attributes:
        error: of an entry of a neuron's gradient, ``[V, N]``.
        fresh: neurons that have not been looked at since they changed, ``[V, N]``.
        taken: whether a sample was found, ``[V, B]``.
        pixels: of the samples, in the layer's order, ``[V, B, D]``.
        labels: theirs, ``[V, B]``.
        slopes: what they add to the gradient of the bias, ``[V, B, N]``; 0 where there is none.
    """

    def __init__(self, rest: Rest, weight: Tensor, bias: Tensor, noise: Tensor, precision: Tensor) -> None:
        victims, images = len(bias), rest.seen.image_shape[0]
        self.rest, self.weight, self.bias, self.precision = rest, weight.clone(), bias.clone(), precision
        self.error = precision * bias.abs() + noise
        self.fresh = torch.ones_like(bias, dtype=torch.bool)
        generator = torch.Generator().manual_seed(2)
        self.directions = torch.randn((TRIES, weight.shape[-1]), generator=generator, dtype=weight.dtype).to(weight)
        self.taken = torch.zeros(victims, images, dtype=torch.bool, device=bias.device)
        self.pixels = weight.new_zeros(victims, images, weight.shape[-1])
        self.labels = torch.zeros_like(self.taken, dtype=torch.long)
        self.slopes = bias.new_zeros(victims, images, bias.shape[-1])

    def candidates(self) -> Candidates:
        """The images that fresh neurons would give away; those neurons are not fresh afterwards."""
        live = self.fresh & (self.bias.abs() > CLEAR * self.error)
        self.fresh &= ~live
        error = self.error / torch.where(live, self.bias.abs(), 1)
        slope = torch.where(live, self.bias, 1)[..., None]
        step = max(1, self.weight.shape[-1] // GLANCE)
        live &= in_range(self.rest.pixels(self.weight[..., ::step] / slope, step), error)
        neurons = first_true(live)
        pixels = self.rest.pixels(rows(self.weight, neurons) / rows(slope, neurons))
        usable = live.gather(1, neurons) & in_range(pixels, error.gather(1, neurons))
        some = first_true(usable)
        usable, neurons = usable.gather(1, some), neurons.gather(1, some)
        pixels = torch.where(usable[..., None], rows(pixels, some), 0.5).clamp(0, 1)
        return Candidates(neurons, usable, pixels, error.gather(1, neurons))

    def take(self, found: Candidates, labels: Tensor) -> None:
        """Takes samples off, as many as are usable of those that are found, with their labels ``[V, M]``."""
        slopes = self.rest.slopes(found.pixels, labels) * found.usable[..., None]
        self._subtract(slopes, found.pixels)
        added = slopes.square() * (found.error.square() + self.precision.square())[..., None]
        self.error = (self.error.square() + added.sum(1)).sqrt()
        for victim, usable in enumerate(found.usable):
            free = (~self.taken[victim]).nonzero()[: int(usable.sum()), 0]
            self.taken[victim, free] = True
            self.pixels[victim, free] = found.pixels[victim, usable]
            self.labels[victim, free] = labels[victim, usable]
            self.slopes[victim, free] = slopes[victim, usable]

    def slope_error(self, found: Candidates, labels: Tensor) -> Tensor:
        """What errors of images make of their slopes, ``[V, M, N]``: a small one can become a large one."""
        slopes = self.rest.slopes(found.pixels, labels)
        moved = [found.pixels + found.error[..., None] * direction for direction in self.directions]
        return torch.stack([(self.rest.slopes(one, labels) - slopes).abs() for one in moved]).amax(0)

    def put_back(self, samples: Tensor) -> None:
        """Undoes that for some samples, ``[V, B]``."""
        self._subtract(-self.slopes * samples[..., None], self.pixels)
        self.slopes *= ~samples[..., None]
        self.taken &= ~samples

    def _subtract(self, slopes: Tensor, pixels: Tensor) -> None:
        self.weight -= slopes.mT @ self.rest.inputs(pixels)
        self.bias -= slopes.sum(1)
        self.fresh |= (slopes != 0).any(1)

    def support(self) -> Tensor:
        """How many neurons that each sample has an influence on are explained, to the last pixel, ``[V, B]``."""
        enough = torch.maximum(EXPLAINED * self.slopes.abs(), NOTHING * self.error[:, None])
        return self._left_at_most(torch.minimum(enough, CERTAIN * self.slopes.abs())).sum(-1)

    def contradicted(self) -> Tensor:
        """Samples none of whose neurons is explained even roughly, though there are some that would show it."""
        clear = self.slopes.abs() > CLEAR * self.error[:, None]
        roughly = self._left_at_most(NOTHING / CLEAR * self.slopes.abs())
        return self.taken & clear.any(-1) & ~roughly.any(-1)

    def _left_at_most(self, limit: Tensor) -> Tensor:
        """On which neurons a sample has a clear influence, and no more is left than this, ``[V, B, N]``."""
        left = torch.maximum(self.bias.abs(), self.weight.abs().amax(-1) / self.rest.reach)[:, None]
        return (self.slopes.abs() > CLEAR * self.error[:, None]) & (left <= limit)


def in_range(pixels: Tensor, error: Tensor) -> Tensor:
    """Whether images ``[V, M, D]`` have pixels in [0, 1], up to their errors ``[V, M]``."""
    slack = NOTHING * error
    return (pixels.amin(-1) >= -slack) & (pixels.amax(-1) <= 1 + slack)


def rows(values: Tensor, where: Tensor) -> Tensor:
    """Rows ``[V, M]`` of values ``[V, N, D]``."""
    return values.gather(1, where[..., None].expand(-1, -1, values.shape[-1]))


def first_true(chosen: Tensor) -> Tensor:
    """The places ``[V, M]`` of what is chosen of ``[V, N]``, and where some have less than M also of others."""
    return chosen.int().argsort(dim=1, descending=True, stable=True)[:, : int(chosen.sum(1).max())]


def noise_beyond(weight: Tensor, images: int) -> Tensor:
    """Standard deviation ``[V, 1]`` of the noise in gradients ``[V, N, D]``.

    Without noise their rank is the number of images. So it is the size of the gradient in some random directions,
    beyond its largest singular values; 0 where there are no more neurons or pixels than that.
    """
    neurons, pixels = weight.shape[1:]
    if min(neurons, pixels) < images + SPARE:
        return weight.new_zeros(len(weight), 1)
    generator = torch.Generator().manual_seed(1)
    directions = torch.randn((neurons, images + SPARE), generator=generator, dtype=weight.dtype)
    basis = torch.linalg.qr(directions)[0].to(weight.device)
    singular = torch.linalg.svdvals(basis.mT @ weight)[:, images:]
    return (singular.square().sum(1, keepdim=True) / (SPARE * (pixels - images))).sqrt()


def agreed(
    found: Candidates, good: Tensor, labels: Tensor, known: list[Tensor], room: list[int]
) -> tuple[Candidates, Tensor, Tensor]:
    """The samples on which candidates agree.

    Args:
        found: all candidates.
        good: those that cause the slope of their neuron with some label, ``[V, M]``.
        labels: these labels, ``[V, M]``.
        known: for each victim images that are not new, ``[S, D]``.
        room: how many samples may be found.

    Returns:
        The samples, each the mean of the candidates that agree on it, and for each candidate whether it is one of an
        image that is not known, ``[V, M]``. Where two agree on something, what a single one says has to wait.
    """
    pixels, labels_of, errors, new = [], [], [], torch.zeros_like(good)
    for v, old in enumerate(known):
        which = good[v].nonzero()[:, 0]
        which = which[found.error[v, which].argsort()]
        images = found.pixels[v, which]
        limit = ALIKE * images.shape[-1] ** 0.5
        fresh = ~(torch.cdist(images, old) < limit).any(1)
        new[v, which[fresh]] = True
        distance = torch.cdist(images, images)
        near = distance < limit
        same = near & (labels[v, which][:, None] == labels[v, which])
        votes = same.sum(1)
        enough = EVIDENCE if bool((votes[fresh] >= EVIDENCE).any()) else 1
        kept: list[int] = []
        for one in votes.argsort(descending=True, stable=True).tolist():
            if fresh[one] and votes[one] >= enough and not near[one, kept].any() and len(kept) < room[v]:
                kept.append(one)
        error = found.error[v, which]
        equal = distance <= NOTHING * (error + error[:, None]) * images.shape[-1] ** 0.5  # one may be slightly mixed
        weights = (same & equal).fill_diagonal_(True)[kept] / error.square()
        pixels.append(weights @ images / weights.sum(1, keepdim=True))
        errors.append(weights.sum(1).rsqrt())
        labels_of.append(labels[v, which[kept]])
    most = max(map(len, errors))
    fill = [most - len(one) for one in errors]
    usable = torch.stack([torch.arange(most, device=good.device) < len(one) for one in errors])
    samples = Candidates(
        torch.zeros_like(usable, dtype=torch.long),
        usable,
        torch.stack([pad(one, (0, 0, 0, more)) for one, more in zip(pixels, fill, strict=True)]),
        torch.stack([pad(one, (0, more)) for one, more in zip(errors, fill, strict=True)]),
    )
    return samples, torch.stack([pad(one, (0, more)) for one, more in zip(labels_of, fill, strict=True)]), new


def factor_of_update(remains: Remains, tolerance: float) -> tuple[Tensor, Tensor]:
    """The factor by which an update was scaled, as by clipping, and the relative error of a slope, ``[V, 1]`` each.

    It is 1 where a neuron shows the slope that its image causes with some label, else the ratio of the two on which
    most neurons agree, if there are ``CLUSTER``.

    Args:
        remains: of the whole gradient.
        tolerance: relative difference up to which two slopes are the same.
    """
    found = remains.candidates()
    factor, precision = torch.ones_like(remains.precision), remains.precision.clone()
    if not found.usable.any():
        return factor, precision
    shown = remains.bias.gather(1, found.neurons)[..., None]
    ratios = shown / remains.rest.slopes_of_each_label(found.pixels, found.neurons)
    usable = found.usable[..., None] & ratios.isfinite() & (ratios > 0)
    fits = usable & ((1 - ratios).abs() <= tolerance + NOTHING * found.error[..., None])
    for victim in (~fits.any(2).any(1)).nonzero()[:, 0].tolist():
        sizes = ratios[victim][usable[victim]].log().sort().values
        agreeing = torch.searchsorted(sizes, sizes + tolerance) - torch.arange(len(sizes), device=sizes.device)
        if len(sizes) and int(agreeing.max()) >= CLUSTER:
            cluster = sizes[int(agreeing.argmax()) :][: int(agreeing.max())]
            middle = cluster.median()
            factor[victim] = middle.exp()
            precision[victim] = precision[victim].maximum((cluster - middle).abs().median())
    return factor, precision


def share_of_mixture(remains: Remains, tolerance: float) -> Tensor:
    """The share that the first of two classes has in each label of a batch of MixUp, from 1/2 to 1, ``[V]``.

    Two neurons that give away the same image show two slopes, of which each is a mixture of those of two classes: in
    the same share, if the classes are the right ones. It is the share on which most pairs of neurons agree, 1 where
    there is no pair. A wrong one leads to no images that explain their neurons.

    Args:
        remains: of the whole gradient.
        tolerance: difference up to which two shares are the same.
    """
    found = remains.candidates()
    shares = torch.ones_like(remains.precision[:, 0])
    if not found.usable.any():
        return shares
    shown = remains.bias.gather(1, found.neurons)
    of_classes = remains.rest.slopes_of_each_label(found.pixels, found.neurons)
    for victim, usable in enumerate(found.usable):
        pixels, error = found.pixels[victim, usable], found.error[victim, usable]
        limit = NOTHING * (error + error[:, None]) * pixels.shape[-1] ** 0.5
        one, other = ((torch.cdist(pixels, pixels) <= limit).triu(1)).nonzero(as_tuple=True)
        slopes = of_classes[victim, usable]
        of_pairs = (shown[victim, usable, None, None] - slopes[:, None]) / (slopes[..., None] - slopes[:, None])
        here, there = of_pairs[one], of_pairs[other]  # [pairs, K, K]
        near = ((here - there).abs() <= tolerance) & (here >= 0.5) & (here < 1 - tolerance)
        told = ((here + there) / 2)[near].sort().values
        agreeing = torch.searchsorted(told, told + tolerance) - torch.arange(len(told), device=told.device)
        if len(told):
            shares[victim] = told[int(agreeing.argmax()) :][: int(agreeing.max())].median()
    return shares


def mixtures(shares: Tensor, classes: int) -> Tensor:
    """Labels of one or two classes, the first one with shares ``[V]``: probabilities ``[V, K * K, K]``."""
    every = torch.eye(classes, dtype=shares.dtype, device=shares.device)
    share = shares[:, None, None, None]
    return (share * every[:, None] + (1 - share) * every).flatten(1, 2)


def peel(observation: Observation, layer: FirstLayer) -> tuple[Remains, Tensor]:
    """All samples of V victims that can be found one after the other, and whether each is certified, ``[V, B]``."""
    seen = seen_exactly(observation)
    eps = torch.finfo(layer.gradients(observation.update)[1].dtype).eps
    rest, images = Rest(seen, layer), seen.image_shape[0]
    weight, bias = layer.gradients(true_gradient(seen)[0])
    finite = weight.isfinite().flatten(1).all(1, keepdim=True) & bias.isfinite().all(1, keepdim=True)
    weight, bias = torch.where(finite[..., None], weight, 0), torch.where(finite, bias, 0)
    noise = noise_beyond(weight, images)
    if seen.defense:
        told = torch.as_tensor(seen.defense.noise(seen.update), dtype=noise.dtype, device=noise.device)
        noise = noise.maximum(told.view(-1, 1))
    remains = Remains(rest, weight, bias, noise, torch.full_like(noise, ROUNDING * eps))
    if seen.defense and seen.defense.soft_labels and seen.num_classes <= MOST_CLASSES:
        rest.mixed = mixtures(share_of_mixture(remains, eps**0.5), seen.num_classes)
        remains = Remains(rest, weight, bias, noise, torch.full_like(noise, ROUNDING * eps))
    else:
        factor, precision = factor_of_update(remains, eps**0.5)
        remains = Remains(rest, weight / factor[..., None], bias / factor, noise / factor, precision)
    banned = [weight.new_zeros(0, weight.shape[-1]) for _ in seen.seeds]
    for _ in range(ROUNDS):
        found = remains.candidates()
        if found.usable.any():
            shown = remains.bias.gather(1, found.neurons)
            gap, labels = (rest.slopes_of_each_label(found.pixels, found.neurons) - shown[..., None]).abs().min(-1)
            near = found.usable & (gap <= (eps**0.5 + NOTHING * found.error) * shown.abs())
            some = first_true(near)
            found, labels = found.only(some, near), labels.gather(1, some)
            off = remains.slope_error(found, labels).gather(2, found.neurons[..., None])[..., 0]
            off = off + (found.error + remains.precision) * shown.gather(1, some).abs()
            good = found.usable & (gap.gather(1, some) <= NOTHING * off)
            known = [torch.cat([old, p[t]]) for old, p, t in zip(banned, remains.pixels, remains.taken, strict=True)]
            samples, of_samples, new = agreed(found, good, labels, known, (~remains.taken).sum(1).tolist())
            remains.fresh.scatter_(1, found.neurons, new)
            if samples.usable.any():
                remains.take(samples, of_samples)
                continue
        wrong = remains.contradicted()
        if not wrong.any():
            break
        banned = [torch.cat([old, p[w]]) for old, p, w in zip(banned, remains.pixels, wrong, strict=True)]
        remains.put_back(wrong)
    return remains, remains.taken & (remains.support() >= EVIDENCE)


class Peeling(Attack):
    """Images and labels of a whole batch from the first layer's gradient (Shariati and Meybodi 2026, on LT codes).

    A neuron behind a ReLU on which a single image of the batch has an influence gives it away as the ratio of its
    weight's gradient to its bias's, as in :class:`AnalyticLinear`. Which neurons these are is tried: the image must
    have pixels in [0, 1] and cause, with some label and through the rest of the network, the slope that the neuron
    shows. What is found is taken off the gradient, which leaves more neurons with a single image.

    An image is certified where it has an influence on at least two neurons whose whole gradients are explained by what
    was found: two equations for each of its pixels, and two for its label. A mixture of images meets one of the two
    neurons by coincidence at most. An image that is not certified is a guess, or else the public mean image.

    For networks whose first trained layer is linear with a bias and a ReLU behind it, which the pixels come to with no
    more than a fixed scaling; the rest may be any network. It computes in float64. An update in float32 serves, and
    one that was clipped, whose factor it finds. Of an update with noise, whose size it measures, it finds images as far
    as neurons have a slope of a hundred times the noise; of one from which entries were removed, none. Of a batch that
    is known to be mixed as by MixUp, with up to 100 classes, it finds the mixtures, whose labels are of two classes in
    a share that pairs of neurons tell, and certifies none, since a mixture is no private image.
    """

    def check(self, model: nn.Module, image_shape: tuple[int, int, int, int]) -> None:
        super().check(model, image_shape)
        self.layer(model, image_shape)

    def layer(self, model: nn.Module, image_shape: tuple[int, int, int, int]) -> FirstLayer:
        """The network's first layer; ValueError where it is not of this kind."""
        found = first_layer(model, image_shape[1:])
        if found is None or not found.rectified:
            raise ValueError(
                "Peeling needs a trained linear layer with a bias and a ReLU behind it that the pixels come to "
                "directly, or only scaled: give such a network (MLP with activation relu), or attack with "
                "InvertingGradients"
            )
        return found

    def reconstruct(self, observation: Observation, callbacks: Sequence[Callback] = ()) -> Reconstruction:
        self.check(observation.model, observation.image_shape)
        layer, victims = self.layer(observation.model, observation.image_shape), observation.num_victims
        images = observation.mean_image.expand(victims, *observation.image_shape).clone()
        labels = best_labels(observation).clone()
        certified = torch.zeros_like(labels, dtype=torch.bool)
        mixed = images.new_full((*labels.shape, observation.num_classes), 1 / observation.num_classes)
        weight, _ = layer.gradients(observation.update)
        some = max(1, TOGETHER[observation.device.type] // (32 * weight[0].numel()))
        for first in range(0, victims, some):
            here = slice(first, first + some)
            remains, certified[here] = peel(observation.take(range(victims)[here]), layer)
            found = layer.pixels(remains.pixels).view(-1, *observation.image_shape).to(images)
            images[here] = torch.where(remains.taken[..., None, None, None], found, images[here])
            told = remains.rest.probabilities(remains.labels).to(mixed)
            mixed[here] = torch.where(remains.taken[..., None], told, mixed[here])
            labels[here] = torch.where(remains.taken, told.argmax(-1), labels[here])
            self.told(min(1.0, (first + some) / victims))
        mixes = observation.defense is not None and observation.defense.soft_labels
        return Reconstruction(
            images=images,
            labels=labels,
            loss=torch.full((victims,), torch.inf),
            evaluations=torch.zeros(victims, dtype=torch.long),
            status=["closed form"] * victims,
            label_probabilities=mixed if mixes else None,
            certified=None if mixes else certified,  # a mixture is none of the private images
        )
