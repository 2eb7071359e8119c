"""What the attack loop minimizes: how far dummy images are from the updates, and from what images look like."""

import torch
from torch import Tensor

from attacks.base import Observation
from attacks.engine.priors import prior
from attacks.engine.slots import rearrange
from attacks.gradients import batch_dims, batch_gradients, squared_distance
from attacks.head import as_outer_product, distance_to_outer_product, is_outer_product, linear_head
from attacks.statistics import batch_statistics, distance_of_statistics
from attacks.update import Network, Protocol, local_update
from defenses.base import Update, global_norm, unchanged

FALL = 1e-5
"""Share of the loss at a start that owes nothing to the update to which it must fall at least. In the published setting
the tolerance is far below it; in a network whose gradients are small, or hardly depend on the image, the start would be
within the tolerance already."""

LEAST_LOSS = 1e-3
"""A loss at such a start below it is scaled to 1: L-BFGS has tolerances of its own, and would not take a step. In the
published setting it is above 0.03. One that is large need not be scaled: the steps do not depend on it."""


class Objective:
    """The loss of each victim: the squared distance to its update, summed over the rounds, and the priors.

    The distance is that of what the client would have shared as far as the attacker knows. Some of the V victims are
    active, one in each of A rows.

    Args:
        observation: what the attacker has of the V victims.
        images: at the start, ``[V, N, C, H, W]``.
        label_logits: at the start, ``[V, N, K]``.
        tolerance: loss of an undefended gradient below which an attack has converged.
        owes_nothing: whether the start is of the attacker's own making, so that its loss tells the size of a loss.
        smoothness: weight of the total variation.
        prior_scale: of the image prior against known noise.
        batch_norm: weight of the distance of the batch's statistics from those that are granted.
    """

    def __init__(
        self,
        observation: Observation,
        images: Tensor,
        label_logits: Tensor,
        tolerance: float,
        owes_nothing: bool,
        smoothness: float,
        prior_scale: float,
        batch_norm: float = 0.0,
    ) -> None:
        like = next(iter(observation.update.values()))
        known = observation.defense
        self._observation = observation
        self._owes_nothing = owes_nothing
        self._smoothness, self._step = smoothness, prior_scale * observation.mean_step
        self._variance = known.noise_std**2 if known else 0.0
        self._batch_norm = batch_norm
        self._rounds = [Round(seen) for seen in (observation, *observation.later)]
        weights = self._rounds[0].weights
        sizes = self._relative_sizes(images, label_logits, weights)
        self._prior_weights = sizes if observation.protocol.local else torch.where(weights == 1, 1.0, sizes)
        self._tolerances = tolerance * sizes.clamp(max=1)
        self._scales = like.new_ones(observation.num_victims)
        self._victims: list[int] = []

    def replace(self, rows: list[int], victims: list[int], entering: list[int]) -> None:
        """Makes row i the former row ``rows[i]``, or the next of the victims that enter where it is -1.

        Args:
            rows: one for each of the A rows from now on.
            victims: in these rows.
            entering: those of them that are new, in their order.
        """
        self._victims = victims
        for each in self._rounds:
            each.replace(rows, victims, entering)

    @property
    def tolerances(self) -> Tensor:
        """Unscaled losses ``[A]`` below which the active victims have converged."""
        return self._tolerances[self._victims]

    @property
    def scales(self) -> Tensor:
        """What the losses of all V victims are multiplied by, ``[V]``."""
        return self._scales

    def unscaled(self, losses: Tensor) -> Tensor:
        """The losses ``[A]`` of the active victims as they are without their scales."""
        return losses / self._scales[self._victims]

    def losses(self, images: Tensor, label_logits: Tensor, is_first: Tensor) -> Tensor:
        """The losses of the active victims, ``[A]``.

        Args:
            images: ``[A, N, C, H, W]``.
            label_logits: ``[A, N, K]``.
            is_first: whether it is a victim's first evaluation, at its start, ``[A]``; its loss sets the scale.
        """
        labels = label_logits.softmax(-1)
        losses = torch.stack([each.losses(images, labels) for each in self._rounds]).sum(0)
        prior_weights = self._prior_weights[self._victims]
        losses = losses + prior_weights * prior(images, self._smoothness, self._variance, self._step)
        if self._batch_norm:
            losses = losses + prior_weights * self._batch_norm * self._rounds[0].distances_of_statistics(images)
        if self._owes_nothing and bool(is_first.any()):
            at = losses.detach()
            begins = is_first.to(at.device) & at.isfinite() & (at > 0)
            victims, at = torch.tensor(self._victims, device=at.device)[begins], at[begins]
            self._scales[victims] = torch.where(at < LEAST_LOSS, 1 / at, 1.0)
            self._tolerances[victims] = self._tolerances[victims].minimum(FALL * at)
        return losses * self._scales[self._victims]

    def _relative_sizes(self, images: Tensor, label_logits: Tensor, weights: Tensor) -> Tensor:
        """The squared size ``[V]`` of what is matched, in parts of that of an undefended gradient; 1 without a defense.

        A loss has the size of the squared update times its weight. That of the gradient is not known where a defense
        or local steps have changed the update's, but is at the start of a similar one.
        """
        observation = self._observation
        known, local = observation.defense, observation.protocol.local
        if (known is None or known.simulate is unchanged) and not local and bool((weights == 1).all()):
            return torch.ones_like(weights)
        labels = label_logits.softmax(-1)
        gradient = batch_gradients(observation.model, observation.parameters, images, labels, create_graph=False)
        sizes = weights * (global_norm(observation.update) / global_norm(gradient)).square()
        return torch.where(sizes.isfinite() & (sizes > 0), sizes, 1.0)


