"""The worst case of an ensemble, on hand-made images."""

import random
from dataclasses import replace

import pytest
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


@pytest.mark.parametrize("seed", range(10))
def test_the_worst_case_is_below_none_of_the_parts(seed: int) -> None:
    draw = random.Random(seed)
    statuses = ("converged", "exhausted", "diverged", NOT_TRIED)

    def drawn() -> Reconstruction:
        off = [[draw.choice((0.01, 0.05, 0.09, 0.11, 0.3)) for _ in range(2)] for _ in range(3)]
        return found(off, [draw.choice(statuses) for _ in range(3)])

    every = {"first": found([[0.4, 0.4]] * 3)} | {name: drawn() for name in "abcd"}
    worst, parts = worst_case(replace(every["a"], candidates=every), IMAGES, NULL)
    assert parts is not None
    for row in range(3):
        tried = {name: one for name, one in every.items() if one.status[row] != NOT_TRIED}

        def leaks(one: Reconstruction, row: int = row) -> int:
            """Images within 0.1, which are 20 dB."""
            return 0 if one.status[row] == "diverged" else int((shown(one)[row].abs() < 0.1).sum())

        assert leaks(worst) == max(map(leaks, tried.values())) == leaks(every[parts.names[row]])
        assert parts.leaked[row] == {name: leaks(one) > 0 for name, one in tried.items()}
        assert (leaks(worst) > 0) == any(parts.leaked[row].values()) >= bool(parts.returned_leaked[row].any())


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
