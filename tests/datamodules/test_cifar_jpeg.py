"""CIFAR-10 as JPEG, from tiny hand-made files in its format."""

import io
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from PIL import Image

from datamodules import CIFAR10JPEG, DataError


def write(folder: Path, rows: int, labels: list[int] | None = None, size: int = 32) -> list[Image.Image]:
    """Both files; returns the images as they are decoded."""
    folder.mkdir(parents=True, exist_ok=True)
    pixels = numpy.random.default_rng(0).integers(0, 256, (rows, size, size, 3), dtype=numpy.uint8)
    files = []
    for image in pixels:
        file = io.BytesIO()
        Image.fromarray(image).save(file, "JPEG")
        files.append(file.getvalue())
    arrays: dict[str, Any] = {
        "jpeg": numpy.frombuffer(b"".join(files), dtype=numpy.uint8),
        "offset": numpy.cumsum([0, *map(len, files)]),
        "label": numpy.array(labels or list(range(rows)), dtype=numpy.uint8),
    }
    for name in ("train", "test"):
        numpy.savez(folder / f"{name}.npz", **arrays)
    return [Image.open(io.BytesIO(file)) for file in files]


def test_the_images_are_those_that_were_packed_in_their_order(tmp_path: Path) -> None:
    expected = write(tmp_path / "cifar-10-jpeg", 5)
    data = CIFAR10JPEG(root=str(tmp_path))
    data.setup()
    images, labels = data.victims(5)
    assert labels.flatten().tolist() == [0, 1, 2, 3, 4] and images.shape == (5, 1, 3, 32, 32)
    for image, one in zip(images, expected, strict=True):
        assert torch.equal(image[0], torch.from_numpy(numpy.array(one)).permute(2, 0, 1).float() / 255)
    assert len(data.train_split) == 5
    assert data.notes == ["CIFAR10JPEG is a lossy copy of CIFAR-10, for training only"]
    assert "never attack" in (CIFAR10JPEG.__doc__ or "")


def test_missing_and_damaged_files_are_told(tmp_path: Path) -> None:
    folder = tmp_path / "cifar-10-jpeg"
    data = CIFAR10JPEG(root=str(tmp_path))
    with pytest.raises(DataError, match=r"test\.npz is not there: point --data-root PATH"):
        data.setup()
    write(folder, 3, labels=[1, 10, 2])
    with pytest.raises(DataError, match="other images or labels than CIFAR-10 has"):
        data.setup()
    write(folder, 3, size=16)
    with pytest.raises(DataError, match="other images or labels than CIFAR-10 has"):
        data.setup()
    whole = (folder / "test.npz").read_bytes()
    (folder / "test.npz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"test\.npz is damaged or not of the expected format"):
        data.setup()
