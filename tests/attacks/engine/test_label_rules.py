"""The rules that tell the labels of a batch."""

from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy
import pytest
import torch
from scipy.optimize import linprog
from torch import nn

from attacks import DLG, IDLG, InvertingGradients, LabelInference
from attacks.engine.label_rules import LABEL_RULES, apportioned, counted, named, separable, spread
from attacks.engine.last_layer import length
from attacks.threat import ThreatModel
from attacks.update import FedAvg, Protocol
from benchmark.models import MLP, ConvNet, LeNet
from benchmark.models.draw import Model
from tests.attacks.engine.conftest import SHAPE, Headed, ReLUs, Tempered, hits, of_images, sorted_labels
from tests.conftest import MakeVictims

RULES = [name for name in LABEL_RULES if name != "known"]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("model", [LeNet, ReLUs, ConvNet])
@pytest.mark.parametrize("batch_size", [1, 5])
def test_a_victim_is_labeled_alone_as_in_company(
    rule: str, model: type[Model], batch_size: int, victims_of: MakeVictims
) -> None:
    seen = victims_of(4, batch_size=batch_size, model=model, dtype=torch.float64).observation
    together = LABEL_RULES[rule].labels(seen)
    assert together.shape == (4, batch_size) and together.dtype == torch.long
    assert torch.equal(together, sorted_labels(together)) and int(together.min()) >= 0 and int(together.max()) < 10
    for victim in range(4):
        assert torch.equal(LABEL_RULES[rule].labels(seen.take([victim]))[0], together[victim])


@pytest.mark.parametrize("rule", [name for name in RULES if name != "rlg"])
@pytest.mark.parametrize("model", [LeNet, ReLUs])
def test_the_label_of_one_image_is_that_of_idlg(rule: str, model: type[Model], victims_of: MakeVictims) -> None:
    _, labels, seen = victims_of(20, model=model)
    assert torch.equal(LABEL_RULES[rule].labels(seen), labels)


def test_images_of_a_class_that_are_alike_are_counted_exactly_by_ilrg() -> None:
    """Then its two assumptions hold: row k over its bias is the features of class k but for the softmax of others."""
    torch.manual_seed(0)
    network = ReLUs(SHAPE, 10).double()
    one = torch.rand(10, *SHAPE, dtype=torch.float64)
    labels = torch.tensor([[0, 0, 0, 3, 4, 4, 5, 8], [7, 7, 7, 7, 7, 7, 7, 2]])
    seen = of_images(network, one[labels], labels)
    assert torch.equal(LABEL_RULES["ilrg"].labels(seen), sorted_labels(labels))
    for factor in (1e-6, 1.0, 1e6):
        sized = replace(seen, update={name: factor * value for name, value in seen.update.items()})
        assert torch.equal(LABEL_RULES["ilrg_direction"].labels(sized), sorted_labels(labels))


@pytest.mark.parametrize(
    ("rule", "least"),
    [("ilrg", 0.95), ("ilrg_direction", 0.95), ("bias", 0.85), ("llg", 0.75), ("gradinversion", 0.85)],
)
def test_most_digits_of_a_batch_are_labeled(rule: str, least: float, victims_of: MakeVictims) -> None:
    _, labels, seen = victims_of(20, batch_size=8, model=ReLUs)
    assert hits(LABEL_RULES[rule].labels(seen), labels) >= least


@pytest.mark.parametrize("model", [LeNet, ReLUs])
def test_labels_that_differ_are_found_by_gradinversion_and_no_other(model: type[Model], digits: Any) -> None:
    """Only the image of the class itself makes an entry of its row negative, and it always does so."""
    torch.manual_seed(0)
    network = model(SHAPE, 10)
    first = torch.stack([digits.test_images[digits.test_labels == label][0] for label in range(10)])
    for chosen in list(combinations(range(10), 4))[::7]:
        labels = torch.tensor([chosen])
        assert LABEL_RULES["gradinversion"].labels(of_images(network, first[labels], labels)).tolist() == [[*chosen]]


def test_rlg_finds_every_class_of_images_with_independent_features() -> None:
    torch.manual_seed(0)
    labels = torch.tensor([[1, 4, 4, 9]])
    seen = of_images(ReLUs(SHAPE, 10), torch.rand(1, 4, *SHAPE), labels)
    assert {1, 4, 9} <= set(LABEL_RULES["rlg"].labels(seen)[0].tolist())


