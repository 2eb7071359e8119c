"""The user's own modules, which a rehearsal imports anew, as they may keep something from call to call."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

from benchmark.errors import is_users

_others: dict[str, ModuleType] = {}
"""Modules with a file that is known not to be the user's, by name: there are thousands, which do not change."""


def own_modules() -> dict[str, ModuleType]:
    """Those that are imported from a user's file, by name; ``__main__`` is not one of them."""
    found = {}
    for name, module in list(sys.modules.items()):  # a copy: other threads import, too
        if _others.get(name) is module:
            continue
        file = vars(module).get("__file__") if isinstance(module, ModuleType) else None
        if file is None or name == "__main__":
            continue
        if file.endswith(".py") and is_users(file):
            found[name] = module
        else:
            _others[name] = module
    return found


@contextmanager
def imported_anew() -> Iterator[None]:
    """What is imported within runs the user's own modules from the start; afterwards the first ones are back."""
    before = own_modules()
    for name in before:
        del sys.modules[name]
    try:
        yield
    finally:
        for name in own_modules():
            del sys.modules[name]
        sys.modules.update(before)
        for name, module in before.items():
            package, _, child = name.rpartition(".")
            if package in sys.modules:
                setattr(sys.modules[package], child, module)
