"""Rules that tell the labels of a whole batch by its update: each a pure function of an observation.

Where an image has features h and the softmax p, row k of the last layer's gradient is the batch's mean of
(p_k - 1[k = label]) h, and the gradient of its bias the mean of p_k - 1[k = label]. Every rule reads these two, of
several rounds their mean.

A rule tells how many images each class has. What it says is scored as it is; the labels that an attack goes on with are
made of it, N of them, sorted: an update does not tell the order of a batch. A rule that tells classes and not how many
images each has names what it found as evenly as it can.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from attacks.base import Observation
from attacks.engine.labels import idlg_labels
from attacks.engine.last_layer import (
    gradient_of_bias,
    gradient_of_weight,
    last_layer,
    last_rows,
    lost_heads,
    off_columns,
    parameters_of,
)
from attacks.engine.mixture import Mixture, odds, unordered
from attacks.network.gradients import trained_names

LARGEST_RATIO = 1e10
"""Of a feature that a row over its bias gives, as in the authors' code of iLRG; beyond it is division by nearly 0."""

SAME_DIRECTION = 1e-6
"""Squared distance, in parts of a vector's own square, at which it is a sum of others but for rounding."""

OFF = 2.0
"""By how many times the most that a column is off an entry must be below 0 to be so for sure."""

LIKELY = 32
"""Labels of one image that are compared at most: a gradient for each."""

FITTED = 1.5
"""By what factor of :func:`odds` labels that are fitted to the class means must be better than those of other
rules, which say something of the very images."""


class Told(NamedTuple):
    """What a rule tells of V batches.

    Attributes:
        counts: how many images of each class there are as far as the rule says, ``[V, K]``; they need not sum to N.
        labels: made of that, N of them, ``[V, N]``, sorted.
    """

    counts: Tensor
    labels: Tensor


def idlg(observation: Observation) -> Told:
    """Of one image the row with the lowest sum; of a batch the classes of rows with a negative sum.

    Zhao et al. 2020 (arXiv 2001.02610, section 3) for one image, which needs none of the rule's conditions, see
    :func:`idlg_labels`; extended to batches as in the comparisons of iLRG (Ma et al. 2023, table 1). It misses a class
    whose few images have a smaller part in its row than the softmax of all the others.
    """
    images = observation.image_shape[0]
    if images == 1:
        return exactly(idlg_labels(observation)[:, None], observation.num_classes)
    sums = gradient_of_weight(observation).sum(-1)
    return named(sums < 0, sums, images)


def gradinversion(observation: Observation) -> Told:
    """The classes of the rows with the lowest entries (Yin et al. 2021, arXiv 2104.07586, section 3.1).

    Features are not negative, so that only the part of an image of the class itself makes an entry of its row negative.
    Yin et al. take the N rows with the lowest minima, since all labels of a batch differ. Where fewer than N rows have
    a negative entry, which shows that labels repeat, these are all the classes (the extension of iLRG, Ma et al. 2023),
    and how many images each of them has is not told.
    """
    least = gradient_of_weight(observation).amin(-1)
    return named(least < 0, least, observation.image_shape[0])


def bias(observation: Observation) -> Told:
    """The classes of negative entries in the bias's gradient, then by size (breaching, rule "bias-corrected").

    LLG (Wainakh et al. 2022) on the bias, whose gradient has no features in it, so that these may have any sign. An
    image's part in its entry is taken for the mean of the negative ones, without LLG's factor.
    """
    rows = gradient_of_bias(observation)
    return exactly(counted(rows, observation.image_shape[0], 1.0), rows.shape[1])


def llg(observation: Observation) -> Told:
    """The classes of rows with a negative sum, then one image after another by size.

    LLG (Wainakh et al. 2022, PoPETs 2022(2), algorithm 1, arXiv 2105.09369): of an image, its own row is lower by the
    impact m = (1 + 1/K) / N times the sum of all negative rows. Each class with a negative row has an image at least;
    each further image is of the class whose row, less m for each image that it has, is the lowest.
    """
    rows = gradient_of_weight(observation).sum(-1)
    return exactly(counted(rows, observation.image_shape[0], 1 + 1 / rows.shape[1]), rows.shape[1])


