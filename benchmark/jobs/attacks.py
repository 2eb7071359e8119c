"""Attacks on blocks of victims, as jobs."""

from collections import Counter
from collections.abc import Sequence

from benchmark.jobs.blocks import Block, Workbench
from benchmark.jobs.fitting import Fitting
from benchmark.jobs.job import Kind, Tally, Watch
from benchmark.jobs.records import room, run_blocks
from benchmark.metrics.leak import BASELINES, leaks
from benchmark.store.store import ATTACKS, Record, Store

HUNDREDTH = 0.01


class Attacks(Kind[Block]):
    """Blocks of victims under attack; a step of the progress bar is a victim, or as much of the work on several.

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
        return run_blocks(jobs, bench, Bar(jobs, watch), self.fitting)

    def tally(self) -> Tally[Block]:
        return Leaks()


class Leaks(Tally[Block]):
    """Victims done, and how many of each cell's have leaked, null baselines aside."""

    def __init__(self) -> None:
        self._attacked: Counter[str] = Counter()
        self._leaked: Counter[str] = Counter()

    def add(self, job: Block, record: Record) -> str:
        sought = [victim for victim in record["victims"] if victim["psnr"]]  # not the labels alone
        if job.cell.attack.name in BASELINES or not sought:
            return ""
        self._attacked[job.group] += len(sought)
        self._leaked[job.group] += sum(map(leaks, sought))
        return f", {self._leaked[job.group]} of {self._attacked[job.group]} leaked"

    def total(self, steps: int) -> str:
        return f", {steps} victims"


class Bar:
    """Tells the watch how much of some blocks is done that are under attack together.

    Args:
        blocks: the blocks.
        watch: is told when a hundredth more is done.
    """

    def __init__(self, blocks: Sequence[Block], watch: Watch[Block]) -> None:
        self._blocks, self._watch, self._share = blocks, watch, 0.0

    def __call__(self, share: float) -> None:
        """Takes the share of the work that is done; where victims are attacked again with less memory, it falls."""
        if share >= self._share + HUNDREDTH:
            self._share = share
            for block in self._blocks:
                self._watch.reached(block, share * block.size)
