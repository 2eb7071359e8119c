"""L-BFGS for many independent problems at once."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from attacks.engine.line_search import Point, Search, strong_wolfe
from attacks.engine.row_optimizer import RowOptimizer

ALIGNED = 16
"""Pairs that are read together: so each of their products is summed up as it is where all are read."""


class BatchLBFGS(RowOptimizer):
    """L-BFGS on V independent problems, each following ``torch.optim.LBFGS`` on its own.

    History, curvature test, first step length and stop rule are kept for each problem. With a line search, a move is
    one to the next point that it wants to see.

    The direction comes from the compact representation of the inverse Hessian (Byrd, Nocedal and Schnabel 1994,
    theorem 2.2): it equals the two-loop recursion, but reads the history twice instead of four times, in two
    matrix products. The small m x m systems are solved in float64.

    Args:
        params: tensors ``[V, ...]``.
        lr: length of each step but the first, which is ``lr * min(1, 1 / |gradient|_1)``.
        history_size: number m of pairs kept.
        tolerance_grad: a problem with no larger gradient entry has stalled.
        tolerance_change: a problem whose directional derivative is above minus this has stalled; with a line search,
            also one of which no entry changes by more.
        line_search: whether the length of a step is searched for, as by torch's "strong_wolfe".
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float = 1.0,
        history_size: int = 100,
        tolerance_grad: float = 1e-7,
        tolerance_change: float = 1e-9,
        line_search: bool = False,
    ) -> None:
        self.history_size = history_size
        self.tolerance_grad = tolerance_grad
        self.tolerance_change = tolerance_change
        self.line_search = line_search
        super().__init__(params, lr)
        self._searches: list[tuple[Search, float] | None] = [None] * len(self._params[0])  # with the next step to see
        self._directions = [0] * len(self._params[0])  # taken by each problem, which has no more pairs than that

    def _fresh_rows(self, count: int) -> dict[str, Tensor]:
        like, m, size = self._params[0], self.history_size, self.size
        eye = torch.eye(m, dtype=torch.float64, device=like.device)
        rows = super()._fresh_rows(count) | {
            "history": like.new_zeros(count, 2 * m, size),  # S, a ring buffer, then Y, another
            "slot": torch.zeros(count, dtype=torch.long, device=like.device),  # where the next pair goes
            # Products of the pairs, oldest first and the newest last; an empty place has a 1 on R's diagonal.
            "upper": eye.repeat(count, 1, 1),  # R: s_i y_j for i <= j
            "gram": torch.zeros_like(eye).repeat(count, 1, 1),  # y_i y_j
            "scale": like.new_ones(count),  # gamma, the initial inverse Hessian
            "gradient": like.new_zeros(count, size),
            "move": like.new_zeros(count, size),
            "started": torch.zeros(count, dtype=torch.bool, device=like.device),
        }
        if self.line_search:
            rows |= {"origin": like.new_zeros(count, size), "direction": like.new_zeros(count, size)}
        return rows

    def reindex(self, rows: list[int]) -> None:
        super().reindex(rows)
        self._searches = [None if row < 0 else self._searches[row] for row in rows]
        self._directions = [0 if row < 0 else self._directions[row] for row in rows]

    def move(self, losses: Tensor, gradient: Tensor) -> None:
        if self.line_search:
            self._search(losses, gradient)
            return
        state = self._rows
        direction = self._direction(gradient)
        first = ~state["started"]
        length = torch.where(first, (1 / gradient.abs().sum(1)).clamp(max=1), 1.0) * self.param_groups[0]["lr"]
        slope = (gradient * direction).sum(1)
        stationary = gradient.abs().amax(1) <= self.tolerance_grad
        state["stalled"] = stationary | (slope > -self.tolerance_change)
        state["started"] = state["started"] | ~stationary
        state["gradient"] = gradient
        state["move"] = torch.where(state["stalled"], 0.0, length)[:, None] * direction
        for p, move in self._split(state["move"]):
            p.add_(move)

    def _search(self, losses: Tensor, gradient: Tensor) -> None:
        """Tells each problem's line search what is at the point that it wanted to see, and moves to the next one.

        A problem whose search has ended, or that is new, begins another one from the point that is taken.

        Args:
            losses: ``[V]`` where the problems are.
            gradient: ``[V, D]`` there.
        """
        state = self._rows
        slopes = (gradient * state["direction"]).sum(1).tolist()
        stalled = state["stalled"].tolist()
        taken: dict[int, Point] = {}
        for row, (loss, slope) in enumerate(zip(losses.tolist(), slopes, strict=True)):
            search, step = self._searches[row] or (None, 0.0)
            point = Point(step, loss if math.isfinite(loss) else math.inf, slope, gradient[row].clone())
            if stalled[row]:
                continue
            if search is None:
                taken[row] = point
                continue
            try:
                self._searches[row] = search, search.send(point)
            except StopIteration as end:
                taken[row] = end.value
        state["on_trial"] = torch.tensor([search is not None for search in self._searches], device=losses.device)
        if taken:
            self._begin(taken)
        steps = losses.new_tensor([search[1] if search else 0.0 for search in self._searches])
        moved = state["origin"] + steps[:, None] * state["direction"]
        for p, position in self._split(torch.where(steps[:, None] == 0, state["origin"], moved)):
            p.copy_(position)

    def _begin(self, taken: dict[int, Point]) -> None:
        """Moves to the points that were taken, row -> point, and begins the next search from each of them."""
        state, rows = self._rows, list(taken)
        steps = state["gradient"].new_tensor([point.step for point in taken.values()])
        position = torch.cat([p.flatten(1) for p in self._params], 1)
        first = ~state["started"][rows]
        state["move"][rows] = steps[:, None] * state["direction"][rows]
        state["origin"][rows] = torch.where(first[:, None], position[rows], state["origin"][rows] + state["move"][rows])
        gradient = state["gradient"].clone()
        gradient[rows] = torch.stack([point.gradient for point in taken.values()])
        direction = self._direction(gradient)  # of the other rows nothing has changed
        state["gradient"] = gradient
        state["direction"][rows] = direction[rows]
        gradient, direction = gradient[rows], direction[rows]
        slope, longest = (gradient * direction).sum(1), direction.abs().amax(1)
        length = torch.where(first, (1 / gradient.abs().sum(1)).clamp(max=1), 1.0) * self.param_groups[0]["lr"]
        is_still = ~first & (state["move"][rows].abs().amax(1) <= self.tolerance_change)
        stationary = gradient.abs().amax(1) <= self.tolerance_grad
        state["started"][rows] = True
        state["stalled"][rows] = stationary | is_still | ~(slope < -self.tolerance_change)
        numbers = zip(*(values.tolist() for values in (state["stalled"][rows], slope, longest, length)), strict=True)
        for (row, point), (is_stalled, down, largest, step) in zip(taken.items(), numbers, strict=True):
            search = strong_wolfe(point._replace(step=0.0, slope=down), step, largest, self.tolerance_change)
            self._searches[row] = None if is_stalled else (search, next(search))

    def _direction(self, gradient: Tensor) -> Tensor:
        """The quasi-Newton direction ``[V, D]``, after the last pair is added to the history."""
        state, m = self._rows, self.history_size
        change = gradient - state["gradient"]
        curvature = (change * state["move"]).sum(1)
        pushed = state["started"] & (curvature > 1e-10)
        rows = torch.arange(len(pushed), device=gradient.device)
        for place, newest in ((state["slot"], state["move"]), (m + state["slot"], change)):
            old = state["history"][rows, place]
            state["history"][rows, place] = torch.where(pushed[:, None], newest, old)
        state["slot"] = torch.where(pushed, (state["slot"] + 1) % m, state["slot"])
        state["scale"] = torch.where(pushed, curvature / change.square().sum(1), state["scale"])

        # The only two passes over the history: products with the gradient and the newest change, and the sum below.
        age_order = (state["slot"][:, None] + torch.arange(m, device=gradient.device)) % m  # oldest first
        age_order = torch.cat([age_order, m + age_order], 1)
        self._directions = [count + 1 for count in self._directions]
        products = self._products(torch.stack([gradient, change], 1))
        products = products.gather(2, age_order[:, None].expand(-1, 2, -1)).double()
        with_gradient, with_change = products.unbind(1)
        self._append(pushed, with_change[:, :m], with_change[:, m:])

        upper, gram, scale = state["upper"], state["gram"], state["scale"].double()[:, None, None]
        moves_dot, changes_dot = with_gradient[..., None].split(m, 1)
        p = torch.linalg.solve_triangular(upper, moves_dot, upper=True)
        curvatures = upper.diagonal(dim1=1, dim2=2)[..., None]
        right = curvatures * p + scale * (gram @ p - changes_dot)
        w = torch.linalg.solve_triangular(upper.mT, right, upper=False)
        weights = torch.cat([w, -scale * p], 1)[..., 0]
        weights = torch.zeros_like(weights).scatter(1, age_order, weights).to(gradient)
        return -(state["scale"][:, None] * gradient + torch.bmm(weights[:, None], state["history"])[:, 0])

    def _products(self, vectors: Tensor) -> Tensor:
        """Products ``[V, 2, 2m]`` of two vectors ``[V, 2, D]`` with the history; its empty part is not read."""
        history, m = self._rows["history"], self.history_size
        filled = -(-max(self._directions, default=0) // ALIGNED) * ALIGNED
        if filled >= m:
            return torch.bmm(vectors, history.mT)
        products = vectors.new_zeros(len(vectors), 2, 2 * m)
        for first in (0, m):
            held = history[:, first : first + filled]
            products[..., first : first + filled] = torch.bmm(vectors, held.mT)
        return products

    def _append(self, pushed: Tensor, moves_dot: Tensor, changes_dot: Tensor) -> None:
        """Adds the newest pair's products, ``[V, m]`` each, to R and to the Gram matrix of the changes."""
        for name, column, row in (
            ("upper", moves_dot, torch.zeros_like(moves_dot)),
            ("gram", changes_dot, changes_dot),
        ):
            old = self._rows[name]
            new = torch.zeros_like(old)
            new[:, :-1, :-1] = old[:, 1:, 1:]
            new[:, -1] = row
            new[:, :, -1] = column
            self._rows[name] = torch.where(pushed[:, None, None], new, old)
