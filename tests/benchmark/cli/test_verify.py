"""``leakboard verify``: an entry that is as it says, and every way in which one is not."""

import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from math import comb
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from benchmark.boards.leaderboard import of_records
from benchmark.cli.main import main
from benchmark.errors import UsageError
from benchmark.jobs.blocks import Workbench
from benchmark.metrics.leak import PSNR_CAP
from benchmark.rehearsal.contracts import places
from benchmark.store.sealing import sealed
from benchmark.store.store import Record, read_all
from benchmark.studies.entry import check_records, check_trainings, entry_in, suite_of
from benchmark.studies.reproduction import Verdict, apart, are_alike, conclusion, fisher_p, sample
from benchmark.suite.registry import Spec
from benchmark.suite.suite import Cell, Scenario
from benchmark.training import plan as training_plan
from benchmark.training.suite import beside

pytestmark = pytest.mark.usefixtures("nothing_of_the_developers")

DEFENSE = '''
"""A defense from outside."""

from defenses import Defense, KnownDefense


class Rounded(Defense):
    """Rounds each entry to a multiple of ``step``."""

    def __init__(self, step: float = 0.001) -> None:
        self.step = step

    def protect(self, update, generators):
        return {name: (g / self.step).round() * self.step for name, g in update.items()}

    def known_to_attacker(self) -> KnownDefense:
        return KnownDefense(noise_std=0.29 * self.step)
'''
ENTRY: dict[str, Any] = {
    "defense": {"class": "vfy_rounded.Rounded", "sweep": {"step": [0.001]}},
    "author": "A. Researcher",
    "link": "https://example.org/rounded",
    "threat_model": "an honest-but-curious server that knows the defense",
    "adaptive_attack": "IDLG that takes the rounding for noise",
    "adaptive_budget": "30 evaluations",
    "adaptive_result": "no more than IDLG that does not know it",
    "suite": "tiny.yaml",
}
ATTACK = {"class": "IDLG", "max_evaluations": 30}
SUITE: dict[str, Any] = {
    "victims": 2,
    "scenarios": [{"data": "Digits", "model": "LeNet", "defenses": [{"class": "vfy_rounded.Rounded"}]}],
    "attacks": [ATTACK],
}

Verify = Callable[..., tuple[int, str]]


def leakboard(*words: str | Path) -> int:
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    return int(ended.value.code or 0)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An entry whose records were made and published by commands."""
    folder = tmp_path_factory.mktemp("made") / "rounded"
    folder.mkdir()
    (folder / "vfy_rounded.py").write_text(DEFENSE)
    (folder / "entry.yaml").write_text(yaml.safe_dump(ENTRY))
    (folder / "tiny.yaml").write_text(yaml.safe_dump(SUITE))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(folder)
        patch.setenv("TORCH_HOME", str(folder))
        assert leakboard("run", "tiny.yaml", "--devices", "cpu") == 0
        assert leakboard("publish", "runs/tiny", ".") == 0
    del sys.modules["vfy_rounded"]  # each test has a copy of its own
    return folder


@pytest.fixture
def entry(made: Path, tmp_path: Path) -> Path:
    """A copy of the entry in the current folder."""
    return Path(shutil.copytree(made, tmp_path / "rounded", ignore=shutil.ignore_patterns("runs", "__pycache__")))


@pytest.fixture
def again(made: Path) -> Path:
    """Where victims are attacked again, once for several tests: what is done there is resumed."""
    return made.parent / "again"


@pytest.fixture
def verify(capsys: pytest.CaptureFixture[str]) -> Verify:
    """Verifies an entry, and returns the exit code with what was printed, or with the sentence of a mistake."""

    def run(folder: Path, *words: str) -> tuple[int, str]:
        capsys.readouterr()
        code = leakboard("verify", folder, "--devices", "cpu", *words)
        told = capsys.readouterr()
        if code == 2:
            assert told.err.startswith("leakboard: ") and told.err.count("\n") == 1, told.err
            return code, told.err.removeprefix("leakboard: ").rstrip()
        return code, told.out

    return run


@pytest.fixture
def no_contracts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The contracts, which take seconds, are not tried."""
    monkeypatch.setattr("benchmark.cli.verify.tell_contracts", lambda *_: 0)


