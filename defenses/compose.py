from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce

import torch
from torch import Tensor, nn

from defenses.base import Defense, KnownDefense, Update, as_shared, flattened, unchanged
from defenses.interval import per_client


class Compose(Defense):
    """Any defenses, one after another: each changes what the one before it shares.

    An attacker who knows them does the same to his own update. What follows a defense hides what that shared from him,
    so he does with his update what that does, and takes it for the identity in the backward pass where it has no slope
    (BPDA: Athalye et al. 2018, arXiv 1802.00420). He cannot draw the same random numbers, however:

    - Noise must come last, or before nothing but noise and defenses that remove entries.
    - A mask that is drawn at random must come before nothing that fills its zeros.

    Those that change the batch act before the others, wherever they stand, and one after another.

    Args:
        defenses: in the order in which they are applied, of the update or the batch; none is no defense.
    """

    def __init__(self, defenses: list[Defense]) -> None:
        self.defenses = list(defenses)
        if other := [one for one in self.defenses if one.hooks - {"on_batch", "protect"}]:
            raise ValueError(
                f"{type(other[0]).__name__} is no function of the update or the batch alone, and Compose takes no "
                "other: run it by itself"
            )
        self._parts = [part for part in map(Part.of, self.defenses) if not part.is_identity]
        for place, part in enumerate(self._parts):
            later = self._parts[place + 1 :]
            if part.is_noise and (after := [one for one in later if not (one.is_noise or one.removes)]):
                raise ValueError(
                    f"{part.name} before {after[0].name} cannot be simulated by an attacker, so that nobody could tell "
                    "what leaks: put the noise last"
                )
            if part.is_mask and (after := [one for one in later if not one.keeps_zeros]):
                raise ValueError(
                    f"what {part.name} draws cannot be read from what {after[0].name} makes of it, so that no attacker "
                    f"could simulate it: put {part.name} last"
                )

    @property
    def hooks(self) -> frozenset[str]:
        return frozenset({"protect"}).union(*(one.hooks for one in self.defenses))

    def check(self, names: Sequence[str]) -> None:
        for one in self.defenses:
            one.check(names)

    def check_clients(
        self, model: nn.Module, image_shape: tuple[int, int, int, int], local_steps: bool, train: bool
    ) -> None:
        for one in self.defenses:
            one.check_clients(model, image_shape, local_steps, train)

    def on_batch(self, images: Tensor, labels: Tensor, generators: Sequence[torch.Generator]) -> tuple[Tensor, Tensor]:
        for one in self.defenses:
            if "on_batch" in one.hooks:
                images, labels = one.on_batch(images, labels, generators)
        return images, labels

    def at_home(self, names: Sequence[str]) -> frozenset[str]:
        return frozenset().union(*(one.at_home(names) for one in self.defenses))

    def protect(self, update: Update, generators: Sequence[torch.Generator]) -> Update:
        """Each draws where the one before it has left off, so that a single one draws as if it were alone."""
        return reduce(lambda shared, one: one.protect(shared, generators), self.defenses, update)

    def bytes_sent(self, shared: Update) -> Tensor:
        """Those of the defense whose form takes fewest."""
        each = [super().bytes_sent(shared), *(one.bytes_sent(shared) for one in self.defenses)]
        return torch.stack(each).amin(0)

    def known_to_attacker(self) -> KnownDefense:
        each = [one.known_to_attacker() for one in self.defenses]
        undo = [one.undo for one, made in zip(each, self.defenses, strict=True) if "on_batch" in made.hooks]
        reasons = dict.fromkeys(one.no_adaptive_attack for one in each if one.no_adaptive_attack)

        def made_of(parts: list[Part]) -> KnownDefense:
            return replace(
                known_of_updates(parts),
                soft_labels=any(one.soft_labels for one in each),
                undo=undo[0] if len(undo) == 1 else None,
                no_adaptive_attack=", and ".join(reasons),
                of_clients=None,
            )

        parts = self._parts
        of_last = parts[-1].known.of_clients if parts else None
        if of_last is None:
            return made_of(parts)
        return replace(
            made_of(parts),
            of_clients=lambda model, shape: made_of([*parts[:-1], replace(parts[-1], known=of_last(model, shape))]),
        )


