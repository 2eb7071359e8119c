"""What the tests share: one thread, and victims made of scikit-learn's digits.

What takes seconds to import is imported where it is used: the process that hands tests to workers reads this file too,
and runs none of them.
"""

import atexit
import gc
import hashlib
import sys
from collections.abc import Callable, Iterator
from copy import deepcopy
from functools import cache
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from benchmark.garbage import uncollected
from benchmark.identity import digest, identity

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from attacks import Observation
    from benchmark.models.draw import Model
    from datamodules import Digits
    from defenses import Defense


class Victims(NamedTuple):
    """Private batches, and what is seen of them."""

    images: "Tensor"
    labels: "Tensor"
    observation: "Observation"


MakeVictims = Callable[..., Victims]


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """What is imported and collected stays to the end: Python need not look at a million objects again and again."""
    with uncollected():
        done = yield
    gc.freeze()
    atexit.register(gc.unfreeze)  # or what has a destructor complains at the end of Python
    return done


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """For each test anew: a command that was called with more leaves them behind, and slows what comes after."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def own_modules_compiled_anew() -> Iterator[None]:
    """Tests write modules of the same size within a second, which Python would take for what it has compiled before."""
    kept = SourceFileLoader.set_data

    def keep_installed(self: SourceFileLoader, path: str, data: bytes, **mode: Any) -> None:
        if "site-packages" in Path(path).parts:
            kept(self, path, data, **mode)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(SourceFileLoader, "set_data", keep_installed)
        yield


@pytest.fixture(scope="session", autouse=True)
def plugins_looked_up_once() -> Iterator[None]:
    """Each Trainer of Lightning's looks through all installed packages for plugins, of which tests make thousands."""
    from lightning.fabric.utilities import registry

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(registry, "entry_points", cache(registry.entry_points))
        yield


@pytest.fixture(scope="session", autouse=True)
def digits_parsed_once() -> Iterator[None]:
    """Scikit-learn has its digits as text, which takes longer than many a test; each reader gets a copy of its own."""
    from datamodules import embedded

    parsed = cache(embedded.load_digits)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(embedded, "load_digits", lambda: deepcopy(parsed()))
        yield


@pytest.fixture(scope="session", autouse=True)
def our_imports_followed_once() -> Iterator[None]:
    """Each run looks for what our files import, which stays the same; what a user's files do is looked for anew."""
    from benchmark.versions import code

    anew, once, ours = code.imported, cache(code.imported), cache(code.is_ours)

    def imported(file: Path, level: int, module: str, names: tuple[str, ...]) -> list[Path]:
        return (once if ours(file) else anew)(file, level, module, names)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(code, "imported", imported)
        patched.setattr(code, "is_ours", ours)
        yield


@pytest.fixture(scope="session")
def digits() -> "Digits":
    from datamodules import Digits

    data = Digits()
    data.setup()
    return data


@pytest.fixture(scope="session")
def victims_of(digits: "Digits") -> MakeVictims:
    """Victims of the digits: ``victims_of(count)`` and what differs from one image, a LeNet and no defense."""
    import torch

    from benchmark.federation.client import PublicData, observe
    from benchmark.federation.setting import Setting
    from benchmark.models import LeNet

    def make(
        count: int,
        batch_size: int = 1,
        model: "type[Model]" = LeNet,
        dtype: "torch.dtype" = torch.float32,
        defense: "Defense | None" = None,
        adaptive: bool = False,
        first: int = 0,
        shared: bool = False,
        public_images: int = 0,
    ) -> Victims:
        images, labels = digits.victims(count, batch_size, first)
        network = model(digits.image_shape, digits.num_classes).to(dtype)
        public, setting = PublicData.of(digits, images=public_images), Setting(shared=shared)
        numbers = range(first, first + count)
        seen = observe(network, images, labels, public, defense, adaptive, 0, numbers, setting)
        return Victims(images, labels, seen)

    return make


@pytest.fixture
def nothing_of_the_developers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An empty folder to be in, without data or weights; own modules in it are found and forgotten."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LEAKBOARD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))
    monkeypatch.delenv("LEAKBOARD_DATA", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if Path(getattr(sys.modules[name], "__file__", None) or "/").is_relative_to(tmp_path):
            del sys.modules[name]  # another test may have a module of that name


MakeRecord = Callable[..., dict[str, Any]]


@pytest.fixture(scope="session")
def made_record() -> MakeRecord:
    """A record as a run writes it, made by hand: ``made_record(first, count)`` and what its configuration has else."""

    def make(first: int = 0, count: int = 2, pixels: str = "d", code: str = "c", **config: Any) -> dict[str, Any]:
        config = {
            "schema": 1,
            "data": {"class": "Digits"},
            "model": {"class": "LeNet", "init_range": 0.5},
            "batch_size": 1,
            "same_class": 1,
            "seed": 0,
            "defense": None,
            "attack": {"class": "IDLG", "max_evaluations": 10, "tolerance": 1e-06},
            "adaptive": False,
        } | config
        images = config["batch_size"]
        victim = {
            "status": "exhausted",
            "start": "noise",
            "evaluations": 10,
            "loss": 0.25,
            "mse": [0.001] * images,
            "psnr": [30.0] * images,
            "ssim": [0.9] * images,
            "lpips": None,
            "null_psnr": [11.5] * images,
            "null_ssim": [0.25] * images,
            "leaked_any": True,
            "leaked_all": True,
            "label_correct": [True] * images,
        }
        pixel = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg=="
        record = {
            "key": "",
            "cell": digest(config),
            "config": config,
            "code_sha256": hashlib.sha256(code.encode()).hexdigest(),
            "network_sha256": ["0123456789abcdef", "fedcba9876543210"],
            "provenance": {
                "date": "2026-01-01T00:00:00Z",
                "commit": "0123456789ab",
                "device": "cpu",
                "threads": 1,
                "versions": {"python": "3.11.7", "torch": "2.11.0"},
                "lpips": "no weights",
                "data_sha256": hashlib.sha256(pixels.encode()).hexdigest(),
                "data_notes": [],
                "data_chain": [digest([pixels, index]) for index in range(first - 1, first + count)],
            },
            "cost": {"seconds": 0.5, "victims_at_once": 2, "peak_memory_mib": 500, "notes": []},
            "victims": [{"index": index} | victim for index in range(first, first + count)],
            "curve": {
                "evaluations": [0, 10],
                "loss": [[None, 0.25]] * count,
                "psnr": [[5.0, 30.0]] * count,
                "levels": [0.09],
                "passed": [[None]] * count,
            },
            "picture": pixel,
        }
        return record | {"key": digest(identity(record))}

    return make
