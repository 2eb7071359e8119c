"""A run copied to where results are kept: all that its tables and pages need, and no private image."""

import argparse
from contextlib import ExitStack
from itertools import chain
from pathlib import Path

from filelock import FileLock

from benchmark.boards import table
from benchmark.boards.leaderboard import of_records
from benchmark.cli.parts import Parts
from benchmark.errors import UsageError
from benchmark.papers.sources import changed_files
from benchmark.store import published
from benchmark.store.declined import declined_in
from benchmark.store.schema import attack_scores
from benchmark.store.sealing import Record, sealed
from benchmark.store.store import ATTACKS, SHELVES, cannot_write, keys_in, make_writable, read_all, say, write_whole
from benchmark.thresholds.table import FILE, Row, read
from benchmark.tradeoff.page import write_beside

TABLES = ("*.csv", "*.md", "*.json", "*.png", "*.pdf", "*.tex")
"""Files of a run that stand beside its records."""


def carry_out(options: argparse.Namespace, parts: Parts) -> int:
    """``leakboard publish``."""
    count = publish(Path(options.folder), Path(options.to))
    print(f"published {count:,} records, without pictures, and the tables: {options.to}")
    return 0


def publish(folder: Path, to: Path) -> int:
    """Copies the records of a run, those of attacks without their pictures, which hold private images, and its tables.

    What is there already stays, so that a run in several parts can be published as it grows; records of the same
    blocks are replaced, and the leaderboard and the thresholds are made of all that is there then. A link is not
    followed, neither in the run, where it may lead to anything, nor in the target. Of several processes that publish
    to one folder each waits for its turn.

    Args:
        folder: of a run.
        to: where it is published.

    Returns:
        The number of records.

    Raises:
        UsageError: there is nothing to copy, no room, or a folder is a link.
    """
    for shelf in SHELVES:
        refuse_link(folder / shelf.name, "publish copies no files from elsewhere")
    lock, kinds = to / "publish.lock", [to / shelf.name for shelf in SHELVES]
    for place in (lock, *kinds, *(file for kind in kinds for file in published.files(kind))):
        refuse_link(place, "publish writes no files elsewhere")
    beside = {
        shelf.name: read_all(folder, shelf.parse, links=False, shelf=shelf)
        for shelf in SHELVES
        if shelf != ATTACKS and keys_in(folder / shelf.name)
    }
    records = read_all(folder, links=False) if not beside or keys_in(folder / "records") else []
    if to.resolve() == folder.resolve():
        raise UsageError(f"{to} is the run itself: give another folder to publish it to")
    make_writable(to, to)
    with FileLock(lock), ExitStack() as ending:
        ending.callback(lock.unlink)  # before the release: who has waited for it takes another
        others = keys_in(to / "records") - {record["key"] for record in records}
        add(to / "records", [record | {"picture": ""} for record in records])
        for name, found in beside.items():
            add(to / name, found)
        copy_tables(folder, to, bool(others))
    everything = [*records, *chain(*beside.values())]
    for line in changed_files(everything):
        say(line)
    return len(everything)


def copy_tables(folder: Path, to: Path, others: bool) -> None:
    """Copies the files beside the records of a run.

    Args:
        folder: of the run.
        to: where its records are published already.
        others: whether records of other runs are, too: tables of this run alone would leave them out.
    """
    searches = [] if (folder / FILE).is_symlink() or not (to / FILE).exists() else searches_of(folder)
    for file in sorted({path for pattern in TABLES for path in folder.glob(pattern) if path.name[0] != "."}):
        if file.is_symlink() or not file.is_file():
            say(f"{file} is {'a link' if file.is_symlink() else 'not a regular file'}: it is not published")
            continue
        if searches and file.name.startswith("thresholds."):
            continue
        try:
            content = file.read_bytes()
        except OSError as error:
            raise cannot_write(to / file.name, error) from None
        write_whole(to / file.name, content)
    if searches or others:
        everything = read_all(to, attack_scores, links=False)
        table.write(to, of_records(everything, declined=declined_in(to)), everything)
        write_beside(to, links=False)
        if searches:
            from benchmark.thresholds import page as threshold_page  # torch, by the classes that were searched

            threshold_page.write(to, everything, searches)


def add(folder: Path, records: list[Record]) -> None:
    """Adds records to those that are published beside a folder, in which they need no files of their own any more."""
    for path, content in published.filled(folder, ((record["key"], sealed(record)) for record in records)):
        write_whole(path, content)
    for record in records:
        (folder / f"{record['key']}.json").unlink(missing_ok=True)


def searches_of(folder: Path) -> list[Row]:
    """The searches for thresholds of a run; none where it made none."""
    return list((read(folder) or {"thresholds": []})["thresholds"])


def refuse_link(place: Path, why: str) -> None:
    """Raises UsageError where a place is a symbolic link."""
    if place.is_symlink():
        raise UsageError(f"{place} is a link, and {why}: give the folder that it leads to, or a copy")
