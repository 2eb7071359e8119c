"""iDLG that takes what was shared for true at first, against the two attacks by hand."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from attacks import IDLG
from attacks.plain_first import PlainFirst
from attacks.update import FedAvg
from benchmark.federation.client import PublicData, observe
from benchmark.federation.setting import Setting
from benchmark.models import MLP, ConvNet
from datamodules import Digits
from defenses import QSGD, Defense, GaussianNoise, KnownDefense, Pruning, Update

MakeVictims = Callable[..., Any]


def psnr(found: Tensor, images: Tensor) -> Tensor:
    return -10 * (found.clamp(0, 1) - images.to(found)).square().flatten(1).mean(1).log10()


def test_its_halves_are_two_attacks_one_after_the_other(victims_of: MakeVictims) -> None:
    seen = victims_of(3, defense=Pruning(0.5), adaptive=True, dtype=torch.float64).observation

    def where_shared(dummy: Update, observed: Update) -> Update:
        return {name: value * (observed[name] != 0) for name, value in dummy.items()}

    by_hand = KnownDefense(simulate=where_shared)
    first = IDLG(10, start="mean").reconstruct(replace(seen, defense=by_hand))
    second = IDLG(11, start="mean").reconstruct(seen, start_images=first.images)
    found = PlainFirst(21).reconstruct(seen)
    torch.testing.assert_close(found.images, second.images)  # their losses are large enough to have no scale
    torch.testing.assert_close(found.loss, second.loss)
    assert found.labels.equal(second.labels) and found.evaluations.tolist() == [21] * 3
    alone = PlainFirst(21, at_once=1).reconstruct(seen)
    torch.testing.assert_close(found.images, alone.images)


@pytest.mark.parametrize(("defense", "adaptive"), [(Pruning(0.5), False), (GaussianNoise(0.01), True), (None, True)])
def test_it_is_idlg_from_the_mean_where_nothing_is_simulated(
    defense: Defense | None, adaptive: bool, victims_of: MakeVictims
) -> None:
    seen = victims_of(2, defense=defense, adaptive=adaptive).observation
    one, other = PlainFirst(8).reconstruct(seen), IDLG(8, start="mean").reconstruct(seen)
    assert torch.equal(one.images, other.images) and torch.equal(one.loss, other.loss)
    assert one.evaluations.tolist() == [8, 8] and one.trajectory is not None


@pytest.mark.parametrize("budget", [1, 2, 3])
def test_it_keeps_to_its_budget_and_tells_of_it(budget: int, victims_of: MakeVictims) -> None:
    attack, told = PlainFirst(budget), list[float]()
    attack.told = told.append
    found = attack.reconstruct(victims_of(2, defense=Pruning(0.5), adaptive=True).observation)
    assert found.evaluations.tolist() == [budget] * 2
    assert told == sorted(told) and told[-1] == 1


def test_images_that_are_given_to_start_from_are_where_it_starts(victims_of: MakeVictims) -> None:
    images, _, seen = victims_of(2, defense=Pruning(0.5), adaptive=True)
    found = PlainFirst(20).reconstruct(seen, start_images=images)
    assert torch.equal(found.images, images.to(found.images)) and found.evaluations.tolist() == [1, 1]


def test_small_losses_after_local_steps_end_no_half_too_early(digits: Digits) -> None:
    """L-BFGS has tolerances of its own, for which they need the scale that the first half has found."""
    images, labels = digits.victims(3, 1)
    public, setting = PublicData.of(digits, images=0), Setting(local=FedAvg(1e-2, epochs=2))
    network = MLP(digits.image_shape, digits.num_classes, hidden=64, activation="relu")
    seen = observe(network, images, labels, public, Pruning(0.5), True, 0, range(3), setting)
    led, alone = (
        psnr(attack.reconstruct(seen).images, images)
        for attack in (PlainFirst(120, total_variation=1e-5), IDLG(120, start="mean", total_variation=1e-5))
    )
    assert bool((led > 40).all()) and bool((alone > 40).all())


class WithoutHead(Defense):
    """Shares nothing of the last layer, and does not say so by ``kept``."""

    def protect(self, update: Update, generators: Any) -> Update:
        last = [name for name in update if name.startswith(list(update)[-1].rpartition(".")[0])]
        return {name: torch.zeros_like(value) if name in last else value for name, value in update.items()}

    def known_to_attacker(self) -> KnownDefense:
        return KnownDefense(simulate=lambda dummy, observed: self.protect(dummy, ()))


@pytest.mark.parametrize("rule", ["bias", "llg"])
def test_that_labels_are_lost_is_known_in_both_halves(rule: str, victims_of: MakeVictims) -> None:
    """A rule that reads them where nothing was shared would tell wrong ones, which stay as they are."""
    images, labels, seen = victims_of(4, defense=WithoutHead(), adaptive=True)
    found = PlainFirst(160, labels=rule).reconstruct(seen)
    assert torch.equal(found.labels, labels) and bool((psnr(found.images, images) > 40).all())


@pytest.mark.parametrize("levels", [64, 256])
def test_who_knows_of_a_rounding_finds_more_if_he_takes_it_for_true_at_first(
    levels: int, victims_of: MakeVictims
) -> None:
    """On a network of ReLUs he found less than one who does not know of it, as each level has an edge."""

    def quality(attack: type[IDLG], adaptive: bool) -> Tensor:
        images, _, seen = victims_of(4, model=ConvNet, defense=QSGD(levels), adaptive=adaptive)
        return psnr(attack(120, start="mean", total_variation=1e-5).reconstruct(seen).images, images)

    led, alone, blind = quality(PlainFirst, True), quality(IDLG, True), quality(IDLG, False)
    assert led.mean() > alone.mean() + 3 and led.mean() > blind.mean()  # 26, 15, 24 dB of 64 levels, 37, 20, 36 of 256
