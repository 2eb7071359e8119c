"""What ``leakboard bench --report`` measures."""

import os
import platform
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
import yaml
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from attacks import IDLG
from attacks.engine.problem import MatchingProblem
from attacks.engine.row_optimizer import RowOptimizer
from attacks.engine.step import GRAPH
from attacks.network.gradients import batch_gradients, squared_distance
from benchmark.errors import UsageError
from benchmark.federation import setting as federation
from benchmark.jobs.blocks import Workbench
from benchmark.jobs.memory import bytes_per_victim
from benchmark.jobs.provenance import commit
from benchmark.metrics.scores import score
from benchmark.studies.bench import compare, undefended
from benchmark.suite.registry import Spec, build, spec

DATA = "CIFAR10"
"""Data set of everything but the table of targets."""

CURVE = (1, 4, 16, 64, 256, 1024)
"""Victims per block for the curve of the throughput."""

MANY = 2048
"""Victims that are attacked 64 at a time, to see whether the time per victim stays."""

EVALUATIONS = 20
"""Gradient evaluations of the short attacks that the time of one is taken from."""

BLOCKS, BLOCK_SIZE, OF_A_RUN = 4, 64, 100
"""Blocks of the runs with one worker and with two, their victims, and the evaluations of each victim."""


@dataclass(frozen=True)
class Setting:
    """A line of the table of targets: iDLG on LeNets, or so many iterations of Inverting Gradients on a deep network.

    Attributes:
        data: set of which the victims are.
        victims: at once.
        at_least: speedup that is the target.
        on_gpu: where it is measured.
        model: class of the network; all victims of Inverting Gradients share one.
        iterations: of Inverting Gradients; None for iDLG as published.
        batch_size: images of a victim.
    """

    data: str
    victims: int
    at_least: float
    on_gpu: bool = False
    model: str = "LeNet"
    iterations: int | None = None
    batch_size: int = 1

    @property
    def label(self) -> str:
        """For people."""
        victims = f"{self.victims:,} victim{'s' if self.victims > 1 else ''}"
        images = f" of {self.batch_size} images" if self.batch_size > 1 else ""
        attack = "InvertingGradients" if self.iterations else "IDLG"
        return f"{attack}, {self.model}, {self.data}, {victims}{images}, {'one GPU' if self.on_gpu else 'CPU'}"

    def specs(self) -> dict[str, Spec]:
        """Data, network and attack."""
        if self.iterations is None:
            return specs(self.data)
        attack = spec("attack", "InvertingGradients", {"max_evaluations": self.iterations})
        return specs(self.data) | {"model": spec("model", self.model, {}), "attack": attack}


SETTINGS = (
    Setting("CIFAR10", 64, 10),
    Setting("MNIST", 64, 10),
    Setting("CIFAR10", 1, 2),
    Setting("CIFAR10", 1000, 1000, on_gpu=True),
    Setting("CIFAR10", 64, 40, on_gpu=True, model="ResNet18", iterations=400),
    Setting("CIFAR10", 64, 18, on_gpu=True, model="ResNet18", iterations=400, batch_size=4),
)

TWO = 2
"""Victims that Inverting Gradients attacks one by one: each takes as many iterations as any other."""


class Clock:
    """Seconds by part, each without what is timed inside it."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._inside = [0.0]

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        self._inside.append(0.0)
        started = now()
        yield
        elapsed = now() - started
        self.seconds[name] += elapsed - self._inside.pop()
        self._inside[-1] += elapsed


def now() -> float:
    """The time, when a GPU has done what it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


