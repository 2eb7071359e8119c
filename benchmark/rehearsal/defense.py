"""What a defense must keep to, tried before any work: a user's own class can do anything."""

import pickle
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from attacks.gradients import gradients_and_buffers
from attacks.update import example_gradients
from benchmark.errors import CODE_ERRORS, UsageError, a_kind, one_line, users_fault, written
from benchmark.federation.protect import breach, drawn, of_one_image, together, trained_on, update_hook
from benchmark.metrics.misfit import NOISE
from benchmark.models.draw import drawing_from
from benchmark.rehearsal.noise import Share, in_another_order, no_such_noise
from benchmark.rehearsal.own_modules import imported_anew
from benchmark.seeds import generators
from defenses.base import Clients, Defense, KnownDefense, Update, flattened, own_hooks, unchanged

SCALES = (1.0, 1e-3, 1e3)
"""Sizes of update that are tried: a bound that mixes clients shows only where it bites."""

FLIPPED = 0.01
"""Share of a tensor's entries that may differ where rounding alone differs: a quantizer may round one the other way."""

OFF = 0.1
"""What an attacker's model may be off by, relative to what is shared of a parameter; its square, of all of them."""

NEARER = 0.7
"""How far simulate of the true update may be from what is shared, in parts of what it is of another client's."""

MIXED = 0.01
"""Relative difference of a batch's gradient from the mean of its images' that is more than rounding."""

SAME = 1e-5
"""Relative difference that is rounding."""

STEPS = (1e-3, 1e-2, 0.1, 0.5, 2.0, 10.0)
"""How far other updates are from the true one, in parts of another client's."""

MOVES = 0.01
"""How far simulate must move over such a step at least, in parts of how far it would if it went evenly."""

LOUDER = 3.0
"""How many times the noise that a defense adds an attacker may take it for."""

ENOUGH = 16
"""Entries of which enough is known to say that they move with others."""

GOES_WITH = 0.5
"""What the rates may differ by, relative to the usual one, at which most entries move with what was given."""

MIXED_AGAIN = 2
"""Batches that are mixed, and undone, on trial."""

UNLIKELY = 10.0
"""How many times what simulate leaves of it the noise that is drawn counts for at most."""


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
        alone = [call(row, range(one, one + 1)) for one, row in zip(clients, rows, strict=True)]
        return cls(scale, touched, drew, shared, again, alone)


def sharing(defense: Defense, label: str, by: Clients | None = None) -> Call:
    """Calls the hooks that make the shared update of a gradient of one image."""

    def call(update: Update, clients: range) -> Update:
        whose = by.take(clients[0]) if by is not None and len(clients) < len(by.images) else by
        return of_one_image(defense, update, _sources(clients), label, whose)

    return call


def batching(defense: Defense, label: str) -> Call:
    """Calls ``on_batch``."""

    def call(batch: Update, clients: range) -> Update:
        images, labels = trained_on(defense, batch["images"], batch["labels"], _sources(clients), label)
        return {"images": images, "labels": labels}

    return call


def drawing(defense: Defense, label: str, by: Clients) -> Call:
    """Calls ``on_forward``."""
    return lambda batch, clients: drawn(defense, by.model, batch["images"].shape[1], _sources(clients), label)


def adding(defense: Defense, label: str) -> Call:
    """Calls ``on_example_gradients``."""
    return lambda of_images, clients: together(defense, of_images, _sources(clients), label)


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
                {scale: of_one_image(defense, one, _sources(sources), label, by) for scale, one in given.items()}
            )
    for scale, first in found[0].items():
        if bad := [n for n, v in first.items() if not torch.equal(v.nan_to_num(), found[1][scale][n].nan_to_num())]:
            raise breach(
                defense,
                label,
                f"shares something else once it has seen other updates ({bad[0]}): keep nothing from call to call, "
                "neither in the object nor in its class or module",
            )


def check_known(defense: Defense, known: KnownDefense, true: Update, label: str, by: Clients | None = None) -> None:
    """Tries the attacker's model of a defense, against what the defense shares.

    Args:
        defense: that keeps to the contract of ``protect``.
        known: the attacker's model of it.
        true: update of V clients, ``[V, ...]``, finite.
        label: of the defense, for people.
        by: the clients, for hooks that look at them.

    Raises:
        UsageError: the model is not of the right form, an attacker cannot use it, or it is not that of this defense.
    """
    check_simulation(defense, known, true, label, by)
    if false := removed_but_shared(known, true, read_by(defense, known, label, by)):
        raise UsageError(
            f"kept of the attacker's model of {label} says that entries of {false} are removed, but protect shares "
            f"them, and they move with the gradient: give a kept that is 1 for them"
            f"{written(known.kept) or written(type(defense).known_to_attacker)}"
        )


