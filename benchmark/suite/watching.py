"""What of Lightning's a user gives the fits of a run: loggers, callbacks, a profiler, and how often to log.

None of it decides a result, so it is in no key: what would is refused.
"""

import contextlib
import importlib
from collections.abc import Collection, Mapping, Sequence
from functools import cache
from inspect import Parameter, signature
from pathlib import Path
from typing import Any, Literal

import torch
import yaml
from lightning.pytorch import LightningModule, Trainer, callbacks
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger
from lightning.pytorch.profilers import AdvancedProfiler, Profiler, SimpleProfiler
from torch import Tensor

from attacks.engine.problem import MatchingProblem
from benchmark.errors import CODE_ERRORS, UsageError, users_fault, written
from benchmark.suite.arguments import Arguments
from benchmark.suite.documents import load_yaml
from benchmark.suite.registry import find_class, look_here

PROFILERS: dict[str, type[Profiler]] = {"simple": SimpleProfiler, "advanced": AdvancedProfiler}

CHANGING = (
    callbacks.BaseFinetuning,
    callbacks.BatchSizeFinder,
    callbacks.GradientAccumulationScheduler,
    callbacks.LearningRateFinder,
    callbacks.ModelPruning,
    callbacks.StochasticWeightAveraging,
    callbacks.WeightAveraging,
)
"""Lightning's callbacks that change what is fitted: a victim's result would depend on others, or on the machine."""

ENDING = (callbacks.EarlyStopping, callbacks.Timer)
"""Lightning's callbacks that end a fit early."""


class Watching:
    """Arguments of Lightning's Trainer that are a user's to give.

    Args:
        logger: where the loss and the numbers of active and converged victims go: true for Lightning's own logger, or
            {class_path: lightning.pytorch.loggers.CSVLogger, init_args: {save_dir: logs}}, or a list of such.
        callbacks: that watch each fit, as in [{class_path: mine.Mine}].
        profiler: "simple" or "advanced", or a class as above.
        log_every_n_steps: evaluations between two entries of the loggers, at least 1.
        enable_progress_bar: whether each fit has a progress bar of Lightning's.
        enable_model_summary: whether each fit shows Lightning's summary of its parameters.
    """

    def __init__(
        self,
        logger: bool | Logger | list[Logger] = False,
        callbacks: list[Callback] | None = None,
        profiler: Literal["simple", "advanced"] | Profiler | None = None,
        log_every_n_steps: int = 50,
        enable_progress_bar: bool = False,
        enable_model_summary: bool = False,
    ) -> None:
        if log_every_n_steps < 1:
            raise UsageError(f"trainer: log_every_n_steps is {log_every_n_steps}, but must be at least 1")
        for one in callbacks or []:
            if isinstance(one, CHANGING):
                raise UsageError(changing(f"the callback {type(one).__name__}"))
            if isinstance(one, ENDING):
                raise UsageError(early(type(one).__name__))


def changing(what: str, where: str = "") -> str:
    """The sentence about what does more than watch."""
    return (
        f"trainer: {what} changes what is fitted, so that results would not be those of the attack{where}: leave it out"
    )


def early(what: str, where: str = "") -> str:
    """The sentence about what ends attacks early."""
    return (
        f"trainer: {what} ends attacks early, and their records would say that less leaks than does{where}: leave it "
        "out, and give the attack max_evaluations"
    )


@cache
def _known() -> Arguments:
    return Arguments("trainer", "trainer", Watching)


def watching_help() -> str:
    """What the arguments are."""
    return _known().help()


