"""What every defense is: a function of the update, and what an attacker who knows it makes of that."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Update = dict[str, Tensor]
"""What V clients share: parameter name -> ``[V, *parameter.shape]``."""

BYTES_OF_POSITION = 4
"""Of one entry of an update that is sent alone, as a whole number of 32 bits."""


def unchanged(dummy: Update, observed: Update) -> Update:
    """The simulation of a defense that shares the gradient itself."""
    return dummy


def joined(update: Update) -> Update:
    """An update whose only tensor ``[V, D]`` has all entries, tensor after tensor in the order of their names."""
    return {"": torch.cat([flattened(update[name]) for name in sorted(update)], 1)}


def parted(together: Update, like: Update) -> Update:
    """The tensors of what :func:`joined` has made of an update of these names and shapes."""
    names = sorted(like)
    parts = together[""].split([like[name][0].numel() for name in names], 1)
    found = dict(zip(names, parts, strict=True))
    return {name: found[name].reshape(value.shape) for name, value in like.items()}


def all_kept(observed: Update) -> Update:
    """1 for each entry, of a defense that removes none: where zero was shared it says something."""
    return {name: torch.ones_like(value) for name, value in observed.items()}


def layer_of(name: str) -> str:
    """The name of the layer that a parameter is in."""
    return name.rpartition(".")[0] or name


def flattened(value: Tensor) -> Tensor:
    """``[V, D]`` of ``[V, ...]``, also of a parameter that is a single number, ``[V]``."""
    return value.reshape(len(value), -1)


def global_norm(update: Update) -> Tensor:
    """L2 norm over all parameters together, ``[V]``."""
    return torch.stack([flattened(value).square().sum(1) for value in update.values()]).sum(0).sqrt()


def dense_bytes(shared: Update) -> Tensor:
    """Bytes ``[V]`` of all entries of each of V updates, one number each."""
    return torch.stack([torch.full((len(v),), v[0].numel() * v.element_size()) for v in shared.values()]).sum(0)


def sparse_bytes(shared: Update) -> Tensor:
    """Bytes ``[V]`` of the entries that are not zero, each with its position, or of all of them where that is less."""
    each = [flattened(v != 0).sum(1).cpu() * (v.element_size() + BYTES_OF_POSITION) for v in shared.values()]
    return torch.minimum(torch.stack(each).sum(0), dense_bytes(shared))


def as_shared(observed: Update) -> Tensor:
    """The weight of an update that has the size of a gradient: 1 for each victim."""
    return torch.ones_like(global_norm(observed))


@dataclass(frozen=True)
class KnownDefense:
    """A defense as an attacker who knows it models it.

    Attributes:
        simulate: maps the attacker's own (dummy) gradient and the observed update, both ``[V, ...]``, to what the
            client would have shared had its batch been the dummy one. Differentiable in the dummy gradient.
        weight: maps the observed update to a factor ``[V]`` of the matching loss, for a defense that changes the size
            of an update: what is small must still be matched closely.
        noise_std: standard deviation of Gaussian noise on each entry of the update, 0 for none: the likelihood of
            the observed update given the dummy one.
        kept: maps the observed update to 1 where an entry of the gradient was shared, and 0 where it was removed, for
            attacks that solve equations. By default an entry is kept where the simulation of a gradient of ones is not
            zero.
        share: what a client does with an update, for an attacker who tries it on updates of his own: from true updates
            ``[V, ...]`` and V sources of randomness to what is shared. None for the defense's own :meth:`protect`,
            which the attacker is then given.
    """

    simulate: Callable[[Update, Update], Update] = unchanged
    weight: Callable[[Update], Tensor] = as_shared
    noise_std: float = 0.0
    kept: Callable[[Update], Update] | None = None
    share: Callable[[Update, Sequence[torch.Generator]], Update] | None = None

    def kept_entries(self, observed: Update) -> Update:
        """1 for each entry of the observed update that says what the gradient's is, 0 for one that was removed."""
        if self.kept is not None:
            return self.kept(observed)
        factors = self.simulate({name: torch.ones_like(value) for name, value in observed.items()}, observed)
        return {name: (value != 0).to(value) for name, value in factors.items()}


class Defense(ABC):
    """A change of what a client shares, made to lose what the update says about the private batch.

    A subclass names its strength in its constructor, has one strength at which it is the identity, and raises
    ``ValueError`` with one sentence for a value out of range.
    """

    def check(self, names: Sequence[str]) -> None:  # noqa: B027 # most fit any network
        """Looks whether the defense fits a network, before any work is done; by default it fits any.

        Args:
            names: of what clients share, in the network's order.

        Raises:
            ValueError: it does not; with one sentence that says what to do.
        """

    @abstractmethod
    def protect(self, update: Update, generators: Sequence[torch.Generator]) -> Update:
        """The update that is shared instead of ``update``.

        Args:
            update: V true updates, ``[V, ...]``; not changed in place.
            generators: V sources of randomness on the CPU, one for each client.
        """

    @abstractmethod
    def known_to_attacker(self) -> KnownDefense:
        """The attacker's differentiable model of this defense (Kerckhoffs: everything but the random draw)."""

    def bytes_sent(self, shared: Update) -> Tensor:
        """How many bytes each of V clients sends to share this update, int64 ``[V]``: by default all of its entries.

        Args:
            shared: what :meth:`protect` returned, ``[V, ...]``.
        """
        return dense_bytes(shared)
