"""A run copied to where results are kept: all that its tables and pages need, and no private image."""

import contextlib
import shutil
from pathlib import Path

from benchmark.errors import UsageError
from benchmark.store import Store, read_all
from benchmark.training.store import TrainingStore
from benchmark.training.store import read_all as read_trainings

TABLES = ("*.csv", "*.md", "*.json", "*.png")
"""Files of a run that stand beside its records."""


def publish(folder: Path, to: Path) -> int:
    """Copies the records of a run without their pictures, which hold private images, and its trainings and tables.

    What is there already stays, so that a run in several parts can be published as it grows; records of the same
    blocks are replaced.

    Args:
        folder: of a run.
        to: where it is published.

    Returns:
        The number of records.

    Raises:
        UsageError: there is nothing to copy, or no room.
    """
    trainings = read_trainings(folder) if any((folder / "training").glob("*.json")) else []
    records = read_all(folder) if not trainings or (folder / "records").is_dir() else []
    if to.resolve() == folder.resolve():
        raise UsageError(f"{to} is the run itself: give another folder to publish it to")
    store = Store(to)
    try:
        for record in records:
            store.write(record | {"picture": ""})
        for training in trainings:
            TrainingStore(to).write(training)
        for table in (path for pattern in TABLES for path in sorted(folder.glob(pattern))):
            shutil.copyfile(table, to / table.name)
        with contextlib.suppress(OSError):  # a run is going on there, or was killed
            (to / "locks").rmdir()
    except OSError as error:
        raise UsageError(f"{to} can not be written ({error.strerror}): make room, and publish again") from None
    return len(records) + len(trainings)
