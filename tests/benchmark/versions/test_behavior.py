"""What an own class does is in the key of its records, whatever it depends on, and nothing else is."""

import importlib
import json
import pickle
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmark.jobs.blocks import Workbench, plan
from benchmark.suite.registry import Spec, spec
from benchmark.suite.suite import parse
from benchmark.training import plan as training_plan
from benchmark.training import suite as training_suite
from benchmark.versions.behavior import Behaviors
from benchmark.versions.held import digest_of
from datamodules import Digits

IMPORTS = """
import importlib
import json
import os
from pathlib import Path

import torch
from torch import nn

from attacks import IDLG, ConstantImage
from benchmark.models import LeNet
from defenses import Defense, KnownDefense

HERE = Path(__file__).parent
"""

READERS = {
    "a default argument": "def number(file='bh_number.txt'):\n    return float(open(file).read())\n",
    "a class attribute": (
        "class Held:\n    FILE = os.path.join(str(HERE), 'bh_' + 'number.txt')\n\n"
        "def number():\n    with open(Held.FILE) as file:\n        return float(file.read())\n"
    ),
    "an f-string": "def number(name='number'):\n    return float((HERE / f'bh_{name}.txt').read_text())\n",
    "a list of files": "def number():\n    return float(sorted(HERE.glob('bh_*.txt'))[0].read_text())\n",
    "a tensor beside it": "def number():\n    return torch.load(Path(__file__).parent / 'bh_number.pt').item()\n",
    "a computed module": "def number(which='module'):\n    return importlib.import_module(f'bh_{which}').NUMBER\n",
    "the environment": "def number():\n    return float(os.environ.get('BH_NUMBER', '1'))\n",
}

CLASSES = """

class D(Defense):
    def protect(self, update, generators):
        return {n: v * number() for n, v in update.items()}

    def known_to_attacker(self):
        return KnownDefense()


class HeadOnly(D):
    # what only the very network of the cell shows
    def protect(self, update, generators):
        return {n: v * number() if n == "7.bias" and v.shape[1:] == (10,) else v for n, v in update.items()}


class Told(D):
    # protect is the same, the attacker is told another thing
    def protect(self, update, generators):
        return {n: v + 0.1 * torch.stack([torch.randn(v.shape[1:], generator=g) for g in generators]).to(v)
                for n, v in update.items()}

    def known_to_attacker(self):
        return KnownDefense(noise_std=0.1 * number())


class A(IDLG):
    def reconstruct(self, observation, callbacks=()):
        found = super().reconstruct(observation, callbacks)
        found.images.mul_(number())
        return found


class Guess(ConstantImage):
    def reconstruct(self, observation, callbacks=()):
        found = super().reconstruct(observation, callbacks)
        return type(found)(found.images * number(), found.labels, found.loss, found.evaluations, found.status)


class M(LeNet):
    # another function of the same weights
    def forward(self, images):
        return super().forward(images * number())


class Float32Only(M):
    def forward(self, images):
        return super().forward((images.float() * torch.tensor(number()))).float()


class InTraining(LeNet):
    def forward(self, images):
        return super().forward(images * (number() if self.training else 1))
"""


@pytest.fixture(autouse=True)
def own_modules(nothing_of_the_developers: None) -> Iterator[None]:
    yield
    forget()


def forget() -> None:
    """As in a new process."""
    for name in [name for name in sys.modules if name.startswith("bh_")]:
        del sys.modules[name]
    from benchmark.suite.registry import arguments

    arguments.cache_clear()


