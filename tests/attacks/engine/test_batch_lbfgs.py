"""BatchLBFGS against torch.optim.LBFGS, in float64."""

from collections.abc import Callable
from functools import cache

import pytest
import torch
from torch import Tensor

from attacks.engine.batch_lbfgs import BatchLBFGS
from attacks.network.gradients import batch_gradients, squared_distance
from benchmark.models import LeNet

Objective = Callable[[Tensor, Tensor], Tensor]
"""points ``[V, D]`` and problem numbers ``[V]`` -> losses ``[V]``"""


def quadratic(points: Tensor, problems: Tensor) -> Tensor:
    scales = torch.logspace(-4, 0, points.shape[1], dtype=points.dtype)
    return (scales * (points - problems[:, None]) ** 2).sum(1)


def rosenbrock(points: Tensor, problems: Tensor) -> Tensor:
    x, y = points[:, :-1], points[:, 1:]
    return (0.01 * (100 * (y - x**2) ** 2 + (1 - x) ** 2)).sum(1) * (1 + problems)


def lenet(points: Tensor, problems: Tensor) -> Tensor:
    model, parameters, labels, target = clients(tuple(problems.tolist()))
    dummy = batch_gradients(model, parameters, points.view(-1, 1, 1, 8, 8), labels, create_graph=True)
    return squared_distance(dummy, target)


@cache
def clients(problems: tuple[float, ...]) -> tuple[LeNet, dict[str, Tensor], Tensor, dict[str, Tensor]]:
    """The network of some problems, its weights, the labels and the gradients that are to be matched."""
    model = LeNet((1, 8, 8), 10).double()
    parameters, batches = {}, []
    for problem in problems:
        generator = torch.Generator().manual_seed(int(problem))
        for name, value in model.named_parameters():
            draw = torch.rand(value.shape, generator=generator, dtype=torch.float64) - 0.5
            parameters.setdefault(name, []).append(draw)
        batches.append(torch.rand(1, 1, 8, 8, generator=generator, dtype=torch.float64))
    stacked = {name: torch.stack(values) for name, values in parameters.items()}
    labels = torch.eye(10, dtype=torch.float64)[3].expand(len(problems), 1, 10)
    target = batch_gradients(model, stacked, torch.stack(batches), labels, create_graph=False)
    return model, stacked, labels, target


OBJECTIVES: dict[str, tuple[Objective, int, int]] = {  # dimensions, steps
    "quadratic": (quadratic, 30, 60),
    "rosenbrock": (rosenbrock, 2, 60),
    "lenet": (lenet, 64, 60),
}


def start(problem: int, dimensions: int) -> Tensor:
    generator = torch.Generator().manual_seed(100 + problem)
    return 0.3 * torch.randn(dimensions, generator=generator, dtype=torch.float64)


def torch_path(
    objective: Objective, problem: int, dimensions: int, steps: int, history: int = 100, search: bool = False
) -> list[float]:
    """The losses of torch's own optimizer: as published, 20 evaluations in a step, or all with its line search."""
    point = start(problem, dimensions)[None].requires_grad_()
    optimizer = torch.optim.LBFGS(
        [point],
        lr=1,
        max_iter=steps if search else 20,
        max_eval=2 * steps if search else None,
        history_size=history,
        tolerance_change=0,
        line_search_fn="strong_wolfe" if search else None,
    )
    losses: list[float] = []

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = objective(point, torch.tensor([float(problem)])).sum()
        loss.backward()
        losses.append(loss.item())
        return loss

    while len(losses) < steps:
        before = len(losses)
        optimizer.step(closure)
        if len(losses) == before + 1:  # nothing moved: it has stalled
            break
    return losses[:steps]


def batch_path(
    objective: Objective, problems: list[int], dimensions: int, steps: int, history: int = 100, search: bool = False
) -> tuple[list[list[float]], Tensor]:
    points = torch.stack([start(p, dimensions) for p in problems]).requires_grad_()
    optimizer = BatchLBFGS([points], history_size=history, tolerance_change=0, line_search=search)
    paths: list[list[float]] = []

    def closure() -> Tensor:
        optimizer.zero_grad()
        losses = objective(points, torch.tensor(problems, dtype=torch.float64))
        losses.sum().backward()
        return losses.detach()

    for _ in range(steps):
        paths.append(optimizer.step(closure).tolist())
    return [list(path) for path in zip(*paths, strict=True)], points.detach()


def steep(points: Tensor, problems: Tensor) -> Tensor:
    """A narrow well, 10,000 deep, in a plain that is flat far away."""
    scales = torch.logspace(-1, 1, points.shape[1], dtype=points.dtype)
    return 1e4 * (1 - torch.exp(-(scales * (points - 0.1 * problems[:, None]).square()).sum(1)))


OBJECTIVES["steep"] = (steep, 5, 40)


