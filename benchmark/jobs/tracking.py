"""Weights & Biases runs, derived from the records once there are all that one needs; no job ever sees W&B.

Under the agent of a W&B sweep, or in a W&B launch job, a process has one run, whose id is not ours to choose: it is
written at the end, of what is worst of all that was asked for.
"""

import json
import os
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

from benchmark.errors import UsageError
from benchmark.identity import digest
from benchmark.store import published
from benchmark.store.store import SHELVES

Row = dict[str, Any]

PROJECT = "leakboard"

_INIT_SECONDS = 8.0
"""For the start of an online run. W&B adds up to 10 s of its own in the worst case, and gives up only after 100 s
unless it is told otherwise."""

_FINISH_SECONDS = 60.0
"""For the upload at the end of an online run; what is not up by then is on the disk and can be synced."""

_LONGEST_TAG = 64


@dataclass(frozen=True)
class Tracked:
    """What is told about a cell or a training.

    Attributes:
        config: resolved configuration.
        points: of its curve, under the names of their values.
        row: its row of a table, whose scalars are the summary.
        provenance: of its first record, as a part of a configuration; empty where there is no record.
        picture: PNG of true images and reconstructions.
        control: the row of its undefended control, whose numbers stand under names that begin with ``control_``.
    """

    config: dict[str, Any]
    points: list[dict[str, float]]
    row: dict[str, Any]
    provenance: dict[str, Any] = field(default_factory=dict)
    picture: Path | None = None
    control: dict[str, Any] | None = None


