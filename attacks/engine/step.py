"""The step of a fit as one pure function of tensors: run as it is, compiled, or captured as a CUDA graph."""

import warnings
from collections.abc import Callable, Hashable
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map

from attacks.network.gradients import SAME
from defenses.base import Update

EAGER, COMPILED, GRAPH = "eager", "compiled", "graph"

STEPS = (EAGER, COMPILED, GRAPH)
"""How a step is run: as it is; compiled by TorchInductor, which takes a minute for each number of rows that is new to
this machine; or captured once and replayed by a GPU, which is then not kept waiting for Python."""

Held = dict[str, Any]
"""Tensors in dictionaries and lists, of which those under "rows" have a row for each active victim."""

Measure = Callable[[Tensor, Tensor, Held], Tensor]
"""Losses ``[A]`` of images ``[A, N, C, H, W]`` and logits of labels ``[A, N, K]``, given what is held."""


def check_step(step: str, device: str) -> None:
    """Looks whether steps can be run so.

    Args:
        step: one of ``STEPS``.
        device: type of the device.

    Raises:
        ValueError: they cannot; with one sentence that says what to do.
    """
    if step not in STEPS:
        raise ValueError(f"step is {step!r}, but must be one of {', '.join(STEPS)}")
    if step == GRAPH and device == "cpu":
        raise ValueError("step graph needs a GPU: on a CPU choose compiled or eager")


def gradients_of(measure: Measure, optimize_labels: bool) -> Callable[[Tensor, Tensor, Held], list[Tensor]]:
    """The pure function: losses ``[A]``, and their gradients in the images and, if they are optimized, the logits."""

    def gradients(images: Tensor, label_logits: Tensor, held: Held) -> list[Tensor]:
        with torch.enable_grad():
            images = images.detach().requires_grad_()
            label_logits = label_logits.detach().requires_grad_(optimize_labels)
            losses = measure(images, label_logits, held)
            found = torch.autograd.grad(losses.sum(), [images, label_logits][: 1 + optimize_labels])
        return [losses.detach(), *found]

    return gradients


TOGETHER = {"cpu": 2**23, "cuda": 2**32}
"""Bytes of dummy gradients that are computed together, by the device. A step takes about five times as much, which
should fit into the caches of a CPU: those of a hundred victims of a LeNet do. With 32 victims together, a step of a
larger network takes 1.3 to 2.9 times as long."""


