"""What clients share and what attackers are granted in each setting, against plain loops over the network itself."""

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from attacks import (
    DLG,
    DLGFB,
    IDLG,
    RGAP,
    Attack,
    Bayes,
    FedAvgInversion,
    GaussNewton,
    InvertingGradients,
    MeanImage,
    Observation,
    SurrogateModel,
)
from attacks.network.gradients import squared_distance
from attacks.threat import PRESETS, ThreatModel
from attacks.update import FedAvg, Network, Protocol
from benchmark.errors import UsageError
from benchmark.federation.client import ROUND_RATE, PublicData, observe
from benchmark.federation.setting import Setting, described
from benchmark.suite.suite import parse
from datamodules import Digits
from defenses import Masking
from defenses.base import Update

VICTIMS, IMAGES, CLASSES = 3, 4, 10


class Net(nn.Module):
    """A small network: sigmoid, ReLU or BatchNorm."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.body = nn.Conv2d(1, 6, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(6) if kind == "norm" else nn.Identity()
        self.act: nn.Module = nn.Sigmoid() if kind == "sigmoid" else nn.ReLU()
        self.head = nn.Linear(6 * 16, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        out: Tensor = self.head(self.act(self.norm(self.body(images))).flatten(1))
        return out

    def draw(self, generator: torch.Generator) -> dict[str, Tensor]:
        drawn = {n: torch.rand(p.shape, generator=generator, dtype=p.dtype) - 0.5 for n, p in self.named_parameters()}
        moved = {
            n: torch.rand(b.shape, generator=generator, dtype=b.dtype) + 0.5
            for n, b in self.named_buffers()
            if b.is_floating_point()
        }
        return drawn | moved


SETTINGS: dict[str, dict[str, Any]] = {
    "published": {},
    "shared": {"shared": True},
    "train": {"mode": "train"},
    "train, shared": {"mode": "train", "shared": True, "statistics": "hidden"},
    "local steps": {"local": FedAvg(0.1, epochs=2, batch_size=2, momentum=0.5), "order": "known"},
    "local steps, shared": {"local": FedAvg(0.05, epochs=2, batch_size=1), "order": "known", "shared": True},
    "local steps of all": {"local": FedAvg(0.1, epochs=3), "mode": "train", "shared": True},
    "rounds": {"rounds": 3, "labels": "known"},
    "rounds, shared": {"rounds": 2, "shared": True, "mode": "train", "local": FedAvg(0.1)},
}


@pytest.fixture(scope="module")
def private(digits: Digits) -> tuple[Tensor, Tensor]:
    return digits.victims(VICTIMS, IMAGES)


def seen(
    private: tuple[Tensor, Tensor],
    digits: Digits,
    net: nn.Module,
    defense: Any = None,
    adaptive: bool = False,
    **axes: Any,
) -> Observation:
    setting = Setting(**axes)
    public = PublicData.of(digits, setting.rounds)
    given: Any = net
    return observe(given, *private, public, defense, adaptive, 0, range(VICTIMS), setting)


def plain(
    net: nn.Module, weights: Update, images: Tensor, labels: Tensor, how: Protocol, order: Tensor | None
) -> Update:
    """One client's update, by torch.optim.SGD over a copy of the module."""
    one = copy.deepcopy(net).train(how.train)
    one.load_state_dict({**one.state_dict(), **weights})
    start = {name: p.detach().clone() for name, p in one.named_parameters()}
    if how.local is None:
        nn.functional.cross_entropy(one(images), labels).backward()
        return {name: p.grad for name, p in one.named_parameters() if p.grad is not None}
    optimizer = torch.optim.SGD(one.parameters(), how.local.learning_rate, how.local.momentum)
    for epoch in range(how.local.epochs):
        rows = torch.arange(len(images)) if order is None else order[epoch]
        for batch in rows.split(how.local.batch_size or len(images)):
            optimizer.zero_grad()
            nn.functional.cross_entropy(one(images[batch]), labels[batch]).backward()
            optimizer.step()
    return {name: start[name] - p.detach() for name, p in one.named_parameters()}


