"""Classes by name: attacks, defenses, data sets and models."""

import importlib
import inspect
import math
import sys
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any

import psutil
import torch

import attacks
import datamodules
import defenses
from benchmark import models
from benchmark.errors import (
    CODE_ERRORS,
    PACKAGES,
    UsageError,
    a_kind,
    about,
    data_fault,
    one_line,
    quoted,
    unknown,
    users_fault,
    users_line,
    written,
)
from benchmark.models.draw import drawing_from, fresh_weights
from benchmark.suite.arguments import Arguments
from benchmark.suite.nesting import part_as_text, within
from benchmark.suite.objects import LOCAL, adapted
from datamodules import DataError
from datamodules.disk import DiskData

ROOT = Path(__file__).parents[2]
OURS = PACKAGES

KINDS = ("attack", "defense", "data", "model")

# Arguments that are not the user's to give in a suite: they come from the data, or from the command line.
_GIVEN_ELSEWHERE = {"data": {"root", "download"}, "model": {"image_shape", "num_classes", "data_root"}}


@dataclass(frozen=True)
class Spec:
    """A class by name with all its arguments, defaults included: the identity of a part of a cell."""

    name: str
    args: dict[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        return dict(self._as_json)

    @cached_property
    def _as_json(self) -> dict[str, Any]:
        return {"class": self.name, **{k: _plain(v) for k, v in self.args.items()}}

    @cached_property
    def label(self) -> str:
        """The class with its arguments, for people."""
        return part_as_text({"class": self.name, **self.args})

    @property
    def inner(self) -> "list[Spec]":
        """The classes that it is made of, at any depth."""
        return [spec_of(one) for one in within(self.args)]


def spec_of(part: Mapping[str, Any]) -> Spec:
    """A class as a record, or another class, names it."""
    return Spec(part["class"], {key: value for key, value in part.items() if key != "class"})


def _plain(value: Any) -> Any:
    """JSON has no infinity, and no types but its own."""
    if isinstance(value, dict):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, str):
        return value.encode(errors="backslashreplace").decode()  # a path can be of any bytes
    is_json = isinstance(value, int | None) or (isinstance(value, float) and math.isfinite(value))
    return value if is_json else str(value)


@cache
def classes(kind: str) -> dict[str, type]:
    """The classes of a kind that come with Leakboard, by name."""
    package, base = {
        "attack": (attacks, attacks.Attack),
        "defense": (defenses, defenses.Defense),
        "data": (datamodules, datamodules.PrivateData),
        "model": (models, models.Model),
    }[kind]
    found = {name: getattr(package, name) for name in package.__all__}
    return {
        name: cls
        for name, cls in found.items()
        if inspect.isclass(cls) and issubclass(cls, base) and cls is not base and not inspect.isabstract(cls)
    }


def is_ours(kind: str, part: Spec) -> bool:
    """Whether a class, and all that it is made of, come with Leakboard."""
    return part.name in classes(kind) and all(one.name in classes("defense") for one in part.inner)


def _usable(kind: str, cls: type) -> bool:
    """Whether a user's own class is of the kind; it can also be a function, but none of Python's."""
    if not inspect.isclass(cls):
        is_python = str(getattr(cls, "__module__", "")).partition(".")[0] in sys.stdlib_module_names
        return not (is_python and inspect.isroutine(cls))
    if kind == "model":
        return issubclass(cls, torch.nn.Module)
    bases: dict[str, type] = {"attack": attacks.Attack, "defense": defenses.Defense, "data": datamodules.PrivateData}
    return issubclass(cls, bases[kind]) and not inspect.isabstract(cls)


_MUST_BE = {
    "attack": "an attacks.Attack with all its methods",
    "defense": "a defenses.Defense with all its methods",
    "data": "a datamodules.PrivateData",
    "model": "a torch.nn.Module, or a function that makes one",
}


def find_class(kind: str, name: str) -> type:
    """The class of that name, or of that import path for a user's own.

    Raises:
        UsageError: it is unknown, cannot be imported, or is something else.
    """
    known = classes(kind)
    if name in known:
        return known[name]
    if name in LOCAL:
        return checked_class(kind, name, LOCAL[name])
    called = {"data": "data set"}.get(kind, kind)
    if "." not in name:
        raise unknown(called, name, known)
    return checked_class(kind, name, imported(name, called))


