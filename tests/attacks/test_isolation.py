"""An attack cannot reach private images.

Three ways to prove it. What attack code may import and name does not hold them. Nothing that can be reached from an
observation, the attacker's model of the defense included, is or shares memory with them. And an attack finds the same,
bit for bit, when they are overwritten, and in another process that never had them.
"""

import ast
import gc
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import BuiltinFunctionType, CodeType, FunctionType, ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import attacks
from attacks import Attack, Observation
from benchmark.federation.client import PublicData, observe
from benchmark.federation.setting import Setting
from benchmark.models import MLP, LeNet
from benchmark.models.draw import Model
from benchmark.suite import registry
from datamodules import Digits
from defenses import Clipping, Defense, GaussianNoise, KnownDefense, Masking, Pruning

MakeVictims = Callable[..., Any]

# Statically: what attack code may import and name.

SOURCES = sorted(Path(attacks.__file__).parent.rglob("*.py"))
OURS = {"attacks", "defenses"}
LIBRARIES = {"torch", "lightning", "opacus"}
STANDARD = {
    "abc",
    "collections",
    "contextlib",
    "copy",
    "dataclasses",
    "enum",
    "functools",
    "itertools",
    "logging",
    "math",
    "typing",
}
STANDARD |= {"warnings"}  # says what an attack has to say
STANDARD |= {"weakref"}  # of networks alone, by which what was found of them is remembered
"""What can neither read a file nor look into other objects."""
PRYING = {"gc", "inspect", "sys", "os", "importlib", "builtins", "ctypes", "eval", "exec", "compile", "open"}
PRYING |= {"globals", "vars", "__import__", "__builtins__", "__globals__", "__closure__", "__subclasses__"}
PRYING |= {"__self__", "f_back", "_getframe", "tb_frame", "load", "import_module"}


