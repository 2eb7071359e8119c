"""``leakboard verify``."""

import argparse
import os
import secrets
from contextlib import chdir
from pathlib import Path
from random import Random

from benchmark.api import run_suite
from benchmark.boards.terminal import Console, wide_enough
from benchmark.cli.check import counted, tell_contracts
from benchmark.cli.parts import Parts
from benchmark.cli.publish import publish
from benchmark.errors import UsageError
from benchmark.jobs.attacks import Attacks
from benchmark.jobs.conductor import Conductor
from benchmark.jobs.job import Watch
from benchmark.papers.sources import trainings
from benchmark.rehearsal.contracts import places
from benchmark.store.store import SHELVES, Record, Store, keys_in
from benchmark.studies.entry import check_records, check_trainings, entry_in, records_of, suite_of
from benchmark.studies.reproduction import conclusion, grid, sample, verdicts
from benchmark.suite.suite import Suite, whole_number
from benchmark.training.plan import plan
from benchmark.training.suite import beside


def carry_out(options: argparse.Namespace, parts: Parts) -> int:
    """``leakboard verify``."""
    victims = whole_number("--victims", options.victims, at_least=1)
    drawn = 1 + secrets.randbelow(2**31) if options.seed is None else options.seed
    seed = whole_number("--seed", drawn, at_least=0, at_most=2**31)
    entry, folder = entry_in(Path(options.entry)), Path(options.entry).resolve()
    out = Path(options.out or Path("runs") / folder.name).resolve()
    data_root = Path(options.data_root or os.environ.get("LEAKBOARD_DATA") or "data").resolve()
    options = argparse.Namespace(**{**vars(options), "out": str(out), "data_root": str(data_root)})
    with chdir(folder):  # where its modules, and what its arguments name, are looked for
        suite = suite_of(entry)
        if options.run:
            make_records(suite, options, folder)
        records = records_of(folder)
        if (trained := beside(suite)) is not None:
            runs = plan(trained, Conductor.of(options, suite.name).bench, rehearse=False)
            check_trainings(trainings(folder), runs)
        options.out = str(out / "verify")
        return verify(suite, records, options, victims, seed)


def make_records(suite: Suite, options: argparse.Namespace, folder: Path) -> None:
    """Runs what is missing of a suite, and publishes it in the folder of the entry."""
    out = Path(options.out)
    if any(keys_in(folder / shelf.name) for shelf in SHELVES):
        publish(folder, out)  # what is there is not run again
    print(run_suite(suite, options, progress=True).ran)
    publish(out, folder)


def verify(suite: Suite, records: list[Record], options: argparse.Namespace, victims: int, seed: int) -> int:
    """Checks an entry whose folder is the current one, and prints what comes out.

    Args:
        suite: on which it was tried, with its defense.
        records: of it.
        options: of the command.
        victims: of each cell that are attacked again.
        seed: what is added to those of the suite.

    Returns:
        The exit code: 1 where a cell differs.

    Raises:
        UsageError: a contract is broken, or records do not match the entry.
    """
    conductor = Conductor.of(options, suite.name)
    same, fresh = sample(suite, seed, conductor.bench, victims, place=Random(seed).random())
    check_records(records, same)
    for defense in {cell.defense.label: cell.defense for cell in suite.cells if cell.defense}.values():
        if broken := tell_contracts("defense", defense, places(root=options.data_root)):
            raise UsageError(f"{defense.label} breaks {counted(broken)}: see above")
    store = Store(conductor.folder)
    conductor.carry_out([*same, *fresh], Attacks(conductor.fitting), store, Watch())
    made = {record["key"]: record for record in store.all()}
    again, anew = ([made[block.key] for block in blocks] for blocks in (same, fresh))
    found = verdicts([block.cell for block in same], records, again, anew)
    table = grid(found)
    table.print(wide_enough(Console(), table.width))
    for line in conclusion(found):
        print(line)
    print(f"fresh seeds: those of the suite plus {seed}; --seed {seed} repeats this")
    print(f"records: {conductor.folder / 'records'}")
    return 0 if all(one.word == "reproduced" for one in found) else 1
