"""Handler of the command show, which reads records and needs no torch."""

import argparse
from pathlib import Path

from benchmark.boards import leaderboard, table
from benchmark.boards.terminal import Console, printable
from benchmark.cli.parts import Parts
from benchmark.garbage import uncollected
from benchmark.store.schema import attack_scores
from benchmark.store.store import read_all, say


@uncollected()
def carry_out(options: argparse.Namespace, parts: Parts) -> int:
    """``leakboard show``."""
    folder = Path(options.folder)
    records = read_all(folder, attack_scores)
    found = leaderboard.of_records(records, intervals=options.format in ("csv", "json"))
    if options.format in ("csv", "json"):  # which hold rows alone
        notes = [f"{board.heading}: {note}" for board in found.boards for note in board.notes]
        for sentence in (*notes, *found.left_out):
            say(printable(sentence))
    if options.format == "json":
        print(table.as_json(found))
    elif options.format == "csv":
        print(table.as_csv(found), end="")
    elif options.format == "markdown":
        print(table.as_markdown(found, folder.resolve().name, table.missing_lpips(records)), end="")
    else:
        table.print_table(found, Console())
    return 0
