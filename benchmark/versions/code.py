"""The version of the code that decides a result: a record of other code is not taken for one of this.

It is the checksum of the files of the classes and of all that they import outside installed packages, of the files
that their arguments name, and of those that their code reads by a literal name. Comments, docstrings and the layout
change nothing. What a model draws, wherever it has that from, has a checksum of its own (:func:`networks_sha256`), and
so has what a user's own classes do (``behavior.py``), which shows most of what the code does not name. The literal
names are for what is read only where no short try gets to.
"""

import ast
import hashlib
import inspect
import sys
import sysconfig
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from benchmark.models.draw import Model, draw_networks
from benchmark.seeds import generators
from benchmark.suite.registry import OURS, ROOT, Spec, find_class

FOLLOWED = ("federation/client", "metrics/perceptual", "metrics/leak", "metrics/scores")
"""Files of ours that decide every attack's result, with all that they import."""

ALONE = (
    "jobs/records",
    "jobs/scored",
    "jobs/worst_case",
    "metrics/contrast",
    "metrics/convergence",
    "metrics/labels",
    "metrics/misfit",
)
"""Files of ours that do so, but import the whole of Leakboard."""

SILENT = ROOT / "benchmark" / "errors.py"
"""A file of ours that says what is wrong and decides no result."""

