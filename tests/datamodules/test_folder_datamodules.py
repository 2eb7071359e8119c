"""LFW and ImageFolder from hand-made JPEG and PNG folders."""

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from datamodules import LFW, DataError, ImageFolder

torch.set_num_threads(1)


def write(folder: Path, classes: dict[str, int], suffix: str = "png", side: int = 40) -> None:
    """Write one-colored images: red tells the class, green the place in the class."""
    for c, (name, count) in enumerate(classes.items()):
        (folder / name).mkdir(parents=True)
        for i in range(count):
            image = Image.new("RGB", (side, side), (10 * c, 10 * i, 255))
            image.save(folder / name / f"{name}_{i + 1:04d}.{suffix}")


def places(images: torch.Tensor) -> list[tuple[int, int]]:
    colors = (images.flatten(0, 1)[:, :2, 0, 0] * 255 / 10).round().int()
    return [(c, i) for c, i in colors.tolist()]


def test_victims_take_turns_and_every_fourth_image_is_public(tmp_path: Path) -> None:
    write(tmp_path / "faces", {"Ann": 6, "Bob": 1, "Cy": 3})
    data = ImageFolder(path="faces", size=4, root=str(tmp_path))
    data.setup()
    images, labels = data.victims(data.num_victims())
    assert images.shape == (9, 1, 3, 4, 4)
    order = [(0, 0), (1, 0), (2, 0), (0, 1), (2, 1), (0, 2), (2, 2), (0, 4), (0, 5)]
    assert places(images) == order
    assert labels.flatten().tolist() == [c for c, _ in order]
    assert places(data.train_images.unsqueeze(1)) == [(0, 3)]
    assert data.num_classes == 3
    assert torch.equal(data.mean_image(), data.train_images[0])
    assert torch.equal(data.class_means(), data.train_images.expand(3, -1, -1, -1))
    assert data.notes == ["ImageFolder read from faces: 10 images of 3 classes"]


def test_only_what_is_asked_for_is_decoded_and_nothing_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, {"a": 3, "b": 3})
    opened: list[str] = []
    opener = Image.open

    def counting(path: Path, **more: Any) -> Any:
        opened.append(Path(path).name)
        return opener(path, **more)

    monkeypatch.setattr(Image, "open", counting)
    data = ImageFolder(str(tmp_path))
    data.setup()
    assert opened == []
    data.victims(1, batch_size=2)
    data.victims(2)
    assert opened == ["a_0001.png", "b_0001.png"] * 2


@pytest.mark.parametrize(
    ("image_set", "folder"),
    [("original", "lfw"), ("funneled", "lfw_funneled"), ("deepfunneled", "lfw-deepfunneled")],
)
def test_lfw(tmp_path: Path, image_set: Any, folder: str) -> None:
    write(tmp_path / "lfw-py" / folder, {"Bea": 5, "Cyd": 4}, suffix="jpg", side=250)
    (tmp_path / "lfw-py" / folder / "pairs.txt").write_text("not an image")
    data = LFW(root=str(tmp_path), image_set=image_set)
    data.setup()
    assert data.image_shape == (3, 32, 32) and data.num_victims() == 7
    assert data.victims(4)[1].flatten().tolist() == [0, 1, 0, 1]
    assert data.train_labels.tolist() == [0, 1]
    assert "9 images of 2 classes, where the whole set has 13233" in data.notes[0]


def test_resized_with_antialiasing_from_the_centre_square(tmp_path: Path) -> None:
    (tmp_path / "c").mkdir()
    image = Image.new("L", (96, 64), 255)  # white margins, which the center square leaves out
    board = Image.new("L", (64, 64))
    board.putdata([255 * ((x + y) % 2) for y in range(64) for x in range(64)])
    image.paste(board, (16, 0))
    image.save(tmp_path / "c/board.PNG")
    write(tmp_path, {"d": 1})
    images, _ = ImageFolder(str(tmp_path), size=8).victims(1)
    assert images.shape == (1, 1, 3, 8, 8)
    assert (images - 0.5).abs().max() < 0.02  # without antialiasing: 0 or 1


def test_no_train_images(tmp_path: Path) -> None:
    write(tmp_path, {"a": 1, "b": 2})
    data = ImageFolder(str(tmp_path), size=2)
    data.setup()
    assert (data.mean_image() == 0.5).all() and (data.class_means() == 0.5).all()
    assert data.train_images.shape == (0, 3, 2, 2) and "mid-gray" in data.notes[1]


