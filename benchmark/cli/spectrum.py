"""``leakboard spectrum``."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch

from benchmark.cli.parts import Parts
from benchmark.jobs.blocks import Workbench, check_fit
from benchmark.jobs.executors.worker import quiet, set_up
from benchmark.jobs.records import provenance
from benchmark.store.store import make_writable, write_whole
from benchmark.studies import spectrum
from benchmark.suite.suite import parse, read, suite_path, whole_number


def carry_out(options: argparse.Namespace, parts: Parts) -> int:
    """``leakboard spectrum``."""
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
