"""The client's side: private batches in, observations out. Attack code never runs here."""

from dataclasses import dataclass, replace
from itertools import repeat
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from attacks.base import Observation
from attacks.engine.statistics import batch_statistics, normalizing
from attacks.network.gradients import in_modes
from attacks.update import FedAvg, Network, Protocol, local_update
from benchmark.errors import UsageError, a_kind, users_code, written
from benchmark.federation.protect import network_of, protected
from benchmark.federation.protect import steps as steps_with
from benchmark.federation.setting import Setting
from benchmark.models.draw import Model, draw_networks
from benchmark.seeds import generators, seed_for
from datamodules.base import PrivateData
from datamodules.contract import images_of
from defenses.base import Clients, Defense, KnownDefense, Update

ROUND_IMAGES = 32
"""Public images of the step that a network makes between two rounds, which stand for the other clients'."""

ROUND_RATE = 0.1
"""Learning rate of that step."""

GRAY = 0.5
"""Every pixel of the mean images of an attacker without public data."""

GUESSED_STD = 0.25
"""What he takes for the standard deviation of the pixels: it is 0.25 in photographs, 0.3 in digits."""

GUESSED_STEP = 0.1
"""What he takes for the mean absolute difference of neighboring pixels: it is 0.02 in photographs, 0.24 in digits."""

GUESSED_STEPS = FedAvg(learning_rate=1.0)
"""What an attacker takes the local steps for who is not told of them: a single one, by the gradient itself."""


@dataclass(frozen=True)
class PublicData:
    """What is public about a data set.

    Attributes:
        num_classes: K.
        mean_image: ``[C, H, W]``.
        class_means: ``[K, C, H, W]``.
        mean_step: mean absolute difference of neighboring pixels.
        channel_stds: standard deviation of the pixels of each channel, ``[C]``.
        images: the first of its public images, ``[P, C, H, W]``: of these networks move on between rounds, and an
            attack is trained on them; None where neither is done.
        labels: theirs, ``[P]``.
        covariance: of the D values of an image, ``[D, D]``; None of large ones.
        class_covariances: of those of each class about their mean, ``[K, D, D]``; None likewise, and of many classes.
    """

    num_classes: int
    mean_image: Tensor
    class_means: Tensor
    mean_step: float
    channel_stds: Tensor
    images: Tensor | None = None
    labels: Tensor | None = None
    covariance: Tensor | None = None
    class_covariances: Tensor | None = None

    @classmethod
    def of(cls, data: PrivateData, rounds: int = 1, images: int = 0) -> Self:
        """That of a data set which has been set up.

        Args:
            data: the data set.
            rounds: in which each client shares an update.
            images: how many of its public images an attack is trained on, at most.
        """
        found = cls(
            data.num_classes,
            data.mean_image(),
            data.class_means(),
            data.mean_step(),
            data.channel_stds(),
            covariance=data.covariance(),
            class_covariances=data.class_covariances(),
        )
        wanted = max(images, ROUND_IMAGES if rounds > 1 else 0)
        if not wanted:
            return found
        split = data.train_split
        wanted = min(wanted, len(split))
        return replace(found, images=images_of(data, split, 0, wanted), labels=split.labels[:wanted].long())


