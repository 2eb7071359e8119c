"""Networks of the literature: what torchvision computes, the papers' sizes, and gradients that can be matched."""

from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.func import functional_call

from attacks.closed_form.chain import stages
from attacks.network.gradients import batch_gradients, differentiable_twice, squared_distance
from benchmark.models import (
    CNN6,
    VGG11,
    GeipingLeNet,
    LeNet5,
    Model,
    ResNet18,
    ResNet20,
    ResNet32,
    ResNet44,
    ResNet56,
    ViT,
)
from benchmark.models.draw import draw_networks
from benchmark.models.geiping_lenet import CIFAR10
from benchmark.models.normalize import IMAGENET
from benchmark.rehearsal.scene import Scene
from benchmark.suite.registry import Spec, classes, spec
from benchmark.suite.suite import Scenario
from datamodules import Digits

CIFAR, IMAGES, DIGITS = (3, 32, 32), (3, 224, 224), (1, 8, 8)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def some_images(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=generator(), dtype=torch.float64)


@pytest.mark.parametrize(
    ("model", "shape", "classes", "arguments", "millions"),
    [
        (ResNet20, CIFAR, 10, {}, 0.27),  # He et al. 2015, table 6
        (ResNet32, CIFAR, 10, {}, 0.46),
        (ResNet44, CIFAR, 10, {}, 0.66),
        (ResNet56, CIFAR, 10, {}, 0.85),
        (ResNet18, CIFAR, 10, {}, 11.17),
        (ResNet18, IMAGES, 1000, {"stem": "imagenet"}, 11.69),  # torchvision's table
        (VGG11, CIFAR, 10, {}, 9.23),
        (VGG11, IMAGES, 1000, {"head": "imagenet"}, 132.86),  # Simonyan & Zisserman, table 2: 133
        (ViT, IMAGES, 1000, {"patch_size": 16, "width": 768, "depth": 12, "heads": 12}, 86.57),  # ViT-B/16
        (ViT, IMAGES, 1000, {"patch_size": 16, "width": 192, "depth": 12, "heads": 3}, 5.72),  # DeiT's Ti
        (CNN6, CIFAR, 1, {}, 0.125456),  # that of the authors' code
        (CNN6, CIFAR, 10, {}, 0.154256),
        (LeNet5, (1, 32, 32), 10, {}, 0.061706),  # as counted of it everywhere, with its third map whole
    ],
)
def test_a_network_has_the_published_number_of_parameters(
    model: type[Model], shape: tuple[int, int, int], classes: int, arguments: dict[str, Any], millions: float
) -> None:
    with torch.device("meta"):
        count = sum(p.numel() for p in model(shape, classes, **arguments).parameters())
    assert count / 1e6 == pytest.approx(millions, abs=0.005 if millions > 0.2 else 1e-9)


def same_state(ours: nn.Module, theirs: nn.Module) -> None:
    theirs.load_state_dict(ours.state_dict())
    theirs.double().eval()
    ours.double()


def with_statistics(model: nn.Module) -> None:
    """Running statistics as after a training, that is, not 0 and 1."""
    for name, value in model.named_buffers():
        if value.is_floating_point():
            value.copy_(torch.rand(value.shape, generator=generator()) + 0.5 * name.endswith("var"))


@pytest.mark.parametrize("shape", [(3, 32, 32), (3, 64, 48)])
def test_resnet18_is_torchvisions(shape: tuple[int, int, int]) -> None:
    ours, theirs = ResNet18(shape, 10, stem="imagenet"), torchvision.models.resnet18(num_classes=10)
    with_statistics(ours)
    same_state(ours, theirs)
    images = some_images(2, *shape)
    torch.testing.assert_close(ours(images), theirs(images), rtol=1e-12, atol=1e-12)


def test_the_stem_for_small_images_is_one_convolution_without_pooling() -> None:
    ours, theirs = ResNet18(CIFAR, 10), torchvision.models.resnet18(num_classes=10)
    theirs.conv1, theirs.maxpool = nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.Identity()
    same_state(ours, theirs)
    images = some_images(2, *CIFAR)
    torch.testing.assert_close(ours(images), theirs(images), rtol=1e-12, atol=1e-12)
    stem = ours.relu(ours.bn1(ours.conv1(images)))
    assert ours.layer1(stem).shape == (2, 64, 32, 32) and ours.layer4[1].conv2.in_channels == 512


