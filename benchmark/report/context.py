"""The numbers of a page, from the records of a folder: pure functions, which know no HTML."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from benchmark.boards.leaderboard import LABEL_SCORES, Board, Row, of_records
from benchmark.boards.outcome import Names, Outcome, outcomes
from benchmark.boards.ranking import Standing
from benchmark.boards.table import COLUMNS, NOTE, missing_lpips
from benchmark.report import curves, threat, victims
from benchmark.report.facts import Facts, arguments_of, cost_of, provenance_of, several
from benchmark.report.tradeoff import TradeOffView, view
from benchmark.store.declined import Declined
from benchmark.store.store import Record
from benchmark.tradeoff.one_point import COSTS_SAID
from benchmark.tradeoff.page import NOTE as TRADE_OFF_NOTE
from benchmark.tradeoff.points import trade_offs

Rate = tuple[float, float, float]
"""The low end of an interval, its number, and the high end."""

LEVELS = (15, 20, 25, 30, 40)
"""PSNR in dB of the table beside the curves."""


@dataclass(frozen=True)
class Text:
    """One text of a table, with the number that it sorts by, where it has one, and the interval drawn beside it."""

    text: str
    value: float | None = None
    rate: Rate | None = None


@dataclass(frozen=True)
class Line:
    """A row of a table.

    Attributes:
        texts: one for each column.
        defense, attack: classes, by which rows are filtered.
        knowledge: "adaptive", "oblivious", or "none" where there is no defense.
        anchor: of the cell's details; empty without.
    """

    texts: list[Text]
    defense: str
    attack: str
    knowledge: str
    anchor: str


@dataclass(frozen=True)
class Cell:
    """What is said of one cell below the table.

    Attributes:
        anchor: its name in the page.
        line: its row.
        title: attack and defense.
        leaks: leak rate in words.
        void: why it shows no protection.
        facts: arguments, cost and provenance.
        victims: best, median and worst, where the records hold pictures.
        held: how many victims the records hold pictures of.
        losses: its loss curve; empty without.
    """

    anchor: str
    line: Line
    title: str
    leaks: str
    void: str | None
    facts: Facts
    victims: list[victims.Shown]
    held: int
    losses: curves.Curve


@dataclass(frozen=True)
class BoardView:
    """A scenario.

    Attributes:
        anchor: its name in the page.
        heading: data set, network and what is not usual.
        threat: sentences on the attacker.
        columns: names, and whether they hold words.
        lines: of the table.
        cells: in the same order, without those that were not run.
        filters: of each filter, the values that rows have.
        rates: the leak rate over the PSNR threshold, of each defense.
        levels: of each defense, its name and the rates at :data:`LEVELS`.
        notes: sentences under the table.
        cost: of all attacks.
        provenance: of all records.
    """

    anchor: str
    heading: str
    threat: list[str]
    columns: list[tuple[str, bool]]
    lines: list[Line]
    cells: list[Cell]
    filters: dict[str, list[str]]
    rates: list[curves.Curve]
    levels: list[tuple[str, list[str]]]
    notes: list[str]
    cost: Facts
    provenance: Facts


@dataclass(frozen=True)
class Report:
    """A page.

    Attributes:
        title: name of the folder.
        boards: one for each scenario.
        left_out: sentences on what stands in none of them.
        note: how the tables are read.
        no_lpips: why there is no LPIPS, where there is none.
        trade_offs: leak rate over accuracy.
        no_trade_off: why there is none; None where there is one.
        costs_said: how the sentences on it are read.
        trade_off_note: how its table is read.
        private: whether it shows private images.
    """

    title: str
    boards: list[BoardView]
    left_out: list[str]
    note: str
    no_lpips: str | None
    trade_offs: list[TradeOffView]
    no_trade_off: str | None
    costs_said: str
    trade_off_note: str
    private: bool


def report_of(
    records: Sequence[Record],
    title: str,
    declined: Iterable[Declined] = (),
    trainings: Sequence[Record] = (),
    unusable: Iterable[str] = (),
) -> Report:
    """All that a page shows.

    Args:
        records: whole ones of attacks, in any order.
        title: of the page.
        declined: cells that were asked for and have no records.
        trainings: records of federated trainings.
        unusable: sentences on files that are no records.
    """
    found = of_records(records, intervals=False, declined=declined)
    of_cell = {outcome.cell: outcome for outcome in outcomes(records)[0]}
    boards = [board_view(number, board, of_cell) for number, board in enumerate(found.boards, 1)]
    plots, without, other = trade_offs(found.boards, trainings)
    return Report(
        title=title,
        boards=boards,
        left_out=[ended(one) for one in (*unusable, *found.left_out, *other, *unreadable(of_cell.values()))],
        note=NOTE,
        no_lpips=missing_lpips(records),
        trade_offs=list(map(view, plots)),
        no_trade_off=without,
        costs_said=COSTS_SAID,
        trade_off_note=TRADE_OFF_NOTE,
        private=any(cell.victims for board in boards for cell in board.cells),
    )


def unreadable(found: Iterable[Outcome]) -> list[str]:
    """A sentence on the pictures that cannot be shown, if there are any."""
    records = {record["key"]: record for outcome in found for record in outcome.records}
    bad = [key for key, record in records.items() if record.get("picture") and not victims.columns(record["picture"])]
    return [f"the pictures of {several(bad)} cannot be read and are left out"] if bad else []


def ended(sentence: str) -> str:
    """With a full stop."""
    return sentence if sentence.endswith(".") else f"{sentence}."


def board_view(number: int, board: Board, of_cell: dict[str, Outcome]) -> BoardView:
    """A scenario.

    Args:
        number: from 1.
        board: its table.
        of_cell: outcomes, by the ids of their cells.
    """
    columns = [column for column in COLUMNS if column.shown(board)]
    lines = [line(row, board, f"cell-{number}-{place}") for place, row in enumerate(board.rows, 1)]
    found = [of_cell[row.cell] for row in board.rows]
    cells = [cell(row, own, one, board) for row, own, one in zip(board.rows, lines, found, strict=True)]
    lines += [without_numbers(blank, [column.name for column in columns]) for blank in board.blank]
    rates = [curves.leak_rates(one, standing_name(one)) for one in board.standings]
    records = list({record["key"]: record for outcome in found for record in outcome.records}.values())
    return BoardView(
        anchor=f"board-{number}",
        heading=board.heading,
        threat=threat.in_words(found[0].config),
        columns=[(column.name, column.words) for column in columns],
        lines=lines,
        cells=cells,
        filters={key: sorted({getattr(one, key) for one in lines}) for key in ("defense", "attack", "knowledge")},
        rates=rates,
        levels=[(one["defense"], at_levels(one)) for one in rates],
        notes=board.notes,
        cost=cost_of(records),
        provenance=provenance_of(records),
    )


INTERVALS = {
    "its interval": ("worst_leak_rate_low", "worst_leak_rate", "worst_leak_rate_high"),
    "95 % interval": ("leak_rate_low", "leak_rate", "leak_rate_high"),
}
"""Columns beside whose text an interval is drawn, and its numbers."""

VALUES = {
    "rank": "rank",
    "worst case": "worst_leak_rate",
    "leak rate": "leak_rate",
    "PSNR": "psnr_mean",
    "SSIM": "ssim_mean",
    "LPIPS": "lpips_mean",
    "label acc.": "label_accuracy",
    **{f"label {name}": f"label_{name}" for name in LABEL_SCORES},
    "evaluations": "evaluations_mean",
    "s / victim": "seconds_per_victim",
    "training CPU s": "training_cpu_seconds",
}
"""Columns that sort by a number of the row; the others sort by their texts."""


def line(row: Row, board: Board, anchor: str) -> Line:
    """A row of the table."""
    texts = []
    for column in COLUMNS:
        if column.shown(board):
            low, rate, high = (getattr(row, name) for name in INTERVALS.get(column.name, ("rank",) * 3))
            drawn = (low, rate, high) if column.name in INTERVALS and low is not None else None
            value = getattr(row, VALUES[column.name]) if column.name in VALUES else None
            texts.append(Text(column.text(row, board), value, drawn))
    knowledge = "none" if row.defense == "none" else "adaptive" if row.adaptive else "oblivious"
    return Line(texts, row.defense, row.attack, knowledge, anchor)


def without_numbers(blank: dict[str, str], columns: Sequence[str]) -> Line:
    """The row of an attack that does not take the victims of a board, or of a cell that was not run."""
    defense, attack = blank.get("defense", "none"), blank["attack"]
    knowledge = "none" if defense == "none" else "adaptive" if attack.endswith(" adaptive") else "oblivious"
    return Line([Text(blank.get(name, "-")) for name in columns], defense, attack.split(" ")[0], knowledge, "")


def cell(row: Row, own: Line, outcome: Outcome, board: Board) -> Cell:
    """What is said of one cell below the table."""
    return Cell(
        anchor=own.anchor,
        line=own,
        title=board.names.cell(outcome),
        leaks=counted(row),
        void=row.void,
        facts=[*arguments_of(outcome.config), *cost_of(outcome.records), *provenance_of(outcome.records)],
        victims=victims.shown(outcome),
        held=len(victims.pictured(outcome)),
        losses=curves.losses(outcome.records, list(outcome.indices)),
    )


def counted(row: Row) -> str:
    """How many victims leak, and of how many that says nothing, as in "0 of 6 victims leak, 2 not converged"."""
    if row.leaked is None:
        return "looks for labels alone"
    said = [f"{row.leaked} of {row.victims} victims leak"]
    said += [f"{row.diverged} diverged"] if row.diverged else []
    said += [f"{row.unconverged} not converged"] if row.unconverged else []
    return ", ".join(said)


def standing_name(standing: Standing) -> str:
    """A defense, as in "Masking ratio=0.2 (no rank, 3 unknown)": whether it could not be ranked, and how many victims
    may leak beside those that do."""
    name = Names.defense(standing.outcomes[0].config["defense"])
    said = ["no rank"] if standing.rank is None else []
    said += [f"{len(standing.unknown)} unknown"] if standing.unknown else []
    return f"{name} ({', '.join(said)})" if said else name


def at_levels(curve: curves.Curve) -> list[str]:
    """The rates of a defense at :data:`LEVELS`."""
    at = dict(zip(curve["threshold"], curve["rate"], strict=True))
    return [f"{at[level]:.2f}" for level in LEVELS]