class Tracker:
    """Writes W&B runs; what they are of is said by a subclass for each kind of jobs.

    A run has the id of what it is of, so that what is done again updates its run, whatever the environment says about
    ids. Where W&B cannot be reached, the runs are written to the disk instead; where W&B itself fails, a line says so
    and the benchmark goes on: the results are in the store.

    Args:
        mode: where the runs go.
        suite: name of the suite, which groups its runs unless WANDB_RUN_GROUP does.
        folder: the runs are kept in ``wandb/`` below it.

    Raises:
        UsageError: wandb is not installed.
    """

    def __init__(self, mode: Literal["offline", "online"], suite: str, folder: Path) -> None:
        try:
            import wandb
        except ImportError as error:
            raise UsageError(f"W&B cannot be used ({error}): install wandb or use --wandb disabled") from None
        self._wandb = wandb
        self._mode: Literal["offline", "online"] = mode
        self._suite = suite
        self._folder = folder
        self.has_one_run = False
        """Whether the agent of a sweep has given this process the id of its only run."""
        try:
            # A WANDB_MODE in the environment would otherwise forbid the login below.
            session = wandb.setup(wandb.Settings(mode=mode, silent=True, x_disable_viewer=True))
            self.has_one_run = bool(session.settings.sweep_id or session.settings.launch)
            if mode == "online":
                self._log_in()
        except Exception as error:
            if mode == "online":  # what is wrong with offline runs the first of them will say
                self._go_offline(error)

    def fill(self, run: Any, tracked: Tracked, step: str) -> None:
        """Writes curve, summary and picture into a run.

        Args:
            run: of W&B.
            tracked: what they are of.
            step: name of the value of a point over which the others are drawn.
        """
        for name in dict.fromkeys([step, *(name for point in tracked.points for name in point)]):
            run.define_metric(name, step_metric=None if name == step else step, summary="none")
        for number, point in enumerate(tracked.points):
            if number >= run.starting_step:  # a resumed run has the points before it already
                run.log(point, step=number)
        run.summary.update({k: v for k, v in tracked.row.items() if isinstance(v, int | float | str)})
        control = (tracked.control or {}).items()
        run.summary.update({f"control_{k}": v for k, v in control if isinstance(v, int | float)})
        if tracked.picture is not None:
            run.log({"reconstructions": self._wandb.Image(str(tracked.picture))})

    def fill_board(self, run: Any, kind: str, rows: list[Row]) -> None:
        """Writes what a folder says into a run: its table, and its records as an artifact.

        Args:
            run: of W&B.
            kind: name of the table.
            rows: of the table.
        """
        run.log({kind: self._table(rows)})
        artifact = self._wandb.Artifact(f"{re.sub('[^A-Za-z0-9_.-]', '-', self._suite)[:100]}-records", type="results")
        for folder in (self._folder / shelf.name for shelf in SHELVES):
            for path in [*sorted(folder.glob("*.json")), *published.files(folder)]:
                # Records never change once they are there, so W&B need not keep copies of them in the home folder.
                name = path.relative_to(self._folder).as_posix()  # what is downloaded is a folder for leakboard show
                artifact.add_file(str(path), name=name, policy="immutable", skip_cache=True)
        run.log_artifact(artifact)

    def trade_off(self, points: Sequence[Row]) -> None:
        """Writes the run of leak rate over accuracy: its table and figure, and a plot of each scenario.

        In a sweep, whose only run is that of a cell, there is none.

        Args:
            points: of :func:`benchmark.tradeoff.page.write_beside`; without any there is no run.
        """
        plots: dict[str, list[Row]] = {}
        for point in points:
            plots.setdefault(f"Attacked: {point['attacked']}. Trained: {point['trained']}", []).append(point)

        def fill(run: Any) -> None:
            run.log({"trade-off": self._table(points), "figure": self._wandb.Image(str(self._folder / "tradeoff.png"))})
            for number, (title, of_plot) in enumerate(plots.items(), 1):
                plotted = self._table([point for point in of_plot if not point["void"]])
                plot = self._wandb.plot.scatter(plotted, "accuracy", "leak_rate", title=title)
                run.log({f"trade-off {number}": plot})

        if points and not self.has_one_run:
            self.write_of_folder("trade-off", fill)

    def _table(self, rows: Sequence[Row]) -> Any:
        columns: list[str | int] = list(dict.fromkeys(key for row in rows for key in row))
        data = [[_cell(row.get(str(key))) for key in columns] for row in rows]
        return self._wandb.Table(columns=columns, data=data, allow_mixed_types=True)

    def write_of_folder(self, kind: str, fill: Callable[[Any], None]) -> None:
        """Writes a run of a folder, which keeps it: two folders of one suite are two results.

        Args:
            kind: what kind of run it is.
            fill: writes what it holds.
        """
        run_id = digest([kind, self._suite, str(self._folder.resolve())])
        self.write(run_id, kind, f"{self._suite} {kind}", [kind], {"suite": self._suite}, fill)

    def write(
        self,
        run_id: str | None,
        job_type: str,
        name: str,
        tags: list[str],
        config: dict[str, Any],
        fill: Callable[[Any], None],
    ) -> None:
        """Starts a run, fills it and finishes it; no failure of W&B's goes further than one line.

        W&B raises more than its own errors (a lost service process, a rejected setting), and none of them is worth
        the hours that the benchmark has behind it: so every exception ends here.

        Args:
            run_id: id of the run, None for the one that the environment gives.
            job_type: what kind of run it is.
            name: of the run, for people.
            tags: of the run.
            config: of the run.
            fill: writes what the run holds.
        """
        try:
            run = self.begin(run_id, job_type, name, tags, config)
            try:
                fill(run)
            except BaseException:
                run.finish(exit_code=1)  # not by `with run`, which would print the traceback
                raise
            run.finish()
        except Exception as error:
            if self._mode == "online" and isinstance(error, TimeoutError):  # the upload at the end
                self._go_offline(error, "sync --no-skip-online")  # it began as an online run
            else:
                print(f"leakboard: W&B failed for {name} ({first_line(error)}): continuing without it", file=sys.stderr)

    def begin(self, run_id: str | None, job_type: str, name: str, tags: list[str], config: dict[str, Any]) -> Any:
        """Starts a run that somebody else fills and finishes; raises whatever W&B does."""
        about = {"id": run_id, "job_type": job_type, "name": name[:128], "tags": tags, "config": config}
        try:
            return self._start(about)
        except Exception as error:
            if self._mode == "offline":
                raise
            self._go_offline(error)
            self._wandb.teardown()  # its service holds the id of the run that could not be started
            return self._start(about)

    def _start(self, about: dict[str, Any]) -> Any:
        settings = self._wandb.Settings(
            silent=True,
            console="off",
            # Only what the records say leaves the machine: no hardware, host, code, packages or command line.
            host="",
            program="leakboard",
            disable_code=True,
            disable_git=True,
            disable_job_creation=True,
            label_disable=True,
            save_code=False,
            x_disable_machine_info=True,
            x_disable_meta=True,
            x_disable_stats=True,
            x_save_requirements=False,
            sagemaker_disable=True,  # it would give the run another id
            x_disable_viewer=True,  # a request that has no time limit of its own
            init_timeout=_INIT_SECONDS,
            finish_timeout=_FINISH_SECONDS if self._mode == "online" else 0.0,
            finish_timeout_raises=True,
        )
        return self._wandb.init(
            # In a sweep the project is the sweep's, and W&B says so of any other.
            project=None if self.has_one_run else os.environ.get("WANDB_PROJECT") or PROJECT,
            group=os.environ.get("WANDB_RUN_GROUP") or self._suite[:128],
            dir=str(self._folder),
            mode=self._mode,
            resume="allow",
            reinit="finish_previous",
            allow_val_change=True,
            settings=settings,
            **about,
        )

    def _log_in(self) -> None:
        """Checks the key with the server, once; never asks for a key.

        Raises:
            wandb.Error: the server cannot be reached (about 11 s), refuses the key, or there is none.
        """
        if not self._wandb.login(prompt=False, verify=True):
            raise self._wandb.errors.UsageError("there is no API key: run wandb login or set WANDB_API_KEY")

    def _go_offline(self, error: Exception, later: str = "sync") -> None:
        self._mode = "offline"
        reason = first_line(error)
        if "did not respond in time" in reason:  # W&B blames its own service process, which waits for the server
            reason = "the server does not answer"
        print(
            f"leakboard: W&B cannot be reached ({reason}): continuing offline; to sync later: "
            f"wandb {later} {self._folder / 'wandb'}",
            file=sys.stderr,
        )


@cache
def tracker_of(mode: Literal["offline", "online"], suite: str, folder: Path) -> Tracker:
    """The one of this process, which has looked once whether W&B can be reached."""
    return Tracker(mode, suite, folder)


def shortened(tags: list[str]) -> list[str]:
    """Tags as W&B takes them, each once; of an import path the end tells the most."""
    return list(dict.fromkeys(tag[-_LONGEST_TAG:] for tag in tags))


def first_line(error: Exception) -> str:
    """What an error says, as one short line."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _cell(value: Any) -> Any:
    """A value that W&B can show in a table."""
    return json.dumps(value) if isinstance(value, dict | list) else value
