"""Which victims a cell shows: those of one code, one network and one data set, the newest, and what is left out."""

from collections import defaultdict
from collections.abc import Collection, Iterable
from typing import Any

from benchmark.store.store import Record

REASONS = {
    "code": "from other code or another network than the newest and left out",
    "data": "from other data than the newest and left out",
    "present": "from other code than the present one and left out: run their suite again",
}
"""Why victims are left out, as the end of a sentence."""

Cells = dict[str, dict[int, tuple[dict[str, Any], Record]]]
"""Of each cell, by the victims' numbers in their order: the victim, and its record."""


def cells_of_one_code(records: Iterable[Record], current: Collection[str] = ()) -> tuple[Cells, list[str]]:
    """The victims that each cell shows, and sentences on those that it does not.

    Records of one cell can be of different code, networks, LPIPS or data, since its configuration holds none of them.
    The newest record says which count; of those, a victim that is in two records is taken from the newer. Of a user's
    own class the newest code counts in all cells: a changed default makes another cell of the same class. Cells stand
    in the order in which the records that are shown are given: those that are left out do not change it.

    Args:
        records: of a folder, in any order.
        current: keys of the records that are known to be of the present code and data: they count before newer ones.

    Returns:
        The cells, and a sentence for each reason to leave victims out. A victim that is shown from another record is
        not mentioned.
    """
    records = list(records)
    newest_first = sorted(records, key=lambda r: (r["key"] in current, r["provenance"]["date"], r["key"]), reverse=True)
    of_cell: dict[str, tuple[list[Record], list[Record]]] = {record["cell"]: ([], []) for record in records}
    codes: dict[str, str] = {}
    for record in newest_first:
        own = record.get("own_code", {})
        codes = own | codes  # those of newer records stay
        is_old = any(codes[name] != sha256 for name, sha256 in own.items())
        of_cell[record["cell"]][is_old].append(record)
    cells: Cells = {}
    left_out: dict[str, list[tuple[str, int]]] = defaultdict(list)
    mixed: set[tuple[str, ...]] = set()
    for cell, (recent, old) in of_cell.items():
        if not recent:
            left_out["code"].append(
                (what(old[0]), len({victim["index"] for record in old for victim in record["victims"]}))
            )
            continue
        same, others = of_one_version(recent)
        others += old
        same, contradicting = of_one_data_set(same)
        shown: dict[int, tuple[dict[str, Any], Record]] = {}
        for record in same:
            for victim in record["victims"]:
                shown.setdefault(victim["index"], (victim, record))
        cells[cell] = {index: shown[index] for index in sorted(shown)}
        for why, out in (("code", others), ("data", contradicting)):
            missing = {victim["index"] for record in out for victim in record["victims"]} - shown.keys()
            if missing:
                left_out[why].append((what(same[0]), len(missing)))
        versions = {record["provenance"].get("versions", {}).get("torch", "unknown") for _, record in shown.values()}
        if len(versions) > 1:
            mixed.add(tuple(sorted(versions)))
    given = {record["key"]: place for place, record in reversed([*enumerate(records)])}
    first = {cell: min(given[record["key"]] for _, record in shown.values()) for cell, shown in cells.items()}
    cells = {cell: cells[cell] for cell in sorted(cells, key=first.__getitem__)}
    sentences = [sentence(why, of) for why, of in left_out.items()]
    sentences += [f"victims of one cell were attacked with torch {' and '.join(of)}" for of in sorted(mixed)]
    return cells, sentences


def of_one_version(newest_first: list[Record]) -> tuple[list[Record], list[Record]]:
    """The records of the code, the network and the LPIPS of the first one, and the others."""
    wanted = version_of(newest_first[0])
    same: list[Record] = []
    others: list[Record] = []
    for record in newest_first:
        (same if version_of(record) == wanted else others).append(record)
    return same, others


def version_of(record: Record) -> tuple[str | None, ...]:
    """What decides a victim's result beside its cell and its data."""
    lpips = record["provenance"].get("lpips")
    network = (record.get("network_sha256") or [None])[0]
    return (
        record.get("code_sha256"),
        record.get("behavior_sha256"),
        network,
        lpips["sha256"] if isinstance(lpips, dict) else None,
    )


def of_one_data_set(newest_first: list[Record]) -> tuple[list[Record], list[Record]]:
    """The records whose data do not contradict those of the first one, and the others.

    The checksum of a victim's data holds those of all victims before it, so that records of different victims can be
    told apart, too: where they touch, or where both touch a third. A block of the same images as those that count does
    not touch them so: what is public can be other.
    """
    if len(newest_first) == 1:
        return newest_first, []
    same: list[Record] = []
    contradicting: list[Record] = []
    known: dict[Any, str] = {}
    refused: set[tuple[Any, str]] = set()
    for record in newest_first:
        of_it = checksums(record)
        wrong = [place for place, sha in of_it.items() if known.get(place, sha) != sha]
        if wrong or (refused and not refused.isdisjoint(of_it.items())):
            contradicting.append(record)
            since = min((place for place in wrong if isinstance(place, int)), default=0)
            refused.update(
                (place, sha)
                for place, sha in of_it.items()
                if (place >= since if isinstance(place, int) else known.get(place) != sha)
            )
        else:
            same.append(record)
            known |= of_it
    if not refused:
        return same, []
    # A record can be of the data of one that was refused after it: it touches that one, but none of those that count.
    late = [record["key"] for record in same if not refused.isdisjoint(checksums(record).items())]
    return (
        [record for record in same if record["key"] not in late],
        contradicting + [record for record in same if record["key"] in late],
    )


def checksums(record: Record) -> dict[Any, str]:
    """Checksums of a record's data: of the whole block by its range, and up to each victim by the victim's number."""
    origin, victims = record["provenance"], record["victims"]
    first, last = victims[0]["index"], victims[-1]["index"]
    whole = {(first, last): origin.get("data_sha256", "")}
    return whole | dict(enumerate(origin.get("data_chain") or (), first - 1))


def what(record: Record) -> str:
    """A cell, for people: its defense if it has one, else its attack."""
    config = record["config"]
    return str((config["defense"] or config["attack"])["class"])


def sentence(why: str, of: list[tuple[str, int]]) -> str:
    """One sentence for all victims that are left out for one reason."""
    count = sum(number for _, number in of)
    names = list(dict.fromkeys(name for name, _ in of))
    listed = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    return f"{count} victim{'s' if count != 1 else ''} of {listed} {'are' if count != 1 else 'is'} {REASONS[why]}"
