"""``leakboard check``."""

import argparse
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch

import attacks
import datamodules
import defenses
from benchmark.cli.parts import Parts, typed_part
from benchmark.errors import UsageError, place_of, quoted, unknown
from benchmark.jobs.executors.worker import quiet, set_up
from benchmark.rehearsal.contracts import DIGITS, NETWORKS, Place, Verdict, places, verdicts
from benchmark.suite.registry import KINDS, Spec, classes, imported
from benchmark.suite.suite import entries

A = {"attack": "an attack", "defense": "a defense", "model": "a model", "data": "a data set"}

BASES: dict[str, type] = {
    "attack": attacks.Attack,
    "defense": defenses.Defense,
    "data": datamodules.PrivateData,
    "model": torch.nn.Module,
}

CALLED_WITH = {"observation": "attack", "update": "defense", "image_shape": "model", "num_classes": "model"}
"""Arguments of functions, and what a function is that has them."""

TYPES = {"Observation": "attack", "Reconstruction": "attack", "Update": "defense", "Module": "model"}
"""Types in the signatures of functions, and what a function is that has them."""


def carry_out(options: argparse.Namespace, parts: Parts) -> int:
    """``leakboard check``."""
    quiet()
    set_up(1)
    return 2 if tell_contracts(*asked_for(options, parts)) else 0


def tell_contracts(kind: str, subject: Spec, where: Sequence[Place]) -> int:
    """Prints which contracts something keeps, and returns how many it breaks.

    Args:
        kind: ``attack``, ``defense``, ``model`` or ``data``.
        subject: the class with its arguments.
        where: it is tried.

    Raises:
        UsageError: it could be tried nowhere.
    """
    place = place_of(found(subject.name))
    print(f"{subject.name} is {A[kind]}{f' ({place})' if place else ''}, tried {tried_on(where)}")
    words: list[str] = []
    for of_contract in verdicts(kind, subject, where):
        for line in lines(of_contract):
            print(line, flush=True)
        said = {one.word for one in of_contract}
        words.append("fails" if "fails" in said else "holds" if "holds" in said else "skipped")
    kept, broken = words.count("holds"), words.count("fails")
    if not kept and not broken:
        raise UsageError(f"{subject.name} was tried nowhere: give a network that it takes, as in --model MLP")
    print(f"{subject.name} {f'breaks {counted(broken)}' if broken else f'keeps {counted(kept)}'}")
    return broken


def tried_on(where: Sequence[Place]) -> str:
    """The places, where they have names."""
    named = [place.name for place in where if place.name]
    return f"on {', '.join(named)}" if named else "on its own"


def counted(number: int) -> str:
    """As in "3 contracts"."""
    return f"{number} contract{'' if number == 1 else 's'}"


def lines(of_contract: Sequence[Verdict]) -> list[str]:
    """What came out of one contract: a line where it is the same in all places, else several."""
    together: dict[tuple[str, str], list[str]] = {}
    for one in of_contract:
        together.setdefault((one.word, one.reason), []).append(one.where)
    found = []
    for (word, reason), where in together.items():
        there = f" ({', '.join(where)})" if len(where) < len(of_contract) else ""
        because = f": {reason}" if reason else ""
        found.append(f"{word:<8}{of_contract[0].contract}{there}{because}")
    return found


def asked_for(options: argparse.Namespace, parts: Parts) -> tuple[str, Spec, list[Place]]:
    """What is to be checked, and where.

    Returns:
        Its kind, the class with its arguments, and the networks and data sets on which it is tried.

    Raises:
        UsageError: it is not clear, or not there.
    """
    if options.name is not None:
        kind = kind_of(options.name)
        if "class" in parts.get(kind, {}):
            raise UsageError(f"give either {options.name} or --{kind}, not both")
        parts = parts | {kind: {"class": options.name} | parts.get(kind, {})}
    else:
        given = [kind for kind in ("attack", "defense", "model", "data") if "class" in parts.get(kind, {})]
        if not given:
            raise UsageError("give the import path of what is to be checked, as in leakboard check my_attack.Mine")
        kind = given[0]
    if "scenario" in parts:
        raise UsageError("check tries what clients compute in turn: leave --scenario out")
    for other, args in parts.items():
        if "class" not in args:
            raise UsageError(f"--{other}.ARGUMENT needs --{other} NAME")
    if kind in ("attack", "defense") and (second := {"attack", "defense"} & (parts.keys() - {kind})):
        raise UsageError(f"one thing is checked at a time: leave --{second.pop()} out")
    made = {one: entries(one, typed_part(one, args)) for one, args in parts.items()}
    if several := [one for one, specs in made.items() if len(specs) > 1]:
        raise UsageError(f"one thing is checked at a time: leave --{several[0]}.sweep out")
    specs = {one: of_kind[0] for one, of_kind in made.items()}
    data = specs.get("data", DIGITS)
    networks = {} if kind == "data" else NETWORKS
    if "model" in specs:
        networks = {"" if kind == "model" else specs["model"].name: specs["model"]}
    where = places(networks or {"": NETWORKS["sigmoid"]}, data, options.data_root)
    return kind, specs[kind], where[:1] if kind == "data" else where


def found(name: str) -> Any:
    """What a name leads to: a class of ours, or what is there under an import path."""
    ours = {one: made for kind in KINDS for one, made in classes(kind).items()}
    if name in ours:
        return ours[name]
    if "." not in name:
        raise unknown("class", name, ours)
    return imported(name, "class")


def kind_of(name: str) -> str:
    """Whether a name is that of an attack, a defense, a model or a data set.

    Raises:
        UsageError: that cannot be seen.
    """
    made = found(name)
    if inspect.isclass(made):
        kinds = [kind for kind, base in BASES.items() if issubclass(made, base)]
    else:
        kinds = list(dict.fromkeys(told_by(made))) if callable(made) else []
    if len(kinds) != 1:
        raise UsageError(
            f"it cannot be seen what {quoted(name)} is: call it by its kind, as in leakboard check --attack {name}, or "
            "--defense, --model or --data"
        )
    return kinds[0]


def told_by(function: Callable[..., Any]) -> list[str]:
    """The kinds that the names and types in the signature of a function tell."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return []
    made = signature.return_annotation
    if defenses.Update in [made, *(one.annotation for one in signature.parameters.values())]:
        return ["defense"]
    hints = [one.annotation for one in signature.parameters.values()] + [made]
    if inspect.isclass(made) and issubclass(made, torch.nn.Module):
        return ["model"]
    names = {getattr(hint, "__name__", str(hint)).rpartition(".")[2] for hint in hints}
    return [CALLED_WITH[one] for one in signature.parameters if one in CALLED_WITH] + [
        kind for name, kind in TYPES.items() if name in names
    ]
