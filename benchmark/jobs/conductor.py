"""A run from its options: devices, workers, folder and tracking, through which jobs are done."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import torch

from attacks.engine.step import EAGER
from benchmark.boards.leaderboard import Leaderboard
from benchmark.boards.terminal import Console
from benchmark.errors import UsageError
from benchmark.jobs import executors
from benchmark.jobs.attack_tracking import AttackTracker
from benchmark.jobs.attacks import Attacks
from benchmark.jobs.blocks import Present, Workbench, applicable, plan
from benchmark.jobs.executors.worker import Launch, Worker, find_devices, find_perceptual, quiet, set_up, watch_over
from benchmark.jobs.fitting import Fitting
from benchmark.jobs.job import J, Kind, Watch, Watchers, look_at_records, until_all_are_there, work
from benchmark.jobs.progress import ProgressBar
from benchmark.jobs.reporter import Reporter
from benchmark.jobs.tracking import Tracker
from benchmark.store.declined import Declined, keep_declined
from benchmark.store.store import ATTACKS, Store, keys_in
from benchmark.suite.suite import Suite, whole_number

WORKER_BYTES = 2**29
"""What a process takes at least, for Python and torch."""

NOT_ASKED = "the suite does without it, so that its records are the same everywhere"
"""Why there is no LPIPS, then."""


@dataclass
class Conductor:
    """What carries out suites into one folder.

    Attributes:
        devices: one for each worker.
        launch: what starts them, None where this process does the work.
        threads: of each.
        bench: data, device and perceptual metric of this process.
        folder: of the run.
        tracker: W&B, or None.
        shown: whether the progress is, on the standard error.
    """

    devices: list[str]
    launch: Launch | None
    threads: int
    bench: Workbench
    folder: Path
    tracker: Any
    fitting: Fitting = field(default_factory=Fitting)
    shown: bool = True
    _said: bool = False

    @classmethod
    def of(cls, options: argparse.Namespace, name: str, tracker: type[Tracker] = AttackTracker) -> Conductor:
        """That of a command's options, for a run of that name.

        Args:
            options: of the command line.
            name: of the suite.
            tracker: what writes the W&B runs of its jobs.

        Raises:
            UsageError: an option is wrong, or what it asks for is not there.
        """
        quiet()
        set_up(options.threads)
        devices = find_workers(options)
        launch = executors.find(options.executor, options.executor_option)
        alone = options.executor == "local" and len(devices) == 1
        bench = Workbench(torch.device(devices[0] if alone else "cpu"), options.data_root, options.download)
        if "lpips_weights" in options:
            found = find_perceptual(options.lpips_weights, options.require_lpips, options.download)
            bench.perceptual, bench.no_perceptual = found
        folder = Path(options.out) if options.out else Path("runs") / name
        told = None if options.wandb == "disabled" else tracker(options.wandb, name, folder)
        fitting = Fitting(getattr(options, "step", EAGER), {}, folder.resolve(), options.wandb, name)
        return cls(devices, None if alone else launch, options.threads, bench, folder, told, fitting)

    def run(self, suite: Suite) -> tuple[str, Leaderboard]:
        """Does what is not done yet of a suite of attacks.

        Returns:
            How much that was, for people, and the leaderboard of the folder.

        Raises:
            UsageError: the suite does not fit its data, or every worker has ended.
        """
        fitting = replace(self.fitting, trainer=suite.trainer)
        fitting.check(suite, self.devices[0])
        if not suite.lpips:
            self.bench.perceptual, self.bench.no_perceptual = None, NOT_ASKED
        suite, declined = applicable(suite, self.bench)
        blocks = plan(suite, self.bench, there=keys_in(self.folder / ATTACKS.name))
        # Who does not know a defense seldom finds more than who does: so a run that is stopped has told most.
        blocks.sort(key=lambda block: bool(block.cell.defense) and not block.cell.adaptive)
        store = Store(self.folder)
        if self.bench.no_perceptual and suite.lpips and self.shown and not self._said:
            print(f"leakboard: LPIPS is unavailable: {self.bench.no_perceptual}", file=sys.stderr)
            self._said = True
        taken, there = {cell.id for cell in suite.cells}, store.keys()
        begun = {block.cell.id for block in blocks if block.key in there}
        to_come = [Declined(cell.id, cell.config(), "") for cell in suite.cells if cell.id not in begun]
        keep_declined(self.folder, [*declined, *to_come], taken)  # what is killed now has not been run
        reporter = Reporter(suite, blocks, store, self.tracker, Present(self.bench))
        ran = self.carry_out(blocks, Attacks(fitting), store, reporter)
        keep_declined(self.folder, declined, taken)
        said = f"{ran} of {len(blocks)} blocks run" if ran else "everything was done already: nothing to run"
        return said, reporter.finish()

    def carry_out(self, jobs: Sequence[J], kind: Kind[J], store: Store, watch: Watch[J]) -> int:
        """Does the jobs that are not done yet, here or by workers, and returns how many that was.

        Raises:
            UsageError: every worker has ended.
        """
        heard = Watchers(watch)
        with ProgressBar(jobs, kind, Console(stderr=True, quiet=not self.shown)) as bar:
            if todo := bar.resumes(jobs, store):
                self._do(todo, kind, store, Watchers(bar, heard))
        if todo:  # else all of them have just been read
            again = partial(self._do, kind=kind, store=store, watch=heard)
            until_all_are_there(jobs, kind, store.vanished, again, self.folder)
        return len(heard.begun)

    def _do(self, todo: list[J], kind: Kind[J], store: Store, watch: Watch[J]) -> None:
        """Does jobs that are not done, here or by workers."""
        if self.launch is None:
            work(todo, kind, store, self.bench, watch)
            return
        perceptual = self.bench.perceptual
        devices = self.devices[: len(todo)]
        shared = Worker(
            jobs=todo,
            kind=kind,
            folder=self.folder.resolve(),
            data_root=self.bench.root or os.environ.get("LEAKBOARD_DATA"),
            threads=self.threads,
            device="cpu",
            lpips_weights=perceptual.backbone.path.resolve() if perceptual else None,
            no_lpips=self.bench.no_perceptual,
            here=Path.cwd(),
            workers=len(devices),
        )
        look = partial(look_at_records, store=store, watch=watch)
        with self.launch([replace(shared, device=device) for device in devices]) as started:
            watch_over(todo, look, kind.plural, started)


def find_workers(options: argparse.Namespace) -> list[str]:
    """The device of each worker that the run is to have.

    Raises:
        UsageError: they are unavailable.
    """
    workers = whole_number("--workers", 1 if options.workers is None else options.workers, at_least=1)
    if options.executor != "local":
        if options.devices not in ("auto", "cpu"):
            raise UsageError("a job uses the GPU that it is given: with --executor, give --devices cpu or leave it out")
        return [options.devices] * workers
    devices = find_devices(options.devices)
    if workers * WORKER_BYTES > (there := psutil.virtual_memory().total):
        most = max(1, there // WORKER_BYTES)
        raise UsageError(f"this machine has memory for at most {most} workers, not {workers}")
    if workers > 1 and devices[0].type == "cuda":
        raise UsageError("a GPU runs one worker: give --devices 0,1 for two GPUs, or --devices cpu with --workers")
    return [str(device) for device in devices] * workers
