"""The comparison of the batched attack with the published procedure."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from attacks import DLG, IDLG, Observation
from benchmark.errors import UsageError
from benchmark.jobs.blocks import Workbench
from benchmark.models import LeNet
from benchmark.studies import bench
from benchmark.suite.registry import Spec, spec

MakeVictims = Callable[..., Any]
TOLERANCE = 1e-6


def by_the_book(seen: Observation, victim: int, dlg: bool, steps: int, tolerance: float) -> tuple[Tensor, Tensor, int]:
    """The loop of the authors' code (github.com/mit-han-lab/dlg, github.com/PatrickZH/iDLG), told in their words."""
    net = LeNet((1, 8, 8), 10).double()
    net.load_state_dict({name: value[victim] for name, value in seen.parameters.items()})
    original_dy_dx = [seen.update[name][victim] for name in seen.update]
    generator = torch.Generator().manual_seed(seen.seeds[victim])
    dummy_data = torch.randn((1, 1, 8, 8), generator=generator).double().requires_grad_()
    dummy_label = torch.randn((1, 10), generator=generator).double().requires_grad_()
    label_pred = torch.argmin(torch.sum(original_dy_dx[-2], dim=-1), dim=-1).reshape((1,))
    optimizer = torch.optim.LBFGS([dummy_data, dummy_label] if dlg else [dummy_data])
    evaluations = 0

    def closure() -> Tensor:
        nonlocal evaluations
        evaluations += 1
        optimizer.zero_grad()
        pred = net(dummy_data)
        if dlg:
            wanted = torch.softmax(dummy_label, dim=-1)
            dummy_loss = torch.mean(torch.sum(-wanted * torch.log_softmax(pred, dim=-1), 1))
        else:
            dummy_loss = torch.nn.CrossEntropyLoss()(pred, label_pred)
        dummy_dy_dx = torch.autograd.grad(dummy_loss, list(net.parameters()), create_graph=True)
        grad_diff = torch.zeros((), dtype=torch.float64)
        for gx, gy in zip(dummy_dy_dx, original_dy_dx, strict=True):
            grad_diff = grad_diff + ((gx - gy) ** 2).sum()
        grad_diff.backward()
        return grad_diff

    for iters in range(steps):
        before = float(optimizer.step(closure))
        if iters % 10 == 0 and before < tolerance:
            break
    return dummy_data.detach(), dummy_label.detach().argmax(-1) if dlg else label_pred, evaluations


