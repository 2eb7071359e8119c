"""The contract of ``protect``: what breaks it is told in one sentence, and what keeps it passes."""

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor

from benchmark.cli.main import main
from benchmark.errors import UsageError
from benchmark.jobs.blocks import Workbench
from benchmark.rehearsal.attackers_model import check_known, check_undo
from benchmark.rehearsal.hooks import check_fits, check_protect, norm
from benchmark.rehearsal.scene import Scene
from benchmark.seeds import generators
from benchmark.suite.registry import build
from benchmark.suite.suite import Cell, Scenario, parse
from defenses import (
    QSGD,
    Clients,
    Clipping,
    Defense,
    GaussianNoise,
    HookDefense,
    KnownDefense,
    Masking,
    MixUp,
    Pruning,
    Update,
)
from defenses.base import all_kept

Protect = Callable[[Update, Sequence[torch.Generator]], object]


class Mine(Defense):
    def __init__(self, protect: Protect) -> None:
        self.given = protect

    def protect(self, update: Update, generators: Sequence[torch.Generator]) -> Update:
        return self.given(update, generators)  # type: ignore[return-value] # whatever a user returns

    def known_to_attacker(self) -> KnownDefense:
        return KnownDefense()


def an_update(clients: int = 2) -> Update:
    source = torch.Generator().manual_seed(1)
    shapes = {"0.weight": (4, 3), "0.bias": (4,), "temperature": ()}
    return {name: torch.randn(clients, *shape, generator=source) for name, shape in shapes.items()}


def each(change: Callable[[Tensor], object]) -> Protect:
    """A change of every tensor."""
    return lambda update, _: {name: change(value) for name, value in update.items()}


def in_place(update: Update, _: Sequence[torch.Generator]) -> object:
    for value in update.values():
        value.mul_(0.5)
    return update


def one_noise_for_all(update: Update, sources: Sequence[torch.Generator]) -> object:
    return {n: v + torch.randn(v.shape[1:], generator=sources[0]) for n, v in update.items()}


def one_norm_for_all(limit: float) -> Protect:
    def protect(update: Update, _: Sequence[torch.Generator]) -> object:
        total = torch.stack([value.norm() for value in update.values()]).norm()
        return {n: v * (limit / total).clamp(max=1) for n, v in update.items()}

    return protect


def counting() -> Protect:
    calls = list[int]()

    def protect(update: Update, _: Sequence[torch.Generator]) -> object:
        calls.append(1)
        return {n: v / len(calls) for n, v in update.items()}

    return protect


def python_noise(update: Update, _: Sequence[torch.Generator]) -> object:
    return {n: v + random.random() for n, v in update.items()}


def numpy_noise(update: Update, _: Sequence[torch.Generator]) -> object:
    return {n: v + float(np.random.rand()) for n, v in update.items()}


def seeded_noise(update: Update, _: Sequence[torch.Generator]) -> object:
    torch.manual_seed(0)
    return {n: v + torch.randn_like(v) for n, v in update.items()}


def without_the_last_client(update: Update, _: Sequence[torch.Generator]) -> object:
    return {n: v[:-1] if len(v) > 1 else v for n, v in update.items()}


