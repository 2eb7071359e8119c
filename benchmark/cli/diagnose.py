"""``leakboard diagnose``."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from benchmark.boards.outcome import listed
from benchmark.cli.parts import Parts
from benchmark.errors import UsageError
from benchmark.jobs.blocks import Workbench
from benchmark.jobs.executors.worker import find_devices, quiet, set_up
from benchmark.metrics.leak import BASELINES
from benchmark.store.store import make_writable, say, write_whole
from benchmark.studies import diagnosis
from benchmark.suite.documents import read_json
from benchmark.suite.suite import load, suite_path, whole_number


def carry_out(options: argparse.Namespace, parts: Parts) -> int:
    """``leakboard diagnose``."""
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