@pytest.mark.parametrize("name", ["quadratic", "rosenbrock", "lenet"])
@pytest.mark.parametrize("history", [100, 7])
def test_one_problem_follows_torch(name: str, history: int) -> None:
    objective, dimensions, steps = OBJECTIVES[name]
    expected = torch_path(objective, 1, dimensions, steps, history)
    (found,), _ = batch_path(objective, [1], dimensions, steps, history)
    # A stalled problem stays where it is, where torch evaluates it again.
    assert len(expected) >= 50
    assert found[: len(expected)] == pytest.approx(expected, rel=1e-6, abs=1e-12)


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("history", [100, 7])
def test_every_problem_follows_the_line_search_of_torch(name: str, history: int) -> None:
    objective, dimensions, steps = OBJECTIVES[name]
    together, _ = batch_path(objective, [1, 0, 3, 2], dimensions, steps, history, search=True)
    for problem, found in zip([1, 0, 3, 2], together, strict=True):
        expected = torch_path(objective, problem, dimensions, steps, history, search=True)
        # It ends where torch cannot go on either; rounding has a say in how a bracket is narrowed around the minimum.
        same = next((at for at, loss in enumerate(expected) if loss < 1e-7 * expected[0]), len(expected))
        assert same >= 10
        assert found[:same] == pytest.approx(expected[:same], rel=1e-5, abs=1e-12)


@pytest.mark.parametrize("search", [False, True])
@pytest.mark.parametrize("name", ["quadratic", "rosenbrock", "lenet"])
def test_many_problems_follow_their_own_runs(name: str, search: bool) -> None:
    objective, dimensions, steps = OBJECTIVES[name]
    together, _ = batch_path(objective, [4, 0, 2, 1], dimensions, steps, search=search)
    for problem, path in zip([4, 0, 2, 1], together, strict=True):
        (alone,), _ = batch_path(objective, [problem], dimensions, steps, search=search)
        assert path == pytest.approx(alone, rel=1e-6, abs=1e-12)


def test_a_line_search_comes_back_from_where_the_loss_is_not_a_number() -> None:
    points = torch.tensor([[3.0], [0.5]], dtype=torch.float64, requires_grad=True)
    optimizer = BatchLBFGS([points], line_search=True)

    def closure() -> Tensor:
        optimizer.zero_grad()
        losses = (1000 * (points - 4).square() - points.sqrt()).sum(1)  # NaN below 0
        losses.sum().backward()
        return losses.detach()

    lowest = torch.full((2,), torch.inf, dtype=torch.float64)
    for _ in range(60):
        lowest = torch.fmin(lowest, optimizer.step(closure))
    assert lowest.tolist() == pytest.approx([-2.0, -2.0], abs=1e-3)


@pytest.mark.parametrize("search", [False, True])
def test_a_problem_that_enters_late_follows_its_own_run(search: bool) -> None:
    points = torch.stack([start(p, 2) for p in (0, 1)]).requires_grad_()
    problems = torch.tensor([0.0, 1.0], dtype=torch.float64)
    optimizer = BatchLBFGS([points], tolerance_change=0, line_search=search)

    def closure() -> Tensor:
        optimizer.zero_grad()
        losses = rosenbrock(points, problems)
        losses.sum().backward()
        return losses.detach()

    for _ in range(9):
        optimizer.step(closure)
    points.data = torch.stack([points.detach()[1], start(5, 2)])
    problems = torch.tensor([1.0, 5.0], dtype=torch.float64)
    optimizer.reindex([1, -1])
    path = torch.stack([optimizer.step(closure) for _ in range(30)])
    (first,), _ = batch_path(rosenbrock, [1], 2, 39, search=search)
    (second,), _ = batch_path(rosenbrock, [5], 2, 30, search=search)
    assert path[:, 0].tolist() == pytest.approx(first[9:], rel=1e-6, abs=1e-12)
    assert path[:, 1].tolist() == pytest.approx(second, rel=1e-6, abs=1e-12)


def test_a_problem_without_descent_stalls_and_the_others_go_on() -> None:
    points = torch.tensor([[0.0, 0.0], [1.0, 2.0]], dtype=torch.float64, requires_grad=True)
    optimizer = BatchLBFGS([points])

    def closure() -> Tensor:
        optimizer.zero_grad()
        losses = (points**4).sum(1)
        losses.sum().backward()
        return losses.detach()

    for _ in range(3):
        optimizer.step(closure)
    assert optimizer.stalled.tolist() == [True, False]
    assert points[0].tolist() == [0.0, 0.0]


def test_a_problem_that_becomes_nan_leaves_the_others_as_they_are() -> None:
    points = torch.tensor([[1.0, 2.0], [1.0, 2.0]], dtype=torch.float64, requires_grad=True)
    optimizer = BatchLBFGS([points])
    weight = torch.tensor([1.0, 1.0], dtype=torch.float64)

    def closure() -> Tensor:
        optimizer.zero_grad()
        losses = weight * (torch.tensor([1.0, 3.0]) * points**2).sum(1)
        losses.sum().backward()
        return losses.detach()

    optimizer.step(closure)
    weight[0] = torch.nan
    for _ in range(20):
        losses = optimizer.step(closure)
    assert losses[0].isnan()
    assert losses[1] < 1e-9
