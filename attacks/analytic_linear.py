from collections.abc import Sequence

import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn

from attacks.base import Attack, Observation, Reconstruction
from attacks.closed_form.first_layer import FirstLayer, first_layer, seen_exactly
from attacks.engine.labels import best_labels
from attacks.rgap import true_gradient


def inputs_of_layer(weight: Tensor, bias: Tensor, known_weight: Tensor, known_bias: Tensor) -> tuple[Tensor, Tensor]:
    """The input of a linear layer for one image: its weight's gradient is the outer product of its bias's and of it.

    Every row gives the input; all of them together, weighted by the size of their slope, give it with the least error.

    Args:
        weight: gradient ``[V, N, D]``.
        bias: gradient ``[V, N]``.
        known_weight: 1 for an entry that is known, else 0.
        known_bias: likewise.

    Returns:
        The inputs ``[V, D]``, and whether each is known.
    """
    slope = (bias * known_bias)[..., None]
    squares = (slope.square() * known_weight).sum(1)
    inputs = (slope * weight * known_weight).sum(1) / torch.where(squares > 0, squares, 1)
    return inputs, (squares > 0) & inputs.isfinite()


class AnalyticLinear(Attack):
    """The image in closed form, from the first linear layer (Phong et al. 2017; Geiping et al. 2020, proposition 3.1).

    For one image per victim, and networks whose first trained layer is linear and has a bias, which the pixels come to
    with no more than a fixed scaling before it; what comes after it does not matter. Of a batch the same formula would
    give a mean of its images, weighted by their slopes, which is no reconstruction: a batch is for Peeling. A pixel
    that the update does not give away is that of the public mean image.
    """

    one_image_only = True

    def check(self, model: nn.Module, image_shape: tuple[int, int, int, int]) -> None:
        if image_shape[0] > 1:
            raise ValueError(
                f"AnalyticLinear attacks one image, of {image_shape[0]} it would find a mixture: give batch_size 1, or "
                "attack with Peeling"
            )
        self.layer(model, image_shape)

    def layer(self, model: nn.Module, image_shape: tuple[int, int, int, int]) -> FirstLayer:
        """The network's first layer; ValueError where it is not of this kind."""
        found = first_layer(model, image_shape[1:])
        if found is None:
            raise ValueError(
                "AnalyticLinear needs a trained linear layer with a bias that the pixels come to directly, or only "
                "scaled: give such a network (MLP), or attack with InvertingGradients"
            )
        return found

    def reconstruct(self, observation: Observation, callbacks: Sequence[Callback] = ()) -> Reconstruction:
        self.check(observation.model, observation.image_shape)
        layer, victims = self.layer(observation.model, observation.image_shape), observation.num_victims
        seen = seen_exactly(observation)
        gradient, known = true_gradient(seen)
        inputs, is_known = inputs_of_layer(*layer.gradients(gradient), *layer.gradients(known))
        factor, offset = layer.scaling(seen.model, seen.own_networks, seen.image_shape[1:])
        pixels = layer.pixels((inputs - offset) / torch.where(factor == 0, 1, factor))
        is_known = layer.pixels(is_known & (factor != 0))
        images = torch.where(is_known, pixels, observation.mean_image.flatten()).to(observation.mean_image)
        return Reconstruction(
            images=images.view(victims, *observation.image_shape),
            labels=best_labels(observation),
            loss=torch.full((victims,), torch.inf),
            evaluations=torch.zeros(victims, dtype=torch.long),
            status=["closed form"] * victims,
        )
