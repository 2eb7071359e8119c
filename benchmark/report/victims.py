"""The best, the median and the worst victim of a cell, with their images where the records hold them."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from benchmark.boards.outcome import Outcome


@dataclass(frozen=True)
class Shown:
    """A victim whose images are shown.

    Attributes:
        which: "best", "median" or "worst", for the attacker.
        index: number of the victim.
        psnr: in dB, of the image in the picture that was found best.
        leaked: whether an image leaked.
        images: how many stand beside each other in a picture.
        true: private images, a PNG in base64.
        found: their reconstructions.
    """

    which: str
    index: int
    psnr: float
    leaked: bool
    images: int
    true: str
    found: str


def pictured_scores(victim: dict[str, Any]) -> tuple[float, bool]:
    """The PSNR of the best image in the picture of a victim, and whether one leaked.

    The picture of an ensemble is what it returned, and not the worst case over its attacks, which its other scores are
    of.
    """
    of: dict[str, Any] = victim.get("returned", victim)
    return max(of["psnr"]), bool(of["leaked_any"])


def ranked(victims: Sequence[dict[str, Any]]) -> list[tuple[str, dict[str, Any]]]:
    """The best, the median and the worst victim by PSNR, each once."""
    order = sorted(victims, key=lambda victim: (-pictured_scores(victim)[0], victim["index"]))
    if not order:
        return []
    places = {"best": 0, "worst": len(order) - 1, "median": (len(order) - 1) // 2}
    taken: dict[int, str] = {}
    for which, place in places.items():
        taken.setdefault(place, which)
    return [(taken[place], order[place]) for place in sorted(taken)]


@lru_cache(maxsize=64)
def columns(picture: str) -> int:
    """How many images stand beside each other in the picture of a record; 0 where it cannot be read."""
    from benchmark.jobs.pictures import columns_of  # torch

    return columns_of(picture)


def pictured(outcome: Outcome) -> dict[int, tuple[str, int, int]]:
    """The victims of a cell whose images the records hold.

    Returns:
        By the victims' numbers: the strip of the record, the first image in it and how many of the victim's there are.
    """
    found: dict[int, tuple[str, int, int]] = {}
    for record in outcome.records:
        if not record.get("picture"):
            continue
        images_beside, batch = columns(record["picture"]), record["config"]["batch_size"]
        of_record: list[dict[str, Any]] = record["victims"]
        for place, victim in enumerate(of_record):
            images = min(batch, images_beside - place * batch)
            # A victim that another record counts for has other images in this one.
            if images > 0 and victim["psnr"] and outcome.victims.get(victim["index"]) is victim:
                found[victim["index"]] = record["picture"], place * batch, images
    return found


def shown(outcome: Outcome) -> list[Shown]:
    """The best, median and worst of the victims whose images the records hold; none where they hold none."""
    from benchmark.jobs.pictures import cut

    strips = pictured(outcome)
    found = []
    for which, victim in ranked([outcome.victims[index] for index in sorted(strips)]):
        picture, first, images = strips[victim["index"]]
        true, guess = (base64.b64encode(png).decode() for png in cut(picture, first, images))
        found.append(Shown(which, victim["index"], *pictured_scores(victim), images, true, guess))
    return found
