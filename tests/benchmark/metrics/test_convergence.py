"""What it means that an attack has not converged, by attacks that fail in known ways."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from attacks import IDLG, Observation, Reconstruction
from benchmark.federation.client import PublicData, observe
from benchmark.metrics.convergence import BEYOND_TRUTH, EXACT, MISFIT, unconverged
from benchmark.metrics.misfit import misfits
from benchmark.models import LeNet
from defenses import Clipping, Defense, GaussianNoise, KnownDefense, Masking, Pruning, Update

SHAPE, CLASSES = (1, 8, 8), 4
CONTROL = {"defense": None, "adaptive": False, "attack": {"class": "IDLG", "tolerance": 1e-6, "total_variation": 0.0}}


def victims(count: int = 3, images: int = 1) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.rand((count, images, *SHAPE), generator=generator).double(), torch.arange(count * images).view(
        count, images
    ) % CLASSES


def seen(defense: Defense | None = None, adaptive: bool = False, images: int = 1) -> Observation:
    model = LeNet(SHAPE, CLASSES).double()
    means = torch.full((CLASSES, *SHAPE), 0.5)
    private, labels = victims(images=images)
    return observe(
        model,
        private,
        labels,
        PublicData(CLASSES, means[0], means, 0.1, torch.full((1,), 0.25)),
        defense,
        adaptive,
        0,
        range(len(private)),
    )


def returned(images: Tensor, labels: Tensor, **changed: object) -> Reconstruction:
    count = len(images)
    made = Reconstruction(
        images=images,
        labels=labels,
        loss=torch.full((count,), torch.inf),
        evaluations=torch.zeros(count, dtype=torch.long),
        status=["exhausted"] * count,
    )
    return replace(made, **changed)  # type: ignore[arg-type] # of any field


def judged(observation: Observation, found: Reconstruction, images: int = 1) -> list[bool]:
    """Of each victim, who leaks where an image is within 20 dB."""
    private, labels = victims(images=images)
    fit = misfits(observation, found, private, labels)
    off = (found.images.clamp(0, 1) - private).square().flatten(2).mean(2).min(1).values
    return [
        unconverged(
            {
                "leaked_any": bool(far < 0.01),
                "status": "exhausted",
                "misfit": float(one),
                "misfit_of_truth": float(true),
                "settled": bool(settled),
            },
            {"defense": None},
        )
        for one, true, settled, far in zip(fit.found, fit.true, fit.settled, off, strict=True)
    ]


def by_hand(observation: Observation, victim: int, image: Tensor, label: int) -> float:
    """The squared distance of the update of one image, by plain autograd."""
    model = LeNet(SHAPE, CLASSES).double()
    model.load_state_dict({name: value[victim] for name, value in observation.parameters.items()})
    loss = nn.functional.cross_entropy(model(image[None]), torch.tensor([label]))
    pairs = zip(torch.autograd.grad(loss, list(model.parameters())), model.named_parameters(), strict=True)
    return float(sum((mine - observation.update[name][victim]).square().sum() for mine, (name, _) in pairs))


def test_a_misfit_is_a_distance_of_updates_in_parts_of_that_of_the_mean_image() -> None:
    observation, (images, labels) = seen(), victims()
    fit = misfits(observation, returned(images + 0.1, labels), images, labels)
    for victim, label in enumerate(labels[:, 0].tolist()):
        mean = by_hand(observation, victim, torch.full(SHAPE, 0.5).double(), label)
        expected = by_hand(observation, victim, images[victim, 0] + 0.1, label) / mean
        assert float(fit.found[victim]) == pytest.approx(expected, rel=1e-9)
        assert float(fit.true[victim]) < 1e-20


@pytest.mark.parametrize("images", [1, 3])
def test_who_stays_at_the_start_has_not_converged(images: int) -> None:
    private, labels = victims(images=images)
    noise = torch.randn(private.shape, generator=torch.Generator().manual_seed(1)).double()
    assert judged(seen(images=images), returned(noise, labels), images) == [True] * 3
    assert judged(seen(images=images), returned(private, labels), images) == [False] * 3


@pytest.mark.parametrize("defense", [Masking(0.3), Pruning(0.3), Clipping(0.1)])
def test_a_failure_is_seen_through_a_defense_that_is_known(defense: Defense) -> None:
    (private, labels), observation = victims(), seen(defense, adaptive=True)
    assert judged(observation, returned(torch.rand_like(private), labels)) == [True] * 3
    assert judged(observation, returned(private, labels)) == [False] * 3


@pytest.mark.parametrize("defense", [GaussianNoise(0.5), Masking(0.5), Clipping(0.1), Pruning(0.95)])
def test_where_the_truth_does_not_fit_there_is_nothing_to_converge_to(defense: Defense) -> None:
    private, labels = victims()
    for found in (private, torch.full_like(private, 0.5), torch.rand_like(private)):
        assert not any(judged(seen(defense), returned(found, labels)))


KNOWN = [
    *[GaussianNoise(std) for std in (0.0, 0.01, 0.1, 1.0)],
    *[Masking(ratio) for ratio in (0.0, 0.1, 0.5, 0.99)],
    *[Pruning(ratio) for ratio in (0.0, 0.3, 0.95)],
    *[Clipping(norm) for norm in (0.01, 1.0, 100.0)],
]


class Mistaken(Defense):
    """A defense of whom the attacker has a wrong idea."""

    def __init__(self, of: Defense, simulate: Callable[[Update, Update], Update]) -> None:
        self.of, self.simulate = of, simulate

    def protect(self, update: Update, generators: Sequence[torch.Generator]) -> Update:
        return self.of.protect(update, generators)

    def known_to_attacker(self) -> KnownDefense:
        return KnownDefense(self.simulate)


@pytest.mark.parametrize("images", [1, 3])
@pytest.mark.parametrize("defense", KNOWN, ids=lambda one: str(vars(one)))
def test_a_right_model_explains_the_update(defense: Defense, images: int) -> None:
    private, labels = victims(images=images)
    for found in (private, torch.rand_like(private)):  # whatever the attack found
        fit = misfits(seen(defense, adaptive=True, images=images), returned(found, labels), private, labels)
        assert fit.explained.all()


@pytest.mark.parametrize(
    "simulate",
    [
        lambda dummy, _: {name: -value for name, value in dummy.items()},
        lambda dummy, _: {name: 1.7 * value for name, value in dummy.items()},
        lambda dummy, _: {name: value.flip(-1) for name, value in dummy.items()},
        lambda dummy, seen: {name: value * (seen[name] == 0) for name, value in dummy.items()},
    ],
    ids=["sign", "size", "order", "mask"],
)
@pytest.mark.parametrize("defense", [Masking(0.3), Pruning(0.3), Clipping(0.1)], ids=lambda one: type(one).__name__)
def test_a_wrong_model_does_not(defense: Defense, simulate: Callable[[Update, Update], Update]) -> None:
    private, labels = victims()
    observation = seen(Mistaken(defense, simulate), adaptive=True)
    assert not misfits(observation, returned(private, labels), private, labels).explained.any()


def test_a_real_attack_that_was_cut_short_has_not_converged_and_one_that_ended_has() -> None:
    observation = seen()
    short, whole = (IDLG(max_evaluations=count).reconstruct(observation) for count in (3, 400))
    assert judged(observation, short) == [True] * 3
    converged = [status == "converged" for status in whole.status]
    assert any(converged)
    assert not any(bad for bad, good in zip(judged(observation, whole), converged, strict=True) if good)


class Silent(Defense):
    """Shares nothing, and the attacker knows it."""

    def protect(self, update: Update, generators: Sequence[torch.Generator]) -> Update:
        return {name: torch.zeros_like(value) for name, value in update.items()}

    def known_to_attacker(self) -> KnownDefense:
        return KnownDefense(lambda dummy, _: {name: value * 0 for name, value in dummy.items()})


def test_where_nothing_is_shared_there_is_nothing_to_fit() -> None:
    private, labels = victims()
    observation = seen(Silent(), adaptive=True)
    fit = misfits(observation, returned(torch.rand_like(private), labels), private, labels)
    assert fit.found.tolist() == fit.true.tolist() == [0.0] * 3 and fit.explained.all()


def test_labels_that_an_attack_does_not_look_for_are_not_held_against_it() -> None:
    private, labels = victims()
    assert judged(seen(), returned(private, torch.full_like(labels, -1))) == [False] * 3
    soft = torch.nn.functional.one_hot(labels, CLASSES).double()
    wrong = (labels + 1) % CLASSES
    assert judged(seen(), returned(private, wrong, label_probabilities=soft)) == [False] * 3


def victim(**changed: object) -> dict[str, object]:
    return {"leaked_any": False, "status": "stalled", "loss": 1.0} | changed


def test_the_definition() -> None:
    def judge(**changed: object) -> bool:
        return unconverged(victim(**changed), CONTROL)

    assert judge(misfit=2 * MISFIT, misfit_of_truth=0.0)
    assert judge(misfit=None, misfit_of_truth=0.0), "an infinite misfit is a great one"
    assert not judge(misfit=EXACT / 2, misfit_of_truth=0.0)
    assert judge(misfit=2 * EXACT, misfit_of_truth=0.0), "without a defense the true image fits better"
    assert not judge(misfit=2 * MISFIT, misfit_of_truth=2 * MISFIT / BEYOND_TRUTH)
    nearly = victim(misfit=MISFIT / 2, misfit_of_truth=0.0)
    for defended in (CONTROL | {"defense": {"class": "Masking"}, "adaptive": knows} for knows in (False, True)):
        assert unconverged(nearly, defended), "a defense can make an update ill-conditioned, too"
    assert judge(misfit=0.0, misfit_of_truth=0.0, settled=False), "what was measured of all its entries decides"
    assert not judge(misfit=2 * MISFIT, misfit_of_truth=MISFIT, settled=True)
    assert judge(misfit=None, misfit_of_truth=None), "nothing is known where the truth itself cannot be measured"
    assert not judge(misfit=1.0, misfit_of_truth=0.0, leaked_any=True)
    assert not judge(misfit=1.0, misfit_of_truth=0.0, status="diverged"), "which has a column of its own"


class FrozenFirst(nn.Module):
    """A frozen linear layer with a wide range of singular values before a sigmoid: ill-conditioned, but invertible."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(64, 64), nn.Linear(64, CLASSES)
        self.first.requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(torch.sigmoid(self.first(images.flatten(1))))
        return logits

    def draw(self, generator: torch.Generator) -> dict[str, Tensor]:
        size = self.first.weight.shape[1] ** -0.5
        return {
            name: (2 * torch.rand(p.shape, generator=generator, dtype=p.dtype) - 1) * size
            for name, p in self.named_parameters()
        }