def rewrite(folder: Path, change: Callable[[Record], Record | None]) -> None:
    """Puts other records into an entry, sealed as if they had been made so."""
    changed = [new for record in read_all(folder) if (new := change(record))]
    (folder / "records.jsonl").write_bytes(b"".join(sealed(record) + b"\n" for record in changed))


def test_an_entry_that_is_as_it_says_is_reproduced(
    entry: Path, again: Path, verify: Verify, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmark.cli.verify.places", lambda root: places(root=root)[:1])  # of twelve, which take long
    code, told = verify(entry, "--victims", "1", "--seed", "7", "--out", str(again))
    assert code == 0 and "all 6 cells are reproduced" in told and told.count(" reproduced") == 7
    assert "vfy_rounded.Rounded keeps 12 contracts" in told and "--seed 7 repeats this" in told
    assert told.count("Rounded step=0.001 IDLG") == 2 and told.count("1/1 (0.") == 6
    made = read_all(again / "verify")
    assert sorted({record["config"]["seed"] for record in made}) == [0, 7] and len(made) == 12
    assert sorted(path.name for path in entry.iterdir() if path.name != "__pycache__") == [
        "entry.yaml",
        "leaderboard.csv",
        "leaderboard.md",
        "leaderboard.tex",
        "records.jsonl",
        "tiny.yaml",
        "vfy_rounded.py",
    ]


@pytest.mark.usefixtures("no_contracts")
def test_records_that_hide_what_leaks_differ(entry: Path, again: Path, verify: Verify) -> None:
    """Whoever seals records again can make them whole, but not what comes out."""

    def hidden(record: Record) -> Record:
        scores = {"mse": [0.1], "psnr": [10.0], "leaked_any": False, "leaked_all": False}
        is_it = record["config"]["defense"] and record["config"]["adaptive"]
        return record | {"victims": [victim | scores for victim in record["victims"]]} if is_it else record

    rewrite(entry, hidden)
    code, told = verify(entry, "--victims", "1", "--seed", "7", "--out", str(again))
    assert code == 1 and "1 of 6 cells differ" in told and "at most 3 dB apart" in told
    (line,) = [line for line in told.splitlines() if line.rstrip().endswith("differs")]
    assert "IDLG adaptive" in line and "0/2" in line


def test_a_better_attack_joins_and_the_former_stays(
    entry: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its number is the defense's, and the rows of the former one are what they were."""
    before = {row.cell: row.leaked for row in of_records(read_all(entry)).rows}
    (entry / "entry.yaml").write_text(yaml.safe_dump(ENTRY | {"attacks": [ATTACK | {"max_evaluations": 60}]}))
    monkeypatch.setattr("benchmark.cli.verify.tell_contracts", lambda *_: 2)  # after the records, before all else
    assert leakboard("verify", entry, "--devices", "cpu", "--run") == 2
    told = capsys.readouterr()
    assert "3 of 9 blocks run" in told.out and told.err.endswith("breaks 2 contracts: see above\n")
    (board,) = of_records(read_all(entry)).boards
    assert {row.cell: row.leaked for row in board.rows if row.cell in before} == before
    defended = [row for row in board.rows if row.defense != "none"]
    assert len(defended) == 4 and {row.worst_leaked for row in defended} == {2} and max(before.values()) == 1
    assert all(row.rank == 1 for row in defended)
    assert "max_evaluations=30" in (entry / "leaderboard.md").read_text()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"author": None}, "author must be a text, not null"),
        ({"link": 3}, "link must be a text, not 3"),
        ({"threat_model": "  "}, "threat_model must be a text, not '  '"),
        ({"adaptive_result": ["none"]}, "adaptive_result must be a text, not ['none']"),
        ({"adaptive": "x"}, "unknown key of an entry 'adaptive': did you mean"),
        ({"suite": "tiney.yaml"}, "tiney.yaml"),
        ({"attacks": "IDLG"}, "attacks must be a list, as in"),
        ({"attacks": [{"class": "IDLX"}]}, "unknown attack 'IDLX': did you mean IDLG"),
        ({"defense": 3}, "defense must be a class name or {class: NAME, argument: value}, not 3"),
        ({"defense": "vfy_rounded.Round"}, "the defense 'vfy_rounded.Round' cannot be imported"),
        ({"defense": {"class": "vfy_rounded.Rounded", "stp": 1}}, "unknown argument"),
        ({"defense": "elsewhere.Rounded"}, "elsewhere.Rounded is in "),
        ({"defense": {"class": "Compose", "defenses": ["Sign", "elsewhere.Rounded"]}}, "elsewhere.Rounded is in "),
        ({"defense": {"class": "vfy_rounded.Rounded", "step": 0.01}}, "which is no cell of the suite with the defense"),
    ],
)
def test_a_mistake_in_the_file_is_one_sentence(
    entry: Path, verify: Verify, change: dict[str, Any], sentence: str
) -> None:
    Path("elsewhere.py").write_text(DEFENSE)
    (entry / "entry.yaml").write_text(yaml.safe_dump(ENTRY | change))
    code, told = verify(entry)
    assert code == 2 and sentence in told
    assert not Path("runs").exists()


