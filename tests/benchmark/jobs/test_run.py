"""Blocks: the unit of work, whose results do not depend on how the work was cut."""

import contextlib
import json
import math
import weakref
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import Callback

from attacks import IDLG, MeanImage, Observation, Reconstruction
from attacks.base import Trajectory
from attacks.network.memory import is_out_of_memory
from benchmark.errors import UsageError
from benchmark.jobs import blocks as blocks_module
from benchmark.jobs.attacks import Attacks
from benchmark.jobs.blocks import Block, Workbench, plan
from benchmark.jobs.job import Watch, claimed, work
from benchmark.jobs.memory import MARGIN
from benchmark.jobs.records import fit_of, join, run_block, run_blocks, without_nan
from benchmark.jobs.scored import OfImages, finite, victims_table
from benchmark.metrics.labels import label_scores
from benchmark.metrics.scores import score
from benchmark.models import LeNet
from benchmark.rehearsal.scene import check_found
from benchmark.store.store import Store, read_all
from benchmark.suite.registry import Spec, build
from benchmark.suite.suite import Scenario, Suite, parse


@pytest.fixture
def bench() -> Workbench:
    return Workbench(torch.device("cpu"), no_perceptual="no weights")


def suite(victims: int = 4, attack: str = "IDLG", evaluations: int = 5, **more: Any) -> Suite:
    given = {
        "scenarios": [{"data": "Digits", "model": "LeNet", "victims": victims}],
        "attacks": [{"class": attack, "max_evaluations": evaluations}],
    }
    return parse(given | more, "mine")


def attacked(blocks: list[Block]) -> list[Block]:
    """Those of the attack itself, not of the baselines."""
    return [block for block in blocks if block.cell.attack.name in ("DLG", "IDLG")]


def assert_close(found: list[dict[str, Any]], wanted: list[dict[str, Any]]) -> None:
    """The same victims with the same results, up to the rounding of float32 in another company."""
    assert [v["index"] for v in found] == [v["index"] for v in wanted]
    for one, other in zip(found, wanted, strict=True):
        for same in ("status", "evaluations", "label_correct"):
            assert one[same] == other[same]
        for near in ("loss", "mse", "psnr", "ssim"):
            assert one[near] == pytest.approx(other[near], rel=1e-3, abs=1e-4)


# The plan.


