"""BatchAdam against torch.optim.Adam and against a plain loop, in float64."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from attacks.engine.batch_adam import BatchAdam, Cosine

STEPS = 40


def start(problem: int) -> list[Tensor]:
    """Two parameters of one problem, of which the first is in [0, 1] or near it."""
    generator = torch.Generator().manual_seed(problem)
    return [torch.rand(2, 3, generator=generator).double() * 1.2 - 0.1, torch.randn(4, generator=generator).double()]


def loss(parts: list[Tensor], problem: Tensor) -> Tensor:
    """Of one problem, whose gradients are of all sizes."""
    flat = torch.cat([part.flatten() for part in parts])
    scales = torch.logspace(-6, 3, len(flat), dtype=torch.float64)
    return (scales * (flat - torch.cos(problem + torch.arange(len(flat)))).square()).sum() + (flat[0] * flat[-1]).sin()


def torch_path(problem: int, steps: int, lr: float = 0.1, **options: Any) -> Tensor:
    """Where torch's own optimizer is after each step."""
    params = [part.requires_grad_() for part in start(problem)]
    optimizer = torch.optim.Adam(params, lr=lr, **options)
    path = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss(params, torch.tensor(float(problem), dtype=torch.float64)).backward()
        optimizer.step()
        path.append(torch.cat([part.detach().flatten() for part in params]))
    return torch.stack(path)


def plain_path(problem: int, steps: int, milestones: list[int], sign: bool, box: bool) -> Tensor:
    """Adam written out for one number after the other, with what Geiping et al. add."""
    shapes = [part.shape for part in start(problem)]
    x = [float(v) for part in start(problem) for v in part.flatten()]
    mean, square = [0.0] * len(x), [0.0] * len(x)
    path = []
    for step in range(1, steps + 1):
        parts = [
            p.view(s).requires_grad_()
            for p, s in zip(torch.tensor(x, dtype=torch.float64).split([6, 4]), shapes, strict=True)
        ]
        slopes = torch.autograd.grad(loss(parts, torch.tensor(float(problem), dtype=torch.float64)), parts)
        rate = 0.1 * 0.5 ** sum(step > milestone for milestone in milestones)
        for i, g in enumerate(torch.cat([slope.flatten() for slope in slopes]).tolist()):
            g = math.copysign(1.0, g) if sign and g else g
            mean[i] = 0.9 * mean[i] + 0.1 * g
            square[i] = 0.999 * square[i] + 0.001 * g * g
            x[i] -= rate * mean[i] / (1 - 0.9**step) / (math.sqrt(square[i] / (1 - 0.999**step)) + 1e-8)
            x[i] = min(max(x[i], 0.0), 1.0) if box and i < 6 else x[i]
        path.append(list(x))
    return torch.tensor(path, dtype=torch.float64)


class Batch:
    """Problems, one in each row, that are moved together."""

    def __init__(self, problems: list[int], **options: Any) -> None:
        self.problems = problems
        self.params = [torch.stack(parts).requires_grad_() for parts in zip(*map(start, problems), strict=True)]
        self.optimizer = BatchAdam(self.params, **options)

    def losses(self) -> Tensor:
        self.optimizer.zero_grad()
        numbers = torch.tensor(self.problems, dtype=torch.float64)
        losses = torch.stack([loss([p[row] for p in self.params], n) for row, n in enumerate(numbers)])
        losses.sum().backward()
        return losses

    def path(self, steps: int) -> Tensor:
        """Where all problems are after each step, ``[steps, V, D]``."""
        found = []
        for _ in range(steps):
            self.optimizer.step(self.losses)
            found.append(torch.cat([p.detach().flatten(1) for p in self.params], 1))
        return torch.stack(found)

    def replace(self, rows: list[int], problems: list[int]) -> None:
        """Row i is the former row ``rows[i]``, or a new problem where that is -1."""
        for place, p in enumerate(self.params):
            of_rows = [p.detach()[row] if row >= 0 else start(n)[place] for row, n in zip(rows, problems, strict=True)]
            p.data = torch.stack(of_rows)
        self.problems = problems
        self.optimizer.reindex(rows)


