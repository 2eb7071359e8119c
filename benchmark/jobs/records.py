"""From a block of victims to its record: client, attack, scores, cost and provenance."""

import gc
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from types import MappingProxyType
from typing import Any

import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from attacks import Attack, AutoLeak, LearnedInversion, Observation, Reconstruction
from attacks.autoleak import carried_out
from attacks.base import Trajectory, unheard
from attacks.choice import NOT_TRIED
from attacks.dlg_fb import DLGFB
from attacks.gradient_matching import GradientMatching
from attacks.network.memory import is_out_of_memory
from benchmark.errors import UsageError, one_line, written
from benchmark.federation.client import as_computed, as_trained, known
from benchmark.jobs.attackers import kept_at, learned, trained_for
from benchmark.jobs.blocks import Block, Workbench, check_unchanged, checksum, found_or
from benchmark.jobs.fitting import Fitting
from benchmark.jobs.memory import MARGIN, PROBES, bytes_per_victim, free_bytes, peak_memory
from benchmark.jobs.pictures import strip
from benchmark.jobs.provenance import provenance
from benchmark.jobs.scored import OfImages, brief, curve, victims_table
from benchmark.jobs.states import cache_folder
from benchmark.jobs.worst_case import Known, worst_case
from benchmark.metrics.labels import label_scores
from benchmark.metrics.leak import BASELINES
from benchmark.metrics.misfit import Misfits, loss_of_truth, misfits
from benchmark.metrics.scores import match, null_scores, score
from benchmark.rehearsal.scene import check_found
from benchmark.seeds import seed_for
from benchmark.store.store import Record
from benchmark.suite.registry import build
from benchmark.suite.suite import Cell, Scenario
from defenses.base import Update, flattened, global_norm

SAME = 0.05
"""How far two sizes of a tensor of an update, or how its entries lie, are apart at most where it is the same one."""

MOST = 0.5
"""Share of the tensors of an update of which more are others where it is another one."""

REDRAWN = 8
"""Victims on whom a defense is tried a second time: one that draws seldom is the same on a single one."""


def run_block(block: Block, bench: Workbench) -> Record:
    """Attacks and scores the victims of one block."""
    return run_blocks([block], bench)[0]


def run_blocks(
    blocks: list[Block],
    bench: Workbench,
    told: Callable[[float], None] = unheard,
    fitting: Fitting = Fitting(),  # noqa: B008 # frozen
) -> list[Record]:
    """Attacks and scores the victims of blocks that follow each other in one cell, all at once.

    Args:
        blocks: the blocks.
        bench: what they share.
        told: is called with the share of the attack that is done.
        fitting: how attacks are fitted and watched.
    """
    cell, scenario = blocks[0].cell, blocks[0].cell.scenario
    victims = range(blocks[0].victims.start, blocks[-1].victims.stop)
    data = bench.data(scenario.data)
    images, labels = bench.victims(scenario, victims)
    attack: Attack = build("attack", cell.attack)
    attack.told = told
    if isinstance(attack, GradientMatching | DLGFB | AutoLeak) and attack.at_once is None:
        attack.at_once = room(blocks[0], bench)
    if bench.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(bench.device)
    notes: list[str] = []
    broken: set[int] = set()
    own, training = learned_by(blocks[0], bench, unheard if isinstance(attack, AutoLeak) else told)
    observed = seen_by(cell, images, labels, victims, bench, public_images=0 if own else attack.public_images)

    attacked: dict[int, Tensor] = {}

    def seen(some: range) -> Observation:
        observation = observed(some)
        attacked.update(zip(some, sizes_of(observation), strict=True))
        broken.update(victim for victim, whole in zip(some, is_finite(observation.update), strict=True) if not whole)
        return observation

    null = of_baselines(images, labels, scenario, bench) if attack.seeks_images else None
    known = Known(images, null[0], [seed_for(scenario.seed, one, "start") for one in victims]) if null else None
    started = time.perf_counter()
    with fitting.of(blocks) as (watchers, of_fit):
        notes += [f"step {of_fit['step']}"] if "step" in of_fit else []
        found = attack_within_memory(cell.attack.name, attack, seen, victims, watchers, notes, of_fit | own, known)
    seconds = time.perf_counter() - started
    found = without_nan(found)
    records = []
    for block in blocks:
        rows = slice(block.victims.start - victims.start, block.victims.stop - victims.start)
        share = found.take(rows)
        of_labels = label_scores(labels[rows], share.labels, data.num_classes, share.label_counts)
        of_images: OfImages | None = None
        is_random = False
        if null is not None:
            of_null = null[0][rows], null[1][rows]
            worst, parts = worst_case(share, images[rows], of_null[0])
            scores = score(
                images[rows], labels[rows], worst.images.cpu(), worst.labels.cpu(), bench.perceptual, of_null[0]
            )
            is_baseline = cell.attack.name in BASELINES  # which do not try to fit an update
            private, seen_here = (images[rows], labels[rows]), observed(block.victims)
            check_shared_again(seen_here, torch.stack([attacked[victim] for victim in block.victims]), cell)
            if cell.defense and share.mixed:  # without it nobody has undone anything
                made = build("defense", cell.defense)
                private = as_trained(seen_here, *private, made, scenario.setting, scenario.seed, block.victims)
            fit = None if is_baseline else fit_of(attack, share, seen_here, block, *private)
            at_truth = None if is_baseline else loss_of_truth(attack, seen_here, *private)
            is_random = not is_baseline and draws_anew(seen_here, block, bench)
            of_images = OfImages(worst, scores, *of_null, fit, at_truth, parts)
        sha256 = checksum(images[rows], labels[rows])
        check_unchanged(block, images[rows], labels[rows])
        records.append(
            {
                "key": block.key,
                **block.about(),
                "void": why_void(len(broken.intersection(block.victims)), len(block.victims)),
                **not_adaptive(cell, bench),
                **({"random_update": True} if is_random else {}),
                "provenance": provenance(bench, data)
                | {
                    "lpips": bench.perceptual.describe() if bench.perceptual else bench.no_perceptual,
                    "data_sha256": sha256,
                    "data_chain": list(block.data),
                },
                "cost": {
                    "seconds": brief(seconds * len(block.victims) / len(victims)),
                    "victims_at_once": min(
                        len(victims) // attack.sequence, getattr(attack, "at_once", None) or len(victims)
                    ),
                    "peak_memory_mib": round(peak_memory(bench.device) / 2**20),
                    "notes": notes,
                    **training,
                },
                "victims": victims_table(
                    block.victims, share, of_labels, of_images, claims_to_know(cell), bench.perceptual is not None
                ),
                "curve": curve(share.trajectory, images[rows]),
                "picture": strip(images[rows], of_images.found.images.cpu()) if of_images else "",
            }
        )
    return records