@pytest.mark.parametrize("axes", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("kind", ["sigmoid", "relu", "norm"])
def test_what_is_shared_in_a_setting_is_what_a_plain_loop_shares(
    kind: str, axes: dict[str, Any], private: tuple[Tensor, Tensor], digits: Digits
) -> None:
    net = Net(kind).double().eval()
    if kind != "norm":
        axes = {key: value for key, value in axes.items() if key != "statistics"}
    observation = seen(private, digits, net, **axes)
    images, labels = private[0].double(), private[1]
    truth = nn.functional.one_hot(labels, CLASSES).double()
    networks = []
    for each in (observation, *observation.later):
        # Of statistics that are hidden the attacker has others, which make no difference to what is shared.
        for victim in range(VICTIMS):
            weights = {name: value[victim] for name, value in each.own_networks.items()}
            order = None if each.order is None else each.order[victim]
            wanted = plain(net, weights, images[victim], labels[victim], each.protocol, order)
            for name, value in wanted.items():
                torch.testing.assert_close(each.update[name][victim], value, rtol=1e-9, atol=1e-11)
        simulated = each.update_of(images, truth)
        assert float(squared_distance(simulated, each.update).max()) < 1e-20
        networks.append(each.own_networks["head.weight"])
    assert len(networks) == axes.get("rounds", 1)
    if len(networks) > 1:  # a step of SGD on public images, whoever is attacked and whatever defends
        split = digits.train_split
        weights = {name: value[1] for name, value in observation.own_networks.items()}
        public = split.images(0, 32).double(), split.labels[:32].long()
        step = plain(net, weights, *public, Protocol(), None)["head.weight"]
        torch.testing.assert_close(networks[1][1], networks[0][1] - ROUND_RATE * step, rtol=1e-9, atol=1e-11)


def test_the_shared_network_is_there_once_and_is_that_of_the_first_victim(
    private: tuple[Tensor, Tensor], digits: Digits
) -> None:
    net = Net("norm")
    own, shared = (seen(private, digits, net, shared=shared) for shared in (False, True))
    for name, value in shared.parameters.items():
        assert value.shape == dict(net.state_dict())[name].shape
        assert torch.equal(value, own.parameters[name][0])
    assert torch.equal(shared.take([2, 0]).parameters["head.weight"], shared.parameters["head.weight"])


def test_a_masking_defense_draws_anew_in_each_round(private: tuple[Tensor, Tensor], digits: Digits) -> None:
    observation = seen(private, digits, Net("relu"), Masking(0.5), adaptive=True, rounds=3)
    masks = [each.update["head.weight"] != 0 for each in (observation, *observation.later)]
    assert not torch.equal(masks[0], masks[1])
    assert not torch.equal(masks[1], masks[2])
    again = seen(private, digits, Net("relu"), Masking(0.5), adaptive=True)
    assert torch.equal(masks[0], again.update["head.weight"] != 0)  # the first round is that of a client of one round


def test_more_rounds_tell_more_behind_a_mask(private: tuple[Tensor, Tensor], digits: Digits) -> None:
    net = Net("sigmoid").double()

    def error(rounds: int) -> float:
        observation = seen(private, digits, net, Masking(0.9), adaptive=True, rounds=rounds, labels="known")
        found = DLG(max_evaluations=75).reconstruct(observation)
        return float((found.images.clamp(0, 1) - private[0]).square().mean())

    assert error(4) < 0.8 * error(1)


@pytest.mark.parametrize("labels", ["hidden", "counts", "known"])
def test_an_attack_takes_the_labels_that_it_is_granted(
    labels: Any, private: tuple[Tensor, Tensor], digits: Digits
) -> None:
    observation = seen(private, digits, Net("sigmoid"), labels=labels)
    if labels == "hidden":
        assert observation.labels is None
        return
    truth = private[1]
    assert observation.labels is not None
    found = DLG(max_evaluations=3).reconstruct(observation)
    assert torch.equal(found.labels, truth if labels == "known" else truth.sort(1).values)
    assert torch.equal(observation.take([1]).labels, observation.labels[1:2])  # type: ignore[arg-type] # seen above to be there


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_public_statistics_are_those_of_the_batch_at_each_layer(
    mode: Any, private: tuple[Tensor, Tensor], digits: Digits
) -> None:
    net = Net("norm").double().eval()
    observation = seen(private, digits, net, mode=mode, statistics="public")
    for victim in range(VICTIMS):
        weights = {name: value[victim] for name, value in observation.own_networks.items()}
        body = nn.functional.conv2d(private[0][victim].double(), weights["body.weight"], weights["body.bias"], 2, 1)
        mean, variance = body.mean((0, 2, 3)), body.var((0, 2, 3), unbiased=False)
        torch.testing.assert_close(observation.batch_statistics["norm.running_mean"][victim], mean)
        torch.testing.assert_close(observation.batch_statistics["norm.running_var"][victim], variance)
    assert not seen(private, digits, net, mode=mode).batch_statistics


def test_hidden_statistics_are_not_among_what_the_attacker_gets(private: tuple[Tensor, Tensor], digits: Digits) -> None:
    net = Net("norm").double().eval()
    hidden, shown = (seen(private, digits, net, mode="train", statistics=one) for one in ("hidden", "shared"))
    assert bool((hidden.own_networks["norm.running_mean"] == 0).all())
    assert bool((hidden.own_networks["norm.running_var"] == 1).all())
    assert bool((shown.own_networks["norm.running_mean"] != 0).all())
    assert all(torch.equal(value, hidden.update[name]) for name, value in shown.update.items())


def test_the_weight_of_statistics_brings_their_distance_into_the_loss(
    private: tuple[Tensor, Tensor], digits: Digits
) -> None:
    net = Net("norm").double().eval()
    observation = seen(private, digits, net, statistics="public", labels="known")
    truth = private[0].double()
    start = truth + 0.1 * torch.randn(truth.shape, generator=torch.Generator().manual_seed(0), dtype=truth.dtype)
    without, weighed = (
        DLG(max_evaluations=1, batch_norm=weight).reconstruct(observation, start_images=start).loss
        for weight in (0.0, 2.0)
    )
    wanted = torch.zeros(VICTIMS, dtype=truth.dtype)
    for victim in range(VICTIMS):
        weights = {name: value[victim] for name, value in observation.own_networks.items()}
        layer = [
            nn.functional.conv2d(images, weights["body.weight"], weights["body.bias"], 2, 1)
            for images in (start[victim], truth[victim])
        ]
        mean, variance = (
            [one(out) for out in layer]
            for one in (lambda x: x.mean((0, 2, 3)), lambda x: x.var((0, 2, 3), unbiased=False))
        )
        wanted[victim] = (mean[0] - mean[1]).square().sum() + (variance[0] - variance[1]).square().sum()
    torch.testing.assert_close(weighed - without, 2 * wanted, rtol=1e-6, atol=1e-9)
    at_truth = DLG(max_evaluations=1, batch_norm=2.0).reconstruct(observation, start_images=truth)
    assert float(at_truth.loss.max()) < 1e-18


def test_an_attacker_without_public_data_has_gray_images_for_means(
    private: tuple[Tensor, Tensor], digits: Digits
) -> None:
    observation = seen(private, digits, Net("relu"), public_data=False)
    assert bool((observation.mean_image == 0.5).all())
    assert bool((observation.class_means == 0.5).all())
    assert observation.mean_step != digits.mean_step()


@pytest.mark.parametrize("axes", [SETTINGS[name] for name in ("local steps, shared", "rounds", "local steps of all")])
def test_victims_of_a_setting_are_attacked_together_as_alone(
    axes: dict[str, Any], private: tuple[Tensor, Tensor], digits: Digits
) -> None:
    net = Net("norm" if axes.get("mode") == "train" else "sigmoid").double().eval()
    observation = seen(private, digits, net, **axes)
    attack = DLG(max_evaluations=12, optimizer="adam")
    together = attack.reconstruct(observation)
    for victim in range(VICTIMS):
        alone = attack.reconstruct(observation.take([victim]))
        torch.testing.assert_close(together.images[victim], alone.images[0], rtol=1e-6, atol=1e-7)
        torch.testing.assert_close(together.loss[victim], alone.loss[0], rtol=1e-6, atol=1e-12)


def test_an_attack_that_knows_the_local_steps_finds_what_one_that_takes_them_for_a_gradient_misses(
    private: tuple[Tensor, Tensor], digits: Digits
) -> None:
    net = Net("sigmoid").double().eval()
    local = FedAvg(0.5, epochs=3, batch_size=1)
    pairs = private[0][:, :2], private[1][:, :2]
    observation = seen(pairs, digits, net, local=local, order="known", labels="known")
    attack = DLG(max_evaluations=400)

    def error(view: Observation) -> float:
        images = attack.reconstruct(view).images.clamp(0, 1)
        return float((images - pairs[0]).square().mean())

    scale = 1 / (local.learning_rate * local.epochs * 2)
    as_gradient = replace(
        observation,
        update={name: scale * value for name, value in observation.update.items()},
        protocol=Protocol(),
        order=None,
    )
    known = error(observation)
    assert known < 1e-3
    assert error(as_gradient) > 10 * known


@pytest.mark.parametrize("name", PRESETS)
def test_each_preset_grants_what_the_one_before_it_grants_and_more(name: str) -> None:
    granted = PRESETS[name]
    assert not granted.beyond(granted)
    if name > "A":
        before = PRESETS[chr(ord(name) - 1)]
        assert granted.beyond(before)
        assert not before.beyond(granted)


def scenario(**keys: Any) -> dict[str, Any]:
    return {"scenarios": [{"data": "Digits", "model": "LeNet", "victims": 2} | keys], "attacks": ["DLG"]}


STEPS = {"class": "FedAvg", "learning_rate": 0.1}

WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "mode": ({"mode": "evaluation"}, "mode must be one of eval, train"),
    "shared": ({"shared": "yes"}, "shared must be true or false"),
    "rounds": ({"rounds": 0}, "rounds is 0, but must be at least 1"),
    "rounds as text": ({"rounds": "2"}, "rounds must be a whole number"),
    "threat model": ({"threat_model": "F"}, "threat_model must be one of A, B, C, D, E"),
    "beyond the preset": ({"threat_model": "A", "labels": "known"}, "threat model A does not grant labels known"),
    "public data beyond it": ({"threat_model": "C", "public_data": True}, "does not grant public_data true"),
    "hidden in eval": ({"statistics": "hidden"}, "give mode train"),
    "counts of one": ({"labels": "counts"}, "counts of the labels of one image are its label: give labels known"),
    "order of a gradient": ({"order": "known"}, "give protocol FedAvg"),
    "order of one step": ({"order": "known", "protocol": STEPS, "batch_size": 4}, "makes no difference"),
    "protocol": ({"protocol": "FedProx"}, "unknown protocol 'FedProx'"),
    "protocol without a rate": ({"protocol": "FedAvg"}, "learning_rate"),
    "protocol of another type": ({"protocol": 3}, "protocol must be FedSGD or"),
    "steps of FedSGD": ({"protocol": {"class": "FedSGD", "epochs": 2}}, "FedSGD has no epochs"),
    "rate": ({"protocol": STEPS | {"learning_rate": -1.0}}, "learning_rate is -1.0"),
    "momentum": ({"protocol": STEPS | {"momentum": 1.0}}, "momentum is 1.0"),
    "not divided": ({"protocol": STEPS | {"batch_size": 3}, "batch_size": 4}, "does not divide the 4 images"),
    "another key": ({"share": True}, "shared"),
}  # fmt: skip


