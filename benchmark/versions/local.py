"""Objects that are handed over in Python: the import path by which any process finds them, or else what they are."""

import hashlib
import inspect
from importlib import import_module
from typing import Any

from benchmark.errors import CODE_ERRORS, quoted
from benchmark.rehearsal.own_modules import imported_anew
from benchmark.suite.objects import LOCAL
from benchmark.suite.registry import checked_class, classes
from benchmark.versions.held import held


def name_of(kind: str, given: Any) -> str:
    """The name by which a suite can give an object, which is known to this process from now on.

    It is an import path where one leads to the same code; of something that a script or a notebook has defined, or that
    was changed since it was imported, another process could make nothing.

    Args:
        kind: of the object.
        given: a class or a function.

    Raises:
        UsageError: it is not of this kind.
    """
    for name, ours in classes(kind).items():
        if given is ours:
            return name
    module = getattr(given, "__module__", None) or type(given).__module__
    called = getattr(given, "__qualname__", None) or type(given).__qualname__
    name = f"{module}.{called}"
    checked_class(kind, name, given)
    if module != "__main__" and all(part.isidentifier() for part in name.split(".")) and is_imported(module, given):
        return name
    if module != "__main__" or "<" in called or not (inspect.isclass(given) or inspect.isfunction(given)):
        name = f"{name.replace('<locals>.', '').replace('<lambda>', 'lambda')}#{digest_of(given)[:8]}"
    LOCAL[name] = given
    return name


def is_imported(module: str, given: Any) -> bool:
    """Whether the module, imported anew, has the same under its name."""
    try:
        with imported_anew():
            found = getattr(import_module(module), given.__qualname__)
            return digest_of(found) == digest_of(given)
    except CODE_ERRORS as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        return False


def digest_of(given: Any) -> str:
    """sha256 of what a function or class does and holds."""
    lines = held("", given, code=True)
    return hashlib.sha256("\n".join(sorted(lines)).encode(errors="surrogatepass")).hexdigest()


def only_here(names: set[str]) -> str | None:
    """The first of the names that no other process can find, for people; None where there is none."""
    return next((quoted(name) for name in sorted(names) if name in LOCAL), None)