def read_by(defense: Defense, known: KnownDefense, label: str, by: Clients | None) -> Share:
    """What clients share, as an attacker reads it who knows the defense."""

    def share(update: Update, sources: Sequence[torch.Generator]) -> Update:
        sent = of_one_image(defense, update, sources, label, by)
        return known.read(by.model, by.weights, sent)[1] if known.read and by is not None else sent

    return share


def check_simulation(
    defense: Defense, known: KnownDefense, true: Update, label: str, by: Clients | None = None
) -> None:
    """The part of :func:`check_known` that is about what the attacker simulates, and takes for noise."""
    clients = range(len(next(iter(true.values()))))
    model, method = f"of the attacker's model of {label}", written(type(defense).known_to_attacker)
    for name in ("simulate", "weight", "kept", "gradients"):
        function = getattr(known, name)
        if not callable(function) and (name in ("simulate", "weight") or function is not None):
            raise UsageError(f"{name} {model} must be a function, not {a_kind(function)}{method}")
    share = read_by(defense, known, label, by)
    sent = of_one_image(defense, true, _sources(clients), label, by)
    if bad := [name for name, value in sent.items() if not value.isfinite().all()]:
        raise breach(defense, label, f"returns NaN or infinity once it has been called before ({bad[0]})")
    shared, others = share(true, _sources(clients)), share(true, generators(1, clients, "rehearsal"))
    check_form(shared, true, f"read {model}", written(known.read))
    dummy = {key: value.clone().requires_grad_() for key, value in true.items()}
    before = {key: value.clone() for key, value in shared.items()}
    simulated, kept = known.simulate(dummy, shared), known.kept_entries(shared)
    if any(not torch.equal(shared[key], value) for key, value in before.items()):
        raise UsageError(
            f"the attacker's model of {label} changes the observed update: work on a copy of it"
            + (written(known.simulate) or written(known.kept))
        )
    check_form(simulated, true, f"simulate {model}", written(known.simulate))
    check_form(kept, true, f"kept {model}", written(known.kept) or written(known.simulate))
    # In random parts: of what adds up to nothing, as centered entries do, the sum has no slope.
    source = torch.Generator().manual_seed(0)
    parts = [torch.randn(value.shape, generator=source).to(value) * value for value in simulated.values()]
    total = torch.stack([part.sum() for part in parts]).sum()
    slopes = (
        torch.autograd.grad(total, list(dummy.values()), allow_unused=True, materialize_grads=True)
        if total.requires_grad
        else ()
    )
    if any(bool(value.any()) for value in shared.values()) and not any(bool(slope.any()) for slope in slopes):
        raise UsageError(
            f"simulate {model} has no slope in the attacker's own gradient, so that no attack could use it: give it "
            f"one, as in value + (rounded - value).detach(){written(known.simulate)}"
        )
    if known.undo and by is not None:
        check_undo(defense, known, by, label)
    weight = known.weight(shared)
    if not isinstance(weight, Tensor) or weight.shape != (len(clients),) or not bool((weight > 0).all()):
        raise UsageError(f"weight {model} must be one number above 0 for each victim{written(known.weight)}")
    noise = noise_of(known, shared, model, method)
    off = {key: ((shared[key] - value) * (kept[key] != 0)).detach() for key, value in simulated.items()}
    entries = torch.stack([flattened(value != 0).sum(1) for value in kept.values()]).sum(0).clamp(min=1)
    apart, size = norm(off), norm({key: value * (kept[key] != 0) for key, value in shared.items()})
    # Of noise that is mostly small, as of rounding to few levels, a likelihood leaves less than its standard deviation,
    # but it leaves some: what is drawn anew and made up for wholly is no noise.
    both = {key: (value != 0) & (kept[key] != 0) for key, value in known.kept_entries(others).items()}
    drawn = norm({key: (shared[key] - others[key]) * of_both for key, of_both in both.items()}) / 2**0.5
    typical = float((apart.maximum(drawn.minimum(UNLIKELY * apart)) / entries.sqrt()).max())
    if (loudest := float(noise.max())) > LOUDER * typical + 1e-6 * float(size.max()):
        raise UsageError(
            f"noise_std {model} is {loudest:g}, but what protect shares is {typical:.1g} from simulate of the true "
            f"update, or from what it shares next time: give the noise that protect adds, 0 for none{method}"
        )
    if float(noise.max()) > 0:
        another = share(in_another_order(true, 0), generators(1, clients, "rehearsal"))
        beside = known.simulate(true, another)
        alone = all(torch.equal(value, beside[key]) for key, value in known.simulate(true, shared).items())
        if said := no_such_noise(known, true, share, alone):
            raise UsageError(f"noise_std {model} is {float(noise.max()):g}, but {said}{method}")
    if known.simulate is unchanged:
        return  # an attacker who makes no use of the defense, of which the record says so
    other = {key: value.roll(1, 0) for key, value in true.items()}
    from_true, from_other = (
        norm({key: shared[key] - value for key, value in known.simulate(one, shared).items()}) for one in (true, other)
    )
    loud = (NOISE * sum(value[0].numel() for value in true.values())) ** 0.5 * noise
    if bool((from_true > NEARER * from_other + loud + SAME * size).any()):
        raise UsageError(
            f"simulate {model} is as far from what protect shares with the true update as with another client's: make "
            f"it do what protect does, as far as the attacker can know{written(known.simulate) or method}"
        )
    if blind := hides_behind_observed(defense, known, true, shared, label, by):
        raise UsageError(
            f"simulate {model} hardly tells {blind} from what protect shares with the true one, but protect does: take "
            f"of the observed update no more than which entries were removed, or its size"
            f"{written(known.simulate) or method}"
        )
    if any(not torch.equal(value, others[key]) for key, value in shared.items()):
        return  # at random
    for key, value in off.items():
        slack = OFF * norm({key: shared[key] * (kept[key] != 0)}) + OFF**2 * size
        if bool((norm({key: value}) > slack + LOUDER * noise * flattened(value)[0].numel() ** 0.5).any()):
            raise UsageError(
                f"simulate {model} makes another update of the true one than protect shares ({key}): make it do what "
                f"protect does{written(known.simulate) or method}"
            )


