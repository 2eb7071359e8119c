"""An entry of the leaderboard from outside: what its folder says, and whether its records are of it."""

import itertools
import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any, NoReturn

from msgspec import Meta

from benchmark.boards.cells import checksums
from benchmark.errors import UsageError, shown
from benchmark.federation.recipe import typed
from benchmark.jobs.blocks import Block
from benchmark.metrics.leak import BASELINES
from benchmark.store.schema import run_record
from benchmark.store.store import Record, read_all
from benchmark.suite.registry import Spec, spec_of
from benchmark.suite.suite import Scenario, Suite, as_cells, check_keys, entries, load, named, read, suite_path
from benchmark.training.plan import Run
from benchmark.training.tuning import STAGES, contests

FILE = "entry.yaml"

ANEW = "delete them and runs/NAME, or what --out was, and make them anew with --run"
"""What is to be done with records that are not of an entry."""

Text = Annotated[str, Meta(pattern=r"\S", description="a text")]


@dataclass(frozen=True)
class Entry:
    """What ``entry.yaml`` says.

    Attributes:
        defense: as in a suite, with all strengths as ``sweep``.
        author: who answers for it.
        link: to the paper or the code.
        threat_model: what the defense promises, against whom.
        adaptive_attack: the strongest attack that knows the defense and was tried.
        adaptive_budget: of it.
        adaptive_result: what it found.
        suite: on which the records were made.
        attacks: a list as in a suite, which are tried in each scenario beside those of the suite.
    """

    defense: Any
    author: Text
    link: Text
    threat_model: Text
    adaptive_attack: Text
    adaptive_budget: Text
    adaptive_result: Text
    suite: Text
    attacks: Any = ()


KEYS = tuple(one.name for one in fields(Entry))


def entry_in(folder: Path) -> Entry:
    """The entry in a folder.

    Raises:
        UsageError: there is none, or a key of it is unknown, missing or of another type.
    """
    path = folder / FILE
    if not path.exists():
        raise UsageError(f"{folder} has no {FILE}: give the folder of an entry, as results/leaderboard/entries/NAME")
    with named(path):
        given = read(path, KEYS, "entry")
        check_keys("key of an entry", given, KEYS)
        if missing := [key for key in KEYS[:-1] if key not in given]:
            raise UsageError(f"{missing[0]} is missing: an entry says {', '.join(KEYS[:-1])}")
        return typed(Entry, given)


def suite_of(entry: Entry) -> Suite:
    """The entry's suite with its defense in place of all others, in trainings too, and its attacks beside those of each
    scenario.

    Relative paths and own classes are those of the current folder, which must be the entry's.

    Raises:
        UsageError: something in it is wrong, or a class of the user's own is not in a file of this folder.
    """
    with named(Path(FILE)):
        defenses = entries("defense", entry.defense)
        if not isinstance(entry.attacks, list | tuple):
            raise UsageError("attacks must be a list, as in attacks: [{class: mine.Attack, steps: 100}]")
        attacks = [made for one in entry.attacks for made in entries("attack", one)]
        for made in [*defenses, *attacks]:
            check_is_here(made)
        suite = load(suite_path(entry.suite))
    of_suite: dict[str, tuple[Scenario, list[Spec]]] = {}
    for cell in suite.cells:
        _, those = of_suite.setdefault(cell.scenario.name, (cell.scenario, []))
        if cell.defense is None and cell.attack.name not in BASELINES:
            those.append(cell.attack)
    cells = [cell for scenario, those in of_suite.values() for cell in as_cells(scenario, defenses, [*those, *attacks])]
    trained = [{**one, "defenses": [entry.defense]} for one in suite.training.get("scenarios", [])]
    training = suite.training | ({"scenarios": trained} if trained else {})
    return replace(suite, cells=tuple({cell.id: cell for cell in cells}.values()), training=training)