def test_a_class_is_separable_where_a_vector_worked_by_hand_is_negative_there_alone() -> None:
    rows = torch.tensor([[-1.0, 0.0], [0.5, 0.0], [0.25, 1.0], [0.25, -1.0]]).double()
    # Of x = (a, b): class 0 by a > 0, b = 0; classes 2 and 3 by a = 0 and b of either sign; class 1 would need a < 0,
    # but classes 2 and 3 give a / 2 together, which is then negative for one of them.
    assert separable(rows, 4).tolist() == [True, False, True, True]
    assert separable(torch.zeros(4, 2).double(), 4).tolist() == [False] * 4


@pytest.mark.parametrize("rank", [2, 4, 6, 9])
def test_a_class_is_separable_where_a_linear_program_says_so(rank: int) -> None:
    generator = torch.Generator().manual_seed(rank)
    for _ in range(5):
        rows = torch.randn(12, rank, generator=generator, dtype=torch.float64)
        wanted = []
        for own in range(12):  # x with own . x <= -1 and other . x >= 0
            signs = -rows.numpy().copy()
            signs[own] *= -1
            limits = [-1.0 if other == own else 0.0 for other in range(12)]
            wanted.append(linprog([0.0] * rank, signs, limits, bounds=[(None, None)] * rank).status == 0)
        assert separable(rows, 12).tolist() == wanted


def test_images_are_counted_as_worked_by_hand() -> None:
    """LLG: an impact is (1 + 1/2) (-0.6 - 0.3) / 3 = -0.45, so that the rows are -0.15 and 0.15 after one each."""
    assert counted(torch.tensor([[-0.6, -0.3]]), 3, 1.5).tolist() == [[0, 0, 1]]
    assert counted(torch.tensor([[-0.1, -0.2, -0.3]]), 2, 1.0).tolist() == [[1, 2]]  # more classes than images
    assert counted(torch.tensor([[0.3, 0.1]]), 2, 1.0).tolist() == [[1, 1]]  # no class is negative


def test_what_is_found_is_named_as_often_as_each_other() -> None:
    found = torch.tensor([[True, False, True], [False, False, False], [True, True, True]])
    scores = torch.tensor([[-1.0, -9.0, -2.0], [3.0, 1.0, 2.0], [1.0, 2.0, 3.0]])
    assert spread(found, scores, 3).tolist() == [[0, 2, 2], [1, 1, 1], [0, 1, 2]]
    assert spread(found, scores, 2).tolist() == [[0, 2], [1, 1], [0, 1]]


def test_whole_numbers_of_images_sum_to_the_batch() -> None:
    numbers = torch.tensor([[1.4, 1.4, 1.2], [2.6, 1.6, -3.0], [torch.nan, 0.0, 9.0], [0.0, 0.0, 0.0]])
    assert apportioned(numbers, 4).tolist()[:3] == [[0, 0, 1, 2], [0, 0, 1, 1], [2, 2, 2, 2]]
    assert all(0 <= label < 3 for label in apportioned(numbers, 4)[3].tolist())


# Each rule beside a plain loop over classes in numpy, as in its paper, one victim at a time.


def loop_of_ilrg(weight: Any, bias: Any, network: MLP, images: int) -> list[int]:
    """The published experiments: each number is rounded for itself, and one above N is none."""
    classes, probabilities = len(bias), []
    for k in range(classes):
        logits = network[-1](torch.from_numpy(weight[k] / bias[k]))
        probabilities.append(logits.softmax(-1).detach().numpy())
    rows, values = [[1.0] * classes], [float(images)]
    for i in range(classes):
        rows.append([probabilities[j][i] - (1.0 if i == j else 0.0) for j in range(classes)])
        values.append(images * bias[i])
    solved = numpy.linalg.lstsq(numpy.array(rows), numpy.array(values), rcond=None)[0]
    return [0 if (rounded := int(numpy.round(max(0.0, number)))) > images else rounded for number in solved]


def loop_of_llg(sums: list[float], images: int, factor: float) -> list[int]:
    """Algorithm 1: a class with a negative sum has an image, and each image takes the impact off its row."""
    impact = factor * sum(one for one in sums if one < 0) / images
    sums, counts = list(sums), [0] * len(sums)
    for _ in range(images):
        negative = [k for k in range(len(sums)) if sums[k] < 0 and not counts[k]]
        chosen = min(negative or range(len(sums)), key=lambda k: sums[k])
        counts[chosen] += 1
        sums[chosen] -= impact
    return counts