@pytest.mark.parametrize("key", list(ENTRY))
def test_a_missing_key_is_named(entry: Path, verify: Verify, key: str) -> None:
    (entry / "entry.yaml").write_text(yaml.safe_dump({one: ENTRY[one] for one in ENTRY if one != key}))
    assert f"entry.yaml: {key} is missing: an entry says defense, author, " in verify(entry)[1]


def test_what_is_no_entry_is_one_sentence(entry: Path, verify: Verify) -> None:
    assert "nowhere has no entry.yaml: give the folder of an entry" in verify(Path("nowhere"))[1]
    assert "--victims must be a whole number of at least 1, not 0" in verify(entry, "--victims", "0")[1]
    assert "--seed 0 gives a seed of the records again" in verify(entry, "--seed", "0")[1]
    (entry / "entry.yaml").write_text("- 1")
    assert "entry.yaml must be a mapping with some of the keys defense, author" in verify(entry)[1]
    (entry / "entry.yaml").write_bytes(b"\xff")
    assert "the entry " in (told := verify(entry)[1]) and "is not a text file in UTF-8" in told


@pytest.mark.parametrize("change", ["self.step).round() * self.step", "0.29 * self.step"])
def test_records_of_another_file_are_refused(entry: Path, verify: Verify, change: str) -> None:
    file = entry / "vfy_rounded.py"
    file.write_text(DEFENSE.replace(change, f"{change} * 1.001"))
    told = verify(entry)[1]
    assert "no defense" not in told
    assert "were made with another version of vfy_rounded.Rounded, or of what it imports: delete them" in told
    file.write_text(DEFENSE + "\n# a comment changes nothing\n")
    (entry / "records.jsonl").unlink()
    assert "there are no records in " in verify(entry)[1]