def check_is_here(made: Spec) -> None:
    """UsageError where a class of the user's own is not in a file of the current folder."""
    for one in (made, *made.inner):
        module = one.name.rpartition(".")[0]
        file = getattr(sys.modules.get(module), "__file__", None)
        if module and Path(file or "nowhere").resolve().parent != Path.cwd():
            raise UsageError(
                f"{one.name} is in {shown(file) if file else 'no file'}, not in the folder of the entry: put its file "
                "there, under a name that no other module has"
            )


def records_of(folder: Path) -> list[Record]:
    """The records of an entry.

    Raises:
        UsageError: there are none, one cannot be used, or one holds a private image.
    """

    def refuse(sentence: str) -> NoReturn:
        raise UsageError(f"in {folder} {sentence}: {ANEW}")

    records = read_all(folder, run_record, links=False, tell=refuse)
    if any(record["picture"] for record in records):
        raise UsageError(f"the records in {folder} hold private images: {ANEW}")
    return records


def check_records(records: Sequence[Record], blocks: Sequence[Block]) -> None:
    """Sees that records are whole, and of these cells and no others as their classes and data are now.

    Args:
        records: of an entry.
        blocks: one of each of its cells, undefended ones first.

    Raises:
        UsageError: they are not.
    """
    of_cell: dict[str, list[Record]] = {block.group: [] for block in blocks}
    for record in records:
        if record["cell"] not in of_cell:
            config = record["config"]
            behind = f"on {spec_of(config['defense']).label}" if config["defense"] else "without a defense"
            raise UsageError(
                f"the records hold {spec_of(config['attack']).label} {behind}, seed {config['seed']}, which is no cell "
                f"of the suite with the defense and the attacks of {FILE}: {ANEW}"
            )
        of_cell[record["cell"]].append(record)
    for block in blocks:
        for record in of_cell[block.group]:
            if other := another(record, block):
                raise UsageError(f"the records of {block.label} were made with {other}: {ANEW}")
        there = {victim["index"] for record in of_cell[block.group] for victim in record["victims"]}
        if missing := set(range(block.cell.scenario.victims)) - there:
            raise UsageError(
                f"the records lack {len(missing)} of {block.cell.scenario.victims} victims of {block.label}: add them "
                "with --run"
            )


def check_trainings(records: Sequence[Record], runs: list[Run]) -> None:
    """Sees that trainings are of these runs and no others, and that none is missing of those that the suite trains.

    Args:
        records: of the trainings of an entry.
        runs: of its suite with its defense, as their classes and data are now.

    Raises:
        UsageError: they are not.
    """
    keys, there = {run.key for run in runs}, {record["key"]: record for record in records}
    for record in records:
        if record["key"] not in keys:
            config = record["config"]
            behind = f"with {spec_of(config['defense']).label}" if config["defense"] else "without a defense"
            raise UsageError(
                f"the records hold a training {behind}, seed {config['seed']}, which is none of the suite with the "
                f"defense of {FILE}, or was made by other code: {ANEW}"
            )
    for contest, stage in itertools.product(contests(runs), STAGES):
        if missing := [run for run in stage(contest, there.get) if run.key not in there]:
            raise UsageError(f"the records lack the training {missing[0].label}: add it with --run")


def another(record: Record, block: Block) -> str:
    """What a record was made with that is not as it is now, empty where all is.

    Args:
        record: of the cell of the block, of any of its victims.
        block: as it would be run now.
    """
    made = (block.cell.defense or block.cell.attack).name
    data = checksums(record)
    now = zip(range(block.victims.start - 1, block.victims.stop), block.data, strict=True)
    if record["code_sha256"] != block.code_sha256:
        return f"another version of {made}, or of what it imports"
    if record.get("behavior_sha256", "") != block.behavior:
        return f"a version of {made} that held or did something else"
    if record["network_sha256"][0] != block.networks[0]:
        return "another network"
    return "other images" if any(data.get(place, sha) != sha for place, sha in now) else ""
