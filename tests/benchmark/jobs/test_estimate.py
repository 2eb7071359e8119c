"""What leakboard plan says, counted by hand: cells, blocks, evaluations, and seconds on a clock of our own."""

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from attacks import GradInversion, InvertingGradients
from benchmark.cli.main import main
from benchmark.jobs import estimate, states, timing
from benchmark.jobs.blocks import Block, Workbench, plan
from benchmark.jobs.estimate import (
    Cost,
    Evaluations,
    Row,
    alike,
    cells_of,
    compiled_pays,
    cost_of,
    means,
    rows,
    total,
)
from benchmark.jobs.timing import Timing
from benchmark.store.store import Store, read_all
from benchmark.suite.suite import Suite, load, parse
from datamodules import PrivateData
from tests.conftest import MakeRecord

SUITE = """\
scenarios: [{data: Digits, model: MLP}]
attacks: [{class: IDLG, max_evaluations: 7}]
defenses: [{class: Masking, sweep: {ratio: [0.1, 0.3]}}]
victims: 5
block_size: 2
"""


@pytest.fixture(autouse=True)
def alone(nothing_of_the_developers: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No suites, data, weights or results of the developer's, and attacks as short as they can be."""
    monkeypatch.setattr(estimate, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(timing, "TIMED_VICTIMS", (2, 2))
    monkeypatch.setattr(timing, "TIMED_EVALUATIONS", (1, 2, 2))
    (tmp_path / "own.yaml").write_text(SUITE)


@pytest.fixture
def bench() -> Workbench:
    return Workbench(torch.device("cpu"), no_perceptual="no weights")


def suite(attacks: Any = "IDLG", victims: int = 5, **more: Any) -> Suite:
    attacks = attacks if isinstance(attacks, list) else [{"class": attacks, "max_evaluations": 7}]
    given = {"scenarios": [{"data": "Digits", "model": "MLP"}], "attacks": attacks, "victims": victims}
    return parse(given | {"block_size": 2} | more, "mine")


def silent() -> Console:
    return Console(file=io.StringIO())


def leakboard(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> str:
    """What a command prints, or its sentence where it must fail."""
    with pytest.raises(SystemExit) as stopped:
        main(list(words))
    said = capsys.readouterr()
    assert stopped.value.code == code, said.err
    return said.err if code else said.out


def table(printed: str) -> dict[str, list[str]]:
    """Numbers of the rows by their attack, and of all."""
    found = {}
    for words in map(str.split, printed.splitlines()):
        if words[:1] == ["all"]:
            found["all"] = words[1:]
        elif words[:2] == ["Digits", "MLP"]:
            found[words[2]] = words[3:]
    return found


# What is to be done, and what is left.


def test_a_plan_counts_cells_blocks_victims_and_evaluations(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    before = set(tmp_path.rglob("*"))
    found = table(leakboard(capsys, "plan", "own.yaml"))
    # Three baselines; a control, and two defenses without and with knowledge; five victims in blocks of 2, 2 and 1.
    assert set(found) == {"ConstantImage", "MeanImage", "ClassMeanImage", "IDLG", "all"}
    assert found["MeanImage"][:6] == ["1", "3", "5", "0", "0", "timing"]
    assert found["IDLG"][:5] == ["5", "15", "25", str(25 * 7), str(25 * 7)]
    assert found["IDLG"][5:7] == ["upper", "bound"]
    assert found["all"][:5] == ["8", "24", "40", "175", "175"]
    assert found["all"][-3:-1] == ["24", "175"]
    assert set(tmp_path.rglob("*")) == before  # nothing was written


def test_what_the_folder_holds_is_not_left_and_tells_what_evaluations_to_expect(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    leakboard(capsys, "run", "own.yaml", "--out", "out")
    done = read_all(Path("out"))
    spent = sum(v["evaluations"] for r in done for v in r["victims"])
    assert 25 <= spent <= 175
    again = table(leakboard(capsys, "plan", "own.yaml", "--out", "out"))
    assert again["IDLG"][:6] == ["5", "15", "25", str(spent), "175", "records"]
    assert again["all"][-3:] == ["0", "0", "0:00:00"]

    control = [r for r in done if r["config"]["attack"]["class"] == "IDLG" and not r["config"]["defense"]]
    gone, damaged = (tmp_path / "out" / "records" / f"{record['key']}.json" for record in control[:2])
    gone.unlink()
    damaged.write_text("{")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    left = table(leakboard(capsys, "plan", "own.yaml", "--out", "out"))
    assert left["IDLG"][-3] == left["all"][-3] == "2"
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before  # not set aside


def test_a_single_cell_and_the_number_of_victims_are_given_as_to_run(capsys: pytest.CaptureFixture[str]) -> None:
    cell = ["--data", "Digits", "--model", "MLP", "--attack", "DLG", "--attack.max_evaluations", "3"]
    found = table(leakboard(capsys, "plan", *cell, "--victims", "4"))
    assert found["DLG"][:5] == ["1", "1", "4", "12", "12"]
    assert table(leakboard(capsys, "plan", "own.yaml", "--victims", "2"))["IDLG"][:5] == ["5", "5", "10", "70", "70"]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["nope"], "unknown suite 'nope'"),
        (["own.yaml", "--victims", "0"], "victims must be a whole number of at least 1, not 0"),
        (["own.yaml", "--victims", "501"], "Digits has 500 test images, too few for 501 victims"),
        (["own.yaml", "--workers", "0"], "--workers must be a whole number of at least 1, not 0"),
        (["own.yaml", "--threads", "0"], "--threads must be a whole number of at least 1, not 0"),
        (["own.yaml", "--devices", "tpu"], "--devices is cpu or different GPU numbers"),
        (["own.yaml", "--lpips-weights", "nowhere"], "not found at nowhere"),
        (["own.yaml", "--wandb", "offline"], "unknown flag '--wandb'"),
        (["--data", "Digits", "--model", "MLP"], "a single cell needs --attack NAME"),
        (["own.yaml", "--data", "Digits"], "give either a suite or --data"),
    ],
)
def test_bad_input_ends_with_one_sentence(
    capsys: pytest.CaptureFixture[str], words: list[str], sentence: str, tmp_path: Path
) -> None:
    said = leakboard(capsys, "plan", *words, code=2)
    assert said.startswith("leakboard: ") and said.count("\n") == 1 and sentence in said
    assert {path.name for path in tmp_path.iterdir()} == {"own.yaml"}


OWN = '''
from dataclasses import replace

import torch

from attacks.baselines import ConstantImage


class Counted(ConstantImage):
    """An attack that counts evaluations, but whose budget is not an argument."""

    def reconstruct(self, observation, callbacks=()):
        found = super().reconstruct(observation, callbacks)
        return replace(found, evaluations=torch.full((observation.num_victims,), 4))
'''


def test_an_attack_without_a_budget_is_timed_whole(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "own_counted.py").write_text(OWN)
    cell = ["--data", "Digits", "--model", "MLP", "--attack", "own_counted.Counted", "--victims", "3"]
    assert table(leakboard(capsys, "plan", *cell))["own_counted.Counted"][:6] == ["1", "1", "3", "12", "12", "timing"]


STATES = """\
scenarios:
- {data: Digits, model: &net {class: MLP, activation: relu}, shared: true, state: &once
    {epochs: 2, train_images: 200, learning_rate: 0.3}}
- {data: Digits, model: *net, shared: true, batch_size: 2, state: *once}
- {data: Digits, model: *net, shared: true, state: {rounds: 3, clients: 4, clients_per_round: 2, train_images: 200}}
- {data: Digits, model: *net, shared: true, state: {rounds: 3, algorithm: FedSGD, batch_size: 16}}
attacks: [{class: DLG, max_evaluations: 7}]
victims: 2
"""


def test_a_plan_trains_nothing_and_says_which_trainings_stand_before_the_attacks(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def planned() -> str:
        with monkeypatch.context() as patch:
            for name in ("benchmark.jobs.states.follow", "benchmark.jobs.blocks.trained"):
                patch.setattr(name, lambda *_: pytest.fail("trained"))
            return " ".join(leakboard(capsys, "plan", "states.yaml").split())

    monkeypatch.setenv("LEAKBOARD_CACHE", str(tmp_path / "cache"))
    (tmp_path / "states.yaml").write_text(STATES)
    before = set(tmp_path.rglob("*"))
    said = planned()
    assert set(tmp_path.rglob("*")) == before
    assert "Attacks on trained networks are timed on untrained ones of the same class" in said
    assert "Before the attacks 3 networks are trained, which the times leave out:" in said
    # A tenth of the public images is held out.
    assert "MLP on 180 images of Digits after 2 epochs (learning_rate=0.3, train_images=200)" in said
    assert "MLP on 180 images of Digits after 3 rounds of FedAvg (" in said
    assert "images of Digits after 3 rounds of FedSGD (batch_size=16)" in said

    scenario = load(tmp_path / "states.yaml").cells[0].scenario
    assert scenario.setting.state
    data = Workbench(torch.device("cpu")).data(scenario.data)
    states.trained(scenario.setting.state, scenario.model, data, scenario.seed, tmp_path / "cache")
    said = planned()
    assert "Before the attacks 2 networks are trained" in said
    assert "after 2 epochs" not in said.partition("Before the attacks")[2]
    (kept,) = (tmp_path / "cache" / "states").iterdir()
    kept.write_bytes(b"damaged")
    assert "3 networks are trained" in planned() and kept.read_bytes() == b"damaged"


# Evaluations, from records.


def config(**more: Any) -> dict[str, Any]:
    given = {"schema": 1, "data": "d", "model": "m", "batch_size": 1, "attack": {"class": "A", "max_evaluations": 9}}
    return {"seed": 0, "defense": None, "adaptive": False} | given | more


def test_means_are_those_of_the_same_attack_on_the_same_defense_and_on_any() -> None:
    masked = config(defense="Masking")
    found = means([(config(), [1, 3], [{}, {}]), (config(seed=1), [8], [{}]), (masked, [9, 9, 6], [{}] * 3)])
    exact, general = alike(config())
    assert found[exact] == Evaluations(mean=4.0, longest=5.5)
    assert found[alike(masked)[0]] == Evaluations(mean=8.0, longest=9.0)
    assert found[general] == found[alike(masked)[1]] == Evaluations(mean=6.0, longest=pytest.approx(20 / 3))
    assert alike(config(attack={"class": "A", "max_evaluations": 8}))[1] not in found
    assert alike(config(batch_size=2))[1] not in found


def test_records_of_the_folder_come_first_then_results_then_those_of_another_defense(
    bench: Workbench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made_record: MakeRecord
) -> None:
    blocks = [b for b in plan(suite(victims=1, defenses=["Masking"]), bench) if b.cell.attack.name == "IDLG"]
    control, masked, adaptive = blocks
    monkeypatch.setattr(timing, "timing", lambda block, bench, name="": Timing(0, 0, 0, 0, 0, 0))

    def save(folder: Path, block: Block, evaluations: int) -> None:
        record = made_record(0, 1, **block.cell.config())
        record["victims"][0]["evaluations"] = evaluations
        Store(folder).write(record)

    def expected() -> list[float]:
        return [rows([block], tmp_path / "out", bench, silent())[0].whole.evaluations for block in blocks]

    assert expected() == [7, 7, 7]
    save(tmp_path / "results" / "quick", control, 2)
    assert expected() == [2, 2, 2]
    save(tmp_path / "out", masked, 4)
    assert expected() == [2, 4, 4]
    save(tmp_path / "out", control, 3)
    assert expected() == [3, 4, 3.5]
    save(tmp_path / "results" / "quick", adaptive, 6)
    assert expected() == [3, 4, 6]


# Seconds.


def test_workers_share_the_time() -> None:
    one, other = Cost(2, 4, 10.0, 20.0, 7200.0), Cost(1, 2, 5.0, 10.0, 10.2)
    table = [Row("a", "A", {"1"}, {"records"}, one, other), Row("b", "B", {"2"}, {"upper bound"}, other, Cost())]
    all_of_it = total(table)
    assert cells_of(all_of_it, 1) == (
        *("all", "", "2", "3", "6", "15", "30", "records, upper bound", "2:00:11"),
        *("1", "5", "0:00:11"),
    )
    assert cells_of(all_of_it, 2)[-4::3] == ("1:00:06", "0:00:06")


def test_to_compile_pays_where_it_saves_more_than_it_takes() -> None:
    hours = Cost(2, 4, 10.0, 20.0, 2 * 3600.0)
    long = Row("a", "IDLG", left=hours, by_steps=True)
    closed, done = replace(long, by_steps=False), replace(long, whole=hours, left=Cost())
    assert compiled_pays([long, closed, done], workers=1) == ["IDLG on a"]
    assert compiled_pays([long], workers=8) == []  # a sixth of 15 minutes is less than a compilation


def test_an_attack_that_takes_steps_is_told_from_a_closed_form(bench: Workbench, tmp_path: Path) -> None:
    table = rows(plan(suite(["IDLG", "RGAP"]), bench), tmp_path, bench, silent())
    assert {row.attack for row in table if row.by_steps} == {"IDLG"}


TRIED = [{"RGAP": True}, {"RGAP": False, "DLG": True}, {"RGAP": False, "DLG": False}]
"""Of three victims of a block, one was spared DLG."""


def test_records_of_an_ensemble_tell_which_attacks_its_victims_meet() -> None:
    leaked = [{"RGAP": True}]
    found = means([(config(), [0, 4, 6], TRIED), (config(), [0], leaked)])[alike(config())[0]]
    assert found == Evaluations(2.5, 3.0, {"RGAP": (1.0, 1.0), "DLG": (0.5, 0.5)})


def test_an_ensemble_costs_what_its_attacks_cost_those_who_meet_them(bench: Workbench) -> None:
    given = suite([{"class": "AutoLeak", "max_evaluations": 10}], victims=4, block_size=4)
    block = plan(given, bench, rehearse=False)[-1]
    every = timing.attacks_of(block.cell, bench)
    attacks = {name: every[name] for name in ("RGAP", "DLG", "GaussNewton")}
    timed = {
        "": Timing(0, 0.5, 0, 0, 0, 0),  # scores
        "RGAP": Timing(0, 1, 0, 0, 0, 0),
        "DLG": Timing(2, 0, 1, 0.25, 0, 0),
        "GaussNewton": Timing(0, 3, 0, 0, 20, 0),
    }
    most = cost_of(block, attacks, timed, None, 4)
    assert (most.evaluations, most.at_most) == (4 * 30, 4 * 30)  # all of the budget, and what is timed of an iteration
    assert most.seconds == pytest.approx(4 * (0.5 + 1 + 3) + 2 + 10 + 0.25 * 40)
    # One of four is tried by DLG, and takes half of its budget; GaussNewton is never tried.
    seen = Evaluations(1.25, 5.0, {"RGAP": (1.0, 1.0), "DLG": (0.25, 1.0)})
    found = cost_of(block, attacks, timed, seen, 4)
    assert (found.evaluations, found.at_most) == (5, 4 * 30)
    assert found.seconds == pytest.approx(4 * (0.5 + 1) + 2 + 5 + 0.25 * 5)


def test_an_attack_of_several_trials_may_spend_its_budget_on_each(bench: Workbench) -> None:
    block = plan(suite([{"class": "AutoLeak", "max_evaluations": 10}], victims=4, block_size=4), bench)[-1]
    for attack, trials in ((GradInversion(10), 4), (InvertingGradients(10, trials=3), 3), (InvertingGradients(10), 1)):
        found = cost_of(block, {"": attack}, {"": Timing(0, 1, 0, 0, 0, 0)}, None, 4)
        assert found.at_most == 4 * 10 * trials


@pytest.mark.parametrize("moment", ["mean_image", "class_means", "channel_stds", "covariance", "class_covariances"])
def test_whatever_an_attacker_is_told_of_public_images_decides_what_is_run_again(
    moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = plan(suite(), Workbench(torch.device("cpu")), rehearse=False)
    told = getattr(PrivateData, moment)
    monkeypatch.setattr(PrivateData, moment, lambda self: 1.5 * told(self))
    after = plan(suite(), Workbench(torch.device("cpu")), rehearse=False)
    assert not {block.key for block in before} & {block.key for block in after}


def test_more_gpus_share_fewer_steps_each(bench: Workbench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = [b for b in plan(suite(victims=8), bench) if b.cell.attack.name == "IDLG"]
    monkeypatch.setattr(timing, "timing", lambda block, bench, name="": Timing(0, 0, 1.0, 0, 0, room=1000))

    def seconds(workers: int) -> float:
        bench.workers = workers
        return rows(blocks, tmp_path, bench, silent())[0].whole.seconds

    steps = 7  # of the longest victim
    assert seconds(1) == pytest.approx(steps)  # four blocks of two at once
    assert seconds(2) == pytest.approx(2 * steps)  # two times two of them, side by side
