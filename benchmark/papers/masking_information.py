"""The part of the page on masking that says what masks leave of an image, and why attacks miss what they leave."""

from collections import defaultdict
from pathlib import Path
from typing import Any

from benchmark.errors import UsageError
from benchmark.store.store import write_whole
from benchmark.studies import diagnosis, spectrum
from benchmark.suite.documents import read_json
from benchmark.thresholds.page import attack_label


def information(folder: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What spectrum.json and diagnosis.json in the folder say of masks, None where one is not there; and their origins.

    Their own pages, spectrum.md and diagnosis.md, are written anew.

    Raises:
        UsageError: one of them is damaged.
    """
    told: dict[str, Any] = {}
    origins: list[dict[str, Any]] = []
    for name, command, tell, as_page in (
        ("spectrum", "spectrum", ranks, spectrum.Spectra().page),
        ("diagnosis", "diagnose", causes, diagnosis.Diagnoses().page),
    ):
        path, told[name] = folder / f"{name}.json", None
        if path.exists():
            try:
                found = read_json(path)
                told[name] = tell([row for row in found["rows"] if row["defense"].startswith("Masking")])
                write_whole(folder / f"{name}.md", as_page(found["rows"]).encode())
                origins += [row["provenance"] for row in found["rows"] if "provenance" in row]
                origins += [found["provenance"]] if "provenance" in found else []
            except (OSError, ValueError, KeyError, TypeError, AttributeError):
                raise UsageError(f"{path} cannot be read: run leakboard {command} again, or delete it") from None
    return told, origins


def ranks(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What each mask leaves."""
    return [row | {"ratio": row["defense"].partition("ratio=")[2].partition(",")[0]} for row in rows]


def causes(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Why attacks that know the mask miss images, by data set and attack over all masks.

    And how many of the images that iDLG misses Gauss-Newton finds, where it was run on the same victims.
    """
    verdicts: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        verdicts[f"{row['where']}, {attack_label(row['attack'])}"] += diagnosis.verdicts_of(row)
    return {"verdicts": verdicts, "kinds": list(diagnosis.VERDICTS), "second_order": second_order(rows)}


def second_order(rows: list[dict[str, Any]]) -> dict[str, list[bool]]:
    """Whether Gauss-Newton finds each image that iDLG misses though the objective is lower there, by the scenario."""
    solved = {
        (row["where"], row["defense"]): row["runs"][diagnosis.OWN]["leaked"]
        for row in rows
        if row["attack"]["class"] == "GaussNewton"
    }
    missed: dict[str, dict[tuple[str, int], bool]] = {where: {} for where, _ in solved}
    for row in rows:
        both = zip(solved.get((row["where"], row["defense"]), []), diagnosis.verdicts_of(row), strict=False)
        for victim, (found, verdict) in enumerate(both if row["attack"]["class"] == "IDLG" else ()):
            if verdict in ("tolerance", "optimizer", "open"):
                missed[row["where"]][row["defense"], victim] = found
    return {where: list(of.values()) for where, of in missed.items() if of}
