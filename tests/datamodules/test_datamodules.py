"""Victims and public statistics: what every data module promises, on the embedded data."""

from collections.abc import Iterable

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from sklearn.datasets import load_digits, load_sample_image
from torch import Tensor

import datamodules
from datamodules import DataError, Digits, Photos, PrivateData
from datamodules.base import Split, TensorSplit

torch.set_num_threads(1)


@pytest.mark.parametrize("data", [Digits(), Photos(), Photos(size=8)])
def test_promises(data: PrivateData) -> None:
    data.prepare_data()
    data.setup()
    images, labels = data.victims(5, batch_size=3)
    assert images.shape == (5, 3, *data.image_shape) and images.dtype == torch.float32
    assert images.min() >= 0 and images.max() <= 1 and images.max() > 0.5
    assert labels.shape == (5, 3) and labels.dtype == torch.int64
    assert data.train_images.shape == (len(data.train_labels), *data.image_shape)
    assert torch.equal(images.flatten(0, 1), data.test_images[:15])
    assert torch.equal(labels.flatten(), data.test_labels[:15])
    torch.testing.assert_close(data.mean_image(), data.train_images.mean(0))
    for label, mean in enumerate(data.class_means()):
        torch.testing.assert_close(mean, data.train_images[data.train_labels == label].mean(0))


def test_a_victim_does_not_depend_on_the_company_it_is_asked_in() -> None:
    data = Digits()
    images, labels = data.victims(20, batch_size=4)
    some, some_labels = data.victims(3, batch_size=4, first=17)
    assert torch.equal(some, images[17:]) and torch.equal(some_labels, labels[17:])


def test_victims_in_runs_of_one_class_are_all_different_images_in_a_fixed_order() -> None:
    data = Digits()
    images, labels = data.victims(60, same_class=5)
    runs = labels.view(12, 5)
    assert (runs == runs[:, :1]).all() and len(set(runs[:, 0].tolist())) > 5
    assert len({image.numpy().tobytes() for image in images}) == 60
    order = list(data.order(5))
    assert len(order) == len(set(order)) == data.num_victims(1, 5) <= 500
    assert all(run == sorted(run) for run in (order[i : i + 5] for i in range(0, len(order), 5)))
    some, _ = data.victims(7, first=20, same_class=5)
    assert some.equal(images[20:27])
    assert list(data.order(1)) == list(range(500))


def test_changing_a_victim_leaves_the_data_alone() -> None:
    data = Digits()
    images, labels = data.victims(1)
    before = images.clone()
    images.zero_()
    labels.fill_(7)
    data.mean_image().zero_()
    assert torch.equal(data.victims(1)[0], before) and data.victims(1)[1] != 7
    assert data.mean_image().any()


def test_too_many_victims_says_how_many_there_are() -> None:
    data = Digits()
    assert data.num_victims() == 500 and data.num_victims(batch_size=8) == 62
    data.victims(62, batch_size=8)
    with pytest.raises(DataError, match="holds 62 victims of batch size 8"):
        data.victims(63, batch_size=8)
    with pytest.raises(DataError, match="victims 499 to 500"):
        data.victims(2, first=499)


@pytest.mark.parametrize("arguments", [(0,), (-1,), (1, 0), (1, 1, -1)])
def test_nonsense_victims(arguments: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"must be|need"):
        Digits().victims(*arguments)


def test_setup_twice_reads_once(monkeypatch: pytest.MonkeyPatch) -> None:
    data = Digits()
    data.setup()
    monkeypatch.setattr(Digits, "load", lambda *_: pytest.fail("read again"))
    data.setup("fit")
    data.setup("test")


class OwnSplit(PrivateData):
    """A user's: it forgets Lightning's __init__, and its images are made where they are asked for."""

    num_classes, image_shape = 2, (1, 4, 4)

    def __init__(self) -> None:
        pass

    def load(self, train: bool) -> Split:
        return Made(train)


class Made(Split):
    def __init__(self, train: bool) -> None:
        super().__init__(torch.arange(23) % 2)
        self.first = 0.0 if train else 0.5

    def images(self, start: int, stop: int) -> Tensor:
        return (self.first + torch.arange(start, stop) / 50)[:, None, None, None].expand(-1, 1, 4, 4)


