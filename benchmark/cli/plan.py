"""``leakboard plan``."""

import argparse
from pathlib import Path

import torch

from attacks import AutoLeak
from benchmark.boards.terminal import Console, printable, wide_enough
from benchmark.cli.parts import Parts
from benchmark.cli.run import asked_for
from benchmark.clock import clock
from benchmark.jobs import estimate
from benchmark.jobs.blocks import Block, Workbench, applicable, plan
from benchmark.jobs.conductor import find_workers
from benchmark.jobs.executors.worker import find_perceptual, quiet, set_up
from benchmark.store.store import TRAININGS, records_in
from benchmark.training import estimate as training_estimate
from benchmark.training.plan import plan as plan_training
from benchmark.training.suite import beside

ENSEMBLE = (
    "Each attack of AutoLeak is timed by itself. Records say whom it is tried on and what it spends; without them the "
    "time is an upper bound: every attack spends all that it may on every victim, though one that leaks is spared the "
    "rest."
)

TRAINED = (
    "Trainings are estimated from two rounds of each network, without a defense and with as many as there is time for; "
    "others are taken to cost what they do on another network. The runs are the most that the choice of a learning "
    "rate can need."
)


def carry_out(options: argparse.Namespace, parts: Parts) -> int:
    """``leakboard plan``."""
    quiet()
    suite = asked_for(options, parts)
    set_up(options.threads)
    devices = find_workers(options)
    perceptual, no_perceptual = None, ""
    if suite.lpips:
        perceptual, no_perceptual = find_perceptual(options.lpips_weights, False, options.download)
    device, workers = torch.device(devices[0]), len(devices)
    bench = Workbench(device, options.data_root, options.download, perceptual, no_perceptual, workers)
    folder = Path(options.out) if options.out else Path("runs") / suite.name
    trained = beside(suite)
    progress = Console(stderr=True)
    with progress.status("reading data and code"):
        runs = plan_training(trained, bench, rehearse=False) if trained else []
        suite, declined = applicable(suite, bench)
        blocks = plan(suite, bench, rehearse=False)
        said = notes(blocks, bench, folder)
    if declined:
        reasons = "; ".join({one.reason: None for one in declined})
        said.append(f"Not applicable, and not in the table: {len(declined)} cells ({reasons}).")
    table = estimate.rows(blocks, folder, bench, progress)
    if device.type == "cpu" and (long := estimate.compiled_pays(table, workers)):
        said.append(f"--step compiled saves more time than it takes to compile: {'; '.join(long)}.")
    costs = estimate.grid(table, workers)
    console = wide_enough(Console(), costs.width)
    costs.print(console, estimate.SPARED)
    if runs:
        done = {record["key"] for record in records_in(folder / TRAININGS.name, TRAININGS.parse)}
        trainings = training_estimate.rows(runs, done, bench, progress)
        training_estimate.grid(trainings, workers).print(console, training_estimate.SPARED)
        of_attacks = estimate.total(table)
        whole = of_attacks.whole.seconds + sum(row.whole.seconds for row in trainings)
        left = of_attacks.left.seconds + sum(row.left.seconds for row in trainings)
        said.insert(
            0,
            f"Attacks and trainings take {clock(whole / workers)} together, of which {clock(left / workers)} are left.",
        )
        said.append(TRAINED)
    for sentence in said:
        console.print(printable(sentence), style="dim", highlight=False)
    return 0


def notes(blocks: list[Block], bench: Workbench, folder: Path) -> list[str]:
    """What stands under the table."""
    shared = f", shared by {bench.workers} workers" if bench.workers > 1 else ""
    said = [
        "Evaluations are gradient evaluations of all victims: the mean of finished records of the same attack, in "
        f"{folder} and in results/, or else the upper bound. Time is estimated from attacks of a few evaluations on "
        f"this machine{shared}, behind the last defense of a scenario: others take more or less. On a CPU it is that "
        f"of cores that nobody else uses. Left is the work without a record in {folder}. A run first tries each "
        "network, defense and attack on two public images, which the times leave out."
    ]
    if any(block.cell.attack.name == AutoLeak.__name__ for block in blocks):
        said.append(ENSEMBLE)
    if any(block.cell.scenario.setting.state for block in blocks):
        said.append("Attacks on trained networks are timed on untrained ones of the same class: plan trains nothing.")
    if missing := estimate.trainings(blocks, bench):
        count = f"{len(missing)} networks are" if len(missing) > 1 else "1 network is"
        said.append(f"Before the attacks {count} trained, which the times leave out: {'; '.join(missing)}.")
    return said
