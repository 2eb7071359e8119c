"""The rules that tell the labels of a batch."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import combinations, combinations_with_replacement
from typing import Any

import numpy
import pytest
import torch
from scipy.optimize import linprog
from torch import Tensor, nn

from attacks import DLG, IDLG, InvertingGradients, LabelInference, Observation
from attacks.engine.label_rules import (
    BATCH_RULES,
    LABEL_RULES,
    apportioned,
    blended,
    counted,
    explained_by,
    label_logits,
    named,
    present,
    separable,
    spread,
)
from attacks.engine.last_layer import last_layer, length, lost_heads
from attacks.engine.mixture import Mixture, odds
from attacks.surrogate_model import at_surrogate
from attacks.threat import ThreatModel
from attacks.update import FedAvg, Network, Protocol, local_update
from benchmark.federation.client import PublicData, observe
from benchmark.federation.setting import Setting
from benchmark.models import MLP, ConvNet, LeNet
from benchmark.models.draw import Model
from benchmark.seeds import generators
from defenses import (
    DPSGD,
    OUTPOST,
    QSGD,
    Clipping,
    Compose,
    CountSketch,
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

MakeVictims = Callable[..., Any]

RULES = [name for name in LABEL_RULES if name != "known"]
SHAPE = (1, 8, 8)


class ReLUs(MLP):
    """The network of iLRG, smaller."""

    def __init__(self, image_shape: tuple[int, int, int], num_classes: int) -> None:
        super().__init__(image_shape, num_classes, hidden=64, depth=2, activation="relu")


class Headed(nn.Sequential):
    """A network whose last layer is given."""

    def __init__(self, activation: nn.Module, last: nn.Module) -> None:
        super().__init__(nn.Flatten(), nn.Linear(64, 12), activation, last)


class Signed(Model):
    """A network whose features may be negative."""

    def __init__(self, image_shape: tuple[int, int, int], num_classes: int) -> None:
        super().__init__()
        self.layers = Headed(nn.Tanh(), nn.Linear(12, num_classes))

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images)


class Tempered(nn.Module):
    """Its last layer does not make the logits alone."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(64, 10)

    def forward(self, images: Tensor) -> Tensor:
        return self.last(images.flatten(1)) / 2


def of_images(network: nn.Module, images: Tensor, labels: Tensor, protocol: Protocol = Protocol()) -> Observation:  # noqa: B008 # frozen
    """What is seen of victims that share a network."""
    weights = {name: value.detach() for name, value in network.named_parameters()}
    one_hot = nn.functional.one_hot(labels, 10).to(images)
    update = local_update(Network(network, weights), protocol, images, one_hot, create_graph=False)
    mean = torch.full(SHAPE, 0.5).to(images)
    public = mean, mean.expand(10, *SHAPE), 0.06, torch.ones(1)
    seeds = list(range(len(images)))
    return Observation(network, weights, update, (*images.shape[1:],), 10, seeds, None, *public, protocol)


def sorted_labels(labels: Tensor) -> Tensor:
    return labels.sort(1).values


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


def hits(found: Tensor, labels: Tensor) -> float:
    """The share of the labels ``[V, N]`` that were found, as often as each is there."""
    pairs = zip(found.tolist(), labels.tolist(), strict=True)
    return sum(sum((Counter(one) & Counter(other)).values()) for one, other in pairs) / labels.numel()


DEFENDED = [
    Clipping(0.01),
    ValueClipping(1e-3),
    DPSGD(0.01, 0.0),
    DPSGD(0.1, 0.1),
    Pruning(0.9),
    Masking(0.7),
    GaussianNoise(0.01),
    Sign(1.0),
    QSGD(2),
    Compose([Clipping(0.01), Masking(0.5)]),
    CountSketch(4.0),
    TruncatedSVD(0.5),
]


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


@pytest.mark.parametrize("defense", [None, Clipping(1e9), GaussianNoise(1e-4)])
def test_a_last_layer_that_nobody_finds_is_not_lost(defense: Defense | None, digits: Any) -> None:
    """Its weight has a column for each class, where others have a row."""

    class Columns(Model):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(64, 40), nn.Parameter(torch.randn(40, 10) / 7)

        def forward(self, images: Tensor) -> Tensor:
            return self.first(images.flatten(1)).relu() @ self.last

    torch.manual_seed(0)
    images, labels = digits.victims(20, 4)
    seen = observe(Columns(), images, labels, PublicData.of(digits, 1), defense, True, 0, range(20), Setting())
    assert not lost_heads(seen).any()
    generators = [torch.Generator().manual_seed(victim) for victim in range(20)]
    logits, optimized = label_logits("best", seen, generators)
    assert not optimized and hits(logits.argmax(-1), labels) > 0.95


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
    ("network", "non_negative"),
    [
        (Headed(nn.ReLU(), BIASED), True),
        (Headed(nn.Sigmoid(), nn.Linear(12, 10, bias=False)), True),
        (Headed(nn.Tanh(), BIASED), False),
        (Headed(nn.SiLU(), BIASED), False),
        (Headed(nn.LeakyReLU(0.01), BIASED), False),
        (LeNet(SHAPE, 10), True),
        (ConvNet(SHAPE, 10), True),
    ],
)
def test_the_last_layer_and_what_comes_into_it_are_seen_on_the_network(network: nn.Module, non_negative: bool) -> None:
    found = last_layer(network, SHAPE)
    assert found is not None and found[1] == non_negative
    assert isinstance(network.get_submodule(found[0]), nn.Linear)
    assert len(network.get_submodule(found[0]).weight) == 10


def test_a_layer_that_does_not_make_the_logits_is_no_last_layer() -> None:
    frozen = Headed(nn.ReLU(), nn.Linear(12, 10))
    frozen[3].weight.requires_grad_(False)
    for network in (Tempered(), frozen, nn.Sequential(nn.Conv2d(1, 10, 8), nn.Flatten())):
        assert last_layer(network, SHAPE) is None


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
