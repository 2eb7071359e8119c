"""What came out of a cell: its victims, which of them leaked, and what the cell is called in a sentence."""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from benchmark.boards.cells import Cells, cells_of_one_code, of_one_data_set
from benchmark.metrics.convergence import MISFIT, unconverged, unexplained, unrecorded
from benchmark.metrics.leak import BASELINES, leaks, leaks_wholly
from benchmark.store.store import Record
from benchmark.suite.nesting import argument_as_text

BELOW = 1e-3
"""What a loss is below another by, in parts of it, so that it is not rounding."""


WITHOUT_NOISE = 0.01
"""Misfit that a private batch has at most where the attacker's model explains the update without noise: ``EXPLAINED``
of ``metrics/misfit.py``."""


@dataclass(frozen=True)
class Outcome:
    """A cell with all its victims.

    Attributes:
        cell: its id.
        config: everything that decides a victim's result, but the victim.
        victims: what the records say of each, by the victims' numbers.
        records: they come from.
    """

    cell: str
    config: dict[str, Any]
    victims: dict[int, dict[str, Any]]
    records: tuple[Record, ...]

    @cached_property
    def scenario(self) -> str:
        """Outcomes of one scenario are attacks on the same victims: they stand on one board."""
        of_cell = ("schema", "defense", "attack", "adaptive")
        named = {key: value for key, value in self.config.items() if key not in of_cell}
        # Records of before there were runs of a class have no such number.
        return repr(sorted({"same_class": 1, **named}.items()))

    @cached_property
    def attack(self) -> str:
        """Class and arguments of the attack."""
        return repr(sorted(self.config["attack"].items(), key=str))

    @cached_property
    def defense(self) -> str:
        """Class and arguments of the defense, "none" without one."""
        return repr(sorted(self.config["defense"].items(), key=str)) if self.defended else "none"

    @property
    def defended(self) -> bool:
        return self.config["defense"] is not None

    @property
    def adaptive(self) -> bool:
        """Whether the attacker knows the defense."""
        return bool(self.config["adaptive"])

    @property
    def is_baseline(self) -> bool:
        """Whether it is a null baseline, which does not look at the update."""
        return self.config["attack"]["class"] in BASELINES

    @cached_property
    def seeks_images(self) -> bool:
        """Whether it is an attack on images: neither a null baseline nor an attack on the labels alone."""
        return not self.is_baseline and any(victim.get("psnr") != [] for victim in self.victims.values())

    @cached_property
    def indices(self) -> frozenset[int]:
        """The victims' numbers."""
        return frozenset(self.victims)

    @cached_property
    def leaked(self) -> frozenset[int]:
        """The victims of whom at least one image leaked."""
        return frozenset(index for index, victim in self.victims.items() if leaks(victim))

    @cached_property
    def leaked_wholly(self) -> frozenset[int]:
        """The victims of whom all images leaked."""
        return frozenset(index for index, victim in self.victims.items() if leaks_wholly(victim))

    @cached_property
    def diverged(self) -> frozenset[int]:
        """The victims on whom the attack diverged: they count as not leaked."""
        return frozenset(index for index, victim in self.victims.items() if victim["status"] == "diverged")

    @cached_property
    def unconverged(self) -> frozenset[int]:
        """The victims of whom nothing is known, since the attack has failed to fit their update, the next included."""
        return frozenset(index for index, victim in self.victims.items() if unconverged(victim, self.config))

    @cached_property
    def near(self) -> frozenset[int]:
        """Those of them for whom what was found fits to :data:`MISFIT`, and yet not as the private images do, or is one
        of these but for a contrast that the network does not see."""

        def is_near(victim: dict[str, Any]) -> bool:
            misfit = victim.get("misfit")
            return victim.get("contrast_unseen", False) or (misfit is not None and misfit <= MISFIT)

        return frozenset(index for index in self.unconverged - self.unexplained if is_near(self.victims[index]))

    @cached_property
    def unrecorded(self) -> frozenset[int]:
        """The victims of whom nothing was found, and of whom the records do not tell whether the attack converged."""
        return frozenset(index for index, victim in self.victims.items() if unrecorded(victim, self.config))

    def untold(self, leaks_by: Callable[[dict[str, Any]], bool]) -> frozenset[int]:
        """The victims that do not leak by some measure, and of whom this attack alone tells nothing: that it found
        none does not mean that nothing leaks."""
        rest = {index: victim | {"leaked_any": False} for index, victim in self.victims.items() if not leaks_by(victim)}
        if self.broken or (self.adaptive and self.no_adaptive_attack):
            return frozenset(rest)

        def is_untold(victim: dict[str, Any]) -> bool:
            return victim["status"] == "diverged" or unconverged(victim, self.config) or unrecorded(victim, self.config)

        return frozenset(index for index, victim in rest.items() if is_untold(victim))

    @cached_property
    def noisy(self) -> frozenset[int]:
        """The victims on whose update the attacker knows of noise; older records say nothing of rounding."""
        noisy = (i for i, victim in self.victims.items() if victim.get("misfit_of_noise") or is_noisy(victim))
        return frozenset(noisy)

    @cached_property
    def settled(self) -> frozenset[int]:
        """The victims of whom the attack found what explains the update as well as the true images do."""
        return frozenset(index for index, victim in self.victims.items() if victim.get("settled")) - self.unconverged

    @cached_property
    def unexplained(self) -> frozenset[int]:
        """The victims of whom nothing is known, since the attacker's model of the defense is wrong or missing."""
        return frozenset(index for index, victim in self.victims.items() if unexplained(victim))

    @property
    def mistaken(self) -> bool:
        """Whether those are more than half of the victims."""
        return 2 * len(self.unexplained) > len(self.indices)

    @cached_property
    def broken(self) -> str | None:
        """Why the records say that nothing can be concluded from them, an update that is not finite say."""
        said = dict.fromkeys(record["void"] for record in self.records if record.get("void"))
        return "; ".join(sentence.strip().rstrip(".") for sentence in said) or None

    @cached_property
    def random_update(self) -> bool:
        """Whether the defense, where it draws again, shares another update of the same batch."""
        return any(record.get("random_update") for record in self.records)

    @cached_property
    def flat(self) -> frozenset[int]:
        """The victims of whom nothing is known, and whose update depends on no image where an attack starts."""
        flat = frozenset(index for index, victim in self.victims.items() if victim.get("constant_objective"))
        return flat - self.leaked - self.settled

    @cached_property
    def below_truth(self) -> frozenset[int]:
        """The victims of whom nothing leaked, although the attack's loss is below that of the private batch."""
        return frozenset(i for i, victim in self.victims.items() if below_truth(victim)) - self.leaked - self.diverged

    @cached_property
    def no_adaptive_attack(self) -> str:
        """Why the attacker could not make use of knowing the defense; empty where he could."""
        said = (record.get("no_adaptive_attack") for record in self.records)
        return next(filter(None, said), "")


