"""MNIST and CIFAR from tiny hand-made files in the real formats: whole, partial, damaged."""

import gzip
import hashlib
import os
import pickle
import struct
import warnings
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch

from datamodules import CIFAR10, CIFAR10JPEG, CIFAR100, MNIST, DataError, FashionMNIST
from datamodules.disk import TorchvisionData

torch.set_num_threads(1)
# Small files made here stand for the data sets; the warning has a test of its own.
pytestmark = pytest.mark.filterwarnings("ignore:.*verify_integrity=False")


def pixels(n: int, *shape: int, seed: int = 0) -> numpy.ndarray[Any, Any]:
    return numpy.random.default_rng(seed).integers(0, 256, (n, *shape), dtype=numpy.uint8)


def idx(array: numpy.ndarray[Any, Any]) -> bytes:
    header = struct.pack(f">I{array.ndim}I", 0x800 + array.ndim, *array.shape)
    return header + array.tobytes()


def write_mnist(folder: Path, packed: bool, train: int = 6, test: int = 4) -> None:
    folder.mkdir(parents=True)
    for part, n in [("train", train), ("t10k", test)]:
        images = pixels(n, 28, 28, seed=n)
        labels = numpy.arange(n, dtype=numpy.uint8) % 10
        for name, array in [("images-idx3", images), ("labels-idx1", labels)]:
            content = idx(array)
            path = folder / f"{part}-{name}-ubyte{'.gz' if packed else ''}"
            path.write_bytes(gzip.compress(content) if packed else content)


def write_cifar(folder: Path, names: list[str], key: str = "labels", rows: int = 4) -> None:
    folder.mkdir(parents=True)
    for i, name in enumerate(names):
        batch = {"data": pixels(rows, 3072, seed=i), key: [(i + j) % 10 for j in range(rows)]}
        (folder / name).write_bytes(pickle.dumps(batch, protocol=2))  # no key "filenames"