def forbidden(source: str) -> list[str]:
    """What a source imports or names that could lead to private images."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            imported = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            imported = ["." * node.level + (node.module or "")]
            found += [alias.name for alias in node.names if alias.name in PRYING]
        else:
            name = node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""
            is_torchs = isinstance(node, ast.Attribute) and ast.unparse(node) == "torch.compile"  # not Python's own
            found += [name] if name in PRYING and not is_torchs else []
            continue
        found += [name for name in imported if name.partition(".")[0] not in OURS | LIBRARIES | STANDARD]
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_attack_code_imports_and_names_nothing_that_leads_to_private_images(path: Path) -> None:
    assert forbidden(path.read_text(encoding="utf-8")) == []


def test_defense_code_can_lead_no_further() -> None:
    paths = sorted(Path(attacks.__file__).parent.parent.joinpath("defenses").rglob("*.py"))
    assert len(paths) > 4 and len(SOURCES) > 8
    for path in paths:
        assert forbidden(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "source",
    [
        "import benchmark.federation.client",
        "from datamodules import Digits",
        "def late():\n    from benchmark import run",
        "import gc",
        "import torch, sys",
        "from .. import benchmark",
        "import torch\ntorch.sys.modules",
        "x = __import__('datamodules')",
        "(lambda: 0).__globals__",
        "open('data')",
        "import torch\ntorch.load('data')",
        "from torch import os",
    ],
)
def test_the_check_of_sources_notices_a_way_around_it(source: str) -> None:
    assert forbidden(source)


# Dynamically: what can be reached from an observation.


def reachable(root: object) -> Iterator[object]:
    """Everything that can be reached from an object, but for modules, classes and the globals of functions."""
    seen: dict[int, object] = {}
    todo = [root]
    while todo:
        found = todo.pop()
        if id(found) in seen or isinstance(found, ModuleType | type | CodeType):
            continue
        seen[id(found)] = found  # kept, so that no other object gets this id
        yield found
        if isinstance(found, FunctionType):
            todo += [found.__closure__, found.__defaults__, found.__kwdefaults__, found.__dict__]
        elif isinstance(found, BuiltinFunctionType):
            todo.append(found.__self__)
        else:
            todo += gc.get_referents(found)
        if isinstance(found, Tensor):  # what torch holds outside of Python
            todo += [found.grad if found.is_leaf else None, found._base, found.grad_fn]
        if isinstance(found, torch.autograd.graph.Node):
            todo += [node for node, _ in found.next_functions]
            todo += [getattr(found, name) for name in dir(found) if name.startswith("_saved_")]
            todo.append(getattr(found, "variable", None))


def reaches(root: object, private: Tensor) -> bool:
    """Whether a tensor with the memory or with the values of the private one, or of one victim, can be reached."""
    memory = private.untyped_storage().data_ptr()
    secrets = [victim.flatten().double() for victim in [private, *private]]
    for found in reachable(root):
        if isinstance(found, Tensor):
            if found.untyped_storage().data_ptr() == memory:
                return True
            for rows in (found, *found) if found.dim() else ():
                if any(rows.numel() == s.numel() and torch.equal(rows.flatten().double(), s) for s in secrets):
                    return True
    return False


DEFENSES: list[Defense | None] = [
    None,
    Clipping(1.0),
    GaussianNoise(0.01),
    Masking(0.5),
    Masking(0.5, rescale=True),
    Pruning(0.5),
]


@pytest.mark.parametrize("defense", DEFENSES, ids=lambda defense: type(defense).__name__)
def test_no_private_tensor_can_be_reached_from_an_observation(
    defense: Defense | None, digits: Digits, victims_of: MakeVictims
) -> None:
    images, labels, observation = victims_of(6, batch_size=3, defense=defense, adaptive=True)
    assert (observation.defense is None) == (defense is None)
    assert not reaches(observation, images)
    assert not reaches(observation, labels)
    assert not reaches(observation, digits.test_split.pixels)
    kinds = {type(found).__name__ for found in reachable(observation)}
    assert not kinds & {"Digits", "TensorSplit", "DataLoader", "Victims"}
    assert all(found.grad_fn is None for found in reachable(observation) if isinstance(found, Tensor))


@pytest.mark.parametrize("defense", [None, Masking(0.5)], ids=["control", "masked"])
def test_public_images_lead_to_no_private_ones(
    defense: Defense | None, digits: Digits, victims_of: MakeVictims
) -> None:
    images, _, observation = victims_of(4, defense=defense, adaptive=True, shared=True, public_images=30)
    assert torch.equal(observation.public_images, digits.train_images[:30])
    assert torch.equal(observation.public_labels, digits.train_labels[:30])
    assert not any(reaches(observation, private) for private in (images, digits.test_split.pixels))
    kinds = {type(found).__name__ for found in reachable(observation)}
    assert not kinds & {"Digits", "TensorSplit", "DataLoader", "Victims"}


def in_a_closure(images: Tensor) -> dict[str, Any]:
    return {"defense": KnownDefense(simulate=lambda dummy, observed: {"a": images})}


def in_a_copy_of_one_victim(images: Tensor) -> dict[str, Any]:
    return {"mean_image": images[1].double().clone()}


def in_a_view(images: Tensor) -> dict[str, Any]:
    return {"update": {"a": images[0, 0, 0, 1:]}}


def in_a_graph(images: Tensor) -> dict[str, Any]:
    weight = torch.ones_like(images, requires_grad=True)
    return {"update": {"a": (weight * images.clone()).sum()}}


def in_a_hook(images: Tensor) -> dict[str, Any]:
    model = nn.Flatten()
    model.register_forward_hook(lambda module, inputs, output: images)
    return {"model": model}


def in_a_method(images: Tensor) -> dict[str, Any]:
    return {"seeds": [images.tolist]}


@pytest.mark.parametrize("hide", [in_a_closure, in_a_copy_of_one_victim, in_a_view, in_a_graph, in_a_hook, in_a_method])
def test_the_search_finds_images_that_are_hidden(
    hide: Callable[[Tensor], dict[str, Any]], victims_of: MakeVictims
) -> None:
    images, _, observation = victims_of(3)
    assert reaches(replace(observation, **hide(images)), images)


# By what an attack does.

IN_TURN: list[tuple[str, dict[str, Any]]] = [
    ("IDLG", {"max_evaluations": 6}),
    ("IDLG", {"max_evaluations": 6, "start": "rgap"}),
    ("DLG", {"max_evaluations": 6}),
    ("DLGFB", {"max_evaluations": 6, "length": 4, "gate": 1e9}),  # a gate that lets it blend
    ("InvertingGradients", {"max_evaluations": 6}),
    ("Bayes", {"max_evaluations": 6}),
    ("Wiener", {"max_evaluations": 6}),
    ("FedAvgInversion", {"max_evaluations": 6}),
    ("SurrogateModel", {"max_evaluations": 6}),
    ("GradInversion", {"max_evaluations": 6, "batch_norm": 0.0, "trials": 2}),
    ("CPL", {"max_evaluations": 6}),
    ("SAPAG", {"max_evaluations": 6}),
    ("InvertingGradients", {"max_evaluations": 6, "labels": "ilrg"}),
    ("LabelInference", {"rule": "rlg"}),
    ("LearnedInversion", {"training_steps": 3, "hidden": 8, "pairs": 4}),
    ("AutoLeak", {"max_evaluations": 2}),
    ("RGAP", {}),
    ("AnalyticLinear", {}),
    ("Peeling", {}),
    ("GaussNewton", {"iterations": 2}),
    ("ClassMeanImage", {}),
    ("MeanImage", {}),
    ("ConstantImage", {}),
]
"""Every attack there is, by name and arguments."""

OF_FIRST_LAYER = ("AnalyticLinear", "Peeling")
"""Those that need a network whose first layer is linear."""

ON_PUBLIC_IMAGES = ("LearnedInversion",)
"""Those that are trained on public images, for victims who share one network."""


def test_every_attack_takes_its_turn() -> None:
    assert {name for name, _ in IN_TURN} == set(registry.classes("attack"))


@pytest.mark.parametrize(("name", "arguments"), IN_TURN)
@pytest.mark.parametrize("defense", [None, Masking(0.3)], ids=["control", "masked"])
def test_an_attack_finds_the_same_when_the_private_images_are_gone(
    name: str, arguments: dict[str, Any], defense: Defense | None
) -> None:
    attack: Attack = getattr(attacks, name)(**arguments)

    def seen(spoil: bool) -> Observation:
        data = Digits()
        data.setup()
        images, labels = data.victims(4)
        learns = name in ON_PUBLIC_IMAGES
        public, setting = PublicData.of(data, images=20 if learns else 0), Setting(shared=learns)
        model: Model = LeNet(data.image_shape, data.num_classes)
        if name in OF_FIRST_LAYER:
            model = MLP(data.image_shape, data.num_classes, activation="relu")
        observation = observe(model, images, labels, public, defense, True, 0, range(4), setting)
        if spoil:
            data.test_split.pixels.fill_(torch.nan)
            data.test_split.labels.fill_(0)
            data.train_split.pixels.fill_(torch.nan)
            images.fill_(torch.nan)
            labels.fill_(0)
        return observation

    kept, gone = (attack.reconstruct(seen(spoil)) for spoil in (False, True))
    assert kept.images.isfinite().all()
    for part in ("images", "labels", "loss", "evaluations"):
        assert torch.equal(getattr(kept, part), getattr(gone, part)), part


ELSEWHERE = """
import sys
sys.modules["benchmark"] = sys.modules["datamodules"] = None  # an import of either is an error
import torch
torch.set_num_threads(1)
import attacks
from torch import nn
models = {
    "LeNet": nn.Sequential(
        nn.Conv2d(1, 12, 5, stride=2, padding=2), nn.Sigmoid(), nn.Conv2d(12, 12, 5, stride=2, padding=2), nn.Sigmoid(),
        nn.Conv2d(12, 12, 5, padding=2), nn.Sigmoid(), nn.Flatten(), nn.Linear(48, 10)),
    "MLP": nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))}
