"""The W&B runs of a training suite, from its records."""

from collections.abc import Sequence
from functools import partial
from statistics import fmean
from typing import Any

from benchmark.jobs.tracking import Tracked, Tracker, shortened
from benchmark.store.store import Record
from benchmark.training.table import Row, label, rows, scenario_of


class TrainingTracker(Tracker):
    """A W&B run for each training run, with accuracy and loss by round; in a sweep a single one for all."""

    def training(self, record: Record) -> None:
        """Writes the run of a record; what goes wrong ends in one line. In a sweep :meth:`finish` does.

        Args:
            record: of a run that is done.
        """
        if self.has_one_run:
            return
        config = record["config"]
        row = {key: record[key] for key in ("status", "accuracy", "loss")}
        end = f"{label(config['defense'])} learning rate {config['learning_rate']:g} seed {config['seed']}"
        self._write(record["key"], end, Tracked(config, curve([record]), row, {"provenance": record["provenance"]}))

    def finish(self, records: list[Record], table: list[Row], asked: Sequence[dict[str, Any]]) -> None:
        """Writes the only run of a sweep: means over seeds of the defense that was asked for.

        Of several defenses, and scenarios, it is the one with the lowest accuracy. The numbers of its scenario without
        a defense stand beside it.

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
        beside = (row for row in table if row["defense"] == undefended and scenario_of(row) == scenario_of(chosen))
        config = next(config for config in asked if label(config["defense"]) == chosen["defense"])
        averaged = [record for record in records if is_of(record, chosen)]
        self._write(
            None,
            chosen["defense"],
            Tracked(
                config | {"seed": None, "learning_rate": chosen["learning_rate"]},
                curve(averaged),
                chosen,
                {"provenance": averaged[0]["provenance"]} if averaged else {},
                control=None if chosen["defense"] == undefended else next(beside, None),
            ),
        )

    def _write(self, run_id: str | None, end: str, made: Tracked) -> None:
        tags = tags_of(made.config)
        name = f"{' '.join(tags[:3])} {end}"
        fill = partial(self.fill, tracked=made, step="round")
        self.write(run_id, "training", name, tags, made.config | made.provenance, fill)


def is_of(record: Record, row: Row) -> bool:
    """Whether a record is one of those that a row is the mean of."""
    same = ("defense", "learning_rate")
    return any(  # one that chose a learning rate makes no row
        scenario_of(alone) == scenario_of(row) and all(alone[key] == row[key] for key in same)
        for alone in rows([record])
    )


def curve(records: list[Record]) -> list[dict[str, float]]:
    """Means over the records of accuracy and loss, by the rounds that all of them have."""
    found = [record["curve"] for record in records]
    curves = [dict(zip(one["round"], zip(one["accuracy"], one["loss"], strict=True), strict=True)) for one in found]
    common = sorted(set.intersection(*map(set, curves))) if curves else []
    points = []
    for number in common:
        accuracy, loss = map(fmean, zip(*(one[number] for one in curves), strict=True))
        points.append({"round": number, "accuracy": accuracy, "loss": loss})
    return points


def tags_of(config: dict[str, Any]) -> list[str]:
    """Data, model, algorithm and defense."""
    defense = config["defense"]["class"] if config["defense"] else "no defense"
    return shortened([config["data"]["class"], config["model"]["class"], config["algorithm"], defense])
