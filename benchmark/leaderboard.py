"""From records to a ranked table."""

import csv
import io
import json
from collections import defaultdict
from statistics import fmean, median
from typing import Any

from benchmark.cells import Cells, cells_of_one_code
from benchmark.intervals import bootstrap_mean, wilson
from benchmark.leak import LEAKED_PSNR, leaks
from benchmark.scores import THRESHOLDS
from benchmark.store import Record
from benchmark.suite import BASELINES

Row = dict[str, Any]


def rows(records: list[Record]) -> list[Row]:
    """One row for each cell, ranked.

    Within a scenario a defense is ranked by the share of victims that leak to any of the attacks on it, oblivious or
    adaptive: the less the better. Its row with the highest leak rate stands first. Baselines come last.
    """
    table = [_row([cell[index] for index in sorted(cell)]) for cell in newest_victims(records).values()]
    boards: dict[str, list[Row]] = defaultdict(list)
    for row in table:
        boards[row["_scenario"]].append(row)
    ranked = [row for name in sorted(boards) for row in _ranked(boards[name])]
    return [{key: value for key, value in row.items() if not key.startswith("_")} for row in ranked]


def newest_victims(records: list[Record]) -> Cells:
    """Those of :func:`cells_of_one_code`, without the sentences."""
    return cells_of_one_code(records)[0]


def _row(victims: list[tuple[dict[str, Any], Record]]) -> Row:
    """The scores of one cell."""
    config = victims[0][1]["config"]
    each = [victim for victim, _ in victims]
    found = [victim["index"] for victim in each if leaks(victim)]
    low, high = wilson(len(found), len(each))
    means = {name: [fmean(v[name]) for v in each] for name in ("mse", "psnr", "ssim")}
    perceptual = [fmean(v["lpips"]) for v in each if v["lpips"] is not None]
    costs = {record["key"]: (record["cost"]["seconds"], len(record["victims"])) for _, record in victims}
    attack, defense = _split(config["attack"]), _split(config["defense"])
    same_class = config.get("same_class", 1)  # records of before there were runs have none
    scenario = {key: config[key] for key in ("data", "model", "batch_size", "seed")} | {"same_class": same_class}
    return {
        "rank": None,
        "dataset": config["data"]["class"],
        "model": config["model"]["class"],
        "defense": defense[0],
        "defense_args": defense[1],
        "attack": attack[0],
        "attack_args": attack[1],
        "adaptive": config["adaptive"],
        "victims": len(each),
        "leaked": len(found),
        "leak_rate": len(found) / len(each),
        "leak_rate_low": low,
        "leak_rate_high": high,
        "mse_median": median(means["mse"]),
        "mse_at_most": {str(limit): fmean(min(v["mse"]) <= limit for v in each) for limit in THRESHOLDS},
        **_mean("psnr", means["psnr"]),
        **_mean("ssim", means["ssim"]),
        **(_mean("lpips", perceptual) if len(perceptual) == len(each) else _no_mean("lpips")),
        "label_accuracy": fmean(fmean(v["label_correct"]) for v in each),
        "evaluations_mean": fmean(v["evaluations"] for v in each),
        "seconds_per_victim": sum(s for s, _ in costs.values()) / sum(n for _, n in costs.values()),
        "diverged": sum(v["status"] == "diverged" for v in each),
        "void": False,
        "worst_leak_rate": None,
        "data_args": _split(config["data"])[1],
        "model_args": _split(config["model"])[1],
        "batch_size": config["batch_size"],
        "same_class": same_class,
        "seed": config["seed"],
        "cell": victims[0][1]["cell"],
        "_scenario": repr(sorted(scenario.items())),
        "_found": frozenset(found),
        "_indices": frozenset(v["index"] for v in each),
    }


def _split(part: dict[str, Any] | None) -> tuple[str, dict[str, Any]]:
    if part is None:
        return "none", {}
    return part["class"], {key: value for key, value in part.items() if key != "class"}


def _mean(name: str, values: list[float]) -> Row:
    low, high = bootstrap_mean(values)
    return {f"{name}_mean": fmean(values), f"{name}_mean_low": low, f"{name}_mean_high": high}


def _no_mean(name: str) -> Row:
    return {f"{name}_mean": None, f"{name}_mean_low": None, f"{name}_mean_high": None}


def _ranked(board: list[Row]) -> list[Row]:
    """The rows of one scenario, with rank, worst case and void."""
    controls = {_attack(row): row for row in board if row["defense"] == "none"}
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in board:
        if row["attack"] in BASELINES:
            continue
        groups[_defense(row)].append(row)
        if row["defense"] != "none":
            control = controls.get(_attack(row))
            row["void"] = control is None or not control["_found"] & row["_indices"]
    worst = {}
    for name, group in groups.items():
        found = frozenset().union(*(row["_found"] for row in group))
        worst[name] = len(found) / len(frozenset().union(*(row["_indices"] for row in group)))
        for row in group:
            row["worst_leak_rate"] = worst[name]
    # Equal rates share a rank. There is none where no control leaks, since nothing was shown, and none while cells are
    # missing: an attack that is still to come may be the one that finds most.
    victims = frozenset().union(*(row["_indices"] for row in board))
    against_none = {(attack, False) for attack in controls if not attack.startswith(BASELINES)}
    against_defense = {(attack, knows) for attack, _ in against_none for knows in (False, True)}
    shown = set()
    for name, group in groups.items():
        undefended = group[0]["defense"] == "none"
        wanted = against_none if undefended else against_defense
        complete = wanted <= {(_attack(row), row["adaptive"]) for row in group if row["_indices"] == victims}
        if complete and any(row["leaked"] > 0 if undefended else not row["void"] for row in group):
            shown.add(name)
    for name in shown:
        rank = 1 + sum(worst[other] < worst[name] for other in shown)
        for row in groups[name]:
            row["rank"] = rank
    return sorted(
        board,
        key=lambda row: (
            row["attack"] in BASELINES,
            row["rank"] is None,
            row["rank"] or 0,
            _defense(row),
            -row["leak_rate"],
            row["attack"],
            row["adaptive"],
            repr(row["attack_args"]),
        ),
    )


