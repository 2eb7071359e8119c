"""Equations against unknowns: counted by hand, and ranks against torch's of matrices that autograd makes."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.functional import jacobian
from torch.nn.functional import cross_entropy, one_hot

from attacks.closed_form.chain import stages
from benchmark.cli.main import main
from benchmark.studies import rank
from benchmark.studies.rank import LEVEL, WHOLE, Equations, of_layers, of_update, verdict
from defenses.base import Update


def weights_of(network: nn.Module) -> Update:
    return {name: value.detach() for name, value in network.named_parameters()}


def measured(network: nn.Module, images: Tensor, labels: Sequence[int], known: Update | None = None) -> list[Equations]:
    weights, classes = weights_of(network), network(images).shape[1]
    known = known or {name: torch.ones_like(value) for name, value in weights.items()}
    chances = one_hot(torch.tensor(labels), classes).double()
    layers = of_layers(stages(network, tuple(images.shape[1:])), weights, images, chances, known)
    return [*layers, of_update(network, weights, images, chances, known)]


def seeded(*layers: nn.Module) -> nn.Sequential:
    network = nn.Sequential(*layers).double()
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        size = parameter[0].numel() ** -0.5
        parameter.data = size * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return network


def images_of(*shape: int) -> Tensor:
    return torch.rand(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def test_a_dense_layer_counted_by_hand() -> None:
    """Each of 4 pixels times a slope that is known stands in the gradient, which decides all without the outputs."""
    network = seeded(nn.Flatten(), nn.Linear(4, 3), nn.Sigmoid(), nn.Linear(3, 2))
    first, last, whole = measured(network, images_of(1, 1, 2, 2), [1])
    assert first == Equations("1", unknowns=4, weights=3, gradients=12, rank=4) and first.open == 0
    assert last == Equations("3", unknowns=3, weights=0, gradients=6, rank=3)
    assert whole == Equations(WHOLE, unknowns=4, weights=None, gradients=12 + 3 + 6 + 2, rank=4)


def pixelwise(activation: nn.Module) -> nn.Sequential:
    """Each pixel minus a half, through the activation."""
    network = seeded(nn.Conv2d(1, 1, 1), activation, nn.Flatten(), nn.Linear(4, 3))
    nn.init.constant_(network.get_parameter("0.weight"), 1)
    nn.init.constant_(network.get_parameter("0.bias"), -0.5)
    return network


PIXELS = torch.tensor([0.2, 0.8, 0.6, 0.1], dtype=torch.float64).view(1, 1, 2, 2)


@pytest.mark.parametrize(("activation", "told"), [(nn.ReLU(), 2), (nn.LeakyReLU(), 4), (nn.Sigmoid(), 4)])
def test_what_a_relu_does_not_let_through_stays_open(activation: nn.Module, told: int) -> None:
    """Two pixels are below the ReLU's threshold. The gradient of the one weight is a sum over the two others."""
    first, last, whole = measured(pixelwise(activation), PIXELS, [0])
    assert first == Equations("0", unknowns=4, weights=told, gradients=1, rank=told) and first.open == 4 - told
    assert last == Equations("3", unknowns=4, weights=0, gradients=12, rank=4)
    assert whole.rank == told and whole.gradients == 1 + 1 + 12 + 3


def test_what_a_defense_removes_gives_no_equation() -> None:
    """Of the last layer's weights the column of its first input is gone, and the gradient of the first layer's."""
    network = pixelwise(nn.Sigmoid())
    known = {name: torch.ones_like(value) for name, value in weights_of(network).items()}
    known["3.weight"][:, 0] = 0
    known["0.weight"].zero_()
    first, last, whole = measured(network, PIXELS, [0], known)
    assert first == Equations("0", unknowns=4, weights=4, gradients=0, rank=4)
    assert last == Equations("3", unknowns=4, weights=0, gradients=9, rank=3) and last.open == 1
    assert whole.gradients == 1 + 9 + 3
    nothing = {name: torch.zeros_like(value) for name, value in known.items()}
    first, last, whole = measured(network, PIXELS, [0], nothing)
    assert [one.rank for one in (first, last, whole)] == [4, 0, 0] and whole.gradients == 0


def test_a_batch_has_as_many_unknowns_more() -> None:
    """The slopes of 2 outputs tell 2 combinations of each pixel's values in 3 images. What is open is, for each pixel,
    a multiple of one and the same vector; of these 4 numbers the 2 outputs see 2, in each image the same."""
    network = seeded(nn.Flatten(), nn.Linear(4, 2), nn.Sigmoid(), nn.Linear(2, 4))
    first, last, _ = measured(network, images_of(3, 1, 2, 2), [0, 1, 2])
    assert first == Equations("1", unknowns=12, weights=6, gradients=8, rank=4 * 2 + 2) and first.open == 2
    assert last == Equations("3", unknowns=6, weights=0, gradients=8, rank=6)


