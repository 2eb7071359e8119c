"""Classes by name: attacks, defenses, data sets and models, with their arguments checked by jsonargparse."""

import contextlib
import importlib
import inspect
import io
import math
import re
import sys
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import torch
from jsonargparse import ArgumentError, ArgumentParser

import attacks
import datamodules
import defenses
from benchmark.errors import UsageError, one_line, unknown
from benchmark.models import MLP, ConvNet, LeNet
from benchmark.resnet import ResNet
from datamodules import DataError

ROOT = Path(__file__).parent.parent
OURS = ("attacks", "benchmark", "datamodules", "defenses")

MODELS = (LeNet, MLP, ConvNet, ResNet)

KINDS = ("attack", "defense", "data", "model")

# Arguments that are not the user's to give in a suite: they come from the data, or from the command line.
_GIVEN_ELSEWHERE = {"data": {"root", "download"}, "model": {"image_shape", "num_classes"}}


@dataclass(frozen=True)
class Spec:
    """A class by name with all its arguments, defaults included: the identity of a part of a cell."""

    name: str
    args: dict[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        return {"class": self.name, **{k: _plain(v) for k, v in self.args.items()}}

    @property
    def label(self) -> str:
        """The class with its arguments, for people."""
        return f"{self.name}({', '.join(f'{k}={v}' for k, v in self.args.items())})" if self.args else self.name


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
    if kind == "model":
        return {cls.__name__: cls for cls in MODELS}
    package, base = {
        "attack": (attacks, attacks.Attack),
        "defense": (defenses, defenses.Defense),
        "data": (datamodules, datamodules.PrivateData),
    }[kind]
    found = {name: getattr(package, name) for name in package.__all__}
    return {
        name: cls for name, cls in found.items() if inspect.isclass(cls) and issubclass(cls, base) and cls is not base
    }


def _usable(kind: str, cls: type) -> bool:
    """Whether a user's own class is of the kind."""
    if kind == "model":
        return issubclass(cls, torch.nn.Module) and hasattr(cls, "draw")
    bases: dict[str, type] = {"attack": attacks.Attack, "defense": defenses.Defense, "data": datamodules.PrivateData}
    return issubclass(cls, bases[kind]) and not inspect.isabstract(cls)


_MUST_BE = {
    "attack": "an attacks.Attack with all its methods",
    "defense": "a defenses.Defense with all its methods",
    "data": "a datamodules.PrivateData",
    "model": "a torch.nn.Module with a method draw, as in benchmark/models.py",
}


def find_class(kind: str, name: str) -> type:
    """The class of that name, or of that import path for a user's own.

    Raises:
        UsageError: there is none.
    """
    known = classes(kind)
    if name in known:
        return known[name]
    what = {"data": "data set"}.get(kind, kind)
    if "." not in name:
        raise unknown(what, name, known)
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.append(here)  # an installed command does not look where it is called
    module, _, attribute = name.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except Exception as error:  # the user's module can raise anything
        reason = f"{type(error).__name__}: {one_line(error)}"
        raise UsageError(
            f"the {what} {name!r} can not be imported ({reason}): give the path of a module and a class in it"
        ) from None
    if not inspect.isclass(found):
        raise UsageError(f"the {what} {name!r} is not a class")
    if not _usable(kind, found):
        raise UsageError(f"the {what} {name!r} must be {_MUST_BE[kind]}")
    return found


@cache
def parser_for(kind: str, name: str) -> ArgumentParser:
    """A parser of the class's arguments, whose help is made from its docstring and signature."""
    usage = f"--{kind} {name} [--{kind}.ARGUMENT VALUE ...]"
    parser = ArgumentParser(exit_on_error=False, prog=name, usage=usage, add_help=False)
    hidden: set[str | int] = set(_GIVEN_ELSEWHERE.get(kind, set()))
    parser.add_class_arguments(find_class(kind, name), kind, as_group=False, skip=hidden)
    return parser


@cache
def arguments(kind: str, name: str) -> tuple[str, ...]:
    """The names of the arguments that a suite can give the class."""
    hidden = _GIVEN_ELSEWHERE.get(kind, set())
    return tuple(p for p in inspect.signature(find_class(kind, name)).parameters if p not in hidden)


def spec(kind: str, name: str, args: dict[str, Any]) -> Spec:
    """Checks names, types and ranges, and fills in the defaults.

    Raises:
        UsageError: says what is wrong, and which names are near.
    """
    for key in args:
        if key not in arguments(kind, name):
            raise unknown(f"argument of {name}", key, arguments(kind, name))
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            parsed = parser_for(kind, name).parse_object({kind: args}, defaults=True)
    except ArgumentError as error:
        raise UsageError(f"{name}: {_sentence(str(error), kind)}") from None
    filled = parsed.get(kind)
    made = Spec(name, dict(sorted(vars(filled).items())) if filled is not None else {})
    if kind != "model":  # a model needs its data: the plan makes it
        build(kind, made)
    return made


def _sentence(message: str, kind: str) -> str:
    """jsonargparse's message of several lines as one: which argument, what was expected, what was given."""
    key = re.search(rf'key "{kind}\.(\w+)"', message)
    expected = re.search(r"Expected an? <class '(\w+)'>", message)
    given = re.search(r"Got value: (.*)", message)
    if key and expected:
        names = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "a text"}
        value = f", not {given.group(1).strip()}" if given else ""
        return f"{key.group(1)} must be {names.get(expected.group(1), expected.group(1))}{value}"
    return re.sub(r"\s+", " ", message).replace(f"{kind}.", "")


def build(kind: str, made: Spec, **extra: Any) -> Any:
    """An instance; ``extra`` are the arguments that are given elsewhere, dropped where the class has no use for them.

    Raises:
        UsageError: an argument is out of range.
    """
    cls = find_class(kind, made.name)
    wanted = {k: v for k, v in extra.items() if k in inspect.signature(cls).parameters}
    try:
        return cls(**wanted, **made.args)
    except (ValueError, DataError) as error:
        raise UsageError(f"{made.name}: {one_line(error)}") from None
    except Exception as error:  # a user's own class can raise anything, and so does null where a number belongs
        raise UsageError(f"{made.label} can not be made ({type(error).__name__}: {one_line(error)})") from None


def summary(kind: str, name: str) -> str:
    """The first line of the class's docstring."""
    return (inspect.getdoc(find_class(kind, name)) or "").partition("\n")[0]


def help_text(kind: str, name: str) -> str:
    """What the class does and what its arguments are, from its docstring."""
    doc = (inspect.getdoc(find_class(kind, name)) or "").partition("\nArgs:")[0].strip()
    return f"{doc}\n\n{parser_for(kind, name).format_help()}"