def rlg(observation: Observation) -> Told:
    """The classes whose directions a hyperplane parts from all others (Dang et al. 2021, arXiv 2111.00556, section 3).

    The gradient of a weight is a product of features and of the slopes p - 1[label], whose row space its singular
    vectors span. A class can be in the batch only if some vector of that space is negative there and nowhere else: a
    linear program for each class. How many images each has is not told.
    """
    gradient, images = gradient_of_weight(observation), observation.image_shape[0]
    found = torch.stack([separable(of_one, images) for of_one in gradient.double().cpu()]).to(gradient.device)
    return named(found, gradient.sum(-1), images)


def ilrg(observation: Observation) -> Told:
    """As many images of each class as explain the bias's gradient (Ma et al. 2023, ICLR, section 3).

    Row k over its bias's entry is taken for the mean features of the images of class k, and the network's softmax at
    these for their mean softmax P_k. The numbers n then solve sum_k n_k = N and sum_k n_k P_k - n = N * gradient of the
    bias, by least squares. Each is rounded for itself, as in the experiments of Ma et al., and one above N is none; the
    labels are of the nearest whole numbers that sum to N.

    Where a class has as many images as the softmax expects, its bias's entry is nearly 0, and so its features and P_k
    are rounding: then its own number is far off and the others hardly, but the step to a sum of N spreads the error.
    """
    solve, slope = _equations(observation)
    images = observation.image_shape[0]
    solved = solve(torch.full_like(slope[:, :1], images), images * slope)
    rounded = solved.nan_to_num(0).clamp(min=0).round()
    return Told(torch.where(rounded > images, 0, rounded).long(), apportioned(solved, images))


def ilrg_direction(observation: Observation) -> Told:
    """As :func:`ilrg` where nothing is known of the update's size, as behind clipping or after hidden local steps.

    The numbers of iLRG are n = a + c b for an unknown c > 0, where a solves the equations for a gradient of 0 and b
    those for the gradient that was shared, with a sum of 0. The class whose number depends most on c has a whole number
    of images. Of the N + 1 values of c at which it has, it is the one at which all numbers are nearest to whole ones
    that are not negative.
    """
    solve, slope = _equations(observation)
    images, nothing = observation.image_shape[0], torch.zeros_like(slope)
    sizes = slope.abs().amax(1, keepdim=True)
    still = solve(torch.full_like(slope[:, :1], images), nothing)
    moved = solve(nothing[:, :1], slope / torch.where(sizes == 0, 1.0, sizes))
    telling = moved.abs().argmax(1, keepdim=True)
    whole = torch.arange(images + 1).to(slope)
    factors = (whole - still.gather(1, telling)) / moved.gather(1, telling)  # [V, N + 1]
    numbers = still[:, None] + factors[..., None] * moved[:, None]  # [V, N + 1, K]
    off = (numbers - numbers.clamp(min=0).round()).square().sum(-1)
    nearest = torch.where((factors > 0) & off.isfinite(), off, torch.inf).argmin(1)
    solved = numbers[torch.arange(len(numbers), device=slope.device), nearest]
    return exactly(apportioned(solved, images), slope.shape[1])


def _equations(observation: Observation) -> tuple[Callable[[Tensor, Tensor], Tensor], Tensor]:
    """What solves iLRG's equations for a sum ``[V, 1]`` and slopes ``[V, K]``, and the slopes that were shared."""
    weight, slope = gradient_of_weight(observation).double(), gradient_of_bias(observation).double()
    own, of_bias = (value.double() for value in parameters_of(observation))
    ratio = weight / torch.where(slope == 0, torch.inf, slope)[..., None]
    inputs = ratio.clamp(-LARGEST_RATIO, LARGEST_RATIO)
    probabilities = (inputs @ own.mT + of_bias[:, None]).softmax(-1).nan_to_num(0)  # [V, K of the images, K]
    equations = probabilities.mT - torch.eye(slope.shape[1]).to(slope)
    inverse = torch.linalg.pinv(torch.cat([torch.ones_like(slope)[:, None], equations], 1))
    return lambda total, slopes: (inverse @ torch.cat([total, slopes], 1)[..., None])[..., 0], slope


def known(observation: Observation) -> Told:
    """The labels that the threat model grants."""
    if observation.labels is None:
        raise ValueError("labels known needs the labels, which the threat model hides: give labels known or counts")
    return exactly(observation.labels, observation.num_classes)


