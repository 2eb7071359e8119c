"""What the commands do."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import yaml
from rich import box
from rich.console import Console
from rich.table import Table

from benchmark import executors, leaderboard, registry, threshold
from benchmark.blocks import Workbench, check_fit, plan
from benchmark.cli import Parts
from benchmark.conductor import Conductor, find_workers
from benchmark.errors import UsageError, unknown
from benchmark.executors.worker import find_devices, find_perceptual, quiet, set_up
from benchmark.papers import dlg_fb, idlg, masking
from benchmark.records import provenance
from benchmark.reporter import missing_lpips
from benchmark.store import Record, cannot_write, read_all, read_scores, write_whole
from benchmark.suite import Suite, entries, load, parse, read, whole_number

if TYPE_CHECKING:
    from benchmark.estimate import Row

CONFIGS = Path(__file__).parent.parent / "configs"


def run(options: argparse.Namespace, parts: Parts) -> int:
    """``leakboard run``."""
    suite = single_cell(options, parts) if parts else find_suite(options)
    conductor = Conductor.of(options, suite.name)
    ran, table = conductor.run(suite)
    print_table(table, Console())
    folder = conductor.folder
    print(
        f"\n{ran}\nrecords: {folder / 'records'}\ntables: {folder / 'leaderboard.csv'}, {folder / 'leaderboard.md'}\n"
        f"pictures of true images above their reconstructions: {folder / 'pictures'}"
    )
    return 0


def plan_costs(options: argparse.Namespace, parts: Parts) -> int:
    """``leakboard plan``."""
    from benchmark.estimate import rows  # scipy

    quiet()
    suite = single_cell(options, parts) if parts else find_suite(options)
    set_up(options.threads)
    devices = find_workers(options)
    perceptual, no_perceptual = find_perceptual(options.lpips_weights, required=False)
    device, workers = torch.device(devices[0]), len(devices)
    bench = Workbench(device, options.data_root, options.download, perceptual, no_perceptual, workers)
    folder = Path(options.out) if options.out else Path("runs") / suite.name
    print_costs(rows(plan(suite, bench), folder, bench, Console(stderr=True)), workers, folder, Console())
    return 0


def single_cell(options: argparse.Namespace, parts: Parts) -> Suite:
    """The suite of one cell that was given by flags."""
    if options.suite:
        raise UsageError("give either a suite or --data, --model, --attack and --defense, not both")
    for kind in ("data", "model", "attack"):
        if "class" not in parts.get(kind, {}):
            raise UsageError(f"a single cell needs --{kind} NAME; leakboard list names what there is")
    if "defense" in parts and "class" not in parts["defense"]:
        raise UsageError("--defense.ARGUMENT needs --defense NAME")
    typed = {kind: typed_part(kind, args) for kind, args in parts.items()}
    given: dict[str, Any] = {
        "scenarios": [{"data": typed["data"], "model": typed["model"], "batch_size": given_or(options.batch_size, 1)}],
        "attacks": [typed["attack"]],
        "defenses": [typed["defense"]] if "defense" in typed else [],
    }
    return parse(given, "cells", options.victims, options.seed)


def typed_part(kind: str, args: dict[str, str]) -> dict[str, Any]:
    """The values as YAML reads them: numbers, true and false, lists."""
    typed: dict[str, Any] = {}
    for key, value in args.items():
        try:
            typed[key] = value if key == "class" else yaml.safe_load(value)
        except (yaml.YAMLError, ValueError):  # a date in month 13 is a ValueError
            raise UsageError(f"the value of --{kind}.{key} can not be read as YAML: {value}") from None
    return typed


def given_or(value: int | None, default: int) -> int:
    return default if value is None else value


def find_suite(options: argparse.Namespace) -> Suite:
    """The suite of a path, or of a name in configs/."""
    if options.batch_size is not None:
        raise UsageError("--batch-size is for a single cell: a suite gives batch_size in its scenarios")
    return load(suite_path("quick" if options.suite is None else options.suite), options.victims, options.seed)


def suite_path(name: str) -> Path:
    """The file of a suite that was given by its path, or by its name in configs/."""
    path = Path(name)
    if path.name == name and not path.is_file():
        path = CONFIGS / f"{name}.yaml"
        if not path.exists():
            there = [p.name for p in Path().glob("*.yaml")] + [p.stem for p in CONFIGS.glob("*.yaml")]
            raise unknown("suite", name, there)
    return path


def show(options: argparse.Namespace, parts: Parts) -> int:
    """``leakboard show``."""
    folder = Path(options.folder)
    records = read_all(folder, read_scores)
    table = leaderboard.rows(records)
    if options.format == "json":
        print(json.dumps(table, indent=1))
    elif options.format == "csv":
        print(leaderboard.as_csv(table), end="")
    elif options.format == "markdown":
        print(leaderboard.as_markdown(table, folder.resolve().name, missing_lpips(records)), end="")
    else:
        print_table(table, Console())
    return 0


def search_thresholds(options: argparse.Namespace, parts: Parts) -> int:
    """``leakboard threshold``."""
    criterion = threshold.Criterion(options.ssim, options.stop)
    steps = whole_number("--steps", options.steps, at_least=0)
    suite, ranges = threshold.load(suite_path(options.suite), options.victims, options.seed)
    conductor = Conductor.of(options, suite.name)
    folder = conductor.folder
    bisection = threshold.Bisection(suite, ranges, criterion)
    for step in range(steps + 1):
        whole = bisection.as_suite()
        what = "both ends of each range" if step == 0 else f"halving {step} of {steps}"
        print(f"leakboard: {what}, {len(whole.cells)} cells", file=sys.stderr)
        conductor.run(whole)
        records = read_all(folder, read_scores)
        if step < steps:
            bisection.narrow(records)
    table = threshold.rows(bisection, records)
    written = threshold.as_markdown(table, suite.name, criterion)
    found = {"ssim": criterion.ssim, "stop": criterion.stop, "thresholds": table}
    write_whole(folder / "thresholds.json", (json.dumps(found, indent=1) + "\n").encode())
    write_whole(folder / "thresholds.md", written.encode())
    print(written, end="")
    print(f"\nrecords: {folder / 'records'}\nthresholds: {folder / 'thresholds.json'}, {folder / 'thresholds.md'}")
    return 0


def show_spectrum(options: argparse.Namespace, parts: Parts) -> int:
    """``leakboard spectrum``."""
    from benchmark import spectrum

    quiet()
    set_up(options.threads)
    victims = whole_number("--victims", options.victims, at_least=1)
    path = suite_path(options.suite)
    suite = parse({"attacks": ["IDLG"]} | read(path), path.stem, victims)  # attacks are of no importance here
    bench = Workbench(torch.device("cpu"), options.data_root, options.download)
    folder = made(Path(options.out) if options.out else Path("runs") / suite.name)
    table = []
    for scenario, defenses in spectrum.scenarios(suite):
        check_fit(scenario, bench)
        print(f"leakboard: {scenario.data.name} with {scenario.model.name}", file=sys.stderr)
        table += spectrum.rows(spectrum.said(scenario, defenses, victims, bench), scenario)
    written = spectrum.as_markdown(table)
    found = {"provenance": provenance(bench), "rows": table}
    write_whole(folder / "spectrum.json", (json.dumps(found, indent=1) + "\n").encode())
    write_whole(folder / "spectrum.md", written.encode())
    print(written, end="")
    return 0


def diagnose(options: argparse.Namespace, parts: Parts) -> int:
    """``leakboard diagnose``."""
    from benchmark import diagnosis

    quiet()
    set_up(options.threads)
    suite = load(suite_path(options.suite), None, None)
    victims = whole_number("--victims", options.victims, at_least=1)
    devices = find_devices(options.devices)
    if len(devices) > 1:
        raise UsageError("diagnose runs on one device")
    bench = Workbench(devices[0], options.data_root, options.download)
    cells = diagnosis.adaptive_cells(suite, victims, bench)
    folder = made(Path(options.out) if options.out else Path("runs") / suite.name)
    path = folder / "diagnosis.json"
    table: list[dict[str, Any]] = []
    for number, table in enumerate(diagnosis.run(cells, bench, rows_of(path))):
        write_whole(path, (json.dumps({"rows": table}, indent=1, allow_nan=False) + "\n").encode())
        if number < len(cells):
            print(f"{number + 1}/{len(cells)}: {cells[number].label}", file=sys.stderr)
    written = diagnosis.as_markdown(table)
    write_whole(folder / "diagnosis.md", written.encode())
    print(written, end="")
    return 0


def made(folder: Path) -> Path:
    """The folder, which is there from now on."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(folder, error) from None
    return folder