def test_vgg11s_features_are_torchvisions_and_its_head_for_imagenet_too() -> None:
    ours = VGG11(CIFAR, 10).double()
    with torch.device("meta"):
        theirs = torchvision.models.vgg11(num_classes=7)
        assert {n: p.shape for n, p in VGG11(IMAGES, 7, head="imagenet").state_dict().items()} == {
            n: p.shape for n, p in theirs.state_dict().items()
        }
    images, state = some_images(2, *CIFAR), ours.features.state_dict()
    features = functional_call(theirs.features, state, (images,))
    assert features.shape == (2, 512, 1, 1)
    torch.testing.assert_close(ours.features(images), features, rtol=1e-12, atol=1e-12)
    weight, bias = ours.classifier[0].weight, ours.classifier[0].bias
    torch.testing.assert_close(ours(images), features.flatten(1) @ weight.T + bias, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("shape", "patch"), [((3, 8, 8), 4), ((1, 8, 8), 2), ((2, 7, 5), 4)])
def test_a_vit_is_torchvisions_on_padded_images(shape: tuple[int, int, int], patch: int) -> None:
    ours = ViT(shape, 10, patch_size=patch, width=32, depth=2)
    theirs = torchvision.models.VisionTransformer(8, patch, 2, 4, 32, 128, num_classes=10)
    theirs.conv_proj = nn.Conv2d(shape[0], 32, patch, patch)
    same_state(ours, theirs)
    images = some_images(2, *shape)
    padded = torch.zeros(2, shape[0], 8, 8, dtype=torch.float64)
    padded[:, :, : shape[1], : shape[2]] = images
    torch.testing.assert_close(ours(images), theirs(padded), rtol=1e-10, atol=1e-10)


def test_a_vit_can_be_differentiated_twice_by_itself() -> None:
    network, images = ViT(DIGITS, 10, width=16, depth=1), torch.rand(2, *DIGITS, requires_grad=True)
    loss = nn.functional.cross_entropy(network(images), torch.tensor([1, 2]))
    gradients = torch.autograd.grad(loss, list(network.parameters()), create_graph=True)
    (slope,) = torch.autograd.grad(sum(g.square().sum() for g in gradients), images)
    assert slope.isfinite().all() and slope.any()


def test_the_heads_of_a_vit_do_not_start_at_zero() -> None:
    drawn = ViT(CIFAR, 10).draw(generator())["heads.head.weight"]
    assert float(drawn.std()) == pytest.approx(0.02, rel=0.1)


