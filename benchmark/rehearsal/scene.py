"""A run tried on two public images before any work: what a network, a defense or an attack of the user's must keep to.

A number that is wrong for a reason nobody sees is worse than none: an attack that works on another network than the
client's finds nothing, and that would read as protection. So for each network, defense and attack of a suite, with two
public images as victims: the client's update is that of a plain loop of autograd over the user's own module; at the
true images the matching loss is zero; the defense keeps its contract; and the attack makes one step. What fails is told
in one sentence that names the class, the cause and, where it is the user's own code, the line.
"""

from dataclasses import dataclass, field, replace
from functools import partial
from itertools import repeat

import torch
from torch import Tensor, nn

from attacks import Attack, Observation, Reconstruction
from attacks.gradient_matching import GradientMatching
from attacks.network.gradients import differentiable_twice, in_modes, squared_distance, trained_names
from attacks.network.memory import is_out_of_memory
from attacks.update import FedAvg
from benchmark.errors import UsageError, a_kind, users_code, written
from benchmark.federation.client import PublicData, known, observe
from benchmark.federation.protect import breach, check_can_defend, network_of
from benchmark.federation.setting import Setting
from benchmark.models.draw import Model, check_logits, drawn_weights
from benchmark.rehearsal.attackers_model import check_known
from benchmark.rehearsal.hooks import check_memory, check_protect
from benchmark.seeds import generators
from benchmark.suite.registry import Spec, build, build_model, classes, is_ours
from benchmark.suite.suite import Cell, Scenario
from datamodules import PrivateData
from defenses.base import Clients, Defense, Update, flattened, global_norm

VICTIMS = 2

SEED = 20100261
"""Of the networks of the rehearsal, the defense's randomness and the attack's starts."""

ELSEWHERE = SEED + 1
"""Of noise that is not the victims' images, which are noise too where there are too few public ones."""

SAME = {torch.float64: 1e-7, torch.float32: 1e-3}
"""Relative difference of two ways to one update that is rounding; of other types 3 %."""

SHORT = {
    **{"max_evaluations": 2, "iterations": 1, "max_equations": 16},
    **{"training_steps": 1, "public_images": 32, "pairs": 4, "hidden": 16},
}
"""The arguments of an attack that make it short."""


@dataclass
class Rehearsal:
    """What was tried, so that nothing is tried twice.

    Attributes:
        tried: scenarios, defenses and attacks by what decides how they work together.
    """

    tried: set[tuple[str, ...]] = field(default_factory=set)
    _scenes: dict[str, "Scene"] = field(default_factory=dict)

    def of(self, cell: Cell, model: Model, data: PrivateData, device: torch.device) -> None:
        """Tries a cell, as far as none like it was tried before.

        Cells that differ in a strength or a budget alone are alike: each argument by itself is checked by the class.
        But a user's defense is tried at each strength. To an attack of ours that does not know the defense, all
        defenses of ours are alike.

        Raises:
            UsageError: something does not hold; with one sentence.
        """
        scenario, attack, given = cell.scenario, cell.attack, cell.defense
        where = repr((scenario.data, scenario.model, scenario.batch_size, scenario.same_class, scenario.setting))
        if where not in self._scenes:
            self._scenes[where] = Scene.of(scenario, model, data, device)
        scene = self._scenes[where]
        if given:
            scene.check_can_defend(given)
        classes_of = ", ".join(one.name for one in (given, *given.inner)) if given else ""
        strength = (where, classes_of if given and is_ours("defense", given) else repr(given))
        if given and strength not in self.tried:
            scene.check_defense(build("defense", given), given)
            self.tried.add(strength)
        ours = attack.name in classes("attack") and (given is None or is_ours("defense", given))
        against = given if given and (cell.adaptive or not ours) else None
        together = where, attack.name, classes_of if against else "", str(cell.adaptive)
        if together not in self.tried:
            scene.check_attack(attack, build("defense", against) if against else None, cell.adaptive)
            self.tried.add(together)


