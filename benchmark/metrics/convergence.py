"""Whether an attack has converged: one definition for boards, threshold searches and pages.

An attack that ends far from the update that it was given has failed to fit it. That nothing was found then says nothing
of what the update gives away: a better optimizer, another start or a larger budget may find the image. Where the true
images fit no better than what was found, as for an attacker who does not know of the noise on an update, there was
nothing to converge to, and the attack has done what could be done. But of an attacker who is said to know the defense,
that means that he does not: his model of it is wrong or missing, and again nothing is known.
"""

import math
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:  # readers of records do without torch
    from torch import Tensor

Number = TypeVar("Number", float, "Tensor")

MISFIT = 1e-3
"""Misfit up to which an attack has converged where too few numbers are shared to determine an image: the squared
distance of an image's update from the one that was shared, in parts of that of the public mean image, which owes
nothing to the update. The attacks that stop at a tolerance come to a hundredth of this and less."""

EXACT = 1e-12
"""The same where the true images fit up to rounding. An update can be ill-conditioned, by its network (a frozen first
layer, BatchNorm over one small image) or by its defense (scales of many orders of magnitude, few directions and a small
rest): then attacks end at other images that fit nearly, and a more exact one finds the true ones."""

BEYOND_TRUTH = 10.0
"""How many times the misfit of the true images it may be, of an attacker whose model does not explain the update."""

MISSED = 0.1
"""What an attack may leave, in parts of what the private batch explains beyond the public mean image. Under noise no
image is exact, and one that owes nothing to the update can be nearly as near to it as the private one: an attack that
has made the most of it explains as much as the private batch does, or more, as it explains some of the noise."""

TELLING = 6.0
"""What it may leave for each image beside that, in variances of the noise on an entry: so much the private batch can be
nearer by chance, and one that is no nearer is at most 20 times as likely as the mean image, which tells no image."""

LEGACY_LOSS = 100.0
"""The same for records without a misfit, all of them of LeNet in the published setting: loss in parts of the tolerance,
which there is about 1e-5 of the loss of the public mean image."""

LEGACY_EXACT = ("Clipping", "Masking", "Pruning")
"""The defenses in such records whose true images an attacker who knows them fits exactly."""


def unconverged(victim: dict[str, Any], config: dict[str, Any]) -> bool:
    """Whether nothing is known of a victim of a record, because the attack has failed to fit its update, or was to fit
    another one.

    Args:
        victim: of the record; one that leaks has been found, and one that diverged is told as such.
        config: of its cell.
    """
    if victim["leaked_any"] or victim["status"] == "diverged":
        return False
    if unexplained(victim):
        return True
    if "misfit" not in victim:
        return _of_before(victim, config)
    misfit, of_truth = victim["misfit"], victim["misfit_of_truth"]
    if of_truth is None:  # what was shared, or the attacker's model makes of the truth, is not finite
        return True
    if "settled" in victim and misfit is not None:
        most = most_misfit(of_truth, max(1.0, of_truth), victim.get("misfit_of_noise") or 0.0)
        return not victim["settled"] or (victim.get("explained", False) and misfit > most)
    return misfit is None or misfit > max(EXACT, BEYOND_TRUTH * of_truth)


def most_misfit(of_truth: Number, of_mean: Number, of_noise: Number) -> Number:
    """Largest misfit of what explains as much of the update as the private batch does.

    Args:
        of_truth: misfit of the private batch, which a model of the defense explains, beside noise.
        of_mean: of the public mean image.
        of_noise: what the noise on one entry for each image adds to a misfit; 0 where that is not known.
    """
    return of_truth + MISSED * (of_mean - of_truth) + TELLING * of_noise


def unexplained(victim: dict[str, Any]) -> bool:
    """Whether the attacker's model of the defense does not explain the update even at the true images, of one that he
    found nothing of."""
    return victim.get("explained") is False and not victim["leaked_any"]


def unrecorded(victim: dict[str, Any], config: dict[str, Any]) -> bool:
    """Whether the record of a victim, of whom an attacker who knows the defense found nothing, is too old to tell
    whether the attack has fitted the update: it has no misfit, and its loss decides nothing, however high."""
    if not config["adaptive"] or not victim.get("psnr") or victim["leaked_any"] or victim["status"] == "diverged":
        return False
    decides = victim.get("loss") is not None and unconverged(victim | {"loss": math.inf}, config)
    return "misfit" not in victim and not decides and not unexplained(victim)


def _of_before(victim: dict[str, Any], config: dict[str, Any]) -> bool:
    """The same by the loss, where it is that of the update alone and the attacker's model of the defense is exact."""
    attack, defense = config["attack"], config["defense"]
    is_exact = defense is None or (config["adaptive"] and defense["class"] in LEGACY_EXACT)
    if not is_exact or attack.get("total_variation") or not attack.get("tolerance") or victim.get("loss") is None:
        return False
    return bool(victim["loss"] > LEGACY_LOSS * attack["tolerance"])
