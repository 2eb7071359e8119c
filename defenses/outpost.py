import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from defenses.base import Clients, HookDefense, KnownDefense, Update, flattened, left_out, of_entries_left, sparse_bytes
from defenses.interval import per_client
from defenses.pruning import Pruning


class OUTPOST(HookDefense):
    """Prunes each tensor, and adds noise where the gradient is large and the weights are spread (Wang et al. 2023).

    "More Than Enough is Too Much: Adaptive Defenses against Gradient Leakage in Production Federated Learning"
    (INFOCOM). The risk of a tensor is the variance of its weights, 1 at most. The diagonal of the Fisher information is
    taken to be the squared gradient, averaged over the first axis: where it is largest, over the whole network, entries
    get noise of a standard deviation in proportion to the risk. This is the reading of the authors' code, which however
    returns the gradient itself. It takes FedSGD: of the decay over local steps its one step has none here.

    An attacker who knows it tells which columns got noise: no pruned entry in them is zero, and they are large. He
    leaves them out, as he does what was pruned, and matches the others exactly, however strong the noise is. A batch is
    not told by so few: there he does as one who does not know it.

    Args:
        noise: standard deviation of the noise in parts of the risk, at least 0.
        share: of the columns that get noise, from 0 to 1.
        ratio: share of the entries of each tensor that is pruned, from 0 up to but not including 1. With noise 0, too,
            it is no defense.
    """

    def __init__(self, noise: float = 0.8, share: float = 0.4, ratio: float = 0.8) -> None:
        if not (0 <= noise < math.inf):
            raise ValueError(f"noise is {noise}, but must be finite and at least 0")
        if not 0 <= share <= 1:
            raise ValueError(f"share is {share}, but must be from 0 to 1")
        if not 0 <= ratio < 1:
            raise ValueError(f"ratio is {ratio}, but must be at least 0 and below 1")
        self.noise = noise
        self.share = share
        self.ratio = ratio

    @property
    def hooks(self) -> frozenset[str]:
        return super().hooks if self.noise * self.share or self.ratio else frozenset()

    def check_clients(
        self, model: nn.Module, image_shape: tuple[int, int, int, int], local_steps: bool, train: bool
    ) -> None:
        if self.hooks and local_steps:
            raise ValueError(
                "OUTPOST perturbs the gradient of each local step, and FedAvg shares their sum: give FedSGD"
            )

    def on_update(self, update: Update, clients: Clients, generators: Sequence[torch.Generator]) -> Update:
        noisy, risk = self._largest(update), risks(clients.model, clients.weights, update)
        shared = {}
        pruned = Pruning(self.ratio).protect(update, generators) if self.ratio else update
        for name, value in pruned.items():
            noise = torch.stack([torch.randn(value.shape[1:], generator=one) for one in generators]).to(value)
            shared[name] = value + self.noise * per_client(risk[name], value) * noise * noisy[name]
        return shared

    def _largest(self, update: Update, without_zeros: bool = False) -> Update:
        """Whether each entry is in one of the columns of the network whose mean square is largest.

        Args:
            update: ``[V, ...]``.
            without_zeros: whether only columns without a zero come into question.
        """
        each = [columns(value) for value in update.values()]
        sizes = [one.square().mean(1) * ((one != 0).all(1) if without_zeros else 1) for one in each]
        information = torch.cat(sizes, 1)
        most = information.argsort(dim=1, descending=True, stable=True)[:, : round(self.share * information.shape[1])]
        chosen = torch.zeros_like(information).scatter(1, most, 1.0) * (information > 0)
        parts = chosen.split([one.shape[2] for one in each], 1)
        return {
            name: part[:, None].expand_as(one).reshape(update[name].shape) > 0
            for name, part, one in zip(update, parts, each, strict=True)
        }

    def bytes_sent(self, shared: Update) -> Tensor:
        return sparse_bytes(shared)

    def known_to_attacker(self) -> KnownDefense:
        if not self.hooks:
            return KnownDefense()
        return KnownDefense(
            simulate=lambda dummy, observed: {n: value * (observed[n] != 0) for n, value in dummy.items()},
            kept=of_entries_left,
            read=self._read,
            of_clients=self._known_of,
        )

    def _known_of(self, model: nn.Module, image_shape: tuple[int, ...]) -> KnownDefense:
        if image_shape[0] > 1:
            return KnownDefense(no_adaptive_attack="nobody is known to find batches by columns without noise alone")
        return replace(self.known_to_attacker(), of_clients=None)

    def _read(self, model: nn.Module, weights: Update, observed: Update) -> tuple[Update, Update]:
        risk = risks(model, weights, observed)
        noisy = self._largest(observed, without_zeros=True)
        loud = {
            name: noisy[name] & (per_client(self.noise * risk[name], value) > 0) for name, value in observed.items()
        }
        lost = {name: loud[name] | (value == 0) for name, value in observed.items()}
        nothing = torch.stack([flattened(value).all(1) for value in lost.values()]).all(0)  # would be left
        return weights, left_out(observed, {name: value & ~per_client(nothing, value) for name, value in lost.items()})


def columns(value: Tensor) -> Tensor:
    """``[V, *shape]`` as ``[V, R, C]``, with R along the first axis of the shape; a bias is one column."""
    return value.reshape(len(value), value.shape[1] if value.dim() > 1 else 1, -1)


def risks(model: nn.Module, weights: Update, update: Update) -> Update:
    """The variance of the weights of each tensor, 1 at most, name -> ``[V]``.

    Args:
        model: the architecture.
        weights: in place of its own, name -> ``[V, *shape]`` or ``[*shape]``.
        update: of V clients.
    """
    own = dict(model.named_parameters()) | dict(model.named_buffers())
    found = {}
    for name, value in update.items():
        held = weights.get(name, own[name]).detach()
        each = held.expand(len(value), *held.shape) if held.dim() == own[name].dim() else held
        found[name] = each.reshape(len(value), -1).var(1).nan_to_num(0.0).clamp(max=1).to(value)
    return found
