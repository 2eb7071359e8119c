from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm

from defenses.base import Clients, HookDefense, KnownDefense, Update, weights_at

AT_ONCE = 64
"""Features whose derivatives are computed together."""


def last_linear(model: nn.Module, weights: Update, images: Tensor) -> tuple[str, Tensor] | None:
    """The name of the linear layer that makes the logits, and what comes into it, ``[N, F]``; None where there is none.

    It is found by what it does: what a layer is called, or when it was registered, tells nothing of it.

    Args:
        model: the architecture.
        weights: of its parameters and buffers, which stay as they are.
        images: ``[N, C, H, W]``.
    """
    inputs: dict[str, Tensor] = {}
    layers = {
        name: layer
        for name, layer in model.named_modules()
        if isinstance(own := getattr(layer, "weight", None), nn.Parameter) and own.dim() == 2
    }

    def hold(name: str, _: nn.Module, given: tuple[Tensor, ...]) -> None:
        inputs[name] = given[0]

    handles = [layer.register_forward_pre_hook(partial(hold, name)) for name, layer in layers.items()]
    try:
        own = dict(model.named_parameters()) | {name: value.clone() for name, value in model.named_buffers()}
        used = own | {name: value.clone() for name, value in weights.items()}
        logits = functional_call(model, used, (images,), tie_weights=False)
    finally:
        for handle in handles:
            handle.remove()
    for name, given in inputs.items():
        weight, bias = used[f"{name}.weight"], used.get(f"{name}.bias")
        if given.dim() == 2 and given.shape[1] == weight.shape[1] and logits.shape[1:] == weight.shape[:1]:
            made = given @ weight.T if bias is None else given @ weight.T + bias
            if torch.allclose(made, logits, rtol=1e-3, atol=1e-4 * float(logits.detach().abs().max())):
                return name, given
    return None


def pruned_layer(model: nn.Module, image_shape: tuple[int, ...]) -> str | None:
    """The name of the last linear layer, as seen on random weights and images; None where it is not trained.

    Args:
        model: the architecture.
        image_shape: (C, H, W).
    """
    generator = torch.Generator().manual_seed(0)
    drawn: Update = {}
    for name, value in model.named_parameters():
        noise = torch.randn(value.shape, generator=generator).to(value)
        drawn[name] = noise * value[0].numel() ** -0.5 if value.dim() > 1 else 1 + 0.1 * noise
    images = torch.rand((2, *image_shape), generator=generator).to(next(model.parameters()))
    with torch.no_grad():
        found = last_linear(model, drawn, images)
    return found[0] if found and model.get_parameter(f"{found[0]}.weight").requires_grad else None


def importance(images: Tensor, features: Tensor) -> Tensor:
    """``||d r / d x|| / |r|`` of each feature r of each image x, ``[N, F]``.

    Args:
        images: ``[N, C, H, W]``, of which the features were computed.
        features: ``[N, F]``.
    """
    total = []
    for some in torch.arange(features.shape[1], device=features.device).split(AT_ONCE):
        each = nn.functional.one_hot(some, features.shape[1]).to(features)[:, None].expand(-1, len(features), -1)
        (slopes,) = torch.autograd.grad(features, images, each, retain_graph=True, is_grads_batched=True)
        size, value = slopes.flatten(2).norm(dim=2), features.detach()[:, some].T.abs()
        total.append(torch.where(size == 0, 0.0, size / value))
    return torch.cat(total).T


class Soteria(HookDefense):
    """Prunes what the last layer's gradient says of some features (Sun et al. 2021, arXiv 2012.06043).

    Features r come into the last linear layer, and each has a column in the gradient of its weight. Those columns are
    zeroed whose ||d r / d x|| / |r| is smallest, summed over the images x of the batch: the reading of the authors'
    code, which the paper derives as the features that make an image hard to find again. The other layers and the bias
    are shared as they are. It takes FedSGD, whose update is the gradient of one batch.

    An attacker who knows it leaves the zeroed columns out, which he sees. More of them are zero where features are
    silent behind a ReLU: these are pruned first, so that nothing was lost, and all of the gradient is matched.

    Args:
        ratio: share of the features that is pruned, from 0 up to but not including 1; 0 is no defense.
    """

    def __init__(self, ratio: float = 0.8) -> None:
        if not 0 <= ratio < 1:
            raise ValueError(f"ratio is {ratio}, but must be at least 0 and below 1")
        self.ratio = ratio

    @property
    def hooks(self) -> frozenset[str]:
        return super().hooks if self.ratio else frozenset()

    def check_clients(
        self, model: nn.Module, image_shape: tuple[int, int, int, int], local_steps: bool, train: bool
    ) -> None:
        if not self.ratio:
            return
        if local_steps:
            raise ValueError("Soteria prunes the gradient of one batch, and FedAvg shares more: give FedSGD")
        if pruned_layer(model, image_shape[1:]) is None:
            raise ValueError("Soteria prunes the last linear layer: give a network that ends in one that is trained")

    def on_update(self, update: Update, clients: Clients, generators: Sequence[torch.Generator]) -> Update:
        weight = f"{pruned_layer(clients.model, clients.images.shape[2:])}.weight"
        victims, features = len(generators), update[weight].shape[2]
        # Clients who share the network, and whose images do not meet in it, are seen in one forward pass.
        one = weights_at(clients.model, clients.weights, 0)
        together = all(value.shape == clients.weights[name].shape for name, value in one.items()) and not any(
            layer.training for layer in clients.model.modules() if isinstance(layer, _BatchNorm)
        )
        groups = [range(victims)] if together else [range(v, v + 1) for v in range(victims)]
        matters = torch.cat([self._importance(clients, group) for group in groups])  # [V, F]
        least = matters.argsort(dim=1, stable=True)[:, : self._pruned(features)]
        return update | {weight: update[weight].scatter(2, least[:, None].expand(-1, update[weight].shape[1], -1), 0.0)}

    @torch.enable_grad()
    def _importance(self, clients: Clients, group: range) -> Tensor:
        """What each feature says of the images of some clients, who use the weights of the first of them, ``[V, F]``.

        Summed over the images of a client.
        """
        images = clients.images[group.start : group.stop].flatten(0, 1).detach().requires_grad_()
        found = last_linear(clients.model, clients.weights_of(group.start), images)
        assert found is not None
        return importance(images, found[1]).unflatten(0, (len(group), -1)).sum(1)

    def _pruned(self, features: int) -> int:
        return round(self.ratio * features)

    def known_to_attacker(self) -> KnownDefense:
        return KnownDefense(of_clients=self._known_of) if self.ratio else KnownDefense()

    def _known_of(self, model: nn.Module, image_shape: tuple[int, ...]) -> KnownDefense:
        weight = f"{pruned_layer(model, image_shape[1:])}.weight"

        def kept(observed: Update) -> Update:
            zero = (observed[weight] == 0).all(1, keepdim=True)  # [V, 1, F]
            lost = zero.sum(2, keepdim=True) <= self._pruned(zero.shape[2])
            ones = {name: torch.ones_like(value) for name, value in observed.items()}
            return ones | {weight: ones[weight] * ~(zero & lost)}

        def simulate(dummy: Update, observed: Update) -> Update:
            return dummy | {weight: dummy[weight] * kept(observed)[weight]}

        return KnownDefense(simulate=simulate, kept=kept)
