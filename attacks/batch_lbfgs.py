"""L-BFGS for many independent problems at once."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor


def rearrange(held: Tensor, rows: list[int], fresh: Tensor) -> Tensor:
    """Row i of the result is row ``rows[i]`` of ``held``, or the next one of ``fresh`` where ``rows[i]`` is -1.

    What stays in its place is not copied, and ``held`` is overwritten: a history is too large to be copied whenever
    a victim leaves.

    Args:
        held: ``[V, ...]``.
        rows: one for each row of the result.
        fresh: as many rows as there are -1, or one for all of them.
    """
    if len(rows) > len(held):
        held = torch.cat([held, held.new_empty(len(rows) - len(held), *held.shape[1:])])
    new = [row for row, source in enumerate(rows) if source < 0]
    moved = [row for row, source in enumerate(rows) if source >= 0 and source != row]
    held[moved] = held[[rows[row] for row in moved]]
    held[new] = fresh
    return held[: len(rows)]


class BatchLBFGS(torch.optim.Optimizer):
    """L-BFGS without line search on V independent problems, each following ``torch.optim.LBFGS`` on its own.

    The first dimension of every parameter counts the problems. History, curvature test, first step length and stop
    rule are kept for each problem. One :meth:`step` is one evaluation and one move, so that problems can leave and
    enter after any evaluation.

    The direction comes from the compact representation of the inverse Hessian (Byrd, Nocedal and Schnabel 1994,
    theorem 2.2): it equals the two-loop recursion, but reads the history twice instead of four times, in two
    matrix products. The small m x m systems are solved in float64.

    Args:
        params: tensors ``[V, ...]``.
        lr: length of each step but the first, which is ``lr * min(1, 1 / |gradient|_1)``.
        history_size: number m of pairs kept.
        tolerance_grad: a problem with no larger gradient entry has stalled.
        tolerance_change: a problem whose directional derivative is above minus this has stalled.

    Attributes:
        stalled: ``[V]``, the problems that will not move again.
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float = 1.0,
        history_size: int = 100,
        tolerance_grad: float = 1e-7,
        tolerance_change: float = 1e-9,
    ) -> None:
        super().__init__(params, {"lr": lr})
        self.history_size = history_size
        self.tolerance_grad = tolerance_grad
        self.tolerance_change = tolerance_change
        self._params: list[Tensor] = self.param_groups[0]["params"]
        self._rows = self._fresh_rows(len(self._params[0]))

    def _fresh_rows(self, count: int) -> dict[str, Tensor]:
        """The state of ``count`` problems before their first step."""
        like = self._params[0]
        m, size = self.history_size, sum(p.shape[1:].numel() for p in self._params)
        eye = torch.eye(m, dtype=torch.float64, device=like.device)
        return {
            "history": like.new_zeros(count, 2 * m, size),  # S, a ring buffer, then Y, another
            "slot": torch.zeros(count, dtype=torch.long, device=like.device),  # where the next pair goes
            # Products of the pairs, oldest first and the newest last; an empty place has a 1 on R's diagonal.
            "upper": eye.repeat(count, 1, 1),  # R: s_i y_j for i <= j
            "gram": torch.zeros_like(eye).repeat(count, 1, 1),  # y_i y_j
            "scale": like.new_ones(count),  # gamma, the initial inverse Hessian
            "gradient": like.new_zeros(count, size),
            "move": like.new_zeros(count, size),
            "started": torch.zeros(count, dtype=torch.bool, device=like.device),
            "stalled": torch.zeros(count, dtype=torch.bool, device=like.device),
        }

    @property
    def stalled(self) -> Tensor:
        return self._rows["stalled"]

    def reindex(self, rows: list[int]) -> None:
        """Makes problem i the former problem ``rows[i]``, or a fresh one where ``rows[i]`` is -1.

        Call it when the parameters were given the same rows.
        """
        fresh = self._fresh_rows(1)
        for name, value in self._rows.items():
            self._rows[name] = rearrange(value, rows, fresh[name])

    @torch.no_grad()
    def step(self, closure: Callable[[], Any]) -> Any:  # type: ignore[override] # torch allows no closure
        """Evaluates all V problems and moves each that has not stalled.

        Args:
            closure: clears the gradients, computes the losses ``[V]`` and calls backward on their sum.

        Returns:
            What the closure returned: the losses before the move.
        """
        with torch.enable_grad():
            losses = closure()
        gradient = torch.cat([p.grad.flatten(1) for p in self._params if p.grad is not None], 1)
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
        moves = state["move"].split([p.shape[1:].numel() for p in self._params], 1)
        for p, move in zip(self._params, moves, strict=True):
            p.add_(move.view_as(p))
        return losses

    def _direction(self, gradient: Tensor) -> Tensor:
        """The quasi-Newton direction ``[V, D]``, after the last pair is added to the history."""
        state, m = self._rows, self.history_size
        change = gradient - state["gradient"]
        curvature = (change * state["move"]).sum(1)
        pushed = state["started"] & (curvature > 1e-10)
        index = pushed.nonzero().squeeze(1)
        state["history"][index, state["slot"][index]] = state["move"][index]
        state["history"][index, m + state["slot"][index]] = change[index]
        state["slot"] = torch.where(pushed, (state["slot"] + 1) % m, state["slot"])
        state["scale"] = torch.where(pushed, curvature / change.square().sum(1), state["scale"])

        # The only two passes over the history: products with the gradient and the newest change, and the sum below.
        age_order = (state["slot"][:, None] + torch.arange(m, device=gradient.device)) % m  # oldest first
        age_order = torch.cat([age_order, m + age_order], 1)
        products = torch.bmm(torch.stack([gradient, change], 1), state["history"].mT)
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
