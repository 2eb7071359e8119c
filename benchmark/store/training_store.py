"""The folder of a training: a JSON file for each run that is done, a checkpoint for each that is not.

Only checkpoints need torch, so it is imported where they are read and written.
"""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark.errors import UsageError, one_line
from benchmark.store.sealing import Record, sealed
from benchmark.store.store import claimed, keys_in, make_writable, records_in, say, tidy, usable, write_whole
from benchmark.store.training_schema import training_record

if TYPE_CHECKING:
    import torch

    from benchmark.federation.server import State


class TrainingStore:
    """Records and checkpoints in ``FOLDER/training``, which any number of processes may share.

    Both are written whole or not at all, and a run is claimed with a lock that ends with its process. What killed
    processes left behind is removed.

    Args:
        folder: made where it is missing.

    Raises:
        UsageError: the folder cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self.runs = folder / "training"
        make_writable(self.runs, folder)
        tidy(folder, self.runs)

    def keys(self) -> set[str]:
        """The names of all records that are in the folder now; a listing sees those of other machines, too."""
        return keys_in(self.runs)

    def vanished(self, keys: Iterable[str]) -> set[str]:
        """Those of the runs that have no record."""
        return {key for key in keys if not self.done(key)}

    def record(self, key: str) -> Record | None:
        """The run's record; one that cannot be used is reported, set aside and not counted."""
        return usable(self.runs / f"{key}.json", training_record)

    def done(self, key: str) -> bool:
        """Whether the run has a whole record."""
        return self.record(key) is not None

    def claim(self, key: str) -> contextlib.AbstractContextManager[bool]:
        """Yields True where this process may do the run, False where it is done or another process does it."""
        return claimed(self.runs / f"{key}.lock", lambda: self.done(key))

    def write(self, record: Record) -> None:
        """Adds a record, and takes the run's checkpoint away.

        Raises:
            UsageError: the disk is full or the folder is not writable any more.
        """
        write_whole(self.runs / f"{record['key']}.json", sealed(record))
        (self.runs / f"{record['key']}.pt").unlink(missing_ok=True)

    def save(self, key: str, about: dict[str, Any], state: State, seconds: float) -> None:
        """Writes the checkpoint of a run that is not done.

        Args:
            key: of the run.
            about: its configuration.
            state: to go on from.
            seconds: spent so far.
        """
        import torch

        content = io.BytesIO()
        torch.save({"about": json.dumps(about), "state": asdict(state), "seconds": seconds}, content)
        write_whole(self.runs / f"{key}.pt", content.getvalue())

    def saved_at(self, key: str) -> float:
        """When the run's checkpoint was written, 0 where there is none."""
        try:
            return (self.runs / f"{key}.pt").stat().st_mtime
        except FileNotFoundError:
            return 0.0

    def checkpoint(self, key: str, device: torch.device) -> tuple[State, float] | None:
        """State and seconds of a run that was stopped; a damaged checkpoint is reported and removed."""
        from benchmark.federation.server import State

        path = self.runs / f"{key}.pt"
        try:
            found = load(path, device)
            return State(**found["state"]), float(found["seconds"])
        except FileNotFoundError:  # its run has just been done
            return None
        except OSError as error:  # whole perhaps, so it is not to be removed
            say(f"the checkpoint {path.name} cannot be read ({one_line(error)})")
            return None
        except Exception as error:  # a damaged file makes torch raise nearly anything
            say(f"the checkpoint {path.name} is damaged ({type(error).__name__}): the run begins anew")
            path.unlink(missing_ok=True)
            return None

    def configurations(self) -> list[dict[str, Any]]:
        """Of all runs in the folder, done or not: what :meth:`save` and a record know about each."""
        found = [about(record) for record in records_in(self.runs, training_record)]
        for path in sorted(self.runs.glob("*.pt")):
            with contextlib.suppress(Exception):  # damaged: reported where it is needed
                found.append(json.loads(load(path, "cpu")["about"]))
        return found


def about(record: Record) -> dict[str, Any]:
    """What decides a run but its code: its configuration and the checksum of its data."""
    return record["config"] | {"data_sha256": record["data_sha256"]}


def load(path: Path, device: torch.device | str) -> dict[str, Any]:
    """What a checkpoint holds; it cannot run code."""
    import torch

    return torch.load(path, map_location=device, weights_only=True)


def read_all(folder: Path, links: bool = True) -> list[Record]:
    """All records of training in the folder of a run that can be used; the others are reported and left out.

    Args:
        folder: of the run.
        links: whether symbolic links are followed.

    Raises:
        UsageError: there is none.
    """
    records = list(records_in(folder / "training", training_record, links))
    if not records:
        raise UsageError(f"there are no records of training in {folder}: give the folder that leakboard train wrote to")
    return records
