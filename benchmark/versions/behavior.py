"""What a user's own classes hold, read and do, as digests for the keys of records, whatever it depends on.

The code of a class need not name all that its results depend on: a file in an f-string, a module with a computed name,
an environment variable. So each class is imported anew, made, and tried on one client with an image of noise: a model
gives the client's update, a defense what is shared of it at several sizes and what an attacker makes of that, an attack
what it finds with next to no budget. What shows only with the full budget, as a number of restarts, is seen by what the
objects, classes and modules hold (``held.py``) and by what is read meanwhile (``opened.py``). All of it is done
twice, and only what comes out the same counts. In 64 bits where the class can, rounded, so that other machines and
numbers of threads give the same digest. Classes that come with Leakboard have none.
"""

import hashlib
import random
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from attacks import Attack, Observation, Reconstruction
from benchmark.errors import UsageError, is_users
from benchmark.federation.client import PublicData, known, observe
from benchmark.federation.protect import of_one_image
from benchmark.federation.setting import Setting
from benchmark.models.draw import drawing_from
from benchmark.rehearsal.hooks import SCALES
from benchmark.rehearsal.own_modules import imported_anew
from benchmark.rehearsal.scene import SEED, shortened
from benchmark.seeds import generators
from benchmark.suite.objects import LOCAL
from benchmark.suite.registry import Spec, build, build_model, classes, is_ours
from benchmark.versions.held import digest_of, held, module_held
from benchmark.versions.opened import opened
from datamodules import PrivateData
from defenses.base import Clients, Defense, Update

ITS_OWN = frozenset({"_parameters", "_buffers"})
"""Of a model: they have a digest of their own, :func:`benchmark.versions.code.networks_sha256`."""


@dataclass
class Behaviors:
    """Digests that were taken for one plan, so that nothing is run twice; the next plan may find another file."""

    _trials: dict[tuple[str, ...], Observation | None] = field(default_factory=dict)
    _digests: dict[tuple[str, ...], str] = field(default_factory=dict)

    def of(self, data: PrivateData, parts: Mapping[str, Spec], batch_size: int = 1, train: bool = False) -> str:
        """What the user's own among some classes hold, read and do together; an empty text where there are none.

        Args:
            data: sets the shape of the images and the number of classes; the images have a checksum of their own.
            parts: by their kind: the model, and an attack and a defense or not.
            batch_size: images of the client.
            train: whether the model is called in training mode.

        Raises:
            UsageError: one cannot be made any more.
        """
        own = {kind: part for kind, part in parts.items() if kind != "data" and not is_ours(kind, part)}
        network = parts["model"]
        place = network.label, str(data.image_shape), str(data.num_classes), str(batch_size), str(train)

        def client(dtype: torch.dtype | None) -> Observation | None:
            if network.name not in classes("model"):  # with the module that it is in, which is imported anew
                return client_of(network, data, batch_size, train, dtype)
            here = *place, str(dtype)
            if here not in self._trials:
                self._trials[here] = client_of(network, data, batch_size, train, dtype)
            return self._trials[here]

        def digest(kind: str, part: Spec) -> str:
            key = *place, kind, part.label
            if key not in self._digests:
                self._digests[key] = identity(kind, part, client, data)
            return self._digests[key]

        said = [f"{kind} {digest(kind, part)}" for kind, part in sorted(own.items())]
        return hashlib.sha256("\n".join(said).encode()).hexdigest()[:16] if said else ""


MakesClient = Callable[[torch.dtype | None], Observation | None]
"""Makes a client that computes in a type, or in the network's own."""


def identity(kind: str, part: Spec, client: MakesClient, data: PrivateData) -> str:
    """A digest of what a class of the user's holds, reads and does, as far as it comes out the same twice.

    Args:
        kind: of the class.
        part: the class with its arguments.
        client: on which it is tried.
        data: what a model is made for.

    Raises:
        UsageError: it cannot be made.
    """
    alive: list[Any] = []  # or two objects might have one address
    try:
        with imported_anew():
            first = seen(kind, part, client, data, alive)
        with imported_anew():
            second = seen(kind, part, client, data, alive)
    except UsageError:  # some module can be imported only once
        alive.clear()
        first, second = (seen(kind, part, client, data, alive) for _ in range(2))
    together = "\n".join(sorted(first & second))
    return hashlib.sha256(together.encode(errors="surrogatepass")).hexdigest()


