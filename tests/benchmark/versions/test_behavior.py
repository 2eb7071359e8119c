"""What an own class does is in the key of its records, whatever it depends on, and nothing else is."""

from itertools import cycle, product
from pathlib import Path

import pytest
import torch

from benchmark.jobs.blocks import Workbench, plan
from benchmark.suite.registry import Spec
from benchmark.suite.suite import parse
from benchmark.training import plan as training_plan
from benchmark.training import suite as training_suite
from benchmark.versions.behavior import Behaviors
from benchmark.versions.held import digest_of
from datamodules import Digits
from tests.benchmark.versions.conftest import CLASSES, IMPORTS, READERS, does, forget, mine, written

pytestmark = pytest.mark.usefixtures("own_modules_forgotten")


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


IN_TURN = zip(PASSING, cycle(["attack", "defense"]), strict=False)
TRIED = [*IN_TURN, *product(PASSING, ["model"])]
"""What an object of an attack holds is looked at like that of a defense; a module holds more, and in another way."""


@pytest.mark.parametrize(("what", "kind"), TRIED)
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
