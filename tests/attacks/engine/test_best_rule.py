"""What the rule that looks at several tells, and the mixture of class means that it goes by."""

from collections.abc import Callable
from dataclasses import replace
from itertools import combinations_with_replacement
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from attacks import DLG, InvertingGradients, Observation
from attacks.engine.label_rules import BATCH_RULES, LABEL_RULES, blended, explained_by, label_logits, present
from attacks.engine.mixture import Mixture, odds
from attacks.surrogate_model import at_surrogate
from attacks.update import FedAvg
from benchmark.federation.client import PublicData, observe
from benchmark.federation.setting import Setting
from benchmark.models import ConvNet, LeNet
from benchmark.models.draw import Model
from benchmark.seeds import generators
from defenses import (
    OUTPOST,
    QSGD,
    Clipping,
    Defense,
    GaussianNoise,
    LayerMasking,
    Masking,
    MixUp,
    Pruning,
    Sign,
    Soteria,
    TruncatedSVD,
    ValueClipping,
)
from defenses.base import KnownDefense
from tests.attacks.engine.conftest import (
    DEFENDED,
    SHAPE,
    Headed,
    ReLUs,
    Signed,
    Tempered,
    hits,
    of_images,
    sorted_labels,
)
from tests.conftest import MakeVictims


def batches_of(digits: Any, count: int, batch_size: int, classes: int) -> tuple[Tensor, Tensor]:
    """Batches of digits of so many classes, each equally often."""
    generator = torch.Generator().manual_seed(batch_size + classes)
    chosen = torch.stack([torch.randperm(10, generator=generator)[:classes] for _ in range(count)])
    labels = chosen[:, torch.arange(batch_size) % classes]
    of_class = [(digits.test_labels == label).nonzero()[:, 0] for label in range(10)]
    picked = [
        [int(of_class[k][torch.randint(len(of_class[k]), (), generator=generator)]) for k in one] for one in labels
    ]
    return digits.test_images[torch.tensor(picked)], labels


@pytest.mark.parametrize("defense", DEFENDED, ids=lambda one: type(one).__name__)
@pytest.mark.parametrize("model", [LeNet, ReLUs])
def test_the_best_rule_is_nearly_as_good_as_the_best_of_all(
    defense: Defense, model: type[Model], victims_of: MakeVictims
) -> None:
    _, labels, seen = victims_of(30, batch_size=4, model=model, defense=defense, adaptive=True)
    found = {rule: hits(LABEL_RULES[rule].labels(seen), labels) for rule in ("best", *BATCH_RULES)}
    assert found["best"] >= max(found.values()) - 0.05, found


@pytest.mark.parametrize("adaptive", [True, False])
@pytest.mark.parametrize("model", [LeNet, ReLUs])
def test_no_rule_tells_batches_of_few_classes_and_of_many_better_than_the_best(
    adaptive: bool, model: type[Model], digits: Any
) -> None:
    defenses = [
        None,
        Clipping(0.01),
        GaussianNoise(0.01),
        *([Masking(0.9), Pruning(0.9), Sign(1.0)] if adaptive else []),
    ]
    for defense in defenses:
        found: dict[str, list[float]] = {rule: [] for rule in ("best", *BATCH_RULES)}
        for batch_size, classes in ((4, 4), (8, 1), (16, 2), (16, 10)):
            images, labels = batches_of(digits, 8, batch_size, classes)
            public, victims = PublicData.of(digits, 1), range(8)
            seen = observe(model(SHAPE, 10), images, labels, public, defense, adaptive, 0, victims, Setting())
            for rule, shares in found.items():
                shares.append(hits(LABEL_RULES[rule].labels(seen), labels))
        assert sum(found["best"]) / 4 >= max(sum(shares) / 4 for shares in found.values()) - 0.03, (defense, found)
        assert min(found["best"]) > 0.6


class Scaled(Clipping):
    """As a defense of a user's own, that shares a thousandth of the update."""

    def protect(self, update: Any, generators: Any) -> Any:
        return {name: 1e-3 * value for name, value in update.items()}

    def known_to_attacker(self) -> KnownDefense:
        return KnownDefense()