def rows_of(path: Path) -> list[dict[str, Any]]:
    """The rows of an earlier run; none where there was none."""
    try:
        rows: list[dict[str, Any]] = json.loads(path.read_text())["rows"] if path.exists() else []
        if any("key" not in row or "runs" not in row for row in rows):
            raise ValueError
    except (OSError, ValueError, KeyError, TypeError):
        raise UsageError(f"{path} can not be read: delete it, or give another --out") from None
    return rows


def train(options: argparse.Namespace, parts: Parts) -> int:
    """``leakboard train``."""
    from benchmark.training import suite as training_suite
    from benchmark.training import work
    from benchmark.training.plan import TrainingBench

    quiet()
    suite = training_suite.load(suite_path(options.suite), Path(options.at) if options.at else None)
    set_up(options.threads)
    devices = find_workers(options)
    launch = executors.find(options.executor, options.executor_option)
    alone = options.executor == "local" and len(devices) == 1
    folder = Path(options.out) if options.out else Path("runs") / suite.name
    bench = TrainingBench(torch.device(devices[0] if alone else "cpu"), options.data_root, options.download)
    tracker = work.find_tracker(options.wandb, suite.name, folder)
    ran, table = work.carry_out(suite, bench, folder, devices, None if alone else launch, tracker)
    print_training(table, Console())
    print(f"\n{ran}\nrecords: {folder / 'training'}\ntables: {folder / 'training.csv'}, {folder / 'training.md'}")
    return 0


