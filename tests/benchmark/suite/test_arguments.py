"""Arguments of classes: a text is taken as it was typed, anything else as its type says, or there is one sentence."""

import importlib
import math
import sys
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml
from jsonargparse import ArgumentParser

from benchmark.cli.main import main
from benchmark.errors import UsageError
from benchmark.suite.arguments import Arguments
from benchmark.suite.registry import build, spec


class Color(Enum):
    red = 1


class Typed:
    """Arguments of many types."""

    def __init__(
        self,
        text: str = "x",
        maybe_text: str | None = None,
        whole: int = 3,
        maybe_whole: int | None = None,
        number: float = 0.5,
        flag: bool = False,
        either: int | str = 3,
        wholes: list[int] = [1],  # noqa: B006, as users write it
        texts: list[str] = ["a"],  # noqa: B006, as above
        pair: tuple[int, float] = (1, 2.0),
        named: dict[str, float] = {},  # noqa: B006, as above
        one_of: Literal["on", "off"] = "on",
        path: Path = Path(),
        color: Color = Color.red,
        untyped=0.5,
        module=object(),  # noqa: B008, a default that no suite could give
    ) -> None:
        pass


ARGUMENTS = Arguments("defense", "Typed", Typed)

TEXTS = [
    "faces #2",
    "2024",
    "2024-01-31",
    "on",
    "no",
    "1e5",
    "[a]",
    "a: b",
    " x ",
    "",
    "'q'",
    "010",
    "1:30",
    "{",
    "=",
    "--x",
]


class Needs:
    def __init__(self, step: float, layers: list[str], name: str, wide: bool = False) -> None: ...


@pytest.mark.parametrize(
    "swept",
    [{"step": [0.1, 2]}, {"step": [math.inf]}, {"layers": [["first"], ["first", "last"]]}, {"name": ["- a: [1", "b"]}],
)
def test_what_is_swept_need_not_be_typed(swept: dict[str, Any]) -> None:
    known, rest = Arguments("defense", "Needs", Needs), {"step": "1.5", "layers": "[last]", "name": "x"}
    typed = {key: text for key, text in rest.items() if key not in swept}
    found = known.typed(typed, swept)
    assert found.keys() == typed.keys() and known.swept(found, swept)
    with pytest.raises(UsageError, match=f"are required: {next(iter(swept))}"):
        known.typed(typed)


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_is_taken_as_it_was_typed(text: str) -> None:
    assert ARGUMENTS.typed({"text": text, "maybe_text": text}) == {"text": text, "maybe_text": text}
    assert ARGUMENTS.typed({"path": text}) == {"path": Path(text)}
    assert ARGUMENTS.filled(ARGUMENTS.typed({"text": text}))["text"] == text


@pytest.mark.parametrize(
    ("key", "typed", "value"),
    [
        ("text", "null", "null"),
        ("maybe_text", "null", None),  # where there may be none, null is none
        ("maybe_whole", "null", None),
        ("maybe_whole", "3", 3),
        ("whole", "-3", -3),
        ("number", "3", 3.0),
        ("number", "1e-05", 1e-5),
        ("number", ".inf", float("inf")),
        ("flag", "true", True),
        ("either", "7", 7),
        ("either", "on", "on"),
        ("wholes", "[1, 2]", [1, 2]),
        ("texts", "[on, 2024-01-31]", ["on", "2024-01-31"]),
        ("pair", "[1, 2]", (1, 2.0)),
        ("named", "{a: 1}", {"a": 1.0}),
        ("one_of", "off", "off"),
        ("untyped", "0.25", 0.25),
    ],
)
def test_anything_else_is_read_as_its_type_says(key: str, typed: str, value: Any) -> None:
    found = ARGUMENTS.typed({key: typed})[key]
    assert found == value and type(found) is type(value)
    assert ARGUMENTS.filled({key: found})[key] == value


