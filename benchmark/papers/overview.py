"""The pages on everything that is published: the board, each paper's claim, measurement and verdict, and the speed."""

import textwrap
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from markdown_it import MarkdownIt
from markupsafe import Markup

from benchmark.boards.cells import cells_of_one_code
from benchmark.boards.outcome import Outcome, of_cells
from benchmark.boards.template import render, render_html
from benchmark.errors import UsageError
from benchmark.metrics.intervals import wilson
from benchmark.papers import attacks, board, dlg_fb, idlg, labels, masking
from benchmark.papers.sources import machines
from benchmark.store.store import Record, keys_in
from benchmark.studies import performance_page
from benchmark.suite.registry import Spec

WIDTH = 118
"""Characters of a line."""

PAPERS = {"idlg": idlg, "dlg_fb": dlg_fb, "masking": masking, "labels": labels, "attacks": attacks}
"""By the folder of a run: what has a ``page`` and a ``summary`` of its records and the folder."""

BOARDS, QUICK = ("leaderboard", "leaderboard_small"), "quick"
"""The folders that are no paper's: all defenses, on large networks and on small ones, and the quick suite."""

FOLDERS = (*BOARDS, QUICK, *PAPERS)


def found_in(folder: Path, read: Callable[[Path], list[Record]]) -> dict[str, Any]:
    """What both pages say of the folders in this one.

    Args:
        folder: of the published runs, each by the name of its suite.
        read: the records of a run.

    Returns:
        The context of the templates; texts are Markdown.

    Raises:
        UsageError: there is no run in the folder, or a file is damaged.
    """
    published = {name: read(folder / name) for name in FOLDERS if keys_in(folder / name / "records")}
    if not published:
        raise UsageError(f"{folder} holds none of {', '.join(FOLDERS)}: publish a run into it first")
    speed = performance_page.read(folder)
    notes = (r["provenance"]["data_notes"] for records in published.values() for r in records)
    return {
        "folders": [contents(name, records, folder) for name, records in published.items()],
        "notes": sorted({note for of_record in notes for note in of_record}),
        "speed": speed_of(speed, folder) if "cpu" in speed else "",
        "papers": {
            name: of.summary(published[name], folder / name) for name, of in PAPERS.items() if name in published
        },
        "not_run": {name: count for name in BOARDS if name in published and (count := board.not_run(folder / name))},
        "quick": render("papers/quick.md.j2", **quick(published[QUICK])) if QUICK in published else "",
        "boards": {
            name: board.scenarios(published[name], folder / name) for name in (*BOARDS, QUICK) if name in published
        },
    }


def page(found: dict[str, Any]) -> str:
    """The page in Markdown, of what :func:`found_in` found."""
    return "\n".join(map(wrapped, render("papers/overview.md.j2", **found).split("\n")))


def index(found: dict[str, Any]) -> str:
    """The page in HTML, which refers to nothing outside the folder, of what :func:`found_in` found."""
    return render_html("papers/overview.html.j2", **found, html=html, shown=board.shown)


def html(text: str) -> Markup:
    """Markdown of our own as HTML."""
    return Markup(MarkdownIt("commonmark", {"html": False}).render(str(text)))


def speed_of(report: dict[str, Any], folder: Path) -> str:
    """What is published on speed, in sentences; they stand in the README too."""
    return render(
        "papers/speed.md.j2",
        headline=performance_page.headline(report),
        measured=idlg.published(folder / "idlg"),
    )


def wrapped(line: str) -> str:
    """A line in lines of ``WIDTH``, but of a table; those of an item are indented."""
    if line.startswith("|"):
        return line
    indent = "  " if line.startswith("- ") else ""
    return textwrap.fill(line, WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def contents(name: str, records: list[Record], folder: Path) -> dict[str, Any]:
    """A row of the table: what was attacked by what, and where."""
    victims: dict[str, int] = defaultdict(int)
    kinds: dict[str, set[str]] = {"attack": set(), "defense": set()}
    for cell in of_cells(cells_of_one_code(records)[0]):
        config = cell.config
        data = config["data"]["class"] + (" by class" if config.get("same_class", 1) > 1 else "")
        if config["data"].get("num_classes"):
            data += f" with {config['data']['num_classes']:,} classes"
        victims[data] = max(victims[data], len(cell.victims))
        for kind, names in kinds.items():
            if config[kind] and not (kind == "attack" and cell.is_baseline):
                names.add(config[kind]["class"])
    return {
        "name": name,
        "target": "README.md" if (folder / name / "README.md").exists() else "leaderboard.md",
        "victims": sorted(victims.items()),
        "attacks": sorted(kinds["attack"]),
        "defenses": sorted(kinds["defense"]),
        "machines": machines(records, ", "),
    }


def quick(records: list[Record]) -> dict[str, Any]:
    """What the board of the quick suite can and cannot show."""
    found = list(of_cells(cells_of_one_code(records)[0]))
    intervals = [wilson(len(cell.leaked), len(cell.victims)) for cell in found]
    return {
        "victims": sorted({len(cell.victims) for cell in found}),
        "width": max(high - low for low, high in intervals),
        "gap": largest_gap(found),
    }


def largest_gap(found: Sequence[Outcome]) -> tuple[str, str, int, int, int] | None:
    """The defense where knowing it finds most: its name, data set, victims found without and with, and victims."""
    best: dict[tuple[str, str], dict[bool, int]] = defaultdict(lambda: {False: 0, True: 0})
    victims: dict[tuple[str, str], int] = {}
    for cell in found:
        if defense := cell.config["defense"]:
            arguments = {k: v for k, v in defense.items() if k != "class" and v is not False}
            key = Spec(defense["class"], arguments).label, cell.config["data"]["class"]
            best[key][cell.adaptive] = max(best[key][cell.adaptive], len(cell.leaked))
            victims[key] = len(cell.victims)
    if not best:
        return None
    key = max(best, key=lambda key: best[key][True] - best[key][False])
    return (*key, best[key][False], best[key][True], victims[key])
