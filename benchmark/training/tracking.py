"""The W&B runs of a training suite, from its records."""

from collections.abc import Callable, Sequence
from functools import partial
from operator import itemgetter
from statistics import fmean
from typing import Any

from benchmark.jobs.job import Watch
from benchmark.jobs.tracking import Tracked, Tracker, shortened
from benchmark.store.store import Record
from benchmark.training.plan import Run
from benchmark.training.rows import Row, label, rows, scenario_of


class TrainingTracker(Tracker, Watch[Run]):
    """W&B runs of a training suite: one for each training, one for the table; in a sweep a single one."""

    def ends(self, job: Run, record: Record) -> None:
        """Writes the run of a record; what goes wrong ends in one line. In a sweep :meth:`finish` does."""
        if not self.has_one_run:
            config = record["config"]
            end = f"{label(config['defense'])} learning rate {config['learning_rate']:g} seed {config['seed']}"
            row = {key: record[key] for key in ("status", "accuracy", "loss")}
            self._write(record["key"], end, config, [record], row)

    def finish(self, records: list[Record], table: list[Row], asked: Sequence[dict[str, Any]]) -> None:
        """Writes the run of the table, which in a sweep is a part of the only run.

        That has the means over seeds of the defense that was asked for. Of several defenses, and scenarios, it is the
        one with the lowest accuracy. The numbers of its scenario without a defense stand beside it.

        Args:
            records: of the folder.
            table: made of them.
            asked: the configurations of this command, as other commands may have left records of other defenses.
        """
        if not self.has_one_run:
            self.write_of_folder("training", partial(self.fill_board, kind="training", rows=table))
            return
        wanted, undefended = {label(config["defense"]) for config in asked}, label(None)
        mine = (row for row in table if row["defense"] in wanted)
        chosen = min(mine, key=lambda row: (row["defense"] == undefended, row["accuracy"]))
        name, averaged = chosen["defense"], [record for record in records if is_of(record, chosen)]
        control = [row for row in table if row["defense"] == undefended != name and is_beside(row, chosen)]
        about = averaged[0]["config"] | {"seed": None}

        fill_more = partial(self.fill_board, kind="training", rows=table)
        self._write(None, name, about, averaged, chosen, next(iter(control), None), fill_more)

    def _write(
        self,
        run_id: str | None,
        end: str,
        config: dict[str, Any],
        of: list[Record],
        row: Row,
        control: Row | None = None,
        fill_more: Callable[[Any], None] = lambda run: None,
    ) -> None:
        tags, provenance = tags_of(config), {"provenance": of[0]["provenance"]}
        made = Tracked(config, curve(of), row, provenance, control=control)

        def fill(run: Any) -> None:
            self.fill(run, made, "round")
            fill_more(run)

        self.write(run_id, "training", f"{' '.join(tags[:3])} {end}", tags, config | provenance, fill)


def is_beside(row: Row, other: Row) -> bool:
    """Whether two rows are of one scenario."""
    return scenario_of(row) == scenario_of(other)


def is_of(record: Record, row: Row) -> bool:
    """Whether a record is one of those that a row is the mean of."""
    same = itemgetter("defense", "learning_rate")
    return any(is_beside(one, row) and same(one) == same(row) for one in rows([record]))  # none of one that chose


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
