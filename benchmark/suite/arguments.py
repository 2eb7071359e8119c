"""The arguments of a class: their names, types and values, read from its signature by jsonargparse."""

import contextlib
import inspect
import io
import itertools
import math
import re
import sys
import types
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import torch
import yaml
from jsonargparse import ArgumentError, ArgumentParser, Namespace, set_loader

from benchmark.errors import (
    CODE_ERRORS,
    UsageError,
    as_given,
    one_line,
    quoted,
    unknown,
    unquoted,
    users_code,
    users_fault,
    written,
)
from benchmark.suite.documents import load_yaml, storable
from defenses.base import Defense

LARGEST_INT = 2**63 - 1
"""What fits into 64 bits, as torch and NumPy count."""

LARGEST_FLOAT = torch.finfo(torch.float32).max

set_loader("leakboard", load_yaml, exceptions=(yaml.YAMLError, ValueError))


class Arguments:
    """Those of one class.

    Args:
        kind: of the class, the prefix of its flags.
        name: of the class, for messages.
        cls: the class.
        hidden: arguments that are not the user's to give.

    Attributes:
        names: of the arguments, those among them that ``**kwargs`` hand on to a parent.
        composed: those of them that are lists of defenses.

    Raises:
        UsageError: the signature cannot be read.
    """

    def __init__(self, kind: str, name: str, cls: type, hidden: frozenset[str] = frozenset()) -> None:
        self.kind, self.name, self._cls = kind, name, cls
        self._parser = parser_of(kind, name, cls, hidden)
        self._all = frozenset(names_of(parser_of(kind, name, cls), kind) if hidden else ())
        with users_code(f"the arguments of {name} cannot be read"):
            self._signature = inspect.signature(cls).parameters
        unnamed = {key for key, one in self._signature.items() if one.kind is one.POSITIONAL_ONLY}
        self.names = tuple(key for key in names_of(self._parser, kind) if key not in unnamed)
        self._hints = hints_of(cls)
        self.composed = tuple(key for key in self.names if takes_defenses(self._hints.get(key)))

    def takes(self, argument: str) -> bool:
        """Whether the class takes the argument, hidden ones included."""
        return argument in self.names or argument in self._all

    @property
    def whole(self) -> tuple[str, ...]:
        """The arguments that must be whole numbers."""
        defaults = {key: type(one.default) for key, one in self._signature.items()}
        return tuple(key for key in self.names if is_whole(self._hints.get(key, defaults.get(key))))

    def unusual(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Those of all arguments that are not the defaults."""
        defaults = {key: one.default for key, one in self._signature.items()}
        return {key: value for key, value in values.items() if key not in defaults or defaults[key] != value}

    def help(self) -> str:
        """What the arguments are."""
        return self._parser.format_help()

    def typed(self, texts: Mapping[str, str], sweep: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Arguments that were typed on the command line, as their types say.

        A text is taken as it was typed. Numbers, true, false, lists and mappings are read as YAML; so is ``null`` where
        the argument may be None. An argument without a type is read as YAML.

        Args:
            texts: by argument.
            sweep: values of others, at least one of each, which need not be typed then.

        Raises:
            UsageError: an argument is unknown, missing, or has another type.
        """
        every = {key: as_typed(values[0]) for key, values in (sweep or {}).items()} | dict(texts)
        self._check_names(every)
        self._check_numbers(texts, typed=True)
        words = [f"--{self.kind}.{key}={value}" for key, value in every.items()]
        parsed = self._parsed(every, lambda: self._parser.parse_args(words, defaults=True))
        return {key: _plain(parsed[key]) for key in texts}

    def filled(self, args: Mapping[str, Any]) -> dict[str, Any]:
        """Arguments with the right types, and the defaults of those that are not given.

        A default that no suite could give (a module, a function) is left out: the code of the class has it.

        Raises:
            UsageError: an argument is unknown, missing, has another type, or is no number that can be computed with.
        """
        self._check_names(args)
        for key, value in args.items():
            if value is None and key in self._hints and not takes_null(self._hints[key]):
                raise UsageError(f"{self.name}: {key} must be {in_words(self._hints[key])}, not null")
        self._check_numbers(args)
        parsed = self._parsed(args, lambda: self._parser.parse_object({self.kind: dict(args)}, defaults=True))
        filled = {key: _plain(value) for key, value in parsed.items() if key in args or is_plain(value)}
        filled = {key: filled[key] for key in self.names if key in filled}
        for key, value in filled.items():
            check_value(f"{self.name}: {key}", value)
        return filled

    def swept(self, args: Mapping[str, Any], sweep: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
        """What :meth:`filled` says of each combination of swept values, in the order of :func:`itertools.product`.

        jsonargparse takes a millisecond for each call: of numbers that an argument takes whatever they are, it reads
        the first of each type, and the others are made of the type that it has made of that one.

        Raises:
            UsageError: as :meth:`filled` for the first combination that is refused.
        """
        keys = list(sweep)
        grid = [dict(zip(keys, values, strict=True)) for values in itertools.product(*sweep.values())]
        alike: dict[tuple[tuple[str, type], ...], dict[str, Any]] = {}
        found = []
        for values in grid:
            if not all(is_any_number(value, self._hints.get(key)) for key, value in values.items()):
                found.append(self.filled({**args, **values}))
                continue
            kind = tuple((key, type(value)) for key, value in values.items())
            if kind not in alike:
                alike[kind] = self.filled({**args, **values})
            read = {key: type(alike[kind][key])(value) for key, value in values.items()}
            for key, value in read.items():
                check_value(f"{self.name}: {key}", value)
            found.append(alike[kind] | read)
        return found

    def objects(self, args: Mapping[str, Any]) -> Mapping[str, Any]:
        """The arguments for the constructor: those that describe an object (``{class_path: ...}``) as that object."""
        if not any(isinstance(value, dict | list) for value in args.values()):
            return args
        parsed = self._parsed(args, lambda: self._parser.parse_object({self.kind: dict(args)}))
        instances = self._parser.instantiate(Namespace({self.kind: Namespace(parsed)}))
        return {key: instances[self.kind][key] for key in args}

    def _check_names(self, args: Mapping[str, Any]) -> None:
        """UsageError where an argument is unknown, or one without a default is not given."""
        for key in args:
            if key not in self.names:
                raise unknown(f"argument of {self.name}", str(key), self.names)
        needed = [key for key, one in self._signature.items() if one.default is one.empty]
        needed = [key for key in needed if key in names_of(self._parser, self.kind)]
        if missing := [key for key in needed if key not in args]:
            raise UsageError(
                f"{self.name}: the following arguments are required: {', '.join(missing)}: give --{self.kind}."
                f"{missing[0]} VALUE, or {missing[0]}: VALUE beside the class in a suite{written(self._cls)}"
            )

    def _check_numbers(self, args: Mapping[str, Any], typed: bool = False) -> None:
        """UsageError for a text where a number belongs, as jsonargparse would take 1:30 for 90, and "2" for 2; and for
        a number that it cannot make a float of."""
        for key, value in args.items():
            if key in self._hints and is_no_number(value, self._hints[key], typed):
                raise UsageError(f"{self.name}: {self._expected(key, value)}")
            is_text = not {str, Path}.isdisjoint(kinds_of(self._hints.get(key)))
            check_size(f"{self.name}: {key}", as_yaml(value) if typed and not is_text else value)

    def _parsed(self, args: Mapping[str, Any], parse: Callable[[], Namespace]) -> dict[str, Any]:
        """What jsonargparse makes of arguments, in one sentence where it refuses them."""
        try:
            with contextlib.redirect_stderr(io.StringIO()):
                parsed = parse()
        except ArgumentError as error:
            raise UsageError(f"{self.name}: {self._sentence(str(error), args)}") from None
        except CODE_ERRORS as error:
            raise users_fault(error, f"the arguments of {self.name} cannot be read") from None
        return vars(parsed.get(self.kind, Namespace()))

    def _sentence(self, message: str, args: Mapping[str, Any]) -> str:
        """jsonargparse's message of several lines as one: which argument, what was expected, what was given."""
        found = re.search(rf'key "{self.kind}\.(\w+)', message)
        key = found.group(1) if found else ""
        if key not in args or key not in self._hints:
            return one_line(ValueError(message)).replace(f"{self.kind}.", "")
        return self._expected(key, args[key])

    def _expected(self, key: str, value: Any) -> str:
        """That an argument has another type."""
        hint = self._hints[key]
        kinds = kinds_of(hint)
        if isinstance(value, int | float) and str in kinds:
            given = f"{value}: put it in quotes"
        else:
            given = as_given(value, float not in kinds) if {int, float} & {*kinds} else unquoted(value)
        return f"{key} must be {in_words(hint)}, not {given}"


def parser_of(kind: str, name: str, cls: type, hidden: frozenset[str] = frozenset()) -> ArgumentParser:
    """A parser of the class's arguments, whose help is made from its docstring and signature.

    Raises:
        UsageError: the signature cannot be read.
    """
    usage = f"--{kind} {name} [--{kind}.ARGUMENT VALUE ...]"
    parser = ArgumentParser(exit_on_error=False, prog=name, usage=usage, add_help=False, parser_mode="leakboard")
    try:
        add, more = (
            (parser.add_class_arguments, {"instantiate": False})
            if inspect.isclass(cls)
            else (parser.add_function_arguments, {})  # that makes an object, such as torchvision.models.resnet18
        )
        composed = {key for key, hint in hints_of(cls).items() if takes_defenses(hint)} - hidden
        add(cls, kind, as_group=False, skip={*hidden, *composed}, fail_untyped=False, sub_configs=False, **more)
        for key in sorted(composed):
            parser.add_argument(f"--{kind}.{key}", type=list[Any], help="[{class: NAME, argument: value}, ...]")
    except CODE_ERRORS as error:
        raise users_fault(error, f"the arguments of {name} cannot be read") from None
    return parser


def names_of(parser: ArgumentParser, kind: str) -> list[str]:
    """The arguments that a parser has."""
    return list(vars(parser.get_defaults().get(kind, Namespace())))


def hints_of(cls: type) -> dict[str, Any]:
    """The types of the arguments of a class and of what its ``**kwargs`` hand on, where they are given."""
    found: dict[str, Any] = {}
    if not inspect.isclass(cls):
        with contextlib.suppress(Exception):
            found |= get_type_hints(cls)
        return found
    for one in reversed(cls.__mro__):
        with contextlib.suppress(Exception):  # the name of a type that there is not
            found |= get_type_hints(vars(one).get("__init__"))
    return found


def kinds_of(hint: Any) -> tuple[Any, ...]:
    """The types of which an argument of this type takes each."""
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def takes_null(hint: Any) -> bool:
    """Whether an argument of this type may be None."""
    if get_origin(hint) in (Union, types.UnionType):
        return any(map(takes_null, get_args(hint)))
    return hint in (Any, None, type(None), object) or (get_origin(hint) is Literal and None in get_args(hint))


def is_no_number(value: Any, hint: Any, typed: bool = False) -> bool:
    """Whether a text stands, alone or in a list or mapping, where the type wants a number, true or false.

    Args:
        value: of the argument.
        hint: its type.
        typed: whether the value was typed on the command line, where YAML says what it is.
    """
    if get_origin(hint) in (Union, types.UnionType):
        return all(is_no_number(value, one, typed) for one in get_args(hint) if one is not type(None))
    if isinstance(value, str) and typed and (value := as_yaml(value)) is None:
        return False  # jsonargparse has the sentence
    container, inner = get_origin(hint) or hint, get_args(hint)
    if container in (int, float, bool):
        return isinstance(value, str)
    if isinstance(value, list | tuple) and inner and inspect.isclass(container):
        of = [one for one in inner if one is not ...]  # tuple[int, ...]
        return any(is_no_number(one, of[min(place, len(of) - 1)]) for place, one in enumerate(value))
    if isinstance(value, dict) and len(inner) == 2:
        return any(is_no_number(one, inner[1]) for one in value.values())
    return False


def as_yaml(text: str) -> Any:
    """What a text holds that was typed; None where it is not YAML."""
    try:
        return load_yaml(text)
    except (yaml.YAMLError, ValueError):
        return None


def is_any_number(value: Any, hint: Any) -> bool:
    """Whether a value is a number, true or false, and the type takes every value of its type (a whole one as a float,
    too), as far as 64 bits hold it."""
    takes = set(get_args(hint)) if get_origin(hint) in (Union, types.UnionType) else {hint}
    if (takes := takes - {type(None)}) not in ({int}, {float}, {bool}):
        return False
    if type(value) is int:
        return takes != {bool} and abs(value) <= LARGEST_INT
    return takes == {type(value)}


def is_whole(hint: Any) -> bool:
    """Whether a number of this type is a whole one."""
    if get_origin(hint) in (Union, types.UnionType):
        numbers = [one for one in get_args(hint) if one is not type(None)]
        return bool(numbers) and all(map(is_whole, numbers))
    return inspect.isclass(hint) and issubclass(hint, int) and not issubclass(hint, bool)


_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a text", type(None): "null"}
_PLURALS = {int: "whole numbers", float: "numbers", str: "texts"}


def in_words(hint: Any) -> str:
    """A type as people call it."""
    inner = get_args(hint)
    if get_origin(hint) in (Union, types.UnionType):
        return " or ".join(map(in_words, inner))
    if get_origin(hint) is Literal:
        return f"one of {', '.join(map(str, inner))}"
    container = get_origin(hint) or hint
    if not inspect.isclass(container):
        return f"of type {hint}"
    if issubclass(container, Mapping):
        return "a mapping"
    if issubclass(container, list | tuple | set):
        of = set(inner) - {...}
        return f"a list of {_PLURALS[of.pop()]}" if len(of) == 1 and of <= _PLURALS.keys() else "a list"
    return _WORDS.get(container) or f"of type {container.__name__}"


def check_size(what: str, value: Any) -> None:
    """UsageError for a whole number that no float holds."""
    for one in value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ():
        check_size(what, one)
    if isinstance(value, int) and abs(value) > sys.float_info.max:
        raise UsageError(f"{what} is {quoted(value)}, but must fit into 64 bits")


def check_value(what: str, value: Any) -> None:
    """UsageError for a number that no computation here can hold, or a text that no record can."""
    if isinstance(value, Mapping):
        for key, one in value.items():
            check_value(f"{what}, {key}", one)
    elif isinstance(value, list | tuple | set | frozenset):
        for one in value:
            check_value(what, one)
    elif isinstance(value, float) and math.isnan(value):
        raise UsageError(f"{what} is nan, but must be a number")
    elif isinstance(value, float) and math.isfinite(value) and abs(value) > LARGEST_FLOAT:
        raise UsageError(f"{what} is {value:g}, but must be at most {LARGEST_FLOAT:.2g}, the most that float32 holds")
    elif isinstance(value, int) and abs(value) > LARGEST_INT:
        raise UsageError(f"{what} is {quoted(value)}, but must fit into 64 bits")
    elif isinstance(value, str) and not storable(value):
        raise UsageError(f"{what} is {value!a}, which is not UTF-8 and can stand in no record: rename it")


def takes_defenses(hint: Any) -> bool:
    """Whether an argument of this type is a list of defenses."""
    return get_origin(hint) in (list, Sequence) and get_args(hint) == (Defense,)


def is_plain(value: Any) -> bool:
    """Whether a suite could give this value, and a record hold it."""
    if isinstance(value, Mapping):
        return all(isinstance(key, str | int | float) and is_plain(one) for key, one in value.items())
    if isinstance(value, list | tuple | set | frozenset):
        return all(map(is_plain, value))
    return isinstance(value, str | int | float | Path | None)


def as_typed(value: Any) -> str:
    """A value as one types it."""
    return value if isinstance(value, str) else yaml.safe_dump([value], default_flow_style=True, width=10**6)[1:-2]


def _plain(value: Any) -> Any:
    """What jsonargparse knows of an object as a mapping, from which :meth:`Arguments.objects` makes the object."""
    if isinstance(value, Namespace):
        return value.as_dict()
    return [_plain(one) for one in value] if isinstance(value, list) else value
