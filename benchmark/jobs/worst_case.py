"""Of an ensemble of attacks, what the private images make of each: who needs no further attack, and the worst case."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from attacks import Observation, Reconstruction
from attacks.choice import NOT_TRIED
from benchmark.metrics.leak import leaked
from benchmark.metrics.scores import matched_psnr


@dataclass(frozen=True)
class Known:
    """Spares a victim further attacks of whom all images have leaked, as no other attack could find more.

    Args:
        images: private batches ``[V, N, C, H, W]``.
        null_psnr: of the best null baseline, ``[V, N]``.
        seeds: of the victims' attackers, by which they are known.
    """

    images: Tensor
    null_psnr: Tensor
    seeds: Sequence[int]

    def __call__(self, observation: Observation, found: Reconstruction) -> list[bool]:
        rows = [self.seeds.index(seed) for seed in observation.seeds]
        return has_leaked(found, self.images[rows], self.null_psnr[rows]).all(1).tolist()


@dataclass(frozen=True)
class Parts:
    """What each attack of an ensemble has found.

    Attributes:
        names: for each victim the attack whose images are the worst case.
        leaked: for each victim, by the names of the attacks that were tried on it, whether an image has leaked.
        returned_psnr: of the images that the ensemble returns, ``[V, N]``.
        returned_leaked: whether they have leaked, ``[V, N]``.
    """

    names: list[str]
    leaked: list[dict[str, bool]]
    returned_psnr: Tensor
    returned_leaked: Tensor

    def of(self, row: int) -> dict[str, object]:
        """Of one victim, as in a record."""
        return {
            "part": self.names[row],
            "parts": self.leaked[row],
            "returned": {
                "psnr": [float(f"{value:.6g}") for value in self.returned_psnr[row].tolist()],
                "leaked_any": bool(self.returned_leaked[row].any()),
            },
        }


def worst_case(found: Reconstruction, images: Tensor, null_psnr: Tensor) -> tuple[Reconstruction, Parts | None]:
    """Of an ensemble the images of which most have leaked, of each victim, or else those with the highest mean PSNR.

    An attacker cannot choose so: this is what a defense must withstand.

    Args:
        found: by an attack of any kind.
        images: private batches ``[V, N, C, H, W]``.
        null_psnr: of the best null baseline, ``[V, N]``.

    Returns:
        What was found, of an ensemble with the images, labels, status and certificates of its worst case.
    """
    if not found.candidates:
        return found, None
    names, every = list(found.candidates), list(found.candidates.values())
    tried = torch.tensor([[status != NOT_TRIED for status in one.status] for one in every])
    leaks = torch.stack([has_leaked(one, images, null_psnr) for one in every])  # [P, V, N]
    means = torch.stack([psnr_of(one, images, null_psnr).mean(1) for one in every])
    order = torch.where(tried, leaks.sum(2) * 1000 + means, -1.0)
    chosen = order.argmax(0).tolist()
    certified = None
    if found.certified is not None:
        none = torch.zeros_like(found.certified)
        of_parts = [none if one.certified is None else one.certified for one in every]
        certified = torch.stack([of_parts[part][row] for row, part in enumerate(chosen)])
    worst = replace(
        found,
        images=torch.stack([every[part].images[row] for row, part in enumerate(chosen)]),
        labels=torch.stack([every[part].labels[row] for row, part in enumerate(chosen)]),
        status=[every[part].status[row] for row, part in enumerate(chosen)],
        certified=certified,
        candidates={},
    )
    of_victims = [
        {name: bool(leaks[part, row].any()) for part, name in enumerate(names) if tried[part, row]}
        for row in range(len(images))
    ]
    returned = has_leaked(found, images, null_psnr)
    return worst, Parts([names[part] for part in chosen], of_victims, psnr_of(found, images, null_psnr), returned)


def has_leaked(found: Reconstruction, images: Tensor, null_psnr: Tensor) -> Tensor:
    """Whether each private image has leaked, ``[V, N]``; to a diverged attack none has."""
    diverged = torch.tensor([status in ("diverged", NOT_TRIED) for status in found.status])
    return leaked(psnr_of(found, images, null_psnr), null_psnr) & ~diverged[:, None]


def psnr_of(found: Reconstruction, images: Tensor, null_psnr: Tensor) -> Tensor:
    """Of each private image, ``[V, N]``; what is not finite is gray."""
    given = found.images.cpu()
    return matched_psnr(images, torch.where(given.isfinite(), given, 0.5), null_psnr)
