"""What the hooks of a defense must keep to, tried before any work: a user's own class can do anything."""

import pickle
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import Tensor

from attacks.network.gradients import gradients_and_buffers
from attacks.update import example_gradients
from benchmark.errors import CODE_ERRORS, UsageError, one_line, users_fault, written
from benchmark.federation.protect import breach, drawn, of_one_image, together, trained_on, update_hook
from benchmark.models.draw import drawing_from
from benchmark.rehearsal.own_modules import imported_anew
from benchmark.seeds import generators
from defenses.base import Clients, Defense, Update, flattened, own_hooks

SCALES = (1.0, 1e-3, 1e3)
"""Sizes of update that are tried: a bound that mixes clients shows only where it bites."""

FLIPPED = 0.01
"""Share of a tensor's entries that may differ where rounding alone differs: a quantizer may round one the other way."""

MIXED = 0.01
"""Relative difference of a batch's gradient from the mean of its images' that is more than rounding."""


Call = Callable[[Update, range], Update]
"""What some clients make, by a hook, of what they are given, ``[V, ...]`` each."""


@dataclass(frozen=True)
class Calls:
    """What a hook does with what it is given at one size.

    Attributes:
        scale: of what it is given, in parts of the true one.
        touched: names of what it changed in what it was given.
        drew: whether it drew from a global generator.
        shared: what it returned.
        again: what it returned when it was called once more with the same.
        alone: what it returned for each client alone.
    """

    scale: float
    touched: list[str]
    drew: bool
    shared: Update
    again: Update
    alone: list[Update]

    @classmethod
    def of(cls, call: Call, given: Update, scale: float = 1.0) -> Self:
        """Calls a hook.

        Args:
            call: of the hook.
            given: to at least two clients, ``[V, ...]``, finite.
            scale: of what it is given.

        Raises:
            UsageError: it raises, or returns something of another form.
        """

        def scaled() -> Update:
            return {name: scale * value for name, value in given.items()}

        clients, first = range(len(next(iter(given.values())))), scaled()
        before = _randomness()
        shared = call(first, clients)
        drew = _randomness() != before
        touched = [name for name, value in scaled().items() if not torch.equal(first[name], value)]
        again = call(scaled(), clients)
        rows = [{name: value[one : one + 1] for name, value in scaled().items()} for one in clients]
        # The last client first: else what changes from client to client would be the same of each client again.
        alone = [call(rows[one], range(one, one + 1)) for one in reversed(clients)][::-1]
        return cls(scale, touched, drew, shared, again, alone)


def sharing(defense: Defense, label: str, by: Clients | None = None) -> Call:
    """Calls the hooks that make the shared update of a gradient of one image."""

    def call(update: Update, clients: range) -> Update:
        whose = by.take(clients[0]) if by is not None and len(clients) < len(by.images) else by
        return of_one_image(defense, update, sources_of(clients), label, whose)

    return call


def batching(defense: Defense, label: str) -> Call:
    """Calls ``on_batch``."""

    def call(batch: Update, clients: range) -> Update:
        images, labels = trained_on(defense, batch["images"], batch["labels"], sources_of(clients), label)
        return {"images": images, "labels": labels}

    return call


def drawing(defense: Defense, label: str, by: Clients) -> Call:
    """Calls ``on_forward``."""
    return lambda batch, clients: drawn(defense, by.model, batch["images"].shape[1], sources_of(clients), label)


def adding(defense: Defense, label: str) -> Call:
    """Calls ``on_example_gradients``."""
    return lambda of_images, clients: together(defense, of_images, sources_of(clients), label)


def draws_from_its_generators(calls: Calls) -> str | None:
    return "draws random numbers from a global generator: draw from generators alone" if calls.drew else None


def leaves_its_argument_alone(calls: Calls) -> str | None:
    if not calls.touched:
        return None
    return f"changes the update that it was given in place ({calls.touched[0]}): return a new one"


def is_finite(calls: Calls) -> str | None:
    bad = [name for name, value in calls.shared.items() if calls.scale == 1 and not value.isfinite().all()]
    return f"returns NaN or infinity ({bad[0]}) for an update that is finite" if bad else None


def does_the_same_again(calls: Calls) -> str | None:
    again = calls.again
    bad = [n for n, value in calls.shared.items() if not torch.equal(value.nan_to_num(), again[n].nan_to_num())]
    if not bad:
        return None
    return (
        f"gives another result when it is called again with the same update and generators ({bad[0]}): keep nothing "
        "from call to call, and draw from generators alone"
    )


def treats_clients_alone(calls: Calls) -> str | None:
    for client, alone in enumerate(calls.alone):
        if bad := [name for name, value in calls.shared.items() if _differs(value[client], alone[name][0])]:
            return (
                f"shares for a client what depends on the other clients ({bad[0]}): treat each of the V clients alone, "
                "with its own generator"
            )
    return None


CONTRACT: dict[str, Callable[[Calls], str | None]] = {
    "draws random numbers from its generators alone": draws_from_its_generators,
    "leaves the update that it is given as it is": leaves_its_argument_alone,
    "shares finite numbers": is_finite,
    "shares the same for the same update and generators": does_the_same_again,
    "treats each client alone": treats_clients_alone,
}
"""The contract of every hook, but for the form of what it returns; each says what is wrong."""


def check_fits(defense: Defense, names: Sequence[str], label: str, network: str) -> None:
    """Looks whether a network has what a defense needs, before any work is done.

    Args:
        defense: of which this is asked.
        names: of what clients share of the network.
        label: of the defense, for people.
        network: likewise.

    Raises:
        UsageError: it has not; says what to do.
    """
    try:
        defense.check(names)
    except ValueError as error:
        raise UsageError(f"{label} does not fit {network}: {one_line(error)}{written(type(defense).check)}") from None
    except CODE_ERRORS as error:
        raise users_fault(error, f"{label}: check fails", defense.check) from None