def removed_but_shared(known: KnownDefense, true: Update, share: Share) -> str | None:
    """The parameter some of whose entries the attacker's model leaves out of equations, although they are shared.

    That is: they are the same for other draws, and move with the true ones.

    Args:
        known: the attacker's model.
        true: update of V clients, ``[V, ...]``.
        share: what they share, as the attacker reads it.
    """
    clients, source = range(len(next(iter(true.values())))), torch.Generator().manual_seed(0)
    # Each in parts of its own size, as others of its tensor may be much larger.
    step = {key: MOVES * value * torch.randn(value.shape, generator=source).to(value) for key, value in true.items()}
    moved = {key: value + step[key] for key, value in true.items()}
    here, again, there = (
        share(of, generators(seed, clients, "rehearsal")) for of, seed in ((true, 0), (true, 1), (moved, 0))
    )
    for key, kept in known.kept_entries(here).items():
        left_out = (kept == 0) & (here[key] != 0) & (here[key] == again[key]) & (step[key] != 0)
        rates = ((there[key] - here[key])[left_out] / step[key][left_out]).double()
        if rates.numel() >= ENOUGH:
            usual = rates.median()
            if bool(((rates - usual).abs() < GOES_WITH * usual.abs()).double().mean() > 1 / 2):
                return key
    return None


def check_undo(defense: Defense, known: KnownDefense, by: Clients, label: str) -> None:
    """UsageError where what undoes a mixing gives no batches, changes what it is given, or undoes nothing.

    Args:
        defense: that mixes batches by ``on_batch``.
        known: the attacker's model of it.
        by: the clients, whose images count; labels are of as many classes as there are.
        label: of the defense, for people.
    """
    assert known.undo is not None
    model, (count, classes) = f"of the attacker's model of {label}", by.labels.shape[1:]
    images = by.images.clamp(0, 1)
    labels = torch.eye(classes).to(by.labels)[torch.arange(count) % classes].expand(len(images), -1, -1)
    before = after = 0.0
    for draw in range(MIXED_AGAIN):
        sources = generators(draw, range(len(images)), "rehearsal")
        given = trained_on(defense, images, labels, sources, label) if "on_batch" in defense.hooks else (images, labels)
        kept = tuple(value.clone() for value in given)
        made: Any = known.undo(*kept)
        if any(not torch.equal(one, other) for one, other in zip(kept, given, strict=True)):
            raise UsageError(f"undo {model} changes what it is given: work on a copy of it{written(known.undo)}")
        if made is None:
            return
        is_pair = isinstance(made, tuple) and len(made) == 2 and all(isinstance(one, Tensor) for one in made)
        if not (
            is_pair
            and made[0].shape == images.shape
            and bool(made[0].isfinite().all())
            and made[1].shape == images.shape[:2]
            and made[1].dtype == torch.long
            and bool(((made[1] >= 0) & (made[1] < classes)).all())
        ):
            raise UsageError(
                f"undo {model} must return finite images {list(images.shape)} and labels {list(images.shape[:2])}, "
                f"int64 and from 0 to {classes - 1}, or None{written(known.undo)}"
            )
        before, after = before + from_nearest(images, given[0]), after + from_nearest(images, made[0])
    if after > NEARER * before + SAME:
        raise UsageError(
            f"undo {model} makes of the images that clients train on none that are nearer to the private ones: let it "
            f"undo what on_batch does, or give none{written(known.undo)}"
        )


