"""Convolutions as products of matrices, against torch's own."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import vmap
from torch.utils._python_dispatch import TorchDispatchMode

from attacks import DLG, IDLG
from attacks.network import convolution as convolutions
from attacks.network.convolution import Products, product
from attacks.network.gradients import squared_distance
from attacks.update import Network, Protocol, local_update
from benchmark.models import ConvNet, LeNet, ResNet

MakeVictims = Callable[..., Any]


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(
    "how",
    [
        {},
        {"stride": 2},
        {"padding": 1},
        {"stride": (2, 1), "padding": (0, 2)},
        {"padding": 3, "stride": (3, 2)},
    ],
    ids=str,
)
def test_a_convolution_of_many_networks_and_its_derivatives_are_torchs(how: dict[str, Any], bias: bool) -> None:
    generator = torch.Generator().manual_seed(0)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).double().requires_grad_()

    images, weights, offsets = drawn(3, 2, 4, 9, 8), drawn(3, 5, 4, 3, 2), drawn(3, 5)
    found, wanted = [], []
    for function, into in ((product, found), (torch.conv2d, wanted)):
        made = vmap(lambda x, w, b, function=function: function(x, w, b if bias else None, **how))(
            images, weights, offsets
        )
        slopes = torch.autograd.grad(made.pow(3).sum(), [images, weights], create_graph=True)
        again = torch.autograd.grad(sum(slope.square().sum() for slope in slopes), [images, weights])
        into += [made, *slopes, *again]
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


def test_what_is_no_plain_convolution_is_left_to_torch() -> None:
    images = torch.rand(2, 4, 6, 6)
    layers = [
        nn.Conv2d(4, 4, 3, groups=2),
        nn.Conv2d(4, 3, 3, padding="same"),
        nn.Conv2d(4, 3, 2, dilation=(2, 1), stride=2),
        nn.Conv2d(4, 3, 3, padding=1, padding_mode="circular"),
        nn.ConvTranspose2d(4, 3, 2),
        nn.Conv2d(4, 3, 3),
    ]
    for layer in layers:
        plain = layer(images)
        with Products():
            torch.testing.assert_close(layer(images), plain, rtol=1e-5, atol=1e-6)
    alone = images[0]  # without a batch
    with Products():
        assert torch.equal(layers[0](alone), layers[0](alone)) and layers[-1](alone).shape == (3, 4, 4)


@pytest.mark.parametrize("model", [LeNet, ConvNet, ResNet])
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize(("attack", "batch_size"), [(IDLG, 1), (DLG, 2)])
def test_an_attack_by_products_finds_the_same(
    attack: type[DLG | IDLG],
    batch_size: int,
    shared: bool,
    model: type,
    victims_of: MakeVictims,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As on a GPU; the update is that of torch's own convolutions."""
    seen = victims_of(3, dtype=torch.float64, model=model, batch_size=batch_size, shared=shared).observation
    plain = attack(max_evaluations=6).reconstruct(seen)
    calls: list[int] = []
    monkeypatch.setattr(convolutions, "BY_PRODUCTS", {"cpu"})
    monkeypatch.setattr(convolutions, "product", lambda *args: calls.append(1) or product(*args))
    found = attack(max_evaluations=6).reconstruct(seen)
    assert calls
    torch.testing.assert_close(found.loss, plain.loss, rtol=1e-6, atol=1e-12)
    torch.testing.assert_close(found.images, plain.images, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("model", [LeNet, ConvNet, ResNet])
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("train", [False, True])
def test_more_victims_take_no_more_kernels(
    train: bool, shared: bool, model: type, victims_of: MakeVictims, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A GPU that starts some for each victim is kept waiting; what torch cannot batch, it does one by one."""
    monkeypatch.setattr(convolutions, "BY_PRODUCTS", {"cpu"})

    def kernels(count: int) -> Counter[str]:
        seen = victims_of(count, model=model, batch_size=2, shared=shared).observation
        images = torch.rand(count, *seen.image_shape).requires_grad_()
        labels = torch.rand(count, 2, seen.num_classes).softmax(-1)
        network, protocol = Network(seen.model, seen.parameters), Protocol(train=train)

        def step() -> None:
            found = local_update(network, protocol, images, labels, create_graph=True)
            squared_distance(found, seen.update).sum().backward(inputs=[images])

        step()  # the first looks how the network can be differentiated
        with Kernels() as counted:
            step()
        return counted.calls

    assert kernels(2) == kernels(5)


class Kernels(TorchDispatchMode):
    """Counts what is computed inside, by its name."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls[str(func)] += 1
        return func(*args, **(kwargs or {}))
