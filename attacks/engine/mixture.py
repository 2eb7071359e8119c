"""How well numbers of images of each class explain an update, by the public mean images of the classes."""

from typing import NamedTuple, Self

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from attacks.base import Observation
from attacks.engine.distances import cosine_distance
from attacks.update import Network, Protocol, local_update
from defenses.base import Update, flattened

AT_ONCE = 8
"""Classes whose gradients are computed together: with many classes one is large."""

LARGEST = 2**30
"""Bytes that the gradients of all classes of one victim may take. Where they take more, only the last parameters are
looked at, which tell most about labels."""

RISE = 1 + 1e-9
"""Above rounding: by what factor an exchange must explain more."""


class Mixture(NamedTuple):
    """What V clients would share of each class, beside what they did.

    A gradient of a batch is the mean of those of its images. Each is taken for that of its class's mean image, so that
    numbers of images explain an update as far as the sum of so many of these gradients points as it does. Entries that
    are known not to be shared do not count. What else a defense does leaves the direction about as it is, and how local
    steps depend on each other is left out.

    Attributes:
        products: of the update with each of K gradients, in parts of the update's size, ``[V, K]``.
        squares: of each of the gradients with each, ``[V, K, K]``.
    """

    products: Tensor
    squares: Tensor

    @classmethod
    def of(cls, observation: Observation) -> Self:
        """That of the V victims of an observation."""
        known, update = observation.defense, observation.update
        kept = known.kept_entries(update) if known else {}
        found, of_classes = [], _of_classes(observation.take([0]))
        for victim in range(observation.num_victims):
            if victim and not observation.shared:
                of_classes = _of_classes(observation.take([victim]))
            observed = torch.cat([update[name][victim].flatten() for name in of_classes]).double()
            rows = torch.cat([flattened(value) for value in of_classes.values()], 1).double()
            if known:
                rows *= torch.cat([kept[name][victim].flatten() != 0 for name in of_classes])
            found.append((rows @ (observed / observed.norm()), rows @ rows.T))
        products, squares = (torch.stack(each) for each in zip(*found, strict=True))
        return cls(products, squares)

    def nearest(self, images: int) -> Tensor:
        """Whole numbers ``[V, K]`` that sum to N and explain the updates best.

        One image after another is of the class with which all of them explain most; then single images change their
        class for as long as that explains more.
        """
        one = torch.eye(self.products.shape[1]).to(self.products)
        return torch.stack([_nearest(*each, one, images) for each in zip(*self, strict=True)])


def _nearest(products: Tensor, squares: Tensor, one: Tensor, images: int) -> Tensor:
    """:meth:`Mixture.nearest` of one victim, ``[K]``; the rows of ``one`` are an image of each class."""
    own, counts = squares.diag(), torch.zeros_like(products)
    for _ in range(images):
        with_others = squares @ counts
        size = counts @ with_others + 2 * with_others + own
        counts = counts + one[_odds(counts @ products + products, size).argmax()]
    reached = torch.zeros_like(products[0])
    while True:
        with_others = squares @ counts
        along = counts @ products + products - products[:, None]  # [K of the one that leaves, K of the one that comes]
        apart = own + own[:, None] - 2 * squares
        size = counts @ with_others + 2 * (with_others - with_others[:, None]) + apart
        odds = torch.where(counts[:, None] > 0, _odds(along, size), 0.0)
        if not bool(odds.max() > reached * RISE):
            return counts
        reached, best = odds.max(), int(odds.argmax())
        counts = counts + one[best % len(one)] - one[best // len(one)]


def odds(observation: Observation, labels: Tensor) -> Tensor:
    """How many times as much of each update the class means explain with some labels ``[V, N]`` as they leave, ``[V]``.

    It is the squared cosine over the squared sine of the angle between what would be shared of them and what was: in
    the entries that are known to say what they were, and as the defense is simulated. Of both the geometric mean is
    taken: of a coarse update the first has little, and the second may bring all dummies close to what was shared.
    """
    probabilities = one_hot(labels, observation.num_classes).to(observation.class_means)
    dummy, known = observation.update_of(observation.class_means[labels], probabilities), observation.defense
    shared = [dummy]
    if known:
        kept = known.kept_entries(observation.update)
        shared = [{name: torch.where(kept[name] != 0, value, 0.0) for name, value in dummy.items()}]
        shared.append(known.simulate(dummy, observation.update))
    observed = {name: observation.update[name] for name in dummy}
    cosines = torch.stack([1 - cosine_distance(one, observed) for one in shared]).double()
    return _odds(cosines, torch.ones_like(cosines)).log().mean(0).exp()


def _odds(along: Tensor, size: Tensor) -> Tensor:
    """Squared cosine over squared sine of the angle that a product and a squared size tell, 0 from a right angle on."""
    square = (along.clamp(min=0).square() / size).nan_to_num(0, 0, 0).clamp(max=1)
    return square / (1 - square).clamp(min=torch.finfo(square.dtype).eps)


def _of_classes(observation: Observation) -> Update:
    """What one victim would share, before its defense, of images of each class, name -> ``[K, ...]``.

    BatchNorm takes its running statistics: images that are all alike have no others.
    """
    classes, local = observation.num_classes, observation.protocol.local
    names: list[str] = []
    room = LARGEST // classes
    for name in reversed(observation.update):
        room -= observation.update[name][0].nbytes
        if names and room < 0:
            break
        names.append(name)
    found = []
    for some in torch.arange(classes, device=observation.device).split(AT_ONCE):
        of_some = observation.take([0] * len(some))
        images = observation.class_means[some, None].expand(-1, observation.image_shape[0] if local else 1, -1, -1, -1)
        labels = one_hot(some, classes).to(images)[:, None].expand(-1, images.shape[1], -1)
        network = Network(of_some.model, of_some.parameters)
        update = local_update(network, Protocol(local), images, labels, False, of_some.order, of_some.steps)
        found.append({name: update[name].detach() for name in names if name in update})
    return {name: torch.cat([one[name] for one in found]) for name in found[0]}