def sizes_of(seen: Observation) -> Tensor:
    """What tells the updates of V victims from others: the size of each of T tensors, and how its entries lie, in parts
    of that size, ``[V, T, 2]``, float64."""
    found = []
    for value in (value for one in (seen, *seen.later) for value in one.update.values()):
        entries = flattened(value).cpu().double()
        size, along = entries.norm(dim=1), entries @ torch.linspace(-1, 1, entries.shape[1], dtype=torch.double)
        found.append(torch.stack([size, along / size.clamp(min=1e-300)], 1))
    return torch.stack(found, 1)


def check_shared_again(seen: Observation, attacked: Tensor, cell: Cell) -> None:
    """Looks whether the updates by which what was found is measured are those that were attacked.

    Args:
        seen: what the same clients share when they are asked again.
        attacked: :func:`sizes_of` their updates when they were attacked.
        cell: of which they are.

    Raises:
        UsageError: they differ by more than what rounding can change, a few entries of a defense that rounds itself.
    """
    again = sizes_of(seen)
    largest = torch.stack([again[..., 0].maximum(attacked[..., 0]), torch.ones_like(again[..., 0])], -1)
    apart = ((again - attacked).abs() > SAME * largest).any(-1)  # False where one is not finite
    if cell.defense and bool((apart.double().mean(1) > MOST).any()):
        raise UsageError(
            f"{cell.defense.name} made another update of the same batch with the same generators when it was called "
            "again, so that nothing can be measured: let it depend on its arguments and generators alone"
        )


def of_baselines(images: Tensor, labels: Tensor, scenario: Scenario, bench: Workbench) -> tuple[Tensor, Tensor]:
    """:func:`null_scores` of private batches, which all attacks on them share."""
    data = bench.data(scenario.data)
    make = partial(null_scores, images, labels, data.mean_image(), data.class_means())
    return found_or(bench.null_scores, (scenario.data.label, checksum(images, labels)), make)


