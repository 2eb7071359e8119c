"""Where leakage stops: the bisection on curves that are known, and the whole search through the command line."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmark.cli.main import main
from benchmark.errors import UsageError
from benchmark.suite.registry import spec
from benchmark.suite.suite import Scenario
from benchmark.thresholds.page import attack_label, defense_label, sample_size_caveat
from benchmark.thresholds.search import Range, Search, load, middle, parse_searches, ranges
from benchmark.thresholds.table import Criterion


def test_strengths_far_apart_are_on_a_logarithmic_scale_whichever_end_is_weak() -> None:
    noise = Range("GaussianNoise", {}, "std", 1e-4, 1.0)
    assert [noise.strength(p) for p in (0.0, 0.5, 1.0)] == [1e-4, 1e-2, 1.0]
    clipping = Range("Clipping", {}, "max_norm", 100.0, 0.01)
    assert [clipping.strength(p) for p in (0.0, 0.5, 1.0)] == [100.0, 1.0, 0.01]
    masking = Range("Masking", {}, "ratio", 0.0, 0.99)
    assert masking.strength(0.5) == 0.495


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (None, "defenses must be a list of"),
        ([{"class": "Masking"}], "each defense needs a range"),
        (
            [{"class": "Masking", "range": {"ratio": [0.5, 0.5]}}],
            "range of Masking needs two different numbers for ratio",
        ),
        (
            [{"class": "Masking", "range": {"ratio": [0, "much"]}}],
            "range of Masking needs two different numbers for ratio",
        ),
        ([{"class": "Masking", "range": {"ratio": [0, 1]}}], "ratio is 1.0, but must be at least 0 and below 1"),
        ([{"class": "Masking", "range": {"ration": [0, 0.9]}}], "ration"),
        ([{"class": "Masking", "range": {"ratio": [0, float("inf")]}}], "range of Masking needs two different numbers"),
    ],
)
def test_a_range_that_is_none_is_told(given: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        ranges(given)


def test_the_suite_of_the_paper_is_valid() -> None:
    _, searches = load(Path(__file__).parents[3] / "configs" / "masking.yaml", None, None)
    ends = [(one.of.name, one.of.weak, one.of.strong) for one in searches if one.attack.name == "DLG"]
    assert ends[:4:2] == [("Masking", 0, 0.999), ("Pruning", 0, 0.999)]
    swept = [one for one in searches if one.attack.args.get("patience")]
    assert {(one.of.name, one.attack.args["prior_scale"]) for one in swept} == {
        ("GaussianNoise", 1.0),
        ("GaussianNoise", 3.0),
        ("GaussianNoise", 10.0),
        ("GaussianNoise", 30.0),
    }
    assert len(searches) - len(swept) == 3 * 4 * 3 * 2 + 3 * 2 * 2  # Gauss-Newton for masking and pruning alone
    masks = [one for one in searches if one.of.name == "Masking"]
    tested = {
        one.attack.args.get("total_variation"): [one.of.strength(p) for p in sorted(one.positions)] for one in masks
    }
    assert tested == {0.0: [0, 0.999], 1e-5: [0, 0.96, 0.999], 1e-3: [0.96, 0.999]}  # two ranges are one search


def test_a_scenario_can_have_ranges_of_its_own() -> None:
    scenario = {"data": "Digits", "model": "LeNet", "victims": 4}
    masking, noise = ({"class": name, "range": ends} for name, ends in RANGES.items())
    given: dict[str, Any] = {"attacks": ["IDLG"], "defenses": [masking]}
    given["scenarios"] = [scenario, scenario | {"attacks": ["RGAP"], "defenses": [noise]}, scenario]
    suite, searches = parse_searches(given, "mine")
    assert [(one.attack.name, one.of.name, one.adaptive) for one in searches] == [
        ("IDLG", "Masking", False),
        ("IDLG", "Masking", True),
        ("RGAP", "GaussianNoise", False),
        ("RGAP", "GaussianNoise", True),
    ]
    assert all(one.scenario == searches[0].scenario for one in searches) and len(suite.cells) == 3 + 2
    with pytest.raises(UsageError, match="defenses must be a list of"):
        parse_searches({"attacks": ["IDLG"], "scenarios": [scenario]}, "mine")


def test_two_ranges_of_one_attack_are_one_search() -> None:
    def parsed(*ranges: list[float], name: str = "Masking", argument: str = "ratio") -> list[Search]:
        defenses = [[{"class": name, "range": {argument: ends}}] for ends in ranges]
        scenario = {"data": "Digits", "model": "LeNet", "victims": 4}
        scenarios = [scenario | {"defenses": each} for each in defenses]
        return parse_searches({"attacks": ["IDLG"], "scenarios": scenarios}, "mine")[1]

    def strengths(search: Search) -> list[float]:
        return list(search.as_row()["strengths"])

    oblivious, adaptive = parsed([0.0, 0.9], [0.5, 0.99])
    assert strengths(oblivious) == strengths(adaptive) == [0.0, 0.5, 0.9, 0.99]
    assert [adaptive.of.strength(p) for p in middle(adaptive, (0.5, 0.9))] == [0.7]
    first, _ = parsed([100.0, 1.0], [2.0, 0.01], name="Clipping", argument="max_norm")
    assert strengths(first) == [100.0, 2.0, 1.0, 0.01]  # from the weak end to the strong one
    assert [first.of.strength(p) for p in middle(first, (100.0, 2.0))] == pytest.approx([200**0.5], rel=1e-5)
    assert middle(first, (None, 100.0)) == middle(first, (0.01, None)) == set()
    with pytest.raises(UsageError, match="must all run from the weak end to the strong end"):
        parsed([0.0, 0.9], [0.99, 0.5])


def test_the_position_of_a_strength_is_found_again() -> None:
    for ends in ((0.0, 0.999), (1e-4, 10.0), (100.0, 1e-4), (0.9, 0.1)):
        of = Range("Masking", {}, "ratio", *ends)
        assert [of.position(of.strength(p)) for p in (0.0, 0.3, 1.0)] == pytest.approx([0.0, 0.3, 1.0], abs=1e-5)


def test_where_no_strength_is_left_between_two_the_search_is_at_its_end() -> None:
    _, (search, _) = parse_searches(
        {
            "attacks": ["IDLG"],
            "scenarios": [{"data": "Digits", "model": "LeNet"}],
            "defenses": [{"class": "Masking", "range": {"ratio": [0.1, 0.100001]}}],
        },
        "mine",
    )
    assert middle(search, (0.1, 0.100001)) == set()


RANGES: dict[str, Any] = {"Masking": {"ratio": [0.0, 0.9]}, "GaussianNoise": {"std": [1e-3, 1.0]}}

SUITE: dict[str, Any] = {
    "victims": 4,
    "scenarios": [{"data": "Digits", "model": "MLP"}],
    "attacks": [{"class": "IDLG", "max_evaluations": 70}],
    "defenses": [
        {"class": "GaussianNoise", "range": {"std": [1e-5, 10.0]}},
        {"class": "Masking", "range": {"ratio": [0.0, 0.001]}},
    ],
}


def search(tmp_path: Path, *more: str, suite: dict[str, Any] = SUITE) -> int:
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(suite))
    steps = [] if "--steps" in more else ["--steps", "2"]
    with pytest.raises(SystemExit) as ended:
        main(["threshold", str(path), "--out", str(tmp_path / "out"), *steps, "--devices", "cpu", *more])
    return int(ended.value.code or 0)


def test_a_search_ends_with_strengths_and_goes_on_where_it_was_stopped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    assert search(tmp_path) == 0
    said = capsys.readouterr()
    found = json.loads((tmp_path / "out" / "thresholds.json").read_text())["thresholds"]
    assert [(row["defense"], row["adaptive"]) for row in found] == [
        ("GaussianNoise", False),
        ("GaussianNoise", True),
        ("Masking", False),
        ("Masking", True),
    ]
    noise, adaptive_mask = found[0], found[3]
    assert noise["psnr"]["low"] is None or noise["psnr"]["low"] < noise["psnr"]["strength"] <= 10
    assert noise["psnr"]["high"] is None  # four victims certify nothing
    assert 4 <= len(noise["strengths"]) <= 6
    assert adaptive_mask["psnr"]["strength"] is None and adaptive_mask["psnr"]["stopped"] == "never"
    assert adaptive_mask["psnr"]["without"] > 0.5 and noise["psnr"]["stopped"] == "within"
    assert "not stopped at the strong end, ratio 0.001 (" in adaptive_mask["psnr"]["note"]
    assert noise["psnr"]["strength"] in noise["strengths"]
    assert "| Digits MLP | GaussianNoise std |" in said.out and "bisection step 2 of 2" in said.err
    assert "With 4 victims that means at most 0, which is compatible with a leak rate of up to 49%" in said.out

    before = sorted(path.stat().st_mtime_ns for path in (tmp_path / "out" / "records").iterdir())
    assert search(tmp_path) == 0
    assert before == sorted(path.stat().st_mtime_ns for path in (tmp_path / "out" / "records").iterdir())
    assert json.loads((tmp_path / "out" / "thresholds.json").read_text())["thresholds"] == found


def test_rows_keep_scenarios_and_fixed_arguments_apart() -> None:
    assert defense_label("Masking", "ratio", {}) == defense_label("Masking", "ratio", {"rescale": False})
    assert defense_label("Masking", "ratio", {}) == "Masking ratio"
    assert defense_label("Masking", "ratio", {"rescale": True}) == "Masking ratio (rescale=True)"
    data, model = spec("data", "Digits", {}), spec("model", "LeNet", {})
    assert Scenario(data, model, 4, 0, 8, 2).label == "Digits LeNet in batches of 4, 2 of one class"
    assert "49%" in sample_size_caveat(4, 0.05) and "at most 1," in sample_size_caveat(20, 0.05)
    assert "19%" in sample_size_caveat(16, 0.05) and "it takes 73 victims" in sample_size_caveat(16, 0.05)
    assert "takes" not in sample_size_caveat(73, 0.05) and "no number of victims" in sample_size_caveat(500, 0.0)
    assert attack_label(spec("attack", "IDLG", {"restarts": 2}).as_dict()) == "IDLG restarts=2"
    assert attack_label(spec("attack", "IDLG", {}).as_dict() | {"of_old": 1}) == "IDLG of_old=1"


def test_an_ssim_that_needs_no_update_is_no_leak() -> None:
    by_ssim, by_psnr = (Criterion(ssim=0.5).measures[name] for name in ("ssim", "psnr"))
    victim = {"status": "exhausted", "ssim": [0.1, 0.59], "null_ssim": [0.7, 0.58], "leaked_any": False}
    assert by_ssim(victim) and not by_psnr(victim)
    assert not by_ssim(victim | {"null_ssim": [0.0, 0.59]})  # of that very image
    assert not by_ssim(victim | {"ssim": [0.1, 0.49], "null_ssim": [0.0, 0.1]})
    assert not by_ssim(victim | {"status": "diverged"})
    assert by_psnr(victim | {"leaked_any": True})


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--ssim", "2"], "--ssim must be above 0 and at most 1"),
        (["--stop", "1"], "--stop must be at least 0 and below 1"),
        (["--steps", "-1"], "--steps must be a whole number of at least 0"),
    ],
)
def test_a_wrong_flag_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], message: str
) -> None:
    assert search(tmp_path, *flags) == 2
    assert message in capsys.readouterr().err