@pytest.mark.parametrize("content", [b"", b"\xff\xd8\xff\xe0 no image", None])
def test_damaged_image_is_named_when_it_is_decoded(tmp_path: Path, content: bytes | None) -> None:
    write(tmp_path, {"a": 2, "b": 1}, suffix="jpg")
    path = tmp_path / "a/a_0002.jpg"
    path.write_bytes(path.read_bytes()[:-200] if content is None else content)
    data = ImageFolder(str(tmp_path))
    data.victims(2)
    with pytest.raises(DataError, match=f"{path} is damaged"):
        data.victims(3)


def test_hidden_files_and_empty_folders_are_passed_over(tmp_path: Path) -> None:
    write(tmp_path, {"b": 1, "d": 1})
    (tmp_path / "a").mkdir()
    (tmp_path / ".c").mkdir()
    (tmp_path / "b/._b.jpg").write_bytes(b"resource fork")
    (tmp_path / "b/notes.txt").write_text("")
    data = ImageFolder(str(tmp_path))
    assert data.victims(2)[1].tolist() == [[0], [1]] and data.num_victims() == 2 == data.num_classes


def test_plain_files_without_class_folders(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"CLASS/image\.jpg"):
        ImageFolder(str(tmp_path)).setup()


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"a\.png"):
        ImageFolder(str(tmp_path / "a.png")).setup()


def test_odd_names_are_names(tmp_path: Path) -> None:
    write(tmp_path / "Fotos ü #2: 'a'", {"eine Klasse": 2, "日本": 1, "a[b]*?": 1})
    data = ImageFolder("Fotos ü #2: 'a'", size=4, root=str(tmp_path))
    data.setup()
    assert data.num_victims() == 4 and data.num_classes == 3 and "Fotos ü #2: 'a'" in data.notes[0]
    (tmp_path / "Fotos ü #2: 'a'" / "eine Klasse" / "two\nlines.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"two\\nlines\.png is damaged"):
        data = ImageFolder("Fotos ü #2: 'a'", size=4, root=str(tmp_path))
        data.victims(5)


def test_missing(tmp_path: Path) -> None:
    lfw = LFW(root=str(tmp_path))
    lfw.prepare_data()
    with pytest.raises(DataError, match=r"lfw-deepfunneled is not there.*--data-root.*by hand"):
        lfw.setup()
    with pytest.raises(DataError, match=r"nix is not there.*--data-root.*LEAKBOARD_DATA"):
        ImageFolder("nix", root=str(tmp_path)).setup()


def test_forbidden_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, {"a": 1})

    def forbidden(*_: Any, **__: Any) -> None:
        raise PermissionError("no")

    monkeypatch.setattr(Path, "iterdir", forbidden)
    with pytest.raises(DataError, match=f"{tmp_path} may not be read"):
        ImageFolder(str(tmp_path)).setup()


def test_nonsense_arguments() -> None:
    with pytest.raises(ValueError, match="size must be at least 1"):
        ImageFolder("x", size=0)
    with pytest.raises(ValueError, match="image_set must be one of original, funneled"):
        LFW(image_set="aligned")  # wrong on purpose


SHARED = Path(__file__).parents[3] / "shared" / "data"
real = pytest.mark.skipif(not SHARED.is_dir(), reason="../shared/data is not here")


def test_a_part_of_a_data_set_can_stand_in_the_label_space_of_the_whole(tmp_path: Path) -> None:
    write(tmp_path, {"a": 4, "b": 1})
    data = ImageFolder(str(tmp_path), size=4, num_classes=5)
    data.setup()
    assert data.num_classes == 5 and data.test_labels.tolist() == [0, 1, 0, 0]
    assert data.notes == [f"ImageFolder read from {tmp_path.name}: 5 images of 2 classes, in a label space of 5"]
    assert torch.equal(data.class_means()[4], data.mean_image())
    with pytest.raises(DataError, match="holds 2 classes: give num_classes 2 or more, not 1"):
        ImageFolder(str(tmp_path), num_classes=1).setup()


@real
def test_real_lfw() -> None:
    data = LFW(root=str(SHARED))
    data.setup()
    images, labels = data.victims(64)
    assert labels.flatten().tolist() == [*range(62), 0, 1]  # 62 people
    assert images.shape == (64, 1, 3, 32, 32) and 0.2 < images.mean() < 0.6
    assert data.num_victims() + len(data.train_split) == 1443
    assert data.class_means().shape == (62, 3, 32, 32)


@real
def test_real_image_folder() -> None:
    data = ImageFolder("imagenet-sample", size=64, root=str(SHARED))
    images, labels = data.victims(3)
    assert images.shape == (3, 1, 3, 64, 64) and labels.flatten().tolist() == [0, 1, 2]
