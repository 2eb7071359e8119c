import math
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.func import functional_call

from defenses.base import Clients, HookDefense, KnownDefense, Update, flattened, left_out, of_entries_left, weights_at

ROOT_IMAGES = 4
"""Of noise, with a label of each class in turn, which stand for the public images that sensitivities are taken on."""

LOUD = 1.2
"""Median magnitude of a slice up to which it has little but noise, in parts of that of the noise."""

SLACK = 3.5
"""Three standard deviations of the median magnitude of one normal variable, if it were one of many, in parts of it."""

MEDIAN = 0.6745
"""Median magnitude of a standard normal variable."""


class GradDefense(HookDefense):
    """Adds noise to some slices of the update, drawn at random.

    Wang et al. 2022, "Protect Privacy from Gradient Leakage Attack in Federated Learning" (INFOCOM).

    All entries follow each other, and are cut into slices of the same sensitivity: that of a layer is how much its
    gradient moves with the image, at the client's weights, and is spread evenly over its entries. The authors take it
    on a public root set, in place of which there are images of noise here. What their server does to take the noise out
    of the mean of many clients is left out.

    An attacker who knows it computes the slices, and leaves out those that look like noise, where these are as many as
    have got it. Where the noise is too small for that, he weighs a prior of images against it.

    Args:
        std: standard deviation of the noise, at least 0; 0 is no defense.
        slices: of the update, at least 1.
        noisy: how many of them get noise, from 1 to all.
    """

    def __init__(self, std: float = 0.01, slices: int = 10, noisy: int = 5) -> None:
        if not (0 <= std < math.inf):
            raise ValueError(f"std is {std}, but must be finite and at least 0")
        if not 1 <= noisy <= slices:
            raise ValueError(f"noisy is {noisy}, but must be at least 1 and at most slices, {slices}")
        self.std = std
        self.slices = slices
        self.noisy = noisy

    @property
    def hooks(self) -> frozenset[str]:
        return super().hooks if self.std else frozenset()

    def on_update(self, update: Update, clients: Clients, generators: Sequence[torch.Generator]) -> Update:
        slices = self._slices(clients.images.shape[2:], clients.model, clients.weights, update)
        chosen = torch.stack([torch.randperm(self.slices, generator=one) < self.noisy for one in generators])
        noisy = {}
        for name, value in update.items():
            noise = torch.stack([torch.randn(value.shape[1:], generator=one) for one in generators]).to(value)
            noisy[name] = value + self.std * noise * of_slices(chosen, slices[name]).to(value)
        return noisy

    def known_to_attacker(self) -> KnownDefense:
        return KnownDefense(of_clients=self._known_of) if self.std else KnownDefense()

    def _known_of(self, model: nn.Module, image_shape: tuple[int, ...]) -> KnownDefense:
        return KnownDefense(
            simulate=lambda dummy, observed: {n: value * (observed[n] != 0) for n, value in dummy.items()},
            kept=of_entries_left,
            noise_std=self._noise,
            read=partial(self._read, image_shape[1:]),
        )

    def _noise(self, observed: Update) -> Tensor:
        """None where the noisy slices are left out."""
        found = torch.stack([(flattened(value) == 0).any(1) for value in observed.values()]).any(0)
        return torch.where(found, 0.0, self.std * math.sqrt(self.noisy / self.slices))

    def _read(
        self, image_shape: tuple[int, ...], model: nn.Module, weights: Update, observed: Update
    ) -> tuple[Update, Update]:
        slices = self._slices(image_shape, model, weights, observed)
        sizes, places = (torch.cat([flattened(of[name]) for name in observed], 1) for of in (observed, slices))
        lost = torch.stack(
            [
                torch.stack([self._is_noise(size[place == one]) for one in range(self.slices)])
                for size, place in zip(sizes, places, strict=True)
            ]
        )
        # Else some noise would be taken for the gradient, or nothing would be left.
        lost &= (lost.sum(1, keepdim=True) >= self.noisy) & ~lost.all(1, keepdim=True)
        return weights, left_out(observed, {name: of_slices(lost, slices[name]) for name in observed})

    def _is_noise(self, entries: Tensor) -> Tensor:
        """Whether the median magnitude of a slice is that of noise, or somewhat larger."""
        found = entries.abs().median() / (MEDIAN * self.std)
        slack = SLACK / math.sqrt(max(1, len(entries)))
        return (found > 1 - slack) & (found < max(LOUD, 1 + slack))

    def _slices(self, image_shape: tuple[int, ...], model: nn.Module, weights: Update, update: Update) -> Update:
        """The number of each entry's slice, name -> ``[V, *shape]``."""
        victims, own = len(next(iter(update.values()))), dict(model.named_parameters())
        is_shared = all(weights[name].dim() == value.dim() for name, value in own.items() if name in weights)
        networks = (weights_at(model, weights, client) for client in range(1 if is_shared else victims))
        each = torch.tensor(
            [
                [found.get(name, 0.0) for name in update]
                for found in (sensitivities(model, w, image_shape) for w in networks)
            ],
            dtype=torch.double,
        ).expand(victims, -1)  # [V, tensors]
        shares = each / each.sum(1, keepdim=True).clamp(min=torch.finfo(each.dtype).tiny)
        begins, slices = shares.cumsum(1) - shares, {}
        for (name, value), begin, share in zip(update.items(), begins.T[..., None], shares.T[..., None], strict=True):
            inside = (torch.arange(value[0].numel()) + 0.5) / value[0].numel()  # of its tensor
            numbers = ((begin + share * inside) * self.slices).long().clamp(max=self.slices - 1)
            slices[name] = numbers.view(value.shape).to(value.device)
        return slices


def of_slices(chosen: Tensor, slices: Tensor) -> Tensor:
    """Whether each entry is in a slice that is chosen, ``[V, *shape]``.

    Args:
        chosen: bool, ``[V, S]``.
        slices: the number of each entry's slice, ``[V, *shape]``.
    """
    return chosen.to(slices.device).gather(1, flattened(slices)).view(slices.shape)


@torch.enable_grad()
def sensitivities(model: nn.Module, weights: Update, image_shape: tuple[int, ...]) -> dict[str, float]:
    """How much the gradient of each trained parameter moves with the image: the norm of the derivative of its sum.

    Args:
        model: the architecture, in the mode in which clients use it.
        weights: of a client, name -> ``[*shape]``.
        image_shape: (C, H, W).
    """
    like = next(iter(weights.values()))
    generator = torch.Generator().manual_seed(0)
    images = torch.rand((ROOT_IMAGES, *image_shape), generator=generator).to(like).requires_grad_()
    trained = [name for name, value in model.named_parameters() if value.requires_grad]
    whole = dict(model.named_parameters()) | dict(model.named_buffers()) | weights
    used = {name: value.detach().clone().requires_grad_(name in trained) for name, value in whole.items()}
    logits = functional_call(model, used, (images,), tie_weights=False)
    labels = torch.arange(ROOT_IMAGES, device=logits.device) % logits.shape[1]
    loss = nn.functional.cross_entropy(logits, labels)
    slopes = torch.autograd.grad(loss, [used[n] for n in trained], create_graph=True, materialize_grads=True)
    found = {}
    for name, slope in zip(trained, slopes, strict=True):
        (moved,) = torch.autograd.grad(slope.sum(), images, retain_graph=True, materialize_grads=True)
        found[name] = float(moved.flatten(1).norm(dim=1).mean())
    return found
