"""Federated training from its suite to its records: runs that are resumed, shared by processes, and tabled."""

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmark.boards.terminal import Console
from benchmark.errors import CODE_ERRORS, users_fault, users_line
from benchmark.federation.server import State, train
from benchmark.jobs.executors.worker import Launch, Worker, watch_over
from benchmark.jobs.records import brief, finite, provenance
from benchmark.jobs.run import until_all_are_there
from benchmark.store.store import Record, say, write_whole
from benchmark.store.training_store import TrainingStore, read_all
from benchmark.suite.registry import build
from benchmark.training.plan import Run, TrainingBench, plan, refuse_others
from benchmark.training.progress import TrainingBar
from benchmark.training.suite import TrainingSuite
from benchmark.training.table import Row, as_csv, as_markdown, rows
from benchmark.training.tracking import TrainingTracker
from benchmark.training.tuning import STAGES

CHECKPOINT_SECONDS = 20.0
"""Work that is lost at most when a process is killed, but for the round under way."""


class Watch:
    """Something that is told how the work goes; this one keeps silent."""

    def reached(self, run: Run, state: State) -> None:
        """This process has done a round."""

    def ends(self, run: Run, record: Record) -> None:
        """The run is done, here or by another process."""


@dataclass
class Listeners(Watch):
    """The progress bar, and W&B where it is wanted."""

    bar: TrainingBar
    tracker: TrainingTracker | None

    def reached(self, run: Run, state: State) -> None:
        self.bar.reached(run, state)

    def ends(self, run: Run, record: Record) -> None:
        self.bar.ends(run, record)
        if self.tracker:
            self.tracker.training(record)


def carry_out(
    suite: TrainingSuite,
    bench: TrainingBench,
    folder: Path,
    devices: Sequence[str] = ("cpu",),
    launch: Launch | None = None,
    tracker: TrainingTracker | None = None,
) -> tuple[str, list[Row]]:
    """Does what is not done yet, and writes the tables.

    Args:
        suite: what is to be done.
        bench: of this process.
        folder: where it is kept.
        devices: of each worker.
        launch: what starts workers, None where this process does the work.
        tracker: W&B, or None.

    Returns:
        How much that was, for people, and the table of the folder.

    Raises:
        UsageError: the suite does not fit its data or its folder, or every worker has ended.
    """
    runs = plan(suite, bench)
    store = TrainingStore(folder)
    refuse_others(runs, store, folder)
    if any(run.training.tuning for run in runs):
        say(
            "learning rates: all are trained with one tuning seed, the two best with every tuning seed, the best with "
            "every seed"
        )
    done, needed = 0, dict[str, Run]()
    for stage in STAGES:
        due = [run for run in stage(runs, store) if run.key not in needed]
        if due:
            done += trained(due, store, bench, devices, launch, tracker)
        needed |= {run.key: run for run in due}
    records = read_all(folder)
    table = rows(records)
    write_whole(folder / "training.csv", as_csv(table).encode())
    write_whole(folder / "training.md", as_markdown(table, suite.name).encode())
    if tracker:
        tracker.finish(records, table, [run.training.config() for run in needed.values()])
    said = f"{done} of {len(needed)} runs trained" if done else "everything was done already: nothing to train"
    return said, table


def trained(
    runs: list[Run],
    store: TrainingStore,
    bench: TrainingBench,
    devices: Sequence[str],
    launch: Launch | None,
    tracker: TrainingTracker | None,
) -> int:
    """Does what is not done yet of the runs, here or by workers, and returns how many that was."""
    todo = []
    with TrainingBar(runs, Console(stderr=True)) as bar:
        for run in runs:
            if store.done(run.key):
                bar.was_done(run)
            else:
                todo.append(run)
                before = store.checkpoint(run.key, torch.device("cpu"))
                bar.goes_on(run, before[0].round if before else 0)
        bar.resumed()
        do(todo, store, bench, devices, launch, Listeners(bar, tracker))
    if todo:
        again = partial(do, store=store, bench=bench, devices=devices, launch=launch, watch=Watch())
        until_all_are_there(runs, store.vanished, again, store.runs.parent, "runs")
    return len(todo)


def do(
    todo: list[Run],
    store: TrainingStore,
    bench: TrainingBench,
    devices: Sequence[str],
    launch: Launch | None,
    watch: Watch,
) -> None:
    """Does runs that are not done, here or by workers."""
    if launch is None:
        work(todo, store, bench, watch)
    elif todo:
        root = bench.root or os.environ.get("LEAKBOARD_DATA")
        threads, devices = torch.get_num_threads(), devices[: len(todo)]
        folder = store.runs.parent.resolve()
        with launch(
            [
                TrainingWorker([], folder, root, threads, device, None, "", Path.cwd(), len(devices), todo)
                for device in devices
            ]
        ) as started:
            watch_over(todo, Look(store, watch), "runs", started)


