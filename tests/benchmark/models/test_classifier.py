"""The LightningModule that trains networks: equal to the loop that one would write."""

from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn

from benchmark.models import MLP, ConvNet, ResNet
from benchmark.models.classifier import Classifier
from datamodules import Digits

SGD = {"learning_rate": 0.05, "momentum": 0.9, "weight_decay": 1e-3}


def trainer(**given: Any) -> Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    return Trainer(accelerator="cpu", enable_checkpointing=False, num_sanity_val_steps=0, **(quiet | given))


def copied(network: nn.Module, like: nn.Module) -> nn.Module:
    network.load_state_dict(like.state_dict())
    return network.to(next(like.parameters()).dtype).train()


def small(kind: type[Any]) -> Any:
    torch.manual_seed(3)
    return kind((1, 8, 8), 10, **({} if kind is MLP else {"width": 4}))


@pytest.mark.parametrize("kind", [MLP, ConvNet, ResNet])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_two_epochs_are_those_of_a_plain_loop_running_statistics_included(kind: type[Any], dtype: torch.dtype) -> None:
    network = small(kind).to(dtype).train()
    plain = copied(small(kind).to(dtype), network)
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3)
    loader = Digits().loading(32, 7, train_cap=200).train_dataloader()
    for _ in range(2):
        for images, labels in loader:
            optimizer.zero_grad()
            nn.functional.cross_entropy(plain(images.to(dtype)), labels).backward()
            optimizer.step()
    data = Digits().loading(32, 7, train_cap=200)
    trainer(max_epochs=2, limit_val_batches=0).fit(Classifier(network, **SGD), datamodule=data)
    for name, value in plain.state_dict().items():
        assert torch.equal(network.state_dict()[name], value), name


def test_what_is_frozen_stays_and_the_rest_moves() -> None:
    network = small(ConvNet)
    frozen = list(network.parameters())[:2]
    for p in frozen:
        p.requires_grad_(False)
    before = [p.clone() for p in network.parameters()]
    data = Digits().loading(32, 7, train_cap=100)
    trainer(max_epochs=1, limit_val_batches=0).fit(Classifier(network, weight_decay=0.1), datamodule=data)
    moved = [not torch.equal(p, was) for p, was in zip(network.parameters(), before, strict=True)]
    assert moved == [False, False] + [True] * (len(before) - 2)


def test_loss_and_accuracy_of_an_epoch_are_means_over_its_images() -> None:
    network = small(ConvNet)
    data = Digits().loading(48, 7, train_cap=700)  # 70 held out: batches of different size
    run = trainer(max_epochs=1)
    run.fit(Classifier(network, **SGD), datamodule=data)

    def means(images: Tensor, labels: Tensor) -> tuple[float, float]:
        network.eval()
        with torch.no_grad():
            logits = network(images)
        right = (logits.argmax(1) == labels).float().mean()
        return float(nn.functional.cross_entropy(logits, labels)), float(right)

    rows = data.public_rows()[1]
    loss, accuracy = means(data.train_images[rows], data.train_labels[rows])
    logged = run.callback_metrics
    assert float(logged["val_loss"]) == pytest.approx(loss, rel=1e-5)
    assert float(logged["val_accuracy"]) == pytest.approx(accuracy, rel=1e-5)
    assert 0 < float(logged["train_accuracy"]) < 1 and float(logged["train_loss"]) > 0
    (tested,) = run.test(Classifier(network), datamodule=data, verbose=False)
    loss, accuracy = means(data.test_images, data.test_labels)
    assert tested["test_loss"] == pytest.approx(loss, rel=1e-5)
    assert tested["test_accuracy"] == pytest.approx(accuracy, rel=1e-5)
