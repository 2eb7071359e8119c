"""R-GAP: its equations against autograd, its least squares against a dense solver, and what it finds."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from attacks import DLG, IDLG, RGAP
from attacks.closed_form.chain import Stage, stages
from attacks.rgap import SCALES, rank_one, recursive_solution, scaled_by_softmax, solve_layer, true_gradient
from benchmark.models import CNN6, MLP, ConvNet, LeNet
from benchmark.models.draw import Model, draw_default
from defenses import Clipping, GaussianNoise, Masking, Pruning

MakeVictims = Callable[..., Any]


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(sum(shape)))


def mse(found: Tensor, images: Tensor) -> Tensor:
    return (found - images).flatten(1).square().mean(1)


@pytest.fixture(params=[(2, 2, 1), (1, 0, 1), (1, 2, 2)], ids=["stride", "plain", "dilation"])
def stage(request: pytest.FixtureRequest) -> Stage:
    stride, padding, dilation = ((value, value) for value in request.param)
    return Stage("0", (3, 9, 8), stride, padding, dilation, None)


def test_a_stage_is_the_convolution_of_each_victim_and_its_two_transposes(stage: Stage) -> None:
    inputs, kernel = random(2, 3, 9, 8).requires_grad_(), random(2, 4, 3, 3, 3).requires_grad_()
    expected = torch.cat(
        [F.conv2d(inputs[v : v + 1], kernel[v], None, stage.stride, stage.padding, stage.dilation) for v in range(2)]
    )
    torch.testing.assert_close(stage.forward(inputs, kernel), expected)
    slope = random(*expected.shape)
    to_inputs, to_kernel = torch.autograd.grad(expected, [inputs, kernel], slope)
    torch.testing.assert_close(stage.backward(slope, kernel), to_inputs)
    torch.testing.assert_close(stage.kernel_gradient(inputs, slope, kernel), to_kernel)


def test_a_layer_is_solved_as_a_dense_solver_does(stage: Stage) -> None:
    """The rows' weights do not matter where the equations agree and decide everything."""
    inputs, kernel = random(1, 3, 9, 8), random(1, 40, 3, 3, 3)
    outputs = stage.forward(inputs, kernel)
    slope, nothing = random(*outputs.shape), torch.zeros_like(kernel)
    gradient = stage.kernel_gradient(inputs, slope, kernel)
    units = torch.eye(inputs.numel(), dtype=torch.float64).view(-1, *stage.shape)
    matrix = torch.stack([stage.forward(unit[None], kernel).flatten() for unit in units], 1)
    dense = torch.linalg.lstsq(matrix, outputs.flatten()).solution.view_as(inputs)
    ones = torch.ones_like(outputs)
    for known in (torch.ones_like(kernel), nothing):
        found = solve_layer(stage, kernel, gradient, known, outputs, ones, slope, 2000)
        torch.testing.assert_close(found, dense, rtol=1e-4, atol=1e-4)


def test_what_no_equation_decides_stays_at_one_half() -> None:
    stage = Stage("0", (1, 4, 4), (1, 1), (0, 0), (1, 1), None)
    inputs, kernel = random(1, 1, 4, 4), torch.ones(1, 1, 1, 1, 1, dtype=torch.float64)
    certain = torch.zeros_like(inputs)
    certain[..., :2] = 1  # the right half of the output is not known, nor is the gradient
    nothing = torch.zeros_like(kernel)
    found = solve_layer(stage, kernel, nothing, nothing, inputs, certain, torch.ones_like(inputs), 50)
    torch.testing.assert_close(found[..., :2], inputs[..., :2])
    assert (found[..., 2:] == 0.5).all()


def test_the_factors_of_a_matrix_of_rank_one_come_from_the_entries_that_are_left() -> None:
    left, right = random(3, 10), random(3, 30)
    right[:, -1] = 1
    known = (torch.rand(3, 10, 30, generator=torch.Generator().manual_seed(1)) < 0.5).double()
    known[:, :, 4] = 0
    found_left, found_right, certain = rank_one(left[..., None] * right[:, None], known)
    torch.testing.assert_close(found_left, left)
    assert (certain[:, 4] == 0).all() and certain.sum() == 3 * 29
    torch.testing.assert_close(found_right * certain, right * certain)