def test_an_attack_that_fits_an_ill_conditioned_update_with_another_image_settles_nothing() -> None:
    private, labels = victims()
    means = torch.full((CLASSES, *SHAPE), 0.5)
    model: Any = FrozenFirst()
    public = PublicData(CLASSES, means[0], means, 0.1, torch.full((1,), 0.25))
    observation = observe(model, private.float(), labels, public, None, False, 0, range(len(private)))
    for number, (image, label) in enumerate(zip(private, labels, strict=True)):  # a closed form finds every image
        weights = {name: value[number].double() for name, value in observation.parameters.items()}
        update = {name: value[number].double() for name, value in observation.update.items()}
        features = update["head.weight"][label[0]] / update["head.bias"][label[0]]
        solved = torch.linalg.solve(weights["first.weight"], torch.logit(features) - weights["first.bias"])
        assert float((solved.view(SHAPE) - image[0]).square().mean()) < 1e-2
    found = IDLG(max_evaluations=300).reconstruct(observation)
    missed = (found.images.clamp(0, 1) - private).square().flatten(1).mean(1) > 0.01
    assert bool(missed.any()), "or this shows nothing"
    assert bool((misfits(observation, found, private.float(), labels).found[missed] < MISFIT).any())
    assert judged(observation, found) == missed.tolist()


