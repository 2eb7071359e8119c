"""The page on speed in results/, from what ``leakboard bench --report`` measured."""

import json
from pathlib import Path
from typing import Any

from jinja2 import UndefinedError

from benchmark.boards.figure import as_png, blank
from benchmark.boards.grid import Grid
from benchmark.boards.template import render
from benchmark.errors import UsageError
from benchmark.store.store import write_whole
from benchmark.studies.bench import BATCHED, FROM_RGAP, ONE_BY_ONE, faster, times
from benchmark.studies.performance import CURVE, SETTINGS, Setting
from benchmark.suite.documents import read_json

TARGET_OF_LIGHTNING = 0.05
"""Largest share of a step that Lightning itself may take."""


def write(report: dict[str, Any], folder: Path) -> None:
    """performance.json, performance.md and performance.png."""
    write_whole(folder / "performance.json", (json.dumps(report, indent=1) + "\n").encode())
    write_whole(folder / "performance.md", as_markdown(report).encode())
    write_whole(folder / "performance.png", plot(report))


def read(folder: Path) -> dict[str, Any]:
    """The report of an earlier run; a run on a GPU and one on a CPU complete each other.

    Raises:
        UsageError: the file is damaged, or of another version of Leakboard.
    """
    path = folder / "performance.json"
    try:
        report: dict[str, Any] = read_json(path)
        as_markdown(report)  # or something is missing in it
        if "cpu" in report:
            headline(report)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, UndefinedError):
        raise UsageError(
            f"{path} cannot be read, or is from another version: remove it, or give another folder to --report"
        ) from None
    return report


COLUMNS = (
    *("setting", "target", "one by one, s", "batched, s", "speedup", "from R-GAP, another attack, s", "speedup"),
    *("threads (tried)", "evaluations", "leaked"),
)


def as_markdown(report: dict[str, Any]) -> str:
    """The page."""
    rows = [(setting.label, f"{setting.at_least:g}x", *cells_of(setting, report)) for setting in SETTINGS]
    return render(
        "studies/performance.md.j2",
        target=TARGET_OF_LIGHTNING,
        table=Grid(COLUMNS, rows).markdown(),
        parts=[report[part] for part in ("cpu", "gpu") if part in report],
        shares_of=shares,
        curve=curve,
        workers=workers,
    )


def curve(found: dict[str, Any]) -> str:
    """The time of an evaluation by the victims per block."""
    rows = [(f"{point['victims']:,}", f"{point['ms_per_evaluation']:.3g}") for point in found["curve"]]
    many = f"{found['many']['victims']:,}, 64 at a time", f"{found['many']['ms_per_evaluation']:.3g}"
    return Grid(("victims per block", "ms per victim and evaluation"), [*rows, many]).markdown()


def workers(found: list[dict[str, Any]]) -> str:
    """The time of a run by its workers and their threads."""
    rows = []
    for row in found:
        seconds, speedup = f"{row['seconds']:.1f}", f"{found[0]['seconds'] / row['seconds']:.2f}x"
        rows.append((str(row["workers"]), str(row["threads"]), seconds, speedup))
    return Grid(("workers", "threads of each", "seconds", "speedup"), rows).markdown()


def shares(parts: dict[str, float]) -> dict[str, float]:
    """Of the time of a step, the largest first."""
    return {name: parts[name] / sum(parts.values()) for name in sorted(parts, key=lambda name: -parts[name])}


def at_its_best(loop: dict[str, Any], cores: int) -> bool:
    """Whether the one-by-one side was given the number of threads that suits it best."""
    return cores == 1 or len(loop["threads_tried"]) > 1


def cells_of(setting: Setting, report: dict[str, Any]) -> list[str]:
    """The measured cells of a row of the table, or that there are none."""
    found = report.get("gpu" if setting.on_gpu else "cpu", {})
    measured = found.get("settings", {}).get(setting.label)
    if measured is None:
        return [f"not measured: this takes a {'GPU' if setting.on_gpu else 'CPU'}"]
    alone, others = measured[ONE_BY_ONE], [measured.get(name) for name in (BATCHED, FROM_RGAP)]
    seconds = [f"{alone['seconds_per_victim']:.3g}"]
    for side in others:
        if side is None:  # which only some attacks have
            seconds += ["-", "-"]
            continue
        ratio = alone["seconds_per_victim"] / side["seconds_per_victim"]
        known = at_its_best(alone, found["machine"]["cores"])
        seconds += [f"{side['seconds_per_victim']:.3g}", times(ratio) if known else "-"]
    sides = [alone, *filter(None, others)]
    threads = " / ".join(" or ".join(map(str, side["threads"])) for side in sides)
    evaluations = " / ".join(f"{side['evaluations_per_victim']:,.0f}" for side in sides)
    leaked = f"{' / '.join(str(side['leaked']) for side in sides)} of {alone['victims']}"
    return [*seconds, f"{threads} ({', '.join(map(str, alone['threads_tried']))})", evaluations, leaked]


def headline(report: dict[str, Any]) -> str:
    """The README's sentence on speed: the first setting on the CPU.

    No speedup is claimed over a loop that was not given the number of threads that suits it best.
    """
    found, setting = report["cpu"], SETTINGS[0]
    alone, batched, from_rgap = (found["settings"][setting.label][name] for name in (ONE_BY_ONE, BATCHED, FROM_RGAP))
    seconds = [side["seconds_per_victim"] for side in (alone, batched, from_rgap)]
    return render(
        "studies/headline.md.j2",
        machine=found["machine"],
        setting=setting,
        seconds=seconds,
        threads=[side["threads"][0] for side in (alone, batched)],
        speedups=[faster(seconds[0] / ours) for ours in seconds[1:]],
        known=at_its_best(alone, found["machine"]["cores"]),
    )


def plot(report: dict[str, Any]) -> bytes:
    """Throughput over victims per block, as PNG."""
    figure = blank(6, 3.6, 120)
    axes = figure.add_subplot()
    for found in report.values():
        victims = [point["victims"] for point in found["curve"]]
        rates = [1000 / point["ms_per_evaluation"] for point in found["curve"]]
        machine = found["machine"]
        axes.plot(victims, rates, marker="o", label=f"{machine['device']}, {machine['threads']} threads")
    axes.set_xscale("log", base=2)
    axes.set_xticks(CURVE, [f"{count:,}" for count in CURVE])
    axes.set_ylim(bottom=0)
    axes.set_xlabel("victims per block")
    axes.set_ylabel("victims x evaluations / s")
    axes.set_title("IDLG, LeNet, CIFAR-10, as published", loc="left", fontsize=10)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    return as_png(figure)
