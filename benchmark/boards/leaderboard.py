"""The leaderboard: a ranked table for each scenario, made from records alone."""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from statistics import fmean, median
from typing import Any

import msgspec

from benchmark.boards.caveats import caveats, knows_labels
from benchmark.boards.outcome import Names, Outcome, outcomes, strength
from benchmark.boards.ranking import Standing, ranked
from benchmark.metrics.intervals import bootstrap_mean, partly_known, wilson
from benchmark.metrics.leak import THRESHOLDS
from benchmark.store.declined import Declined
from benchmark.store.store import Record


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One cell, as it stands in ``leaderboard.csv``.

    Rates are shares of victims, from 0 to 1, with their 95 % Wilson intervals; means are over victims, with 95 %
    bootstrap intervals. A victim leaks where at least one image of its batch does. Of an attack on the labels alone
    all that is of images is None.
    """

    rank: int | None
    dataset: str
    model: str
    defense: str
    defense_args: dict[str, Any]
    attack: str
    attack_args: dict[str, Any]
    adaptive: bool
    victims: int
    leaked: int | None = None
    leak_rate: float | None = None
    leak_rate_low: float | None = None
    leak_rate_high: float | None = None
    leaked_wholly: int | None = None
    """Victims of whom all images leak."""
    mse_median: float | None = None
    mse_at_most: dict[str, float] | None = None
    psnr_mean: float | None = None
    psnr_mean_low: float | None = None
    psnr_mean_high: float | None = None
    ssim_mean: float | None = None
    ssim_mean_low: float | None = None
    ssim_mean_high: float | None = None
    lpips_mean: float | None = None
    lpips_mean_low: float | None = None
    lpips_mean_high: float | None = None
    label_accuracy: float | None = None
    """None where the attacker is granted the labels."""
    label_existence: float | None = None
    """Of a board of batches, share of the classes that were rightly said to be in the batch or not."""
    label_counts: float | None = None
    """Share of the classes whose number of images is right."""
    label_instances: float | None = None
    """Share of the images that can be paired with a label that was found."""
    evaluations_mean: float
    seconds_per_victim: float
    diverged: int
    """Victims on whom the attack diverged."""
    unconverged: int | None
    """Victims of whom nothing is known, since the attack has failed to fit their update; None where it does not try."""
    void: str | None
    """Why the cell shows no protection."""
    worst_victims: int | None = None
    worst_leaked: int | None = None
    """Victims that leak to any of the attacks on this defense; of ``worst_victims``. This is what ranks."""
    worst_unknown: int = 0
    """Of these the ones of whom nothing is known: the interval reaches to where all of them leak."""
    worst_leak_rate: float | None = None
    worst_leak_rate_low: float | None = None
    worst_leak_rate_high: float | None = None
    data_args: dict[str, Any]
    model_args: dict[str, Any]
    batch_size: int
    same_class: int
    seed: int
    cell: str
    setting: str = ""
    """What clients compute and what the attacker is granted, as far as it is not as in the published attacks."""
    certified: int | None = None
    """Images, of ``victims`` times ``batch_size``, that came with a certificate; None where the attack gives none."""
    returned_leaked: int | None = None
    """Of an ensemble, victims who leak by what it returns, chosen by its own criterion; None for other attacks."""
    training_cpu_seconds: float | None = None
    """Of the attacker's own network, once for all victims; None where the attack trains none."""

    def as_dict(self) -> dict[str, Any]:
        """By the names of the columns."""
        return {n: v for n, v in msgspec.structs.asdict(self).items() if n not in SELDOM or v != SELDOM[n]}


LABEL_SCORES = ("existence", "counts", "instances")
"""Of :class:`benchmark.metrics.labels.LabelScores`."""

SELDOM = {
    "setting": "",
    "worst_unknown": 0,
    "certified": None,
    "returned_leaked": None,
    "training_cpu_seconds": None,
    **{f"label_{name}": None for name in LABEL_SCORES},
}
"""Columns that are left out where they say nothing, and what is in them then."""


