"""How clients and server train, and the types of what a suite says of it, which msgspec checks."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import msgspec
import torch
from msgspec import Meta

from benchmark.errors import UsageError, as_given, quoted, unknown

Count = Annotated[int, Meta(ge=1, le=10**9)]
"""More never ends."""

Rate = Annotated[float, Meta(gt=0, le=torch.finfo(torch.float32).max)]
Momentum = Annotated[float, Meta(ge=0, lt=1)]
Algorithm = Literal["FedSGD", "FedAvg"]
Decay = Literal["none", "cosine"]


@dataclass(frozen=True)
class Federation:
    """How clients and server train.

    Attributes:
        algorithm: ``FedSGD``: a client shares the mean gradient of its next batch. ``FedAvg``: it trains for
            ``local_epochs`` and shares its weights at the start minus those at the end.
        clients: number of clients.
        clients_per_round: how many of them, drawn anew, train in a round.
        rounds: how often the server averages.
        batch_size: images of a client's batch; a client with fewer has all of its own in each. In FedAvg a last batch
            of one image is left out where the network cannot be trained on it (BatchNorm after a linear layer).
        local_epochs: of FedAvg.
        learning_rate: of the clients in FedAvg, whose mean update the server takes as it is; of the server in FedSGD.
            Of the first round, where it decays.
        decay: how the learning rate falls from round to round: not at all, after which the accuracy is that of a
            network whose weights still jump about, or toward 0 along a cosine.
        server_momentum: what the server keeps of its last step.
        dirichlet: alpha of a split by labels, None for one at random.
        protect_batch_norm: whether a defense also gets the scales, shifts and running statistics of BatchNorm.
        evaluate_every: rounds from one test to the next; the last round is always tested.

    Raises:
        ValueError: they contradict each other, or alpha is out of range.
    """

    algorithm: Algorithm
    clients: Count
    clients_per_round: Count
    rounds: Count
    batch_size: Count
    local_epochs: Annotated[int, Meta(ge=1, le=1000)]
    learning_rate: Rate
    decay: Decay = "none"
    server_momentum: Momentum = 0.0
    dirichlet: Rate | None = None
    protect_batch_norm: bool = False
    evaluate_every: Count = 1

    def __post_init__(self) -> None:
        check_clients(self.clients, self.clients_per_round)
        if self.dirichlet is not None and not 1e-3 <= self.dirichlet <= 1e6:
            raise ValueError(
                "dirichlet must be from 0.001, where a class is with one client, to 1e+06, as even as iid, not "
                f"{self.dirichlet:g}"
            )

    def rate(self, done: int) -> float:
        """The learning rate of the round after so many (Loshchilov and Hutter 2017, arXiv 1608.03983, equation 5,
        without restarts)."""
        falls = self.decay == "cosine"
        return self.learning_rate * (1 + math.cos(math.pi * done / self.rounds)) / 2 if falls else self.learning_rate


def check_clients(clients: int, per_round: int) -> None:
    """ValueError where more clients train in a round than there are."""
    if per_round > clients:
        raise ValueError(f"clients_per_round is {per_round}, but there are {clients} clients: give {clients} or fewer")


T = TypeVar("T")


def typed(form: type[T], given: Mapping[str, Any], where: str = "") -> T:
    """An object of a dataclass from values whose types and ranges its fields say.

    Args:
        form: the class; what it refuses by a ValueError of its own is told as that says it.
        given: the values by the names of the fields.
        where: what every sentence begins with.

    Raises:
        UsageError: a value has another type, is out of range, or contradicts another.
    """
    try:
        return msgspec.convert(dict(given), form)
    except msgspec.ValidationError as error:
        said, _, key = str(error).partition(" - at `$.")
        key = key.rstrip("`")
        hints = get_type_hints(form, include_extras=True)
        raise UsageError(where + (expected(key, hints[key], given[key]) if key else said)) from None


def expected(key: str, hint: Any, value: Any) -> str:
    """That a value is not what the type of its field says, in words."""
    if get_origin(hint) is Literal:
        return str(unknown(key, str(value), get_args(hint)))
    ranged = next(part for part in (hint, *get_args(hint)) if hasattr(part, "__metadata__"))
    (of_it,), is_whole = ranged.__metadata__, ranged.__origin__ is int
    if of_it.description:
        return f"{key} must be {of_it.description}, not {quoted(value)}"
    if of_it.le is not None and isinstance(value, int if is_whole else int | float) and of_it.le < value < math.inf:
        most = f"at most {of_it.le:.2g}, the most that float32 holds"
        return f"{key} must be {f'a whole number of at most {of_it.le:,}' if is_whole else most}, not {quoted(value)}"
    bounds = {"above": of_it.gt, "of at least": of_it.ge, "below": of_it.lt}
    said = " and ".join(f"{word} {bound:g}" for word, bound in bounds.items() if bound is not None)
    return f"{key} must be a {'whole ' if is_whole else ''}number {said}, not {as_given(value, is_whole)}"
