from collections.abc import Sequence

import torch
from torch import Tensor

from defenses.base import Defense, KnownDefense, Update, flattened, layer_of

ENDS = {"first": 0, "last": -1}
"""Names for a layer by its place in the network."""


class KeptAtHome(Defense):
    """Shares some layers and keeps the others, as in federated learning with personal heads (arXiv 1912.00818).

    Arivazhagan et al. 2019 keep the last layers, of which an attacker gets nothing: what is not shared is zero here.
    The labels that other attacks read from the head then have to be found with the images. In training, each client
    trains its own, and the accuracy is the mean over clients, on images of all classes.

    Args:
        layers: that are kept: by name, as in ``[fc]``, with all that is in the layer, or by how names begin, as in
            ``[layer*]``. "first" and "last" are those in the network's order. An empty list is no defense.
    """

    def __init__(self, layers: list[str] = ["last"]) -> None:  # noqa: B006 # never changed
        self.layers = list(layers)

    def check(self, names: Sequence[str]) -> None:
        there = list(dict.fromkeys(map(layer_of, names)))
        for pattern in self.layers:
            if not matching([pattern], there):
                raise ValueError(
                    f"layers names {pattern!r}, but the network has {', '.join(there)}: give some of these"
                )
        if there and len(matching(self.layers, there)) == len(there):
            raise ValueError(f"layers names all layers of the network ({', '.join(there)}): leave out some to share")

    def protect(self, update: Update, generators: Sequence[torch.Generator]) -> Update:
        kept = self.at_home(list(update))
        return {name: torch.zeros_like(value) if name in kept else value for name, value in update.items()}

    def bytes_sent(self, shared: Update) -> Tensor:
        kept = self.at_home(list(shared))
        return super().bytes_sent(
            {name: flattened(value)[:, :0] if name in kept else value for name, value in shared.items()}
        )

    def known_to_attacker(self) -> KnownDefense:
        if not self.layers:
            return KnownDefense()
        return KnownDefense(simulate=lambda dummy, observed: self.protect(dummy, []), kept=self._shared)

    def _shared(self, observed: Update) -> Update:
        """1 for each entry of what is shared: a zero in it is true."""
        return self.protect({name: torch.ones_like(value) for name, value in observed.items()}, [])

    def at_home(self, names: Sequence[str]) -> frozenset[str]:
        layers = matching(self.layers, list(dict.fromkeys(map(layer_of, names))))
        return frozenset(name for name in names if layer_of(name) in layers)


def matching(patterns: Sequence[str], layers: Sequence[str]) -> set[str]:
    """The layers that one of the patterns names, or that are in one that it names."""

    def names(pattern: str, layer: str) -> bool:
        is_beginning = pattern.endswith("*") and layer.startswith(pattern[:-1])
        return is_beginning or layer == pattern or layer.startswith(f"{pattern}.")

    ends = {layers[ENDS[pattern]] for pattern in patterns if pattern in ENDS}
    return ends | {layer for layer in layers if any(names(pattern, layer) for pattern in patterns)}
