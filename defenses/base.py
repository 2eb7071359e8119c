"""What every defense is: hooks into what a client does, and what an attacker who knows them makes of that."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, Self, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary

T = TypeVar("T")

Update = dict[str, Tensor]
"""What V clients share: parameter name -> ``[V, *parameter.shape]``."""

BYTES_OF_POSITION = 4
"""Of one entry of an update that is sent alone, as a whole number of 32 bits."""


def unchanged(dummy: Update, observed: Update) -> Update:
    """The simulation of a defense that shares the gradient itself."""
    return dummy


def remembered(function: Callable[[Update], T]) -> Callable[[Update], T]:
    """The same function of what was shared, computed once: an update is observed once, and simulated often.

    Args:
        function: of an observed update, without a gradient.

    Returns:
        One that keeps what it has found for as long as the tensors of that update are there.
    """
    found: WeakIdKeyDictionary = WeakIdKeyDictionary()  # by the first tensor

    def remembering(observed: Update) -> T:
        first, *others = observed.values()
        known = found.get(first)
        if known is None or [*map(id, known[0])] != [*map(id, others)]:
            with torch.no_grad():
                known = found[first] = others, function(observed)
        result: T = known[1]
        return result

    return remembering


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


def left_out(observed: Update, lost: Update) -> Update:
    """An update with zeros for the entries that an attacker leaves out, and for no others.

    Args:
        observed: ``[V, ...]``; its true zeros become the smallest numbers that there are.
        lost: whether each entry is left out.
    """
    return {
        name: torch.where(lost[name], 0.0, torch.where(value == 0, torch.finfo(value.dtype).tiny, value))
        for name, value in observed.items()
    }


def of_entries_left(observed: Update) -> Update:
    """1 for each entry that :func:`left_out` has kept."""
    return {name: (value != 0).to(value) for name, value in observed.items()}


def weights_at(model: nn.Module, weights: Update, client: int) -> Update:
    """The parameters and buffers of one client, name -> ``[*shape]``.

    Args:
        model: the architecture.
        weights: name -> ``[V, *shape]``, or ``[*shape]`` of a tensor that all share.
        client: its row.
    """
    own = dict(model.named_parameters()) | dict(model.named_buffers())
    return {name: value[client] if value.dim() > own[name].dim() else value for name, value in weights.items()}


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


def coded_bytes(shared: Update, bits: float, scales: int = 1) -> Tensor:
    """Bytes ``[V]`` of entries of so many bits each, and of so many numbers of 32 bits for each tensor."""
    each = sum(math.ceil(bits * value[0].numel() / 8) + 4 * scales for value in shared.values())
    return torch.full((len(next(iter(shared.values()))),), each)


def as_shared(observed: Update) -> Tensor:
    """The weight of an update that has the size of a gradient: 1 for each victim."""
    return torch.ones_like(global_norm(observed))


@dataclass(frozen=True)
class Clients:
    """V clients at work, for a defense that looks at more than their updates.

    Attributes:
        model: the network, in the mode in which the clients use it.
        weights: their parameters and buffers at the start, name -> ``[V, *shape]``, or ``[*shape]`` of a tensor that
            all share; what is not there is the model's own.
        images: what they train on, in [0, 1], ``[V, N, C, H, W]``.
        labels: class probabilities, ``[V, N, K]``.
    """

    model: nn.Module
    weights: Update
    images: Tensor
    labels: Tensor

    def weights_of(self, client: int) -> Update:
        """Those of one client, name -> ``[*shape]``."""
        return weights_at(self.model, self.weights, client)

    def take(self, client: int) -> Self:
        """One client alone."""
        weights = {name: value[None] for name, value in self.weights_of(client).items()}
        here = slice(client, client + 1)
        return replace(self, weights=weights, images=self.images[here], labels=self.labels[here])


@dataclass(frozen=True)
class Steps:
    """What V clients do otherwise in each step of SGD; None where they do it as usual.

    Attributes:
        batch: from images ``[V, B, C, H, W]`` and class probabilities ``[V, B, K]`` to those that are trained on.
        gradients: from the gradients of a batch's images, name -> ``[V, B, *shape]``, to the step's, ``[V, *shape]``,
            which usually is their mean.
        forward: from the network and B, the images of the batch, to what it draws in its forward pass: values
            ``[V, *shape]`` of frozen parameters, in place of those that it has.
    """

    batch: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None = None
    gradients: Callable[[Update], Update] | None = None
    forward: Callable[[nn.Module, int], Update] | None = None


AS_USUAL = Steps()


@dataclass(frozen=True)
class KnownDefense:
    """A defense as an attacker who knows it models it.

    Attributes:
        simulate: maps the attacker's own (dummy) gradient and the observed update, both ``[V, ...]``, to what the
            client would have shared had its batch been the dummy one. Differentiable in the dummy gradient.
        weight: maps the observed update to a factor ``[V]`` of the matching loss, for a defense that changes the size
            of an update: what is small must still be matched closely.
        noise_std: standard deviation of the noise on each entry of the update, 0 for none, or a function of the
            observed update that gives that of each victim, ``[V]``: the likelihood of the observed update given the
            dummy one. It is noise of each entry and client by itself; what is known of it otherwise, such as a key or
            which entries have none, is for ``simulate`` or ``read``.
        noise_law: the distribution of that noise, "gaussian" or "laplace".
        kept: maps the observed update to 1 where an entry of the gradient was shared, and 0 where it was removed, for
            attacks that solve equations. By default an entry is kept where the simulation of a gradient of ones is not
            zero.
        share: what a client does with an update, for an attacker who tries it on updates of his own: from true updates
            ``[V, ...]`` and V sources of randomness to what is shared. None for the defense's own :meth:`protect`,
            which the attacker is then given.
        gradients: what he simulates of the step from the gradients of a batch's images, see :class:`Steps`.
        read: maps the network, its weights and what was shared to the weights and the update that he goes by instead:
            with what he can tell of the client's draws, and with zeros for entries that he had better leave out.
        of_clients: maps the network and the shape (N, C, H, W) of a client's batch to the model of such clients, where
            it depends on them; None where this is it.
        soft_labels: whether clients train on mixed labels, which the attacker then looks for together with the images.
        undo: maps images in [0, 1], ``[V, N, C, H, W]``, and mixed labels ``[V, N, K]`` that were found to private
            images of that shape, with labels ``[V, N]``, int64, of which they can have been made, or to None where
            there are too many to tell; changes nothing in place. None where there is nothing to undo, or nobody knows
            how.
        no_adaptive_attack: why nobody knows how to make use of knowing the defense, as the end of a sentence; empty
            where somebody does.
        client: the defense itself, for an attacker who does what a client does with images of his own.
    """

    simulate: Callable[[Update, Update], Update] = unchanged
    weight: Callable[[Update], Tensor] = as_shared
    noise_std: float | Callable[[Update], Tensor] = 0.0
    noise_law: Literal["gaussian", "laplace"] = "gaussian"
    kept: Callable[[Update], Update] | None = None
    share: Callable[[Update, Sequence[torch.Generator]], Update] | None = None
    gradients: Callable[[Update], Update] | None = None
    read: Callable[[nn.Module, Update, Update], tuple[Update, Update]] | None = None
    of_clients: "Callable[[nn.Module, tuple[int, int, int, int]], KnownDefense] | None" = None
    soft_labels: bool = False
    undo: Callable[[Tensor, Tensor], tuple[Tensor, Tensor] | None] | None = None
    no_adaptive_attack: str = ""
    client: "Defense | None" = None

    @property
    def steps(self) -> Steps:
        """What the attacker simulates of each local step."""
        return Steps(gradients=self.gradients)

    @property
    def says_anything(self) -> bool:
        """Whether it is more than that of an attacker who knows nothing, or says why there is no more."""
        return replace(self, client=None) != KnownDefense()

    @property
    def is_simulated(self) -> bool:
        """Whether the attacker's own gradient becomes another one."""
        return self.simulate is not unchanged or self.gradients is not None

    def noise(self, observed: Update) -> float | Tensor:
        """Standard deviation of the noise on each entry of the observed update: of all victims, or ``[V]``."""
        std = self.noise_std(observed) if callable(self.noise_std) else self.noise_std
        return std.to(next(iter(observed.values()))) if isinstance(std, Tensor) else std

    def kept_entries(self, observed: Update) -> Update:
        """1 for each entry of the observed update that says what the gradient's is, 0 for one that was removed."""
        if self.kept is not None:
            return self.kept(observed)
        factors = self.simulate({name: torch.ones_like(value) for name, value in observed.items()}, observed)
        return {name: (value != 0).to(value) for name, value in factors.items()}