def separable(gradient: Tensor, images: int) -> Tensor:
    """For each class, whether a vector of the row space of a gradient ``[K, F]`` is negative there alone, ``[K]``.

    There is one unless the class's direction is a sum of those of others with factors that are not negative (Farkas).
    """
    vectors, sizes, _ = torch.linalg.svd(gradient, full_matrices=False)
    rounding = float(sizes[0]) * max(gradient.shape) * torch.finfo(torch.float32).eps
    directions = vectors[:, : min(images, int((sizes > rounding).sum()))]  # [K, rank]
    products = directions @ directions.T
    found = [
        distance_to_cone(products, own) > SAME_DIRECTION * float(products[own, own]) for own in range(len(vectors))
    ]
    return torch.tensor(found)


def distance_to_cone(products: Tensor, own: int) -> float:
    """Squared distance of a vector to the sums of others with factors that are not negative.

    The active-set method of Lawson & Hanson (1974, chapter 23), on scalar products of the vectors.

    Args:
        products: of each of K vectors with each, ``[K, K]``.
        own: the number of the vector.
    """
    wanted, classes = products[own], torch.arange(len(products))
    used = torch.zeros(len(products), dtype=torch.bool)
    factors = torch.zeros_like(wanted)
    rounding = torch.finfo(products.dtype).eps * len(products) * max(1.0, float(wanted[own]))
    for _ in range(3 * len(products)):
        slope = torch.where(used | (classes == own), -torch.inf, wanted - products @ factors)
        if float(slope.max()) <= rounding:
            break
        used[slope.argmax()] = True
        while True:
            best = torch.zeros_like(factors)
            best[used] = torch.linalg.lstsq(products[used][:, used], wanted[used]).solution
            below = used & (best <= 0)
            if not below.any():
                break
            way = (factors / (factors - best).clamp(min=torch.finfo(best.dtype).tiny))[below].min()
            factors = factors + way * (best - factors)
            used &= factors > rounding
            factors = torch.where(used, factors, 0.0)
        factors = best
    return float(wanted[own] - 2 * factors @ wanted + factors @ products @ factors)


def exactly(labels: Tensor, classes: int) -> Told:
    """What a rule tells that names just N labels ``[V, N]`` of K classes."""
    return Told(counts_of(labels, classes), labels)


def named(found: Tensor, scores: Tensor, images: int) -> Told:
    """What a rule tells that finds classes ``[V, K]``, each of which has an image at least; see :func:`spread`."""
    labels = spread(found, scores, images)
    return Told(torch.where(found, counts_of(labels, found.shape[1]).clamp(min=1), 0), labels)


def counts_of(labels: Tensor, classes: int) -> Tensor:
    """How many of the labels ``[V, N]`` are of each of K classes, ``[V, K]``."""
    return one_hot(labels, classes).sum(1)


def spread(found: Tensor, scores: Tensor, images: int) -> Tensor:
    """Labels ``[V, N]`` that name each class that was found, as often as each other.

    Args:
        found: ``[V, K]``; where nothing was found, it is the class with the lowest score.
        scores: ``[V, K]``; those with the lowest have one more, or are the only ones where more than N were found.
        images: N.
    """
    order = torch.where(found, scores - scores.amax(1, keepdim=True) - 1, scores - scores.amin(1, keepdim=True))
    turns = torch.arange(images, device=scores.device) % found.sum(1, keepdim=True).clamp(min=1)
    return order.argsort(1).gather(1, turns).sort(1).values


def counted(rows: Tensor, images: int, factor: float) -> Tensor:
    """Labels ``[V, N]``: each class with a negative number once, then again and again the one with the lowest.

    Args:
        rows: ``[V, K]``.
        images: N.
        factor: of the impact of an image, which is taken off for each, in parts of the mean of the negative numbers
            over the images.
    """
    rows = rows.clone()
    impact = factor * rows.clamp(max=0).sum(1) / images
    victims = torch.arange(len(rows), device=rows.device)
    once = rows < 0
    left, found = rows - impact[:, None] * once, []
    for _ in range(images):
        first = torch.where(once, rows, torch.inf).argmin(1)
        label = torch.where(once.any(1), first, left.argmin(1))
        left[victims, label] -= torch.where(once.any(1), 0.0, impact)
        once[victims, label] = False
        found.append(label)
    return torch.stack(found, 1).sort(1).values


