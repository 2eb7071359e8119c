"""Defenses that are made of defenses: in a suite, on a board, in a run that is resumed, and what is refused."""

from pathlib import Path
from typing import Any

import pytest

from benchmark import UsageError, run
from benchmark.boards.outcome import strength
from benchmark.suite.nesting import leaves, without
from benchmark.suite.registry import Spec, build, is_ours, spec, typed
from benchmark.suite.suite import entries
from benchmark.versions.code import code_checksum
from defenses import Clipping, Compose, GaussianNoise

CLIPPING = {"class": "Clipping", "max_norm": 1.0}
NOISE = {"class": "GaussianNoise", "std": 0.01}


def composed(*parts: Any) -> Spec:
    return spec("defense", "Compose", {"defenses": list(parts)})


def test_arguments_are_found_and_left_out_by_where_they_are() -> None:
    args = {"class": "Compose", "defenses": [CLIPPING, {"class": "Compose", "defenses": [NOISE]}], "names": ["a", "b"]}
    found = leaves(args)
    assert found["defenses", 1, "defenses", 0, "std"] == 0.01 and found["names",] == ["a", "b"] and len(found) == 7
    assert without(args, [("names",), ("defenses", 1, "defenses", 0, "std"), ("defenses", 0, "nope")]) == {
        "class": "Compose",
        "defenses": [CLIPPING, {"class": "Compose", "defenses": [{"class": "GaussianNoise"}]}],
    }


@pytest.mark.parametrize(
    ("value", "text"), [(["first", "last"], "first + last"), (["fc"], "fc"), ([], "[]"), ([0.5], "[0.5]"), (2, "2")]
)
def test_a_list_of_names_is_written_without_quotes(value: Any, text: str) -> None:
    assert strength({"class": "KeptAtHome", "layers": value}) == f"layers={text}"


def test_each_part_is_made_with_all_its_arguments() -> None:
    both = composed("Clipping", {"class": "Compose", "defenses": [NOISE]})
    assert both.args == {"defenses": [CLIPPING, {"class": "Compose", "defenses": [NOISE]}]}
    made = build("defense", both)
    assert isinstance(made, Compose)
    clipping, inner = made.defenses
    assert isinstance(clipping, Clipping) and clipping.max_norm == 1.0
    assert isinstance(inner, Compose) and isinstance(inner.defenses[0], GaussianNoise)
    assert [one.name for one in both.inner] == ["Clipping", "Compose", "GaussianNoise"]


def test_a_sweep_within_is_one_of_the_whole() -> None:
    noise = {"class": "GaussianNoise", "sweep": {"std": [0.1, 0.2]}}
    clipping = {"class": "Clipping", "sweep": {"max_norm": [1.0, 2.0, 3.0]}}
    found = entries("defense", {"class": "Compose", "defenses": [clipping, noise]})
    pairs = [(one.args["defenses"][0]["max_norm"], one.args["defenses"][1]["std"]) for one in found]
    assert pairs == [(1, 0.1), (1, 0.2), (2, 0.1), (2, 0.2), (3, 0.1), (3, 0.2)]
    outer = entries("defense", {"class": "Compose", "sweep": {"defenses": [["Sign"], [CLIPPING, "Sign"], []]}})
    assert [len(one.args["defenses"]) for one in outer] == [1, 2, 0]


def test_its_name_tells_its_parts() -> None:
    made = composed(CLIPPING, NOISE)
    assert made.label == "Compose(Clipping(max_norm=1.0) + GaussianNoise(std=0.01))"
    assert strength(made.as_dict()) == "Clipping(max_norm=1.0) + GaussianNoise(std=0.01)"


def test_infinity_within_can_be_written_into_a_record() -> None:
    assert composed({"class": "Clipping", "max_norm": float("inf")}).as_dict()["defenses"][0]["max_norm"] == "inf"


def test_the_code_of_its_parts_decides_its_version(nothing_of_the_developers: None, tmp_path: Path) -> None:
    def version(factor: int) -> str:
        (tmp_path / "own_part.py").write_text(
            f"def scaled(update):\n    return {{n: v * {factor} for n, v in update.items()}}\n"
        )
        made = composed("own_part.scaled", CLIPPING)
        assert not is_ours("defense", made) and is_ours("defense", composed(CLIPPING))
        return code_checksum({"defense": made})

    assert version(2) != version(3) == version(3)


def test_it_is_typed_as_yaml() -> None:
    args = typed("defense", "Compose", {"defenses": "[Sign, {class: Clipping, max_norm: 1e-3}]"})
    assert args == {"defenses": ["Sign", {"class": "Clipping", "max_norm": 1e-3}]}


def test_a_run_of_it_is_resumed(nothing_of_the_developers: None) -> None:
    cell: dict[str, Any] = {"data": "Digits", "model": "MLP", "attack": {"class": "IDLG", "max_evaluations": 3}}
    given = {"class": Compose, "defenses": [{"class": Clipping, "max_norm": 0.5}, GaussianNoise]}
    first = run(**cell, defense=given, victims=2, out="out", progress=False)
    again = run(
        **cell,
        defense={"class": "Compose", "defenses": [CLIPPING | {"max_norm": 0.5}, NOISE]},
        victims=2,
        out="out",
        progress=False,
    )
    assert first.ran.startswith("6 of 6") and "nothing to run" in again.ran
    defended = {record["config"]["adaptive"] for record in again.records if record["config"]["defense"]}
    assert defended == {False, True}


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (3, "defenses must be a list, not 3"),
        ([3], "defense must be a class name or {class: NAME, argument: value}, not 3"),
        ([{"std": 1}], "defense must be a class name"),
        (["Clippin"], "unknown defense 'Clippin': did you mean Clipping"),
        (["IDLG"], "unknown defense 'IDLG'"),
        ([{"class": "Clipping", "max_nrm": 1}], "unknown argument of Clipping 'max_nrm': did you mean max_norm"),
        ([{"class": "Clipping", "max_norm": -1.0}], "Clipping: max_norm is -1.0, but must be above 0"),
        ([{"class": "Clipping", "range": {"max_norm": [1, 2]}}], "range of Clipping is for leakboard threshold"),
        ([NOISE, CLIPPING], "Compose: GaussianNoise before Clipping cannot be simulated by an attacker"),
    ],
    ids=str,
)
def test_what_is_wrong_is_told_in_one_sentence(given: Any, sentence: str) -> None:
    with pytest.raises(UsageError) as raised:
        entries("defense", {"class": "Compose", "defenses": given})
    assert str(raised.value).startswith((sentence, f"Compose: {sentence}")) and "\n" not in str(raised.value)
    with pytest.raises(UsageError):
        spec("defense", "Compose", {"defenses": given})


def test_a_list_of_defenses_is_required() -> None:
    with pytest.raises(UsageError, match="required: defenses"):
        spec("defense", "Compose", {})
