"""The version of code changes with all that decides a result, and with nothing else."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from attacks import IDLG
from benchmark.federation import client
from benchmark.federation import server as federated
from benchmark.suite.registry import Spec, classes
from benchmark.versions import code
from benchmark.versions.code import (
    checksum_of,
    code_checksum,
    files_of,
    followed,
    is_ours,
    networks_sha256,
    own_code,
    source,
)

DEFENSE = '''"""Mine."""
{imports}
from defenses.base import Defense


class Mine(Defense):
    """A defense."""

    def __init__(self, file: str = "", files: list[str] | None = None) -> None:
        self.file = file

    def protect(self, update, generators):
        """Protects."""
        {body}
        return update  # as it is

    def known_to_attacker(self):
        return None
'''


@pytest.fixture(autouse=True)
def own_modules(nothing_of_the_developers: None) -> Iterator[None]:
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.startswith("cv_"):
            del sys.modules[name]


def write(path: str, text: str) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(text)


def version(name: str = "cv_mine.Mine", **args: object) -> str:
    return checksum_of([], [("defense", Spec(name, args))])


def changes(path: str, text: str, **args: object) -> bool:
    """Whether the version changes with a file."""
    before = version(**args)
    write(path, text)
    return version(**args) != before


def test_the_code_of_an_attack_is_what_it_imports_and_no_more() -> None:
    found = followed([Path(sys.modules[IDLG.__module__].__file__ or "")])
    names = {f"{file.parent.name}/{file.stem}" for file in found}
    assert {
        "attacks/idlg",
        "attacks/gradient_matching",
        "engine/problem",
        "engine/batch_lbfgs",
        "network/gradients",
        "defenses/base",
    } <= names
    assert not {"attacks/dlg", "attacks/__init__", "defenses/masking", "benchmark/bench"} & names


def test_a_new_defense_makes_no_other_record_anew() -> None:
    """Neither those of any attack, nor trainings: a board goes on where it was."""
    files = {file for name in classes("attack") for file in files_of("attack", name)}
    files |= {Path(one.__file__ or "") for one in (client, federated)}
    assert {file.stem for file in followed(files) if file.parent.name == "defenses"} == {"base"}


def test_the_code_of_a_model_is_not_that_of_the_other_architectures() -> None:
    names = {f"{file.parent.name}/{file.stem}" for file in followed(files_of("model", "LeNet"))}
    assert {"models/lenet", "models/draw"} <= names
    assert not {"models/__init__", "models/vgg", "models/resnet", "models/checkpoint"} & names


def test_the_checksum_of_the_code_is_that_of_the_parts() -> None:
    def checksum(**names: str) -> str:
        return code_checksum({kind: Spec(name) for kind, name in names.items()})

    one = checksum(data="Digits", model="LeNet", attack="IDLG")
    assert one == checksum(data="MNIST", model="LeNet", attack="IDLG")  # the images are in the record's checksum
    assert one != checksum(data="Digits", model="LeNet", attack="DLG")
    assert one != checksum(data="Digits", model="LeNet", attack="IDLG", defense="Masking")


def test_what_only_says_what_is_wrong_is_not_in_it() -> None:
    files = [Path(one.__file__ or "") for one in (client, federated)]
    names = {f"{file.parent.name}/{file.stem}" for file in followed(files)}
    assert {"federation/client", "models/draw", "federation/server"} <= names
    assert not any(name == "benchmark/errors" or name.startswith("rehearsal/") for name in names)


def test_our_own_files_that_decide_a_result_are_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """What scores, what takes out NaN, what says whether an image has leaked: a change of each changes the version."""
    parts = {"model": Spec("LeNet"), "attack": Spec("IDLG")}
    before, real = code_checksum(parts), Path.read_bytes
    deciding = ("federation/client", "jobs/records", "models/draw", "seeds")
    for name in (*deciding, "metrics/leak", "metrics/misfit", "metrics/perceptual", "metrics/scores"):

        def edited(path: Path, name: str = name) -> bytes:
            return real(path) + (b"\nEDITED = 1\n" if str(path).endswith(f"benchmark/{name}.py") else b"")

        with monkeypatch.context() as patched:
            patched.setattr(Path, "read_bytes", edited)
            assert code_checksum(parts) != before, name
    assert code_checksum(parts) == before


@pytest.mark.parametrize(
    "edited",
    [
        "# a comment\n" + DEFENSE,
        DEFENSE.replace("A defense.", "Another text."),
        DEFENSE.replace('"""Protects."""', "").replace('"""Mine."""', '"""Yours.\n\nAnd mine."""'),
        DEFENSE.replace("(self, update, generators)", "(\n        self,\n        update,\n        generators,\n    )"),
        DEFENSE.replace("  # as it is", "").replace("\n\n\n", "\n\n"),
    ],
)
def test_comments_docstrings_and_layout_change_nothing(edited: str) -> None:
    write("cv_mine.py", DEFENSE.format(imports="", body="pass"))
    assert not changes("cv_mine.py", edited.format(imports="", body="pass"))
    assert changes("cv_mine.py", edited.format(imports="", body="generators = 1"))


def test_a_text_that_is_no_docstring_counts() -> None:
    assert source(b'def f():\n    x = "a"').sha256 != source(b'def f():\n    x = "b"').sha256


@pytest.mark.parametrize(
    ("imports", "body", "changed"),
    [
        ("import cv_helper", "pass", "cv_helper.py"),
        ("from cv_helper import strength", "pass", "cv_helper.py"),
        ("from cv_helper import *", "pass", "cv_helper.py"),
        ("", "import cv_helper", "cv_helper.py"),  # where it is used
        ("try:\n    import cv_helper\nexcept ImportError:\n    pass", "pass", "cv_helper.py"),
        ("import importlib", 'importlib.import_module("cv_helper")', "cv_helper.py"),
        ("", '__import__("cv_helper")', "cv_helper.py"),
        ("import cv_pack.inner", "pass", "cv_pack/inner.py"),
        ("import cv_pack.inner", "pass", "cv_pack/__init__.py"),
        ("from cv_pack import inner", "pass", "cv_pack/inner.py"),
        ("from cv_pack.inner import strength", "pass", "cv_pack/__init__.py"),
        ("from cv_pack.inner import strength", "pass", "cv_pack/deep/far.py"),  # inner imports it relatively
        ("import cv_helper", "pass", "cv_second.py"),  # which the helper imports
    ],
)
def test_what_a_class_imports_counts(imports: str, body: str, changed: str) -> None:
    write("cv_second.py", "x = 1")
    write("cv_helper.py", "import cv_second\nstrength = 1")
    write("cv_pack/__init__.py", "")
    write("cv_pack/inner.py", "from .deep import far\nfrom . import deep\nstrength = 1")
    write("cv_pack/deep/__init__.py", "")
    write("cv_pack/deep/far.py", "x = 1")
    write("cv_other.py", "x = 1")
    write("cv_mine.py", DEFENSE.format(imports=imports, body=body))
    assert not changes("cv_other.py", "x = 2")
    assert changes(changed, "y = 5\nstrength = 1")


def test_relative_imports_beside_the_class_and_above_it_count() -> None:
    write("cv_pack/__init__.py", "")
    write("cv_pack/up.py", "x = 1")
    write("cv_pack/sub/__init__.py", "")
    write("cv_pack/sub/side.py", "x = 1")
    text = DEFENSE.format(imports="from .side import x\nfrom ..up import x as y\nfrom . import side", body="pass")
    write("cv_pack/sub/mine.py", text)
    name = "cv_pack.sub.mine.Mine"
    for path in ("cv_pack/up.py", "cv_pack/sub/side.py", "cv_pack/__init__.py", "cv_pack/sub/__init__.py"):
        before = version(name)
        write(path, "x = 2")
        assert version(name) != before, path


def test_what_a_class_inherits_from_and_where_it_is_named_count() -> None:
    write("cv_base.py", DEFENSE.format(imports="", body="pass"))
    write("cv_mine.py", "import cv_base\n\nclass Mine(cv_base.Mine):\n    pass\n")
    write("cv_again.py", "from cv_mine import Mine\n")
    assert changes("cv_base.py", DEFENSE.format(imports="", body="x = 1"))
    before = version("cv_again.Mine")
    write("cv_again.py", "from cv_mine import Mine\nMine.strength = 2\n")
    assert version("cv_again.Mine") != before


def test_a_class_of_the_users_own_is_of_the_users_files_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    write("cv_helper.py", "x = 1")
    write("cv_mine.py", DEFENSE.format(imports="import cv_helper\nfrom defenses import Masking", body="pass"))
    inner = [{"class": "cv_mine.Mine"}, {"class": "Masking"}]
    every = {"attack": Spec("IDLG"), "defense": Spec("Compose", {"defenses": inner})}
    first = own_code(every)
    assert [*first] == ["cv_mine.Mine"] and own_code({"defense": Spec("cv_mine.Mine")}) == first
    with monkeypatch.context() as patched:  # another version of ours
        other = {file: code.Source("2" if is_ours(file) else one.sha256) for file, one in everything_of(every).items()}
        patched.setattr(code, "followed", lambda files: other)
        assert own_code(every) == first
    write("cv_helper.py", "x = 2")
    assert own_code(every) != first


def everything_of(parts: dict[str, Spec]) -> dict[Path, code.Source]:
    names = [(kind, one.name) for kind, part in parts.items() for one in (part, *part.inner) if "." in one.name]
    return followed({file for kind, name in names for file in files_of(kind, name)})


def test_imports_in_a_circle_end() -> None:
    write("cv_a.py", "import cv_b")
    write("cv_b.py", "import cv_a")
    write("cv_mine.py", DEFENSE.format(imports="import cv_a", body="pass"))
    assert changes("cv_b.py", "import cv_a\nx = 1")


def test_installed_packages_do_not_count() -> None:
    write("cv_mine.py", DEFENSE.format(imports="import numpy, json, torch, scipy.stats", body="pass"))
    version()
    found = followed([Path("cv_mine.py").resolve()])
    assert {file.name for file in found if "defenses" not in file.parts} == {"cv_mine.py"}


@pytest.mark.parametrize("args", [{"file": "weights.pt"}, {"files": ["a", "weights.pt"]}, {"file": "folder"}])
def test_files_that_arguments_name_count(args: dict[str, object]) -> None:
    write("cv_mine.py", DEFENSE.format(imports="", body="pass"))
    write("weights.pt", "1")
    write("folder/weights.pt", "1")
    path = "folder/weights.pt" if args == {"file": "folder"} else "weights.pt"
    assert changes(path, "2", **args)
    assert not changes("other.pt", "2", **args)


@pytest.mark.parametrize(
    ("body", "counts"),
    [
        ('torch.load("mask.bin")', True),
        ('np.load(HERE / "mask.bin")', True),
        ('np.load(os.path.join(HERE, "mask.bin"))', True),
        ('json.load(open("mask.bin"))', True),
        ('Path("mask.bin").read_text()', True),
        ('(HERE / "mask.bin").read_bytes()', True),
        ("open(FILE, 'rb').read()", True),
        ('with open("mask.bin", "w") as file: file.write("x")', False),  # a log is no input
        ('x = "mask.bin"', False),
    ],
)
def test_files_that_the_code_reads_by_name_count(body: str, counts: bool) -> None:
    imports = "from pathlib import Path\nHERE = Path(__file__).parent\nFILE = 'mask.bin'"
    write("cv_mine.py", DEFENSE.format(imports=imports, body=body))
    write("mask.bin", "1")
    assert changes("mask.bin", "2") == counts


def test_a_file_that_the_code_writes_is_no_input() -> None:
    body = 'Path("log").open("a").write("x"); y = Path("log").read_text()'
    write("cv_mine.py", DEFENSE.format(imports="from pathlib import Path", body=body))
    write("log", "1")
    assert not changes("log", "2")


class Loaded(nn.Linear):
    """A network with weights of a file, and a buffer."""

    def __init__(self, weight: float, buffer: float = 0.0) -> None:
        super().__init__(2, 1, bias=False)
        self.given = weight
        self.register_buffer("shift", torch.tensor(buffer))

    def draw(self, generator: torch.Generator) -> dict[str, Tensor]:
        return {"weight": torch.full((1, 2), self.given) + torch.rand(1, 2, generator=generator)}


@pytest.fixture
def of() -> Callable[..., str]:
    def digest(weight: float = 1.0, buffer: float = 0.0, seed: int = 0, victim: int = 0) -> str:
        torch.manual_seed(0)
        return networks_sha256(Loaded(weight, buffer), seed, victim)

    return digest


def test_what_a_model_draws_and_holds_is_told_apart(of: Callable[..., str]) -> None:
    assert of() == of()
    assert len({of(), of(weight=2.0), of(buffer=1.0), of(seed=1), of(victim=1)}) == 5


DECIDE_NOTHING = {
    "benchmark.jobs.attackers": "what trains an attacker has a digest of its own in the key",
    "benchmark.jobs.blocks": "the plan: what it decides is in the key itself",
    "benchmark.jobs.fitting": "how fast an attack is, not what it finds",
    "benchmark.jobs.memory": "how many victims are attacked at once, which changes nothing",
    "benchmark.jobs.pictures": "pictures of what was found",
    "benchmark.jobs.provenance": "where a result comes from",
    "benchmark.jobs.states": "the training of a network has a digest of its own in the key",
}
"""Files of ours that scoring imports and no key follows, with the reason."""


def test_every_file_that_decides_what_leaked_or_converged_is_in_the_key() -> None:
    followed = {f"benchmark.{name.replace('/', '.')}" for name in (*code.FOLLOWED, *code.ALONE)}
    imported = set()
    for name in code.ALONE:
        content = (code.ROOT / "benchmark" / f"{name}.py").read_bytes()
        imported |= {module for _, module, _ in code.source(content).imports}
    scoring = {name for name in imported if name.startswith(("benchmark.jobs.", "benchmark.metrics."))}
    assert "benchmark.jobs.worst_case" in scoring
    assert scoring - followed == DECIDE_NOTHING.keys()
