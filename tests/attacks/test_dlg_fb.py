"""DLG-FB: the blend against the published code's rules in plain Python, and sequences that do not touch each other."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from attacks import DLGFB, IDLG, Observation, Reconstruction
from attacks.dlg_fb import Memory
from attacks.gradient_matching import GradientMatching

MakeVictims = Callable[..., Any]


def published(feedback: str, alpha: float, results: list[tuple[float, bool]]) -> list[float | None]:
    """Starts of one sequence whose attacks find these values with that success; None is noise.

    The rules are those of the published code: two successes from noise fill ``old`` and ``new``; then the blend is
    both the start and the checkpoint, what was found is the next ``new``, and after a failure the checkpoint is.
    """
    filled: list[float] = []
    old = new = 0.0
    failed = False
    starts: list[float | None] = []
    for value, success in results:
        if len(filled) < 2:
            starts.append(None)
            filled += [value] if success else []
            if len(filled) == 2:
                old, new = filled
            continue
        if feedback == "last":
            starts.append(new)
            new = value if success else new
            continue
        if failed and feedback == "blend":
            new, failed = old, False
        else:
            new = alpha * old + (1 - alpha) * new
            old = new
        starts.append(new)
        new = value
        failed = not success
    return starts


@pytest.mark.parametrize("feedback", ["blend", "ungated", "last"])
@pytest.mark.parametrize("alpha", [0.5, 0.25])
def test_the_starts_are_those_of_the_published_rules(feedback: str, alpha: float) -> None:
    generator = torch.Generator().manual_seed(0)
    sequences, length = 40, 12
    values = torch.rand(sequences, length, generator=generator, dtype=torch.float64)
    success = torch.rand(sequences, length, generator=generator) < 0.6
    memory = Memory(feedback, alpha, torch.zeros(sequences, 1, dtype=torch.float64))
    found: list[list[float | None]] = [[] for _ in range(sequences)]
    for step in range(length):
        starts, warm = memory.start(), memory.warm
        for sequence in range(sequences):
            found[sequence].append(float(starts[sequence]) if warm[sequence] else None)
        memory.learn(values[:, step : step + 1], success[:, step])
    for sequence in range(sequences):
        results = list(zip(values[sequence].tolist(), success[sequence].tolist(), strict=True))
        wanted = published(feedback, alpha, results)
        assert [x is None for x in found[sequence]] == [x is None for x in wanted]
        assert [x for x in found[sequence] if x is not None] == pytest.approx([x for x in wanted if x is not None])


def test_a_sequence_of_successes_is_an_average_with_halving_weights() -> None:
    memory = Memory("blend", 0.5, torch.zeros(1, 1))
    for value in (8.0, 4.0, 2.0, 1.0):
        memory.learn(torch.tensor([[value]]), torch.tensor([True]))
    assert float(memory.start()) == 8 / 8 + 4 / 8 + 2 / 4 + 1 / 2


@pytest.fixture
def starts(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """The starts of the attacks inside, which go on as usual."""
    real, seen = IDLG.reconstruct, []

    def reconstruct(
        self: GradientMatching, observation: Observation, callbacks: Sequence[Any] = (), start_images: Any = None
    ) -> Reconstruction:
        seen.append(start_images)
        return real(self, observation, callbacks, start_images)

    monkeypatch.setattr(IDLG, "reconstruct", reconstruct)
    return seen


def test_digits_start_at_the_blend_and_the_warm_up_is_the_attack_from_noise(
    victims_of: MakeVictims, starts: list[Tensor]
) -> None:
    seen = victims_of(8).observation
    found = DLGFB(length=4, max_evaluations=400).reconstruct(seen)
    plain = IDLG(max_evaluations=400).reconstruct(seen)
    assert found.starts[:4] == ["warm-up", "warm-up", "blend", "blend"]
    assert found.starts[4:] == ["warm-up", "warm-up", "warm-up", "blend"]  # one of these three attacks fails
    for row in (0, 1, 4, 5, 6):
        assert found.evaluations[row] == plain.evaluations[row]
        torch.testing.assert_close(found.images[row], plain.images[row])
    blend = (found.images[0] + found.images[1]) / 2
    torch.testing.assert_close(starts[2][0], blend)
    torch.testing.assert_close(starts[3][0], (blend + found.images[2]) / 2)
    first, second = (row for row in (4, 5, 6) if found.loss[row] <= 0.03)
    torch.testing.assert_close(starts[3][1], (found.images[first] + found.images[second]) / 2)


@pytest.mark.parametrize("feedback", ["blend", "ungated", "last"])
def test_sequences_do_not_touch_each_other(victims_of: MakeVictims, feedback: str) -> None:
    seen = victims_of(8, dtype=torch.float64).observation
    attack = DLGFB(length=4, feedback=feedback, max_evaluations=30, gate=1.0)
    together = attack.reconstruct(seen)
    alone = attack.reconstruct(seen.take(range(4, 8)))
    assert together.starts[4:] == alone.starts
    torch.testing.assert_close(together.images[4:], alone.images, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(together.loss[4:], alone.loss, rtol=1e-5, atol=1e-12)
    assert together.trajectory is not None and alone.trajectory is not None
    assert together.trajectory.passed[4:].equal(alone.trajectory.passed)


def test_a_failure_starts_again_at_the_last_start(victims_of: MakeVictims, starts: list[Tensor]) -> None:
    """The third and fourth victims sent an update that no image has: two failures, and then a blend again."""
    observation = victims_of(6).observation
    for update in observation.update.values():
        update[2:4] += 1.0
    attack = DLGFB(length=6, max_evaluations=100, gate=1e-3)
    found = attack.reconstruct(observation)
    assert found.starts == ["warm-up", "warm-up", "blend", "checkpoint", "checkpoint", "blend"]
    assert (found.loss > attack.gate).tolist() == [False, False, True, True, False, False]
    torch.testing.assert_close(starts[2], (found.images[[0]] + found.images[[1]]) / 2)
    torch.testing.assert_close(starts[3], starts[2])
    torch.testing.assert_close(starts[4], starts[2])
    torch.testing.assert_close(starts[5], (starts[4] + found.images[[4]]) / 2)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"attack": "RGAP"}, "attack is 'RGAP', but must be one of DLG, IDLG"),
        ({"feedback": "mean"}, "feedback is 'mean', but must be one of blend, ungated, last"),
        ({"length": 2}, "length is 2, but must be at least 3"),
        ({"alpha": 1.5}, "alpha is 1.5, but must be from 0 to 1"),
        ({"gate": 0.0}, "gate is 0.0, but must be above 0"),
        ({"max_evaluations": 0}, "max_evaluations is 0, but must be at least 1"),
    ],
)
def test_an_argument_out_of_range_is_told(args: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DLGFB(**args)


def test_victims_that_are_no_whole_number_of_sequences_are_refused(victims_of: MakeVictims) -> None:
    with pytest.raises(ValueError, match="5 victims are no whole number of sequences of 4"):
        DLGFB(length=4).reconstruct(victims_of(5).observation)
