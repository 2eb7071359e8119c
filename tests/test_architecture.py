"""The arrows between folders go one way, so that a newcomer can read the code along them."""

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("attacks", "benchmark", "datamodules", "defenses")
FILES = sorted(path for name in PACKAGES for path in (ROOT / name).rglob("*.py"))


def folder(module: str) -> str:
    """The folder of a module: one of those in benchmark/, which itself holds what all of them use, or a package."""
    first, *rest = module.split(".")
    inside = ROOT / first / rest[0] if first == "benchmark" and rest else None
    return f"benchmark.{rest[0]}" if inside and inside.is_dir() else first


def imports(path: Path) -> Iterator[str]:
    """The modules of ours that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        yield from (name for name in names if name.split(".")[0] in PACKAGES)


def arrows() -> dict[str, set[str]]:
    found: dict[str, set[str]] = defaultdict(set)
    for path in FILES:
        here = folder(".".join(path.relative_to(ROOT).with_suffix("").parts))
        found[here] |= {there for name in imports(path) if (there := folder(name)) != here}
    return found


def test_no_folder_of_the_benchmark_is_imported_by_what_it_imports() -> None:
    left = {here: there - {"benchmark"} for here, there in arrows().items() if here != "benchmark"}
    while free := [here for here, there in left.items() if not there & set(left)]:
        for here in free:
            del left[here]
    assert not left, f"these import each other in a circle: {left}"


def test_attacks_know_no_defense_and_neither_they_nor_the_data_know_the_benchmark() -> None:
    found = arrows()
    assert not found["datamodules"]
    assert not found["defenses"]
    assert found["attacks"] <= {"defenses"}
    of_defenses = {name for path in (ROOT / "attacks").rglob("*.py") for name in imports(path) if "defenses" in name}
    assert {name.rpartition(".")[0] for name in of_defenses} <= {"defenses.base"}


INTERFACE = {"attacks.base", "attacks.threat", "attacks.update"}
"""What an attack is and gets, which all that attacks share may know, but for what a network is to them."""


@pytest.mark.parametrize(
    ("shared", "known"),
    [
        ("base.py", INTERFACE | {"attacks.network"}),
        ("threat.py", set()),
        ("update.py", {"attacks.network"}),
        ("network/*.py", {"attacks.network"}),
        ("closed_form/*.py", INTERFACE | {"attacks.closed_form", "attacks.network"}),
        ("engine/*.py", INTERFACE | {"attacks.engine", "attacks.network"}),
    ],
)
def test_what_attacks_share_knows_none_of_them(shared: str, known: set[str]) -> None:
    files = list((ROOT / "attacks").glob(shared))
    ours = {name for path in files for name in imports(path) if name.startswith("attacks.")}
    assert files and not {name for name in ours if not any(name.startswith(f"{one}.") for one in known)}


@pytest.mark.parametrize("path", [path for path in FILES if path.name == "__init__.py"], ids=str)
def test_every_folder_says_what_is_in_it(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text()))
    assert len(list(path.parent.glob("*.py"))) > 2, "a folder of one file"
