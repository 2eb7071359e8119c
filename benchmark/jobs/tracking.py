"""Weights & Biases runs, derived from the records once a cell is complete; an attack never sees W&B.

Under the agent of a W&B sweep, or in a W&B launch job, a process has one run, whose id is not ours to choose: it is
written at the end, of the cell that leaks most of those that were asked for.
"""

import hashlib
import json
import math
import os
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import fmean, median
from typing import Any, Literal

from benchmark.errors import UsageError
from benchmark.metrics.leak import BASELINES
from benchmark.store import published

PROJECT = "leakboard"

_INIT_SECONDS = 8.0
"""For the start of an online run. W&B adds up to 10 s of its own in the worst case, and gives up only after 100 s
unless it is told otherwise."""

_FINISH_SECONDS = 60.0
"""For the upload at the end of an online run; what is not up by then is on the disk and can be synced."""

_LONGEST_TAG = 64


@dataclass(frozen=True)
class TrackedCell:
    """What is told about a cell.

    Attributes:
        config: resolved configuration.
        provenance: of its first record, as a part of a configuration; empty where there is no record.
        points: of :func:`curve`.
        row: its row of the leaderboard.
        picture: PNG of true images and reconstructions.
    """

    config: dict[str, Any]
    provenance: dict[str, Any]
    points: list[dict[str, float]]
    row: dict[str, Any]
    picture: Path | None


