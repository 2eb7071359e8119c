"""Objects that are handed over in Python: the import path by which any process finds them, or else what they are.

A function of a notebook has no file whose checksum could be in a key. So what it does is: its bytecode, and all that
it names or holds.
"""

import builtins
import hashlib
import inspect
import sys
from collections.abc import Iterator
from functools import partial
from importlib import import_module
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from benchmark.errors import CODE_ERRORS, is_users, quoted
from benchmark.rehearsal.defense import imported_anew
from benchmark.suite.objects import LOCAL
from benchmark.suite.registry import checked_class, classes
from benchmark.versions.code import followed
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
    return hashlib.sha256("\n".join(sorted(lines_of(given))).encode(errors="surrogatepass")).hexdigest()


def lines_of(given: Any) -> set[str]:
    """One line for each function, class, file and value that an object consists of, names or holds."""
    seen: set[int] = set()

    def walk(path: str, value: Any) -> Iterator[str]:
        if id(value) in seen:
            return
        seen.add(id(value))
        value = inspect.unwrap(value) if inspect.isfunction(value) else value
        if isinstance(value, staticmethod | classmethod) or inspect.ismethod(value):
            yield from walk(path, value.__func__)
        elif isinstance(value, property):
            yield from (line for one in (value.fget, value.fset) if one for line in walk(path, one))
        elif isinstance(value, partial):
            yield from walk(f"{path}.func", value.func)
            yield from walk(f"{path}.args", [value.args, value.keywords])
        elif inspect.isfunction(value) and is_own(value.__code__.co_filename):
            yield from of_function(path, value)
        elif inspect.isclass(value) and is_own(file_of(value)):
            yield f"{path}: class {value.__qualname__} of {[one.__qualname__ for one in value.__bases__]}"
            for one in value.__bases__:
                yield from walk(f"{path} of {one.__qualname__}", one)
            for name, one in vars(value).items():
                if name not in ("__dict__", "__weakref__", "__doc__", "__module__", "__firstlineno__"):
                    yield from walk(f"{path}.{name}", one)
        elif isinstance(value, ModuleType):
            file = getattr(value, "__file__", None)
            if file and is_users(file):
                yield from (f"{path} {one.sha256}" for one in followed([Path(file).resolve()]).values())
            else:
                yield f"{path}: module {value.__name__}"
        elif inspect.isclass(value) or inspect.isroutine(value):
            yield f"{path}: {getattr(value, '__module__', '')}.{getattr(value, '__qualname__', '')}"
        elif isinstance(value, list | tuple | dict):
            yield from held(path, value)
            for number, one in enumerate(value.values() if isinstance(value, dict) else value):
                if not isinstance(one, str | int | float | None):
                    yield from walk(f"{path}[{number}]", one)
        else:
            yield from held(path, value)
            if is_own(file_of(type(value))):
                yield from walk(f"{path} of {type(value).__qualname__}", type(value))
                for name, one in vars(value).items() if hasattr(value, "__dict__") else ():
                    yield from walk(f"{path}.{name}", one)

    def of_function(path: str, function: Any) -> Iterator[str]:
        yield f"{path} does {digest_of_code(function.__code__)}"
        yield from walk(f"{path} defaults", [function.__defaults__, function.__kwdefaults__])
        named = inspect.getclosurevars(function)
        for name, value in {**named.nonlocals, **named.globals}.items():
            yield from walk(f"{path} names {name}", value)
        for name in names_in(function.__code__) - set(named.globals) - set(named.nonlocals):  # of functions within
            if name in function.__globals__ and not hasattr(builtins, name):
                yield from walk(f"{path} names {name}", function.__globals__[name])

    return set(walk("", given))


def digest_of_code(code: CodeType) -> str:
    """sha256 of bytecode with its constants and names, without lines and file."""
    constants = [constant(one) for one in code.co_consts]
    parts = (code.co_code.hex(), code.co_names, code.co_varnames, code.co_freevars, constants)
    return hashlib.sha256(repr(parts).encode(errors="surrogatepass")).hexdigest()


def constant(value: Any) -> str:
    """A constant of some code; a set is in no order."""
    if isinstance(value, CodeType):
        return digest_of_code(value)
    return repr(sorted(map(repr, value)) if isinstance(value, frozenset) else value)


def names_in(code: CodeType) -> set[str]:
    """All names that the code uses, in functions within it, too."""
    return set(code.co_names).union(*(names_in(one) for one in code.co_consts if isinstance(one, CodeType)))


def file_of(cls: type) -> str:
    """The file of a class; that of its module where it is written in none."""
    module = sys.modules.get(cls.__module__)
    return str(getattr(module, "__file__", None) or ("<notebook>" if cls.__module__ == "__main__" else "<frozen>"))


def is_own(file: str) -> bool:
    """Whether code is the user's own: in a file of theirs, or typed into a notebook."""
    return not file.startswith("<frozen") if file.startswith("<") else is_users(file)


def only_here(names: set[str]) -> str | None:
    """The first of the names that no other process can find, for people; None where there is none."""
    return next((quoted(name) for name in sorted(names) if name in LOCAL), None)
