"""Which records newer ones of other code take the place of, where results are published.

A board shows the newest code of a cell alone, and so older records of the same victims say nothing on it. Another
attack, defense or strength is another cell: of a better attack on an entry both numbers stay.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from benchmark.boards.cells import checksums
from benchmark.identity import digest
from benchmark.store.store import ATTACKS, TRAININGS, Record, Shelf


def replaced(records: Iterable[Record]) -> set[str]:
    """The keys of records of attacks each of whose victims is in a newer record of the same cell and other code.

    A victim is the same where its number is and its images are, as far as both records tell.

    Args:
        records: of all cells; of those with one date the later ones are newer.
    """

    def is_replaced(old: Record, newer: Sequence[Record]) -> bool:
        data = checksums(old)
        alike = [one for one in newer if all(data.get(place, sha) == sha for place, sha in checksums(one).items())]
        there = {victim["index"] for one in alike for victim in one["victims"]}
        return there.issuperset(victim["index"] for victim in old["victims"])

    return of_other_code(records, lambda record: record["cell"], is_replaced)


def replaced_trainings(records: Iterable[Record]) -> set[str]:
    """The keys of records of trainings of which there is a newer one of the same configuration, seed and images, and
    other code.

    Args:
        records: of all trainings; of those with one date the later ones are newer.
    """
    return of_other_code(
        records, lambda record: digest([record["config"], record["data_sha256"]]), lambda old, newer: bool(newer)
    )


def of_other_code(
    records: Iterable[Record],
    group_of: Callable[[Record], str],
    is_replaced: Callable[[Record, Sequence[Record]], bool],
) -> set[str]:
    """The keys of the records that are replaced by those of their group that are newer and of other code."""
    groups: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        groups[group_of(record)].append(record)
    found = set()
    for group in groups.values():
        oldest_first = sorted(group, key=lambda record: str(record["provenance"]["date"]))
        for place, old in enumerate(oldest_first):
            newer = [one for one in oldest_first[place + 1 :] if code_of(one) != code_of(old)]
            if is_replaced(old, newer):
                found.add(old["key"])
    return found


def code_of(record: Record) -> tuple[Any, ...]:
    """Digests of the code that made a record."""
    return record["code_sha256"], record.get("behavior_sha256", "")


REPLACED: dict[Shelf, Callable[[Iterable[Record]], set[str]]] = {ATTACKS: replaced, TRAININGS: replaced_trainings}
"""What is replaced of each kind of records; of others nothing is."""
