"""``leakboard bench``."""

import argparse
import json
import os
import sys
from functools import partial
from pathlib import Path

import torch

from benchmark.cli.parts import Parts, typed_part, typed_scenario
from benchmark.errors import UsageError
from benchmark.jobs.blocks import Workbench
from benchmark.jobs.executors.worker import find_devices, find_perceptual, quiet, set_up
from benchmark.suite.suite import SETTING_KEYS, check_keys, entries, setting_of, whole_number


def carry_out(options: argparse.Namespace, parts: Parts) -> int:
    """``leakboard bench``."""
    from benchmark.studies.bench import as_table, compare

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
    bench = Workbench(devices[0], options.data_root)
    scenario = typed_scenario(parts.get("scenario", {}))
    check_keys("key of a scenario of bench", scenario, SETTING_KEYS)
    batch_size = whole_number("--batch-size", given_or(options.batch_size, 1), at_least=1)
    setting = setting_of(scenario, batch_size)
    found = compare(specs, victims, min(reference, victims), seed, threads, bench, options.step, batch_size, setting)
    print(json.dumps(found, indent=1) if options.format == "json" else as_table(found))
    return 0


def given_or(value: int | None, default: int) -> int:
    return default if value is None else value


def report(options: argparse.Namespace, parts: Parts, threads: int, device: torch.device) -> int:
    """``leakboard bench --report``."""
    from benchmark.studies import performance, performance_page

    own = options.victims, options.seed, options.batch_size
    if parts or any(value is not None for value in own) or options.step != "eager":
        raise UsageError(
            "--report uses its own settings: leave --victims, --batch-size, --seed, --step, --data, --model, "
            "--attack and --scenario out"
        )
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
