"""Networks as users write them: what an attack finds must not depend on how a function is written down."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from attacks import IDLG, GaussNewton, Observation
from attacks.closed_form.chain import stages
from attacks.closed_form.first_layer import first_layer
from attacks.engine.last_layer import last_layer
from attacks.network.gradients import batch_gradients, batch_logits, call
from attacks.network.head import linear_head
from benchmark.federation.client import PublicData, observe
from benchmark.models import MLP, ConvNet, LeNet, ResNet
from benchmark.models.draw import draw_default, drawn_weights
from datamodules import Digits
from defenses import Clipping, Defense, GaussianNoise, Masking, Pruning

SHAPE, CLASSES = (1, 8, 8), 10


class Own(nn.Module):
    """A LeNet whose weights are drawn as LeNet draws them, and whose forward is the class's own."""

    def __init__(self) -> None:
        super().__init__()
        self.net = LeNet(SHAPE, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        return self.net(images)

    def draw(self, generator: torch.Generator) -> dict[str, Tensor]:
        return {f"net.{name}": value for name, value in self.net.draw(generator).items()}


class OneActivation(LeNet):
    """One object for all activations."""

    def __init__(self) -> None:
        super().__init__(SHAPE, CLASSES)
        self[3] = self[5] = self[1]


class Normalized(LeNet):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward((images - 0.1307) / 0.3081)


class Hooked(LeNet):
    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.register_forward_pre_hook(lambda module, inputs: ((inputs[0] - 0.1307) / 0.3081,))


class Shortcut(LeNet):
    def forward(self, images: Tensor) -> Tensor:
        for number, layer in enumerate(self):
            made = layer(images)
            images = made + images if number == 4 else made
        return images


class Cooled(LeNet):
    """Logits divided by a temperature."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images) / 2


class HookedHead(LeNet):
    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self[7].register_forward_hook(lambda module, inputs, made: made * 3)


class Twice(LeNet):
    """The last layer's features are used a second time."""

    def forward(self, images: Tensor) -> Tensor:
        features = nn.Sequential(*list(self)[:7])(images)
        return self[7](features) + features[:, :10]


class Tied(nn.Module):
    """A layer in two places, whose weight a third layer has too."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(64, 64), nn.Linear(64, CLASSES)
        self.again = self.first
        self.third = nn.Linear(64, 64)
        self.third.weight = self.first.weight

    def forward(self, images: Tensor) -> Tensor:
        x = images.flatten(1)
        for layer in (self.first, self.again, self.third):
            x = layer(x).sigmoid()
        return self.head(x)

    def draw(self, generator: torch.Generator) -> dict[str, Tensor]:
        return {n: torch.rand(p.shape, generator=generator) - 0.5 for n, p in self.named_parameters()}


class Recurrent(nn.Module):
    """A layer that torch cannot batch over clients."""

    def __init__(self) -> None:
        super().__init__()
        self.rows, self.head = nn.LSTM(8, 16, batch_first=True), nn.Linear(16, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.rows(images[:, 0])[0][:, -1])

    def draw(self, generator: torch.Generator) -> dict[str, Tensor]:
        return {n: torch.rand(p.shape, generator=generator) - 0.5 for n, p in self.named_parameters()}


class Attention(nn.Module):
    """Self-attention over the rows, whose fused form has no second derivative."""

    def __init__(self) -> None:
        super().__init__()
        self.attend, self.head = nn.MultiheadAttention(8, 2, batch_first=True), nn.Linear(64, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        rows = images[:, 0]
        return self.head(self.attend(rows, rows, rows, need_weights=False)[0].flatten(1))

    def draw(self, generator: torch.Generator) -> dict[str, Tensor]:
        return {n: torch.rand(p.shape, generator=generator) - 0.5 for n, p in self.named_parameters()}


def lenet(make: type[LeNet]) -> Callable[[], nn.Module]:
    return lambda: make(SHAPE, CLASSES)


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "stock": lenet(LeNet),
    "wrapped": Own,
    "one activation": OneActivation,
    "normalized": lenet(Normalized),
    "hooked": lenet(Hooked),
    "shortcut": lenet(Shortcut),
    "temperature": lenet(Cooled),
    "hooked head": lenet(HookedHead),
    "features twice": lenet(Twice),
    "tied": Tied,
    "recurrent": Recurrent,
    "attention": Attention,
}

every_network = pytest.mark.parametrize("network", NETWORKS)


def victims(network: nn.Module, count: int, digits: Digits, defense: Defense | None = None) -> tuple[Any, Observation]:
    images, labels = digits.victims(count)
    public = digits.mean_image(), digits.class_means(), digits.mean_step(), digits.channel_stds()
    seen = observe(network.eval(), images, labels, PublicData(CLASSES, *public), defense, True, 0, range(count))
    return (images, labels), seen


def plain_gradient(network: nn.Module, seen: Observation, victim: int, image: Tensor, label: Tensor) -> list[Tensor]:
    """By the module itself, with the weights written into it."""
    with torch.no_grad():
        for name, p in network.named_parameters():
            p.copy_(seen.parameters[name][victim])
    loss = nn.functional.cross_entropy(network(image), label)
    return list(torch.autograd.grad(loss, list(network.parameters()), create_graph=True))


@every_network
def test_the_update_of_a_network_is_that_of_a_plain_loop_over_it(network: str, digits: Digits) -> None:
    made = NETWORKS[network]().double()
    (images, labels), seen = victims(made, 2, digits)
    for victim in range(2):
        plain = plain_gradient(made, seen, victim, images[victim].double(), labels[victim])
        for (name, _), gradient in zip(made.named_parameters(), plain, strict=True):
            torch.testing.assert_close(seen.update[name][victim], gradient.detach(), rtol=1e-9, atol=1e-12)


@every_network
def test_the_loss_of_an_attack_is_that_of_a_plain_loop_over_the_network(network: str, digits: Digits) -> None:
    """Whatever shortcut the attack takes, at the images that it returns."""
    made = NETWORKS[network]().double()
    (_, labels), seen = victims(made, 2, digits)
    found = IDLG(max_evaluations=4).reconstruct(seen)
    assert torch.equal(found.labels, labels)
    for victim in range(2):
        plain = plain_gradient(made, seen, victim, found.images[victim], labels[victim])
        names = [name for name, _ in made.named_parameters()]
        wanted = sum(((g - seen.update[n][victim]) ** 2).sum() for n, g in zip(names, plain, strict=True))
        assert float(found.loss[victim]) == pytest.approx(float(wanted), rel=1e-7)


def test_the_shortcut_is_taken_where_it_is_one(digits: Digits) -> None:
    heads = {name: linear_head(make(), SHAPE, CLASSES) for name, make in NETWORKS.items()}
    assert heads["stock"] == heads["one activation"] == heads["normalized"] == heads["hooked"] == "7"
    assert heads["wrapped"] == "net.7" and heads["tied"] == "head"
    assert heads["temperature"] is heads["hooked head"] is heads["features twice"] is heads["recurrent"] is None


NO_CHAINS = ["normalized", "hooked", "shortcut", "temperature", "hooked head", "features twice"]


@pytest.mark.parametrize("network", NO_CHAINS)
def test_rgap_refuses_a_network_that_is_no_chain_of_its_layers(network: str) -> None:
    with pytest.raises(ValueError, match="chain"):
        stages(NETWORKS[network](), SHAPE)


@pytest.mark.parametrize("network", ["stock", "one activation", "wrapped"])
def test_rgap_takes_a_chain_however_it_is_written(network: str) -> None:
    assert len(stages(NETWORKS[network](), SHAPE)) == 4


@pytest.mark.parametrize("network", ["one activation", "normalized", "hooked", "shortcut", "wrapped"])
def test_digits_are_found_through_every_way_to_write_a_lenet(network: str, digits: Digits) -> None:
    """With a line search, as without one rounding decides who of them is found."""
    (images, _), seen = victims(NETWORKS[network](), 8, digits)
    found = IDLG(max_evaluations=150, line_search=True).reconstruct(seen)
    assert ((found.images - images).square().mean((1, 2, 3, 4)) < 1e-2).all()


def test_a_call_with_other_weights_leaves_shared_ones_shared() -> None:
    network = Tied()
    weights = {name: torch.rand_like(p) for name, p in network.named_parameters()}
    once = call(network, weights, torch.rand(2, *SHAPE, generator=torch.Generator().manual_seed(0)))
    again = call(network, weights, torch.rand(2, *SHAPE, generator=torch.Generator().manual_seed(0)))
    assert torch.equal(once, again) and network.third.weight is network.first.weight


def test_what_is_frozen_is_not_shared_and_what_is_unused_is_zero(digits: Digits) -> None:
    network = LeNet(SHAPE, CLASSES)
    network.spare = nn.Linear(3, 2)  # type: ignore[assignment] # as users add layers
    network.forward = nn.Sequential(*list(network)[:8]).forward  # type: ignore[method-assign] # an unused layer
    for name, p in network.named_parameters():
        p.requires_grad_(not name.startswith("0."))
    (_, _), seen = victims(network, 2, digits)
    assert set(seen.parameters) - set(seen.update) == {"0.weight", "0.bias"}
    assert not seen.update["spare.weight"].any() and seen.update["2.weight"].any()


@pytest.mark.parametrize("size", [0.1, 0.03])
def test_small_gradients_are_matched_as_well_as_large_ones(size: float, digits: Digits) -> None:
    """With weights of the usual size the published tolerances are above the loss of any image at all."""
    images, labels = digits.victims(6)
    public = digits.mean_image(), digits.class_means(), digits.mean_step(), digits.channel_stds()
    model = LeNet(SHAPE, CLASSES, init_range=size).double()
    seen = observe(model, images, labels, PublicData(CLASSES, *public), None, False, 0, range(6))
    found = IDLG(max_evaluations=200).reconstruct(seen)
    assert ((found.images - images).square().mean((1, 2, 3, 4)) < 1e-2).sum() >= 5
    one_hot = nn.functional.one_hot(found.labels, CLASSES).double()
    dummy = batch_gradients(model, seen.parameters, found.images, one_hot, create_graph=False)
    off = sum(((dummy[n] - seen.update[n]) ** 2).flatten(1).sum(1) for n in dummy)
    torch.testing.assert_close(found.loss, off, rtol=1e-4, atol=0)  # as it is, not as it was scaled


def test_a_small_gradient_is_matched_as_well_from_another_start(digits: Digits) -> None:
    """A new start is not within the tolerance either."""
    images, labels = digits.victims(4)
    network = LeNet(SHAPE, CLASSES, init_range=0.03)
    seen = observe(network, images, labels, PublicData.of(digits), None, False, 0, range(4))
    start = IDLG(max_evaluations=1).reconstruct(seen).loss
    found = IDLG(max_evaluations=60, restarts=3, patience=1).reconstruct(seen)  # many starts, few evaluations each
    for victim, status in enumerate(found.status):
        assert status != "converged" or found.loss[victim] < 1e-4 * start[victim]


MODELS = {"LeNet": LeNet, "MLP": lambda *a: MLP(*a, activation="relu"), "ConvNet": ConvNet, "ResNet": ResNet}


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
@pytest.mark.parametrize(
    "defense",
    [GaussianNoise(0.0), Clipping(float("inf")), Pruning(0.0), Masking(0.0), Pruning(0.002), Masking(1e-4)],
    ids=lambda defense: f"{type(defense).__name__}{list(vars(defense).values())}",
)
def test_knowing_a_defense_that_takes_next_to_nothing_loses_nothing(
    model: Callable[..., nn.Module], defense: Defense, digits: Digits
) -> None:
    """Also behind a ReLU, where half of a gradient is zero: at no strength exactly, at a small one nearly."""
    made = model(SHAPE, CLASSES).double()
    _, control = victims(made, 2, digits)
    _, seen = victims(made, 2, digits, defense)
    known = seen.defense
    assert known is not None
    kept = known.kept_entries(seen.update)
    lost = sum(int((value == 0).sum()) for value in kept.values()) / sum(value.numel() for value in kept.values())
    strength = getattr(defense, "ratio", 0.0)
    by_themselves = 0.35 if isinstance(defense, Masking) and strength else 0.0  # zeros no row, column or tap explains
    assert lost <= 3 * strength + (by_themselves if isinstance(made, ConvNet | ResNet) else 0)
    simulated = known.simulate(control.update, seen.update)
    for name, value in simulated.items():
        torch.testing.assert_close(value, seen.update[name], rtol=0, atol=1e-12)


class Nested(nn.Module):
    """Blocks in blocks, drawn by Leakboard's own helper."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Sequential(nn.Conv2d(1, 4, 3), nn.Sigmoid()), nn.Flatten())
        self.head = nn.Linear(144, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.body(images))

    def draw(self, generator: torch.Generator) -> dict[str, Tensor]:
        return draw_default(self, generator)


def test_blocks_in_blocks_are_drawn_too() -> None:
    drawn = drawn_weights(Nested(), torch.Generator().manual_seed(0))  # type: ignore[arg-type] # any module
    assert set(drawn) == {"body.0.0.weight", "body.0.0.bias", "head.weight", "head.bias"}


class Filling(nn.Module):
    """Has no memory left whenever it is called as told."""

    full_at = -1
    calls = 0
    error: BaseException = MemoryError()

    def forward(self, images: Tensor) -> Tensor:
        self.calls += 1
        if self.calls > self.full_at >= 0:
            raise self.error
        return super().forward(images)


class Full(Filling, LeNet):
    """That of convolutions."""


class FullMLP(Filling, MLP):
    """That with a layer that sees the pixels themselves."""


FULL = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    MemoryError(),
    RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory"),
]
"""What devices and machines say that are out of memory."""


