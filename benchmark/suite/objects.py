"""Parts of a suite that are no classes: functions, and objects that exist in this process alone."""

import inspect
from collections.abc import Callable
from functools import update_wrapper
from typing import Any

from attacks.function import FunctionAttack
from benchmark.errors import UsageError, quoted, users_code, written
from defenses.function import FunctionDefense

LOCAL: dict[str, Any] = {}
"""What was handed over in Python and no import path leads to, by its name; no other process has it."""

CALLED_WITH = {"attack": "an observation", "defense": "an update"}
"""What a function is called with first, which no suite gives."""
SAID = (
    *("simulates", "needs", "needs_local_steps", "one_image_only", "one_network_only", "public_images"),
    "sequence",
)
"""Attributes of an attack's class that a function can have, too."""


def adapted(kind: str, function: Callable[..., Any], name: str) -> type:
    """A class of attacks or defenses that calls the function, whose other arguments are those of the class.

    Args:
        kind: ``attack`` or ``defense``.
        function: of an observation, or of one client's update; a defense may take a ``generator``, too.
        name: of the function, for messages.

    Raises:
        UsageError: it cannot be called so.
    """
    with users_code(f"the arguments of {name} cannot be read"):
        signature = inspect.signature(function)
    parameters = [one for one in signature.parameters.values() if one.kind is not one.VAR_KEYWORD]
    if not parameters or parameters[0].kind is inspect.Parameter.KEYWORD_ONLY:
        raise UsageError(
            f"the {kind} {quoted(name)} takes no argument, but is called with {CALLED_WITH[kind]}{written(function)}"
        )
    others = parameters[1:]
    if kind == "defense" and any(one.name == "generators" for one in others):
        raise UsageError(
            f"the defense {quoted(name)} takes generators, but a function gets one client's update and, if it takes "
            f"it, its generator: for all clients at once write a subclass of defenses.Defense{written(function)}"
        )
    is_random = kind == "defense" and any(one.name == "generator" for one in others)
    own = [one for one in others if one.kind not in (one.VAR_POSITIONAL, one.POSITIONAL_ONLY)]
    if is_random:
        own = [one for one in own if one.name != "generator"]
    base: type = FunctionAttack if kind == "attack" else FunctionDefense
    method = "reconstruct" if kind == "attack" else "protect"

    def __init__(self: Any, **arguments: Any) -> None:
        more = [is_random] if kind == "defense" else []
        base.__init__(self, function, *more, **arguments)  # type: ignore[misc] # of both bases

    def call(self: Any, *arguments: Any) -> Any:
        return getattr(base, method)(self, *arguments)

    update_wrapper(call, function)  # so that messages name the file and line of the function
    itself = inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    named = [one.replace(kind=one.KEYWORD_ONLY) for one in own]
    __init__.__signature__ = inspect.Signature([itself, *named])  # type: ignore[attr-defined] # read by jsonargparse
    hints = getattr(function, "__annotations__", {})
    __init__.__annotations__ = {one.name: hints[one.name] for one in own if one.name in hints}
    inside = {"__init__": __init__, method: call, "__doc__": inspect.getdoc(function)}
    where = getattr(function, "__module__", None) or type(function).__module__
    inside |= {one: getattr(function, one) for one in SAID if hasattr(function, one)}
    made: type = type(name.rpartition(".")[2], (base,), inside | {"__module__": where})
    return made
