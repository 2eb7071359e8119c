"""The attacker's model of a defense, tried against what the defense shares: who has a wrong one finds nothing."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from benchmark.errors import UsageError, a_kind, written
from benchmark.federation.protect import breach, of_one_image, trained_on
from benchmark.metrics.misfit import NOISE
from benchmark.rehearsal.hooks import norm, sources_of
from benchmark.rehearsal.noise import Share, in_another_order, no_such_noise
from benchmark.seeds import generators
from defenses.base import Clients, Defense, KnownDefense, Update, flattened, unchanged

SAME = 1e-5
"""Relative difference that is rounding."""

OFF = 0.1
"""What an attacker's model may be off by, relative to what is shared of a parameter; its square, of all of them."""

NEARER = 0.7
"""How far simulate of the true update may be from what is shared, in parts of what it is of another client's."""

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
    sent = of_one_image(defense, true, sources_of(clients), label, by)
    if bad := [name for name, value in sent.items() if not value.isfinite().all()]:
        raise breach(defense, label, f"returns NaN or infinity once it has been called before ({bad[0]})")
    shared, others = share(true, sources_of(clients)), share(true, generators(1, clients, "rehearsal"))
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
        of_client = of_one_image(defense, other, sources_of(sources), label, by)
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
