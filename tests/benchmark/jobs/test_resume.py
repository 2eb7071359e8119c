"""A run that is killed, interrupted, damaged, out of disk or done by two ends with the same table."""

import csv
import errno
import json
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest

from benchmark.cli.main import main, one_ctrl_c
from benchmark.store.store import read_all
from benchmark.suite.registry import arguments

# An attack that notes each block it begins in a file, and hangs or waits for another process where it is told to.
SLOW = '''
import os
import shutil
import time
from pathlib import Path

from attacks import IDLG
from attacks.engine.problem import MatchingProblem
from benchmark.rehearsal.scene import SEED, VICTIMS
from benchmark.seeds import seed_for

REHEARSED = {seed_for(SEED, victim, "start") for victim in range(VICTIMS)}


def begun():
    return Path("log").read_text().splitlines()


class Slow(IDLG):
    """IDLG that takes its time."""

    def reconstruct(self, observation, callbacks=()):
        if set(observation.seeds) <= REHEARSED:
            return super().reconstruct(observation, callbacks)
        with Path("log").open("a") as log:
            log.write(f"{os.getpid()} {observation.seeds}\\n")
        if len(begun()) == int(os.environ.get("HANG_AT", 0)):
            time.sleep(100)
        stop = time.monotonic() + 60
        while "TOGETHER" in os.environ and len({line.split()[0] for line in begun()}) < 2 and time.monotonic() < stop:
            time.sleep(0.02)
        return super().reconstruct(observation, callbacks)


class Removing(IDLG):
    """IDLG beside which somebody removes records, so many times."""

    def reconstruct(self, observation, callbacks=()):
        found = super().reconstruct(observation, callbacks)
        if set(observation.seeds) <= REHEARSED:
            return found
        done = [path for path in Path().glob("removed*")]
        if len(done) < int(os.environ["TIMES"]) and len(list(Path("out/records").glob("*.json"))) > 3:
            Path(f"removed{len(done)}").touch()
            for path in sorted(Path().glob(os.environ["REMOVE"]))[:2]:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        return found


class Unending(MatchingProblem):
    def retire(self):
        Path("log").touch()
        time.sleep(0.01)
        return False


class Endless(IDLG):
    """IDLG that never ends."""

    def problem(self, observation, start_images=None):
        self.problem_class = MatchingProblem if set(observation.seeds) <= REHEARSED else Unending
        return super().problem(observation, start_images)
'''
SUITE = """\
scenarios: [{data: Digits, model: MLP}]
attacks: [{class: own_slow.Slow, max_evaluations: 4}]
defenses: [{class: Masking, sweep: {ratio: [0.1, 0.3]}}]
victims: 4
block_size: 2
"""
BLOCKS = 16  # two of each of three baselines, a control, and two defenses without and with knowledge
SLOW_BLOCKS = 10

Started = Callable[..., BaseProcess]

