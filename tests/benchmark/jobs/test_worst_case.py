"""The worst case of an ensemble, on hand-made images."""

from dataclasses import replace

import torch
from torch import Tensor

from attacks import Reconstruction
from attacks.autoleak import NOT_TRIED
from benchmark.jobs.worst_case import worst_case

IMAGES = torch.full((3, 2, 1, 4, 4), 0.5)
NULL = torch.full((3, 2), 15.0)


def found(off: list[list[float]], status: list[str] | None = None) -> Reconstruction:
    """Images that are off by so much in each pixel."""
    errors = torch.tensor(off)[..., None, None, None]
    return Reconstruction(
        images=IMAGES + errors,
        labels=torch.zeros(3, 2, dtype=torch.long),
        loss=torch.zeros(3),
        evaluations=torch.ones(3, dtype=torch.long),
        status=status or ["converged"] * 3,
    )


def shown(worst: Reconstruction) -> Tensor:
    return (worst.images - IMAGES)[:, :, 0, 0, 0]


def test_the_worst_case_has_most_leaked_images_and_then_the_highest_psnr() -> None:
    many = found([[0.05, 0.05], [0.3, 0.3], [0.01, 0.4]])
    few = found([[0.001, 0.3], [0.2, 0.2], [0.05, 0.05]])
    returned = replace(few, starts=["few"] * 3, candidates={"many": many, "few": few})
    worst, parts = worst_case(returned, IMAGES, NULL)
    assert parts is not None and parts.names == ["many", "few", "few"]
    torch.testing.assert_close(shown(worst), torch.tensor([[0.05, 0.05], [0.2, 0.2], [0.05, 0.05]]))
    assert parts.leaked[0] == {"many": True, "few": True} and parts.leaked[1] == {"many": False, "few": False}
    assert parts.returned_leaked.tolist() == [[True, False], [False, False], [True, True]]
    assert parts.of(1)["returned"] == {"psnr": [13.9794, 13.9794], "leaked_any": False}


def test_to_what_diverged_or_was_not_tried_nothing_leaks() -> None:
    near, far = [[0.001, 0.001]] * 3, [[0.2, 0.2]] * 3
    bad = found(near, ["diverged", NOT_TRIED, "converged"])
    worst, parts = worst_case(replace(found(far), candidates={"bad": bad, "far": found(far)}), IMAGES, NULL)
    assert parts is not None
    assert parts.leaked == [{"bad": False, "far": False}, {"far": False}, {"bad": True, "far": False}]
    assert parts.names[1:] == ["far", "bad"] and worst.status == ["diverged", "converged", "converged"]


def test_what_is_no_ensemble_is_its_own_worst_case() -> None:
    one = found([[0.1, 0.1]] * 3)
    assert worst_case(one, IMAGES, NULL) == (one, None)
