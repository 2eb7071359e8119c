"""How well numbers of images of each class explain an update, by the public mean images of the classes."""

from dataclasses import replace
from itertools import repeat
from typing import NamedTuple, Self

import torch
from torch import Tensor
from torch.nn.functional import one_hot
from torch.nn.modules.batchnorm import _BatchNorm

from attacks.base import Observation
from attacks.engine.distances import RowProducts
from attacks.engine.last_layer import ROUNDING, gradient_of_weight, last_layer, off_columns
from attacks.engine.step import victims_together
from attacks.network.gradients import batch_logits, in_modes, trained_names
from attacks.update import Protocol
from defenses.base import Update, flattened

AT_ONCE = 10
"""Classes whose gradients are computed together: with many classes one is large."""

LARGEST = 2**30
"""Bytes that the gradients of all classes of one victim may take. Where they take more, only the last parameters are
looked at, which tell most about labels."""

RISE = 1 + 1e-9
"""Above rounding: by what factor an exchange must explain more."""

SPREAD = 0.5
"""Standard deviation of the logarithm of how many times as large an update is as that of the class means."""

UNSURE = 0.5
"""How unsure a network must be of the class means, beside one that knows nothing, so that sizes tell something."""

OF_ANY_SIZE = 0.1
"""Probability that an update is of any size, as after a defense or local steps of which the attacker does not know."""


class Mixture(NamedTuple):
    """What V clients would share of each class, beside what they did.

    A gradient of a batch is the mean of those of its images. Each is taken for that of its class's mean image, so that
    numbers of images explain an update as far as the sum of so many of these gradients points as it does, and is of its
    size. Entries that are known not to be shared do not count. What else a defense does leaves the direction about as
    it is, and how local steps depend on each other is left out.

    Attributes:
        products: of the update with each of K gradients, ``[V, K]``.
        squares: of each of the gradients with each, ``[V, K, K]``.
        sizes: of the update, ``[V]``.
        sized: whether these tell something, ``[V]``.
    """

    products: Tensor
    squares: Tensor
    sizes: Tensor
    sized: Tensor

    @classmethod
    def of(cls, observation: Observation) -> Self:
        """That of the V victims of an observation, to whom the updates of several rounds are a single long one."""
        rounds = [_products(one) for one in (observation, *observation.later)]
        products, squares, sizes = (torch.stack(each).sum(0) for each in zip(*rounds, strict=True))
        return cls(products, squares, sizes.sqrt(), of_known_size(observation))

    def nearest(self, least: Tensor, images: int) -> Tensor:
        """Whole numbers ``[V, K]`` that sum to N and explain the updates best.

        One image after another is of the class with which all of them point most nearly as the update; then single
        images change their class for as long as that explains more.

        Args:
            least: how many images of each class there are at least, ``[V, K]``, N in all at most.
            images: N.
        """
        of_each = zip(*self, least.to(self.products), strict=True)
        return torch.stack([_nearest(*each, images) for each in of_each])


def _products(observation: Observation) -> tuple[Tensor, Tensor, Tensor]:
    """``products``, ``squares`` and squared ``sizes`` of :class:`Mixture` in one round; 0 where it is not finite."""
    known, update, tells = observation.defense, observation.update, telling(observation)
    kept = known.kept_entries(update) if known else {}
    found, held, of_classes = [], list[str](), Update()
    for victim in range(observation.num_victims):
        names = _held_together(observation, [name for name, of_each in tells.items() if of_each[victim]])
        if names != held or not observation.shared:
            held, of_classes = names, _of_classes(observation.take([victim]), names)
        parts = []
        for name, value in of_classes.items():
            rows, own = flattened(value).double(), update[name][victim].flatten().double()
            if known:
                rows *= kept[name][victim].flatten() != 0
            parts.append((rows @ own, rows @ rows.T, own @ own))
        found.append([torch.stack(each).sum(0) for each in zip(*parts, strict=True)])
    products, squares, sizes = (torch.stack(each) for each in zip(*found, strict=True))
    there = sizes.isfinite()
    rows = there[:, None]
    return torch.where(rows, products, 0), torch.where(rows[..., None], squares, 0), torch.where(there, sizes, 0)


