"""The W&B runs of a suite of attacks, from its records."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import fmean, median
from types import MappingProxyType
from typing import Any, Literal

from PIL import Image

from benchmark.jobs.tracking import Row, Tracked, Tracker, shortened
from benchmark.metrics.leak import BASELINES


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

    def leaderboard(
        self,
        rows: list[Row],
        pictures: Mapping[str, Sequence[Image.Image]] = MappingProxyType({}),
    ) -> None:
        """Writes the run of the leaderboard, which in a sweep is a part of the only run.

        The summary, curve and picture of the latter are those of :func:`worst`.

        Args:
            rows: the rows in their order.
            pictures: true images and reconstructions, by the ids of the cells whose records hold them.
        """
        shown = [row | self._images(pictures.get(row.get("cell", ""))) for row in rows]
        if not self.has_one_run:
            self.write_of_folder("leaderboard", partial(self.fill_board, kind="leaderboard", rows=shown))
            return
        final = {row["cell"]: row for row in rows if "cell" in row}  # with ranks, which other cells decide
        chosen = worst([replace(cell, row=final.get(name, cell.row)) for name, cell in self._cells.items()])

        def fill(run: Any) -> None:
            self.fill(run, chosen, "evaluations")
            self.fill_board(run, "leaderboard", shown)

        # A parameter of the sweep replaces what has its name, as in --defense=Masking: so all of it is there once more.
        config = {"suite": self._suite, "cell": chosen.config} | chosen.config | chosen.provenance
        tags = tags_of(chosen.config)
        self.write(None, "cell", " ".join(tags), tags, config, fill)

    def _images(self, pictures: Sequence[Image.Image] | None) -> dict[str, Any]:
        """The cells of a table that show them."""
        names = ("true images", "reconstructions")
        return dict(zip(names, map(self._wandb.Image, pictures), strict=True)) if pictures else {}


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
