"""The progress bar of a run."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
from rich.table import Column
from rich.text import Text
from torch import Tensor

from attacks.engine.problem import MatchingProblem
from benchmark.boards.terminal import Console
from benchmark.jobs.blocks import Block
from benchmark.jobs.run import Watch
from benchmark.metrics.leak import BASELINES, leaks
from benchmark.store.store import Store


class TimeLeft(ProgressColumn):
    """Time left, from the share of the work that was done since the start of this run."""

    def render(self, task: Task) -> Text:
        before = task.fields["before"]
        done, elapsed = task.completed - before, task.elapsed or 0.0
        if done <= 0 or elapsed <= 0 or task.total is None:
            return Text("?:?? left")
        left = int(elapsed / done * (task.total - task.completed))
        return Text(f"{timedelta(seconds=left)} left")


def bar(console: Console) -> Progress:
    """A bar with ``counts``, the time left and, where it fits, the description; nothing where there is no terminal."""
    columns: list[ProgressColumn] = [
        BarColumn(bar_width=12),
        TextColumn("{task.fields[counts]}", markup=False, table_column=Column(no_wrap=True)),
        TimeLeft(table_column=Column(no_wrap=True)),
    ]
    if console.width >= 110:
        column = Column(no_wrap=True, overflow="ellipsis")
        columns.append(TextColumn("{task.description}", markup=False, table_column=column))
    return Progress(*columns, console=console, disable=not console.is_terminal)


class ProgressBar(Watch):
    """Cells and victims done, the share that leaked to an attack so far, null baselines aside, and the time left.

    Args:
        blocks: the whole plan.
        store: where the records are.
        console: where to draw; only a line for each cell where it is no terminal.
    """

    def __init__(self, blocks: list[Block], store: Store, console: Console) -> None:
        self._store = store
        self._console = console
        self._blocks_left: dict[str, int] = {}
        for block in blocks:
            self._blocks_left[block.cell.id] = self._blocks_left.get(block.cell.id, 0) + 1
        self._cells = len(self._blocks_left)
        self._done = self._victims = self._attacked = self._leaked = 0
        self._progress = bar(console)
        self._task = self._progress.add_task(
            "starting", total=sum(len(block.victims) for block in blocks), counts="", before=0
        )

    def __enter__(self) -> "ProgressBar":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def begins(self, block: Block) -> None:
        self._progress.update(self._task, description=block.cell.label)

    def ends(self, block: Block) -> None:
        self.was_done(block)
        self._show(self._victims)
        if self._blocks_left[block.cell.id] == 0:
            self._say(block.cell.label)

    def callbacks(self) -> list[Callback]:
        return [_Finished(self)]

    def within(self, finished: int) -> None:
        """Victims that are done in the block that is under way."""
        self._show(self._victims + finished)

    def was_done(self, block: Block) -> bool:
        """Counts the block where it has a whole record, without a word. False where it has none."""
        record = self._store.record(block.key)
        if record is None:
            return False
        self._blocks_left[block.cell.id] -= 1
        self._done += self._blocks_left[block.cell.id] == 0
        self._victims += len(record["victims"])
        if block.cell.attack.name not in BASELINES:
            self._attacked += len(record["victims"])
            self._leaked += sum(map(leaks, record["victims"]))
        return True

    def resumed(self) -> None:
        """What is done by now was done by an earlier run: the time left is not judged by it."""
        self._progress.update(self._task, before=self._victims)
        self._show(self._victims)
        if self._victims:
            self._say("done by an earlier run")

    def _say(self, what: str) -> None:
        """A line where there is no bar."""
        if not self._console.is_terminal:
            self._console.print(f"{self._counts(self._victims)}: {what}", highlight=False, soft_wrap=True)

    def _counts(self, victims: int) -> str:
        share = f", {self._leaked / self._attacked:.0%} leaked" if self._attacked else ""
        return f"{self._done}/{self._cells} cells, {victims} victims{share}"

    def _show(self, victims: int) -> None:
        self._progress.update(self._task, completed=victims, counts=self._counts(victims))


class _Finished(Callback):
    """Tells the bar how many victims of the block are done."""

    def __init__(self, bar: ProgressBar) -> None:
        self._bar = bar
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
            self._bar.within(self._last)
