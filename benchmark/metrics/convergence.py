"""Whether an attack has converged: one definition for boards, threshold searches and pages.

An attack that ends far from the update that it was given has failed to fit it. That nothing was found then says nothing
of what the update gives away: a better optimizer, another start or a larger budget may find the image. Where the true
images fit no better than what was found, as for an attacker who does not know of the noise on an update, there was
nothing to converge to, and the attack has done what could be done. But of an attacker who is said to know the defense,
that means that he does not: his model of it is wrong or missing, and again nothing is known.
"""

from typing import Any

MISFIT = 1e-3
"""Misfit above which an attack has not converged: the squared distance of an image's update from the one that was
shared, in parts of that of the public mean image, which owes nothing to the update. The attacks that stop at a
tolerance come to a hundredth of this and less."""

EXACT = 1e-9
"""The same without a defense, where the true images fit up to rounding (1e-11 in float32). Where a network is
ill-conditioned, as with a frozen first layer or BatchNorm over one small image, attacks end between the two, at other
images: a more exact attack still finds the true ones."""

BEYOND_TRUTH = 10.0
"""How many times the misfit of the true images it must be, too."""

LEGACY_LOSS = 100.0
"""The same for records without a misfit, all of them of LeNet in the published setting: loss in parts of the tolerance,
which there is about 1e-5 of the loss of the public mean image."""

LEGACY_EXACT = ("Clipping", "Masking", "Pruning")
"""The defenses in such records whose true images an attacker who knows them fits exactly."""


def unconverged(victim: dict[str, Any], config: dict[str, Any], exactly: bool = False) -> bool:
    """Whether nothing is known of a victim of a record, because the attack has failed to fit its update, or was to fit
    another one.

    Args:
        victim: of the record; one that leaks has been found, and one that diverged counts as that.
        config: of its cell.
        exactly: whether the fit must be :data:`EXACT` in spite of a defense, since without it the attack ended at other
            images that fit nearly.
    """
    if victim["leaked_any"] or victim["status"] == "diverged":
        return False
    if unexplained(victim):
        return True
    if "misfit" not in victim:
        return _of_before(victim, config)
    misfit, of_truth = victim["misfit"], victim["misfit_of_truth"]
    if of_truth is None:  # the update was not finite
        return False
    limit = EXACT if exactly or config["defense"] is None else MISFIT
    return misfit is None or misfit > max(limit, BEYOND_TRUTH * of_truth)


def looks_alike(victim: dict[str, Any], config: dict[str, Any]) -> bool:
    """Whether an attack ended at other images that fit the update nearly, but not as the true ones do."""
    nearly = victim.get("misfit") is not None and victim["misfit"] <= MISFIT
    return nearly and unconverged(victim, config) and not unexplained(victim)


def unexplained(victim: dict[str, Any]) -> bool:
    """Whether the attacker's model of the defense does not explain the update even at the true images, of one that he
    found nothing of."""
    return victim.get("explained") is False and not victim["leaked_any"]


def _of_before(victim: dict[str, Any], config: dict[str, Any]) -> bool:
    """The same by the loss, where it is that of the update alone and the attacker's model of the defense is exact."""
    attack, defense = config["attack"], config["defense"]
    is_exact = defense is None or (config["adaptive"] and defense["class"] in LEGACY_EXACT)
    if not is_exact or attack.get("total_variation") or not attack.get("tolerance") or victim.get("loss") is None:
        return False
    return bool(victim["loss"] > LEGACY_LOSS * attack["tolerance"])
