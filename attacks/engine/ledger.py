"""What is known of each victim while it is under attack: its lowest loss and the images of it, and how it ended."""

from dataclasses import replace

import torch
from torch import Tensor

from attacks.base import Reconstruction, Trajectory
from attacks.engine.slots import rearrange, refill
from attacks.engine.starts import Start

SNAPSHOTS = 25
"""Moments of a trajectory that are kept, over the whole budget."""

PROGRESS = 1e-3
"""Share by which the lowest loss of a victim must fall within its patience, or the attack has stopped improving."""

LEVELS = (0.09, 0.03)
"""Losses whose first passing is noted: success for DLG-FB on CIFAR-100 and on MNIST (arXiv 2409.17767, the code)."""


class Ledger:
    """Follows V victims, of whom A are active, one in each row; nothing is chosen here but by an attack's own loss.

    Args:
        starts: where each attempt starts, the first of them for all victims.
        max_evaluations: budget of a victim.
        at_once: rows there may be at most; None for V.

    Attributes:
        victims: under attack, one for each row.
        evaluations: spent on them so far, ``[A]``, on the CPU.
        losses: of their last evaluation, ``[A]``.
        every: evaluations between two snapshots of a trajectory.
    """

    def __init__(self, starts: list[Start], max_evaluations: int, at_once: int | None) -> None:
        name, first = starts[0]
        count, like = len(first["images"]), first["images"]
        self._starts, self._attempts = starts, [0] * count
        self._max_evaluations, self._at_once = max_evaluations, at_once or count
        self._waiting = list(range(count))
        self.victims: list[int] = []
        self._found_best = {key: value.clone() for key, value in first.items()}
        self._found = Reconstruction(
            images=self._found_best["images"],
            labels=first["label_logits"].argmax(-1),
            loss=like.new_full((count,), torch.inf),
            evaluations=torch.zeros(count, dtype=torch.long),
            status=["exhausted"] * count,
            starts=[name] * count,
        )
        self.every = max(1, max_evaluations // SNAPSHOTS)
        times = list(range(0, max_evaluations + 1, self.every))
        self._trajectory = Trajectory(
            times,
            torch.full((count, len(times)), torch.inf),
            like.cpu().unsqueeze(1).repeat(1, len(times), 1, 1, 1, 1),
            LEVELS,
            torch.full((count, len(LEVELS)), -1),
        )
        self.evaluations = torch.zeros(0, dtype=torch.long)
        self.losses = self._best_loss = self._to_beat = like.new_zeros(0)
        self._improved_at = torch.zeros(0, dtype=torch.long, device=like.device)
        self._best = {key: value[:0] for key, value in first.items()}

    @property
    def finished(self) -> int:
        """Victims that are done."""
        return len(self._attempts) - len(self.victims) - len(self._waiting)

    @property
    def converged(self) -> int:
        """Victims that are done since their loss is within the tolerance."""
        return self._found.status.count("converged")

    def note(self, losses: Tensor, iterates: dict[str, Tensor]) -> None:
        """Keeps of each active victim the iterate, of which these are the losses ``[A]``, if it is its best."""
        self._snapshot((self.evaluations % self.every == 0).nonzero().flatten().tolist())
        self.evaluations += 1
        self.losses = losses
        better = losses < self._best_loss  # False for NaN
        self._best_loss = torch.where(better, losses, self._best_loss)
        improved = ~(self._best_loss > self._to_beat)
        self._to_beat = torch.where(improved, self._best_loss * (1 - PROGRESS), self._to_beat)
        self._improved_at = torch.where(improved, self.evaluations.to(improved.device), self._improved_at)
        below = (self._best_loss[:, None] <= losses.new_tensor(LEVELS)).cpu()
        passed = self._trajectory.passed[self.victims]
        self._trajectory.passed[self.victims] = torch.where(below & (passed < 0), self.evaluations[:, None], passed)
        for key, best in self._best.items():
            self._best[key] = torch.where(better.view(-1, *[1] * (best.dim() - 1)), iterates[key], best)

    def _snapshot(self, rows: list[int]) -> None:
        if rows:
            victims = [self.victims[row] for row in rows]
            times = (self.evaluations[rows] // self.every).tolist()
            self._trajectory.loss[victims, times] = self._best_loss[rows].cpu().float()
            self._trajectory.images[victims, times] = self._best["images"][rows].cpu()

    def without_progress(self, patience: int) -> Tensor:
        """The active victims that have not improved for so many evaluations, ``[A]``."""
        return self.evaluations.to(self._improved_at) - self._improved_at >= patience

    def close(self, row: int, status: str) -> None:
        """Writes down what was found for the victim in that row; one that may start again waits for its turn."""
        victim, loss, spent = self.victims[row], self._best_loss[row], int(self.evaluations[row])
        found, attempt = self._found, self._attempts[victim]
        if status != "diverged" or attempt == 0:  # what an earlier attempt found is not lost
            found.status[victim] = status
        if loss < found.loss[victim]:
            found.starts[victim] = self._starts[attempt][0]
        for key, best in self._found_best.items():
            best[victim] = self._best[key][row]
        found.labels[victim] = self._best["label_logits"][row].argmax(-1)
        found.loss[victim], found.evaluations[victim] = loss, spent
        after = (spent - 1) // self.every + 1
        self._trajectory.loss[victim, after:] = loss.cpu().float()
        self._trajectory.images[victim, after:] = self._best["images"][row].cpu()
        if status in ("stalled", "diverged") and attempt + 1 < len(self._starts) and spent < self._max_evaluations:
            self._attempts[victim] += 1
            self._waiting.append(victim)

    def replace(self, done: list[int]) -> tuple[list[int], list[int], dict[str, Tensor]]:
        """Takes the rows in ``done`` out and lets waiting victims in.

        Returns:
            The former row of each row, -1 where a victim enters; the victims that enter; and where they start.
        """
        rows, self.victims, entering = refill(self.victims, done, self._waiting, self._at_once)
        self._waiting = self._waiting[len(entering) :]
        states = {}
        for key, best in self._found_best.items():
            starts = [self._starts[self._attempts[victim]][1][key][victim] for victim in entering]
            states[key] = torch.stack(starts) if starts else best[:0]
            self._best[key] = rearrange(self._best[key], rows, best[entering])
        loss, spent = self._found.loss[entering], self._found.evaluations[entering]
        self._best_loss = rearrange(self._best_loss, rows, loss)
        self._to_beat = rearrange(self._to_beat, rows, torch.full_like(loss, torch.inf))
        self._improved_at = rearrange(self._improved_at, rows, spent.to(self._improved_at))
        self.evaluations = rearrange(self.evaluations, rows, spent)
        return rows, entering, states

    def reconstruction(self) -> Reconstruction:
        """What was found; of victims that are still active, what there is by now."""
        for row in range(len(self.victims)):
            self.close(row, "exhausted")
        probabilities = self._found_best["label_logits"].softmax(-1)
        return replace(self._found, trajectory=self._trajectory, label_probabilities=probabilities)
