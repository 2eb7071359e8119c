"""The step as one function: padded, in parts and compiled it gives what the plain one gives."""

import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._pytree import tree_map

from attacks import DLG, DLGFB, IDLG, Observation
from attacks.engine import step as steps
from attacks.engine.objective import Round
from attacks.engine.step import Step, check_step, compiled, faster, gradients_of
from attacks.gradient_matching import GradientMatching
from benchmark.models import MLP, ConvNet
from defenses import (
    QSGD,
    Clipping,
    Defense,
    GaussianNoise,
    GlobalPruning,
    HalfPrecision,
    LayerMasking,
    Masking,
    Pruning,
    Quantization,
    Sign,
    TruncatedSVD,
)

MakeVictims = Callable[..., Any]


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Counts calls of the compiler, which takes a minute: what it is given is run as it is."""
    made: list[int] = []

    def instead(graph: Any, **_: Any) -> Any:
        made.append(1)
        return graph

    monkeypatch.setattr(torch, "compile", instead)
    return made


@pytest.mark.parametrize(
    ("attack", "model", "defense", "shared"),
    [
        (IDLG, ConvNet, None, False),
        (DLG, MLP, None, True),
        (DLG, ConvNet, Masking(0.3), False),
        (IDLG, MLP, GaussianNoise(0.01), False),
        (DLG, MLP, Clipping(0.5), True),
    ],
)
def test_a_traced_step_takes_the_same_path(
    attack: type[GradientMatching],
    model: type[Any],
    defense: Any,
    shared: bool,
    victims_of: MakeVictims,
    traced: list[int],
) -> None:
    seen = victims_of(3, dtype=torch.float64, model=model, defense=defense, adaptive=True).observation
    if shared:
        seen = replace(seen, parameters={name: value[0] for name, value in seen.parameters.items()})
    made = attack(max_evaluations=6, tolerance=0)
    plain, found = made.reconstruct(seen), made.reconstruct(seen, step="compiled")
    assert traced
    torch.testing.assert_close(found.loss, plain.loss, rtol=1e-9, atol=1e-15)
    torch.testing.assert_close(found.images, plain.images, rtol=1e-7, atol=1e-7)
    assert found.status == plain.status and torch.equal(found.labels, plain.labels)


def test_victims_that_leave_and_enter_change_nothing_and_nothing_is_compiled_again(
    victims_of: MakeVictims, traced: list[int]
) -> None:
    seen = victims_of(7, dtype=torch.float64, model=MLP).observation
    made = IDLG(max_evaluations=40, at_once=3, restarts=1, patience=8)
    plain, found = made.reconstruct(seen), made.reconstruct(seen, step="compiled")
    assert len(traced) == 1 and len(set(plain.evaluations.tolist())) > 1
    assert plain.status == found.status and torch.equal(plain.evaluations, found.evaluations)
    torch.testing.assert_close(found.loss, plain.loss, rtol=1e-6, atol=1e-12)
    made.reconstruct(seen.take(range(1, 7)), step="compiled")
    assert len(traced) == 1  # the next block of the same network need not wait


@pytest.mark.parametrize(
    "defense",
    [
        Masking(0.3),
        LayerMasking(0.3),
        Pruning(0.5),
        GlobalPruning(0.5),
        Sign(0.5),
        TruncatedSVD(0.7),
        Quantization(4),
        QSGD(16),
        HalfPrecision("bf16"),
    ],
    ids=lambda defense: type(defense).__name__,
)
def test_what_is_remembered_of_some_victims_is_not_taken_for_that_of_others(
    defense: Defense, victims_of: MakeVictims, traced: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By victims that leave and enter, alone and together, as it is and traced."""
    seen = victims_of(5, dtype=torch.float64, model=MLP, defense=defense, adaptive=True).observation
    made = IDLG(max_evaluations=8, tolerance=0, restarts=1, patience=3)
    wanted = [made.reconstruct(seen.take(range(row, row + 1))) for row in range(5)]
    monkeypatch.setitem(steps.TOGETHER, "cpu", 2 * sum(value[0].nbytes for value in seen.update.values()) + 1)
    for how in ("eager", "compiled"):
        found = replace(made, at_once=3).reconstruct(seen, step=how)
        torch.testing.assert_close(found.loss, torch.cat([one.loss for one in wanted]), rtol=1e-6, atol=1e-12)
        torch.testing.assert_close(found.images, torch.cat([one.images for one in wanted]), rtol=1e-5, atol=1e-6)
    assert traced


