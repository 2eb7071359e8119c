"""The W&B runs of a suite of attacks, from its records."""

import hashlib
import json
import math
import re
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import fmean, median
from typing import Any, Literal

from benchmark.jobs.tracking import Tracked, Tracker, shortened
from benchmark.metrics.leak import BASELINES
from benchmark.store import published


class AttackTracker(Tracker):
    """W&B runs of a suite: one for each cell, one for the leaderboard; in a sweep a single one."""

    def __init__(self, mode: Literal["offline", "online"], suite: str, folder: Path) -> None:
        super().__init__(mode, suite, folder)
        self._cells: dict[str, Tracked] = {}

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
        made = Tracked(config, curve(records), row, provenance, picture)
        if self.has_one_run:
            self._cells[cell_id] = made
            return
        tags = tags_of(config)
        fill = partial(self.fill, tracked=made, step="evaluations")
        self.write(cell_id, "cell", " ".join(tags), tags, config | provenance, fill)

    def leaderboard(self, rows: list[dict[str, Any]], records_folder: Path) -> None:
        """Writes the run of the leaderboard: the table, and the records as an artifact.

        In a sweep these are part of the only run, whose summary, curve and picture are those of :func:`worst`.

        Args:
            rows: the rows in their order.
            records_folder: the folder of the records.
        """
        config = {"suite": self._suite, "cells": len(rows)}
        if not self.has_one_run:
            # Two folders of one suite are two results: each keeps its run.
            known_by = json.dumps(["leaderboard", self._suite, str(self._folder.resolve())])
            run_id = hashlib.sha256(known_by.encode()).hexdigest()[:16]
            fill = partial(self._fill_leaderboard, rows=rows, records_folder=records_folder)
            self.write(run_id, "leaderboard", f"{self._suite} leaderboard", ["leaderboard"], config, fill)
            return
        final = {row["cell"]: row for row in rows if "cell" in row}  # with ranks, which other cells decide
        chosen = worst([replace(cell, row=final.get(name, cell.row)) for name, cell in self._cells.items()])

        def fill_all(run: Any) -> None:
            self.fill(run, chosen, "evaluations")
            self._fill_leaderboard(run, rows, records_folder)

        tags = tags_of(chosen.config)
        self.write(None, "cell", " ".join(tags), tags, config | chosen.config | chosen.provenance, fill_all)

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


def worst(cells: list[Tracked]) -> Tracked:
    """The cell that leaks most of those that were asked for, with its control.

    Asked for are the defended cells, of attackers who know the defense and who do not; where there are none, the
    attacks; null baselines where nothing else was told. Of equal leak rates the higher mean PSNR counts.

    Args:
        cells: at least one.
    """
    attacks = [cell for cell in cells if cell.config["attack"]["class"] not in BASELINES]
    asked = [cell for cell in attacks if cell.config["defense"] is not None] or attacks or cells
    chosen = max(asked, key=lambda cell: tuple(cell.row.get(key) or 0.0 for key in ("leak_rate", "psnr_mean")))
    of_control = chosen.config | {"defense": None, "adaptive": False}
    controls = (cell.row for cell in cells if cell.config == of_control and cell is not chosen)
    return replace(chosen, control=next(controls, None))


def tags_of(config: dict[str, Any]) -> list[str]:
    """Data, model, defense, attack, and what the attacker knows of the defense."""
    defense = config["defense"]
    knows = "control" if defense is None else "adaptive" if config["adaptive"] else "oblivious"
    classes = [config["data"], config["model"], defense or {"class": "none"}, config["attack"]]
    return shortened([*(part["class"] for part in classes), knows])


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
