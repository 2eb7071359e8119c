"""The gradient that a client shares, as a differentiable function of its batch, for V clients at once."""

from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar
from weakref import WeakKeyDictionary, WeakSet

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.func import functional_call, grad, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._pytree import tree_map

from attacks.network.convolution import suited_to
from attacks.network.memory import is_out_of_memory
from defenses.base import Update, flattened

T = TypeVar("T")

_one_by_one: "dict[bool, WeakSet[nn.Module]]" = {False: WeakSet(), True: WeakSet()}
"""Networks with a layer that torch cannot batch over clients, such as an LSTM: in eval mode, in train mode."""


class Tensors:
    """The parameters and buffers of a network by name, and where they are: to look for them takes longer than to use
    them in a small network.

    Args:
        model: the network.

    Attributes:
        parameters: as ``named_parameters`` gives them.
        dims: number of dimensions of each parameter and buffer.
        places: path of each place in a module that holds a tensor -> the name of that tensor.
    """

    def __init__(self, model: nn.Module) -> None:
        self.parameters = dict(model.named_parameters())
        named = self.parameters | dict(model.named_buffers())
        self.dims = {name: value.dim() for name, value in named.items()}
        names = {id(value): name for name, value in named.items()}
        self.places: dict[str, str] = {}
        self._held: list[tuple[dict[str, Any], list[str], list[int]]] = []
        for path, module in model.named_modules():
            for of in (module._parameters, module._buffers, module._modules):
                self._held.append((of, [*of], [*map(id, of.values())]))
            for key, value in (*module._parameters.items(), *module._buffers.items()):
                if id(value) in names:
                    self.places[f"{path}.{key}" if path else key] = names[id(value)]

    @property
    def are_there(self) -> bool:
        """Whether every module still holds the same tensors and modules."""
        return not any([*now] != keys or [*map(id, now.values())] != held for now, keys, held in self._held)


_tensors: "WeakKeyDictionary[nn.Module, Tensors]" = WeakKeyDictionary()


def tensors_of(model: nn.Module) -> Tensors:
    """The parameters and buffers of a network, looked for once."""
    found = _tensors.get(model)
    if found is None or not found.are_there:
        found = _tensors[model] = Tensors(model)
    return found


def trained_names(model: nn.Module) -> list[str]:
    """The names of the parameters that a client trains and shares: frozen ones are neither."""
    return [name for name, parameter in tensors_of(model).parameters.items() if parameter.requires_grad]