def victims_together(update: Update) -> int:
    """How many victims' gradients are computed at a time.

    Args:
        update: what each of them shared, name -> ``[V, ...]``.
    """
    bytes_of_one = sum(value[0].nbytes for value in update.values())
    return max(1, TOGETHER[next(iter(update.values())).device.type] // max(1, bytes_of_one))


def in_parts(plain: "Run", rows: int) -> "Run":
    """The same function, of so many rows at a time.

    What is held is parted anew only where it is another object: by the same tensors a defense's model knows what it has
    read before, see :func:`defenses.base.remembered`.
    """
    of: Held | None = None
    parts: list[tuple[slice, Held]] = []

    def gradients(images: Tensor, label_logits: Tensor, held: Held) -> list[Tensor]:
        nonlocal of, parts
        if held is not of:
            slices = [slice(first, first + rows) for first in range(0, len(images), rows)]
            own = [tree_map(lambda value, here=here: value[here], held["rows"]) for here in slices]
            of, parts = held, [(here, held | {"rows": each}) for here, each in zip(slices, own, strict=True)]
        found = [plain(images[here], label_logits[here], own) for here, own in parts]
        return [torch.cat(values) for values in zip(*found, strict=True)]

    return gradients


def anew(plain: "Run") -> "Run":
    """The same function, which takes nothing for known: what it remembers would be a constant in what is made of it."""
    return lambda images, label_logits, held: plain(images, label_logits, {**held})


Run = Callable[[Tensor, Tensor, Held], list[Tensor]]

_compiled: "WeakKeyDictionary[nn.Module, dict[Hashable, Run]]" = WeakKeyDictionary()
"""What was compiled for a network, so that the next block of its victims need not wait."""


class Step:
    """Losses and gradients of the active victims, by a function for a fixed number of rows.

    Rows that are left over are padded with the first victim's. A compiled function serves as long as more than half of
    its rows are in use, and the few victims that are left then take the step as it is: to compile again takes longer.
    A graph is captured anew, for half as many rows.

    Args:
        how: one of ``STEPS``.
        measure: the losses.
        optimize_labels: whether the gradient in the logits is wanted.
        model: the network.
        key: everything but tensors that decides what ``measure`` computes; None where that cannot be said.
        rows: that are computed at a time.
    """

    def __init__(
        self, how: str, measure: Measure, optimize_labels: bool, model: nn.Module, key: Hashable | None, rows: int
    ) -> None:
        self._how, self._model, self._key = how, model, key
        self._plain = in_parts(gradients_of(measure, optimize_labels), rows)
        self._optimize_labels, self._rows = optimize_labels, rows
        self._size = 0
        self._run: Run = self._plain
        self._padded: tuple[Held, Held] | None = None

    def __call__(self, images: Tensor, label_logits: Tensor, held: Held) -> list[Tensor]:
        """The losses ``[A]``, and their gradients.

        Args:
            images: ``[A, N, C, H, W]``.
            label_logits: ``[A, N, K]``.
            held: another object whenever something in it has changed.
        """
        rows = len(images)
        if self._how == EAGER:
            return self._plain(images, label_logits, held)
        if rows > self._size or (self._how == GRAPH and 2 * rows <= self._size):
            self._size, self._padded = rows, None
            self._run = self._made(images, label_logits, held)
        if 2 * rows <= self._size:
            return self._plain(images, label_logits, held)
        more = self._size - rows
        if self._padded is None or self._padded[0] is not held:
            self._padded = held, held | {"rows": tree_map(lambda value: padded(value, more), held["rows"])}
        found = self._run(padded(images, more), padded(label_logits, more), self._padded[1])
        return [value[:rows] for value in found]

    def _made(self, images: Tensor, label_logits: Tensor, held: Held) -> Run:
        """The function for so many rows."""
        if self._how == GRAPH:
            return faster(captured, self._plain, images, label_logits, held)
        leaves, form = tree_flatten((images, label_logits, held))
        shapes = tuple((tuple(leaf.shape), leaf.dtype) for leaf in leaves)
        known = _compiled.setdefault(self._model, {})
        key = (self._key, self._optimize_labels, self._rows, str(form), shapes, torch.get_num_threads())
        if self._key is None or key not in known:
            made = faster(compiled, self._plain, images, label_logits, held)
            if self._key is None:
                return made
            known[key] = made
        return known[key]


def padded(value: Tensor, more: int) -> Tensor:
    """The rows of a tensor, and its first row several times more."""
    return torch.cat([value, value[:1].expand(more, *value.shape[1:])]) if more else value


Make = Callable[[Run, tuple[Tensor, Tensor, Held]], Run]
"""Makes a faster function of the same from an example of what it is given."""


def faster(make: Make, plain: Run, images: Tensor, label_logits: Tensor, held: Held) -> Run:
    """The same function made faster; itself where it cannot be, or where the result is another, which is said."""
    given = (images.detach(), label_logits.detach(), held)
    wanted = plain(*given)
    try:
        made = make(anew(plain), given)
        found = made(*given)
    except Exception as error:  # of a compiler that is missing, or of a network or defense that cannot be traced
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        warnings.warn(f"a step cannot be {make.__name__} ({reason[:200]}): it is run as it is", stacklevel=2)
        return plain
    if not all(is_close(one, other) for one, other in zip(found, wanted, strict=True)):
        warnings.warn(
            f"a {make.__name__} step gives other results than the step itself: it is run as it is", stacklevel=2
        )
        return plain
    return made


def compiled(plain: Run, given: tuple[Tensor, Tensor, Held]) -> Run:
    """The function as TorchInductor compiles it, for such shapes."""
    with torch.no_grad():
        made: Run = torch.compile(make_fx(plain)(*given), fullgraph=True, dynamic=False)

    def run(*inputs: Any) -> list[Tensor]:
        with torch.no_grad():
            return made(*inputs)

    return run


def captured(plain: Run, given: tuple[Tensor, Tensor, Held]) -> Run:
    """The function as a CUDA graph, for such shapes."""
    return Captured(plain, *given)


def is_close(found: Tensor, wanted: Tensor) -> bool:
    """Whether each victim's part is the same within rounding; what is not finite must be so in both."""
    found, wanted = found.flatten(1) if found.dim() > 1 else found[:, None], wanted.reshape(len(wanted), -1)
    same = (found - wanted).norm(dim=1) <= SAME.get(wanted.dtype, 1e-2) * wanted.norm(dim=1)
    return bool((same | ~(wanted.isfinite().all(1) | found.isfinite().all(1))).all())


class Captured:
    """A function as a CUDA graph, which is captured by the first call's tensors and replayed for those of others."""

    def __init__(self, plain: Run, images: Tensor, label_logits: Tensor, held: Held) -> None:
        self._held = held
        self._inputs = tree_map(torch.clone, (images.detach(), label_logits.detach(), held))
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):  # libraries set themselves up, which cannot be captured
                plain(*self._inputs)
        torch.cuda.current_stream().wait_stream(side)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._outputs = plain(*self._inputs)

    def __call__(self, images: Tensor, label_logits: Tensor, held: Held) -> list[Tensor]:
        """The function of these tensors, of the same shapes."""
        given: tuple[Tensor | Held, ...] = (images, label_logits)
        if held is not self._held:
            given, self._held = (*given, held), held
        kept = self._inputs[: len(given)]
        for old, new in zip(tree_leaves(kept), tree_leaves(given), strict=True):
            old.copy_(new)
        self._graph.replay()
        return [output.clone() for output in self._outputs]
