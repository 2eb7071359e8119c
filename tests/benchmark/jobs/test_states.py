"""Trained networks: trained once, whatever happens, and never taken for others."""

import errno
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmark.errors import UsageError
from benchmark.federation.pretraining import follow
from benchmark.federation.state import TrainingState
from benchmark.jobs import states
from benchmark.jobs.states import CPU, identity, read, trained, write
from benchmark.suite.registry import Spec, build, spec
from datamodules import Digits, Photos, PrivateData

ONCE = TrainingState(epochs=1, train_images=200, learning_rate=0.3)
NETWORK = spec("model", "MLP", {"activation": "relu"})


@pytest.fixture(autouse=True)
def own_modules(nothing_of_the_developers: None) -> Iterator[None]:
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.startswith("st_"):
            del sys.modules[name]


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return list(first) == list(second) and all(torch.equal(value, second[name]) for name, value in first.items())


def never(*_: object) -> Any:
    pytest.fail("trained again")


def test_what_is_trained_is_what_the_recipe_gives_and_is_trained_once(
    digits: Digits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = trained(ONCE, NETWORK, digits, 3, tmp_path)
    expected = follow(ONCE, build("model", NETWORK, image_shape=(1, 8, 8), num_classes=10), "MLP", digits, 3, print)
    assert same(found, expected)
    said = capsys.readouterr().err.splitlines()
    what = "leakboard: MLP on Digits after 1 epoch (learning_rate=0.3, train_images=200): "
    assert said == [f"{what}training, once; the weights are kept in {tmp_path / 'states'}", f"{what}trained in 0:00:01"]
    assert [path.suffix for path in (tmp_path / "states").iterdir()] == [".pt"]
    monkeypatch.setattr(states, "follow", never)
    assert same(trained(ONCE, NETWORK, digits, 3, tmp_path), expected)
    assert capsys.readouterr().err == ""


def test_a_folder_of_another_run_gives_the_same_bytes(digits: Digits, tmp_path: Path) -> None:
    for name in ("a", "b"):
        trained(ONCE, NETWORK, digits, 3, tmp_path / name)
    (first,), (second,) = (list((tmp_path / name / "states").iterdir()) for name in ("a", "b"))
    assert first.name == second.name and first.read_bytes() == second.read_bytes()


MODEL = """
from benchmark.models import MLP
class Mine(MLP):
    def forward(self, images):
        return super().forward(images * {factor})
"""

DATA = """
from datamodules import Digits
from st_helper import flip
class Turned(Digits):
    def train_dataloader(self):
        return [(flip(images), labels) for images, labels in super().train_dataloader()]
"""

HELPER = "def flip(images): return images.flip(dims=({dims},))"


def key(state: TrainingState, network: Spec, data: PrivateData, seed: int) -> str:
    made = build("model", network, image_shape=data.image_shape, num_classes=data.num_classes)
    return str(identity(state, network, made, data, seed))


def test_whatever_decides_the_weights_is_in_their_name(digits: Digits) -> None:
    keys = [
        key(ONCE, NETWORK, digits, 0),
        key(ONCE, NETWORK, digits, 1),
        key(TrainingState(epochs=2, train_images=200, learning_rate=0.3), NETWORK, digits, 0),
        key(TrainingState(epochs=1, train_images=200), NETWORK, digits, 0),
        key(TrainingState(rounds=1, train_images=200), NETWORK, digits, 0),
        key(ONCE, spec("model", "MLP", {"activation": "sigmoid"}), digits, 0),
        key(ONCE, spec("model", "LeNet", {}), digits, 0),
        key(ONCE, NETWORK, Photos(size=8), 0),
    ]
    assert len(set(keys)) == len(keys) and keys[0] == key(ONCE, NETWORK, Digits(), 0)


@pytest.mark.parametrize("changed", ["model", "checkpoint", "helper of the loader"])
def test_changed_code_and_files_of_the_user_give_another_network(changed: str, digits: Digits) -> None:
    def write_all(factor: float, dims: int) -> None:
        for name in [name for name in sys.modules if name.startswith("st_")]:
            del sys.modules[name]
        Path("st_model.py").write_text(MODEL.format(factor=factor))
        Path("st_data.py").write_text(DATA)
        Path("st_helper.py").write_text(HELPER.format(dims=dims))

    def now() -> str:
        data: PrivateData = build("data", spec("data", "st_data.Turned", {}))
        data.setup()
        names = {"model": "st_model.Mine", "checkpoint": "ResNet20", "helper of the loader": "MLP"}
        args = {"checkpoint": "kept.pt", "mean": [0.5], "std": [0.5]} if changed == "checkpoint" else {}
        return key(ONCE, spec("model", names[changed], args), data, 0)

    write_all(1.0, -1)
    weights = build("model", spec("model", "ResNet20", {}), image_shape=(1, 8, 8), num_classes=10).state_dict()
    torch.save(weights, "kept.pt")
    before = now()
    assert now() == before
    if changed == "checkpoint":
        torch.save({name: value + 0.1 for name, value in weights.items()}, "kept.pt")
    else:
        write_all(2.0 if changed == "model" else 1.0, -2 if changed == "helper of the loader" else -1)
    assert now() != before


def broken(path: Path, how: str) -> None:
    content = path.read_bytes()
    middle = len(content) // 2
    found = {
        "empty": b"",
        "cut off": content[:middle],
        "text": b"no weights",
        "a bit flipped": content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :],
    }
    if how == "of another form":
        torch.save({"weights": {"a": torch.ones(2)}}, path)
    elif how == "with code":
        torch.save({"weights": print, "sha256": ""}, path)
    else:
        path.write_bytes(found[how])