def imported(name: str, called: str) -> Any:
    """What an import path leads to.

    Args:
        name: the path of a module and a class or function in it.
        called: what it should be, for messages.

    Raises:
        UsageError: it cannot be imported.
    """
    what = f"{called} {quoted(name)}"
    if not all(part.isidentifier() for part in name.split(".")):
        raise UsageError(f"the {what} cannot be imported: give the path of a module and a class in it, as mine.Mine")
    look_here()
    module, _, attribute = name.rpartition(".")
    try:
        return getattr(importlib.import_module(module), attribute)
    except CODE_ERRORS as error:
        package = name.partition(".")[0]
        if isinstance(error, ModuleNotFoundError) and package in PACKAGES and beside(package):
            raise UsageError(
                f"the {what} cannot be imported: {package} is the name of a package of Leakboard's own, so rename yours"
            ) from None
        hint = "" if users_line(error) else ": give the path of a module and a class in it"
        raise UsageError(str(users_fault(error, f"the {what} cannot be imported")) + hint) from None


def checked_class(kind: str, name: str, found: Any) -> type:
    """The class of something of a user's own, where it is one of the kind: of a function one that calls it.

    Raises:
        UsageError: it is something else.
    """
    what = f"{'data set' if kind == 'data' else kind} {quoted(name)}"
    if not inspect.isclass(found) and (kind == "data" or not callable(found)):
        either = "" if kind == "data" else " or a function"
        where = written(found) if inspect.isroutine(found) else ""
        raise UsageError(f"the {what} is not a class{either}, but {a_kind(found)}{where}")
    if not _usable(kind, found):
        missing = sorted(getattr(found, "__abstractmethods__", ()))
        lacks = f", and lacks {' and '.join(missing)}" if missing else ""
        raise UsageError(f"the {what} must be {_MUST_BE[kind]}{lacks}{written(found)}")
    is_adapted = kind in ("attack", "defense") and not inspect.isclass(found)
    return adapted(kind, found, name) if is_adapted else found


def look_here() -> None:
    """Modules in the folder that the user is in can be imported: an installed command does not look there."""
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.append(here)


def beside(package: str) -> bool:
    """Whether the folder that the user is in has a module or package of that name which is not Leakboard's."""
    here = Path.cwd()
    return here != ROOT and ((here / package).is_dir() or (here / f"{package}.py").is_file())


@cache
def arguments(kind: str, name: str) -> Arguments:
    """The arguments that a suite can give the class."""
    return Arguments(kind, name, find_class(kind, name), hidden=frozenset(_GIVEN_ELSEWHERE.get(kind, ())))