class Round:
    """What the active victims have shared in one round, and how far from it they would have with other images.

    Args:
        seen: what the attacker has of the V victims in this round.

    Attributes:
        weights: of the squared distances, ``[V]``.
    """

    def __init__(self, seen: Observation) -> None:
        known = seen.defense
        self._seen = seen
        self._simulate = known.simulate if known else unchanged
        like = next(iter(seen.update.values()))
        self.weights = known.weight(seen.update) if known else like.new_ones(seen.num_victims)
        self._find_short_cut()
        self._victims: list[int] = []
        dims = batch_dims(seen.model, seen.parameters)
        self._common: Update = {n: v for n, v in seen.parameters.items() if dims[n] is None}
        self._own: Update = {n: v for n, v in seen.parameters.items() if dims[n] == 0}
        self._networks: Update = {name: value[:0] for name, value in self._own.items()}
        self._target: Update = {name: value[:0] for name, value in seen.update.items()}

    def replace(self, rows: list[int], victims: list[int], entering: list[int]) -> None:
        """As :meth:`Objective.replace`."""
        self._victims = victims
        for held, whole in ((self._networks, self._own), (self._target, self._seen.update)):
            for name, value in whole.items():
                held[name] = rearrange(held[name], rows, value[entering])

    def losses(self, images: Tensor, labels: Tensor) -> Tensor:
        """The weighted squared distances ``[A]`` of what the active victims would share, had they the dummy images.

        Each victim's is computed in the way that its own update allows, whoever else is under attack.

        Args:
            images: ``[A, N, C, H, W]``.
            labels: class probabilities ``[A, N, K]``.
        """
        model, short = self._seen.model, self._short[self._victims]
        parts, order = [], []
        for is_short in (True, False):
            rows = (short == is_short).nonzero()[:, 0]
            if not len(rows):
                continue
            every = len(rows) == len(short)  # usually so: then nothing is copied
            networks, target = (
                held if every else {name: value[rows] for name, value in held.items()}
                for held in (self._networks, self._target)
            )
            dummies, probabilities = (held if every else held[rows] for held in (images, labels))
            if is_short and self._product:
                slope, inputs = (factor[self._victims][rows] for factor in self._product)
                parts.append(
                    distance_to_outer_product(
                        model, self._head, self._common | networks, dummies, probabilities, target, (slope, inputs)
                    )
                )
            else:
                order_of = None if self._seen.order is None else self._seen.order[self._victims][rows]
                network = Network(model, self._common | networks)
                dummy = local_update(network, self._seen.protocol, dummies, probabilities, True, order_of)
                parts.append(squared_distance(self._simulate(dummy, target), target))
            order.append(rows)
        distances = torch.cat(parts)[torch.cat(order).argsort()] if len(parts) > 1 else parts[0]
        return self.weights[self._victims] * distances

    def distances_of_statistics(self, images: Tensor) -> Tensor:
        """Those of the dummy images at each BatchNorm from the batch's, or else from the running ones, ``[A]``."""
        seen, network = self._seen, Network(self._seen.model, self._common | self._networks)
        found = batch_statistics(network, seen.protocol.train, images)
        running = dict(seen.model.named_buffers()) | network.parameters
        granted = {name: seen.batch_statistics[name][self._victims] for name in found} if seen.batch_statistics else {}
        return distance_of_statistics(found, running | granted)

    def _find_short_cut(self) -> None:
        """For which victims, of one image each, the last layer's gradient can be matched as an outer product."""
        seen = self._seen
        self._head = ""
        self._product: tuple[Tensor, Tensor] | None = None
        self._short = torch.zeros(seen.num_victims, dtype=torch.bool, device=seen.device)
        if self._simulate is not unchanged or seen.image_shape[0] > 1 or seen.shared or seen.protocol != Protocol():
            return
        head = linear_head(seen.model, seen.image_shape[1:], seen.num_classes)
        if head is not None:
            self._head, self._product = head, as_outer_product(head, seen.update)
            self._short = is_outer_product(head, seen.update, self._product)
