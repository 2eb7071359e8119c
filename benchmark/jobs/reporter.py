"""Tables, pictures and W&B runs, made from the records while a run goes on."""

from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from PIL.Image import Image

from benchmark.boards import leaderboard, table
from benchmark.boards.cells import sentence, what
from benchmark.jobs.attack_tracking import AttackTracker
from benchmark.jobs.blocks import Block, Present
from benchmark.jobs.job import Watch
from benchmark.jobs.pictures import columns_of, enlarged, halves
from benchmark.store.declined import declined_in
from benchmark.store.schema import attack_record, attack_scores
from benchmark.store.sealing import Unusable
from benchmark.store.store import Record, Store, read, read_all, write_whole
from benchmark.suite.suite import Suite


class Reporter(Watch[Block]):
    """Makes pictures, tables and W&B runs from the records, as cells are completed."""

    def __init__(
        self, suite: Suite, blocks: list[Block], store: Store, tracker: AttackTracker | None, present: Present
    ) -> None:
        self._suite, self._store, self._tracker, self._present = suite, store, tracker, present
        self._cells = {block.cell.id: block.cell for block in blocks}
        self._keys: dict[str, list[str]] = {}
        for block in blocks:
            self._keys.setdefault(block.cell.id, []).append(block.key)
        self._mine: set[str] = set()
        self._reported: set[str] = set()

    def begins(self, job: Block) -> None:
        self._mine.add(job.group)

    def ends(self, job: Block, record: Record) -> None:
        cell = job.group
        if cell in self._mine and all(self._store.done(key) for key in self._keys[cell]):
            self._mine.discard(cell)
            self._report(cell)

    def finish(self) -> leaderboard.Leaderboard:
        """Writes the tables, and the runs and pictures that are missing."""
        for cell in self._keys:
            if not self._picture(cell).exists() or (self._tracker and cell not in self._reported):
                self._report(cell)
        records = read_all(self._store.folder, attack_scores)
        present = [one for one in records if one["cell"] in self._keys or self._present.made(one)]
        mine, declined = {key for keys in self._keys.values() for key in keys}, declined_in(self._store.folder)
        found = leaderboard.of_records(present, mine, declined=declined)
        if len(present) < len(records):
            found = replace(found, left_out=[*found.left_out, changed_since(records, present)])
        table.write(self._store.folder, found, records)
        if self._tracker:
            self._tracker.leaderboard([row.as_dict() for row in found.rows], self._pictures(present))
        return found

    def _pictures(self, records: list[Record]) -> dict[str, tuple[Image, Image]]:
        """True images and reconstructions of the first victims of each cell, where its record holds them."""
        order = sorted(records, key=lambda record: -record["victims"][0]["index"])
        first = {record["cell"]: self._store.records / f"{record['key']}.json" for record in order}
        found = {}
        for cell, path in first.items():
            with suppress(Unusable, OSError):
                if columns_of(strip := read(path, attack_record)["picture"]):
                    found[cell] = halves(strip)
        return found

    def _picture(self, cell: str) -> Path:
        made = self._cells[cell]
        defense = made.defense.name if made.defense else "none"
        knows = "-adaptive" if made.adaptive else ""
        name = (
            f"{made.scenario.data.name}-{made.scenario.model.name}-{defense}-{made.attack.name}{knows}-{cell[:6]}.png"
        )
        return self._store.folder / "pictures" / name

    def _report(self, cell: str) -> None:
        records = self._records(cell)
        if not records:  # they have just vanished: the run finds that at its end
            return
        self._reported.add(cell)
        picture = None
        if strip := records[0]["picture"]:  # published records have none
            picture = self._picture(cell)
            write_whole(picture, enlarged(strip))
        if self._tracker:
            control = replace(self._cells[cell], defense=None, adaptive=False).id
            beside = self._records(control) if control != cell else []
            (row,) = (row for row in leaderboard.of_records(records + beside).rows if row.cell == cell)
            # Other cells, still to come, have a say in the rank and the worst case.
            summary = {key: value for key, value in row.as_dict().items() if not key.startswith(("rank", "worst_"))}
            self._tracker.cell(cell, self._cells[cell].config(), records, summary, picture)

    def _records(self, cell: str) -> list[Record]:
        found = map(self._store.record, self._keys.get(cell, []))
        return [record for record in found if record]


def changed_since(records: list[Record], present: list[Record]) -> str:
    """A sentence on the records of a folder that are not of the present code."""
    keys = {record["key"] for record in present}
    gone: dict[str, set[int]] = {}
    for record in (one for one in records if one["key"] not in keys):
        gone.setdefault(record["cell"], set()).update(victim["index"] for victim in record["victims"])
    others = [(what(record), len(gone.pop(record["cell"]))) for record in records if record["cell"] in gone]
    return sentence("present", others)