@pytest.mark.parametrize("adaptive", [True, False])
def test_a_defense_of_which_nothing_is_simulated_hides_no_labels(adaptive: bool, victims_of: MakeVictims) -> None:
    _, labels, seen = victims_of(20, batch_size=4, defense=Scaled(1.0), adaptive=adaptive)
    assert hits(LABEL_RULES["best"].labels(seen), labels) > 0.95
    assert hits(LABEL_RULES["ilrg"].labels(seen), labels) < 0.5


@pytest.mark.parametrize("network", [Tempered, lambda: Headed(nn.Tanh(), nn.Linear(12, 10, bias=False))])
def test_the_mixture_of_class_means_is_found_in_any_network(network: Callable[[], nn.Module], digits: Any) -> None:
    """Exactly where the images are the class means, behind a mask, and as a search over all batches finds it."""
    torch.manual_seed(0)
    own, means = network(), digits.class_means()
    labels = torch.tensor([[0, 0, 3], [7, 8, 9], [5, 5, 5], [1, 2, 2]])
    seen = replace(of_images(own, means[labels], labels), class_means=means)
    for defense in (Masking(0.0), Masking(0.7), Pruning(0.7)):
        update = defense.protect(seen.update, [torch.Generator().manual_seed(victim) for victim in range(4)])
        known = replace(seen, update=update, defense=defense.known_to_attacker())
        assert LABEL_RULES["mixture"].labels(known).equal(labels) and LABEL_RULES["best"].labels(known).equal(labels)
    images, labels = digits.victims(4, 3)
    seen = replace(of_images(own, images, labels), class_means=means)
    found = odds(seen, LABEL_RULES["mixture"].labels(seen))
    every = torch.tensor(list(combinations_with_replacement(range(10), 3)))
    assert torch.stack([odds(seen, one.expand(4, 3)) for one in every]).amax(0).allclose(found, rtol=1e-4)


def test_what_several_rules_tell_is_looked_at_once_and_each_gets_the_same(
    victims_of: MakeVictims, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, labels, seen = victims_of(4, batch_size=3)
    right, wrong = sorted_labels(labels), (sorted_labels(labels) + 1) % 10
    half = torch.cat([right[:2], wrong[2:]])
    each = torch.stack([odds(seen, told) for told in (right, wrong, half, right)])
    asked = []

    def noted(observation: Observation, told: Tensor) -> Tensor:
        asked.append(observation.num_victims)
        return odds(observation, told)

    monkeypatch.setattr("attacks.engine.label_rules.odds", noted)
    together = explained_by(seen, torch.stack([right, wrong, half, right]))
    torch.testing.assert_close(together, each, rtol=1e-5, atol=0)
    assert asked == [4, 4] and bool((each[0] > each[1]).all())


@pytest.mark.parametrize("rate", [1e-3, 0.01, 0.3])
def test_labels_after_hidden_local_steps_are_found_whatever_their_size(rate: float, digits: Any) -> None:
    images, labels = digits.victims(20, 4)
    setting = Setting(local=FedAvg(rate), threat_model="A")
    seen = observe(ReLUs(SHAPE, 10), images, labels, PublicData.of(digits, 1), None, False, 0, range(20), setting)
    assert hits(LABEL_RULES["best"].labels(seen), labels) > 0.95
    assert hits(LABEL_RULES["best"].labels(at_surrogate(seen, torch.full((20,), 0.5))), labels) > 0.95


def in_broad_classes(digits: Any, count: int) -> tuple[Any, Callable[[Tensor], Tensor]]:
    """What is public of digits that are sorted into so few classes, and the classes of digits."""
    means = digits.class_means()
    of_classes = torch.stack([means[torch.arange(10) % count == label].mean(0) for label in range(count)])
    public = replace(PublicData.of(digits, 1), num_classes=count, class_means=of_classes)
    return public, lambda labels: labels % count


@pytest.mark.parametrize("classes", [2, 3, 5])
@pytest.mark.parametrize("defense", [None, Clipping(1e9), Masking(0.5)])
def test_classes_that_are_broad_are_counted_by_the_size_of_an_update(
    classes: int, defense: Defense | None, digits: Any
) -> None:
    """Their means point nearly the same way in any numbers, and are larger the more images are of one class."""
    public, of_digits = in_broad_classes(digits, classes)
    for batch_size in (4, 8, 16):
        images, labels = digits.victims(24, batch_size)
        labels = of_digits(labels)
        seen = observe(ReLUs(SHAPE, classes), images, labels, public, defense, True, 0, range(24), Setting())
        found = {rule: hits(LABEL_RULES[rule].labels(seen), labels) for rule in ("best", *BATCH_RULES)}
        assert found["best"] >= max(found.values()) - 0.04, found
        assert found["best"] > 0.92, found


def test_a_size_of_which_nothing_is_known_tells_nothing(digits: Any) -> None:
    images, labels = digits.victims(12, 4)
    public, of_digits = in_broad_classes(digits, 2)
    for setting in (Setting(local=FedAvg(0.1), threat_model="A"), Setting(local=FedAvg(0.1))):
        seen = observe(ReLUs(SHAPE, 2), images, of_digits(labels), public, None, True, 0, range(12), setting)
        hidden = at_surrogate(seen, torch.zeros(12)) if setting.threat.local_steps else seen
        larger = replace(hidden, update={name: 3 * value for name, value in hidden.update.items()})
        assert torch.equal(LABEL_RULES["mixture"].labels(hidden), LABEL_RULES["mixture"].labels(larger))
        assert odds(hidden, of_digits(labels)).allclose(odds(larger, of_digits(labels)))


def trained(network: nn.Module, digits: Any, steps: int) -> dict[str, Tensor]:
    """Weights of a network that knows most of the images by heart."""
    public, generator = PublicData.of(digits, 1, 500), torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(network.parameters(), 3e-3)
    for _ in range(steps):
        some = torch.randint(len(public.images), (64,), generator=generator)
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(public.images[some]), public.labels[some]).backward()  # type: ignore[no-untyped-call] # torch's own
        optimizer.step()
    return {name: value.detach() for name, value in network.state_dict().items()}


