"""Learning rates: each defense trains at the one that suits it, and is not blamed for smaller or rougher updates.

A mask that hides 99 % of the entries makes steps 100 times smaller; at the learning rate of a training without a
defense that is slow, whatever the mask has cost.
"""

from benchmark.training.plan import Run
from benchmark.training.store import TrainingStore
from benchmark.training.table import as_text, finalists


def contests(runs: list[Run]) -> list[dict[float, list[Run]]]:
    """Runs by learning rate, together where they differ in that and the seed alone."""
    found: dict[str, dict[float, list[Run]]] = {}
    for run in runs:
        config = run.training.config()
        together = as_text(config, seed=None, learning_rate=None)
        found.setdefault(together, {}).setdefault(config["learning_rate"], []).append(run)
    return list(found.values())


def tuning(runs: list[Run]) -> list[Run]:
    """What is trained first: of several learning rates each with the first seed alone."""
    return [
        run
        for contest in contests(runs)
        for of_rate in contest.values()
        for run in (of_rate if len(contest) == 1 else of_rate[:1])
    ]


def tuned(runs: list[Run], store: TrainingStore) -> list[Run]:
    """What is trained then: the two best learning rates with every seed."""
    chosen = []
    for contest in contests(runs):
        records = {
            rate: {run.training.seed: record for run in of_rate if (record := store.record(run.key))}
            for rate, of_rate in contest.items()
        }
        chosen += [run for rate in finalists(records) for run in contest[rate]]
    return chosen
