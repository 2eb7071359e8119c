"""Workers of all kinds end with the records of a run by one process, whatever happens to them."""

import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from threading import Thread
from typing import Any

import psutil
import pytest
import torch

from benchmark.cli.main import main
from benchmark.errors import UsageError
from benchmark.jobs import conductor
from benchmark.jobs.attacks import Attacks
from benchmark.jobs.blocks import Block, Workbench, plan
from benchmark.jobs.executors.worker import Worker, given_device, watch_over
from benchmark.jobs.job import Watch, look_at_records
from benchmark.jobs.progress import ProgressBar
from benchmark.store.store import Store, read_all
from benchmark.suite.suite import load

# An attack that notes whose process begins it; the first one then waits for its end after a step, if it is to.
NOTED = '''
import os
import time
from pathlib import Path

from attacks import IDLG
from attacks.engine.problem import MatchingProblem
from benchmark.rehearsal.scene import SEED, VICTIMS
from benchmark.seeds import seed_for

REHEARSED = {seed_for(SEED, victim, "start") for victim in range(VICTIMS)}


class Waiting(MatchingProblem):
    def on_train_batch_start(self, batch, batch_idx):
        if batch_idx:
            time.sleep(100)


class Noted(IDLG):
    """IDLG that takes its time."""

    def reconstruct(self, observation, callbacks=()):
        if set(observation.seeds) <= REHEARSED:
            return super().reconstruct(observation, callbacks)
        with Path("log").open("a") as log:
            log.write(f"{os.getpid()}\\n")
        first = Path("log").read_text().split()[0]
        if os.environ.get("WAITS") == "first" and int(first) == os.getpid():
            self.problem_class = Waiting
        return super().reconstruct(observation, callbacks)


class Unending(MatchingProblem):
    def retire(self):
        time.sleep(0.01)
        return False


class Endless(Noted):
    """IDLG that never ends."""

    def problem(self, observation, start_images=None):
        self.problem_class = MatchingProblem if set(observation.seeds) <= REHEARSED else Unending
        return super().problem(observation, start_images)


class TooLarge(IDLG):
    """Fits into no memory."""

    def reconstruct(self, observation, callbacks=()):
        raise MemoryError("no room")
'''
SUITE = """\
scenarios: [{data: Digits, model: MLP}]
attacks: [{class: own_noted.Noted, max_evaluations: 5}]
defenses: [{class: Masking, ratio: 0.25}]
victims: 4
block_size: 2
"""
BLOCKS = 12
FIFTH = pytest.approx(0.2)  # one of five evaluations
ROOT = Path(__file__).parents[3]

Said = tuple[str, str]

needs_ray = pytest.mark.skipif(find_spec("ray") is None, reason="there is no Ray for this Python")


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing of the developer's; own modules are found, and forgotten."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))  # where Ray keeps a token
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "own_noted.py").write_text(NOTED)
    (tmp_path / "own.yaml").write_text(SUITE)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # also where pytest runs in the background
    yield
    signal.signal(signal.SIGINT, before)
    sys.modules.pop("own_noted", None)


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Callable[..., Said]:
    """Runs a suite in this process, and returns what it prints and complains of."""

    def in_process(*words: str, code: int = 0) -> Said:
        with pytest.raises(SystemExit) as stopped:
            main(["run", *words])
        said = capfd.readouterr()
        assert stopped.value.code == code, said.err
        return said.out, said.err

    return in_process


def begun() -> list[int]:
    """The processes that have begun a block, in that order."""
    return [int(pid) for pid in Path("log").read_text().split()] if Path("log").exists() else []


def meanwhile(act: Callable[[], None], when: Callable[[], bool]) -> Thread:
    """Acts once it is time to, beside a run in this process."""

    def wait() -> None:
        stop = time.monotonic() + 100
        while not when() and time.monotonic() < stop:
            time.sleep(0.02)
        act()

    thread = Thread(target=wait)
    thread.start()
    return thread


def is_gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def results(folder: str) -> list[tuple[Any, ...]]:
    """What the records say, but when and how fast it was found."""
    records = sorted(read_all(Path(folder)), key=lambda record: record["key"])
    return [(r["key"], r["config"], r["victims"], r["curve"], r["picture"]) for r in records]


def made(folder: str) -> set[str]:
    """What is there besides the records."""
    return {path.name for path in [*Path(folder).glob("*.*"), *Path(folder, "pictures").iterdir()]}


