"""What an attacker gets, what it returns, and what every attack is."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn

from attacks.network.gradients import batch_dims, is_shared
from attacks.threat import ThreatModel
from attacks.update import Network, Protocol, local_update
from defenses.base import AS_USUAL, KnownDefense, Steps, Update, flattened

AS_SHARED = KnownDefense()
"""That of an attacker who knows of none."""


@dataclass(frozen=True)
class Observation:
    """Everything an attacker gets of V victims; never a private batch.

    Attributes:
        model: the architecture, with an input in [0, 1]; its own weights mean nothing.
        parameters: the weights that each victim computed its update with, name -> ``[V, ...]``, or ``[...]`` of one
            network that all victims share.
        update: what each victim shared, name -> ``[V, ...]``.
        image_shape: (N, C, H, W) of a victim's batch.
        num_classes: K.
        seeds: V seeds for the attack's own randomness, so that where it starts on a victim depends on no other victim.
        defense: the attacker's model of the defense where the threat model grants it, else None.
        mean_image: public mean image ``[C, H, W]``.
        class_means: public mean images of the classes ``[K, C, H, W]``.
        mean_step: mean absolute difference of neighboring pixels in public images, above 0.
        channel_stds: standard deviation of the pixels of each channel in public images, above 0, ``[C]``.
        protocol: what the victims computed, as far as the attacker knows.
        threat: what the attacker is granted beside this.
        order: of each victim's images in each epoch of FedAvg, ``[V, E, N]``, where it is granted, else None.
        labels: of the private batches where they are granted, ``[V, N]``, sorted where it is the counts, else None.
        batch_statistics: mean and variance of the private batch at each BatchNorm where they are granted, under the
            names of the layer's running ones, ``[V, F]``.
        later: what the same victims shared of the same batches in later rounds.
        public_images: images of the same kind as the private ones, for an attack that is trained on them, in [0, 1],
            ``[P, C, H, W]``; None where they are not granted, or no attack asked for them.
        public_labels: theirs, ``[P]``.
        covariance: of the D values of public images, ``[D, D]``; None where it is not granted, or images are large.
        class_covariances: of those of each class about their mean, ``[K, D, D]``; None likewise, and of many classes.
        own_size: whether the update is as large as what the protocol computes; False where it stands for something that
            points as it does.
    """

    model: nn.Module
    parameters: Update
    update: Update
    image_shape: tuple[int, int, int, int]
    num_classes: int
    seeds: Sequence[int]
    defense: KnownDefense | None
    mean_image: Tensor
    class_means: Tensor
    mean_step: float
    channel_stds: Tensor
    protocol: Protocol = field(default_factory=Protocol)
    threat: ThreatModel = field(default_factory=ThreatModel)
    order: Tensor | None = None
    labels: Tensor | None = None
    batch_statistics: Update = field(default_factory=dict)
    later: tuple["Observation", ...] = ()
    public_images: Tensor | None = None
    public_labels: Tensor | None = None
    covariance: Tensor | None = None
    class_covariances: Tensor | None = None
    own_size: bool = True

    @property
    def num_victims(self) -> int:
        return len(self.seeds)

    def take(self, victims: Sequence[int]) -> "Observation":
        """What the attacker gets of some of the victims, in that order."""
        rows, dims = list(victims), batch_dims(self.model, self.parameters)
        return replace(
            self,
            parameters={name: value if dims[name] is None else value[rows] for name, value in self.parameters.items()},
            update={name: value[rows] for name, value in self.update.items()},
            seeds=[self.seeds[victim] for victim in rows],
            order=None if self.order is None else self.order[rows],
            labels=None if self.labels is None else self.labels[rows],
            batch_statistics={name: value[rows] for name, value in self.batch_statistics.items()},
            later=tuple(round.take(rows) for round in self.later),
        )

    def update_of(self, images: Tensor, labels: Tensor, create_graph: bool = False) -> Update:
        """What the victims would share of these images, as far as the attacker knows, but for what a known defense does
        to the update.

        Args:
            images: ``[V, N, C, H, W]``.
            labels: class probabilities ``[V, N, K]``.
            create_graph: so that it can be differentiated in images and labels.

        Returns:
            name -> ``[V, ...]``.
        """
        network = Network(self.model, self.parameters)
        return local_update(network, self.protocol, images, labels, create_graph, self.order, self.steps)

    @property
    def size_tells(self) -> bool:
        """Whether the attacker can tell how large the update of some images would be."""
        return self.own_size and (self.protocol.local is None or self.threat.local_steps)

    @property
    def order_tells(self) -> bool:
        """Whether what clients compute depends on no order of their images that the attacker does not know."""
        local, images = self.protocol.local, self.image_shape[0]
        return not local or self.order is not None or (local.batch_size or images) >= images

    @property
    def noisy_entries(self) -> Tensor:
        """On how many entries of an update there can be noise, ``[V]``: all but those that were removed after it."""
        known = self.defense or AS_SHARED
        kept = known.kept_entries(self.update)
        return torch.stack([flattened((kept[n] != 0) | (v != 0)).sum(1) for n, v in self.update.items()]).sum(0)

    @property
    def steps(self) -> Steps:
        """What a known defense does in each local step."""
        return self.defense.steps if self.defense else AS_USUAL

    @property
    def own_networks(self) -> Update:
        """The weights of each victim, name -> ``[V, ...]``; of a shared network as views of the same."""
        dims, victims = batch_dims(self.model, self.parameters), self.num_victims
        return {n: v if dims[n] == 0 else v.expand(victims, *v.shape) for n, v in self.parameters.items()}

    @property
    def shared(self) -> bool:
        """Whether all victims share one network."""
        return is_shared(self.model, self.parameters)

    @property
    def device(self) -> torch.device:
        return next(iter(self.update.values())).device


@dataclass(frozen=True)
class Trajectory:
    """What an attack would have returned at some moments: for curves, never for a choice.

    Attributes:
        evaluations: T numbers of gradient evaluations.
        loss: lowest loss so far, ``[V, T]``.
        images: the images of that loss at P of these moments, ``[V, P, N, C, H, W]``: at all of them where images are
            small, at fewer or none where those of a victim would take more memory than a step.
        pictured: which of the T moments these are; None for all of them.
        levels: L losses.
        passed: evaluations that it took to a loss at or below each of them, ``[V, L]``; -1 where it was never met.
    """

    evaluations: list[int]
    loss: Tensor
    images: Tensor
    levels: tuple[float, ...]
    passed: Tensor
    pictured: Sequence[int] | None = None

    def take(self, victims: slice | list[int]) -> "Trajectory":
        """That of some of the victims."""
        return replace(self, loss=self.loss[victims], images=self.images[victims], passed=self.passed[victims])


@dataclass(frozen=True)
class Reconstruction:
    """What an attack returns for V victims.

    Attributes:
        images: ``[V, N, C, H, W]``; values outside [0, 1] are clamped by the scores, and a victim whose images are not
            finite has diverged.
        labels: ``[V, N]``.
        loss: the attack's own loss at these images, ``[V]``, infinite where there was none.
        evaluations: gradient evaluations spent on each victim, ``[V]``.
        status: for each victim "converged", "stalled" (no direction of descent is left), "exhausted" (the budget
            is), "diverged" (NaN or Inf) or "closed form".
        trajectory: present for an attack that iterates.
        starts: for each victim where the attack that is returned started; empty for an attack that does not iterate.
        label_probabilities: of an attack that optimizes the labels, ``[V, N, K]`` at its loss; None where the labels
            are all there is.
        certified: of an attack that gives certificates, whether it shows of an image with its label that it is one of
            the private batch, bool ``[V, N]``; None where it gives none.
        label_counts: of an attack that tells how many images of each class there are, ``[V, K]``, which need not sum to
            N; None where its labels are all that it says of them.
        mixed: what clients can have trained on to share what they did, where it is not these images themselves, as the
            attack has undone what a known defense does to a batch; else None.
        candidates: of an ensemble, by the names of its attacks, what each has found of all V victims; empty for others.
    """

    images: Tensor
    labels: Tensor
    loss: Tensor
    evaluations: Tensor
    status: list[str] = field(default_factory=list)
    trajectory: Trajectory | None = None
    starts: list[str] = field(default_factory=list)
    label_probabilities: Tensor | None = None
    certified: Tensor | None = None
    label_counts: Tensor | None = None
    mixed: "Reconstruction | None" = None
    candidates: dict[str, "Reconstruction"] = field(default_factory=dict)

    def take(self, victims: slice | list[int]) -> "Reconstruction":
        """What was found of some of the victims."""
        rows = victims if isinstance(victims, list) else range(len(self.loss))[victims]
        return Reconstruction(
            self.images[victims],
            self.labels[victims],
            self.loss[victims],
            self.evaluations[victims],
            [self.status[row] for row in rows],
            self.trajectory.take(victims) if self.trajectory else None,
            [self.starts[row] for row in rows] if self.starts else [],
            None if self.label_probabilities is None else self.label_probabilities[victims],
            None if self.certified is None else self.certified[victims],
            None if self.label_counts is None else self.label_counts[victims],
            self.mixed.take(victims) if self.mixed else None,
            {name: one.take(victims) for name, one in self.candidates.items()},
        )


def unheard(share: float) -> None:
    """Does nothing with the share of its work that an attack has done."""


class Attack(ABC):
    """A way from observations to reconstructions."""

    told: Callable[[float], None] = staticmethod(unheard)
    """Is called now and then with the share of the work that is done, from 0 to 1: a run moves its bar by it."""

    one_image_only = False
    """True for an attack that cannot take a batch of several images."""

    seeks_images: ClassVar[bool] = True
    """False for an attack on the labels alone: its images are not scored, and it says nothing of what leaks of them."""

    simulates: ClassVar[bool] = False
    """True for an attack that computes what victims share by :meth:`Observation.update_of`, and so takes whatever they
    compute; others take the gradient of a network in evaluation mode."""

    needs: ClassVar[frozenset[str]] = frozenset()
    """The capabilities (:class:`ThreatModel`) that it cannot do without: "labels", "public_data"."""

    any_order: ClassVar[bool] = False
    """True for an attack that takes no order of the images in local steps for the right one. What it finds explains an
    update where it does so in the order in which the images were taken."""

    needs_local_steps: ClassVar[bool] = True
    """False for an attack that takes updates of FedAvg without being told what a local step is."""

    one_network_only: ClassVar[bool] = False
    """True for an attack that takes only victims who all share one network."""

    public_images: int = 0
    """Public images that it is trained on, at most, which are then in the observation."""

    sequence = 1
    """Victims that follow each other and are attacked one after the other, each with what was learned before."""

    def telling(self, begin: float, end: float) -> Callable[[float], None]:
        """What a part of the attack is to tell, whose work goes from one share of all to another."""
        return lambda share: self.told(begin + share * (end - begin))

    def check(self, model: nn.Module, image_shape: tuple[int, int, int, int]) -> None:
        """Looks whether the attack can take such victims, before any work is done.

        Args:
            model: the architecture.
            image_shape: (N, C, H, W) of a victim's batch.

        Raises:
            ValueError: it cannot; with one sentence that says what to do.
        """
        if self.one_image_only and image_shape[0] > 1:
            raise ValueError(f"{type(self).__name__} attacks one image: give batch_size 1, or attack with DLG")

    def check_granted(self, protocol: Protocol, threat: ThreatModel, images: int = 1) -> None:
        """Looks whether the attack can do with what it is granted, before any work is done.

        Args:
            protocol: what clients compute.
            threat: what the attacker knows.
            images: N, of each victim.

        Raises:
            ValueError: it cannot; with one sentence that says what to do.
        """
        name = type(self).__name__
        if not self.simulates and (protocol.local or protocol.train):
            what = "updates of FedAvg" if protocol.local else "networks in train mode"
            raise ValueError(f"{name} takes no {what}: give protocol FedSGD and mode eval, or attack with DLG")
        if protocol.local and self.needs_local_steps and not threat.local_steps:
            raise ValueError(
                f"{name} simulates the local steps of FedAvg, which the threat model hides: give threat model C, or "
                "attack with SurrogateModel"
            )
        if "labels" in self.needs and threat.labels == "hidden":
            raise ValueError(f"{name} needs the labels, which the threat model hides: give labels known or counts")
        if "public_data" in self.needs and not threat.public_data:
            raise ValueError(f"{name} needs public data, which the threat model does not grant: give public_data true")

    def loss_at(self, observation: Observation, images: Tensor, labels: Tensor) -> Tensor | None:
        """The loss that the attack lowers, at images other than its own, for reports: None where it lowers none.

        Args:
            observation: everything the attacker knows of V victims.
            images: ``[V, N, C, H, W]``.
            labels: ``[V, N]``, or class probabilities ``[V, N, K]``.

        Returns:
            ``[V]``, as the loss of a :class:`Reconstruction`.
        """
        return None

    @abstractmethod
    def reconstruct(self, observation: Observation, callbacks: Sequence[Callback] = ()) -> Reconstruction:
        """Attacks all V victims.

        Args:
            observation: everything the attacker knows.
            callbacks: Lightning callbacks that watch an iterative attack.
        """
