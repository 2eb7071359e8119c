"""What several rounds say of labels together, against one long update and loops over entries."""

from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from attacks import LabelInference, Observation
from attacks.engine import label_rules
from attacks.engine.label_rules import LABEL_RULES, any_label, leaves_signs, present
from attacks.engine.labels import best_labels
from attacks.engine.last_layer import gradient_of_weight, lost_heads
from attacks.engine.mixture import Mixture, odds
from attacks.engine.rounds import mean_of, pooled
from benchmark.federation.client import PublicData, observe
from benchmark.federation.setting import Setting
from benchmark.models import MLP, ConvNet, LeNet
from datamodules import Digits
from defenses import QSGD, GaussianNoise, KeptAtHome, LayerMasking, Masking, RelativeNoise, Sign
from defenses.base import Defense


def seen_in(
    rounds: int, digits: Digits, defense: Defense | None, batch_size: int, count: int = 12, model: Any = LeNet
) -> tuple[Tensor, Observation]:
    images, labels = digits.victims(count, batch_size)
    network = model(digits.image_shape, digits.num_classes)
    public, setting = PublicData.of(digits, rounds), Setting(rounds=rounds)
    return labels, observe(network, images, labels, public, defense, True, 0, range(count), setting)


def hits(told: Tensor, labels: Tensor) -> float:
    """The share of labels that are told, in any order."""
    both = [torch.stack([row.bincount(minlength=10) for row in each]) for each in (told, labels)]
    return float(both[0].minimum(both[1]).sum() / labels.numel())


def test_each_entry_is_the_mean_of_the_rounds_in_which_it_was_shared(digits: Digits) -> None:
    seen = seen_in(4, digits, Masking(0.6), 2, count=2)[1]
    rounds = [seen, *seen.later]
    together = pooled(seen)
    assert together.later == () and pooled(together) is together
    for name, value in together.update.items():
        for victim in range(2):
            own = torch.stack([one.update[name][victim].flatten() for one in rounds])
            for entry, found in enumerate(value[victim].flatten()[:50].tolist()):
                shared = [x for x in own[:, entry].tolist() if x != 0]
                assert found == pytest.approx(sum(shared) / len(shared) if shared else 0.0, rel=1e-5)
        assert torch.equal(mean_of(seen, name), value)
        assert torch.equal(mean_of(replace(seen, later=()), name), seen.update[name])


@pytest.mark.parametrize("batch_size", [1, 4])
@pytest.mark.parametrize("lost", [0, 2])
def test_a_round_that_is_not_finite_takes_nothing_from_the_others(lost: int, batch_size: int, digits: Digits) -> None:
    labels, seen = seen_in(4, digits, GaussianNoise(1e-3), batch_size, count=4)
    rounds = [seen, *seen.later]
    for value in rounds[lost].update.values():
        value[1:] = float("nan")
    seen = replace(rounds[0], later=tuple(rounds[1:]))
    for rule in ("llg", "mixture", "best", *(["idlg"] if batch_size == 1 else [])):
        assert hits(LABEL_RULES[rule].labels(seen), labels) > 0.75
    assert all(mean_of(seen, name).isfinite().all() for name in seen.update)


def test_a_zero_that_is_no_gap_counts(digits: Digits) -> None:
    """QSGD makes most entries 0, and the others as large as their mean asks for."""
    seen = seen_in(5, digits, QSGD(levels=1), 2, count=2)[1]
    for name, value in pooled(seen).update.items():
        torch.testing.assert_close(value, torch.stack([one.update[name] for one in (seen, *seen.later)]).mean(0))


def test_rules_whose_equations_hold_in_one_round_are_asked_of_one(digits: Digits) -> None:
    labels, seen = seen_in(16, digits, None, 16, count=4)
    first = replace(seen, later=())
    for rule in ("ilrg", "ilrg_direction", "llg", "bias"):
        assert torch.equal(LABEL_RULES[rule].labels(seen), LABEL_RULES[rule].labels(first))
    assert hits(LABEL_RULES["ilrg"].labels(seen), labels) == 1.0


@pytest.mark.parametrize("model", [LeNet, ConvNet])
def test_what_is_there_for_sure_is_so_by_several_rounds_too(model: Any, digits: Digits) -> None:
    """The trial that looks whether a defense leaves signs is of one round."""
    labels, seen = seen_in(4, digits, Masking(0.5), 4, count=6, model=model)
    first = present(replace(seen, later=()))
    there = present(seen)
    assert leaves_signs(seen).all() and (there | ~first).all() and there.sum() >= 22
    assert not (there & (label_rules.counts_of(labels, 10) == 0)).any()


