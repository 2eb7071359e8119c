"""What the update of one image says about its label."""

from torch import Tensor

from defenses.base import Update


def last_layer(update: Update) -> Tensor:
    """The weight gradient of the last linear layer, ``[V, K, F]``."""
    return [value for value in update.values() if value.dim() == 3][-1]


def idlg_labels(update: Update) -> Tensor:
    """Labels ``[V]`` by the sign rule of iDLG (Zhao et al. 2020, arXiv 2001.02610, section 3).

    Row i of the last layer's gradient is (softmax_i - 1[i = label]) times the layer's input. Where that input is not
    negative (after a sigmoid or a ReLU), the label's row is the only one with a negative sum. Clipping, pruning and
    masking keep the signs, and under noise the sum over a row is a good test too: a layer's inputs are of similar
    size, and the first singular vector of the gradient, which needs no such assumption, was no better.
    """
    return last_layer(update).sum(-1).argmin(-1)