class OnAGpu(TorchFunctionMode):
    """Refuses eigenvectors of what was not brought to the CPU, as CUDA's library does where eigenvalues are equal."""

    def __init__(self) -> None:
        super().__init__()
        self.brought: list[Any] = []

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is torch.linalg.eigh:
            assert any(args[0] is one for one in self.brought), "on a GPU this fails"
        found = function(*args, **(kwargs or {}))
        if function is Tensor.cpu:
            self.brought.append(found)
        return found


def test_eigenvectors_are_found_on_the_cpu(victims_of: MakeVictims) -> None:
    *_, observation = victims_of(2, defense=Masking(0.9), adaptive=True)
    with OnAGpu() as gpu:
        RGAP().reconstruct(observation)
    assert gpu.brought


@pytest.mark.parametrize("model", [LeNet, MLP])
def test_it_finds_the_images_and_the_labels(model: Any, victims_of: MakeVictims) -> None:
    images, labels, observation = victims_of(8, model=model, dtype=torch.float64)
    found = RGAP(iterations=1000).reconstruct(observation)
    assert mse(found.images, images).max() < 1e-6
    assert torch.equal(found.labels, labels)
    assert found.status == ["closed form"] * 8 and found.evaluations.sum() == 0


def test_each_victim_is_solved_alone_as_in_company(victims_of: MakeVictims) -> None:
    _, _, observation = victims_of(4, dtype=torch.float64)
    together, _ = recursive_solution(observation, 60)
    for victim in range(4):
        alone, _ = recursive_solution(observation.take([victim]), 60)
        torch.testing.assert_close(alone[0], together[victim], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("defense", [Masking(0.2), Pruning(0.5)], ids=["Masking", "Pruning"])
def test_who_knows_which_entries_were_removed_does_without_them(defense: Any, victims_of: MakeVictims) -> None:
    images, _, oblivious = victims_of(4, dtype=torch.float64, defense=defense)
    *_, adaptive = victims_of(4, dtype=torch.float64, defense=defense, adaptive=True)
    knowing, unknowing = (mse(RGAP().reconstruct(seen).images, images) for seen in (adaptive, oblivious))
    assert knowing.max() < 1e-2 and (3 * knowing < unknowing).all()


def test_a_scale_of_the_update_changes_nothing(victims_of: MakeVictims) -> None:
    images, labels, clipped = victims_of(4, dtype=torch.float64, defense=Clipping(0.1))
    found = RGAP(1000).reconstruct(clipped)
    assert mse(found.images, images).max() < 1e-6 and torch.equal(found.labels, labels)


def test_what_is_known_of_the_gradient_is_what_the_defense_lets_through(victims_of: MakeVictims) -> None:
    _, _, undefended = victims_of(2)
    _, _, masked = victims_of(2, defense=Masking(0.5, rescale=True), adaptive=True)
    gradient, known = true_gradient(masked)
    for name, value in undefended.update.items():
        torch.testing.assert_close(gradient[name], value * known[name])
        kept, left = known[name] != 0, masked.update[name] != 0
        assert kept[left].all() and not value[kept & ~left].any()  # a true zero is known too


def test_noise_on_the_update_gives_an_answer_all_the_same(victims_of: MakeVictims) -> None:
    for adaptive in (False, True):
        *_, observation = victims_of(2, defense=GaussianNoise(0.1), adaptive=adaptive)
        assert RGAP().reconstruct(observation).images.isfinite().all()


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_an_update_that_is_not_finite_is_one_victims_trouble(bad: float, victims_of: MakeVictims) -> None:
    images, _, observation = victims_of(3, dtype=torch.float64)
    observation.update["7.weight"][1, 0, 0] = bad
    found = RGAP(1000).reconstruct(observation)
    assert not found.images[1].isfinite().all()
    assert mse(found.images[[0, 2]], images[[0, 2]]).max() < 1e-6
    from_there = IDLG(start="rgap", max_evaluations=20).reconstruct(observation)
    assert from_there.status == ["converged", "diverged", "converged"]


RELUS = {
    "ConvNet": ConvNet,
    "CNN6": partial(CNN6, activation="relu", bias=True),
    "MLP": partial(MLP, hidden=128, depth=2, activation="relu"),
}


@pytest.mark.parametrize("model", RELUS.values(), ids=RELUS)
@pytest.mark.parametrize("defense", [None, Clipping(0.1)], ids=["no defense", "Clipping"])
def test_relu_is_inverted_where_it_let_its_input_through(defense: Any, model: Any, victims_of: MakeVictims) -> None:
    """However small what comes out of it is: networks with biases were taken to let nothing below 1e-4 through."""
    images, labels, observation = victims_of(8, model=model, dtype=torch.float64, defense=defense, adaptive=True)
    found = RGAP().reconstruct(observation)
    assert (mse(found.images, images) < 1e-8).all() and torch.equal(found.labels, labels)


@pytest.mark.parametrize("model", [RELUS["ConvNet"], RELUS["MLP"]], ids=["ConvNet", "MLP"])
def test_what_noise_makes_of_a_relu_that_let_nothing_through_is_taken_for_nothing(
    model: Any, victims_of: MakeVictims
) -> None:
    """How far outputs are off is told by those that are negative, so that more noise costs more, not all at once."""
    for std, most in ((0.0, 1e-8), (1e-6, 1e-3), (1e-5, 0.1)):
        images, _, seen = victims_of(8, model=model, dtype=torch.float64, defense=GaussianNoise(std), adaptive=True)
        assert mse(RGAP().reconstruct(seen).images, images).median() < most


def test_the_layers_of_a_convolutional_network_are_told(victims_of: MakeVictims) -> None:
    *_, observation = victims_of(1, model=ConvNet)
    assert [stage.name for stage in stages(observation.model, (1, 8, 8))] == ["0", "2", "5"]


@pytest.mark.parametrize(
    ("model", "image_shape", "said"),
    [
        (nn.Sequential(nn.Conv2d(1, 2, 3), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(18, 2)), (1, 1, 8, 8), "chain"),
        (nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.Linear(8, 2)), (1, 1, 8, 8), "followed by"),
        (nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ELU(), nn.Linear(8, 2)), (1, 1, 8, 8), "leaky ReLU"),
        (nn.Sequential(nn.Conv2d(1, 2, 3), nn.Sigmoid()), (1, 1, 8, 8), "chain"),
        (nn.Sequential(nn.Flatten(), nn.Linear(4, 2), nn.Softmax(1)), (1, 1, 2, 2), "chain"),
        (LeNet((1, 8, 8), 10), (2, 1, 8, 8), "one image"),
    ],
    ids=["pooling", "no activation", "another activation", "no linear end", "softmax", "two images"],
)
def test_what_it_does_not_solve_is_said_in_a_sentence(
    model: nn.Module, image_shape: tuple[int, int, int, int], said: str
) -> None:
    for attack in (RGAP(), IDLG(start="rgap"), DLG(start="rgap")):
        with pytest.raises(ValueError, match=said):
            attack.check(model, image_shape)


