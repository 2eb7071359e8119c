"""Trained networks, each trained once and kept by what decides it."""

import contextlib
import hashlib
import inspect
import io
import json
import os
import time
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from torch import Tensor, nn

from benchmark.clock import clock
from benchmark.errors import UsageError, one_line
from benchmark.federation import pretraining
from benchmark.federation.clients import Weights
from benchmark.federation.pretraining import check_images, follow
from benchmark.federation.state import TrainingState
from benchmark.identity import digest
from benchmark.store.store import cannot_write, make_writable, say, tidy, write_whole
from benchmark.suite.documents import regular
from benchmark.suite.registry import Spec, build_model
from benchmark.versions.behavior import Behaviors
from benchmark.versions.code import checksum_of, networks_sha256
from datamodules import PrivateData
from datamodules.errors import name_of

CPU = torch.device("cpu")

OTHER_CACHE = "set LEAKBOARD_CACHE to another folder"
"""What to do where the folder of trained networks cannot be written."""

LONG = 10.0
"""Seconds after which a training says how much longer it takes."""


def trained(
    state: TrainingState, model: Spec, data: PrivateData, seed: int, cache: Path, device: torch.device = CPU
) -> Weights:
    """The network that a recipe leads to: from ``CACHE/states`` where it is there, else trained and put there.

    Of several processes that want one network, one trains it and the others wait.

    Args:
        state: the recipe.
        model: the network.
        data: open; its public images are trained on.
        seed: of all that is drawn.
        cache: folder, made where it is missing.
        device: where it is trained, and where the weights are put.

    Returns:
        Name -> value of each parameter and buffer of one network, ``[*shape]``.

    Raises:
        UsageError: the folder cannot be written, or see :func:`benchmark.federation.pretraining.follow`.
        DataError: an image is damaged.
    """
    made, about, path = named(state, model, data, seed, cache, device)
    if (kept := read(path, device)) is not None:
        return kept
    make_writable(path.parent, cache, OTHER_CACHE)
    tidy(path.parent)
    what = f"{model.name} on {name_of(data)} {state.label}"
    with only_one(path, what):
        if (kept := read(path, device)) is None:  # another process may have trained it meanwhile
            began = time.perf_counter()
            say(f"{what}: training, once; the weights are kept in {path.parent}")
            kept = follow(state, made.to(device), model.name, data, seed, Clock(what).reached)
            write(path, about, kept)
            say(f"{what}: trained in {clock(time.perf_counter() - began)}")
    return kept


def named(
    state: TrainingState, model: Spec, data: PrivateData, seed: int, cache: Path, device: torch.device = CPU
) -> tuple[nn.Module, dict[str, Any], Path]:
    """The network before its training, everything that decides what that leads to, and the file where this is kept.

    Raises:
        UsageError: there are no public images to train on.
    """
    check_images(data, model.name)
    made: nn.Module = build_model(model, data)
    about = identity(state, model, made, data, seed) | ({"device": device.type} if device.type != "cpu" else {})
    return made, about, cache / "states" / f"{digest(about)}.pt"


def is_kept(path: Path) -> bool:
    """Whether :func:`read` finds weights in the file, which is left as it is."""
    try:
        return weights_in(path) is not None
    except Damaged:
        return False


def cache_folder() -> Path:
    """Where trained networks are kept: what the environment variable LEAKBOARD_CACHE names, else ~/.cache/leakboard.

    Raises:
        UsageError: there is no such variable, and no home.
    """
    if given := os.environ.get("LEAKBOARD_CACHE"):
        return Path(given)
    try:
        return Path.home() / ".cache" / "leakboard"
    except RuntimeError:  # as in a container whose user is unknown
        raise UsageError(
            "there is no home folder in which trained networks can be kept: set LEAKBOARD_CACHE to a folder"
        ) from None


def identity(state: TrainingState, model: Spec, made: nn.Module, data: PrivateData, seed: int) -> dict[str, Any]:
    """Everything that decides what a training on a CPU leads to."""
    loader = inspect.getsourcefile(type(data).train_dataloader)  # a user's own may augment the images
    ours = {Path(pretraining.__file__), *([Path(loader)] if loader else [])}
    return {
        "state": state.config(),
        "model": model.as_dict(),
        "seed": seed,
        "network_sha256": networks_sha256(made, seed, 0),
        "data_sha256": data.public_sha256,
        "code_sha256": checksum_of(ours, [("model", model)]),
        "behavior_sha256": Behaviors().of(data, {"model": model}, batch_size=4, train=True),
    }


@contextlib.contextmanager
def only_one(path: Path, what: str) -> Any:
    """Holds the lock of a file, for which it waits as long as another process has it.

    Raises:
        UsageError: the lock cannot be written.
    """
    lock = FileLock(path.with_suffix(".lock"))
    try:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            say(f"{what}: another process is training it")
            lock.acquire()
    except OSError as error:
        raise cannot_write(path, error, OTHER_CACHE) from None
    try:
        yield
    finally:
        path.with_suffix(".lock").unlink(missing_ok=True)  # before the release, as in store.claimed
        lock.release()


def write(path: Path, about: dict[str, Any], weights: Weights) -> None:
    """Keeps weights in a file, whole or not at all, with what they are of and their sha256.

    Raises:
        UsageError: the disk is full or the folder is not writable any more.
    """
    on_cpu = {name: value.cpu() for name, value in weights.items()}
    content = io.BytesIO()
    torch.save({"about": json.dumps(about), "weights": on_cpu, "sha256": sha256_of(on_cpu)}, content)
    write_whole(path, content.getvalue(), OTHER_CACHE)


class Damaged(Exception):
    """A file does not hold the weights that were written into it; the message says why."""


def read(path: Path, device: torch.device) -> Weights | None:
    """The weights in a file; None where there is none, or where it is damaged: then it is reported and removed.

    Raises:
        UsageError: it cannot be read, and may be whole.
    """
    try:
        weights = weights_in(path)
    except Damaged as why:
        say(f"{path} is damaged ({why}): it is trained again")
        path.unlink(missing_ok=True)
        return None
    return weights and {name: value.to(device) for name, value in weights.items()}


def weights_in(path: Path) -> Weights | None:
    """The weights in a file, on the CPU; None where there is none.

    Raises:
        UsageError: it cannot be read, and may be whole.
        Damaged: it holds something else.
    """
    try:
        regular(path)
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror}): check its permissions, or remove it") from None
    try:
        found = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        weights: Weights = found["weights"]
        if sha256_of(weights) != found["sha256"]:
            raise ValueError("another checksum")
    except Exception as error:  # a damaged file makes torch raise nearly anything
        raise Damaged(one_line(error) or type(error).__name__) from None
    return weights


def sha256_of(weights: dict[str, Tensor]) -> str:
    """sha256 of names, types, shapes and values."""
    together = hashlib.sha256()
    for name, value in sorted(weights.items()):
        together.update(f"{name} {value.dtype} {list(value.shape)}".encode())
        together.update(value.contiguous().flatten().view(torch.uint8).numpy().data)
    return together.hexdigest()


class Clock:
    """Says once how much longer a long training takes.

    Args:
        what: is trained, for people.
    """

    def __init__(self, what: str) -> None:
        self._what, self._began, self._said = what, time.perf_counter(), False

    def reached(self, done: int, steps: int) -> None:
        """So many steps of all are done."""
        spent = time.perf_counter() - self._began
        left = spent / max(1, done) * (steps - done)
        if not self._said and spent > LONG and left > LONG:
            self._said = True
            say(f"{self._what}: about {clock(left)} left")