def print_training(table: list[dict[str, Any]], console: Console) -> None:
    """The table of ``leakboard train``, whole where it goes to a file."""
    from benchmark.training import table as training_table

    if not console.is_terminal:
        console = Console(width=200)
    for heading, board in training_table.boards(table).items():
        shown = Table(title=heading, title_justify="left", box=box.SIMPLE_HEAD, padding=0, pad_edge=False)
        for name in training_table.COLUMNS:
            shown.add_column(name, justify="left" if name == "defense" else "right")
        for row in board:
            shown.add_row(*training_table.cells_of(row))
        console.print(shown)
    console.print(training_table.NOTE, style="dim", highlight=False)


PAPERS: dict[str, Callable[[list[Record], Path], str]] = {
    "idlg": idlg.page,
    "dlg_fb": dlg_fb.page,
    "masking": masking.page,
}


def page(options: argparse.Namespace, parts: Parts) -> int:
    """``leakboard page``."""
    folder = Path(options.folder)
    paper = options.paper or folder.resolve().name
    if paper not in PAPERS:
        raise unknown("paper", paper, PAPERS)
    written = PAPERS[paper](read_all(folder), folder)
    write_whole(folder / "README.md", written.encode())
    print(written, end="")
    return 0


def publish(options: argparse.Namespace, parts: Parts) -> int:
    """``leakboard publish``."""
    from benchmark.publish import publish

    count = publish(Path(options.folder), Path(options.to))
    print(f"{count:,} records without their pictures, and the tables: {options.to}")
    return 0


SPARED = ("s / victim", "evaluations", "label acc.", "LPIPS", "SSIM", "95 % interval")
"""Columns that a narrow terminal does without, the first one first."""


def print_table(table: list[leaderboard.Row], console: Console) -> None:
    """The leaderboard in the terminal, whole where it goes to a file."""
    if not console.is_terminal:
        console = Console(width=200)
    for heading, board in leaderboard.boards(table).items():
        for spared in range(len(SPARED) + 1):
            shown = rich_table(heading, board, hidden=SPARED[:spared])
            if Console(width=1000).measure(shown).maximum <= console.width:
                break
        console.print(shown)
        if spared:
            console.print(f"(in a wider window also: {', '.join(SPARED[:spared])})\n", style="dim", highlight=False)
    console.print(leaderboard.NOTE, style="dim", highlight=False)


def print_costs(costs: list[Row], workers: int, folder: Path, console: Console) -> None:
    """The table of ``leakboard plan``, whole where it goes to a file."""
    from benchmark import estimate

    if not console.is_terminal:
        console = Console(width=200)
    shown = Table(box=box.SIMPLE_HEAD, padding=0, pad_edge=False)
    for name in estimate.COLUMNS:
        shown.add_column(name, justify="left" if name in ("scenario", "attack", "from") else "right")
    for row in costs:
        shown.add_row(*estimate.cells_of(row, workers))
    shown.add_section()
    shown.add_row(*estimate.cells_of(estimate.total(costs), workers))
    console.print(shown)
    shared = f", shared by {workers} workers" if workers > 1 else ""
    console.print(
        f"Evaluations are gradient evaluations of all victims: the mean of finished records of the same attack, in "
        f"{folder} and in results/, or else the upper bound. Time is that of short attacks on this machine{shared}. "
        f"Left is what has no record in {folder}.",
        style="dim",
        highlight=False,
    )


