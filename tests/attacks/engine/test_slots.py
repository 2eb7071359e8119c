"""Rows of a batch, by what must hold of any of them."""

import random

from attacks.engine.slots import refill


def test_rows_by_hand() -> None:
    assert refill([], [], [7, 8, 9], 2) == ([-1, -1], [7, 8], [7, 8])
    assert refill([7, 8], [0], [9], 2) == ([-1, 1], [9, 8], [9])
    assert refill([7, 8, 9], [0], [], 3) == ([2, 1], [9, 8], [])
    assert refill([7, 8, 9], [1, 2], [], 3) == ([0], [7], [])


def test_nobody_is_lost_or_doubled_and_who_stays_keeps_the_row_where_it_is_left() -> None:
    draw = random.Random(0)
    for _ in range(300):
        active = draw.sample(range(20), draw.randint(0, 6))
        waiting = draw.sample(sorted(set(range(20)) - set(active)), draw.randint(0, 5))
        done = sorted(draw.sample(range(len(active)), draw.randint(0, len(active))))
        rows, victims, entering = refill(active, done, waiting, most=6)
        kept = [victim for row, victim in enumerate(active) if row not in done]
        assert sorted(victims) == sorted(kept + entering) and len(victims) <= 6
        assert entering == waiting[: 6 - len(kept)]
        assert [victim for row, victim in zip(rows, victims, strict=True) if row < 0] == entering
        assert all(active[row] == victim for row, victim in zip(rows, victims, strict=True) if row >= 0)
        assert all(row in (place, -1) or place in done for place, row in enumerate(rows))
