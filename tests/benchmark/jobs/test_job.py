"""A kind of jobs that nobody has heard of is planned, done, resumed, shared and watched like any other."""

import contextlib
import pickle
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import msgspec
import pytest
import torch

from benchmark.errors import UsageError
from benchmark.jobs import job as jobs
from benchmark.jobs.blocks import Workbench
from benchmark.jobs.conductor import Conductor
from benchmark.jobs.executors.worker import Launch, Worker
from benchmark.jobs.job import AGAIN, Kind, Tally, Telling, Watch, look_at_records, work
from benchmark.store.sealing import Unusable, opened
from benchmark.store.store import Record, Shelf, Store, read_all

# All that a new kind needs: a class of jobs, how their records are read, and how they are done.


@dataclass(frozen=True)
class Square:
    """The square of a number, as a sum of odd numbers, one a step."""

    number: int

    @property
    def key(self) -> str:
        return f"{self.number:016x}"

    @property
    def label(self) -> str:
        return f"{self.number} squared"

    @property
    def group(self) -> str:
        return "odd" if self.number % 2 else "even"

    @property
    def size(self) -> int:
        return self.number


class _Form(msgspec.Struct, forbid_unknown_fields=True):
    schema: int
    key: str
    square: int
    steps: int
    sha256: str


def square_record(content: bytes, name: str) -> Record:
    found = opened(content, name, msgspec.json.Decoder(_Form))
    if found.square < 0:
        raise Unusable("is damaged (a square is not below zero)")
    return {"key": found.key, "square": found.square, "steps": found.steps}


class Squares(Kind[Square]):
    plural, groups = "squares", "parities"
    shelf = Shelf("squares", square_record, "squares", "leakboard square")

    def do(self, jobs: list[Square], store: Store, bench: Workbench, watch: Watch[Square]) -> list[Record]:
        (job,) = jobs
        total, before = store.checkpoint(job.key, lambda saved: (saved["total"], saved["step"])) or (0, 0)
        for step in range(before, job.number):
            total += 2 * step + 1
            store.save(job.key, {"total": total, "step": step + 1})
            watch.reached(job, step + 1, f", {total} so far")
        return [{"key": job.key, "square": total, "steps": job.number - before}]

    def so_far(self, job: Square, store: Store) -> int:
        return store.checkpoint(job.key, lambda saved: int(saved["step"])) or 0

    def tally(self) -> Tally[Square]:
        return Sum()


class Refused(Squares):
    """Writes what is not read as a record, time after time."""

    def do(self, jobs: list[Square], store: Store, bench: Workbench, watch: Watch[Square]) -> list[Record]:
        return [{"key": job.key, "square": -1, "steps": 0} for job in jobs]


class Sum(Tally[Square]):
    def __init__(self) -> None:
        self._sum = 0

    def add(self, job: Square, record: Record) -> str:
        self._sum += record["square"]
        return f", {record['square']}"

    def total(self, steps: int) -> str:
        return f", {steps} steps, sum {self._sum}"


JOBS = [Square(number) for number in (3, 4, 5)]
WHOLE = {3: 9, 4: 16, 5: 25}


def bench() -> Workbench:
    return Workbench(torch.device("cpu"))


def conductor(folder: Path, launch: Launch | None = None) -> Conductor:
    return Conductor(["cpu", "cpu"], launch, 1, bench(), folder, None)


def carried_out(folder: Path, launch: Launch | None = None) -> int:
    store = Store(folder, Squares.shelf)
    return conductor(folder, launch).carry_out(JOBS, Squares(), store, Watch[Square]())


def found(folder: Path) -> dict[int, int]:
    records = read_all(folder, square_record, shelf=Squares.shelf)
    return {int(record["key"], 16): record["square"] for record in records}


def test_it_is_done_told_and_not_done_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert carried_out(tmp_path) == 3 and found(tmp_path) == WHOLE
    assert capsys.readouterr().err.splitlines() == [
        "1/2 parities, 7 steps, sum 25: 4 squared, 16",
        "2/2 parities, 12 steps, sum 50: 5 squared, 25",
    ]
    assert [path.suffix for path in (tmp_path / "squares").iterdir()] == [".json"] * 3
    assert carried_out(tmp_path) == 0
    assert capsys.readouterr().err == "2/2 parities, 12 steps, sum 50: done by an earlier run\n"


class Stop(Watch[Square]):
    def reached(self, job: Square, steps: int, said: str = "") -> None:
        if (job.number, steps) == (4, 2):
            raise KeyboardInterrupt


