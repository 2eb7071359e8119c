"""The benchmark: what is attacked, how it is measured, and how that is kept and shown.

``from benchmark import run, show, board`` is the same as the commands, which are in ``cli``.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from benchmark.api import Result, run
    from benchmark.boards.notebook import board, show
    from benchmark.errors import UsageError

__all__ = ["Result", "UsageError", "board", "run", "show"]

_WHERE = {"Result": "api", "run": "api", "board": "boards.notebook", "show": "boards.notebook", "UsageError": "errors"}


def __getattr__(name: str) -> Any:
    """Imports torch and Lightning, which take seconds, when they are first needed."""
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"benchmark.{_WHERE[name]}"), name)
