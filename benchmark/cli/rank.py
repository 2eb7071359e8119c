"""``leakboard rank``."""

import argparse

from benchmark.boards.terminal import Console, printable, wide_enough
from benchmark.cli.parts import Parts, typed_part
from benchmark.errors import UsageError
from benchmark.jobs.blocks import Workbench, check_fit
from benchmark.jobs.executors.worker import find_devices, quiet, set_up
from benchmark.studies import rank
from benchmark.suite.registry import Spec
from benchmark.suite.suite import Scenario, entries, whole_number


def carry_out(options: argparse.Namespace, parts: Parts) -> int:
    """``leakboard rank``."""
    quiet()
    set_up(options.threads)
    scenario, defense = asked_for(options, parts)
    bench = Workbench(find_devices(options.devices)[0], options.data_root, options.download)
    check_fit(scenario, bench)
    found, no_layers = rank.measure(scenario, defense, bench)
    table = rank.grid(found)
    console = wide_enough(Console(), table.width)
    table.print(console)
    console.print(printable(rank.verdict(found, no_layers, scenario.batch_size)), highlight=False)
    return 0


def asked_for(options: argparse.Namespace, parts: Parts) -> tuple[Scenario, Spec | None]:
    """The victim whose equations are counted, and what is done to its update.

    Raises:
        UsageError: that is not clear.
    """
    if excess := {"attack", "scenario"} & parts.keys():
        raise UsageError(f"rank counts the equations of a gradient for any attack: leave --{excess.pop()} out")
    if options.name is not None:
        if "class" in parts.get("model", {}):
            raise UsageError(f"give either {options.name} or --model, not both")
        parts = parts | {"model": {"class": options.name} | parts.get("model", {})}
    parts = {"data": {"class": "Digits"} | parts.get("data", {})} | {k: v for k, v in parts.items() if k != "data"}
    if "model" not in parts:
        raise UsageError("give the network, as in leakboard rank LeNet")
    for kind, args in parts.items():
        if "class" not in args:
            raise UsageError(f"--{kind}.ARGUMENT needs --{kind} NAME")
    made = {kind: entries(kind, typed_part(kind, args)) for kind, args in parts.items()}
    if several := [kind for kind, specs in made.items() if len(specs) > 1]:
        raise UsageError(f"rank is for one network and one defense: leave --{several[0]}.sweep out")
    batch_size = whole_number("--batch-size", options.batch_size, at_least=1)
    seed = whole_number("--seed", options.seed, at_least=0)
    scenario = Scenario(made["data"][0], made["model"][0], batch_size, seed, victims=1)
    return scenario, made["defense"][0] if "defense" in made else None