def from_nearest(images: Tensor, found: Tensor) -> float:
    """How far images are from the nearest of those that were found of their batch, both ``[V, N, C, H, W]``, as the
    root of the mean square of a pixel and the mean of all images."""
    apart = torch.cdist(images.flatten(2).double(), found.flatten(2).double())
    return float(apart.amin(2).mean()) / images[0, 0].numel() ** 0.5


def noise_of(known: KnownDefense, shared: Update, model: str, method: str) -> Tensor:
    """Standard deviation of the noise of each victim, ``[V]``; UsageError where the model gives something else."""
    given = known.noise(shared)
    like = next(iter(shared.values()))
    if isinstance(given, Tensor) and given.shape == (len(like),) and bool(((given >= 0) & given.isfinite()).all()):
        return given
    if isinstance(given, int | float) and 0 <= given < float("inf"):
        return torch.full((len(like),), float(given), dtype=torch.double, device=like.device)
    what = f" for each victim, not {given.tolist()}" if isinstance(given, Tensor) else f", not {given!r}"
    raise UsageError(f"noise_std {model} must be a number of at least 0{what}{method}")


def hides_behind_observed(
    defense: Defense, known: KnownDefense, true: Update, shared: Update, label: str, by: Clients | None = None
) -> str | None:
    """Which update simulate takes for the true one, although protect would have shared something else of it.

    A simulate that returns what was observed, somewhere or everywhere, would make an attack that ends there look
    converged. So over steps towards another client's update, and to others of its direction, simulate must move
    where protect does, with the same draws.

    Args:
        defense: that keeps to the contract of ``protect``.
        known: the attacker's model of it.
        true: update of V clients, ``[V, ...]``.
        shared: what the defense shares of it.
        label: of the defense, for people.
        by: the clients, for hooks that look at them.
    """
    sources = range(len(next(iter(true.values()))))
    size, at_true = norm(shared), known.simulate(true, shared)

    def moved(other: Update) -> tuple[Tensor, Tensor]:
        """How far protect and simulate are from what they make of the true update, ``[V]`` each."""
        of_client = of_one_image(defense, other, _sources(sources), label, by)
        simulated = known.simulate(other, shared)
        return tuple(  # type: ignore[return-value] # two
            norm({key: value - at[key] for key, value in made.items()})
            for made, at in ((of_client, shared), (simulated, at_true))
        )

    def stepped(step: float) -> Update:
        return {key: value + step * (value.roll(1, 0) - value) for key, value in true.items()}

    whole = moved(stepped(1.0))[1]
    for step in STEPS:
        for name, other in (
            (f"an update that is {step:g} of the way to another client's", stepped(step)),
            (f"another client's update times {step:g}", {k: step * v.roll(1, 0) for k, v in true.items()}),
        ):
            of_client, simulated = moved(other)
            least = torch.minimum(min(step, 1.0) * torch.maximum(whole, MOVES * of_client), of_client)
            if bool(((of_client > SAME * size) & (simulated < MOVES * least)).any()):
                return name
    return None


def check_form(update: object, true: Update, what: str, where: str) -> None:
    """UsageError where what an attacker's model gives has not the names and shapes of the update, or is not finite.

    Args:
        update: what it gives.
        true: the update.
        what: gave it, for people.
        where: that is written.
    """
    if not isinstance(update, dict) or set(update) != set(true):
        raise UsageError(f"{what} must return every name of the update{where}")
    for key, value in update.items():
        if not isinstance(value, Tensor) or value.shape != true[key].shape:
            shape = list(value.shape) if isinstance(value, Tensor) else a_kind(value)
            raise UsageError(f"{what} gives {shape} for {key}, not {list(true[key].shape)}{where}")
        if not value.isfinite().all():
            raise UsageError(f"{what} gives NaN or infinity for {key}{where}")


def norm(update: Update) -> Tensor:
    """L2 norm of each victim's update, ``[V]``, which may be of numbers too small to be squared."""
    return torch.stack([flattened(value).double().norm(dim=1) for value in update.values()]).norm(dim=0)


def _sources(clients: range) -> list[torch.Generator]:
    return generators(0, clients, "rehearsal")


def _randomness() -> tuple[bytes, bytes, bytes]:
    """The state of torch's, numpy's and Python's global generators."""
    return torch.get_rng_state().numpy().tobytes(), pickle.dumps(np.random.get_state()), pickle.dumps(random.getstate())


def _differs(company: Tensor, alone: Tensor) -> bool:
    """Whether a client's tensor differs by more than rounding from what it is without company."""
    size = company.abs().max().nan_to_num(1.0) if company.numel() else 0.0
    off = ~torch.isclose(company, alone, rtol=1e-3, atol=1e-5 * float(size), equal_nan=True)
    return int(off.sum()) > FLIPPED * off.numel()
