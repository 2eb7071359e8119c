"""A learning rate that falls: a training of many rounds as trainings of one round each, each at the rate of its round.

At a rate that stays, the accuracy after the last round is that of a network that still jumps about.
"""

import math
from collections.abc import Iterator
from dataclasses import replace

from torch import nn

from benchmark.federated import Data, Federation, State, train
from defenses.base import Defense

DECAYS = ("none", "cosine")
"""Ways in which the learning rate falls from round to round."""


def cosine(rate: float, done: int, rounds: int) -> float:
    """The learning rate of the round after ``done`` of ``rounds``, from ``rate`` at the start towards 0.

    Loshchilov and Hutter 2017 (arXiv 1608.03983), equation 5, without restarts.
    """
    return rate * (1 + math.cos(math.pi * done / rounds)) / 2


def decayed(
    model: nn.Module, data: Data, federation: Federation, defense: Defense | None, seed: int, state: State | None = None
) -> Iterator[State]:
    """Trains as :func:`benchmark.federated.train` does, at a rate that falls by a cosine.

    A round depends on its number, the seed and the state alone, so that rounds one by one are the same training.

    Args:
        model: the architecture.
        data: what is trained on and tested on.
        federation: how; its learning rate is that of the first round.
        defense: what each client does with its update, or None.
        seed: of everything that is drawn.
        state: where to go on.

    Raises:
        ValueError: a client has no image.
    """
    if state is None:
        state = next(train(model, data, federation, defense, seed))
        yield state
    while state.round < federation.rounds and not state.diverged:
        now = replace(federation, learning_rate=cosine(federation.learning_rate, state.round, federation.rounds))
        state = next(train(model, data, now, defense, seed, state))
        yield state
