"""The page as one HTML file: templates over the numbers, within a limit of size."""

from markupsafe import Markup

from benchmark.boards.template import render_html
from benchmark.report.charts import library, specs
from benchmark.report.context import LEVELS, Cell, Report

LARGEST = 5_000_000
"""Bytes of a page, which a browser on a telephone opens without a wait."""

PLAIN, CURVE, WHOLE = range(3)
"""How much is said of a cell: words alone, its loss curve too, and its pictures too."""


def page(report: Report, script: str | None = None, largest: int = LARGEST) -> str:
    """The page.

    Args:
        report: what it shows.
        script: draws the plots; that of :func:`benchmark.report.charts.library` by default.
        largest: bytes of the page; what would make it larger is left out, pictures first, then curves, then cells, and
            the page says so. The tables are always there.

    Returns:
        HTML that refers to nothing outside it.
    """
    script = library() if script is None else script
    cells = [cell for board in report.boards for cell in board.cells]

    def made(details: dict[str, Markup], left_out: list[str]) -> str:
        numbers = {"report": report, "details": details, "too_large": left_out, "levels": LEVELS}
        return str(render_html("report/page.html.j2", **numbers, specs=specs(), library=script))

    # Each cell has a link in the table, and three sentences on what was left out are no longer than these.
    linked = made(dict.fromkeys((cell.anchor for cell in cells), Markup()), [" " * 200] * 3)
    details, left_out = fitting(cells, largest - len(linked.encode()))
    return made(details, left_out)


def fitting(cells: list[Cell], room: int) -> tuple[dict[str, Markup], list[str]]:
    """What is said of each cell: words of as many as fit, then curves, then pictures, in the order of the tables.

    Args:
        cells: of all boards.
        room: bytes that there are.

    Returns:
        The HTML of cells by their anchors, and a sentence for each kind of thing that did not fit.
    """
    found: dict[str, Markup] = {}
    left_out = []
    for much, what, those in (
        (PLAIN, "the details", cells),
        (CURVE, "the loss curves", [cell for cell in cells if cell.losses]),
        (WHOLE, "the pictures", [cell for cell in cells if cell.victims]),
    ):
        missing = 0
        for cell in those:
            shown = detail(cell, much)
            more = len(shown.encode()) - len(found.get(cell.anchor, Markup()).encode())
            fits = more <= room and (much == PLAIN or cell.anchor in found)
            if fits:
                found[cell.anchor] = shown
                room -= more
            missing += not fits
        if missing:
            cells_of = "1 cell" if missing == 1 else f"{missing:,} cells"
            left_out.append(f"To keep this page small, {what} of {cells_of} are left out; the records hold them.")
    return found, left_out


def detail(cell: Cell, much: int) -> Markup:
    """What is said of a cell below the table."""
    return render_html("report/cell.html.j2", cell=cell, curve=much >= CURVE, pictures=much >= WHOLE)
