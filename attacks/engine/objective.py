"""What the attack loop minimizes: how far dummy images are from the updates, and from what images look like."""

from collections.abc import Hashable
from itertools import repeat

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from attacks.base import Observation
from attacks.engine.consistency import GroupConsistency
from attacks.engine.distances import DISTANCES
from attacks.engine.priors import Prior
from attacks.engine.slots import rearrange
from attacks.engine.statistics import batch_statistics, distance_of_statistics
from attacks.engine.step import Held, victims_together
from attacks.network.gradients import batch_dims, batch_gradients, batch_logits, in_modes
from attacks.network.head import as_outer_product, distance_to_outer_product, is_outer_product, linear_head
from attacks.update import Network, Protocol, local_update
from defenses.base import AS_USUAL, Update, global_norm, unchanged

FALL = 1e-5
"""Share of the loss at a start that owes nothing to the update to which it must fall at least. In the published setting
the tolerance is far below it; in a network whose gradients are small, or hardly depend on the image, the start would be
within the tolerance already."""

LEAST_LOSS = 1e-3
"""A loss at such a start below it is scaled to 1: L-BFGS has tolerances of its own, and would not take a step. In the
published setting it is above 0.03. One that is large need not be scaled: the steps do not depend on it."""


class Objective:
    """The loss of each victim: the distance to its update, summed over the rounds, and the priors.

    The distance is that of what the client would have shared as far as the attacker knows. Some of the V victims are
    active, one in each of A rows.

    Args:
        observation: what the attacker has of the V victims.
        label_logits: at the start, ``[V, N, K]``.
        tolerance: loss of an undefended gradient below which an attack has converged.
        owes_nothing: whether the start is of the attacker's own making, so that its loss tells the size of a loss.
        prior: what images cost by themselves.
        noise_prior: what they cost beside it for each unit of a variance, and the variances ``[V]``; None for nothing.
            It is weighed as the distance is, since it says how likely that is.
        batch_norm: weight of the distance of the batch's statistics from those that are granted.
        distance: one of ``DISTANCES``. All but the squared one have no size that a defense or local steps could change.
        label_term: weight of the squared distance of what the network makes of the images from their labels.
        group: what holds the trials of a victim together; None where there is nothing.
        prior_weights: of each victim's prior, ``[V]``; None for the size of what is matched beside that of a gradient.
        nearness: weight of the distance of the attacker's own update from what was shared, beside that of what a client
            would have shared of it, where that is simulated.
    """

    def __init__(
        self,
        observation: Observation,
        label_logits: Tensor,
        tolerance: float,
        owes_nothing: bool,
        prior: Prior,
        noise_prior: tuple[Prior, Tensor] | None = None,
        batch_norm: float = 0.0,
        distance: str = "squared",
        label_term: float = 0.0,
        group: GroupConsistency | None = None,
        prior_weights: Tensor | None = None,
        nearness: float = 0.0,
    ) -> None:
        like = next(iter(observation.update.values()))
        self._observation = observation
        self._owes_nothing = owes_nothing
        self._prior = prior
        self._noise_prior = noise_prior and noise_prior[0]
        self._batch_norm, self._label_term, self._group = batch_norm, label_term, group
        self._rounds = [Round(seen, distance, nearness) for seen in (observation, *observation.later)]
        weights = self._rounds[0].weights
        is_squared = distance == "squared"
        sizes = self._relative_sizes(label_logits, weights) if is_squared else like.new_ones(len(weights))
        self._prior_weights = sizes if prior_weights is None else weights * prior_weights
        if noise_prior is not None:
            self._noise_weights = weights * noise_prior[1]
        self._tolerances = tolerance * sizes.clamp(max=1)
        self._scales = like.new_ones(observation.num_victims)
        self._victims = torch.zeros(0, dtype=torch.long, device=like.device)  # under attack, one for each row
        self.held: Held = {}
        """All that the losses of the active victims depend on beside images and labels."""

    def replace(self, rows: list[int], victims: list[int], entering: list[int]) -> None:
        """Makes row i the former row ``rows[i]``, or the next of the victims that enter where it is -1.

        Args:
            rows: one for each of the A rows from now on.
            victims: in these rows.
            entering: those of them that are new, in their order.
        """
        self._victims = torch.tensor(victims, dtype=torch.long, device=self._scales.device)
        for each in self._rounds:
            each.replace(rows, victims, entering)
        rounds = [each.held for each in self._rounds]
        of_rows = {"rounds": [held["rows"] for held in rounds], "prior_weights": self._prior_weights[victims]}
        if self._noise_prior:
            of_rows["noise_weights"] = self._noise_weights[victims]
        self.held = {"rows": of_rows, "common": [held["common"] for held in rounds]}

    @property
    def key(self) -> Hashable | None:
        """Everything but tensors that decides what :meth:`measure` computes; None where a defense is simulated."""
        rounds = [each.key for each in self._rounds]
        others = (self._prior, self._noise_prior, self._batch_norm, self._label_term, self._group)
        return None if None in rounds else (*rounds, *others)

    @property
    def is_mixed(self) -> bool:
        """Whether the losses of some victims are computed otherwise than those of others, by the rows they are in."""
        return any(each.is_mixed for each in self._rounds)

    @property
    def rows_together(self) -> int:
        """How many victims' gradients are computed at a time."""
        return victims_together(self._observation.update)

    @property
    def model(self) -> nn.Module:
        """The network."""
        return self._observation.model

    @property
    def tolerances(self) -> Tensor:
        """Unscaled losses ``[A]`` below which the active victims have converged."""
        return self._tolerances[self._victims]

    def scale_as(self, other: "Objective") -> None:
        """Takes the scales of another objective of the same victims, which has set them at a start of its own."""
        self._scales = other._scales.clone()
        self._tolerances = self._tolerances.minimum(other._tolerances)

    @property
    def scales(self) -> Tensor:
        """What the losses of the active victims are multiplied by, ``[A]``."""
        return self._scales[self._victims]

    def unscaled(self, losses: Tensor) -> Tensor:
        """The losses ``[A]`` of the active victims as they are without their scales."""
        return losses / self.scales

    def look(self, images: Tensor) -> None:
        """Holds what the losses of each row depend on in the images ``[A, N, C, H, W]`` of others: before each step."""
        if self._group:
            centers = self._group.centers(images, self._victims)
            self.held = self.held | {"rows": self.held["rows"] | {"centers": centers}}

    def losses(self, images: Tensor, label_logits: Tensor, is_first: Tensor) -> Tensor:
        """The losses of the active victims, ``[A]``.

        Args:
            images: ``[A, N, C, H, W]``.
            label_logits: ``[A, N, K]``.
            is_first: whether it is a victim's first evaluation, at its start, ``[A]``; its loss sets the scale.
        """
        return self.scaled(self.measure(images, label_logits, self.held), is_first)

    def measure(self, images: Tensor, label_logits: Tensor, held: Held) -> Tensor:
        """The losses ``[A]`` without their scales, a pure function of images, logits and what is held."""
        labels, rows = label_logits.softmax(-1), held["rows"]
        of_rounds = zip(self._rounds, rows["rounds"], held["common"], strict=True)
        losses = torch.stack([each.losses(images, labels, own, common) for each, own, common in of_rounds]).sum(0)
        losses = losses + rows["prior_weights"] * self._prior(images, labels)
        if self._noise_prior:
            losses = losses + rows["noise_weights"] * self._noise_prior(images, labels)
        if self._batch_norm:
            off = self._rounds[0].distances_of_statistics(images, rows["rounds"][0], held["common"][0])
            losses = losses + rows["prior_weights"] * self._batch_norm * off
        if self._label_term:
            off = self._rounds[0].distances_of_labels(images, labels, rows["rounds"][0], held["common"][0])
            losses = losses + rows["prior_weights"] * self._label_term * off
        if self._group:
            losses = losses + rows["prior_weights"] * self._group(images, rows["centers"])
        return losses

    def scaled(self, losses: Tensor, is_first: Tensor) -> Tensor:
        """The losses ``[A]`` of :meth:`measure` with their scales, which a victim's first one sets."""
        if self._owes_nothing and bool(is_first.any()):
            at = losses.detach().to(self._scales)
            begins = is_first.to(at.device) & at.isfinite() & (at > 0)
            victims, at = self._victims[begins], at[begins]
            self._scales[victims] = torch.where(at < LEAST_LOSS, 1 / at, 1.0)
            self._tolerances[victims] = self._tolerances[victims].minimum(FALL * at)
        return losses * self.scales

    def _relative_sizes(self, label_logits: Tensor, weights: Tensor) -> Tensor:
        """The squared size ``[V]`` of what is matched, in parts of that of an undefended gradient; 1 without a defense.

        A loss has the size of the squared update times its weight. How much of it local steps and a defense leave is
        seen on the public mean image, wherever an attack starts, so that the losses of all starts can be compared: by
        what a client would have shared of it, or by the simulation where that is less, as it has no noise. The update's
        own size would not do beside the gradient of the mean image: a trained network knows private images better.
        """
        observation = self._observation
        known, local = observation.defense, observation.protocol.local
        if (known is None or not known.is_simulated) and not local and bool((weights == 1).all()):
            return torch.ones_like(weights)
        labels, victims = label_logits.softmax(-1), observation.num_victims
        images = observation.mean_image.expand(victims, *observation.image_shape).to(labels)
        gradient = batch_gradients(observation.model, observation.parameters, images, labels, create_graph=False)
        update = observation.update_of(images, labels)
        found = [known.simulate(update, observation.update) if known else update]
        if known and known.share:
            found.append(known.share(update, [torch.Generator().manual_seed(seed) for seed in observation.seeds]))
        least = torch.stack([global_norm(shared).nan_to_num(torch.inf) for shared in found]).amin(0)
        least = torch.where(least.isfinite() & (least > 0), least, global_norm(observation.update))
        sizes = weights * (least / global_norm(gradient)).square()
        return torch.where(sizes.isfinite() & (sizes > 0), sizes, 1.0)


