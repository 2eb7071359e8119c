"""One fit of a LightningModule by Lightning's Trainer, which says, keeps and draws nothing that nobody asked for."""

import logging
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, Checkpoint


def fit(
    module: LightningModule,
    batches: Iterable[Any] | LightningDataModule,
    device: torch.device,
    callbacks: Sequence[Callback] = (),
    epochs: int = 1,
    **trainer: Any,
) -> None:
    """Gives each batch to the module, until they end or something stops the Trainer.

    Args:
        module: on the device.
        batches: no plain DataLoader, which would draw from torch's global generator.
        device: of the computation.
        callbacks: Lightning callbacks.
        epochs: how often each batch is given.
        trainer: other arguments of Lightning's Trainer.
    """
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    log = logging.getLogger("lightning.pytorch")
    level = log.level
    if not trainer:
        log.setLevel(logging.ERROR)  # a line for each Trainer, and there are thousands
    try:
        lightning = Trainer(
            accelerator="cpu" if device.type == "cpu" else "gpu",
            devices=1 if device.type == "cpu" else [device.index or 0],
            max_steps=-1,
            max_epochs=epochs,
            limit_val_batches=0,
            callbacks=list(callbacks),
            enable_checkpointing=any(isinstance(one, Checkpoint) for one in callbacks),
            **(quiet | trainer),
        )
        lightning.fit(module, train_dataloaders=batches)
    except SystemExit as stop:
        if isinstance(stop.__context__, KeyboardInterrupt):  # how Lightning passes on Ctrl-C
            raise KeyboardInterrupt from stop
        raise
    finally:
        log.setLevel(level)
