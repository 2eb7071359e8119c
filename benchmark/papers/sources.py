"""What the pages read: the victims of each cell, and where the records come from."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmark.boards.cells import cells_of_one_code
from benchmark.boards.markdown import threads
from benchmark.boards.template import render
from benchmark.metrics.intervals import wilson
from benchmark.store.store import Record, keys_in, read_trainings
from benchmark.suite.documents import load_yaml


def trainings(folder: Path) -> list[Record]:
    """The trainings of a run, none where it has none."""
    return read_trainings(folder) if keys_in(folder / "training") else []


def same_attack(recorded: dict[str, Any], wanted: dict[str, Any]) -> bool:
    """Whether the attack of a record is the one that is wanted, which may have got more arguments since."""
    return all(name in wanted and wanted[name] == value for name, value in recorded.items())


def paper(name: str) -> dict[str, Any]:
    """The figures of a paper, from the file of its name beside this one."""
    found: dict[str, Any] = load_yaml((Path(__file__).parent / f"{name}.yaml").read_text())
    return found


def rate(found: int, trials: int) -> str:
    """A rate in percent with its 95 % interval, as in "77.4 (74.7-79.9)"."""
    low, high = wilson(found, trials)
    return f"{100 * found / trials:.1f} ({100 * low:.1f}-{100 * high:.1f})"


def provenance(records: list[Record], trainings: Sequence[Record] = (), more: Sequence[dict[str, Any]] = ()) -> str:
    """Where a page comes from, as its last section.

    Args:
        records: of attacks.
        trainings: records of those.
        more: where other figures come from.
    """
    origins = [record["provenance"] for record in (*records, *trainings)] + list(more)
    return render(
        "papers/provenance.md.j2",
        costs=[cost(of_kind, what) for of_kind, what in ((records, "attacks"), (trainings, "training")) if of_kind],
        commits=sorted({str(origin["commit"]) for origin in origins}),
        lines=[
            *changed_files([*records, *trainings]),
            *sorted({", ".join(f"{k} {v}" for k, v in origin["versions"].items()) for origin in origins}),
            *sorted({note for origin in origins for note in origin["data_notes"]}),
            *cells_of_one_code(records)[1],
        ],
    )


def changed_files(records: Sequence[Record]) -> list[str]:
    """A line on the records that were made while files of the source tree differed from their commit, if there are."""
    count = sum(str(record["provenance"]["commit"]).endswith("+") for record in records)
    if not count:
        return []
    return [
        f"{count:,} of {len(records):,} records are from a source tree with changed files (their commit ends with a "
        "plus): the checksum in each record, not the commit, identifies their code"
    ]


def cost(records: Sequence[Record], what: str) -> dict[str, Any]:
    """How many records of what there are, from when, and what they took."""
    return {
        "records": len(records),
        "what": what,
        "dates": sorted(record["provenance"]["date"][:10] for record in records),
        "hours": sum(record["cost"]["seconds"] for record in records) / 3600,
        "machines": machines(records, " with "),
    }


def machines(records: Sequence[Record], between: str) -> list[str]:
    """The devices and their threads, as in "cpu, 1 thread"."""
    origins = (record["provenance"] for record in records)
    return sorted({f"{origin['device']}{between}{threads(origin['threads'])}" for origin in origins})
