"""The batched attack against the published procedure: the same victims, each side at its best number of threads."""

import copy
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from math import ceil, inf
from typing import Any

import torch
from rich.table import Table
from torch import Tensor, nn

from attacks import DLG, IDLG, RGAP, InvertingGradients, Observation
from attacks.autoleak import takes
from attacks.engine.step import EAGER, check_step
from attacks.gradient_matching import GradientMatching
from benchmark.boards.markdown import threads
from benchmark.boards.terminal import Console
from benchmark.errors import UsageError
from benchmark.federation.setting import Setting
from benchmark.jobs.blocks import Workbench, check_attack, check_fit
from benchmark.jobs.memory import peak_memory
from benchmark.metrics.intervals import wilson
from benchmark.metrics.leak import leaked
from benchmark.metrics.scores import null_scores, score
from benchmark.suite.registry import Spec, build
from benchmark.suite.suite import Scenario

OUTER_STEPS, STEP = 300, 20
"""Steps of torch.optim.LBFGS in the published code of DLG and iDLG, and evaluations in each."""

ONE_BY_ONE, BATCHED, FROM_RGAP = "one by one", "batched", "batched, start rgap"
"""The published procedure, the same for all victims at once, and the same from R-GAP's solution."""

REPORT_EVERY = 10
"""Steps after which the published code looks whether the loss is below the tolerance."""

PIECE = 40
"""Gradient evaluations of the loop that its best number of threads is found with; a quarter of them all at once."""

ROUNDS = 3
"""How often such a piece is timed at each number of threads; the fastest counts."""


@dataclass
class Side:
    """What one of the sides did.

    Attributes:
        tried: milliseconds per evaluation of a short piece, by the number of threads.
        threads: the number that it ran at.
        evenly: each victim takes the same time, as with R-GAP; else by its gradient evaluations.
    """

    tried: dict[int, float]
    threads: int
    evenly: bool = False
    seconds: float = 0.0
    evaluations: list[int] = field(default_factory=list)
    leaked: list[bool] = field(default_factory=list)
    diverged: list[bool] = field(default_factory=list)
    labels_right: list[bool] = field(default_factory=list)
    peak_memory_mib: int = 0

    def summary(self, first: int, reference: "Side") -> dict[str, Any]:
        """Figures of the first victims.

        Args:
            first: victims that both sides attacked.
            reference: the published procedure.
        """
        low, high = wilson(sum(self.leaked[:first]), first)
        per_victim = self.seconds_per_victim(first)
        speedup = reference.seconds_per_victim(first) / per_victim
        return {
            "victims": first,
            "threads": self.threads,
            "milliseconds_per_evaluation_by_threads": {str(count): ms for count, ms in self.tried.items()},
            "seconds_per_victim": per_victim,
            "evaluations_per_victim": sum(self.evaluations[:first]) / first,
            "milliseconds_per_evaluation": self.milliseconds_per_evaluation,
            "leaked": sum(self.leaked[:first]),
            "leak_rate": sum(self.leaked[:first]) / first,
            "leak_rate_low": low,
            "leak_rate_high": high,
            "diverged": sum(self.diverged[:first]),
            "label_accuracy": sum(self.labels_right[:first]) / first,
            "peak_memory_mib": self.peak_memory_mib,
            "speedup": speedup,
            "speedup_per_thread": speedup * reference.threads / self.threads,
            "speedup_per_evaluation": reference.milliseconds_per_evaluation / self.milliseconds_per_evaluation,
        }

    @property
    def milliseconds_per_evaluation(self) -> float:
        """Over all victims."""
        return 1000 * self.seconds / sum(self.evaluations)

    def seconds_per_victim(self, first: int) -> float:
        """Seconds that each of the first victims took."""
        if self.evenly:
            return self.seconds / len(self.evaluations)
        return self.seconds * sum(self.evaluations[:first]) / sum(self.evaluations) / first


Found = tuple[Tensor, Tensor, int]
"""Images ``[N, C, H, W]`` of one victim, labels ``[N]``, and gradient evaluations."""


def put_network(model: nn.Module, observation: Observation, victim: int) -> None:
    """Gives the network the weights of a victim."""
    own = observation.own_networks
    with torch.no_grad():
        for name, weight in (*model.named_parameters(), *model.named_buffers()):
            if name in own:
                weight.copy_(own[name][victim])