def scaled(factors: Callable[[str, Tensor], Tensor | float]) -> Callable[[Update], Update]:
    """A map of each entry times a factor, by parameter."""
    return lambda update: {name: value * factors(name, value) for name, value in update.items()}


def over_decades(name: str, value: Tensor) -> Tensor:
    entries = value[0].numel()
    return (10 ** -torch.linspace(0, 12, entries).double().sin().abs().mul(12)).view(value.shape[1:])


def few_directions(rest: float) -> Callable[[Update], Update]:
    def of(value: Tensor) -> Tensor:
        flat = value.flatten(1)
        generator = torch.Generator().manual_seed(flat.shape[1])
        axes = torch.linalg.qr(torch.randn(flat.shape[1], 2, generator=generator).double())[0]
        part = flat @ axes @ axes.T
        return (part + rest * (flat - part)).view_as(value)

    return lambda update: {name: of(value) for name, value in update.items()}


ILL: dict[str, Callable[[Update], Update]] = {
    "entries over 12 decades": scaled(over_decades),
    "one layer large": scaled(lambda name, _: 1.0 if name.startswith("7.") else 1e-4),
    "one bias large": scaled(lambda name, _: 1.0 if name == "7.bias" else 1e-9),
    "few directions and a small rest": few_directions(1e-3),
    "few directions and a tiny rest": few_directions(1e-5),
    "cubes": lambda update: {name: value**3 for name, value in update.items()},
    "running sums": lambda update: {name: value.flatten(1).cumsum(1).view_as(value) for name, value in update.items()},
}


