"""Handler of the command report."""

import argparse
import os
from pathlib import Path

from benchmark.cli.parts import Parts
from benchmark.errors import UsageError
from benchmark.report.context import report_of
from benchmark.report.page import page
from benchmark.store.declined import declined_in
from benchmark.store.store import TRAININGS, make_writable, read_all, records_in, say, write_whole
from benchmark.suite.documents import regular

FILE = "report.html"
"""Where the page is written in the folder of a run; leakboard publish leaves it there, since it can show images."""

ANOTHER = "give another file with --out"
"""What to do where the page cannot be written."""


def carry_out(options: argparse.Namespace, parts: Parts) -> int:
    """``leakboard report``."""
    folder = Path(options.folder)
    to = Path(options.out) if options.out else folder / FILE
    if to.is_dir():
        raise UsageError(f"{to} is a folder: give --out the name of a file, as in {to / FILE}")
    if os.path.lexists(to) and not is_page(to):
        raise UsageError(f"{to} is there and is no page in HTML, which alone is replaced: give --out another name")
    unusable: list[str] = []

    def tell(sentence: str) -> None:
        unusable.append(sentence)
        say(sentence)

    records = read_all(folder, tell=tell)
    make_writable(to.parent, to.parent, ANOTHER)
    trainings = list(records_in(folder / TRAININGS.name, TRAININGS.parse, tell=tell))
    report = report_of(records, folder.resolve().name, declined_in(folder), trainings, unusable)
    content = page(report).encode()
    write_whole(to, content, ANOTHER)
    print(f"report: {to} ({len(content) / 1e6:.1f} MB)")
    return 0


def is_page(path: Path) -> bool:
    """Whether a file is a page in HTML, or empty; a pipe is none."""
    try:
        regular(path)
        with path.open("rb") as file:
            begins = file.read(1000).lstrip().lower()
    except OSError:
        return False
    return not begins or begins.startswith((b"<!doctype html", b"<html"))
