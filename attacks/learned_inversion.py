from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from lightning.pytorch.callbacks import Callback

from attacks.base import Attack, Observation, Reconstruction
from attacks.engine.inverter import Inverter
from attacks.engine.label_rules import LABEL_RULES


@dataclass(eq=False)
class LearnedInversion(Attack):
    """Learning to Invert: a network that was trained to map updates to images (Wu et al. 2023, arXiv 2210.10880).

    Before it sees a victim, the attacker computes the updates of public images on the network that all victims share,
    through their defense where he knows it, and trains a perceptron of his own to tell the images from them. A victim
    then costs one forward pass. Images of a batch are told in no order. A network of each victim's own would take a
    training for each, and is refused. The labels are those that are granted, or told by a rule.

    The training is kept, and serves all victims: its cost has a field of its own in the record. The defaults are those
    of the authors for LeNet and one image; they stop where the loss of the test images is lowest, which no attacker
    knows, and take entries as they are, where here they are standardized.

    Args:
        training_steps: of Adam, at least 1; the learning rate falls to a tenth after three quarters of them.
        public_images: that it is trained on, at most, the first ones of the public split; at least 1.
        hidden: units of each of the two hidden layers, at least 1.
        entries: of an update that the perceptron takes, at least 1; a longer one is hashed to as many.
        pairs: updates of a training step, at least 1.
        learning_rate: of Adam, above 0.
    """

    simulates = True
    needs: ClassVar[frozenset[str]] = frozenset({"public_data"})
    one_network_only: ClassVar[bool] = True
    any_order: ClassVar[bool] = True

    training_steps: int = 39_000
    public_images: int = 50_000
    hidden: int = 3000
    entries: int = 20_000
    pairs: int = 256
    learning_rate: float = 1e-4

    def __post_init__(self) -> None:
        for name in ("training_steps", "public_images", "hidden", "entries", "pairs"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, but must be at least 1")
        if not 0 < self.learning_rate < float("inf"):
            raise ValueError(f"learning_rate is {self.learning_rate}, but must be above 0 and finite")

    def inverter(self, observation: Observation) -> Inverter:
        """The attacker's network before its training.

        Raises:
            ValueError: each victim has a network of its own.
        """
        if not observation.shared:
            raise ValueError(
                "LearnedInversion would be trained for each victim whose network is its own: give shared true"
            )
        made = Inverter(observation, self.hidden, self.entries, self.pairs, self.learning_rate, self.training_steps)
        made.told = self.told
        return made

    def reconstruct(
        self, observation: Observation, callbacks: Sequence[Callback] = (), inverter: Inverter | None = None
    ) -> Reconstruction:
        """Attacks all V victims.

        Args:
            observation: everything the attacker knows.
            callbacks: Lightning callbacks that watch the training.
            inverter: trained before; None to train it now, on the public images of the observation.
        """
        self.check(observation.model, observation.image_shape)
        if inverter is None:
            inverter = self.inverter(observation)
            inverter.learn(callbacks)
        with torch.no_grad():
            images = inverter(inverter.features([one.update for one in (observation, *observation.later)]))
        victims = observation.num_victims
        return Reconstruction(
            images=images,
            labels=labels_of(observation),
            loss=torch.full((victims,), torch.inf),
            evaluations=torch.zeros(victims, dtype=torch.long),
            status=["closed form"] * victims,
        )


def labels_of(observation: Observation) -> torch.Tensor:
    """Labels ``[V, N]``: those that are granted, else by the best rule."""
    return LABEL_RULES["known" if observation.labels is not None else "best"].labels(observation)
