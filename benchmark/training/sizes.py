"""sizes.json of a folder: how large the updates are that were attacked, and those of the networks that are trained.

Strengths that stop an attacker are carried over to a training in proportion to them: see
:mod:`benchmark.thresholds.relative`, and :mod:`benchmark.training.measuring` for what is measured.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import msgspec

from benchmark.errors import UsageError
from benchmark.store.store import write_whole
from benchmark.suite.documents import read_json
from benchmark.suite.registry import Spec
from benchmark.thresholds.relative import Size, carried_over, is_absolute
from benchmark.thresholds.strengths import DefenseThresholds
from benchmark.training.rows import of_cell

FILE = "sizes.json"


@dataclass(frozen=True)
class Measured:
    """The size of some updates.

    Attributes:
        of: configuration of what was attacked, or of a training but for its defense, rate and seed.
        updates: how many were measured.
        size: of them; None where they have none of their own (FedAvg), or no strength needs it.
    """

    of: dict[str, Any]
    updates: int = 0
    size: Size | None = None


@dataclass(frozen=True)
class Sizes:
    """What sizes.json says; nothing where there is none.

    Attributes:
        attacked: one for each scenario that was attacked.
        trained: one for each scenario of the suite, whether it has been trained yet or not.
    """

    attacked: Sequence[Measured] = ()
    trained: Sequence[Measured] = ()

    def of_attacked(self, one: DefenseThresholds) -> Size | None:
        """The size of the updates that an attacker was to be stopped at."""
        return next((found.size for found in self.attacked if found.of == one.scenario), None)

    def of_training(self, config: dict[str, Any]) -> Size | None:
        """The size of the updates of a training at its start."""
        return next((found.size for found in self.trained if of_cell(found.of) == of_cell(config, defense=None)), None)

    def at(self, one: DefenseThresholds, attacker: str, config: dict[str, Any]) -> Spec | None:
        """The defense as strong in a training as where it stops the attacker.

        Args:
            one: what stops each attacker.
            attacker: which of them.
            config: of any run of the training's scenario.

        Returns:
            None where nothing stops the attacker, or the size of the updates is not known but matters.
        """
        found = one.at(attacker)
        if found is None or not is_absolute(one.defense, one.argument):
            return found
        attacked, trained = self.of_attacked(one), self.of_training(config)
        return carried_over(found, one.argument, attacked, trained) if attacked and trained else None


def read(folder: Path) -> Sizes:
    """Reads sizes.json in the folder.

    Raises:
        UsageError: it is damaged.
    """
    path = folder / FILE
    if not path.exists():
        return Sizes()
    try:
        return msgspec.convert(read_json(path), Sizes)
    except (OSError, ValueError):
        raise UsageError(
            f"{path} cannot be read: delete it, and run leakboard train SUITE --at FOLDER --out {folder}"
        ) from None


def write(folder: Path, sizes: Sizes) -> None:
    """Writes sizes.json."""
    write_whole(folder / FILE, (json.dumps(asdict(sizes), indent=1) + "\n").encode())
