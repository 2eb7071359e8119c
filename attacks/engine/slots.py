"""Which victim is in which row of a batch, as victims leave and others take their places."""

import torch
from torch import Tensor


def refill(
    victims: list[int], done: list[int], waiting: list[int], most: int
) -> tuple[list[int], list[int], list[int]]:
    """Takes the rows in ``done`` out and lets waiting victims in, moving as few rows as can be.

    A waiting victim takes the row of one that is done; rows that are left over are filled from the end.

    Args:
        victims: in each of the rows until now.
        done: rows whose victims leave.
        waiting: victims, in their order.
        most: rows there may be.

    Returns:
        For each of the rows from now on its former place, -1 where a victim enters; the victims in them; and those of
        them that enter, in the order of their rows.
    """
    kept = len(victims) - len(done)
    entering = waiting[: most - kept]
    count = kept + len(entering)
    stay = set(range(len(victims))) - set(done)
    from_the_end = [row for row in sorted(stay) if row >= count]
    rows = [row if row in stay else -1 for row in range(count)]
    for hole in [row for row in range(count) if rows[row] < 0][len(entering) :]:
        rows[hole] = from_the_end.pop()
    incoming = iter(entering)
    return rows, [victims[row] if row >= 0 else next(incoming) for row in rows], entering


def rearrange(held: Tensor, rows: list[int], fresh: Tensor) -> Tensor:
    """Row i of the result is row ``rows[i]`` of ``held``, or the next one of ``fresh`` where ``rows[i]`` is -1.

    What stays in its place is not copied, and ``held`` is overwritten: a history is too large to be copied whenever
    a victim leaves.

    Args:
        held: ``[V, ...]``.
        rows: one for each row of the result.
        fresh: as many rows as there are -1, or one for all of them.
    """
    if len(rows) > len(held):
        held = torch.cat([held, held.new_empty(len(rows) - len(held), *held.shape[1:])])
    new = [row for row, source in enumerate(rows) if source < 0]
    moved = [row for row, source in enumerate(rows) if source >= 0 and source != row]
    held[moved] = held[[rows[row] for row in moved]]
    held[new] = fresh
    return held[: len(rows)]