HOOKS = ("on_model", "on_forward", "on_batch", "on_example_gradients", "on_update", "protect")


class Defense(ABC):
    """A change of what a client computes or shares, made to lose what the update says about the private batch.

    Most change the update alone, by :meth:`protect`. The other hooks are called only where a class has its own; a class
    without a :meth:`protect` is a subclass of :class:`HookDefense`. All of them draw from the given generators alone,
    keep nothing from call to call, treat each client alone, and change nothing in place.

    A subclass names its strength in its constructor, has one strength at which it is the identity, and raises
    ``ValueError`` with one sentence for a value out of range.
    """

    @property
    def hooks(self) -> frozenset[str]:
        """The names of the hooks at which it acts: its own ones. At identity strength there may be none."""
        return own_hooks(type(self))

    def check_clients(  # noqa: B027 # most take any
        self, model: nn.Module, image_shape: tuple[int, int, int, int], local_steps: bool, train: bool
    ) -> None:
        """Looks whether such clients can be defended, before any work is done.

        Args:
            model: the architecture.
            image_shape: (N, C, H, W) of the batch of a step.
            local_steps: whether clients share what several steps changed (FedAvg), and not a gradient (FedSGD).
            train: whether the network is in train mode.

        Raises:
            ValueError: they cannot; with one sentence that says what to do.
        """

    def on_model(self, model: nn.Module, image_shape: tuple[int, int, int]) -> nn.Module:
        """The network that clients train and share instead of ``model``, which stays as it is.

        Its parameters keep their names and values; new ones are drawn as the constructors of their layers do.

        Args:
            model: the architecture.
            image_shape: (C, H, W).
        """
        return model

    def on_forward(self, model: nn.Module, images: int, generators: Sequence[torch.Generator]) -> Update:
        """What the network draws in the forward pass of a step: values ``[V, *shape]`` of some frozen parameters.

        Those that they have are for whoever does not train it: the test, and attackers.

        Args:
            model: what :meth:`on_model` has made.
            images: B, of the batch.
            generators: V sources of randomness on the CPU, one for each client.
        """
        return {}

    def on_batch(self, images: Tensor, labels: Tensor, generators: Sequence[torch.Generator]) -> tuple[Tensor, Tensor]:
        """The batch that is trained on in a step, instead of the private one.

        Args:
            images: ``[V, N, C, H, W]`` in [0, 1].
            labels: class probabilities, ``[V, N, K]``.
            generators: V sources of randomness on the CPU, one for each client.

        Returns:
            Images in [0, 1] and class probabilities of the same shapes.
        """
        return images, labels

    def on_example_gradients(self, gradients: Update, generators: Sequence[torch.Generator]) -> Update:
        """The gradient of a step, ``[V, *shape]``, from those of each of its images.

        Args:
            gradients: name -> ``[V, N, *shape]``.
            generators: V sources of randomness on the CPU, one for each client.
        """
        return {name: value.mean(1) for name, value in gradients.items()}

    def on_update(self, update: Update, clients: Clients, generators: Sequence[torch.Generator]) -> Update:
        """:meth:`protect` for a defense that looks at the network and the batch, too.

        Args:
            update: V true updates, ``[V, ...]``; not changed in place.
            clients: whose they are.
            generators: V sources of randomness on the CPU, one for each client.
        """
        return self.protect(update, generators)

    def privacy(self, sample_rate: float, steps: int) -> tuple[float, float] | None:
        """Epsilon and delta of differential privacy for each image of a client; None where there is no such guarantee.

        Args:
            sample_rate: share of the client's images in each step.
            steps: in which the client took part.
        """
        return None

    def check(self, names: Sequence[str]) -> None:  # noqa: B027 # most fit any network
        """Looks whether the defense fits a network, before any work is done; by default it fits any.

        Args:
            names: of what clients share, in the network's order.

        Raises:
            ValueError: it does not; with one sentence that says what to do.
        """

    def at_home(self, names: Sequence[str]) -> frozenset[str]:
        """Of these parameters those that each client keeps and trains for itself: the server has none of them.

        Args:
            names: of what is trained, in the network's order.
        """
        return frozenset()

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


class HookDefense(Defense):
    """A defense that is no function of the update alone: it has hooks of its own, and is nothing without them."""

    def protect(self, update: Update, generators: Sequence[torch.Generator]) -> Update:
        """The update itself."""
        return update


def own_hooks(kind: type[Defense]) -> frozenset[str]:
    """The names of the hooks that a class of defenses has of its own."""
    return frozenset(name for name in HOOKS if getattr(kind, name) is not getattr(HookDefense, name))


def steps_of(defense: Defense | None, generators: Sequence[torch.Generator]) -> Steps:
    """What V clients with a defense do otherwise in each local step, drawing from these generators."""
    if defense is None:
        return AS_USUAL
    names = ("on_batch", "on_example_gradients", "on_forward")
    return Steps(*(partial(getattr(defense, n), generators=generators) if n in defense.hooks else None for n in names))
