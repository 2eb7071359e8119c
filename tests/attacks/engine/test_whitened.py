"""An optimizer in whitened coordinates, against torch's own in these coordinates, problem by problem."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from attacks.engine.batch_adam import BatchAdam
from attacks.engine.batch_lbfgs import BatchLBFGS
from attacks.engine.slots import rearrange
from attacks.engine.whitened import Whitened

IMAGES, VALUES = 2, 6
SHAPE = (IMAGES, 1, 2, 3)
DRAW = torch.Generator().manual_seed(5)
ROOT = torch.linalg.cholesky(torch.cov(torch.randn(VALUES, 40, generator=DRAW, dtype=torch.double)))
STARTS = torch.rand(5, *SHAPE, generator=DRAW, dtype=torch.double)
LABELS = torch.randn(5, IMAGES, 3, generator=DRAW, dtype=torch.double)
TARGETS = torch.rand(5, *SHAPE, generator=DRAW, dtype=torch.double)


def losses(images: Tensor, labels: Tensor, problems: list[int]) -> Tensor:
    off = (images - TARGETS[problems]).flatten(1)
    return off.cosh().log().sum(1) + off.square().sum(1) / 9 + (labels.flatten(1).square().sum(1) - 1).square()


def torch_path(problem: int, steps: int, make: Callable[[list[Tensor]], torch.optim.Optimizer]) -> tuple[Tensor, ...]:
    """Where torch's optimizer of z and labels is after so many steps; images are where they start plus L z."""
    z = torch.zeros(IMAGES, VALUES, dtype=torch.double, requires_grad=True)
    labels = LABELS[problem].clone().requires_grad_()
    optimizer = make([z, labels])

    def images() -> Tensor:
        return STARTS[problem] + (z @ ROOT.T).view(SHAPE)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = losses(images()[None], labels[None], [problem])[0]
        loss.backward()
        return loss

    for _ in range(steps):
        optimizer.step(closure)
    return images().detach(), labels.detach()


@pytest.mark.parametrize("kind", ["lbfgs", "adam"])
def test_each_problem_follows_torch_in_whitened_coordinates_whoever_leaves_and_enters(kind: str) -> None:
    def ours(params: list[Tensor]) -> Whitened:
        made = {"lbfgs": lambda z: BatchLBFGS(z, tolerance_change=0.0), "adam": BatchAdam}
        return Whitened(params, ROOT, made[kind])

    def theirs(params: list[Tensor]) -> torch.optim.Optimizer:
        if kind == "adam":
            return torch.optim.Adam(params, lr=0.1)
        return torch.optim.LBFGS(params, lr=1, max_iter=1, tolerance_change=0)

    problems, taken = [0, 1, 2], dict.fromkeys(range(5), 0)
    images = torch.nn.Parameter(STARTS[:3].clone())
    labels = torch.nn.Parameter(LABELS[:3].clone())
    optimizer = ours([images, labels])

    def closure() -> Tensor:
        optimizer.zero_grad()
        found = losses(images, labels, problems)
        found.sum().backward()
        return found

    def run(steps: int) -> None:
        for _ in range(steps):
            optimizer.step(closure)
        for problem in problems:
            taken[problem] += steps
        for row, problem in enumerate(problems):
            wanted = torch_path(problem, taken[problem], theirs)
            for found, of_torch in zip((images, labels), wanted, strict=True):
                torch.testing.assert_close(found.detach()[row], of_torch, rtol=1e-7, atol=1e-7)

    run(6)
    rows, problems = [2, -1, 1, -1], [2, 3, 1, 4]  # problem 0 has left, 3 and 4 enter
    for parameter, first in ((images, STARTS), (labels, LABELS)):
        parameter.data, parameter.grad = rearrange(parameter.data, rows, first[[3, 4]]), None
    optimizer.reindex(rows)
    run(5)
    assert not optimizer.stalled.any() and not optimizer.on_trial.any() and len(optimizer.stalled) == 4
