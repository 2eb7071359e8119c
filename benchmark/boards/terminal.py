"""The terminal, which takes names and paths as they are."""

from typing import IO

import rich.console
from rich.cells import cell_len


class Console(rich.console.Console):
    """The terminal, which takes names and paths as they are: ``[/x]`` is no markup.

    Args:
        stderr: whether it is the standard error.
        width: instead of the terminal's.
        file: instead of the standard output.
        quiet: whether nothing is written at all.
    """

    def __init__(
        self, stderr: bool = False, width: int | None = None, file: IO[str] | None = None, quiet: bool = False
    ) -> None:
        super().__init__(stderr=stderr, width=width, file=file, quiet=quiet, markup=False, emoji=False)

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError  # the program ends as with any other output whose reader has gone


def wide_enough(console: Console, *widths: int) -> Console:
    """The console; where it is a file, one for tables of these widths, which are not cut there."""
    return console if console.is_terminal else Console(width=max(200, *widths), file=console.file)


def letters(text: str) -> int:
    """The width of a text in the terminal."""
    return len(text) if text.isascii() else cell_len(text)


def printable(text: str) -> str:
    """In one line, without what moves the cursor or changes colors."""
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() else " " for letter in text)
