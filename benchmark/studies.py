"""Handlers of the commands threshold, spectrum, diagnose and train."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch

from benchmark import executors, threshold, threshold_page, threshold_table
from benchmark.blocks import Workbench, check_fit
from benchmark.cli import Parts
from benchmark.conductor import Conductor, find_workers
from benchmark.documents import read_json
from benchmark.errors import UsageError
from benchmark.executors.worker import find_devices, quiet, set_up
from benchmark.leak import BASELINES
from benchmark.outcome import listed
from benchmark.records import provenance
from benchmark.schema import attack_scores
from benchmark.store import make_writable, read_all, say, write_whole
from benchmark.suite import load, parse, read, suite_path, whole_number
from benchmark.terminal import Console, print_training


def search_thresholds(options: argparse.Namespace, parts: Parts) -> int:
    """``leakboard threshold``."""
    criterion = threshold_table.Criterion(options.ssim, options.stop)
    steps = whole_number("--steps", options.steps, at_least=0, at_most=threshold.MOST_STEPS)
    suite, searches = threshold.load(suite_path(options.suite), options.victims, options.seed)
    conductor = Conductor.of(options, suite.name)
    if conductor.tracker and conductor.tracker.has_one_run:
        raise UsageError(
            "a W&B sweep has one run per command, but a threshold search has many cells: use leakboard run"
        )
    folder = conductor.folder
    threshold_table.read(folder)  # a damaged one is told before any work is done
    bisection = threshold.Bisection(suite, searches, criterion)
    for step in range(steps + 1):
        whole = bisection.as_suite()
        what = "both ends of each range" if step == 0 else f"bisection step {step} of {steps}"
        print(f"leakboard: {what}, {len(whole.cells)} cells", file=sys.stderr)
        conductor.run(whole)
        records = read_all(folder, attack_scores)
        if step == steps or not bisection.narrow(records):
            break
    written = threshold_page.write(folder, records, [search.as_row() for search in searches], criterion)
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
    folder = Path(options.out) if options.out else Path("runs") / suite.name
    make_writable(folder, folder)
    table: list[dict[str, Any]] = []
    notes: list[str] = []
    for scenario, defenses in spectrum.scenarios(suite):
        check_fit(scenario, bench)
        notes += bench.data(scenario.data).notes
        print(f"leakboard: {scenario.data.name} with {scenario.model.name}", file=sys.stderr)
        table += spectrum.rows(spectrum.rank_per_defense(scenario, defenses, victims, bench), scenario)
    written = spectrum.as_markdown(table)
    found = {"provenance": provenance(bench) | {"data_notes": notes}, "rows": table}
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
    if others := {cell.attack.name for cell in suite.cells} - {cell.attack.name for cell in cells} - set(BASELINES):
        say(f"not diagnosed, since they cannot be started at the true image: {listed(sorted(others))}")
    folder = Path(options.out) if options.out else Path("runs") / suite.name
    make_writable(folder, folder)
    path = folder / "diagnosis.json"
    table: list[dict[str, Any]] = []
    for number, table in enumerate(diagnosis.run(cells, bench, rows_of(path))):
        write_whole(path, (json.dumps({"rows": table}, indent=1, allow_nan=False) + "\n").encode())
        print(f"{number + 1}/{len(cells)}: {cells[number].label}", file=sys.stderr)
    written = diagnosis.as_markdown(table)
    write_whole(folder / "diagnosis.md", written.encode())
    print(written, end="")
    return 0


def rows_of(path: Path) -> list[dict[str, Any]]:
    """The rows of an earlier run; none where there was none."""
    try:
        rows: list[dict[str, Any]] = read_json(path)["rows"] if path.exists() else []
        if any(not {"key", "runs", "where", "defense", "attack"} <= row.keys() for row in rows):
            raise ValueError
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise UsageError(f"{path} cannot be read: delete it, or give another --out") from None
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
