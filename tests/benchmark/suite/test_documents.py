"""YAML and JSON of a user's: right, or refused with the line."""

import itertools
import json
import os
import random
import re
import socket
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmark.errors import UsageError
from benchmark.suite.documents import load_yaml, read_json, regular
from benchmark.suite.suite import CONFIGS, read


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("[on, off, yes, no, y, n]", ["on", "off", "yes", "no", "y", "n"]),
        ("[true, True, false, null, ~]", [True, True, False, None, None]),
        ("[2024-01-31, 2024-13-45, 1:30, 010]", ["2024-01-31", "2024-13-45", "1:30", "010"]),
        ("[00, 1_000, 0o7, 0b1]", ["00", "1_000", "0o7", "0b1"]),
        ("[1e5, 1e-05, 1.5E+3, .5, 5., -0.25]", [1e5, 1e-5, 1500.0, 0.5, 5.0, -0.25]),
        ("[0, -3, +3, 2024, 0x1F]", [0, -3, 3, 2024, 31]),
        ("[.inf, -.inf]", [float("inf"), float("-inf")]),
        ("{base: &b {x: 1, y: 2}, own: {<<: *b, x: 3}}", {"base": {"x": 1, "y": 2}, "own": {"x": 3, "y": 2}}),
        ('"\\uD83D\\uDE00"', "\N{GRINNING FACE}"),
        ("\ufeffa: 1\r\nb: [2]\r\n", {"a": 1, "b": [2]}),
        ('{"a": {"b": [1, 2.5, "x", null]}}', {"a": {"b": [1, 2.5, "x", None]}}),
    ],
)
def test_scalars_are_those_of_yaml_1_2(text: str, value: Any) -> None:
    found = load_yaml(text)
    assert found == value and repr(found) == repr(value)


def bomb(letters: str) -> str:
    """Lists of nine aliases of the list before."""
    lines = [f"{one}: &{one} [{', '.join([f'*{before}'] * 9)}]" for before, one in itertools.pairwise(letters)]
    return f"{letters[0]}: &{letters[0]} [x, x, x, x, x, x, x, x, x]\n" + "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "line", "problem"),
    [
        ("a: 1\nb: 2\na: 3", 3, "a is given twice, first in line 1"),
        ("a:\n  - x: 1\n    y: {z: 1,\n  z: 2}", 4, "z is given twice, first in line 3"),
        ("a: 1\n'a': 2", 2, "a is given twice"),
        ("1: a\n0x1: b", 2, "0x1 is given twice"),
        ("<<: {a: 1}\n<<: {b: 1}", 2, "<< is given twice"),
        ("? [a]\n: 1", 1, "a key must be a name"),
        ("x: 1\na: &a [*a]", 2, "an alias stands within what it names"),
        ("[" * 5000, 1, "nested more than 50 deep"),
        ("- " * 5000, 1, "nested more than 50 deep"),
        ("a: " + "{b: " * 60 + "1" + "}" * 60, 1, "nested more than 50 deep"),
        (bomb("abcdefghij"), 6, "with its aliases this is more than 100,000 values"),
        ('x: 1\nname: "a\\0b"', 2, "holds a character that no file name can hold"),
        ('x: 1\nname: "\\ud800"', 2, "holds a character that no file name can hold"),
        ("a: !!python/name:os.system", 1, "the tag !!python/name:os.system is not accepted"),
        ("a: 1\nb: !!set {x}", 2, "the tag !!set is not accepted: leave it out"),
        ("a: !!bool maybe", 1, "the tag !!bool is not accepted"),
        ("a: !!int x", 1, "the tag !!int is not accepted"),
        ("a: !own x", 1, "the tag !own is not accepted"),
        ("a: ! x", 1, "the tag ! is not accepted"),
        ("a: 1\n---\nb: 2", 2, "a second document begins here (---): a file holds one"),
        ("a: *b", 1, "*b refers to an anchor (&b) that is not set before it"),
        ("a: *.png", 1, "a text that begins with * or & must be quoted"),
        ("a: &b 1\nc: &b 2", 2, "the anchor &b is set twice"),
        ("a:\n\t- b", 2, "a tab cannot indent: use spaces"),
        ("a: @b", 1, "a text that begins with @ must be quoted"),
        ("a: b: c", 1, "unexpected colon"),
        ("a: - b", 1, "unexpected entry"),
        ("null: 1", 1, "a key must be a name, not null"),
        ("a: 1\nb: {~: 1}", 2, "a key must be a name, not ~"),
        ("a: 1\ntrue: 1", 2, "a key must be a name, not true"),
        ("a: 1\n? \n: 1", 2, "a key must be a name, not nothing"),
        ("a: 1\nb", 2, "a colon is missing"),
        ("a:\n  - b\n - c", 3, "the indentation does not match the lines above"),
        ("a: [1, 2\nb: 3", 2, "a comma or ] is missing"),
        ("a: {b: 1]", 1, "a comma or } is missing"),
        ("a: ]", 1, "a value is missing"),
        ("a: 'b", 1, "a quote is not closed"),
        ('a: "\\q"', 1, "a backslash in double quotes"),
        ("<<: 3", 1, "<< must be given a mapping"),
        ("a: 1\nb: \x07", 2, "the character U+0007 cannot stand in YAML"),
        ("a: 1\nb: 1e400", 2, "1e400 is too large a number; infinity is written .inf"),
        ("a: 1\nb: " + "9" * 5000, 2, "a number has more than 1000 digits"),
        ("%YAML 2.0\n---\na: 1", 1, "this is not YAML"),
    ],
)
def test_what_is_ambiguous_or_absurd_is_refused_with_its_line(
    tmp_path: Path, text: str, line: int, problem: str
) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(text)
    with pytest.raises(UsageError) as caught:
        read(path)
    assert str(caught.value).startswith(f"{path}, line {line}: ") and problem in str(caught.value)
    assert len(str(caught.value)) < 400


