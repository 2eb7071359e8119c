"""What all networks have in common: each victim's weights are drawn from a generator of its own."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Self

import torch
from torch import Tensor, nn

from benchmark.errors import UsageError, a_kind, users_code, written
from defenses.base import Update

Shape = tuple[int, int, int]


class Model(nn.Module):
    """A network that draws its own weights: images ``[N, C, H, W]`` in [0, 1] go in, logits ``[N, K]`` come out.

    Every class takes the image shape and the number of classes first; what follows are its own arguments. A module of
    the user's own need not be one: it is given a ``draw``.
    """

    make: Callable[[], nn.Module]
    """Makes another one of the same class and arguments."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        made = super().__new__(cls)
        object.__setattr__(made, "make", partial(cls, *args, **kwargs))
        return made

    def draw(self, generator: torch.Generator) -> dict[str, Tensor]:
        """The weights of one network by the names of its parameters: its class's own initialization, or checkpoint."""
        return fresh_weights(self.make, self, generator)


def draw_default(model: nn.Module, generator: torch.Generator) -> dict[str, Tensor]:
    """Weights and biases uniform within 1 / sqrt(fan-in), torch's default for linear and convolutional layers."""
    drawn: dict[str, Tensor] = {}
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            bound = layer.weight[0].numel() ** -0.5
            for kind, p in layer.named_parameters(prefix=name, recurse=False):
                drawn[kind] = (torch.rand(p.shape, generator=generator) * 2 - 1) * bound
    return drawn


def fresh_weights(make: Callable[[], nn.Module], model: nn.Module, generator: torch.Generator) -> dict[str, Tensor]:
    """The weights that a network is made with: its own initialization, from a seed that the generator draws.

    Buffers and frozen parameters belong to them where they differ from network to network: spectral normalization, say,
    keeps vectors that fit its weights.

    Args:
        make: makes the network.
        model: one that was made.
        generator: source of the seed.
    """
    with drawing_from(int(torch.randint(2**62, (1,), generator=generator))):
        fresh = make()
    own = dict(model.named_parameters()) | dict(model.named_buffers())
    made = dict(fresh.named_parameters()) | dict(fresh.named_buffers())
    return {
        name: value.detach()
        for name, value in made.items()
        if value.requires_grad or (name in own and not torch.equal(value, own[name].to(value)))
    }


def check_logits(model: nn.Module, name: str, logits: object, images: int, classes: int) -> None:
    """UsageError where what a model makes of some images are not their logits."""
    if not isinstance(logits, Tensor) or logits.shape != (images, classes):
        gives = list(logits.shape) if isinstance(logits, Tensor) else a_kind(logits)
        raise UsageError(
            f"{name} gives {gives}, not a logit for each of {classes} classes{written(type(model).forward)}"
        )


CPU = torch.device("cpu")


@contextmanager
def drawing_from(seed: int, device: torch.device = CPU) -> Iterator[None]:
    """What draws from torch's global generator, as Dropout does, draws by this seed, and nobody else notices."""
    sources = [torch.default_generator]
    if device.type == "cuda":
        index = torch.cuda.current_device() if device.index is None else device.index
        sources.append(torch.cuda.default_generators[index])
    states = [source.get_state() for source in sources]  # torch.random.fork_rng takes 100 times as long
    try:
        for source in sources:
            source.manual_seed(seed)
        yield
    finally:
        for source, state in zip(sources, states, strict=True):
            source.set_state(state)


def draw_networks(model: Model, generators: list[torch.Generator]) -> Update:
    """A random network for each victim, name -> ``[V, ...]``.

    Raises:
        UsageError: what the model draws are not its own weights.
    """
    drawn = [drawn_weights(model, generator) for generator in generators]
    return {name: torch.stack([weights[name] for weights in drawn]) for name in drawn[0]}


def drawn_weights(model: Model, generator: torch.Generator) -> dict[str, Tensor]:
    """What the model draws: a weight for each parameter that is trained, and for frozen ones and buffers or not.

    Raises:
        UsageError: one is missing, there is one too many, or it is of another shape, or not finite.
    """
    name = type(model).__name__

    def wrong(what: str) -> UsageError:
        return UsageError(f"draw of the model {name} {what}{written(getattr(model, 'draw', None))}")

    with users_code(f"the model {name} cannot draw its weights", model.draw):
        drawn = model.draw(generator)
    if not isinstance(drawn, dict) or not all(isinstance(value, Tensor) for value in drawn.values()):
        raise wrong("must return a dict of tensors by the names of its parameters")
    own = dict(model.named_parameters()) | dict(model.named_buffers())
    missing = [key for key, p in own.items() if p.requires_grad and key not in drawn]
    extra = [str(key) for key in drawn if key not in own]
    for what, keys in (("gives no weights for", missing), ("gives weights for what is no parameter:", extra)):
        if keys:
            more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
            raise wrong(
                f"{what} {', '.join(keys[:3])}{more}: it must return one tensor for each trained parameter under its "
                "name in named_parameters(), or leave draw out for torch's own weights"
            )
    for key, value in drawn.items():
        if value.shape != own[key].shape:
            raise wrong(f"gives {key} the shape {list(value.shape)}, not {list(own[key].shape)}")
        if not value.isfinite().all():
            raise wrong(f"gives {key} values that are not finite")
    return drawn
