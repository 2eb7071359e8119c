"""What trains a network as Lightning does it: our own, torchvision's or a user's."""

from itertools import chain

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

Batch = tuple[Tensor, Tensor]
"""Images ``[N, C, H, W]`` in [0, 1] and labels ``[N]``."""


class Classifier(LightningModule):
    """Trains a network by SGD on the mean cross entropy, for ``Trainer.fit(classifier, datamodule=CIFAR10())``.

    Logs ``train_loss`` and ``train_accuracy``, ``val_...`` and ``test_...`` likewise, as means over each epoch.

    Args:
        network: images in [0, 1] go in, logits ``[N, K]`` come out. Frozen parameters stay as they are.
        learning_rate: of SGD.
        momentum: of SGD, without dampening.
        weight_decay: half the factor of the squared weights that SGD adds to the loss, as in ``torch.optim.SGD``.
    """

    def __init__(
        self, network: nn.Module, learning_rate: float = 0.1, momentum: float = 0.0, weight_decay: float = 0.0
    ) -> None:
        super().__init__()
        self.network = network
        self.learning_rate, self.momentum, self.weight_decay = learning_rate, momentum, weight_decay

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``[N, K]``, of images in the precision of the network."""
        like = next(chain(self.network.parameters(), [images]))
        logits: Tensor = self.network(images.to(like.dtype))
        return logits

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        return self._loss("train", batch)

    def validation_step(self, batch: Batch, batch_idx: int) -> Tensor:
        return self._loss("val", batch)

    def test_step(self, batch: Batch, batch_idx: int) -> Tensor:
        return self._loss("test", batch)

    def configure_optimizers(self) -> torch.optim.SGD:
        trained = [p for p in self.network.parameters() if p.requires_grad]
        return torch.optim.SGD(trained, lr=self.learning_rate, momentum=self.momentum, weight_decay=self.weight_decay)

    def _loss(self, stage: str, batch: Batch) -> Tensor:
        """The mean cross entropy of a batch, which is logged beside the share of images that are told right."""
        images, labels = batch
        logits = self(images)
        loss = nn.functional.cross_entropy(logits, labels)
        right = (logits.argmax(1) == labels).float().mean()
        logged = {f"{stage}_loss": loss.detach(), f"{stage}_accuracy": right}
        self.log_dict(logged, batch_size=len(labels), on_step=False, on_epoch=True)
        return loss