@pytest.mark.parametrize("model", [LeNet, ReLUs, Signed])
@pytest.mark.parametrize("defense", [None, Clipping(1e-3), Masking(0.3)])
def test_classes_that_are_there_for_sure_are_told_in_a_trained_network(
    model: type[Model], defense: Defense | None, digits: Any
) -> None:
    """Its gradients at the class means are small and say little, and its rows are negative all the same."""
    torch.manual_seed(0)
    network = model(SHAPE, 10)
    weights, public = trained(network, digits, 300), PublicData.of(digits, 1)
    for batch_size in (2, 4):
        images, labels = digits.victims(40, batch_size)
        seen = observe(network, images, labels, public, defense, True, 0, range(40), Setting(), weights)
        found = {
            rule: hits(LABEL_RULES[rule].labels(seen), labels)
            for rule in ("best", *BATCH_RULES)
            if readable(rule, seen)
        }
        assert found["best"] >= max(found.values()) - 0.03, found
        there = nn.functional.one_hot(labels, 10).any(1)
        assert (present(seen) <= there).all() and present(seen).sum() > 0.6 * there.sum()


def readable(rule: str, seen: Observation) -> bool:
    return not LABEL_RULES[rule].lacks(seen.model, seen.image_shape)


@pytest.mark.parametrize("model", [Signed, ReLUs])
@pytest.mark.parametrize("defense", [Masking(0.7), Pruning(0.9), GaussianNoise(1e-3), TruncatedSVD(0.9)])
def test_the_size_of_what_a_trained_network_says_of_class_means_leads_nobody_astray(
    model: type[Model], defense: Defense, digits: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    network = model(SHAPE, 10)
    weights, public = trained(network, digits, 200), PublicData.of(digits, 1)
    images, labels = digits.victims(30, 6)
    seen = observe(network, images, labels, public, defense, True, 0, range(30), Setting(), weights)
    found = LABEL_RULES["mixture"].labels(seen)
    monkeypatch.setattr("attacks.engine.mixture.OF_ANY_SIZE", 1.0)
    assert torch.equal(found, LABEL_RULES["mixture"].labels(seen))


CHANGING = [*DEFENDED, TruncatedSVD(0.95), GaussianNoise(0.1), LayerMasking(0.5), OUTPOST(), Soteria(0.8)]


@pytest.mark.parametrize(
    ("defense", "adaptive"),
    [
        *((defense, True) for defense in CHANGING),
        # Who does not know of TruncatedSVD cannot see it: columns of what it leaves of a matrix add up to 0 as well.
        *((defense, False) for defense in CHANGING if not isinstance(defense, TruncatedSVD)),
    ],
)
def test_no_class_is_there_for_sure_that_is_not_there(
    defense: Defense, adaptive: bool, victims_of: MakeVictims
) -> None:
    kept = isinstance(defense, (Clipping, ValueClipping, Pruning, Masking, Sign, QSGD))
    for model in (ReLUs, Signed):
        for batch_size in (2, 12):
            _, labels, seen = victims_of(20, batch_size=batch_size, model=model, defense=defense, adaptive=adaptive)
            found = present(seen)
            assert (found <= nn.functional.one_hot(labels, 10).any(1)).all()
            assert not (kept and adaptive) or found.any()


@pytest.mark.parametrize("local", [FedAvg(0.1, 1, 1), FedAvg(0.1, 2, 2), FedAvg(0.05, 3, 4)])
@pytest.mark.parametrize("model", [LeNet, ReLUs])
def test_the_labels_of_local_steps_are_told_whose_order_is_hidden(
    model: type[Model], local: FedAvg, digits: Any
) -> None:
    for batch_size in (4, 16):
        images, labels = digits.victims(20, batch_size)
        setting, public = Setting(local=local, labels="hidden"), PublicData.of(digits, 1)
        seen = observe(model(SHAPE, 10), images, labels, public, None, True, 0, range(20), setting)
        found = {rule: hits(LABEL_RULES[rule].labels(seen), labels) for rule in ("best", *BATCH_RULES)}
        assert found["best"] >= max(found.values()) - 0.04, found
        assert found["best"] > 0.7, found


class Normalized(Model):
    """A network that normalizes by the batch and draws at random in train mode."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Flatten(), nn.Linear(64, 50), nn.BatchNorm1d(50), nn.ReLU(), nn.Dropout(dropout))
        self.last = nn.Linear(50, 10)

    def forward(self, images: Tensor) -> Tensor:
        return self.last(self.first(images))


@pytest.mark.parametrize("local", [None, FedAvg(0.1, 2)])
@pytest.mark.parametrize("mode", ["eval", "train"])
def test_labels_are_told_where_batches_are_normalized_without_running_statistics(
    local: FedAvg | None, mode: Any, digits: Any
) -> None:
    torch.manual_seed(0)
    network = Normalized()
    network.first[2] = nn.BatchNorm1d(50, track_running_stats=False)
    images, labels = digits.victims(10, 4)
    setting, public = Setting(mode=mode, local=local, labels="hidden"), PublicData.of(digits, 1)
    seen = observe(network, images, labels, public, None, True, 0, range(10), setting)
    assert hits(LABEL_RULES["best"].labels(seen), labels) > 0.9


@pytest.mark.parametrize("local", [None, FedAvg(0.1, 2, 2)])
def test_a_batch_that_is_normalized_by_itself_may_be_of_one_class(local: FedAvg | None, digits: Any) -> None:
    torch.manual_seed(0)
    network, found = Normalized(), dict[str, list[float]]()
    for batch_size, classes in ((4, 1), (16, 1), (8, 2), (16, 2), (8, 8)):
        images, labels = batches_of(digits, 10, batch_size, classes)
        setting, public = Setting(mode="train", local=local, labels="hidden"), PublicData.of(digits, 1)
        seen = observe(network, images, labels, public, None, True, 0, range(10), setting)
        for rule in ("best", *BATCH_RULES):
            found.setdefault(rule, []).append(hits(LABEL_RULES[rule].labels(seen), labels))
    means = {rule: sum(shares) / len(shares) for rule, shares in found.items()}
    assert means["best"] >= max(means.values()) - 0.03 and min(found["best"]) > 0.9, found


def test_labels_are_told_without_a_draw_where_a_network_drops_units(digits: Any) -> None:
    images, labels = digits.victims(6, 4)
    setting, public = Setting(mode="train"), PublicData.of(digits, 1)
    seen = observe(Normalized(0.3), images, labels, public, None, True, 0, range(6), setting)
    before = torch.get_rng_state()
    assert torch.equal(LABEL_RULES["best"].labels(seen), LABEL_RULES["best"].labels(seen))
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("mode", ["eval", "train"])
def test_labels_are_the_same_however_many_victims_and_parameters_are_held_at_once(
    shared: bool, mode: Any, digits: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, labels = digits.victims(8, 4)
    setting, public = Setting(shared=shared, mode=mode), PublicData.of(digits, 1)
    seen = observe(Normalized(), images, labels, public, LayerMasking(0.5), True, 0, range(8), setting)
    told, explained = LABEL_RULES["best"].labels(seen), odds(seen, sorted_labels(labels))
    monkeypatch.setattr("attacks.engine.step.TOGETHER", {"cpu": 1})
    assert torch.equal(LABEL_RULES["best"].labels(seen), told)
    assert odds(seen, sorted_labels(labels)).allclose(explained, rtol=1e-4)
    monkeypatch.setattr("attacks.engine.mixture.LARGEST", 10 * 510 * 4)  # of the last layer alone
    head = torch.cat([seen.update["last.weight"].flatten(1), seen.update["last.bias"]], 1)
    there = head.any(1) | (mode == "eval")
    assert Mixture.of(replace(seen, defense=None)).sizes[there].allclose(head[there].double().norm(dim=1))


@pytest.mark.parametrize("alpha", [0.1, 1.0, 10.0])
def test_labels_that_are_mixed_start_from_those_of_a_rule_and_sum_to_what_it_tells(alpha: float, digits: Any) -> None:
    images, labels = digits.victims(6, 4)
    network, public = ConvNet(digits.image_shape, 10), PublicData.of(digits, 1)
    seen = observe(network, images, labels, public, MixUp(alpha), True, 0, range(6))
    attack = InvertingGradients()
    start, optimized = attack.label_logits(seen, [torch.Generator().manual_seed(0)] * 6)
    told = LABEL_RULES["best"].labels(seen)
    assert optimized and start.isfinite().all()
    assert torch.equal(start.argmax(-1), told) and (told == labels.sort(1).values).float().mean() > 0.9
    sums = torch.nn.functional.one_hot(told, 10).sum(1)
    torch.testing.assert_close(start.softmax(-1).sum(1), sums.float(), atol=0.05, rtol=0)
    granted, _ = attack.label_logits(replace(seen, labels=labels), ())
    assert torch.equal(granted.argmax(-1), labels) and granted.isfinite().all()
    noise = torch.randn(2, 4, 10)
    assert torch.equal(blended(noise), noise)
    draws = [torch.Generator().manual_seed(number) for number in range(6)]
    again = [torch.Generator().manual_seed(number) for number in range(6)]
    torch.testing.assert_close(DLG().label_logits(seen, draws)[0], label_logits("joint", seen, again)[0])


@pytest.mark.parametrize("alpha", [0.1, 1.0])
def test_who_knows_of_mixup_finds_mixtures_that_are_nearer(alpha: float, digits: Any) -> None:
    images, labels = digits.victims(4, 8)
    network, public, defense = ConvNet(digits.image_shape, 10), PublicData.of(digits, 1), MixUp(alpha)
    one_hot = torch.nn.functional.one_hot(labels, 10).double()
    mixed, _ = defense.on_batch(images.double(), one_hot, generators(0, range(4), "on_batch"))

    def off(adaptive: bool) -> float:
        seen = observe(network, images, labels, public, defense, adaptive, 0, range(4))
        found = InvertingGradients(150).reconstruct(seen).images
        return float(torch.cdist(found.double().flatten(2), mixed.flatten(2)).amin(1).mean())

    assert off(True) < off(False)
