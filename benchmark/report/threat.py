"""A threat model in words: what the attacker of a board knows, and what clients compute."""

from dataclasses import fields, replace
from typing import Any

WORDS = {
    "labels": {
        "hidden": (False, "the labels"),
        "counts": (True, "how many images of each class are in a batch"),
        "known": (True, "the labels"),
    },
    "statistics": {
        "hidden": (False, "the statistics of batch norm"),
        "shared": (True, "the running statistics of batch norm that the clients were given"),
        "public": (True, "mean and variance of the private batch at each batch norm"),
    },
    "public_data": {
        "true": (True, "public images of the same kind"),
        "false": (False, "public images of the same kind"),
    },
    "local_steps": {
        "true": (True, "the clients' local steps"),
        "false": (False, "the clients' local steps"),
    },
    "order": {
        "known": (True, "the order in which clients take their images"),
        "unknown": (False, "the order in which clients take their images"),
    },
}
"""Of each capability of :class:`attacks.threat.ThreatModel`, by its value: whether the attacker knows it, and what."""

OF_LOCAL_STEPS = ("local_steps", "order")
"""Capabilities that make a difference only where clients take several steps."""


def in_words(config: dict[str, Any]) -> list[str]:
    """The threat model of a board, a sentence each.

    Args:
        config: of any record of the board.
    """
    from attacks.threat import PRESETS, ThreatModel  # torch, which takes seconds
    from benchmark.federation.setting import described
    from benchmark.federation.setting import in_words as written

    images, differs = config["batch_size"], described(config)
    granted = PRESETS.get(str(config.get("threat_model")), ThreatModel())
    granted = replace(granted, **{one.name: config[one.name] for one in fields(granted) if one.name in config})
    knows: dict[bool, list[str]] = {True: [], False: []}
    for name, words in WORDS.items():
        if "protocol" in config or name not in OF_LOCAL_STEPS:
            value = written(getattr(granted, name))
            known, what = words.get(value, (True, f"{name} {value}"))
            knows[known].append(what)
    return [
        "The attacker is an honest-but-curious server: it has the network, and the update that each client shares of "
        f"a private batch of {f'{images} images' if images > 1 else 'one image'}.",
        *(f"It also knows {joined(knows[True])}." for _ in knows[True][:1]),
        *(f"It does not know {joined(knows[False], 'or')}." for _ in knows[False][:1]),
        "An adaptive attack knows the defense and its strength, too; the others attack as if there were none.",
        f"Not as in the published attacks: {', '.join(differs)}."
        if differs
        else "As in the published attacks, an update is one gradient, in evaluation mode, of a network with random "
        "weights that is drawn anew for each victim.",
    ]


def joined(texts: list[str], word: str = "and") -> str:
    """As in "a, b and c"."""
    return f" {word} ".join(filter(None, (", ".join(texts[:-1]), texts[-1])))
