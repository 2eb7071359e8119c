"""Defenses that are made of defenses, as Compose is: how a suite and a record name these."""

from collections.abc import Iterator, Mapping
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


def argument_as_text(key: str, value: Any) -> str:
    """For people: "ratio=0.5", or of a list of classes "Clipping(max_norm=1.0) + GaussianNoise(std=0.01)"."""
    return " + ".join(map(part_as_text, value)) if is_composed(value) else f"{key}={value}"


def part_as_text(part: Mapping[str, Any]) -> str:
    """A class with its arguments, for people."""
    args = ", ".join(argument_as_text(key, value) for key, value in part.items() if key != "class")
    return f"{part['class']}({args})" if args else str(part["class"])