def seen(kind: str, part: Spec, client: MakesClient, data: PrivateData, alive: list[Any]) -> set[str]:
    """One line for each thing that a class holds, reads or does.

    Args:
        kind: of the class.
        part: the class with its arguments.
        client: on which it is tried.
        data: what a model is made for.
        alive: the objects that were made of it before; this one is added.

    Raises:
        UsageError: it cannot be made.
    """
    before = set(sys.modules)
    with seeded(), opened() as files:
        made = build_model(part, data) if kind == "model" else build(kind, part)
        written_in = {one.name.rpartition(".")[0] for one in (part, *part.inner)}
        names = written_in | {type(made).__module__} | (set(sys.modules) - before)
        modules = [sys.modules[name] for name in names if name in sys.modules]
        modules = [module for module in modules if is_users(getattr(module, "__file__", None) or "<none>")]
        lines = held(kind, made, ITS_OWN if kind == "model" else frozenset())
        local = [one.name for one in (part, *part.inner) if one.name in LOCAL]
        for name in local:  # of its module, which a notebook goes on filling, what it names
            lines |= held("code", LOCAL[name], code=True)
        if not local:
            lines |= {line for module in modules for line in module_held(module)}
        lines |= {f"does {digest}" for digest in [does(kind, part, client)] if digest}
    alive.append(made)
    return lines | files.inputs(first=len(alive) == 1)


def client_of(
    model: Spec, data: PrivateData, batch_size: int, train: bool, dtype: torch.dtype | None
) -> Observation | None:
    """What one client of a network with an image of noise shares.

    Args:
        model: the network.
        data: sets the shape of the images and the number of classes.
        batch_size: images of the client.
        train: whether the model is called in training mode.
        dtype: of the computation; None for the network's own.

    Returns:
        None where the network does not run so.
    """
    classes = data.num_classes
    images = torch.rand((1, batch_size, *data.image_shape), generator=torch.Generator().manual_seed(SEED))
    labels = torch.arange(batch_size)[None] % classes
    mean = images.mean((0, 1))
    means, stds = mean.expand(classes, *mean.shape).clone(), torch.full((len(mean),), 0.25)
    public = PublicData(classes, mean, means, 0.1, stds, images.flip(-1)[0], labels[0])
    setting = Setting(mode="train" if train else "eval")
    made: Any = build_model(model, data)
    try:
        with drawing_from(SEED):
            return observe(made.to(dtype=dtype), images, labels, public, None, False, SEED, range(1), setting)
    except Exception:
        return None


def does(kind: str, part: Spec, client: MakesClient) -> str | None:
    """The digest of what a class does to a client; None where it fails, though in the benchmark it does not."""
    of: dict[str, Callable[[Spec, Observation], list[Update]]] = {
        "model": lambda _, seen: [seen.update],
        "defense": defense,
        "attack": attack,
    }
    for dtype in (torch.float64, None):
        if (seen := client(dtype)) is not None:
            try:
                with seeded():
                    return digest_of(of[kind](part, seen))
            except Exception:  # this client is another one
                continue
    return None


def defense(part: Spec, seen: Observation) -> list[Update]:
    """What is shared of the update and of larger and smaller ones, and what an attacker who knows makes of that."""
    made: Defense = build("defense", part)
    found: list[Update] = []
    noise = torch.rand((1, *seen.image_shape), generator=torch.Generator().manual_seed(SEED)).to(seen.mean_image)
    labels = torch.full((1, seen.image_shape[0], seen.num_classes), 1 / seen.num_classes).to(noise)
    if "on_batch" in made.hooks:
        images, mixed = made.on_batch(noise, labels, generators(SEED, range(1), "on_batch"))
        found.append({"images": images, "labels": mixed})
    by = Clients(seen.model, seen.parameters, noise, labels)
    for scale in SCALES:
        update = {name: scale * value for name, value in seen.update.items()}
        shared = of_one_image(made, dict(update), generators(SEED, range(1), "defense"), part.label, by)
        knows = known(made, seen.model, (1, *seen.image_shape[1:]))
        weight = {"weight": knows.weight(shared), "noise": torch.as_tensor(knows.noise(shared), dtype=torch.float32)}
        found += [shared, knows.simulate(update, shared), knows.kept_entries(shared), weight]
    return found


def attack(part: Spec, seen: Observation) -> list[Update]:
    """What the attack finds of the update in its first steps."""
    made: Attack = build("attack", shortened(part))
    found: Reconstruction = made.reconstruct(seen.take([0] * made.sequence))
    return [{"images": found.images}, {"labels": found.labels}, {"loss": found.loss}]


@contextmanager
def seeded() -> Iterator[None]:
    """What draws from a global generator gets the same numbers each time, and nobody else notices."""
    states = random.getstate(), np.random.get_state()
    random.seed(SEED)
    np.random.seed(SEED)
    try:
        with drawing_from(SEED):
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
