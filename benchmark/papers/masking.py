"""Random gradient masking (Kim and Park 2024, arXiv 2408.08430): what protects, against whom, and at what cost."""

from pathlib import Path

from benchmark.papers.masking_caveats import caveats, data_of, network, prior_scale
from benchmark.papers.masking_figure import figure, short_name
from benchmark.papers.masking_finding import chosen, finding, trained
from benchmark.papers.masking_information import information
from benchmark.papers.sources import provenance
from benchmark.papers.sources import trainings as trainings_of
from benchmark.store.store import Record, write_whole
from benchmark.thresholds import page as threshold_page
from benchmark.thresholds import strengths
from benchmark.thresholds.page import range_of, sample_size_caveat
from benchmark.thresholds.strengths import DefenseThresholds
from benchmark.thresholds.table import WITHIN
from benchmark.thresholds.table import Row as Search
from benchmark.training.table import Row, half, rate, scenario_of
from benchmark.training.table import rows as training_rows

TUNED = (
    "Rate is the learning rate, chosen for each defense and for none: at one rate for all, a mask that makes steps",
    "smaller would be blamed for that too.",
)

AT_THE_END = ("Where it is the largest or the smallest tried, another may cost less.",)


def page(records: list[Record], folder: Path) -> str:
    """Writes thresholds.json, thresholds.md, diagnosis.md, spectrum.md and leakage.png anew, and returns the page.

    It is made from the searches that thresholds.json names, from the records and from the trainings in the folder.

    Raises:
        UsageError: thresholds.json is missing or names strengths without records, or a file is damaged.
    """
    threshold_page.write(folder, records)
    found = strengths.read(folder)
    trained_so_far = trainings_of(folder)
    trainings = training_rows(trained_so_far)
    victims = min(search["victims"] for search in found.searches)
    lines = [
        "# Random gradient masking, run again",
        "",
        "Kim and Park 2024 (arXiv 2408.08430) look for the weakest masking, clipping, pruning and noise that stops",
        "DLG, judged by SSIM, and find that federated training at those strengths loses close to nothing with masking",
        "and clipping, and can lose with noise and pruning (abstract; no figure of the paper was available). Their",
        "attacker does not know the defense: *oblivious* is DLG or iDLG as published. *Adaptive* attackers know it and",
        "may use that or not; the strongest also know that images are smooth and lie in [0, 1] (*with priors*).",
        "",
        f"A victim leaks at an SSIM of {found.ssim:g} or more that is above those of the null baselines (a constant,",
        "the data set mean and the mean of the class, which reach 0.5 and more on MNIST). Leakage has stopped where",
        f"at most {found.stop:.0%} of the victims leak. {sample_size_caveat(victims, found.stop)}",
        "",
        "A strength is the weakest tested one from which on every attack of its attacker is stopped; beside it stand",
        "the attack that needs it and that attack's 95 % interval, as in [thresholds.md](thresholds.md).",
        "Accuracy is that of federated training with the defense at that strength, ± half of a 95 % t interval over",
        "seeds. A client's FedAvg update is the average of several steps, not the gradient that was attacked, so that",
        "FedAvg does not count in the verdicts.",
        *(TUNED if any(" " in row["learning_rates"] for row in trainings) else ()),
        *(AT_THE_END if any("tried" in rate(row) for row in trainings) else ()),
    ]
    write_whole(folder / "leakage.png", figure(found.searches, found.stop))
    lines += ["", "![share of victims that leak over the strength of each defense](leakage.png)"]
    for where in dict.fromkeys(one.where for one in found.defenses):
        of_scenario = [one for one in found.defenses if one.where == where]
        lines += ["", f"## {where}", "", *strengths_table(of_scenario), "", *accuracies_table(of_scenario, trainings)]
    told, origins = information(folder)
    lines += ["", "## What these rows cannot show", "", *caveats(found.defenses, trainings, trained_so_far)]
    lines += ["", "## Finding", "", *finding(found.defenses, trainings), *told]
    lines += ["", *provenance(records, trained_so_far, origins)]
    return "\n".join(lines) + "\n"


def strengths_table(of_scenario: list[DefenseThresholds]) -> list[str]:
    """Where each defense of one scenario stops leakage, and the attack that needs most."""
    attackers = list(of_scenario[0].strongest)
    lines = [
        "| defense | " + " | ".join(f"{attacker} attacker stops at | attack" for attacker in attackers) + " |",
        "|---|" + "---|---|" * len(attackers),
    ]
    for one in of_scenario:
        cells = [text for search in one.strongest.values() for text in threshold(search)]
        lines.append("| " + " | ".join([one.label, *cells]) + " |")
    return lines


def threshold(search: Search) -> tuple[str, str]:
    """Where leakage stops, with its interval, or why that is not known; and the attack that needs most."""
    found = search["ssim"]
    if found["stopped"] != WITHIN:
        return str(found["note"]), short_name(search["attack"])
    scale = prior_scale(search)
    name = short_name(search["attack"]) + (f", scale {scale:g}" if scale is not None else "")
    return f"{found['strength']:.3g} ({range_of(found)})", name


def accuracies_table(of_scenario: list[DefenseThresholds], trainings: list[Row]) -> list[str]:
    """The accuracies of each network of one scenario, with each defense at the strengths that stop its attackers."""
    lines = []
    for one in of_scenario:
        without = [row for row in trainings if one.is_trained_on(data_of(row)) and row["defense"] == "no defense"]
        for control in without:
            protected = [
                [row for row in trained(one, attacker, trainings) if scenario_of(row) == scenario_of(control)]
                for attacker in one.strongest
            ]
            cells = [accuracy(rows[0]) if rows else "not trained" for rows in ([control], *protected)]
            lines.append("| " + " | ".join([one.label, network(control), *cells]) + " |")
    if not lines:
        return ["No network was trained on it."]
    attackers = of_scenario[0].strongest
    head = ["defense", "network", "no defense", *(f"where the {attacker} attacker stops" for attacker in attackers)]
    return ["| " + " | ".join(head) + " |", "|" + "---|" * len(head), *lines]


def accuracy(row: Row) -> str:
    """Accuracy in percent and learning rate, and what makes them doubtful."""
    failed = [f"{row[how]} of {row['seeds']} {how}" for how in ("diverged", "collapsed") if row[how]]
    doubts = "".join(f", {doubt}" for doubt in (*failed, row["void"]) if doubt)
    return f"{100 * row['accuracy']:.1f}{half(row, 'accuracy', 100, 1)} %{chosen(row)}{doubts}"
