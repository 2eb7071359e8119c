"""The client's side: private batches in, observations out. Attack code never runs here."""

import torch
from torch import Tensor

from attacks.base import Observation
from attacks.update import Network, Protocol, local_update
from benchmark.errors import UsageError, a_kind, users_code, written
from benchmark.federation.protect import protected
from benchmark.models.draw import Model, draw_networks
from benchmark.seeds import generators, seed_for
from defenses.base import Defense, KnownDefense


def observe(
    model: Model,
    images: Tensor,
    labels: Tensor,
    num_classes: int,
    defense: Defense | None,
    adaptive: bool,
    mean_image: Tensor,
    class_means: Tensor,
    mean_step: float,
    seed: int,
    victims: range,
) -> Observation:
    """What V clients, each with a random network of its own, give away in one step of FedSGD.

    The networks, the defense's randomness and the attack's start depend on the seed and on the victims' numbers
    alone: every defense and every attack meets the same victims.

    Args:
        model: architecture, in the precision of the computation.
        images: private batches ``[V, N, C, H, W]`` in [0, 1], on the device of the computation.
        labels: their labels ``[V, N]``.
        num_classes: K.
        defense: what the clients do, or None.
        adaptive: whether the attacker knows the defense.
        mean_image: public mean image ``[C, H, W]``.
        class_means: public class means ``[K, C, H, W]``.
        mean_step: mean absolute difference of neighboring pixels in public images.
        seed: the suite's seed.
        victims: the victims' numbers.
    """
    like = torch.empty(0, dtype=next(model.parameters()).dtype, device=images.device)
    parameters = draw_networks(model, generators(seed, victims, "network"))
    parameters = {n: v.to(like if v.is_floating_point() else like.device) for n, v in parameters.items()}
    one_hot = torch.nn.functional.one_hot(labels, num_classes).to(like)
    update = local_update(Network(model, parameters), Protocol(), images.to(like), one_hot, create_graph=False)
    if defense is not None:
        update = protected(defense, update, generators(seed, victims, "defense"), type(defense).__name__)
    return Observation(
        model=model,
        parameters=parameters,
        update={name: value.detach() for name, value in update.items()},
        image_shape=(images.shape[1], *images.shape[2:]),
        num_classes=num_classes,
        seeds=[seed_for(seed, victim, "start") for victim in victims],
        defense=known(defense) if defense is not None and adaptive else None,
        mean_image=mean_image.to(like),
        class_means=class_means.to(like),
        mean_step=mean_step,
    )


def known(defense: Defense) -> KnownDefense:
    """The attacker's model of a defense, which a class of the user's may fail to give."""
    failed = f"the defense {type(defense).__name__} cannot tell what an attacker knows of it"
    with users_code(failed, defense.known_to_attacker):
        model = defense.known_to_attacker()
    if not isinstance(model, KnownDefense):
        raise UsageError(
            f"known_to_attacker of the defense {type(defense).__name__} must return a KnownDefense, not "
            f"{a_kind(model)}{written(type(defense).known_to_attacker)}"
        )
    return model
