"""The standing worst case: a fixed ensemble of attacks."""

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from itertools import compress

import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn
from torch.nn.functional import one_hot

from attacks.analytic_linear import AnalyticLinear
from attacks.base import Attack, Observation, Reconstruction
from attacks.bayes import Bayes
from attacks.choice import NOT_TRIED, criterion_of, most_probable
from attacks.dlg import DLG
from attacks.engine.contrast import FILLED, Unseen, unseen_by
from attacks.engine.inverter import Inverter
from attacks.engine.step import EAGER
from attacks.fedavg_inversion import FedAvgInversion
from attacks.gauss_newton import GaussNewton
from attacks.gradient_matching import GradientMatching
from attacks.gradinversion import GradInversion
from attacks.idlg import IDLG
from attacks.inverting_gradients import InvertingGradients
from attacks.learned_inversion import LearnedInversion
from attacks.peeling import Peeling
from attacks.plain_first import PlainFirst, is_simulated
from attacks.rgap import RGAP
from attacks.surrogate_model import SurrogateModel
from attacks.threat import ThreatModel
from attacks.update import Protocol
from attacks.wiener import Wiener

SMOOTH = 1e-5
"""Weight of the total variation from the mean image."""

STRONG = 0.1
"""Weight of the total variation beside the cosine distance where much of the gradient is lost: ten times the published
one."""

NEAR = 0.2
"""Weight of the cosine distance of the attacker's own gradient from what was shared, where a known defense has
simulated it: the middle of those that were tried."""

MERGED = ", merged"
"""Stands behind the name of an attack where images of one label were replaced by their mean in what it found."""

UNDONE = ", undone"
"""Stands behind the name of an attack where what a known defense does to batches was undone in what it found."""

LOCAL_STEPS_ONLY = {"FedAvgInversion"}
"""The attacks of the ensemble that are another one of it where clients take no local steps."""

BATCHES_ONLY = {"InvertingGradients with a strong prior", "InvertingGradients near what was shared"}
"""Those that one image hardly needs."""

SIMULATED_ONLY = {"IDLG from a plain match", "InvertingGradients near what was shared"}
"""Those that are another one where no known defense is simulated."""

Attempts = Generator[tuple[Observation, Reconstruction], list[bool], Reconstruction]
"""Yields the victims that an attack was tried on and what it found of them, is sent who is spared the others, and
returns what is found in the end."""


