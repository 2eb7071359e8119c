"""Which images each client of a federated training holds."""

import numpy as np
import torch
from torch import Tensor

from benchmark.seeds import generator_for, seed_for


def split(labels: Tensor, clients: int, alpha: float | None, seed: int) -> list[Tensor]:
    """The images of each client, every image in one client alone.

    Args:
        labels: ``[M]``.
        clients: how many there are.
        alpha: each class is cut into shares drawn from a symmetric Dirichlet distribution (Yurochkin et al. 2019, arXiv
            1905.12022, section 5): the smaller alpha, the fewer classes a client has. None: equal shares at random.
        seed: of the draw.

    Returns:
        The numbers of each client's images.

    Raises:
        ValueError: a client has no image.
    """
    if clients > len(labels):  # before anything is made for each client
        raise ValueError(told_empty(clients - len(labels), clients, len(labels), alpha))
    mixed = torch.randperm(len(labels), generator=generator_for(seed, 0, "split"))
    if alpha is None:
        shares = list(mixed.tensor_split(clients))
    else:
        draws = np.random.default_rng(seed_for(seed, 0, "dirichlet"))
        parts: list[list[Tensor]] = [[] for _ in range(clients)]
        for label in labels.unique().tolist():
            of_class = mixed[labels[mixed] == label]
            ends = (draws.dirichlet([alpha] * clients).cumsum()[:-1] * len(of_class)).round().astype(int)
            for part, images in zip(parts, of_class.tensor_split(ends.tolist()), strict=True):
                part.append(images)
        shares = [torch.cat(part) for part in parts]
    if empty := sum(len(share) == 0 for share in shares):
        raise ValueError(told_empty(empty, clients, len(labels), alpha))
    return shares


def told_empty(empty: int, clients: int, images: int, alpha: float | None) -> str:
    """What to do about clients without images."""
    larger = ", a larger dirichlet" if alpha is not None else ""
    cure = f"give fewer clients{larger} or more train_images"
    return f"{empty} of {clients} clients have no image of the {images}: {cure}"
