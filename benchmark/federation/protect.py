"""What a defense shares of an update, checked: a class of the user's own may return anything."""

from collections.abc import Sequence

import torch
from torch import Tensor

from benchmark.errors import CODE_ERRORS, UsageError, a_kind, users_fault, written
from defenses.base import Defense, Update


def protected(defense: Defense, update: Update, sources: Sequence[torch.Generator], label: str) -> Update:
    """The shared update, of the form of the true one.

    Args:
        defense: what each client does with its update.
        update: of V clients, ``[V, ...]``.
        sources: V generators.
        label: of the defense, for people.

    Raises:
        UsageError: ``protect`` raises, or returns something of another form.
    """
    try:
        shared = defense.protect(update, sources)
    except CODE_ERRORS as error:
        raise users_fault(error, f"{label}: protect fails", defense.protect) from None
    if not isinstance(shared, dict):
        raise breach(defense, label, f"must return the update as a dict, not {a_kind(shared)}")
    if set(shared) != set(update):
        missing, extra = sorted(set(update) - set(shared)), sorted(map(str, set(shared) - set(update)))
        what = f"leaves out {missing[0]} (share zeros instead)" if missing else f"adds {extra[0]}"
        raise breach(defense, label, f"{what}: it must return the names that it was given")
    for name, value in update.items():
        own = shared[name]
        if not isinstance(own, Tensor):
            raise breach(defense, label, f"returns {a_kind(own)} for {name}, not a tensor")
        for what, want, got in (("shape", list(value.shape), list(own.shape)), ("type", value.dtype, own.dtype)):
            if want != got:
                raise breach(defense, label, f"returns the {what} {got} for {name}, not {want}")
        if own.device != value.device:
            raise breach(defense, label, f"returns {name} on {own.device}, not on {value.device}")
    return {name: shared[name].detach() for name in update}


def breach(defense: Defense, label: str, what: str) -> UsageError:
    """The sentence that says how ``protect`` breaks its contract, with its line."""
    return UsageError(f"{label}: protect {what}{written(type(defense).protect)}")
