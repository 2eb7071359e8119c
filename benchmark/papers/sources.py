"""What the pages read: the victims of each cell, and where the records come from."""

from dataclasses import dataclass
from typing import Any

from benchmark.leaderboard import newest_victims
from benchmark.store import Record


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
        for of_cell in newest_victims(records).values()
    ]


def provenance(records: list[Record]) -> list[str]:
    """Where the records come from, as lines of a page."""
    origins = [record["provenance"] for record in records]
    notes = sorted({note for origin in origins for note in origin["data_notes"]})
    commits = sorted({str(origin["commit"]) for origin in origins})
    devices = sorted({f"{origin['device']} with {origin['threads']} threads" for origin in origins})
    versions = sorted({", ".join(f"{k} {v}" for k, v in origin["versions"].items()) for origin in origins})
    dates = sorted(origin["date"][:10] for origin in origins)
    hours = sum(record["cost"]["seconds"] for record in records) / 3600
    return [
        "## Where this comes from",
        "",
        f"- {len(records):,} records, {dates[0]} to {dates[-1]}, {hours:.1f} hours of attacks on {'; '.join(devices)}",
        f"- commits {', '.join(commits)}",
        *(f"- {line}" for line in versions + notes),
    ]
