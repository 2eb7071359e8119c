"""Where a step of length 1 leads away for good, and the line search does not."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from attacks import DLG, IDLG
from attacks.engine.line_search import Point, cubic_minimum
from attacks.gradient_matching import GradientMatching
from benchmark.federation.client import PublicData, observe
from benchmark.models import LeNet
from datamodules import Digits
from defenses import Clipping


class Confident(LeNet):
    """Logits that are a hundred times as large: the loss at the start is 10,000."""

    def forward(self, x: Tensor) -> Tensor:
        return 100 * super().forward(x)


class Twist(nn.Module):
    """Group normalization, a mirrored input and a shortcut: no network of ours."""

    def __init__(self, image_shape: tuple[int, int, int], num_classes: int) -> None:
        super().__init__()
        channels, height, width = image_shape
        self.one, self.two = nn.Conv2d(2 * channels, 12, 3, padding=1), nn.Conv2d(12, 12, 3, padding=1)
        self.norm = nn.GroupNorm(3, 12)
        self.head = nn.Linear(12 * height * width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([x - 0.5, 0.3 * x.flip(-1)], 1)
        y = torch.sigmoid(self.norm(self.one(x)))
        return self.head((y + torch.tanh(self.two(y))).flatten(1)) / 1.5

    def draw(self, generator: torch.Generator) -> dict[str, Tensor]:
        sizes = {name: 1.0 if p.dim() == 1 else p[0].numel() ** -0.5 for name, p in self.named_parameters()}
        return {
            name: size * (2 * torch.rand(self.get_parameter(name).shape, generator=generator) - 1)
            for name, size in sizes.items()
        }


def fits(attack: GradientMatching, model: type[LeNet | Twist], digits: Digits, victims: int = 4) -> int:
    """How many victims' images are found to 30 dB."""
    images, labels = digits.victims(victims)
    network = model(digits.image_shape, digits.num_classes)
    public = digits.mean_image(), digits.class_means(), digits.mean_step(), digits.channel_stds()
    seen = observe(network, images, labels, PublicData(digits.num_classes, *public), None, False, 0, range(victims))
    found = attack.reconstruct(seen)
    return int(((found.images.clamp(0, 1) - images).square().mean((1, 2, 3, 4)) < 1e-3).sum())


@pytest.mark.parametrize(("attack", "model"), [(IDLG, Confident), (DLG, Twist)])
def test_it_finds_what_steps_of_length_one_do_not(
    attack: type[GradientMatching], model: type[LeNet | Twist], digits: Digits
) -> None:
    plain, searching = (attack(max_evaluations=150, line_search=on) for on in (False, True))
    assert fits(plain, model, digits) < fits(searching, model, digits) == 4


def test_a_victim_of_a_batch_is_searched_for_as_it_is_alone(digits: Digits) -> None:
    images, labels = digits.victims(3)
    network = Confident(digits.image_shape, digits.num_classes).double()
    public = digits.mean_image(), digits.class_means(), digits.mean_step(), digits.channel_stds()
    seen = observe(network, images, labels, PublicData(digits.num_classes, *public), Clipping(1.0), True, 0, range(3))
    attack = IDLG(max_evaluations=40, line_search=True, at_once=2)
    together = attack.reconstruct(seen)
    for victim in range(3):
        alone = attack.reconstruct(seen.take([victim]))
        assert together.evaluations[victim] == alone.evaluations[0]
        assert float(together.loss[victim]) == pytest.approx(float(alone.loss[0]), rel=1e-6)


def test_a_loss_that_is_not_a_number_on_trial_does_not_end_an_attack(digits: Digits) -> None:
    """Logits of an image far away overflow, which is no reason to give up the victim."""

    class Exploding(LeNet):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * torch.where(x.abs().amax((1, 2, 3), keepdim=False) > 6, torch.nan, 1.0)[:, None]

    images, labels = digits.victims(2)
    network = Exploding(digits.image_shape, digits.num_classes)
    public = digits.mean_image(), digits.class_means(), digits.mean_step(), digits.channel_stds()
    seen = observe(network, images, labels, PublicData(digits.num_classes, *public), None, False, 0, range(2))
    assert "diverged" not in IDLG(max_evaluations=200, line_search=True).reconstruct(seen).status
    nan = replace(seen, update={name: torch.full_like(value, torch.nan) for name, value in seen.update.items()})
    assert IDLG(max_evaluations=200, line_search=True).reconstruct(nan).status == ["diverged"] * 2


def test_the_minimum_of_a_cubic() -> None:
    def at(step: float) -> Point:  # x^3 - 3 x: lowest at 1
        return Point(step, step**3 - 3 * step, 3 * step**2 - 3, torch.empty(0))

    assert cubic_minimum(at(0.0), at(3.0)) == pytest.approx(1.0)
    assert cubic_minimum(at(3.0), at(0.0)) == pytest.approx(1.0)
    assert cubic_minimum(at(0.0), at(0.5)) == 0.5
    assert cubic_minimum(at(0.0), at(0.5), (0.2, 4.0)) == pytest.approx(1.0)
    assert cubic_minimum(at(0.0), at(2.0)._replace(loss=float("inf"), slope=float("nan"))) == 1.0
    assert cubic_minimum(at(2.0), at(2.0)) == 2.0