def in_batches(loader: Iterable[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    images, labels = zip(*loader, strict=True)
    return torch.cat(images), torch.cat(labels)


def as_set(images: Tensor, labels: Tensor) -> list[tuple[bytes, int]]:
    return sorted((image.numpy().tobytes(), label) for image, label in zip(images, labels.tolist(), strict=True))


@pytest.mark.parametrize("data", [Digits(), Photos(), OwnSplit()], ids=lambda data: type(data).__name__)
def test_the_loaders_of_training_give_each_public_image_once_and_no_private_one(data: PrivateData) -> None:
    data = data.loading(batch_size=8, shuffle_seed=0)
    train, held_out = in_batches(data.train_dataloader()), in_batches(data.val_dataloader())
    both = [torch.cat(pair) for pair in zip(train, held_out, strict=True)]
    assert both[0].dtype == torch.float32 and both[1].dtype == torch.int64
    assert len(held_out[1]) == len(data.train_labels) // 10
    assert as_set(*both) == as_set(data.train_images, data.train_labels)
    private, labels = in_batches(data.test_dataloader())
    assert torch.equal(private, data.test_images) and torch.equal(labels, data.test_labels)


def test_batches_are_shuffled_by_their_seed_anew_in_each_epoch() -> None:
    def epochs(seed: int) -> list[Tensor]:
        loader = Digits().loading(batch_size=50, shuffle_seed=seed).train_dataloader()
        return [in_batches(loader)[0] for _ in range(2)]

    (first, second), again, other = epochs(3), epochs(3), epochs(4)
    assert torch.equal(first, again[0]) and torch.equal(second, again[1])
    assert not torch.equal(first, second) and not torch.equal(first, other[0])
    held_out = [Digits().loading(50, seed).val_dataloader() for seed in (3, 4)]
    assert torch.equal(in_batches(held_out[0])[0], in_batches(held_out[1])[0])


@pytest.mark.parametrize(("cap", "sizes"), [(47, [7, 7, 7, 7, 7, 7]), (9, [7, 2]), (8, [7]), (1, [1]), (10**6, None)])
def test_a_cap_takes_some_images_of_all_and_a_last_one_alone_is_left_out(cap: int, sizes: list[int] | None) -> None:
    data = Digits()
    few = data.loading(batch_size=7, shuffle_seed=0, train_cap=cap)
    found = [len(labels) for _, labels in few.train_dataloader()]
    assert found == (sizes or [7] * 166 + [6])
    used = as_set(*in_batches(few.train_dataloader()))
    assert len(set(used)) == len(used) and set(used) <= set(as_set(data.train_images, data.train_labels))
    assert data.train_cap is None and data.batch_size == 64  # the module itself stays as it is


@pytest.mark.parametrize("data", [Digits(), OwnSplit()], ids=lambda data: type(data).__name__)
def test_a_data_module_serves_a_trainer_of_lightning(data: PrivateData) -> None:
    seen: dict[str, int] = {"train": 0, "val": 0, "test": 0}

    class Counting(LightningModule):
        automatic_optimization = False

        def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
            seen["train"] += len(batch[1])

        def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
            seen["val"] += len(batch[1])

        def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
            seen["test"] += len(batch[1])

        def configure_optimizers(self) -> None:
            return None

    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = Trainer(max_epochs=1, accelerator="cpu", num_sanity_val_steps=0, enable_checkpointing=False, **quiet)
    trainer.fit(Counting(), datamodule=data.loading(16, 0))
    trainer.test(Counting(), datamodule=data.loading(16, 0), verbose=False)
    images = len(data.train_labels)
    assert seen == {"train": images - images // 10, "val": images // 10, "test": len(data.test_labels)}


def test_a_damaged_image_is_told_where_it_is_loaded() -> None:
    class Bright(OwnSplit):
        def load(self, train: bool) -> Split:
            split = Made(train)
            split.first = 1.0
            return split

    with pytest.raises(DataError, match=r"run from 1(\.\d+)? to 1"):
        list(Bright().train_dataloader())


def test_the_checksum_of_the_public_images_is_that_of_pixels_labels_and_classes_alone() -> None:
    def of(pixels: Tensor, labels: Tensor, classes: int = 2, private: float = 0.5) -> str:
        class Own(PrivateData):
            num_classes, image_shape = classes, (1, 2, 2)

            def load(self, train: bool) -> Split:
                return (
                    TensorSplit(pixels, labels)
                    if train
                    else TensorSplit(torch.full((2, 1, 2, 2), private), torch.arange(2))
                )

        return Own().public_sha256

    pixels, labels = torch.rand(70, 1, 2, 2), torch.arange(70) % 2
    same = of(pixels, labels)
    assert of(pixels.clone(), labels, private=0.1) == same
    changed = pixels.clone()
    changed[69] = 0.5
    others = [of(changed, labels), of(pixels, labels.flip(0)), of(pixels, labels, 3), of(pixels[:69], labels[:69])]
    assert len({same, *others}) == 5


def test_digits_are_the_last_500() -> None:
    digits = load_digits()
    images, labels = Digits().victims(500)
    assert torch.equal(images[:, 0, 0], torch.from_numpy(digits.images[-500:]).float() / 16)
    assert labels.flatten().tolist() == digits.target[-500:].tolist()


def test_photos_are_crops_of_the_grid_and_alternate() -> None:
    data = Photos(size=64)  # the size of a crop: the pixels are the photograph's own
    images, labels = data.victims(6)
    assert labels.flatten().tolist() == [0, 1, 0, 1, 0, 1]
    flower = torch.tensor(load_sample_image("flower.jpg")).permute(2, 0, 1) / 255
    assert torch.equal(images[3, 0], flower[:, 320:384, 384:448])  # number 33 + 23 of the grid of 6 rows of 10
    assert torch.equal(images[5, 0], flower[:, 256:320, 128:192])  # number 42: the crop before it is public
    assert torch.equal(data.train_images[1], flower[:, 64:128, 576:640])  # number 19
    assert (data.num_victims(), len(data.train_split)) == (80, 40)


def test_nonsense_size() -> None:
    with pytest.raises(ValueError, match="size must be at least 1"):
        Photos(size=0)


@pytest.mark.parametrize("name", datamodules.__all__)
def test_first_docstring_line_describes(name: str) -> None:
    first = getattr(datamodules, name).__doc__.splitlines()[0]
    assert 20 < len(first) <= 100
