"""Pickles of numbers, texts and arrays, read without running any code that is in them."""

import pickle
from pathlib import Path
from typing import Any, ClassVar

import numpy

from datamodules.errors import DataError

# Whatever numpy is here, its own functions; the files may name those of numpy 1 or 2.
_RECONSTRUCT: Any = numpy.empty(0).__reduce__()[0]
_SCALAR: Any = numpy.float64().__reduce__()[0]
_FROM_BUFFER: Any = numpy.empty(1).__reduce_ex__(5)[0]


class _ForeignError(pickle.UnpicklingError):
    """A pickle asks for something that arrays are not made of."""


class ArrayUnpickler(pickle.Unpickler):
    """Knows what arrays are made of and nothing else, so that a pickle can call nothing else."""

    known: ClassVar[dict[tuple[str, str], Any]] = {
        ("numpy", "ndarray"): numpy.ndarray,
        ("numpy", "dtype"): numpy.dtype,
        ("_codecs", "encode"): str.encode,  # of Python 2's bytes; the original knows codecs that unpack archives too
        **{(f"numpy.{core}.multiarray", "_reconstruct"): _RECONSTRUCT for core in ("core", "_core")},
        **{(f"numpy.{core}.multiarray", "scalar"): _SCALAR for core in ("core", "_core")},
        **{(f"numpy.{core}.numeric", "_frombuffer"): _FROM_BUFFER for core in ("core", "_core")},
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
        DataError: it holds anything but numbers, texts, containers and arrays; nothing of that was run.
        Exception: it is damaged.
    """
    try:
        with path.open("rb") as file:
            return ArrayUnpickler(file, encoding="latin1").load()
    except _ForeignError as error:
        raise DataError(
            f"{path} calls {error}, which no file of images does, and was not read: replace it with the original."
        ) from None