def rich_table(heading: str, board: list[leaderboard.Row], hidden: tuple[str, ...]) -> Table:
    """The rows of one board without the hidden columns."""
    columns = [(number, name) for number, name in enumerate(leaderboard.COLUMNS) if name not in hidden]
    shown = Table(title=heading, title_justify="left", box=box.SIMPLE_HEAD, padding=0, pad_edge=False)
    for number, name in columns:
        shown.add_column(name, justify="left" if number < 4 else "right", no_wrap=True)
    args = leaderboard.varying(board)
    for row in board:
        cells = leaderboard.cells_of(row, args)
        shown.add_row(*(cells[number] for number, _ in columns))
    return shown


def list_all(options: argparse.Namespace, parts: Parts) -> int:
    """``leakboard list``."""
    width = shutil.get_terminal_size((120, 24)).columns
    for kind, title in (("attack", "Attacks"), ("defense", "Defenses"), ("data", "Data sets"), ("model", "Models")):
        print(f"{title} (leakboard run --{kind}.help NAME explains the arguments)")
        for name in registry.classes(kind):
            line = f"  {name:<16} {registry.summary(kind, name)}"
            print(line if len(line) <= width else line[: width - 3] + "...")
    return 0


def explain(kind: str, name: str) -> int:
    """``leakboard run --KIND.help NAME``."""
    print(registry.help_text(kind, name))
    return 0


def bench(options: argparse.Namespace, parts: Parts) -> int:
    """``leakboard bench``."""
    from benchmark.bench import as_table, compare

    quiet()
    set_up(given_or(options.threads, os.cpu_count() or 1))
    devices = find_devices(options.devices)
    if len(devices) > 1:
        raise UsageError("bench runs on one device")
    if options.report is not None:
        return report(options, parts, devices[0])
    victims = whole_number("--victims", given_or(options.victims, 64), at_least=1)
    seed = whole_number("--seed", given_or(options.seed, 0), at_least=0)
    reference = whole_number("--reference-victims", given_or(options.reference_victims, victims), at_least=1)
    specs = {
        kind: entries(kind, typed_part(kind, {"class": default} | parts.get(kind, {})))[0]
        for kind, default in (("data", "CIFAR10"), ("model", "LeNet"), ("attack", "IDLG"))
    }
    if "defense" in parts:
        raise UsageError("bench compares speed without a defense: leave --defense out")
    found = compare(specs, victims, min(reference, victims), seed, Workbench(devices[0], options.data_root))
    print(json.dumps(found, indent=1) if options.format == "json" else as_table(found))
    return 0


def report(options: argparse.Namespace, parts: Parts, device: torch.device) -> int:
    """``leakboard bench --report``."""
    from benchmark import performance, performance_page

    if parts or options.victims is not None or options.seed is not None:
        raise UsageError("--report has settings of its own: leave --victims, --seed, --data, --model and --attack out")
    reference = whole_number("--reference-victims", given_or(options.reference_victims, 16), at_least=1)
    folder = Path(options.report)
    if not (folder.is_dir() and os.access(folder, os.W_OK)):
        raise UsageError(f"{folder} is no folder that can be written: give another to --report")
    found = performance_page.read(folder)
    perceptual, _ = find_perceptual(None, False)
    bench = Workbench(device, options.data_root, perceptual=perceptual)
    say = partial(print, file=sys.stderr, flush=True)
    found["gpu" if device.type == "cuda" else "cpu"] = performance.measure(bench, reference, say)
    performance_page.write(found, folder)
    print(json.dumps(found, indent=1) if options.format == "json" else performance_page.as_markdown(found).rstrip())
    return 0


COMMANDS: dict[str, Callable[[argparse.Namespace, Parts], int]] = {
    "run": run,
    "plan": plan_costs,
    "threshold": search_thresholds,
    "spectrum": show_spectrum,
    "diagnose": diagnose,
    "train": train,
    "show": show,
    "page": page,
    "publish": publish,
    "list": list_all,
    "bench": bench,
}