FORK = multiprocessing.get_context("fork")
"""Processes that are copies of this one, in which everything that takes seconds to import is there already."""


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(Path(__file__).parents[3])]))
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "own_slow.py").write_text(SLOW)
    (tmp_path / "own.yaml").write_text(SUITE)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of the suite that nothing disturbed, in this process; it is for copying."""
    with pytest.MonkeyPatch.context() as patched:
        folder = tmp_path_factory.mktemp("undisturbed")
        patched.chdir(folder)
        patched.setenv("TORCH_HOME", str(folder / "hub"))  # no weights of LPIPS that a developer has
        patched.syspath_prepend(folder)
        Path("own_slow.py").write_text(SLOW)
        Path("own.yaml").write_text(SUITE)
        run("own.yaml", "--threads", "1", "--out", "out")
        sys.modules.pop("own_slow")
    return folder / "out"


@pytest.fixture
def start() -> Iterator[Started]:
    """Starts a run in a copy of this process, which prints to the file out.txt and complains to err.txt."""
    started: list[BaseProcess] = []

    def command(words: tuple[str, ...], environment: dict[str, str]) -> None:
        os.environ.update(environment)
        signal.signal(signal.SIGINT, signal.default_int_handler)  # else SIGTERM is not the command's to handle, either
        with Path("out.txt").open("w") as sys.stdout, Path("err.txt").open("w") as sys.stderr:
            main(["run", *words])

    def begin(*words: str, **environment: str) -> BaseProcess:
        process = FORK.Process(target=command, args=(words, environment))
        process.start()
        started.append(process)
        return process

    yield begin
    for process in started:
        process.kill()
        process.join()


def run(*words: str, code: int = 0) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["run", *words])
    assert stopped.value.code == code


def wait_until(true: Callable[[], bool], is_alive: Callable[[], bool]) -> None:
    stop = time.monotonic() + 60
    while not true():
        assert is_alive()
        assert time.monotonic() < stop
        time.sleep(0.02)


def begun() -> list[str]:
    return Path("log").read_text().splitlines() if Path("log").exists() else []


def results(folder: str) -> list[tuple[Any, ...]]:
    """What the records say, but when and how fast it was found."""
    records = sorted(read_all(Path(folder)), key=lambda record: record["key"])
    return [(r["key"], r["config"], r["victims"], r["curve"], r["picture"]) for r in records]


def table(folder: str, capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main(["show", folder, "--format", "json"])
    rows = json.loads(capsys.readouterr().out)
    return [{key: value for key, value in row.items() if key != "seconds_per_victim"} for row in rows]


def record_files(folder: str) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in Path(folder, "records").glob("*.json")}


def test_a_run_that_is_killed_goes_on_where_it_was(
    start: Started, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(finished, "undisturbed")
    process = start("own.yaml", "--threads", "1", "--out", "killed", HANG_AT="4")
    wait_until(lambda: len(begun()) == 4, process.is_alive)
    process.kill()
    process.join()
    done = record_files("killed")
    assert len(done) == 6 + 3  # those of the baselines, and three of four
    configs = [record["config"] for record in read_all(Path("killed"))]
    assert [config["adaptive"] for config in configs if config["defense"]] == [True], "who knows the defense is first"
    assert not list(Path("killed").glob("leaderboard.*"))

    run("own.yaml", "--threads", "1", "--out", "killed")
    assert len(begun()) == SLOW_BLOCKS + 1  # only the block in flight was begun twice
    assert done.items() <= record_files("killed").items()
    assert results("killed") == results("undisturbed")
    assert table("killed", capsys) == table("undisturbed", capsys)
    assert sorted(p.name for p in Path("killed/pictures").iterdir()) == sorted(
        p.name for p in Path("undisturbed/pictures").iterdir()
    )
    assert not list(Path("killed").rglob("*.tmp")) and not list(Path("killed").rglob("*.lock"))


LONG = """\
scenarios: [{data: Digits, model: LeNet}]
victims: 2
attacks: [{class: own_slow.Endless, max_evaluations: 1000000}]
"""


def ended_well(said: str, capsys: pytest.CaptureFixture[str]) -> None:
    """One line, and what was done before is kept."""
    assert "Traceback" not in said
    assert said.count("leakboard: stopped; finished work is kept, and the same command resumes") == 1
    assert said.count("nterrupt") == 0, said  # nor Lightning's own message
    assert len(record_files("out")) == 3
    assert {row["attack"] for row in table("out", capsys)} == {"ConstantImage", "MeanImage", "ClassMeanImage"}


def test_ctrl_c_ends_a_process_at_once_with_one_line_and_keeps_what_is_done(
    capsys: pytest.CaptureFixture[str],
) -> None:
    Path("long.yaml").write_text(LONG)
    started = time.monotonic()
    with subprocess.Popen(
        [sys.executable, "-m", "benchmark", "run", "long.yaml", "--threads", "1", "--out", "out"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # where pytest runs in the background
    ) as process:
        try:
            wait_until(Path("log").exists, lambda: process.poll() is None)  # in the midst of Lightning's loop
            sent = time.monotonic()
            process.send_signal(signal.SIGINT)
            _, said = process.communicate(timeout=30)
        finally:
            process.kill()
    assert time.monotonic() - sent < (sent - started) / 2  # sooner than it got there, however slow the machine
    assert process.returncode == 130
    ended_well(said, capsys)


def test_sigterm_does_so_too(start: Started, capsys: pytest.CaptureFixture[str]) -> None:
    Path("long.yaml").write_text(LONG)
    process = start("long.yaml", "--threads", "1", "--out", "out")
    wait_until(Path("log").exists, process.is_alive)
    sent = time.monotonic()
    process.terminate()
    process.join(30)
    assert time.monotonic() - sent < 5
    assert process.exitcode == 143
    ended_well(Path("err.txt").read_text(), capsys)


def test_sigterm_does_so_where_ctrl_c_is_ignored_as_in_the_background_of_a_script() -> None:
    before, stopped_by = signal.signal(signal.SIGINT, signal.SIG_IGN), list[int]()
    try:
        with pytest.raises(KeyboardInterrupt), one_ctrl_c(stopped_by):
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(1)
        assert stopped_by == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGINT, before)


def test_two_processes_share_the_work_and_end_with_the_same_table(
    start: Started, finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """This process and another one."""
    monkeypatch.setenv("TOGETHER", "yes")
    words = ["own.yaml", "--threads", "1", "--out", "shared"]
    other = start(*words)
    run(*words)
    other.join(120)
    assert other.exitcode == 0
    said = [capsys.readouterr().out, Path("out.txt").read_text()]
    assert len(begun()) == SLOW_BLOCKS  # nothing was done twice
    assert {line.split()[0] for line in begun()} == {str(os.getpid()), str(other.pid)}
    tables = [re.sub(r"^\d+ of .* run$", "", out, flags=re.M) for out in said]
    assert tables[0] == tables[1]
    assert results("shared") == results(str(finished))
    assert table("shared", capsys) == table(str(finished), capsys)
    assert not any(Path("shared/locks").iterdir())


def test_a_finished_run_is_counted_and_its_table_made_with_one_look_at_each_record(
    finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(finished, "out")
    made = {path: path.stat().st_mtime_ns for path in Path("out/pictures").iterdir()}
    capsys.readouterr()
    looks: list[str] = []
    real = Path.read_bytes

    def read_bytes(path: Path) -> bytes:
        if path.parent.name == "records":
            looks.append(path.name)
        return real(path)

    monkeypatch.setattr(Path, "read_bytes", read_bytes)
    run("own.yaml", "--out", "out")
    assert sorted(looks) == sorted(2 * list(record_files("out")))  # to find what is left, and for the table
    said = capsys.readouterr()
    assert re.search(r"^8/8 cells, 32 victims: done by an earlier run$", said.err, flags=re.M)
    assert {path: path.stat().st_mtime_ns for path in Path("out/pictures").iterdir()} == made


def edited(content: bytes) -> bytes:
    """A record with another PSNR."""
    assert b'"psnr":[' in content
    return content.replace(b'"psnr":[', b'"psnr":[9', 1)


@pytest.mark.parametrize(
    "damage", [lambda content: content[: len(content) // 2], lambda _: b"", lambda _: b"[]", edited]
)
def test_a_damaged_record_is_set_aside_and_run_again(
    damage: Callable[[bytes], bytes], finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(finished, "out")
    before, wanted = record_files("out"), results("out")
    (path,) = [p for p in Path("out/records").iterdir() if '"adaptive":true' in p.read_text()][:1]
    path.write_bytes(damage(path.read_bytes()))
    capsys.readouterr()

    run("own.yaml", "--out", "out")
    said = capsys.readouterr()
    assert f"leakboard: the record {path.name} is damaged (" in said.err
    assert f"): set aside as {path.name}.damaged and run again\n" in said.err
    assert f"1 of {BLOCKS} blocks run" in said.out
    assert len(begun()) == 1
    assert results("out") == wanted
    after = record_files("out")
    assert {name for name in before if after[name] != before[name]} == {path.name}


@pytest.mark.parametrize("writes", [0, 1, 5, 20])
def test_a_full_disk_is_told_and_the_same_command_goes_on(
    writes: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    left = [writes]

    def fsync(_: int) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", fsync)
        run("own.yaml", "--out", "out", code=2)
    last = capsys.readouterr().err.splitlines()[-1]
    assert re.fullmatch(r"leakboard: out/.+ cannot be written \(No space left on device\): free some space or .+", last)
    assert not list(Path("out").rglob("*.tmp"))
    done = record_files("out")
    assert len(done) <= writes and (done or writes < 20)
    assert all(json.loads(path.read_text()) for path in Path("out/records").glob("*.json"))

    run("own.yaml", "--out", "out")
    assert len(record_files("out")) == BLOCKS
    assert done.items() <= record_files("out").items()
    assert len(list(Path("out/pictures").iterdir())) == BLOCKS / 2
    assert Path("out/leaderboard.csv").exists() and Path("out/leaderboard.md").exists()


def test_a_folder_that_is_filled_by_several_suites_shows_all_of_them(capsys: pytest.CaptureFixture[str]) -> None:
    run("own.yaml", "--victims", "2", "--out", "out")
    cell = ["--data", "Digits", "--model", "LeNet", "--attack", "DLG", "--attack.max_evaluations", "2"]
    run(*cell, "--victims", "2", "--out", "out")
    assert {row["attack"] for row in table("out", capsys)} >= {"own_slow.Slow", "DLG"}


REMOVING = """\
scenarios: [{data: Digits, model: MLP}]
attacks: [{class: own_slow.Removing, max_evaluations: 2}]
defenses: [{class: Masking, ratio: 0.1}]
victims: 2
block_size: 1
"""


@pytest.mark.parametrize(
    ("removed", "workers"),
    [("out/records", ()), ("out", ()), ("out/records/*.json", ()), ("out/records", ("--workers", "2"))],
)
def test_records_that_vanish_during_a_run_are_made_again(
    removed: str, workers: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("removing.yaml").write_text(REMOVING)
    monkeypatch.setenv("REMOVE", removed)
    monkeypatch.setenv("TIMES", "1")
    monkeypatch.setattr(multiprocessing, "get_context", lambda _: FORK)  # test_executors.py starts workers anew
    run("removing.yaml", "--out", "out", "--devices", "cpu", *workers)
    assert Path("removed0").exists()
    said = capsys.readouterr()
    sentence = r"leakboard: \d+ of 12 records disappeared from \S*out during the run: running these blocks again"
    assert workers or re.search(sentence, said.err)  # workers say it themselves
    assert len(read_all(Path("out"))) == 12
    assert sum(row["victims"] for row in table("out", capsys)) == 12


def test_a_run_from_which_records_go_on_vanishing_does_not_say_that_it_is_complete(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("removing.yaml").write_text(REMOVING)
    monkeypatch.setenv("REMOVE", "out/records")
    monkeypatch.setenv("TIMES", "1000")
    run("removing.yaml", "--out", "out", "--devices", "cpu", code=2)
    last = capsys.readouterr().err.splitlines()[-1]
    assert re.fullmatch(r"leakboard: \d+ of 12 records are missing in out, because something removes them: .*", last)


def test_a_helper_of_an_own_class_that_is_changed_makes_its_cells_run_again(capsys: pytest.CaptureFixture[str]) -> None:
    Path("own_helped.py").write_text(
        "from own_helper import x\nfrom attacks import IDLG\n\n\nclass Mine(IDLG):\n    pass\n"
    )
    words = ("--data", "Digits", "--model", "LeNet", "--attack", "own_helped.Mine", "--attack.max_evaluations", "1")
    ran = []
    for text in ("x = 1", "x = 1  # the same", "x = 2"):
        Path("own_helper.py").write_text(text)
        run(*words, "--victims", "1", "--out", "out")
        ran.append(capsys.readouterr().out.count(" of 4 blocks run"))
    assert ran == [1, 0, 1]
    assert len(record_files("out")) == 5  # the null baselines are of the same code


OWN_DEFENSE = """\
from defenses import Defense, KnownDefense


