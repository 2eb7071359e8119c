"""Text from elsewhere, and numbers with their word, written into a page."""

import re

_SPECIAL = re.compile(r"[\\`*\[\]|~]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")
_HTML = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}


def escaped(text: object) -> str:
    """A value as a page in Markdown or HTML shows it: in one line, with no markup, no link and no cell of a table.

    Args:
        text: of a record, a path, the name of a class, or anything else that is not written here.
    """
    plain = str(text).encode(errors="replace").decode()  # a path can be of any bytes
    line = " ".join("".join(letter if letter.isprintable() else " " for letter in plain).split())
    return _SPECIAL.sub(r"\\\g<0>", "".join(_HTML.get(letter, letter) for letter in line))


def threads(count: int) -> str:
    """As in "1 thread"."""
    return f"{count} thread{'s' if count > 1 else ''}"
