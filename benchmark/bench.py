"""The batched attack against the published procedure, on the same victims and threads in one process."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from math import ceil
from typing import Any

import torch
from rich.table import Table
from torch import Tensor, nn

from attacks import DLG, IDLG, RGAP, Attack, Observation
from benchmark.blocks import Workbench, check_fit
from benchmark.client import observe
from benchmark.errors import UsageError
from benchmark.intervals import wilson
from benchmark.leak import leaked, null_scores
from benchmark.records import peak_memory
from benchmark.registry import Spec, build
from benchmark.scores import score
from benchmark.suite import Scenario
from benchmark.terminal import Console

OUTER_STEPS, STEP = 300, 20
"""Steps of torch.optim.LBFGS in the published code of DLG and iDLG, and evaluations in each."""

ONE_BY_ONE, BATCHED, FROM_RGAP = "one by one", "batched", "batched, start rgap"
"""The published procedure, the same for all victims at once, and the same from R-GAP's solution."""

REPORT_EVERY = 10
"""Steps after which the published code looks whether the loss is below the tolerance."""


@dataclass
class Side:
    """What one of the sides did.

    Attributes:
        evenly: each victim takes the same time, as with R-GAP; else by its gradient evaluations.
    """

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
        return {
            "victims": first,
            "seconds_per_victim": per_victim,
            "evaluations_per_victim": sum(self.evaluations[:first]) / first,
            "milliseconds_per_evaluation": 1000 * self.seconds / sum(self.evaluations),
            "leaked": sum(self.leaked[:first]),
            "leak_rate": sum(self.leaked[:first]) / first,
            "leak_rate_low": low,
            "leak_rate_high": high,
            "diverged": sum(self.diverged[:first]),
            "label_accuracy": sum(self.labels_right[:first]) / first,
            "peak_memory_mib": self.peak_memory_mib,
            "times_less_time_per_victim": reference.seconds_per_victim(first) / per_victim,
            "times_less_time_per_evaluation": reference.seconds
            / sum(reference.evaluations)
            * sum(self.evaluations)
            / self.seconds,
        }

    def seconds_per_victim(self, first: int) -> float:
        """Seconds that each of the first victims took."""
        if self.evenly:
            return self.seconds / len(self.evaluations)
        return self.seconds * sum(self.evaluations[:first]) / sum(self.evaluations) / first


def published(
    model: nn.Module,
    observation: Observation,
    victim: int,
    joint_labels: bool,
    tolerance: float,
    outer_steps: int = OUTER_STEPS,
    history_size: int = 100,
) -> tuple[Tensor, Tensor, int]:
    """One victim attacked as in the authors' code: torch.optim.LBFGS, 300 steps of 20 evaluations.

    Written from the published description, and from nothing of the batched attack, so that it can check it.

    Args:
        model: the network; its weights are replaced by the victim's.
        observation: of all victims.
        victim: the row.
        joint_labels: optimise soft labels too (DLG) instead of inferring them (iDLG).
        tolerance: the loss below which the published code stops.
        outer_steps: steps of 20 evaluations.
        history_size: pairs that L-BFGS keeps.

    Returns:
        Images ``[N, C, H, W]``, labels ``[N]`` and gradient evaluations.
    """
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.copy_(observation.parameters[name][victim])
    target = [observation.update[name][victim] for name, _ in model.named_parameters()]
    weights = list(model.parameters())
    generator = torch.Generator().manual_seed(observation.seeds[victim])
    images = torch.randn(observation.image_shape, generator=generator).to(target[0]).requires_grad_()
    optimised = [images]
    if joint_labels:
        shape = (len(images), observation.num_classes)
        logits = torch.randn(shape, generator=generator).to(target[0]).requires_grad_()
        optimised.append(logits)
    else:
        labels = target[-2].sum(-1).argmin(-1, keepdim=True)
    optimizer = torch.optim.LBFGS(optimised, lr=1, max_iter=STEP, history_size=history_size)
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
        distance.backward(inputs=optimised)
        return distance.detach()

    for step in range(outer_steps):
        loss = float(optimizer.step(closure))
        if step % REPORT_EVERY == 0 and loss < tolerance:
            break
    return images.detach(), logits.detach().argmax(-1) if joint_labels else labels, evaluations


