"""What the update of one image says about its label."""

import torch
from torch import Tensor

from attacks.base import Observation
from attacks.gradients import batch_gradients
from attacks.head import label_rows, lowest_row
from defenses.base import flattened, global_norm


def idlg_labels(observation: Observation) -> Tensor:
    """Labels ``[V]`` by the sign rule of iDLG (Zhao et al. 2020, arXiv 2001.02610, section 3).

    Row i of the last layer's gradient is (softmax_i - 1[i = label]) times the layer's input. Where that input is not
    negative (after a sigmoid or a ReLU), the label's row is the only one with a negative sum; the gradient of the bias,
    which has no input, tells it in any case. Clipping, pruning and masking keep the signs, and under noise the sum over
    a row is a good test too: a layer's inputs are of similar size, and the first singular vector of the gradient, which
    needs no such assumption, was no better. Which parameter has these rows was shown on the network itself.

    Of a network without such rows, the label whose gradient at the public mean image points most nearly as the update.
    """
    rows = label_rows(observation.model, observation.image_shape[1:], observation.num_classes)
    return likeliest_labels(observation) if rows is None else lowest_row(observation.update[rows.name])


def likeliest_labels(observation: Observation) -> Tensor:
    """Labels ``[V]`` whose gradient at the public mean image has the greatest cosine with the update."""
    victims = observation.num_victims
    images = observation.mean_image.expand(victims, 1, *observation.image_shape[1:])
    cosines = []
    for label in range(observation.num_classes):
        one_hot = torch.zeros(victims, 1, observation.num_classes).to(images)
        one_hot[..., label] = 1
        gradient = batch_gradients(observation.model, observation.parameters, images, one_hot, create_graph=False)
        product = torch.stack([flattened(g * observation.update[n]).sum(1) for n, g in gradient.items()]).sum(0)
        size = global_norm(gradient)
        cosines.append(product / size.clamp(min=torch.finfo(size.dtype).tiny))
    return torch.stack(cosines).argmax(0)
