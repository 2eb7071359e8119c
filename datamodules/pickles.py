"""Pickles of numbers, texts and arrays of numbers, read without running any code that is in them.

What a pickle calls is looked up here and nowhere else. Arrays are made from their bytes by us, not by numpy's own
functions for pickles, which believe what a file says about its memory.
"""

import pickle
import re
from pathlib import Path
from typing import Any, ClassVar

import numpy

from datamodules.errors import DataError

Array = numpy.ndarray[Any, Any]


class _ForeignError(pickle.UnpicklingError):
    """A pickle calls something that arrays are not made of."""


class _Type:
    """The type of an array's numbers, as a pickle makes it: a code such as ``u1``, then the order of the bytes."""

    def __init__(self, code: str, *_: Any) -> None:
        if not re.fullmatch(r"b1|[iu][1248]|f[248]", code):
            raise _ForeignError(f"numbers of the type {code!r}")
        self.type = numpy.dtype(code)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.type = self.type.newbyteorder(state[1])


class _Array:
    """An array, as a pickle makes it: empty at first, then filled."""

    array: Array

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, kind, by_columns, content = state
        self.array = _from_bytes(content, kind, shape, "F" if by_columns else "C")


def _begun(*_: Any) -> _Array:
    """Stands for numpy's ``_reconstruct``."""
    return _Array()


def _whole(content: Any, kind: _Type, shape: tuple[int, ...], order: str) -> _Array:
    """Stands for numpy's ``_frombuffer``."""
    made = _Array()
    made.array = _from_bytes(content, kind, shape, order)
    return made


def _scalar(kind: _Type, content: Any) -> Any:
    """Stands for numpy's ``scalar``."""
    return _from_bytes(content, kind, (), "C")[()]


def _from_bytes(content: Any, kind: _Type, shape: tuple[int, ...], order: str) -> Array:
    content = content.encode("latin1") if isinstance(content, str) else content  # Python 2 had no other bytes
    flat = numpy.frombuffer(content, kind.type)
    return flat.reshape(shape, order="F" if order == "F" else "C").copy("K")


class ArrayUnpickler(pickle.Unpickler):
    """Knows what arrays are made of and nothing else, so that a pickle can call nothing else."""

    known: ClassVar[dict[tuple[str, str], Any]] = {
        ("numpy", "ndarray"): _Array,
        ("numpy", "dtype"): _Type,
        ("_codecs", "encode"): str.encode,  # of Python 2's bytes; the original knows codecs that unpack archives too
        **{(f"numpy.{core}.multiarray", "_reconstruct"): _begun for core in ("core", "_core")},
        **{(f"numpy.{core}.multiarray", "scalar"): _scalar for core in ("core", "_core")},
        **{(f"numpy.{core}.numeric", "_frombuffer"): _whole for core in ("core", "_core")},
    }

    def find_class(self, module: str, name: str) -> Any:
        """Return one of the few; called for whatever a pickle names.

        Raises:
            UnpicklingError: the pickle names anything else.
        """
        if (module, name) not in self.known:
            raise _ForeignError(f"{module}.{name}")
        return self.known[module, name]


def read_arrays(path: Path) -> Any:
    """Return what the pickle holds, texts of Python 2 read as Latin-1.

    Raises:
        DataError: it holds anything but numbers, texts, containers and arrays of numbers; nothing of that was run.
        Exception: it is damaged.
    """
    try:
        with path.open("rb") as file:
            return _plain(ArrayUnpickler(file, encoding="latin1").load())
    except _ForeignError as error:
        raise DataError(
            f"{path} asks for {error}, which no file of images does, and was not read: replace it with the original."
        ) from None


def _plain(value: Any) -> Any:
    """The value with numpy's arrays in it."""
    if isinstance(value, _Array):
        return value.array
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    return [_plain(one) for one in value] if isinstance(value, list) else value