_STDLIB = tuple(Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib"))
_READ = {"load", "loadtxt", "genfromtxt", "fromfile", "imread", "read_csv", "read_image", "read_text", "read_bytes"}
_WRITE = {"save", "savetxt", "touch", "unlink", "write_text", "write_bytes"}


@dataclass(frozen=True)
class Source:
    """What a Python file says.

    Attributes:
        sha256: of its code, without comments, docstrings and layout.
        imports: relative level, module, and names that may be modules of that one.
    """

    sha256: str
    imports: tuple[tuple[int, str, tuple[str, ...]], ...] = ()


@lru_cache(maxsize=1024)
def source(content: bytes) -> Source:
    """What the content of a Python file says; of another file the checksum alone."""
    try:
        tree = ast.parse(content)
    except (SyntaxError, ValueError):
        return Source(hashlib.sha256(content).hexdigest())
    nodes = list(ast.walk(tree))
    for node in nodes:
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and ast.get_docstring(
            node, clean=False
        ):
            del node.body[0]
    code = ast.dump(tree).encode(errors="surrogatepass")
    return Source(hashlib.sha256(code).hexdigest(), tuple(_imports(nodes)))


def _imports(nodes: Iterable[ast.AST]) -> Iterator[tuple[int, str, tuple[str, ...]]]:
    """What is imported, by statements anywhere in the file or by ``import_module`` with a literal."""
    for node in nodes:
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield 0, alias.name, ()
        elif isinstance(node, ast.ImportFrom):
            yield node.level, node.module or "", tuple(alias.name for alias in node.names)
        elif isinstance(node, ast.Call) and _name(node.func) in ("import_module", "__import__") and node.args:
            given = getattr(node.args[0], "value", None)
            if isinstance(given, str):
                name = given.lstrip(".")
                yield len(given) - len(name), name, ()


@lru_cache(maxsize=1024)
def reads(content: bytes) -> frozenset[str]:
    """Literal names of files that the content of a Python file reads and does not write; of another file none."""
    try:
        nodes = list(ast.walk(ast.parse(content)))
    except (SyntaxError, ValueError):
        return frozenset()
    variables = {
        target.id: node.value
        for node in nodes
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }

    def literal(node: ast.AST, deep: int = 0) -> str:
        """The name in ``"x"``, ``HERE / "x"``, ``Path("x")``, ``join(HERE, "x")``, or in a variable of such a value."""
        if isinstance(node, ast.Constant):
            return node.value if isinstance(node.value, str) else ""
        parts = [variables.get(node.id)] if isinstance(node, ast.Name) else ast.iter_child_nodes(node)
        return "/".join(filter(None, (literal(one, deep + 1) for one in parts if one and deep < 16)))

    read: set[str] = set()
    written: set[str] = set()
    for node in nodes:
        if not isinstance(node, ast.Call):
            continue
        name, given = _name(node.func), [literal(one) for one in node.args]
        of = literal(node.func.value) if isinstance(node.func, ast.Attribute) else ""
        if name == "open":
            modes = [*given[0 if of else 1 :][:1], *(literal(k.value) for k in node.keywords if k.arg == "mode")]
            (written if set("".join(modes)) & set("wax+") else read).add(of or "".join(given[:1]))
        elif name in _READ:
            read.add(of or "".join(given[:1]))
        elif name in _WRITE:
            written |= {of, *given}
    return frozenset(read - written - {""})


def _name(function: ast.expr) -> str:
    """The last part of what is called."""
    return str(getattr(function, "attr", getattr(function, "id", "")))


def is_ours(file: Path) -> bool:
    """Whether a file is one of Leakboard's packages."""
    return file.is_relative_to(ROOT) and file.relative_to(ROOT).parts[0] in OURS


def is_installed(file: Path) -> bool:
    """Whether a file is of Python or of an installed package, other than Leakboard."""
    if is_ours(file):
        return False
    packages = {"site-packages", "dist-packages"} & set(file.parts)
    return bool(packages) or any(file.is_relative_to(folder) for folder in _STDLIB)


def files_of(kind: str, name: str) -> set[Path]:
    """The files in which a class is written, those of what it inherits from, and the one that its import path names.

    Of an installed package it is the file of the class alone.
    """
    found = find_class(kind, name)
    given: list[Any] = [found, *getattr(found, "__mro__", ()), sys.modules.get(name.rpartition(".")[0])]
    files = [file for one in given if (file := _file(one))]
    return {file for number, file in enumerate(files) if number == 0 or not is_installed(file)}


def _file(made: Any) -> Path | None:
    """The file of a class, function or module."""
    try:
        file = inspect.getsourcefile(inspect.unwrap(getattr(made, "func", made)))
    except (TypeError, OSError):  # built in
        return None
    return Path(file).resolve() if file and Path(file).is_file() else None


def followed(files: Iterable[Path]) -> dict[Path, Source]:
    """The files and all that they import outside installed packages, or those import in turn."""
    found: dict[Path, Source] = {}
    new = sorted(set(files))
    while new:
        file = new.pop()
        if file not in found:
            found[file] = source(file.read_bytes())
            others = (
                [] if is_installed(file) else [path for one in found[file].imports for path in imported(file, *one)]
            )
            new += [other for other in others if other not in found and other != SILENT]
    return found


def imported(file: Path, level: int, module: str, names: tuple[str, ...]) -> list[Path]:
    """The files that one import statement of a file runs, outside installed packages."""
    if level:
        folder = file.parents[level - 1] if level <= len(file.parents) else file.parent
        base = folder.joinpath(*module.split(".")) if module else folder
        places = [folder, base, *(base / name for name in names)]
        return [path for place in places for path in _as_module(place)]
    if module.partition(".")[0] in OURS:
        base = ROOT.joinpath(*module.split("."))
        return [path for place in (base, *(base / name for name in names)) for path in _as_module(place)]
    if is_ours(file):
        return []  # all else that ours import is installed
    return [path for name in (module, *(f"{module}.{name}" for name in names)) for path in _absolute(name)]


def _as_module(place: Path) -> list[Path]:
    """The files of a module that would stand at a place."""
    return [path for path in (place.with_name(f"{place.name}.py"), place / "__init__.py") if path.is_file()]


def _absolute(name: str) -> list[Path]:
    """The files that the import of a module runs, those of the packages that it is in included."""
    found: list[Path] = []
    search: Any = None
    parts = name.split(".")
    for count in range(1, len(parts) + 1):
        full = ".".join(parts[:count])
        module = sys.modules.get(full)
        if module is not None:
            file, search = getattr(module, "__file__", None), getattr(module, "__path__", None)
        else:
            spec = PathFinder.find_spec(full, search)
            if spec is None:  # a name that is no module
                break
            file, search = spec.origin if spec.has_location else None, spec.submodule_search_locations
        if file and Path(file).is_file():
            path = Path(file).resolve()
            if is_installed(path):
                break
            found.append(path)
        if search is None:
            break
    return found


def code_checksum(parts: dict[str, Spec]) -> str:
    """sha256 of all the code that decides what an attack's parts do; what the data set gives has one of its own.

    Args:
        parts: by their kind: data, model, attack, defense.
    """
    ours = {ROOT / "benchmark" / f"{name}.py" for name in FOLLOWED}
    given = [(kind, part) for kind, part in parts.items() if kind != "data"]
    return checksum_of(ours, given, [ROOT / "benchmark" / f"{name}.py" for name in ALONE])


@lru_cache(maxsize=64)
def attack_checksum(name: str) -> str:
    """sha256 of the code of an attack alone, which is the same whatever it meets."""
    return checksum_of([], [("attack", Spec(name))])


def own_code(parts: dict[str, Spec]) -> dict[str, str]:
    """sha256 of the user's own files behind each of the user's own classes, by its import path.

    What comes with Leakboard is not in it, nor what arguments name: a new version of ours changes no class of the user.

    Args:
        parts: as in :func:`code_checksum`.
    """
    every = [(kind, one.name) for kind, part in parts.items() if kind != "data" for one in (part, *part.inner)]
    found = {}
    for kind, name in every:
        if "." in name:
            files = {place_of(f): one.sha256 for f, one in followed(files_of(kind, name)).items() if not is_ours(f)}
            found[name] = hashlib.sha256(repr(sorted(files.items())).encode()).hexdigest()
    return found


def checksum_of(ours: Iterable[Path], parts: Iterable[tuple[str, Spec]], alone: Iterable[Path] = ()) -> str:
    """sha256 of code.

    Args:
        ours: files of ours that take part.
        parts: classes that do, by their kind.
        alone: files of ours without what they import.
    """
    parts = [(kind, one) for kind, part in parts for one in (part, *part.inner)]
    sources = followed({*ours, *(file for kind, part in parts for file in files_of(kind, part.name))})
    together = {place_of(file): one.sha256 for file, one in sources.items()}
    together |= {place_of(file): source(file.read_bytes()).sha256 for file in alone}
    read = {
        place_of(path): contents(path)
        for file in sources
        if not is_ours(file)
        for name in reads(file.read_bytes())
        for path in (Path(name), file.parent / name)
        if _is(path, Path.is_file)
    }
    given = {value for _, part in parts for value in texts_of(part.args)}
    read |= {value: contents(Path(value)) for value in given if _is(Path(value), Path.exists)}
    lines = (f"{name} {sha}\n" for name, sha in sorted([*together.items(), *read.items()]))
    return hashlib.sha256("".join(lines).encode(errors="surrogatepass")).hexdigest()


def place_of(file: Path) -> str:
    """A name for a file that is the same on another machine, as far as there is one."""
    file = file.resolve()
    for folder in (ROOT, Path.cwd()):
        if file.is_relative_to(folder):
            return file.relative_to(folder).as_posix()
    return file.name


def texts_of(value: Any) -> Iterator[str]:
    """All texts in the arguments of a class."""
    if isinstance(value, str | Path):
        yield str(value)
    elif isinstance(value, dict):
        for one in value.values():
            yield from texts_of(one)
    elif isinstance(value, list | tuple):
        for one in value:
            yield from texts_of(one)


def _is(path: Path, what: Callable[[Path], bool]) -> bool:
    try:
        return what(path)
    except (OSError, ValueError):  # no possible name of a file
        return False


def contents(path: Path) -> str:
    """sha256 of a file, or of the names and contents of all files in a folder."""
    together = hashlib.sha256()
    for file in [path] if path.is_file() else sorted(one for one in path.rglob("*") if one.is_file()):
        together.update(file.name.encode(errors="surrogateescape"))
        with file.open("rb") as opened:
            together.update(hashlib.file_digest(opened, "sha256").digest())
    return together.hexdigest()


def networks_sha256(model: nn.Module, seed: int, victim: int) -> str:
    """A digest of the network that a victim is given: what is drawn for it, and all that the model holds besides.

    A model can have its weights from anywhere, such as a checkpoint that has been replaced.
    """
    drawn = draw_networks(cast(Model, model), generators(seed, range(victim, victim + 1), "network"))
    together = hashlib.sha256()
    for name, value in sorted((dict(model.named_parameters()) | dict(model.named_buffers()) | drawn).items()):
        together.update(name.encode())
        together.update(value.detach().cpu().contiguous().flatten().view(dtype=torch.uint8).numpy().data)
    return together.hexdigest()[:16]