def plain_resnet20(state: dict[str, Tensor], x: Tensor) -> Tensor:
    """ResNet-20 written out: He et al. 2015, section 4.2, shortcuts of type A."""

    def normal(x: Tensor, name: str) -> Tensor:
        mean, var, weight, bias = (state[f"{name}.{k}"] for k in ("running_mean", "running_var", "weight", "bias"))
        scale = weight / (var + 1e-5).sqrt()
        return x * scale[:, None, None] + (bias - mean * scale)[:, None, None]

    x = normal(nn.functional.conv2d(x, state["conv1.weight"], padding=1), "bn1").relu()
    for stage in (1, 2, 3):
        for block in range(3):
            name, stride = f"layer{stage}.{block}", 2 if stage > 1 and block == 0 else 1
            y = nn.functional.conv2d(x, state[f"{name}.conv1.weight"], stride=stride, padding=1)
            y = normal(y, f"{name}.bn1").relu()
            y = normal(nn.functional.conv2d(y, state[f"{name}.conv2.weight"], padding=1), f"{name}.bn2")
            if stride == 2:
                x = x[:, :, ::2, ::2]
                zeros = torch.zeros_like(x[:, : x.shape[1] // 2])
                x = torch.cat([zeros, x, zeros], 1)
            x = (x + y).relu()
    return x.mean((2, 3)) @ state["linear.weight"].T + state["linear.bias"]


def test_resnet20_is_that_of_the_paper_written_out() -> None:
    network = ResNet20(CIFAR, 10)
    with_statistics(network)
    network.double()
    images = some_images(2, *CIFAR)
    torch.testing.assert_close(network(images), plain_resnet20(network.state_dict(), images), rtol=1e-9, atol=1e-9)


def test_images_are_normalized_as_torchvision_does() -> None:
    images = some_images(2, *CIFAR)
    plain = ResNet20(CIFAR, 10).double()
    network = ResNet20(CIFAR, 10, mean=list(IMAGENET[0]), std=list(IMAGENET[1])).double()
    network.load_state_dict(plain.state_dict())
    normalized = torchvision.transforms.functional.normalize(images, *IMAGENET)
    torch.testing.assert_close(network(images), plain(normalized), rtol=1e-12, atol=1e-12)


def test_cnn6_has_the_layers_of_the_authors_code() -> None:
    layers = list(CNN6(CIFAR, 10))
    convolutions = [layer for layer in layers if isinstance(layer, nn.Conv2d)]
    assert [(c.out_channels, c.kernel_size[0], c.stride[0], c.padding[0], c.bias) for c in convolutions] == [
        (12, 4, 2, 2, None),
        (36, 3, 2, 1, None),
        (36, 3, 1, 1, None),
        (36, 3, 1, 1, None),
        (64, 3, 2, 1, None),
        (128, 3, 1, 1, None),
    ]
    assert [layer.negative_slope for layer in layers if isinstance(layer, nn.LeakyReLU)] == [0.2] * 6
    assert layers[-1].in_features == 3200 and layers[-1].bias is None


def test_rgap_solves_a_cnn6_with_biases_and_relu() -> None:
    assert len(stages(CNN6(CIFAR, 10, activation="relu", bias=True), CIFAR)) == 7


SMALL: dict[str, Any] = {
    "CNN6": CNN6,
    "VGG11": VGG11,
    "ResNet18": ResNet18,
    "ResNet20": ResNet20,
    "ViT": lambda *given: ViT(*given, width=16, depth=1),
}


@pytest.mark.parametrize("model", SMALL.values(), ids=SMALL)
def test_the_slope_of_the_matching_loss_is_that_of_finite_differences(model: type[Model]) -> None:
    """For two victims at once, in a random direction of the images; the step is small, as a ReLU has a kink."""
    network = model(DIGITS, 10).double()
    weights = {n: v.double() for n, v in draw_networks(network, [generator(1), generator(2)]).items()}
    true, dummy, direction = (torch.rand(2, 1, *DIGITS, generator=generator(s)).double() for s in (3, 4, 5))
    one_hot = nn.functional.one_hot(torch.tensor([[3], [7]]), 10).double()
    update = batch_gradients(network, weights, true, one_hot, create_graph=False)

    def loss(images: Tensor, create_graph: bool = False) -> Tensor:
        return squared_distance(batch_gradients(network, weights, images, one_hot, create_graph), update)

    images = dummy.requires_grad_()
    with differentiable_twice():
        (slope,) = torch.autograd.grad(loss(images, create_graph=True).sum(), images)
    step = 1e-8
    measured = (loss(dummy.detach() + step * direction) - loss(dummy.detach() - step * direction)) / (2 * step)
    along = (slope * direction).flatten(1).sum(1)
    assert slope.isfinite().all() and bool((along != 0).all())
    torch.testing.assert_close(along, measured, rtol=1e-4, atol=1e-12)


NOT_TRIED = {"ResNet32", "ResNet44", "ResNet56", "GeipingLeNet"}
"""As ResNet20, with more of the same, and as LeNet, for images with colors."""


@pytest.mark.parametrize("model", sorted(set(classes("model")) - NOT_TRIED))
def test_every_network_passes_the_rehearsal_of_its_updates(model: str, digits: Digits) -> None:
    given = spec("model", model, {})
    scenario = Scenario(Spec("Digits"), given, batch_size=1, seed=0, victims=2)
    network = classes("model")[model](digits.image_shape, digits.num_classes).eval()
    scene = Scene.of(scenario, network, digits, torch.device("cpu"))
    if sum(p.numel() for p in network.parameters()) < 1e6:  # the label rule alone takes seconds on larger ones
        scene.check_attack(spec("attack", "IDLG", {"max_evaluations": 3}), None, adaptive=False)


class Written(nn.Module):
    """The network of Inverting Gradients as its modules come, whose weights torch draws before they are drawn anew."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *(nn.Conv2d(3, 12, 5, padding=2, stride=2), nn.Sigmoid()),
            *(nn.Conv2d(12, 12, 5, padding=2, stride=2), nn.Sigmoid()),
            *(nn.Conv2d(12, 12, 5, padding=2, stride=1), nn.Sigmoid()),
        )
        self.fc = nn.Linear(768, 10)
        for layer in (self.body[0], self.body[2], self.body[4], self.fc):
            layer.weight.data.uniform_(-0.5, 0.5)
            layer.bias.data.uniform_(-0.5, 0.5)

    def forward(self, images: Tensor) -> Tensor:
        mean, std = torch.tensor(CIFAR10).to(images)[..., None, None]
        made: Tensor = self.fc(self.body((images - mean) / std).flatten(1))
        return made


def test_the_network_of_inverting_gradients_is_that_of_its_seed_for_every_victim() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(43)
        theirs = Written()
    ours = GeipingLeNet(CIFAR, 10)
    drawn = ours.draw(generator(5))
    for own, other in zip(drawn.values(), theirs.parameters(), strict=True):
        assert torch.equal(own, other)
    images = some_images(2, *CIFAR)
    torch.testing.assert_close(functional_call(ours, drawn, (images.float(),)), theirs(images.float()))
    with pytest.raises(ValueError, match="3 channels: give data of this kind, or model LeNet"):
        GeipingLeNet((1, 8, 8), 10)
