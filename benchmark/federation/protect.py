"""What a client with a defense does: the hooks are called here alone, and what they return is checked.

A class of the user's own may return anything.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from attacks.network.gradients import trained_names
from benchmark.errors import CODE_ERRORS, UsageError, a_kind, users_fault, written
from benchmark.models.draw import drawing_from, drawn_weights
from benchmark.seeds import generators
from defenses.base import AS_USUAL, Clients, Defense, Steps, Update, steps_of

Network = TypeVar("Network", bound=nn.Module)

Told = Callable[[Update, Update], None]
"""Is told what a hook was given and what it returned, both ``[V, ...]``."""

ROUNDING = 1e-2
"""What the class probabilities of an image may be off from 1 in total: bfloat16 cannot do better."""


def untold(given: Update, returned: Update) -> None:
    """Does nothing."""


def protected(
    defense: Defense,
    update: Update,
    sources: Sequence[torch.Generator],
    label: str,
    clients: Clients | None = None,
) -> Update:
    """The shared update, of the form of the true one.

    Args:
        defense: what each client does with its update.
        update: of V clients, ``[V, ...]``.
        sources: V generators.
        label: of the defense, for people.
        clients: whose it is, for a defense that looks at them.

    Raises:
        UsageError: the hook raises, or returns something of another form.
    """
    if "on_update" in defense.hooks:
        assert clients is not None, f"{label} has to be given the clients"
        shared = called(defense, label, "on_update", update, clients, sources)
    else:
        shared = called(defense, label, "protect", update, sources)
    return like(update, shared, defense, label, update_hook(defense))


def update_hook(defense: Defense) -> str:
    """The hook that makes the shared update."""
    return "on_update" if "on_update" in defense.hooks else "protect"


def steps(
    defense: Defense | None, seed: int, clients: Sequence[int], again: str, label: str, told: Told = untold
) -> Steps:
    """What V clients do otherwise in each local step, checked.

    Args:
        defense: theirs, or None.
        seed: of what they draw.
        clients: their numbers.
        again: what tells this update of theirs from others.
        label: of the defense, for people.
        told: what each hook was given and has returned.
    """
    if defense is None:
        return AS_USUAL
    hooks = ("on_batch", "on_example_gradients", "on_forward")
    sources = {hook: generators(seed, clients, f"{hook}{again}") for hook in hooks}

    def batch(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        made = trained_on(defense, images, labels, sources["on_batch"], label)
        told({"images": images, "labels": labels}, dict(zip(("images", "labels"), made, strict=True)))
        return made

    def gradients(of_images: Update) -> Update:
        made = together(defense, of_images, sources["on_example_gradients"], label)
        told({name: value.mean(1) for name, value in of_images.items()}, made)
        return made

    def forward(model: nn.Module, images: int) -> Update:
        made = drawn(defense, model, images, sources["on_forward"], label)
        told({name: torch.zeros_like(value) for name, value in made.items()}, made)
        return made

    usual = steps_of(defense, ())
    return Steps(
        batch if usual.batch else None, gradients if usual.gradients else None, forward if usual.forward else None
    )


def network_of(defense: Defense | None, model: Network, image_shape: tuple[int, ...]) -> Network:
    """The network that clients with a defense train, see :meth:`defenses.base.Defense.on_model`.

    What it has of the given one it draws as that does, and what is new as the constructors of its layers do.

    Args:
        defense: theirs, or None.
        model: with a method ``draw``.
        image_shape: (C, H, W).

    Raises:
        UsageError: the hook raises, or returns what is no such network.
    """
    if defense is None or "on_model" not in defense.hooks:
        return model
    label, before = type(defense).__name__, trained_names(model)

    def make(seed: int) -> Any:
        try:
            with drawing_from(seed):
                return defense.on_model(model, (image_shape[0], image_shape[1], image_shape[2]))
        except ValueError as error:  # it does not fit
            raise UsageError(f"{label}: {error}") from error
        except CODE_ERRORS as error:
            raise users_fault(error, f"{label}: on_model fails", defense.on_model) from None

    made = make(0)
    if not isinstance(made, nn.Module):
        raise breach(defense, label, f"must return a network, not {a_kind(made)}", "on_model")
    if made is model or before != trained_names(model):
        raise breach(defense, label, "changes the network that it was given: return a copy", "on_model")
    if lost := [name for name in before if name not in trained_names(made)]:
        raise breach(defense, label, f"leaves out {lost[0]}: keep the names of the network's parameters", "on_model")

    def draw(generator: torch.Generator) -> Update:
        old = drawn_weights(model, generator)  # type: ignore[arg-type] # any module with a method draw will do
        fresh = make(int(torch.randint(2**62, (1,), generator=generator)))
        new = {name: value.detach() for name, value in fresh.named_parameters() if value.requires_grad}
        return new | old  # in the order of the network

    object.__setattr__(made, "draw", draw)
    return cast(Network, made)


def drawn(defense: Defense, model: nn.Module, images: int, sources: Sequence[torch.Generator], label: str) -> Update:
    """What the networks of V clients draw in a forward pass, see :meth:`defenses.base.Defense.on_forward`.

    Raises:
        UsageError: the hook raises, or returns something else.
    """
    made = called(defense, label, "on_forward", model, images, sources)
    own = {name: value for name, value in model.named_parameters() if not value.requires_grad}
    if not isinstance(made, dict) or not all(
        name in own and isinstance(value, Tensor) and value.dim() > own[name].dim() and len(value) == len(sources)
        for name, value in made.items()
    ):
        raise breach(defense, label, "must return a value of each client for frozen parameters, by name", "on_forward")
    return made


def trained_on(
    defense: Defense, images: Tensor, labels: Tensor, sources: Sequence[torch.Generator], label: str
) -> tuple[Tensor, Tensor]:
    """The batch that V clients train on, see :meth:`defenses.base.Defense.on_batch`.

    Raises:
        UsageError: the hook raises, or returns something that is no batch.
    """
    made = called(defense, label, "on_batch", images, labels, sources)
    if not isinstance(made, tuple) or len(made) != 2:
        raise breach(defense, label, f"must return images and labels, not {a_kind(made)}", "on_batch")
    given = {"images": images, "labels": labels}
    batch = like(given, dict(zip(given, made, strict=True)), defense, label, "on_batch")
    for name, value in batch.items():
        if not value.isfinite().all():
            raise breach(defense, label, f"returns {name} with NaN or infinity", "on_batch")
        if bool((value < 0).any()) or bool((value > 1 + ROUNDING).any()):
            raise breach(defense, label, f"returns {name} beyond [0, 1]: clamp or scale them", "on_batch")
    if bool(((batch["labels"].sum(-1) - 1).abs() > ROUNDING).any()):
        raise breach(defense, label, "returns labels that do not sum to 1: give class probabilities", "on_batch")
    return batch["images"], batch["labels"]


def together(defense: Defense, of_images: Update, sources: Sequence[torch.Generator], label: str) -> Update:
    """The gradient of a step, see :meth:`defenses.base.Defense.on_example_gradients`.

    Raises:
        UsageError: the hook raises, or returns something of another form.
    """
    made = called(defense, label, "on_example_gradients", of_images, sources)
    return like({n: value[:, 0] for n, value in of_images.items()}, made, defense, label, "on_example_gradients")


def of_one_image(
    defense: Defense, update: Update, sources: Sequence[torch.Generator], label: str, clients: Clients | None = None
) -> Update:
    """What V clients share of these gradients of one image each: by every hook but ``on_batch``.

    Args:
        defense: theirs.
        update: gradients, ``[V, ...]``.
        sources: V generators.
        label: of the defense, for people.
        clients: whose they are, for a defense that looks at them.

    Raises:
        UsageError: a hook raises, or returns something of another form.
    """
    if "on_example_gradients" in defense.hooks:
        update = together(defense, {name: value[:, None] for name, value in update.items()}, sources, label)
    return protected(defense, update, sources, label, clients)


def sent_bytes(defense: Defense, shared: Update) -> int:
    """Bytes that V clients send together, see :meth:`defenses.base.Defense.bytes_sent`.

    Raises:
        UsageError: it raises, or returns something else than a number for each client.
    """
    label, clients = type(defense).__name__, len(next(iter(shared.values())))
    sent = called(defense, label, "bytes_sent", shared)
    if not isinstance(sent, Tensor) or sent.shape != (clients,) or not sent.isfinite().all() or (sent < 0).any():
        must = f"must return the number of bytes of each client, [{clients}]"
        raise breach(defense, label, f"{must}, not {a_kind(sent)}", "bytes_sent")
    return int(sent.sum())


def check_can_defend(
    defense: Defense,
    label: str,
    model: nn.Module,
    image_shape: tuple[int, int, int, int],
    local_steps: bool,
    train: bool,
) -> None:
    """Asks a defense whether it can defend such clients, see :meth:`defenses.base.Defense.check_clients`.

    Raises:
        UsageError: it cannot, which is then caused by the ValueError that says so, or raises something else.
    """
    try:
        defense.check_clients(model, image_shape, local_steps, train)
    except ValueError as error:
        raise UsageError(f"{label}: {error}") from error
    except CODE_ERRORS as error:
        raise users_fault(error, f"{label}: check_clients fails", defense.check_clients) from None


def called(defense: Defense, label: str, hook: str, *given: Any) -> Any:
    """What a hook returns; UsageError where it raises."""
    function = getattr(defense, hook)
    try:
        return function(*given)
    except CODE_ERRORS as error:
        raise users_fault(error, f"{label}: {hook} fails", function) from None


def like(given: Update, returned: Any, defense: Defense, label: str, hook: str) -> Update:
    """What a hook has returned, without a graph; UsageError where it has not the form of what it was given."""
    what_it_is = "the update" if hook != "on_batch" else "the batch"
    if not isinstance(returned, dict):
        raise breach(defense, label, f"must return {what_it_is} as a dict, not {a_kind(returned)}", hook)
    if set(returned) != set(given):
        missing, extra = sorted(set(given) - set(returned)), sorted(map(str, set(returned) - set(given)))
        what = f"leaves out {missing[0]} (share zeros instead)" if missing else f"adds {extra[0]}"
        raise breach(defense, label, f"{what}: it must return the names that it was given", hook)
    for name, value in given.items():
        own = returned[name]
        if not isinstance(own, Tensor):
            raise breach(defense, label, f"returns {a_kind(own)} for {name}, not a tensor", hook)
        for what, want, got in (("shape", list(value.shape), list(own.shape)), ("type", value.dtype, own.dtype)):
            if want != got:
                raise breach(defense, label, f"returns the {what} {got} for {name}, not {want}", hook)
        if own.device != value.device:
            raise breach(defense, label, f"returns {name} on {own.device}, not on {value.device}", hook)
    return {name: returned[name].detach() for name in given}


def breach(defense: Defense, label: str, what: str, hook: str = "") -> UsageError:
    """The sentence that says how a hook, usually that of the update, breaks its contract, with its line."""
    hook = hook or update_hook(defense)
    return UsageError(f"{label}: {hook} {what}{written(getattr(type(defense), hook))}")
