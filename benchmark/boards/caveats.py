"""What stands under a board: void cells, contradictions, what is missing, and what the numbers cannot show."""

from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any

from benchmark.boards.outcome import Names, Outcome, is_noisy, listed
from benchmark.boards.ranking import Standing, controls, leaks_more
from benchmark.metrics.leak import LEAKED_PSNR

SAME_LEVEL = 0.5
"""Two-sided level where two cells should be one and the same: two victims that differ the same way are enough. One may
differ by rounding."""


def caveats(
    board: Sequence[Outcome], standings: Sequence[Standing], names: Names, others: Sequence[Outcome] = ()
) -> list[str]:
    """All sentences under the table of one scenario.

    Args:
        board: the outcomes of the scenario, null baselines included.
        standings: of its defenses.
        names: of the board.
        others: outcomes of other scenarios.
    """
    return [
        *void_cells(standings, names),
        *not_converged(board, standings, names),
        *below_truth(board, names),
        *constant_objectives(board, names),
        *random_updates(board, names),
        *only_late_states(board, others),
        *contradictions(board, names),
        *no_adaptive_attack(board, names),
        *unused_knowledge(board, names),
        *without_rank(standings, names),
        *easy_victims(board),
        *stronger_attacks(board),
        *told_labels(board),
        *labels_without_images(standings, names),
        *ensembles(board),
        *several_versions(board),
    ]


def told_labels(board: Sequence[Outcome]) -> list[str]:
    """What the scores of labels are, where there are any, and that an attack on these alone finds no image."""
    sentences = []
    if any(
        outcome.config["batch_size"] > 1 and "labels" in one for outcome in board for one in outcome.victims.values()
    ):
        sentences.append(
            "Labels of a batch, in any order: share of all classes that were rightly said to be in it or not "
            "(existence), share of all classes whose number of images is right (counts), and share of the images that "
            "can be paired with a label that was found (instances); means over victims."
        )
    if of_labels := sorted({o.config["attack"]["class"] for o in board if not (o.seeks_images or o.is_baseline)}):
        sentences.append(f"Looking for labels and not for images, of which this says nothing: {listed(of_labels)}.")
    return sentences


def labels_without_images(standings: Sequence[Standing], names: Names) -> list[str]:
    """The defenses behind which the images of most victims were not found, and yet what their labels are."""
    hidden: list[str] = []
    unknown: list[str] = []
    for standing in standings:
        config = standing.outcomes[0].config
        if config["defense"] is None or knows_labels(config) or 2 * len(standing.worst) >= len(standing.indices):
            continue
        exact = frozenset().union(
            *({i for i, one in outcome.victims.items() if labels_exact(one)} for outcome in standing.outcomes)
        )
        if 10 * len(exact) >= 9 * len(standing.indices):
            told = f"{names.defense(config['defense'])} ({of_all(exact, standing.indices)})"
            (hidden if 2 * len(standing.may_leak) < len(standing.indices) else unknown).append(told)
    sentences = []
    if hidden:
        sentences.append(
            f"Labels leak where most images were not found: attacks find all labels with {listed(hidden)}."
        )
    if unknown:
        sentences.append(
            "Labels leak where it is not known of most victims that their images do not: attacks find all labels with "
            f"{listed(unknown)}."
        )
    return sentences


def labels_exact(victim: dict[str, Any]) -> bool:
    """Whether an attack told all labels of the batch of a victim."""
    if "labels" in victim:
        return bool(victim["labels"]["instances"] == 1)
    return all(victim["label_correct"])


def knows_labels(config: dict[str, Any]) -> bool:
    """Whether the attacker is granted the labels, or their counts, which of one image are its label."""
    counts = config.get("threat_model", "A") != "A"
    return config.get("labels") == "known" or (counts and config["batch_size"] == 1)


def ensembles(board: Sequence[Outcome]) -> list[str]:
    """Which attacks of an ensemble found something, and what its two rates are."""
    sentences = []
    found: dict[str, int] = defaultdict(int)
    names: set[str] = set()
    for outcome in board:
        for victim in outcome.victims.values():
            if "parts" in victim:
                names.add(outcome.config["attack"]["class"])
                if victim["leaked_any"]:
                    found[victim["part"]] += 1
    if names:
        parts = [f"{part} ({count})" for part, count in sorted(found.items(), key=lambda one: (-one[1], one[0]))]
        by = f" The victims leaked to {listed(parts, most=20)}." if parts else ""
        sentences.append(
            f"Of {listed(sorted(names))}, all scores are those of the worst case over its attacks, and the column "
            f'"returned" is what the attacker, who cannot know the worst case, would have chosen.{by}'
        )
    return sentences


