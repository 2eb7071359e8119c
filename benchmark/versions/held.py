"""What an object holds, as lines that are the same in every process: numbers, texts, arrays, and what those are in.

An address, and what tells of the time, of this process or of the machine, is left out. A function of a notebook has no
file whose checksum could be in a key, so what it does can be told too: its bytecode, and all that it names.
"""

import datetime
import decimal
import enum
import fractions
import functools
import hashlib
import inspect
import os
import re
import socket
import sys
import time
from collections import deque
from collections.abc import Iterator, Mapping, Set
from itertools import islice
from pathlib import Path, PurePath
from types import CellType, CodeType, ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmark.errors import is_users
from benchmark.suite.registry import OURS
from benchmark.versions.code import followed, place_of
from defenses.base import Update

BITS = 12
"""Of the mantissa of a number of an array that count."""

NOTHING = 2.0**-26
"""What counts as zero, relative to the largest number beside it: of a sum that would be zero, all bits are rounding."""

DEEP = 40
"""How far what an object holds is followed."""

MOST = 50_000
"""Lines that are made of an object."""

_OF_PYTHON = {"__dict__", "__weakref__", "__doc__", "__module__", "__firstlineno__", "__static_attributes__"}
"""Of a class: they tell nothing of what it does."""

_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
_DEVICE = re.compile(r"(cpu|cuda|mps)(:\d+)?")


def held(name: str, value: Any, skip: frozenset[str] = frozenset(), code: bool = False) -> set[str]:
    """One line for each number, text and array that a value holds, with the way to it.

    Args:
        name: of the value.
        value: anything; of what is not data only the type is told.
        skip: attributes that are left out, at any depth.
        code: whether the user's functions in it are told too, with all that they name.
    """
    seen: dict[int, Any] = {}  # kept, so that no other object gets one of these addresses

    def walk(path: str, value: Any, deep: int) -> Iterator[str]:
        if (leaf := _leaf(value)) is not None:
            if not passing(value):
                yield f"{path} = {leaf}"
            return
        if id(value) in seen or deep > DEEP:
            return
        seen[id(value)] = value
        yield f"{path}: {_type(value)}"
        if isinstance(value, Set):
            for one in value:
                inside = "".join(sorted(walk("", one, deep + 1)))
                yield f"{path} has {hashlib.sha256(inside.encode(errors='surrogatepass')).hexdigest()}"
            return
        try:
            parts = _parts(value, code)
        except Exception:  # an object may run code of its own when it is looked at
            return
        for key, one in parts.items():
            word = _leaf(key) or _type(key)
            if word.strip("'") not in skip:
                yield from walk(f"{path}.{word}", one, deep + 1)

    return set(islice(walk(name, value, 0), MOST))


def module_held(module: ModuleType) -> set[str]:
    """The same of the variables of a module and of its classes."""
    found = {
        name: value
        for name, value in vars(module).items()
        if not (name.startswith("__") and name.endswith("__")) and not isinstance(value, ModuleType)
    }
    return held(f"module {module.__name__}", SimpleNamespace(**found))


def _leaf(value: Any) -> str | None:
    """A value that holds no other, as a text; None of one that does."""
    if isinstance(value, enum.Enum):
        return f"{type(value).__qualname__}.{value.name} {value.value if isinstance(value.value, int | str) else ''}"
    if isinstance(value, float | np.floating):
        return f"{float(value):.12g}"  # the last digits depend on the machine
    if isinstance(value, bool | int | complex | None | np.integer | np.bool_ | range | slice):
        return repr(value.item() if isinstance(value, np.generic) else value)
    if isinstance(value, str):
        here = str(Path.cwd())
        told = value.replace(here, ".") if len(here) > 1 else value
        return repr(told.replace(socket.gethostname() or " ", "<host>"))
    if isinstance(value, bytes | bytearray):
        return hashlib.sha256(value).hexdigest()
    if isinstance(value, PurePath):
        return repr(place_of(Path(value)))
    if isinstance(
        value,
        datetime.date | datetime.time | datetime.timedelta | decimal.Decimal | fractions.Fraction | torch.dtype,
    ):
        return str(value)
    if isinstance(value, Tensor):
        return _array(value)
    if isinstance(value, np.ndarray) and value.dtype != object:
        if value.dtype.kind == "f":
            return _array(torch.from_numpy(np.ascontiguousarray(value, dtype=np.float64)))
        return f"{value.dtype} {value.shape} {hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()}"
    return None


def _array(value: Tensor) -> str:
    """A digest of an array, of one of floats with the rounding of :func:`digest_of`."""
    form = f"{value.dtype} {list(value.shape)}"
    if value.is_meta or not value.numel():
        return form
    try:
        whole = value.detach().cpu().to_dense() if value.is_sparse else value.detach().cpu()
        if whole.is_complex():
            whole = torch.view_as_real(whole.resolve_conj())
        if whole.is_floating_point():
            return f"{form} {digest_of([{'': whole}])}"
        return f"{form} {hashlib.sha256(whole.contiguous().numpy().tobytes()).hexdigest()}"
    except (RuntimeError, TypeError, NotImplementedError):  # of a type or layout that torch does little with
        return form


