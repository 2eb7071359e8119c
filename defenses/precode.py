import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from defenses.base import HookDefense, KnownDefense, Update
from defenses.soteria import pruned_layer

PLACE = "bottleneck"
"""Name of the bottleneck in the layer that it stands before."""

EXACT = 1e-3
"""Relative distance of a gradient from the product of two vectors that is rounding."""


class Penalized(torch.autograd.Function):
    """Values as they are, whose gradient is that of the loss and of a term beside it."""

    generate_vmap_rule = True

    @staticmethod
    def forward(values: Tensor, slope: Tensor) -> Tensor:
        return values.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(inputs[1])

    @staticmethod
    def backward(ctx: Any, towards: Tensor) -> tuple[Tensor, None]:
        return towards + ctx.saved_tensors[0], None

    @staticmethod
    def jvp(ctx: Any, of_values: Tensor, of_slope: Tensor) -> Tensor:
        return of_values.clone()


class Bottleneck(nn.Module):
    """A sample of a Gaussian code of some features, decoded to features.

    Args:
        features: F of them.
        size: K, of the code.
        beta: weight of the code's divergence from a standard normal one in the loss, averaged over the batch.
    """

    def __init__(self, features: int, size: int, beta: float) -> None:
        super().__init__()
        self.encoder = nn.Linear(features, 2 * size)
        self.decoder = nn.Linear(size, features)
        self.noise = nn.Parameter(torch.zeros(1, size), requires_grad=False)
        self.beta = beta

    def forward(self, features: Tensor) -> Tensor:
        """``[N, F]`` of ``[N, F]``."""
        mean, deviation = code(self.encoder(features))
        weight = self.beta / max(1, len(features))  # an attack may ask for no image at all
        mean = Penalized.apply(mean, weight * mean)
        deviation = Penalized.apply(deviation, weight * (deviation - 1 / deviation))
        decoded: Tensor = self.decoder(mean + deviation * self.noise)
        return decoded


def code(encoded: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation ``[N, K]`` of the code that is encoded as ``[N, 2 * K]``."""
    mean, deviation = encoded.chunk(2, -1)
    return mean, nn.functional.softplus(deviation)


def through_bottleneck(layer: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """What comes into a layer behind its bottleneck: a hook of the layer."""
    return (layer.get_submodule(PLACE)(*given),)


class PRECODE(HookDefense):
    """Trains a network with a variational bottleneck before its last layer (Scheliga et al. 2022, arXiv 2108.04725).

    The features that come into the last linear layer are encoded as a Gaussian code, and a client decodes a sample of
    it, anew for each image and step. What it shares depends on its draws, and so do the gradients of all layers before
    the bottleneck, which belongs to the network: its parameters are trained and shared as all others. The test takes
    the code's mean.

    An attacker who does not know what was drawn takes the mean, too. One who knows the defense reads the draws from the
    update of one image: the gradient of the bottleneck's weights is the product of that of its biases with the features
    and with the sample. From a sum of several such products, as of a batch, he cannot. Then he leaves the bottleneck
    out, whose many entries say little of the image.

    Args:
        size: of the code, at least 0; 0 is no defense.
        beta: weight of the code's divergence from a standard normal distribution in the loss, at least 0.
    """

    def __init__(self, size: int = 256, beta: float = 1e-3) -> None:
        if size < 0:
            raise ValueError(f"size is {size}, but must be at least 0")
        if not 0 <= beta < float("inf"):
            raise ValueError(f"beta is {beta}, but must be finite and at least 0")
        self.size = size
        self.beta = beta

    @property
    def hooks(self) -> frozenset[str]:
        return super().hooks if self.size else frozenset()

    def check_clients(
        self, model: nn.Module, image_shape: tuple[int, int, int, int], local_steps: bool, train: bool
    ) -> None:
        if self.size:
            last_layer(model, image_shape[1:])

    def on_model(self, model: nn.Module, image_shape: tuple[int, int, int]) -> nn.Module:
        name, made = last_layer(model, image_shape), copy.deepcopy(model)
        layer, weight = made.get_submodule(name), made.get_parameter(f"{name}.weight")
        layer.add_module(PLACE, Bottleneck(weight.shape[1], self.size, self.beta).to(weight))
        layer.register_forward_pre_hook(through_bottleneck)
        return made

    def on_forward(self, model: nn.Module, images: int, generators: Sequence[torch.Generator]) -> Update:
        like = next(iter(model.parameters()))
        noise = torch.stack([torch.randn((images, self.size), generator=one) for one in generators]).to(like)
        return {name: noise for name, _ in model.named_parameters() if name.endswith(f".{PLACE}.noise")}

    def known_to_attacker(self) -> KnownDefense:
        if not self.size:
            return KnownDefense()
        return KnownDefense(
            simulate=lambda dummy, observed: {n: value * kept(observed)[n] for n, value in dummy.items()},
            kept=kept,
            read=read,
        )


def last_layer(model: nn.Module, image_shape: tuple[int, ...]) -> str:
    """The name of the layer that gets a bottleneck; ValueError where there is none."""
    name = pruned_layer(model, image_shape)
    if name is None:
        raise ValueError(
            "PRECODE puts a bottleneck before the last linear layer: give a network that ends in one that is trained"
        )
    return name


def kept(observed: Update) -> Update:
    """1 for each entry, but for those of a bottleneck."""
    return {n: torch.zeros_like(v) if of_bottleneck(n) else torch.ones_like(v) for n, v in observed.items()}


def of_bottleneck(name: str) -> bool:
    """Whether a parameter is one of a bottleneck."""
    return f".{PLACE}." in name


@torch.no_grad()
def read(model: nn.Module, weights: Update, observed: Update) -> tuple[Update, Update]:
    """The weights with what each client drew, ``[V, 1, K]``, where that can be read; the update without the bottleneck.

    Args:
        model: with a bottleneck.
        weights: of it, name -> ``[V, *shape]`` or ``[*shape]``.
        observed: what was shared, ``[V, ...]``.
    """
    place = next(name for name in observed if of_bottleneck(name)).partition(f".{PLACE}.")[0] + f".{PLACE}"
    encoder, decoder = (
        {kind: observed[f"{place}.{layer}.{kind}"].double() for kind in ("weight", "bias")}
        for layer in ("encoder", "decoder")
    )
    (features, one), (sample, other) = into(**encoder), into(**decoder)
    encoded = (weights[f"{place}.encoder.weight"].double() @ features[..., None])[..., 0]
    mean, deviation = code(encoded + weights[f"{place}.encoder.bias"])
    readable = (one & other)[:, None]
    noise = torch.where(readable, (sample - mean) / deviation, 0.0)[:, None]
    gone = {name: torch.zeros_like(value) for name, value in observed.items() if of_bottleneck(name)}
    return weights | {f"{place}.noise": noise.to(next(iter(observed.values())))}, observed | gone


def into(weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """What came into a linear layer, ``[V, I]``, as its gradients say, and whether they are of one image, ``[V]``.

    Args:
        weight: ``[V, O, I]``.
        bias: ``[V, O]``.
    """
    given = (bias[:, None] @ weight)[:, 0] / bias.square().sum(1, keepdim=True)
    off = (weight - bias[..., None] * given[:, None]).flatten(1).norm(dim=1)
    return given, off <= EXACT * weight.flatten(1).norm(dim=1)
