"""The attacks: what they find, that victims do not touch each other, and what they say of themselves."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn

from attacks import DLG, IDLG, ClassMeanImage, ConstantImage, MeanImage, Observation, Reconstruction
from attacks.engine.priors import outside, total_variation
from attacks.engine.problem import MatchingProblem
from attacks.gradient_matching import GradientMatching
from attacks.network.gradients import batch_gradients, squared_distance
from attacks.network.head import as_outer_product, distance_to_outer_product, is_outer_product, linear_head
from benchmark.federation.client import PublicData, observe
from benchmark.models import MLP, ConvNet, LeNet
from benchmark.models.draw import Model
from benchmark.studies import bench
from datamodules import Photos
from defenses import Clipping, Defense, GaussianNoise, Masking, Pruning, Update

ATTACKS = [DLG, IDLG]
STATUSES = {"converged", "stalled", "exhausted", "diverged"}
EVALUATIONS = 200

MakeVictims = Callable[..., Any]

every_attack = pytest.mark.parametrize("attack", ATTACKS)


class Paths(Callback):
    """The loss and the images of each victim at each evaluation."""

    def __init__(self) -> None:
        self.losses: dict[int, list[float]] = {}
        self.images: dict[int, list[Tensor]] = {}

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        assert isinstance(pl_module, MatchingProblem)
        for row, victim in enumerate(pl_module.victims):
            self.losses.setdefault(victim, []).append(float(loss[row].detach()))
            self.images.setdefault(victim, []).append(pl_module.images[row].detach().clone())


def paths(
    attack: type[GradientMatching], observation: Observation, evaluations: int = EVALUATIONS, at_once: int = 64
) -> Paths:
    """The paths of an attack that does not stop before it stalls."""
    seen = Paths()
    attack(max_evaluations=evaluations, tolerance=0, at_once=at_once).reconstruct(observation, [seen])
    return seen


def nudged(observation: Observation) -> Observation:
    """The observation with every entry of the update changed by some units in its last place."""
    generator = torch.Generator().manual_seed(0)
    noise = {n: torch.randn(v.shape, generator=generator, dtype=v.dtype) for n, v in observation.update.items()}
    return replace(observation, update={n: v * (1 + 1e-15 * noise[n]) for n, v in observation.update.items()})


def deviations(first: list[float], second: list[float]) -> Tensor:
    """Relative, for as long as both go on."""
    length = min(len(first), len(second))
    one, other = (torch.tensor(path[:length], dtype=torch.float64) for path in (first, second))
    return (one - other).abs() / one


def agreement(deviation: Tensor, bound: float) -> int:
    """Evaluations before the first deviation above the bound."""
    beyond = (deviation > bound).nonzero()
    return int(beyond[0]) if len(beyond) else len(deviation)


def loop_gradients(model: Model, parameters: Update, images: Tensor, labels: Tensor, create_graph: bool) -> Update:
    """One victim after the other and one image after the other, in plain torch."""
    found: dict[str, list[Tensor]] = {name: [] for name in parameters}
    for victim in range(len(images)):
        weights = {name: value[victim].clone().requires_grad_() for name, value in parameters.items()}
        total = torch.zeros((), dtype=images.dtype)
        for image, label in zip(images[victim], labels[victim], strict=True):
            logits = torch.func.functional_call(model, weights, (image[None],))
            total = total - (label * torch.log(torch.softmax(logits[0], 0))).sum() / images.shape[1]
        gradients = torch.autograd.grad(total, list(weights.values()), create_graph=create_graph)
        for name, gradient in zip(weights, gradients, strict=True):
            found[name].append(gradient)
    return {name: torch.stack(values) for name, values in found.items()}


# What an attack finds.


@every_attack
def test_most_digits_are_found_to_a_hundredth_of_a_gray_level(
    attack: type[GradientMatching], victims_of: MakeVictims
) -> None:
    images, labels, observation = victims_of(16)
    found = attack(max_evaluations=300).reconstruct(observation)
    errors = (found.images - images).square().mean((1, 2, 3, 4))
    assert (errors < 1e-3).sum() >= 13
    assert torch.equal(found.labels, labels)


@every_attack
def test_a_wrong_update_is_not_found(attack: type[GradientMatching], victims_of: MakeVictims) -> None:
    images, _, observation = victims_of(4)
    shifted = {name: value.roll(1, 0) for name, value in observation.update.items()}  # of the next victim's image
    found = attack(max_evaluations=300).reconstruct(replace(observation, update=shifted))
    assert ((found.images - images).square().mean((1, 2, 3, 4)) > 1e-2).all()


def test_dlg_attacks_batches(victims_of: MakeVictims) -> None:
    images, labels, observation = victims_of(4, batch_size=2)
    found = DLG(max_evaluations=300).reconstruct(observation)
    assert found.images.shape == images.shape == (4, 2, 1, 8, 8)
    assert found.labels.shape == labels.shape == (4, 2)
    swapped = (found.images - images.flip(1)).square().mean((1, 2, 3, 4))
    assert ((found.images - images).square().mean((1, 2, 3, 4)).minimum(swapped) < 1e-3).any()


def test_idlg_refuses_batches(victims_of: MakeVictims) -> None:
    with pytest.raises(ValueError, match="one image"):
        IDLG().reconstruct(victims_of(2, batch_size=2).observation)


# Batched equals looped.


@every_attack
def test_a_victim_takes_the_same_path_alone_and_in_any_company(
    attack: type[GradientMatching], victims_of: MakeVictims
) -> None:
    """In float64, to 1e-6 of the loss, at each of up to 200 evaluations, or until the attack stalls before that.

    L-BFGS amplifies rounding: a change of the update in its last place changes the late losses of a third (IDLG) to
    two thirds (DLG) of these victims by more than 1e-8. Such a victim is compared up to that evaluation; what is
    compared is about nine tenths of all evaluations on the machine of development, and may not be less than 0.7.
    """
    observation = victims_of(8, dtype=torch.float64).observation
    block, shaken = paths(attack, observation), paths(attack, nudged(observation))
    sure = [agreement(deviations(block.losses[v], shaken.losses[v]), 1e-8) for v in range(8)]
    assert sum(sure) > 0.7 * sum(map(len, block.losses.values())), "too much is left out"

    order = torch.randperm(8, generator=torch.Generator().manual_seed(1)).tolist()
    waiting = paths(attack, observation.take(order), at_once=4)
    for victim in range(8):
        others = {"shuffled and waiting": waiting.losses[order.index(victim)]}
        if victim == 1:
            others["alone"] = paths(attack, observation.take([victim])).losses[0]
        for company, losses in others.items():
            agreed = agreement(deviations(block.losses[victim], losses), 1e-6)
            assert agreed >= sure[victim], f"victim {victim}, {company}: {agreed} of {sure[victim]} evaluations"


@every_attack
def test_a_victim_takes_the_same_path_for_200_evaluations(
    attack: type[GradientMatching], victims_of: MakeVictims
) -> None:
    """A deep sigmoid network amplifies nothing, and its flat loss keeps these victims at work for 200 evaluations."""
    observation = victims_of(8, dtype=torch.float64, model=DeepMLP).observation.take([0, 6, 7])
    block = paths(attack, observation)
    for victim in (0, 2):
        alone = paths(attack, observation.take([victim]))
        assert len(block.losses[victim]) == len(alone.losses[0]) == EVALUATIONS
        assert deviations(block.losses[victim], alone.losses[0]).max() < 1e-6
        torch.testing.assert_close(block.images[victim][-1], alone.images[0][-1], rtol=1e-6, atol=1e-6)
        assert not torch.equal(block.images[victim][-1], block.images[victim][0])


class DeepMLP(MLP):
    def __init__(self, image_shape: tuple[int, int, int], num_classes: int) -> None:
        super().__init__(image_shape, num_classes, depth=3)


@every_attack
def test_waiting_victims_are_attacked_as_if_there_had_been_no_wait(
    attack: type[GradientMatching], victims_of: MakeVictims
) -> None:
    observation = victims_of(7, dtype=torch.float64).observation
    together, in_turns = (attack(max_evaluations=40, at_once=n).reconstruct(observation) for n in (64, 2))
    assert together.status == in_turns.status
    assert torch.equal(together.evaluations, in_turns.evaluations)
    assert torch.equal(together.labels, in_turns.labels)
    torch.testing.assert_close(together.loss, in_turns.loss, rtol=1e-5, atol=0)
    torch.testing.assert_close(together.images, in_turns.images, rtol=0, atol=1e-4)


@every_attack
def test_no_more_victims_than_asked_are_attacked_at_once(
    attack: type[GradientMatching], victims_of: MakeVictims
) -> None:
    class Widest(Callback):
        rows = 0

        def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
            self.rows = max(self.rows, len(loss))

    widest = Widest()
    attack(max_evaluations=10, at_once=3).reconstruct(victims_of(7).observation, [widest])
    assert widest.rows == 3


@every_attack
def test_the_published_procedure_takes_the_same_path(attack: type[GradientMatching], victims_of: MakeVictims) -> None:
    observation = victims_of(4, dtype=torch.float64).observation
    batched = paths(attack, observation, evaluations=40)
    model = LeNet((1, 8, 8), 10).double()
    published: list[Tensor] = []
    model.register_forward_hook(lambda module, inputs, output: published.append(inputs[0].detach().clone()))
    for victim in range(4):
        published.clear()
        _, _, spent = bench.deep_leakage(model, observation, victim, attack(tolerance=0), outer_steps=2)
        assert spent == len(published) == 40
        torch.testing.assert_close(torch.stack(published), torch.stack(batched.images[victim]), rtol=1e-6, atol=1e-6)


# The same call, the same answer.


@every_attack
def test_the_same_call_twice_is_equal_bit_for_bit(attack: type[GradientMatching], victims_of: MakeVictims) -> None:
    observation = victims_of(5).observation
    once = attack(max_evaluations=30)
    first = once.reconstruct(observation)
    torch.manual_seed(123)
    torch.rand(7)
    for again in (once.reconstruct(observation), attack(max_evaluations=30).reconstruct(observation)):
        for name in ("images", "labels", "loss", "evaluations"):
            assert torch.equal(getattr(first, name), getattr(again, name)), name
        assert first.status == again.status


@every_attack
def test_the_start_is_the_seeds_alone(attack: type[GradientMatching], victims_of: MakeVictims) -> None:
    observation = victims_of(3).observation
    expected = [torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(s)) for s in observation.seeds]
    seen = paths(attack, observation, evaluations=1)
    for victim in range(3):
        assert torch.equal(seen.images[victim][0], expected[victim])


@every_attack
@pytest.mark.parametrize("start", ["constant", "mean", "class_mean"])
def test_an_attack_can_start_at_a_null_baseline(
    attack: type[GradientMatching], start: str, victims_of: MakeVictims
) -> None:
    seen = victims_of(3).observation
    baseline = {"constant": ConstantImage, "mean": MeanImage, "class_mean": ClassMeanImage}[start]
    found = attack(start=start, max_evaluations=8).reconstruct(seen)
    assert found.trajectory is not None and found.starts == [start] * 3
    torch.testing.assert_close(found.trajectory.images[:, 0], baseline().reconstruct(seen).images)
    given = attack(max_evaluations=8).reconstruct(seen, (), found.trajectory.images[:, 0])
    torch.testing.assert_close(given.loss, found.loss)  # labels are drawn alike whatever the start is


@every_attack
def test_an_attack_leaves_what_it_was_given_as_it_was(attack: type[GradientMatching], victims_of: MakeVictims) -> None:
    observation = victims_of(3).observation
    given = [*observation.parameters.values(), *observation.update.values(), *observation.model.parameters()]
    before = [value.detach().clone() for value in given]
    attack(max_evaluations=10).reconstruct(observation)
    assert all(torch.equal(old, new) for old, new in zip(before, given, strict=True))
    assert all(weight.grad is None for weight in observation.model.parameters())


# What an attack says of itself.


def test_the_loss_of_idlg_is_that_of_its_images(victims_of: MakeVictims) -> None:
    observation = victims_of(12, dtype=torch.float64).observation
    found = IDLG(max_evaluations=100, tolerance=0).reconstruct(observation)
    one_hot = torch.eye(10, dtype=torch.float64)[found.labels]
    dummy = loop_gradients(observation.model, observation.parameters, found.images, one_hot, create_graph=False)
    expected = sum((dummy[n] - observation.update[n]).flatten(1).square().sum(1) for n in dummy)
    torch.testing.assert_close(found.loss, expected, rtol=1e-6, atol=1e-15)


@every_attack
def test_the_iterate_of_the_lowest_loss_is_returned(attack: type[GradientMatching], victims_of: MakeVictims) -> None:
    observation = victims_of(24).observation
    seen = Paths()
    found = attack(max_evaluations=20, tolerance=0).reconstruct(observation, [seen])
    not_the_last = 0
    for victim in range(24):
        losses = seen.losses[victim]
        best = min(range(len(losses)), key=losses.__getitem__)
        not_the_last += best != len(losses) - 1
        assert float(found.loss[victim]) == losses[best]
        assert torch.equal(found.images[victim], seen.images[victim][best])
        assert int(found.evaluations[victim]) == len(losses)
    assert not_the_last >= 1, "no victim here could tell the lowest from the last"


@every_attack
def test_the_trajectory_is_the_lowest_loss_so_far(attack: type[GradientMatching], victims_of: MakeVictims) -> None:
    images, _, observation = victims_of(6)
    seen = Paths()
    found = attack(max_evaluations=60, at_once=4).reconstruct(observation, [seen])
    curve = found.trajectory
    assert curve is not None
    assert curve.evaluations == list(range(0, 61, 2))
    assert curve.images.shape == (6, 31, *images.shape[1:])
    for victim in range(6):
        for moment, evaluations in enumerate(curve.evaluations[1:], 1):
            so_far = seen.losses[victim][:evaluations]
            best = min(range(len(so_far)), key=so_far.__getitem__)
            assert float(curve.loss[victim, moment]) == so_far[best], (victim, evaluations)
            assert torch.equal(curve.images[victim, moment], seen.images[victim][best]), (victim, evaluations)


@every_attack
def test_the_budget_holds_and_every_victim_has_a_true_status(
    attack: type[GradientMatching], victims_of: MakeVictims
) -> None:
    observation = victims_of(16).observation
    seen_statuses = set()
    for budget in (1, 45, 300):
        found = attack(max_evaluations=budget, tolerance=1e-5).reconstruct(observation)
        assert found.evaluations.max() <= budget and found.evaluations.min() >= 1
        for status, loss, spent in zip(found.status, found.loss.tolist(), found.evaluations.tolist(), strict=True):
            assert (loss < 1e-5) == (status == "converged")
            assert status != "exhausted" or spent == budget
            seen_statuses.add(status)
    assert seen_statuses == {"converged", "stalled", "exhausted"}


# Victims that diverge.


def poisoned(observation: Observation, where: str, value: float, victim: int) -> Observation:
    """One entry of one victim's update or parameters is not finite."""
    tensors = {name: tensor.clone() for name, tensor in getattr(observation, where).items()}
    next(iter(tensors.values()))[victim].view(-1)[0] = value
    return replace(observation, **{where: tensors})