@dataclass(frozen=True)
class Scene:
    """Two victims of a scenario with public images.

    Attributes:
        name: of the model, for people.
        model: in evaluation mode.
        images: ``[2, N, C, H, W]``.
        labels: ``[2, N]``.
        data: their data set.
        setting: what they compute.
    """

    name: str
    model: Model
    images: Tensor
    labels: Tensor
    data: PrivateData
    setting: Setting

    @classmethod
    def of(cls, scenario: Scenario, model: Model, data: PrivateData, device: torch.device) -> "Scene":
        """The scene, after its network was tried.

        Raises:
            UsageError: the network's update cannot be computed or attacked.
        """
        images, labels = public_victims(data, scenario.batch_size)
        scene = cls(scenario.model.name, model, images.to(device), labels.to(device), data, scenario.setting)
        scene.check_network()
        if scenario.model.name not in classes("model"):
            fresh = build_model(scenario.model, data)
            check_frozen(trained_names(fresh), model, scenario.model.name)
        return scene

    def check_network(self) -> None:
        """UsageError where the network cannot be attacked, or the client's update is not that of a plain loop."""
        name, forward = self.name, getattr(type(self.model), "forward", None)  # which a scripted class has not
        where = written(forward)
        if any(isinstance(part, torch.jit.ScriptModule) for part in self.model.modules()):
            raise UsageError(
                f"the model {name} is a scripted module (torch.jit), which no attack can take: give it as it was"
            )
        if not trained_names(self.model):
            raise UsageError(f"the model {name} trains no parameter: a client of it shares nothing{where}")
        for again in (drawn_weights(self.model, g) for g in generators(SEED, range(1), "network")):
            (once,) = (drawn_weights(self.model, g) for g in generators(SEED, range(1), "network"))
            if any(not torch.equal(value, again[key]) for key, value in once.items()):
                raise UsageError(
                    f"the model {name} draws other weights from the same generator: draw from the generator alone, or "
                    f"leave draw out for torch's own initialization{written(self.model.draw)}"
                )
        with users_code(f"the model {name} does not take the images of {type(self.data).__name__}", forward):
            logits = self.logits_twice()
        check_logits(self.model, f"the model {name}", logits[0], len(self.images[0]), self.data.num_classes)
        if not torch.equal(*logits):
            raise UsageError(
                f"the model {name} gives other logits each time it is called in mode {self.setting.mode}: in forward, "
                f"draw nothing at random and change nothing that the next call uses{where}"
            )
        with users_code(f"the gradient of the model {name} cannot be computed"):
            seen = self.observe(None, adaptive=False, everything=True)
            plain = self.plain_update(seen)
        for key in plain:
            if not close(seen.update[key], plain[key]):
                raise UsageError(
                    f"the update of {name} computed for several clients at once differs from a plain loop of autograd "
                    f"over it ({key}): it is not a function of its parameters and images alone{where}"
                )
        if not all(value.isfinite().all() for value in seen.update.values()):
            raise UsageError(f"the gradient of the model {name} is NaN or infinite at its initial weights{where}")
        if not bool((global_norm(seen.update) > 0).all()):
            too_small = "" if self.setting.local is None else ", or the learning_rate of the local steps is too small"
            raise UsageError(
                f"the gradient of the model {name} is zero{too_small}: nothing can leak, and nothing can be "
                f"shown{where}"
            )
        with users_code(f"the gradient of the model {name} cannot be differentiated in the images"):
            self.check_matching(seen, where)

    def logits_twice(self) -> list[Tensor]:
        """What the module itself makes of the first victim's images in each of two calls, in the clients' mode."""
        own = {key: value.detach().clone() for key, value in self.held()}
        made = []
        try:
            with torch.no_grad(), in_modes(self.model, repeat(self.setting.mode == "train")):
                for _ in range(2):
                    self.write(own)
                    made.append(self.model(self.images[0].to(next(self.model.parameters()))))
        finally:
            self.write(own)
        return made

    def plain_update(self, seen: Observation) -> Update:
        """What the victims share, by a loop over the module itself, hooks and all, with their weights in it.

        Local steps are those of torch.optim.SGD.
        """
        local = self.setting.local
        own = {key: value.detach().clone() for key, value in self.held()}
        rows: list[dict[str, Tensor]] = []
        try:
            for victim in range(VICTIMS):
                self.write(own | {key: value[victim] for key, value in seen.own_networks.items()})
                images = self.images[victim].to(next(self.model.parameters()))
                with in_modes(self.model, repeat(self.setting.mode == "train")):
                    if local is None:
                        rows.append(self.plain_gradient(images, self.labels[victim]))
                    else:
                        order = None if seen.order is None else seen.order[victim]
                        rows.append(self.plain_steps(images, self.labels[victim], local, order))
        finally:
            self.write(own)
        return {key: torch.stack([row[key] for row in rows]) for key in rows[0]}

    def plain_gradient(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """The gradient of one batch, by autograd over the module itself."""
        named = {key: value for key, value in self.model.named_parameters() if value.requires_grad}
        loss = nn.functional.cross_entropy(self.model(images), labels)
        found = torch.autograd.grad(loss, list(named.values()), materialize_grads=True, allow_unused=True)
        return dict(zip(named, found, strict=True))

    def plain_steps(self, images: Tensor, labels: Tensor, local: FedAvg, order: Tensor | None) -> dict[str, Tensor]:
        """What local steps on one client's images change, by torch's own optimizer over the module itself."""
        named = {key: value for key, value in self.model.named_parameters() if value.requires_grad}
        before = {key: value.detach().clone() for key, value in named.items()}
        optimizer = torch.optim.SGD(named.values(), local.learning_rate, local.momentum)
        for epoch in range(local.epochs):
            rows = torch.arange(len(images)) if order is None else order[epoch]
            for batch in rows.to(images.device).split(local.batch_size or len(images)):
                for key, slope in self.plain_gradient(images[batch], labels[batch]).items():
                    named[key].grad = slope
                optimizer.step()
        for value in named.values():
            value.grad = None
        return {key: before[key] - value.detach() for key, value in named.items()}

    @torch.no_grad()
    def write(self, weights: Update) -> None:
        """Gives the module these weights."""
        for key, value in self.held():
            if key in weights:
                value.copy_(weights[key])

    def held(self) -> list[tuple[str, Tensor]]:
        """The parameters and buffers of the module."""
        return [*self.model.named_parameters(), *self.model.named_buffers()]

    def check_matching(self, seen: Observation, where: str) -> None:
        """UsageError where the matching loss is not zero at the truth, or has no slope in the images elsewhere."""
        one_hot = nn.functional.one_hot(self.labels, self.data.num_classes).to(next(iter(seen.update.values())))
        like = one_hot.dtype
        dummy = seen.update_of(self.images.to(like), one_hot)
        size = global_norm(seen.update).square()
        if bool((squared_distance(dummy, seen.update) > SAME.get(like, 3e-2) ** 2 * size).any()):
            raise UsageError(f"the matching loss of the model {self.name} is not zero at the true images{where}")
        noise = torch.rand(self.images.shape, generator=torch.Generator().manual_seed(ELSEWHERE))
        images = noise.to(seen.device, like).requires_grad_()
        with differentiable_twice():
            elsewhere = seen.update_of(images, one_hot, create_graph=True)
            (slope,) = torch.autograd.grad(
                squared_distance(elsewhere, seen.update).sum(), images, materialize_grads=True, allow_unused=True
            )
        if bool((slope == 0).all()):
            raise UsageError(
                f"the matching loss of the model {self.name} has no slope in the images: compute forward with torch "
                f"alone, without detach or no_grad{where}"
            )
        if not slope.isfinite().all():
            raise UsageError(f"the matching loss of the model {self.name} has a slope that is NaN or infinite{where}")

    def observe(
        self,
        defense: Defense | None,
        adaptive: bool,
        victims: range = range(VICTIMS),
        everything: bool = False,
        public_images: int = 0,
    ) -> Observation:
        """What an attacker sees of the two victims, or of one; on demand also their local steps and their order."""
        rows = slice(victims.start, victims.stop)
        public = PublicData.of(self.data, self.setting.rounds, public_images)
        setting = self.setting
        if everything and setting.local:
            has_order = (setting.local.batch_size or len(self.images[0])) < len(self.images[0])
            if has_order or not setting.threat.local_steps:
                setting = replace(setting, order="known" if has_order else None, threat_model=None)
        return observe(
            self.model, self.images[rows], self.labels[rows], public, defense, adaptive, SEED, victims, setting
        )

    def clients(self, seen: Observation) -> Clients:
        """The victims of an observation, at work."""
        images = self.images.to(next(iter(seen.update.values())))
        labels = nn.functional.one_hot(self.labels, self.data.num_classes).to(images)
        return Clients(self.model, seen.parameters, images, labels)

    def check_can_defend(self, given: Spec) -> None:
        """UsageError where the defense says that it cannot defend such clients."""
        defense, local, shape = build("defense", given), self.setting.local, self.images.shape[1:]
        images = min(local.batch_size or shape[0], shape[0]) if local else shape[0]
        train = self.setting.mode == "train"
        if self.setting.state and "on_model" in defense.hooks:
            raise UsageError(
                f"{given.label} trains another network than the one that state trains before: leave out state for it"
            )
        check_can_defend(defense, given.label, self.model, (images, *shape[1:]), local is not None, train)

    def defended_by(self, defense: Defense) -> "Scene":
        """The scene with the network that clients with a defense train; UsageError where it changes the given one."""
        if "on_model" not in defense.hooks:
            return self
        before = self.observe(None, adaptive=False).update
        made = replace(self, model=network_of(defense, self.model, self.images.shape[2:]))
        after = self.observe(None, adaptive=False).update
        if any(name not in after or not torch.equal(value, after[name]) for name, value in before.items()):
            raise breach(
                defense, type(defense).__name__, "changes the network that it was given: return a copy", "on_model"
            )
        return made

    def check_defense(self, defense: Defense, given: Spec) -> None:
        """UsageError where the defense or the attacker's model of it breaks its contract."""
        label, scene = given.label, self.defended_by(defense)
        model = scene.model
        if scene is not self:
            scene.check_network()
        seen = scene.observe(None, adaptive=False)
        update, by = seen.update, scene.clients(seen)
        with in_modes(model, repeat(self.setting.mode == "train")):
            check_protect(defense, update, label, by)
            if not is_ours("defense", given):
                check_memory(partial(build, "defense", given), update, label, by)
            with users_code(f"the attacker's model of {label} cannot be used"):
                check_known(defense, known(defense, model, (1, *self.images.shape[2:])), update, label, by)

    def check_attack(self, attack: Spec, defense: Defense | None, adaptive: bool) -> None:
        """UsageError where one step of the attack fails, or what it returns is of another form."""
        made: Attack = build("attack", shortened(attack))
        sequence = made.sequence
        if not isinstance(sequence, int) or isinstance(sequence, bool) or sequence < 1:
            raise UsageError(
                f"sequence of the attack {attack.name} must be a whole number of at least 1, not {sequence!r}"
                f"{written(type(made))}"
            )
        of_fit = [name for name in ("training_step", "backward", "configure_optimizers") if hasattr(made, name)]
        if isinstance(made, GradientMatching) and of_fit:
            raise UsageError(
                f"the attack {attack.name} overrides {of_fit[0]}, which nobody calls there: give it to a subclass of "
                f"MatchingProblem, and that to problem_class{written(getattr(made, of_fit[0]))}"
            )
        repeats = -(-sequence // VICTIMS) if sequence > 1 else 1
        victims = list(range(VICTIMS)) * repeats
        victims = victims[: sequence if sequence > 1 else VICTIMS]
        seen = self.observe(defense, adaptive, public_images=made.public_images).take(victims)
        before = {key: value.clone() for key, value in seen.update.items()}
        against = f" against {type(defense).__name__}" if adaptive else ""
        with users_code(
            f"the attack {attack.name} has failed on the model {self.name}{against}", type(made).reconstruct
        ):
            try:
                found = made.reconstruct(seen, ())
            except (MemoryError, RuntimeError) as error:
                if is_out_of_memory(error):
                    return  # the run takes fewer victims at once, or says what to do
                raise
        where = written(type(made).reconstruct)
        check_found(found, seen, attack.name, where)
        if any(not torch.equal(value.nan_to_num(), before[key].nan_to_num()) for key, value in seen.update.items()):
            raise UsageError(
                f"the attack {attack.name} changes the update that it was given: work on a copy of it{where}"
            )
        own_loop = type(made).reconstruct is not GradientMatching.reconstruct
        if isinstance(made, GradientMatching) and defense is None and not own_loop:
            with users_code(f"the attack {attack.name} has failed on the model {self.name}", type(made).reconstruct):
                self.check_loss_at_truth(made, attack.name)

    def check_loss_at_truth(self, attack: GradientMatching, name: str) -> None:
        """UsageError where the attack, started at the true images, says that its loss there is not zero.

        For an attack that infers the label, which then is the true one; a loss that holds more than a distance, or soft
        labels that are still to be found, is not zero there.
        """
        seen = self.observe(None, adaptive=False, everything=True)
        optimizes_labels = attack.label_logits(seen, [torch.Generator() for _ in range(VICTIMS)])[1]
        if optimizes_labels or any(getattr(attack, name) for name in attack.terms):
            return
        start = self.images.to(next(iter(seen.update.values())))
        found = attack.reconstruct(seen, start_images=start)
        right = (found.labels == self.labels).all(1)
        size = global_norm(seen.update).square() if attack.distance == "squared" else 1
        limit = SAME.get(start.dtype, 3e-2) ** 2 * size
        if bool((right & ~(found.loss <= limit)).any()):
            raise UsageError(
                f"the attack {name} has a loss of {float(found.loss[right].max()):.3g} at the true images of the model "
                f"{self.name}, where it must be zero: it matches something else than the client's update"
                f"{written(type(attack))}"
            )


def check_takes(attack: Attack, model: nn.Module, image_shape: tuple[int, int, int, int], setting: Setting) -> None:
    """Looks whether an attack takes such victims and can do with what it is granted, before any work is done.

    Args:
        attack: of which this is asked.
        model: the architecture.
        image_shape: (N, C, H, W) of a victim's batch.
        setting: what the victims compute, and what the attacker is granted.

    Raises:
        ValueError: it cannot; with one sentence that says what to do.
    """
    attack.check(model, image_shape)
    attack.check_granted(setting.protocol, setting.threat, image_shape[0])
    if attack.one_network_only and not setting.shared:
        raise ValueError(f"{type(attack).__name__} takes victims who share one network: give shared true")


def check_frozen(fresh: list[str], used: nn.Module, name: str) -> None:
    """UsageError where a model that was called trains other parameters than it did when it was made.

    What its clients share would depend on whether the model was called in their process before.
    """
    if fresh != trained_names(used):
        changed = sorted(set(fresh) ^ set(trained_names(used)))
        raise UsageError(
            f"the model {name} changes requires_grad when it is called ({changed[0]}): freeze parameters in __init__"
            f"{written(type(used).forward)}"
        )


def public_victims(data: PrivateData, batch_size: int) -> tuple[Tensor, Tensor]:
    """Two victims of public images, or of noise where there are too few: ``[2, N, C, H, W]``, ``[2, N]``."""
    count = VICTIMS * batch_size
    split = data.train_split
    if len(split) >= count:
        images, labels = split.images(0, count), split.labels[:count]
    else:
        generator = torch.Generator().manual_seed(SEED)
        images = torch.rand((count, *data.image_shape), generator=generator)
        labels = torch.arange(count) % data.num_classes
    return images.view(VICTIMS, batch_size, *data.image_shape), labels.view(VICTIMS, batch_size).long()


def close(found: Tensor, wanted: Tensor) -> bool:
    """Whether two gradients ``[V, ...]`` are the same but for rounding, in each victim's norm; where one is not finite,
    whether the other is not either."""
    if not wanted.isfinite().all():
        return torch.equal(found.isfinite(), wanted.isfinite())
    off, size = flattened(found - wanted).norm(dim=1), flattened(wanted).norm(dim=1)
    least = torch.finfo(wanted.dtype).eps * 16
    return bool((off <= SAME.get(wanted.dtype, 3e-2) * size + least).all())


def shortened(attack: Spec) -> Spec:
    """The attack with budgets that make it one step; its other arguments decide what the step is."""
    short = {
        key: min(value, SHORT[key]) for key, value in attack.args.items() if key in SHORT and isinstance(value, int)
    }
    return replace(attack, args=attack.args | short)


def check_found(found: Reconstruction, seen: Observation, name: str, where: str) -> None:
    """UsageError where a reconstruction is not of the right form; ``where`` it is made."""
    if not isinstance(found, Reconstruction):
        raise UsageError(f"the attack {name} must return a Reconstruction, not {a_kind(found)}{where}")
    victims, shape = seen.num_victims, (seen.num_victims, *seen.image_shape)
    wanted = {"images": shape, "labels": shape[:2], "loss": (victims,), "evaluations": (victims,)}
    for key, size in wanted.items():
        value = getattr(found, key)
        if not isinstance(value, Tensor) or tuple(value.shape) != size:
            got = list(value.shape) if isinstance(value, Tensor) else a_kind(value)
            raise UsageError(
                f"{key} of what the attack {name} returns must have the shape {list(size)}, not {got}{where}"
            )
    certified = found.certified
    if certified is not None and (tuple(certified.shape) != shape[:2] or certified.dtype != torch.bool):
        raise UsageError(
            f"certified of what the attack {name} returns must be true or false for each image, {list(shape[:2])}, not "
            f"{certified.dtype} {list(certified.shape)}{where}"
        )
    counts, wanted_counts = found.label_counts, [victims, seen.num_classes]
    if counts is not None and (
        list(counts.shape) != wanted_counts or counts.is_floating_point() or bool((counts < 0).any())
    ):
        raise UsageError(
            f"label_counts of what the attack {name} returns must be whole numbers of images, {wanted_counts}, not "
            f"{counts.dtype} {list(counts.shape)}{where}"
        )
    if len(found.status) != victims or not all(isinstance(one, str) for one in found.status):
        raise UsageError(
            f"status of what the attack {name} returns must be one text for each of {victims} victims{where}"
        )
    if any(getattr(found, key).is_meta for key in wanted):
        raise UsageError(f"what the attack {name} returns holds no numbers: it is on the meta device{where}")
    if found.labels.is_floating_point() or bool(((found.labels < 0) | (found.labels >= seen.num_classes)).any()):
        raise UsageError(
            f"labels of what the attack {name} returns must be whole numbers from 0 to {seen.num_classes - 1}{where}"
        )
    if not found.images.is_floating_point():
        raise UsageError(f"images of what the attack {name} returns must be floats, not {found.images.dtype}{where}")
