"""The live curves of the cell that is running, in Weights & Biases."""

import sys
from collections.abc import Callable, Mapping
from typing import Any

from lightning.pytorch.loggers import WandbLogger

from benchmark.jobs.attack_tracking import tags_of
from benchmark.jobs.tracking import Tracker, first_line


class LiveCurves(WandbLogger):
    """Loss, and the numbers of active and converged victims, of one fit while it goes on.

    It is a run of its own beside those that are made from the records, begun when there is something to log. Where W&B
    fails, a line says so, and the attack goes on.

    Args:
        tracker: starts the run.
        config: of the cell.
        run_id: id of the run.
        victims: numbers of those that are attacked.
    """

    def __init__(self, tracker: Tracker, config: dict[str, Any], run_id: str, victims: range) -> None:
        super().__init__()
        tags = tags_of(config)
        name = f"{' '.join(tags)}, victims {victims.start} to {victims.stop - 1}"
        self._begin: Callable[[], Any] = lambda: tracker.begin(run_id, "live", name, tags, config)
        self._called, self._failed = name, False

    @property
    def experiment(self) -> Any:
        """The run, which is begun by the first call."""
        if self._experiment is None:
            self._experiment = self._begin()
            self._experiment.define_metric("trainer/global_step")
            self._experiment.define_metric("*", step_metric="trainer/global_step", step_sync=True)
        return self._experiment

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Logs numbers of a step, as long as W&B has not failed."""
        self._unless_failed(lambda: super(LiveCurves, self).log_metrics(metrics, step))

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """There are none: the configuration of the cell is that of the run."""

    def after_save_checkpoint(self, checkpoint_callback: Any) -> None:
        """A checkpoint holds reconstructions, which stay here."""

    def end(self) -> None:
        """Finishes the run, if it was begun."""
        if self._experiment is not None:
            self._unless_failed(self._experiment.finish)

    def _unless_failed(self, do: Callable[[], Any]) -> None:
        """W&B raises more than its own errors, none of which is worth an attack."""
        if not self._failed:
            try:
                do()
            except Exception as error:
                self._failed = True
                print(
                    f"leakboard: W&B failed for the live curves of {self._called} ({first_line(error)}): continuing "
                    "without them",
                    file=sys.stderr,
                )