@pytest.mark.parametrize(("keys", "said"), WRONG.values(), ids=WRONG)
def test_what_contradicts_itself_is_refused_in_one_sentence(keys: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError) as refused:
        parse(scenario(**keys), "suite")
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


def test_each_axis_is_a_part_of_the_key_and_of_the_heading() -> None:
    axes: list[dict[str, Any]] = [
        {},
        {"shared": True},
        {"mode": "train"},
        {"protocol": STEPS},
        {"protocol": STEPS | {"epochs": 2}},
        {"rounds": 2},
        {"threat_model": "A"},
        {"threat_model": "E"},
        {"labels": "known"},
        {"statistics": "public"},
        {"public_data": False},
    ]
    cells = [parse(scenario(**keys), "suite").cells[-1] for keys in axes]
    assert len({cell.id for cell in cells}) == len(axes)
    assert len({cell.scenario.label for cell in cells}) == len(axes)
    usual = parse(scenario(shared=False, mode="eval", rounds=1, protocol="FedSGD"), "suite").cells[-1]
    assert usual.id == cells[0].id  # what is written out is what is usual anyway
    assert set(cells[0].config()) == {
        "schema", "data", "model", "batch_size", "same_class", "seed", "defense", "attack", "adaptive",
    }  # fmt: skip
    assert described({"shared": True, "labels": "counts"}) == ["one shared network", "counts of labels known"]


