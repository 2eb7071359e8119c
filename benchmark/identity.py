"""What decides a result, and the short name that is made of it."""

import hashlib
import json
from typing import Any


def digest(value: Any) -> str:
    """A short name for a JSON value: equal values, equal names."""
    return hashlib.sha256(_sorted.encode(value).encode()).hexdigest()[:16]


_sorted = json.JSONEncoder(sort_keys=True)


def identity(record: dict[str, Any]) -> dict[str, Any]:
    """Everything that decides the result of a record's block; its key is the digest of that."""
    origin, victims = record["provenance"], record["victims"]
    return block_identity(
        record["cell"],
        origin["lpips"]["sha256"] if isinstance(origin["lpips"], dict) else None,
        record["code_sha256"],
        record.get("behavior_sha256", ""),
        record.get("network_sha256", []),
        range(victims[0]["index"], victims[-1]["index"] + 1),
        origin["data_chain"],
        record.get("training_sha256", ""),
    )


def block_identity(
    cell: str,
    lpips: str | None,
    code: str,
    behavior: str,
    networks: list[str],
    victims: range,
    data: list[str],
    training: str = "",
) -> dict[str, Any]:
    """Everything that decides the result of a block: the cell with its configuration, code, networks, and data."""
    own = {"behavior_sha256": behavior, "training_sha256": training}
    return {name: value for name, value in own.items() if value} | {
        "cell": cell,
        "lpips_sha256": lpips,
        "code_sha256": code,
        "network_sha256": networks,
        "victims": [victims.start, victims.stop],
        "data_chain": data,
    }
