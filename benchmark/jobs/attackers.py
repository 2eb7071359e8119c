"""Attackers' own networks: each is trained once for all victims, kept by what decides it, and goes on where it was."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import nn

from attacks import AutoLeak, LearnedInversion, Observation
from attacks.engine.inverter import Inverter
from attacks.network.memory import is_out_of_memory
from benchmark.clock import clock
from benchmark.errors import UsageError
from benchmark.federation import client
from benchmark.jobs.states import CPU, OTHER_CACHE, Clock, Damaged, only_one, read, weights_in, write
from benchmark.store.store import make_writable, say, tidy
from benchmark.suite.registry import Spec, build
from benchmark.suite.suite import Cell
from benchmark.versions.behavior import Behaviors
from benchmark.versions.code import checksum_of
from datamodules import PrivateData

EVERY = 60.0
"""Seconds after which a training that goes on is kept."""


def identity(cell: Cell, network: str, data: PrivateData) -> dict[str, Any]:
    """Everything that decides what an attacker's training on a CPU leads to; the defense is, where he knows it.

    Args:
        cell: whose attack is trained.
        network: digest of the one that all victims share.
        data: open; its public images are trained on.
    """
    scenario, parts = cell.scenario, cell.parts()
    if not cell.adaptive:
        parts.pop("defense", None)
    return {
        **{kind: part.as_dict() for kind, part in parts.items()},
        "batch_size": scenario.batch_size,
        "setting": scenario.setting.config(),
        "network_sha256": network,
        "data_sha256": data.public_sha256,
        "code_sha256": checksum_of([Path(client.__file__)], parts.items()),
        "behavior_sha256": Behaviors().of(data, parts, scenario.batch_size),
    }


def taught(cell: Cell, model: nn.Module, image_shape: tuple[int, int, int, int]) -> Cell | None:
    """The cell whose attack is trained for this one: itself, or that of an ensemble's second tier; None where there is
    nothing to train.

    Args:
        cell: of any attack.
        model: its network.
        image_shape: (N, C, H, W) of a victim's batch.
    """
    attack, setting = build("attack", cell.attack), cell.scenario.setting
    if isinstance(attack, AutoLeak) and attack.training_steps:
        parts = attack.parts_for(model, image_shape, setting.protocol, setting.threat, setting.shared)
        second = parts.get(LearnedInversion.__name__)
        return replace(cell, attack=Spec(LearnedInversion.__name__, vars(second))) if second else None
    return cell if isinstance(attack, LearnedInversion) else None


def trained_for(cell: Cell) -> str:
    """What is trained, for people."""
    against = f" against {cell.defense.label}" if cell.defense and cell.adaptive else ""
    return f"{cell.attack.name} for {cell.scenario.label}{against}"


def kept_at(cache: Path, name: str, device: torch.device = CPU) -> Path:
    """The file of a training.

    Args:
        cache: folder.
        name: digest of its :func:`identity`.
        device: where it is trained.
    """
    return cache / "attackers" / f"{name}{'' if device.type == 'cpu' else f'-{device.type}'}.pt"


def is_over(path: Path, steps: int) -> bool:
    """Whether the file holds a training of so many steps, and all of them; it is left as it is."""
    try:
        held = weights_in(path)
    except Damaged:
        return False
    return held is not None and int(held["done"]) >= steps


def learned(
    attack: LearnedInversion, seen: Observation, what: str, path: Path | None, callbacks: Sequence[Callback] = ()
) -> tuple[Inverter, dict[str, Any]]:
    """An attacker's trained network: from its file where the training is over, else trained further and put there.

    Of several processes that want one network, one trains it and the others wait.

    Args:
        attack: how it is trained.
        seen: what the attacker knows.
        what: is trained, for people.
        path: of the file; None for a training that is not kept.
        callbacks: that watch the training.

    Returns:
        The network, and what its training has cost in all processes, as a record has it.

    Raises:
        UsageError: the file cannot be written or read, or the network is too large for the memory.
    """
    with within_memory(what):
        inverter = attack.inverter(seen)
        if path is None:
            began = time.process_time()
            inverter.learn(callbacks)
            seconds = time.process_time() - began
        else:
            seconds = resumed(inverter, path)
            if inverter.done < inverter.steps:
                make_writable(path.parent, path.parent.parent, OTHER_CACHE)
                tidy(path.parent)
                with only_one(path, what):
                    seconds = resumed(inverter, path)  # another process may have trained it meanwhile
                    if inverter.done < inverter.steps:
                        begins = (
                            f"training goes on after {inverter.done:,} steps" if inverter.done else "training, once"
                        )
                        say(f"{what}: {begins}; the network is kept in {path.parent}")
                        keeping = Keeping(path, seconds, Clock(what).reached)
                        inverter.learn([*callbacks, keeping])
                        seconds = keeping.keep(inverter)
                        say(f"{what}: trained in {clock(seconds)} of CPU time")
    cost = {"cpu_seconds": float(f"{seconds:.6g}"), "public_images": inverter.public_images, "steps": inverter.done}
    return inverter, cost


@contextmanager
def within_memory(what: str) -> Iterator[None]:
    """UsageError where memory runs out inside."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise UsageError(
            f"{what}: the training ran out of memory: give it a smaller hidden, entries or pairs"
        ) from None


def resumed(inverter: Inverter, path: Path) -> float:
    """Lets a training go on from its file, if there is one, and returns the CPU seconds that it has taken so far."""
    held = read(path, inverter.device)
    if held is None:
        return 0.0
    inverter.restore(held)
    return float(held["cpu_seconds"])


class Keeping(Callback):
    """Keeps a training in its file from time to time.

    Args:
        path: of the file.
        before: CPU seconds that it had taken when this process began.
        told: hears how far it is.
    """

    def __init__(self, path: Path, before: float, told: Callable[[int, int], None]) -> None:
        self._path, self._told = path, told
        self._began, self._kept = time.process_time() - before, time.perf_counter()

    def keep(self, inverter: Inverter) -> float:
        """Writes the file, and returns the CPU seconds of the training in all processes."""
        seconds = time.process_time() - self._began
        write(self._path, {}, inverter.state() | {"cpu_seconds": torch.tensor(seconds, dtype=torch.float64)})
        self._kept = time.perf_counter()
        return seconds

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: int, batch_idx: int) -> None:
        assert isinstance(pl_module, Inverter)
        self._told(pl_module.done, pl_module.steps)
        if batch_idx and time.perf_counter() - self._kept > EVERY:
            self.keep(pl_module)