class Tracker:
    """W&B runs of a suite: one for each cell, one for the leaderboard; in a sweep a single one.

    A run has the id of its cell, so that a cell that is run again updates its run, whatever the environment says about
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
        self._cells: dict[str, TrackedCell] = {}
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

    def cell(
        self,
        cell_id: str,
        config: dict[str, Any],
        records: list[dict[str, Any]],
        row: dict[str, Any],
        picture: Path | None,
    ) -> None:
        """Writes the run of a cell; in a sweep it is kept in mind until the leaderboard comes.

        Args:
            cell_id: id of the cell and of its run.
            config: resolved configuration of the cell.
            records: all records of the cell.
            row: the cell's row of the leaderboard; its scalars are the run's summary.
            picture: PNG of true images and reconstructions.
        """
        provenance = {"provenance": records[0]["provenance"]} if records else {}
        made = TrackedCell(config, provenance, curve(records), row, picture)
        if self.has_one_run:
            self._cells[cell_id] = made
            return
        tags = tags_of(config)
        self._run(cell_id, "cell", " ".join(tags), tags, config | provenance, lambda run: self._fill_cell(run, made))

    def leaderboard(self, rows: list[dict[str, Any]], records_folder: Path) -> None:
        """Writes the run of the leaderboard: the table, and the records as an artifact.

        In a sweep these are part of the only run, whose summary, curve and picture are those of :func:`worst`, with the
        scalars of its control beside them under names that begin with ``control_``.

        Args:
            rows: the rows in their order.
            records_folder: the folder of the records.
        """
        if not self.has_one_run:
            # Two folders of one suite are two results: each keeps its run.
            known_by = json.dumps(["leaderboard", self._suite, str(self._folder.resolve())])
            run_id = hashlib.sha256(known_by.encode()).hexdigest()[:16]
            config = {"suite": self._suite, "cells": len(rows)}
            name, tags = f"{self._suite} leaderboard", ["leaderboard"]
            fill = partial(self._fill_leaderboard, rows=rows, records_folder=records_folder)
            self._run(run_id, "leaderboard", name, tags, config, fill)
            return
        final = {row["cell"]: row for row in rows if "cell" in row}  # with ranks, which other cells decide
        cells = [replace(cell, row=final.get(name, cell.row)) for name, cell in self._cells.items()]
        chosen, control = worst(cells)

        def fill_all(run: Any) -> None:
            self._fill_cell(run, chosen)
            if control is not None:
                run.summary.update({f"control_{key}": value for key, value in numbers(control.row).items()})
            self._fill_leaderboard(run, rows, records_folder)

        tags = tags_of(chosen.config)
        config = {"suite": self._suite, "cells": len(rows)} | chosen.config | chosen.provenance
        self._run(None, "cell", " ".join(tags), tags, config, fill_all)

    def _fill_cell(self, run: Any, cell: TrackedCell) -> None:
        run.define_metric("evaluations", summary="none")
        run.define_metric("matching_loss", step_metric="evaluations", summary="none")
        run.define_metric("psnr", step_metric="evaluations", summary="none")
        for step, point in enumerate(cell.points):
            if step >= run.starting_step:  # a resumed run has the points before it already
                run.log(point, step=step)
        run.summary.update({k: v for k, v in cell.row.items() if isinstance(v, int | float | str)})
        if cell.picture is not None:
            run.log({"reconstructions": self._wandb.Image(str(cell.picture))})

    def _fill_leaderboard(self, run: Any, rows: list[dict[str, Any]], records_folder: Path) -> None:
        columns: list[str | int] = list(dict.fromkeys(key for row in rows for key in row))
        data = [[_cell(row.get(str(key))) for key in columns] for row in rows]
        run.log({"leaderboard": self._wandb.Table(columns=columns, data=data, allow_mixed_types=True)})
        name = re.sub(r"[^A-Za-z0-9_.-]", "-", self._suite)[:100]
        artifact = self._wandb.Artifact(f"{name}-records", type="results")
        # Records never change once they are there, so W&B need not keep copies of them in the home folder.
        for path in sorted(records_folder.glob("*.json")) + published.files(records_folder):
            artifact.add_file(str(path), policy="immutable", skip_cache=True)
        run.log_artifact(artifact)

    def _run(
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
        about = {"id": run_id, "job_type": job_type, "name": name[:128], "tags": tags, "config": config}
        try:
            try:
                run = self._start(about)
            except Exception as error:
                if self._mode == "offline":
                    raise
                self._go_offline(error)
                self._wandb.teardown()  # its service holds the id of the run that could not be started
                run = self._start(about)
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
                print(
                    f"leakboard: W&B failed for {name} ({_first_line(error)}): continuing without it", file=sys.stderr
                )

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
        reason = _first_line(error)
        if "did not respond in time" in reason:  # W&B blames its own service process, which waits for the server
            reason = "the server does not answer"
        print(
            f"leakboard: W&B cannot be reached ({reason}): continuing offline; to sync later: "
            f"wandb {later} {self._folder / 'wandb'}",
            file=sys.stderr,
        )


def worst(cells: list[TrackedCell]) -> tuple[TrackedCell, TrackedCell | None]:
    """The cell that leaks most of those that were asked for, and its control.

    Asked for are the defended cells, of attackers who know the defense and who do not; where there are none, the
    attacks; null baselines where nothing else was told. Of equal leak rates the higher mean PSNR counts.

    Args:
        cells: at least one.
    """
    attacks = [cell for cell in cells if cell.config["attack"]["class"] not in BASELINES]
    asked = [cell for cell in attacks if cell.config["defense"] is not None] or attacks or cells
    chosen = max(asked, key=lambda cell: tuple(cell.row.get(key) or 0.0 for key in ("leak_rate", "psnr_mean")))
    of_control = chosen.config | {"defense": None, "adaptive": False}
    controls = (cell for cell in cells if cell.config == of_control and cell is not chosen)
    return chosen, next(controls, None)


def numbers(row: dict[str, Any]) -> dict[str, int | float]:
    """The numbers of a row."""
    return {key: value for key, value in row.items() if isinstance(value, int | float)}


def tags_of(config: dict[str, Any]) -> list[str]:
    """Data, model, defense, attack, and what the attacker knows of the defense; short enough for W&B."""
    defense = config["defense"]
    knows = "control" if defense is None else "adaptive" if config["adaptive"] else "oblivious"
    classes = [config["data"], config["model"], defense or {"class": "none"}, config["attack"]]
    # A user's own class is named by its import path, of which the end tells the most.
    return list(dict.fromkeys([part["class"][-_LONGEST_TAG:] for part in classes] + [knows]))


def curve(records: list[dict[str, Any]]) -> list[dict[str, float]]:
    """The points of a cell's curve over the gradient evaluations: median loss and mean PSNR of its victims.

    A median that is infinite is left out, as is a mean to which a victim has no value: leaving out that victim alone
    would make the mean better than it is.
    """
    victims: dict[int, tuple[list[int], list[float | None], list[float | None]]] = {}
    for record in records:
        found = record["curve"]
        for victim, losses, psnrs in zip(record["victims"], found["loss"], found["psnr"], strict=False):
            # A victim that is in two blocks counts once, as on the leaderboard.
            victims.setdefault(victim["index"], (found["evaluations"], losses, psnrs))
    moments: dict[int, tuple[list[float], list[float | None]]] = {}
    for evaluations, losses, psnrs in victims.values():
        for moment, loss, psnr in zip(evaluations, losses, psnrs, strict=True):
            at = moments.setdefault(moment, ([], []))
            at[0].append(math.inf if loss is None else loss)
            at[1].append(psnr)
    points = []
    for moment, (at_losses, at_psnrs) in sorted(moments.items()):
        point: dict[str, float] = {"evaluations": moment}
        if math.isfinite(middle := median(at_losses)):
            point["matching_loss"] = middle
        if len(known := [psnr for psnr in at_psnrs if psnr is not None]) == len(at_psnrs):
            point["psnr"] = fmean(known)
        points.append(point)
    return points


def _cell(value: Any) -> Any:
    """A value that W&B can show in a table."""
    return json.dumps(value) if isinstance(value, dict | list) else value


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