@pytest.mark.parametrize(
    ("key", "typed", "sentence"),
    [
        ("whole", "1:30", "Typed: whole must be a whole number, not 1:30"),
        ("whole", "1_000", "Typed: whole must be a whole number, not 1_000"),
        ("whole", "010", "Typed: whole must be a whole number, not 010"),
        ("whole", "1e5", "Typed: whole must be a whole number, not 1e5"),
        ("whole", "3.0", "Typed: whole must be a whole number, not 3.0"),
        ("whole", "true", "Typed: whole must be a whole number, not true"),
        ("whole", "", "Typed: whole must be a whole number, not ''"),
        ("maybe_whole", "some", "Typed: maybe_whole must be a whole number or null, not some"),
        ("number", "1:30", "Typed: number must be a number, not 1:30"),
        ("number", "nan", "Typed: number must be a number, not nan"),
        ("flag", "1", "Typed: flag must be true or false, not 1"),
        ("wholes", "[1, 1:30]", "Typed: wholes must be a list of whole numbers, not [1, 1:30]"),
        ("wholes", "3", "Typed: wholes must be a list of whole numbers, not 3"),
        ("named", "{a: 1, a: 2}", "Typed: named must be a mapping, not {a: 1, a: 2}"),
        ("one_of", "maybe", "Typed: one_of must be one of on, off, not maybe"),
        ("nothing", "1", "unknown argument of Typed 'nothing': valid are color, either, flag"),
    ],
)
def test_a_value_of_another_type_is_one_sentence(key: str, typed: str, sentence: str) -> None:
    with pytest.raises(UsageError) as caught:
        ARGUMENTS.typed({key: typed})
    assert str(caught.value).startswith(sentence)


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        ({"text": 2024}, "text must be a text, not 2024: put it in quotes"),
        ({"text": None}, "text must be a text, not null"),
        ({"number": None}, "number must be a number, not null"),
        ({"number": 1e300}, "number is 1e+300, but must be at most 3.4e+38"),
        ({"number": float("nan")}, "number is nan, but must be a number"),
        ({"whole": 10**20}, "whole is 100000000000000000000, but must fit into 64 bits"),
        ({"wholes": [1, -(10**30)]}, "wholes is -1000000000"),
        ({"text": "a\udcffb"}, "text is 'a\\udcffb', which is not UTF-8"),
        ({"text": "a\0b"}, "text is 'a\\x00b'"),
        ({"number": "1:30"}, "number must be a number, not 1:30"),
    ],
)
def test_a_value_of_a_suite_that_cannot_be_used_is_one_sentence(args: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UsageError) as caught:
        ARGUMENTS.filled(args)
    assert sentence in str(caught.value)


@pytest.mark.parametrize("digits", [309, 401, 999])
@pytest.mark.parametrize("form", ["{}", "-{}", "[1, {}]", "{{a: {}}}"])
def test_a_whole_number_that_no_float_holds_is_told_by_its_argument(digits: int, form: str) -> None:
    text = form.format("9" * digits)
    key = {"[": "pair", "{": "named"}.get(text[0], "number")
    for given in (lambda: ARGUMENTS.typed({key: text}), lambda: ARGUMENTS.filled({key: yaml.safe_load(text)})):
        with pytest.raises(UsageError, match=rf"^Typed: {key} is -?9+\.\.\.9+, but must fit into 64 bits$"):
            given()
    assert ARGUMENTS.typed({"maybe_text": text}) == {"maybe_text": text}


def test_the_defaults_are_filled_in_but_for_what_no_suite_could_give() -> None:
    filled = ARGUMENTS.filled({})
    assert filled["whole"] == 3 and filled["untyped"] == 0.5 and filled["wholes"] == [1]
    assert "module" not in filled


OWN = """
import sys
from dataclasses import dataclass

from torch import nn

from defenses import Defense, KnownDefense, Masking
from benchmark.models import LeNet


class Own(Defense):
    def protect(self, update, generators):
        return update

    def known_to_attacker(self):
        return KnownDefense()


class Untyped(Own):
    def __init__(self, std):
        self.std = std


class HandsOn(Masking):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)


class HandsOnNet(LeNet):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)


class Unnamed(Own):
    def __init__(self, std=3.0, /):
        self.std = std


class Layer(Own):
    def __init__(self, layer: nn.Module = nn.Dropout(0.3)):
        self.layer = layer


@dataclass
class Options:
    size: int = 3


class Nested(Own):
    def __init__(self, inner: Defense, options: Options = Options()):
        self.inner, self.options = inner, options


class Forward(Own):
    def __init__(self, x: "NoSuchType"):
        self.x = x


class Signature(Own):
    __signature__ = 3


class Raises(Own):
    def __init__(self, size: int = 3):
        self.size = size.nowhere


class Exits(Own):
    def __init__(self):
        sys.exit(0)


class ExitsLater(Own):
    def protect(self, update, generators):
        sys.exit(0)


class RaisesLater(Own):
    def protect(self, update, generators):
        return {name: value.nowhere for name, value in update.items()}


class Half(Defense):
    def protect(self, update, generators):
        return update
"""


@pytest.fixture
def own(nothing_of_the_developers: None) -> Callable[..., Any]:
    """Makes a defense of the user's."""
    Path("own_classes.py").write_text(OWN)
    importlib.invalidate_caches()
    sys.modules.pop("own_classes", None)
    return lambda name, **args: build("defense", spec("defense", f"own_classes.{name}", args))


