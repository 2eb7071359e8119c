"""The networks whose updates are attacked. An image in [0, 1] goes in, class logits come out.

Every class takes the image shape and the number of classes first; what follows are its own arguments.
"""

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import ceil, inf

import torch
from torch import Tensor, nn

from benchmark.errors import UsageError, a_kind, users_code, written
from defenses.base import Update

Shape = tuple[int, int, int]


class LeNet(nn.Sequential):
    """The LeNet of DLG and iDLG: three 5x5 convolutions of 12 channels with sigmoids, one linear layer.

    Strides are 2, 2, 1; all weights and biases are uniform in [-0.5, 0.5] (Zhu et al. 2019, arXiv 1906.08935;
    Zhao et al. 2020, arXiv 2001.02610).

    Args:
        image_shape: (C, H, W), given by the data.
        num_classes: given by the data.
        init_range: weights and biases are uniform between minus and plus this, above 0.
    """

    def __init__(self, image_shape: Shape, num_classes: int, init_range: float = 0.5) -> None:
        if not 0 < init_range < inf:
            raise ValueError(f"init_range is {init_range}, but must be above 0 and finite")
        channels, height, width = image_shape
        super().__init__(
            nn.Conv2d(channels, 12, 5, stride=2, padding=2),
            nn.Sigmoid(),
            nn.Conv2d(12, 12, 5, stride=2, padding=2),
            nn.Sigmoid(),
            nn.Conv2d(12, 12, 5, stride=1, padding=2),
            nn.Sigmoid(),
            nn.Flatten(),
            nn.Linear(12 * ceil(height / 4) * ceil(width / 4), num_classes),
        )
        self.init_range = init_range

    def draw(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Random weights of one network."""
        width = 2 * self.init_range
        return {n: (torch.rand(p.shape, generator=generator) - 0.5) * width for n, p in self.named_parameters()}


def draw_default(model: nn.Module, generator: torch.Generator) -> dict[str, Tensor]:
    """Weights and biases uniform within 1 / sqrt(fan-in), torch's default for linear and convolutional layers."""
    drawn: dict[str, Tensor] = {}
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            bound = layer.weight[0].numel() ** -0.5
            for kind, p in layer.named_parameters(prefix=name, recurse=False):
                drawn[kind] = (torch.rand(p.shape, generator=generator) * 2 - 1) * bound
    return drawn


class MLP(nn.Sequential):
    """A multilayer perceptron with ReLU or sigmoid, in torch's default initialization.

    Args:
        image_shape: (C, H, W), given by the data.
        num_classes: given by the data.
        hidden: width of the hidden layers, at least 1.
        depth: number of hidden layers, at least 1.
        activation: "relu" or "sigmoid"; DLG needs a smooth one.
    """

    def __init__(
        self, image_shape: Shape, num_classes: int, hidden: int = 128, depth: int = 1, activation: str = "sigmoid"
    ) -> None:
        if hidden < 1 or depth < 1:
            raise ValueError(f"hidden is {hidden} and depth is {depth}, but both must be at least 1")
        if activation not in ACTIVATIONS:
            raise ValueError(f"activation is {activation!r}, but must be one of {', '.join(ACTIVATIONS)}")
        channels, height, width = image_shape
        sizes = [channels * height * width] + [hidden] * depth
        layers: list[nn.Module] = [nn.Flatten()]
        for size_in, size_out in itertools.pairwise(sizes):
            layers += [nn.Linear(size_in, size_out), ACTIVATIONS[activation]()]
        super().__init__(*layers, nn.Linear(hidden, num_classes))

    def draw(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Random weights of one network."""
        return draw_default(self, generator)


ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "sigmoid": nn.Sigmoid}


class ConvNet(nn.Sequential):
    """A small convolutional network with ReLU: two 3x3 convolutions with stride 2, one linear layer.

    Args:
        image_shape: (C, H, W), given by the data.
        num_classes: given by the data.
        width: channels of the first convolution, at least 1; the second has twice as many.
    """

    def __init__(self, image_shape: Shape, num_classes: int, width: int = 16) -> None:
        if width < 1:
            raise ValueError(f"width is {width}, but must be at least 1")
        channels, height, width_px = image_shape
        super().__init__(
            nn.Conv2d(channels, width, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, 2 * width, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(2 * width * ceil(height / 4) * ceil(width_px / 4), num_classes),
        )

    def draw(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Random weights of one network."""
        return draw_default(self, generator)


Model = LeNet | MLP | ConvNet


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
