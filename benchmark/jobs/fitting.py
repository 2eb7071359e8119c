"""How the attacks of a run are fitted and watched: the step, a user's Trainer arguments, and the live curves of W&B."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import CSVLogger

from attacks.engine.step import EAGER, check_step
from benchmark.errors import UsageError
from benchmark.jobs.blocks import Block
from benchmark.suite.suite import Suite
from benchmark.suite.watching import Guard, for_fit, is_fitted, takes_steps


@dataclass(frozen=True)
class Fitting:
    """What decides no result, and is sent to each worker.

    Attributes:
        step: see :data:`attacks.engine.step.STEPS`.
        trainer: arguments of Lightning's Trainer, as :func:`benchmark.suite.watching.watching` returns them.
        folder: of the run.
        wandb: where the live curves go.
        suite: name of the suite, which groups the runs of W&B.
    """

    step: str = EAGER
    trainer: Mapping[str, Any] = field(default_factory=dict)
    folder: Path = Path()
    wandb: Literal["disabled", "offline", "online"] = "disabled"
    suite: str = ""

    def check(self, suite: Suite, device: str) -> None:
        """UsageError where there is something that no attack of the suite can take.

        Args:
            suite: what is to be run.
            device: type of the device, "cpu" or "cuda".
        """
        try:
            check_step(self.step, device)
        except ValueError as error:
            raise UsageError(str(error)) from None
        attacks = {cell.attack.name for cell in suite.cells}
        if self.step != EAGER and not any(map(takes_steps, attacks)):
            raise UsageError(f"no attack of the suite takes steps: leave --step {self.step} out")
        if self.trainer and not any(map(is_fitted, attacks)):
            raise UsageError("no attack of the suite is fitted by Lightning's Trainer: leave trainer out")

    @contextmanager
    def of(self, blocks: list[Block]) -> Iterator[tuple[list[Callback], dict[str, Any]]]:
        """The user's callbacks for the attack on some blocks of a cell, and the other arguments of its fit."""
        cell, name = blocks[0].cell, blocks[0].key[:16]
        step = {"step": self.step} if self.step != EAGER and takes_steps(cell.attack.name) else {}
        if not is_fitted(cell.attack.name):
            yield [], step
            return
        watchers, trainer = for_fit(self.trainer, self.folder, name) if self.trainer else ([], {})
        logger = trainer.pop("logger", False)
        loggers = [CSVLogger(self.folder, "curves", name)] if logger is True else logger or []
        loggers = [*loggers] if isinstance(loggers, list) else [loggers]
        live = None
        if self.wandb != "disabled":
            from benchmark.jobs.live import LiveCurves
            from benchmark.jobs.tracking import tracker_of

            tracker = tracker_of(self.wandb, self.suite, self.folder)
            if not tracker.has_one_run:  # in a sweep that one is written at the end
                victims = range(blocks[0].victims.start, blocks[-1].victims.stop)
                live = LiveCurves(tracker, cell.config(), f"{name}-live", victims)
                loggers.append(live)
        try:
            guarded = Guard(watchers).callbacks if watchers else []
            yield guarded, step | trainer | ({"logger": loggers} if loggers else {})
        finally:
            if live is not None:
                live.end()