class ClockedProblem(MatchingProblem):
    """A fit that takes the time of its steps by part; what is not its own is Lightning's."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self.clock = Clock()
        self.seconds = 0.0
        """From the first step on."""
        self.ledger.every = 10**9  # an attack as published is so long that its snapshots are no part of its time

    def on_train_start(self) -> None:
        self._started = now()

    def on_train_end(self) -> None:
        self.seconds = now() - self._started
        self.clock.seconds["Lightning"] += self.seconds - sum(self.clock.seconds.values())

    def training_step(self, batch: int, batch_idx: int) -> Tensor:
        with self.clock.part("gradients"):
            return super().training_step(batch, batch_idx)

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        with self.clock.part("gradients"):
            super().backward(loss)

    def note(self, losses: Tensor) -> None:
        with self.clock.part("active set"):
            super().note(losses)

    def retire(self) -> bool:
        with self.clock.part("active set"):
            return super().retire()

    def configure_optimizers(self) -> RowOptimizer:
        solver = super().configure_optimizers()
        step = solver.step

        def clocked(closure: Callable[[], Any]) -> Any:
            def inside() -> Any:
                with self.clock.part("Lightning"):
                    return closure()

            with self.clock.part("optimizer"):
                return step(inside)

        solver.step = clocked  # type: ignore[method-assign] # on this one solver
        return solver


class ClockedIDLG(IDLG):
    problem_class = ClockedProblem


def measure(bench: Workbench, reference: int, threads: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Everything that this device can show; about 20 minutes.

    Args:
        bench: device and data root; the data sets are MNIST and CIFAR-10.
        reference: victims of each setting that are attacked one by one too, at least 1; a quarter of them where a
            victim is alone.
        threads: the most that a side of the comparisons may have; everything else has as many.
        say: told what is being done.

    Returns:
        The part of a CPU or of a GPU in a report, as JSON.
    """
    on_gpu = bench.device.type == "cuda"
    found: dict[str, Any] = {"machine": describe(bench.device), "settings": {}}
    say("throughput over victims per block")
    found["curve"] = [{"victims": count, "ms_per_evaluation": clocked(count, bench)[0]} for count in CURVE]
    say(f"{MANY:,} victims, 64 at a time")
    found["many"] = {"victims": MANY, "ms_per_evaluation": clocked(MANY, bench, at_once=64)[0]}
    say("where the time goes")
    found["parts"] = clocked(64, bench)[1]
    found["arithmetic"] = arithmetic(bench)
    found["scoring_ms_per_victim"] = scoring(bench)
    found["mib_per_victim"] = {start: mib_per_victim(start, bench) for start in ("noise", "rgap")}
    if not on_gpu:
        say("threads against workers")
        found["run"] = {"blocks": BLOCKS, "block_size": BLOCK_SIZE, "evaluations": OF_A_RUN}
        found["workers"] = workers(bench.root)
    for setting in SETTINGS:
        if setting.on_gpu == on_gpu:
            say(setting.label)
            found["settings"][setting.label] = measure_setting(setting, reference, threads, bench)
    return found


def describe(device: torch.device) -> dict[str, Any]:
    """Device, threads and versions."""
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "commit": commit(),
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
    }