def test_of_many_classes_a_few_are_compared(digits: Digits, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those with the lowest rows, and labels are told as well as among all."""
    labels, seen = seen_in(1, digits, RelativeNoise(3.0), 1, count=24, model=ConvNet)
    assert len(any_label(seen)) == 10
    monkeypatch.setattr(label_rules, "LIKELY", 4)
    few = any_label(seen)
    assert len(few) == 4
    lowest = gradient_of_weight(seen).sum(-1).topk(4, largest=False).indices
    assert torch.cat([one.labels for one in few], 1).sort(1).values.equal(lowest.sort(1).values)
    assert hits(LABEL_RULES["best"].labels(seen), labels) > 0.9


@pytest.mark.parametrize("defense", [None, Masking(0.5)])
def test_to_the_mixture_rounds_are_one_long_update(defense: Defense | None, digits: Digits) -> None:
    labels, seen = seen_in(3, digits, defense, 2, count=3)
    whole = Mixture.of(seen)
    each = [Mixture.of(replace(one, later=())) for one in (seen, *seen.later)]
    torch.testing.assert_close(whole.products, sum(one.products for one in each))
    torch.testing.assert_close(whole.squares, sum(one.squares for one in each))
    torch.testing.assert_close(whole.sizes.square(), sum(one.sizes.square() for one in each))
    again = replace(seen, later=(replace(seen, later=()),) * 2)  # the same three times says no more
    torch.testing.assert_close(odds(again, labels), odds(replace(seen, later=()), labels))


@pytest.mark.parametrize(
    ("model", "defense", "batch_size"),
    [
        (LeNet, GaussianNoise(1.0), 4),
        (ConvNet, GaussianNoise(0.3), 4),
        (MLP, GaussianNoise(0.3), 2),
        (MLP, RelativeNoise(300.0), 1),
        (ConvNet, RelativeNoise(30.0), 1),
        (LeNet, Masking(0.99), 4),
    ],
)
def test_more_rounds_tell_more_labels(model: Any, defense: Defense, batch_size: int, digits: Digits) -> None:
    labels, seen = seen_in(16, digits, defense, batch_size, model=model)
    first = replace(seen, later=())
    of_one, of_all = (hits(LABEL_RULES["best"].labels(one), labels) for one in (first, seen))
    assert of_all >= of_one + 0.1 or (of_all > 0.95 and of_all >= of_one)
    rule = LabelInference("llg")
    assert hits(rule.reconstruct(seen).labels, labels) > hits(rule.reconstruct(first).labels, labels)


@pytest.mark.parametrize("defense", [None, Sign(0.0)])
@pytest.mark.parametrize("batch_size", [1, 4, 16])
def test_labels_that_one_round_tells_are_told_by_several(
    batch_size: int, defense: Defense | None, digits: Digits
) -> None:
    """Although the network has moved on between them, which the equations of a rule do not know."""
    labels, seen = seen_in(8, digits, defense, batch_size, count=4)
    assert hits(LABEL_RULES["best"].labels(seen), labels) == 1.0


def test_one_image_behind_noise_is_labeled_by_all_that_is_shared(digits: Digits) -> None:
    """Not by the last layer alone."""
    rectified = partial(MLP, hidden=64, activation="relu")
    for model, noise in ((rectified, GaussianNoise(1.0)), (ConvNet, RelativeNoise(30.0))):
        labels, seen = seen_in(1, digits, noise, 1, count=24, model=model)
        by_sign, best = (hits(LABEL_RULES[rule].labels(seen), labels) for rule in ("idlg", "best"))
        assert best > by_sign + 0.3
        labels, seen = seen_in(1, digits, None, 1, count=24, model=model)
        assert torch.equal(LABEL_RULES["best"].labels(seen), labels)


def test_the_sign_rule_takes_all_rounds(digits: Digits) -> None:
    labels, seen = seen_in(16, digits, GaussianNoise(1.0), 1, count=24, model=ConvNet)
    assert hits(best_labels(seen), labels) > hits(best_labels(replace(seen, later=())), labels) + 0.3


def test_a_last_layer_is_lost_only_where_no_round_has_it(digits: Digits) -> None:
    _, seen = seen_in(6, digits, LayerMasking(0.5), 2)
    there = torch.stack([~lost_heads(replace(one, later=())) for one in (seen, *seen.later)])
    assert there.any(0).equal(~lost_heads(seen)) and not there.all() and there.any()
    assert bool((gradient_of_weight(seen)[there.any(0)] != 0).any())
    assert lost_heads(seen_in(3, digits, KeptAtHome(layers=["last"]), 2)[1]).all()