def is_noisy(victim: dict[str, Any]) -> bool:
    """Whether the attacker knows of noise on the update: his model explains it, and yet the private batch is off."""
    return bool(victim.get("explained")) and (victim.get("misfit_of_truth") or 0.0) > WITHOUT_NOISE


def below_truth(victim: dict[str, Any]) -> bool:
    """Whether the loss of what was found is below that of the private batch, by more than rounding."""
    found, true = victim.get("loss"), victim.get("loss_of_truth")
    return found is not None and true is not None and found < true - BELOW * abs(true)


def outcomes(records: Iterable[Record], current: Collection[str] = ()) -> tuple[list[Outcome], list[str]]:
    """The outcome of each cell, of one code and one data set, and sentences about what is left out.

    Args:
        records: of a folder.
        current: keys of the records that are known to be of the present code and data.
    """
    cells, sentences = cells_of_one_code(records, current)
    of_scenario: dict[str, list[Outcome]] = defaultdict(list)
    for outcome in of_cells(cells):
        of_scenario[outcome.scenario].append(outcome)
    kept, others = [], []
    for scenario in sorted(of_scenario):
        same, other = of_the_same_images(of_scenario[scenario], current)
        kept += same
        others += other
    if others:
        names = listed(sorted(Names(others).cell(outcome) for outcome in others))
        sentences.append(f"left out, because they attacked other images than the newest cells: {names}")
    return kept, sentences