class Round:
    """What the active victims have shared in one round, and how far from it they would have with other images.

    Args:
        seen: what the attacker has of the V victims in this round.
        distance: one of ``DISTANCES``.
        nearness: as of the objective.

    Attributes:
        weights: of the distances, ``[V]``.
        is_mixed: whether some of the victims can be matched by the short cut, and others cannot.
    """

    def __init__(self, seen: Observation, distance: str, nearness: float) -> None:
        known = seen.defense
        self._seen, self._distance = seen, distance
        self._simulate = known.simulate if known else unchanged
        self._nearness = 0.0 if self._simulate is unchanged else nearness
        like = next(iter(seen.update.values()))
        self.weights = known.weight(seen.update) if known and distance == "squared" else like.new_ones(seen.num_victims)
        self._find_short_cut()
        self.held: Held = {}
        dims = batch_dims(seen.model, seen.parameters)
        self._common: Update = {n: v for n, v in seen.parameters.items() if dims[n] is None}
        self._own: Update = {n: v for n, v in seen.parameters.items() if dims[n] == 0}
        self._networks: Update = {name: value[:0] for name, value in self._own.items()}
        self._target: Update = {name: value[:0] for name, value in seen.update.items()}

    def replace(self, rows: list[int], victims: list[int], entering: list[int]) -> None:
        """As :meth:`Objective.replace`."""
        for held, whole in ((self._networks, self._own), (self._target, self._seen.update)):
            for name, value in whole.items():
                held[name] = rearrange(held[name], rows, value[entering])
        short = self._short[victims].tolist()
        self._split = [[row for row, is_short in enumerate(short) if is_short == which] for which in (True, False)]
        own: Held = {"networks": {**self._networks}, "target": {**self._target}, "weights": self.weights[victims]}
        granted = self._seen.batch_statistics or {}
        own["statistics"] = {name: value[victims] for name, value in granted.items()}
        if self._product:
            own["product"] = [factor[victims] for factor in self._product]
        if self._seen.order is not None:
            own["order"] = self._seen.order[victims].to(self._seen.device)
        self.held = {"rows": own, "common": self._common}

    @property
    def key(self) -> Hashable | None:
        """As :attr:`Objective.key`."""
        known = self._simulate is unchanged and self._seen.steps == AS_USUAL and not self.is_mixed
        return (self._seen.protocol, self._distance, self._head, bool(self._short.all())) if known else None

    def losses(self, images: Tensor, labels: Tensor, own: Held, common: Update) -> Tensor:
        """The weighted distances ``[A]`` of what the active victims would share, had they the dummy images.

        Each victim's is computed in the way that its own update allows, whoever else is under attack.

        Args:
            images: ``[A, N, C, H, W]``.
            labels: class probabilities ``[A, N, K]``.
            own: what is held of each of them.
            common: parameters that all of them share.
        """
        model, parts = self._seen.model, []
        for is_short, rows in zip((True, False), self._split, strict=True):
            if not rows:
                continue
            every = not self.is_mixed  # usually so: then nothing is copied
            here = own if every else tree_map(lambda value, rows=rows: value[rows], own)
            dummies, probabilities = (held if every else held[rows] for held in (images, labels))
            parameters, target = common | here["networks"], here["target"]
            if is_short:
                product = (here["product"][0], here["product"][1])
                parts.append(
                    distance_to_outer_product(model, self._head, parameters, dummies, probabilities, target, product)
                )
            else:
                network, protocol = Network(model, parameters), self._seen.protocol
                steps = self._seen.steps
                dummy = local_update(network, protocol, dummies, probabilities, True, here.get("order"), steps)
                distance = DISTANCES[self._distance]
                loss = distance(self._simulate(dummy, target), target)
                parts.append(loss + self._nearness * distance(dummy, target) if self._nearness else loss)
        in_order = (
            torch.tensor([*self._split[0], *self._split[1]], device=images.device).argsort() if len(parts) > 1 else None
        )
        return own["weights"] * (parts[0] if in_order is None else torch.cat(parts)[in_order])

    def distances_of_statistics(self, images: Tensor, own: Held, common: Update) -> Tensor:
        """Those of the dummy images at each BatchNorm from the batch's, or else from the running ones, ``[A]``."""
        seen, network = self._seen, Network(self._seen.model, common | own["networks"])
        found = batch_statistics(network, seen.protocol.train, images)
        running = dict(seen.model.named_buffers()) | network.parameters
        return distance_of_statistics(found, running | own["statistics"])

    def distances_of_labels(self, images: Tensor, labels: Tensor, own: Held, common: Update) -> Tensor:
        """The squared distances of the class probabilities of the dummy images from their labels, ``[A]``."""
        model, train = self._seen.model, self._seen.protocol.train
        with in_modes(model, repeat(train)):
            found = batch_logits(model, common | own["networks"], images).softmax(-1)
        return (found - labels).flatten(1).square().sum(1)

    def _find_short_cut(self) -> None:
        """For which victims, of one image each, the last layer's gradient can be matched as an outer product."""
        seen = self._seen
        self._head = ""
        self._product: tuple[Tensor, Tensor] | None = None
        self._short = torch.zeros(seen.num_victims, dtype=torch.bool, device=seen.device)
        self.is_mixed = False
        is_plain = self._distance == "squared" and self._simulate is unchanged and seen.steps == AS_USUAL
        if not is_plain or seen.protocol != Protocol() or seen.image_shape[0] > 1 or seen.shared:
            return
        head = linear_head(seen.model, seen.image_shape[1:], seen.num_classes)
        if head is not None:
            self._head, self._product = head, as_outer_product(head, seen.update)
            self._short = is_outer_product(head, seen.update, self._product)
        self.is_mixed = bool(self._short.any()) and not bool(self._short.all())