@dataclass(frozen=True)
class Board:
    """The table of one scenario.

    Attributes:
        heading: data set, model, and what is not usual.
        rows: attacks on the labels alone after those that are ranked, null baselines last.
        names: of the attacks on it.
        notes: sentences that stand under the table.
        blank: rows without numbers, of attacks that do not take such victims and of cells that were not run: what
            stands in some columns.
        standings: of the defenses, by rank.
    """

    heading: str
    rows: list[Row]
    names: Names
    notes: list[str]
    blank: list[dict[str, str]]
    standings: list[Standing]


@dataclass(frozen=True)
class Leaderboard:
    """All tables of a folder.

    Attributes:
        boards: one for each scenario.
        left_out: sentences about records that stand in none of them.
    """

    boards: list[Board]
    left_out: list[str]

    @property
    def rows(self) -> list[Row]:
        """Of all boards."""
        return [row for board in self.boards for row in board.rows]


def of_records(
    records: Iterable[Record],
    current: Collection[str] = (),
    intervals: bool = True,
    declined: Iterable[Declined] = (),
) -> Leaderboard:
    """The leaderboard of a folder's records.

    Args:
        records: in any order.
        current: keys of the records that are known to be of the present code and data.
        intervals: whether the means have theirs, which take longer than all else and which no text shows.
        declined: cells that were asked for and have no records.
    """
    found, left_out = outcomes(records, current)
    ran = {outcome.cell for outcome in found}
    scenarios: dict[str, list[Outcome]] = defaultdict(list)
    for outcome in found:
        scenarios[outcome.scenario].append(outcome)
    without: dict[str, list[tuple[Outcome, str]]] = defaultdict(list)
    for one in declined:
        if one.cell not in ran:
            empty = Outcome(one.cell, one.config, {}, ())
            without[empty.scenario].append((empty, one.reason))
    boards = [board_of(scenarios[name], intervals, without[name], found) for name in sorted(scenarios)]
    return Leaderboard(boards, [*left_out, *(not_begun(without[name]) for name in sorted({*without} - {*scenarios}))])


def not_begun(cells: Sequence[tuple[Outcome, str]]) -> str:
    """A sentence on a scenario without any record."""
    config = cells[0][0].config
    batch = f" in batches of {config['batch_size']}" if config["batch_size"] > 1 else ""
    setting = f", {said}" if (said := setting_of(config)) else ""
    many = "1 cell" if len(cells) == 1 else f"{len(cells)} cells"
    return f"Not run: {config['data']['class']} {config['model']['class']}{batch}{setting} ({many})."


def board_of(
    board: list[Outcome],
    intervals: bool = True,
    declined: Sequence[tuple[Outcome, str]] = (),
    everything: Sequence[Outcome] = (),
) -> Board:
    """The table of a scenario: defenses by rank, and of each defense the cell first that leaks most.

    Args:
        board: its outcomes.
        intervals: whether the means have theirs.
        declined: without victims, of attacks that do not take them, each with the reason, or not run, with none.
        everything: the outcomes of all scenarios.
    """
    names, standings = Names([*board, *(one for one, _ in declined)]), ranked(board)
    rows = []
    for standing in standings:
        pairs = zip(standing.outcomes, standing.void, strict=True)
        rows += sorted((row_of(outcome, standing, void, intervals) for outcome, void in pairs), key=place)
    for last in (False, True):
        unranked = [one for one in board if not one.seeks_images and one.is_baseline == last]
        rows += sorted((row_of(outcome, None, None, intervals) for outcome in unranked), key=place)
    met = {one.attack for one in board}
    not_taken = {}  # by the cell, or by the attack where that takes none
    for one, reason in declined:
        if reason and one.attack in met:
            not_taken[names.cell(one)] = blank_row(one, names, "not applicable"), reason
        elif reason:
            name = names.attack(one.config["attack"], False)
            not_taken[name] = {"attack": name, "leak rate": "not applicable"}, reason
    notes = [f"Not applicable: {name} ({reason})." for name, (_, reason) in not_taken.items()]
    blank = [row for row, _ in not_taken.values()]
    blank += [blank_row(one, names, "not run") for one, reason in declined if not reason]
    said = [*caveats(board, standings, names, everything), *notes]
    return Board(heading(rows[0]), rows, names, said, blank, standings)


