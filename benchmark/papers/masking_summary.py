"""Random gradient masking on the page of all results: what its own page finds, in short."""

from pathlib import Path

from benchmark import strengths
from benchmark.papers import masking_finding
from benchmark.store import Record
from benchmark.training.store import read_all as read_trainings
from benchmark.training.table import rows as training_rows


def summary(records: list[Record], folder: Path) -> str:
    """Claim, and the verdict on each defense against either attacker.

    Raises:
        UsageError: thresholds.json is missing, or a file is damaged.
    """
    found = strengths.read(folder)
    trained = read_trainings(folder) if any((folder / "training").glob("*.json")) else []
    first, *said = paragraphs(masking_finding.finding(found.defenses, training_rows(trained)))
    return "\n".join([f"**Random gradient masking** (arXiv 2408.08430). {first}", *said])


def paragraphs(lines: list[str]) -> list[str]:
    """Lines put together: an empty one ends a paragraph, and an item is one of its own."""
    found = [""]
    for line in lines:
        if not line or line.startswith("- "):
            found.append(line)
        else:
            found[-1] = f"{found[-1]} {line}".strip()
    return [paragraph for paragraph in found if paragraph]