CNN6S = {
    "published": CNN6,
    "biases": partial(CNN6, bias=True),
    "ReLU": partial(CNN6, activation="relu"),
    "sigmoid": partial(CNN6, activation="sigmoid"),
}


@pytest.mark.parametrize("model", CNN6S.values(), ids=CNN6S)
def test_it_finds_the_images_through_its_own_network(model: Any, victims_of: MakeVictims) -> None:
    """From updates in 32 bits, at 100 dB and more; a leaky ReLU and a missing bias lose nothing."""
    images, labels, observation = victims_of(4, model=model)
    found = RGAP().reconstruct(observation)
    assert found.images.dtype == torch.float32 and mse(found.images, images).max() < 1e-10
    assert torch.equal(found.labels, labels)


def test_it_finds_the_images_through_a_single_layer_without_a_bias(victims_of: MakeVictims) -> None:
    class Single(nn.Sequential, Model):
        def __init__(self, image_shape: Any, num_classes: int) -> None:
            super().__init__(nn.Flatten(), nn.Linear(64, num_classes, bias=False))

        def draw(self, generator: torch.Generator) -> dict[str, Tensor]:
            return draw_default(self, generator)

    images, labels, observation = victims_of(4, model=Single)
    found = RGAP().reconstruct(observation)
    assert mse(found.images, images).max() < 1e-10 and torch.equal(found.labels, labels)