class Mine(Defense):
    def __init__(self, k: float = {default}) -> None:
        self.k = k

    def protect(self, update, generators):
        return {{name: value * self.k for name, value in update.items()}}

    def known_to_attacker(self):
        return KnownDefense()
"""


def strengths(folder: str, capsys: pytest.CaptureFixture[str]) -> list[float]:
    """Those of the own defense on the board."""
    rows = table(folder, capsys)
    return sorted({row["defense_args"]["k"] for row in rows if row["defense"] == "own_defense.Mine"})


def test_a_board_is_of_one_code_of_an_own_class(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A changed default makes another cell, whose twin of the older code stands on no board; and so after a revert."""
    words = ["--data", "Digits", "--model", "LeNet", "--attack", "IDLG", "--attack.max_evaluations", "1"]
    words += ["--defense", "own_defense.Mine", "--victims", "1", "--out", "out"]
    said = []
    for day, default in enumerate((1.0, 0.5, 1.0), 1):
        monkeypatch.setattr(time, "strftime", lambda *_, day=day: f"2027-01-0{day}T00:00:00Z")  # else of one second
        Path("own_defense.py").write_text(OWN_DEFENSE.format(default=default))
        sys.modules.pop("own_defense", None)
        arguments.cache_clear()
        run(*words)
        printed = capsys.readouterr().out
        said.append(" ".join(printed.split()))
        board = Path("out/leaderboard.md").read_text()
        assert f"k={default}" in board and f"k={1.5 - default}" not in board
    note = "2 victims of own_defense.Mine are from other code than the present one and left out: run their suite again"
    assert [note in one for one in said] == [False, True, True]
    assert "everything was done already" in said[2]
    assert strengths("out", capsys) == [0.5]  # the newest, where the present one is unknown
    Path("own_defense.py").write_text(OWN_DEFENSE.format(default=0.25))  # changed, and met by another attack alone
    sys.modules.pop("own_defense", None)
    arguments.cache_clear()
    run(*words[:4], "--attack", "DLG", *words[6:])
    with Path("out/leaderboard.csv").open() as file:
        rows = [(row["defense"], row["attack"]) for row in csv.DictReader(file)]
    assert ("none", "IDLG") in rows and ("own_defense.Mine", "DLG") in rows and ("own_defense.Mine", "IDLG") not in rows
