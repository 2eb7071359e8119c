"""Soteria: its columns by a plain loop, the layer that it prunes, and what an attacker makes of the zeros."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from attacks import IDLG
from benchmark.federation.client import known
from benchmark.seeds import generators
from defenses import Clients, Soteria, Update
from defenses.soteria import pruned_layer

SHAPE = (1, 8, 8)


class HeadFirst(nn.Module):
    """Its last layer is registered first, and a layer of the same size is before it."""

    def __init__(self, activation: nn.Module | None = None) -> None:
        super().__init__()
        self.head = nn.Linear(10, 10, bias=False)
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(64, 10), activation or nn.Tanh())

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.body(images))
        return logits


class ByConvolution(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 10, 6), nn.Flatten())


def clients(model: nn.Module, images: int = 3) -> Clients:
    """Two clients who share the network."""
    generator = torch.Generator().manual_seed(1)
    weights = {name: value.detach() for name, value in model.named_parameters()}
    return Clients(model, weights, torch.rand(2, images, *SHAPE, generator=generator), torch.eye(10)[:images][None])


def shared(defense: Soteria, by: Clients, update: Update) -> Update:
    return defense.on_update(update, by, generators(0, range(2), "defense"))


def ones(model: nn.Module) -> Update:
    return {name: torch.ones(2, *value.shape) for name, value in model.named_parameters()}


@pytest.mark.parametrize("activation", [nn.Tanh(), nn.ReLU()])
@pytest.mark.parametrize("ratio", [0.3, 0.8])
def test_the_features_that_move_least_with_the_images_lose_their_column(activation: nn.Module, ratio: float) -> None:
    torch.manual_seed(0)
    model = HeadFirst(activation)
    by = clients(model)
    found = shared(Soteria(ratio), by, ones(model))
    for client, images in enumerate(by.images):
        total = torch.zeros(10)
        for image in images:
            slopes = torch.autograd.functional.jacobian(lambda x: model.body(x[None])[0], image)
            for feature, value in enumerate(model.body(image[None])[0].tolist()):
                size = float(slopes[feature].norm())
                total[feature] += size / abs(value) if size else 0.0
        least = set(total.argsort(stable=True)[: round(10 * ratio)].tolist())
        zeroed = (found["head.weight"][client] == 0).all(0)
        assert set(zeroed.nonzero()[:, 0].tolist()) == least
    assert all(torch.equal(value, torch.ones_like(value)) for n, value in found.items() if n != "head.weight")


def test_the_layer_is_found_by_what_it_does_and_is_trained() -> None:
    model = HeadFirst()
    assert pruned_layer(model, SHAPE) == "head"
    assert pruned_layer(ByConvolution(), SHAPE) is None
    model.head.weight.requires_grad_(False)
    assert pruned_layer(model, SHAPE) is None


@pytest.mark.parametrize(
    ("model", "local", "said"),
    [(ByConvolution(), False, "give a network that ends in one that is trained"), (HeadFirst(), True, "give FedSGD")],
)
def test_what_it_cannot_prune_is_said_in_one_sentence(model: nn.Module, local: bool, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Soteria().check_clients(model, (1, *SHAPE), local, False)
    Soteria(0).check_clients(model, (1, *SHAPE), local, False)


@pytest.mark.parametrize("ratio", [-0.1, 1.0, float("nan")])
def test_a_ratio_out_of_range_is_told(ratio: float) -> None:
    with pytest.raises(ValueError, match="ratio is"):
        Soteria(ratio)


def test_running_statistics_and_weights_stay_as_they_are() -> None:
    model = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), nn.Linear(64, 12), nn.Sigmoid(), nn.Linear(12, 10)).train()
    by = clients(model)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    shared(Soteria(), by, ones(model))
    assert pruned_layer(model, SHAPE) == "4"
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


NORMALIZING = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), nn.Linear(64, 12), nn.Sigmoid(), nn.Linear(12, 10))


@pytest.mark.parametrize("model", [HeadFirst().eval(), NORMALIZING.train()], ids=["alone", "BatchNorm"])
def test_clients_who_share_a_network_do_not_see_each_others_images(model: nn.Module) -> None:
    by = clients(model)
    together = shared(Soteria(), by, ones(model))
    for client in range(2):
        update = {name: value[:1] for name, value in ones(model).items()}
        alone = Soteria().on_update(update, by.take(client), generators(0, range(1), "defense"))
        assert all(torch.equal(value[0], together[name][client]) for name, value in alone.items())


def test_the_attacker_leaves_out_the_columns_that_were_pruned_and_no_others() -> None:
    """Where more columns are zero than were pruned, all that was pruned was zero before."""
    model = HeadFirst()
    told = known(Soteria(0.3), model, (1, *SHAPE))
    update = {name: torch.rand(2, *value.shape) + 0.1 for name, value in model.named_parameters()}
    update["head.weight"][0, :, [1, 4, 5]] = 0  # as many as are pruned
    update["head.weight"][1, :, [1, 4, 5, 7]] = 0  # more
    update["body.1.weight"][:, :, :30] = 0  # black pixels
    kept = told.kept_entries(update)
    assert (kept["head.weight"][0] == 0).all(0).nonzero()[:, 0].tolist() == [1, 4, 5]
    assert (kept["head.weight"][1] == 1).all() and (kept["body.1.weight"] == 1).all()
    simulated = told.simulate({name: torch.ones_like(value) for name, value in update.items()}, update)
    assert all(torch.equal(value, kept[name]) for name, value in simulated.items())


def test_who_does_not_know_it_is_stopped_and_who_does_is_not(victims_of: Any) -> None:
    def leaks(adaptive: bool) -> int:
        images, _, seen = victims_of(8, defense=Soteria(0.8), adaptive=adaptive)
        found = IDLG(max_evaluations=120).reconstruct(seen).images.clamp(0, 1)
        return int(((found - images).square().mean((1, 2, 3, 4)) <= 0.01).sum())

    assert leaks(adaptive=False) <= 1 and leaks(adaptive=True) >= 4