def written(number: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """The number that all classes read, in all places."""
    Path("bh_number.txt").write_text(str(number))
    Path("bh_module.py").write_text(f"NUMBER = {number}\n")
    torch.save(torch.tensor(number), "bh_number.pt")
    monkeypatch.setenv("BH_NUMBER", str(number))
    forget()


def does(train: bool = False, **parts: str) -> str:
    """The digest of some classes, of which those of the user's are given without their module."""
    given = {"model": "LeNet"} | {kind: f"bh_mine.{name}" for kind, name in parts.items()}
    specs = {kind: spec(kind, name, {}) for kind, name in given.items()}
    return Behaviors().of(Digits(), specs, 1 if "attack" in parts else 2, train)


def mine(reader: str) -> None:
    Path("bh_mine.py").write_text(IMPORTS + READERS[reader] + CLASSES)


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("part", ["defense=D", "attack=A", "model=M"])
def test_whatever_an_own_class_depends_on_is_seen(reader: str, part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    mine(reader)
    kind, name = part.split("=")
    found = []
    for number in (1.0, 0.5, 1.0):
        written(number, monkeypatch)
        found.append(does(**{kind: name}))
    assert found[0] == found[2] != found[1]


BUDGETS = """
import functools
import pickle

import numpy as np

CONFIG = "budget"


def of_json(name=CONFIG):
    return json.loads((HERE / f"bh_{name}.json").read_text())["number"]


def of_yaml(name=CONFIG):
    import yaml
    return yaml.safe_load(open(str(HERE) + "/bh_%s.yaml" % name))["number"]


def of_pickle(name=CONFIG):
    with open(HERE / ("bh_" + name + ".pkl"), "rb") as file:
        return pickle.load(file)["number"]


def of_npz(name=CONFIG):
    return int(np.load(f"bh_{name}.npz")["number"])


def of_descriptor(name=CONFIG):
    file = os.open(f"bh_{name}.txt", os.O_RDONLY)
    try:
        return int(os.read(file, 100))
    finally:
        os.close(file)


def of_code(name=CONFIG):
    said = {}
    exec(open(f"bh_{name}_code.py").read(), said)
    return said["number"]


def of_module(name=CONFIG):
    return getattr(importlib.import_module(f"bh_{name}_code"), "number")


def of_loader(name=CONFIG):
    spec = importlib.util.spec_from_file_location("anything", HERE / f"bh_{name}_code.py")
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made.number


def of_environment(name=CONFIG):
    return int(os.getenv(f"BH_{name.upper()}", "0"))


@functools.lru_cache
def of_cache(name=CONFIG):
    return of_json(name)


class Nested:
    def __init__(self, number):
        self.deep = {"list": [(number,)]}


class Held:
    NUMBER = NUMBER_OF()


GLOBAL = NUMBER_OF()


class InInit(IDLG):
    def __init__(self, max_evaluations: int = 20) -> None:
        super().__init__(max_evaluations=max_evaluations, restarts=NUMBER_OF())


class Lazily(IDLG):
    # of the full budget alone
    def reconstruct(self, observation, callbacks=()):
        patience = NUMBER_OF()
        return super().reconstruct(observation, callbacks)


class OfClass(IDLG):
    patience_of_mine = NUMBER_OF()


class OfGlobal(IDLG):
    def reconstruct(self, observation, callbacks=()):
        self.later = GLOBAL + Held.NUMBER
        return super().reconstruct(observation, callbacks)


class OfNested(IDLG):
    def __init__(self) -> None:
        super().__init__(max_evaluations=20)
        self.nested = Nested(NUMBER_OF())


class Bound(Defense):
    # which bites nowhere near the sizes that are tried
    def __init__(self) -> None:
        self.most = 1e9 * NUMBER_OF()

    def protect(self, update, generators):
        return {n: v.clamp(-self.most, self.most) for n, v in update.items()}

    def known_to_attacker(self):
        return KnownDefense()


class LazyBound(Bound):
    def __init__(self) -> None:
        pass

    @property
    def most(self):
        return 1e9 * NUMBER_OF()


class Net(LeNet):
    def __init__(self, image_shape, num_classes) -> None:
        super().__init__(image_shape, num_classes)
        self.most = 1e9 * NUMBER_OF()

    def forward(self, images):
        return super().forward(images.clamp(-self.most, self.most))
"""
WAYS = ("json", "yaml", "pickle", "npz", "descriptor", "code", "module", "loader", "environment", "cache")
PLACES = {
    "attack": ("InInit", "Lazily", "OfClass", "OfGlobal", "OfNested"),
    "defense": ("Bound", "LazyBound"),
    "model": ("Net",),
}


def budgets(way: str) -> None:
    Path("bh_mine.py").write_text(IMPORTS + "\nimport importlib.util\n" + BUDGETS.replace("NUMBER_OF", f"of_{way}"))


def budget(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The number in all ways."""
    Path("bh_budget.json").write_text(json.dumps({"number": number}))
    Path("bh_budget.yaml").write_text(f"number: {number}")
    Path("bh_budget.pkl").write_bytes(pickle.dumps({"number": number}))
    np.savez("bh_budget.npz", number=number)
    Path("bh_budget.txt").write_text(str(number))
    Path("bh_budget_code.py").write_text(f"number = {number}  # of restarts\n")
    monkeypatch.setenv("BH_BUDGET", str(number))
    forget()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", PLACES)
def test_a_number_counts_that_no_short_try_shows(way: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """However it is read, and wherever it is kept: each way with one place for each kind, each place with some way."""
    budgets(way)
    place = PLACES[kind][WAYS.index(way) % len(PLACES[kind])]
    found = []
    for number in (3, 30, 3):
        budget(number, monkeypatch)
        found.append(does(**{kind: place}))
    assert found[0] == found[2] != found[1], place


def test_the_bound_of_a_defense_shows_at_other_sizes_of_an_update(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no file is seen to be opened and the object holds nothing."""
    Path("bh_mine.py").write_text(
        IMPORTS
        + "class D(Defense):\n"
        + "    def protect(self, update, generators):\n"
        + "        most = float(os.popen('echo $BH_BOUND').read())\n"
        + "        return {n: v.clamp(-most, most) for n, v in update.items()}\n\n"
        + "    def known_to_attacker(self):\n        return KnownDefense()\n"
    )
    found = []
    for number in ("100", "200", "100"):
        monkeypatch.setenv("BH_BOUND", number)
        forget()
        found.append(does(defense="D"))
    assert found[0] == found[2] != found[1]


PASSING = {
    "time": "self.x = time.time(), int(time.time()), time.time_ns(), datetime.now(), datetime.now().isoformat()",
    "a name made of the date": "self.x = f'run_{datetime.now():%Y%m%d-%H%M%S}'",
    "a date": "self.x = datetime.now().date(), time.strftime('%b%d_%H-%M-%S'), time.ctime()",
    "random numbers": "self.x = random.random(), np.random.rand(3), np.random.default_rng().random(), torch.rand(2)",
    "a name at random": "self.x = uuid.uuid4(), str(uuid.uuid4()), secrets.token_hex(4)",
    "a temporary folder": "self.x = tempfile.mkdtemp(); (Path(self.x) / 'a').write_text(str(time.time()))",
    "a temporary file that it reads": (
        "f = tempfile.NamedTemporaryFile('w+'); f.write('a'); self.x = open(f.name).read()"
    ),
    "the process": "self.x = os.getpid(), f'worker-{os.getpid()}', socket.gethostname()",
    "an address": "self.x = object(), lambda: 1, id(self), repr(object()), print, threading.Lock(), iter([1])",
    "a cycle": "self.x = {'me': self}; self.x['x'] = self.x",
    "a device": "self.x = torch.device('cpu'), 'cuda' if os.path.exists('bh_gpu') else 'cpu'",
    "a counter": "global CALLS; CALLS += 1; self.x = CALLS",
    "a log": "open('bh_log', 'a').write('begun\\n'); self.x = len(open('bh_log').readlines())",
    "a log by another name": "n = f'bh_{1 + 1}.log'; open(n, 'a').write('a'); self.x = Path(n).read_text()",
    "a count of runs": (
        "p = Path(f'bh_{1 + 1}.count'); self.x = int(p.read_text()) if p.exists() else 0; p.write_text(str(self.x + 1))"
    ),
    "a cache": "p = Path(f'bh_{1 + 1}.json')\n        if not p.exists():\n            p.write_text(str(time.time()))\n"
    "        self.x = p.read_text()",
    "a cache in memory too": "p = Path(f'bh_{1 + 1}.json')\n        if not p.exists():\n            "
    "p.write_text('3')\n            self.x = '3'\n        else:\n            self.x = p.read_text()",
    "a file that is replaced": (
        "Path('bh_new').write_text(str(time.time())); os.replace('bh_new', 'bh_old'); "
        "self.x = Path('bh_old').read_text()"
    ),
    "devices of the system": "open('/dev/null').read(); open('/proc/self/stat').read()",
    "installed packages": "open(torch.__file__).read(); self.x = np.__version__",
    "a file that is missing": "self.x = Path('bh_missing').exists()",
    "where a process runs": "os.environ.get('SLURM_JOB_ID')",
}


@pytest.mark.parametrize("what", PASSING)
@pytest.mark.parametrize("kind", ["attack", "defense", "model"])
def test_what_only_tells_of_the_time_or_the_process_changes_nothing(
    what: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, arguments = {
        "attack": ("ConstantImage", ""),
        "defense": ("Defense", ""),
        "model": ("LeNet", ", image_shape, num_classes"),
    }[kind]
    lines = [
        "import random, secrets, socket, tempfile, threading, time, uuid",
        "from datetime import datetime",
        "import numpy as np",
        "",
        "CALLS = 0",
        "STARTED, RUN, FOLDER = time.time(), uuid.uuid4().hex, tempfile.gettempdir()",
        "",
        f"class Mine({base}):",
        f"    def __init__(self{arguments}) -> None:",
        f"        super().__init__({arguments[2:]})",
        f"        {PASSING[what]}",
    ]
    if kind == "defense":
        lines += ["", *CLASSES.partition("class D(Defense):")[2].partition("\n\n\n")[0].splitlines()]
    for number, text in enumerate((IMPORTS, "# a comment\n" + IMPORTS)):
        monkeypatch.setenv("SLURM_JOB_ID", "7" * (number + 3))
        monkeypatch.setattr("os.getpid", lambda number=number: 4321 + number)
        Path("bh_mine.py").write_text(text + "\n".join(lines).replace("number()", "1.0"))
        Path("bh_unrelated.json").write_text(str(number))
        forget()
        found = does(**{kind: "Mine"})
        if number == 0:
            before = found
            Path("bh_gpu").touch()
    assert found == before != ""


def test_of_a_module_with_a_computed_name_a_comment_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for way, counts in (("module", False), ("loader", False), ("code", True)):
        budgets(way)
        budget(3, monkeypatch)
        before = does(defense="LazyBound")
        Path("bh_budget_code.py").write_text("# another comment\nnumber = 3\n")
        forget()
        assert (does(defense="LazyBound") != before) == counts, way


def test_a_module_that_can_be_imported_only_once_is_seen_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    once = "import sys\nif hasattr(sys, 'bh_once'):\n    raise ImportError('again')\nsys.bh_once = True\n"
    found = []
    for number in (3, 30, 3):
        budgets("json")
        Path("bh_mine.py").write_text(once + Path("bh_mine.py").read_text())
        budget(number, monkeypatch)
        monkeypatch.delattr(sys, "bh_once", raising=False)
        importlib.import_module("bh_mine")
        found.append(does(attack="InInit"))
    assert found[0] == found[2] != found[1]
    monkeypatch.delattr(sys, "bh_once")


@pytest.mark.parametrize("part", ["defense=HeadOnly", "defense=Told", "attack=Guess", "model=Float32Only"])
def test_what_shows_in_one_place_alone_is_seen(part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    mine("the environment")
    kind, name = part.split("=")
    written(1.0, monkeypatch)
    before = does(**{kind: name})
    written(0.5, monkeypatch)
    assert before != does(**{kind: name}) != ""


def test_a_model_counts_as_it_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    mine("the environment")
    for train in (False, True):
        written(1.0, monkeypatch)
        before = does(train, model="InTraining")
        written(0.5, monkeypatch)
        assert (before != does(train, model="InTraining")) == train


def test_classes_that_come_with_leakboard_have_none() -> None:
    parts = {"model": Spec("LeNet"), "attack": Spec("IDLG"), "defense": Spec("Masking", {"ratio": 0.5})}
    assert Behaviors().of(Digits(), parts) == ""


def test_a_class_that_does_not_run_alone_has_a_digest_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    mine("the environment")
    with Path("bh_mine.py").open("a") as file:
        file.write(
            "\n\nclass Two(D):\n    def protect(self, update, generators):\n        assert len(generators) == 2\n"
        )
    written(1.0, monkeypatch)
    assert does(defense="Two") == does(defense="Two") != does(defense="D")


def test_an_attack_that_finds_something_else_each_time_keeps_its_records(monkeypatch: pytest.MonkeyPatch) -> None:
    mine("the environment")
    with Path("bh_mine.py").open("a") as file:
        file.write("\n\nimport numpy as np\n\n\ndef number():\n    return np.random.default_rng().random()\n")
    written(1.0, monkeypatch)
    assert does(attack="Guess") == does(attack="Guess")


def test_rounding_changes_no_digest() -> None:
    """Of 100,000 numbers of many sizes, and of a sum that is zero but for rounding."""
    source = torch.Generator().manual_seed(0)
    numbers = torch.randn(100_000, generator=source, dtype=torch.float64)
    numbers *= 10 ** (3 * torch.rand(100_000, generator=source, dtype=torch.float64))
    off = numbers * (1 + 1e-15 * torch.randn(100_000, generator=source, dtype=torch.float64))
    assert not torch.equal(numbers, off)
    cancelled = torch.tensor([1e-17, -3e-16, 0.0], dtype=torch.float64)
    one = digest_of([{"a": numbers, "b": cancelled}])
    assert one == digest_of([{"a": off, "b": cancelled.flip(0)}])
    assert one != digest_of([{"a": numbers * 1.001, "b": cancelled}])
    assert one != digest_of([{"a": -numbers, "b": cancelled}])
    odd = torch.tensor([float("nan"), float("inf"), -float("inf"), 1.0])
    assert len({digest_of([{"a": odd.roll(by)}]) for by in range(4)}) == 4


def test_a_number_of_threads_and_of_calls_changes_no_digest(monkeypatch: pytest.MonkeyPatch) -> None:
    mine("the environment")
    written(0.5, monkeypatch)
    threads, found = torch.get_num_threads(), []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            torch.manual_seed(count)
            found.append([does(model="M"), does(attack="A"), does(defense="D")])
    finally:
        torch.set_num_threads(threads)
    assert found[0] == found[1]


def test_keys_hold_it_and_those_without_an_own_class_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    mine("an f-string")
    given = {
        "victims": 2,
        "scenarios": [{"data": "Digits", "model": "LeNet"}],
        "attacks": [{"class": "IDLG", "max_evaluations": 20}],
        "defenses": ["bh_mine.D"],
    }
    keys = []
    for number in (1.0, 0.5, 1.0):
        written(number, monkeypatch)
        blocks = plan(parse(given, "mine"), Workbench(torch.device("cpu")))
        keys.append({block.cell.label: block.key for block in blocks})
        assert all(bool(block.behavior) == ("bh_mine" in block.cell.label) for block in blocks)
    assert keys[0] == keys[2]
    assert {name for name in keys[0] if keys[0][name] != keys[1][name]} == {n for n in keys[0] if "bh_mine" in n}


def test_trainings_hold_it_too(monkeypatch: pytest.MonkeyPatch) -> None:
    mine("a class attribute")
    given = {
        "seeds": [0],
        "defenses": ["bh_mine.D"],
        "scenarios": [
            {"data": "Digits", "model": "LeNet", "algorithm": "FedSGD", "clients": 2, "rounds": 1, "learning_rate": 0.1}
            | {"train_images": 40, "test_images": 10}
        ],
    }
    keys = []
    for number in (1.0, 0.5):
        written(number, monkeypatch)
        suite = training_suite.parse(given, "mine")
        bench = Workbench(torch.device("cpu"))
        keys.append({run.training.label: run.key for run in training_plan.plan(suite, bench)})
    changed = {name for name in keys[0] if keys[0][name] != keys[1][name]}
    assert changed == {name for name in keys[0] if "bh_mine" in name} != set(keys[0])