CIFAR10_FILES = [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("kind", [MNIST, FashionMNIST])
def test_idx(tmp_path: Path, kind: type[MNIST], packed: bool) -> None:
    write_mnist(tmp_path / kind.__name__ / "raw", packed)
    before = sorted(tmp_path.rglob("*"))
    data = kind(root=str(tmp_path), verify_integrity=False)
    data.setup()
    images, labels = data.victims(2, batch_size=2)
    assert labels.tolist() == [[0, 1], [2, 3]]
    expected = torch.from_numpy(pixels(4, 28, 28, seed=4)).float() / 255
    assert torch.equal(images.flatten(0, 2), expected)
    assert len(data.train_split) == 6 and data.num_classes == 10
    assert torch.equal(data.class_means()[9], data.mean_image())  # no train image of class 9
    assert sorted(tmp_path.rglob("*")) == before  # a data root is never written to


@pytest.mark.parametrize("packed", [False, True])
def test_idx_that_is_not_the_original_is_refused(tmp_path: Path, packed: bool) -> None:
    write_mnist(tmp_path / "MNIST/raw", packed)
    with pytest.raises(DataError, match=r"t10k-images-idx3-ubyte.* set verify_integrity=False"):
        MNIST(root=str(tmp_path)).setup()


def test_idx_of_original_size_is_accepted(tmp_path: Path) -> None:
    write_mnist(tmp_path / "FashionMNIST/raw", packed=False, train=1, test=10_000)
    data = FashionMNIST(root=str(tmp_path))
    data.setup()
    assert data.num_victims() == 10_000 and data.notes == []


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", ["t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"])
@pytest.mark.parametrize("damage", ["cut", "empty", "garbled"])
def test_damaged_idx_is_named(tmp_path: Path, packed: bool, name: str, damage: str) -> None:
    write_mnist(tmp_path / "MNIST/raw", packed)
    path = tmp_path / "MNIST/raw" / (f"{name}.gz" if packed else name)
    content = path.read_bytes()
    path.write_bytes({"cut": content[:-3], "empty": b"", "garbled": b"\xff" * 99}[damage])
    with pytest.raises(DataError, match=f"{path} is damaged"):
        MNIST(root=str(tmp_path), verify_integrity=False).setup()


@pytest.mark.parametrize(
    ("name", "array", "reason"),
    [
        ("t10k-images-idx3-ubyte", pixels(3, 28, 28), "3 images but 4 labels"),
        ("t10k-images-idx3-ubyte", pixels(4, 9, 9), "shape"),
        ("t10k-labels-idx1-ubyte", numpy.full(4, 10, numpy.uint8), "outside 0 to 9"),
    ],
)
def test_idx_that_does_not_fit(tmp_path: Path, name: str, array: Any, reason: str) -> None:
    write_mnist(tmp_path / "MNIST/raw", packed=False)
    (tmp_path / "MNIST/raw" / name).write_bytes(idx(array))
    with pytest.raises(DataError, match=f"t10k.*{reason}"):
        MNIST(root=str(tmp_path), verify_integrity=False).setup()


def test_partial_cifar10(tmp_path: Path) -> None:
    write_cifar(tmp_path / "partial/cifar-10-batches-py", CIFAR10_FILES)
    data = CIFAR10(root=str(tmp_path), verify_integrity=False)
    with pytest.warns(UserWarning, match="4 of 10000 test") as caught:
        data.setup()
        data.setup()
    assert len(caught) == 1
    assert data.notes == [
        "CIFAR10 read with verify_integrity=False: 4 of 10000 test images and 20 of 50000 train images"
    ]
    images, labels = data.victims(4)
    assert labels.flatten().tolist() == [5, 6, 7, 8]
    row = pixels(4, 3072, seed=5)[2]  # stored as 1,024 red, 1,024 green, 1,024 blue
    assert images[2, 0, 1, 3, 7] == torch.tensor(row[1024 + 3 * 32 + 7] / 255).float()
    assert data.train_labels.tolist()[3:6] == [3, 1, 2]  # batch files in their order


def test_partial_is_not_taken_unasked(tmp_path: Path) -> None:
    write_cifar(tmp_path / "partial/cifar-10-batches-py", CIFAR10_FILES)
    with pytest.raises(DataError, match=r"only a part of it.* verify_integrity=False"):
        CIFAR10(root=str(tmp_path)).setup()


def test_cifar100_has_fine_labels(tmp_path: Path) -> None:
    write_cifar(tmp_path / "cifar-100-python", ["train", "test"], key="fine_labels")
    data = CIFAR100(root=str(tmp_path), verify_integrity=False)
    assert data.victims(1, 4)[1].tolist() == [[1, 2, 3, 4]]
    assert data.class_means().shape == (100, 3, 32, 32)


def test_cifar_md5(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_cifar(tmp_path / "cifar-10-batches-py", CIFAR10_FILES)
    path = tmp_path / "cifar-10-batches-py/test_batch"
    with pytest.raises(DataError, match=f"{path} is not the original file"):
        CIFAR10(root=str(tmp_path)).setup()
    md5 = hashlib.md5(path.read_bytes()).hexdigest()
    monkeypatch.setattr(CIFAR10.dataset, "test_list", [["test_batch", md5]])
    data = CIFAR10(root=str(tmp_path))
    data.setup()
    assert data.num_victims() == 4 and data.notes == []
    with pytest.raises(DataError, match="data_batch_1 is not the original file"):
        data.mean_image()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no pickle at all",
        pickle.dumps({"data": pixels(4, 3072)})[:-50],
        pickle.dumps({"data": pixels(4, 3072)}),
        pickle.dumps({"data": pixels(4, 100), "labels": [0] * 4}),
        pickle.dumps([1, 2]),
        pickle.dumps({"data": pixels(4, 3072), "labels": [0] * 3}),
        pickle.dumps({"data": pixels(4, 3072), "labels": [0, 1, 2, 10]}),
        pickle.dumps({"data": pixels(4, 3072).astype(float), "labels": [0] * 4}),
    ],
)
@pytest.mark.parametrize("name", ["test_batch", "data_batch_3"])
def test_damaged_pickle_is_named(tmp_path: Path, name: str, content: bytes) -> None:
    write_cifar(tmp_path / "cifar-10-batches-py", CIFAR10_FILES)
    path = tmp_path / "cifar-10-batches-py" / name
    path.write_bytes(content)
    with pytest.raises(DataError, match=f"{path} "):
        CIFAR10(root=str(tmp_path), verify_integrity=False).setup()