class Mapped(Defense):
    """Shares a function of the update, which the attacker knows; behind noise on the last layer, on demand."""

    def __init__(self, of: Callable[[Update], Update], std: float = 0.0) -> None:
        self.of, self.std = of, std

    def protect(self, update: Update, generators: Sequence[torch.Generator]) -> Update:
        shared = dict(self.of(update))
        for name in ("7.weight", "7.bias"):
            draws = [torch.randn(shared[name].shape[1:], generator=one).double() for one in generators]
            shared[name] = shared[name] + self.std * torch.stack(draws)
        return shared

    def known_to_attacker(self) -> KnownDefense:
        return KnownDefense(lambda dummy, _: self.of(dummy), noise_std=self.std)


@pytest.mark.parametrize("defense", ILL.values(), ids=ILL.keys())
def test_a_near_fit_of_what_a_defense_has_made_ill_conditioned_settles_nothing(
    defense: Callable[[Update], Update],
) -> None:
    private, labels = victims()
    observation = seen(Mapped(defense), adaptive=True)
    found = IDLG(max_evaluations=60).reconstruct(observation)
    missed = (found.images.clamp(0, 1) - private).square().flatten(1).mean(1) > 0.01
    assert judged(observation, found) == missed.tolist()
    for size in (0.1, 0.3):  # whatever else does not fit exactly
        generator = torch.Generator().manual_seed(2)
        noise = private + size * torch.randn(private.shape, generator=generator).double()
        fit = misfits(observation, returned(noise, labels), private, labels)
        assert not fit.settled.any()
    assert misfits(observation, returned(private, labels), private, labels).settled.all()


def test_small_exact_entries_are_not_drowned_by_noise_on_large_ones() -> None:
    private, labels = victims()
    tiny = scaled(lambda name, _: 1.0 if name.startswith("7.") else 1e-7)
    observation = seen(Mapped(tiny, std=10.0), adaptive=True)
    off = returned(private + 0.3 * torch.randn(private.shape).double(), labels)
    fit = misfits(observation, off, private, labels)
    assert fit.explained.all() and not fit.settled.any()
    assert ((fit.found - fit.true).abs() < 1e-2 * fit.true).all(), "as a whole both fit alike, or this shows nothing"


@pytest.mark.parametrize("std", [0.001, 0.01])
def test_behind_noise_a_fit_must_be_as_likely_as_the_truth(std: float) -> None:
    private, labels = victims()
    observation = seen(GaussianNoise(std), adaptive=True)
    entries = sum(value[0].numel() for value in observation.update.values())
    for size in (1e-4, 0.3):
        image = private + size * torch.randn(private.shape, generator=torch.Generator().manual_seed(3)).double()
        one_hot = nn.functional.one_hot(labels, CLASSES).double()
        moved, true = (observation.update_of(each, one_hot) for each in (image, private))
        apart = sum((moved[name] - true[name]).square().flatten(1).sum(1) for name in true) / std**2
        likely = misfits(observation, returned(image, labels), private, labels).settled
        assert not likely[apart > 10 * 64].any() and likely[apart < 0.1].all(), f"{apart} of {entries}"


@pytest.mark.parametrize("images", [1, 3])
def test_behind_noise_an_image_that_owes_nothing_to_the_update_settles_nothing_but_where_it_tells_nothing(
    images: int,
) -> None:
    private, labels = victims(images=images)
    mean, one_hot = torch.full_like(private, 0.5), nn.functional.one_hot(labels, CLASSES).double()
    found = set()
    for std in (1e-4, 1e-3, 1e-2, 0.03, 0.1, 0.3, 1.0, 10.0, 100.0):
        observation = seen(GaussianNoise(std), adaptive=True, images=images)
        true, other = (observation.update_of(each, one_hot) for each in (private, mean))
        apart = sum((other[name] - true[name]).square().flatten(1).sum(1) for name in true) / std**2
        told = apart / images  # of each image, in variances of the noise: half of it are nats
        for image, always in ((private, True), (mean, False)):
            settled = torch.tensor(judged(observation, returned(image, labels), images)).logical_not()
            if always:
                assert settled.all()
                continue
            assert not settled[told > 20].any() and settled[told < 0.3].all(), told
            found |= set(settled.tolist())
    assert found == {True, False}, "one of both was not tried"


