"""What a defense's ``protect`` must keep to, tried before any work: a user's own class can do anything."""

import inspect
import random
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from benchmark.errors import CODE_ERRORS, UsageError, shown, users_fault
from benchmark.seeds import generators
from defenses.base import Defense, Update

SCALES = (1.0, 1e-3, 1e3)
"""Sizes of update that are tried: a bound that mixes clients shows only where it bites."""

FLIPPED = 0.01
"""Share of a tensor's entries that may differ where rounding alone differs: a quantiser may round one the other way."""


def check_protect(defense: Defense, update: Update, label: str) -> None:
    """Tries the contract of :meth:`defenses.base.Defense.protect`.

    The shared update has the names, shapes and types of the true one and is finite; the same generators give the same
    update; randomness comes from them alone; each client is treated alone; the true update is left as it is.

    Args:
        defense: on trial; it is called several times.
        update: of at least two clients, ``[V, ...]``, finite.
        label: of the defense, for people.

    Raises:
        UsageError: it breaks the contract; says how and where.
    """
    clients = len(next(iter(update.values())))
    for scale in SCALES:
        given = {name: scale * value for name, value in update.items()}
        before = _randomness()
        shared = protected(defense, given, _sources(range(clients)), label)
        if _randomness() != before:
            raise _breach(defense, label, "draws random numbers from a global generator: draw from generators alone")
        if bad := [name for name, value in given.items() if not torch.equal(value, scale * update[name])]:
            raise _breach(defense, label, f"changes the update that it was given in place ({bad[0]}): return a new one")
        if bad := [name for name, value in shared.items() if scale == 1 and not value.isfinite().all()]:
            raise _breach(defense, label, f"returns NaN or infinity ({bad[0]}) for an update that is finite")
        again = protected(defense, given, _sources(range(clients)), label)
        if bad := [n for n, value in shared.items() if not torch.equal(value.nan_to_num(), again[n].nan_to_num())]:
            raise _breach(
                defense,
                label,
                f"gives another result when it is called again with the same update and generators ({bad[0]}): keep "
                "nothing from call to call, and draw from generators alone",
            )
        for client in range(clients):
            one = {name: value[client : client + 1] for name, value in given.items()}
            alone = protected(defense, one, _sources(range(client, client + 1)), label)
            if bad := [name for name, value in shared.items() if _differs(value[client], alone[name][0])]:
                raise _breach(
                    defense,
                    label,
                    f"shares for a client what depends on the other clients ({bad[0]}): treat each of the V clients "
                    "alone, with its own generator",
                )


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
        raise users_fault(error, f"{label}: protect fails") from None
    if not isinstance(shared, dict):
        raise _breach(defense, label, f"must return the update as a dict, not {_kind(shared)}")
    if set(shared) != set(update):
        missing, extra = sorted(set(update) - set(shared)), sorted(map(str, set(shared) - set(update)))
        what = f"leaves out {missing[0]} (share zeros instead)" if missing else f"adds {extra[0]}"
        raise _breach(defense, label, f"{what}: it must return the names that it was given")
    for name, value in update.items():
        own = shared[name]
        if not isinstance(own, Tensor):
            raise _breach(defense, label, f"returns {_kind(own)} for {name}, not a tensor")
        for what, want, got in (("shape", list(value.shape), list(own.shape)), ("type", value.dtype, own.dtype)):
            if want != got:
                raise _breach(defense, label, f"returns the {what} {got} for {name}, not {want}")
        if own.device != value.device:
            raise _breach(defense, label, f"returns {name} on {own.device}, not on {value.device}")
    return {name: shared[name].detach() for name in update}


def _breach(defense: Defense, label: str, what: str) -> UsageError:
    method = inspect.unwrap(type(defense).protect)
    try:
        file, line = inspect.getsourcefile(method), inspect.getsourcelines(method)[1]
        where = f" ({shown(file)}:{line})" if file else ""
    except (OSError, TypeError):
        where = ""
    return UsageError(f"{label}: protect {what}{where}")


def _kind(value: object) -> str:
    return "None" if value is None else f"a {type(value).__name__}"


def _sources(clients: range) -> list[torch.Generator]:
    return generators(0, clients, "rehearsal")


def _randomness() -> tuple[bytes, str, str]:
    """The state of torch's, numpy's and Python's global generators."""
    return torch.get_rng_state().numpy().tobytes(), str(np.random.get_state()), str(random.getstate())


def _differs(company: Tensor, alone: Tensor) -> bool:
    """Whether a client's tensor differs by more than rounding from what it is without company."""
    size = company.abs().max().nan_to_num(1.0) if company.numel() else 0.0
    off = ~torch.isclose(company, alone, rtol=1e-3, atol=1e-5 * float(size), equal_nan=True)
    return int(off.sum()) > FLIPPED * off.numel()