@every_attack
@pytest.mark.parametrize("where", ["update", "parameters"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_victim_that_diverges_disturbs_no_other(
    attack: type[GradientMatching], where: str, value: float, victims_of: MakeVictims
) -> None:
    observation = victims_of(5, dtype=torch.float64).observation
    healthy = attack(max_evaluations=20).reconstruct(observation)
    found = attack(max_evaluations=20).reconstruct(poisoned(observation, where, value, victim=1))
    assert found.images.isfinite().all()
    assert found.status[1] == "diverged" and found.evaluations[1] == 1 and found.loss[1] == torch.inf
    others = [0, 2, 3, 4]
    assert [found.status[v] for v in others] == [healthy.status[v] for v in others]
    assert torch.equal(found.evaluations[others], healthy.evaluations[others])
    torch.testing.assert_close(found.images[others], healthy.images[others], rtol=0, atol=1e-6)


@every_attack
def test_a_victim_that_diverges_late_returns_its_best_finite_iterate(
    attack: type[GradientMatching], victims_of: MakeVictims, monkeypatch: pytest.MonkeyPatch
) -> None:
    observation = victims_of(3).observation
    step = MatchingProblem.training_step

    def breaks(self: MatchingProblem, batch: int, batch_idx: int) -> Tensor:
        if batch_idx == 9:
            with torch.no_grad():
                self.images[self.victims.index(2)] = torch.nan
        return step(self, batch, batch_idx)

    monkeypatch.setattr(MatchingProblem, "training_step", breaks)
    seen = Paths()
    found = attack(max_evaluations=20).reconstruct(observation, [seen])
    assert found.status[2] == "diverged" and found.status[0] != "diverged" != found.status[1]
    assert int(found.evaluations[2]) == 10
    best = min(range(9), key=seen.losses[2].__getitem__)
    assert torch.equal(found.images[2], seen.images[2][best])
    assert float(found.loss[2]) == seen.losses[2][best]


# What is out of range.


@every_attack
@pytest.mark.parametrize(
    "arguments",
    [
        {"max_evaluations": 0},
        {"at_once": 0},
        {"history_size": 0},
        {"max_evaluations": -3},
        {"tolerance": -1e-9},
        {"tolerance": float("nan")},
    ],
)
def test_an_argument_out_of_range_is_named_in_one_sentence(
    attack: type[GradientMatching], arguments: dict[str, Any]
) -> None:
    with pytest.raises(ValueError) as raised:
        attack(**arguments)
    message = str(raised.value)
    assert message.startswith(next(iter(arguments))) and "\n" not in message and ". " not in message


# The gradients.


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("model", [LeNet, MLP, ConvNet])
def test_batched_gradients_are_those_of_a_loop(model: type[Model], batch_size: int) -> None:
    network, parameters, images, labels = problem(model, batch_size)
    expected = loop_gradients(network, parameters, images, labels, create_graph=False)
    found = batch_gradients(network, parameters, images, labels, create_graph=False)
    assert list(found) == list(parameters)
    for name, value in expected.items():
        assert value.abs().max() > 0
        torch.testing.assert_close(found[name], value, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("model", [LeNet, MLP, ConvNet])
def test_the_gradient_of_the_distance_is_that_of_a_loop_and_of_finite_differences(
    model: type[Model], batch_size: int
) -> None:
    network, parameters, images, labels = problem(model, batch_size)
    target = batch_gradients(network, parameters, images.flip(-1), labels, create_graph=False)

    def distances(at: Tensor, towards: Tensor, gradients: Callable[..., Update] = batch_gradients) -> Tensor:
        dummy = gradients(network, parameters, at, towards, create_graph=True)
        return squared_distance(dummy, target)

    slopes = []
    for gradients in (batch_gradients, loop_gradients):
        at, towards = images.clone().requires_grad_(), labels.clone().requires_grad_()
        slopes.append(torch.autograd.grad(distances(at, towards, gradients).sum(), [at, towards]))
    for found, expected in zip(*slopes, strict=True):
        assert expected.abs().max() > 1e-6
        torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-10)

    generator = torch.Generator().manual_seed(5)
    for place, slope in enumerate(slopes[0]):
        way = torch.randn(slope.shape, generator=generator, dtype=torch.float64)
        points = [images, labels]
        ahead, behind = list(points), list(points)
        ahead[place], behind[place] = points[place] + 1e-6 * way, points[place] - 1e-6 * way
        difference = (distances(ahead[0], ahead[1]) - distances(behind[0], behind[1])).detach() / 2e-6
        torch.testing.assert_close((slope * way).flatten(1).sum(1), difference, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("model", [LeNet, MLP, ConvNet])
def test_the_distance_to_an_outer_product_is_the_squared_distance(model: type[Model]) -> None:
    network, parameters, images, labels = problem(model, batch_size=1)
    soft = (labels + 0.1).log().requires_grad_()
    target = batch_gradients(network, parameters, images.flip(-1), labels, create_graph=False)
    head = linear_head(network, tuple(images.shape[2:]), labels.shape[-1])
    assert head is not None
    product = as_outer_product(head, target)

    def whole(at: Tensor, towards: Tensor) -> Tensor:
        return squared_distance(batch_gradients(network, parameters, at, towards, create_graph=True), target)

    def factored(at: Tensor, towards: Tensor) -> Tensor:
        return distance_to_outer_product(network, head, parameters, at, towards, target, product)

    for at in (images, images.flip(-1) + 1e-6):  # far from the target, and at it, where sums of squares would cancel
        results = []
        for distance in (whole, factored):
            x = at.clone().requires_grad_()
            found = distance(x, soft.softmax(-1))
            results.append((found, *torch.autograd.grad(found.sum(), [x, soft])))
        for one, other in zip(*results, strict=True):
            torch.testing.assert_close(other, one, rtol=1e-7, atol=1e-16)
    at = images.flip(-1)
    assert float(factored(at, labels).detach().max()) < 1e-25


def test_what_a_defense_made_of_a_gradient_is_no_outer_product(victims_of: MakeVictims) -> None:
    def is_product(defense: Defense | None, batch_size: int = 1) -> list[bool]:
        update = victims_of(3, batch_size=batch_size, defense=defense).observation.update
        return is_outer_product("7", update, as_outer_product("7", update)).tolist()

    assert all(is_product(None)) and all(is_product(Clipping(0.1)))
    for defense in (Masking(0.05), Pruning(0.05), GaussianNoise(1e-4)):
        assert not any(is_product(defense))
    assert not any(is_product(None, batch_size=2))


def test_a_victim_takes_the_short_cut_or_not_whoever_stands_beside_it(victims_of: MakeVictims) -> None:
    """One victim's update is as it was, the other's was changed in its last layer: each is matched as if alone."""
    seen = victims_of(2, dtype=torch.float64).observation
    update = {name: value.clone() for name, value in seen.update.items()}
    update["7.weight"][1] *= (torch.arange(48) % 3 > 0).double()
    seen = replace(seen, update=update)
    together = IDLG(max_evaluations=25).reconstruct(seen)
    for row in range(2):
        alone = IDLG(max_evaluations=25).reconstruct(seen.take([row]))
        torch.testing.assert_close(together.images[row], alone.images[0], rtol=0, atol=1e-9)
        torch.testing.assert_close(together.loss[row], alone.loss[0], rtol=1e-9, atol=0)


def test_the_squared_distance_is_a_sum_over_all_parameters_of_each_victim() -> None:
    first = {"a": torch.tensor([[1.0, 2.0], [0.0, 0.0]]), "b": torch.tensor([[[3.0]], [[1.0]]])}
    second = {"a": torch.tensor([[0.0, 0.0], [0.0, 0.0]]), "b": torch.tensor([[[1.0]], [[1.0]]])}
    assert squared_distance(first, second).tolist() == [1 + 4 + 4, 0]


# The priors.


def test_total_variation_is_the_sum_of_steps_between_neighbors() -> None:
    images = torch.zeros(2, 1, 2, 3, 3)
    images[0, 0, 1, 1, 1] = 0.5  # four neighbors
    images[1, 0, :, :, 2] = 1.0  # an edge of three pixels in each of two channels
    assert total_variation(images).tolist() == pytest.approx([2.0, 6.0], rel=1e-2)
    assert outside(torch.tensor([[[[[1.5, -0.5], [0.2, 1.0]]]]])).tolist() == [0.5]


@every_attack
def test_priors_stand_in_for_equations_that_a_mask_has_taken(attack: type[GradientMatching]) -> None:
    """Photographs of 768 numbers, of which a mask leaves too few equations for the attack as published."""
    data = Photos(size=16)
    data.setup()
    images, labels = data.victims(6)
    network = LeNet(data.image_shape, data.num_classes)
    public = data.mean_image(), data.class_means(), data.mean_step(), data.channel_stds()
    seen = observe(network, images, labels, PublicData(data.num_classes, *public), Masking(0.8), True, 0, range(6))

    def psnr(**args: Any) -> Tensor:
        found = attack(max_evaluations=100, **args).reconstruct(seen).images.clamp(0, 1)
        return -10 * (found - images).square().flatten(1).mean(1).log10()

    without, with_priors = psnr(), psnr(start="mean", total_variation=1e-5)
    assert (with_priors > without).sum() >= 5
    assert with_priors.mean() > without.mean() + 5


def test_a_prior_weighs_as_much_whatever_the_size_of_a_clipped_update(victims_of: MakeVictims) -> None:
    """Clipping loses the size of the gradient alone; how hard it clips then changes nothing for who knows it."""
    found = [
        IDLG(max_evaluations=40, start="mean", total_variation=1e-4).reconstruct(
            victims_of(4, dtype=torch.float64, defense=Clipping(norm), adaptive=True).observation
        )
        for norm in (1e-1, 1e-3)
    ]
    torch.testing.assert_close(found[0].images, found[1].images, rtol=1e-4, atol=1e-6)


def test_an_attack_without_a_defense_is_as_published_but_for_the_prior(victims_of: MakeVictims) -> None:
    seen = victims_of(3).observation
    plain = IDLG(max_evaluations=1, start="mean").reconstruct(seen)
    prior = IDLG(max_evaluations=1, start="mean", total_variation=0.25).reconstruct(seen)
    at = seen.mean_image.expand(3, 1, -1, -1, -1)
    torch.testing.assert_close(prior.loss, plain.loss + 0.25 * total_variation(at) + 0.01 * outside(at))


def problem(model: type[Model], batch_size: int) -> tuple[Model, Update, Tensor, Tensor]:
    """A network, parameters, images and soft labels of three victims, in float64."""
    generator = torch.Generator().manual_seed(3)
    network = model((2, 8, 8), 5).double()
    drawn = [network.draw(generator) for _ in range(3)]
    parameters = {name: torch.stack([weights[name].double() for weights in drawn]) for name in drawn[0]}
    images = torch.rand(3, batch_size, 2, 8, 8, generator=generator, dtype=torch.float64)
    labels = torch.randn(3, batch_size, 5, generator=generator, dtype=torch.float64).softmax(-1)
    return network, parameters, images, labels


# The null baselines.


@pytest.fixture
def told_labels() -> Iterator[Observation]:
    """Two victims whose last layers say: class 2, class 0. Public means are known."""
    weight = torch.tensor([[[1.0, 1.0], [2.0, 0.5], [-3.0, 0.0]], [[-1.0, -1.0], [0.5, 0.0], [0.0, 3.0]]])
    means = torch.tensor([10.0, 11.0, 12.0]).view(3, 1, 1, 1).expand(3, 1, 2, 2)
    yield Observation(
        model=nn.Sequential(nn.Flatten(), nn.Linear(4, 3)),
        parameters={"1.weight": torch.zeros(2, 3, 4), "1.bias": torch.zeros(2, 3)},
        update={"1.weight": torch.cat([weight, torch.zeros(2, 3, 2)], 2), "1.bias": torch.zeros(2, 3)},
        image_shape=(2, 1, 2, 2),
        num_classes=3,
        seeds=[0, 1],
        defense=None,
        mean_image=torch.tensor([[[1.0, 2.0], [3.0, 4.0]]]),
        class_means=means,
        mean_step=0.06,
        channel_stds=torch.tensor([0.25]),
    )


def check_baseline(found: Reconstruction, expected: Tensor) -> None:
    assert torch.equal(found.images, expected)
    assert found.labels.tolist() == [[2, 2], [0, 0]]
    assert found.status == ["closed form"] * 2 and found.evaluations.tolist() == [0, 0]
    assert found.loss.tolist() == [torch.inf] * 2 and found.trajectory is None


def test_the_constant_baseline_is_gray(told_labels: Observation) -> None:
    check_baseline(ConstantImage().reconstruct(told_labels), torch.full((2, 2, 1, 2, 2), 0.5))


def test_the_mean_baseline_is_the_public_mean(told_labels: Observation) -> None:
    expected = torch.tensor([[[1.0, 2.0], [3.0, 4.0]]]).expand(2, 2, 1, 2, 2)
    check_baseline(MeanImage().reconstruct(told_labels), expected)


def test_the_class_baseline_is_the_mean_of_the_class_of_the_label_rule(told_labels: Observation) -> None:
    expected = torch.tensor([12.0, 10.0]).view(2, 1, 1, 1, 1).expand(2, 2, 1, 2, 2)
    check_baseline(ClassMeanImage().reconstruct(told_labels), expected)
