"""Functions as attacks: what they return, their labels, and what they say of themselves."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from attacks import Observation, Reconstruction
from attacks.engine.labels import idlg_labels
from attacks.function import FunctionAttack

MakeVictims = Callable[..., Any]


def gray(observation: Observation, level: float = 0.5) -> Tensor:
    return torch.full((observation.num_victims, *observation.image_shape), level, requires_grad=True)


def test_images_alone_get_the_labels_of_idlgs_rule(victims_of: MakeVictims) -> None:
    seen = victims_of(3).observation
    found = FunctionAttack(gray, level=0.25).reconstruct(seen)
    assert found.images.shape == (3, 1, 1, 8, 8) and (found.images == 0.25).all() and not found.images.requires_grad
    assert torch.equal(found.labels, idlg_labels(seen)[:, None])
    assert found.loss.isinf().all() and len(found.status) == 3


def test_images_alone_get_the_labels_that_are_granted(victims_of: MakeVictims) -> None:
    _, labels, seen = victims_of(2, batch_size=3)
    granted = FunctionAttack(gray).reconstruct(replace(seen, labels=labels))
    assert torch.equal(granted.labels, labels)
    inferred = FunctionAttack(gray).reconstruct(seen).labels
    assert inferred.shape == labels.shape and (inferred == inferred[:, :1]).all()


@pytest.mark.parametrize("made", [None, [1, 2], 3.0])
def test_what_else_it_returns_is_left_to_be_refused(made: object, victims_of: MakeVictims) -> None:
    assert FunctionAttack(lambda seen: made).reconstruct(victims_of(2).observation) is made  # type: ignore[comparison-overlap] # not the types


def test_a_reconstruction_of_its_own_is_returned_as_it_is(victims_of: MakeVictims) -> None:
    own = Reconstruction(torch.zeros(2), torch.zeros(2), torch.zeros(2), torch.zeros(2))
    assert FunctionAttack(lambda seen: own).reconstruct(victims_of(2).observation) is own
