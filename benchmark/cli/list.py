"""``leakboard list``, and ``leakboard run --KIND.help NAME``."""

import argparse
import shutil

from benchmark.cli.parts import Parts
from benchmark.suite import registry
from benchmark.suite.suite import help_on_scenarios
from benchmark.suite.watching import watching_help


def carry_out(options: argparse.Namespace, parts: Parts) -> int:
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
    own = {"trainer": watching_help, "scenario": help_on_scenarios}
    print(own[kind]() if kind in own else registry.help_text(kind, name))
    return 0
