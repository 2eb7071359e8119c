"""Whether what a defense adds is the noise that the attacker's model of it takes it for.

An attacker who weighs every entry by one standard deviation finds little where the noise is the same for every client,
the same for many entries, or not there at all on some of them, and a board would call that protection.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from benchmark.seeds import generators
from defenses.base import KnownDefense, Update, flattened

DRAWS = 8
"""How often each client shares an update with a noise of its own."""

ENTRIES = 512
"""First entries of a tensor whose noise is compared: there a key that begins anew with each tensor is seen."""

MOST = 8192
"""About how many entries of a tensor are looked at."""

MANY = 65_536
"""Entries of a tensor that it takes long to shuffle."""

SAME = 0.5
"""Correlation of the noise of two clients or draws that is no chance, where :data:`SURE` agrees."""

SURE = 6.0
"""Standard deviations that are no chance."""

TOGETHER = 1.75
"""How many times the squared correlation of independent entries is that of entries that go together, at least: with as
many draws the mean over pairs of such is 1 with a standard deviation of 0.13."""

QUIET = 1e-3
"""Noise, or variance of an entry's over all draws of a client, in parts of what the model says, that is none."""

CLOSE = 0.01
"""Mean square of what lies between two numbers that are the same, in parts of that of one of them."""

DIGITS = 1e-6
"""Size of a noise in parts of an entry below which rounding hides it."""

LEAST = 5
"""Entries of a tensor without noise that are no chance."""

MODEL = "model it by read or simulate, or give no_adaptive_attack in place of noise_std"
"""What to do about it."""

Share = Callable[[Update, Sequence[torch.Generator]], Update]
"""What V clients share of true updates ``[V, ...]``, as the attacker reads it."""


def no_such_noise(known: KnownDefense, true: Update, share: Share, alone: bool) -> str | None:
    """How the noise of a defense differs from the attacker's model of it, as the end of a sentence; None if it is so.

    Each client shares its update several times, the entries of each tensor in another order, as a rounding error is
    another one for another update.

    Args:
        known: the attacker's model.
        true: update of V clients, ``[V, ...]``.
        share: what they share, for an update and V sources of randomness.
        alone: whether the noise is all that stands between what is shared and what is simulated, whatever was observed.
    """
    clients = range(len(next(iter(true.values()))))
    noises: list[Update] = []
    telling: dict[str, Tensor] = {}
    given, sent = ({name: list[Tensor]() for name in true} for _ in range(2))
    for draw in range(DRAWS):
        update = in_another_order(true, draw)
        shared = share(update, generators(2 + draw, clients, "rehearsal"))
        std = torch.as_tensor(known.noise(shared), dtype=torch.double).expand(len(clients))
        if not bool((std > 0).all()):
            continue
        simulated, kept = known.simulate(update, shared), known.kept_entries(shared)
        noises.append({})
        for name, value in shared.items():
            chosen = some_entries(value[0].numel()).to(value.device)
            seen, made, is_kept, own = (flattened(of[name])[:, chosen] for of in (shared, simulated, kept, update))
            of_one, here = std.to(value.device)[:, None], (is_kept != 0) & seen.isfinite()
            noises[-1][name] = (seen - made).detach().double() * here / of_one
            told = (here & (of_one > DIGITS * seen.abs())).all(0)
            telling[name] = told & telling.get(name, torch.ones_like(told))
            given[name].append(own.double() / of_one)
            sent[name].append(seen.double() / of_one)
    if len(noises) < 2:
        return None
    of_each = {name: torch.cat([noise[name] for noise in noises]) for name in true}
    if alone:
        for name, value in of_each.items():
            each = value.view(len(noises), len(clients), -1)
            exact = without_noise(each, torch.stack(given[name]), torch.stack(sent[name])) & telling[name]
            if int(exact.sum()) >= min(LEAST, value.shape[1]):
                of_all = f"to {int(exact.sum())} of {value.shape[1]} entries of {name}"
                return f"protect adds none, or always the same, {of_all}: {MODEL}"
    clients_apart = torch.cat([levelled(value[:, :ENTRIES], len(clients)) for value in of_each.values()], 1)
    squared, by_chance = correlations(clients_apart)
    if bool(((squared > SAME**2) & (squared > SURE**2 * by_chance)).any()):
        return f"protect adds the same to what several clients share: draw it from generators, or {MODEL}"
    if alone:
        beside = [
            torch.nn.functional.pad(v[:, :ENTRIES], (0, ENTRIES - v[:, :ENTRIES].shape[1])) for v in of_each.values()
        ]
        of_tensors, of_none = correlations(torch.stack([levelled(value, len(clients)).flatten() for value in beside]))
        seen = by_chance > 0
        ratio = (squared[seen] / by_chance[seen]).mean() if bool(seen.any()) else torch.tensor(0.0)
        is_product = any(
            goes_by_rows(levelled(value, len(clients)).view(len(value), len(true[name][0]), -1))
            for name, value in of_each.items()
            if true[name].dim() > 2 and value.shape[1] == true[name][0].numel()
        )
        if bool((of_tensors > SURE**2 * of_none).any()) or bool(ratio > TOGETHER) or is_product:
            return f"what protect adds to one entry tells what it adds to others: draw each by itself, or {MODEL}"
    return None


