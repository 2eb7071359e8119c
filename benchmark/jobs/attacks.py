"""Attacks on blocks of victims, as jobs."""

from collections.abc import Mapping, Sequence
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from attacks.engine.inverter import Inverter
from attacks.engine.problem import MatchingProblem
from benchmark.jobs.blocks import Block, Workbench
from benchmark.jobs.fitting import Fitting
from benchmark.jobs.job import Kind, Tally, Watch
from benchmark.jobs.records import room, run_blocks
from benchmark.metrics.leak import BASELINES, leaks
from benchmark.store.store import ATTACKS, Record, Store


class Attacks(Kind[Block]):
    """Blocks of victims under attack; a step of the progress bar is a victim.

    Args:
        fitting: how attacks are fitted and watched.
    """

    plural, groups, shelf = "blocks", "cells", ATTACKS

    def __init__(self, fitting: Fitting = Fitting()) -> None:  # noqa: B008 # frozen
        self.fitting = fitting

    def together(self, job: Block, pending: Sequence[Block], bench: Workbench) -> list[Block]:
        """The block and, on a GPU, those that follow it in its cell as far as memory goes.

        A GPU attacks a thousand victims in little more time than one, but takes no more than its share of what all
        workers have left to do. On a CPU the time of a victim hardly falls beyond a block of 64.
        """
        together = [job]
        if bench.device.type == "cuda":
            share = sum(len(other.victims) for other in pending) // bench.workers
            limit = max(len(job.victims), min(room(job, bench), share))
            for other in pending[pending.index(job) + 1 :]:
                follows = other.cell == job.cell and other.victims.start == together[-1].victims.stop
                if not follows or other.victims.stop - job.victims.start > limit:
                    break
                together.append(other)
        return together

    def do(self, jobs: list[Block], store: Store, bench: Workbench, watch: Watch[Block]) -> list[Record]:
        return run_blocks(jobs, bench, [Finished(jobs[0], watch)], self.fitting)

    def tally(self) -> Tally[Block]:
        return Leaks()


class Leaks(Tally[Block]):
    """Victims done, and the share that leaked to an attack so far, null baselines aside."""

    def __init__(self) -> None:
        self._attacked = self._leaked = 0

    def add(self, job: Block, record: Record) -> str:
        if job.cell.attack.name not in BASELINES:
            sought = [victim for victim in record["victims"] if victim["psnr"]]  # not the labels alone
            self._attacked += len(sought)
            self._leaked += sum(map(leaks, sought))
        return ""

    def total(self, steps: int) -> str:
        return f", {steps} victims" + (f", {self._leaked / self._attacked:.0%} leaked" if self._attacked else "")


class Finished(Callback):
    """Tells the watch how many victims of the blocks under attack are done, of a training as many as its part."""

    def __init__(self, block: Block, watch: Watch[Block]) -> None:
        self._block, self._watch = block, watch
        self._last = -1

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Tensor | Mapping[str, Any] | None,
        batch: Any,
        batch_idx: int,
    ) -> None:
        if isinstance(pl_module, MatchingProblem) and pl_module.ledger.finished != self._last:
            self._last = pl_module.ledger.finished
            self._watch.reached(self._block, self._last)
        if isinstance(pl_module, Inverter):
            percent = 100 * (pl_module.done + 1) // pl_module.steps
            if percent != self._last:
                self._last = percent
                self._watch.reached(self._block, percent * self._block.size // 100, f", training {percent}%")