@dataclass(frozen=True)
class Part:
    """One of several defenses, and what it is like.

    Attributes:
        defense: itself.
        known: the attacker's model of it.
        changes: whether it changes an update that it is tried on.
        draws: whether it draws random numbers.
        keeps_zeros: whether it leaves zeros as they are.
        removes: whether it shares entries as they are, but for one factor, and others not at all.
    """

    defense: Defense
    known: KnownDefense
    changes: bool
    draws: bool
    keeps_zeros: bool
    removes: bool

    @classmethod
    def of(cls, defense: Defense) -> "Part":
        """Tries what it does to an update that has zeros, and to one that is twice as large.

        What acts elsewhere changes something, too: nobody who has no model of it can tell that it does not.
        """
        known, source = defense.known_to_attacker(), torch.Generator().manual_seed(1)
        shapes = {"0.weight": (8, 3, 3, 3), "0.bias": (8,), "1.weight": (8, 8), "1.bias": (8,), "2.weight": (8, 8)}
        values = {name: torch.randn(1, *shape, generator=source) for name, shape in shapes.items()}
        update = {name: value * (value.abs() > 0.2) for name, value in values.items()}
        before = source.get_state()
        try:
            shared = defense.protect(update, [source])
            draws = not torch.equal(source.get_state(), before)
            twice = defense.protect({name: 2 * value for name, value in update.items()}, [source.set_state(before)])
        except Exception:  # one that needs a layer of a name, say: it is tried for good in a rehearsal
            return cls(defense, known, changes=True, draws=False, keeps_zeros=False, removes=False)
        given, one, two = (torch.cat([of[name].flatten() for name in update]) for of in (update, shared, twice))
        factors = (torch.cat([one / given, two / given / 2])[torch.cat([one, two]) != 0]).unique()
        removes = known.kept is not None and len(factors) > 0 and bool((factors - factors[0]).abs().max() < 1e-5)
        changes = not torch.equal(one, given) or (bool(defense.hooks - {"protect"}) and not known.says_anything)
        return cls(defense, known, changes, draws, not one[given == 0].any(), removes)

    @property
    def name(self) -> str:
        return type(self.defense).__name__

    @property
    def is_noise(self) -> bool:
        """Whether attackers cannot repeat what it does: it draws, or they have nothing but a noise for it."""
        return self.known.noise_std != 0 and (self.draws or self.known.simulate is unchanged)

    @property
    def is_unmodeled(self) -> bool:
        return self.known.simulate is unchanged and not self.is_noise

    @property
    def is_identity(self) -> bool:
        return self.is_unmodeled and not self.changes

    @property
    def is_unknown(self) -> bool:
        """Whether attackers have no model of it, although it does something."""
        return self.is_unmodeled and self.changes

    @property
    def is_mask(self) -> bool:
        """Whether attackers read what it draws from what is shared."""
        return self.draws and not self.is_noise and not self.is_unmodeled

    def simulate_unseen(self, dummy: Update, observed: Update) -> Update:
        """What it makes of the attacker's own update, where others have changed what it shared of the client's.

        Args:
            dummy: ``[V, ...]``.
            observed: after all the defenses.
        """
        if self.draws:
            return self.known.simulate(dummy, observed)
        values = {name: value.detach() for name, value in dummy.items()}
        made = self.defense.protect(values, [torch.Generator() for _ in next(iter(values.values()))])
        sloping = self.known.simulate(dummy, made)  # as if that were observed
        simulated = {}
        for name, value in made.items():
            exact = per_client(flattened(sloping[name] == value).all(1), value)
            simulated[name] = torch.where(exact, sloping[name], value + (dummy[name] - values[name]))
        return simulated

    def scale(self, observed: Update) -> Tensor | float:
        """Factor ``[V]`` of the entries that it keeps."""
        if not self.removes:
            return 1.0
        ones = {name: torch.ones_like(value) for name, value in observed.items()}
        kept, made = self.known.kept_entries(observed), self.known.simulate(ones, observed)
        total = torch.stack([(made[name] * kept[name]).flatten(1).sum(1) for name in observed]).sum(0)
        return total / torch.stack([kept[name].flatten(1).sum(1) for name in observed]).sum(0).clamp(min=1)


def known_of_updates(parts: list[Part]) -> KnownDefense:
    """The attacker's model of what defenses do to updates, one after another."""
    if not parts or any(part.is_unknown for part in parts):
        return KnownDefense()
    if len(parts) == 1:
        return parts[0].known

    def adds_noise(part: Part) -> bool:
        """A rounding error that is modeled counts where it is of what was shared."""
        return part.is_noise or (part is parts[-1] and part.known.noise_std != 0)

    loud = [part for part in parts if adds_noise(part)]

    def simulate(dummy: Update, observed: Update) -> Update:
        for part in parts[:-1]:
            if not part.is_noise:  # of which others have left no more than its size
                dummy = part.simulate_unseen(dummy, observed)
        return parts[-1].known.simulate(dummy, observed)

    def noise(observed: Update) -> Tensor:
        """Independent noises add up; what removes entries may scale those that it keeps."""
        variance = torch.zeros_like(as_shared(observed))
        for part in parts:
            variance = variance * part.scale(observed) ** 2
            if adds_noise(part):
                variance = variance + part.known.noise(observed) ** 2
        return variance.sqrt()

    def weight(observed: Update) -> Tensor:
        """Against noise, what is matched has the size of that."""
        each = [as_shared(observed), *(part.known.weight(observed) for part in parts if not loud)]
        return torch.stack(each).prod(0)

    def kept(observed: Update) -> Update:
        each = [part.known.kept_entries(observed) for part in parts if part.known.kept is not None]
        return {name: torch.stack([one[name] for one in each]).prod(0) for name in observed}

    return KnownDefense(
        simulate=unchanged if all(part.known.simulate is unchanged for part in parts) else simulate,
        weight=weight,
        noise_std=noise if loud else 0.0,
        noise_law=loud[0].known.noise_law if len(loud) == 1 else "gaussian",
        kept=kept if any(part.known.kept is not None for part in parts) else None,
    )
