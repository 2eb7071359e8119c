"""What the pages read: the victims of each cell, and where the records come from."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmark.boards.cells import cells_of_one_code
from benchmark.boards.markdown import escaped, threads
from benchmark.store.store import Record, read_trainings


@dataclass(frozen=True)
class Cell:
    """A cell with all its victims, in their order.

    Attributes:
        config: everything that decides a victim's result.
        victims: one entry for each.
    """

    config: dict[str, Any]
    victims: list[dict[str, Any]]

    @property
    def data(self) -> str:
        return str(self.config["data"]["class"])

    @property
    def attack(self) -> str:
        return str(self.config["attack"]["class"])

    @property
    def defense(self) -> str:
        return str(self.config["defense"]["class"]) if self.config["defense"] else "none"


def cells(records: list[Record]) -> list[Cell]:
    """The cells of a run."""
    return [
        Cell(of_cell[min(of_cell)][1]["config"], [of_cell[index][0] for index in sorted(of_cell)])
        for of_cell in cells_of_one_code(records)[0].values()
    ]


def trainings(folder: Path, links: bool = True) -> list[Record]:
    """The trainings of a run, none where it has none.

    Args:
        folder: of the run.
        links: whether symbolic links are followed.
    """
    return read_trainings(folder, links) if any((folder / "training").glob("*.json")) else []


def same_attack(recorded: dict[str, Any], wanted: dict[str, Any]) -> bool:
    """Whether the attack of a record is the one that is wanted, which may have got more arguments since."""
    return all(name in wanted and wanted[name] == value for name, value in recorded.items())


def provenance(
    records: list[Record], trainings: Sequence[Record] = (), more: Sequence[dict[str, Any]] = ()
) -> list[str]:
    """Where a page comes from, as its lines.

    Args:
        records: of attacks.
        trainings: records of those.
        more: where other figures come from.
    """
    origins = [record["provenance"] for record in (*records, *trainings)] + list(more)
    notes = sorted({escaped(note) for origin in origins for note in origin["data_notes"]})
    commits = sorted({escaped(origin["commit"]) for origin in origins})
    versions = sorted({escaped(", ".join(f"{k} {v}" for k, v in origin["versions"].items())) for origin in origins})
    left_out = cells_of_one_code(records)[1]
    return [
        "## Where this comes from",
        "",
        f"- {costs(records, 'attacks')}",
        *([f"- {costs(trainings, 'training')}"] if trainings else []),
        f"- commits {', '.join(commits)}",
        *(f"- {line}" for line in changed_files([*records, *trainings])),
        *(f"- {line}" for line in versions + notes),
        *(f"- {escaped(line)}" for line in left_out),
    ]


def changed_files(records: Sequence[Record]) -> list[str]:
    """A line on the records that were made while files of the source tree differed from their commit, if there are."""
    count = sum(str(record["provenance"]["commit"]).endswith("+") for record in records)
    if not count:
        return []
    return [
        f"{count:,} of {len(records):,} records are from a source tree with changed files (their commit ends with a "
        "plus): the checksum in each record, not the commit, identifies their code"
    ]


def costs(records: Sequence[Record], what: str) -> str:
    """How many records of what there are, from when, and what they took."""
    origins = [record["provenance"] for record in records]
    dates = sorted(origin["date"][:10] for origin in origins)
    hours = sum(record["cost"]["seconds"] for record in records) / 3600
    devices = sorted({escaped(f"{origin['device']} with {threads(origin['threads'])}") for origin in origins})
    return f"{len(records):,} records, {dates[0]} to {dates[-1]}, {hours:.1f} hours of {what} on {'; '.join(devices)}"
