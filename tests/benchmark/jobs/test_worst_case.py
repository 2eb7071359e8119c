"""The worst case of an ensemble, on hand-made images."""

import base64
import io
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback
from PIL import Image
from torch import Tensor

from attacks import Attack, Observation, Reconstruction
from attacks.choice import NOT_TRIED
from benchmark import run
from benchmark.jobs.worst_case import worst_case
from benchmark.store.store import read_all
from datamodules import Digits, take_victims

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


class Several(Attack):
    """An ensemble, which knows the private images: each victim has another pair of statuses and qualities."""

    def reconstruct(self, observation: Observation, callbacks: Sequence[Callback] = ()) -> Reconstruction:
        data = Digits()
        data.setup()
        victims = observation.num_victims
        private = take_victims(data, victims, 1, 0, 1)[0].to(observation.mean_image)

        def part(off: list[float], status: list[str]) -> Reconstruction:
            return Reconstruction(
                images=(private - torch.tensor(off[:victims]).view(-1, 1, 1, 1, 1)).abs(),
                labels=torch.zeros(victims, 1, dtype=torch.long),
                loss=torch.zeros(victims),
                evaluations=torch.ones(victims, dtype=torch.long),
                status=status[:victims],
            )

        near, far = [0.01, 0.4, 0.01, 0.4] * 2, [0.4, 0.01, 0.01, 0.4] * 2
        one = part(near, ["converged"] * 4 + ["diverged"] * 4)
        two = part(far, ["diverged"] * 2 + ["converged"] * 2 + ["converged"] * 4)
        return replace(one, candidates={"one": one, "two": two})


def test_a_record_has_the_status_and_the_picture_of_what_it_scores(
    nothing_of_the_developers: None, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of returned images that diverged, too, where those of another part leaked."""
    cell = {"data": "Digits", "model": "MLP", "attack": Several, "victims": 8, "out": "out"}
    run(**cell)
    (record,) = (one for one in read_all(Path("out")) if one["config"]["attack"]["class"].endswith("Several"))
    assert "damaged" not in capsys.readouterr().err
    victims = record["victims"]
    assert [victim["leaked_any"] for victim in victims] == [True, False, True, False, False, True, True, False]
    assert [victim["part"] for victim in victims if victim["leaked_any"]] == ["one", "one", "two", "two"]
    assert all(victim["status"] == "converged" for victim in victims if victim["leaked_any"])
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(record["picture"]))).convert("L"), dtype=float) / 255
    true, shown_below = (rows.reshape(8, 8, 8).transpose(1, 0, 2) for rows in np.split(pixels, 2))
    errors = ((true - shown_below.clip(0, 1)) ** 2).mean((1, 2))
    # The fifth is of an attack that diverged: near, and yet nothing that it found.
    assert [bool(error < 0.01) for error in errors] == [True, True, True, False, True, True, True, False]
