"""``leakboard verify``."""

import argparse
import os
import secrets
from contextlib import chdir
from pathlib import Path
from random import Random

from benchmark.boards.terminal import Console, wide_enough
from benchmark.cli.check import counted, tell_contracts
from benchmark.cli.parts import Parts
from benchmark.errors import UsageError
from benchmark.jobs.attacks import Attacks
from benchmark.jobs.conductor import Conductor
from benchmark.jobs.job import Watch
from benchmark.rehearsal.contracts import places
from benchmark.store.store import Record, Store
from benchmark.studies.entry import Entry, check_records, entry_in, records_of, suite_of
from benchmark.studies.reproduction import conclusion, grid, sample, verdicts, with_fresh_seeds
from benchmark.suite.suite import whole_number


def carry_out(options: argparse.Namespace, parts: Parts) -> int:
    """``leakboard verify``."""
    victims = whole_number("--victims", options.victims, at_least=1)
    seed = 1 + secrets.randbelow(2**31) if options.seed is None else whole_number("--seed", options.seed, at_least=0)
    folder = Path(options.entry)
    entry = entry_in(folder)
    records = records_of(folder)
    out = Path(options.out or Path("runs") / f"verify-{folder.resolve().name}").resolve()
    data_root = Path(options.data_root or os.environ.get("LEAKBOARD_DATA") or "data").resolve()
    options.out, options.data_root = str(out), str(data_root)
    with chdir(folder):
        return verify(entry, records, options, victims, seed)


def verify(entry: Entry, records: list[Record], options: argparse.Namespace, victims: int, seed: int) -> int:
    """Checks an entry whose folder is the current one, and prints what comes out.

    Args:
        entry: what its file says.
        records: of it.
        options: of the command.
        victims: of each cell that are attacked again.
        seed: that is not the records'.

    Returns:
        The exit code: 1 where a cell differs.

    Raises:
        UsageError: a contract is broken, or records do not match the entry.
    """
    suite = suite_of(entry)
    other = with_fresh_seeds(suite, seed)
    conductor, place = Conductor.of(options, suite.name), Random(seed).random()
    same = sample(suite, conductor.bench, victims, place)
    check_records(records, same, entry.suite)
    for defense in {cell.defense.label: cell.defense for cell in suite.cells if cell.defense}.values():
        if broken := tell_contracts("defense", defense, places(root=options.data_root)):
            raise UsageError(f"{defense.label} breaks {counted(broken)}: see above")
    fresh = sample(other, conductor.bench, victims, place)
    store = Store(conductor.folder)
    conductor.carry_out([*same, *fresh], Attacks(conductor.fitting), store, Watch())
    made = {record["key"]: record for record in store.all()}
    again, anew = ([made[block.key] for block in blocks] for blocks in (same, fresh))
    found = verdicts([block.cell for block in same], records, again, anew)
    table = grid(found)
    table.print(wide_enough(Console(), table.width))
    for line in conclusion(found):
        print(line)
    print(f"fresh seeds: those of {entry.suite} plus {seed}; --seed {seed} repeats this")
    print(f"records: {conductor.folder / 'records'}")
    return 0 if all(one.word == "reproduced" for one in found) else 1
