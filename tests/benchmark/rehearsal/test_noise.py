"""Noise that is none, or not that of the attacker's model of it: a board would take it for protection."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor

from benchmark.errors import UsageError
from benchmark.rehearsal.attackers_model import check_known
from defenses import Clients, Defense, GaussianNoise, KnownDefense, LaplaceNoise, Quantization, RelativeNoise, Update

STD = 0.1
SHAPES = {"0.weight": (12, 30), "0.bias": (12,), "1.weight": (5, 60), "1.bias": (5,)}

Added = Callable[[str, Tensor, Sequence[torch.Generator]], Tensor]
"""What is added to a tensor ``[V, ...]`` of that name."""


def an_update() -> Update:
    source = torch.Generator().manual_seed(1)
    return {name: 0.01 * torch.randn(2, *shape, generator=source) for name, shape in SHAPES.items()}


def drawn(value: Tensor, sources: Sequence[torch.Generator]) -> Tensor:
    """Noise as it should be."""
    return torch.stack([torch.randn(value.shape[1:], generator=source) for source in sources])


def of_key(value: Tensor, key: int) -> Tensor:
    return torch.randn(value.shape[1:], generator=torch.Generator().manual_seed(key)).expand_as(value)


def numbers(sources: Sequence[torch.Generator], below: int) -> list[int]:
    """One of each client, which must not draw twice."""
    return [int(torch.randint(below, (), generator=torch.Generator().manual_seed(s.initial_seed()))) for s in sources]


def of_keys(below: int) -> Added:
    def added(name: str, value: Tensor, sources: Sequence[torch.Generator]) -> Tensor:
        return torch.stack([of_key(value[:1], key)[0] for key in numbers(sources, below)])

    return added


def of_one_number(name: str, value: Tensor, sources: Sequence[torch.Generator]) -> Tensor:
    return drawn(value[:, :1], sources).flatten(1)[:, :1].view(-1, *[1] * (value.dim() - 1)).expand_as(value)


def of_rows(name: str, value: Tensor, sources: Sequence[torch.Generator]) -> Tensor:
    return drawn(value[:, :, :1] if value.dim() > 2 else value, sources).expand_as(value)


def outer_product(name: str, value: Tensor, sources: Sequence[torch.Generator]) -> Tensor:
    rows = drawn(value.flatten(2)[:, :, 0] if value.dim() > 2 else value, sources)
    if value.dim() < 3:
        return rows
    return rows.view(*rows.shape, *[1] * (value.dim() - 2)) * drawn(value[:, :1], sources)


def on_every_second(name: str, value: Tensor, sources: Sequence[torch.Generator]) -> Tensor:
    return drawn(value, sources) * (torch.arange(value[0].numel()) % 2).view(value.shape[1:])


@dataclass(eq=False)
class Adds(Defense):
    """Adds something that it calls noise, to an update that it may have made smaller before."""

    added: Added
    scale: float = 1.0
    known: KnownDefense = field(default_factory=lambda: KnownDefense(noise_std=STD))

    def protect(self, update: Update, generators: Sequence[torch.Generator]) -> Update:
        return {n: self.scale * v + STD * self.added(n, v, generators) for n, v in update.items()}

    def known_to_attacker(self) -> KnownDefense:
        return self.known


FALSE: dict[str, Added] = {
    "seeded": lambda name, value, _: of_key(value, 0),
    "a key for each tensor": lambda name, value, _: of_key(value, len(name)),
    "one of four keys": of_keys(4),
    "one of thirty keys": of_keys(30),
    "a key of the client, anew in each tensor": of_keys(2**40),
    "one number for a tensor": of_one_number,
    "one number for a row": of_rows,
    "all layers but the first": lambda name, value, sources: drawn(value, sources) * (name[0] != "0"),
    "on every second entry": on_every_second,
    "an outer product": outer_product,
    "one client's alone": lambda name, value, sources: drawn(value, sources)[:1].expand_as(value),
}


@pytest.mark.parametrize("added", FALSE.values(), ids=FALSE.keys())
def test_what_is_no_noise_is_refused(added: Added) -> None:
    defense = Adds(added)
    with pytest.raises(UsageError, match=r"noise_std of the attacker's model of mine is 0\.1, but .*(draw|model) it"):
        check_known(defense, defense.known_to_attacker(), an_update(), "mine")


def half(dummy: Update, observed: Update) -> Update:
    return {name: 0.5 * value for name, value in dummy.items()}


@pytest.mark.parametrize("added", FALSE.values(), ids=FALSE.keys())
def test_nor_behind_something_that_is_simulated(added: Added) -> None:
    defense = Adds(added, 0.5, KnownDefense(simulate=half, noise_std=STD))
    with pytest.raises(UsageError, match="noise_std of the attacker's model of mine is"):
        check_known(defense, defense.known_to_attacker(), an_update(), "mine")


def test_images_among_the_noise_are_refused() -> None:
    """As where what clients share has the image in some of its entries."""

    class Sends(Adds):
        def on_update(self, update: Update, clients: Clients, generators: Sequence[torch.Generator]) -> Update:
            noisy = self.protect(update, generators)
            weight = noisy["1.weight"].flatten(1).clone()
            weight[:, :16] = clients.images.flatten(1)
            return noisy | {"1.weight": weight.view_as(noisy["1.weight"])}

    images = torch.rand(2, 1, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    by = Clients(torch.nn.Identity(), {}, images, torch.ones(2, 1, 1))
    defense = Sends(lambda name, value, sources: 10 * drawn(value, sources), known=KnownDefense(noise_std=10 * STD))
    with pytest.raises(UsageError, match=r"to 16 of 300 entries of 1\.weight: model it by read"):
        check_known(defense, defense.known_to_attacker(), an_update(), "mine", by)


class Rounds(Defense):
    """To whole multiples of a step: the error depends on the gradient, and nobody can repeat it."""

    def protect(self, update: Update, generators: Sequence[torch.Generator]) -> Update:
        return {name: (value / self.step).round() * self.step for name, value in update.items()}

    def __init__(self, step: float) -> None:
        self.step = step

    def known_to_attacker(self) -> KnownDefense:
        return KnownDefense(noise_std=0.3 * self.step)


class RoundsAtRandom(Rounds):
    """The example of CONTRIBUTING.md; what is far below a step seldom goes up."""

    def protect(self, update: Update, generators: Sequence[torch.Generator]) -> Update:
        def rounded(value: Tensor) -> Tensor:
            uniform = torch.stack([torch.rand(value.shape[1:], generator=own) for own in generators])
            return (value / self.step + uniform).floor() * self.step

        return {name: rounded(value) for name, value in update.items()}


RIGHT: dict[str, Defense] = {
    "by hand": Adds(lambda name, value, sources: drawn(value, sources)),
    "after something that is simulated": Adds(
        lambda name, value, sources: drawn(value, sources), 0.5, KnownDefense(simulate=half, noise_std=STD)
    ),
    "uniform": Adds(lambda name, value, sources: 2 * 3**0.5 * (drawn(value, sources).div(2**0.5).erf() / 2)),
    "Gaussian": GaussianNoise(0.1),
    "Laplace": LaplaceNoise(0.1),
    "relative": RelativeNoise(1.0),
    "too small for the digits of an entry": GaussianNoise(1e-12),
    "of rounding, which is not drawn": Quantization(4),
    "of rounding that is taken for noise": Rounds(0.01),
    "of rounding to few levels": Rounds(0.04),
    **{f"of rounding at random to steps of {step}": RoundsAtRandom(step) for step in (0.001, 0.01, 0.1, 0.3)},
}


@pytest.mark.parametrize("defense", RIGHT.values(), ids=RIGHT.keys())
@pytest.mark.parametrize("times", [1, 8])
def test_noise_is_not(defense: Defense, times: int) -> None:
    update = {name: value.repeat(1, times, *[1] * (value.dim() - 2)) for name, value in an_update().items()}
    check_known(defense, defense.known_to_attacker(), update, "mine")
