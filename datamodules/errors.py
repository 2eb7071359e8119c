"""What is wrong with data, in one sentence that names whose code it was."""

from collections.abc import Iterator
from contextlib import contextmanager


class DataError(Exception):
    """Data are unavailable or unfit; the message is one sentence that says what to do.

    Args:
        message: the sentence.
        raised: what a user's own class has raised, which the sentence does not say: the command line adds it.

    Attributes:
        source: the method that returned what is unfit, where it is known.
    """

    def __init__(self, message: str, raised: BaseException | None = None) -> None:
        super().__init__(message.replace("\n", "\\n"))  # which a file's name may hold
        self.raised = raised
        self.source: object = None


def name_of(data: object) -> str:
    """The class as a suite names it: by its import path where it is not one of ours."""
    cls = type(data)
    return cls.__qualname__ if cls.__module__.startswith("datamodules.") else f"{cls.__module__}.{cls.__qualname__}"


@contextmanager
def blaming(data: object, what: str) -> Iterator[None]:
    """Turns whatever a user's own data module raises into a DataError that names its class, and has it as its cause.

    What one of our own data modules raises stays as it is: it is not the user's to mend. A DataError gets the method as
    its source.

    Args:
        data: the data module.
        what: the method that is called, or whose result is looked at.

    Raises:
        DataError: the method raised something, or asked the program to exit.
    """
    try:
        yield
    except DataError as error:
        error.source = error.source or getattr(type(data), what, type(data))
        raise
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        if "." not in name_of(data):
            raise
        raise DataError(f"{name_of(data)}.{what} failed", error) from error