def test_what_was_shared_is_read_once_for_all_evaluations(
    victims_of: MakeVictims, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = victims_of(3, model=MLP, defense=TruncatedSVD(0.7), adaptive=True).observation
    read: list[int] = []
    real = torch.linalg.svd

    def counted(*args: Any, **kwargs: Any) -> Any:
        read.append(1)
        return real(*args, **kwargs)

    monkeypatch.setattr(torch.linalg, "svd", counted)
    counts = []
    for evaluations in (2, 2, 12):
        read.clear()
        found = DLG(max_evaluations=evaluations, tolerance=0).reconstruct(seen)
        assert found.evaluations.tolist() == 3 * [evaluations]
        counts.append(len(read))
    assert counts[0] >= counts[1] == counts[2] > 0  # the first has read the observation itself, too


def test_sequences_take_the_same_steps(victims_of: MakeVictims, traced: list[int]) -> None:
    seen = victims_of(6, dtype=torch.float64, model=MLP).observation
    made = DLGFB(length=3, max_evaluations=10)
    plain, found = made.reconstruct(seen), made.reconstruct(seen, step="compiled")
    torch.testing.assert_close(found.loss, plain.loss, rtol=1e-6, atol=1e-12)
    assert traced


@pytest.mark.parametrize("rows", [1, 2, 5])
def test_gradients_in_parts_are_the_gradients(
    rows: int, victims_of: MakeVictims, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = victims_of(5, dtype=torch.float64, model=MLP).observation
    plain = DLG(max_evaluations=12, tolerance=0).reconstruct(seen)
    sizes = sum(value[0].numel() * 8 for value in seen.update.values())
    monkeypatch.setitem(steps.TOGETHER, "cpu", rows * sizes + 1)
    widest: list[int] = []
    real = Round.losses

    def losses(self: Round, images: Tensor, *args: Any) -> Tensor:
        widest.append(len(images))
        return real(self, images, *args)

    monkeypatch.setattr(Round, "losses", losses)
    found = DLG(max_evaluations=12, tolerance=0).reconstruct(seen)
    assert max(widest) == rows
    torch.testing.assert_close(found.loss, plain.loss, rtol=1e-9, atol=1e-15)
    torch.testing.assert_close(found.images, plain.images, rtol=1e-7, atol=1e-7)


def test_the_step_computes_the_gradient_of_its_losses() -> None:
    """Against a plain loop of autograd, with rows that hold targets of their own."""

    def measure(images: Tensor, logits: Tensor, held: dict[str, Any]) -> Tensor:
        off = (images - held["rows"]["target"]).flatten(1).pow(4).sum(1)
        return off + (logits * held["common"]).flatten(1).square().sum(1)

    generator = torch.Generator().manual_seed(0)
    images, target = (torch.rand(4, 1, 2, 2, generator=generator).double() for _ in range(2))
    logits = torch.rand(4, 1, 3, generator=generator).double()
    held = {"rows": {"target": target}, "common": torch.tensor(3.0)}
    losses, of_images, of_logits = gradients_of(measure, True)(images, logits, held)
    torch.testing.assert_close(of_images, 4 * (images - target) ** 3)
    torch.testing.assert_close(of_logits, 18 * logits)
    wanted = ((images - target) ** 4).sum((1, 2, 3)) + (9 * logits**2).sum((1, 2))
    torch.testing.assert_close(losses, wanted)
    assert not losses.requires_grad and images.grad is None


def test_a_row_that_is_padded_does_not_count(traced: list[int]) -> None:
    def measure(images: Tensor, logits: Tensor, held: dict[str, Any]) -> Tensor:
        return (images - held["rows"]["target"]).flatten(1).square().sum(1)

    model = nn.Linear(1, 1)
    step = Step("compiled", measure, False, model, ("key",), 100)
    images, logits = torch.rand(8, 1, 2, 2), torch.zeros(8, 1, 3)
    targets = torch.rand(8, 1, 2, 2)
    for rows in (8, 7, 5, 4, 2, 1):
        held = {"rows": {"target": targets[:rows]}}
        losses, gradient = step(images[:rows], logits[:rows], held)
        assert len(losses) == len(gradient) == rows
        torch.testing.assert_close(gradient, 2 * (images - targets)[:rows])
    assert len(traced) == 1


def test_what_cannot_be_compiled_is_said_and_run_as_it_is(
    monkeypatch: pytest.MonkeyPatch, victims_of: MakeVictims
) -> None:
    def fails(*_: Any, **__: Any) -> Any:
        raise RuntimeError("no compiler found\nand more")

    monkeypatch.setattr(torch, "compile", fails)
    seen = victims_of(2, model=MLP).observation
    plain = IDLG(max_evaluations=5).reconstruct(seen)
    with pytest.warns(UserWarning, match=r"a step cannot be compiled \(no compiler found\): it is run as it is"):
        found = IDLG(max_evaluations=5).reconstruct(seen, step="compiled")
    torch.testing.assert_close(found.images, plain.images)


def test_a_compiled_step_that_gives_something_else_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = {"add": lambda made: lambda *given: [value + 0.1 for value in made(*given)]}
    monkeypatch.setattr(torch, "compile", lambda graph, **_: wrong["add"](graph))
    plain = gradients_of(lambda images, logits, held: images.flatten(1).square().sum(1), False)
    given = torch.rand(3, 1, 2, 2), torch.zeros(3, 1, 2), {"rows": {}}
    with pytest.warns(UserWarning, match="a compiled step gives other results than the step itself"):
        assert faster(compiled, plain, *given) is plain


def test_a_victim_that_has_diverged_does_not_keep_a_step_from_being_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda graph, **_: graph)
    plain = gradients_of(lambda images, logits, held: images.flatten(1).square().sum(1), False)
    images = torch.rand(3, 1, 2, 2)
    images[1] = torch.nan
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert faster(compiled, plain, images, torch.zeros(3, 1, 2), {"rows": {}}) is not plain


@pytest.mark.parametrize(
    ("step", "device", "sentence"),
    [
        ("graph", "cpu", "step graph needs a GPU: on a CPU choose compiled or eager"),
        ("fast", "cpu", "step is 'fast', but must be one of eager, compiled, graph"),
    ],
)
def test_a_step_that_there_cannot_be_is_refused(step: str, device: str, sentence: str, victims_of: MakeVictims) -> None:
    with pytest.raises(ValueError, match=sentence):
        check_step(step, device)
    with pytest.raises(ValueError, match=sentence):
        IDLG().reconstruct(victims_of(1).observation, step=step)


def test_the_graph_that_is_compiled_holds_no_victim(victims_of: MakeVictims) -> None:
    """Its inputs are all that a victim differs in: on other victims the same graph gives their losses."""
    first = victims_of(3, dtype=torch.float64, model=MLP).observation
    second = victims_of(3, dtype=torch.float64, model=MLP, first=5).observation

    def inputs(seen: Observation) -> tuple[Any, ...]:
        problem = DLG().problem(seen)
        images, logits = problem.images.detach(), problem.label_logits.detach()
        return gradients_of(problem.objective.measure, True), (images, logits, problem.objective.held)

    plain, given = inputs(first)
    other, of_others = inputs(second)
    graph = make_fx(plain)(*tree_map(torch.clone, given))
    for found, wanted in zip(graph(*of_others), other(*of_others), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-12)