def void_cells(standings: Sequence[Standing], names: Names) -> list[str]:
    """The void cells, by reason."""
    of_reason: dict[str, list[str]] = defaultdict(list)
    for standing in standings:
        for outcome, reason in zip(standing.outcomes, standing.void, strict=True):
            if reason:
                of_reason[reason].append(names.cell(outcome))
    return [f"Void: {reason} ({listed(cells)})." for reason, cells in of_reason.items()]


def not_converged(board: Sequence[Outcome], standings: Sequence[Standing], names: Names) -> list[str]:
    """The attacks that have failed to fit an update, and the victims of whom nothing is known for it, or as attacks are
    missing.

    Each victim that the column counts is in one of the sentences that begin with "Not converged".
    """

    cells = partial(cells_with, board, names)
    sentences = []
    if failed := cells(lambda outcome: outcome.unconverged - outcome.unexplained - outcome.noisy - outcome.near):
        sentences.append(
            f"Not converged: {failed}. There the attack ended at images that fit the update much worse than the "
            "private ones do, so that finding nothing does not mean that nothing leaks."
        )
    if near := cells(lambda outcome: outcome.near):
        sentences.append(
            f"Not converged, but near: {near}. There the attack ended at images that fit the update nearly, but not in "
            "every order of magnitude as the private ones do, or that are the private ones but for a contrast which "
            "the network does not see, so that finding nothing does not mean that nothing leaks."
        )
    if behind_noise := cells(lambda o: (o.unconverged - o.unexplained - o.near) & o.noisy):
        sentences.append(
            f"Not converged behind known noise: {behind_noise}. There the images that the attack ended at explain less "
            "of the update than the private ones do, as a whole or in some order of magnitude, so that finding nothing "
            "does not mean that nothing leaks."
        )
    if old := cells(lambda outcome: outcome.unrecorded):
        sentences.append(
            f"Not known whether it has converged: {old}. These records are of an older version, which did not keep how "
            "well the images that were found fit the update."
        )
    if mistaken := cells(lambda outcome: outcome.unexplained):
        sentences.append(
            "Not converged, for the attacker has a wrong model of what clients do, or none: "
            f"{mistaken}. There not even the private images fit the update, so that finding nothing does not mean "
            "that nothing leaks."
        )

    def unknown(victims_of: Callable[[Standing], frozenset[int]]) -> str:
        return listed(
            [
                f"{of_all(victims, one.indices)} with {names.defense(one.outcomes[0].config['defense'])}"
                for one in standings
                if (victims := victims_of(one))
            ]
        )

    if waiting := unknown(lambda one: one.waiting):
        sentences.append(
            "Not known to leak or not, since no attack that knows the defense was run on them, and none without that "
            f"knowledge found them: {waiting}."
        )

    def failing(one: Outcome) -> frozenset[int]:
        """Victims on whom an attack failed whose loss is not yet below that of the private batch."""
        return (one.unconverged | one.diverged) - one.below_truth

    def may_be_found(one: Standing) -> frozenset[int]:
        return frozenset().union(*map(failing, one.outcomes))

    if open_ones := unknown(lambda one: (one.unknown & may_be_found(one)) - one.unexplained - one.waiting):
        attacks = [one.config["attack"] for one in board if failing(one) - one.unexplained]
        sentences.append(
            "Not known to leak or not, since no attack found them and at least one did not converge: "
            f"{open_ones}.{more_to_try(attacks)}"
        )
    if lower := unknown(lambda one: (one.unknown & one.failed) - may_be_found(one) - one.unexplained - one.waiting):
        sentences.append(
            "Not known to leak or not, since no attack found them and none explains the update as the private images "
            f"do, although its loss is below theirs: {lower}. Another prior may find them."
        )
    if untold := unknown(lambda one: one.unknown - one.failed - one.waiting):
        sentences.append(
            "Not known to leak or not, since no attack found them and records of an older version do not tell whether "
            f"one converged: {untold}."
        )
    if unexplained := unknown(lambda one: one.unknown & one.unexplained):
        sentences.append(
            "Not known to leak or not, since no attack found them and none has a right model of the defense: "
            f"{unexplained}."
        )
    return sentences


