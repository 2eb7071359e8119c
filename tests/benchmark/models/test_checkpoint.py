"""Trained weights from a file: what fits is the network of every victim, what does not is told in one sentence."""

import argparse
import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmark.cli.main import main
from benchmark.errors import UsageError
from benchmark.models import Model, ResNet18, ResNet20, ResNet32, ResNet44, ResNet56
from benchmark.models.draw import draw_networks
from benchmark.store.store import read_all
from benchmark.suite.registry import build_model, spec
from benchmark.versions.code import code_checksum
from datamodules import CIFAR10

SHAPE = (1, 8, 8)
GRAY: dict[str, Any] = {"mean": [0.5], "std": [0.25]}
SHARED = Path(__file__).parents[4] / "shared" / "data"
TRAINED = {
    ResNet20: ("cifar10_resnet20-12fca82f.th", 0.916),
    ResNet32: ("cifar10_resnet32-d509ac18.th", 0.928),
    ResNet44: ("cifar10_resnet44-014dd654.th", 0.934),
    ResNet56: ("cifar10_resnet56-4bfd9763.th", 0.927),
}


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def trained(model: type[Model] = ResNet20, seed: int = 0) -> dict[str, Tensor]:
    """A state dict as after a training: all values random, the running statistics too."""
    state = model(SHAPE, 10).state_dict()
    source = generator(seed)
    return {n: torch.rand(v.shape, generator=source) * 0.2 if v.is_floating_point() else v for n, v in state.items()}