def observe(
    model: Model,
    images: Tensor,
    labels: Tensor,
    public: PublicData,
    defense: Defense | None,
    adaptive: bool,
    seed: int,
    victims: range,
    setting: Setting = Setting(),  # noqa: B008 # frozen
    trained: Update | None = None,
    draw: str = "",
) -> Observation:
    """What V clients give away.

    The networks, the defense's randomness and the attack's start depend on the seed and on the victims' numbers
    alone: every defense and every attack meets the same victims.

    Args:
        model: architecture, in the precision of the computation.
        images: private batches ``[V, N, C, H, W]`` in [0, 1], on the device of the computation.
        labels: their labels ``[V, N]``.
        public: what everybody knows of the data set.
        defense: what the clients do, or None.
        adaptive: whether the attacker knows the defense.
        seed: the suite's seed.
        victims: the victims' numbers.
        setting: what they compute, and what the attacker is granted.
        trained: weights and buffers ``[...]`` of the network that all share; None for random ones.
        draw: what tells other draws of the defense, for the same clients, from the usual ones.
    """
    like = torch.empty(0, dtype=next(model.parameters()).dtype, device=images.device)
    model = network_of(defense, model, images.shape[2:])
    network = trained if trained is not None else networks(model, setting, seed, victims)
    network = {n: v.to(like if v.is_floating_point() else like.device) for n, v in network.items()}
    batches, truth = images.to(like), one_hot(labels, public.num_classes).to(like)
    threat = setting.threat
    label_source = labels.sort(1).values if threat.labels == "counts" else labels
    step = public.mean_step if threat.public_data else GUESSED_STEP
    mean_image, class_means = (
        value.to(like) if threat.public_data else torch.full_like(value, GRAY).to(like)
        for value in (public.mean_image, public.class_means)
    )
    is_told = setting.local is None or threat.local_steps
    protocol = setting.protocol if is_told else replace(setting.protocol, local=GUESSED_STEPS)
    covariance, class_covariances = (
        value.to(like) if value is not None and threat.public_data else None
        for value in (public.covariance, public.class_covariances)
    )
    stds = public.channel_stds if threat.public_data else torch.full_like(public.channel_stds, GUESSED_STD)
    shape = (images.shape[1], *images.shape[2:])
    seen: list[Observation] = []
    for number in range(setting.rounds):
        again = (f"/{number}" if number else "") + draw
        order = order_of_round(setting, images.shape[1], seed, victims, number)
        label = type(defense).__name__
        steps = steps_with(defense, seed, victims, again, label)
        update = local_update(Network(model, network), setting.protocol, batches, truth, False, order, steps)
        if defense is not None:
            sources = generators(seed, victims, f"defense{again}")
            with in_modes(model, repeat(setting.protocol.train)):
                update = protected(defense, update, sources, label, Clients(model, network, batches, truth))
        statistics: Update = {}
        if threat.statistics == "public":
            anew = steps_with(defense, seed, victims, again, label).batch  # with the same draws
            trained_on = anew(batches, truth)[0] if anew else batches
            with torch.no_grad():
                statistics = batch_statistics(Network(model, network), setting.protocol.train, trained_on)
        told = known(defense, model, shape) if defense is not None and adaptive else None
        weights = network if threat.statistics != "hidden" else network | fresh_statistics(model, like)
        update = {name: value.detach() for name, value in update.items()}
        if told and told.read:
            with in_modes(model, repeat(setting.protocol.train)):
                weights, update = told.read(model, weights, update)
        seen.append(
            Observation(
                model=model,
                parameters=weights,
                update=update,
                image_shape=shape,
                num_classes=public.num_classes,
                seeds=[seed_for(seed, victim, "start") for victim in victims],
                defense=told,
                mean_image=mean_image,
                class_means=class_means,
                mean_step=step,
                channel_stds=stds.to(like),
                protocol=protocol,
                threat=threat,
                order=order if threat.order == "known" else None,
                labels=None if threat.labels == "hidden" else label_source,
                batch_statistics=statistics,
                public_images=public.images if threat.public_data else None,
                public_labels=public.labels if threat.public_data else None,
                covariance=covariance,
                class_covariances=class_covariances,
            )
        )
        if number + 1 < setting.rounds:
            network = moved_on(model, network, public, setting, like)
    return replace(seen[0], later=tuple(seen[1:]))


def as_trained(
    seen: Observation, images: Tensor, labels: Tensor, defense: Defense, setting: Setting, seed: int, victims: range
) -> tuple[Tensor, Tensor]:
    """The batches that explain what was seen: those that clients trained on, where the attacker can undo their mixing.

    Args:
        seen: what clients with the defense have shared.
        images: private batches ``[V, N, C, H, W]``.
        labels: their labels ``[V, N]``.
        defense: what the clients do.
        setting: what they compute.
        seed: the suite's seed.
        victims: the victims' numbers.

    Returns:
        Images, and labels or class probabilities ``[V, N, K]``, on the CPU: the private ones where nothing is mixed,
        where it is mixed anew in each of several steps, or where nobody can undo it.
    """
    undo = seen.defense.undo if seen.defense and seen.defense.soft_labels else None
    batch = steps_with(defense, seed, victims, "", type(defense).__name__).batch
    if undo is None or batch is None or setting.local or setting.rounds > 1:
        return images, labels
    truth = one_hot(labels.to(seen.device), seen.num_classes).to(seen.mean_image)
    made = batch(images.to(seen.mean_image), truth)
    return made[0].cpu(), made[1].cpu()


