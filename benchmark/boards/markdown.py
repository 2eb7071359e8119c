"""Text from elsewhere, and numbers with their word, written into a page."""

import re

_HTML = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}

_SPECIAL = re.compile(
    r"""[\\`*\[\]|~$]                            # code, emphasis, links, cells of a table, formulas
    | (?<![A-Za-z0-9])_ | _(?![A-Za-z0-9])        # emphasis; within a word it is none
    | [:/](?=/) | @ | (?<=\w)\.(?=[^\W\d_]) | (?i:(?<=www))\.  # addresses, of which GitHub makes links
    | ^[#=] | ^[-+](?=[-\ ]) | ^\+$ | (?<=\ )\#(?=\#*$)          # headings, rules and lists
    """,
    re.VERBOSE,
)
_NUMBERED = re.compile(r"^(\d+)([.)])(?= |$)")
_EMAIL = re.compile(r"(?<=[\w.+-]@)(?=[\w-]+\.)")
"""GitHub joins what was escaped before it looks for addresses, so that only another character keeps them apart."""


def escaped(text: object) -> str:
    """A value as a page in Markdown or HTML shows it: in one line, with no markup, no link and no cell of a table.

    Args:
        text: of a record, a path, the name of a class, or anything else that is not written here.
    """
    plain = str(text).encode(errors="replace").decode()  # a path can be of any bytes
    line = " ".join("".join(letter if letter.isprintable() else " " for letter in plain).split())
    line = _NUMBERED.sub(r"\1\\\2", _SPECIAL.sub(r"\\\g<0>", _EMAIL.sub("\u2060", line)))
    return "".join(_HTML.get(letter, letter) for letter in line)


def threads(count: int) -> str:
    """As in "1 thread"."""
    return f"{count} thread{'s' if count > 1 else ''}"