@pytest.mark.parametrize(
    ("protect", "sentence"),
    [
        (each(lambda v: v[..., :1]), "returns the shape [2, 4, 1] for 0.weight, not [2, 4, 3]"),
        (each(lambda v: v.mean(0)), "returns the shape [4, 3] for 0.weight, not [2, 4, 3]"),
        (without_the_last_client, "returns the shape [1, 4, 3] for 0.weight, not [2, 4, 3]"),
        (each(Tensor.half), "returns the type torch.float16 for 0.weight, not torch.float32"),
        (each(Tensor.double), "returns the type torch.float64 for 0.weight, not torch.float32"),
        (each(Tensor.tolist), "returns a list for 0.weight, not a tensor"),
        (each(lambda v: v / 0), "returns NaN or infinity (0.weight) for an update that is finite"),
        (each(lambda v: torch.full_like(v, torch.nan)), "returns NaN or infinity (0.weight)"),
        (lambda u, _: None, "must return the update as a dict, not None"),
        (lambda u, _: list(u.values()), "must return the update as a dict, not a list"),
        (lambda u, _: {n: v for n, v in u.items() if "bias" not in n}, "leaves out 0.bias (share zeros instead)"),
        (lambda u, _: {f"module.{n}": v for n, v in u.items()}, "leaves out 0.bias (share zeros instead)"),
        (lambda u, _: u | {"more": u["0.bias"]}, "adds more: it must return the names that it was given"),
        (
            lambda u, _: 1 / 0,
            "fails (ZeroDivisionError: division by zero, tests/benchmark/rehearsal/test_rehearsal",
        ),
        (
            lambda u, _: exit(0),
            "fails (it calls sys.exit(0), tests/benchmark/rehearsal/test_rehearsal_defense.py",
        ),
        (in_place, "changes the update that it was given in place (0.weight)"),
        (each(lambda v: v + torch.randn_like(v)), "draws random numbers from a global generator"),
        (seeded_noise, "draws random numbers from a global generator"),
        (python_noise, "draws random numbers from a global generator"),
        (numpy_noise, "draws random numbers from a global generator"),
        (counting(), "gives another result when it is called again with the same update and generators (0.weight)"),
        (one_noise_for_all, "shares for a client what depends on the other clients (0.weight)"),
        (one_norm_for_all(1.0), "shares for a client what depends on the other clients (0.weight)"),
        (one_norm_for_all(100.0), "shares for a client what depends on the other clients (0.weight)"),  # larger ones
        (one_norm_for_all(0.01), "shares for a client what depends on the other clients (0.weight)"),
        (each(lambda v: v - v.mean(0)), "shares for a client what depends on the other clients (0.weight)"),
        (each(lambda v: v.flip(0)), "shares for a client what depends on the other clients (0.weight)"),
    ],
)
def test_what_breaks_the_contract_is_one_sentence(protect: Protect, sentence: str) -> None:
    with pytest.raises(UsageError) as told:
        check_protect(Mine(protect), an_update(), "mine.Mine(std=1)")
    said = str(told.value)
    assert said.startswith("mine.Mine(std=1): protect ") and sentence in said and "\n" not in said
    assert re.search(r"test_rehearsal_defense\.py, line \d+\)$", said.partition(": it must")[0]) or "it must" in said


def quantized(update: Update, sources: Sequence[torch.Generator]) -> object:
    """Stochastic rounding to steps of a client's own largest entry."""
    shared = {}
    for name, value in update.items():
        step = value.reshape(len(value), -1).abs().amax(1).view(-1, *[1] * (value.dim() - 1)) / 8
        uniform = torch.stack([torch.rand(value.shape[1:], generator=source) for source in sources])
        shared[name] = (value / step + uniform).floor() * step
    return shared


@pytest.mark.parametrize(
    "defense",
    [
        *(GaussianNoise(0.1), Clipping(0.5), Pruning(0.5), Masking(0.5), Masking(0.5, rescale=True)),
        *map(Mine, (each(lambda v: v), each(torch.zeros_like), each(Tensor.sign), quantized)),
    ],
)
def test_what_keeps_the_contract_passes(defense: Defense) -> None:
    update = {name: value for name, value in an_update(3).items() if value.dim() > 1}
    before = {name: value.clone() for name, value in update.items()}
    torch.manual_seed(3)
    check_protect(defense, update, "mine")
    assert all(torch.equal(value, before[name]) for name, value in update.items())
    assert torch.rand(1) == torch.rand(1, generator=torch.Generator().manual_seed(3))


def test_generators_are_those_of_the_clients() -> None:
    seen = list[list[float]]()

    def protect(update: Update, sources: Sequence[torch.Generator]) -> object:
        seen.append([float(torch.rand(1, generator=source)) for source in sources])
        return update

    check_protect(Mine(protect), an_update(), "mine")
    both = [float(torch.rand(1, generator=source)) for source in generators(0, range(2), "rehearsal")]
    assert seen[:4] == [both, both, both[1:], both[:1]] and both[0] != both[1]  # alone the last one is first


def halved(update: Update) -> Update:
    return {name: value / 2 for name, value in update.items()}