@contextmanager
def differentiable_twice() -> Iterator[None]:
    """Attention in the form whose gradient has a gradient; the fused forms have none."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


@contextmanager
def in_modes(model: nn.Module, modes: Iterable[bool]) -> Iterator[None]:
    """Each part of the model, in the order of ``modules()``, in train mode where True, and as it was afterwards."""
    former = [(part, part.training) for part in model.modules()]
    try:
        for (part, _), mode in zip(former, modes, strict=False):
            part.training = mode
        yield
    finally:
        for part, mode in former:
            part.training = mode


def call(model: nn.Module, weights: Update, images: Tensor) -> Tensor:
    """What the network makes of images with these weights in place of its own.

    Each place in a module that holds a tensor is given its value by itself: torch's ``tie_weights`` unties, for good,
    a weight that a module in two places shares with another module.

    Args:
        model: the architecture.
        weights: name -> value, of a tensor in several places under the name that ``named_parameters`` gives it. What is
            not among them is the model's own.
        images: ``[N, C, H, W]``.
    """
    places = {place: weights[name] for place, name in tensors_of(model).places.items() if name in weights}
    return functional_call(model, places, (images,), tie_weights=False)


def batch_dims(model: nn.Module, weights: Update) -> dict[str, int | None]:
    """The dimension of each value that counts victims: 0 for ``[V, *shape]``, None for a value that all share."""
    dims = tensors_of(model).dims
    return {name: 0 if value.dim() > dims[name] else None for name, value in weights.items()}


def is_shared(model: nn.Module, parameters: Update) -> bool:
    """Whether all victims have the same trained parameters, ``[*shape]`` rather than ``[V, *shape]`` each.

    Raises:
        ValueError: they share some of them only.
    """
    return _is_shared(batch_dims(model, parameters), trained_names(model))


def _is_shared(dims: dict[str, int | None], names: list[str]) -> bool:
    shared = {dims[name] is None for name in names if name in dims}
    if len(shared) > 1:
        raise ValueError("the victims share some trained parameters and not others: give all as [V, ...], or none")
    return shared == {True}


def batch_logits(model: nn.Module, parameters: Update, images: Tensor) -> Tensor:
    """Logits ``[V, N, K]`` of V batches.

    Args:
        model: the architecture.
        parameters: name -> ``[V, ...]``, or ``[...]`` where it is the same for all victims.
        images: ``[V, N, C, H, W]``.
    """
    return _logits_and_buffers(model, parameters, batch_dims(model, parameters), {}, images)[0]


def _logits_and_buffers(
    model: nn.Module, weights: Update, dims: dict[str, int | None], buffers: Update, images: Tensor
) -> tuple[Tensor, Update]:
    """Logits ``[V, N, K]``, and the buffers ``[V, ...]`` after them, of which copies are changed."""

    def forward(own: Update, start: Update, batch: Tensor) -> tuple[Tensor, Update]:
        moved = {name: value.clone() for name, value in start.items()}
        return call(model, own | moved, batch), moved

    return for_each_victim(model, forward, weights, dims, buffers, images)


def for_each_victim(
    model: nn.Module,
    of_one: Callable[[Update, Update, Tensor], T],
    weights: Update,
    dims: dict[str, int | None],
    buffers: Update,
    images: Tensor,
) -> T:
    """A function of a network and a batch for each of V victims: all at once, or in turn where torch cannot.

    Args:
        model: the architecture, in the mode of the computation.
        of_one: from weights ``[...]``, buffers ``[...]`` and images ``[N, C, H, W]`` to tensors in tuples and dicts.
        weights: name -> ``[V, ...]``, or ``[...]``.
        dims: of the weights, as :func:`batch_dims` returns them.
        buffers: name -> ``[V, ...]``.
        images: ``[V, N, C, H, W]``.

    Returns:
        What the function returns, each tensor ``[V, ...]``.
    """
    with differentiable_twice(), suited_to(images.device):
        if model not in _one_by_one[model.training]:
            try:
                return vmap(of_one, in_dims=(dims, 0, 0))(weights, buffers, images)
            except RuntimeError as error:
                if is_out_of_memory(error):
                    raise  # which is no reason to go on more slowly for good
                # Of a layer without a batching rule, or of the network itself, which says so below.
                _one_by_one[model.training].add(model)
        rows = [
            of_one(
                {name: value if dims[name] is None else value[row] for name, value in weights.items()},
                {name: value[row] for name, value in buffers.items()},
                batch,
            )
            for row, batch in enumerate(images)
        ]
        return tree_map(lambda *each: torch.stack(each), *rows)


def batch_gradients(model: nn.Module, parameters: Update, images: Tensor, labels: Tensor, create_graph: bool) -> Update:
    """Gradients of V independent clients' mean cross entropy with respect to their trained parameters.

    Args:
        model: the architecture; what is frozen in it is not differentiated.
        parameters: name -> ``[V, ...]``, or ``[...]`` where all victims share one network, which is not copied.
        images: ``[V, N, C, H, W]``.
        labels: class probabilities ``[V, N, K]`` (one-hot for hard labels).
        create_graph: keep the graph, so that the result can be differentiated in images and labels.

    Returns:
        name -> ``[V, ...]`` of the trained parameters; zeros for one that the logits do not depend on.
    """
    constants = {name: value.detach() for name, value in parameters.items()}
    return gradients_and_buffers(model, constants, {}, images, labels, create_graph)[0]


def gradients_and_buffers(
    model: nn.Module, parameters: Update, buffers: Update, images: Tensor, labels: Tensor, create_graph: bool
) -> tuple[Update, Update]:
    """:func:`batch_gradients`, and the buffers that the forward pass leaves.

    Args:
        model: the architecture, in the mode of the computation.
        parameters: name -> ``[V, ...]``, or ``[...]`` of a shared network. With ``create_graph`` the result can be
            differentiated in what these were computed from, too.
        buffers: those that the forward pass may change, name -> ``[V, ...]``; they stay as they are.
        images: ``[V, N, C, H, W]``.
        labels: class probabilities ``[V, N, K]``.
        create_graph: keep the graph.

    Returns:
        Gradients, name -> ``[V, ...]``, and the new values of ``buffers``, which carry no graph.
    """
    of_kind = _of_shared if is_shared(model, parameters) else _of_own
    gradients, moved = of_kind(model, parameters, buffers, images, labels, create_graph)
    # Those of linear layers are transposed, and slow to read beside what was shared.
    return {name: value.contiguous() for name, value in gradients.items()}, moved


def _of_own(
    model: nn.Module, parameters: Update, buffers: Update, images: Tensor, labels: Tensor, create_graph: bool
) -> tuple[Update, Update]:
    """:func:`gradients_and_buffers` of victims that have a network each."""
    names, dims = trained_names(model), batch_dims(model, parameters)
    # The victims share no parameter, so one backward pass of the summed losses gives each victim's own gradient.
    leaves = {
        name: value if create_graph and value.requires_grad else value.detach().requires_grad_(name in names)
        for name, value in parameters.items()
    }
    logits, moved = _logits_and_buffers(model, leaves, dims, buffers, images)
    losses = _cross_entropy(logits, labels)
    wanted = [name for name in leaves if name in names]
    gradients = torch.autograd.grad(
        losses.sum(), [leaves[name] for name in wanted], create_graph=create_graph, materialize_grads=True
    )
    return dict(zip(wanted, gradients, strict=True)), {name: value.detach() for name, value in moved.items()}


def _of_shared(
    model: nn.Module, parameters: Update, buffers: Update, images: Tensor, labels: Tensor, create_graph: bool
) -> tuple[Update, Update]:
    """:func:`gradients_and_buffers` of victims that share one network: only its gradients are there V times."""
    names = trained_names(model)
    trained = {name: value for name, value in parameters.items() if name in names}
    rest = {name: value for name, value in parameters.items() if name not in names}

    dims, modes = batch_dims(model, rest), tuple(part.training for part in model.modules())

    def slopes(weights: Update, others: Update, start: Update, x: Tensor, y: Tensor) -> tuple[Update, Update]:
        def loss(own: Update) -> tuple[Tensor, Update]:
            moved = {name: value.clone() for name, value in start.items()}
            return _cross_entropy(call(model, others | own | moved, x)[None], y[None])[0], moved

        return grad(loss, has_aux=True)(weights)

    def compute(weights: Update, batches: Tensor, of_batches: Tensor) -> tuple[Update, Update]:
        return vmap(slopes, in_dims=(None, dims, 0, 0, 0))(weights, rest, buffers, batches, of_batches)

    def derive(weights: Update, batches: Tensor, of_batches: Tensor, towards: Update) -> tuple[Tensor, Tensor]:
        def one(others: Update, start: Update, batch: Tensor, of_batch: Tensor, onto: Update) -> tuple[Tensor, Tensor]:
            def product(x: Tensor, y: Tensor) -> Tensor:
                found = slopes(weights, others, start, x, y)[0]
                return torch.stack([(found[name] * onto[name]).sum() for name in found]).sum()

            return grad(product, argnums=(0, 1))(batch, of_batch)

        with differentiable_twice(), in_modes(model, modes), suited_to(batches.device):
            return vmap(one, in_dims=(dims, 0, 0, 0, 0))(rest, buffers, batches, of_batches, towards)

    if model not in _one_by_one[model.training]:
        try:
            with differentiable_twice(), suited_to(images.device):
                if not create_graph:
                    with torch.no_grad():
                        return compute(trained, images, labels)
                known, asked = _followed.setdefault(model, {}), (modes, images.shape[1:], images.dtype)
                if asked not in known:
                    known[asked] = is_followed(compute, derive, trained, images, labels)
                if known[asked]:
                    gradients, moved = compute(trained, images, labels)
                    return gradients, {name: value.detach() for name, value in moved.items()}
                ways = partial(compute, trained), partial(derive, trained)
                found = _Derivable.apply(*ways, names, list(buffers), images, labels)
            gradients = dict(zip(names, found, strict=False))
            return gradients, dict(zip(buffers, found[len(names) :], strict=True))
        except RuntimeError as error:  # as in for_each_victim
            if is_out_of_memory(error):
                raise
            _one_by_one[model.training].add(model)
    rows = []
    for row in range(len(images)):
        here = slice(row, row + 1)
        alone = {
            n: parameters[n][None] if d is None else parameters[n][here]
            for n, d in batch_dims(model, parameters).items()
        }
        start = {name: value[here] for name, value in buffers.items()}
        rows.append(gradients_and_buffers(model, alone, start, images[here], labels[here], create_graph))
    gradients, moved = ({n: torch.cat([row[part][n] for row in rows]) for n in rows[0][part]} for part in (0, 1))
    return gradients, moved


_followed: "WeakKeyDictionary[nn.Module, dict[Hashable, bool]]" = WeakKeyDictionary()
"""Of a network, and of its modes and the batches that it was asked for, what :func:`is_followed` has found."""

SAME = {torch.float64: 1e-9, torch.float32: 1e-3}
"""Relative difference up to which two ways to one number agree; a way that does not fit is off by its own size."""

Compute = Callable[[Update, Tensor, Tensor], tuple[Update, Update]]
"""Gradients of batches and labels at some weights, and buffers."""

Derive = Callable[[Update, Tensor, Tensor, Update], tuple[Tensor, Tensor]]
"""The derivatives in batches and labels of the product of these gradients with others."""


def is_followed(compute: Compute, derive: Derive, weights: Update, images: Tensor, labels: Tensor) -> bool:
    """Whether autograd derives ``vmap(grad(...))`` as torch.func does, tried on noise near the weights.

    It does so, in half the time, but for layers that normalize by statistics of their input (BatchNorm in train mode,
    InstanceNorm, LayerNorm): these it takes for constants, without a warning.

    Args:
        compute: the gradients, by ``vmap(grad(...))``.
        derive: by torch.func inside of vmap.
        weights: ``[...]``; noise is added, as a layer behind a weight of zero would not be seen.
        images: for their shape, ``[V, N, C, H, W]``.
        labels: likewise, ``[V, N, K]``.
    """
    generator = torch.Generator().manual_seed(1)

    def noise(like: Tensor) -> Tensor:
        return torch.rand(like.shape, generator=generator).to(like)

    near = {name: value.detach() + 0.1 * (noise(value) - 0.5) for name, value in weights.items()}
    with torch.enable_grad():
        x, y = noise(images).requires_grad_(), noise(labels).softmax(-1).requires_grad_()
        gradients, _ = compute(near, x, y)
        towards = {name: noise(value) for name, value in gradients.items()}
        product = torch.stack([(value * towards[name]).sum() for name, value in gradients.items()]).sum()
        found = torch.autograd.grad(product, (x, y), materialize_grads=True)
    wanted = derive(near, x.detach(), y.detach(), towards)
    tolerance = SAME.get(images.dtype, 1e-2)
    pairs = zip(found, wanted, strict=True)
    return all(0 < float(other.norm()) >= float((one - other).norm()) / tolerance for one, other in pairs)


class _Derivable(torch.autograd.Function):
    """Gradients of a shared network, derived by torch.func inside of vmap."""

    @staticmethod
    def forward(
        ctx: Any,
        compute: Callable[[Tensor, Tensor], tuple[Update, Update]],
        derive: Callable[[Tensor, Tensor, Update], tuple[Tensor, Tensor]],
        names: list[str],
        buffers: list[str],
        images: Tensor,
        labels: Tensor,
    ) -> tuple[Tensor, ...]:
        """The gradients by their names, then the buffers, ``[V, ...]``."""
        gradients, moved = compute(images, labels)
        ctx.derive, ctx.names = derive, names
        ctx.save_for_backward(images, labels)
        after = [moved[name] for name in buffers]
        ctx.mark_non_differentiable(*after)
        return (*(gradients[name] for name in names), *after)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *towards: Tensor) -> tuple[Tensor | None, ...]:
        """The derivatives in images and labels."""
        images, labels = ctx.saved_tensors
        return None, None, None, None, *ctx.derive(images, labels, dict(zip(ctx.names, towards, strict=False)))


def _cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Each batch's mean cross entropy ``[V]`` of logits and class probabilities ``[V, N, K]``."""
    return -(labels * logits.log_softmax(-1)).sum(-1).mean(1)


def squared_distance(first: Update, second: Update) -> Tensor:
    """Sum over all parameters of the squared differences, ``[V]`` (the DLG objective, arXiv 1906.08935, eq. 4)."""
    return torch.stack([flattened(first[name] - second[name]).square().sum(1) for name in first]).sum(0)