def prefixed(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {prefix + name: value for name, value in state.items()}


FORMS: dict[str, Callable[[dict[str, Tensor]], Any]] = {
    "plain": lambda state: state,
    "DataParallel": lambda state: prefixed(state, "module."),
    "state_dict": lambda state: {"state_dict": prefixed(state, "module."), "best_prec1": 91.7, "epoch": 3},
    "model": lambda state: {"model": state, "epoch": 3},
    "Lightning": lambda state: {"state_dict": prefixed(state, "model."), "hyper_parameters": {"lr": 0.1}},
    "compiled": lambda state: prefixed(state, "module._orig_mod."),
    "without counters": lambda state: {n: v for n, v in state.items() if not n.endswith("num_batches_tracked")},
    "float16": lambda state: {n: v.half() for n, v in state.items()},
}


@pytest.mark.parametrize(("model", "form"), [(ResNet18, "plain"), *((ResNet20, form) for form in FORMS)])
def test_a_checkpoint_gives_parameters_and_running_statistics(model: type[Model], form: str, tmp_path: Path) -> None:
    state, file = trained(model), tmp_path / "net.pt"
    torch.save(FORMS[form](state), file)
    network = model(SHAPE, 10, checkpoint=str(file), **GRAY)
    tolerance = 1e-3 if form == "float16" else 0
    for name, value in network.state_dict().items():
        torch.testing.assert_close(value, state[name], rtol=tolerance, atol=tolerance)
        assert value.dtype == state[name].dtype
    assert not network.training


def test_every_victim_has_the_network_of_the_checkpoint_whatever_became_of_the_module(tmp_path: Path) -> None:
    state, file = trained(), tmp_path / "net.pt"
    torch.save(state, file)
    network = ResNet20(SHAPE, 10, checkpoint=str(file), **GRAY).double()
    for p in network.parameters():
        p.data.zero_()
    copied = pickle.loads(pickle.dumps(copy.deepcopy(network)))
    drawn = draw_networks(copied, [generator(1), generator(2)])
    assert list(drawn)[: len(list(network.parameters()))] == [name for name, _ in network.named_parameters()]
    for name, values in drawn.items():
        assert torch.equal(values[0], state[name]) and torch.equal(values[1], state[name])


def test_a_checkpoints_network_normalizes_as_imagenets_are_trained_unless_it_is_told_otherwise(tmp_path: Path) -> None:
    file, images = tmp_path / "net.pt", torch.rand(2, 3, 8, 8)
    torch.save(ResNet20((3, 8, 8), 10).state_dict(), file)
    by_default = ResNet20((3, 8, 8), 10, checkpoint=str(file))
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    told = ResNet20((3, 8, 8), 10, checkpoint=str(file), mean=mean, std=std)
    other = ResNet20((3, 8, 8), 10, checkpoint=str(file), mean=[0.0] * 3, std=[1.0] * 3)
    assert torch.equal(by_default(images), told(images)) and not torch.allclose(told(images), other(images))


def changed(**changes: Tensor | None) -> dict[str, Tensor]:
    state = trained() | {name.replace("__", "."): value for name, value in changes.items() if value is not None}
    return {name: value for name, value in state.items() if changes.get(name.replace(".", "__"), value) is not None}


WRONG: dict[str, tuple[Callable[[Path], Any], list[str]]] = {
    "missing": (lambda file: torch.save(changed(bn1__weight=None), file), ["missing bn1.weight"]),
    "missing statistics": (lambda file: torch.save(changed(bn1__running_var=None), file), ["missing bn1.running_var"]),
    "extra": (lambda file: torch.save(changed(fc__weight=torch.zeros(2)), file), ["extra fc.weight"]),
    "two extra": (
        lambda file: torch.save(changed(fc__weight=torch.zeros(2), fc__bias=torch.zeros(2)), file),
        ["extra fc.weight and fc.bias"],
    ),
    "shape": (
        lambda file: torch.save(changed(linear__bias=torch.zeros(100)), file),
        ["of another shape linear.bias ([100], not [10])"],
    ),
    "not finite": (
        lambda file: torch.save(changed(bn1__running_mean=torch.full((16,), torch.nan)), file),
        ["not finite bn1.running_mean"],
    ),
    "deeper": (lambda file: torch.save(trained(ResNet32), file), ["extra layer1.3.conv1.weight, ", " more"]),
    "shallower": (lambda file: torch.save({"a.b": torch.zeros(1)}, file), ["missing conv1.weight, ", "extra b"]),
    "another": (lambda file: torch.save(trained(ResNet18), file), ["missing layer1.2.conv1.weight", "extra", "shape"]),
    "code": (lambda file: torch.save({"model": trained(), "args": argparse.Namespace(a=1)}, file), ["cannot be read"]),
    "pickle": (lambda file: file.write_bytes(pickle.dumps([print])), ["cannot be read"]),
    "text": (lambda file: file.write_text("weights"), ["cannot be read"]),
    "empty": (lambda file: file.touch(), ["cannot be read"]),
    "tensor": (lambda file: torch.save(torch.zeros(3), file), ["no weights by name"]),
    "nothing": (lambda file: torch.save({}, file), ["no weights by name"]),
    "none": (lambda file: None, ["there is no checkpoint"]),
    "folder": (lambda file: file.mkdir(), ["there is no checkpoint"]),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_checkpoint_that_does_not_fit_is_one_sentence(kind: str, tmp_path: Path) -> None:
    make, parts = WRONG[kind]
    make(tmp_path / "net.pt")
    with pytest.raises(ValueError) as raised:
        ResNet20(SHAPE, 10, checkpoint=str(tmp_path / "net.pt"), **GRAY)
    said = str(raised.value)
    assert str(tmp_path / "net.pt") in said and "\n" not in said
    assert all(part in said for part in parts), said


def test_a_file_cut_short_is_one_sentence(tmp_path: Path) -> None:
    file = tmp_path / "net.pt"
    torch.save(trained(), file)
    file.write_bytes(file.read_bytes()[:5000])
    with pytest.raises(ValueError, match="cannot be read"):
        ResNet20(SHAPE, 10, checkpoint=str(file), **GRAY)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"mean": [0.5]}, "give both"),
        ({"std": [0.5]}, "give both"),
        ({"mean": [0.5, 0.5], "std": [1.0, 1.0]}, "1 channel: give one value"),
        ({"mean": [0.5], "std": [0.0]}, "std is"),
        ({"mean": [0.5], "std": [float("nan")]}, "std is"),
    ],
)
@pytest.mark.parametrize("model", [ResNet18, ResNet20])
def test_a_normalization_that_cannot_be_is_one_sentence(
    model: type[Model], arguments: dict[str, Any], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        model(SHAPE, 10, **arguments)


RUN = ["run", "--data", "Digits", "--model", "ResNet20", "--model.mean", "[0.5]", "--model.std", "[0.5]"]
SHORT = ["--attack", "ConstantImage", "--victims", "2"]


@pytest.mark.usefixtures("nothing_of_the_developers")
def test_a_run_says_of_which_weights_it_is_and_runs_again_with_others() -> None:
    command = [*RUN, "--model.checkpoint", "net.pt", *SHORT, "--out", "out"]
    parts = {"model": spec("model", "ResNet20", {"checkpoint": "net.pt"}), "attack": spec("attack", "IDLG", {})}
    checksums, networks, keys = [], [], set[str]()
    for seed in (0, 1):
        torch.save(trained(seed=seed), "net.pt")
        checksums.append(code_checksum(parts))
        with pytest.raises(SystemExit, match=r"^0$"):
            main(command)
        new = [record for record in read_all(Path("out")) if record["key"] not in keys]
        keys |= {record["key"] for record in new}
        networks.append({digest for record in new for digest in record["network_sha256"]})
    assert checksums[0] != checksums[1]
    assert [len(those) for those in networks] == [1, 1] and networks[0] != networks[1]  # one for all victims


@pytest.mark.usefixtures("nothing_of_the_developers")
def test_a_checkpoint_that_does_not_fit_ends_a_run_before_any_work(capsys: pytest.CaptureFixture[str]) -> None:
    torch.save(trained(ResNet32), "net.pt")
    with pytest.raises(SystemExit) as ended:
        main([*RUN, "--model.checkpoint", "net.pt", *SHORT, "--out", "out"])
    said = capsys.readouterr().err.strip().splitlines()
    assert ended.value.code == 2 and len(said) == 1
    assert said[0].startswith("leakboard: ResNet20: the checkpoint net.pt does not fit this network: extra layer1.3.")
    assert not Path("out").exists()


@pytest.mark.skipif(not (SHARED / "checkpoints").is_dir(), reason="needs the trained networks beside the checkout")
@pytest.mark.parametrize("model", TRAINED)
def test_a_trained_network_knows_cifar10(model: type[Model]) -> None:
    file, accuracy = TRAINED[model]
    network = model((3, 32, 32), 10, checkpoint=str(SHARED / "checkpoints" / file))
    data = CIFAR10(root=str(SHARED / "partial"), verify_integrity=False)
    data.setup()
    images, labels = data.victims(200)
    with torch.no_grad():
        right = (network(images[:, 0]).argmax(1) == labels[:, 0]).float().mean()
    assert float(right) == pytest.approx(accuracy, abs=0.05)


def test_a_suite_can_name_weights_by_their_place_beside_the_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those from where the command runs count first; the file is not in the identity of a cell, but its weights are."""
    data = CIFAR10(root=str(tmp_path / "data"))
    named = spec("model", "ResNet20", {"checkpoint": "../checkpoints/weights.pt"})
    with pytest.raises(
        UsageError, match=r"no checkpoint \.\./checkpoints/weights\.pt, neither here nor from the data root"
    ):
        build_model(named, data)
    weights = [ResNet20(data.image_shape, 10).state_dict() for _ in range(2)]
    for folder, state in zip((tmp_path, tmp_path / "elsewhere"), weights, strict=True):
        (folder / "checkpoints").mkdir(parents=True)
        torch.save(state, folder / "checkpoints" / "weights.pt")
    for folder in (tmp_path / "data", tmp_path / "empty" / "here"):
        folder.mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "elsewhere" / "checkpoints")
    for wanted in weights[::-1]:
        assert torch.equal(build_model(named, data).conv1.weight, wanted["conv1.weight"])
        monkeypatch.chdir(tmp_path / "empty" / "here")
    assert named.as_dict()["checkpoint"] == "../checkpoints/weights.pt"
    with pytest.raises(UsageError, match="data_root"):
        spec("model", "ResNet20", {"data_root": "data"})