@pytest.mark.timeout(10)
@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (MNIST, "MNIST/raw/t10k-images-idx3-ubyte"),
        (MNIST, "MNIST/raw/t10k-images-idx3-ubyte.gz"),
        (CIFAR10, "cifar-10-batches-py/test_batch"),
        (CIFAR10JPEG, "cifar-10-jpeg/test.npz"),
    ],
)
def test_a_pipe_in_the_place_of_a_file_does_not_hang(tmp_path: Path, kind: Any, name: str) -> None:
    (tmp_path / name).parent.mkdir(parents=True)
    os.mkfifo(tmp_path / name)
    with pytest.raises(DataError, match=f"{name} is not a regular file: replace it with one"):
        kind(root=str(tmp_path)).setup()


@pytest.mark.parametrize("kind", [MNIST, FashionMNIST, CIFAR10, CIFAR100])
@pytest.mark.parametrize("verify", [True, False])
def test_missing(tmp_path: Path, kind: Any, verify: bool) -> None:
    data = kind(root=str(tmp_path / "nowhere"), verify_integrity=verify)
    data.prepare_data()  # downloads nothing, as nobody asked for it
    with pytest.raises(DataError) as caught:
        data.setup()
    message = str(caught.value)
    for part in [str(tmp_path / "nowhere" / kind.folder), "--data-root", "LEAKBOARD_DATA"]:
        assert part in message
    assert "--download" in message and message.count("\n") == 0
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("kind", [MNIST, CIFAR10])
def test_download_without_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: Any) -> None:
    def no_network(*_: Any, **__: Any) -> None:
        raise OSError("no route\nto host")

    monkeypatch.setattr("urllib.request.urlopen", no_network)
    with pytest.raises(DataError, match=r"could not be downloaded.*no route to host"):
        kind(root=str(tmp_path), download=True).prepare_data()


def test_a_forbidden_file_is_not_called_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: Any, **__: Any) -> None:
        raise PermissionError("no")

    monkeypatch.setattr(Path, "stat", forbidden)
    with pytest.raises(DataError, match="may not be read"):
        MNIST(root=str(tmp_path)).setup()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_unreadable_folder(tmp_path: Path) -> None:
    write_mnist(tmp_path / "MNIST/raw", packed=False)
    (tmp_path / "MNIST").chmod(0)
    try:
        with pytest.raises(DataError, match="may not be read"):
            MNIST(root=str(tmp_path)).setup()
    finally:
        (tmp_path / "MNIST").chmod(0o755)


def test_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LEAKBOARD_DATA", raising=False)
    assert MNIST().root == Path("data")
    monkeypatch.setenv("LEAKBOARD_DATA", str(tmp_path))
    assert MNIST().root == tmp_path
    assert MNIST(root="elsewhere").root == Path("elsewhere")


# Real data: beside the repository, never in it

SHARED = Path(__file__).parents[3] / "shared" / "data"
real = pytest.mark.skipif(not SHARED.is_dir(), reason="../shared/data is not here")


@real
def test_real_mnist() -> None:
    data = MNIST(root=str(SHARED))
    data.setup()
    assert data.notes == [] and data.num_victims() == 10_000 and len(data.train_split) == 60_000
    assert data.victims(10)[1].flatten().tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
    assert abs(data.mean_image().mean() - 0.1307) < 1e-4  # the constant of every MNIST tutorial


@real
@pytest.mark.parametrize(
    ("kind", "test", "train", "labels"),
    [
        (FashionMNIST, 6900, 8200, [9, 2, 1, 1, 6]),
        (CIFAR10, 1017, 8336, [3, 8, 8, 0, 6]),
        (CIFAR100, 916, 1117, [49, 33, 72, 51, 71]),
    ],
)
def test_real_parts(kind: type[TorchvisionData], test: int, train: int, labels: list[int]) -> None:
    data: Any = kind(root=str(SHARED), verify_integrity=False)  # of each kind, not of their base
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data.setup()
    assert data.num_victims() == test and len(data.train_split) == train
    assert data.victims(5)[1].flatten().tolist() == labels
    assert f"{test} of 10000" in data.notes[0] and 0.2 < data.mean_image().mean() < 0.5
    with pytest.raises(DataError, match="only a part"):
        kind(root=str(SHARED)).setup()  # of each kind, not of their base
