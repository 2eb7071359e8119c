"""What clients of the attacker's own making share, from which he learns what updates say of images."""

import torch
from torch import Tensor

from attacks.base import Observation
from attacks.update import Network, local_update
from defenses.base import Clients, Update, steps_of


def shared(seen: Observation, images: Tensor, labels: Tensor, generator: torch.Generator) -> Update:
    """What B clients of the attacker's own making share.

    Args:
        seen: what B victims compute, or victims who all have one network, and how they defend it, as far as he knows.
        images: ``[B, N, C, H, W]``.
        labels: one-hot, ``[B, N, K]``.
        generator: of the order of their images and of the draws of the defense.

    Returns:
        name -> ``[B, ...]``.
    """
    local, clients = seen.protocol.local, len(images)
    order = None
    if local is not None:
        order = torch.rand((clients, local.epochs, images.shape[1]), generator=generator).argsort(-1)
    network = Network(seen.model, seen.parameters)
    if seen.defense is None:
        return local_update(network, seen.protocol, images, labels, False, order)
    if seen.defense.share is None:
        raise ValueError("the attacker's model of the defense does not say what a client shares: give it share")
    seeds = torch.randint(2**62, (clients,), generator=generator).tolist()
    draws = [torch.Generator().manual_seed(seed) for seed in seeds]
    defense = seen.defense.client
    update = local_update(network, seen.protocol, images, labels, False, order, steps_of(defense, draws))
    if defense is None or "on_update" not in defense.hooks:
        update = seen.defense.share(update, draws)
    else:
        update = defense.on_update(update, Clients(seen.model, seen.parameters, images, labels), draws)
    return seen.defense.read(seen.model, seen.parameters, update)[1] if seen.defense.read else update
