"""Peeling: whole batches, from any network behind the first layer, and certificates that are never wrong."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from attacks import Peeling, Reconstruction
from attacks.closed_form.first_layer import first_layer
from attacks.peeling import noise_beyond, peel
from benchmark.models import MLP, ConvNet
from benchmark.models.draw import Model
from benchmark.seeds import generators
from defenses import Clipping, Defense, GaussianNoise, Masking, MixUp, Pruning

MakeVictims = Callable[..., Any]

WIDE = partial(MLP, hidden=256, activation="relu")


def right(found: Reconstruction, images: Tensor, labels: Tensor) -> Tensor:
    """Whether each image that was found is one of the batch at 40 dB, with its label, ``[V, N]``."""
    distance = torch.cdist(found.images.double().flatten(2), images.double().flatten(2)).square() / images[0, 0].numel()
    return (distance.amin(2) < 1e-4) & (labels.gather(1, distance.argmin(2)) == found.labels)


def certified(found: Reconstruction) -> Tensor:
    assert found.certified is not None and found.certified.dtype == torch.bool
    return found.certified


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("batch_size", [1, 4, 16])
def test_whole_batches_are_found_and_certified(batch_size: int, dtype: torch.dtype, victims_of: MakeVictims) -> None:
    images, labels, seen = victims_of(4, batch_size, model=WIDE, dtype=dtype)
    found = Peeling().reconstruct(seen)
    assert right(found, images, labels).all() and certified(found).all()
    for row in range(4):  # each image of the batch once, not one of them twice
        assert torch.equal(found.labels[row].sort().values, labels[row].sort().values)


class Deep(Model):
    """Pixels that are normalized, a first layer, and behind it batch norm, a skip past all, and another ReLU."""

    def __init__(self, image_shape: tuple[int, int, int], num_classes: int) -> None:
        super().__init__()
        self.first, self.norm = nn.Linear(64, 200), nn.BatchNorm1d(200)
        self.second, self.last = nn.Linear(200, 40), nn.Linear(104, num_classes)
        self.dropout = nn.Dropout(0.5)
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        x = (images.flatten(1) - 0.3) / 0.5
        hidden = self.second(self.dropout(self.norm(self.first(x).relu()))).relu()
        made: Tensor = self.last(torch.cat([hidden, x], 1))
        return made


def test_the_rest_may_be_any_network(victims_of: MakeVictims) -> None:
    for model in (Deep, partial(MLP, hidden=200, depth=3, activation="relu")):
        images, labels, seen = victims_of(3, 4, model=model)
        found = Peeling().reconstruct(seen)
        assert right(found, images, labels).all() and certified(found).all()


def test_many_victims_are_found_as_one_by_one(victims_of: MakeVictims) -> None:
    seen = victims_of(5, 16, model=partial(MLP, hidden=64, activation="relu"), dtype=torch.float64).observation
    together = Peeling().reconstruct(seen)
    assert certified(together).any() and not certified(together).all()
    for victim in range(5):
        alone = Peeling().reconstruct(seen.take([victim]))
        torch.testing.assert_close(alone.images[0], together.images[victim], rtol=0, atol=1e-9)
        assert torch.equal(alone.labels[0], together.labels[victim])
        assert torch.equal(certified(alone)[0], certified(together)[victim])


@pytest.mark.parametrize("defense", [Clipping(0.01), Pruning(0.3)], ids=["clipped", "pruned"])
@pytest.mark.parametrize("adaptive", [False, True])
def test_neither_clipping_nor_light_pruning_protects(defense: Defense, adaptive: bool, victims_of: MakeVictims) -> None:
    images, labels, seen = victims_of(3, 4, model=WIDE, defense=defense, adaptive=adaptive)
    found = Peeling().reconstruct(seen)
    assert right(found, images, labels).all() and certified(found).all()


@pytest.mark.parametrize("adaptive", [False, True])
def test_light_noise_is_measured_and_does_not_protect(adaptive: bool, victims_of: MakeVictims) -> None:
    images, labels, seen = victims_of(4, 4, model=WIDE, defense=GaussianNoise(3e-5), adaptive=adaptive)
    found = Peeling().reconstruct(seen)
    assert float(right(found, images, labels).float().mean()) >= 0.9
    assert not (certified(found) & ~right(found, images, labels)).any()


def test_the_noise_of_a_gradient_is_what_its_rank_does_not_explain() -> None:
    generator = torch.Generator().manual_seed(0)
    left, rows, noise = (
        torch.randn(shape, generator=generator, dtype=torch.float64)
        for shape in [(2, 90, 5), (2, 5, 400), (2, 90, 400)]
    )
    assert float(noise_beyond(left @ rows, 5).max()) < 1e-13
    torch.testing.assert_close(
        noise_beyond(left @ rows + 0.01 * noise, 5), torch.full((2, 1), 0.01).double(), rtol=0.05, atol=0
    )
    assert float(noise_beyond(noise, 80).max()) == 0


def flipped(name: str, own: dict[str, Tensor]) -> dict[str, Tensor]:
    return own | {name: own[name].flip(1)}


def nearby(own: dict[str, Tensor]) -> dict[str, Tensor]:
    return {n: v * (1 + 0.02 * torch.sin(torch.arange(v.numel()).to(v).view_as(v))) for n, v in own.items()}


WRONG: dict[str, Callable[[dict[str, Tensor]], dict[str, Tensor]]] = {
    "nearby": nearby,
    "other rest": partial(flipped, "3.weight"),
    "other first layer": partial(flipped, "1.weight"),
    "no biases": lambda own: {name: value * (value.dim() > 2) for name, value in own.items()},
    "larger": lambda own: {name: 3 * value for name, value in own.items()},
}
"""What an attacker may take for the network of the clients, whose parameters are ``[V, ...]``."""


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_nothing_wrong_is_certified_with_another_network_than_the_clients(
    wrong: Callable[[dict[str, Tensor]], dict[str, Tensor]], dtype: torch.dtype, victims_of: MakeVictims
) -> None:
    for batch_size in (2, 8):
        images, labels, seen = victims_of(4, batch_size, model=WIDE, dtype=dtype)
        found = Peeling().reconstruct(replace(seen, parameters=wrong(seen.parameters)))
        assert not (certified(found) & ~right(found, images, labels)).any()
        assert dtype == torch.float32 or not certified(found).any()


class Saturated(MLP):
    """Its softmax is 0 or 1, so that slopes take few values, and those of several images can look like one's."""

    def draw(self, generator: torch.Generator) -> dict[str, Tensor]:
        return {name: 100 * value for name, value in super().draw(generator).items()}


