"""Weights & Biases runs of a training, derived from its records."""

from collections.abc import Sequence
from statistics import fmean
from typing import Any

from benchmark.jobs.tracking import Tracker, numbers
from benchmark.store.store import Record
from benchmark.training.table import Row, label, rows, scenario_of

_POINT = ("round", "accuracy", "loss")


class TrainingTracker(Tracker):
    """A W&B run for each training run, with accuracy and loss by round; in a sweep a single one for all."""

    def training(self, record: Record) -> None:
        """Writes the run of a record; what goes wrong ends in one line. In a sweep :meth:`finish` does.

        Args:
            record: of a run that is done.
        """
        if self.has_one_run:
            return

        def fill(run: Any) -> None:
            log_curve(run, [record])
            run.summary.update({key: record[key] for key in ("status", "accuracy", "loss") if record[key] is not None})

        config = record["config"]
        tags = tags_of(config)
        rate, seed = config["learning_rate"], config["seed"]
        name = f"{' '.join(tags[:3])} {label(config['defense'])} learning rate {rate:g} seed {seed}"
        self._run(record["key"], "training", name, tags, config | {"provenance": record["provenance"]}, fill)

    def finish(self, records: list[Record], table: list[Row], asked: Sequence[dict[str, Any]]) -> None:
        """Writes the only run of a sweep: means over seeds of the defense that was asked for.

        Of several defenses, and scenarios, it is the one with the lowest accuracy. The numbers of its scenario without
        a defense stand beside it, under names that begin with ``control_``.

        Args:
            records: of the folder.
            table: made of them.
            asked: the configurations of this command, as other commands may have left records of other defenses.
        """
        if not self.has_one_run:
            return
        wanted = {label(config["defense"]) for config in asked}
        mine = [row for row in table if row["defense"] in wanted]
        undefended = label(None)
        chosen = min([row for row in mine if row["defense"] != undefended] or mine, key=lambda row: row["accuracy"])
        beside = [row for row in table if row["defense"] == undefended and scenario_of(row) == scenario_of(chosen)]
        config = next(config for config in asked if label(config["defense"]) == chosen["defense"])
        averaged = [record for record in records if is_of(record, chosen)]

        def fill(run: Any) -> None:
            if averaged:
                log_curve(run, averaged)
            run.summary.update({k: v for k, v in chosen.items() if isinstance(v, int | float | str)})
            for row in beside if chosen not in beside else []:
                run.summary.update({f"control_{key}": value for key, value in numbers(row).items()})

        about = config | {"seed": None, "learning_rate": chosen["learning_rate"]}
        if averaged:
            about["provenance"] = averaged[0]["provenance"]
        tags = tags_of(config)
        self._run(None, "training", f"{' '.join(tags[:3])} {chosen['defense']}", tags, about, fill)


def is_of(record: Record, row: Row) -> bool:
    """Whether a record is one of those that a row is the mean of."""
    same = ("defense", "learning_rate")
    return any(  # one that chose a learning rate makes no row
        scenario_of(alone) == scenario_of(row) and all(alone[key] == row[key] for key in same)
        for alone in rows([record])
    )


def log_curve(run: Any, records: list[Record]) -> None:
    """Means over the records of accuracy and loss, by the rounds that all of them have."""
    run.define_metric("round", summary="none")
    for name in ("accuracy", "loss"):
        run.define_metric(name, step_metric="round")
    curves = [
        {point[0]: point[1:] for point in zip(*(record["curve"][key] for key in _POINT), strict=True)}
        for record in records
    ]
    common = sorted(set.intersection(*map(set, curves)))
    for step, number in enumerate(common):
        if step >= run.starting_step:  # a resumed run has the points before it already
            means = (fmean(values) for values in zip(*(curve[number] for curve in curves), strict=True))
            run.log(dict(zip(_POINT, (number, *means), strict=True)), step=step)


def tags_of(config: dict[str, Any]) -> list[str]:
    """Data, model, algorithm and defense; short enough for W&B."""
    defense = config["defense"]["class"] if config["defense"] else "no defense"
    tags = [config["data"]["class"], config["model"]["class"], config["algorithm"], defense]
    return [tag[-64:] for tag in dict.fromkeys(tags)]