def watching(given: Any, typed: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The arguments of Lightning's Trainer in a suite or, as they were typed, on the command line, checked.

    Args:
        given: ``trainer`` of a suite, ``{argument: value}``.
        typed: argument -> text, which count more.

    Raises:
        UsageError: one is unknown, has another type, or would decide a result.
    """
    typed = typed or {}
    if not isinstance(given, dict):
        raise UsageError(f"trainer must be a mapping such as {{profiler: simple}}, not {given!r}")
    for key in (str(key) for key in (*given, *typed)):
        if key.startswith(("max_", "fast_dev_run", "limit_train_batches", "overfit_batches")):
            raise UsageError(early(key))
        if key not in _known().names and key in signature(Trainer).parameters:
            raise UsageError(
                f"trainer takes no {key}, which Leakboard sets or which would change results: choose from "
                f"{', '.join(_known().names)}"
            )
    importable(given)
    for text in typed.values():
        with contextlib.suppress(yaml.YAMLError, ValueError):  # jsonargparse has the sentence
            importable(load_yaml(text))
    made = {str(key): value for key, value in given.items()} | _known().typed(typed)
    filled = _known().filled(made)
    chosen = {key: filled[key] for key in made}
    objects(chosen)
    return chosen


def importable(given: Any) -> None:
    """UsageError where a class that is named in the arguments cannot be imported; jsonargparse would not say why."""
    for one in given if isinstance(given, list) else given.values() if isinstance(given, dict) else ():
        importable(one)
    path = given.get("class_path") if isinstance(given, dict) else None
    if isinstance(path, str) and "." in path:
        look_here()
        module, _, name = path.rpartition(".")
        try:
            getattr(importlib.import_module(module), name)
        except CODE_ERRORS as error:
            raise users_fault(error, f"trainer: the class {path} cannot be imported") from None


def objects(given: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments with their objects made, anew for each fit, which they may remember.

    Raises:
        UsageError: one cannot be made, or would decide a result.
    """
    look_here()
    made = dict(_known().objects(given))
    Watching(**made)
    return made


def for_fit(given: Mapping[str, Any], folder: Path, name: str) -> tuple[list[Callback], dict[str, Any]]:
    """The callbacks of one fit, and the other arguments of its Trainer.

    Args:
        given: as :func:`watching` returns it.
        folder: of the run, for what has no place of its own.
        name: of the fit, for the file of its profile.
    """
    made = objects(given)
    watchers = list(made.pop("callbacks", None) or [])
    profiler = made.get("profiler")
    if isinstance(profiler, str):
        made["profiler"] = PROFILERS[profiler](dirpath=folder / "profiles", filename=name)
    elif profiler is not None and profiler.filename is None:
        profiler.dirpath, profiler.filename = profiler.dirpath or folder / "profiles", name
    return watchers, made | {"default_root_dir": folder}


def is_fitted(attack: str) -> bool:
    """Whether an attack of that name or import path hands on arguments to a Trainer."""
    return any(one.kind is Parameter.VAR_KEYWORD for one in arguments_of_attack(attack))


def takes_steps(attack: str) -> bool:
    """Whether an attack of that name or import path can be told how to take its steps."""
    return is_fitted(attack) or any(one.name == "step" for one in arguments_of_attack(attack))


def arguments_of_attack(attack: str) -> Collection[Parameter]:
    """What ``reconstruct`` of an attack of that name or import path takes."""
    return signature(getattr(find_class("attack", attack), "reconstruct")).parameters.values()  # noqa: B009, mypy knows no such attribute of a type


HOOKS = (
    *("on_fit_start", "on_train_start", "on_train_epoch_start", "on_train_batch_start", "on_before_backward"),
    *("on_after_backward", "on_before_zero_grad", "on_before_optimizer_step", "on_train_batch_end"),
)
"""Where callbacks are called while victims are under attack."""


class Guard:
    """Sees that the user's callbacks watch a fit, and neither change nor end it.

    Args:
        watchers: the callbacks.
    """

    def __init__(self, watchers: Sequence[Callback]) -> None:
        self._watchers = watchers
        self._before: list[Tensor] = []

    @property
    def callbacks(self) -> list[Callback]:
        """The user's, between one that remembers and one that compares."""
        first, last = Callback(), Callback()
        for hook in HOOKS:
            setattr(first, hook, self.remember)
        for hook, called in {**dict.fromkeys(HOOKS, self.compare), "on_train_end": self.ended}.items():
            setattr(last, hook, called)
        return [first, *self._watchers, last]

    def remember(self, trainer: Trainer, module: LightningModule, *_: Any) -> None:
        """Keeps what is about to be watched."""
        self._before = [value.clone() for value in at_work(module)]

    def compare(self, trainer: Trainer, module: LightningModule, *_: Any) -> None:
        """UsageError where it is not what it was."""
        now = at_work(module)
        if len(now) != len(self._before) or not all(map(same, now, self._before)):
            raise UsageError(changing(*self._called()))

    def ended(self, trainer: Trainer, module: LightningModule) -> None:
        """UsageError where victims are left."""
        if isinstance(module, MatchingProblem) and module.victims:
            raise UsageError(early(*self._called()))

    def _called(self) -> tuple[str, str]:
        """What the callbacks are called, and where one that is alone is written."""
        names = " or ".join(dict.fromkeys(type(one).__name__ for one in self._watchers))
        return f"the callback {names}", written(type(self._watchers[0])) if len(self._watchers) == 1 else ""


def at_work(module: LightningModule) -> list[Tensor]:
    """The dummy images and labels, and their gradients where there are some."""
    return [each for one in module.parameters() for each in (one.detach(), one.grad) if each is not None]


def same(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are equal, NaN for NaN."""
    return torch.equal(one.nan_to_num(), other.nan_to_num()) and torch.equal(one.isnan(), other.isnan())