@pytest.fixture(scope="module")
def is_like_alone(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], bool]:
    """Whether a folder has the records, tables and pictures of a run by one process."""
    with pytest.MonkeyPatch.context() as patched:
        folder = tmp_path_factory.mktemp("alone")
        patched.chdir(folder)
        patched.setenv("TORCH_HOME", str(folder / "hub"))  # no weights of LPIPS that a developer has
        patched.syspath_prepend(folder)
        Path("own_noted.py").write_text(NOTED)
        Path("own.yaml").write_text(SUITE)
        with pytest.raises(SystemExit):
            main(["run", "own.yaml", "--devices", "cpu", "--out", "out"])
        sys.modules.pop("own_noted")
        alone, files = results("out"), made("out")
    return lambda out: results(out) == alone and made(out) == files and not any(Path(out, "locks").iterdir())


# Processes on this machine.


def test_two_workers_end_with_the_records_of_one_even_where_one_is_killed(
    run: Callable[..., Said], is_like_alone: Callable[[str], bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WAITS", "first")
    within: list[float] = []

    class Seen(ProgressBar[Block]):
        def reached(self, job: Block, steps: float, said: str = "") -> None:
            super().reached(job, steps, said)
            within.append(steps / job.size)

    monkeypatch.setattr(conductor, "ProgressBar", Seen)
    killer = meanwhile(
        lambda: os.kill(begun()[0], signal.SIGKILL), when=lambda: len(set(begun())) == 2 and FIFTH in within
    )
    out, err = run("own.yaml", "--workers", "2", "--devices", "cpu", "--out", "by-two")
    killer.join()
    assert f"{BLOCKS} of {BLOCKS} blocks run" in out
    # The other one may have done all that was left before anybody looked.
    said = r"leakboard: a worker ended(, the others continue)?: its process was killed by signal 9\n"
    assert len(re.findall(said, err)) == 1
    assert os.getpid() not in begun()
    assert FIFTH in within and max(within) <= 1
    assert is_like_alone("by-two")


def test_ctrl_c_ends_all_workers_at_once(run: Callable[..., Said], monkeypatch: pytest.MonkeyPatch) -> None:
    """These workers are copies of this process, which saves them the imports; those above are started anew."""
    copies = multiprocessing.get_context("fork")
    monkeypatch.setattr(multiprocessing, "get_context", lambda _: copies)
    Path("own.yaml").write_text(SUITE.replace("Noted, max_evaluations: 5", "Endless, max_evaluations: 1000000"))
    pressed = []

    def press() -> None:
        pressed.append(time.monotonic())
        os.kill(os.getpid(), signal.SIGINT)

    presser = meanwhile(press, when=lambda: len(set(begun())) == 2)
    _, err = run("own.yaml", "--workers", "2", "--devices", "cpu", "--out", "out", code=130)
    presser.join()
    assert time.monotonic() - pressed[0] < 10  # nobody waits for an endless attack
    assert all(map(is_gone, begun()))
    assert err.count("leakboard: stopped; finished work is kept, and the same command resumes") == 1
    assert "Traceback" not in err and err.count("nterrupt") == 0, err
    assert len(list(Path("out/records").iterdir())) == 6 and not list(Path("out").rglob("*.tmp"))


PARENT = """\
import os, signal, sys, time
from pathlib import Path
from benchmark.jobs.executors import lifeline
import multiprocessing, pickle

class Call:
    def __reduce__(self):
        return (exec, (WHAT,))

WHAT = sys.argv[1]
if __name__ == "__main__":
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup has it ignored
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    context.Process(target=lifeline.run, args=(pickle.dumps(Call()), sender, os.getpid())).start()
    time.sleep(100)
"""

BUSY = "import os; open('pid', 'w').write(str(os.getpid())); sum(range(10**12))"  # as an import, it holds the GIL
ASLEEP = "import os, time; open('pid', 'w').write(str(os.getpid())); time.sleep(100)"


def test_a_worker_is_tied_to_its_run_before_anything_heavy_is_imported() -> None:
    code = "import sys; from benchmark.jobs.executors import lifeline; assert not {'torch', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=60)


@pytest.mark.parametrize("what", [BUSY, ASLEEP])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a worker that holds the GIL ends later")
def test_a_worker_dies_with_its_run_also_while_it_starts(tmp_path: Path, what: str, number: int) -> None:
    Path("parent.py").write_text(PARENT)
    command = [sys.executable, "parent.py", what]
    parent = subprocess.Popen(command, stderr=subprocess.PIPE, env=os.environ | {"PYTHONPATH": str(ROOT)})
    stop = time.monotonic() + 60
    while not (Path("pid").exists() and Path("pid").read_text()) and time.monotonic() < stop:
        time.sleep(0.01)
    worker = int(Path("pid").read_text())
    assert not is_gone(worker)
    parent.send_signal(number)
    stop = time.monotonic() + 2
    while not is_gone(worker) and time.monotonic() < stop:
        time.sleep(0.01)
    assert is_gone(worker)
    assert parent.communicate(timeout=10)[1] == b""


# Clusters.


def test_jobs_of_submitit_end_with_the_records_of_a_local_run(
    run: Callable[..., Said], is_like_alone: Callable[[str], bool]
) -> None:
    words = ["own.yaml", "--executor", "slurm", "--executor-option", "cluster=local", "--out", "by-jobs"]
    _, err = run(*words, "--workers", "1")
    assert f"leakboard: jobs submitted: 1, with logs in {Path('by-jobs/jobs').resolve()}\n" in err
    assert begun() and os.getpid() not in begun()
    assert is_like_alone("by-jobs")
    out, err = run(*words)
    assert "nothing to run" in out and "submitted" not in err


SBATCH = """\
#!/bin/sh
export SLURM_JOB_ID=7 SLURM_JOB_NAME=x SLURM_NTASKS=1 SLURM_NTASKS_PER_NODE=3 SLURM_PROCID=0 SLURM_LOCALID=0
cp "$1" spooled.sh # submitit renames its own as soon as it knows the number of the job
sh spooled.sh > slurm.log 2>&1 &
echo Submitted batch job 7
"""
SRUN = """\
#!/bin/sh
while [ "${1#-}" != "$1" ]; do case $1 in --output|--error) shift 2;; *) shift;; esac; done
exec "$@"
"""


def test_jobs_of_slurm_end_with_the_records_of_a_local_run(
    run: Callable[..., Said],
    is_like_alone: Callable[[str], bool],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, script in (("sbatch", SBATCH), ("srun", SRUN)):  # Slurm in small
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(script)
        path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    flags = ["--executor-option", "slurm_partition=gpu", "--executor-option", "timeout_min=3", "--threads", "2"]
    run("own.yaml", "--executor", "slurm", *flags, "--out", "by-jobs")
    (script,) = Path("by-jobs/jobs").glob("7_*.sh")
    for line in ("job-name=leakboard", "partition=gpu", "time=3", "cpus-per-task=2"):
        assert f"#SBATCH --{line}\n" in script.read_text()
    assert {record["provenance"]["threads"] for record in read_all(Path("by-jobs"))} == {2}
    assert is_like_alone("by-jobs")


@needs_ray
def test_tasks_of_ray_end_with_the_records_of_a_local_run(
    run: Callable[..., Said], is_like_alone: Callable[[str], bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_worker_niceness", "0")  # by itself Ray lets all other tests go first, for a minute
    _, err = run("own.yaml", "--executor", "ray", "--executor-option", "num_cpus=0.5", "--out", "by-ray")
    assert begun() and os.getpid() not in begun()
    assert all(line.startswith("leakboard: LPIPS") or " cells, " in line for line in err.splitlines()), err
    assert is_like_alone("by-ray")


# What a worker is.


def worker(suite: str = "own.yaml", **changed: Any) -> Worker[Block]:
    blocks = plan(load(Path(suite), None, None), Workbench(torch.device("cpu")))
    given = {"folder": Path("out").resolve(), "data_root": None, "threads": 1, "device": "cpu", "here": Path.cwd()}
    given |= {"kind": Attacks(), "workers": 1}
    return Worker(**({"jobs": blocks, "lpips_weights": None, "no_lpips": "none"} | given | changed))


def test_a_mistake_that_ends_a_worker_is_what_it_says() -> None:
    Path("own.yaml").write_text(SUITE.replace("Noted, max_evaluations: 5", "TooLarge"))
    store = Store(Path("out"))
    assert "one victim alone does not fit into the memory of the device (no room)" in worker()()
    assert len(list(store.records.iterdir())) == 6
    assert "nowhere does not exist here: all machines of a run must share" in worker(folder=Path("nowhere").resolve())()
    assert "--threads must be a whole number" in worker(threads=0)()
    assert "LPIPS weights" in worker(lpips_weights=Path("nowhere.pth"))()


def test_a_run_ends_where_no_worker_is_left(capsys: pytest.CaptureFixture[str]) -> None:
    blocks, store = worker().jobs, Store(Path("out"))
    look = partial(look_at_records, store=store, watch=Watch[Block]())
    ends: list[Callable[[], str | None]] = [partial(next, iter([None, "it fell"])), partial(next, iter(["it broke"]))]
    with pytest.raises(
        UsageError, match=re.escape(f"{BLOCKS} of {BLOCKS} blocks are left (it fell): the same command")
    ):
        watch_over(blocks, look, "blocks", ends)
    assert capsys.readouterr().err == "leakboard: a worker ended, the others continue: it broke\n"
    with pytest.raises(UsageError, match="all workers ended, and 12 of 12 blocks are left: the same command"):
        watch_over(blocks, look, "blocks", [lambda: ""])


@pytest.mark.parametrize(
    ("there", "rank", "device"), [(0, 3, "cpu"), (1, 0, "cuda:0"), (4, 0, "cuda:0"), (2, 3, "cuda:1")]
)
def test_a_worker_takes_a_gpu_that_it_is_given(
    there: int, rank: int, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: there)
    assert str(given_device(rank)) == device


def test_a_process_starts_its_gpu_before_a_job_asks_for_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[str] = []
    monkeypatch.setattr(torch.cuda, "init", lambda: started.append("cuda"))
    Workbench(torch.device("cpu"))
    assert started == []
    Workbench(torch.device("cuda", 1))
    assert started == ["cuda"]


# Mistakes.


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("--workers 0", "--workers must be a whole number of at least 1, not 0"),
        ("--executor moon", "argument --executor: invalid choice: 'moon'"),
        ("--executor-option a=1", "--executor-option is for --executor slurm or --executor ray"),
        ("--executor ray --executor-option =1", "--executor-option is KEY=VALUE with a value as in YAML, not '=1'"),
        ("--executor ray --executor-option a=[1", "--executor-option is KEY=VALUE with a value as in YAML, not 'a=[1'"),
        pytest.param(
            "--executor ray --executor-option num_gpu=1",
            "Ray rejects these options (Invalid option keyword num_gpu",
            marks=needs_ray,
        ),
        (
            "--executor slurm",
            'submitit rejects these options (Could not detect "srun", are you indeed on a slurm cluster?)',
        ),
        (
            "--executor slurm --executor-option cluster=moon",
            "submitit rejects these options (AutoExecutor doesn't know",
        ),
        (
            "--executor slurm --executor-option cluster=local --executor-option slurm_partitoin=gpu",
            "submitit rejects these options (Unknown argument 'partitoin' for executor 'slurm'",
        ),
        ("--executor slurm --devices 0", "with --executor, give --devices cpu or leave it out"),
    ],
)
def test_a_wrong_use_is_one_sentence(run: Callable[..., Said], words: str, sentence: str) -> None:
    before = set(Path().iterdir())
    out, err = run("own.yaml", *words.split(), "--out", "out", code=2)
    assert not out and re.fullmatch(r"leakboard: .+\n", err) and sentence in err, err
    assert set(Path().iterdir()) <= before | {Path("__pycache__")}


def test_several_workers_do_not_share_a_gpu(run: Callable[..., Said], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for devices in ("auto", "1", "0,1"):
        _, err = run("own.yaml", "--workers", "2", "--devices", devices, code=2)
        assert err.startswith("leakboard: a GPU runs one worker: give --devices 0,1 for two GPUs, or --devices cpu")


@pytest.mark.parametrize(("executor", "package"), [("slurm", "submitit"), ("ray", "ray")])
def test_a_missing_package_is_named_with_its_extra(
    run: Callable[..., Said], executor: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, f"benchmark.jobs.executors.{executor}", raising=False)
    _, err = run("own.yaml", "--executor", executor, code=2)
    needs = f"--executor {executor} needs the package {package}: uv run --extra {executor} leakboard run ..."
    assert err == f"leakboard: {needs}\n"
