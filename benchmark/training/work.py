"""A training suite from its plan to its tables: its runs as jobs, and what is made of their records."""

import itertools

from benchmark.federation.server import State
from benchmark.jobs.blocks import Workbench
from benchmark.jobs.conductor import Conductor
from benchmark.jobs.job import Kind, Tally, Watch
from benchmark.store.store import TRAININGS, Record, Store, read_trainings, say
from benchmark.training.plan import Run, plan, present, refuse_others
from benchmark.training.record import saved, train_run
from benchmark.training.rows import Row, of_cell, of_one_code, rows
from benchmark.training.suite import TrainingSuite
from benchmark.training.table import write
from benchmark.training.tuning import STAGES, contests


class Trainings(Kind[Run]):
    """Federated trainings; a step of the progress bar is a round."""

    plural, groups, shelf = "runs", "runs", TRAININGS

    def do(self, jobs: list[Run], store: Store, bench: Workbench, watch: Watch[Run]) -> list[Record]:
        (run,) = jobs
        return [train_run(run, store, bench, lambda state: watch.reached(run, *reached(run, state)))]

    def so_far(self, job: Run, store: Store) -> int:
        before = store.checkpoint(job.key, saved)
        return before[0].round if before else 0

    def tally(self) -> Tally[Run]:
        return Outcome()


class Outcome(Tally[Run]):
    """Accuracy and loss of each run, and what became of it."""

    def add(self, job: Run, record: Record) -> str:
        if record["status"] == "diverged":
            return f", diverged in round {record['round']}"
        collapsed = ", collapsed" if record["status"] == "collapsed" else ""
        return tested(record["accuracy"], record["loss"]) + collapsed


def reached(run: Run, state: State) -> tuple[int, str]:
    """The rounds that are done, and what is said of them."""
    so_far = tested(state.accuracy[-1], state.loss[-1]) if state.accuracy else ""
    return state.round, f", round {state.round}/{run.size}{so_far}"


def tested(accuracy: float, loss: float) -> str:
    """The last test, for people."""
    return f", accuracy {accuracy:.1%}, loss {loss:.3f}"


def prepared(suite: TrainingSuite, conductor: Conductor) -> list[Run]:
    """The runs of a suite, which fit the folder.

    Raises:
        UsageError: the suite does not fit its data or its folder.
    """
    runs = plan(suite, conductor.bench)
    refuse_others(runs, Store(conductor.folder, TRAININGS), conductor.folder)
    return runs


def scenarios(runs: list[Run]) -> list[list[Run]]:
    """The runs of each scenario, in the order of the suite."""
    found: dict[str, list[Run]] = {}
    for run in runs:
        found.setdefault(of_cell(run.training.config(), defense=None), []).append(run)
    return list(found.values())


def carry_out(suite: TrainingSuite, runs: list[Run], conductor: Conductor) -> tuple[str, list[Row]]:
    """Does what is not done yet, and writes the tables.

    Args:
        suite: what is to be done.
        runs: what :func:`prepared` has made of it.
        conductor: what does it, and where it is kept.

    Returns:
        How much that was, for people, and the table of the folder.

    Raises:
        UsageError: every worker has ended.
    """
    folder, tracker = conductor.folder, conductor.tracker
    store = Store(folder, TRAININGS)
    if any(run.training.tuning for run in runs):
        say(
            "learning rates: all are trained with one tuning seed, the two best with every tuning seed, the best with "
            "every seed"
        )
    done, needed = 0, dict[str, Run]()
    for every, stage in itertools.product(scenarios(runs), STAGES):  # of what is stopped, whole scenarios are done
        due = [run for contest in contests(every) for run in stage(contest, store.record) if run.key not in needed]
        if due:
            done += conductor.carry_out(due, Trainings(), store, tracker or Watch())
        needed |= {run.key: run for run in due}
    records = read_trainings(folder)
    records, left_out = of_one_code(records, present(runs, records, conductor.bench))
    table = rows(records)
    write(folder, table, suite.name, left_out)
    for sentence in left_out:
        say(sentence)
    if tracker:
        tracker.finish(records, table, [run.training.config() for run in needed.values()])
    said = f"{done} of {len(needed)} runs trained" if done else "everything was done already: nothing to train"
    return said, table
