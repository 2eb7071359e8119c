"""A defense that is a plain function of one client's update."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._C._functorch import is_functorch_wrapped_tensor

from defenses.base import Defense, KnownDefense, Update


class FunctionDefense(Defense):
    """Calls a function with the update of each client, which so cannot mix clients.

    An attacker who knows the defense does the same to the update of the dummy images. Where the function has no slope,
    as behind a rounding or a sign, the attacker takes it for the identity in the backward pass (BPDA: Athalye et al.
    2018, arXiv 1802.00420). Of a function that draws random numbers the attacker has no model: one that matters needs a
    class of its own.

    Args:
        function: from ``{parameter name: tensor of the parameter's shape}`` to the same names, shapes and types.
        is_random: whether it takes a ``generator``, the client's source of randomness.
        **arguments: its other arguments.
    """

    def __init__(self, function: Callable[..., Any], is_random: bool = False, /, **arguments: Any) -> None:
        self.function = function
        self.is_random = is_random
        self.arguments = arguments

    def protect(self, update: Update, generators: Sequence[torch.Generator]) -> Update:
        """The updates of all clients; what the function returns in another form is returned so, to be refused."""
        return self._of_each(update, [{"generator": one} for one in generators] if self.is_random else None)

    def known_to_attacker(self) -> KnownDefense:
        """The function itself; nothing of one that draws random numbers."""
        return KnownDefense() if self.is_random else KnownDefense(simulate=self._simulate, kept=nonzero)

    def _of_each(self, update: Update, drawn: Sequence[dict[str, Any]] | None = None) -> Any:
        clients = range(len(next(iter(update.values()))))
        more = drawn or [{} for _ in clients]
        shared = [
            self.function({name: value[client] for name, value in update.items()}, **self.arguments, **more[client])
            for client in clients
        ]
        if wrong := [one for one in shared if not isinstance(one, dict) or set(one) != set(shared[0])]:
            return wrong[0]
        return {name: together([one[name] for one in shared]) for name in shared[0]}

    def _simulate(self, dummy: Update, observed: Update) -> Update:
        if any(is_functorch_wrapped_tensor(value) for value in dummy.values()):
            raise RuntimeError("a plain function is derived by autograd alone, which knows where it has no slope")
        if not any(value.requires_grad for value in dummy.values()):
            return self._of_each(dummy)
        sloping = self._sloping(dummy)
        shared = self._of_each(dummy if sloping else {name: value.detach() for name, value in dummy.items()})
        return {
            name: value if name in sloping else dummy[name] + (value - dummy[name]).detach()
            for name, value in shared.items()
        }

    def _sloping(self, update: Update) -> set[str]:
        """The names of the tensors that what is shared depends on with a slope: that of half its squared norm.

        It is taken in parts of the largest magnitude, of which no square is rounded to 0.
        """
        leaves = {name: value.detach().requires_grad_() for name, value in update.items()}
        try:
            with torch.enable_grad():
                half = sum((value / largest(value)).square().sum() / 2 for value in self._of_each(leaves).values())
        except RuntimeError:  # as NumPy's, which takes no tensor that has a gradient
            return set()
        if not isinstance(half, Tensor) or not half.requires_grad:
            return set()
        slopes = torch.autograd.grad(half, list(leaves.values()), allow_unused=True, materialize_grads=True)
        return {name for name, slope in zip(leaves, slopes, strict=True) if bool(slope.any())}


def largest(value: Tensor) -> Tensor:
    """The largest magnitude of a tensor, as a number without a slope; 1 where all are 0."""
    size = value.detach().abs().max()
    return torch.where(size == 0, 1.0, size)


def nonzero(observed: Update) -> Update:
    """1 for each entry that was shared as something else than zero."""
    return {name: (value != 0).to(value) for name, value in observed.items()}


def together(values: Sequence[Any]) -> Any:
    """``[V, ...]`` of V tensors; the first that is none, or that has not the shape of the others."""
    for one in values:
        if not isinstance(one, Tensor) or one.shape != values[0].shape:
            return one
    return torch.stack(list(values))
