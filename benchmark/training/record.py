"""One training, as a record."""

import json
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from benchmark.errors import CODE_ERRORS, users_fault, users_line
from benchmark.federation.clients import Data
from benchmark.federation.server import State, privacy, train
from benchmark.jobs.blocks import Workbench
from benchmark.jobs.provenance import provenance
from benchmark.jobs.scored import brief, finite
from benchmark.store.store import Record, Store
from benchmark.suite.registry import build
from benchmark.training.plan import Run, training_data, training_model
from benchmark.training.suite import Training
from defenses.base import Defense

CHECKPOINT_SECONDS = 20.0
"""Work that is lost at most when a process is killed, but for the round under way."""


def train_run(run: Run, store: Store, bench: Workbench, reached: Callable[[State], None]) -> Record:
    """One training, from its checkpoint where there is one, as a record.

    Its ``accuracy`` and ``loss`` are of the test images, ``validation`` is what chooses a learning rate, ``majority``
    is the accuracy of always naming the most frequent class of the test: a run that ends no better has collapsed.
    ``clients_changed`` and ``entries_changed`` are the shares that the defense has changed of the clients' updates and
    of their entries, over all rounds; of what it was given instead, where that is a batch or the gradients of images.
    ``client_bytes`` and ``client_seconds`` are what a client sends and how long it works in a round, as means.
    ``privacy`` is there where the defense gives a guarantee of differential privacy.

    Args:
        run: what is trained.
        store: of its checkpoint.
        bench: data and device.
        reached: is told of the state after each round.

    Raises:
        UsageError: the user's own model or defense raises, or the defense breaks its contract.
    """
    training = run.training
    scenario = training.scenario
    data, model = training_data(bench, scenario), training_model(bench, scenario)
    defense: Defense | None = build("defense", training.defense) if training.defense else None
    before, spent = store.checkpoint(run.key, saved, bench.device) or (None, 0.0)
    began = last = time.perf_counter()
    state = before
    try:
        for state in train(model, data, scenario.federation, defense, training.seed, before):
            reached(state)
            now = time.perf_counter()
            if now - last >= CHECKPOINT_SECONDS:
                about = {"about": json.dumps(run.about()), "state": asdict(state), "seconds": spent + now - began}
                store.save(run.key, about)
                last = now
    except CODE_ERRORS as error:
        if not users_line(error):  # the fault is not in a user's own class
            raise
        raise users_fault(error, f"{training.label} has failed") from None
    assert state is not None  # the first one is yielded before any round
    seconds = spent + time.perf_counter() - began
    turns = max(1, int(state.turns.sum()))
    ended_well = not state.diverged
    majority = float(data.test_labels.bincount().max()) / len(data.test_labels)
    # A number that is rounded may fall below the other, so they are compared before.
    collapsed = ended_well and state.accuracy[-1] <= majority
    return {
        "key": run.key,
        "config": training.config(),
        "code_sha256": run.code_sha256,
        "data_sha256": run.data_sha256,
        "provenance": provenance(bench, bench.data(scenario.data)),
        "status": "collapsed" if collapsed else "done" if ended_well else "diverged",
        "round": state.round,
        "accuracy": brief(state.accuracy[-1]) if ended_well else None,
        "loss": finite(state.loss[-1]) if ended_well else None,
        "majority": brief(majority),
        "images_tested": len(data.test_labels),
        "validation": None
        if state.validation is None
        else dict(zip(("accuracy", "loss"), map(finite, state.validation), strict=True)),
        "clients_changed": brief(state.changed / max(1, state.defended)) if training.defense else None,
        "entries_changed": brief(state.entries_changed / max(1, state.entries)) if training.defense else None,
        **({"privacy": given} if (given := privacy_of(training, data, defense, state)) else {}),
        "curve": {
            "round": list(state.tested),
            "accuracy": [brief(value) for value in state.accuracy],
            "loss": [brief(value) for value in state.loss],
        },
        "cost": {
            "seconds": brief(seconds),
            "ms_per_round": brief(1000 * seconds / max(1, state.round)),
            "client_bytes": brief(state.bytes_sent / turns),
            "client_seconds": brief(state.client_seconds / turns),
        },
    }


def privacy_of(training: Training, data: Data, defense: Defense | None, state: State) -> dict[str, Any] | None:
    """The differential privacy of a training, where its defense gives any; an infinite epsilon is None."""
    if defense is None:
        return None
    found = privacy(data, training.scenario.federation, defense, training.seed, state)
    return found and found | {"epsilon": finite(found["epsilon"])}


def saved(checkpoint: dict[str, Any]) -> tuple[State, float]:
    """State and seconds of a run that was stopped."""
    return State(**checkpoint["state"]), float(checkpoint["seconds"])