@pytest.mark.parametrize("error", FULL)
@pytest.mark.parametrize("what", ["logits", "update", "with a graph", "solved"])
def test_a_full_memory_is_told_and_is_no_reason_to_go_on_one_by_one(
    what: str, error: BaseException, digits: Digits
) -> None:
    """The caller attacks fewer victims at a time, whose networks are then evaluated together as before."""
    _, seen = victims(Full(SHAPE, CLASSES), 2, digits)
    model, images = seen.model, seen.mean_image.expand(seen.num_victims, *seen.image_shape).clone()
    assert isinstance(model, Full)
    model.error = error
    labels = torch.full((2, 1, CLASSES), 1 / CLASSES)
    ways: dict[str, Callable[[], Any]] = {
        "logits": lambda: batch_logits(model, seen.parameters, images),
        "update": lambda: seen.update_of(images, labels),
        "with a graph": lambda: seen.update_of(images.requires_grad_(), labels, create_graph=True),
        "solved": lambda: GaussNewton(iterations=1).reconstruct(seen),
    }
    ways[what]()
    before = model.calls
    ways[what]()
    usual = model.calls - before
    for calls in range(usual):  # wherever the memory is full
        model.full_at, model.calls = calls, 0
        with pytest.raises(type(error)) as told:
            ways[what]()
        assert str(told.value) == str(error)
        assert model.calls == calls + 1
    model.full_at = -1
    before = model.calls
    ways[what]()
    assert model.calls - before == usual


@pytest.mark.parametrize("error", FULL)
@pytest.mark.parametrize("search", ["first layer", "last layer", "head"])
def test_a_layer_is_not_taken_for_missing_where_the_memory_is_full(search: str, error: BaseException) -> None:
    """It would stay so for good, and attacks that need the layer would be left out."""
    ways: dict[str, Callable[[nn.Module], Any]] = {
        "first layer": lambda model: first_layer(model, SHAPE),
        "last layer": lambda model: last_layer(model, SHAPE),
        "head": lambda model: linear_head(model, SHAPE, CLASSES),
    }
    plain = FullMLP(SHAPE, CLASSES)
    wanted = ways[search](plain)
    assert wanted is not None
    for calls in range(plain.calls or 1):
        model = FullMLP(SHAPE, CLASSES)
        model.full_at, model.error = calls, error
        with pytest.raises(type(error)) as told:
            ways[search](model)
        assert str(told.value) == str(error)
        model.full_at = -1
        assert ways[search](model) is not None
