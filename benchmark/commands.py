"""Handlers of the commands run, plan, list and bench."""

import argparse
import json
import os
import shutil
import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml

from benchmark import registry
from benchmark.blocks import Workbench, plan
from benchmark.cli import Parts
from benchmark.conductor import Conductor, find_workers
from benchmark.documents import load_yaml
from benchmark.errors import UsageError
from benchmark.estimate import rows
from benchmark.executors.worker import find_devices, find_perceptual, quiet, set_up
from benchmark.suite import Suite, entries, load, parse, suite_path, whole_number
from benchmark.terminal import Console, print_costs, print_table


def run(options: argparse.Namespace, parts: Parts) -> int:
    """``leakboard run``."""
    suite = single_cell(options, parts) if parts else find_suite(options)
    conductor = Conductor.of(options, suite.name)
    ran, found = conductor.run(suite)
    print_table(found, Console())
    folder = conductor.folder
    print(
        f"\n{ran}\nrecords: {folder / 'records'}\ntables: {folder / 'leaderboard.csv'}, {folder / 'leaderboard.md'}\n"
        f"pictures of true images above their reconstructions: {folder / 'pictures'}"
    )
    return 0


def plan_costs(options: argparse.Namespace, parts: Parts) -> int:
    """``leakboard plan``."""
    quiet()
    suite = single_cell(options, parts) if parts else find_suite(options)
    set_up(options.threads)
    devices = find_workers(options)
    perceptual, no_perceptual = find_perceptual(options.lpips_weights, False, options.download)
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
    """A class and its arguments as they were typed, in the types that the class says; a sweep is read as YAML."""
    texts = {key: value for key, value in args.items() if key not in ("class", "sweep")}
    swept: dict[str, Any] = {}
    if "sweep" in args:
        try:
            swept["sweep"] = load_yaml(args["sweep"])
        except (yaml.YAMLError, ValueError):
            raise UsageError(f"the value of --{kind}.sweep cannot be read as YAML: {args['sweep']}") from None
    return {"class": args["class"], **registry.typed(kind, args["class"], texts), **swept}


def given_or(value: int | None, default: int) -> int:
    return default if value is None else value


def find_suite(options: argparse.Namespace) -> Suite:
    """The suite of a path, or of a name in configs/."""
    if options.batch_size is not None:
        raise UsageError("--batch-size is for a single cell: a suite gives batch_size in its scenarios")
    return load(suite_path("quick" if options.suite is None else options.suite), options.victims, options.seed)


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
    threads = given_or(options.threads, os.cpu_count() or 1)
    set_up(threads)
    devices = find_devices(options.devices)
    if len(devices) > 1:
        raise UsageError("bench runs on one device")
    if options.report is not None:
        return report(options, parts, threads, devices[0])
    victims = whole_number("--victims", given_or(options.victims, 64), at_least=1)
    seed = whole_number("--seed", given_or(options.seed, 0), at_least=0)
    reference = whole_number("--reference-victims", given_or(options.reference_victims, victims), at_least=1)
    specs = {
        kind: entries(kind, typed_part(kind, {"class": default} | parts.get(kind, {})))[0]
        for kind, default in (("data", "CIFAR10"), ("model", "LeNet"), ("attack", "IDLG"))
    }
    if "defense" in parts:
        raise UsageError("bench compares speed without a defense: leave --defense out")
    found = compare(specs, victims, min(reference, victims), seed, threads, Workbench(devices[0], options.data_root))
    print(json.dumps(found, indent=1) if options.format == "json" else as_table(found))
    return 0


def report(options: argparse.Namespace, parts: Parts, threads: int, device: torch.device) -> int:
    """``leakboard bench --report``."""
    from benchmark import performance, performance_page

    if parts or options.victims is not None or options.seed is not None:
        raise UsageError("--report uses its own settings: leave --victims, --seed, --data, --model and --attack out")
    reference = whole_number("--reference-victims", given_or(options.reference_victims, 16), at_least=1)
    folder = Path(options.report)
    if not (folder.is_dir() and os.access(folder, os.W_OK)):
        raise UsageError(f"{folder} is not a folder that can be written to: give another to --report")
    found = performance_page.read(folder)
    perceptual, _ = find_perceptual(None, False)
    bench = Workbench(device, options.data_root, perceptual=perceptual)
    tell = partial(print, file=sys.stderr, flush=True)
    found["gpu" if device.type == "cuda" else "cpu"] = performance.measure(bench, reference, threads, tell)
    performance_page.write(found, folder)
    print(json.dumps(found, indent=1) if options.format == "json" else performance_page.as_markdown(found).rstrip())
    return 0