def compare(specs: dict[str, Spec], victims: int, reference: int, seed: int, bench: Workbench) -> dict[str, Any]:
    """Attacks the same victims both ways.

    Args:
        specs: data, model and attack (DLG or IDLG).
        victims: number of victims of the batched attack.
        reference: how many of them are attacked one by one too.
        seed: of networks and starts.
        bench: device and data root.
    """
    attack = build("attack", specs["attack"])
    if not isinstance(attack, DLG | IDLG):
        raise UsageError("bench compares DLG or IDLG: there is no published procedure of another attack here")
    if attack.start != "noise" or attack.restarts:
        raise UsageError("bench compares with the procedure as published: leave start and restarts out")
    images, labels, observation = undefended(specs, victims, seed, bench)
    model = observation.model
    attacks = {BATCHED: attack}
    if takes(RGAP(), model, observation):
        attacks[FROM_RGAP] = build("attack", with_arguments(specs["attack"], start="rgap"))
    sides = {name: Side(evenly=name == FROM_RGAP) for name in (ONE_BY_ONE, *attacks)}
    outer_steps = ceil(attack.max_evaluations / STEP)

    def one(victim: int, outer_steps: int) -> tuple[Tensor, Tensor, int]:
        joint_labels = isinstance(attack, DLG)
        return published(model, observation, victim, joint_labels, attack.tolerance, outer_steps, attack.history_size)

    data = bench.data(specs["data"])
    null, _ = null_scores(images, labels, data.mean_image(), data.class_means())

    def note(side: Side, rows: range, found: Tensor, found_labels: Tensor, diverged: list[bool]) -> None:
        grey = torch.where(found.isfinite(), found, 0.5)
        scores = score(images[rows], labels[rows], grey.cpu(), found_labels.cpu(), None)
        is_found = leaked(scores.psnr, null[rows]).any(1).tolist()
        side.leaked += [ok and not bad for ok, bad in zip(is_found, diverged, strict=True)]
        side.diverged += diverged
        side.labels_right += scores.label_correct.all(1).tolist()

    one(0, 1)  # what the first call of everything costs is not timed
    for batched in attacks.values():
        short = with_arguments(specs["attack"], max_evaluations=2, start=batched.start)
        build("attack", short).reconstruct(observation.take(range(min(victims, 2))))
    with timed(sides[ONE_BY_ONE], bench.device):
        alone = [one(victim, outer_steps) for victim in range(reference)]
    for victim, (found, found_labels, spent) in enumerate(alone):
        sides[ONE_BY_ONE].evaluations.append(spent)
        diverged = not found.isfinite().all()
        note(sides[ONE_BY_ONE], range(victim, victim + 1), found[None], found_labels[None], [bool(diverged)])
    for name, batched in attacks.items():
        with timed(sides[name], bench.device):
            together = batched.reconstruct(observation)
        sides[name].evaluations += together.evaluations.tolist()
        gone = [status == "diverged" for status in together.status]
        note(sides[name], range(victims), together.images, together.labels, gone)
    return {
        "data": specs["data"].as_dict(),
        "model": specs["model"].as_dict(),
        "attack": specs["attack"].as_dict(),
        "victims_at_once": min(victims, attack.at_once or victims),
        "device": str(bench.device),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "sides": {name: side.summary(reference, sides[ONE_BY_ONE]) for name, side in sides.items()},
    }


def undefended(specs: dict[str, Spec], victims: int, seed: int, bench: Workbench) -> tuple[Tensor, Tensor, Observation]:
    """Images, labels and what an attacker sees of the first victims, who have no defense.

    Raises:
        UsageError: data or model do not serve.
    """
    scenario = Scenario(specs["data"], specs["model"], batch_size=1, seed=seed, victims=victims)
    data = bench.data(scenario.data)
    images, labels = bench.victims(scenario, range(victims))
    check_fit(scenario, bench)
    observation = observe(
        bench.model(scenario),
        images.to(bench.device),
        labels.to(bench.device),
        data.num_classes,
        None,
        False,
        data.mean_image(),
        data.class_means(),
        data.mean_step(),
        seed,
        range(victims),
    )
    return images, labels, observation


def with_arguments(attack: Spec, **args: Any) -> Spec:
    """The attack with some arguments changed."""
    return replace(attack, args=attack.args | args)


def takes(attack: Attack, model: nn.Module, observation: Observation) -> bool:
    """Whether the attack can be run on these victims."""
    try:
        attack.check(model, observation.image_shape)
    except ValueError:
        return False
    return True


@contextmanager
def timed(side: Side, device: torch.device) -> Iterator[None]:
    """Notes the seconds and the peak memory of what is done inside; on the CPU that is the process's peak so far."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        torch.cuda.synchronize(device)
    started = time.perf_counter()
    yield
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    side.seconds = time.perf_counter() - started
    side.peak_memory_mib = round(peak_memory(device) / 2**20)


def as_table(found: dict[str, Any]) -> str:
    """The comparison for people."""
    sides = found["sides"]
    table = Table(
        "",
        *sides,
        title=f"{found['attack']['class']}, {found['model']['class']}, "
        f"{found['data']['class']}, {found['device']}, {found['threads']} threads, torch {found['torch']}",
    )
    formats = {"seconds_per_victim": ".3f", "evaluations_per_victim": ".0f", "milliseconds_per_evaluation": ".3f"}
    for key in sides[ONE_BY_ONE]:
        values = (
            "-" if name == FROM_RGAP and key.endswith("per_evaluation") else format(side[key], formats.get(key, ".3g"))
            for name, side in sides.items()
        )
        table.add_row(key.replace("_", " "), *values)
    console = Console(width=110)
    with console.capture() as capture:
        console.print(table)
        for name, side in sides.items():
            if name != ONE_BY_ONE:
                console.print(
                    f"{name}: {side['times_less_time_per_victim']:.1f} times less time per victim, "
                    f"{side['leaked']} against {sides[ONE_BY_ONE]['leaked']} of {side['victims']} leaked",
                    highlight=False,
                )
    return capture.get().rstrip()