def inverting_gradients(
    model: nn.Module, observation: Observation, victim: int, attack: InvertingGradients, iterations: int
) -> Found:
    """One victim attacked as in the authors' code: torch.optim.Adam on signs, and a schedule of torch's.

    Written from the published description, and from nothing of the batched attack, so that it can check it.

    Args:
        model: the network; its weights are replaced by the victim's.
        observation: of all victims, with the labels.
        victim: the row.
        attack: whose budget, total variation and learning rate count.
        iterations: that are made of its budget.
    """
    put_network(model, observation, victim)
    target = [observation.update[name][victim] for name, _ in model.named_parameters()]
    weights = list(model.parameters())
    generator = torch.Generator().manual_seed(observation.seeds[victim])
    images = torch.randn(observation.image_shape, generator=generator).to(target[0]).requires_grad_()
    assert observation.labels is not None
    labels = observation.labels[victim]
    mean, std = observation.mean_image.mean((1, 2))[:, None, None], observation.channel_stds[:, None, None]
    optimizer = torch.optim.Adam([images], lr=attack.learning_rate or 0.1)
    milestones = [int(part * attack.max_evaluations) for part in (3 / 8, 5 / 8, 7 / 8)]
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones, gamma=0.1)
    for _ in range(iterations):
        loss = nn.functional.cross_entropy(model(images * std + mean), labels)
        dummy = torch.autograd.grad(loss, weights, create_graph=True)
        product = torch.stack([(a * b).sum() for a, b in zip(dummy, target, strict=True)]).sum()
        sizes = [torch.stack([one.square().sum() for one in of]).sum().sqrt() for of in (dummy, target)]
        smooth = images.diff(dim=-2).abs().mean() + images.diff(dim=-1).abs().mean()
        (1 - product / (sizes[0] * sizes[1]) + attack.total_variation * smooth).backward(inputs=[images])
        with torch.no_grad():
            assert images.grad is not None
            images.grad.sign_()
            optimizer.step()
            images.copy_(images.clamp(-mean / std, (1 - mean) / std))
        optimizer.zero_grad()
        schedule.step()
    return (images.detach() * std + mean), labels, iterations


def deep_leakage(
    model: nn.Module, observation: Observation, victim: int, attack: GradientMatching, outer_steps: int = OUTER_STEPS
) -> Found:
    """One victim attacked as in the authors' code: torch.optim.LBFGS, 300 steps of 20 evaluations.

    Written from the published description, and from nothing of the batched attack, so that it can check it.

    Args:
        model: the network; its weights are replaced by the victim's.
        observation: of all victims.
        victim: the row.
        attack: DLG, which optimizes soft labels too, or IDLG, which infers them; its tolerance and history count.
        outer_steps: steps of 20 evaluations.
    """
    joint_labels = isinstance(attack, DLG)
    put_network(model, observation, victim)
    target = [observation.update[name][victim] for name, _ in model.named_parameters()]
    weights = list(model.parameters())
    generator = torch.Generator().manual_seed(observation.seeds[victim])
    images = torch.randn(observation.image_shape, generator=generator).to(target[0]).requires_grad_()
    optimized = [images]
    if joint_labels:
        shape = (len(images), observation.num_classes)
        logits = torch.randn(shape, generator=generator).to(target[0]).requires_grad_()
        optimized.append(logits)
    else:
        labels = target[-2].sum(-1).argmin(-1, keepdim=True)
    optimizer = torch.optim.LBFGS(optimized, lr=1, max_iter=STEP, history_size=attack.history_size)
    evaluations = 0

    def closure() -> Tensor:
        nonlocal evaluations
        evaluations += 1
        optimizer.zero_grad()
        wanted: Tensor = logits.softmax(-1) if joint_labels else labels
        loss = nn.functional.cross_entropy(model(images), wanted)
        dummy = torch.autograd.grad(loss, weights, create_graph=True)
        distance = sum(((a - b) ** 2).sum() for a, b in zip(dummy, target, strict=True))
        assert isinstance(distance, Tensor)
        distance.backward(inputs=optimized)
        return distance.detach()

    for step in range(outer_steps):
        loss = float(optimizer.step(closure))
        if step % REPORT_EVERY == 0 and loss < attack.tolerance:
            break
    return images.detach(), logits.detach().argmax(-1) if joint_labels else labels, evaluations