@dataclass(eq=False)
class AutoLeak(Attack):
    """Every attack here that takes the victims, the cheapest first, as AutoAttack does for robustness (Croce and Hein
    2020, arXiv 2003.01690): what a defense leaks to the strongest attacker is more than to any one attack.

    Closed forms come first, then matching from R-GAP's solution and from the public mean image with a prior, by the
    squared and the cosine distance, the most probable image given the known defense, by either of two priors, and
    Gauss-Newton; of one image whose known defense is simulated also matching what was shared as it is, before that is;
    of a batch also matching with a stronger prior, and nearer to what was shared than the known defense asks for; and
    after local steps on their way, with a prior and without one. Each has its own way to tell labels that are not
    granted. Of what they find, that is returned which is most probable given the update, by the prior of
    :class:`Wiener`, or of :class:`Bayes` where no covariance is granted; all of it is kept in ``candidates``, for
    a score of the worst case. Where a known defense mixes batches, mixtures are found, and what they were mixed of is
    one more candidate of each attack. So is the mean of the most probable images of a label that is there twice, and
    what was found over the full range, where a network that normalizes first does not see contrast. Closed forms take
    each round by itself, and train mode for evaluation mode where it makes no difference.

    The second tier is :class:`LearnedInversion`, for what a defense hides from all of these. It is trained on public
    images through the known defense, once for all victims, which takes minutes, and so is left out unless it is asked
    for. It takes victims who share one network.

    Args:
        max_evaluations: gradient evaluations for each victim of each attack that iterates, at least 1; below 800,
            Gauss-Newton makes fewer iterations than 8, too.
        at_once: victims under attack at the same time, at least 1; None for all of them.
        training_steps: of the second tier, at least 0; 0 leaves it out.
    """

    simulates = True
    needs_local_steps = False
    any_order = True

    max_evaluations: int = 1000
    at_once: int | None = None
    training_steps: int = 0

    def __post_init__(self) -> None:
        for name in ("max_evaluations", "at_once"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}, but must be at least 1")
        if self.training_steps < 0:
            raise ValueError(f"training_steps is {self.training_steps}, but must be at least 0")
        second = self.second_tier()
        self.public_images = second.public_images if second else 0

    def second_tier(self) -> LearnedInversion | None:
        """The attack that is trained for victims who did not leak to the others, smaller than its authors' so that a
        training takes minutes on a CPU; None where it is left out."""
        if not self.training_steps:
            return None
        return LearnedInversion(self.training_steps, public_images=10_000, hidden=500, learning_rate=1e-3)

    def parts(self) -> dict[str, Attack]:
        """The ensemble, by name."""
        budget, some, second = self.max_evaluations, self.at_once, self.second_tier()
        return {
            "AnalyticLinear": AnalyticLinear(),
            "Peeling": Peeling(),
            "RGAP": RGAP(),
            "IDLG from R-GAP": IDLG(budget, at_once=some, start="rgap"),
            "IDLG from the mean": IDLG(budget, at_once=some, start="mean", total_variation=SMOOTH),
            "IDLG from a plain match": PlainFirst(budget, at_once=some, total_variation=SMOOTH),
            "DLG": DLG(budget, at_once=some),
            "Bayes": Bayes(budget, at_once=some),
            "Wiener": Wiener(budget, at_once=some),
            "GaussNewton": GaussNewton(iterations=min(8, -(-budget // 100))),
            "InvertingGradients": InvertingGradients(budget, at_once=some),
            "InvertingGradients with a strong prior": InvertingGradients(budget, at_once=some, total_variation=STRONG),
            "InvertingGradients near what was shared": InvertingGradients(budget, at_once=some, nearness=NEAR),
            "GradInversion": GradInversion(budget, at_once=some),
            "FedAvgInversion": FedAvgInversion(budget, at_once=some),
            "SurrogateModel without a prior": SurrogateModel(budget, at_once=some, total_variation=0.0),
            "SurrogateModel": SurrogateModel(budget, at_once=some),
            **({"LearnedInversion": second} if second else {}),
        }

    def check(self, model: nn.Module, image_shape: tuple[int, int, int, int]) -> None:
        if not any(takes(part, model, image_shape) for part in self.parts().values()):
            InvertingGradients().check(model, image_shape)  # which takes more than any other, and says what it lacks

    def check_granted(self, protocol: Protocol, threat: ThreatModel, images: int = 1) -> None:
        if not any(can_do(part, protocol, threat, images) for part in self.parts().values()):
            InvertingGradients().check_granted(protocol, threat, images)

    def parts_for(
        self,
        model: nn.Module,
        image_shape: tuple[int, int, int, int],
        protocol: Protocol,
        threat: ThreatModel,
        shared: bool,
    ) -> dict[str, Attack]:
        """Those of the ensemble that take such victims and are more than another there, by name.

        Whether a known defense is simulated, which only what was observed tells, is left to :meth:`attempts`.

        Args:
            model: the architecture.
            image_shape: (N, C, H, W) of a victim's batch.
            protocol: what clients compute.
            threat: what the attacker is granted.
            shared: whether all victims share one network.
        """
        images, left_out = image_shape[0], set()
        if not protocol.local:
            left_out |= LOCAL_STEPS_ONLY
        if images == 1:
            left_out |= BATCHES_ONLY
        return {
            name: part
            for name, part in self.parts().items()
            if name not in left_out
            and takes(part, model, image_shape)
            and can_do(part, protocol, threat, images)
            and (shared or not part.one_network_only)
        }

    def reconstruct(
        self,
        observation: Observation,
        callbacks: Sequence[Callback] = (),
        inverter: Inverter | None = None,
        step: str = EAGER,
    ) -> Reconstruction:
        """Attacks all V victims with each attack.

        Args:
            observation: everything the attacker knows.
            callbacks: none, as the fits of an ensemble have nothing in common.
            inverter: of the second tier, trained before; None to train it when it is needed.
            step: how the attacks that match gradients take theirs, one of :data:`attacks.engine.step.STEPS`.
        """
        return carried_out(self.attempts(observation, inverter, step), lambda seen, found: [False] * seen.num_victims)

    def attempts(self, observation: Observation, inverter: Inverter | None = None, step: str = EAGER) -> Attempts:
        """The attacks one after the other: a benchmark that knows more than the attacker may spare victims the rest.

        Args:
            observation: everything the attacker knows.
            inverter: of the second tier, as in :meth:`reconstruct`.
            step: as in :meth:`reconstruct`.
        """
        self.check(observation.model, observation.image_shape)
        observation = as_evaluated(observation)
        parts = self.parts_for(
            observation.model,
            observation.image_shape,
            observation.protocol,
            observation.threat,
            observation.shared,
        )
        if not is_simulated(observation):
            parts = {name: part for name, part in parts.items() if name not in SIMULATED_ONLY}
        unseen = unseen_by(observation)
        candidates: dict[str, Reconstruction] = {}
        undone: dict[str, Reconstruction] = {}
        rows = list(range(observation.num_victims))
        for number, (name, part) in enumerate(parts.items()):
            part.told = self.telling(number / len(parts), (number + 1) / len(parts))
            seen = observation if len(rows) == observation.num_victims else observation.take(rows)
            spared: set[int] = set()
            of_rows = [unseen[row] for row in rows]
            for what, found in with_contrast(found_by(name, part, seen, inverter, step), of_rows).items():
                candidates[what] = spread(found, rows, observation)
                spared.update(compress(rows, (yield seen, found)))
                if private := undone_of(seen, found):
                    undone[f"{what}{UNDONE}"] = spread(private, rows, observation)
                    spared.update(compress(rows, (yield seen, private)))
            rows = [row for row in rows if row not in spared]
            if not rows:
                break
        best = most_probable(observation, candidates)
        return as_undone(best, undone) if undone else best

    def loss_at(self, observation: Observation, images: Tensor, labels: Tensor) -> Tensor | None:
        return criterion_of(observation).loss_at(observation, images, labels)


def carried_out(attempts: Attempts, spares: Callable[[Observation, Reconstruction], list[bool]]) -> Reconstruction:
    """What is found in the end where that says of victims, and of what an attack has found of them, who is spared."""
    try:
        seen, found = next(attempts)
        while True:
            seen, found = attempts.send(spares(seen, found))
    except StopIteration as end:
        result: Reconstruction = end.value
        return result


def takes(attack: Attack, model: nn.Module, image_shape: tuple[int, int, int, int]) -> bool:
    """Whether an attack takes batches of that shape by that network."""
    try:
        attack.check(model, image_shape)
    except ValueError:
        return False
    return True


def can_do(attack: Attack, protocol: Protocol, threat: ThreatModel, images: int) -> bool:
    """Whether an attack can do with what it is granted of batches of that many images."""
    try:
        attack.check_granted(protocol, threat, images)
    except ValueError:
        return False
    return True


def not_tried(observation: Observation) -> Reconstruction:
    """What is known of V victims before any attack: the public mean image."""
    victims, device = observation.num_victims, observation.device
    return Reconstruction(
        images=observation.mean_image.expand(victims, *observation.image_shape).clone(),
        labels=torch.zeros(victims, observation.image_shape[0], dtype=torch.long, device=device),
        loss=torch.full((victims,), torch.inf, device=device),
        evaluations=torch.zeros(victims, dtype=torch.long),
        status=[NOT_TRIED] * victims,
    )


def spread(found: Reconstruction, rows: list[int], observation: Observation) -> Reconstruction:
    """What was found of the victims in these rows, among all V."""
    of_all = not_tried(observation)
    for name in ("images", "labels", "loss", "evaluations"):
        values = getattr(of_all, name)
        values[rows] = getattr(found, name).to(values)
    for row, status in zip(rows, found.status, strict=True):
        of_all.status[row] = status
    if found.label_probabilities is not None:
        soft = torch.zeros(*of_all.labels.shape, observation.num_classes, device=observation.device)
        soft = soft.to(found.label_probabilities)
        soft[rows] = found.label_probabilities
        of_all = replace(of_all, label_probabilities=soft)
    if found.certified is None:
        return of_all
    certified = torch.zeros(of_all.labels.shape, dtype=torch.bool, device=observation.device)
    certified[rows] = found.certified.to(certified)
    return replace(of_all, certified=certified)


def found_by(
    name: str, part: Attack, seen: Observation, inverter: Inverter | None, step: str
) -> dict[str, Reconstruction]:
    """What an attack of the ensemble finds of victims, by name, and what can be made of it alone.

    A closed form takes one update, and so each round by itself. Of images of one label that are found behind noise,
    their mean can be nearer to each of them.

    Args:
        name: of the attack.
        part: the attack.
        seen: what is known of the victims.
        inverter: of the second tier.
        step: of an attack that matches gradients.
    """
    if isinstance(part, LearnedInversion):
        return {name: part.reconstruct(seen, inverter=inverter)}
    if not isinstance(part, GradientMatching):
        rounds = enumerate((seen, *seen.later), 1)
        return {
            name if number == 1 else f"{name}, round {number}": part.reconstruct(replace(one, later=()))
            for number, one in rounds
        }
    found = part.reconstruct(seen, step=step)
    merged = merged_of(found) if isinstance(part, Bayes) else None
    return {name: found, **({f"{name}{MERGED}": merged} if merged else {})}


def with_contrast(found: dict[str, Reconstruction], unseen: Sequence[Unseen | None]) -> dict[str, Reconstruction]:
    """What was found of V victims, by name, each behind the same over the full range for those whose network does not
    see contrast."""
    if not any(unseen):
        return found
    both: dict[str, Reconstruction] = {}
    for name, one in found.items():
        images = [
            kind.filled(images[None])[0] if kind else images for kind, images in zip(unseen, one.images, strict=True)
        ]
        status = [own if kind else NOT_TRIED for kind, own in zip(unseen, one.status, strict=True)]
        filled = replace(one, images=torch.stack(images), status=status, certified=None)
        both |= {f"{name}{FILLED}": replace(filled, evaluations=torch.zeros_like(one.evaluations)), name: one}
    return both


def merged_of(found: Reconstruction) -> Reconstruction | None:
    """The same with the mean of all images of a label in place of each of them; None where no label is there twice."""
    same = (found.labels[:, :, None] == found.labels[:, None]).to(found.images)
    if bool((same.sum(2) == 1).all()):
        return None
    images = torch.einsum("vnm,vmchw->vnchw", same / same.sum(2, keepdim=True), found.images.clamp(0, 1))
    return replace(found, images=images, evaluations=torch.zeros_like(found.evaluations))


def as_evaluated(seen: Observation) -> Observation:
    """The same in evaluation mode, where train mode makes no difference to the network: some attacks take no other."""
    if not seen.protocol.train:
        return seen
    drawn = torch.rand(seen.image_shape, generator=torch.Generator().manual_seed(0)).to(seen.mean_image)[None]
    labels = one_hot(torch.arange(len(drawn[0])) % seen.num_classes, seen.num_classes).to(drawn)[None]
    plain = replace(seen, protocol=replace(seen.protocol, train=False))
    made, other = (one.take([0]).update_of(drawn, labels) for one in (seen, plain))
    if not all(torch.equal(made[name], other[name]) for name in made):
        return seen
    return replace(plain, later=tuple(map(as_evaluated, seen.later)))


def undone_of(seen: Observation, found: Reconstruction) -> Reconstruction | None:
    """The private images that a known defense can have made what was found of; None where nobody can tell."""
    undo, mixed = seen.defense.undo if seen.defense else None, found.label_probabilities
    made = undo(found.images.clamp(0, 1), mixed.clone()) if undo and mixed is not None else None
    return replace(found, images=made[0], labels=made[1], label_probabilities=None) if made else None


def as_undone(found: Reconstruction, undone: dict[str, Reconstruction]) -> Reconstruction:
    """What was found, with the private images that the defense can have made it of, where some part told of them.

    Args:
        found: the most probable batches that clients trained on.
        undone: the private images of what each part has found.
    """
    images, labels = found.images.clone(), found.labels.clone()
    for row, part in enumerate(found.starts):
        if one := undone.get(f"{part}{UNDONE}"):
            images[row], labels[row] = one.images[row], one.labels[row]
    candidates = found.candidates | undone
    mixed = replace(found, candidates={})
    return replace(found, images=images, labels=labels, label_probabilities=None, mixed=mixed, candidates=candidates)
