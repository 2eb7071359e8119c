"""Flags of classes on the command line, as in ``--attack IDLG --attack.tolerance 0``."""

from typing import Any

import yaml

from benchmark.errors import UsageError

KINDS = ("data", "model", "defense", "attack", "scenario", "trainer")

Parts = dict[str, dict[str, str]]
"""Kind -> arguments as they were typed, the class under the key ``class``; a scenario has none."""


def take_parts(given: list[str]) -> tuple[list[str], Parts, tuple[str, str] | None]:
    """Takes the flags of classes, as in ``--attack IDLG --attack.tolerance 0``, out of the command line.

    Returns:
        What is left, the parts, and the kind and class of a ``--KIND.help CLASS``.

    Raises:
        UsageError: a flag has no value or no argument's name, or is given twice, of which only one could count.
    """
    left: list[str] = []
    parts: Parts = {}
    wants_help = None
    words = iter(given)
    for word in words:
        flag, equals, value = word.partition("=")
        kind, dot, key = flag.removeprefix("--").partition(".")
        if not flag.startswith("--") or kind not in KINDS:
            left.append(word)
            continue
        if not equals and flag in ("--scenario.help", "--trainer.help"):
            wants_help = (kind, "")
            continue
        if not equals:
            value = next(words, "--")
            if value.startswith("--"):
                raise UsageError(f"{flag} needs a value; one that begins with -- is given as {flag}=VALUE")
        if key == "help":
            wants_help = (kind, value)
        elif dot and not key:
            raise UsageError(f"{flag} needs the name of an argument after the dot")
        elif kind == "scenario" and not dot:
            raise UsageError("--scenario needs the name of an argument after a dot, as in --scenario.shared true")
        else:
            if flag == "--trainer":
                raise UsageError("--trainer needs an argument, as in --trainer.profiler simple; see --trainer.help")
            if (key or "class") in parts.setdefault(kind, {}):
                more = (
                    ", of which only one could count" if dot else ": a single cell takes one; several go into a suite"
                )
                raise UsageError(f"{flag} is given twice{more}")
            parts[kind][key or "class"] = value
    return left, parts, wants_help


def typed_scenario(args: dict[str, str]) -> dict[str, Any]:
    """The keys of a scenario as a suite has them: ``protocol.epochs`` is a key of ``protocol``, whose class is what was
    given as ``protocol``."""
    from benchmark.suite.documents import load_yaml

    made: dict[str, Any] = {}
    for place, text in sorted(args.items()):  # a key comes before those in it
        try:
            value = load_yaml(text)
        except (yaml.YAMLError, ValueError):
            raise UsageError(f"the value of --scenario.{place} cannot be read as YAML: {text}") from None
        key, dot, inner = place.partition(".")
        if dot:
            held = made.setdefault(key, {})
            made[key] = held if isinstance(held, dict) else {"class": held}
            made[key][inner] = value
        else:
            made[key] = value
    return made


def typed_part(kind: str, args: dict[str, str]) -> dict[str, Any]:
    """A class and its arguments as they were typed, in the types that the class says; a sweep is read as YAML."""
    from benchmark.suite import registry  # torch
    from benchmark.suite.documents import load_yaml
    from benchmark.suite.suite import check_sweep

    texts = {key: value for key, value in args.items() if key not in ("class", "sweep")}
    swept: dict[str, Any] = {}
    if "sweep" in args:
        try:
            swept["sweep"] = load_yaml(args["sweep"])
        except (yaml.YAMLError, ValueError):
            raise UsageError(f"the value of --{kind}.sweep cannot be read as YAML: {args['sweep']}") from None
        check_sweep(args["class"], swept["sweep"])
    return {"class": args["class"], **registry.typed(kind, args["class"], texts, swept.get("sweep")), **swept}
