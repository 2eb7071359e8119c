"""How long something takes, for people."""

import math


def clock(seconds: float) -> str:
    """Hours, minutes and seconds, rounded up."""
    minutes, rest = divmod(math.ceil(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"