def blank_row(cell: Outcome, names: Names, why: str) -> dict[str, str]:
    """The texts of the row of a cell that has no records."""
    defense = cell.config["defense"]
    name, how = (defense["class"], strength(defense) or "-") if defense else ("none", "-")
    attack = names.attack(cell.config["attack"], cell.adaptive)
    return {"defense": name, "strength": how, "attack": attack, "leak rate": why}


def place(row: Row) -> tuple[Any, ...]:
    """Of a row among those of its defense."""
    return -(row.leak_rate or 0.0), row.attack, row.adaptive, repr(row.attack_args)


def row_of(outcome: Outcome, standing: Standing | None, void: str | None, intervals: bool) -> Row:
    """The scores of one cell.

    Args:
        outcome: of the cell.
        standing: of its defense; None for a null baseline.
        void: why the cell shows no protection.
        intervals: whether the means have theirs.
    """
    config, victims = outcome.config, list(outcome.victims.values())
    defense, attack = config["defense"] or {"class": "none"}, config["attack"]
    return Row(
        rank=standing.rank if standing else None,
        dataset=config["data"]["class"],
        model=config["model"]["class"],
        defense=defense["class"],
        defense_args=arguments(defense),
        attack=attack["class"],
        attack_args=arguments(attack),
        adaptive=outcome.adaptive,
        victims=len(victims),
        **(of_images(outcome, victims, intervals) if outcome.seeks_images or outcome.is_baseline else {}),
        **of_labels(config, victims),
        evaluations_mean=fmean([victim["evaluations"] for victim in victims]),
        seconds_per_victim=sum(record["cost"]["seconds"] for record in outcome.records)
        / sum(len(record["victims"]) for record in outcome.records),
        diverged=len(outcome.diverged),
        unconverged=len(outcome.unconverged) if outcome.seeks_images else None,
        void=void,
        **(worst_case(standing) if standing else {}),
        data_args=arguments(config["data"]),
        model_args=arguments(config["model"]),
        batch_size=config["batch_size"],
        same_class=config.get("same_class", 1),  # records of before there were runs of a class have none
        seed=config["seed"],
        cell=outcome.cell,
        setting=setting_of(config),
        certified=certified_of(victims),
        returned_leaked=returned_of(victims),
        training_cpu_seconds=training_of(outcome.records),
    )


def of_images(outcome: Outcome, victims: list[dict[str, Any]], intervals: bool) -> dict[str, Any]:
    """How much of the images was found."""
    mse, psnr, ssim = (means([victim[name] for victim in victims]) for name in ("mse", "psnr", "ssim"))
    lpips = means([victim["lpips"] for victim in victims if victim["lpips"] is not None])
    least = sorted(map(min, (victim["mse"] for victim in victims)))
    low, high = wilson(len(outcome.leaked), len(victims))
    known = knows_labels(outcome.config)
    return {
        "leaked": len(outcome.leaked),
        "leak_rate": len(outcome.leaked) / len(victims),
        "leak_rate_low": low,
        "leak_rate_high": high,
        "leaked_wholly": len(outcome.leaked_wholly),
        "mse_median": median(mse),
        "mse_at_most": {str(limit): bisect_right(least, limit) / len(least) for limit in THRESHOLDS},
        **mean_of("psnr", psnr, intervals),
        **mean_of("ssim", ssim, intervals),
        **mean_of("lpips", lpips if len(lpips) == len(victims) else [], intervals),
        "label_accuracy": None if known else fmean(means([victim["label_correct"] for victim in victims])),
    }


