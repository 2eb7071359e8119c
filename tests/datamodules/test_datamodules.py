"""Victims and public statistics: what every data module promises, on the embedded data."""

import pytest
import torch
from sklearn.datasets import load_digits, load_sample_image

import datamodules
from datamodules import DataError, Digits, Photos, PrivateData

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


def test_loaders() -> None:
    data = Digits()
    images, labels = next(iter(data.test_dataloader()))
    assert torch.equal(images, data.test_images[:64]) and torch.equal(labels, data.test_labels[:64])
    assert sum(len(labels) for _, labels in data.train_dataloader(batch_size=500)) == 1297


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
