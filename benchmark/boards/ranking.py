"""Which defense leaks less than which: void cells, the worst case for each victim, and ranks by paired tests."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from benchmark.boards.outcome import Outcome
from benchmark.metrics.intervals import mcnemar

LEVEL = 0.05
"""Two-sided level of the paired tests."""

UNCONTROLLED = "there is no undefended control with the same attack"
SAFE_CONTROL = "control does not leak"
WEAK_CONTROL = "it leaks significantly more than its control, which is therefore invalid"
DIVERGED = "the attack diverged on more than half of the victims"
UNEXPLAINED = (
    "the attacker's model of the defense does not explain what is shared, even at the true images: known_to_attacker "
    "must model what protect does, and give the noise_std of what it cannot (of a function with a generator there is "
    "no model: write it as a class, or drop a generator that it does not use)"
)
NOT_ADAPTIVE = "no adaptive attack is known, so that what is not found may leak"
UNKNOWN_ORDER = (
    "what the attacker takes for the local steps does not explain what is shared, even at the true images: give the "
    "scenario order: known, or attack where the order makes no difference"
)
UNTESTED = "on more than half of the victims, no attack that knows the defense converged"


@dataclass(frozen=True)
class Standing:
    """A defense (or none) with all attacks on it.

    Attributes:
        outcomes: at least one.
        void: why each of them shows no protection, None for one that can; as many.
        missing: attacks of the board that lack victims here: an outcome of the attack, whether it knows the defense,
            and how many victims there are.
        rank: see :func:`ranks`; None where there is none.
        unranked: then why, None where only cells are missing.
    """

    outcomes: tuple[Outcome, ...]
    void: tuple[str | None, ...]
    missing: tuple[tuple[Outcome, bool, int], ...]
    rank: int | None
    unranked: str | None

    @cached_property
    def indices(self) -> frozenset[int]:
        """The victims that were attacked."""
        return frozenset().union(*(outcome.indices for outcome in self.outcomes))

    @cached_property
    def worst(self) -> frozenset[int]:
        """The victims that leak to any of the attacks. A void cell counts too: what leaked has leaked."""
        return frozenset().union(*(outcome.leaked for outcome in self.outcomes))

    @property
    def may_leak(self) -> frozenset[int]:
        """The victims that leak, and those of whom nothing is known: the next attack may find them."""
        return self.worst | self.unknown

    @cached_property
    def unexplained(self) -> frozenset[int]:
        """The victims of whom each attack that knows the defense has a wrong model of it, or none."""
        knowing = [outcome for outcome in self.outcomes if outcome.adaptive]
        return frozenset.intersection(*(outcome.unexplained for outcome in knowing)) if knowing else frozenset()

    @cached_property
    def unknown(self) -> frozenset[int]:
        """The victims on whom an attack did not converge or diverged, or none is known to have converged, or whom none
        that knows the defense has attacked yet, of whom no other one has said more."""
        open_ones = self.failed.union(*(outcome.unrecorded for outcome in self.outcomes))
        return self.waiting | open_ones.difference(self.worst, *(one.settled for one in telling(self._knowing)))

    @cached_property
    def failed(self) -> frozenset[int]:
        """The victims on whom an attack did not converge or diverged."""
        return frozenset().union(*(outcome.unconverged | outcome.diverged for outcome in self.outcomes))

    @cached_property
    def waiting(self) -> frozenset[int]:
        """The victims whom none that knows the defense has attacked yet, and no other has found."""
        return self.indices.difference(self.worst, *(one.indices for one in self._knowing))

    @property
    def _knowing(self) -> list[Outcome]:
        return [outcome for outcome in self.outcomes if outcome.adaptive or not outcome.defended]


def telling(knowing: Sequence[Outcome]) -> Sequence[Outcome]:
    """Those of the attacks on a defense that know it which can show of a victim that it does not leak: AutoLeak where
    it is one of them, as another may have fitted the noise, or some other image of many that fit."""
    return [one for one in knowing if one.config["attack"]["class"] == "AutoLeak"] or knowing


def differing(first: Outcome, second: Outcome) -> tuple[int, int]:
    """Of the victims that both attacked: how many leaked only to the first, and how many only to the second."""
    common = first.indices & second.indices
    return len((first.leaked - second.leaked) & common), len((second.leaked - first.leaked) & common)


def leaks_more(first: Outcome, second: Outcome, level: float = LEVEL) -> bool:
    """Whether the first leaks significantly more than the second, by the exact paired test on their victims."""
    only_first, only_second = differing(first, second)
    return only_first > only_second and mcnemar(only_first, only_second) <= level


def controls(board: Iterable[Outcome]) -> dict[str, Outcome]:
    """The undefended cell of each attack."""
    return {outcome.attack: outcome for outcome in board if not outcome.defended}


def void(outcome: Outcome, control: Outcome | None) -> str | None:
    """Why a cell cannot show that a defense protects, or None where it can.

    Args:
        outcome: of the cell.
        control: of the same attack without the defense.
    """
    if outcome.broken:
        return outcome.broken
    if outcome.mistaken:
        if not outcome.defended or (control and control.mistaken):
            return UNKNOWN_ORDER
        return NOT_ADAPTIVE if outcome.no_adaptive_attack else UNEXPLAINED
    if outcome.defended:
        if control is None:
            return UNCONTROLLED
        if control.broken:
            return f"control is void: {control.broken}"
        if control.mistaken and outcome.adaptive:  # which noise can hide
            return UNKNOWN_ORDER
        if not control.leaked & outcome.indices:
            return SAFE_CONTROL
        if leaks_more(outcome, control):
            return WEAK_CONTROL
    if 2 * len(outcome.diverged) > len(outcome.indices):
        return DIVERGED
    return None


def ranked(board: Sequence[Outcome]) -> list[Standing]:
    """The defenses of one scenario, those with a rank first, by rank and share of victims that leak.

    A defense has a rank once every attack of the board has attacked it on all victims, without and with knowledge of
    it: an attack that is still to come may be the one that finds most. And it has none where nothing was shown. Its
    rank counts those that lack an attack, too, as far as they leak less by now: or an attack that was run on it alone
    would put it before them.

    Args:
        board: the outcomes of one scenario; null baselines and attacks on the labels alone are left out.
    """
    attacks = [outcome for outcome in board if outcome.seeks_images]
    control_of = controls(attacks)
    one_of_each = {outcome.attack: outcome for outcome in attacks}
    victims = frozenset().union(*(outcome.indices for outcome in board))
    groups: dict[str, list[Outcome]] = defaultdict(list)
    for outcome in attacks:
        groups[outcome.defense].append(outcome)
    found = []
    for group in groups.values():
        reasons = tuple(void(outcome, control_of.get(outcome.attack)) for outcome in group)
        there = {(outcome.attack, outcome.adaptive): len(outcome.indices) for outcome in group}
        wanted = [
            (attack, knows) for attack in one_of_each for knows in ((False, True) if group[0].defended else (False,))
        ]
        missing = tuple(
            (one_of_each[attack], knows, there.get((attack, knows), 0))
            for attack, knows in wanted
            if there.get((attack, knows), 0) < len(victims)
        )
        found.append(Standing(tuple(group), reasons, missing, None, nothing_shown(group, reasons)))
    places = [place for place, one in enumerate(found) if one.unranked is None]
    order = sorted(victims)
    leaked = np.zeros((len(places), len(order)), dtype=bool)
    for row, place in zip(leaked, places, strict=True):
        row[:] = [victim in found[place].may_leak for victim in order]
    for place, rank in zip(places, ranks(leaked), strict=True):
        if not found[place].missing:
            found[place] = replace(found[place], rank=rank)
    return sorted(
        found,
        key=lambda one: (
            one.rank is None,
            one.rank or 0,
            len(one.may_leak) / len(one.indices),
            one.outcomes[0].defense,
        ),
    )


def nothing_shown(group: Sequence[Outcome], reasons: Sequence[str | None]) -> str | None:
    """Why the attacks on a defense say nothing of how much it leaks, or None where they do.

    Args:
        group: outcomes of the attacks on it.
        reasons: why each of them is void, or None.
    """
    broken = next((outcome.broken for outcome in group if outcome.broken), None)
    if broken:
        return broken
    if UNKNOWN_ORDER in reasons:
        return UNKNOWN_ORDER
    if not group[0].defended:
        return None if any(outcome.leaked for outcome in group) else "no attack found anything without a defense"
    knowing = [outcome for outcome in group if outcome.adaptive]
    leaking = frozenset().union(*(outcome.leaked for outcome in group))
    if NOT_ADAPTIVE in reasons or any(one.no_adaptive_attack and one.indices - leaking for one in knowing):
        return NOT_ADAPTIVE
    if UNEXPLAINED in reasons:
        return UNEXPLAINED
    settled = set().union(*(one.indices - one.unconverged - one.diverged - one.unrecorded for one in telling(knowing)))
    settled |= leaking
    if knowing and 2 * len(settled) < max(len(outcome.indices) for outcome in knowing):
        return UNTESTED
    if all(reasons):
        return "all its cells are void"
    of_attack: dict[str, set[str | None]] = defaultdict(set)
    for outcome, reason in zip(group, reasons, strict=True):
        of_attack[outcome.attack].add(reason)
    # Other defenses were tried by an attack that works; this one was not.
    return DIVERGED if {DIVERGED} in of_attack.values() else None


def ranks(leaked: np.ndarray) -> list[int]:
    """1 plus the number of defenses that leak significantly less, for each defense. A victim of whom nothing is known
    counts as one that leaks, or a defense on which attacks fail would stand above one on which they do not.

    D leaks significantly less than E where the exact McNemar test on the same victims says so at the two-sided level
    of 5 %, each pair for itself. Any two defenses that are told apart have different ranks, the one that leaks less the
    better one: whatever leaks significantly less than D leaks significantly less than E, and so does D. (If D
    differs from E on t victims by a net of d, then d is beyond the critical value of t; nets add up, the critical value
    of s + t is no greater than the sum of those of s and t.) So ranks never contradict a test. Where the order of
    the ranks is not that of the rates, the two defenses are not told apart: this takes victims that disagree widely,
    and cannot be where the victims that leak to one are among those that leak to the other.

    Args:
        leaked: ``[D, V]``, bool: whether a victim leaks to any of the attacks on a defense, or may.

    Returns:
        D ranks; all are 1 where nothing is told apart, as with 5 victims or fewer.
    """
    # [D, D]: victims that leak to the one of the row and not to the one of the column; floats, which BLAS multiplies
    only = (leaked.astype(float) @ (~leaked).T.astype(float)).astype(np.int64)
    less, more = np.nonzero(only < only.T)
    base = leaked.shape[1] + 1
    pairs, of_pair = np.unique(only[less, more] * base + only[more, less], return_inverse=True)
    significant = np.array([mcnemar(*divmod(pair, base)) <= LEVEL for pair in pairs.tolist()], dtype=bool)
    return [1 + int(number) for number in np.bincount(more, significant[of_pair], minlength=len(leaked))]