@pytest.mark.parametrize("batch_size", [8, 24, 40])
def test_a_rule_tells_what_a_plain_loop_over_classes_tells(batch_size: int, victims_of: MakeVictims) -> None:
    found = victims_of(8, batch_size=batch_size, model=ReLUs, dtype=torch.float64)
    seen, network = found.observation, ReLUs(SHAPE, 10).double()
    told = {name: LABEL_RULES[name].told(seen) for name in RULES}
    exact = 0
    for victim in range(8):
        network.load_state_dict({name: value[victim] for name, value in seen.own_networks.items()})
        images, labels = found.images[victim].double(), found.labels[victim]
        loss = nn.functional.cross_entropy(network(images), labels)
        weight, bias = (g.numpy() for g in torch.autograd.grad(loss, list(network[-1].parameters())))
        sums = [float(sum(row)) for row in weight]
        ilrg = loop_of_ilrg(weight, bias, network, batch_size)
        assert told["ilrg"].counts[victim].tolist() == ilrg
        assert told["llg"].counts[victim].tolist() == loop_of_llg(sums, batch_size, 1 + 1 / 10)
        assert told["bias"].counts[victim].tolist() == loop_of_llg(bias.tolist(), batch_size, 1.0)
        assert (told["idlg"].counts[victim] > 0).tolist() == [one < 0 for one in sums]
        assert (told["gradinversion"].counts[victim] > 0).tolist() == [min(row) < 0 for row in weight.tolist()]
        exact += sum(ilrg) == batch_size
    assert all(one.labels.shape == (8, batch_size) for one in told.values())
    assert exact == 8 if batch_size == 8 else exact < 8  # or the loop would not tell a sum of N from another


def test_more_classes_than_images_are_all_told_and_none_is_told_where_none_is_found() -> None:
    found = torch.tensor([[True, True, True, False], [False] * 4, [True, False, True, False]])
    told = named(found, torch.tensor([[-3.0, -1.0, -2.0, 1.0], [4.0, 3.0, 2.0, 1.0], [-1.0, 1.0, -2.0, 1.0]]), 2)
    assert told.counts.tolist() == [[1, 1, 1, 0], [0, 0, 0, 0], [1, 0, 1, 0]]
    assert told.labels.tolist() == [[0, 2], [3, 3], [0, 2]]


@pytest.mark.parametrize("rule", ["ilrg", "llg", "bias"])
def test_local_steps_are_labeled_as_the_gradient_that_they_follow(rule: str, victims_of: MakeVictims) -> None:
    images, labels, _ = victims_of(6, batch_size=6)
    torch.manual_seed(0)
    network = ReLUs(SHAPE, 10).double()
    of_gradient = of_images(network, images.double(), labels)
    local = FedAvg(learning_rate=1e-6, epochs=3, batch_size=4, momentum=0.5)
    whole = FedAvg(learning_rate=1e-6, epochs=3, momentum=0.5)
    found = LABEL_RULES[rule].labels(of_images(network, images.double(), labels, Protocol(whole)))
    assert torch.equal(found, LABEL_RULES[rule].labels(of_gradient))
    assert length(local, 6) == pytest.approx(1e-6 * sum(2 - 0.5**step for step in range(6)))


@pytest.mark.parametrize("rule", RULES)
def test_what_is_not_finite_is_labeled_at_random_and_stops_nobody(rule: str, victims_of: MakeVictims) -> None:
    seen = victims_of(2, batch_size=3).observation
    broken = {name: value.clone() for name, value in seen.update.items()}
    for value in broken.values():
        value[0] = torch.nan
    networks = {name: value.clone() for name, value in seen.parameters.items()}
    for value in networks.values():
        value[0] = torch.nan
    for other in (replace(seen, update=broken), replace(seen, parameters=networks)):
        found = LABEL_RULES[rule].labels(other)
        assert found.shape == (2, 3) and torch.equal(found[1], LABEL_RULES[rule].labels(seen)[1])


# What a rule needs.


BIASED = nn.Linear(12, 10)