def processor() -> str:
    """Name of the CPU, where the system tells it, and its vector instructions."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()} ({torch.backends.cpu.get_cpu_capability()})"


def specs(data: str, **args: Any) -> dict[str, Spec]:
    """Data, LeNet, and IDLG with its arguments."""
    loose = {"verify_integrity": False} if data == "CIFAR10" else {}  # the first images of the test split are enough
    return {
        "data": spec("data", data, loose),
        "model": spec("model", "LeNet", {}),
        "attack": spec("attack", "IDLG", args),
    }


def measure_setting(setting: Setting, reference: int, threads: int, bench: Workbench) -> dict[str, Any]:
    """Figures of each side; a single victim is attacked several times, each time on another network."""
    how: dict[str, Any] = {"step": GRAPH} if bench.device.type == "cuda" else {}
    if setting.iterations:
        granted = federation.Setting(shared=True, labels="known")
        reference = min(reference, TWO)
        how |= {"batch_size": setting.batch_size, "setting": granted}
    if setting.victims > 1:
        runs = [compare(setting.specs(), setting.victims, min(reference, setting.victims), 0, threads, bench, **how)]
    else:
        runs = [compare(setting.specs(), 1, 1, seed, threads, bench, **how) for seed in range(max(1, reference // 4))]
    pooled: dict[str, Any] = {}
    for side in runs[0]["sides"]:
        figures = [run["sides"][side] for run in runs]
        pooled[side] = {key: sum(f[key] for f in figures) for key in ("victims", "leaked")}
        for key in ("seconds_per_victim", "evaluations_per_victim"):
            pooled[side][key] = fmean(f[key] for f in figures)
        pooled[side]["threads"] = sorted({f["threads"] for f in figures})
        pooled[side]["threads_tried"] = [int(count) for count in figures[0]["milliseconds_per_evaluation_by_threads"]]
    return pooled


def clocked(victims: int, bench: Workbench, at_once: int | None = None) -> tuple[float, dict[str, float]]:
    """A short attack as published: milliseconds per victim and evaluation, in all and by part."""
    images = bench.data(specs(DATA)["data"]).num_victims(1)  # where there are fewer, each has several victims
    _, _, observation = undefended(specs(DATA), min(victims, images), 0, bench)
    observation = observation.take([victim % images for victim in range(victims)])
    attack = ClockedIDLG(max_evaluations=EVALUATIONS, tolerance=0.0, at_once=at_once)
    problem = attack.problem(observation)
    assert isinstance(problem, ClockedProblem)
    found = problem.solve()
    one = 1000 / int(found.evaluations.sum())
    return problem.seconds * one, {part: seconds * one for part, seconds in problem.clock.seconds.items()}


def arithmetic(bench: Workbench) -> dict[str, float]:
    """Arithmetic of one evaluation, and how fast this device multiplies large matrices."""
    _, _, seen = undefended(specs(DATA), 1, 0, bench)  # torch counts the products of several groups too often
    images = torch.rand(1, *seen.image_shape, device=bench.device, requires_grad=True)
    labels = torch.ones(1, 1, seen.num_classes, device=bench.device) / seen.num_classes
    with FlopCounterMode(display=False) as counter:
        dummy = batch_gradients(seen.model, seen.parameters, images, labels, create_graph=True)
        squared_distance(dummy, seen.update).sum().backward(inputs=[images])
    matrix = torch.rand(2048, 2048, device=bench.device)
    best = min(seconds(lambda: matrix @ matrix, bench.device) for _ in range(5))
    return {"mflop_per_evaluation": counter.get_total_flops() / 1e6, "peak_gflops": 2 * 2048**3 / best / 1e9}


def seconds(work: Callable[[], Any], device: torch.device) -> float:
    """Seconds of one call."""
    started = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


def scoring(bench: Workbench) -> float:
    """Milliseconds per victim of the scores, with LPIPS where it is there."""
    images, labels, _ = undefended(specs(DATA), 64, 0, bench)
    return 1000 / 64 * seconds(lambda: score(images, labels, images / 2, labels, bench.perceptual), torch.device("cpu"))


def mib_per_victim(start: str, bench: Workbench) -> float:
    """MiB of tensors that one more victim takes."""

    def attack(count: int) -> None:
        given = specs(DATA, max_evaluations=3, tolerance=0.0, start=start)
        build("attack", given["attack"]).reconstruct(undefended(given, count, 0, bench)[2])

    return bytes_per_victim(attack) / 2**20


def workers(root: str | None) -> list[dict[str, float]]:
    """Seconds of ``leakboard run``, start and tables included, with one worker and with two, of one thread or two.

    Raises:
        UsageError: a run has failed.
    """
    suite = {
        "victims": BLOCKS * BLOCK_SIZE,
        "block_size": BLOCK_SIZE,
        "scenarios": [{"data": specs(DATA)["data"].as_dict(), "model": "LeNet"}],
        "attacks": [{"class": "IDLG", "max_evaluations": OF_A_RUN, "tolerance": 0.0}],
    }
    found = []
    for count, threads in ((1, 1), (1, 2), (2, 1)):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "speed.yaml"
            path.write_text(yaml.safe_dump(suite))
            command = [sys.executable, "-m", "benchmark", "run", str(path), "--out", folder, "--devices", "cpu"]
            command += ["--workers", str(count), "--threads", str(threads)] + (["--data-root", root] if root else [])
            started = time.perf_counter()
            done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
            elapsed = time.perf_counter() - started
            if done.returncode:
                raise UsageError(f"leakboard run has failed: {' '.join(done.stderr.split())[-300:]}")
        found.append({"workers": count, "threads": threads, "seconds": elapsed})
    return found
