"""Which files and environment variables some code reads, whatever it calls them.

Python tells of each file that it opens (:func:`sys.addaudithook`), also where numpy, torch or PIL do so for a user.
What libraries open without Python (HDF5, safetensors, OpenCV) is not seen, nor what another thread or process reads.
"""

import importlib.util
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Any

from benchmark.errors import is_users
from benchmark.versions.code import contents, is_installed, is_ours, place_of, source

_SYSTEM = ("/dev", "/proc", "/sys", "/etc", "/usr")
_PLACES = ("SLURM_", "PBS_", "LSB_", "PMI", "OMPI_", "RANK", "LOCAL_RANK", "WORLD_SIZE", "CUDA_VISIBLE_DEVICES")
"""Variables that begin so say where a process runs."""

_LOOKING_AT_CODE = ("linecache.py", "tokenize.py")
"""Of Python: they read source to show or explain it."""


@dataclass
class Opened:
    """What was read within a context.

    Attributes:
        read: files that were opened for reading.
        written: files that were opened for writing, or replaced.
        imported: Python files that were imported.
        variables: of the environment, that the user's own code looked up, with their values.
    """

    read: set[Path] = field(default_factory=set)
    written: set[Path] = field(default_factory=set)
    imported: set[Path] = field(default_factory=set)
    variables: dict[str, str | None] = field(default_factory=dict)

    def inputs(self, first: bool) -> set[str]:
        """One line for each input.

        What was only written may be a cache that is read the next time: it is an input then, if nobody writes it again.

        Args:
            first: whether the files that were written count too.
        """
        files = self.read | self.written if first else self.read - self.written
        return (
            {f"file {place_of(file)} {contents(file)}" for file in files if is_input(file)}
            | {
                f"code {place_of(file)} {source(file.read_bytes()).sha256}"
                for file in self.imported
                if is_users(str(file)) and is_input(file)
            }
            | {f"variable {name} {value}" for name, value in self.variables.items()}
        )


_CURRENT: ContextVar[Opened | None] = ContextVar("opened", default=None)


@contextmanager
def opened() -> Iterator[Opened]:
    """Collects what is read within, in this thread."""
    _listen()
    found = Opened()
    before = _CURRENT.set(found)
    kind: Any = type(os.environ)
    look_up = kind.__getitem__

    def looked_up(environment: Any, name: str) -> Any:
        value = None
        try:
            value = look_up(environment, name)
            return value
        finally:
            current = _CURRENT.get()
            if current is not None and not str(name).startswith(_PLACES) and _asks(sys._getframe(1)):
                current.variables[str(name)] = value

    kind.__getitem__ = looked_up
    try:
        yield found
    finally:
        kind.__getitem__ = look_up
        _CURRENT.reset(before)


def _asks(frame: FrameType | None) -> bool:
    """Whether the user's own code looks up a variable, by itself or through ``os.getenv`` and the like."""
    while frame and frame.f_code.co_filename.startswith("<frozen"):
        frame = frame.f_back
    return frame is not None and is_users(frame.f_code.co_filename)


@cache
def _listen() -> None:
    """Hears of each file that this process opens from now on: a hook cannot be taken back."""
    sys.addaudithook(_heard)


def _heard(event: str, args: tuple[Any, ...]) -> None:
    if event not in ("open", "os.rename", "sqlite3.connect"):
        return
    found = _CURRENT.get()
    if found is None:
        return
    path = args[1] if event == "os.rename" else args[0]
    if not isinstance(path, str | bytes | os.PathLike):  # the number of an open file
        return
    try:
        file = Path(os.fsdecode(path)).resolve()
    except (OSError, ValueError, RuntimeError):  # a name that no file has
        return
    mode, flags = args[1:3] if event == "open" else (None, 0)
    caller = sys._getframe(1).f_code.co_filename
    if event == "os.rename" or set(mode or "") & set("wax+") or (flags or 0) & (os.O_WRONLY | os.O_RDWR):
        found.written.add(file)
    elif caller.startswith("<frozen importlib"):
        found.imported.add(_source_of(file))
    elif Path(caller).name not in _LOOKING_AT_CODE:
        found.read.add(file)


def _source_of(file: Path) -> Path:
    """The Python file of which this one is the compiled form, or the file itself."""
    try:
        return Path(importlib.util.source_from_cache(str(file)))
    except ValueError:
        return file


def is_input(file: Path) -> bool:
    """Whether a file is a regular one of the user's, neither of an installed program nor of a cache of one."""
    if not file.is_file():  # gone, or a device
        return False
    home = Path(os.environ.get("HOME", "/nowhere"))
    if any(file.is_relative_to(folder) for folder in (*_SYSTEM, home / ".cache", home / ".triton")):
        return False
    compiled = any(str(one).startswith(f"{tempfile.gettempdir()}/torchinductor_") for one in file.parents)
    return not (compiled or is_ours(file) or is_installed(file))
