"""The covariance of public images: against scikit-learn's, and where there is nothing to take it of."""

import pytest
import torch
from sklearn.covariance import oas

from datamodules import Digits, PrivateData
from datamodules.base import MOST_VALUES, USUAL_STD, TensorSplit
from datamodules.covariance import shrunk_covariance


@pytest.mark.parametrize(("count", "size"), [(5, 20), (200, 20), (2, 3)])
def test_it_is_shrunk_as_by_scikit_learn(count: int, size: int) -> None:
    draw = torch.Generator().manual_seed(count)
    samples = torch.randn(count, size, generator=draw, dtype=torch.double) @ torch.randn(
        size, size, generator=draw, dtype=torch.double
    )
    wanted, share = oas((samples - samples.mean(0)).numpy(), assume_centered=True)
    assert share > 0
    found = shrunk_covariance(samples)
    torch.testing.assert_close(found, torch.from_numpy(wanted))
    assert torch.linalg.eigvalsh(found).min() > 0


@pytest.mark.parametrize("apart", [1, 3])
def test_a_few_images_among_many_that_are_alike_leave_it_positive_definite(apart: int) -> None:
    """The sums that single precision would make of them do not."""
    blank = 0.5 * torch.rand(3072, generator=torch.Generator().manual_seed(0))
    samples = blank.repeat(1000, 1)
    samples[:apart] *= 2
    found = shrunk_covariance(samples)
    assert found.dtype == torch.float32
    assert int(torch.linalg.cholesky_ex(found.double()).info) == 0


class Own(PrivateData):
    """Public images of one's own."""

    num_classes = 2

    def __init__(self, images: torch.Tensor) -> None:
        super().__init__()
        self.images = images
        self.image_shape = tuple(images.shape[1:])

    def load(self, train: bool) -> TensorSplit:
        pixels = self.images if train else self.images.new_zeros(2, *self.image_shape)
        return TensorSplit(pixels, torch.arange(len(pixels)) % 2)


@pytest.mark.parametrize("images", [torch.zeros(0, 1, 2, 3), torch.rand(1, 1, 2, 3), torch.full((9, 1, 2, 3), 0.5)])
def test_where_no_image_differs_from_another_values_vary_alone(images: torch.Tensor) -> None:
    own = Own(images)
    own.setup()
    torch.testing.assert_close(own.covariance(), USUAL_STD**2 * torch.eye(6))


def test_it_is_that_of_public_images_and_made_once() -> None:
    digits = Digits()
    digits.setup()
    found = digits.covariance()
    assert found is not None and found is digits.covariance() and found.shape == (64, 64)
    wanted = shrunk_covariance(digits.train_images.double().flatten(1))
    assert (found - wanted).norm() < 0.1 * wanted.norm()


def test_it_is_that_of_all_classes_where_the_images_are_sorted() -> None:
    own = Own(torch.cat([torch.zeros(5000, 1, 1, 2), torch.ones(5000, 1, 1, 2)]))
    own.setup()
    torch.testing.assert_close(own.covariance(), torch.full((2, 2), 0.25), rtol=0, atol=1e-3)
    own = Own(torch.cat([torch.zeros(50, 1, 1, 2), torch.ones(5000, 1, 1, 2)]))
    own.statistics_cap = 40  # of which all are alike
    own.setup()
    torch.testing.assert_close(own.covariance(), USUAL_STD**2 * torch.eye(2))


def test_that_of_a_class_is_of_its_own_images_alone() -> None:
    digits = Digits()
    digits.setup()
    found = digits.class_covariances()
    assert found is not None and found is digits.class_covariances() and found.shape == (10, 64, 64)
    for label, own in enumerate(found):
        wanted, _ = oas(digits.train_images[digits.train_labels == label].double().flatten(1).numpy())
        torch.testing.assert_close(own, torch.from_numpy(wanted).float(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("images", "alike", "own"), [(3, False, False), (4, False, True), (6, True, False)])
def test_a_class_of_few_images_or_of_images_that_are_alike_has_that_of_all(images: int, alike: bool, own: bool) -> None:
    """Two images that are nearly the same would say that no others are likely."""
    drawn = torch.rand(2 * images + 1, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    if alike:
        drawn[1::2] = 0.5
    data = Own(drawn)  # every other image is of the second class
    data.setup()
    of_all, of_classes = data.covariance(), data.class_covariances()
    assert of_all is not None and of_classes is not None
    assert not torch.equal(of_classes[0], of_all) and torch.equal(of_classes[1], of_all) is not own


def test_many_classes_of_large_images_have_none_of_their_own() -> None:
    own = Own(torch.rand(3, 1, 1, 2900))
    own.setup()
    assert own.covariance() is not None and own.class_covariances() is None


def test_large_images_have_none() -> None:
    own = Own(torch.rand(3, 1, 1, MOST_VALUES + 1))
    own.setup()
    assert own.covariance() is None and own.class_covariances() is None
