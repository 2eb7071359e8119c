"""Learning rates that fall from round to round.

At a rate that stays, the accuracy after the last round is that of a network whose weights still jump about.
"""

import math

DECAYS = ("none", "cosine")
"""Ways in which the learning rate falls."""


def rate_at(rate: float, decay: str, done: int, rounds: int) -> float:
    """The learning rate of the round after ``done`` of ``rounds``.

    Args:
        rate: of the first round.
        decay: ``none``, or ``cosine``: from ``rate`` toward 0 (Loshchilov and Hutter 2017, arXiv 1608.03983, equation
            5, without restarts).
        done: rounds before this one.
        rounds: of the whole training.
    """
    return rate if decay == "none" else rate * (1 + math.cos(math.pi * done / rounds)) / 2