@pytest.mark.parametrize("hidden", [16, 64])
@pytest.mark.parametrize("batch_size", [4, 12])
def test_nothing_wrong_is_certified_where_much_stays_mixed(
    batch_size: int, hidden: int, victims_of: MakeVictims
) -> None:
    some = 0
    for model in (MLP, Saturated):
        for dtype in (torch.float32, torch.float64):
            narrow = partial(model, hidden=hidden, activation="relu")
            images, labels, seen = victims_of(12, batch_size, model=narrow, dtype=dtype)
            found = Peeling().reconstruct(seen)
            assert not (certified(found) & ~right(found, images, labels)).any()
            some += int(certified(found).sum())
    assert 0 < some < 4 * 12 * batch_size


def test_nothing_is_certified_of_another_loss_or_of_a_masked_update(victims_of: MakeVictims) -> None:
    images, labels, seen = victims_of(3, 4, model=WIDE)
    uniform = torch.full((3, 4, 10), 0.01) + 0.9 * nn.functional.one_hot(labels, 10)  # smoothed labels
    smoothed = replace(seen, update=seen.update_of(images, uniform))
    masked = victims_of(3, 4, model=WIDE, defense=Masking(0.3)).observation
    for observation in (smoothed, masked):
        found = Peeling().reconstruct(observation)
        assert not certified(found).any()
    assert torch.equal(found.images, seen.mean_image.expand(found.images.shape))


def test_what_is_not_found_is_the_mean_image(victims_of: MakeVictims) -> None:
    _, _, seen = victims_of(2, 16, model=partial(MLP, hidden=64, activation="relu"))
    layer = first_layer(seen.model, (1, 8, 8))
    assert layer is not None
    remains, sure = peel(seen, layer)
    found = Peeling().reconstruct(seen)
    assert torch.equal(certified(found), sure) and not (sure & ~remains.taken).any()
    assert not remains.taken.all()
    assert torch.equal(found.images[~remains.taken], seen.mean_image.expand_as(found.images[~remains.taken]))