def more_to_try(attacks: Sequence[Mapping[str, Any]]) -> str:
    """What attacks of these configurations leave to try, as a sentence about options that they have; empty for none."""
    stalling = [one for one in attacks if "restarts" in one and one.get("optimizer") != "adam"]
    budgets = dict.fromkeys(key for one in attacks for key in ("max_evaluations", "iterations") if key in one)
    ways = {
        "a line search (line_search: true)": any(not one.get("line_search") for one in stalling),
        "more starts (restarts)": stalling,
        "more starts (trials)": not stalling and any("trials" in one for one in attacks),
        f"a larger budget ({' and '.join(budgets)})": budgets,
    }
    *others, last = [way for way, is_left in ways.items() if is_left] or [""]
    said = f"{', '.join(others)} or {last}" if others else last
    return f" {said[0].upper()}{said[1:]} may find them." if said else ""


def cells_with(board: Sequence[Outcome], names: Names, victims_of: Callable[[Outcome], frozenset[int]]) -> str:
    """The cells that have such victims, each with how many; controls and those with most victims first."""
    some = [(outcome, victims) for outcome in board if (victims := victims_of(outcome))]
    some.sort(key=lambda one: (one[0].defended, -len(one[1])))
    return listed([f"{names.cell(outcome)} ({of_all(victims, outcome.indices)})" for outcome, victims in some])


def several_versions(board: Sequence[Outcome]) -> list[str]:
    """The attacks of which several versions are on a board."""
    of_attack: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for outcome in (one for one in board if one.seeks_images):
        for record in outcome.records:
            commit = record.get("provenance", {}).get("commit") or "unknown"
            version = record.get("attack_sha256") or commit  # older records tell the commit alone
            of_attack[outcome.config["attack"]["class"]][version].add(commit)
    return [
        f"Attacked by {len(versions)} versions of {attack} (commits "
        f"{listed(sorted(set().union(*versions.values())), most=12)}): an older one may find less, so that of two "
        "defenses the one that met a newer version can seem to leak more."
        for attack, versions in of_attack.items()
        if len(versions) > 1
    ]


def below_truth(board: Sequence[Outcome], names: Names) -> list[str]:
    """The attacks by whose loss other images are better than the private ones; that of an attacker who does not know a
    defense is wrong anyway."""
    knowing = [outcome for outcome in board if outcome.adaptive or not outcome.defended]
    cells = cells_with(knowing, names, lambda outcome: outcome.below_truth)
    if not cells:
        return []
    return [
        f"Loss below that of the private batch, and yet nothing leaked: {cells}. There the loss prefers other images "
        "that explain the update as well, so that what is found depends on what the attacker takes images to be: a "
        "larger budget would find no more, but another prior may."
    ]


def constant_objectives(board: Sequence[Outcome], names: Names) -> list[str]:
    """The attacks that had nothing to descend on."""
    cells = cells_with(board, names, lambda outcome: outcome.flat)
    if not cells:
        return []
    return [
        f"Objective constant at the start: {cells}. There the distance from the shared update does not depend on the "
        "images, as far as the attacker can tell, so that finding nothing does not mean that nothing leaks."
    ]


def random_updates(board: Sequence[Outcome], names: Names) -> list[str]:
    """The defenses that share another update of the same batch each time."""
    defenses = dict.fromkeys(names.defense(one.config["defense"]) for one in board if one.random_update)
    if not defenses:
        return []
    rounds = board[0].config.get("rounds", 1)
    seen = f"{rounds} rounds" if rounds > 1 else "one round"
    return [
        f"Update random for a fixed input: {listed([*defenses])}. Each client was seen in {seen}; from more updates of "
        "the same batch, over which the draws average out, more may leak."
    ]


