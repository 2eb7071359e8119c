"""A run copied to where results are kept: all that its tables and pages need, and no private image."""

import argparse
from collections.abc import Collection
from contextlib import ExitStack
from itertools import chain
from pathlib import Path

from filelock import FileLock

from benchmark.boards import table
from benchmark.boards.leaderboard import of_records
from benchmark.boards.replaced import REPLACED
from benchmark.cli.parts import Parts
from benchmark.errors import UsageError
from benchmark.papers.sources import changed_files
from benchmark.store import published
from benchmark.store.declined import declined_in
from benchmark.store.schema import attack_scores
from benchmark.store.sealing import Record, sealed
from benchmark.store.store import (
    ATTACKS,
    SHELVES,
    TRAININGS,
    Shelf,
    cannot_write,
    keys_in,
    make_writable,
    read_all,
    records_in,
    say,
    write_whole,
)
from benchmark.thresholds.table import FILE, Row, read
from benchmark.tradeoff.page import write_beside
from benchmark.training import rows as training_rows
from benchmark.training import table as training_table

TABLES = ("*.csv", "*.md", "*.json", "*.png", "*.pdf", "*.tex")
"""Files of a run that stand beside its records."""


def carry_out(options: argparse.Namespace, parts: Parts) -> int:
    """``leakboard publish``."""
    count = publish(Path(options.folder), Path(options.to))
    print(f"published {count:,} records, without pictures, and the tables: {options.to}")
    return 0


def publish(folder: Path, to: Path) -> int:
    """Copies the records of a run, those of attacks without their pictures, which hold private images, and its tables.

    What is there already stays, so that a run in several parts can be published as it grows. Records of the same
    blocks are replaced, and so are those of other code by newer ones of the same cell and victims, on either side.
    The leaderboard, the thresholds and the table of trainings are made of all that is there then, and the trade-off
    where the run has one, or where a defense can be judged by it; a folder whose leaderboard stood without LaTeX gets
    none. A link is not followed, neither in the run, where it may lead to anything, nor in the target. Of several
    processes that publish to one folder each waits for its turn.

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
    found = {
        shelf: read_all(folder, shelf.parse, links=False, shelf=shelf)
        for shelf in SHELVES
        if shelf != ATTACKS and keys_in(folder / shelf.name)
    }
    if not found or keys_in(folder / ATTACKS.name):
        found[ATTACKS] = [record | {"picture": ""} for record in read_all(folder, links=False)]
    if to.resolve() == folder.resolve():
        raise UsageError(f"{to} is the run itself: give another folder to publish it to")
    make_writable(to, to)
    with FileLock(lock), ExitStack() as ending:
        ending.callback(lock.unlink)  # before the release: who has waited for it takes another
        gone = sum(add(to, shelf, records) for shelf, records in found.items())
        copy_tables(folder, to, found)
    if gone:
        were, of = ("record of other code was", "cell") if gone == 1 else ("records of other code were", "cells")
        say(f"{gone:,} {were} replaced by newer ones of the same {of} and victims")
    everything = [*chain(*found.values())]
    for line in changed_files(everything):
        say(line)
    return len(everything)


def copy_tables(folder: Path, to: Path, kinds: Collection[Shelf]) -> None:
    """Copies the files beside the records of a run, and makes the tables of records anew of all that are published.

    Args:
        folder: of the run.
        to: where its records are published already.
        kinds: what they are of.
    """
    attacked, trained = ATTACKS in kinds, TRAININGS in kinds
    searches = [] if (folder / FILE).is_symlink() or not (to / FILE).exists() else searches_of(folder)
    both = all(keys_in(to / shelf.name) for shelf in (ATTACKS, TRAININGS))
    made = {"leaderboard.": attacked, "training.": trained, "tradeoff.": both, "thresholds.": bool(searches)}
    anew = tuple(name for name, is_made in made.items() if is_made)
    for file in sorted({path for pattern in TABLES for path in folder.glob(pattern) if path.name[0] != "."}):
        if file.is_symlink() or not file.is_file():
            say(f"{file} is {'a link' if file.is_symlink() else 'not a regular file'}: it is not published")
            continue
        if file.name.startswith(anew):
            continue
        try:
            content = file.read_bytes()
        except OSError as error:
            raise cannot_write(to / file.name, error) from None
        write_whole(to / file.name, content)
    if attacked:
        everything = read_all(to, attack_scores, links=False)
        latex = (to / "leaderboard.tex").exists() or not (to / "leaderboard.md").exists()
        table.write(to, of_records(everything, declined=declined_in(to)), everything, latex)
        if searches:
            from benchmark.thresholds import page as threshold_page  # torch, by the classes that were searched

            threshold_page.write(to, everything, searches)
    if trained:
        records, left_out = training_rows.of_one_code(read_all(to, TRAININGS.parse, False, TRAININGS))
        training_table.write(to, training_rows.rows(records), to.resolve().name, left_out)
    write_beside(to, links=False, empty=any((place / "tradeoff.md").exists() for place in (folder, to)))


def add(to: Path, shelf: Shelf, records: list[Record]) -> int:
    """Adds records to those that are published in a folder, in which they need no files of their own any more, and
    takes out what newer ones of other code replace.

    Args:
        to: the folder.
        shelf: of the records.
        records: of a run.

    Returns:
        How many are replaced, of either side.
    """
    place = to / shelf.name
    mine = {record["key"]: record for record in records}
    there = [one for one in records_in(place, shelf.parse, False, lambda _: None) if one["key"] not in mine]
    old = REPLACED[shelf]([*there, *records]) if shelf in REPLACED else set()
    kept = ((key, sealed(record)) for key, record in mine.items() if key not in old)
    for path, content in chain(published.filled(place, kept), published.without(place, old)):
        if content:
            write_whole(path, content)
        else:
            path.unlink(missing_ok=True)
    for key in {*mine, *old}:
        (place / f"{key}.json").unlink(missing_ok=True)
    return len(old)


def searches_of(folder: Path) -> list[Row]:
    """The searches for thresholds of a run; none where it made none."""
    return list((read(folder) or {"thresholds": []})["thresholds"])


def refuse_link(place: Path, why: str) -> None:
    """Raises UsageError where a place is a symbolic link."""
    if place.is_symlink():
        raise UsageError(f"{place} is a link, and {why}: give the folder that it leads to, or a copy")