NETWORKS = {
    "leaky ReLU": seeded(
        nn.Conv2d(2, 3, 3, 2, 1, bias=False), nn.LeakyReLU(), nn.Conv2d(3, 2, 2), nn.LeakyReLU(), nn.Flatten(),
        nn.Linear(8, 4, bias=False),
    ),
    "ReLU": seeded(
        nn.Conv2d(2, 2, 3, 1, 1), nn.ReLU(), nn.Conv2d(2, 3, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(12, 4)
    ),
    "dilation": seeded(nn.Conv2d(2, 2, 2, 1, 0, 2), nn.Sigmoid(), nn.Flatten(), nn.Linear(18, 4)),
}  # fmt: skip


@pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)
@pytest.mark.parametrize("images", [1, 2])
@pytest.mark.parametrize("kept", [1.0, 0.4])
def test_ranks_are_torchs_of_all_equations_together(network: nn.Sequential, images: int, kept: float) -> None:
    batch, labels = images_of(images, 2, 5, 5), [3, 1][:images]
    generator = torch.Generator().manual_seed(3)
    weights = weights_of(network)
    known = {name: (torch.rand(value.shape, generator=generator) < kept).double() for name, value in weights.items()}
    found = measured(network, batch, labels, known)
    x, seen = batch, []
    for layer in network:
        seen.append((layer, x.detach(), x := layer(x)))
    slopes = dict(
        zip(
            [id(layer) for layer, *_ in seen],
            torch.autograd.grad(cross_entropy(x, torch.tensor(labels), reduction="sum"), [out for *_, out in seen]),
            strict=True,
        )
    )
    linear = [place for place, (layer, *_) in enumerate(seen) if hasattr(layer, "weight")]
    for one, place in zip(found, linear, strict=False):
        layer, inputs, out = seen[place]
        name = next(name for name, value in network.named_parameters() if value is layer.weight)

        def gradient(at: Tensor, layer: nn.Module = layer) -> Tensor:
            slope = slopes[id(layer)]
            return torch.autograd.grad((layer(at) * slope).sum(), layer.get_parameter("weight"), create_graph=True)[0]

        told = torch.zeros_like(out).bool()
        if place < len(seen) - 1:
            told = out > 0 if isinstance(seen[place + 1][0], nn.ReLU) else ~told
        of_outputs, of_gradient = jacobian(layer, inputs)[told], jacobian(gradient, inputs)[known[name] != 0]
        rows = torch.cat([of_outputs.flatten(1), of_gradient.flatten(1)])
        assert one.rank == torch.linalg.matrix_rank(rows) and one.unknowns == rows.shape[1]
        assert (one.weights or 0) + one.gradients == len(rows)

    def shared(pixels: Tensor) -> Tensor:
        loss = cross_entropy(network(pixels), torch.tensor(labels))
        gradients = torch.autograd.grad(loss, list(network.parameters()), create_graph=True)
        return torch.cat([gradient.flatten() for gradient in gradients])

    everything = jacobian(shared, batch).flatten(1)
    whole = everything[torch.cat([known[name].flatten() for name in weights]) != 0]
    smallest = LEVEL * torch.linalg.svdvals(everything)[0]
    assert found[-1].gradients == len(whole)
    assert found[-1].rank == torch.linalg.matrix_rank(whole, atol=smallest, rtol=0.0)


def test_what_is_too_large_is_counted_but_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rank, "MOST_UNKNOWNS", 3)
    monkeypatch.setattr(rank, "MOST_ENTRIES", 3)
    found = measured(pixelwise(nn.Sigmoid()), PIXELS, [0])
    assert {one.rank for one in found} == {None} and [one.gradients for one in found] == [1, 12, 17]
    assert verdict(found, "", 1) == (
        "A layer is too large for its rank to be measured, and the others are decided; the rank of the whole update is "
        "not measured, since its Jacobian is too large."
    )


def said(capsys: pytest.CaptureFixture[str], *given: str) -> tuple[int, str]:
    with pytest.raises(SystemExit) as done:
        main(["rank", *given])
    out, err = capsys.readouterr()
    return int(done.value.code or 0), " ".join((out if not done.value.code else err).split())


def test_the_command_shows_the_layers_and_a_verdict(capsys: pytest.CaptureFixture[str]) -> None:
    status, shown = said(capsys, "CNN6")
    assert status == 0 and "13 512 0 5,120 512 0" in shown
    assert "equations decide the input of every layer, so that R-GAP finds the image from an update" in shown
    status, shown = said(capsys, "MLP", "--defense", "Masking", "--defense.ratio", "0.9")
    assert status == 0 and "R-GAP finds the image in part at best, as its equations leave layers open: 3 (" in shown
    status, shown = said(capsys, "--model", "ResNet", "--batch-size", "2")
    assert status == 0 and "No layers are counted, since R-GAP solves a chain" in shown and "whole update 128" in shown


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ([], "give the network, as in leakboard rank LeNet"),
        (["LeNett"], "unknown model 'LeNett'"),
        (["LeNet", "--model", "MLP"], "give either LeNet or --model, not both"),
        (["LeNet", "--attack", "IDLG"], "rank counts the equations of a gradient for any attack: leave --attack out"),
        (["LeNet", "--scenario.mode", "train"], "leave --scenario out"),
        (["LeNet", "--batch-size", "0"], "--batch-size must be a whole number of at least 1"),
        (["LeNet", "--defense.ratio", "0.5"], "--defense.ARGUMENT needs --defense NAME"),
        (["LeNet", "--defense", "Masking", "--defense.sweep", "{ratio: [0.1, 0.2]}"], "leave --defense.sweep out"),
    ],
)
def test_what_cannot_be_counted_is_a_sentence(given: list[str], error: str, capsys: pytest.CaptureFixture[str]) -> None:
    status, sentence = said(capsys, *given)
    assert status == 2 and error in sentence