def apportioned(numbers: Tensor, images: int) -> Tensor:
    """Labels ``[V, N]`` of which there are as many as whole numbers nearest to these ``[V, K]`` that sum to N."""
    wanted = numbers.nan_to_num(0).clamp(0, images)
    counts = wanted.round()
    victims = torch.arange(len(counts), device=counts.device)
    while bool((missing := images - counts.sum(1)).any()):
        step = missing.sign()
        off = torch.where(counts + step[:, None] < 0, -torch.inf, step[:, None] * (wanted - counts))
        counts[victims, off.argmax(1)] += step
    classes = torch.arange(counts.shape[1], device=counts.device)
    return torch.stack([classes.repeat_interleave(of_one.long()) for of_one in counts])


def mixture(observation: Observation) -> Told:
    """The numbers of images with which the class means explain the update best, see :class:`Mixture`.

    A rule of this project's own, which takes any network. Classes that are :func:`present` have an image at least.
    """
    return _mixed(observation, present(observation))


def _mixed(observation: Observation, there: Tensor) -> Told:
    """:func:`mixture`, where it is known which classes there are for sure, bool ``[V, K]``."""
    images = observation.image_shape[0]
    numbers = Mixture.of(observation).nearest(there, images)
    return exactly(apportioned(numbers, images), observation.num_classes)


def present(observation: Observation) -> Tensor:
    """Classes that have an image in the batch for sure, bool ``[V, K]``.

    An entry of the bias's gradient is negative only where there is an image of the class, and so is one of the weight's
    where features are not negative, see :func:`gradinversion`. That holds behind a defense that is known to leave signs
    as they are. Where none is known, there may be one: the columns of a gradient add up to 0, and how far they do not
    is how far off an entry is taken to be. More classes than there are images are none for sure.
    """
    found = last_layer(observation.model, observation.image_shape[1:])
    if found is None:
        return torch.zeros(
            observation.num_victims, observation.num_classes, dtype=torch.bool, device=observation.device
        )
    rows = last_rows(observation)
    if not found[1]:
        rows = rows[..., gradient_of_weight(observation).shape[2] :]
    off = (
        torch.where(leaves_signs(observation), 0.0, torch.inf)
        if observation.defense
        else OFF * off_columns(observation)
    )
    there = (rows < -off[:, None, None]).any(2)
    return there & (there.sum(1, keepdim=True) <= observation.image_shape[0])


def leaves_signs(observation: Observation) -> Tensor:
    """Whether a known defense makes no entry of the last layer negative that was not, bool ``[V]``.

    Seen on what the class means would share, with draws of the attacker's own.
    """
    known, victims, device = observation.defense, observation.num_victims, observation.device
    assert known is not None
    hooks = known.client.hooks if known.client else frozenset[str]()
    if hooks & {"on_example_gradients", "on_update"}:  # noise may be added where nothing is shared that could be tried
        return torch.zeros(victims, dtype=torch.bool, device=device)
    labels = torch.arange(observation.image_shape[0], device=device) % observation.num_classes
    images = observation.class_means[labels].expand(victims, *observation.image_shape)
    probabilities = one_hot(labels, observation.num_classes).to(images).expand(victims, -1, -1)
    true = unordered(observation).update_of(images, probabilities)
    draws = [torch.Generator().manual_seed(seed) for seed in observation.seeds]
    tried = known.share(true, draws) if known.share else known.simulate(true, observation.update)
    alone = (replace(observation, update=update, later=()) for update in (true, tried))
    before, after = (last_rows(one).flatten(1) for one in alone)
    noise = 0 if known.share else known.noise(observation.update)  # which is not simulated
    return ((after >= 0) | (before < 0)).all(1) & (torch.as_tensor(noise, device=device) == 0)


