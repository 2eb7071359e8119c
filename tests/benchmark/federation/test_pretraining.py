"""Recipes followed: equal to the loops that one would write, and told in a sentence where they fail."""

import math
import signal
from collections.abc import Callable
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from benchmark.errors import UsageError
from benchmark.federation.partition import split
from benchmark.federation.pretraining import follow
from benchmark.federation.state import TrainingState
from benchmark.models import MLP, ConvNet, LeNet, Model, ResNet
from benchmark.models.draw import drawing_from
from benchmark.seeds import generators, seed_for
from datamodules import DataError, Digits, PrivateData
from datamodules.base import Split, TensorSplit

recipe = TrainingState.from_dict


def silent(done: int, steps: int) -> None:
    """Hears nothing."""


def followed(model: nn.Module, data: PrivateData, seed: int = 0, **given: Any) -> dict[str, Tensor]:
    return follow(recipe(given), model, type(model).__name__, data, seed, silent)


def network(kind: type[Any] = ConvNet) -> Any:
    of_mlp = {"activation": "relu"} if issubclass(kind, MLP) else {}
    return kind((1, 8, 8), 10, **(of_mlp if of_mlp or kind is LeNet else {"width": 4}))


class Dropping(MLP):
    """Draws in its forward pass."""

    def forward(self, images: Tensor) -> Tensor:
        return nn.functional.dropout(super().forward(images), 0.1, self.training)


@pytest.mark.parametrize("kind", [Dropping, ConvNet, ResNet])
@pytest.mark.parametrize("given", [{}, {"momentum": 0.9, "weight_decay": 1e-3}])
def test_epochs_are_a_plain_loop_over_the_batches_of_the_data(kind: type[Any], given: dict[str, float]) -> None:
    data, seed = Digits(), 5
    found = followed(network(kind), data, seed, epochs=2, batch_size=64, learning_rate=0.05, **given)
    plain = network(kind)
    drawn = plain.draw(generators(seed, range(1), "network")[0])
    plain.load_state_dict(drawn, strict=False)
    plain.train()
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.05, **given)
    loader = data.loading(64, seed_for(seed, 0, "order")).train_dataloader()
    with drawing_from(seed_for(seed, 0, "forward")):
        for _ in range(2):
            for images, labels in loader:
                optimizer.zero_grad()
                nn.functional.cross_entropy(plain(images), labels).backward()
                optimizer.step()
    expected = plain.state_dict()
    assert set(found) == set(expected)
    for name, value in expected.items():
        assert torch.equal(found[name], value), name
    moved = [name for name in found if name.endswith("running_var")]
    assert bool(moved) == (kind is ResNet) and not any(found[name].eq(1).all() for name in moved)


def test_rounds_of_one_client_with_all_images_are_gradient_descent_on_them() -> None:
    data = Digits()
    given = {"algorithm": "FedSGD", "clients": 1, "learning_rate": 0.3, "momentum": 0.5}
    found = followed(network(), data, 2, rounds=15, batch_size=10**6, **given)
    plain = network()
    plain.load_state_dict(plain.draw(generators(2, range(1), "network")[0]))
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.3, momentum=0.5)
    rows = data.public_rows()[0]
    images, labels = data.train_images[rows], data.train_labels[rows]
    for _ in range(15):
        optimizer.zero_grad()
        nn.functional.cross_entropy(plain(images), labels).backward()
        optimizer.step()
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5)


def test_a_round_of_fedavg_is_the_mean_of_what_the_clients_make_running_statistics_included() -> None:
    data = Digits().loading(64, 0)
    given = {"clients": 3, "local_epochs": 2, "learning_rate": 0.05}
    found = followed(network(ResNet), data, 1, rounds=1, batch_size=10**6, **given)
    rows = data.public_rows()[0]
    images, labels = data.train_images[rows], data.train_labels[rows]
    shares = split(labels, 3, None, 1)
    ends: list[dict[str, Tensor]] = []
    for share in shares:
        plain = network(ResNet)
        plain.load_state_dict(plain.draw(generators(1, range(1), "network")[0]), strict=False)
        optimizer = torch.optim.SGD(plain.train().parameters(), lr=0.05)
        for _ in range(2):
            optimizer.zero_grad()
            nn.functional.cross_entropy(plain(images[share]), labels[share]).backward()
            optimizer.step()
        ends.append(plain.state_dict())
    for name, value in found.items():
        if value.is_floating_point():
            mean = sum(len(share) / len(labels) * end[name] for share, end in zip(shares, ends, strict=True))
            torch.testing.assert_close(value, mean, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("given", [{"epochs": 1}, {"rounds": 5, "clients": 3}])
def test_equal_arguments_give_equal_bytes_whatever_is_around(given: dict[str, int]) -> None:
    first = followed(network(Dropping), Digits(), 4, **given)
    torch.set_num_threads(2)
    model = network(Dropping).eval()
    torch.manual_seed(99)
    before = torch.get_rng_state()
    again = followed(model, Digits(), 4, **given)
    assert torch.get_num_threads() == 2 and torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(value, again[name]) for name, value in first.items())
    other = followed(network(Dropping), Digits(), 5, **given)
    assert not all(torch.equal(value, other[name]) for name, value in first.items())