def only_late_states(board: Sequence[Outcome], others: Sequence[Outcome]) -> list[str]:
    """That the network is trained, where the same one was attacked nowhere before its training."""

    def network(outcome: Outcome) -> tuple[Any, Any]:
        return outcome.config["data"], outcome.config["model"]

    attacked = [outcome for outcome in (*board, *others) if outcome.seeks_images]
    early = [network(outcome) for outcome in attacked if "state" not in outcome.config]
    if "state" not in board[0].config or network(board[0]) in early:
        return []
    return [
        "Only late states tested: the network is trained, and its updates can give away less than those of a network "
        "that is not. Attack the same scenario without state, too."
    ]


def without_rank(standings: Sequence[Standing], names: Names) -> list[str]:
    """The defenses without a rank: those of which nothing was shown, by reason, and the cells that are missing."""
    of_reason: dict[str, list[str]] = defaultdict(list)
    cells = []
    for standing in standings:
        defense = names.defense(standing.outcomes[0].config["defense"])
        if standing.unranked:
            of_reason[standing.unranked].append(defense)
        for attack, adaptive, there in standing.missing:
            so_far = f" ({there} victims so far)" if there else ""
            cells.append(f"{names.attack(attack.config['attack'], adaptive)} on {defense}{so_far}")
    sentences = [f"No rank for {listed(defenses)}: {reason}." for reason, defenses in of_reason.items()]
    if cells:
        sentences.append(
            "A defense is ranked once every attack of this board has been run on it with all victims; still missing: "
            f"{listed(cells)}."
        )
    return sentences


def contradictions(board: Sequence[Outcome], names: Names) -> list[str]:
    """What cannot be, or hardly, if attacks, defenses and networks are what they are said to be."""
    board = [outcome for outcome in board if outcome.seeks_images or outcome.is_baseline]
    control_of = controls(board)
    pairs: dict[tuple[str, str], dict[bool, Outcome]] = defaultdict(dict)
    for outcome in board:
        if outcome.defended:
            pairs[outcome.attack, outcome.defense][outcome.adaptive] = outcome
    sentences = []
    for (attack, _), pair in pairs.items():
        control, oblivious, adaptive = control_of.get(attack), pair.get(False), pair.get(True)
        identity = bool(control and oblivious and same(oblivious, control))
        if control:
            sentences += [beside_control(outcome, control, identity, names) for outcome in pair.values()]
        if oblivious and adaptive:
            sentences.append(less_than_twin(adaptive, oblivious, names))
    return [f"Contradiction: {sentence}." for sentence in sentences if sentence]


def unused_knowledge(board: Sequence[Outcome], names: Names) -> list[str]:
    """The attacks that find the same whether they know a defense or not, although it does change the update."""
    control_of = controls(board)
    oblivious = {(outcome.attack, outcome.defense): outcome for outcome in board if not outcome.adaptive}
    found = []
    for outcome in board:
        twin, control = oblivious.get((outcome.attack, outcome.defense)), control_of.get(outcome.attack)
        if (
            outcome.seeks_images
            and outcome.adaptive
            and twin
            and control
            and same(outcome, twin)
            and not same(twin, control)
            and not outcome.no_adaptive_attack
        ):
            found.append(names.cell(outcome))
    if not found:
        return []
    return [f"Knowing the defense made no difference, all results are those of the oblivious attack: {listed(found)}."]


def no_adaptive_attack(board: Sequence[Outcome], names: Names) -> list[str]:
    """The defenses to which nobody knows how to adapt an attack: what is not found is not protected."""
    of_reason: dict[str, dict[str, None]] = defaultdict(dict)
    for outcome in board:
        if outcome.no_adaptive_attack:
            of_reason[outcome.no_adaptive_attack][names.defense(outcome.config["defense"])] = None
    return [
        f"No adaptive attack on {listed([*defenses])}: {reason}. That nothing is found does not mean that nothing "
        "leaks."
        for reason, defenses in of_reason.items()
    ]


def beside_control(outcome: Outcome, control: Outcome, identity: bool, names: Names) -> str | None:
    """What is wrong with a defended cell beside its undefended control.

    Args:
        outcome: of the defended cell.
        control: of the same attack without the defense.
        identity: whether the defense leaves the update as it is, as far as the attack that does not know it can tell.
        names: of the board.
    """
    strict = identity or not control.leaked & outcome.indices
    more = leaks_more(outcome, control, SAME_LEVEL) if strict else leaks_more(outcome, control)
    less = identity and leaks_more(control, outcome, SAME_LEVEL)
    if not (more or less):
        return None
    rates = f"{names.cell(outcome)} leaks {rate(outcome)}, and without the defense {rate(control)}"
    if identity:
        return f"{rates}, although the defense does not change the update that this attack sees"
    return f"{rates}: a defense cannot add leakage, so the control is too weak"