def best(observation: Observation) -> Told:
    """What explains each victim's update best of what other rules tell.

    What clients do to an update can break the equations of one rule and leave another right, and so can a batch of few
    classes. It is told by the public mean images of the classes, with the labels of each of :data:`BATCH_RULES` that
    the network allows, of one image those of iDLG's rule, see :func:`odds`. Those that are fitted to these images, or
    any other label of one image, must explain more by :data:`FITTED`. Labels that leave out a class which is
    :func:`present` come last, and where that tells all of them, no other is looked at. Of several rounds the rules are
    asked of all together, and of the first, whose equations hold exactly.
    """
    there, images = present(observation), observation.image_shape[0]
    sure = there.sum(1) == images
    if sure.any():
        rest = (~sure).nonzero().flatten().tolist()
        certain = there.int().topk(images, 1).indices.sort(1).values
        if rest:
            certain[rest] = best(observation.take(rest)).labels
        return exactly(certain, observation.num_classes)
    rules = [LABEL_RULES[name] for name in (BATCH_RULES if images > 1 else ("idlg",))]
    able = [rule for rule in rules if not rule.lacks(observation.model, observation.image_shape)]
    told = [rule.told(observation) for rule in able]
    if observation.later and images > 1:
        told += [rule.told(replace(observation, later=())) for rule in able]
    of_rules = len(told)
    told += [_mixed(observation, there)] if images > 1 else any_label(observation)
    explained = explained_by(observation, torch.stack([one.labels for one in told]))
    explained[of_rules:] /= FITTED
    lacking = torch.stack([(there & (counts_of(one.labels, there.shape[1]) == 0)).any(1) for one in told])
    chosen, victims = (
        torch.where(lacking, -1.0, explained).argmax(0),
        torch.arange(observation.num_victims),
    )
    counts, labels = zip(*told, strict=True)
    return Told(torch.stack(counts)[chosen.cpu(), victims], torch.stack(labels)[chosen.cpu(), victims])


def any_label(observation: Observation) -> list[Told]:
    """Each label that one image can have; of many classes those with the lowest rows in the last layer."""
    classes, device = observation.num_classes, observation.device
    likely = torch.arange(classes, device=device).expand(observation.num_victims, -1)
    if classes > LIKELY:
        if last_layer(observation.model, observation.image_shape[1:]) is None:
            return []
        likely = gradient_of_weight(observation).sum(-1).argsort(1)[:, :LIKELY]
    return [exactly(labels[:, None], classes) for labels in likely.unbind(1)]


def explained_by(observation: Observation, labels: Tensor) -> Tensor:
    """How much of the updates is explained by what each rule tells, ``[R, V]``, see :func:`odds`.

    Args:
        observation: what the attacker has of V victims.
        labels: that R rules tell, sorted, ``[R, V, N]``; what several tell is evaluated once, and they mostly agree.
    """
    first = (labels[:, None] == labels).all(-1).long().argmax(1)  # [R, V]: the first rule that tells the same
    found = torch.zeros(first.shape, dtype=torch.float64, device=labels.device)
    for rule, own in enumerate(labels):
        if victims := (first[rule] == rule).nonzero().flatten().tolist():
            some = observation if len(victims) == len(own) else observation.take(victims)
            found[rule, victims] = odds(some, own[victims])
    return found.gather(0, first)


@dataclass(frozen=True)
class LabelRule:
    """A rule, and what it cannot do without.

    Attributes:
        told: what it tells of an observation.
        linear: a last layer that is linear; a rule that needs none works on any network.
        biased: whose bias is trained and shared.
        non_negative: and into which nothing negative comes.
        unique: labels that all differ, to tell how many images each class has.
        batches: whether these conditions are for batches of several images alone.
    """

    told: Callable[[Observation], Told]
    linear: bool = True
    biased: bool = False
    non_negative: bool = False
    unique: bool = False
    batches: bool = False

    def labels(self, observation: Observation) -> Tensor:
        """The labels that it gives an attack, ``[V, N]``, sorted."""
        return self.told(observation).labels

    def lacks(self, model: nn.Module, image_shape: tuple[int, int, int, int]) -> str | None:
        """What the rule needs and a network has not; None where it has all.

        Args:
            model: the architecture.
            image_shape: (N, C, H, W).
        """
        if not self.linear or (self.batches and image_shape[0] == 1):
            return None
        found = last_layer(model, image_shape[1:])
        if found is None:
            return "a last layer that is linear and trained, with a row of weights for each class"
        name, non_negative = found
        if self.biased and f"{name}.bias" not in trained_names(model):
            return "a last layer with a trained bias"
        if self.non_negative and not non_negative:
            return "features before the last layer that are never negative, as after a ReLU or a sigmoid"
        return None

    def repeats(self, model: nn.Module, image_shape: tuple[int, int, int, int]) -> str | None:
        """Why labels repeat of which the rule needs each at most once; None where they need not, or may."""
        found = last_layer(model, image_shape[1:]) if self.unique else None
        classes = len(model.get_parameter(f"{found[0]}.weight")) if found else image_shape[0]
        if image_shape[0] <= classes:
            return None
        return f"labels that all differ, and {image_shape[0]} images of {classes} classes repeat some"


