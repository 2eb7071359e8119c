"""A run copied to where results are kept: all that its tables and pages need, and no private image."""

import argparse
import contextlib
from pathlib import Path

from benchmark.boards import table
from benchmark.boards.leaderboard import of_records
from benchmark.cli.parts import Parts
from benchmark.errors import UsageError
from benchmark.papers.sources import changed_files, trainings
from benchmark.store.schema import attack_scores
from benchmark.store.store import TRAININGS, Store, cannot_write, read_all, say, write_whole
from benchmark.thresholds.table import FILE, Row, read

TABLES = ("*.csv", "*.md", "*.json", "*.png")
"""Files of a run that stand beside its records."""


def carry_out(options: argparse.Namespace, parts: Parts) -> int:
    """``leakboard publish``."""
    count = publish(Path(options.folder), Path(options.to))
    print(f"published {count:,} records, without pictures, and the tables: {options.to}")
    return 0


def publish(folder: Path, to: Path) -> int:
    """Copies the records of a run without their pictures, which hold private images, and its trainings and tables.

    What is there already stays, so that a run in several parts can be published as it grows; records of the same
    blocks are replaced, and the leaderboard and the thresholds are made of all that is there then. A link is not
    followed, neither in the run, where it may lead to anything, nor in the target.

    Args:
        folder: of a run.
        to: where it is published.

    Returns:
        The number of records.

    Raises:
        UsageError: there is nothing to copy, no room, or a folder is a link.
    """
    for place in (folder / "records", folder / "training"):
        refuse_link(place, "publish copies no files from elsewhere")
    for place in (to / "records", to / "training", to / "locks"):
        refuse_link(place, "publish writes no files elsewhere")
    trained = trainings(folder, links=False)
    records = read_all(folder, links=False) if not trained or (folder / "records").is_dir() else []
    if to.resolve() == folder.resolve():
        raise UsageError(f"{to} is the run itself: give another folder to publish it to")
    store = Store(to)
    others = store.keys() - {record["key"] for record in records}
    for record in records:
        store.write(record | {"picture": ""})
    for training in trained:
        Store(to, TRAININGS).write(training)
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
    if searches or others:  # tables of this run alone would leave out what is there already
        everything = read_all(to, attack_scores, links=False)
        table.write(to, of_records(everything), everything)
        if searches:
            from benchmark.thresholds import page as threshold_page  # torch, by the classes that were searched

            threshold_page.write(to, everything, searches)
    with contextlib.suppress(OSError):  # a run is going on there, or was killed
        (to / "locks").rmdir()
    for line in changed_files([*records, *trained]):
        say(line)
    return len(records) + len(trained)


def searches_of(folder: Path) -> list[Row]:
    """The searches for thresholds of a run; none where it made none."""
    return list((read(folder) or {"thresholds": []})["thresholds"])


def refuse_link(place: Path, why: str) -> None:
    """Raises UsageError where a place is a symbolic link."""
    if place.is_symlink():
        raise UsageError(f"{place} is a link, and {why}: give the folder that it leads to, or a copy")
