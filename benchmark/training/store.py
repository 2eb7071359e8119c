"""The folder of a training: a JSON file for each run that is done, a checkpoint for each that is not."""

import contextlib
import io
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from benchmark.documents import read_json
from benchmark.errors import UsageError, one_line
from benchmark.federated import State
from benchmark.store import Record, claimed, make_writable, say, set_aside, write_record, write_whole

REQUIRED = ("key", "config", "data_sha256", "status", "curve", "accuracy", "loss", "provenance", "cost")


class TrainingStore:
    """Records and checkpoints in ``FOLDER/training``, which any number of processes may share.

    Both are written whole or not at all, and a run is claimed with a lock that ends with its process.

    Args:
        folder: made where it is missing.

    Raises:
        UsageError: the folder can not be written.
    """

    def __init__(self, folder: Path) -> None:
        self.runs = folder / "training"
        make_writable(self.runs, folder)

    def record(self, key: str) -> Record | None:
        """The run's record; a damaged one is reported, set aside and not counted."""
        path = self.runs / f"{key}.json"
        record = read(path)
        if record is None and path.exists():
            set_aside(path)
        return record

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
        write_record(self.runs, record)
        (self.runs / f"{record['key']}.pt").unlink(missing_ok=True)

    def save(self, key: str, about: dict[str, Any], state: State, seconds: float) -> None:
        """Writes the checkpoint of a run that is not done.

        Args:
            key: of the run.
            about: its configuration.
            state: to go on from.
            seconds: spent so far.
        """
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
        path = self.runs / f"{key}.pt"
        try:
            found = load(path, device)
            return State(**found["state"]), float(found["seconds"])
        except FileNotFoundError:  # its run has just been done
            return None
        except OSError as error:  # whole perhaps, so it is not to be removed
            say(f"the checkpoint {path.name} can not be read ({one_line(error)})")
            return None
        except Exception as error:  # a damaged file makes torch raise nearly anything
            say(f"the checkpoint {path.name} is damaged ({type(error).__name__}): the run begins anew")
            path.unlink(missing_ok=True)
            return None

    def configurations(self) -> list[dict[str, Any]]:
        """Of all runs in the folder, done or not: what :meth:`save` and a record know about each."""
        found = [about(record) for path in sorted(self.runs.glob("*.json")) if (record := read(path))]
        for path in sorted(self.runs.glob("*.pt")):
            with contextlib.suppress(Exception):  # damaged: reported where it is needed
                found.append(json.loads(load(path, torch.device("cpu"))["about"]))
        return found


def about(record: Record) -> dict[str, Any]:
    """What decides a run but its code: its configuration and the checksum of its data."""
    return record["config"] | {"data_sha256": record["data_sha256"]}


def load(path: Path, device: torch.device) -> dict[str, Any]:
    """What a checkpoint holds; it can not run code."""
    return torch.load(path, map_location=device, weights_only=True)


def read(path: Path) -> Record | None:
    """The record in a file, None where there is none or it is damaged."""
    try:
        record = read_json(path)
    except (FileNotFoundError, ValueError):
        return None
    except OSError as error:
        raise UsageError(f"the record {path} can not be read ({one_line(error)}): see to its permissions") from None
    whole = isinstance(record, dict) and all(name in record for name in REQUIRED)
    return record if whole and record["key"] == path.stem else None


def read_all(folder: Path) -> list[Record]:
    """All whole records of training in the folder of a run; damaged ones are reported and left out.

    Raises:
        UsageError: there is none.
    """
    records = []
    for path in sorted((folder / "training").glob("*.json")):
        if record := read(path):
            records.append(record)
        else:
            say(f"the record {path.name} is damaged and left out")
    if not records:
        raise UsageError(f"there are no records of training in {folder}: give the folder that leakboard train wrote to")
    return records
