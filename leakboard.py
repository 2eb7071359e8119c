"""Entry point of the command ``leakboard``: the program is in the packages beside this file."""

import sys
from importlib.util import find_spec
from pathlib import Path

PACKAGES = ("attacks", "benchmark", "datamodules", "defenses")


def main() -> None:
    """Runs the program, unless a module of the user's own hides one of its packages."""
    here = Path(__file__).resolve().parent
    for name in PACKAGES:
        found = find_spec(name)
        origin = found.origin if found else None
        if origin is not None and not Path(origin).resolve().is_relative_to(here):
            print(
                f"leakboard: {origin} hides the package {name} of Leakboard: rename it, or take its folder out of "
                "PYTHONPATH",
                file=sys.stderr,
            )
            raise SystemExit(2)
    from benchmark.cli.main import main as run

    run()