@pytest.mark.parametrize("how", ["empty", "cut off", "text", "a bit flipped", "of another form", "with code"])
def test_a_damaged_file_is_told_and_trained_again(
    how: str, digits: Digits, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = trained(ONCE, NETWORK, digits, 3, tmp_path)
    (path,) = (tmp_path / "states").iterdir()
    whole = path.read_bytes()
    broken(path, how)
    capsys.readouterr()
    assert same(trained(ONCE, NETWORK, digits, 3, tmp_path), found)
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 3 and f"{path} is damaged (" in said[0] and said[0].endswith("): it is trained again")
    assert path.read_bytes() == whole


def test_weights_of_all_types_and_shapes_are_read_as_they_were_written(tmp_path: Path) -> None:
    weights = {
        "scalar": torch.tensor(3),
        "empty": torch.empty(0, 3),
        "half": torch.rand(3).half(),
        "bfloat": torch.rand(2, 2).bfloat16(),
        "double": torch.rand(4, dtype=torch.float64),
        "flag": torch.tensor([True, False]),
        "part": torch.rand(4, 4)[:, 1],
    }
    write(tmp_path / "x.pt", {"a": 1}, weights)
    found = read(tmp_path / "x.pt", CPU)
    assert found is not None and same(found, weights)
    assert {name: value.dtype for name, value in found.items()} == {n: v.dtype for n, v in weights.items()}
    assert (tmp_path / "x.pt").stat().st_size < 10_000  # not all of what a view is a part of


def test_networks_are_kept_in_the_users_cache_or_where_a_variable_says(monkeypatch: pytest.MonkeyPatch) -> None:
    assert states.cache_folder() == Path.cwd() / "cache"  # as the fixture says
    monkeypatch.delenv("LEAKBOARD_CACHE")
    monkeypatch.setenv("HOME", "/somebody")
    assert states.cache_folder() == Path("/somebody/.cache/leakboard")

    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", no_home)
    with pytest.raises(UsageError, match="set LEAKBOARD_CACHE to a folder"):
        states.cache_folder()


def test_a_failure_leaves_nothing_behind(digits: Digits, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="diverged"):
        trained(TrainingState(epochs=1, learning_rate=1e30), NETWORK, digits, 3, tmp_path)
    assert not list((tmp_path / "states").iterdir())


def test_a_folder_that_cannot_be_written_is_told_before_the_training(
    digits: Digits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(states, "follow", never)
    (tmp_path / "states").write_text("a file")
    with pytest.raises(UsageError, match="cannot be"):
        trained(ONCE, NETWORK, digits, 3, tmp_path)


@pytest.mark.parametrize("what", ["tempfile.TemporaryFile", "os.fsync", "filelock.FileLock.acquire"])
def test_where_the_folder_cannot_be_written_the_variable_that_names_it_is_told(
    digits: Digits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    def read_only(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(states, "tidy", lambda *_: None)  # which takes locks, too
    monkeypatch.setattr(what, read_only)
    with pytest.raises(UsageError, match=r"Read-only file system\).* set LEAKBOARD_CACHE to another folder"):
        trained(ONCE, NETWORK, digits, 3, tmp_path)


def fake(log: Path, seconds: float) -> Any:
    """A training that takes a while and says who did it."""

    def follow(*_: object) -> dict[str, Tensor]:
        with log.open("a") as file:
            file.write(f"{os.getpid()}\n")
        time.sleep(seconds)
        return {"weight": torch.arange(3.0)}

    return follow


def wait_for(log: Path) -> None:
    until = time.monotonic() + 30
    while not (log.exists() and log.read_text()) and time.monotonic() < until:  # it is there before it is written
        time.sleep(0.01)


@pytest.fixture
def forked(digits: Digits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Starts a process that wants the network, whose training is replaced by one that takes so long."""
    monkeypatch.setattr(states, "identity", lambda *_: {"the": "same"})

    def start(seconds: float) -> Any:
        monkeypatch.setattr(states, "follow", fake(tmp_path / "log", seconds))
        process = multiprocessing.get_context("fork").Process(target=trained, args=(ONCE, NETWORK, digits, 3, tmp_path))
        process.start()
        return process

    return start


def test_of_several_processes_one_trains_and_the_others_wait(
    forked: Any, digits: Digits, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    others = [forked(0.5) for _ in range(2)]
    wait_for(tmp_path / "log")
    found = trained(ONCE, NETWORK, digits, 3, tmp_path)
    for process in others:
        process.join(30)
    assert [process.exitcode for process in others] == [0, 0]
    assert torch.equal(found["weight"], torch.arange(3.0))
    assert len((tmp_path / "log").read_text().split()) == 1
    assert "another process is training it" in capsys.readouterr().err
    assert [path.suffix for path in (tmp_path / "states").iterdir()] == [".pt"]


def test_of_a_killed_process_another_takes_over(
    forked: Any, digits: Digits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = forked(60)
    wait_for(tmp_path / "log")
    os.kill(process.pid, signal.SIGKILL)
    process.join(30)
    monkeypatch.setattr(states, "follow", fake(tmp_path / "log", 0))
    assert torch.equal(trained(ONCE, NETWORK, digits, 3, tmp_path)["weight"], torch.arange(3.0))
    assert (tmp_path / "log").read_text().split() == [str(process.pid), str(os.getpid())]
    assert [path.suffix for path in (tmp_path / "states").iterdir()] == [".pt"]


def test_a_long_training_says_once_how_much_is_left(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 100.0
    monkeypatch.setattr(states.time, "perf_counter", lambda: now)
    clock = states.Clock("MLP on Digits")
    for step in range(1, 101):
        now += 1.0
        clock.reached(step, 100)
    assert capsys.readouterr().err == "leakboard: MLP on Digits: about 0:01:29 left\n"
