"""A threat model in words: what the attacker of a board knows, and what clients compute."""

from dataclasses import fields, replace
from typing import Any

WORDS: dict[str, dict[Any, str]] = {
    "labels": {
        "hidden": "not the labels",
        "counts": "how many images of each class are in a batch",
        "known": "the labels",
    },
    "statistics": {
        "hidden": "no statistics of batch norm",
        "shared": "the running statistics of batch norm that the clients were given",
        "public": "mean and variance of the private batch at each batch norm",
    },
    "public_data": {
        True: "public images of the same kind, by their means and roughness",
        False: "no public images",
    },
}
"""What each capability of :class:`attacks.threat.ThreatModel` lets an attacker know."""

STEPS = {True: "the clients' local steps", False: "nothing of the clients' local steps"}
ORDER = {"known": "the order of their images", "unknown": "not the order of their images"}


def in_words(config: dict[str, Any]) -> list[str]:
    """The threat model of a board, a sentence each.

    Args:
        config: of any record of the board.
    """
    from attacks.threat import PRESETS, ThreatModel  # torch, which takes seconds
    from benchmark.federation.setting import described

    name, images = config.get("threat_model"), config["batch_size"]
    granted = PRESETS[name] if name in PRESETS else ThreatModel()
    granted = replace(granted, **{one.name: config[one.name] for one in fields(granted) if one.name in config})
    knows = [WORDS[key].get(getattr(granted, key), f"{key} {getattr(granted, key)}") for key in WORDS]
    if "protocol" in config:
        knows += [STEPS[granted.local_steps], ORDER[granted.order]]
    batch = f"{images} images" if images > 1 else "one image"
    differs = described(config)
    return [
        "The attacker is an honest-but-curious server: it has the network, and the update that each client shares of "
        f"a private batch of {batch}.",
        f"Beyond that it knows: {'; '.join(knows)}.",
        "An adaptive attack also knows the defense and its strength; the others attack as if there were none.",
        f"Not as in the published attacks: {', '.join(differs)}."
        if differs
        else "As in the published attacks, an update is one gradient, in evaluation mode, of a network with random "
        "weights that is drawn anew for each victim.",
    ]
