"""Trained weights of a network from a file."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

INSIDE = ("state_dict", "model", "model_state_dict", "net")
"""Keys under which training scripts keep the weights, beside what else they save."""

COUNTER = "num_batches_tracked"
"""Of BatchNorm: evaluation does not use it, and files of old versions of torch lack it."""


def load_checkpoint(model: nn.Module, path: str, data_root: Path | None = None) -> None:
    """Gives a network the weights and buffers of a file that ``torch.save`` has made of a state dict.

    Args:
        model: whose names and shapes the file must have, all of them and no others; names may share a prefix, such as
            ``module.`` of ``DataParallel``.
        path: of the file. No code in it is run.
        data_root: folder of the data, from which the path leads to the file where there is none from here: so a suite
            can name weights wherever they are.

    Raises:
        ValueError: there is no such file, it holds something else, or it does not fit the network.
    """
    given, own = read_checkpoint(path, data_root), model.state_dict()
    reshaped = {key: value for key, value in given.items() if key in own and value.shape != own[key].shape}
    wrong = {
        "missing": [key for key in own if key not in given and not key.endswith(COUNTER)],
        "extra": [key for key in given if key not in own],
        "of another shape": [f"{key} ({list(v.shape)}, not {list(own[key].shape)})" for key, v in reshaped.items()],
        "not finite": [key for key, value in given.items() if not value.isfinite().all()],
    }
    if any(wrong.values()):
        told = "; ".join(f"{what} {listed(keys)}" for what, keys in wrong.items() if keys)
        raise ValueError(f"the checkpoint {path} does not fit this network: {told}")
    model.load_state_dict(own | given)


def read_checkpoint(path: str, data_root: Path | None = None) -> dict[str, Tensor]:
    """The state dict in a file, without the prefix that all its names share.

    Raises:
        ValueError: there is no such file, or it holds something else.
    """
    places = [Path(path), *([data_root / path] if data_root else [])]
    file = next((place for place in places if place.is_file()), None)
    if file is None:
        beside = f", neither here nor from the data root {data_root}" if data_root else ""
        raise ValueError(f"there is no checkpoint {path}{beside}: give the path of a file of weights")
    hint = "save one with torch.save(network.state_dict(), PATH)"
    try:
        found: Any = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file can lead to any
        raise ValueError(f"the checkpoint {path} cannot be read as a file of weights alone: {hint}") from error
    for key in INSIDE:
        if isinstance(found, dict) and isinstance(found.get(key), dict):
            found = found[key]
            break
    if not isinstance(found, dict) or not found or not all(isinstance(value, Tensor) for value in found.values()):
        raise ValueError(f"the checkpoint {path} holds no weights by name: {hint}")
    given = {str(key): value for key, value in found.items()}
    while len(starts := {key.partition(".")[0] for key in given}) == 1 and all("." in key for key in given):
        given = {key.removeprefix(f"{min(starts)}."): value for key, value in given.items()}
    return given


def listed(names: list[str]) -> str:
    """The first two of some names, and how many more there are."""
    more = len(names) - 2
    return f"{names[0]}, {names[1]} and {more} more" if more > 0 else " and ".join(names)
