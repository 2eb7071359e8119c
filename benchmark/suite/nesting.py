"""Defenses that are made of defenses, as Compose is: how a suite and a record name these."""

from collections.abc import Collection, Iterator, Mapping
from typing import Any


def is_composed(value: Any) -> bool:
    """Whether a value is a list of classes with their arguments: ``[{class: NAME, argument: value}]``."""
    entries = value if isinstance(value, list | tuple) else ()
    return bool(entries) and all(isinstance(one, Mapping) and isinstance(one.get("class"), str) for one in entries)


def within(args: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The classes with their arguments that stand in the arguments of a class, and in theirs."""
    for value in args.values():
        for one in value if is_composed(value) else ():
            yield one
            yield from within(one)


Path = tuple[str | int, ...]
"""Where an argument is: its name, after the names and places of the lists of classes that it is in."""


def leaves(args: Mapping[str, Any]) -> dict[Path, Any]:
    """All arguments, also those of the classes in them, with what these classes are."""
    found: dict[Path, Any] = {}
    for name, value in args.items():
        if is_composed(value):
            parts = [leaves(one).items() for one in value]
            found |= {(name, place, *path): leaf for place, part in enumerate(parts) for path, leaf in part}
        else:
            found[name,] = value
    return found


def without(args: Mapping[str, Any], gone: Collection[Path]) -> dict[str, Any]:
    """The arguments but for some, also of the classes in them."""

    def below(first: tuple[str, int]) -> set[Path]:
        return {path[2:] for path in gone if path[:2] == first}

    return {
        name: [without(one, below((name, place))) for place, one in enumerate(value)] if is_composed(value) else value
        for name, value in args.items()
        if (name,) not in gone
    }


def argument_as_text(key: str, value: Any) -> str:
    """For people: "ratio=0.5", or of a list of classes "Clipping(max_norm=1.0) + GaussianNoise(std=0.01)"."""
    return " + ".join(map(part_as_text, value)) if is_composed(value) else f"{key}={value_as_text(value)}"


def value_as_text(value: Any) -> str:
    """For people: of a list of names "first + last"."""
    is_names = isinstance(value, list | tuple) and value and all(isinstance(one, str) for one in value)
    return " + ".join(value) if is_names else str(value)


def part_as_text(part: Mapping[str, Any]) -> str:
    """A class with its arguments, for people."""
    args = ", ".join(argument_as_text(key, value) for key, value in part.items() if key != "class")
    return f"{part['class']}({args})" if args else str(part["class"])
