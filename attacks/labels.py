"""What the update of one image says about its label."""

import torch
from torch import Tensor

from defenses.base import Update


def last_layer(update: Update) -> Tensor:
    """The weight gradient of the last linear layer, ``[V, K, F]``."""
    return [value for value in update.values() if value.dim() == 3][-1]


def idlg_labels(update: Update) -> Tensor:
    """Labels ``[V]`` by the sign rule of iDLG (Zhao et al. 2020, arXiv 2001.02610, section 3).

    Row i of the last layer's gradient is (softmax_i - 1[i = label]) times the layer's input. Where that input is not
    negative (after a sigmoid or a ReLU), the label's row is the only one with a negative sum.
    """
    return last_layer(update).sum(-1).argmin(-1)


def rank_one_labels(update: Update) -> Tensor:
    """Labels ``[V]`` from an update with Gaussian noise: the most likely one under the rule of :func:`idlg_labels`.

    The last layer's gradient of one image is a product of two vectors. The most likely such product under Gaussian
    noise is the first singular pair, which averages the noise of all entries instead of those of one row.
    """
    left, _, right = torch.linalg.svd(last_layer(update), full_matrices=False)
    # A singular pair has two signs; the layer's input, the right vector, is not negative.
    return (left[..., 0] * right[:, 0].sum(-1, keepdim=True).sign()).argmin(-1)
