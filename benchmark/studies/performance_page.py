"""The page on speed in results/, from what ``leakboard bench --report`` measured."""

import io
import json
from pathlib import Path
from typing import Any

from benchmark.boards.markdown import escaped
from benchmark.boards.markdown import threads as threads_of
from benchmark.errors import UsageError
from benchmark.store.store import write_whole
from benchmark.studies.bench import BATCHED, FROM_RGAP, ONE_BY_ONE, faster, times
from benchmark.studies.performance import CURVE, SETTINGS
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
    except (OSError, ValueError, KeyError, TypeError, AttributeError, StopIteration):
        raise UsageError(
            f"{path} cannot be read, or is from another version: remove it, or give another folder to --report"
        ) from None
    return report


def as_markdown(report: dict[str, Any]) -> str:
    """The page."""
    parts = [part for part in ("cpu", "gpu") if part in report]
    lines = [
        "# Speed",
        "",
        "Made by `leakboard bench --report` from performance.json. The unit is the time of one victim, against the",
        "published procedure (`torch.optim.LBFGS`, 300 steps of 20 evaluations) run one victim at a time in the same",
        "process. Each side uses the number of threads that suits it best, of those that were tried in a short test.",
        "Where the loop was tried with only one number of threads although there are more cores, no speedup over it is",
        "given. *Batched* is the same procedure for all victims at once; it stops at the first evaluation below the",
        "tolerance, while the published code checks every 200 evaluations. *From R-GAP* starts from R-GAP's solution",
        "(`start: rgap`), which is another attack and never the default, with the threads of the batched one. Seconds,",
        "evaluations and leaked victims refer to the victims that all sides attacked. Threads, evaluations and leaked",
        "victims are in the order of the sides.",
        "",
        "| setting | target | one by one, s | batched, s | speedup | from R-GAP, another attack, s | speedup | threads "
        "(tried) | evaluations | leaked |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for setting in SETTINGS:
        found = report.get("gpu" if setting.on_gpu else "cpu", {})
        sides = found.get("settings", {}).get(setting.label)
        cells = target_cells(sides, found["machine"]["cores"]) if sides else "not measured | | | | | | |"
        lines.append(f"| {setting.label} | {setting.at_least:g}x | {cells} |")
    for part in parts:
        lines += ["", *section(report[part])]
    return "\n".join(lines) + "\n"


def at_its_best(loop: dict[str, Any], cores: int) -> bool:
    """Whether the one-by-one side was given the number of threads that suits it best."""
    return cores == 1 or len(loop["threads_tried"]) > 1


def target_cells(sides: dict[str, Any], cores: int) -> str:
    """The measured cells of a line of the table."""
    alone, batched, from_rgap = (sides[name] for name in (ONE_BY_ONE, BATCHED, FROM_RGAP))
    cells = [f"{alone['seconds_per_victim']:.3g}"]
    for side in (batched, from_rgap):
        ratio = alone["seconds_per_victim"] / side["seconds_per_victim"]
        cells += [f"{side['seconds_per_victim']:.3g}", times(ratio) if at_its_best(alone, cores) else "-"]
    counts = " / ".join(" or ".join(map(str, side["threads"])) for side in (alone, batched, from_rgap))
    cells.append(f"{counts} ({', '.join(map(str, alone['threads_tried']))})")
    cells.append(" / ".join(f"{side['evaluations_per_victim']:,.0f}" for side in (alone, batched, from_rgap)))
    leaks = " / ".join(str(side["leaked"]) for side in (alone, batched, from_rgap))
    return " | ".join([*cells, f"{leaks} of {alone['victims']}"])


def headline(report: dict[str, Any]) -> str:
    """The README's sentence on speed: the first setting on the CPU.

    No speedup is claimed over a loop that was not given the number of threads that suits it best.
    """
    found = report["cpu"]
    sides = found["settings"][SETTINGS[0].label]
    alone, batched, from_rgap = (sides[name] for name in (ONE_BY_ONE, BATCHED, FROM_RGAP))
    cores, data = found["machine"]["cores"], SETTINGS[0].data
    said = (
        f"On {cores} core{'s' if cores > 1 else ''} ({escaped(found['machine']['device'])}) an image of {data} takes "
        f"{batched['seconds_per_victim']:.2g} s in a block of {SETTINGS[0].victims} ({threads_of(*batched['threads'])})"
    )
    loop = f"{alone['seconds_per_victim']:.2g} s one by one as published ({threads_of(*alone['threads'])}"
    if not at_its_best(alone, cores):
        return f"{said} and {loop}; the loop was not tried with other numbers, which may suit it better)."
    speedup = faster(alone["seconds_per_victim"] / batched["seconds_per_victim"])
    other = faster(alone["seconds_per_victim"] / from_rgap["seconds_per_victim"])
    return (
        f"{said}, {speedup} than {loop}, which suits the loop best); from R-GAP's solution, which is another attack, "
        f"{other}."
    )


def section(found: dict[str, Any]) -> list[str]:
    """What one device showed."""
    machine, part, work = found["machine"], found["parts"], found["arithmetic"]
    step = sum(part.values())
    share = {name: value / step for name, value in part.items()}
    rate = work["mflop_per_evaluation"] / part["gradients"]
    whole = work["mflop_per_evaluation"] / step
    sixty_four = next(point["ms_per_evaluation"] for point in found["curve"] if point["victims"] == 64)
    verdict = "within" if share["Lightning"] <= TARGET_OF_LIGHTNING else "above"
    lines = [
        f"## {escaped(machine['device'])}, {threads_of(machine['threads'])}",
        "",
        f"torch {escaped(machine['torch'])}, Python {escaped(machine['python'])}, commit {escaped(machine['commit'])}, "
        f"{escaped(machine['date'])}, {escaped(machine['cores'])} cores.",
        "",
        "| victims per block | ms per victim and evaluation |",
        "|---|---|",
        *(f"| {point['victims']:,} | {point['ms_per_evaluation']:.3g} |" for point in found["curve"]),
        f"| {found['many']['victims']:,}, 64 at a time | {found['many']['ms_per_evaluation']:.3g} |",
        "",
        "![throughput over victims per block](performance.png)",
        "",
        f"From 64 to {found['many']['victims']:,} victims the time per victim changes by a factor of "
        f"{found['many']['ms_per_evaluation'] / sixty_four:.2f}.",
        "",
        "A step of 64 victims: "
        + ", ".join(f"{name} {share[name]:.1%}" for name in sorted(share, key=lambda name: -share[name]))
        + f". Lightning's share is {verdict} the target of {TARGET_OF_LIGHTNING:.0%}. The scores of a victim take "
        f"{found['scoring_ms_per_victim']:.1f} ms, once.",
        "",
        f"Arithmetic: {work['mflop_per_evaluation']:.1f} MFLOP for an evaluation. This device multiplies large "
        f"matrices at {work['peak_gflops']:.0f} GFLOP/s, the gradients run at {rate:.0f} GFLOP/s "
        f"({rate / work['peak_gflops']:.0%} of that), the whole step at {whole:.0f} "
        f"({whole / work['peak_gflops']:.0%}).",
        "",
        f"Memory of a victim: {found['mib_per_victim']['noise']:.1f} MiB as published, "
        f"{found['mib_per_victim']['rgap']:.1f} MiB from R-GAP.",
    ]
    if "workers" in found:
        first = found["workers"][0]["seconds"]
        lines += [
            "",
            f"A whole `leakboard run` of {found['run']['blocks']} blocks of {found['run']['block_size']} victims with "
            f"{found['run']['evaluations']} evaluations each, start and tables included:",
            "",
            "| workers | threads of each | seconds | speedup |",
            "|---|---|---|---|",
        ]
        lines += [
            f"| {row['workers']} | {row['threads']} | {row['seconds']:.1f} | {first / row['seconds']:.2f}x |"
            for row in found["workers"]
        ]
    return lines


def plot(report: dict[str, Any]) -> bytes:
    """Throughput over victims per block, as PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.6), dpi=120, layout="constrained")
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
    picture = io.BytesIO()
    figure.savefig(picture, format="png", metadata={"Software": None})
    return picture.getvalue()
