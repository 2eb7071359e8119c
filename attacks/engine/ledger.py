"""What is known of each victim while it is under attack: its lowest loss and the images of it, and how it ended."""

import torch
from torch import Tensor

from attacks.base import Reconstruction, Trajectory
from attacks.engine.slots import refill
from attacks.engine.starts import Starts, State

SNAPSHOTS = 25
"""Moments of a trajectory that are kept, over the whole budget."""

PICTURES = 2**20
"""Bytes that the images of a victim's trajectory may take: those of a CIFAR-10 image do at all snapshots."""

PROGRESS = 1e-3
"""Share by which the lowest loss of a victim must fall within its patience, or the attack has stopped improving."""

REASONS = ("diverged", "converged", "stalled", "exhausted")
"""How an attempt can end; the first one counts."""

LEVELS = (0.09, 0.03)
"""Losses whose first passing is noted: success for DLG-FB on CIFAR-100 and on MNIST (arXiv 2409.17767, the code)."""


class Ledger:
    """Follows V victims, of whom A are active, one in each row.

    Args:
        starts: where each attempt starts.
        max_evaluations: budget of a victim.
        patience: evaluations without progress after which a victim has stalled; None for no such rule.
        at_once: rows there may be at most; None for V.
        together: victims that follow each other and are only ever under attack together, which divides ``at_once``.

    Attributes:
        victims: under attack, one for each row.
        losses: of their last evaluation, ``[A]``.
        status: of each victim; "exhausted" until it is done.
        every: evaluations between two snapshots of a trajectory.
    """

    def __init__(
        self,
        starts: Starts,
        max_evaluations: int,
        patience: int | None = None,
        at_once: int | None = None,
        together: int = 1,
    ) -> None:
        self._best = {key: value.clone() for key, value in starts.first.items()}
        count, images = len(self._best["images"]), self._best["images"]
        self._starts, self._at_once, self._together = starts, at_once or count, together
        self._max_evaluations, self._patience = max_evaluations, patience
        self._waiting = list(range(count))
        self.victims: list[int] = []
        self.losses = images.new_zeros(0)
        self.status = ["exhausted"] * count
        self._attempts = torch.zeros(count, dtype=torch.long, device=images.device)
        self._best_attempt, self._improved_at = self._attempts.clone(), self._attempts.clone()
        self._best_loss = images.new_full((count,), torch.inf)
        self._to_beat = self._best_loss.clone()
        self._evaluations = torch.zeros(count, dtype=torch.long)
        self.every = max(1, max_evaluations // SNAPSHOTS)
        self._times = range(0, max_evaluations + 1, self.every)
        self._curve = torch.full((count, len(self._times)), torch.inf)
        self._pictured = thinned(len(self._times), PICTURES // (images[0].numel() * images.element_size()))
        self._place = {moment: place for place, moment in enumerate(self._pictured)}
        self._pictures = images.cpu().unsqueeze(1).repeat(1, len(self._pictured), 1, 1, 1, 1)
        self._passed = torch.full((count, len(LEVELS)), -1, device=images.device)
        self._levels = images.new_tensor(LEVELS)
        self._ended = torch.zeros(0, dtype=torch.long, device=images.device)  # 1 plus the place of the reason
        self._spent, self._now = self._ended.clone(), self._ended.clone()

    @property
    def evaluations(self) -> Tensor:
        """Spent on each active victim, ``[A]``, on the CPU."""
        return self._evaluations[self._active]

    @property
    def share(self) -> float:
        """Of the budgets of all victims, what is spent or, of those that are done, no longer needed."""
        left = self._max_evaluations - self._evaluations[self._not_done]
        return 1 - float(left.clamp(min=0).sum()) / (self._max_evaluations * len(self.status))

    def note(self, losses: Tensor, iterates: dict[str, Tensor]) -> None:
        """Keeps the iterates of those active victims whose losses ``[A]`` are their lowest."""
        rows, is_on, spent = self._rows, self._ended == 0, self.evaluations
        is_due = (spent % self.every == 0) & (spent <= self._max_evaluations)  # who is done may not have left yet
        if due := self._active[is_due].tolist():
            times = (self._evaluations[due] // self.every).tolist()
            self._curve[due, times] = self._best_loss[due].cpu().float()
            if shown := [(victim, self._place[t]) for victim, t in zip(due, times, strict=True) if t in self._place]:
                of, places = map(list, zip(*shown, strict=True))
                self._pictures[of, places] = self._best["images"][of].cpu()
        self._evaluations[self._active] = spent + 1
        self._now = self._now + 1
        self.losses, before = losses, self._best_loss[rows]
        better = is_on & (losses < before)  # False for NaN
        lowest = torch.where(better, losses, before)
        improved = ~(lowest > self._to_beat[rows])
        self._best_loss[rows] = lowest
        self._best_attempt[rows] = torch.where(better, self._attempts[rows], self._best_attempt[rows])
        self._to_beat[rows] = torch.where(improved, lowest * (1 - PROGRESS), self._to_beat[rows])
        self._improved_at[rows] = torch.where(improved, self._now, self._improved_at[rows])
        self._spent = torch.where(is_on, self._now, self._spent)
        below, passed = lowest[:, None] <= self._levels, self._passed[rows]
        self._passed[rows] = torch.where(below & (passed < 0), self._spent[:, None], passed)
        for key, best in self._best.items():
            is_better = better.view(-1, *[1] * (best.dim() - 1))
            best[rows] = torch.where(is_better, iterates[key], best[rows])

    def end(self, reasons: dict[str, Tensor]) -> None:
        """Notes why attempts end at this evaluation, without waiting for the device: what comes after does not count.

        Args:
            reasons: of ``REASONS``, whether each active victim's attempt ends for it, ``[A]``.
        """
        done = torch.stack([reasons[name] for name in REASONS])
        now = torch.where(done.any(0), 1 + done.long().argmax(0), 0)
        self._ended = torch.where(self._ended == 0, now, self._ended)

    def close_ended(self) -> list[int]:
        """Says of the attempts that have ended how they did, and returns their rows; reads from the device, once."""
        ended, spent, attempts = torch.stack([self._ended, self._spent, self._attempts[self._rows]]).tolist()
        leaving = [row for row, reason in enumerate(ended) if reason]
        for row in leaving:
            self._evaluations[self.victims[row]] = spent[row]
            self.close(row, attempts[row], REASONS[ended[row] - 1])
        return leaving

    @property
    def stalled(self) -> Tensor:
        """The active victims that have lost patience, ``[A]``."""
        if self._patience is None:
            return torch.zeros_like(self._rows, dtype=torch.bool)
        return self._now - self._improved_at[self._rows] >= self._patience

    @property
    def exhausted(self) -> Tensor:
        """The active victims that have spent their budget, ``[A]``."""
        return self._now >= self._max_evaluations

    def close(self, row: int, attempt: int, status: str) -> None:
        """Says how an attempt on the victim in that row ended; where it may start again, it waits for its turn."""
        victim = self.victims[row]
        if status != "diverged" or attempt == 0:  # what an earlier attempt found is not lost
            self.status[victim] = status
        is_in_budget = self._evaluations[victim] < self._max_evaluations
        if status in ("stalled", "diverged") and attempt + 1 < len(self._starts.names) and is_in_budget:
            self._attempts[victim] += 1
            self._waiting.append(victim)

    def replace(self, done: list[int]) -> tuple[list[int], list[int], State]:
        """Takes the rows in ``done`` out and lets waiting victims in: the former row of each row, -1 where a victim
        enters; the victims that enter; and where they start."""
        staying = set(range(len(self.victims))) - set(done)
        taken = self._together * len({self.victims[row] // self._together for row in staying})
        rows, self.victims, entering = refill(self.victims, done, self._waiting[: self._at_once - taken], self._at_once)
        self._waiting = self._waiting[len(entering) :]
        self._active = torch.tensor(self.victims, dtype=torch.long)
        self._not_done = torch.tensor([*self.victims, *self._waiting], dtype=torch.long)
        self._rows, self._now = self._active.to(self.losses.device), self.evaluations.to(self.losses.device)
        self._ended, self._spent = torch.zeros_like(self._rows), self._now
        self._to_beat[entering] = torch.inf
        self._improved_at[entering] = self._evaluations[entering].to(self._rows.device)
        states = {key: best[entering] for key, best in self._best.items()}
        for place, (victim, attempt) in enumerate(zip(entering, self._attempts[entering].tolist(), strict=True)):
            for key, start in self._starts.of(victim, attempt).items():
                states[key][place] = start
        return rows, entering, states

    def reconstruction(self) -> Reconstruction:
        """What was found; of victims that are still active, what there is by now."""
        closed = set(self.close_ended())
        for row, attempt in enumerate(self._attempts[self._rows].tolist()):
            if row not in closed:
                self.close(row, attempt, "exhausted")
        lowest, images = self._best_loss.cpu().float(), self._best["images"].cpu()  # a GPU is read from once
        for victim, spent in enumerate(self._evaluations.tolist()):
            after = (spent - 1) // self.every + 1
            self._curve[victim, after:] = lowest[victim]
            left = [place for moment, place in self._place.items() if moment >= after]
            self._pictures[victim, left] = images[victim]
        return Reconstruction(
            images=self._best["images"],
            labels=self._best["label_logits"].argmax(-1),
            loss=self._best_loss,
            evaluations=self._evaluations,
            status=self.status,
            trajectory=Trajectory(
                list(self._times), self._curve, self._pictures, LEVELS, self._passed.cpu(), self._pictured
            ),
            starts=[self._starts.names[attempt] for attempt in self._best_attempt.tolist()],
            label_probabilities=self._best["label_logits"].softmax(-1),
        )


def thinned(moments: int, most: int) -> list[int]:
    """At most so many of the moments 0, 1, ..., evenly spaced from the first to the last; none where one is all."""
    if most >= moments:
        return list(range(moments))
    return [round(place * (moments - 1) / (most - 1)) for place in range(most)] if most > 1 else []