def where_it_is(near: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Callable[[Update, Update], Update]:
    """A model of halving that copies what was observed where it says so of the sizes of dummy, observed and both apart;
    with a slope that nobody can use."""

    def simulate(dummy: Update, observed: Update) -> Update:
        mine = halved(dummy)
        copied = near(norm(mine), norm(observed), norm({name: mine[name] - observed[name] for name in mine})).tolist()
        return {
            name: torch.stack(
                [o + 1e-12 * (d - o) if copy else d for d, o, copy in zip(value, observed[name], copied, strict=True)]
            )
            for name, value in mine.items()
        }

    return simulate


COPIES: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "near the truth": lambda mine, seen, apart: apart < 0.5 * seen,
    "very near the truth": lambda mine, seen, apart: apart < 0.01 * seen,
    "at large updates": lambda mine, seen, apart: mine > 3 * seen,
    "at small updates": lambda mine, seen, apart: mine < 0.3 * seen,
    "far from the truth": lambda mine, seen, apart: apart > 4 * seen,
    "everywhere": lambda mine, seen, apart: mine >= 0,
}


@pytest.mark.parametrize("near", COPIES.values(), ids=COPIES.keys())
def test_a_model_that_copies_what_was_observed_is_refused(near: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
    mine = Mine(lambda update, _: halved(update))
    check_known(mine, KnownDefense(lambda dummy, _: halved(dummy)), an_update(), "mine")
    with pytest.raises(UsageError, match=r"simulate .*(hardly tells|no slope|as far from)"):
        check_known(mine, KnownDefense(where_it_is(near)), an_update(), "mine")


def rounded(value: Tensor) -> Tensor:
    return value + ((value * 2).round() / 2 - value).detach()


@pytest.mark.parametrize(
    ("protect", "known"),
    [
        (each(rounded), KnownDefense(lambda dummy, _: {n: rounded(v) for n, v in dummy.items()})),
        (each(torch.tanh), KnownDefense(lambda dummy, _: {n: v.tanh() for n, v in dummy.items()})),
        (each(lambda v: v**3), KnownDefense(lambda dummy, _: {n: v**3 for n, v in dummy.items()})),
        (each(lambda v: v * 1e-6), KnownDefense(lambda dummy, _: {n: v * 1e-6 for n, v in dummy.items()})),
    ],
    ids=["rounding", "tanh", "cubes", "tiny"],
)
def test_a_right_model_of_whatever_kind_is_not(protect: Protect, known: KnownDefense) -> None:
    check_known(Mine(protect), known, an_update(), "mine")


@pytest.mark.parametrize("defense", [Masking(0.5), Pruning(0.5), Clipping(0.1), Clipping(100.0), GaussianNoise(0.1)])
def test_our_own_models_are_not(defense: Defense) -> None:
    check_known(defense, defense.known_to_attacker(), an_update(), "ours")


class Picky(Mine):
    """One that a user's own network may not fit."""

    def __init__(self, check: Callable[[Sequence[str]], None]) -> None:
        super().__init__(each(torch.neg))
        self.checked = check

    def check(self, names: Sequence[str]) -> None:
        self.checked(names)


BOARD = Path(__file__).parents[3] / "configs" / "leaderboard_small.yaml"
EXTREMES = [{"class": "QSGD", "levels": 2}, {"class": "Pruning", "ratio": 0.999}, {"class": "Masking", "ratio": 0.999}]


def strengths() -> list[Cell]:
    """Every cell of the small board with a defense, and some that are stronger."""
    suite = yaml.safe_load(BOARD.read_text())
    suite["defenses"] += EXTREMES
    found = {(cell.scenario.label, repr(cell.defense)): cell for cell in parse(suite, "board").cells if cell.defense}
    return list(found.values())


@pytest.fixture(scope="module")
def scene_of() -> Callable[[Scenario], Scene]:
    """The scene of a scenario, whose network is tried once, as in a run."""
    bench = Workbench(torch.device("cpu"))
    made: dict[str, Scene] = {}

    def of(scenario: Scenario) -> Scene:
        if repr(scenario) not in made:
            data = bench.data(scenario.data)
            made[repr(scenario)] = Scene.of(scenario, bench.model(scenario), data, bench.device)
        return made[repr(scenario)]

    return of


@pytest.mark.parametrize("cell", strengths(), ids=lambda cell: cell.defense.label)
def test_each_strength_of_the_board_can_be_run_alone(cell: Cell, scene_of: Callable[[Scenario], Scene]) -> None:
    """A run of all tries one strength of each defense, as an argument decides little of how it works."""
    assert cell.defense
    scene_of(cell.scenario).check_defense(build("defense", cell.defense), cell.defense)


def test_a_noise_that_is_drawn_anew_and_mostly_small_is_measured_by_two_draws() -> None:
    """An attacker's model by the likelihood leaves little of it, as most entries are rounded to what is near."""
    update = {"weight": torch.randn(2, 40, 50, generator=torch.Generator().manual_seed(1))}
    qsgd = QSGD(1)
    check_known(qsgd, qsgd.known_to_attacker(), update, "QSGD")
    louder = qsgd.known_to_attacker()
    loud = replace(louder, noise_std=lambda shared: 10 * louder.noise(shared))
    with pytest.raises(UsageError, match="give the noise that protect adds"):
        check_known(qsgd, loud, update, "QSGD")


def test_what_an_attacker_can_make_up_for_is_no_noise_though_it_is_drawn_anew() -> None:
    def protect(update: Update, sources: Sequence[torch.Generator]) -> object:
        scales = torch.stack([torch.rand((), generator=g) + 0.5 for g in sources])
        return {name: value * scales.view(-1, *[1] * (value.dim() - 1)) for name, value in update.items()}

    def simulate(dummy: Update, observed: Update) -> Update:
        scales = norm(observed) / norm(dummy)
        return {name: value * scales.view(-1, *[1] * (value.dim() - 1)) for name, value in dummy.items()}

    check_known(Mine(protect), KnownDefense(simulate=simulate), an_update(), "mine")
    with pytest.raises(UsageError, match="give the noise that protect adds"):
        check_known(Mine(protect), KnownDefense(simulate=simulate, noise_std=0.1), an_update(), "mine")


def raising(error: Exception) -> Callable[[Sequence[str]], None]:
    def check(names: Sequence[str]) -> None:
        raise error

    return check


@pytest.mark.parametrize(
    ("check", "sentence"),
    [
        (
            raising(ValueError("it has no fc: give another")),
            "Mine does not fit the model Net: it has no fc: give another",
        ),
        (raising(KeyError("fc")), "Mine: check fails"),
    ],
)
def test_a_network_that_lacks_what_a_defense_needs_is_told(check: Callable[..., None], sentence: str) -> None:
    with pytest.raises(UsageError) as raised:
        check_fits(Picky(check), ["a.weight"], "Mine", "the model Net")
    message = str(raised.value)
    assert message.startswith(sentence) and "test_rehearsal_defense.py" in message and "\n" not in message
    check_fits(Mine(each(torch.neg)), ["a.weight"], "Mine", "the model Net")


RUN = "run --data Digits --model LeNet --attack IDLG --defense KeptAtHome --defense.layers"
TRAINING = {
    "scenarios": [
        {"data": "Digits", "model": "LeNet", "clients": 2, "rounds": 1, "batch_size": 8, "learning_rate": 0.1}
    ],
    "defenses": [{"class": "KeptAtHome", "layers": ["nope"]}],
    "seeds": [0],
}


def test_a_layer_that_the_network_lacks_is_refused_before_any_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(TRAINING), encoding="utf-8")
    out = ["--out", str(tmp_path / "out")]
    said = "KeptAtHome(layers=nope) does not fit the model LeNet(init_range=0.5): layers names 'nope', but "
    for command in ([*RUN.split(), "[nope]"], ["train", str(tmp_path / "mine.yaml")]):
        with pytest.raises(SystemExit, match=r"^2$"):
            main([*command, *out])
        err = capsys.readouterr().err
        assert f"{said}the network has 0, 2, 4, 7: give some of these" in err and "Traceback" not in err
    assert not list(tmp_path.glob("out/records/*")) and not list(tmp_path.glob("out/training/*"))