@pytest.mark.parametrize("dlg", [False, True], ids=["IDLG", "DLG"])
def test_the_published_procedure_is_the_known_loop(dlg: bool, victims_of: MakeVictims) -> None:
    _, _, observation = victims_of(2, dtype=torch.float64)
    for victim in range(2):
        model = LeNet((1, 8, 8), 10).double()
        images, labels, spent = bench.deep_leakage(model, observation, victim, DLG() if dlg else IDLG(), outer_steps=2)
        expected, expected_labels, expected_spent = by_the_book(observation, victim, dlg, 2, TOLERANCE)
        assert spent == expected_spent == 40
        assert torch.equal(labels, expected_labels)
        torch.testing.assert_close(images, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dlg", [False, True], ids=["IDLG", "DLG"])
def test_the_published_procedure_finds_a_digit_and_stops_where_the_authors_look(
    dlg: bool, victims_of: MakeVictims
) -> None:
    """The loss is looked at after steps 1 and 11; by then it is below the tolerance, and steps no longer move."""
    images, labels, observation = victims_of(1)
    found, found_labels, spent = bench.deep_leakage(LeNet((1, 8, 8), 10), observation, 0, DLG() if dlg else IDLG())
    assert (found - images[0]).square().mean() < 1e-3
    assert torch.equal(found_labels, labels[0])
    assert 20 < spent <= 11 * 20


def compared(attack: str, model: str = "LeNet", reference: int = 3, threads: int = 1) -> dict[str, Any]:
    parts: dict[str, Spec] = {
        "data": spec("data", "Digits", {}),
        "model": spec("model", model, {}),
        "attack": spec("attack", attack, {"max_evaluations": 300} if attack in ("IDLG", "DLG") else {}),
    }
    return bench.compare(parts, 3, reference, 0, threads, Workbench(torch.device("cpu")))


@pytest.mark.parametrize("attack", ["IDLG", "DLG"])
def test_both_sides_of_the_comparison_find_the_digits(attack: str) -> None:
    found = compared(attack)
    sides = found["sides"]
    assert list(sides) == ["one by one", "batched", "batched, start rgap"]
    for summary in sides.values():
        assert summary["victims"] == summary["leaked"] == 3
        assert summary["leak_rate"] == summary["label_accuracy"] == 1.0
        assert 0.3 < summary["leak_rate_low"] < 0.9 and summary["leak_rate_high"] == pytest.approx(1.0)
        assert summary["seconds_per_victim"] > 0
        assert summary["peak_memory_mib"] > 10
        ratio = sides["one by one"]["seconds_per_victim"] / summary["seconds_per_victim"]
        assert summary["speedup"] == summary["speedup_per_thread"] == pytest.approx(ratio)
    for summary in (sides["one by one"], sides["batched"]):
        assert summary["evaluations_per_victim"] > 20
        per_evaluation = 1000 * summary["seconds_per_victim"] / summary["evaluations_per_victim"]
        assert summary["milliseconds_per_evaluation"] == pytest.approx(per_evaluation)
    assert sides["batched, start rgap"]["evaluations_per_victim"] < 20  # it has arrived before it starts
    assert found["attack"]["class"] == attack and found["data"]["class"] == "Digits"
    assert found["model"]["class"] == "LeNet"


def test_each_side_runs_at_the_threads_that_suit_it_best(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock on which the loop is fastest at one thread, the block at three of at most three."""
    now = 0.0
    used: dict[str, set[int]] = {"loop": set(), "block": set()}

    def alone(*args: Any) -> tuple[Tensor, Tensor, int]:
        nonlocal now
        count, steps = torch.get_num_threads(), args[4]
        now += steps * count
        used["loop"] |= {count} if steps == 15 else set()
        return torch.zeros(1, 1, 8, 8), torch.zeros(1, dtype=torch.long), 20 * steps

    def together(self: IDLG, observation: Observation) -> Any:
        nonlocal now
        now += 3 * self.max_evaluations / torch.get_num_threads()
        used["block"] |= {torch.get_num_threads()} if self.max_evaluations == 300 else set()
        count = observation.num_victims
        labels, evaluations = torch.zeros(count, 1, dtype=torch.long), torch.full((count,), self.max_evaluations)
        images = torch.zeros(count, *observation.image_shape)
        return SimpleNamespace(images=images, labels=labels, evaluations=evaluations, status=["exhausted"] * count)

    monkeypatch.setattr(bench, "deep_leakage", alone)
    monkeypatch.setattr(IDLG, "reconstruct", together)
    monkeypatch.setattr(bench, "clock", lambda device: now)
    found = compared("IDLG", reference=2, threads=3)
    sides = found["sides"]
    assert {name: side["threads"] for name, side in sides.items()} == {
        "one by one": 1,
        "batched": 3,
        "batched, start rgap": 3,
    }
    assert used == {"loop": {1}, "block": {3}}
    of_loop = sides["one by one"]["milliseconds_per_evaluation_by_threads"]
    assert of_loop == {"1": pytest.approx(50), "2": pytest.approx(100), "3": pytest.approx(150)}
    assert sides["batched"]["speedup_per_thread"] == pytest.approx(sides["batched"]["speedup"] / 3)
    assert torch.get_num_threads() == 1  # as before
    assert "one by one: 1 thread, the best for a short piece (per evaluation: 1 thread 50 ms, 2 threads 100" in (
        bench.as_table(found)
    )


@pytest.mark.parametrize(("most", "counts"), [(1, [1]), (2, [1, 2]), (6, [1, 2, 4, 6]), (16, [1, 2, 4, 8, 16])])
def test_threads_are_tried_from_one_to_the_most(most: int, counts: list[int]) -> None:
    assert bench.thread_counts(most, torch.device("cpu")) == counts
    assert bench.thread_counts(most, torch.device("cuda")) == sorted({1, most})


@pytest.mark.parametrize(
    ("speedup", "words"), [(7.25, "7.2x faster"), (160.5, "160x faster"), (0.5, "2.0x slower"), (9.96, "10x faster")]
)
def test_a_speedup_in_words(speedup: float, words: str) -> None:
    assert bench.faster(speedup) == words


def test_the_comparison_is_a_table_for_people() -> None:
    table = bench.as_table(compared("IDLG", reference=1))
    for text in ("IDLG, LeNet, Digits, cpu", "one by one", "batched", "leak rate", "seconds per victim"):
        assert text in table
    of_loop, of_block, batched, from_rgap = table.splitlines()[-4:]
    assert of_loop.startswith("one by one: 1 thread, the best for") and of_block.startswith(
        "batched: 1 thread, the best for"
    )
    assert batched.startswith("batched: ") and batched.endswith("per thread, 1 against 1 of 1 leaked")
    assert from_rgap.startswith("batched, start rgap: from R-GAP's solution, which is another attack: ")
    row = next(line for line in table.splitlines() if line.strip(" │┃|").startswith("victims"))
    assert row.count("1") == 3  # all sides are summed up over the same victims


def test_what_is_not_as_published_is_not_called_so() -> None:
    for args in ({"start": "rgap"}, {"restarts": 1}):
        parts = {"data": spec("data", "Digits", {}), "model": spec("model", "LeNet", {})}
        with pytest.raises(UsageError, match="as published"):
            bench.compare(parts | {"attack": spec("attack", "IDLG", args)}, 2, 1, 0, 1, Workbench(torch.device("cpu")))


def test_an_attack_that_was_published_otherwise_is_not_compared() -> None:
    with pytest.raises(UsageError, match="DLG, IDLG or InvertingGradients"):
        compared("MeanImage")
