"""What a user can put right."""

from collections.abc import Iterable
from difflib import get_close_matches


class UsageError(Exception):
    """A mistake of the user's, as one sentence that says what to do; the command line ends with exit code 2."""


def one_line(error: Exception) -> str:
    """What an error says, as one line."""
    return " ".join(str(error).split())


def unknown(what: str, given: str, valid: Iterable[str]) -> UsageError:
    """An error that names what was mistyped and the nearest valid names."""
    names = sorted(valid)
    lowered = {name.lower(): name for name in names}
    near = [lowered[match] for match in get_close_matches(given.lower(), lowered, n=3, cutoff=0.5)]
    if near:
        return UsageError(f"unknown {what} {given!r}: did you mean {' or '.join(near)}?")
    return UsageError(f"unknown {what} {given!r}: valid are {', '.join(names) or 'none'}")
