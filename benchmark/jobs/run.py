"""The work of a process: blocks that no other process has done or is doing, until every block is done."""

import contextlib
import time
from collections.abc import Callable
from typing import Protocol, TypeVar

from lightning.pytorch.callbacks import Callback

from benchmark.errors import UsageError
from benchmark.jobs.blocks import Block, Workbench
from benchmark.jobs.records import room, run_blocks
from benchmark.store.store import Store, say

AGAIN = 3
"""How often records that have vanished are made again before a run gives up."""


class Work(Protocol):
    """A piece of work that leaves a record."""

    @property
    def key(self) -> str:
        """The record's name."""


W = TypeVar("W", bound=Work)


def until_all_are_there(
    work: list[W], vanished: Callable[[set[str]], set[str]], do: Callable[[list[W]], None], folder: object, name: str
) -> None:
    """Does pieces of work, looks whether all records are in the folder at the end, and does again what is missing.

    Args:
        work: all pieces, those that were done before included.
        vanished: of some keys those that have no record any more.
        do: does what is given and not done.
        folder: of the run, for people.
        name: what people call the pieces, in the plural.

    Raises:
        UsageError: records go on vanishing.
    """
    keys = {one.key for one in work}
    for _ in range(AGAIN):
        gone = vanished(keys)
        if not gone:
            return
        say(f"{len(gone)} of {len(work)} records disappeared from {folder} during the run: running these {name} again")
        do([one for one in work if one.key in gone])
    if gone := vanished(keys):
        raise UsageError(
            f"{len(gone)} of {len(work)} records are missing in {folder}, because something removes them: "
            "find the cause, and the same command resumes"
        )


def work(blocks: list[Block], store: Store, bench: Workbench, watch: "Watch") -> None:
    """Runs the blocks that no other process has done or is doing, until every block is done."""
    pending = list(blocks)
    while pending:
        worked = False
        for block in list(pending):
            if not store.done(block.key):
                with contextlib.ExitStack() as claims:
                    mine = claim_together(block, pending, store, bench, claims)
                    for one in mine:
                        watch.begins(one)
                    for record in run_blocks(mine, bench, watch.callbacks()) if mine else []:
                        store.write(record)
                    worked = worked or bool(mine)
            if store.done(block.key):
                watch.ends(block)
                pending.remove(block)
        if pending and not worked:
            time.sleep(0.3)  # what is left is in the hands of other processes


def claim_together(
    block: Block, pending: list[Block], store: Store, bench: Workbench, claims: contextlib.ExitStack
) -> list[Block]:
    """Claims the block and, on a GPU, those that follow it in its cell as far as memory goes.

    A GPU attacks a thousand victims in little more time than one, but takes no more than its share of what all workers
    have left to do. On a CPU the time of a victim hardly falls beyond a block of 64.

    Returns:
        The blocks that are claimed, none where another process was faster.
    """
    limit = len(block.victims)
    if bench.device.type == "cuda":
        share = sum(len(other.victims) for other in pending) // bench.workers
        limit = max(limit, min(room(block, bench), share))
    mine: list[Block] = []
    for other in pending[pending.index(block) :]:
        follows = not mine or (other.cell == block.cell and other.victims.start == mine[-1].victims.stop)
        fits = not mine or other.victims.stop - block.victims.start <= limit
        if not follows or not fits or not claims.enter_context(store.claim(other.key)):
            break
        mine.append(other)
    return mine


class Watch:
    """Something that is told how the work goes; this one keeps silent."""

    def begins(self, block: Block) -> None:
        """This process starts the block."""

    def ends(self, block: Block) -> None:
        """The block is done, here or by another process."""

    def callbacks(self) -> list[Callback]:
        """Lightning callbacks for the next attack."""
        return []
