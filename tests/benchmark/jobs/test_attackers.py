"""Attackers' own networks: trained once for all victims, whatever happens, and what that cost."""

import io
import json
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import Callback
from rich.console import Console

from attacks import AutoLeak, LearnedInversion, Observation
from attacks.engine.inverter import Inverter
from benchmark.boards.leaderboard import of_records
from benchmark.boards.table import as_csv, print_table
from benchmark.errors import NotApplicable, UsageError
from benchmark.identity import digest
from benchmark.jobs import attackers, estimate, timing
from benchmark.jobs.attackers import identity, is_over, kept_at, learned
from benchmark.jobs.attacks import Attacks
from benchmark.jobs.blocks import Block, Workbench, applicable, plan
from benchmark.jobs.job import Watch, work
from benchmark.jobs.records import run_block
from benchmark.rehearsal.scene import Rehearsal
from benchmark.store.schema import attack_record
from benchmark.store.sealing import sealed
from benchmark.store.store import Store, read_all
from benchmark.suite.suite import Suite, parse
from datamodules import Digits
from tests.conftest import MakeVictims

ATTACK = {"class": "LearnedInversion", "training_steps": 6, "hidden": 8, "pairs": 4, "public_images": 50}
MASK = {"class": "Masking", "ratio": 0.99}


@pytest.fixture(autouse=True)
def alone(nothing_of_the_developers: None) -> None:
    """An empty folder with a cache of its own."""


@pytest.fixture
def bench() -> Workbench:
    return Workbench(torch.device("cpu"), no_perceptual="no weights")


@pytest.fixture
def seen(victims_of: MakeVictims) -> Observation:
    found: Observation = victims_of(3, shared=True, public_images=50).observation
    return found


def attack(**arguments: Any) -> LearnedInversion:
    given: dict[str, Any] = {key: value for key, value in ATTACK.items() if key != "class"}
    return LearnedInversion(**given | arguments)


def suite(
    victims: int = 4, scenario: dict[str, Any] | None = None, attack: dict[str, Any] | None = None, **more: Any
) -> Suite:
    given = {"data": "Digits", "model": "LeNet", "victims": victims, "shared": True} | (scenario or {})
    return parse({"scenarios": [given], "attacks": [ATTACK | (attack or {})], "block_size": 2} | more, "mine")


def taught(made: Suite, bench: Workbench) -> list[Block]:
    """The blocks of the attack itself, not of the baselines."""
    return [block for block in plan(made, bench) if block.cell.attack.name == "LearnedInversion"]


def named(made: Suite, bench: Workbench) -> list[str]:
    """The names of the trainings of its cells."""
    found = []
    for cell in made.cells:
        if cell.attack.name == "LearnedInversion":
            network, data = bench.network_sha256(cell.scenario, 0), bench.data(cell.scenario.data)
            found.append(digest(identity(cell, network, data)))
    return found


def state(inverter: Inverter) -> list[Any]:
    return [value.tolist() for value in inverter.state().values()]


def never(*_: object, **__: object) -> Any:
    pytest.fail("trained again")


class Killed(Exception):
    pass