@pytest.mark.parametrize("given", [{"epochs": 1}, {"rounds": 5, "clients": 3}])
def test_private_images_do_not_matter(given: dict[str, int]) -> None:
    class Other(Digits):
        def load(self, train: bool) -> Split:
            found = super().load(train)
            return found if train else TensorSplit(torch.rand(4, 1, 8, 8), torch.arange(4))

    first, other = (followed(network(), data, **given) for data in (Digits(), Other()))
    assert all(torch.equal(value, other[name]) for name, value in first.items())


def test_train_images_takes_so_many() -> None:
    heard: list[tuple[int, int]] = []
    state = recipe({"epochs": 3, "train_images": 300, "batch_size": 50, "learning_rate": 0.2})
    follow(state, network(MLP), "MLP", Digits(), 0, lambda done, steps: heard.append((done, steps)))
    assert heard == [(step, 18) for step in range(1, 19)]  # 30 of 300 are held out: 6 batches an epoch


def test_a_checkpoint_is_where_training_starts() -> None:
    class Kept(MLP):
        def draw(self, generator: torch.Generator) -> dict[str, Tensor]:
            return super().draw(torch.Generator().manual_seed(8))

    kept = network(Kept).draw(torch.Generator())["1.weight"]
    found = [followed(network(Kept), Digits(), seed, epochs=1)["1.weight"] for seed in (1, 2)]
    assert all(torch.equal(weights[:, 0], kept[:, 0]) for weights in found)  # of a pixel that is black in all images
    assert not torch.equal(found[0], found[1])


