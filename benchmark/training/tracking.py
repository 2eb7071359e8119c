"""Weights & Biases runs of a training, derived from its records."""

from typing import Any

from benchmark.store import Record
from benchmark.tracking import Tracker
from benchmark.training.table import label


class TrainingTracker(Tracker):
    """A W&B run for each training run, with accuracy and loss by round."""

    def training(self, record: Record) -> None:
        """Writes the run of a record; what goes wrong ends in one line.

        Args:
            record: of a run that is done.
        """

        def fill(run: Any) -> None:
            run.define_metric("round", summary="none")
            for name in ("accuracy", "loss"):
                run.define_metric(name, step_metric="round")
            curve = record["curve"]
            for step, point in enumerate(zip(curve["round"], curve["accuracy"], curve["loss"], strict=True)):
                if step >= run.starting_step:  # a resumed run has the points before it already
                    run.log(dict(zip(("round", "accuracy", "loss"), point, strict=True)), step=step)
            run.summary.update({key: record[key] for key in ("status", "accuracy", "loss") if record[key] is not None})

        config = record["config"]
        tags = [config["data"]["class"], config["model"]["class"], config["algorithm"]]
        tags.append(config["defense"]["class"] if config["defense"] else "no defense")
        rate, seed = config["learning_rate"], config["seed"]
        name = f"{' '.join(tags[:3])} {label(config['defense'])} learning rate {rate:g} seed {seed}"
        about = config | {"provenance": record["provenance"]}
        self._run(record["key"], "training", name, [tag[-64:] for tag in dict.fromkeys(tags)], about, fill)