def as_computed(seen: Observation, setting: Setting, seed: int, victims: range) -> Observation:
    """What is seen of victims, with the local steps that they made and the order in which they took their images."""
    rounds = [
        replace(
            one, protocol=setting.protocol, order=order_of_round(setting, seen.image_shape[0], seed, victims, number)
        )
        for number, one in enumerate((seen, *seen.later))
    ]
    return replace(rounds[0], later=tuple(rounds[1:]))


def order_of_round(setting: Setting, images: int, seed: int, victims: range, number: int) -> Tensor | None:
    """The order of each client's images in each epoch of a round, ``[V, E, N]``; None where it makes no difference."""
    return draw_order(setting, images, generators(seed, victims, f"order/{number}" if number else "order"))


def networks(model: Model, setting: Setting, seed: int, victims: range) -> Update:
    """The random networks that clients start from, ``[V, ...]``, or the one that all share, ``[...]``."""
    drawn = draw_networks(model, generators(seed, range(1) if setting.shared else victims, "network"))
    return {name: value[0] for name, value in drawn.items()} if setting.shared else drawn


def draw_order(setting: Setting, images: int, sources: list[torch.Generator]) -> Tensor | None:
    """The order of each client's images in each epoch, ``[V, E, N]``; None where it makes no difference."""
    local = setting.local
    if local is None or (local.batch_size or images) >= images:
        return None
    return torch.stack(
        [torch.stack([torch.randperm(images, generator=one) for _ in range(local.epochs)]) for one in sources]
    )


def moved_on(model: Model, network: Update, public: PublicData, setting: Setting, like: Tensor) -> Update:
    """The networks of the next round, after a step of SGD on public images: those of many other clients."""
    assert public.images is not None
    assert public.labels is not None
    victims = 1 if setting.shared else len(next(iter(network.values())))
    images = public.images[:ROUND_IMAGES].to(like).expand(victims, -1, -1, -1, -1)
    labels = one_hot(public.labels[:ROUND_IMAGES].to(like.device), public.num_classes).to(like)
    step = local_update(Network(model, network), Protocol(), images, labels.expand(victims, *labels.shape), False)
    moved = {name: ROUND_RATE * (value[0] if setting.shared else value) for name, value in step.items()}
    return {name: value - moved[name] if name in moved else value for name, value in network.items()}


def fresh_statistics(model: nn.Module, like: Tensor) -> Update:
    """Running statistics of a network that has seen nothing, in place of those that are hidden."""
    return {
        f"{layer}.{name}": value.to(like)
        for layer, norm in normalizing(model)
        for name, value in (
            ("running_mean", torch.zeros(norm.num_features)),
            ("running_var", torch.ones(norm.num_features)),
        )
    }


def known(
    defense: Defense, model: nn.Module | None = None, image_shape: tuple[int, int, int, int] | None = None
) -> KnownDefense:
    """The attacker's model of a defense, which a class of the user's may fail to give.

    Args:
        defense: of which he knows all but what it draws.
        model: the clients' network; None for the model as far as it depends on no clients.
        image_shape: (N, C, H, W) of a client's batch.
    """
    failed = f"the defense {type(defense).__name__} cannot tell what an attacker knows of it"
    with users_code(failed, defense.known_to_attacker):
        found = defense.known_to_attacker()
        if isinstance(found, KnownDefense) and found.of_clients and model is not None and image_shape is not None:
            found = found.of_clients(model, image_shape)
    if not isinstance(found, KnownDefense):
        raise UsageError(
            f"known_to_attacker of the defense {type(defense).__name__} must return a KnownDefense, not "
            f"{a_kind(found)}{written(type(defense).known_to_attacker)}"
        )
    return replace(found, client=defense, share=found.share or defense.protect)
