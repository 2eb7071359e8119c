"""The page on everything that is published: what each folder holds, and each paper's claim, measurement and verdict."""

import textwrap
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmark.boards.markdown import escaped, threads
from benchmark.errors import UsageError
from benchmark.metrics.intervals import wilson
from benchmark.metrics.leak import leaks
from benchmark.papers import dlg_fb, idlg, masking_summary
from benchmark.papers.sources import Cell, cells
from benchmark.store.store import Record, keys_in
from benchmark.studies import performance_page
from benchmark.suite.registry import Spec

WIDTH = 118
"""Characters of a line."""

SUMMARIES: dict[str, Callable[[list[Record], Path], str]] = {
    "idlg": idlg.summary,
    "dlg_fb": dlg_fb.summary,
    "masking": masking_summary.summary,
}

QUICK = "quick"
"""The folder that is no paper's."""

FOLDERS = (QUICK, *SUMMARIES)


def page(folder: Path, read: Callable[[Path], list[Record]]) -> str:
    """The page on the folders in this one.

    Args:
        folder: of the published runs, each by the name of its suite.
        read: the records of a run.

    Raises:
        UsageError: there is no run in the folder, or a file is damaged.
    """
    published = {name: read(folder / name) for name in FOLDERS if keys_in(folder / name / "records")}
    if not published:
        raise UsageError(f"{folder} holds none of {', '.join(FOLDERS)}: publish a run into it first")
    speed = performance_page.read(folder)
    lines = [
        "# Published results",
        "",
        *wrapped(
            "Written by `leakboard page results` from the folders: no number or verdict on this page was typed. Each "
            "folder is a published run (`leakboard publish`): its records without the private images, the tables "
            "derived from them, and figures. `uv run leakboard show results/quick` rebuilds the table from the records "
            "alone, `uv run leakboard page results/idlg` a page and its figures; each record names its commit, "
            "versions, device and data."
        ),
        "",
        "| folder | victims | attacks | defenses | device |",
        "|---|---|---|---|---|",
        *(contents(name, records, folder) for name, records in published.items()),
        "",
        *(f"- {escaped(note)}" for note in notes(published)),
    ]
    if "cpu" in speed:
        said = f"{speed_of(speed, folder)} [performance.md](performance.md) has more."
        lines += ["", "## Speed", "", *wrapped(said)]
    papers = [name for name in SUMMARIES if name in published]
    if papers:
        lines += ["", "## Papers: claim, measurement, verdict"]
    for name in papers:
        for paragraph in SUMMARIES[name](published[name], folder / name).split("\n"):
            lines += wrapped(paragraph) if paragraph.startswith("- ") else ["", *wrapped(paragraph)]
    if QUICK in published:
        lines += ["", "## What `quick` shows", "", *wrapped(quick(published[QUICK]))]
    return "\n".join(lines) + "\n"


def speed_of(report: dict[str, Any], folder: Path) -> str:
    """What is published on speed, in sentences; they stand in the README too."""
    measured = idlg.published(folder / "idlg")
    return " ".join([performance_page.headline(report), *([idlg.speeds(measured)] if measured else [])])


def wrapped(paragraph: str) -> list[str]:
    """Lines of ``WIDTH``; those of an item are indented."""
    indent = "  " if paragraph.startswith("- ") else ""
    return textwrap.wrap(paragraph, WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def contents(name: str, records: list[Record], folder: Path) -> str:
    """A row of the table: what was attacked by what, and where."""
    victims: dict[str, int] = defaultdict(int)
    kinds: dict[str, dict[str, None]] = {"attack": {}, "defense": {}}
    for cell in cells(records):
        config = cell.config
        data = config["data"]["class"] + (" by class" if config.get("same_class", 1) > 1 else "")
        if config["data"].get("num_classes"):
            data += f" with {config['data']['num_classes']:,} classes"
        victims[data] = max(victims[data], len(cell.victims))
        for kind, names in kinds.items():
            if config[kind]:
                names[config[kind]["class"]] = None
    origins = [record["provenance"] for record in records]
    where = sorted({escaped(f"{origin['device']}, {threads(origin['threads'])}") for origin in origins})
    target = "README.md" if (folder / name / "README.md").exists() else "leaderboard.md"
    each = ", ".join(f"{count:,} of {escaped(data)}" for data, count in sorted(victims.items()))
    listed = (escaped(", ".join(sorted(of_kind))) or "none" for of_kind in kinds.values())
    return f"| [{name}]({name}/{target}) | {each} | " + " | ".join(listed) + f" | {'; '.join(where)} |"


def notes(published: dict[str, list[Record]]) -> list[str]:
    """What the records say of incomplete data sets."""
    return sorted(
        {note for records in published.values() for record in records for note in record["provenance"]["data_notes"]}
    )


def quick(records: list[Record]) -> str:
    """What the board of the quick suite can and cannot show."""
    found = cells(records)
    intervals = [wilson(sum(map(leaks, cell.victims)), len(cell.victims)) for cell in found]
    said = (
        f"It is small: with {counts({len(cell.victims) for cell in found})} victims a 95 % interval is up to "
        f"{max(high - low for low, high in intervals):.2f} wide. It shows what a board looks like"
    )
    gap = largest_gap(found)
    if gap:
        defense, data, oblivious, adaptive, victims = gap
        said += (
            f", and why a defense meets attackers who know it: {escaped(defense)} leaves {oblivious} of {victims} "
            f"{escaped(data)} to the best attack that does not know it, and {adaptive} to the best that does"
        )
    return (
        f"{said}. `quick/picture.png` is of the cell Photos, Masking(ratio=0.2), IDLG that knows the mask: the first "
        "eight victims. The photographs are scikit-learn's china.jpg and flower.jpg, CC BY 2.0."
    )


def largest_gap(found: Sequence[Cell]) -> tuple[str, str, int, int, int] | None:
    """The defense where knowing it finds most: its name, data set, victims found without and with, and victims."""
    best: dict[tuple[str, str], dict[bool, int]] = defaultdict(lambda: {False: 0, True: 0})
    victims: dict[tuple[str, str], int] = {}
    for cell in found:
        if cell.config["defense"]:
            arguments = {k: v for k, v in cell.config["defense"].items() if k != "class" and v is not False}
            key = Spec(cell.defense, arguments).label, cell.data
            adaptive = cell.config["adaptive"]
            best[key][adaptive] = max(best[key][adaptive], sum(map(leaks, cell.victims)))
            victims[key] = len(cell.victims)
    if not best:
        return None
    key = max(best, key=lambda key: best[key][True] - best[key][False])
    return (*key, best[key][False], best[key][True], victims[key])


def counts(numbers: set[int]) -> str:
    return " or ".join(map(str, sorted(numbers)))