models["LeNet of all"] = models["LeNet"]
given = torch.load(sys.argv[1], weights_only=False)
seen = {name: attacks.Observation(model=models[name], defense=None, **given[name]) for name in models}
found = [getattr(attacks, name)(**arguments).reconstruct(seen[on]) for name, arguments, on in eval(sys.argv[2])]
torch.save([attack.images for attack in found], sys.argv[1])
"""


def test_an_attack_finds_the_same_in_a_process_that_never_had_the_images(
    victims_of: MakeVictims, tmp_path: Path
) -> None:
    networks = {"LeNet": LeNet, "MLP": partial(MLP, activation="relu")}
    seen = {name: victims_of(4, model=network).observation for name, network in networks.items()}
    seen["LeNet of all"] = victims_of(4, shared=True, public_images=20).observation
    names = ("parameters", "update", "image_shape", "num_classes", "seeds", "mean_image", "class_means")
    names += ("mean_step", "channel_stds", "covariance", "class_covariances", "public_images", "public_labels")
    given = {model: {name: getattr(observed, name) for name in names} for model, observed in seen.items()}
    torch.save(given, tmp_path / "observation.pt")
    special = dict.fromkeys(OF_FIRST_LAYER, "MLP") | dict.fromkeys(ON_PUBLIC_IMAGES, "LeNet of all")
    turns = [(name, arguments, special.get(name, "LeNet")) for name, arguments in IN_TURN]
    command = [sys.executable, "-c", ELSEWHERE, str(tmp_path / "observation.pt"), repr(turns)]
    ran = subprocess.run(command, capture_output=True, text=True, cwd=Path(attacks.__file__).parent.parent)
    assert ran.returncode == 0, ran.stderr
    for (name, arguments, on), images in zip(turns, torch.load(tmp_path / "observation.pt"), strict=True):
        assert torch.equal(images, getattr(attacks, name)(**arguments).reconstruct(seen[on]).images), name
