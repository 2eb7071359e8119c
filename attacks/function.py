"""An attack that is a plain function of the observation."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from attacks.base import Attack, Observation, Reconstruction
from attacks.engine.labels import best_labels


class FunctionAttack(Attack):
    """Calls a function with what is seen of all V victims.

    A function that returns images alone does not say which labels it found: they are those that the attacker is
    granted, else one for the whole batch by iDLG's rule, as for the null baselines. Nor does it say how many gradients
    it took, of which none are counted: return a :class:`Reconstruction` to say so. What an attack says of itself in
    attributes of its class (``simulates``, ``needs``, ``needs_local_steps``, ``one_image_only``, ``one_network_only``,
    ``public_images``) a function says in its own: ``find.simulates = True``.

    Args:
        function: from an observation to a :class:`Reconstruction`, or to images ``[V, N, C, H, W]``.
        **arguments: its other arguments.
    """

    def __init__(self, function: Callable[..., Any], /, **arguments: Any) -> None:
        self.function = function
        self.arguments = arguments

    def reconstruct(self, observation: Observation, callbacks: Sequence[Callback] = ()) -> Reconstruction:
        """What the function finds; of another form, it is returned as it is, for the benchmark to refuse."""
        found = self.function(observation, **self.arguments)
        if not isinstance(found, Tensor):
            return found
        victims = observation.num_victims
        return Reconstruction(
            images=found.detach().to(observation.device),
            labels=best_labels(observation),
            loss=torch.full((victims,), torch.inf),
            evaluations=torch.zeros(victims, dtype=torch.long),
            status=["closed form"] * victims,
        )
