"""Which victim is in which row of a batch, as victims leave and others take their places."""


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