def test_records_must_be_of_the_entry_and_whole(entry: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where whoever changed them has made them agree with themselves."""
    monkeypatch.chdir(entry)
    suite = suite_of(entry_in(entry))
    blocks, fresh = sample(suite, 7, Workbench(torch.device("cpu")), victims=1, place=0.9)
    assert [block.victims for block in (*blocks, *fresh)] == [range(1, 2)] * 12
    assert [replace(block.cell, scenario=blocks[0].cell.scenario) for block in fresh] == [one.cell for one in blocks]
    assert {block.cell.scenario.seed for block in fresh} == {7}
    records = read_all(entry)
    check_records(records, blocks)
    (control,) = [one for one in records if one["config"]["attack"]["class"] == "IDLG" and not one["config"]["defense"]]
    others = [one for one in records if one != control]
    origin, attacked = control["provenance"], "no defense, IDLG(max_evaluations=30)"
    for change, sentence in [
        ({"code_sha256": "0" * 64}, f"{attacked} were made with another version of IDLG, or of what it imports"),
        ({"behavior_sha256": "0" * 16}, "were made with a version of IDLG that held or did something else"),
        ({"network_sha256": ["0" * 16] * 2}, "were made with another network"),
        ({"provenance": origin | {"data_chain": ["0" * 16] * 3}}, "were made with other images"),
        ({"victims": control["victims"][:1]}, f"lack 1 of 2 victims of Digits LeNet, {attacked}: add"),
        ({"cell": "0" * 16}, "without a defense, seed 0, which is no cell of the suite with the defense"),
    ]:
        with pytest.raises(UsageError, match=re.escape(sentence)):
            check_records([*others, control | change], blocks)
    with pytest.raises(UsageError, match=re.escape(f"the records lack 2 of 2 victims of Digits LeNet, {attacked}: ")):
        check_records(others, blocks)


def test_records_that_cannot_be_used_are_refused(entry: Path, verify: Verify) -> None:
    original = (entry / "records.jsonl").read_bytes()
    (entry / "records.jsonl").write_bytes(original[:-40])
    assert "is damaged" in (told := verify(entry)[1]) and "make them anew with --run" in told
    (entry / "records.jsonl").write_bytes(original)
    picture = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg=="
    rewrite(entry, lambda record: record | {"picture": picture})
    assert "hold private images: delete them" in verify(entry)[1]
    (entry / "records.jsonl").write_bytes(original)
    rewrite(entry, lambda record: None if record["config"]["adaptive"] else record)
    of_cell = "vfy_rounded.Rounded(step=0.001), IDLG(max_evaluations=30) that knows it"
    assert f"lack 2 of 2 victims of Digits LeNet, {of_cell}" in verify(entry)[1]


def test_trainings_that_the_suite_asks_for_are_the_defense_s_and_must_be_there(
    entry: Path, verify: Verify, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = {"clients": 2, "rounds": 1, "learning_rate": 0.1}
    (entry / "tiny.yaml").write_text(yaml.safe_dump(SUITE | {"training": trained, "defenses": ["Sign"]}))
    sentence = r"the records lack the training Digits LeNet FedSGD, no defense, .*: add it with --run"
    code, said = verify(entry)
    assert code == 2 and re.fullmatch(sentence, said)
    monkeypatch.chdir(entry)
    trainings = beside(suite_of(entry_in(entry)))
    assert trainings is not None
    assert {one.defense and one.defense.name for one in trainings.trainings} == {None, "vfy_rounded.Rounded"}


def test_trainings_of_an_entry_are_whole_and_of_no_other_file(entry: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also those that choose the learning rate, or a rate that suits the entry could be taken."""
    trained = {"clients": 2, "rounds": 1, "learning_rate": [0.1, 1.0, 3.0], "seeds": [0, 1], "tuning_seeds": [7, 8]}
    (entry / "tiny.yaml").write_text(yaml.safe_dump(SUITE | {"training": trained, "defenses": ["Sign"]}))
    monkeypatch.chdir(entry)
    trainings = beside(suite_of(entry_in(entry)))
    assert trainings is not None
    runs = training_plan.plan(trainings, Workbench(torch.device("cpu"), no_perceptual="not asked for"), rehearse=False)

    def made(run: training_plan.Run) -> Record:
        config = run.training.config()
        judged = {"accuracy": {0.1: 0.5, 1.0: 0.7, 3.0: 0.6}[config["learning_rate"]], "loss": 1.0}
        return {"key": run.key, "config": config, "status": "done", "validation": judged, **judged}

    def is_needed(run: training_plan.Run) -> bool:  # of 1.0, the best, all seeds; of 0.1, the worst, one look alone
        config = run.training.config()
        return config["learning_rate"] == 1.0 or (
            run.training.tuning and (config["learning_rate"] == 3.0 or config["seed"] == min(trained_by))
        )

    trained_by = [run.training.seed for run in runs if run.training.tuning]
    needed = [made(run) for run in runs if is_needed(run)]
    check_trainings(needed, runs)
    assert len(needed) == 2 * (4 + 2 + 1)
    for left_out in needed:
        kind = "vfy_rounded.Rounded" if left_out["config"]["defense"] else "no defense"
        with pytest.raises(UsageError, match=f"lack the training .*{kind}.*: add it with --run$"):
            check_trainings([one for one in needed if one is not left_out], runs)
        behind = "with vfy_rounded.Rounded" if left_out["config"]["defense"] else "without a defense"
        with pytest.raises(UsageError, match=f"hold a training {behind}.* which is none of the suite"):
            check_trainings([*needed, left_out | {"key": "of another file"}], runs)


def test_a_defense_that_breaks_a_contract_is_refused(
    entry: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmark.cli.verify.tell_contracts", lambda *_: 2)
    assert leakboard("verify", entry, "--devices", "cpu") == 2
    assert "vfy_rounded.Rounded(step=0.001) breaks 2 contracts: see above" in capsys.readouterr().err
    assert not Path("runs").exists()


def victim(psnr: float, leaked: bool = False, **more: Any) -> dict[str, Any]:
    fitted = {"misfit": 0.0, "misfit_of_truth": 0.0, "settled": True, "loss": 0.0, "status": "converged"}
    return {"psnr": [psnr], "leaked_any": leaked} | fitted | more


CONFIG = {"attack": {"class": "IDLG"}, "defense": None, "adaptive": False}


def test_victims_are_alike_up_to_rounding() -> None:
    assert are_alike(victim(12.0), victim(14.9), CONFIG) and not are_alike(victim(12.0), victim(15.1), CONFIG)
    assert not are_alike(victim(20.1, True), victim(19.9, False), CONFIG)
    assert are_alike(victim(PSNR_CAP, True), victim(41.0, True), CONFIG)
    assert not are_alike(victim(PSNR_CAP, True), victim(36.0, True), CONFIG)
    assert not are_alike(victim(12.0), victim(12.0, misfit=1.0, settled=False), CONFIG)
    alone: dict[str, Any] = {"psnr": [], "leaked_any": False, "labels": {"existence": 1.0}}
    assert apart(alone, alone) == 0.0 and apart(alone, alone | {"labels": {"existence": 0.9}}) == float("inf")


def test_a_rate_of_fresh_seeds_is_compared_exactly() -> None:
    """4 of 4 against 0 of 16 has the probability 1 / C(20, 4); it differs among 50 cells, 3 of 4 does not."""
    assert fisher_p(4, 4, 0, 16) == pytest.approx(1 / comb(20, 4))
    assert fisher_p(3, 4, 0, 16) == pytest.approx(comb(4, 3) / comb(20, 3))
    cell = Cell(Scenario(Spec("Digits"), Spec("LeNet"), 1, 0, 16), None, Spec("IDLG"), adaptive=False)

    def found(leaked: int, fresh: int, alike: int = 4, silent: bool = False) -> Verdict:
        p, least = (fisher_p(one, 4, leaked, 16) for one in (fresh, 4 if leaked < 8 else 0))
        return Verdict(cell, leaked, 16, alike, 4, 0.0, silent, fresh, 4, p, least, 50)

    assert [found(0, fresh).word for fresh in (0, 3, 4)] == ["reproduced", "reproduced", "differs with a fresh seed"]
    assert found(0, 0, alike=3).word == found(0, 0, silent=True).word == "differs"
    assert not found(0, 4).is_blunt and found(8, 0).is_blunt
    assert conclusion([found(0, 0)]) == ["all 1 cells are reproduced"]
    assert conclusion([found(8, 0)])[1].startswith("in 1 of 1 cells so few fresh victims cannot show another leak rate")