class Convolved(Model):
    """A first layer whose output is an image, which a convolution takes."""

    def __init__(self, image_shape: tuple[int, int, int], num_classes: int) -> None:
        super().__init__()
        self.first, self.body = nn.Linear(64, 144), nn.Conv2d(1, 8, 3, stride=2, padding=1)
        self.last = nn.Linear(288, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        made: Tensor = self.last(self.body(self.first(images.flatten(1)).relu().view(-1, 1, 12, 12)).relu().flatten(1))
        return made


def again(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    return images[:, [0, 1, 2, 0]], labels[:, [0, 1, 2, 0]]


def with_other_label(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    return images[:, [0, 1, 2, 0]], torch.cat([labels[:, :3], (labels[:, :1] + 1) % 10], 1)


def nearly(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    moved = images[:, :1] + 0.03 * torch.randn(images[:, :1].shape, generator=torch.Generator().manual_seed(0))
    return torch.cat([images[:, :3], moved.clamp(0, 1)], 1), labels[:, [0, 1, 2, 0]]


def dark(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    return images * torch.tensor([0.0, 1e-3, 1.0, 1.0]).view(4, 1, 1, 1), labels


@pytest.mark.parametrize("model", [WIDE, Convolved], ids=["MLP", "convolution behind"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("change", [again, with_other_label, nearly, dark])
def test_images_that_are_the_same_or_hardly_there_are_no_reason_for_a_wrong_certificate(
    change: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]], dtype: torch.dtype, model: Any, victims_of: MakeVictims
) -> None:
    images, labels, seen = victims_of(3, 4, model=model, dtype=dtype)
    images, labels = change(images, labels)
    own = replace(seen, update=seen.update_of(images.to(dtype), nn.functional.one_hot(labels, 10).to(dtype)))
    found = Peeling().reconstruct(own)
    distance = torch.cdist(found.images.double().flatten(2), images.double().flatten(2)).square() / 64
    right_one = ((distance < 1e-4) & (found.labels[:, :, None] == labels[:, None])).any(2)
    assert certified(found).any() and not (certified(found) & ~right_one).any()


def test_an_update_that_is_not_finite_does_not_touch_the_others(victims_of: MakeVictims) -> None:
    images, labels, seen = victims_of(3, 4, model=WIDE)
    update = {name: value.clone() for name, value in seen.update.items()}
    update["1.weight"][1, 0, 0] = torch.nan
    update["1.bias"][1] = torch.inf
    found = Peeling().reconstruct(replace(seen, update=update))
    assert right(found, images, labels)[[0, 2]].all() and certified(found)[[0, 2]].all()
    assert not certified(found)[1].any()


def test_networks_without_a_relu_behind_a_linear_first_layer_are_refused_in_a_sentence() -> None:
    for model in (MLP((1, 8, 8), 10), ConvNet((1, 8, 8), 10, width=4), nn.Sequential(nn.Flatten(), nn.Linear(64, 10))):
        with pytest.raises(ValueError, match="Peeling needs a trained linear layer with a bias and a ReLU behind it"):
            Peeling().check(model, (4, 1, 8, 8))


@pytest.mark.parametrize("alpha", [0.5, 10.0])
def test_of_a_batch_that_is_known_to_be_mixed_the_mixtures_are_found_with_their_labels(
    alpha: float, victims_of: MakeVictims
) -> None:
    images, labels, seen = victims_of(4, 3, model=WIDE, defense=MixUp(alpha), adaptive=True)
    one_hot = nn.functional.one_hot(labels, seen.num_classes).float()
    mixed, soft = MixUp(alpha).on_batch(images.float(), one_hot, generators(0, range(4), "on_batch"))
    found = Peeling().reconstruct(seen)
    distance, places = torch.cdist(found.images.flatten(2), mixed.flatten(2)).min(2)
    assert distance.max() < 1e-3 and torch.equal(places.sort(1).values, torch.arange(3).expand(4, 3))
    told = soft.gather(1, places[..., None].expand_as(soft))
    torch.testing.assert_close(found.label_probabilities, told.to(found.label_probabilities), atol=1e-4, rtol=0)
    assert found.certified is None, "a mixture is no private image"
    blunt = Peeling().reconstruct(replace(seen, defense=None))
    assert blunt.label_probabilities is None and not certified(blunt).all(), "without knowing it, nothing fits"
