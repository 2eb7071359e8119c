"""The part of the page on masking that says what masks leave of an image, and why attacks miss what they leave."""

from collections import defaultdict
from pathlib import Path
from typing import Any

from benchmark.boards.markdown import escaped
from benchmark.errors import UsageError
from benchmark.store.store import write_whole
from benchmark.studies import diagnosis, spectrum
from benchmark.suite.documents import read_json
from benchmark.thresholds.page import attack_label


def information(folder: Path) -> tuple[list[str], list[dict[str, Any]]]:
    """What spectrum.json and diagnosis.json in the folder say, where they are there, and where that comes from.

    Their own pages, spectrum.md and diagnosis.md, are written anew.

    Raises:
        UsageError: one of them is damaged.
    """
    lines: list[str] = []
    origins: list[dict[str, Any]] = []
    for name, command, tell, as_page in (
        ("spectrum", "spectrum", ranks, spectrum.as_markdown),
        ("diagnosis", "diagnose", causes, diagnosis.as_markdown),
    ):
        path = folder / f"{name}.json"
        if path.exists():
            try:
                found = read_json(path)
                lines += ["", *tell(found["rows"])]
                write_whole(folder / f"{name}.md", as_page(found["rows"]).encode())
                origins += [row["provenance"] for row in found["rows"] if "provenance" in row]
                origins += [found["provenance"]] if "provenance" in found else []
            except (OSError, ValueError, KeyError, TypeError, AttributeError):
                raise UsageError(f"{path} cannot be read: run leakboard {command} again, or delete it") from None
    return lines, origins


def ranks(rows: list[dict[str, Any]]) -> list[str]:
    """What masks leave."""
    return [
        "**Equations and rank.** The entries that a mask leaves are more than the rank of the masked update's Jacobian",
        "in the pixels, which bounds what they determine (singular values down to a millionth of the largest without a",
        "mask; [spectrum.md](spectrum.md) has larger ones too, and pruning).",
        "",
        "| data | masked | entries left | rank | pixels |",
        "|---|---|---|---|---|",
        *(
            f"| {escaped(row['dataset'])} | {escaped(row['defense'].partition('ratio=')[2].partition(',')[0])} "
            f"| {row['equations']:,.0f} | {row['directions']['1e-06']:,.0f} | {row['pixels']:,} |"
            for row in rows
            if row["defense"].startswith("Masking")
        ),
    ]


def causes(rows: list[dict[str, Any]]) -> list[str]:
    """Why attacks that know the mask miss images, by data set and attack over all masks."""
    verdicts: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        if row["defense"].startswith("Masking"):
            verdicts[escaped(f"{row['where']}, {attack_label(row['attack'])}")] += diagnosis.verdicts_of(row)
    said = [
        f"- {name}: {', '.join(f'{kind} {of.count(kind)}' for kind in diagnosis.VERDICTS if kind in of)} of {len(of)}"
        for name, of in verdicts.items()
    ]
    return [
        "**Why images are missed.** Attacks that know the mask were run again in double precision, from the true image",
        "and from near it; [diagnosis.md](diagnosis.md) has each mask and says what the words mean.",
        "",
        *said,
        *second_order([row for row in rows if row["defense"].startswith("Masking")]),
    ]


def second_order(rows: list[dict[str, Any]]) -> list[str]:
    """How many of the images that iDLG misses Gauss-Newton finds, where it was run on the same victims."""
    solved = {
        (row["where"], row["defense"]): row["runs"][diagnosis.OWN]["leaked"]
        for row in rows
        if row["attack"]["class"] == "GaussNewton"
    }
    lines = []
    for where in dict.fromkeys(place for place, _ in solved):
        missed = {
            (row["defense"], victim): found
            for row in rows
            if row["where"] == where and row["attack"]["class"] == "IDLG"
            for victim, (found, verdict) in enumerate(
                zip(solved.get((where, row["defense"]), []), diagnosis.verdicts_of(row), strict=False)
            )
            if verdict in ("tolerance", "optimizer", "open")
        }
        if missed:
            lines.append(
                f"Of the {len(missed)} images behind a mask on {escaped(where)} that an IDLG run misses although "
                f"the objective is lower at the true image, Gauss-Newton finds {sum(missed.values())}."
            )
    return ["", *lines] if lines else []