def _parts(value: Any, code: bool) -> dict[Any, Any]:
    """What a value holds, by name; nothing of one that is no data."""
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, list | tuple | deque):
        return {"length": len(value)} | dict(enumerate(value))
    if isinstance(value, np.ndarray):
        return dict(enumerate(value.ravel().tolist()))
    if isinstance(value, functools.partial):
        return {"func": value.func, "args": value.args, "keywords": value.keywords}
    if isinstance(value, property):
        return {"get": value.fget, "set": value.fset}
    if isinstance(value, staticmethod | classmethod) or inspect.ismethod(value):
        return {"func": value.__func__, "self": getattr(value, "__self__", None)}
    if inspect.isclass(value):
        own = {name: one for name, one in vars(value).items() if name not in _OF_PYTHON}
        return {"bases": value.__bases__} | own if is_own(value) else {}
    if isinstance(value, ModuleType):
        file = getattr(value, "__file__", None)
        files = followed([Path(file).resolve()]) if code and file and is_users(file) else {}
        return {number: bytes.fromhex(one.sha256) for number, one in enumerate(files.values())}
    if isinstance(value, CellType):
        return {"contents": value.cell_contents}
    if hasattr(value, "__wrapped__"):
        value = inspect.unwrap(value)
    if inspect.isfunction(value):
        return _parts_of_function(value, code) if is_own(value) else {}
    cls = type(value)
    ours = cls.__module__.partition(".")[0] in OURS
    if not (isinstance(value, SimpleNamespace | nn.Module) or ours or is_own(cls)):
        return {}
    slots = [name for one in cls.__mro__ for name in _slots(one)]
    kept = {name: getattr(value, name) for name in slots if hasattr(value, name)}
    return {"class": cls} | kept | getattr(value, "__dict__", {})


def _parts_of_function(function: Any, code: bool) -> dict[str, Any]:
    """What a function of the user's was given when it was made; on demand also what it does and names."""
    made = function.__code__
    cells = dict(zip(made.co_freevars, function.__closure__ or (), strict=True))
    parts = {"defaults": function.__defaults__, "keywords": function.__kwdefaults__, "closure": cells}
    if not code:
        return parts
    named = {f"names {name}": one for name, one in function.__globals__.items() if name in _names_in(made)}
    return parts | {"does": bytes.fromhex(_digest_of_code(made))} | named


def _digest_of_code(code: CodeType) -> str:
    """sha256 of bytecode with its constants and names, without lines and file."""

    def constant(value: Any) -> str:
        if isinstance(value, CodeType):
            return _digest_of_code(value)
        return repr(sorted(map(repr, value)) if isinstance(value, frozenset) else value)  # a set is in no order

    parts = (code.co_code.hex(), code.co_names, code.co_varnames, code.co_freevars, [*map(constant, code.co_consts)])
    return hashlib.sha256(repr(parts).encode(errors="surrogatepass")).hexdigest()


def _names_in(code: CodeType) -> set[str]:
    """All names that the code uses, in functions within it, too."""
    return set(code.co_names).union(*(_names_in(one) for one in code.co_consts if isinstance(one, CodeType)))


def _slots(cls: type) -> tuple[str, ...]:
    named = vars(cls).get("__slots__", ())
    return tuple(name for name in ((named,) if isinstance(named, str) else named) if not name.startswith("__"))


def is_own(given: Any) -> bool:
    """Whether a class or function is the user's own: in a file of theirs, or typed into a notebook."""
    if inspect.isfunction(given):
        file = given.__code__.co_filename
    else:
        module = sys.modules.get(given.__module__)
        file = getattr(module, "__file__", None) or ("<notebook>" if given.__module__ == "__main__" else "<frozen>")
    return not file.startswith("<frozen") if file.startswith("<") else is_users(file)


def _type(value: Any) -> str:
    if isinstance(value, ModuleType):
        return f"module {value.__name__}"
    named = value if inspect.isclass(value) or inspect.isroutine(value) else type(value)
    return f"{getattr(named, '__module__', '')}.{getattr(named, '__qualname__', '')}"


def passing(value: Any) -> bool:
    """Whether a value tells of the time, of this process or of this machine, and thus of no result."""
    if isinstance(value, torch.device | torch.Generator):
        return True
    if isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool):
        number: Any = value
        now = time.time()
        if not abs(number) < 1e20:
            return False
        return number == os.getpid() or any(abs(number - now * unit) < 3600 * unit for unit in (1, 1e3, 1e6, 1e9))
    if not isinstance(value, str | datetime.date):
        return False
    text = str(value)
    numbers = re.sub(r"(?<=\d)[-_:./T ](?=\d)", "", text)
    return (
        bool(_DEVICE.fullmatch(text) or _ADDRESS.search(text))
        or str(os.getpid()) in re.findall(r"\d{3,}", text)
        or any(one in numbers for one in _now(int(time.time())))
    )


@functools.lru_cache(maxsize=4)
def _now(second: int) -> set[str]:
    """The date, and the times of the last seconds, as digits."""
    found = set()
    for ago in range(5):
        for when in (time.localtime(second - ago), time.gmtime(second - ago)):
            found |= {time.strftime(form, when) for form in ("%Y%m%d", "%d%m%Y", "%m%d%Y", "%y%m%d%H", "%H%M%S")}
    return found


def digest_of(updates: list[Update]) -> str:
    """A digest of numbers, each rounded beside those of its own update."""
    together = hashlib.sha256()
    for update in updates:
        largest = max((float(value.detach().abs().nan_to_num(0, 0).max()) for value in update.values()), default=0.0)
        for name, value in sorted(update.items()):
            together.update(f"{name} {list(value.shape)}".encode())
            together.update(rounded(value.detach().cpu(), largest * NOTHING).numpy().tobytes())
    return together.hexdigest()


def rounded(value: Tensor, least: float) -> Tensor:
    """The sign, the exponent and the first bits of the mantissa of each number; 0 of one below ``least``."""
    numbers = value.double().nan_to_num(float("inf"))
    numbers = torch.where(numbers.abs() < least, 0.0, numbers).contiguous()
    drop = 52 - BITS
    return (numbers.view(torch.int64) + (1 << (drop - 1))) >> drop
