"""An attacker's network that maps updates to images, and its training on what clients of his own making share."""

from collections.abc import Callable, Iterator, Sequence
from math import prod

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn
from torch.nn.functional import one_hot
from torch.nn.utils import skip_init

from attacks.base import Observation, unheard
from attacks.engine.fit import fit
from attacks.engine.own_clients import shared
from defenses.base import Update, flattened

SEED = 1
"""Of all that is drawn, so that a training depends on no victim."""

ENTRIES_AT_ONCE = 2**26
"""Of the updates of clients that are held together: a quarter of a GiB."""

EVEN = 0.1
"""Part of the mean variance of a tensor's entries that is added to that of each: those that are seldom other than zero,
as behind a ReLU or of a pruned update, would else outweigh all others where they are."""

DECAY = 0.75
"""Part of the training after which the learning rate is a tenth of what it was."""

MOMENTS = ("exp_avg", "exp_avg_sq")
"""What Adam remembers of a parameter, under its own names."""


class Inverter(LightningModule):
    """A perceptron with two hidden layers from the entries of an update to the pixels of a batch.

    Each step trains it on clients that the attacker makes up: they hold public images, drawn at random, compute what
    the victims do, and defend it as those do where he knows how. The entries are standardized by mean and variance over
    the first such clients.

    Args:
        seen: what the attacker knows; of its victims' nothing is looked at.
        hidden: units of a hidden layer.
        entries: that the perceptron takes at most; those of a longer update are hashed.
        pairs: clients of a step.
        learning_rate: of Adam.
        steps: of the whole training.

    Attributes:
        done: steps of the training so far.
        public_images: that it is trained on.
        told: is called with the share of the training that is done.
    """

    def __init__(
        self, seen: Observation, hidden: int, entries: int, pairs: int, learning_rate: float, steps: int
    ) -> None:
        super().__init__()
        self.seen = [one.take([]) for one in (seen, *seen.later)]
        self.public_images = 0 if seen.public_images is None else len(seen.public_images)
        self.pairs, self.learning_rate, self.steps, self.done = pairs, learning_rate, steps, 0
        self.optimizer: torch.optim.Adam | None = None
        self.told: Callable[[float], None] = unheard
        generator, like = torch.Generator().manual_seed(SEED), next(iter(seen.update.values()))
        length = sum(prod(value.shape[1:]) for one in self.seen for value in one.update.values())
        width = min(length, entries)
        self.hash = None if width == length else Hash(length, width, generator)
        layers = [
            linear(width, hidden, generator),
            nn.ReLU(),
            linear(hidden, hidden, generator),
            nn.ReLU(),
            linear(hidden, prod(seen.image_shape), generator),
            nn.Sigmoid(),
        ]
        self.network = nn.Sequential(*layers)
        self.center, self.scale = nn.Buffer(torch.zeros(length)), nn.Buffer(torch.ones(length))
        self.to(like)

    def forward(self, features: Tensor) -> Tensor:
        """Images ``[B, N, C, H, W]`` of :meth:`features`."""
        return self.network(features).view(-1, *self.seen[0].image_shape)

    def features(self, updates: Sequence[Update]) -> Tensor:
        """What the perceptron is given of B clients' updates in each round, ``[B, F]``."""
        entries = (torch.cat(self.entries(updates), 1) - self.center) / self.scale
        return entries if self.hash is None else self.hash(entries)

    def entries(self, updates: Sequence[Update]) -> list[Tensor]:
        """Those of each tensor of B clients' updates in each round, ``[B, D]``."""
        rounds = zip(self.seen, updates, strict=True)
        return [flattened(update[name]) for seen, update in rounds for name in seen.update]

    def clients(self, step: int) -> Iterator[tuple[list[Update], Tensor]]:
        """Those of a step, as many together as memory goes: what they share in each round, and their images."""
        generator, seen = torch.Generator().manual_seed(SEED + 1 + step), self.seen[0]
        assert seen.public_images is not None and seen.public_labels is not None
        rows = torch.randint(len(seen.public_images), (self.pairs, seen.image_shape[0]), generator=generator)
        images = seen.public_images[rows].to(self.center)
        labels = one_hot(seen.public_labels[rows], seen.num_classes).to(self.center)
        at_once = max(1, ENTRIES_AT_ONCE // len(self.center))
        for some in zip(images.split(at_once), labels.split(at_once), strict=True):
            yield [shared(one, *some, generator) for one in self.seen], some[0]

    def drawn(self, step: int) -> tuple[Tensor, Tensor]:
        """Of the clients of a step: features ``[B, F]``, which are finite, and images ``[B, N, C, H, W]``."""
        parts = [(self.features(updates), images) for updates, images in self.clients(step)]
        features, images = (torch.cat(part) for part in zip(*parts, strict=True))
        return features.nan_to_num(0.0, 0.0, 0.0), images

    def standardize(self) -> None:
        """Sets what the entries are standardized by."""
        updates, _ = next(self.clients(0))
        tensors = [entries.nan_to_num(0.0, 0.0, 0.0) for entries in self.entries(updates)]
        variances = [entries.var(0, correction=0) for entries in tensors]
        self.center.copy_(torch.cat([entries.mean(0) for entries in tensors]))
        scale = torch.cat([(one + EVEN * one.mean()).sqrt() for one in variances])
        self.scale.copy_(torch.where(scale == 0, 1, scale))

    def learn(self, callbacks: Sequence[Callback] = ()) -> None:
        """Trains what is left of the training.

        Args:
            callbacks: Lightning callbacks, whose module is this one; a batch is the number of a step.

        Raises:
            ValueError: there are no public images.
        """
        if not self.public_images:
            raise ValueError("there are no public images to train on: attack with DLG")
        if not self.done:
            self.standardize()
        fit(self, range(self.done, self.steps), self.device, callbacks)
        self.trainer = None

    def training_step(self, batch: int, batch_idx: int) -> Tensor:
        features, images = self.drawn(batch)
        loss = error(self(features), images)
        self.log("loss", loss.detach(), batch_size=self.pairs)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        if self.optimizer is None:
            self.optimizer = torch.optim.Adam(self.network.parameters(), self.learning_rate)
        return self.optimizer

    def on_train_batch_start(self, batch: int, batch_idx: int) -> None:
        assert self.optimizer is not None
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate * (0.1 if batch >= DECAY * self.steps else 1)

    def on_train_batch_end(self, outputs: object, batch: int, batch_idx: int) -> None:
        self.done = batch + 1
        self.told(self.done / self.steps)

    def state(self) -> Update:
        """All that it takes to go on, or, once the training is over, to invert: name -> tensor."""
        held = self.state_dict() | {"done": torch.tensor(self.done)}
        if self.optimizer is not None and 0 < self.done < self.steps:
            for name, parameter in self.network.named_parameters():
                held |= {f"{moment}.{name}": self.optimizer.state[parameter][moment] for moment in MOMENTS}
        return {name: value.detach().clone() for name, value in held.items()}

    def restore(self, state: Update) -> None:
        """Goes on from what :meth:`state` was."""
        self.load_state_dict({name: state[name] for name in self.state_dict()})
        self.done = int(state["done"])
        if 0 < self.done < self.steps:
            self.optimizer = torch.optim.Adam(self.network.parameters(), self.learning_rate)
            for name, parameter in self.network.named_parameters():
                moments = {moment: state[f"{moment}.{name}"].to(parameter) for moment in MOMENTS}
                self.optimizer.state[parameter] = {"step": torch.tensor(float(self.done)), **moments}


class Hash:
    """Feature hashing (Weinberger et al. 2009): each entry with a random sign in a random bucket.

    Args:
        entries: that there are.
        buckets: in which they are added up.
        generator: of signs and buckets.
    """

    def __init__(self, entries: int, buckets: int, generator: torch.Generator) -> None:
        self.buckets = buckets
        self.places = torch.randint(buckets, (entries,), generator=generator)
        self.signs = 2.0 * torch.randint(2, (entries,), generator=generator) - 1

    def __call__(self, entries: Tensor) -> Tensor:
        """``[B, F]`` of ``[B, D]``."""
        signed = entries * self.signs.to(entries)
        return entries.new_zeros(len(entries), self.buckets).index_add_(1, self.places.to(entries.device), signed)


def linear(inputs: int, outputs: int, generator: torch.Generator) -> nn.Linear:
    """A linear layer in torch's own initialization, drawn from a generator of ours."""
    layer = skip_init(nn.Linear, inputs, outputs)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.uniform_(-(inputs**-0.5), inputs**-0.5, generator=generator)
    return layer


def error(found: Tensor, true: Tensor) -> Tensor:
    """Mean squared error of batches ``[B, N, C, H, W]`` whose images have no order.

    Those that are nearest to each other are matched first; the authors' code looks for the best of all matchings.
    """
    apart = torch.cdist(found.flatten(2), true.flatten(2)).square() / prod(true.shape[2:])
    if apart.shape[1] == 1:
        return apart.mean()
    left, batches, size = apart.detach().clone(), torch.arange(len(apart)), apart.shape[1]
    pairs = []
    for _ in range(size):
        nearest = left.flatten(1).argmin(1).cpu()
        here, there = nearest // size, nearest % size
        left[batches, here], left[batches, :, there] = torch.inf, torch.inf
        pairs.append(apart[batches, here, there])
    return torch.stack(pairs).mean()
