"""What a record says of each victim: how near the attack came, and what it says of itself."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from attacks import Reconstruction
from attacks.base import Trajectory
from benchmark.jobs.worst_case import Parts
from benchmark.metrics.labels import LabelScores
from benchmark.metrics.leak import leaked
from benchmark.metrics.misfit import Misfits
from benchmark.metrics.scores import Scores, matched_psnr


@dataclass(frozen=True)
class OfImages:
    """How near an attack that seeks images came to them.

    Attributes:
        found: what is scored: of an ensemble its worst case.
        scores: of its images.
        null_psnr, null_ssim: of the best null baseline, ``[V, N]``.
        fit: how well the update is fitted; None of a null baseline, which does not try.
        at_truth: the attack's own loss at the private batches, ``[V]``; None where it lowers none.
        parts: of an ensemble, what each of its attacks has found.
    """

    found: Reconstruction
    scores: Scores
    null_psnr: Tensor
    null_ssim: Tensor
    fit: Misfits | None
    at_truth: Tensor | None = None
    parts: Parts | None = None


def victims_table(
    victims: range,
    found: Reconstruction,
    of_labels: LabelScores,
    of_images: OfImages | None,
    knows: bool,
    has_lpips: bool,
) -> list[dict[str, Any]]:
    """One entry for each victim: what the attack says of itself, how much of the labels it told, and, of an attack that
    seeks images, what :func:`image_scores` gives; without it the lists of images are empty."""
    rows = []
    for row, victim in enumerate(victims):
        rows.append(
            {
                "index": victim,
                "status": (of_images.found if of_images else found).status[row],  # of what is scored
                "start": found.starts[row] if found.starts else None,
                "evaluations": int(found.evaluations[row]),
                "loss": finite(float(found.loss[row])),
                **(image_scores(of_images, knows, row) if of_images else no_images(has_lpips)),
                "labels": {name: brief(share) for name, share in of_labels.of(row).items()},
            }
        )
    return rows


def no_images(has_lpips: bool) -> dict[str, Any]:
    """Of a victim whose labels alone were attacked."""
    lists: dict[str, Any] = {name: [] for name in ("mse", "psnr", "ssim", "null_psnr", "null_ssim", "label_correct")}
    return lists | {"lpips": [] if has_lpips else None, "leaked_any": False, "leaked_all": False}


def image_scores(of_images: OfImages, knows: bool, row: int) -> dict[str, Any]:
    """Of one victim: scores of each of its images and of their null baselines, whether one of them and whether all of
    them have leaked, how well the attack fits the update and what its loss is at the private batch, and, of an attacker
    who knows what the clients do, whether his model of it explains the update."""
    found, scores, fit = of_images.found, of_images.scores, of_images.fit
    has_leaked = leaked(scores.psnr[row], of_images.null_psnr[row])
    fitted = fit and {
        "misfit": finite(float(fit.found[row])),
        "misfit_of_truth": finite(float(fit.true[row])),
        "misfit_of_noise": finite(float(fit.noise[row])),
        "settled": bool(fit.settled[row]),
        **({"constant_objective": True} if fit.constant[row] else {}),
        **({"contrast_unseen": True} if fit.contrast_unseen[row] else {}),
    }
    return {
        "mse": [brief(x) for x in scores.mse[row].tolist()],
        "psnr": [brief(x) for x in scores.psnr[row].tolist()],
        "ssim": [brief(x) for x in scores.ssim[row].tolist()],
        "lpips": None if scores.lpips is None else [brief(x) for x in scores.lpips[row].tolist()],
        "null_psnr": [brief(x) for x in of_images.null_psnr[row].tolist()],
        "null_ssim": [brief(x) for x in of_images.null_ssim[row].tolist()],
        "leaked_any": found.status[row] != "diverged" and bool(has_leaked.any()),
        "leaked_all": found.status[row] != "diverged" and bool(has_leaked.all()),
        "label_correct": scores.label_correct[row].tolist(),
        **(fitted or {}),
        **({} if of_images.at_truth is None else {"loss_of_truth": finite(float(of_images.at_truth[row]))}),
        **({"explained": bool(fit.explained[row])} if fit and knows else {}),
        **({} if found.certified is None else {"certified": found.certified[row].cpu()[scores.pairs[row]].tolist()}),
        **(of_images.parts.of(row) if of_images.parts else {}),
    }


def curve(trajectory: Trajectory | None, images: Tensor) -> dict[str, Any]:
    """Loss and PSNR of each victim over its evaluations, and when its loss passed some levels.

    There is no PSNR at moments of which no images were kept, because they are large.

    It is made after the attack, which never sees a PSNR.
    """
    if trajectory is None:
        return {"evaluations": [], "loss": [], "psnr": [], "levels": [], "passed": []}
    psnr: list[list[float | None]] = [[None] * len(trajectory.evaluations) for _ in images]
    moments = range(len(trajectory.evaluations)) if trajectory.pictured is None else trajectory.pictured
    for place, moment in enumerate(moments):
        found = trajectory.images[:, place].cpu()
        found = torch.where(found.isfinite(), found, 0.5)
        for row, value in zip(psnr, matched_psnr(images, found).mean(1).tolist(), strict=True):
            row[moment] = round(value, 3)
    return {
        "evaluations": trajectory.evaluations,
        "loss": [[finite(x) for x in row] for row in trajectory.loss.tolist()],
        "psnr": psnr,
        "levels": list(trajectory.levels),
        "passed": [[None if x < 0 else x for x in row] for row in trajectory.passed.tolist()],
    }


def brief(value: float) -> float:
    """Six significant digits: more would be noise in a file that is kept."""
    return float(f"{value:.6g}")


def finite(value: float) -> float | None:
    """JSON has no infinity."""
    return brief(value) if abs(value) < float("inf") else None
