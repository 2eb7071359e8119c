"""What a user can put right, and where in their own code it is."""

import inspect
import re
import reprlib
import sys
import sysconfig
import traceback
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

PACKAGES = ("attacks", "benchmark", "datamodules", "defenses")
"""Leakboard's own top-level packages."""

CODE_ERRORS = (BaseException,)
"""What a user's own code can raise; :func:`users_fault` lets Ctrl-C pass."""

INSTALLED = {"site-packages", "dist-packages"}
"""Folders of installed packages."""

LONGEST = 400
"""Characters of a library's message that are shown."""

FEW = 3
"""Names among which one looks for the right one."""


class UsageError(Exception):
    """A mistake of the user's, as one sentence that says what to do; the command line ends with exit code 2."""


def one_line(error: BaseException) -> str:
    """What an error says, as one line; nothing where its own ``__str__`` fails."""
    try:
        said = " ".join(str(error).split())
    except Exception:
        return ""
    return said if len(said) <= LONGEST else said[: LONGEST - 3] + "..."


_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 80
_SHORT.maxlist = _SHORT.maxdict = 10


def quoted(value: Any) -> str:
    """A value as YAML would write it, cut where it is long."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return _SHORT.repr(value)


def as_given(value: Any, whole: bool, takes: Callable[[float], bool] = lambda number: True) -> str:
    """A value that is no number, or no whole one, and how to write it, where that helps: in digits, without quotes or
    ``_``.

    Args:
        value: what was given.
        whole: whether a whole number belongs there.
        takes: whether a number is in range.
    """
    text = re.sub(r"(?<=\d)[_, ](?=\d)", "", value).strip() if isinstance(value, str) else str(value)
    of_another_form = isinstance(value, str) or (whole and isinstance(value, float))
    if of_another_form and re.fullmatch(r"-?(0|[1-9]\d*)(\.\d+)?(e[-+]?\d+)?", text, re.ASCII):
        number = float(text)
        is_whole = number.is_integer() and abs(number) < 1e15
        written = f"{number:.0f}" if is_whole else text
        if (is_whole or not whole) and takes(number):
            return f"{value!r}: write it without quotes" if written == value else f"{value}: write {written}"
    return unquoted(value)


def unquoted(value: Any) -> str:
    """A value, a short text as it is."""
    return value if isinstance(value, str) and 0 < len(value) <= 80 else quoted(value)


def about(name: str, said: str) -> str:
    """What is said of something, with its name, once."""
    return said if re.search(rf"\b{re.escape(name)}\b", said) else f"{name}: {said}"


def a_kind(value: Any) -> str:
    """What a value is, for people, as in ``a list``."""
    name = type(value).__name__
    return "None" if value is None else f"{'an' if name[0] in 'AEIOUaeiou' else 'a'} {name}"


def users_fault(error: BaseException, what: str, called: Any = None) -> UsageError:
    """An error that a user's own code raised, or that what it returned has led to, as one sentence.

    Args:
        error: as it was caught; a UsageError is returned as it is.
        what: what failed, with the name of the class, as in ``the defense mine.Mine cannot be made``.
        called: the user's class or function that was called.

    Returns:
        ``what``, the cause, and the last file and line of the user's own code that the error passed through; where it
        passed through none, as with arguments that a function does not take, those of ``called``.

    Raises:
        KeyboardInterrupt: that is what was caught.
    """
    if isinstance(error, KeyboardInterrupt):
        raise error
    if isinstance(error, UsageError):
        return error
    if isinstance(error, SystemExit):
        cause = f"it calls sys.exit({'' if error.code is None else quoted(error.code)})"
    else:
        said = one_line(SyntaxError(error.msg) if isinstance(error, SyntaxError) else error)
        if re.search(r"\bin-?place operation", said):  # autograd's message is four lines of its own insides
            said = "a tensor that a gradient needs was changed in place: make a new one, as torch.where does"
        cause = f"{type(error).__name__}: {said}" if said else type(error).__name__
    place = users_line(error) or place_of(called)
    return UsageError(f"{what} ({cause}{f', {place}' if place else ''})")


def is_of_data(error: BaseException) -> bool:
    """Whether it is a :class:`datamodules.DataError`: a public image is read late, amid what else may fail."""
    data = sys.modules.get("datamodules")  # if torch and the data sets were imported at all
    return data is not None and isinstance(error, data.DataError)


def data_fault(error: BaseException) -> UsageError:
    """A :class:`datamodules.DataError` as one sentence, with what a user's own class has raised and where it is."""
    raised: BaseException | None = getattr(error, "raised", None)
    if raised is not None:
        return users_fault(raised, str(error))
    return UsageError(f"{error}{written(getattr(error, 'source', None))}")


@contextmanager
def users_code(what: str, called: Any = None) -> Iterator[None]:
    """Turns whatever is raised within into the sentence of :func:`users_fault`; Ctrl-C passes through.

    Raises:
        UsageError: something was raised.
    """
    try:
        yield
    except CODE_ERRORS as error:
        raise (data_fault(error) if is_of_data(error) else users_fault(error, what, called)) from None


