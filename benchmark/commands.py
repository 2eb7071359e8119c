"""What the commands do."""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import multiprocessing
import os
import shutil
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import yaml
from rich import box
from rich.console import Console
from rich.table import Table

from benchmark import leaderboard, registry
from benchmark.cli import Parts
from benchmark.errors import UsageError, unknown
from benchmark.perceptual import Perceptual, PerceptualUnavailable, find_backbone
from benchmark.pictures import enlarged
from benchmark.progress import ProgressBar
from benchmark.run import Block, Watch, Workbench, plan, work
from benchmark.store import Record, Store, read_all, read_record, write_whole
from benchmark.suite import Suite, entries, load, parse, whole_number

if TYPE_CHECKING:
    from benchmark.tracking import Tracker

CONFIGS = Path(__file__).parent.parent / "configs"


def run(options: argparse.Namespace, parts: Parts) -> int:
    """``leakboard run``."""
    quiet()
    suite = single_cell(options, parts) if parts else find_suite(options)
    set_threads(options.threads)
    set_arithmetic()
    devices = find_devices(options.devices)
    perceptual, no_perceptual = find_perceptual(options.lpips_weights, options.require_lpips)
    bench = Workbench(devices[0], options.data_root, options.download, perceptual, no_perceptual)
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
    todo = [block for block in blocks if not store.done(block.key)]
    others = start_workers(devices[1:], blocks, folder, options) if todo else []
    reporter = Reporter(suite, blocks, store, tracker)
    with ProgressBar(blocks, store, console) as bar:
        for block in blocks:
            if store.done(block.key):
                bar.ends(block)
        bar.resumed()
        work(todo, store, bench, Both(bar, reporter))
    for other in others:
        other.join()
    table = reporter.finish(everything=not todo)
    print_table(table, Console())
    done = f"{reporter.ran} of {len(blocks)} blocks run" if todo else "everything was done already: nothing to run"
    print(
        f"\n{done}\nrecords: {store.records}\ntables: {folder / 'leaderboard.csv'}, {folder / 'leaderboard.md'}\n"
        f"pictures of true images above their reconstructions: {folder / 'pictures'}"
    )
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

    def finish(self, everything: bool) -> list[leaderboard.Row]:
        """Writes the tables, and the runs and pictures of all cells where nothing was to be run."""
        for cell in self._keys:
            unseen = self._tracker is not None and cell not in self._reported
            if everything or unseen or not self._picture(cell).exists():
                self._report(cell)
        records = read_all(self._store.folder)
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
        records = [r for key in self._keys[cell] if (r := read_record(self._store.records / f"{key}.json"))]
        picture = self._picture(cell)
        self._reported.add(cell)
        write_whole(picture, enlarged(records[0]["picture"]))
        if self._tracker:
            (row,) = (row for row in leaderboard.rows(read_all(self._store.folder)) if row["cell"] == cell)
            provisional = ("rank", "worst_leak_rate")  # other cells, still to come, have a say in these
            summary = {key: value for key, value in row.items() if key not in provisional}
            self._tracker.cell(cell, self._cells[cell].config(), records, summary, picture)


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


def find_devices(given: str) -> list[torch.device]:
    """The devices that ``--devices`` names.

    Raises:
        UsageError: one is not there.
    """
    there = torch.cuda.device_count()
    if given == "auto":
        return [torch.device("cuda", 0) if there else torch.device("cpu")]
    if given == "cpu":
        return [torch.device("cpu")]
    numbers = given.split(",")
    if not all(number.isdecimal() for number in numbers) or len(set(map(int, numbers))) < len(numbers):
        raise UsageError(f"--devices is cpu or different GPU numbers as in 0,1, not {given!r}")
    for number in numbers:
        if int(number) >= there:
            found = f"GPUs 0 to {there - 1} are" if there > 1 else "GPU 0 is" if there else "no GPU is"
            raise UsageError(f"there is no GPU {number} here ({found} found): give --devices cpu or another number")
    return [torch.device("cuda", int(number)) for number in numbers]


def start_workers(
    devices: list[torch.device], blocks: list[Block], folder: Path, options: argparse.Namespace
) -> list[multiprocessing.context.SpawnProcess]:
    """A process for each further device; they take blocks from the same folder."""
    context = multiprocessing.get_context("spawn")
    workers = [
        context.Process(target=work_on, args=(device, blocks, folder, options), daemon=True) for device in devices
    ]
    for worker in workers:
        worker.start()
    return workers


def work_on(device: torch.device, blocks: list[Block], folder: Path, options: argparse.Namespace) -> None:
    """What a worker process does."""
    quiet()
    set_threads(options.threads)
    set_arithmetic()
    with contextlib.suppress(KeyboardInterrupt, UsageError):  # the first process says so, or does the blocks itself
        perceptual, reason = find_perceptual(options.lpips_weights, options.require_lpips)
        work(blocks, Store(folder), Workbench(device, options.data_root, False, perceptual, reason), Watch())


def set_threads(threads: int) -> None:
    """One by default: a block has more small operations than large ones, and processes that each have several threads
    slow each other down many times."""
    torch.set_num_threads(whole_number("--threads", threads, at_least=1))


def set_arithmetic() -> None:
    """Plain float32 on a GPU, the same each time: a matching loss of 1e-6 has no use for TF32's 10 bits."""
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False


def find_perceptual(weights: str | None, required: bool) -> tuple[Perceptual | None, str]:
    """LPIPS, or the reason why there is none.

    Raises:
        UsageError: there is none but it is required, or the path that was given holds none.
    """
    try:
        return Perceptual(find_backbone("alex", weights)), ""
    except PerceptualUnavailable as error:
        if required or weights:
            raise UsageError(str(error)) from None
        return None, str(error)


def quiet() -> None:
    """No chatter of libraries between our lines."""
    warnings.filterwarnings("ignore", module=r"lightning|torch|lpips")
    warnings.formatwarning = lambda message, *_, **__: f"leakboard: {message}\n"  # not the line of our code
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)


def show(options: argparse.Namespace, parts: Parts) -> int:
    """``leakboard show``."""
    folder = Path(options.folder)
    records = read_all(folder)
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
    set_threads(given_or(options.threads, os.cpu_count() or 1))
    set_arithmetic()
    devices = find_devices(options.devices)
    if len(devices) > 1:
        raise UsageError("bench runs on one device")
    victims = whole_number("--victims", options.victims, at_least=1)
    seed = whole_number("--seed", options.seed, at_least=0)
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


COMMANDS: dict[str, Callable[[argparse.Namespace, Parts], int]] = {
    "run": run,
    "show": show,
    "list": list_all,
    "bench": bench,
}
