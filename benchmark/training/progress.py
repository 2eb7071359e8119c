"""The progress bar of a training."""

from benchmark.boards.terminal import Console
from benchmark.federation.server import State
from benchmark.jobs.progress import bar
from benchmark.store.store import Record
from benchmark.training.plan import Run


class TrainingBar:
    """Runs done, and round, accuracy and loss of the one that was heard of last.

    Args:
        runs: all of them.
        console: where to draw; only a line for each run where it is no terminal.
    """

    def __init__(self, runs: list[Run], console: Console) -> None:
        self._console = console
        self._runs, self._done = len(runs), 0
        self._rounds: dict[str, int] = {}
        self._progress = bar(console)
        total = sum(run.rounds for run in runs)
        self._task = self._progress.add_task("starting", total=total, counts="", before=0)

    def __enter__(self) -> "TrainingBar":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def was_done(self, run: Run) -> None:
        """An earlier run did this one."""
        self._done += 1
        self._rounds[run.key] = run.rounds

    def goes_on(self, run: Run, rounds: int) -> None:
        """An earlier run did so many rounds of this one."""
        self._rounds[run.key] = rounds

    def resumed(self) -> None:
        """What is done by now was done by an earlier run, which says nothing about the time that is left."""
        self._progress.update(self._task, before=sum(self._rounds.values()))
        self._show()
        if self._done:
            self._say("done by an earlier run")

    def reached(self, run: Run, state: State) -> None:
        """The state after a round."""
        self._rounds[run.key] = state.round
        tested = self._tested(state.accuracy[-1], state.loss[-1]) if state.accuracy else ""
        self._progress.update(self._task, description=run.training.label)
        self._show(f", round {state.round}/{run.rounds}{tested}")

    def ends(self, run: Run, record: Record) -> None:
        """The run is done, here or by another process."""
        self._done += 1
        self._rounds[run.key] = run.rounds
        if record["status"] == "diverged":
            said = f", diverged in round {record['round']}"
        else:
            said = self._tested(record["accuracy"], record["loss"])
        if record["status"] == "collapsed":
            said += ", collapsed"
        self._show(said)
        self._say(f"{run.training.label}{said}")

    def _tested(self, accuracy: float, loss: float) -> str:
        return f", accuracy {accuracy:.1%}, loss {loss:.3f}"

    def _show(self, more: str = "") -> None:
        counts = f"{self._done}/{self._runs} runs{more}"
        self._progress.update(self._task, completed=sum(self._rounds.values()), counts=counts)

    def _say(self, what: str) -> None:
        """A line where there is no bar."""
        if not self._console.is_terminal:
            self._console.print(f"{self._done}/{self._runs} runs: {what}", highlight=False, soft_wrap=True)