class KillsAt(Callback):
    """Ends the process, so to speak, before a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: int, batch_idx: int) -> None:
        if batch == self.step:
            raise Killed


# One network.


def test_a_network_is_trained_once_and_its_cost_is_kept(
    seen: Observation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "attackers" / "x.pt"
    found, cost = learned(attack(), seen, "It", path)
    expected = attack().inverter(seen)
    expected.learn()
    assert state(found) == state(expected)
    assert cost["steps"] == 6 and cost["public_images"] == 50 and 0 < cost["cpu_seconds"] < 60
    first, last = capsys.readouterr().err.splitlines()
    assert first == f"leakboard: It: training, once; the network is kept in {path.parent}"
    assert re.fullmatch(r"leakboard: It: trained in 0:00:\d\d of CPU time", last)
    assert [one.name for one in path.parent.iterdir()] == ["x.pt"] and is_over(path, 6) and not is_over(path, 7)
    monkeypatch.setattr(Inverter, "learn", never)
    again, same_cost = learned(attack(), seen, "It", path)
    assert state(again) == state(expected) and same_cost == cost and capsys.readouterr().err == ""


@pytest.mark.parametrize("stopped_at", [1, 3, 5])
def test_a_killed_training_goes_on_from_its_last_checkpoint(
    stopped_at: int,
    seen: Observation,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path, through = tmp_path / "attackers" / "x.pt", attack().inverter(seen)
    through.learn()
    monkeypatch.setattr(attackers, "EVERY", 0.0)
    with pytest.raises(Killed):
        learned(attack(), seen, "It", path, [KillsAt(stopped_at)])
    assert not is_over(path, 6)
    held = attackers.weights_in(path)
    assert held is not None
    half = float(held["cpu_seconds"])
    found, cost = learned(attack(), seen, "It", path)
    assert state(found) == state(through) and cost["steps"] == 6 and cost["cpu_seconds"] > half > 0
    assert f"training goes on after {stopped_at} steps" in capsys.readouterr().err


def test_a_training_is_kept_from_time_to_time_and_not_at_every_step(
    seen: Observation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[int] = []
    monkeypatch.setattr(attackers, "write", lambda path, about, state: written.append(int(state["done"])))
    now = 0.0
    monkeypatch.setattr(attackers.time, "perf_counter", lambda: now)

    class Slow(Callback):
        def on_train_batch_end(self, *_: object) -> None:
            nonlocal now
            now += 25.0

    learned(attack(training_steps=8), seen, "It", tmp_path / "attackers" / "x.pt", [Slow()])
    assert written == [3, 6, 8]  # after 75 seconds, 75 more, and at the end


@pytest.mark.parametrize("content", [b"", b"text", None])
def test_a_damaged_file_is_told_and_trained_again(
    content: bytes | None, seen: Observation, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "attackers" / "x.pt"
    found, _ = learned(attack(), seen, "It", path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-50] if content is None else content)
    assert not is_over(path, 6)
    capsys.readouterr()
    again, _ = learned(attack(), seen, "It", path)
    assert state(again) == state(found) and is_over(path, 6)
    said = capsys.readouterr().err.splitlines()
    assert f"{path} is damaged (" in said[0] and said[0].endswith("): it is trained again")


def test_a_folder_that_cannot_be_written_is_told_before_the_training(
    seen: Observation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Inverter, "learn", never)
    (tmp_path / "attackers").write_text("a file")
    with pytest.raises(UsageError, match="cannot be"):
        learned(attack(), seen, "It", tmp_path / "attackers" / "x.pt")


@pytest.mark.parametrize("kept", [False, True])
def test_a_network_too_large_for_the_memory_is_told_in_one_sentence(
    kept: bool, seen: Observation, tmp_path: Path
) -> None:
    path = tmp_path / "attackers" / "x.pt" if kept else None
    with pytest.raises(UsageError, match=r"^It: the training ran out of memory: give it a smaller hidden, entries"):
        learned(replace(attack(), hidden=10**9), seen, "It", path)


def test_a_gpu_has_a_file_of_its_own(tmp_path: Path) -> None:
    names = {kept_at(tmp_path, "x", torch.device(name)).name for name in ("cpu", "cuda", "cuda:1")}
    assert names == {"x.pt", "x-cuda.pt"}


# What decides it.


def test_whatever_decides_a_training_is_in_its_name(bench: Workbench) -> None:
    def names(**arguments: Any) -> list[str]:
        return named(suite(2, **arguments), bench)

    (before,) = names()
    assert names() == [before] == names(block_size=1)
    others = [
        *names(attack={"training_steps": 7}),
        *names(attack={"learning_rate": 0.5}),
        *names(seed=1),
        *names(scenario={"model": "MLP"}),
        *names(scenario={"batch_size": 2}),
        *names(scenario={"rounds": 2}),
        *names(scenario={"protocol": {"class": "FedAvg", "learning_rate": 0.1}}),
        *names(scenario={"data": {"class": "Photos", "size": 8}}),
    ]
    assert len({before, *others}) == 9 and all(len(one) == 16 for one in others)
    control, oblivious, adaptive = names(defenses=["Pruning"])
    assert control == oblivious == before != adaptive
    assert names(defenses=[{"class": "Pruning", "ratio": 0.5}])[2] != adaptive


def test_all_blocks_of_a_cell_share_a_training_and_public_images_are_in_their_keys(bench: Workbench) -> None:
    first, second = taught(suite(4), bench)
    assert first.training == second.training and first.key != second.key
    public = bench.data(first.cell.scenario.data)
    before = public.mean_image(), public.public_sha256
    public.train_split.pixels[[0, 1]] = public.train_split.pixels[[1, 0]]  # no statistic of theirs tells
    del public.public_sha256
    swapped = taught(suite(4), bench)[0]
    public.train_split.pixels[[0, 1]] = public.train_split.pixels[[1, 0]]
    del public.public_sha256
    assert torch.equal(public.mean_image(), before[0]) and public.public_sha256 == before[1]
    assert swapped.training != first.training and swapped.key != first.key


DEFENSE = "from defenses import Pruning\nclass Mine(Pruning):\n    factor = {factor}\n"


def test_a_defense_of_the_users_counts_with_its_code(bench: Workbench) -> None:
    found = []
    for factor in (1, 1, 2):
        sys.modules.pop("at_defense", None)
        Path("at_defense.py").write_text(DEFENSE.format(factor=factor))
        found.append(named(suite(2, defenses=["at_defense.Mine"]), bench))
    assert found[0] == found[1] and found[0][:2] == found[2][:2] and found[0][2] != found[2][2]


# In a run.


class Heard(Watch[Block]):
    def __init__(self) -> None:
        self.said: dict[str, list[float]] = {}

    def reached(self, job: Block, steps: float, said: str = "") -> None:
        self.said.setdefault(job.key, []).append(steps)


def test_records_of_a_cell_say_what_its_training_cost_and_blocks_go_on_with_the_same_network(
    bench: Workbench, tmp_path: Path
) -> None:
    blocks, store, heard = taught(suite(4, defenses=["Pruning"]), bench), Store(tmp_path), Heard()
    work(blocks, Attacks(), store, bench, heard)
    records = {record["key"]: record for record in read_all(tmp_path)}
    assert len(list(Path("cache", "attackers").glob("*.pt"))) == 2  # the control's, and that of who knows the defense
    costs = [json.dumps(records[block.key]["cost"]["training"]) for block in blocks]
    assert len(set(costs[:4])) == len(set(costs[4:])) == 1 and costs[0] != costs[4]
    for block in blocks:
        record = records[block.key]
        assert record["training_sha256"] == block.training
        assert record["cost"]["training"] | {"cpu_seconds": 0} == {"cpu_seconds": 0, "public_images": 50, "steps": 6}
        assert attack_record(sealed(record), record["key"]) == record
    assert list(heard.said) == [blocks[0].key, blocks[4].key]  # the others found it trained
    for said in heard.said.values():
        assert said == pytest.approx([step / 3 for step in range(1, 7)])  # of two victims
    assert len({json.dumps(records[block.key]["victims"]) for block in blocks}) == 6


def test_the_second_tier_of_an_ensemble_is_trained_as_the_attack_alone_and_tried_on_whom_the_others_left(
    bench: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(AutoLeak, "second_tier", lambda self: attack() if self.training_steps else None)
    monkeypatch.setattr(Rehearsal, "of", lambda *_: None)  # which takes longer than all else

    def made(given: dict[str, Any], **scenario: Any) -> Suite:
        of_all = {"data": "Digits", "model": "LeNet", "victims": 2, "shared": True} | scenario
        return parse({"scenarios": [of_all], "attacks": [given], "defenses": [MASK]}, "mine")

    def trained(given: dict[str, Any], **scenario: Any) -> list[str | None]:
        cells = [cell for cell in made(given, **scenario).cells if cell.attack.name == given["class"]]
        return [found.id if (found := bench.taught(cell)) else None for cell in cells]

    ensemble = {"class": "AutoLeak", "max_evaluations": 1, "training_steps": 6}
    assert trained(ensemble) == trained(ATTACK) and None not in trained(ATTACK)
    for untaught in (trained(ensemble, shared=False), trained(ensemble | {"training_steps": 0})):
        assert untaught == [None] * 3
    blocks = [block for block in plan(made(ensemble), bench) if block.cell.attack.name == "AutoLeak"]
    assert len(estimate.trainings(blocks, bench)) == 2  # who does not know the defense is trained as without it
    control, masked = run_block(blocks[0], bench), run_block(blocks[1], bench)
    for record in (control, masked):
        assert record["cost"]["training"]["steps"] == 6 and attack_record(sealed(record), record["key"]) == record
    tried = [["LearnedInversion" in victim["parts"] for victim in one["victims"]] for one in (control, masked)]
    assert tried == [[False] * 2, [True] * 2]
    assert len(list(Path("cache", "attackers").glob("*.pt"))) == 1


FUNCTION = """
def mean_of_some(observation):
    assert len(observation.public_labels) == 10
    return observation.public_images.mean(0).expand(observation.num_victims, *observation.image_shape)