def _nearest(products: Tensor, squares: Tensor, size: Tensor, sized: Tensor, least: Tensor, images: int) -> Tensor:
    """:meth:`Mixture.nearest` of one victim, ``[K]``."""
    own, one, counts = squares.diag(), torch.eye(len(products)).to(products), least
    for _ in range(images - int(least.sum())):
        with_others = squares @ counts
        square = counts @ with_others + 2 * with_others + own
        counts = counts + one[_odds(counts @ products + products, square, size).argmax()]
    reached = torch.zeros_like(size)
    while True:
        with_others = squares @ counts
        along = counts @ products + products - products[:, None]  # [K of the one that leaves, K of the one that comes]
        apart = own + own[:, None] - 2 * squares
        square = counts @ with_others + 2 * (with_others - with_others[:, None]) + apart
        odds = _odds(along, square, size) * torch.where(sized, _fit(images * along / square), 1.0)
        odds = torch.where(counts[:, None] > least[:, None], odds, 0.0)
        if not bool(odds.max() > reached * RISE):
            return counts
        reached, best = odds.max(), int(odds.argmax())
        counts = counts + one[best % len(one)] - one[best // len(one)]


def odds(observation: Observation, labels: Tensor) -> Tensor:
    """How many times as much of the updates the class means explain with some labels ``[V, N]`` as they leave, ``[V]``.

    It is the squared cosine over the squared sine of the angle between what would be shared of them and what was: in
    the entries that are known to say what they were, and as the defense is simulated. Of both the geometric mean is
    taken: of a coarse update the first has little, and the second may bring all dummies close to what was shared. An
    update that is much larger or smaller than that of these labels speaks against them.
    """
    victims = torch.arange(observation.num_victims)
    parts = victims.split(victims_together(observation.update))
    if len(parts) == 1:
        return _odds_of(observation, labels)
    return torch.cat([_odds_of(observation.take(rows.tolist()), labels[rows]) for rows in parts])


def _odds_of(observation: Observation, labels: Tensor) -> Tensor:
    """:func:`odds` of victims who are looked at together."""
    rounds = [_compared(one, labels) for one in (observation, *observation.later)]
    along, square, size = (torch.stack(each).sum(0) for each in zip(*rounds, strict=True))
    fit = torch.where(of_known_size(observation), _fit(along[-1] / square[-1]), 1.0)
    return _odds(along, square, size.sqrt()).log().mean(0).exp() * fit


def _compared(observation: Observation, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What would be shared of the class means in a round, in P ways, beside what was.

    Returns:
        Products ``[P, V]`` of the two, squared sizes ``[P, V]`` of the first and ``[V]`` of the second; 0 where the
        update is not finite.
    """
    probabilities, known = one_hot(labels, observation.num_classes).to(observation.class_means), observation.defense
    dummy = unordered(observation).update_of(observation.class_means[labels], probabilities)
    shared = [dummy]
    if known:
        kept = known.kept_entries(observation.update)
        shared = [{name: torch.where(kept[name] != 0, value, 0.0) for name, value in dummy.items()}]
        shared.append(known.simulate(dummy, observation.update))
    tells = telling(observation)
    observed = {name: flattened(observation.update[name]) * of_each[:, None] for name, of_each in tells.items()}
    size = torch.stack([value.double().square().sum(1) for value in observed.values()]).sum(0)
    products, squares = [], []
    for one in shared:
        parts = [
            RowProducts.apply(flattened(one[name]) * tells[name][:, None], value) for name, value in observed.items()
        ]
        along, square = (torch.stack(each).double().sum(0) for each in zip(*parts, strict=True))
        products.append(along)
        squares.append(square)
    there = size.isfinite()
    of_all = torch.stack(products), torch.stack(squares), size
    return torch.where(there, of_all[0], 0), torch.where(there, of_all[1], 0), torch.where(there, of_all[2], 0)


def _odds(along: Tensor, square: Tensor, size: Tensor) -> Tensor:
    """Squared cosine over squared sine of the angle between an update and another, 0 from a right angle on.

    Args:
        along: their product.
        square: of the other's size.
        size: of the update.
    """
    part = (along.clamp(min=0) / size).square().div(square).nan_to_num(0, 0, 0).clamp(max=1)
    return part / (1 - part).clamp(min=torch.finfo(part.dtype).eps)


def _fit(factors: Tensor) -> Tensor:
    """How probable it is that updates are as many times as large as what would be shared, beside 1, from 0 to 1."""
    off = factors.nan_to_num(0, 0, 0).clamp(min=torch.finfo(factors.dtype).tiny).log()
    return OF_ANY_SIZE + (1 - OF_ANY_SIZE) * (-0.5 * (off / SPREAD).square()).exp()


def of_known_size(observation: Observation) -> Tensor:
    """Of which updates the attacker can tell how large they are for some images, bool ``[V]``.

    Not those of a trained network: it knows the class means so well that their gradients are far smaller than those of
    images. Where he knows of no defense, there may be one, which shows where columns of the last layer do not add up to
    0.
    """
    victims, means = observation.num_victims, observation.class_means
    if not observation.size_tells or normalizes_by_batch(observation):
        return torch.zeros(victims, dtype=torch.bool, device=observation.device)
    with in_modes(observation.model, repeat(False)):
        logits = batch_logits(observation.model, observation.parameters, means.expand(victims, *means.shape))
    sure = logits.softmax(-1).diagonal(dim1=1, dim2=2).mean(1)  # of the right class
    sized = 1 - sure >= UNSURE * (1 - 1 / observation.num_classes)
    if observation.defense:
        return sized
    if not last_layer(observation.model, observation.image_shape[1:]):
        return torch.zeros_like(sized)
    return sized & (off_columns(observation) <= ROUNDING * gradient_of_weight(observation).abs().amax((1, 2)))


def normalizes_by_batch(observation: Observation) -> bool:
    """Whether a BatchNorm makes what the network says of an image depend on the others."""
    return any(
        isinstance(layer, _BatchNorm) and (observation.protocol.train or layer.running_mean is None)
        for layer in observation.model.modules()
    )


def unordered(observation: Observation) -> Observation:
    """The same victims, but for what their images do to each other: in what order they come, and how alike they are.

    Each local step takes the whole batch, and BatchNorm its running statistics. Labels that a rule tells are in no
    order, and class means have other statistics than images: those of one class have none.
    """
    local, images = observation.protocol.local, observation.image_shape[0]
    if local:
        steps = local.epochs * -(-images // (local.batch_size or images))
        local = replace(local, epochs=steps, batch_size=None)
    return replace(observation, protocol=Protocol(local), order=None)


def telling(observation: Observation) -> Update:
    """Whether gradients of parameters at class means say what they are at images, name -> 1 or 0, ``[V]``.

    Where BatchNorm normalizes by the batch, the last layer's do, of those who shared something of it: what comes before
    it are differences of images.
    """
    model, update = observation.model, observation.update
    every = {name: update[name].new_ones(observation.num_victims) for name in trained_names(model)}
    found = last_layer(model, observation.image_shape[1:]) if normalizes_by_batch(observation) else None
    if not found:
        return every
    head = [name for name in every if name.rpartition(".")[0] == found[0]]
    there = torch.stack([flattened(update[name] != 0).any(1) for name in head]).any(0)
    return {name: ones if name in head else ones * ~there for name, ones in every.items()}


def _held_together(observation: Observation, telling: list[str]) -> list[str]:
    """The parameters whose gradients of all classes are held at once: as many of the last as there is room for."""
    names, room = list[str](), LARGEST // observation.num_classes
    for name in reversed(telling):
        room -= observation.update[name][0].nbytes
        if names and room < 0:
            break
        names.append(name)
    return names


def _of_classes(observation: Observation, names: list[str]) -> Update:
    """What one victim would share, before its defense, of images of each class, name -> ``[K, ...]``."""
    found = []
    for some in torch.arange(observation.num_classes, device=observation.device).split(AT_ONCE):
        labels = one_hot(some, observation.num_classes).to(observation.class_means)
        of_some = unordered(observation).take([0] * len(some))
        copies = min(2, observation.image_shape[0])  # a BatchNorm without running statistics takes no single image
        images = observation.class_means[some, None].expand(-1, copies, -1, -1, -1)
        update = of_some.update_of(images, labels[:, None].expand(-1, copies, -1))
        found.append({name: update[name].detach() for name in names})
    return {name: torch.cat([one[name] for one in found]) for name in names}