def typed(kind: str, name: str, texts: Mapping[str, str], sweep: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The arguments of a class that were typed on the command line; see :meth:`Arguments.typed`.

    Raises:
        UsageError: an argument is unknown, or has another type.
    """
    return arguments(kind, name).typed(texts, sweep)


def spec(kind: str, name: str, args: dict[str, Any]) -> Spec:
    """Checks names, types and ranges, and fills in the defaults.

    Raises:
        UsageError: says what is wrong, and which names are near.
    """
    (made,) = specs(kind, name, args, {})
    return made


def specs(kind: str, name: str, args: dict[str, Any], sweep: dict[str, list[Any]]) -> list[Spec]:
    """:func:`spec` for each combination of swept values.

    Raises:
        UsageError: as there.
    """
    known = arguments(kind, name)
    args = {key: composed(name, key, value) if key in known.composed else value for key, value in args.items()}
    sweep = {k: [composed(name, k, v) for v in each] if k in known.composed else each for k, each in sweep.items()}
    made = [Spec(name, dict(sorted(filled.items()))) for filled in known.swept(args, sweep)]
    if kind != "model":  # a model needs its data: the plan makes it
        for one in made:
            build(kind, one)
    return made


def composed(name: str, argument: str, given: Any) -> Any:
    """A list of defenses that an argument is given, each with all its arguments; what is no list is left as it is.

    Raises:
        UsageError: one of them is wrong.
    """
    if not isinstance(given, list | tuple):
        return given
    entries = [{"class": one} if isinstance(one, str) else one for one in given]
    for one in entries:
        if not isinstance(one, Mapping) or not isinstance(one.get("class"), str):
            raise UsageError(
                f"{name}: each of {argument} must be a class name or {{class: NAME, argument: value}}, not "
                f"{quoted(one)}"
            )
    parts = [spec_of(one) for one in entries]
    full = [spec("defense", one.name, {str(key): value for key, value in one.args.items()}) for one in parts]
    return [{"class": one.name, **one.args} for one in full]


def is_whole(kind: str, name: str, argument: str) -> bool:
    """Whether an argument must be a whole number."""
    return argument in arguments(kind, name).whole


def build(kind: str, made: Spec, **extra: Any) -> Any:
    """An instance; ``extra`` are the arguments that are given elsewhere, dropped where the class has no use for them.

    Raises:
        UsageError: an argument is out of range.
    """
    cls, known = find_class(kind, made.name), arguments(kind, made.name)
    wanted = {key: value for key, value in extra.items() if known.takes(key)}

    def make() -> Any:
        own = {key: value for key, value in made.args.items() if key not in known.composed}
        parts = {
            key: [build("defense", spec_of(one)) for one in made.args[key]] for key in made.args.keys() - own.keys()
        }
        return cls(**wanted, **known.objects(own), **parts)

    try:
        with drawing_from(0) if kind == "model" else nullcontext():  # a frozen body is the same in every process
            instance = make()
    except UsageError:
        raise
    except DataError as error:
        raise UsageError(about(made.name, str(data_fault(error)))) from None
    except ValueError as error:
        place = users_line(error)
        raise UsageError(f"{about(made.name, one_line(error))}{f' ({place})' if place else ''}") from None
    except CODE_ERRORS as error:  # a user's own class can raise anything
        raise users_fault(error, f"{made.label} cannot be made", cls) from None
    if kind == "model":
        if not isinstance(instance, torch.nn.Module):
            raise UsageError(
                f"the model {quoted(made.name)} makes {a_kind(instance)}, not a torch.nn.Module{written(cls)}"
            )
        if names := [name for name, parameter in instance.named_parameters() if parameter.is_complex()]:
            raise UsageError(
                f"the model {quoted(made.name)} has complex parameters ({', '.join(names)}), which no attack can take: "
                f"make each two real ones{written(cls)}"
            )
        if not callable(getattr(instance, "draw", None)):
            object.__setattr__(instance, "draw", partial(fresh_weights, make, instance))
    if kind == "data":
        _check_size(made, instance)
    return instance


def build_model(made: Spec, data: datamodules.PrivateData) -> Any:
    """A network for the images of a data set, to whose folder a file of weights can be relative.

    Raises:
        UsageError: it does not fit them, or an argument is out of range.
    """
    root = data.root if isinstance(data, DiskData) else None
    return build("model", made, image_shape=data.image_shape, num_classes=data.num_classes, data_root=root)


IMAGES_HELD = 64
"""An attack holds at least so many images at once: L-BFGS keeps the last steps and differences."""


def _check_size(made: Spec, data: datamodules.PrivateData) -> None:
    """UsageError where images of this size cannot be held in memory."""
    shape = getattr(data, "image_shape", None)
    if not isinstance(shape, tuple) or not all(isinstance(side, int) for side in shape):
        return  # a class of the user's may know it later, or be wrong in a way that is told elsewhere
    needed, there = IMAGES_HELD * 4 * math.prod(shape), psutil.virtual_memory().total
    if needed > there:
        raise UsageError(
            f"{made.label} has images of {' x '.join(map(str, shape))}, of which {IMAGES_HELD} take "
            f"{needed / 2**30:,.0f} GiB, and this machine has {there / 2**30:,.0f}: give a smaller size"
        )


def summary(kind: str, name: str) -> str:
    """The first line of the class's docstring."""
    return (inspect.getdoc(find_class(kind, name)) or "").partition("\n")[0]


def help_text(kind: str, name: str) -> str:
    """What the class does and what its arguments are, from its docstring."""
    doc = (inspect.getdoc(find_class(kind, name)) or "").partition("\nArgs:")[0].strip()
    return f"{doc}\n\n{arguments(kind, name).help()}"