def of_labels(config: dict[str, Any], victims: list[dict[str, Any]]) -> dict[str, Any]:
    """How much of the labels was told, means over victims; nothing where an attacker is granted them."""
    granted = config.get("labels", "hidden") != "hidden" or config.get("threat_model", "A") != "A"
    if granted or not all("labels" in victim for victim in victims):
        return {}
    if config["batch_size"] == 1:  # the label of an image that was found is scored with it
        alone = not victims[0]["label_correct"]
        return {"label_accuracy": fmean([victim["labels"]["instances"] for victim in victims])} if alone else {}
    return {f"label_{name}": fmean([victim["labels"][name] for victim in victims]) for name in LABEL_SCORES}


def certified_of(victims: list[dict[str, Any]]) -> int | None:
    """How many images came with a certificate; None where the attack gives none."""
    given = [victim["certified"] for victim in victims if "certified" in victim]
    return sum(map(sum, given)) if given else None


def returned_of(victims: list[dict[str, Any]]) -> int | None:
    """How many victims leak by what an ensemble returns; None where the attack is none."""
    given = [victim["returned"]["leaked_any"] for victim in victims if "returned" in victim]
    return sum(given) if given else None


def training_of(records: Sequence[dict[str, Any]]) -> float | None:
    """CPU seconds of the training of the attacker's network, which blocks share; None where there was none."""
    return max(
        (record["cost"]["training"]["cpu_seconds"] for record in records if "training" in record["cost"]), default=None
    )


USUAL = {"schema", "data", "model", "batch_size", "same_class", "seed", "defense", "attack", "adaptive"}
"""Keys of a configuration whose setting is that of the published attacks."""


def setting_of(config: dict[str, Any]) -> str:
    """What is not as in the published attacks, in a few words each."""
    if config.keys() <= USUAL:
        return ""
    from benchmark.federation.setting import described  # torch, which takes seconds

    return ", ".join(described(config))


def arguments(part: dict[str, Any]) -> dict[str, Any]:
    """Of a class in a configuration."""
    return {key: value for key, value in part.items() if key != "class"}


def means(of_victims: Sequence[Sequence[float]]) -> list[float]:
    """The mean over the images of each victim."""
    if set(map(len, of_victims)) == {1}:
        return list(chain.from_iterable(of_victims))
    return [fmean(of_images) for of_images in of_victims]


def mean_of(name: str, values: list[float], intervals: bool) -> dict[str, Any]:
    """Mean and interval, None where there are no values."""
    low, high = bootstrap_mean(values) if values and intervals else (None, None)
    return {f"{name}_mean": fmean(values) if values else None, f"{name}_mean_low": low, f"{name}_mean_high": high}


def worst_case(standing: Standing) -> dict[str, Any]:
    """The ranked number of a defense."""
    leaked, unknown, victims = len(standing.worst), len(standing.unknown), len(standing.indices)
    low, high = partly_known(leaked, unknown, victims)
    rates = {"worst_leak_rate": leaked / victims, "worst_leak_rate_low": low, "worst_leak_rate_high": high}
    return {"worst_victims": victims, "worst_leaked": leaked, "worst_unknown": unknown} | rates


def heading(row: Row) -> str:
    """The title of the board on which a row stands."""
    args = ", ".join(f"{key}={value}" for part in (row.data_args, row.model_args) for key, value in part.items())
    batch = f", batches of {row.batch_size}" if row.batch_size > 1 else ""
    batch += f", runs of {row.same_class} images of a class" if row.same_class > 1 else ""
    seed = f", seed {row.seed}" if row.seed else ""
    setting = f", {row.setting}" if row.setting else ""
    return f"{row.dataset} with {row.model}{batch}{setting}{seed}" + (f" ({args})" if args else "")
