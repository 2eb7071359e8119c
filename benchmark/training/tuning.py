"""Learning rates: each defense trains at the one that suits it, and is not blamed for smaller or rougher updates.

A mask that hides 99 % of the entries makes steps 100 times smaller; at the learning rate of a training without a
defense that is slow, whatever the mask has cost. Neither the images nor the seeds that choose a rate are reported: each
rate is trained with the first tuning seed, the two best with every tuning seed, and the better of them with every seed
that is reported. The better one has the higher accuracy on the validation images.
"""

from collections.abc import Callable, Sequence

from benchmark.store.store import Record
from benchmark.training.plan import Run
from benchmark.training.rows import best_rate, finalists, of_cell

Contest = dict[float, list[Run]]
"""Learning rate -> runs that differ in that and the seed alone."""


RecordOf = Callable[[str], Record | None]
"""The record of a run by its key, None where there is none."""


def contests(runs: list[Run]) -> list[Contest]:
    """Runs by learning rate, together where they differ in that and the seed alone."""
    found: dict[str, Contest] = {}
    for run in runs:
        config = run.training.config()
        found.setdefault(of_cell(config), {}).setdefault(config["learning_rate"], []).append(run)
    return list(found.values())


def first_looks(contest: Contest, record_of: RecordOf) -> list[Run]:
    """What is trained first: each of several learning rates with the first tuning seed, and a rate alone at once."""
    return [run for of_rate in contest.values() for run in (tuning(of_rate)[:1] or of_rate)]


def second_looks(contest: Contest, record_of: RecordOf) -> list[Run]:
    """What is trained then: the two best learning rates with every tuning seed."""
    rates = finalists(tuned(contest, record_of)) if len(contest) > 1 else []
    return [run for rate in rates for run in tuning(contest[rate])]


def reported(contest: Contest, record_of: RecordOf) -> list[Run]:
    """What is trained at last: the best learning rate with every seed that is reported."""
    rate = best_rate(tuned(contest, record_of)) if len(contest) > 1 else next(iter(contest))
    return [run for run in contest[rate] if not run.training.tuning]


STAGES: Sequence[Callable[[Contest, RecordOf], list[Run]]] = (first_looks, second_looks, reported)
"""Each says which runs of a contest it needs, from the records of the stages before it."""


def tuning(runs: list[Run]) -> list[Run]:
    """Those that choose."""
    return [run for run in runs if run.training.tuning]


def tuned(contest: Contest, record_of: RecordOf) -> dict[float, dict[int, Record]]:
    """The records of a contest that choose: learning rate -> seed -> record."""
    return {
        rate: {run.training.seed: record for run in tuning(of_rate) if (record := record_of(run.key)) is not None}
        for rate, of_rate in contest.items()
    }