def work(runs: list[Run], store: TrainingStore, bench: TrainingBench, watch: Watch) -> None:
    """Does the runs that no other process has done or is doing, until every run is done."""
    pending = list(runs)
    while pending:
        worked = False
        for run in list(pending):
            if (record := store.record(run.key)) is None:
                with store.claim(run.key) as mine:
                    if mine:
                        record = train_run(run, bench, store, watch)
                        store.write(record)
                        worked = True
            if record is not None:
                watch.ends(run, record)
                pending.remove(run)
        if pending and not worked:
            time.sleep(0.3)  # what is left is in the hands of other processes


def train_run(run: Run, bench: TrainingBench, store: TrainingStore, watch: Watch) -> Record:
    """One training, from its checkpoint where there is one, as a record.

    Its ``accuracy`` and ``loss`` are of the test images, ``validation`` is what chooses a learning rate, ``majority``
    is the accuracy of always naming the most frequent class of the test: a run that ends no better has collapsed.
    ``clients_changed`` and ``entries_changed`` are the shares that the defense has changed of the clients' updates and
    of their entries, over all rounds.

    Raises:
        UsageError: the user's own model or defense raises, or the defense breaks its contract.
    """
    training = run.training
    scenario = training.scenario
    data, model = bench.training_data(scenario), bench.training_model(scenario)
    defense = build("defense", training.defense) if training.defense else None
    before, spent = store.checkpoint(run.key, bench.device) or (None, 0.0)
    began = saved = time.perf_counter()
    state = before
    try:
        for state in train(model, data, scenario.federation, defense, training.seed, before):
            watch.reached(run, state)
            now = time.perf_counter()
            if now - saved >= CHECKPOINT_SECONDS:
                store.save(run.key, run.about(), state, spent + now - began)
                saved = now
    except CODE_ERRORS as error:
        if not users_line(error):  # the fault is not in a user's own class
            raise
        raise users_fault(error, f"{training.label} has failed") from None
    assert state is not None  # the first one is yielded before any round
    seconds = spent + time.perf_counter() - began
    origin = {key: value for key, value in provenance(bench).items() if key != "lpips"}
    ended_well = not state.diverged
    majority = float(data.test_labels.bincount().max()) / len(data.test_labels)
    # A number that is rounded may fall below the other, so they are compared before.
    collapsed = ended_well and state.accuracy[-1] <= majority
    return {
        "key": run.key,
        "config": training.config(),
        "code_sha256": run.code_sha256,
        "data_sha256": run.data_sha256,
        "provenance": origin | {"data_notes": bench.data(scenario.data).notes},
        "status": "collapsed" if collapsed else "done" if ended_well else "diverged",
        "round": state.round,
        "accuracy": brief(state.accuracy[-1]) if ended_well else None,
        "loss": finite(state.loss[-1]) if ended_well else None,
        "majority": brief(majority),
        "validation": None
        if state.validation is None
        else dict(zip(("accuracy", "loss"), map(finite, state.validation), strict=True)),
        "clients_changed": brief(state.changed / max(1, state.defended)) if training.defense else None,
        "entries_changed": brief(state.entries_changed / max(1, state.entries)) if training.defense else None,
        "curve": {
            "round": list(state.tested),
            "accuracy": [brief(value) for value in state.accuracy],
            "loss": [brief(value) for value in state.loss],
        },
        "cost": {"seconds": brief(seconds), "ms_per_round": brief(1000 * seconds / max(1, state.round))},
    }


@dataclass(frozen=True)
class TrainingWorker(Worker):
    """A process that does runs until every run is done.

    Attributes:
        runs: to be done, by this worker or another.
    """

    runs: list[Run] = field(default_factory=list)

    def work_on(self, device: torch.device) -> None:
        """Does the runs on the device."""
        store, bench = TrainingStore(self.folder), TrainingBench(device, self.data_root)
        work(self.runs, store, bench, Watch())
        again = partial(work, store=store, bench=bench, watch=Watch())
        until_all_are_there(self.runs, store.vanished, again, self.folder, "runs")


@dataclass
class Look:
    """Tells the watch what workers have done.

    Attributes:
        store: of the runs.
        watch: who is told.
        seen: when the checkpoint of each run was saved that it has been told of.
    """

    store: TrainingStore
    watch: Watch
    seen: dict[str, float] = field(default_factory=dict)

    def __call__(self, pending: list[Run]) -> list[Run]:
        """Returns the runs that are not done."""
        left = []
        there = self.store.keys()
        for run in pending:
            if run.key in there and (record := self.store.record(run.key)):
                self.watch.ends(run, record)
                continue
            left.append(run)
            if (when := self.store.saved_at(run.key)) != self.seen.get(run.key, 0.0):
                self.seen[run.key] = when
                if found := self.store.checkpoint(run.key, torch.device("cpu")):
                    self.watch.reached(run, found[0])
        return left


def find_tracker(mode: Any, suite: str, folder: Path) -> TrainingTracker | None:
    """W&B as ``--wandb`` asks for it."""
    return None if mode == "disabled" else TrainingTracker(mode, suite, folder)
