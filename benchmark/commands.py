"""What the commands do."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import yaml
from rich import box
from rich.console import Console
from rich.table import Table

from benchmark import executors, leaderboard, registry
from benchmark.blocks import Block, Workbench, plan
from benchmark.cli import Parts
from benchmark.errors import UsageError, unknown
from benchmark.executors.worker import Worker, find_devices, find_perceptual, quiet, set_up, watch_over
from benchmark.pictures import enlarged
from benchmark.progress import ProgressBar
from benchmark.run import Watch, work
from benchmark.store import Record, Store, read_all, read_record, read_scores, write_whole
from benchmark.suite import Suite, entries, load, parse, whole_number

if TYPE_CHECKING:
    from benchmark.estimate import Row
    from benchmark.tracking import Tracker

CONFIGS = Path(__file__).parent.parent / "configs"


def run(options: argparse.Namespace, parts: Parts) -> int:
    """``leakboard run``."""
    quiet()
    suite = single_cell(options, parts) if parts else find_suite(options)
    set_up(options.threads)
    devices = find_workers(options)
    launch = executors.find(options.executor, options.executor_option)
    alone = options.executor == "local" and len(devices) == 1
    perceptual, no_perceptual = find_perceptual(options.lpips_weights, options.require_lpips)
    device = torch.device(devices[0] if alone else "cpu")
    bench = Workbench(device, options.data_root, options.download, perceptual, no_perceptual)
    blocks = plan(suite, bench)
    folder = Path(options.out) if options.out else Path("runs") / suite.name
    store = Store(folder)
    tracker = None
    if options.wandb != "disabled":
        from benchmark.tracking import Tracker

        tracker = Tracker(options.wandb, suite.name, folder)
    if no_perceptual:
        print(f"leakboard: LPIPS is left out: {no_perceptual}", file=sys.stderr)

    console = Console(stderr=True)
    reporter = Reporter(suite, blocks, store, tracker)
    with ProgressBar(blocks, store, console) as bar:
        todo = [block for block in blocks if not bar.was_done(block)]
        bar.resumed()
        watch = Both(bar, reporter)
        if alone:
            work(todo, store, bench, watch)
        elif todo:
            root = options.data_root or os.environ.get("LEAKBOARD_DATA")
            weights = perceptual.backbone.path.resolve() if perceptual else None
            devices = devices[: len(todo)]
            given = todo, folder.resolve(), root, options.threads
            workers = [Worker(*given, d, weights, no_perceptual, Path.cwd(), len(devices)) for d in devices]
            with launch(workers) as started:
                watch_over(todo, store, watch, started)
    table = reporter.finish()
    print_table(table, Console())
    done = f"{reporter.ran} of {len(blocks)} blocks run" if todo else "everything was done already: nothing to run"
    print(
        f"\n{done}\nrecords: {store.records}\ntables: {folder / 'leaderboard.csv'}, {folder / 'leaderboard.md'}\n"
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


class Both(Watch):
    """Tells two."""

    def __init__(self, bar: ProgressBar, reporter: Reporter) -> None:
        self._bar, self._reporter = bar, reporter

    def begins(self, block: Block) -> None:
        self._bar.begins(block)
        self._reporter.begins(block)

    def ends(self, block: Block) -> None:
        self._bar.ends(block)
        self._reporter.ends(block)

    def callbacks(self) -> list[Any]:
        return self._bar.callbacks()


class Reporter(Watch):
    """Makes pictures, tables and W&B runs from the records, as cells are completed."""

    def __init__(self, suite: Suite, blocks: list[Block], store: Store, tracker: Tracker | None) -> None:
        self._suite, self._store, self._tracker = suite, store, tracker
        self._cells = {block.cell.id: block.cell for block in blocks}
        self._keys: dict[str, list[str]] = {}
        for block in blocks:
            self._keys.setdefault(block.cell.id, []).append(block.key)
        self._mine: set[str] = set()
        self._reported: set[str] = set()
        self.ran = 0
        """Blocks that this process ran."""

    def begins(self, block: Block) -> None:
        self._mine.add(block.cell.id)
        self.ran += 1

    def ends(self, block: Block) -> None:
        cell = block.cell.id
        if cell in self._mine and all(self._store.done(key) for key in self._keys[cell]):
            self._mine.discard(cell)
            self._report(cell)

    def finish(self) -> list[leaderboard.Row]:
        """Writes the tables, and the runs and pictures that are missing."""
        for cell in self._keys:
            unseen = self._tracker is not None and cell not in self._reported
            if unseen or not self._picture(cell).exists():
                self._report(cell)
        records = read_all(self._store.folder, read_scores)
        table = leaderboard.rows(records)
        write_tables(self._store.folder, self._suite.name, table, records)
        if self._tracker:
            self._tracker.leaderboard(table, self._store.records)
        return table

    def _picture(self, cell: str) -> Path:
        made = self._cells[cell]
        defense = made.defense.name if made.defense else "none"
        knows = "-adaptive" if made.adaptive else ""
        name = (
            f"{made.scenario.data.name}-{made.scenario.model.name}-{defense}-{made.attack.name}{knows}-{cell[:6]}.png"
        )
        return self._store.folder / "pictures" / name

    def _report(self, cell: str) -> None:
        records = self._records(cell)
        picture = self._picture(cell)
        self._reported.add(cell)
        write_whole(picture, enlarged(records[0]["picture"]))
        if self._tracker:
            control = replace(self._cells[cell], defense=None, adaptive=False).id
            beside = self._records(control) if control != cell else []
            (row,) = (row for row in leaderboard.rows(records + beside) if row["cell"] == cell)
            provisional = ("rank", "worst_leak_rate")  # other cells, still to come, have a say in these
            summary = {key: value for key, value in row.items() if key not in provisional}
            self._tracker.cell(cell, self._cells[cell].config(), records, summary, picture)

    def _records(self, cell: str) -> list[Record]:
        found = (read_record(self._store.records / f"{key}.json") for key in self._keys.get(cell, []))
        return [record for record in found if record]


def write_tables(folder: Path, title: str, table: list[leaderboard.Row], records: list[Record]) -> None:
    """leaderboard.csv and leaderboard.md."""
    write_whole(folder / "leaderboard.csv", leaderboard.as_csv(table).encode())
    write_whole(folder / "leaderboard.md", leaderboard.as_markdown(table, title, missing_lpips(records)).encode())


def missing_lpips(records: list[Record]) -> str | None:
    """Why the LPIPS column is empty, where it is."""
    return next((r["provenance"]["lpips"] for r in records if isinstance(r["provenance"]["lpips"], str)), None)


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
    name = "quick" if options.suite is None else options.suite
    path = Path(name)
    if path.name == name and not path.is_file():
        path = CONFIGS / f"{name}.yaml"
        if not path.exists():
            there = [p.name for p in Path().glob("*.yaml")] + [p.stem for p in CONFIGS.glob("*.yaml")]
            raise unknown("suite", name, there)
    return load(path, options.victims, options.seed)


def find_workers(options: argparse.Namespace) -> list[str]:
    """The device of each worker that the run is to have.

    Raises:
        UsageError: they are not to be had.
    """
    workers = whole_number("--workers", given_or(options.workers, 1), at_least=1)
    if options.executor != "local":
        if options.devices not in ("auto", "cpu"):
            raise UsageError("a job takes the GPU that it is given: with --executor, --devices is cpu or left out")
        return [options.devices] * workers
    devices = find_devices(options.devices)
    if workers > 1 and devices[0].type == "cuda":
        raise UsageError("a GPU has one worker: give --devices 0,1 for two of them, or --devices cpu with --workers")
    return [str(device) for device in devices] * workers


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
    for row in board:
        cells = leaderboard.cells_of(row)
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
    "show": show,
    "list": list_all,
    "bench": bench,
}
