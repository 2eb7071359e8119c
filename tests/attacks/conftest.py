"""Clients of FedAvg whose order is unknown, for attacks on such updates."""

from collections.abc import Callable
from typing import Any

import pytest

from attacks import Observation
from attacks.update import FedAvg
from benchmark.federation.client import PublicData, observe
from benchmark.federation.setting import Setting
from benchmark.models import MLP
from datamodules import Digits

LOCAL = FedAvg(0.1, epochs=3, batch_size=2, momentum=0.5)

See = Callable[..., Observation]


@pytest.fixture(scope="module")
def see(digits: Digits) -> See:
    """What is seen of two clients with four images each, after local steps in an unknown order."""

    def observed(images: int = 4, **axes: Any) -> Observation:
        batches, labels = digits.victims(2, images)
        network = MLP(digits.image_shape, digits.num_classes, hidden=16).double()
        setting = Setting(**{"local": LOCAL, "labels": "counts"} | axes)
        public = PublicData.of(digits, setting.rounds)
        return observe(network, batches, labels, public, None, False, 0, range(2), setting)

    return observed