def test_a_plan_reads_each_image_once_and_those_of_one_block_at_a_time(
    bench: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[range] = []
    held: list[weakref.ref[torch.Tensor]] = []
    real = Workbench.victims

    def victims(self: Workbench, scenario: Scenario, which: range) -> tuple[torch.Tensor, torch.Tensor]:
        assert all(images() is None for images in held)
        images, labels = real(self, scenario, which)
        read.append(which)
        held.append(weakref.ref(images))
        return images, labels

    monkeypatch.setattr(Workbench, "victims", victims)
    given = suite(victims=7, block_size=3, defenses=["Masking", "Pruning"])
    assert len(plan(given, bench)) == 3 * len(given.cells)
    assert read == [range(0, 3), range(3, 6), range(6, 7)]


OWN = """\
from defenses import Clipping

class Own(Clipping):
    pass
"""


def test_what_is_done_is_not_tried_again_but_a_users_class_is(
    bench: Workbench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A trial takes seconds, and there are hundreds of cells; a user's code must not be run for its key untried."""
    (tmp_path / "own_clipping.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    tried: list[str] = []
    monkeypatch.setattr("benchmark.rehearsal.scene.Rehearsal.of", lambda self, cell, *given: tried.append(cell.id))
    defenses = ["Masking", {"class": "own_clipping.Own", "max_norm": 1.0}]
    given = suite(victims=4, block_size=2, defenses=defenses)
    blocks = plan(given, bench)
    assert tried == [cell.id for cell in given.cells]
    own = {cell.id for cell in given.cells if cell.defense and cell.defense.name == "own_clipping.Own"}
    assert own
    for there, left in (
        ([block.key for block in blocks], own),
        ([block.key for block in blocks[:-1]], own),
        ([block.key for block in blocks[1:]], own | {blocks[0].group}),
        ([block.key for block in blocks[:2]], {cell.id for cell in given.cells} - {blocks[0].group}),
    ):
        tried.clear()
        assert plan(given, bench, there=there) == blocks
        assert len(tried) == len(left) and set(tried) == left


def test_a_plan_reads_the_code_of_the_same_classes_once(bench: Workbench, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[tuple[str, ...]] = []

    def counting(parts: dict[str, Spec]) -> str:
        read.append(tuple(part.name for part in parts.values()))
        return "code"

    monkeypatch.setattr("benchmark.jobs.blocks.code_checksum", counting)
    strengths = {"class": "Masking", "sweep": {"ratio": [0.1, 0.2, 0.3]}}
    plan(suite(defenses=[strengths]), bench)
    assert len(read) == len(set(read)) == 3 + 1 + 1


def test_a_key_holds_the_images_up_to_its_last_victim(bench: Workbench, monkeypatch: pytest.MonkeyPatch) -> None:
    def keys() -> list[str]:
        return [block.key for block in attacked(plan(suite(victims=8, block_size=2), bench))]

    before, real = keys(), Workbench.victims

    def victims(self: Workbench, scenario: Scenario, which: range) -> tuple[torch.Tensor, torch.Tensor]:
        images, labels = real(self, scenario, which)
        if 5 in which:
            images[which.index(5)] = 0.5
        return images, labels

    monkeypatch.setattr(Workbench, "victims", victims)
    assert [one == other for one, other in zip(before, keys(), strict=True)] == [True, True, False, False]


def test_a_key_holds_the_networks_that_are_drawn(bench: Workbench, monkeypatch: pytest.MonkeyPatch) -> None:
    def keys() -> list[str]:
        return [block.key for block in attacked(plan(suite(victims=8, block_size=4), bench))]

    before, real = keys(), LeNet.draw

    def draw(self: LeNet, generator: torch.Generator) -> dict[str, torch.Tensor]:
        return {name: 2 * weights for name, weights in real(self, generator).items()}

    assert keys() == before
    monkeypatch.setattr(LeNet, "draw", draw)  # as if it had read another file
    assert not set(keys()) & set(before)


def test_images_that_change_during_a_run_are_noticed(bench: Workbench, monkeypatch: pytest.MonkeyPatch) -> None:
    (block,) = attacked(plan(suite(victims=2), bench))
    real = Workbench.victims
    monkeypatch.setattr(Workbench, "victims", lambda *given: (1 - real(*given)[0], real(*given)[1]))
    with pytest.raises(UsageError, match="the images of Digits have changed since the run began: start it again"):
        run_block(block, bench)


def test_what_was_seen_of_a_cell_is_seen_once(bench: Workbench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plan looks at each network, each class and each image once, however many cells there are."""
    looks: list[str] = []
    for name in ("networks_sha256", "code_checksum", "check_fit", "check_attack", "data_chain"):
        real = getattr(blocks_module, name)
        monkeypatch.setattr(blocks_module, name, lambda *given, r=real, n=name: looks.append(n) or r(*given))
    given = suite(victims=2, defenses=[{"class": "Masking", "sweep": {"ratio": [n / 100 for n in range(50)]}}])
    assert len(plan(given, bench)) == len(given.cells) == 3 + 1 + 100
    assert {name: looks.count(name) for name in set(looks)} == {
        "networks_sha256": 2,
        "code_checksum": 5,
        "check_fit": 1,
        "check_attack": 4,
        "data_chain": 1,
    }


def test_sequences_stay_in_one_block(bench: Workbench) -> None:
    attack = {"class": "DLGFB", "length": 4, "max_evaluations": 5}
    blocks = plan(suite(victims=12, block_size=10, attacks=[attack]), bench)
    assert [b.victims for b in blocks if b.cell.attack.name == "DLGFB"] == [range(0, 8), range(8, 12)]
    assert [b.victims for b in blocks if b.cell.attack.name == "MeanImage"] == [range(0, 10), range(10, 12)]
    record = run_block(blocks[-1], bench)
    assert record["cost"]["victims_at_once"] == 1
    assert {victim["start"] for victim in record["victims"]} <= {"warm-up", "blend", "checkpoint"}
    with pytest.raises(UsageError, match=r"DLGFB attacks sequences of 4 victims, and 11 are not .* give --victims 8"):
        plan(suite(victims=11, attacks=[attack]), bench)


def test_a_record_says_where_the_attack_started_and_when_its_loss_passed_the_levels(bench: Workbench) -> None:
    attack = {"class": "IDLG", "start": "mean", "max_evaluations": 300}
    (block,) = [b for b in plan(suite(victims=3, attacks=[attack]), bench) if b.cell.attack.name == "IDLG"]
    record = run_block(block, bench)
    assert [victim["start"] for victim in record["victims"]] == ["mean"] * 3
    curve = record["curve"]
    assert curve["levels"] == [0.09, 0.03]
    assert any(at is not None for passed in curve["passed"] for at in passed)
    for victim, passed, losses in zip(record["victims"], curve["passed"], curve["loss"], strict=True):
        for level, at in zip(curve["levels"], passed, strict=True):
            assert (at is not None) == (victim["loss"] <= level)
            if at is not None:
                before = [loss for when, loss in zip(curve["evaluations"], losses, strict=True) if when < at]
                assert 0 < at <= victim["evaluations"] and all(loss is None or loss > level for loss in before)


# Memory.


def of_two_at_most(monkeypatch: pytest.MonkeyPatch, error: BaseException, most: int = 2) -> list[int]:
    """A device that holds no more than two victims; returns the sizes that were tried."""
    real, tried = IDLG.reconstruct, []

    def reconstruct(self: IDLG, observation: Observation, callbacks: Sequence[Callback] = ()) -> Reconstruction:
        tried.append(observation.num_victims)
        if observation.num_victims > most:
            raise error
        return real(self, observation, callbacks)

    monkeypatch.setattr(IDLG, "reconstruct", reconstruct)
    return tried


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_a_block_that_does_not_fit_is_split_with_the_same_results(
    bench: Workbench, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    (block,) = attacked(plan(suite(victims=5), bench))
    whole = run_block(block, bench)
    tried = of_two_at_most(monkeypatch, error)
    split = run_block(block, bench)
    assert tried == [5, 2, 3, 1, 2]
    assert split["cost"]["notes"] == [
        "out of memory with 5 victims at once: split into two halves",
        "out of memory with 3 victims at once: split into two halves",
    ]
    assert whole["cost"]["notes"] == []
    assert (split["key"], split["config"]) == (whole["key"], whole["config"])
    assert_close(split["victims"], whole["victims"])
    assert split["curve"]["evaluations"] == whole["curve"]["evaluations"]
    assert split["curve"]["psnr"] == [pytest.approx(psnr, rel=1e-3) for psnr in whole["curve"]["psnr"]]


def test_no_more_victims_are_attacked_at_once_than_fit_as_measured(
    bench: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    (block,) = attacked(plan(suite(victims=6), bench))
    whole = run_block(block, bench)
    assert whole["cost"]["victims_at_once"] == 6
    (size,) = bench.bytes_per_victim.values()
    assert 100_000 < size < 10_000_000  # the history of 100 pairs of 64 values, the networks, the gradients' graph
    monkeypatch.setattr("benchmark.jobs.records.free_bytes", lambda device: int(size * 2.6 / MARGIN))
    few = run_block(block, bench)
    assert few["cost"]["victims_at_once"] == 2 and few["cost"]["notes"] == []
    assert_close(few["victims"], whole["victims"])
    bench.sharing = 2
    assert run_block(block, bench)["cost"]["victims_at_once"] == 1


def test_the_number_at_once_that_a_user_gives_is_kept(bench: Workbench) -> None:
    given = suite(victims=6, attacks=[{"class": "IDLG", "max_evaluations": 5, "at_once": 5}])
    (block,) = attacked(plan(given, bench))
    assert run_block(block, bench)["cost"]["victims_at_once"] == 5
    assert not bench.bytes_per_victim


def test_blocks_attacked_together_have_the_records_of_blocks_attacked_alone(bench: Workbench) -> None:
    blocks = attacked(plan(suite(victims=5, block_size=2), bench))
    together = run_blocks(blocks, bench)
    for block, record in zip(blocks, together, strict=True):
        alone = run_block(block, bench)
        assert (record["key"], record["cell"], record["config"]) == (alone["key"], alone["cell"], alone["config"])
        assert record["provenance"]["data_sha256"] == alone["provenance"]["data_sha256"]
        assert_close(record["victims"], alone["victims"])
        assert len(record["curve"]["psnr"]) == len(block.victims)


def test_a_gpu_takes_the_blocks_of_a_cell_together_as_far_as_they_fit(
    bench: Workbench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocks = plan(suite(victims=10, block_size=2, attacks=["IDLG", "DLG"]), bench)
    pending = attacked(blocks)
    store = Store(tmp_path)
    monkeypatch.setattr("benchmark.jobs.attacks.room", lambda block, bench: 7)

    def together(first: Block, device: str) -> list[range]:
        bench.device = torch.device(device)
        with contextlib.ExitStack() as claims:
            return [b.victims for b in claimed(Attacks().together(first, pending, bench), store, claims)]

    assert together(pending[0], "cuda") == [range(0, 2), range(2, 4), range(4, 6)]
    assert together(pending[0], "cpu") == [range(0, 2)]
    bench.workers = 4  # of 20 victims, 5 are a worker's share
    assert together(pending[0], "cuda") == [range(0, 2), range(2, 4)]
    bench.workers = 1
    assert together(pending[3], "cuda") == [range(6, 8), range(8, 10)]  # the next block is another cell's
    with store.claim(pending[1].key):  # another process's
        assert together(pending[0], "cuda") == [range(0, 2)]
        assert together(pending[1], "cuda") == []


def test_one_victim_that_does_not_fit_is_told(bench: Workbench, monkeypatch: pytest.MonkeyPatch) -> None:
    of_two_at_most(monkeypatch, torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate"), most=0)
    (block,) = attacked(plan(suite(victims=2), bench))
    with pytest.raises(UsageError, match="one victim alone does not fit into the memory of the device") as told:
        run_block(block, bench)
    assert "\n" not in str(told.value)


def test_another_error_of_an_attack_is_not_taken_for_a_lack_of_memory(
    bench: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    (block,) = attacked(plan(suite(victims=2), bench))
    tried = of_two_at_most(monkeypatch, RuntimeError("a bug"), most=0)
    with pytest.raises(RuntimeError, match="a bug"):
        run_block(block, bench)
    assert tried == [2]
    assert not is_out_of_memory(ValueError("a bug"))


def test_two_reconstructions_are_joined_in_their_order() -> None:
    def made(value: float, victims: int) -> Reconstruction:
        images = torch.full((victims, 1, 1, 2, 2), value)
        return Reconstruction(
            images=images,
            labels=torch.full((victims, 1), int(value)),
            loss=torch.full((victims,), value),
            evaluations=torch.full((victims,), int(value)),
            status=[str(value)] * victims,
            trajectory=Trajectory(
                [0, 1],
                torch.full((victims, 2), value),
                images.unsqueeze(1).repeat(1, 2, 1, 1, 1, 1),
                (0.5,),
                torch.full((victims, 1), int(value)),
            ),
            starts=["noise"] * victims,
        )

    joined = join(made(1.0, 2), made(2.0, 1))
    assert joined.loss.tolist() == [1.0, 1.0, 2.0]
    assert joined.labels.tolist() == [[1], [1], [2]]
    assert joined.evaluations.tolist() == [1, 1, 2]
    assert joined.status == ["1.0", "1.0", "2.0"]
    assert joined.images[:, 0, 0, 0, 0].tolist() == [1.0, 1.0, 2.0]
    assert joined.trajectory is not None
    assert joined.trajectory.loss.tolist() == [[1.0, 1.0], [1.0, 1.0], [2.0, 2.0]]
    assert joined.trajectory.images.shape == (3, 2, 1, 1, 2, 2)
    assert joined.trajectory.passed.tolist() == [[1], [1], [2]] and joined.starts == ["noise"] * 3
    assert join(replace(made(1.0, 1), trajectory=None), made(2.0, 1)).trajectory is None
    sure, unsure = (replace(made(1.0, 1), certified=torch.tensor([[word]])) for word in (True, False))
    assert joined.certified is None and join(sure, made(2.0, 1)).certified is None
    assert torch.equal(join(sure, unsure).certified, torch.tensor([[True], [False]]))
    broken = replace(sure, images=torch.full_like(sure.images, torch.nan))
    assert torch.equal(without_nan(broken).certified, torch.tensor([[False]]))


def test_an_image_that_is_not_finite_takes_no_other_of_its_batch_with_it() -> None:
    images = torch.full((2, 3, 1, 2, 2), 0.25)
    images[0, 1, 0, 0, 0], images[1] = torch.nan, torch.inf
    made = Reconstruction(
        images=images,
        labels=torch.zeros(2, 3).long(),
        loss=torch.zeros(2),
        evaluations=torch.zeros(2).long(),
        status=["exhausted"] * 2,
        certified=torch.ones(2, 3, dtype=torch.bool),
    )
    for found in (without_nan(made), without_nan(replace(made, candidates={"it": made})).candidates["it"]):
        assert found.images[:, :, 0, 1, 1].tolist() == [[0.25, 0.5, 0.25], [0.5, 0.5, 0.5]]
        assert found.status == ["exhausted", "diverged"]
        assert found.certified.tolist() == [[True, False, True], [False] * 3]


def test_a_certificate_stands_at_the_private_image_that_it_is_of() -> None:
    images = torch.tensor([0.1, 0.5, 0.9]).view(1, 3, 1, 1, 1).expand(1, 3, 1, 4, 4)
    found = Reconstruction(
        images=images[:, [2, 0, 1]],
        labels=torch.tensor([[9, 7, 8]]),
        loss=torch.zeros(1),
        evaluations=torch.zeros(1).long(),
        status=["closed form"],
        certified=torch.tensor([[True, False, False]]),
    )
    scores = score(images, torch.tensor([[7, 8, 9]]), found.images, found.labels, None)
    nothing = torch.zeros(1, 3)
    of_labels = label_scores(torch.tensor([[7, 8, 9]]), found.labels, 10)
    of_images = OfImages(found, scores, nothing, nothing, None)
    (entry,) = victims_table(range(1), found, of_labels, of_images, knows=False, has_lpips=False)
    assert entry["label_correct"] == [True, True, True] and entry["certified"] == [False, False, True]
    without = replace(of_images, found=replace(found, certified=None))
    (entry,) = victims_table(range(1), found, of_labels, without, knows=False, has_lpips=False)
    assert "certified" not in entry


def test_certificates_of_another_form_are_refused_in_a_sentence(bench: Workbench) -> None:
    (block,) = attacked(plan(suite(victims=2), bench))
    scenario = block.cell.scenario
    seen = bench.observe(scenario, *bench.victims(scenario, range(2)), range(2), None, False)
    found = MeanImage().reconstruct(seen)
    for wrong in (torch.ones(2, 1), torch.ones(2, dtype=torch.bool)):
        with pytest.raises(UsageError, match="certified of what the attack Mine returns must be true or false"):
            check_found(replace(found, certified=wrong), seen, "Mine", "")


# Blocks.


def test_blocks_are_cut_at_the_block_size_and_hold_every_victim_once(bench: Workbench) -> None:
    blocks = attacked(plan(suite(victims=7, block_size=3), bench))
    assert [block.victims for block in blocks] == [range(0, 3), range(3, 6), range(6, 7)]
    assert len({block.key for block in blocks}) == 3


@pytest.mark.parametrize("attack", ["IDLG", "DLG"])
def test_a_victim_is_the_same_in_blocks_of_any_size(bench: Workbench, attack: str) -> None:
    found = []
    for size in (1, 3, 4):
        blocks = attacked(plan(suite(attack=attack, block_size=size), bench))
        found.append([victim for block in blocks for victim in run_block(block, bench)["victims"]])
    assert_close(found[0], found[2])
    assert_close(found[1], found[2])


def test_starts_networks_and_noise_are_the_same_to_the_bit_in_blocks_of_any_size(
    bench: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Observation] = []
    real = IDLG.reconstruct

    def reconstruct(self: IDLG, observation: Observation, callbacks: Sequence[Callback] = ()) -> Reconstruction:
        seen.append(observation)
        return real(self, observation, callbacks)

    sizes = [attacked(plan(suite(victims=2, evaluations=1, block_size=size), bench)) for size in (1, 2)]
    monkeypatch.setattr(IDLG, "reconstruct", reconstruct)
    for block in [block for blocks in sizes for block in blocks]:
        run_block(block, bench)
    first, second, both = seen
    assert len(set(both.seeds)) == 2
    for value in both.parameters.values():
        assert not value[0].equal(value[1])
    assert both.seeds == [*first.seeds, *second.seeds]
    for name, value in both.parameters.items():
        assert value.equal(torch.cat([first.parameters[name], second.parameters[name]]))


def test_defended_and_undefended_clients_are_the_same_but_for_the_defense(
    bench: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Observation] = []
    real = IDLG.reconstruct

    def reconstruct(self: IDLG, observation: Observation, callbacks: Sequence[Callback] = ()) -> Reconstruction:
        seen.append(observation)
        return real(self, observation, callbacks)

    blocks = attacked(plan(suite(2, evaluations=1, defenses=["Masking"]), bench))
    monkeypatch.setattr(IDLG, "reconstruct", reconstruct)
    for block in blocks:
        run_block(block, bench)
    control, oblivious, adaptive = seen
    assert control.seeds == oblivious.seeds == adaptive.seeds
    assert control.defense is oblivious.defense is None and adaptive.defense is not None
    for name, value in control.update.items():
        assert value.equal(oblivious.update[name]) is False
        assert adaptive.update[name].equal(oblivious.update[name])
        assert control.parameters[name].equal(adaptive.parameters[name])


def test_the_key_holds_all_that_decides_the_result(bench: Workbench, monkeypatch: pytest.MonkeyPatch) -> None:
    def keys(made: Suite) -> list[str]:
        return [block.key for block in plan(made, bench)]

    assert keys(suite()) == keys(suite())
    for other in (suite(evaluations=6), suite(victims=3), suite(seed=1)):
        assert keys(other)[-1] != keys(suite())[-1]
    before = keys(suite())
    data = bench.data(plan(suite(), bench)[0].cell.scenario.data)
    data.test_split.pixels[3] *= 0.99  # of Digits alone
    assert not set(keys(suite())) & set(before)


def test_a_record_is_strict_json_and_says_where_it_comes_from(bench: Workbench) -> None:
    (block,) = attacked(plan(suite(victims=2), bench))
    record = json.loads(json.dumps(run_block(block, bench), allow_nan=False))
    assert record["key"] == block.key and record["cell"] == block.cell.id
    assert [v["index"] for v in record["victims"]] == [0, 1]
    assert record["provenance"]["device"] == "cpu"
    assert record["provenance"]["lpips"] == "no weights"
    assert torch.__version__.startswith(record["provenance"]["versions"]["torch"])
    assert len(record["provenance"]["data_sha256"]) == 64
    assert record["cost"]["seconds"] > 0 and record["cost"]["peak_memory_mib"] > 0
    assert len(record["curve"]["psnr"]) == 2
    assert len(record["curve"]["psnr"][0]) == len(record["curve"]["evaluations"])


def test_numbers_that_are_not_finite_are_null() -> None:
    assert [finite(x) for x in (math.inf, -math.inf, math.nan, 1.23456789)] == [None, None, None, 1.23457]


def test_too_many_victims_are_told_before_any_work(bench: Workbench) -> None:
    with pytest.raises(UsageError, match="Digits has 500 test images"):
        plan(suite(victims=501), bench)


class Heard(Watch[Block]):
    def __init__(self) -> None:
        self.begun: list[str] = []
        self.ended: list[str] = []
        self.steps: dict[str, list[float]] = {}

    def begins(self, job: Block) -> None:
        self.begun.append(job.key)

    def reached(self, job: Block, steps: float, said: str = "") -> None:
        self.steps.setdefault(job.key, []).append(steps)

    def ends(self, job: Block, record: dict[str, Any]) -> None:
        assert record["key"] == job.key
        self.ended.append(job.key)


def test_work_does_what_is_not_done_and_tells_of_all_of_it(bench: Workbench, tmp_path: Path) -> None:
    blocks, store, heard = plan(suite(2), bench), Store(tmp_path), Heard()
    store.write(run_block(blocks[1], bench))
    work(blocks, Attacks(), store, bench, heard)
    keys = [block.key for block in blocks]
    assert heard.begun == [keys[0], *keys[2:]]
    assert heard.ended == keys
    assert set(heard.steps) == {block.key for block in attacked(blocks)}  # baselines are done at once
    for steps in heard.steps.values():
        assert steps == sorted(set(steps)) and 0 < steps[0] < 1 and steps[-1] == 2  # victims, of whom there are two
    assert {record["key"] for record in read_all(tmp_path)} == set(keys)


FROM_OUTSIDE = """
import os
from defenses import Defense, KnownDefense

class Scaled(Defense):
    def protect(self, update, generators):
        return {name: value * float(os.environ["SCALE"]) for name, value in update.items()}

    def known_to_attacker(self):
        return KnownDefense()
"""


def test_what_a_defense_does_is_in_the_key_whatever_it_hangs_on(
    bench: Workbench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "from_outside.py").write_text(FROM_OUTSIDE)
    monkeypatch.syspath_prepend(tmp_path)

    def keys(scale: str) -> list[str]:
        monkeypatch.setenv("SCALE", scale)
        return [block.key for block in plan(suite(2, defenses=["from_outside.Scaled"]), bench) if block.cell.defense]

    # A variable that is looked up counts as it is written, since it may act only where no short try gets to.
    written = [set(keys(scale)) for scale in ("1", "1", "1.0", "0.5")]
    assert written[0] == written[1] and not written[0] & written[2] and not written[0] & written[3]


@pytest.mark.parametrize("steps", ["known", "hidden"])
def test_an_update_is_held_against_the_order_of_local_steps_where_an_attack_takes_none_for_right(
    steps: str, bench: Workbench
) -> None:
    scenario = {
        "data": "Digits",
        "model": "LeNet",
        "batch_size": 4,
        "protocol": {"class": "FedAvg", "learning_rate": 0.1, "epochs": 2, "batch_size": 2},
        "threat_model": "C" if steps == "known" else "B",
    }
    kinds = ["SurrogateModel", *(["FedAvgInversion", "InvertingGradients"] if steps == "known" else [])]
    attacks = [{"class": kind, "max_evaluations": 3} for kind in kinds]
    given = {"scenarios": [scenario], "attacks": attacks, "victims": 2}
    for block in [one for one in plan(parse(given, "order"), bench) if one.cell.attack.name in kinds]:
        name = block.cell.attack.name
        victims = run_block(block, bench)["victims"]
        assert [victim["explained"] for victim in victims] == [name != "InvertingGradients"] * 2, name
        assert not any(victim["settled"] for victim in victims if victim["explained"])
        images, labels = bench.victims(block.cell.scenario, block.victims)
        seen = bench.observe(block.cell.scenario, images, labels, block.victims)
        mixed = torch.tensor([[2, 0, 3, 1], [1, 2, 3, 0]])  # the private images themselves, in an order of their own
        rows = torch.arange(2)[:, None]
        nothing = torch.zeros(2)
        found = Reconstruction(images[rows, mixed], labels[rows, mixed], nothing, nothing.long(), ["converged"] * 2)
        fit = fit_of(build("attack", block.cell.attack), found, seen, block, images, labels)
        if name != "InvertingGradients":
            assert fit.explained.all() and fit.settled.all()