def test_ctrl_c_within_our_own_code_is_no_fault_of_a_worker(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Store, "claim", Mock(side_effect=KeyboardInterrupt))
    worker = Worker(JOBS, Squares(), tmp_path, None, torch.get_num_threads(), "cpu", None, "", Path.cwd(), 2)
    with pytest.raises(KeyboardInterrupt):
        worker()
    assert capsys.readouterr().err == ""


def test_it_goes_on_where_it_was_stopped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = Store(tmp_path, Squares.shelf)
    with pytest.raises(KeyboardInterrupt):
        work(JOBS, Squares(), store, bench(), Stop())
    assert found(tmp_path) == {3: 9} and store.checkpoints(lambda saved: saved["step"]) == [2]
    assert carried_out(tmp_path) == 2 and found(tmp_path) == WHOLE
    assert capsys.readouterr().err.startswith("0/2 parities, 5 steps, sum 9: done by an earlier run\n")
    taken = {record["key"]: record["steps"] for record in store.all()}
    assert [taken[job.key] for job in JOBS] == [3, 2, 5]


def test_what_is_damaged_is_done_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = Store(tmp_path, Squares.shelf)
    store.write({"key": JOBS[0].key, "square": -9, "steps": 3})
    (tmp_path / "squares" / f"{JOBS[1].key}.pt").write_bytes(b"PK\3\4 half a file")
    assert carried_out(tmp_path) == 3 and found(tmp_path) == WHOLE
    said = capsys.readouterr().err
    assert said.count("is damaged (a square is not below zero): set aside") == 1
    assert said.count(f"the checkpoint {JOBS[1].key}.pt is damaged") == 1


def test_a_record_that_vanishes_is_made_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = Store(tmp_path, Squares.shelf)

    class Thief(Watch[Square]):
        def ends(self, job: Square, record: Record) -> None:
            if job.number == 5 and not (tmp_path / "stolen").exists():
                (tmp_path / "squares" / f"{JOBS[0].key}.json").rename(tmp_path / "stolen")

    conductor(tmp_path).carry_out(JOBS, Squares(), store, Thief())
    assert "1 of 3 records disappeared from" in (said := capsys.readouterr().err) and "these squares again" in said
    assert found(tmp_path) == WHOLE


def test_what_is_never_read_as_a_record_ends_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = Store(tmp_path, Squares.shelf)
    with pytest.raises(UsageError, match=r"3 of 3 records are missing in .* the same command resumes"):
        conductor(tmp_path).carry_out(JOBS, Refused(), store, Watch[Square]())
    assert capsys.readouterr().err.count("these squares again") == AGAIN


def test_workers_share_it(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[Worker[Any]] = []

    @contextlib.contextmanager
    def launch(workers: Sequence[Worker[Any]]) -> Iterator[Sequence[Callable[[], str]]]:
        started.extend(workers)
        yield [partial(pickle.loads(pickle.dumps(worker))) for worker in workers]

    monkeypatch.chdir(tmp_path)
    assert carried_out(tmp_path, launch) == 3 and found(tmp_path) == WHOLE
    assert [worker.device for worker in started] == ["cpu"] * 2 and started[0].jobs == JOBS
    assert "2/2 parities, 12 steps, sum 50: 5 squared, 25\n" in capsys.readouterr().err


class Heard(Watch[Square]):
    """Remembers what it is told."""

    def __init__(self) -> None:
        self.steps: list[tuple[int, float, str]] = []

    def reached(self, job: Square, steps: float, said: str = "") -> None:
        self.steps.append((job.number, steps, said))


@pytest.mark.parametrize(("every", "heard"), [(0.0, [1, 2, 3]), (1e9, [1, 1, 1])])
def test_who_looks_at_the_folder_hears_how_far_a_worker_is_with_a_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, every: float, heard: list[int]
) -> None:
    monkeypatch.setattr(jobs, "TOLD_EVERY", every)
    store, bar = Store(tmp_path, Squares.shelf), Heard()

    class Both(Telling[Square]):
        def reached(self, job: Square, steps: float, said: str = "") -> None:
            super().reached(job, steps, said)
            assert look_at_records(JOBS, store, bar) == JOBS

    work(JOBS[:1], Squares(), store, bench(), Both(store))
    assert bar.steps == [(3, steps, f", {steps**2} so far") for steps in heard]
    assert look_at_records(JOBS, store, bar) == JOBS[1:] and store.told() == {}
