"""Handler of the command show, which reads records and needs no torch."""

import argparse
from pathlib import Path

from benchmark.boards import table
from benchmark.boards.notebook import board
from benchmark.boards.terminal import Console, printable
from benchmark.cli.parts import Parts
from benchmark.store.store import say


def carry_out(options: argparse.Namespace, parts: Parts) -> int:
    """``leakboard show``."""
    found = board(Path(options.folder), intervals=options.format in ("csv", "json"))
    if options.format in ("csv", "json"):  # which hold rows alone
        for sentence in found.notes:
            say(printable(sentence))
    if options.format == "json":
        print(table.as_json(found.leaderboard))
    elif options.format == "csv":
        print(table.as_csv(found.leaderboard), end="")
    elif options.format == "markdown":
        print(found._repr_markdown_(), end="")
    else:
        table.print_table(found.leaderboard, Console())
    return 0