@pytest.mark.parametrize("attack", [RGAP(), GaussNewton(), IDLG(start="rgap")])
@pytest.mark.parametrize("protocol", [Protocol(FedAvg(0.1)), Protocol(train=True)])
def test_an_attack_that_takes_gradients_alone_declines_other_updates(attack: Attack, protocol: Protocol) -> None:
    with pytest.raises(ValueError, match="give protocol FedSGD and mode eval"):
        attack.check_granted(protocol, ThreatModel())
    attack.check_granted(Protocol(), ThreatModel())


def test_an_attack_declines_what_it_needs_and_is_not_granted() -> None:
    class Needs(MeanImage):
        needs = frozenset({"labels", "public_data"})

    with pytest.raises(ValueError, match="needs the labels"):
        Needs().check_granted(Protocol(), ThreatModel())
    with pytest.raises(ValueError, match="needs public data"):
        Needs().check_granted(Protocol(), ThreatModel(labels="known", public_data=False))
    for attack in (DLG(), DLGFB(), Bayes(), InvertingGradients(), FedAvgInversion()):
        with pytest.raises(ValueError, match="simulates the local steps of FedAvg, which the threat model hides"):
            attack.check_granted(Protocol(FedAvg(0.1)), PRESETS["B"])
        attack.check_granted(Protocol(FedAvg(0.1)), PRESETS["D"])
    SurrogateModel().check_granted(Protocol(FedAvg(0.1)), PRESETS["B"])
    MeanImage().check_granted(Protocol(FedAvg(0.1)), PRESETS["A"])
    with pytest.raises(ValueError, match="SurrogateModel is for weights that local steps lead to"):
        SurrogateModel().check_granted(Protocol(), PRESETS["D"])
    with pytest.raises(ValueError, match="Bayes needs public data"):
        Bayes().check_granted(Protocol(), ThreatModel(public_data=False))
    with pytest.raises(ValueError, match="start mean needs public data"):
        DLG(start="mean").check_granted(Protocol(), ThreatModel(public_data=False))
    with pytest.raises(ValueError, match="batch_norm needs statistics"):
        DLG(batch_norm=1.0).check_granted(Protocol(train=True), ThreatModel(statistics="hidden"))
    with pytest.raises(ValueError, match="network with BatchNorm"):
        DLG(batch_norm=1.0).check(Net("relu"), (1, 1, 8, 8))


def test_an_attacker_is_not_told_what_local_steps_there_were(private: tuple[Tensor, Tensor], digits: Digits) -> None:
    local = FedAvg(0.3, epochs=2, batch_size=2)
    hidden = seen(private, digits, Net("relu"), local=local, threat_model="B")
    told = seen(private, digits, Net("relu"), local=local, threat_model="C")
    assert told.protocol.local == local and hidden.protocol.local == FedAvg(1.0)
    assert all(torch.equal(value, told.update[name]) for name, value in hidden.update.items())


def test_the_statistics_of_a_network_are_no_part_of_its_copies() -> None:
    net = Net("norm")
    before = {name: value.clone() for name, value in net.state_dict().items()}
    assert not Network(net, {name: p.detach() for name, p in net.named_parameters()}).batched
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
