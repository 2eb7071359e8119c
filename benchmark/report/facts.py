"""What a cell or a board was made with, what it cost and where it comes from, as names and texts."""

from collections import Counter
from collections.abc import Collection, Sequence
from statistics import fmean
from typing import Any

from benchmark.boards.outcome import strength
from benchmark.store.store import Record

Facts = list[tuple[str, str]]
"""Names and texts."""


def arguments_of(config: dict[str, Any]) -> Facts:
    """The arguments of attack and defense, as far as they are given."""
    named = [("Attack", config["attack"]), ("Defense", config["defense"])]
    return [(name, f"{part['class']} {given(part)}".rstrip()) for name, part in named if part]


def given(part: dict[str, Any]) -> str:
    """The arguments of a class, without those that are off."""
    return strength({key: value for key, value in part.items() if value is not None})


def cost_of(records: Sequence[Record]) -> Facts:
    """What attacks cost, over all victims of their records."""
    costs = [record["cost"] for record in records]
    victims_of = [victim for record in records for victim in record["victims"]]
    evaluations = fmean(victim["evaluations"] for victim in victims_of)
    facts = [
        ("Time", f"{sum(cost['seconds'] for cost in costs):,.1f} s for {len(victims_of):,} attacks on a victim"),
        ("Evaluations", f"{evaluations:,.0f} a victim, on average"),
        ("Peak memory", f"{max(cost['peak_memory_mib'] for cost in costs):,} MiB"),
    ]
    if trained := {record["cell"]: record["cost"]["training"] for record in records if "training" in record["cost"]}:
        seconds = sum(one["cpu_seconds"] for one in trained.values())
        facts.append(("Attackers' training", f"{seconds:,.0f} CPU seconds"))
    if notes := several([note for cost in costs for note in cost["notes"]]):
        facts.append(("Notes on the cost", notes))
    return facts


def provenance_of(records: Sequence[Record]) -> Facts:
    """Where records come from."""
    origins = [record["provenance"] for record in records]
    dates = sorted(origin["date"] for origin in origins)
    versions = [f"{name} {version}" for origin in origins for name, version in origin.get("versions", {}).items()]
    facts = [
        ("Date", dates[0] if dates[0] == dates[-1] else f"{dates[0]} to {dates[-1]}"),
        ("Commit", several([origin.get("commit") or "unknown" for origin in origins])),
        ("Device", several([origin.get("device") or "unknown" for origin in origins])),
        ("Versions", several(versions, most=30)),
        ("Code", several([(record.get("code_sha256") or "unknown")[:12] for record in records])),
        ("Data", several([origin["data_sha256"][:12] for origin in origins])),
        ("Notes on the data", several([note for origin in origins for note in origin.get("data_notes", [])])),
    ]
    return [(name, text) for name, text in facts if text]


def several(texts: Collection[str], most: int = 3) -> str:
    """Different texts, the most frequent first, as in "a, b and 5 others"."""
    names = [name for name, _ in Counter(texts).most_common()]
    others = len(names) - most
    return ", ".join(names[:most]) + (f" and {others} other{'s' if others > 1 else ''}" if others > 0 else "")