def test_classes_of_users_are_made_as_they_are_written(own: Callable[..., Any]) -> None:
    assert own("Untyped", std=0.5).std == 0.5
    assert own("HandsOn", ratio=0.25).ratio == 0.25
    assert own("Unnamed").std == 3.0
    assert own("Layer").layer.p == 0.3  # the default itself, not one like it
    nested = own("Nested", inner={"class_path": "defenses.Masking", "init_args": {"ratio": 0.1}}, options={"size": 5})
    assert (nested.inner.ratio, nested.options.size) == (0.1, 5)
    net = build("model", spec("model", "own_classes.HandsOnNet", {}), image_shape=(1, 8, 8), num_classes=3)
    assert net[-1].out_features == 3


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        (
            "Untyped",
            "own_classes.Untyped: the following arguments are required: std: give --defense.std VALUE, or std: VALUE",
        ),
        ("Forward", "own_classes.Forward: the following arguments are required: x"),
        ("Signature", "the arguments of own_classes.Signature cannot be read (TypeError: "),
        (
            "Raises",
            "own_classes.Raises(size=3) cannot be made (AttributeError: 'int' object has no attribute 'nowhere', ",
        ),
        ("Exits", "own_classes.Exits cannot be made (it calls sys.exit(0), own_classes.py, line"),
        ("Half", "must be a defenses.Defense with all its methods, and lacks known_to_attacker"),
    ],
)
def test_a_class_that_cannot_be_made_is_one_sentence(own: Callable[..., Any], name: str, sentence: str) -> None:
    with pytest.raises(UsageError) as caught:
        own(name)
    assert sentence in str(caught.value) and "\n" not in str(caught.value)


def test_a_package_that_is_called_as_one_of_ours_is_named(own: Callable[..., Any]) -> None:
    Path("defenses").mkdir()
    Path("defenses/mine.py").write_text("")
    with pytest.raises(UsageError, match="defenses is the name of a package of Leakboard's own, so rename yours"):
        spec("defense", "defenses.mine.Mine", {})


@pytest.mark.parametrize(
    ("name", "cause", "workers"),
    [
        ("ExitsLater", "sys.exit(0)", "1"),
        ("RaisesLater", "no attribute 'nowhere'", "1"),
        ("ExitsLater", "sys.exit(0)", "2"),
    ],
)
def test_whatever_a_method_raises_is_one_sentence(
    own: Callable[..., Any], capsys: pytest.CaptureFixture[str], name: str, cause: str, workers: str
) -> None:
    cell = ["--data", "Digits", "--model", "LeNet", "--attack", "IDLG", "--attack.max_evaluations", "2"]
    more = ["--victims", "2", "--workers", workers, "--devices", "cpu", "--out", "out"]
    with pytest.raises(SystemExit) as stopped:
        main(["run", *cell, "--defense", f"own_classes.{name}", *more])
    said = capsys.readouterr().err
    assert stopped.value.code == 2 and "Traceback" not in said
    assert cause in said.splitlines()[-1] and "own_classes.py, line" in said.splitlines()[-1]


# Sweeps.

NUMBERS = [0, 1, 2, -1, 3.0, 0.5, 1e-5, True, False, 10**30, 1e300, float("nan"), float("inf"), None, "1", "x", [1]]


class Swept:
    """Takes everything that a sweep can be over."""

    def __init__(
        self,
        std: float = 1.0,
        bits: int = 3,
        on: bool = False,
        limit: float | None = None,
        most: int | None = None,
        either: int | float = 1,
        bound: bool | int = 1,
        name: str = "a",
        untyped=None,  # type: ignore[no-untyped-def] # as users write it
    ) -> None: ...


@pytest.fixture
def swept() -> Arguments:
    return Arguments("defense", "Swept", Swept)


def said(call: Callable[[], list[dict[str, Any]]]) -> str:
    """What comes out, with the types, or the sentence."""
    try:
        return repr(call())
    except UsageError as error:
        return f"refused: {error}"


def test_a_sweep_reads_values_as_if_each_was_given_alone(swept: Arguments) -> None:
    for key in swept.names:
        alone = [said(lambda: [swept.filled({key: value})]) for value in NUMBERS]  # noqa: B023, called here
        for one, first in zip(alone, NUMBERS, strict=True):
            found = said(lambda: swept.swept({}, {key: [first, first]}))  # noqa: B023, as above
            assert found == (one if one.startswith("refused") else f"[{one[1:-1]}, {one[1:-1]}]")
        taken = [value for value, one in zip(NUMBERS, alone, strict=True) if not one.startswith("refused")]
        whole = ", ".join(one[1:-1] for one in alone if not one.startswith("refused"))
        assert said(lambda: swept.swept({}, {key: taken})) == f"[{whole}]"  # noqa: B023, as above
    grid = [{"bits": bits, "std": std, "on": True} for bits in (1, 2) for std in (1, 0.5)]
    both = swept.swept({"on": True}, {"bits": [1, 2], "std": [1, 0.5]})
    assert repr(both) == repr([swept.filled(one) for one in grid])
    assert [type(one["std"]) for one in both] == [float] * 4


def test_the_number_of_parses_does_not_grow_with_a_sweep(swept: Arguments, monkeypatch: pytest.MonkeyPatch) -> None:
    parses: list[int] = []
    real = ArgumentParser.parse_object

    def counting(*args: Any, **kwargs: Any) -> Any:
        parses.append(1)
        return real(*args, **kwargs)

    monkeypatch.setattr(ArgumentParser, "parse_object", counting)
    for count in (2, 200):
        parses.clear()
        found = swept.swept({}, {"std": [n / 7 for n in range(count)], "bits": list(range(3)), "on": [True, False]})
        assert len(found) == 6 * count and len(parses) == 1
