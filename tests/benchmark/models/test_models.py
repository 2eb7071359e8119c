"""The networks whose updates are attacked."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from benchmark.models import MLP, ConvNet, LeNet, ResNet, ResNet18
from benchmark.models.draw import Model, draw_networks
from benchmark.suite.registry import classes

MODELS = [made for name, made in classes("model").items() if name != "GeipingLeNet"]  # one network, see test_published
CIFAR, MNIST, DIGITS = (3, 32, 32), (1, 28, 28), (1, 8, 8)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(
    ("shape", "classes", "count"), [(CIFAR, 10, 15_826), (CIFAR, 100, 85_036), (MNIST, 10, 13_426)]
)
def test_lenet_has_the_published_number_of_parameters(shape: tuple[int, int, int], classes: int, count: int) -> None:
    assert sum(p.numel() for p in LeNet(shape, classes).parameters()) == count


def test_lenet_has_the_published_layers() -> None:
    layers = list(LeNet(CIFAR, 10))
    assert [type(layer) for layer in layers] == [nn.Conv2d, nn.Sigmoid] * 3 + [nn.Flatten, nn.Linear]
    convolutions = [layer for layer in layers if isinstance(layer, nn.Conv2d)]
    assert [(c.out_channels, c.kernel_size, c.stride, c.padding) for c in convolutions] == [
        (12, (5, 5), (2, 2), (2, 2)),
        (12, (5, 5), (2, 2), (2, 2)),
        (12, (5, 5), (1, 1), (2, 2)),
    ]


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("shape", [CIFAR, MNIST, DIGITS, (2, 7, 9)])
def test_images_go_in_and_logits_come_out(model: type[Model], shape: tuple[int, int, int]) -> None:
    network = model(shape, 7)
    assert network(torch.rand(4, *shape)).shape == (4, 7)


@pytest.mark.parametrize("model", MODELS)
def test_a_draw_fills_every_parameter_and_is_the_generators_alone(model: type[Model]) -> None:
    network = model(DIGITS, 10)
    drawn = network.draw(generator())
    assert {name: value.shape for name, value in drawn.items()} == {n: p.shape for n, p in network.named_parameters()}
    assert list(drawn) == [name for name, _ in network.named_parameters()]
    torch.manual_seed(99)
    again, other = model(DIGITS, 10).draw(generator()), network.draw(generator(1))
    for name in drawn:
        assert torch.equal(drawn[name], again[name])
        if len(drawn[name].unique()) > 1:  # BatchNorm starts with ones and zeros
            assert not torch.equal(drawn[name], other[name])


@pytest.mark.parametrize("init_range", [0.5, 2.0])
def test_lenets_weights_are_uniform_within_its_range(init_range: float) -> None:
    values = torch.cat([p.flatten() for p in LeNet(CIFAR, 100, init_range).draw(generator()).values()])
    assert values.abs().max() <= init_range
    quarters = torch.histc(values, 4, -init_range, init_range) / len(values)
    assert (quarters - 0.25).abs().max() < 0.01
    assert values.max() > 0.999 * init_range and values.min() < -0.999 * init_range


@pytest.mark.parametrize("model", [MLP, ConvNet])
def test_the_other_networks_start_as_torchs_layers_do(model: type[Model]) -> None:
    network = model(CIFAR, 10)
    drawn = network.draw(generator())
    layers = {name: layer for name, layer in network.named_modules() if isinstance(layer, nn.Linear | nn.Conv2d)}
    assert {f"{name}.{part}" for name in layers for part in ("weight", "bias")} == set(drawn)
    for name, layer in layers.items():
        bound = layer.weight[0].numel() ** -0.5
        weight, bias = drawn[f"{name}.weight"], drawn[f"{name}.bias"]
        assert 0.98 * bound < weight.abs().max() <= bound and bias.abs().max() <= bound
        assert weight.abs().max() == pytest.approx(float(layer.weight.detach().abs().max()), rel=0.02)


def test_an_mlp_can_start_as_those_of_the_paper_on_peeling() -> None:
    drawn = MLP(CIFAR, 10, hidden=100, depth=2, activation="relu", first_std=0.5).draw(generator())
    first, second, last = (drawn[name] for name in drawn if name.endswith("weight"))
    assert float(first.mean()) == pytest.approx(0, abs=0.01) and float(first.std()) == pytest.approx(0.5, rel=0.02)
    for weight in (second, last):
        bound = (6 / sum(weight.shape)) ** 0.5
        assert 0.98 * bound < weight.abs().max() <= bound
    assert not any(value.any() for name, value in drawn.items() if name.endswith("bias"))


@pytest.mark.parametrize("model", MODELS)
def test_each_victim_has_the_network_of_its_own_generator(model: type[Model]) -> None:
    network = model(DIGITS, 10)
    together = draw_networks(network, [generator(seed) for seed in (3, 4, 5)])
    for row, seed in enumerate((3, 4, 5)):
        for name, value in network.draw(generator(seed)).items():
            assert torch.equal(together[name][row], value)


def test_an_mlp_has_the_depth_width_and_activation_that_are_asked_for() -> None:
    layers = list(MLP(DIGITS, 10, hidden=32, depth=3, activation="relu"))
    assert [(x.in_features, x.out_features) for x in layers if isinstance(x, nn.Linear)] == [
        (64, 32),
        (32, 32),
        (32, 32),
        (32, 10),
    ]
    assert sum(isinstance(x, nn.ReLU) for x in layers) == 3 and not any(isinstance(x, nn.Sigmoid) for x in layers)


@pytest.mark.parametrize(
    ("model", "arguments"),
    [
        (LeNet, {"init_range": 0.0}),
        (LeNet, {"init_range": -1.0}),
        (LeNet, {"init_range": float("nan")}),
        (LeNet, {"init_range": float("inf")}),
        (MLP, {"hidden": 0}),
        (MLP, {"depth": 0}),
        (MLP, {"activation": "tanhh"}),
        (MLP, {"first_std": 0.0}),
        (MLP, {"first_std": float("nan")}),
        (ConvNet, {"width": 0}),
        (ResNet, {"width": 0}),
    ],
)
def test_an_argument_out_of_range_is_named_in_one_sentence(model: type[Model], arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError) as raised:
        model(DIGITS, 10, **arguments)
    message = str(raised.value)
    assert message.startswith(next(iter(arguments))) or " and depth is 0" in message
    assert "\n" not in message and ". " not in message


def test_the_resnet_has_eight_layers_and_starts_as_he_said() -> None:
    network = ResNet(CIFAR, 10)
    layers = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    assert sum(layer.weight.dim() == 2 or layer.weight.shape[-1] == 3 for layer in layers) == 8
    assert not network.training
    drawn = network.draw(generator())
    weight = drawn["stages.2.body.2.0.weight"]
    assert float(weight.std()) == pytest.approx((2 / weight[0].numel()) ** 0.5, rel=0.02)
    assert drawn["stem.0.1.weight"].eq(1).all() and drawn["stem.0.1.bias"].eq(0).all()
    assert network.stages(torch.rand(2, 16, 32, 32)).shape == (2, 64, 8, 8)


class Own(ResNet18):
    """A user's, with another head and its own start."""

    def __init__(self, image_shape: tuple[int, int, int], num_classes: int, scale: float = 1.0) -> None:
        super().__init__(image_shape, 1)
        self.head = nn.Linear(1, num_classes)
        nn.init.constant_(self.fc.weight, scale)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(super().forward(images))


def test_a_network_made_from_ours_draws_its_own_start() -> None:
    drawn = Own(DIGITS, 10, scale=3.0).draw(generator())
    assert drawn["fc.weight"].eq(3).all() and drawn["head.weight"].shape == (10, 1)