def learned_by(
    block: Block, bench: Workbench, told: Callable[[float], None] = unheard
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What an attack is given that is trained beforehand, and what that cost; nothing for others.

    Args:
        block: of any attack.
        bench: what blocks share.
        told: is called with the share of the training that is done.
    """
    cell, one = bench.taught(block.cell), block.victims[:1]
    if cell is None:
        return {}, {}
    attack: LearnedInversion = build("attack", cell.attack)
    attack.told = told
    seen = seen_by(cell, *bench.victims(cell.scenario, one), one, bench, attack.public_images)(one)
    path = kept_at(cache_folder(), block.training, bench.device) if block.training else None
    inverter, cost = learned(attack, seen, trained_for(cell), path)
    return {"inverter": inverter}, {"training": cost}


def fit_of(
    attack: Attack,
    found: Reconstruction,
    seen: Observation,
    block: Block,
    images: Tensor,
    labels: Tensor,
) -> Misfits:
    """How well the update is explained by what was found, and by the private batches.

    Of an attack that takes no order of images for the right one, both are measured in the order that clients took; of
    one that has undone what a defense does to batches, what it found before.
    """
    found = replace(found.mixed, candidates=found.candidates) if found.mixed else found
    if attack.any_order:
        scenario = block.cell.scenario
        seen = as_computed(seen, scenario.setting, scenario.seed, block.victims)
        found = in_order(found, match(images, found.images.cpu().clamp(0, 1)))
    return misfits(seen, found, images, labels)


def in_order(found: Reconstruction, pairs: Tensor) -> Reconstruction:
    """What was found, with the images ``[V, N]`` at these places."""
    rows, places = torch.arange(len(pairs))[:, None], pairs.cpu()

    def moved(values: Tensor) -> Tensor:
        return values[rows.to(values.device), places.to(values.device)]

    soft = found.label_probabilities
    return replace(
        found,
        images=moved(found.images),
        labels=moved(found.labels),
        label_probabilities=None if soft is None else moved(soft),
    )


def is_finite(update: Update) -> list[bool]:
    """For each victim whether its update is without NaN and infinity."""
    return torch.stack([flattened(value).isfinite().all(1) for value in update.values()]).all(0).tolist()


def why_void(broken: int, victims: int) -> str | None:
    """The sentence of a record some of whose updates could not be attacked."""
    return f"the update of {broken} of {victims} victims was not finite" if broken else None


def not_adaptive(cell: Cell, bench: Workbench) -> dict[str, str]:
    """Why the attacker could not make use of knowing the defense, if so, as a part of a record."""
    if not (cell.defense and cell.adaptive):
        return {}
    scenario = cell.scenario
    shape = (scenario.batch_size, *bench.data(scenario.data).image_shape)
    reason = known(build("defense", cell.defense), bench.model(scenario), shape).no_adaptive_attack
    return {"no_adaptive_attack": reason} if reason else {}


def draws_anew(seen: Observation, block: Block, bench: Workbench) -> bool:
    """Whether clients with the same network, batch and order share another update where the defense draws again, by
    more than rounding.

    Args:
        seen: what they shared.
        block: whose they are.
        bench: what blocks share.
    """
    cell, some = block.cell, block.victims[:REDRAWN]
    if cell.defense is None:
        return False
    batches = bench.victims(cell.scenario, some)
    again = bench.observe(cell.scenario, *batches, some, cell.defense, cell.adaptive, draw="/again")
    rows = list(range(len(some)))
    for one, other in zip((seen, *seen.later), (again, *again.later), strict=True):
        off = {name: (value[rows] - other.update[name]).nan_to_num() for name, value in one.update.items()}
        rounding = 16 * torch.finfo(next(iter(off.values())).dtype).eps * global_norm(other.update).nan_to_num()
        if bool((global_norm(off) > rounding).any()):
            return True
    return False


def seen_by(
    cell: Cell, images: Tensor, labels: Tensor, victims: range, bench: Workbench, public_images: int
) -> Callable[[range], Observation]:
    """What the attacker sees of any of the victims, of whom there are images and labels."""

    def observed(some: range) -> Observation:
        rows = slice(some.start - victims.start, some.stop - victims.start)
        batches = images[rows], labels[rows]
        return bench.observe(cell.scenario, *batches, some, cell.defense, cell.adaptive, public_images=public_images)

    return observed


def room(block: Block, bench: Workbench) -> int:
    """How many victims such as the block's fit into the memory that is free, by what a few of them take."""
    cell, scenario = block.cell, block.cell.scenario
    attack: Attack = build("attack", cell.attack)
    sequence = attack.sequence
    if len(block.victims) <= max(PROBES) * sequence or "max_evaluations" not in cell.attack.args:
        return len(block.victims)
    kind = (scenario.label, scenario.data.label, scenario.model.label, cell.attack.label)
    if kind not in bench.bytes_per_victim:
        victims = block.victims[: max(PROBES) * sequence]
        observed = seen_by(cell, *bench.victims(scenario, victims), victims, bench, public_images=0)
        less = {"max_evaluations": 3, "training_steps": 0}
        args = cell.attack.args | {name: few for name, few in less.items() if name in cell.attack.args}
        short = replace(cell.attack, args=args)
        try:
            bench.bytes_per_victim[kind] = bytes_per_victim(
                lambda count: build("attack", short).reconstruct(observed(victims[: count * sequence]))
            )
        except (MemoryError, RuntimeError) as error:
            if is_out_of_memory(error):
                return 1
            raise
    free = MARGIN * free_bytes(bench.device) / (bench.sharing if bench.device.type == "cpu" else 1)
    return max(1, int(free / bench.bytes_per_victim[kind]))


def attack_within_memory(
    name: str,
    attack: Attack,
    observed: Callable[[range], Observation],
    victims: range,
    callbacks: Sequence[Callback],
    notes: list[str],
    of_fit: Mapping[str, Any] = MappingProxyType({}),
    known: Known | None = None,
) -> Reconstruction:
    """The reconstruction of all victims; where memory runs out, in two halves, which is noted.

    An ensemble is spared what is ``known``, one by one, so that no attack holds anything of it.

    Raises:
        UsageError: one victim does not fit, or what the attack returns is not of the right form.
    """
    try:
        seen = observed(victims)
        if isinstance(attack, AutoLeak) and known:
            found = carried_out(attack.attempts(seen, **of_fit), known)
        else:
            found = attack.reconstruct(seen, callbacks, **of_fit)
        check_found(found, seen, name, written(type(attack).reconstruct))
        return found
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        if len(victims) <= attack.sequence:
            raise UsageError(
                f"one victim alone does not fit into the memory of the device ({one_line(error)})"
            ) from None
    notes.append(f"out of memory with {len(victims)} victims at once: split into two halves")
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    middle = victims.start + len(victims) // attack.sequence // 2 * attack.sequence
    halves = [range(victims.start, middle), range(middle, victims.stop)]
    first, second = (
        attack_within_memory(name, attack, observed, half, callbacks, notes, of_fit, known) for half in halves
    )
    return join(first, second)


def join(first: Reconstruction, second: Reconstruction) -> Reconstruction:
    """Two reconstructions of different victims as one."""
    trajectory = None
    if first.trajectory is not None and second.trajectory is not None:
        trajectory = Trajectory(
            first.trajectory.evaluations,
            torch.cat([first.trajectory.loss, second.trajectory.loss]),
            torch.cat([first.trajectory.images, second.trajectory.images]),
            first.trajectory.levels,
            torch.cat([first.trajectory.passed, second.trajectory.passed]),
            first.trajectory.pictured,
        )
    return Reconstruction(
        images=torch.cat([first.images, second.images]),
        labels=torch.cat([first.labels, second.labels]),
        loss=torch.cat([first.loss, second.loss]),
        evaluations=torch.cat([first.evaluations, second.evaluations]),
        status=first.status + second.status,
        trajectory=trajectory,
        starts=first.starts + second.starts,
        label_probabilities=None
        if first.label_probabilities is None or second.label_probabilities is None
        else torch.cat([first.label_probabilities, second.label_probabilities]),
        certified=None
        if first.certified is None or second.certified is None
        else torch.cat([first.certified, second.certified]),
        label_counts=None
        if first.label_counts is None or second.label_counts is None
        else torch.cat([first.label_counts, second.label_counts]),
        mixed=join(first.mixed or first, second.mixed or second) if first.mixed or second.mixed else None,
        candidates={
            name: join(first.candidates.get(name, untried(first)), second.candidates.get(name, untried(second)))
            for name in {**first.candidates, **second.candidates}
        },
    )


def untried(found: Reconstruction) -> Reconstruction:
    """Of the same victims what an attack of an ensemble has found that was tried on none of them."""
    return replace(found, status=[NOT_TRIED] * len(found.status), starts=[], candidates={})


def without_nan(found: Reconstruction) -> Reconstruction:
    """Gray in place of images that hold NaN or Inf, and the status "diverged" where all images of a victim do."""
    candidates = {name: without_nan(one) for name, one in found.candidates.items()}
    found = replace(found, mixed=found.mixed and without_nan(found.mixed), candidates=candidates)
    bad = ~found.images.isfinite().flatten(2).all(2)
    if not bad.any():
        return found
    images = torch.where(bad[..., None, None, None], 0.5, found.images)
    status = ["diverged" if is_bad else old for is_bad, old in zip(bad.all(1).tolist(), found.status, strict=True)]
    certified = None if found.certified is None else found.certified & ~bad.to(found.certified.device)
    return replace(found, images=images, status=status, certified=certified)


def claims_to_know(cell: Cell) -> bool:
    """Whether the attacker is said to know all that clients do: the defense, or the local steps where there is none."""
    return cell.adaptive or (cell.defense is None and cell.scenario.setting.local is not None)