def of_cells(cells: Cells) -> Iterator[Outcome]:
    """The outcome of each cell."""
    for cell, victims in cells.items():
        sources = {record["key"]: record for _, record in victims.values()}
        config = next(iter(sources.values()))["config"]
        yield Outcome(cell, config, {i: victim for i, (victim, _) in victims.items()}, tuple(sources.values()))


def of_the_same_images(board: list[Outcome], current: Collection[str] = ()) -> tuple[list[Outcome], list[Outcome]]:
    """The outcomes of a scenario whose images are those of the newest one, and the others, which cannot be compared."""
    records = {record["key"]: record for outcome in board for record in outcome.records}
    newest_first = sorted(
        records.values(), key=lambda r: (r["key"] in current, r["provenance"]["date"], r["key"]), reverse=True
    )
    other = {record["key"] for record in of_one_data_set(newest_first)[1]}
    kept: list[Outcome] = []
    left_out: list[Outcome] = []
    for outcome in board:
        (left_out if any(record["key"] in other for record in outcome.records) else kept).append(outcome)
    return kept, left_out


class Names:
    """Names of attacks, defenses and cells as they stand in a table and in the sentences under it.

    Args:
        board: outcomes; an argument of an attack stands beside its class where it differs among them.
    """

    def __init__(self, board: Iterable[Outcome]) -> None:
        values: dict[tuple[str, str], set[str]] = defaultdict(set)
        for outcome in board:
            attack = outcome.config["attack"]
            for name, value in attack.items():
                values[attack["class"], name].add(repr(value))
        self._differing = {argument for argument, different in values.items() if len(different) > 1}

    def attack(self, config: dict[str, Any], adaptive: bool) -> str:
        """As in "IDLG max_evaluations=300 adaptive"."""
        args = ", ".join(f"{key}={value}" for key, value in config.items() if (config["class"], key) in self._differing)
        return config["class"] + (f" {args}" if args else "") + (" adaptive" if adaptive else "")

    @staticmethod
    def defense(config: dict[str, Any] | None) -> str:
        """As in "Masking ratio=0.2"."""
        return f"{config['class']} {strength(config)}".rstrip() if config else "no defense"

    def cell(self, outcome: Outcome) -> str:
        """As in "IDLG adaptive on Masking ratio=0.2"."""
        config = outcome.config
        return f"{self.attack(config['attack'], outcome.adaptive)} on {self.defense(config['defense'])}"


def strength(defense: dict[str, Any]) -> str:
    """The arguments of a defense, without those that are off."""
    given = {key: value for key, value in defense.items() if key != "class" and value is not False}
    return ", ".join(argument_as_text(key, value) for key, value in given.items())


def counted(leaking: int, unknown: int, victims: int) -> str:
    """As in "3 of 16 leak", or "3 of 16 leak, 2 unknown" where nothing is known of 2 others."""
    return f"{leaking} of {victims} leak{f', {unknown} unknown' if unknown else ''}"


def listed(names: Sequence[str], most: int = 4) -> str:
    """As in "a, b, c and 5 more"; with semicolons where a name has commas."""
    comma = "; " if any("," in name for name in names) else ", "
    if len(names) > most:
        return f"{comma.join(names[: most - 1])} and {len(names) - most + 1} more"
    return " and ".join(filter(None, (comma.join(names[:-1]), *names[-1:])))