def test_what_most_explains_of_a_noise_is_asked_of_older_records_too() -> None:
    """They do not say how large the noise on an entry is: of them no more is granted than a tenth."""
    victim = {"leaked_any": False, "status": "stalled", "settled": True, "explained": True, "misfit_of_truth": 0.95}
    for misfit, of_noise, is_unknown in (
        (0.9, None, False),  # explains more than the private batch does: some of the noise
        (0.954, None, False),
        (0.956, None, True),
        (1.0, None, True),
        (1.0, 0.04, False),
        (1.0, 1e-4, True),
    ):
        more = {} if of_noise is None else {"misfit_of_noise": of_noise}
        assert unconverged(victim | more | {"misfit": misfit}, CONTROL) == is_unknown
    assert not unconverged(victim | {"misfit": 1.0, "misfit_of_truth": 1.2}, CONTROL)
    assert not unconverged(victim | {"misfit": 1.0, "explained": False, "leaked_any": True}, CONTROL)


class Hidden(Defense):
    """Shares noise beside a first layer that it leaves out, shuffles or signs anew; attackers know of the noise."""

    def __init__(self, how: str, std: float) -> None:
        self.how, self.std = how, std

    def protect(self, update: Update, generators: Sequence[torch.Generator]) -> Update:
        first = update["0.weight"]
        rows = []
        for row, source in zip(first, generators, strict=True):
            shuffled = row.flatten()[torch.randperm(row.numel(), generator=source)].view_as(row)
            signs = torch.randint(2, row.shape, generator=source) * 2 - 1
            rows.append({"zero": 0 * row, "shuffle": shuffled, "sign": row * signs, "": row}[self.how])
        return GaussianNoise(self.std).protect(update | {"0.weight": torch.stack(rows)}, generators)

    def known_to_attacker(self) -> KnownDefense:
        return KnownDefense(noise_std=self.std)


@pytest.mark.parametrize("how", ["zero", "shuffle", "sign"])
def test_noise_on_all_entries_does_not_hide_that_a_layer_is_another(how: str) -> None:
    (private, labels), plain = victims(), seen()
    size = plain.update["0.weight"].square().mean().sqrt()
    for part in (0.3, 1.0):
        std = float(size) * part
        right = misfits(seen(Hidden("", std), adaptive=True), returned(private, labels), private, labels)
        wrong = misfits(seen(Hidden(how, std), adaptive=True), returned(private, labels), private, labels)
        assert right.explained.all() and not wrong.explained.any()
        entries = sum(value[0].numel() for value in plain.update.values())
        as_a_whole = wrong.true / right.true
        assert part < 1 or (as_a_whole < 1.5).all(), f"the noise on {entries} entries hides nothing: {as_a_whole}"


@pytest.mark.parametrize("defense", [Masking(0.999), Pruning(0.999)])
def test_a_near_fit_settles_where_too_few_numbers_are_shared_to_determine_an_image(defense: Defense) -> None:
    private, labels = victims()
    observation = seen(defense, adaptive=True)
    found = IDLG(max_evaluations=150, line_search=True).reconstruct(observation)
    fit = misfits(observation, found, private, labels)
    near = fit.found <= MISFIT
    assert near.any() and fit.settled.tolist() == near.tolist()


def test_a_model_that_returns_what_was_observed_settles_nothing() -> None:
    private, labels = victims()
    copies = Mistaken(Clipping(0.1), lambda dummy, shared: {name: shared[name] + 0 * dummy[name] for name in dummy})
    fit = misfits(seen(copies, adaptive=True), returned(torch.rand_like(private), labels), private, labels)
    assert not fit.settled.any()


def test_a_fit_of_one_round_of_several_settles_nothing() -> None:
    private, labels = victims()
    first, second = seen(Masking(0.999), adaptive=True), seen()
    off = returned(torch.rand_like(private), labels)
    fit = misfits(replace(first, later=(second,)), off, private, labels)
    assert not fit.settled.any() and (fit.found > 0.01).all()


def test_a_record_of_before_there_were_misfits_is_judged_by_its_loss() -> None:
    noisy = {"defense": {"class": "GaussianNoise", "std": 0.1}}
    masked = {"defense": {"class": "Masking", "ratio": 0.1}}
    assert unconverged(victim(), CONTROL)
    assert unconverged(victim(), CONTROL | masked | {"adaptive": True})
    assert not unconverged(victim(loss=5e-5), CONTROL)
    assert not unconverged(victim(loss=None), CONTROL)
    assert not unconverged(victim(), CONTROL | masked), "it does not know of the mask"
    assert not unconverged(victim(), CONTROL | noisy | {"adaptive": True})
    with_prior = {"attack": {"class": "IDLG", "tolerance": 1e-6, "total_variation": 1e-5}}
    assert not unconverged(victim(), CONTROL | with_prior), "the prior is a part of the loss"
    assert not unconverged(victim(), CONTROL | {"attack": {"class": "RGAP"}})
