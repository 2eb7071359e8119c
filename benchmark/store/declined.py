"""Cells of a suite without records, as an attack does not take them or they were not run: they stand on the board."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

import msgspec

from benchmark.errors import UsageError, unusable
from benchmark.store.store import write_whole

FILE = "not_applicable.json"
"""Of a folder, beside its tables."""


class Declined(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A cell without victims.

    Attributes:
        cell: its id.
        config: of the cell.
        reason: why the attack does not take it, as a sentence; empty where it was only not run yet.
    """

    cell: str
    config: dict[str, Any]
    reason: str


def declined_in(folder: Path) -> list[Declined]:
    """Those of a folder.

    Raises:
        UsageError: the file cannot be read, or holds something else.
    """
    try:
        return msgspec.json.decode((folder / FILE).read_bytes(), type=list[Declined])
    except FileNotFoundError:
        return []
    except OSError as error:
        raise unusable(error, f"{folder / FILE} cannot be read") from None
    except msgspec.DecodeError:
        raise UsageError(f"{folder / FILE} is damaged: remove it, and run the suite again") from None


def keep_declined(folder: Path, now: list[Declined], taken: Collection[str]) -> None:
    """Notes the cells of a suite that have no records; what another suite has not run is not this one's to run.

    Args:
        folder: of the run.
        now: those of the suite.
        taken: ids of its other cells, which may have had none before.
    """
    others = {one.cell: one for one in declined_in(folder) if one.cell not in taken and one.reason}
    kept = list((others | {one.cell: one for one in now}).values())
    if kept:
        write_whole(folder / FILE, msgspec.json.format(msgspec.json.encode(kept), indent=1))
    else:
        (folder / FILE).unlink(missing_ok=True)
