"""``leakboard threshold``."""

import argparse
import sys

from benchmark.cli.parts import Parts
from benchmark.errors import UsageError
from benchmark.jobs.conductor import Conductor
from benchmark.store.schema import attack_scores
from benchmark.store.store import read_all
from benchmark.suite.suite import suite_path, whole_number
from benchmark.thresholds import page as threshold_page
from benchmark.thresholds import search as threshold
from benchmark.thresholds import table as threshold_table


def carry_out(options: argparse.Namespace, parts: Parts) -> int:
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