def less_than_twin(adaptive: Outcome, oblivious: Outcome, names: Names) -> str | None:
    """What is wrong with an attack that knows the defense beside the same attack that does not."""
    if not leaks_more(oblivious, adaptive):
        return None
    return (
        f"{names.cell(adaptive)} leaks {rate(adaptive)}, and without knowledge of the defense {rate(oblivious)}: "
        "an attacker who knows more should not find less"
    )


def same(first: Outcome, second: Outcome) -> bool:
    """Whether two attacks found the same on the same victims, digit for digit; not where nothing was found at all."""
    measured = ("status", "evaluations", "loss", "mse", "psnr", "label_correct")
    return (
        first.indices == second.indices
        and first.diverged != first.indices
        and all(
            first.victims[index][name] == second.victims[index][name] for index in first.indices for name in measured
        )
    )


def rate(outcome: Outcome) -> str:
    """As in "7 of 8 victims"."""
    return of_all(outcome.leaked, outcome.indices)


def of_all(some: Collection[int], victims: Collection[int]) -> str:
    """As in "7 of 8 victims"."""
    return f"{len(some)} of {len(victims)} victims"


def easy_victims(board: Sequence[Outcome]) -> list[str]:
    """The victims whom a null baseline comes as near to as what counts as leaked, without any update."""
    victims: set[int] = set()
    easy: set[int] = set()
    for outcome in board:
        victims |= outcome.indices
        easy |= {
            index for index, victim in outcome.victims.items() if max(victim["null_psnr"], default=0) >= LEAKED_PSNR
        }
    if not easy:
        return []
    return [
        f"Null baselines, which do not look at the update, reach {LEAKED_PSNR:.0f} dB on {of_all(easy, victims)}. "
        "On these only a better reconstruction counts as leaked, so a low rate does not mean that the images "
        "stay private."
    ]


STRONG: tuple[tuple[str, Callable[[dict[str, Any]], bool]], ...] = (
    (
        "R-GAP or a start from it (on networks it can invert layer by layer)",
        lambda attack: attack["class"] == "RGAP" or attack.get("start") == "rgap",
    ),
    ("GaussNewton (on images of up to 10,000 pixels)", lambda attack: attack["class"] == "GaussNewton"),
    (
        "IDLG with priors (start=mean, total_variation above 0)",
        lambda attack: (
            attack["class"] == "IDLG" and attack.get("start") == "mean" and attack.get("total_variation", 0) > 0
        ),
    ),
)
"""Attacks on the gradient of a single image that find more than DLG and IDLG as published, and whether a configuration
is of them."""


def stronger_attacks(board: Sequence[Outcome]) -> list[str]:
    """The known stronger attacks that a board lacks: its numbers are then lower bounds.

    They take the gradient of a network in evaluation mode, and public data or R-GAP for a start.
    """
    attacks = [outcome.config["attack"] for outcome in board if outcome.seeks_images]
    config = board[0].config
    if attacks and ("protocol" in config or "mode" in config):
        return [
            "More may leak than this board shows: of the attacks here, none that solves equations takes such updates, "
            "and one that matches them can end at images that fit well and are others."
        ]
    if not attacks or any(attack["class"] == "AutoLeak" for attack in attacks):
        return []
    strong = STRONG if config["batch_size"] == 1 else ()
    lacking = [name for name, is_one in strong if not any(is_one(attack) for attack in attacks)]
    model = config["model"]
    if (model["class"], model.get("activation")) == ("MLP", "relu") and not any(
        attack["class"] == "Peeling" for attack in attacks
    ):
        lacking.append("Peeling (on networks whose first layer is linear, which give away whole batches)")
    noisy = any(is_noisy(victim) for outcome in board for victim in outcome.victims.values())
    if noisy and not any(attack["class"] == "Wiener" for attack in attacks):
        lacking.append("Wiener (behind noise that the attacker knows of, on images of up to 4,096 values)")
    if not lacking:
        return []
    return [f"More may leak than this board shows; stronger attacks that were not run: {listed(lacking)}."]
