"""Studies: jobs that look at blocks of victims beside the board, and whose records make a table of their own."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmark.errors import UsageError
from benchmark.jobs.blocks import Block, Workbench
from benchmark.jobs.conductor import Conductor
from benchmark.jobs.job import Kind, Watch
from benchmark.jobs.provenance import provenance
from benchmark.store.store import Record, Store, write_whole
from benchmark.store.study_schema import study_key
from benchmark.suite.documents import read_json
from benchmark.versions.code import source

Row = dict[str, Any]


@dataclass(frozen=True)
class Study:
    """The unit of work: what one study finds of a block of victims.

    Attributes:
        block: the victims, and what decides what they share.
        study_sha256: of the code of the study.
        label: for people.
        group: what is counted.
        size: steps of the progress bar.
    """

    block: Block
    study_sha256: str
    label: str
    group: str
    size: int = 1

    @property
    def key(self) -> str:
        """Digest of everything that decides the record."""
        return study_key(self.study_sha256, self.block.key)

    def record(self, found: dict[str, Any], bench: Workbench) -> Record:
        """The record of what was found."""
        block = self.block
        origin = provenance(bench, bench.data(block.cell.scenario.data))
        return {
            "key": self.key,
            "study_sha256": self.study_sha256,
            **block.about(),
            "victims": [block.victims.start, block.victims.stop],
            "provenance": origin | {"data_chain": list(block.data)},
            **found,
        }

    def row(self, record: Record) -> Row:
        """What any row says: of which cell it is, for people and as a digest, and where it comes from."""
        cell = self.block.cell
        return {
            "cell": cell.id,
            "where": cell.scenario.label,
            "defense": cell.defense.label if cell.defense else "no defense",
            "provenance": {key: value for key, value in record["provenance"].items() if key != "data_chain"},
        }


class Studies(Kind[Study]):
    """A kind of studies; the files of its table are called as its shelf is."""

    def rows(self, found: list[tuple[Study, Record]]) -> list[Row]:
        """The rows of the table, as JSON."""
        raise NotImplementedError

    def about(self, row: Row) -> tuple[str, ...]:
        """What a row is about, which rows of older versions, that do not name their cell, are known by."""
        raise NotImplementedError

    def page(self, rows: list[Row]) -> str:
        """The table as a page."""
        raise NotImplementedError


def version_of(file: str) -> str:
    """The checksum of the code of a study."""
    return source(Path(file).read_bytes()).sha256


def carry_out(jobs: list[Study], kind: Studies, conductor: Conductor) -> str:
    """Does what is not done yet of a plan, and writes its table, in which the rows of other cells stay.

    Returns:
        What the user is told: the page, and how much was done.

    Raises:
        UsageError: the folder or its table cannot be used, or every worker has ended.
    """
    folder, store = conductor.folder, Store(conductor.folder, kind.shelf)
    table, page = folder / f"{kind.shelf.name}.json", folder / f"{kind.shelf.name}.md"
    before = rows_in(table, kind)
    ran = conductor.carry_out(jobs, kind, store, Watch())
    found = [(job, record) for job in jobs if (record := store.record(job.key)) is not None]
    rows = merged(before, kind.rows(found), kind)
    write_whole(table, (json.dumps({"rows": rows}, indent=1, allow_nan=False) + "\n").encode())
    written = kind.page(rows)
    write_whole(page, written.encode())
    said = f"{ran} of {len(jobs)} {kind.plural} run" if ran else "everything was done already: nothing to run"
    return f"{written}\n{said}\nrecords: {store.records}\ntables: {table}, {page}\n"


def merged(before: Iterable[Row], new: list[Row], kind: Studies) -> list[Row]:
    """The rows of other cells that there were, then the new ones."""
    cells, called = {row["cell"] for row in new}, {kind.about(row) for row in new}
    others = (row for row in before if row.get("cell") not in cells)
    return [*(row for row in others if "cell" in row or kind.about(row) not in called), *new]


def rows_in(path: Path, kind: Studies) -> list[Row]:
    """The rows of a table, none where there is no file; those of older versions have one origin for all.

    Raises:
        UsageError: the file is damaged.
    """
    try:
        found = read_json(path) if path.exists() else {"rows": []}
        shared = {key: value for key, value in found.items() if key == "provenance"}
        rows = [shared | row for row in found["rows"]]
        kind.page(rows)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise UsageError(f"{path} cannot be read: delete it, or give another --out") from None
    return rows
