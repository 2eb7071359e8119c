"""A figure as the bytes of a PNG or PDF, the same for the same numbers."""

import io
from typing import Any


def blank(width: float, height: float, dpi: int) -> Any:
    """A figure without axes, in inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=dpi, layout="constrained")


def as_png(figure: Any) -> bytes:
    """The figure, without the name of the program that made it."""
    picture = io.BytesIO()
    figure.savefig(picture, format="png", metadata={"Software": None})
    return picture.getvalue()


def as_pdf(figure: Any) -> bytes:
    """The figure for a paper, without the date and the name of the program that made it."""
    page = io.BytesIO()
    figure.savefig(page, format="pdf", metadata={"Creator": None, "Producer": None, "CreationDate": None})
    return page.getvalue()