@pytest.mark.parametrize(
    ("rule", "network", "images", "said"),
    [
        ("llg", Headed(nn.SiLU(), BIASED), 1, "never negative, as after a ReLU or a sigmoid: give idlg, bias, rlg"),
        (
            "gradinversion",
            Headed(nn.Tanh(), BIASED),
            4,
            "never negative.*: give bias, rlg, ilrg, ilrg_direction, mixture, best, joint",
        ),
        ("idlg", Headed(nn.LeakyReLU(), BIASED), 4, "never negative"),
        ("ilrg", Headed(nn.ReLU(), nn.Linear(12, 10, bias=False)), 4, "last layer with a trained bias"),
        ("bias", Headed(nn.ReLU(), nn.Linear(12, 10, bias=False)), 4, "last layer with a trained bias"),
        ("rlg", Tempered(), 4, "a last layer that is linear and trained.*: give mixture, best, joint"),
        ("gradinversion", LeNet(SHAPE, 10), 11, "labels that all differ, and 11 images of 10 classes repeat some"),
    ],
)
def test_a_network_that_a_rule_cannot_read_is_refused(rule: str, network: nn.Module, images: int, said: str) -> None:
    with pytest.raises(ValueError, match=f"labels {rule} needs .*{said}"):
        DLG(labels=rule).check(network, (images, *SHAPE))


def test_a_network_that_a_rule_can_read_is_not_refused() -> None:
    IDLG(labels="idlg").check(Headed(nn.Tanh(), BIASED), (1, *SHAPE))  # of one image it reads what tells the label
    DLG(labels="bias").check(Headed(nn.Tanh(), BIASED), (4, *SHAPE))
    DLG(labels="joint").check(Tempered(), (4, *SHAPE))
    LabelInference("gradinversion").check(LeNet(SHAPE, 10), (11, *SHAPE))  # it tells which classes there are
    with pytest.raises(ValueError, match=r"rule ilrg needs .*: give idlg, mixture, best$"):
        LabelInference("ilrg").check(Tempered(), (1, *SHAPE))


@pytest.mark.parametrize("attack", [DLG(labels="known"), LabelInference("known")])
def test_labels_that_are_not_granted_are_not_known(attack: Any) -> None:
    attack.check_granted(Protocol(), ThreatModel(labels="counts"), 4)
    with pytest.raises(ValueError, match="known needs the labels, which the threat model hides"):
        attack.check_granted(Protocol(), ThreatModel(), 4)


def test_a_rule_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match="labels is 'yin', but must be one of idlg, bias"):
        DLG(labels="yin")
    with pytest.raises(ValueError, match="rule is 'joint', but must be one of idlg, bias"):
        LabelInference("joint")


# Attacks with a rule.


def test_dlg_with_the_labels_of_idlg_is_idlg_and_the_other_way_round(victims_of: MakeVictims) -> None:
    seen = victims_of(3).observation
    for one, other in ((DLG(labels="idlg"), IDLG()), (IDLG(labels="joint"), DLG())):
        one.max_evaluations = other.max_evaluations = 20
        found, same = one.reconstruct(seen), other.reconstruct(seen)
        assert found.labels.equal(same.labels)
        if one.labels == "joint":
            assert found.images.equal(same.images) and found.loss.equal(same.loss)


@pytest.mark.parametrize("rule", RULES)
def test_an_attack_keeps_the_labels_of_its_rule(rule: str, victims_of: MakeVictims) -> None:
    seen = victims_of(2, batch_size=3).observation
    wanted = LABEL_RULES[rule].labels(seen)
    assert DLG(max_evaluations=2, labels=rule).reconstruct(seen).labels.equal(wanted)
    found = LabelInference(rule).reconstruct(seen)
    assert found.labels.equal(wanted) and found.images.equal(seen.class_means[wanted])
    assert found.label_counts is not None and found.label_counts.equal(LABEL_RULES[rule].told(seen).counts)


def test_labels_that_are_granted_are_taken_whatever_the_rule(victims_of: MakeVictims) -> None:
    _, labels, seen = victims_of(2, batch_size=3)
    granted = replace(seen, labels=labels, threat=ThreatModel(labels="known"))
    for rule in ("idlg", "known"):
        assert DLG(max_evaluations=2, labels=rule).reconstruct(granted).labels.equal(labels)


def test_inverting_gradients_infers_the_labels_of_a_batch(victims_of: MakeVictims) -> None:
    seen = victims_of(2, batch_size=3).observation
    assert InvertingGradients(max_evaluations=2).reconstruct(seen).labels.equal(LABEL_RULES["best"].labels(seen))