class Negative(HookDefense):
    """Trains on the negatives of all images."""

    def on_batch(self, images: Tensor, labels: Tensor, generators: Sequence[torch.Generator]) -> tuple[Tensor, Tensor]:
        return 1 - images, labels

    def known_to_attacker(self) -> KnownDefense:
        return KnownDefense(soft_labels=True)


def batches() -> Clients:
    images = torch.rand(2, 3, 1, 2, 2, generator=torch.Generator().manual_seed(1))
    return Clients(torch.nn.Identity(), {}, images, torch.eye(5)[torch.zeros(3).long()].expand(2, 3, 5).clone())


def in_place_of(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    return images, labels.mul_(0).argmax(-1)


@pytest.mark.parametrize(
    ("undo", "sentence"),
    [
        (lambda images, labels: images, "must return finite images"),
        (lambda images, labels: (images[:, :1], labels.argmax(-1)), r"finite images \[2, 3, 1, 2, 2\]"),
        (lambda images, labels: (images / 0 * 0, labels.argmax(-1)), "finite images"),
        (lambda images, labels: (images, labels), r"labels \[2, 3\], int64 and from 0 to 4"),
        (lambda images, labels: (images, labels.argmax(-1) + 5), "from 0 to 4"),
        (in_place_of, "undo of the attacker's model of it changes what it is given: work on a copy of it"),
        (lambda images, labels: (images, labels.argmax(-1)), "none that are nearer to the private ones"),
        (lambda images, labels: (images * 0 + 0.9, labels.argmax(-1)), "none that are nearer to the private ones"),
    ],
)
def test_what_undoes_a_mixing_is_tried_on_a_batch(undo: Callable[..., Any], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        check_undo(Negative(), KnownDefense(soft_labels=True, undo=undo), batches(), "it")
    for right in (lambda images, labels: None, lambda images, labels: ((1 - images).flip(1), labels.argmax(-1))):
        check_undo(Negative(), KnownDefense(soft_labels=True, undo=right), batches(), "it")


@pytest.mark.parametrize("alpha", [0.1, 1.0, 10.0])
def test_what_undoes_mixup_does_so_although_all_clients_have_one_class(alpha: float) -> None:
    mixed = MixUp(alpha)
    check_undo(mixed, mixed.known_to_attacker(), batches(), "MixUp")


def test_entries_that_are_shared_are_not_removed() -> None:
    """What solves equations would say that the update tells nothing."""
    update = {"weight": torch.randn(2, 40, 50, generator=torch.Generator().manual_seed(1))}

    def simulate(dummy: Update, _: Update) -> Update:
        return halved(dummy)

    def half(observed: Update) -> Update:
        return {name: (torch.arange(50) % 2).expand_as(value).to(value) for name, value in observed.items()}

    for kept in (lambda seen: {name: torch.zeros_like(value) for name, value in seen.items()}, half):
        for known in (KnownDefense(simulate=simulate, kept=kept), KnownDefense(kept=kept)):
            with pytest.raises(UsageError, match=r"kept of .* says that entries of weight are removed"):
                check_known(Mine(lambda of, _: halved(of)), known, update, "mine")

    def every_second(of: Update, _: Sequence[torch.Generator]) -> Update:
        return {name: value * half(of)[name] for name, value in of.items()}

    right = KnownDefense(simulate=lambda dummy, _: every_second(dummy, []), kept=half)
    check_known(Mine(every_second), right, update, "mine")


def test_a_simulation_whose_entries_add_up_to_nothing_has_a_slope() -> None:
    """As where the mean is taken away."""

    def centered(value: Tensor) -> Tensor:
        return value - flat(value).mean(1).view(-1, *[1] * (value.dim() - 1))

    def flat(value: Tensor) -> Tensor:
        return value.reshape(len(value), -1)

    update = {"weight": torch.randn(2, 40, 50, generator=torch.Generator().manual_seed(1))}
    known = KnownDefense(lambda dummy, _: {name: centered(value) for name, value in dummy.items()}, kept=all_kept)
    check_known(Mine(each(centered)), known, update, "mine")
    with pytest.raises(UsageError, match=r"kept of .*: give a kept that is 1 for them"):  # what it is by default
        check_known(Mine(each(centered)), replace(known, kept=None), update, "mine")
