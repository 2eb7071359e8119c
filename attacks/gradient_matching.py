"""The recipe that DLG and its successors share: images whose gradient is the observed update."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn

from attacks.base import Attack, Observation, Reconstruction
from attacks.engine.batch_adam import BatchAdam
from attacks.engine.batch_lbfgs import BatchLBFGS
from attacks.engine.consistency import GroupConsistency
from attacks.engine.distances import DISTANCES
from attacks.engine.label_rules import LABEL_RULES, as_logits, blended, check_rule, label_logits
from attacks.engine.ledger import Ledger
from attacks.engine.objective import Objective
from attacks.engine.priors import AgainstNoise, NaturalImage, Prior, cosine_variance
from attacks.engine.problem import MatchingProblem
from attacks.engine.row_optimizer import RowOptimizer
from attacks.engine.starts import RANDOM, STARTS, Standardization, Starts
from attacks.engine.statistics import normalizing
from attacks.engine.trials import best_of, repeated
from attacks.rgap import RGAP, recursive_solution
from attacks.threat import ThreatModel
from attacks.update import Protocol

LEARNING_RATES = {"lbfgs": 1.0, "adam": 0.1}
"""Of each optimizer where none is given; that of L-BFGS is the published one."""


@dataclass(eq=False)
class GradientMatching(Attack):
    """Finds the images whose gradient is the observed update, V victims at once.

    This is the recipe alone: a :class:`MatchingProblem` is made of it for each call, and holds the victims.

    Args:
        max_evaluations: gradient evaluations for each victim, at least 1; published are 300 steps of 20.
        tolerance: stop when the matching loss is below this, as published; at least 0. Where a known defense makes what
            is matched smaller than a gradient, it is smaller in proportion, and nowhere more than a hundred thousandth
            of the loss at a start that owes nothing to the update.
        at_once: victims under attack at the same time, at least 1; None for all of them.
        history_size: pairs that L-BFGS keeps, at least 1.
        start: "noise", as published; "tiles" or "color", a random tile in all places or a random color; "constant",
            "mean" or "class_mean", the null baselines, about which the images of a batch are a little apart; or "rgap",
            the solution of R-GAP (one image per victim), and noise for those victims that do not converge from there.
        total_variation: weight of the total variation of the images, at least 0, as published; above 0 a pixel outside
            [0, 1] costs too, and the loss does not fall to the tolerance. For an attacker who has lost a part of the
            gradient: natural images are smooth, which stands in for the equations that are missing.
        restarts: how often a victim that has stalled or diverged starts again from new noise, or a new pattern where it
            started from one, within its budget, at least 0, as published.
        prior_scale: against known noise, scale of the Laplace prior on the differences of neighboring pixels, above 0,
            in parts of what the attack has for it: their mean size in public images, the maximum-likelihood estimate,
            times ``prior_unit``. The larger, the less the prior smooths.
        patience: evaluations after which a victim has stalled whose lowest loss has not fallen by a thousandth
            meanwhile, at least 1; None, as published, for no such rule.
        line_search: whether L-BFGS searches for the length of each step by the strong Wolfe conditions; as published it
            is 1. Where the loss rises steeply or is flat far from the images, a step of 1 leads away for good.
        optimizer: "lbfgs", as published, or "adam", which never stalls.
        batch_norm: weight of the squared distance of mean and variance of the batch at each BatchNorm from those the
            threat model grants: of the batch itself, or the running ones (Yin et al. 2021, arXiv 2104.07586).
        learning_rate: of the optimizer, above 0; None for 1 with L-BFGS, as published, and 0.1 with Adam.
        distance: of updates: "squared", as published; "cosine" (Geiping et al. 2020, arXiv 2003.14053); "kernel",
            Gaussian kernels of the differences of layers (Wang et al. 2020, arXiv 2009.06228); or "absolute", the sum
            of absolute differences (Balunovic et al. 2022, arXiv 2111.04706).
        trials: starts of each victim from noise or patterns, at least 1, which are attacked side by side; the one with
            the lowest loss is what the attack returns.
        labels: how labels are told that are not granted: by a rule ("idlg", "bias", "gradinversion", "llg", "rlg" or
            "ilrg", see ``attacks/engine/label_rules.py``), "joint" with the images by the optimizer, or "known", which
            the threat model must grant; None for the attack's own way.
    """

    problem_class: ClassVar[type[MatchingProblem]] = MatchingProblem
    simulates: ClassVar[bool] = True
    terms: ClassVar[tuple[str, ...]] = ("total_variation", "batch_norm")
    """Weights of what the loss holds beside the distance of updates: above 0, it is not 0 at the private images."""
    prior_unit: ClassVar[float] = 1.0
    """The size of differences of neighboring pixels at ``prior_scale`` 1, in parts of their mean in public images."""

    max_evaluations: int = 6000
    tolerance: float = 1e-6
    at_once: int | None = None
    history_size: int = 100
    start: str = "noise"
    total_variation: float = 0.0
    restarts: int = 0
    prior_scale: float = 1.0
    patience: int | None = None
    line_search: bool = False
    optimizer: str = "lbfgs"
    learning_rate: float | None = None
    batch_norm: float = 0.0
    distance: str = "squared"
    trials: int = 1
    labels: str | None = None

    def __post_init__(self) -> None:
        for name, least in (
            ("patience", 1),
            ("max_evaluations", 1),
            ("at_once", 1),
            ("history_size", 1),
            ("restarts", 0),
            ("trials", 1),
        ):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"{name} is {value}, but must be at least {least}")
        for name, valid in (
            ("start", (*STARTS, "rgap")),
            ("optimizer", (*LEARNING_RATES,)),
            ("distance", (*DISTANCES,)),
            ("labels", (None, *LABEL_RULES, "joint")),
        ):
            if getattr(self, name) not in valid:
                names = ", ".join(filter(None, valid))
                raise ValueError(f"{name} is {getattr(self, name)!r}, but must be one of {names}")
        for name in ("tolerance", *self.terms):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} is {getattr(self, name)}, but must be 0 or greater")
        for name, scale in (("prior_scale", self.prior_scale), ("learning_rate", self.learning_rate)):
            if scale is not None and not 0 < scale < math.inf:
                raise ValueError(f"{name} is {scale}, but must be above 0 and finite")
        if self.trials > 1 and self.start not in RANDOM:
            raise ValueError(f"trials are starts from noise or patterns: leave them out where start is {self.start}")
        if self.line_search and self.optimizer != "lbfgs":
            raise ValueError(f"line_search is for lbfgs: leave it out where optimizer is {self.optimizer}")

    def start_labels(self, observation: Observation, generators: Sequence[torch.Generator]) -> tuple[Tensor, bool]:
        """Logits ``[V, N, K]`` of labels that are not granted at the start, and whether the attack optimizes them.

        Unless the attack has a way of its own, by the rule "best": iDLG's for one image, and for a batch what explains
        the update best of what several rules tell.
        """
        return label_logits("best", observation, generators)

    def check(self, model: nn.Module, image_shape: tuple[int, int, int, int]) -> None:
        super().check(model, image_shape)
        if self.start == "rgap":
            RGAP().check(model, image_shape)
        if self.batch_norm and not any(normalizing(model)):
            raise ValueError(
                "batch_norm is for a network with BatchNorm that has running statistics: give batch_norm 0"
            )
        if self.labels is not None:
            check_rule(self.labels, model, image_shape)

    def check_granted(self, protocol: Protocol, threat: ThreatModel, images: int = 1) -> None:
        super().check_granted(protocol, threat, images)
        if self.start == "rgap":
            RGAP().check_granted(protocol, threat, images)
        if self.labels == "known" and threat.labels == "hidden":
            raise ValueError("labels known needs the labels, which the threat model hides: give labels known or counts")
        if self.batch_norm and threat.statistics == "hidden":
            raise ValueError(
                "batch_norm needs statistics, which the threat model hides: give statistics shared or public"
            )
        if self.start in ("mean", "class_mean") and not threat.public_data:
            raise ValueError(f"start {self.start} needs public data, which the threat model does not grant: give noise")

    def reconstruct(
        self,
        observation: Observation,
        callbacks: Sequence[Callback] = (),
        start_images: Tensor | None = None,
        **trainer: Any,
    ) -> Reconstruction:
        """Attacks all V victims.

        Args:
            observation: everything the attacker knows.
            callbacks: Lightning callbacks, whose module is the :class:`MatchingProblem`.
            start_images: where the first attempts start, ``[V, N, C, H, W]``, in place of ``start`` and its trials.
            trainer: arguments of Lightning's Trainer, as in ``logger=CSVLogger("logs"), profiler="simple"``, and
                ``step``, see :meth:`MatchingProblem.solve`.
        """
        self.check(observation.model, observation.image_shape)
        if self.trials == 1 or start_images is not None:
            return self.problem(observation, start_images).solve(callbacks, **trainer)
        found = self.problem(repeated(observation, self.trials)).solve(callbacks, **trainer)
        return best_of(found, self.trials)

    def loss_at(self, observation: Observation, images: Tensor, labels: Tensor) -> Tensor | None:
        """With all priors but what holds trials together; None where the order of local steps is not known."""
        if not observation.order_tells:
            return None
        start = "noise" if self.start == "rgap" else self.start
        objective = replace(self, at_once=None, trials=1, start=start).problem(observation).objective
        like = next(iter(observation.update.values()))
        labels = labels.to(like.device)
        logits = labels.log() if labels.is_floating_point() else as_logits(labels, observation.num_classes)
        return objective.measure(images.to(like), logits.to(like), objective.held).detach()

    def problem(self, observation: Observation, start_images: Tensor | None = None) -> MatchingProblem:
        """What there is to solve for these victims."""
        starts, group = self.starts(observation), self.group(observation) if start_images is None else None
        first = starts.first
        if start_images is not None:
            first["images"] = start_images.to(first["images"])
        objective = Objective(
            observation,
            first["label_logits"],
            tolerance=self.tolerance,
            owes_nothing=start_images is None and self.start != "rgap",
            prior=self.prior(observation),
            noise_prior=self.noise_prior(observation),
            batch_norm=self.batch_norm,
            distance=self.distance_of(observation),
            prior_weights=self.prior_weights(observation),
            label_term=self.label_term(),
            group=group,
            nearness=self.nearness_term(),
        )
        rows = self.at_once and self.at_once * self.trials
        ledger = Ledger(starts, self.max_evaluations, self.patience, rows, group.trials if group else 1)
        optimizer = partial(self.optimizer_of, observation)
        made = self.problem_class(objective, ledger, optimizer, starts.optimize_labels)
        made.told = self.told
        return made

    def label_term(self) -> float:
        """Weight of the squared distance of the network's class probabilities from the labels; 0, as there is none."""
        return 0.0

    def nearness_term(self) -> float:
        """Weight of the distance of the attacker's own update from what was shared; 0, as there is none."""
        return 0.0

    def group(self, observation: Observation) -> GroupConsistency | None:
        """What holds the trials of a victim together; None, as each goes alone."""
        return None

    def prior(self, observation: Observation) -> Prior:
        """What images cost by themselves."""
        return NaturalImage(self.total_variation)

    def noise_prior(self, observation: Observation) -> tuple[Prior, Tensor] | None:
        """What images cost beside it for each unit of a variance, and that of each victim's noise ``[V]``.

        None where no noise is known that the distance must be weighed against. Squared distances and cosines alone have
        a variance; see :func:`cosine_variance`.
        """
        known = observation.defense
        noise = known.noise(observation.update) if known and self.distance in ("squared", "cosine") else 0.0
        if not isinstance(noise, Tensor):
            if not noise:
                return None
            noise = next(iter(observation.update.values())).new_full((observation.num_victims,), noise)
        against = AgainstNoise(self.total_variation > 0, self.prior_unit * self.prior_scale * observation.mean_step)
        variance = noise.square()
        return against, cosine_variance(observation.update, variance) if self.distance == "cosine" else variance

    def distance_of(self, observation: Observation) -> str:
        """The distance of updates that is right for these victims: the one that was asked for."""
        return self.distance

    def prior_weights(self, observation: Observation) -> Tensor | None:
        """Weights ``[V]`` of the victims' priors beside the distances; None for the size of what is matched."""
        return None

    def standardization(self, observation: Observation) -> Standardization | None:
        """That of the pixels which start from noise; None for pixels as they are, as published for DLG."""
        return None

    def starts(self, observation: Observation) -> Starts:
        """Where each attempt starts."""
        by_rgap = self.start == "rgap"
        again = self.start if self.start in RANDOM else "noise"
        names = ["noise" if by_rgap else self.start, *[again] * self.restarts]
        starts = Starts(observation, names, self.label_logits, self.standardization(observation))
        if by_rgap:
            every = range(observation.num_victims)
            turns = range(0, len(every), self.at_once or len(every))
            solved = [recursive_solution(observation.take(every[t : t + turns.step])) for t in turns]
            images, labels = (torch.cat(parts) for parts in zip(*solved, strict=True))
            logits, own = labels.nan_to_num(0).clamp(min=1e-12).log().unsqueeze(1), starts.first["label_logits"]
            logits = torch.where(own.isneginf().any(-1, keepdim=True), own, logits)  # of a rule, which do not move
            start = starts.first | {"images": images.clamp(0, 1).nan_to_num(0.5).unsqueeze(1)}
            starts.begin_with("rgap", start | {"label_logits": logits} if starts.optimize_labels else start)
        return starts

    def told_labels(self, observation: Observation, generators: Sequence[torch.Generator]) -> tuple[Tensor, bool]:
        """As :meth:`start_labels`, with granted labels where there are any, else those of the rule asked for."""
        if observation.labels is not None:
            return as_logits(observation.labels, observation.num_classes), False
        if self.labels is not None:
            return label_logits(self.labels, observation, generators)
        return self.start_labels(observation, generators)

    def label_logits(self, observation: Observation, generators: Sequence[torch.Generator]) -> tuple[Tensor, bool]:
        """Where the labels start, as :meth:`told_labels`, and whether they are optimized.

        Where clients are known to train on mixed labels, these are, from :func:`blended` ones.
        """
        logits, are_optimized = self.told_labels(observation, generators)
        if observation.defense and observation.defense.soft_labels:
            return blended(logits), True
        return logits, are_optimized

    def optimizer_of(self, observation: Observation, params: Iterable[Tensor]) -> RowOptimizer:
        """The optimizer of the dummy images and labels, a row for each victim."""
        rate = self.learning_rate or LEARNING_RATES[self.optimizer]
        if self.optimizer == "adam":
            return BatchAdam(params, rate)
        return BatchLBFGS(params, rate, self.history_size, line_search=self.line_search)