def check_protect(defense: Defense, update: Update, label: str, by: Clients | None = None) -> None:
    """Tries the contracts of all hooks of a defense.

    Args:
        defense: on trial; it is called several times.
        update: gradients of at least two clients, ``[V, ...]``, finite.
        label: of the defense, for people.
        by: the clients, for hooks that look at them.

    Raises:
        UsageError: it breaks one; says how and where.
    """
    if not own_hooks(type(defense)):
        raise UsageError(
            f"{label} has no hook of its own, and so does nothing: give it protect, on_update, on_batch, on_model or "
            f"on_example_gradients{written(type(defense))}"
        )
    if {"on_forward", "on_example_gradients"} <= defense.hooks:
        where = written(type(defense))
        raise UsageError(f"{label} has on_forward and on_example_gradients, which do not go together: drop one{where}")
    if "on_example_gradients" in defense.hooks and by is not None:
        check_examples(label, by)
    for hook, calls in calls_of(defense, update, label, by):
        for wrong in CONTRACT.values():
            if said := wrong(calls):
                raise breach(defense, label, said, hook)


def check_examples(label: str, by: Clients) -> None:
    """Looks whether the gradient of a batch is the mean of those of its images alone.

    A network that draws at random, as in Dropout, is taken at its word.

    Args:
        label: of the defense that needs them, for people.
        by: the clients.

    Raises:
        UsageError: it is not.
    """

    def of_batch(seed: int) -> Update:
        with drawing_from(seed, by.images.device):
            return gradients_and_buffers(by.model, by.weights, {}, by.images, by.labels, False)[0]

    once, again = of_batch(0), of_batch(1)
    if any(not torch.equal(value, again[name]) for name, value in once.items()):
        return
    of_images = example_gradients(by.model, by.weights, by.images, by.labels)
    off = norm({name: value.mean(1) - once[name] for name, value in of_images.items()})
    if bool((off > MIXED * norm(once)).any()):
        raise UsageError(
            f"{label} needs the gradient of each image, but that of {type(by.model).__name__} depends on the other "
            "images of the batch: give a network that treats each image alone"
        )


def calls_of(defense: Defense, update: Update, label: str, by: Clients | None = None) -> Iterator[tuple[str, Calls]]:
    """The calls of each hook on trial, and its name; that of the shared update is called at several sizes.

    Args:
        defense: on trial.
        update: gradients of at least two clients, ``[V, ...]``, finite.
        label: of the defense, for people.
        by: the clients, for hooks that look at them.

    Raises:
        UsageError: a hook raises, or returns something of another form.
    """
    if "on_batch" in defense.hooks and by is not None:
        yield "on_batch", Calls.of(batching(defense, label), {"images": by.images, "labels": by.labels})
    if "on_forward" in defense.hooks and by is not None:
        yield "on_forward", Calls.of(drawing(defense, label, by), {"images": by.images})
    if "on_example_gradients" in defense.hooks:
        pairs = {name: torch.stack([value, value.roll(1, 0)], 1) for name, value in update.items()}
        yield "on_example_gradients", Calls.of(adding(defense, label), pairs)
    for scale in SCALES:
        yield update_hook(defense), Calls.of(sharing(defense, label, by), update, scale)


def check_memory(make: Callable[[], Defense], update: Update, label: str, by: Clients | None = None) -> None:
    """Tries whether what a defense shares depends on the updates that it has seen before.

    What it keeps can be in its class or in a module of the user's: so those are imported anew, twice, and the updates
    come in two orders.

    Args:
        make: makes the defense, from its import path.
        update: of at least two clients, ``[V, ...]``, finite.
        label: of the defense, for people.
        by: the clients, for hooks that look at them.

    Raises:
        UsageError: it does.
    """
    sources = range(len(next(iter(update.values()))))
    found: list[dict[float, Update]] = []
    for order in (SCALES, SCALES[::-1]):
        with imported_anew():
            try:
                defense = make()
            except UsageError:  # some module can be imported only once
                return
            given = {scale: {name: scale * value for name, value in update.items()} for scale in order}
            found.append(
                {scale: of_one_image(defense, one, sources_of(sources), label, by) for scale, one in given.items()}
            )
    for scale, first in found[0].items():
        if bad := [n for n, v in first.items() if not torch.equal(v.nan_to_num(), found[1][scale][n].nan_to_num())]:
            raise breach(
                defense,
                label,
                f"shares something else once it has seen other updates ({bad[0]}): keep nothing from call to call, "
                "neither in the object nor in its class or module",
            )


def norm(update: Update) -> Tensor:
    """L2 norm of each victim's update, ``[V]``, which may be of numbers too small to be squared."""
    return torch.stack([flattened(value).double().norm(dim=1) for value in update.values()]).norm(dim=0)


def sources_of(clients: range) -> list[torch.Generator]:
    """Generators of clients on trial, the same at each call."""
    return generators(0, clients, "rehearsal")


def _randomness() -> tuple[bytes, bytes, bytes]:
    """The state of torch's, numpy's and Python's global generators."""
    return torch.get_rng_state().numpy().tobytes(), pickle.dumps(np.random.get_state()), pickle.dumps(random.getstate())


def _differs(company: Tensor, alone: Tensor) -> bool:
    """Whether a client's tensor differs by more than rounding from what it is without company."""
    size = company.abs().max().nan_to_num(1.0) if company.numel() else 0.0
    off = ~torch.isclose(company, alone, rtol=1e-3, atol=1e-5 * float(size), equal_nan=True)
    return int(off.sum()) > FLIPPED * off.numel()