def test_a_frozen_body_stays() -> None:
    model = network()
    frozen = [name for name, _ in model.named_parameters()][:2]
    for name, p in model.named_parameters():
        p.requires_grad_(name not in frozen)
    found = followed(model, Digits(), 3, epochs=2)
    drawn = network().draw(generators(3, range(1), "network")[0])
    assert all(torch.equal(found[name], value) == (name in frozen) for name, value in drawn.items())


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"epochs": 1, "learning_rate": 1e20}, r"after 1 epoch \(learning_rate=1e\+20\): the training has diverged"),
        (
            {"rounds": 2, "learning_rate": 1e20},
            r"has diverged \(in round [12] of 2\): give the state a smaller learning",
        ),
        ({"rounds": 1, "clients": 3000}, r"clients have no image of the 1168: give fewer clients"),
        ({"rounds": 1, "clients": 3, "train_images": 2}, r"1 of 3 clients have no image of the 2: give fewer clients"),
    ],
)
def test_what_does_not_train_is_told_in_a_sentence_that_names_the_recipe(given: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        followed(network(), Digits(), **given)


def test_a_network_that_has_learned_nothing_is_refused() -> None:
    with pytest.raises(
        UsageError, match=r"LeNet on Digits after 1 epoch \(.*\): the network has not learned its task: "
    ):
        followed(network(LeNet), Digits(), epochs=1, learning_rate=1e-9)
    with pytest.raises(UsageError, match=r"give the state more rounds, or another learning_rate$"):
        followed(network(LeNet), Digits(), rounds=1, learning_rate=1e-9)


class Broken(MLP):
    """Does something in its n-th training step."""

    what: Callable[[], object]

    def forward(self, images: Tensor) -> Tensor:
        if self.training and torch.is_grad_enabled():
            type(self).what()
        return super().forward(images)


def raising(error: BaseException) -> type[Broken]:
    def raise_it() -> None:
        raise error

    return type("Broken", (Broken,), {"what": staticmethod(raise_it)})


@pytest.mark.parametrize("given", [{"epochs": 1}, {"rounds": 1}])
@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            ValueError("too few"),
            r"Broken on Digits after .*: the network cannot be trained \(ValueError: too few, .*line",
        ),
        (SystemExit(3), r"cannot be trained \(it calls sys.exit\(3\)"),
        (torch.OutOfMemoryError("CUDA out of memory"), r"ran out of memory: give the state a smaller batch_size$"),
        (MemoryError(), r"ran out of memory: give"),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:1] DefaultCPUAllocator: can't"), r"ran out of memory: give"),
    ],
)
def test_what_a_network_raises_is_one_sentence(given: dict[str, int], error: BaseException, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        followed(raising(error)((1, 8, 8), 10), Digits(), **given)
    assert torch.get_num_threads() == 1


@pytest.mark.parametrize("given", [{"epochs": 1}, {"rounds": 1}])
def test_ctrl_c_ends_a_training(given: dict[str, int], capfd: pytest.CaptureFixture[str]) -> None:
    class Interrupted(Broken):
        what = staticmethod(lambda: signal.raise_signal(signal.SIGINT))

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background is told to ignore it
    try:
        with pytest.raises(KeyboardInterrupt):
            followed(Interrupted((1, 8, 8), 10), Digits(), **given)
    finally:
        signal.signal(signal.SIGINT, before)
    assert capfd.readouterr() == ("", "")


def test_lightning_is_quiet(capfd: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder) -> None:
    followed(network(), Digits(), epochs=1)
    assert capfd.readouterr() == ("", "") and not list(recwarn)


@pytest.mark.parametrize("given", [{"epochs": 1}, {"rounds": 5, "clients": 3}])
def test_a_network_in_double_precision_and_one_that_is_lightnings_own_are_trained_too(given: dict[str, int]) -> None:
    class Own(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = network(MLP).double()

        def forward(self, images: Tensor) -> Tensor:
            return self.net(images)

        def draw(self, generator: torch.Generator) -> dict[str, Tensor]:
            return {f"net.{name}": value for name, value in self.net.draw(generator).items()}

    own, plain = followed(Own(), Digits(), 1, **given), followed(network(MLP).double(), Digits(), 1, **given)
    assert all(torch.equal(value, own[f"net.{name}"]) for name, value in plain.items())
    assert {value.dtype for value in own.values()} == {torch.float64}


def test_a_data_module_with_a_fixed_batch_size_is_told() -> None:
    class Fixed(Digits):
        batch_size = property(lambda self: 8)  # type: ignore[assignment] # as users write it

    with pytest.raises(
        UsageError, match=r"Fixed after 1 epoch: the network cannot be trained \(AttributeError: .*batch_size"
    ):
        followed(network(), Fixed(), epochs=1)


class Few(PrivateData):
    """Some images of two colors."""

    num_classes, image_shape = 2, (1, 8, 8)

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count

    def load(self, train: bool) -> Split:
        labels = torch.arange(self.count if train else 4) % 2
        return TensorSplit(labels[:, None, None, None].expand(-1, 1, 8, 8).float(), labels)


class Normalized(Model):
    """BatchNorm after a linear layer, which a batch of one image breaks."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images)


def test_a_last_batch_of_one_image_does_not_break_batch_norm_but_batches_of_one_do() -> None:
    found = followed(Normalized(), Few(37), epochs=8, batch_size=3)  # 34 of 37 are trained on
    assert found["layers.2.num_batches_tracked"] == 8 * 11
    with pytest.raises(UsageError, match=r"cannot be trained .*Expected more than 1 value per channel"):
        followed(Normalized(), Few(37), epochs=8, batch_size=1)
    with pytest.raises(UsageError, match=r"cannot be trained on a batch of one image .*: give 2 or more"):
        followed(Normalized(), Few(37), rounds=8, batch_size=1, clients=2)


def test_data_without_public_images_and_networks_without_parameters_have_no_state() -> None:
    with pytest.raises(UsageError, match=r"Few has no public images, on which ConvNet could be trained"):
        followed(ConvNet((1, 8, 8), 2), Few(0), epochs=1)
    with pytest.raises(UsageError, match=r"ConvNet has no parameter that requires a gradient"):
        followed(network().requires_grad_(False), Digits(), epochs=1)


def test_a_damaged_image_is_told_as_elsewhere() -> None:
    class Damaged(Split):
        def images(self, start: int, stop: int) -> Tensor:
            return torch.full((stop - start, 1, 8, 8), math.nan if stop > 30 else 0.5)

    class Own(Few):
        def load(self, train: bool) -> Split:
            return Damaged(torch.arange(self.count) % 2)

    for given in ({"epochs": 1}, {"rounds": 1, "clients": 2}):
        with pytest.raises(DataError, match="not all finite"):
            followed(ConvNet((1, 8, 8), 2), Own(40), **given)