def test_victims_of_a_cnn6_are_solved_alone_as_in_company(victims_of: MakeVictims) -> None:
    _, _, observation = victims_of(3, model=CNN6, dtype=torch.float64)
    together, labels = recursive_solution(observation)
    for victim in range(3):
        alone, its_labels = recursive_solution(observation.take([victim]))
        torch.testing.assert_close(alone[0], together[victim], rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(its_labels[0], labels[victim], rtol=1e-6, atol=1e-6)


def test_masking_that_is_known_takes_a_cnn6_little(victims_of: MakeVictims) -> None:
    images, labels, masked = victims_of(3, model=CNN6, defense=Masking(0.3), adaptive=True)
    found = RGAP().reconstruct(masked)
    assert mse(found.images, images).max() < 1e-8 and torch.equal(found.labels, labels)


def test_an_update_of_a_cnn6_that_is_not_finite_is_one_victims_trouble(victims_of: MakeVictims) -> None:
    images, _, observation = victims_of(3, model=CNN6)
    observation.update["13.weight"][1, 0, 0] = torch.nan
    found = RGAP().reconstruct(observation)
    assert not found.images[1].isfinite().all() and mse(found.images[[0, 2]], images[[0, 2]]).max() < 1e-10


@pytest.mark.parametrize("classes", [2, 3, 10])
@pytest.mark.parametrize("size", [0.01, 1.0, 10.0], ids=["unsure", "usual", "sure"])
def test_the_scale_that_no_bias_tells_is_that_of_the_softmax(classes: int, size: float) -> None:
    """Whatever the length of the input and of the product's factors, and the sign of the latter."""
    weight, inputs = random(40, classes, 30), random(40, 30) + 0.5
    inputs = size * inputs * torch.where(inputs.sum(1, keepdim=True) < 0, -1, 1)
    labels = F.one_hot(torch.arange(40) % classes, classes)
    slope = (weight @ inputs[..., None])[..., 0].softmax(-1) - labels
    scale = random(40, 1)
    found_slope, found = scaled_by_softmax(slope * scale, inputs / scale, weight)
    told = slope.abs().sum(1) > 2 / SCALES  # softmax is 1 to so many digits elsewhere that it says nothing
    assert told.float().mean() > 0.3
    found_slope, found, slope, inputs = (each[told] for each in (found_slope, found, slope, inputs))
    weight, labels = weight[told], labels[told]
    torch.testing.assert_close(found_slope[..., None] * found[:, None], slope[..., None] * inputs[:, None])
    of_found = (weight @ found[..., None])[..., 0].softmax(-1) - labels
    torch.testing.assert_close(found_slope, of_found, rtol=1e-5, atol=1e-12)
    if classes > 2:  # two classes give one equation, and a shorter input may fit it too
        torch.testing.assert_close(found, inputs, rtol=1e-6, atol=1e-6)
    assert (found.norm(dim=1) <= inputs.norm(dim=1) * (1 + 1e-6)).all()


@pytest.mark.parametrize("attack", [DLG, IDLG])
def test_from_its_solution_an_attack_has_little_to_do(attack: Any, victims_of: MakeVictims) -> None:
    images, labels, observation = victims_of(6)
    found = attack(start="rgap").reconstruct(observation)
    assert found.status == ["converged"] * 6
    assert found.evaluations.max() < 50
    assert mse(found.images, images).max() < 1e-3 and torch.equal(found.labels, labels)


def test_victims_in_turns_are_solved_as_all_at_once(victims_of: MakeVictims) -> None:
    *_, observation = victims_of(5, dtype=torch.float64)
    together, turns = (IDLG(start="rgap", at_once=n, max_evaluations=1).reconstruct(observation) for n in (None, 2))
    torch.testing.assert_close(turns.images, together.images, rtol=1e-5, atol=1e-5)


def test_where_it_fails_the_attack_starts_from_noise_within_its_budget(victims_of: MakeVictims) -> None:
    """Against an oblivious attacker's masked update R-GAP is lost, and so is every start: nobody converges."""
    *_, observation = victims_of(3, defense=Masking(0.3))
    found = IDLG(start="rgap", max_evaluations=300).reconstruct(observation)
    assert found.evaluations.max() <= 300
    noise = IDLG(max_evaluations=300).reconstruct(observation)
    stalled = [status == "stalled" for status in found.status]
    assert sum(stalled) >= 2 and "converged" not in found.status
    assert (found.loss <= noise.loss * 1.01)[stalled].float().mean() >= 0.5


def test_a_restart_goes_on_with_the_best_that_was_found(victims_of: MakeVictims) -> None:
    """Victims that cannot converge stall and start again; the lowest loss of all attempts is kept."""
    *_, observation = victims_of(4, defense=Pruning(0.5))
    once, often = (IDLG(max_evaluations=220, restarts=n).reconstruct(observation) for n in (0, 3))
    restarted = [v for v in range(4) if once.status[v] == "stalled" and once.evaluations[v] < 220]
    assert restarted
    assert (often.loss <= once.loss * 1.01).all()  # who restarts changes the batch, and so the others' rounding
    assert (often.evaluations[restarted] > once.evaluations[restarted]).all()
    assert often.evaluations.max() <= 220