def without_noise(noise: Tensor, given: Tensor, sent: Tensor) -> Tensor:
    """The entries ``[D]`` that get no noise, or always the same, and tell something.

    That is: what is shared of them is the true one, or anything but 0. An entry that a rounding leaves at 0 in every
    draw, although it goes up once in a while, is none.

    Args:
        noise: of each draw and client, in parts of what the model says, ``[R, V, D]``.
        given: the true entries, in the same parts.
        sent: what is shared of them, in the same parts.
    """
    quiet = noise.var(0).mean(0) < QUIET
    exact = noise.square().mean((0, 1)) < CLOSE * given.square().mean((0, 1))
    fixed = (sent.var(0) < CLOSE * sent.mean(0).square()).any(0)
    return quiet & (exact | fixed)


def correlations(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Of each two rows ``[R, D]`` the square of their correlation, and what it is on average with signs at random."""
    sizes = rows.norm(dim=1).clamp(min=torch.finfo(rows.dtype).tiny)
    one, other = torch.triu_indices(len(rows), len(rows), 1, device=rows.device)
    products, squares = rows @ rows.T, rows.square() @ rows.square().T
    scale = (sizes[one] * sizes[other]).square()
    return products[one, other].square() / scale, squares[one, other] / scale


def goes_by_rows(noise: Tensor) -> bool:
    """Whether noise ``[R, M, N]`` has larger singular values than with signs at random, as an outer product has."""
    source = torch.Generator().manual_seed(0)
    signs = (torch.randint(2, noise.shape, generator=source) * 2 - 1).to(noise)
    largest, by_chance = (torch.linalg.matrix_norm(one, ord=2).square().mean() for one in (noise, noise * signs))
    return bool(largest > TOGETHER * by_chance)


def in_another_order(update: Update, draw: int) -> Update:
    """The update with the entries of each tensor of each client shuffled, or moved on where they are many."""
    source = torch.Generator().manual_seed(draw)

    def moved(row: Tensor) -> Tensor:
        if row.shape[0] > MANY:
            return row.roll(int(torch.randint(row.shape[0], (), generator=source)))
        return row[torch.randperm(row.shape[0], generator=source).to(row.device)]

    return {name: torch.stack([moved(row) for row in flattened(v)]).view_as(v) for name, v in update.items()}


def some_entries(count: int) -> Tensor:
    """Which entries of a tensor are looked at: the first ones, and of a large one others at even distances."""
    others = torch.arange(min(ENTRIES, count), count, max(1, count // MOST))
    return torch.cat([torch.arange(min(ENTRIES, count)), others])


def levelled(noise: Tensor, clients: int) -> Tensor:
    """The noise of a tensor, ``[R, D]``, with a mean square of 1, so that each counts.

    It is without what is rounding, and without the mean of each client, which is no noise: that of a coarse rounding
    error is that of the gradient.

    Args:
        noise: of R draws, client after client.
        clients: V, of which R is a multiple.
    """
    is_drawn = noise.abs() >= QUIET
    of_clients, counts = (
        (noise * is_drawn).view(-1, clients, noise.shape[1]),
        is_drawn.view(-1, clients, noise.shape[1]),
    )
    mean = of_clients.sum((0, 2), keepdim=True) / counts.sum((0, 2), keepdim=True).clamp(min=1)
    drawn = ((of_clients - mean) * counts).view(noise.shape)
    size = drawn.square().mean().sqrt()
    return drawn / torch.where(size == 0, 1.0, size)