def compare(
    specs: dict[str, Spec],
    victims: int,
    reference: int,
    seed: int,
    threads: int,
    bench: Workbench,
    step: str = EAGER,
    batch_size: int = 1,
    setting: Setting = Setting(),  # noqa: B008 # frozen
) -> dict[str, Any]:
    """Attacks the same victims both ways, each way at the number of threads that suits it best.

    The start from R-GAP, which is another attack, has the threads of the batched side.

    Args:
        specs: data, model and attack (DLG, IDLG or InvertingGradients).
        victims: number of victims of the batched attack.
        reference: how many of them are attacked one by one too.
        seed: of networks and starts.
        threads: the most that either side may have.
        bench: device and data root.
        step: how the batched side takes its steps.
        batch_size: images of each victim.
        setting: what clients compute, which is a gradient, and what the attacker is granted.

    Raises:
        UsageError: it cannot be compared, or the device cannot take steps so.
    """
    try:
        check_step(step, bench.device.type)
    except ValueError as error:
        raise UsageError(str(error)) from None
    attack = build("attack", specs["attack"])
    if not isinstance(attack, DLG | IDLG | InvertingGradients):
        raise UsageError(
            "bench compares DLG, IDLG or InvertingGradients: there is no published procedure of another attack here"
        )
    usual = type(attack)()
    names = ("start", "restarts", "trials", "optimizer", "distance", "batch_norm")
    if other := [name for name in names if getattr(attack, name) != getattr(usual, name)]:
        raise UsageError(f"bench compares with the procedure as published: leave {other[0]} out")
    if setting.local or setting.mode != "eval" or setting.rounds > 1:
        raise UsageError("bench compares on one gradient in mode eval: leave protocol, mode and rounds out")
    if isinstance(attack, InvertingGradients) and (setting.threat.labels == "hidden" or not attack.standardized):
        raise UsageError(
            "the published procedure of InvertingGradients knows the labels and standardizes pixels: give "
            "--scenario.labels known, and leave standardized out"
        )
    images, labels, observation = undefended(specs, victims, seed, bench, batch_size, setting)
    model = observation.model
    attacks = {BATCHED: attack}
    if isinstance(attack, DLG | IDLG) and takes(RGAP(), model, observation.image_shape):
        attacks[FROM_RGAP] = build("attack", with_arguments(specs["attack"], start="rgap"))
    of_fit: dict[str, Any] = {} if step == EAGER else {"step": step}

    def one(victim: int, evaluations: int) -> Found:
        if isinstance(attack, InvertingGradients):
            return inverting_gradients(model, observation, victim, attack, evaluations)
        return deep_leakage(model, observation, victim, attack, ceil(evaluations / STEP))

    data = bench.data(specs["data"])
    null, _ = null_scores(images, labels, data.mean_image(), data.class_means())

    def note(side: Side, rows: range, found: Tensor, found_labels: Tensor, diverged: list[bool]) -> None:
        gray = torch.where(found.isfinite(), found, 0.5)
        scores = score(images[rows], labels[rows], gray.cpu(), found_labels.cpu(), None, null[rows])
        is_found = leaked(scores.psnr, null[rows]).any(1).tolist()
        side.leaked += [ok and not bad for ok, bad in zip(is_found, diverged, strict=True)]
        side.diverged += diverged
        side.labels_right += scores.label_correct.all(1).tolist()

    def together(evaluations: int) -> int:
        short = build("attack", with_arguments(specs["attack"], max_evaluations=evaluations))
        return int(short.reconstruct(observation, **of_fit).evaluations.sum())

    loop = tried(lambda: one(0, PIECE)[-1], threads, bench.device)
    batch = tried(lambda: together(PIECE // 4), threads, bench.device)
    sides = {ONE_BY_ONE: Side(loop, fastest(loop)), BATCHED: Side(batch, fastest(batch))}
    if FROM_RGAP in attacks:
        sides[FROM_RGAP] = Side(batch, fastest(batch), evenly=True)
        short = build("attack", with_arguments(specs["attack"], max_evaluations=2, start="rgap"))
        short.reconstruct(observation.take(range(min(victims, 2))))  # what the first call costs is not timed
    with timed(sides[ONE_BY_ONE], bench.device):
        alone = [one(victim, attack.max_evaluations) for victim in range(reference)]
    for victim, (found, found_labels, spent) in enumerate(alone):
        sides[ONE_BY_ONE].evaluations.append(spent)
        diverged = not found.isfinite().all()
        note(sides[ONE_BY_ONE], range(victim, victim + 1), found[None], found_labels[None], [bool(diverged)])
    for name, batched in attacks.items():
        with timed(sides[name], bench.device):
            of_all = batched.reconstruct(observation, **of_fit)
        sides[name].evaluations += of_all.evaluations.tolist()
        gone = [status == "diverged" for status in of_all.status]
        note(sides[name], range(victims), of_all.images, of_all.labels, gone)
    return {
        "data": specs["data"].as_dict(),
        "model": specs["model"].as_dict(),
        "attack": specs["attack"].as_dict(),
        **of_fit,
        "batch_size": batch_size,
        **setting.config(),
        "victims_at_once": min(victims, attack.at_once or victims),
        "device": str(bench.device),
        "torch": torch.__version__,
        "sides": {name: side.summary(reference, sides[ONE_BY_ONE]) for name, side in sides.items()},
    }


def undefended(
    specs: dict[str, Spec],
    victims: int,
    seed: int,
    bench: Workbench,
    batch_size: int = 1,
    setting: Setting = Setting(),  # noqa: B008 # frozen
) -> tuple[Tensor, Tensor, Observation]:
    """Images, labels and what an attacker sees of the first victims, who have no defense.

    Raises:
        UsageError: data or model do not serve.
    """
    scenario = Scenario(specs["data"], specs["model"], batch_size, seed, victims, setting=setting)
    images, labels = bench.victims(scenario, range(victims))
    check_fit(scenario, bench)
    if "attack" in specs:
        check_attack(scenario, specs["attack"], bench.model(scenario), bench)
    model = copy.deepcopy(bench.model(scenario))  # whose weights the loop writes into
    observation = bench.observe(scenario, images, labels, range(victims), model=model)
    return images, labels, observation


def with_arguments(attack: Spec, **args: Any) -> Spec:
    """The attack with some arguments changed."""
    return replace(attack, args=attack.args | args)


def thread_counts(most: int, device: torch.device) -> list[int]:
    """The numbers of threads that are tried: 1, 2, 4, ... and the most; of those that only feed a GPU the ends."""
    return sorted({1, most} | ({2**power for power in range(most.bit_length())} if device.type == "cpu" else set()))


def tried(work: Callable[[], int], most: int, device: torch.device) -> dict[int, float]:
    """Milliseconds per evaluation of a short piece of work, by the number of threads.

    They are tried in turns, after one call that is not timed, so that whatever else this machine does slows
    all of them alike; of each the fastest turn counts.

    Args:
        work: does it, and returns the gradient evaluations that it took.
        most: threads.
        device: where it is done.
    """
    found = dict.fromkeys(thread_counts(most, device), inf)
    work()
    for _ in range(ROUNDS):
        for count in found:
            with at_threads(count):
                started = clock(device)
                evaluations = work()
                found[count] = min(found[count], 1000 * (clock(device) - started) / evaluations)
    return found


def fastest(found: dict[int, float]) -> int:
    """The number of threads that took the least time."""
    return min(found, key=lambda count: found[count])


@contextmanager
def at_threads(count: int) -> Iterator[None]:
    """So many CPU threads inside, and as many as before after that."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def clock(device: torch.device) -> float:
    """The time in seconds, when a GPU has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


@contextmanager
def timed(side: Side, device: torch.device) -> Iterator[None]:
    """Runs what is inside at the threads of the side, and notes its seconds and peak memory.

    On the CPU that memory is the process's peak so far.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    with at_threads(side.threads):
        started = clock(device)
        yield
        side.seconds = clock(device) - started
    side.peak_memory_mib = round(peak_memory(device) / 2**20)


def faster(speedup: float) -> str:
    """A ratio of times in words."""
    ratio, word = (speedup, "faster") if speedup >= 1 else (1 / speedup, "slower")
    return f"{times(ratio)} {word}"


def times(ratio: float) -> str:
    """A ratio with two digits, or all before the point."""
    return f"{ratio:.1f}x" if ratio < 9.95 else f"{ratio:.0f}x"


def as_table(found: dict[str, Any]) -> str:
    """The comparison for people."""
    sides = found["sides"]
    table = Table(
        "",
        *sides,
        title=f"{found['attack']['class']}, {found['model']['class']}, "
        f"{found['data']['class']}, {found['device']}, torch {found['torch']}"
        + (f", step {found['step']}" if "step" in found else ""),
    )
    formats = {"seconds_per_victim": ".3f", "evaluations_per_victim": ".0f", "milliseconds_per_evaluation": ".3f"}
    for key in sides[ONE_BY_ONE]:
        if key == "milliseconds_per_evaluation_by_threads":
            continue
        values = (
            "-" if name == FROM_RGAP and key.endswith("per_evaluation") else format(side[key], formats.get(key, ".3g"))
            for name, side in sides.items()
        )
        table.add_row(key.replace("_", " "), *values)
    console = Console(width=120)
    with console.capture() as capture:
        console.print(table)
        for name in (ONE_BY_ONE, BATCHED):
            each = sides[name]["milliseconds_per_evaluation_by_threads"].items()
            pieces = ", ".join(f"{threads(int(count))} {ms:.3g} ms" for count, ms in each)
            console.print(
                f"{name}: {threads(sides[name]['threads'])}, the best for a short piece (per evaluation: {pieces})",
                highlight=False,
                soft_wrap=True,
            )
        for name, side in sides.items():
            if name != ONE_BY_ONE:
                another = "from R-GAP's solution, which is another attack: " if name == FROM_RGAP else ""
                console.print(
                    f"{name}: {another}{faster(side['speedup'])} per victim, {faster(side['speedup_per_thread'])} "
                    f"per thread, {side['leaked']} against {sides[ONE_BY_ONE]['leaked']} of {side['victims']} leaked",
                    highlight=False,
                    soft_wrap=True,
                )
    return capture.get().rstrip()