mean_of_some.simulates = True
mean_of_some.public_images = 10
"""


def test_a_function_of_the_users_gets_the_public_images_that_it_asks_for(bench: Workbench) -> None:
    Path("at_attack.py").write_text(FUNCTION)
    given = {"data": "Digits", "model": "LeNet", "victims": 3}
    made = parse({"scenarios": [given], "attacks": ["at_attack.mean_of_some"]}, "mine")
    (block,) = (block for block in plan(made, bench) if block.cell.attack.name == "at_attack.mean_of_some")
    data = bench.data(block.cell.scenario.data)
    found = [victim["mse"][0] for victim in run_block(block, bench)["victims"]]
    expected = (data.test_images[:3] - data.train_images[:10].mean(0)).square().mean((1, 2, 3))
    assert block.training == "" and found == pytest.approx(expected.tolist(), rel=1e-4)


def test_the_results_do_not_depend_on_how_the_victims_are_cut_into_blocks(bench: Workbench) -> None:
    (whole,) = taught(suite(4, block_size=4), bench)
    parts = [victim for block in taught(suite(4), bench) for victim in run_block(block, bench)["victims"]]
    for one, other in zip(run_block(whole, bench)["victims"], parts, strict=True):
        assert one["mse"] == pytest.approx(other["mse"], rel=1e-4)


def test_the_board_shows_the_cost_of_trainings_beside_the_seconds_of_a_victim(bench: Workbench, tmp_path: Path) -> None:
    store = Store(tmp_path)
    work(plan(suite(2), bench), Attacks(), store, bench, Heard())
    records = read_all(tmp_path)
    (spent,) = (one["cost"]["training"]["cpu_seconds"] for one in records if "training" in one["cost"])
    of_attack = {row.attack: row.training_cpu_seconds for row in of_records(records).rows}
    assert of_attack.pop("LearnedInversion") == spent > 0 and set(of_attack.values()) == {None}
    header, *lines = as_csv(of_records(records)).splitlines()
    assert "training_cpu_seconds" in header.split(",") and len(lines) == 4
    console = Console(file=io.StringIO(), width=300)
    print_table(of_records(records), console)
    assert "training CPU s" in console.file.getvalue()
    others = of_records([one for one in records if "training" not in one["cost"]])
    print_table(others, quiet := Console(file=io.StringIO(), width=300))
    assert "training" not in quiet.file.getvalue() and "training" not in as_csv(others)


def test_a_plan_trains_nothing_and_says_what_stands_before_the_attacks(
    bench: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timing, "TIMED_VICTIMS", (2, 2))
    steps: list[int] = []
    real = Inverter.learn
    monkeypatch.setattr(Inverter, "learn", lambda self, *of: (steps.append(self.steps), real(self, *of)))
    blocks = taught(suite(2, defenses=["Pruning"]), bench)
    estimate.rows(blocks, Path("runs"), bench, Console(file=io.StringIO()))
    assert steps and set(steps) == {1} and not Path("cache").exists()
    said = estimate.trainings(blocks, bench)
    assert said == [
        "LearnedInversion for Digits LeNet, one shared network in 6 steps",
        "LearnedInversion for Digits LeNet, one shared network against Pruning(ratio=0.9) in 6 steps",
    ]
    run_block(next(block for block in blocks if block.training), bench)
    assert estimate.trainings(blocks, bench) == said[1:]


def test_cells_that_cannot_be_trained_are_not_applicable(monkeypatch: pytest.MonkeyPatch) -> None:
    def why(scenario: dict[str, Any]) -> str:
        with pytest.raises(NotApplicable) as said:
            applicable(suite(2, scenario=scenario), Workbench(torch.device("cpu"), no_perceptual="no weights"))
        return str(said.value)

    assert why({"shared": False}) == "LearnedInversion takes victims who share one network: give shared true"
    assert "LearnedInversion needs public data" in why({"public_data": False})
    monkeypatch.setattr(Digits, "load", lambda self, train, real=Digits.load: cut(real(self, train), train))
    assert why({}) == "LearnedInversion is trained on public images, and Digits has none"


def cut(split: Any, train: bool) -> Any:
    """A split without public images."""
    return type(split)(split.pixels[:0], split.labels[:0]) if train else split