@pytest.mark.parametrize("options", [{}, {"lr": 0.01, "betas": (0.5, 0.9), "eps": 1e-3}])
def test_each_problem_is_that_of_torch(options: dict[str, Any]) -> None:
    together = Batch([3, 0, 7], **options).path(STEPS)
    for row, problem in enumerate([3, 0, 7]):
        torch.testing.assert_close(together[:, row], torch_path(problem, STEPS, **options), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("sign", [False, True])
@pytest.mark.parametrize("box", [False, True])
def test_each_problem_with_sign_decay_and_box_is_that_of_a_plain_loop(sign: bool, box: bool) -> None:
    together = Batch([1, 4], sign=sign, milestones=[20, 8], decay=0.5, box=box).path(30)
    for row, problem in enumerate([1, 4]):
        expected = plain_path(problem, 30, [8, 20], sign, box)
        torch.testing.assert_close(together[:, row], expected, rtol=1e-12, atol=1e-12)
    images = together[..., :6]
    assert bool(((images >= 0) & (images <= 1)).all()) == box


def test_the_decay_is_that_of_the_scheduler_of_torch() -> None:
    params = [part.requires_grad_() for part in start(2)]
    optimizer = torch.optim.Adam(params, lr=0.1)
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [3, 7], gamma=0.1)
    for _ in range(12):
        optimizer.zero_grad()
        loss(params, torch.tensor(2.0, dtype=torch.float64)).backward()
        optimizer.step()
        scheduler.step()
    found = Batch([2], milestones=[3, 7]).path(12)[-1, 0]
    torch.testing.assert_close(found, torch.cat([p.detach().flatten() for p in params]), rtol=1e-12, atol=1e-12)


def test_a_problem_that_enters_late_has_its_own_steps_and_disturbs_no_other() -> None:
    options = {"milestones": [6, 12], "sign": True}
    batch = Batch([0, 1, 2], **options)
    before = batch.path(9)
    batch.replace([2, -1], [2, 5])  # row 2 moves to row 0, a new problem takes row 1
    after = batch.path(15)
    alone = {problem: Batch([problem], **options).path(24)[:, 0] for problem in (2, 5)}
    torch.testing.assert_close(torch.cat([before[:, 2], after[:, 0]]), alone[2], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(after[:, 1], alone[5][:15], rtol=1e-12, atol=1e-12)


def test_a_problem_that_becomes_nan_leaves_the_others_as_they_are() -> None:
    batch = Batch([0, 1])
    with torch.no_grad():
        batch.params[0][0, 0] = torch.nan
    found = batch.path(5)
    assert found[:, 0].isnan().any() and torch.equal(found[:, 1], Batch([9, 1]).path(5)[:, 1])
    assert not batch.optimizer.stalled.any() and not batch.optimizer.on_trial.any()


def test_a_schedule_is_that_of_torchs_lambda_for_each_problem_by_its_own_steps() -> None:
    schedule, generator = Cosine(12, 3), torch.Generator().manual_seed(0)
    goals = torch.randn(2, 4, generator=generator, dtype=torch.float64)
    together = torch.zeros(2, 4, dtype=torch.float64, requires_grad=True)
    rows = BatchAdam([together], 0.3, schedule=schedule)
    alone = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    adam = torch.optim.Adam([alone], lr=0.3)

    def factor(step: int) -> float:
        return (step + 1) / 4 if step < 3 else (1 + math.cos(math.pi * (step - 3) / 9)) / 2

    plan = torch.optim.lr_scheduler.LambdaLR(adam, factor)
    for step in range(12):
        together.grad = 2 * (together.detach() - goals)
        rows.step(lambda: torch.zeros(2))
        alone.grad = 2 * (alone.detach() - goals[1])
        adam.step()
        plan.step()
        torch.testing.assert_close(together[1].detach(), alone.detach(), rtol=1e-12, atol=1e-12)
        assert float(schedule(torch.tensor([float(step)]))[0]) == pytest.approx(factor(step))
