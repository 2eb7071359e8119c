"""What is wrong with data, in one sentence that names whose code it was."""

import sysconfig
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_ROOT = Path(__file__).resolve().parent.parent
_OURS = tuple(str(_ROOT / name) for name in ("attacks", "benchmark", "datamodules", "defenses"))
_INSTALLED = tuple(str(Path(sysconfig.get_path(name)).resolve()) for name in ("stdlib", "platstdlib", "purelib"))


class DataError(Exception):
    """Data are unavailable or unfit; the message is one sentence that says what to do."""

    def __init__(self, message: str) -> None:
        super().__init__(message.replace("\n", "\\n"))  # which a file's name may hold


def name_of(data: object) -> str:
    """The class as a suite names it: by its import path where it is not one of ours."""
    cls = type(data)
    return cls.__qualname__ if cls.__module__.startswith("datamodules.") else f"{cls.__module__}.{cls.__qualname__}"


@contextmanager
def blaming(data: object, what: str) -> Iterator[None]:
    """Turns whatever a user's own data module raises into a DataError that names its class, the cause and the line.

    What one of our own data modules raises stays as it is: it is not the user's to mend.

    Args:
        data: the data module.
        what: the method that is called.

    Raises:
        DataError: the method raised something, or asked the program to exit.
    """
    try:
        yield
    except DataError:
        raise
    except (Exception, SystemExit) as error:
        name = name_of(data)
        if "." not in name:
            raise
        reason = " ".join(f"{type(error).__name__}: {error}".split()).removesuffix(":")
        raise DataError(f"{name}.{what} failed ({reason}{_line_of(error)}): correct the class") from error


def _line_of(error: BaseException) -> str:
    """The innermost line outside Leakboard and installed packages; nothing where there is none."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        file = str(Path(frame.filename).resolve())
        if Path(file).is_file() and not file.startswith((*_OURS, *_INSTALLED)):
            return f", {Path(file).name} line {frame.lineno}"
    return ""
