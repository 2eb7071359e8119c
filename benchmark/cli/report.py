"""Handler of the command report."""

import argparse
from pathlib import Path

from benchmark.cli.parts import Parts
from benchmark.errors import UsageError
from benchmark.report.context import report_of
from benchmark.report.page import page
from benchmark.store.declined import declined_in
from benchmark.store.store import TRAININGS, make_writable, read_all, records_in, say, write_whole

FILE = "report.html"
"""Where the page is written in the folder of a run; leakboard publish leaves it there, since it can show images."""


def carry_out(options: argparse.Namespace, parts: Parts) -> int:
    """``leakboard report``."""
    folder = Path(options.folder)
    to = Path(options.out) if options.out else folder / FILE
    if to.is_dir():
        raise UsageError(f"{to} is a folder: give --out the name of a file, as in {to / FILE}")
    unusable: list[str] = []

    def tell(sentence: str) -> None:
        unusable.append(sentence)
        say(sentence)

    records = read_all(folder, tell=tell)
    make_writable(to.parent, to.parent)
    trainings = list(records_in(folder / TRAININGS.name, TRAININGS.parse, tell=tell))
    report = report_of(records, folder.resolve().name, declined_in(folder), trainings, unusable)
    content = page(report).encode()
    write_whole(to, content)
    print(f"report: {to} ({len(content) / 1e6:.1f} MB)")
    return 0