@contextmanager
def sentences() -> Iterator[None]:
    """Whatever goes wrong within and a user can put right leaves as a UsageError, or as the OSError that it is.

    Raises:
        UsageError: something that is in the user's data, arguments or code.
    """
    try:
        yield
    except (UsageError, KeyboardInterrupt, OSError):
        raise
    except CODE_ERRORS as error:
        if is_of_data(error):
            raise data_fault(error) from None
        if users_line(error) is None and not isinstance(error, SystemExit):
            raise  # not the user's fault
        raise users_fault(error, f"{users_function(error)} has failed") from None


class NotApplicable(UsageError):
    """An attack does not take the victims of a scenario."""


def unusable(error: OSError, otherwise: str) -> UsageError:
    """What the operating system refuses: a file, or what else it may be."""
    what = f"{error.filename} cannot be used" if error.filename else otherwise
    return UsageError(f"{what} ({error.strerror or one_line(error)})")


def users_function(error: BaseException) -> str:
    """The last function of the user's own code that an error passed through, as in ``Mine.protect``."""
    codes = [frame.f_code for frame, _ in traceback.walk_tb(error.__traceback__) if is_users(frame.f_code.co_filename)]
    return codes[-1].co_qualname.partition(".<locals>")[0] if codes else "the program"


def users_line(error: BaseException) -> str | None:
    """The last line outside Leakboard, Python and installed packages that an error passed through."""
    if isinstance(error, SyntaxError) and error.filename and error.lineno and is_users(error.filename):
        return place(error.filename, error.lineno)
    for frame, line in reversed(list(traceback.walk_tb(error.__traceback__))):
        if is_users(frame.f_code.co_filename):
            return place(frame.f_code.co_filename, line)
    return None


def written(made: Any) -> str:
    """Where a function or class of the user's own is written, as in `` (mine.py, line 4)``; nothing of any other."""
    found = place_of(made)
    return f" ({found})" if found else ""


def place_of(made: Any) -> str | None:
    """The file and line of a function or class of the user's own; None of any other."""
    made = getattr(made, "func", made)  # of a partial function
    try:
        made = inspect.unwrap(getattr(made, "__func__", made))
        if not (inspect.isroutine(made) or inspect.isclass(made)):
            made = type(made)
        file = inspect.getsourcefile(made)
        return place(file, max(1, inspect.getsourcelines(made)[1])) if file and is_users(file) else None
    except (OSError, TypeError, ValueError, SyntaxError):  # built in, or its file is gone
        return None


def place(file: str, line: int) -> str:
    """A line of a file, for people."""
    return f"{shown(file)}, line {line}"


@cache
def is_users(file: str) -> bool:
    """Whether a source file is the user's own."""
    if file.startswith("<"):  # frozen modules, and code from a string
        return False
    path = Path(file).resolve()
    if not INSTALLED.isdisjoint(path.parts):
        return False
    return not any(path.is_relative_to(folder) for folder in not_the_users())


@cache
def not_the_users() -> tuple[Path, ...]:
    """The folders of Leakboard's code and of Python's."""
    here = Path(__file__).parent.parent
    python = [Path(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib", "scripts")]
    return tuple(folder.resolve() for folder in [*(here / package for package in PACKAGES), *python])


def shown(file: str) -> str:
    """A path as the user would write it, from the folder they are in."""
    path = Path(file)
    try:
        return str(path.relative_to(Path.cwd()))
    except (ValueError, OSError):  # elsewhere, or the folder is gone
        return str(path)


def check_system() -> None:
    """UsageError on a system that has not what Leakboard needs."""
    if not find_spec("fcntl") or not find_spec("resource"):
        raise UsageError("Leakboard runs on Linux and macOS: on Windows, run it in WSL")


def unknown(
    what: str, given: str, valid: Iterable[str], others: Collection[str] = (), of_others: str = ""
) -> UsageError:
    """An error that names what was mistyped and the nearest valid names.

    Args:
        what: it is.
        given: as it was typed.
        valid: names.
        others: more of them, of any number, which are not listed where none is near and they are many.
        of_others: what those are.
    """
    names = sorted(valid)
    if near := nearest(given, [*names, *others]):
        return UsageError(f"unknown {what} {quoted(given)}: did you mean {' or '.join(near)}?")
    more = [f"and {len(others)} {of_others}"] if len(others) > FEW else sorted(others)
    return UsageError(f"unknown {what} {quoted(given)}: valid are {', '.join([*names, *more]) or 'none'}")


def nearest(given: str, names: Iterable[str]) -> list[str]:
    """At most :data:`FEW` names that are like the one that was given."""
    lowered = {name.lower(): name for name in names}
    return [lowered[match] for match in get_close_matches(given[:LONGEST].lower(), lowered, n=FEW, cutoff=0.5)]