LABEL_RULES: dict[str, LabelRule] = {
    "idlg": LabelRule(idlg, non_negative=True, batches=True),
    "bias": LabelRule(bias, biased=True),
    "gradinversion": LabelRule(gradinversion, non_negative=True, unique=True),
    "llg": LabelRule(llg, non_negative=True),
    "rlg": LabelRule(rlg),
    "ilrg": LabelRule(ilrg, biased=True),
    "ilrg_direction": LabelRule(ilrg_direction, biased=True),
    "mixture": LabelRule(mixture, linear=False),
    "best": LabelRule(best, linear=False),
    "known": LabelRule(known, linear=False),
}
"""By the name that an attack's argument ``labels`` has; "joint" is none, but labels that are optimized."""

OWN_SHARE = 0.75
"""Of an image's own label in a mixture where it starts: the middle of what it can be."""

DOUBT = 0.01
"""Share of a label that is spread over all classes where it starts."""

BATCH_RULES = ("ilrg", "ilrg_direction", "llg", "bias", "gradinversion", "idlg")
"""Of which, or of "mixture", "best" takes one."""


def check_rule(name: str, model: nn.Module, image_shape: tuple[int, int, int, int], counts: bool = True) -> None:
    """Looks whether a rule can tell the labels of such victims.

    Args:
        name: of the rule, or "joint".
        model: the architecture.
        image_shape: (N, C, H, W).
        counts: whether it must tell how many images each class has, as one that is the argument ``labels`` of an
            attack, and not only which classes there are, as the ``rule`` that is asked alone.

    Raises:
        ValueError: it cannot; with one sentence that says which rules can.
    """

    def lacks(rule: LabelRule) -> str | None:
        return rule.lacks(model, image_shape) or (rule.repeats(model, image_shape) if counts else None)

    if name != "joint" and (lack := lacks(LABEL_RULES[name])):
        others = [other for other, rule in LABEL_RULES.items() if other != "known" and not lacks(rule)]
        argument, given = ("labels", [*others, "joint"]) if counts else ("rule", others)
        raise ValueError(f"{argument} {name} needs {lack}: give {', '.join(given)}")


def as_logits(labels: Tensor, classes: int) -> Tensor:
    """Logits ``[V, N, K]`` whose softmax is the one-hot labels ``[V, N]``."""
    return torch.where(one_hot(labels, classes) == 1, 0.0, -torch.inf)


def blended(logits: Tensor, own: float = OWN_SHARE, doubt: float = DOUBT) -> Tensor:
    """Logits ``[V, N, K]`` that labels of mixed images start from: those of a rule with a part of all in the batch.

    Mixing within a batch leaves the sum of its labels as it is, with random weights for each image on average; the
    rules tell that sum. Labels that start from noise stay as they are.

    Args:
        logits: of the rule, infinitely sure, or noise.
        own: share of an image's own label, in [0, 1].
        doubt: share that is spread over all classes: one that a rule does not see can have a part, too.
    """
    labels = logits.softmax(-1)
    mixed = own * labels + (1 - own) * labels.mean(1, keepdim=True)
    mixed = (1 - doubt) * mixed + doubt / labels.shape[-1]
    return torch.where(logits.isneginf().any(-1, keepdim=True), mixed.log(), logits)


def label_logits(rule: str, observation: Observation, generators: Sequence[torch.Generator]) -> tuple[Tensor, bool]:
    """Logits ``[V, N, K]`` of the labels at a start by a rule, and whether they are optimized, from noise: "joint".

    So are those of victims whose defense is known to keep the last layer back, whatever the rule. Where others have
    theirs from the rule, these are infinitely sure and so do not move.
    """
    shape = (observation.image_shape[0], observation.num_classes)
    if rule == "joint":
        return torch.stack([torch.randn(shape, generator=g) for g in generators]), True
    told = as_logits(LABEL_RULES[rule].labels(observation), observation.num_classes)
    lost = [False] if rule == "known" else lost_heads(observation).tolist()
    if not any(lost):
        return told, False
    drawn = (
        torch.randn(shape, generator=g).to(told) if gone else None for g, gone in zip(generators, lost, strict=True)
    )
    return torch.stack([own if noise is None else noise for own, noise in zip(told, drawn, strict=True)]), True
