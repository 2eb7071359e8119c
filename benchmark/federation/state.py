"""What the clients' common network was trained with before they start from it: the recipe of a suite."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal, Self

import torch
from msgspec import Meta

from benchmark.errors import UsageError, a_kind, unknown
from benchmark.federation.recipe import check_clients, typed

Count = Annotated[int, Meta(ge=1, le=10**9, description="a whole number from 1 to 1,000,000,000")]
Rate = Annotated[float, Meta(gt=0, le=torch.finfo(torch.float32).max, description="a finite number above 0")]
Momentum = Annotated[float, Meta(ge=0, lt=1, description="a number of at least 0 and below 1")]
Decay = Annotated[float, Meta(ge=0, le=1, description="a number from 0 to 1")]

OF_EPOCHS = ("weight_decay",)
OF_ROUNDS = ("algorithm", "clients", "clients_per_round", "local_epochs", "dirichlet")


@dataclass(frozen=True)
class TrainingState:
    """The recipe of a shared network: central training by SGD for some epochs, or some rounds of federated learning.

    It starts from the network's own initialization, or its checkpoint, and sees public images alone.

    Attributes:
        epochs: of central training, or
        rounds: of federated learning; one of the two.
        batch_size: images of a step.
        learning_rate: of SGD: of the clients in FedAvg, of the server in FedSGD.
        momentum: of SGD; in federated learning of the server.
        weight_decay: of central training.
        train_images: public images that are used, drawn at random but always the same; None for all.
        algorithm: of federated learning.
        clients: among which the images are split.
        clients_per_round: how many of them, drawn anew, train in a round; None for all.
        local_epochs: of a client in a round of FedAvg.
        dirichlet: alpha of a split by labels; None for one at random.
    """

    epochs: Count | None = None
    rounds: Count | None = None
    batch_size: Count = 32
    learning_rate: Rate = 0.1
    momentum: Momentum = 0.0
    weight_decay: Decay = 0.0
    train_images: Count | None = None
    algorithm: Annotated[Literal["FedAvg", "FedSGD"], Meta(description="FedAvg or FedSGD")] = "FedAvg"
    clients: Count = 10
    clients_per_round: Count | None = None
    local_epochs: Count = 1
    dirichlet: Annotated[float, Meta(ge=1e-3, le=1e6, description="a number from 0.001 to 1,000,000")] | None = None

    def __post_init__(self) -> None:
        if (self.epochs is None) == (self.rounds is None):
            raise ValueError("give either epochs, of central training, or rounds, of federated learning")
        given = [one.name for one in fields(self) if getattr(self, one.name) != one.default]
        if wrong := [key for key in given if key in (OF_ROUNDS if self.epochs else OF_EPOCHS)]:
            raise ValueError(f"{wrong[0]} is for {'rounds' if self.epochs else 'epochs'}: leave it out")
        check_clients(self.clients, self.clients_per_round or 1)
        if self.algorithm == "FedSGD" and self.local_epochs != 1:
            raise ValueError("local_epochs is for FedAvg: a client of FedSGD shares the gradient of one batch")

    @classmethod
    def from_dict(cls, given: Any) -> Self:
        """The recipe of a suite, as in ``{epochs: 1, learning_rate: 0.05}``.

        Raises:
            UsageError: a key is unknown, or a value has another type or is out of range.
        """
        if not isinstance(given, Mapping):
            raise UsageError(f"state must be a recipe, as in {{epochs: 1}} or {{rounds: 20}}, not {a_kind(given)}")
        names = [one.name for one in fields(cls)]
        for key in given:
            if key not in names:
                raise unknown("key of a state", str(key), names)
        return typed(cls, given, "state: ")

    def config(self) -> dict[str, Any]:
        """Everything that decides the training but network, data, seed and code, under the keys of a suite."""
        unused = OF_ROUNDS if self.epochs else OF_EPOCHS
        values = ((one.name, getattr(self, one.name)) for one in fields(self) if one.name not in unused)
        return {name: value for name, value in values if value is not None}

    @property
    def label(self) -> str:
        """For people: how long it is trained, and what is not usual."""
        count, word = (self.epochs, "epoch") if self.epochs else (self.rounds, f"round of {self.algorithm}")
        plural = word if count == 1 else word.replace("epoch", "epochs").replace("round", "rounds")
        usual: dict[str, Any] = {"epochs": self.epochs, "rounds": self.rounds, "algorithm": self.algorithm}
        usual |= {one.name: one.default for one in fields(self) if one.name not in usual}
        changed = ", ".join(f"{key}={in_digits(value)}" for key, value in self.config().items() if value != usual[key])
        return f"after {count} {plural}{f' ({changed})' if changed else ''}"


def in_digits(value: float) -> str:
    """A number without a trailing .0, and with all digits that it has: two recipes never look the same."""
    short = f"{value:g}"
    return short if float(short) == value else repr(value)