def test_what_is_too_long_is_refused() -> None:
    with pytest.raises(yaml.YAMLError, match="more than 1,000,000 characters"):
        load_yaml("# " + "x" * 1_000_000)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "is empty: give it some of the keys name, seed, "),
        ("# victims: 2", "is empty: "),
        ("- victims: 2", "must be a mapping with some of the keys name, seed, victims, block_size, "),
        ("victims", "defenses, training, not 'victims'"),
    ],
)
def test_what_is_no_mapping_says_what_it_is(tmp_path: Path, text: str, sentence: str) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(text)
    with pytest.raises(UsageError) as caught:
        read(path)
    assert str(caught.value).startswith(f"{path} ") and sentence in str(caught.value)


@pytest.mark.parametrize("seed", range(3))
def test_a_suite_with_a_slip_in_it_is_never_told_in_the_words_of_a_parser(tmp_path: Path, seed: int) -> None:
    draw = random.Random(seed)
    whole = (CONFIGS / "quick.yaml").read_text()
    for _ in range(60):
        place = draw.randrange(len(whole))
        slip = draw.choice([*"[]{}:,-&*!|>'\"%@`#?\t\n ", "", "\n---\n", "!!set "])
        path = tmp_path / "own.yaml"
        path.write_text(whole[:place] + slip + whole[place + draw.randint(0, 2) :])
        try:
            read(path)
        except UsageError as error:
            said = str(error).removeprefix(str(path))
            assert not re.search("token|scan|pars|constructor|node|stream|<|plain|scalar|flow|implicit", said), said


@pytest.mark.parametrize("text", ["[" * 100_000, "[" * 100 + "]" * 100, '{"a": 1, "a": 2}', "{", "\xff", ""])
def test_json_that_is_none_or_nested_too_deeply_is_a_value_error(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=r"."):
        read_json(path)


def test_json_is_read_as_it_was_written(tmp_path: Path) -> None:
    value = {"rows": [{"a": [1, 2.5, None, "x"]}] * 3}
    (tmp_path / "x.json").write_text(json.dumps(value))
    assert read_json(tmp_path / "x.json") == value


def test_a_reader_does_not_wait_at_what_is_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # the path of a socket is short
    os.mkfifo("pipe")
    server = socket.socket(socket.AF_UNIX)
    server.bind("socket")
    server.close()
    Path("folder").mkdir()
    for name in ("pipe", "socket", "folder", "/dev/zero"):
        for reader in (regular, read_json):
            with pytest.raises(OSError, match=r"not a regular file|Is a directory"):
                reader(Path(name))
        with pytest.raises(UsageError, match=r"cannot be read \((it is not a regular file|Is a directory)\)"):
            read(Path(name))
