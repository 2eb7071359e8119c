"""Random gradient masking on the page of all results: what its own page finds, in short."""

from pathlib import Path

from benchmark.papers.masking_caveats import scope
from benchmark.papers.masking_finding import CLAIM, ranking, together, verdicts
from benchmark.papers.sources import trainings
from benchmark.store.store import Record
from benchmark.thresholds import strengths
from benchmark.thresholds.strengths import ADAPTIVE, OBLIVIOUS
from benchmark.training.table import rows as training_rows


def summary(records: list[Record], folder: Path) -> str:
    """Claim, and the verdict on each defense against either attacker.

    Raises:
        UsageError: thresholds.json is missing, or a file is damaged.
    """
    defenses = strengths.read(folder).defenses
    table = training_rows(trainings(folder))
    found = verdicts(defenses, table)
    reasons = " ".join(scope(defenses, table)).replace("just given", "that its page gives")
    return "\n".join(
        [
            f"**Random gradient masking** (arXiv 2408.08430). *Claim:* {CLAIM} *Here*, accuracy lost at the strengths "
            "that stop the attacker as published (oblivious), and at those that stop attackers who know the defense "
            "(adaptive):",
            *(
                f"- {name}: oblivious **{together(found[OBLIVIOUS][name])}**, adaptive "
                f"**{together(found[ADAPTIVE][name])}**."
                for name in found[ADAPTIVE]
            ),
            " ".join(["*Verdict:*", *([reasons] if reasons else []), *ranking(defenses, table)]),
        ]
    )