def _attack(row: Row) -> str:
    return f"{row['attack']} {row['attack_args']}"


def _defense(row: Row) -> str:
    return f"{row['defense']} {row['defense_args']}"


COLUMNS = (
    "rank",
    "defense",
    "strength",
    "attack",
    "leak rate",
    "95 % interval",
    "PSNR",
    "SSIM",
    "LPIPS",
    "label acc.",
    "evaluations",
    "s / victim",
)


def varying(board: list[Row]) -> set[tuple[str, str]]:
    """The attacks' arguments, by class and name, that are not the same in all rows of that class."""
    values: dict[tuple[str, str], set[str]] = defaultdict(set)
    for row in board:
        for name, value in row["attack_args"].items():
            values[row["attack"], name].add(repr(value))
    return {argument for argument, different in values.items() if len(different) > 1}


def cells_of(row: Row, shown: set[tuple[str, str]]) -> tuple[str, ...]:
    """The row as a person reads it, in the order of ``COLUMNS``.

    Args:
        row: of a board.
        shown: the arguments of attacks that stand beside their name, of :func:`varying`.
    """
    args = ", ".join(f"{name}={value}" for name, value in row["attack_args"].items() if (row["attack"], name) in shown)
    void = " (void)" if row["void"] else ""
    lpips = "-" if row["lpips_mean"] is None else f"{row['lpips_mean']:.3f}"
    return (
        "-" if row["rank"] is None else str(row["rank"]),
        row["defense"],
        ", ".join(f"{k}={v}" for k, v in row["defense_args"].items() if v is not False) or "-",
        row["attack"] + (f" {args}" if args else "") + (" adaptive" if row["adaptive"] else "") + void,
        f"{row['leak_rate']:.2f} ({row['leaked']}/{row['victims']})",
        f"{row['leak_rate_low']:.2f}-{row['leak_rate_high']:.2f}",
        f"{row['psnr_mean']:.1f}",
        f"{row['ssim_mean']:.3f}",
        lpips,
        f"{row['label_accuracy']:.2f}",
        f"{row['evaluations_mean']:.0f}",
        f"{row['seconds_per_victim']:.3f}",
    )


def boards(table: list[Row]) -> dict[str, list[Row]]:
    """The rows by data set and model, under a title for each."""
    found: dict[str, list[Row]] = defaultdict(list)
    for row in table:
        args = ", ".join(f"{k}={v}" for part in ("data_args", "model_args") for k, v in row[part].items())
        batch = f", batches of {row['batch_size']}" if row["batch_size"] > 1 else ""
        batch += f", runs of {row['same_class']} images of a class" if row["same_class"] > 1 else ""
        seed = f", seed {row['seed']}" if row["seed"] else ""
        found[f"{row['dataset']} with {row['model']}{batch}{seed}" + (f" ({args})" if args else "")].append(row)
    return found


def as_csv(table: list[Row]) -> str:
    """All columns of all rows."""
    file = io.StringIO()
    writer = csv.DictWriter(file, fieldnames=list(table[0]), lineterminator="\n")
    writer.writeheader()
    for row in table:
        writer.writerow({k: json.dumps(v) if isinstance(v, dict) else v for k, v in row.items()})
    return file.getvalue()


NOTE = (
    f"Leaked: PSNR of at least {LEAKED_PSNR:.0f} dB; intervals are 95 % Wilson. A defense's rank is by the share of "
    "victims that leak to any of the attacks, the one that knows the defense included: 1 leaks least. Void: the same "
    "attack does not leak without the defense either, so the cell says nothing. No rank: all cells are void, or some "
    "are missing still. PSNR in dB and SSIM are means over victims; evaluations are gradient evaluations of one "
    "victim. The last rows are null baselines: an attack below them has found nothing."
)


def as_markdown(table: list[Row], title: str, no_lpips: str | None) -> str:
    """A page with a table for each data set and model."""
    lines = [f"# {title}", "", NOTE, ""]
    if no_lpips:
        lines += [f"LPIPS is empty: {no_lpips}", ""]
    for heading, board in boards(table).items():
        lines += [f"## {heading}", "", "| " + " | ".join(COLUMNS) + " |", "|" + "---|" * len(COLUMNS)]
        shown = varying(board)
        lines += ["| " + " | ".join(cells_of(row, shown)) + " |" for row in board] + [""]
    return "\n".join(lines)
