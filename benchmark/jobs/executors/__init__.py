"""Where the blocks of a run are done: by processes on this machine, or by the jobs of a cluster's own scheduler.

Nothing heavy is imported here: a worker imports this on the way to ``lifeline``, and must be tied to its parent first.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

import yaml

from benchmark.errors import UsageError
from benchmark.suite.documents import load_yaml

if TYPE_CHECKING:
    from benchmark.jobs.executors.worker import Launch


def find(executor: str, given: list[str]) -> "Launch":
    """What starts the workers.

    Args:
        executor: ``local``, ``slurm`` or ``ray``.
        given: options for it, each as KEY=VALUE.

    Raises:
        UsageError: its package is missing, or an option is wrong.
    """
    options = dict(typed_option(one) for one in given)
    if executor == "local" and options:
        raise UsageError("--executor-option is for --executor slurm or --executor ray")
    try:
        module = import_module(f"benchmark.jobs.executors.{executor}")
    except ModuleNotFoundError as error:
        raise UsageError(
            f"--executor {executor} needs the package {error.name}: uv run --extra {executor} leakboard run ..."
        ) from None
    launch: Launch = module.launch if executor == "local" else module.prepare(options)
    return launch


def typed_option(given: str) -> tuple[str, Any]:
    """KEY=VALUE, the value as YAML reads it: numbers, true and false, lists."""
    key, equals, value = given.partition("=")
    try:
        if key and equals:
            return key, load_yaml(value)
    except (yaml.YAMLError, ValueError):
        pass
    raise UsageError(f"--executor-option is KEY=VALUE with a value as in YAML, not {given!r}")
