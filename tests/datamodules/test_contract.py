"""A user's own data: what breaks the contract ends in one sentence, what keeps to it is read right."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from benchmark.errors import UsageError, data_fault
from benchmark.jobs.blocks import Workbench
from benchmark.suite.registry import Spec
from benchmark.suite.suite import Scenario
from benchmark.training.plan import first
from datamodules import DataError, Digits, PrivateData, open_data, take_victims
from datamodules.base import Split, TensorSplit

GRAY = Digits().load(False)
assert isinstance(GRAY, TensorSplit)
PIXELS, LABELS = GRAY.pixels[:40], GRAY.labels[:40]
BYTES = (PIXELS * 255).round().byte()


class Own(PrivateData):
    """What `load` gives is the test's."""

    num_classes = 10
    image_shape: Any = (1, 8, 8)

    def __init__(self, pixels: Any = PIXELS, labels: Any = LABELS, **settings: Any) -> None:
        super().__init__()
        self.given = pixels, labels
        for name, value in settings.items():
            setattr(self, name, value)

    def load(self, train: bool) -> Split:
        return TensorSplit(*self.given)


class Lazy(Split):
    """Images that are made when they are asked for."""

    def __init__(self, pixels: Tensor, labels: Tensor) -> None:
        super().__init__(labels)
        self.held = pixels

    def images(self, start: int, stop: int) -> Tensor:
        return self.held[start:stop]


class Late(Own):
    """The same, but decoded late."""

    def load(self, train: bool) -> Split:
        return Lazy(*self.given)


def refused(data: PrivateData) -> DataError:
    """The error in which the way of the benchmark through these data ends."""
    with pytest.raises(DataError) as caught:
        open_data(data)
        take_victims(data, 40)
        data.mean_image()
    return caught.value


def refusal(data: PrivateData) -> str:
    """What it says."""
    said = str(refused(data))
    assert "\n" not in said and f"{__name__}.{type(data).__name__}" in said
    return said


def refusal_of_both(pixels: Tensor) -> str:
    said = refusal(Late(pixels))
    assert said.partition(", ")[2] == refusal(Own(pixels)).partition(", ")[2] or "images 0 to 39" in said
    return refusal(Own(pixels)) + said


# Pixels


@pytest.mark.parametrize(
    ("change", "range_", "what_to_do"),
    [
        (lambda x: (x - 0.1307) / 0.3081, "-0.4242 to 2.821", "leave it out here"),
        (lambda x: 2 * x - 1, "-1 to 1", "leave it out here"),
        (lambda x: x - 0.5, "-0.5 to 0.5", "leave it out here"),
        (lambda x: (x * 255).round(), "0 to 255", "divide them by 255"),
        (lambda x: x * 65535, "0 to 6.554e+04", "divide them by 65535"),
        (lambda x: x * 16, "0 to 16", "divide them by"),
        (lambda x: x * 1.0001, "0 to 1", "clamp them"),
        (lambda x: x - 1e-6, "-1e-06 to 1", "clamp them"),
    ],
)
def test_floats_out_of_range_are_refused(change: Callable[[Tensor], Tensor], range_: str, what_to_do: str) -> None:
    for dtype in (torch.float32, torch.float64):
        said = refusal_of_both(change(PIXELS.to(dtype)))
        assert said.count("as normalization belongs to the model") == 2
        assert said.count(f"{range_}") == said.count(what_to_do) == 2


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("index", [0, 39])
def test_pixels_that_are_not_finite_are_refused(value: float, index: int) -> None:
    pixels = PIXELS.clone()
    pixels[index, 0, 3, 4] = value
    assert refusal_of_both(pixels).count("are not all finite") == 2


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.int16, torch.int8, torch.bool, torch.complex64])
def test_pixels_of_other_types_are_refused(dtype: torch.dtype) -> None:
    assert refusal_of_both((PIXELS * 100).to(dtype)).count("give torch.uint8 (0 to 255) or torch.float32") == 2


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kind", [Own, Late])
def test_floats_of_other_precision_become_float32(kind: type[Own], dtype: torch.dtype) -> None:
    data = kind(PIXELS.to(dtype))
    open_data(data)
    images, _ = take_victims(data, 40)
    assert images.dtype == data.mean_image().dtype == torch.float32
    assert torch.equal(images[:, 0], PIXELS.to(dtype).float())


@pytest.mark.parametrize("kind", [Own, Late])
def test_bytes_are_scaled(kind: type[Own]) -> None:
    data = kind(BYTES)
    open_data(data)
    for found in (take_victims(data, 40)[0][:, 0], data.test_images, data.train_images):
        assert torch.equal(found, BYTES.float() / 255)
    torch.testing.assert_close(data.mean_image(), (BYTES.float() / 255).mean(0))


def test_bytes_of_0_and_1_are_refused() -> None:
    """Read as bytes, the digits would all be black, and leak to a black image."""
    assert "where 255 is white" in refusal(Own((PIXELS > 0.5).byte()))


@pytest.mark.parametrize(
    ("pixels", "sentence"),
    [
        (PIXELS.permute(0, 2, 3, 1), "of shape [40, 8, 8, 1], not [40, 1, 8, 8]: channels come first"),
        (PIXELS[:, 0], "of shape [40, 8, 8], not [40, 1, 8, 8]: an image is [channels, height, width]"),
        (PIXELS.expand(-1, 3, -1, -1), "not [40, 1, 8, 8]"),
        (PIXELS[..., :7], "not [40, 1, 8, 8]"),
        (PIXELS.numpy(), "must be a tensor, not ndarray: torch.from_numpy makes one"),
        (list(PIXELS), "must be a tensor, not list"),
        (None, "must be a tensor, not nothing"),
        (torch.tensor(0.5), "of shape []"),
    ],
)
def test_images_of_another_shape_are_refused(pixels: Any, sentence: str) -> None:
    assert sentence in refusal(Own(pixels))


# Labels


@pytest.mark.parametrize(
    ("labels", "sentence"),
    [
        (LABELS + 1, "run from 1 to 10, but must lie in 0 to 9: subtract 1"),
        (LABELS - 1, "run from -1 to 8, but must lie in 0 to 9: renumber them"),
        (LABELS * 2, "renumber them, or set num_classes"),
        (LABELS[:, None], "of shape [40, 1], not [n]: flatten them"),
        (
            torch.nn.functional.one_hot(LABELS, 10),
            "of shape [40, 10], not [n]: give the class of each image, as argmax",
        ),
        (LABELS.float(), "are float32, but must be whole numbers: give labels.long()"),
        (LABELS.bool(), "are bool, but must be whole numbers"),
        (LABELS.numpy(), "must be a tensor, not ndarray"),
        (LABELS.tolist(), "must be a tensor, not list"),
        (None, "must be a tensor, not nothing"),
        (LABELS[:39], "40 images but 39 labels"),
        (LABELS[:0], "40 images but 0 labels"),
        (torch.tensor(3), "of shape [], not [n]"),
        (torch.full((40,), 3), "all 40 private images"),
    ],
)
def test_labels_that_break_the_contract_are_refused(labels: Any, sentence: str) -> None:
    assert sentence in refusal(Own(labels=labels))
    if not isinstance(labels, Tensor) or len(labels.shape) != 1 or len(labels) == 40:
        assert sentence in refusal(Late(labels=labels))


@pytest.mark.parametrize("dtype", [torch.int32, torch.int16, torch.int8, torch.uint8, torch.uint16])
@pytest.mark.parametrize("kind", [Own, Late])
def test_labels_of_other_integers_become_int64(kind: type[Own], dtype: torch.dtype) -> None:
    data = kind(labels=LABELS.to(dtype))
    open_data(data)
    labels = take_victims(data, 20, batch_size=2)[1]
    assert labels.dtype == data.train_labels.dtype == torch.int64 and torch.equal(labels.flatten(), LABELS)
    assert torch.equal(data.class_means(), Own().class_means())
    assert torch.equal(take_victims(data, 3, same_class=2)[1], take_victims(Own(), 3, same_class=2)[1])


def test_fewer_images_than_labels_are_told_when_they_are_decoded() -> None:
    assert "are of shape [30, 1, 8, 8], not [40, 1, 8, 8]" in refusal(Late(PIXELS[:30]))


def test_no_private_images_and_one_of_them() -> None:
    assert "holds no private images" in refusal(Own(PIXELS[:0], LABELS[:0]))
    data = Own(PIXELS[:1], LABELS[:1])
    open_data(data)
    assert take_victims(data, 1)[0].shape == (1, 1, 1, 8, 8), "one image cannot be of two classes"


# Classes and shape


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"num_classes": 1}, "has a single class, for which every gradient is zero"),
        ({"num_classes": 0}, "num_classes of"),
        ({"num_classes": "10"}, "must be a whole number, not '10'"),
        ({"num_classes": 10.0}, "must be a whole number, not 10.0"),
        ({"num_classes": True}, "must be a whole number, not True"),
        ({"num_classes": None}, "does not set num_classes"),
        ({"image_shape": None}, "does not set image_shape"),
        ({"num_classes": None, "image_shape": None}, "does not set num_classes and image_shape"),
        ({"image_shape": (8, 8)}, "must be (channels, height, width)"),
        ({"image_shape": (1, 8, 8.0)}, "must be (channels, height, width)"),
        ({"image_shape": (1, 8, 0)}, "must be (channels, height, width)"),
        ({"image_shape": (8, 8, 1)}, "images have 1 or 3 channels: channels come first"),
        ({"image_shape": (2, 8, 8)}, "images have 1 or 3 channels: choose one channel or three"),
        ({"image_shape": (4, 8, 8)}, "images have 1 or 3 channels"),
    ],
)
def test_classes_and_shape_that_make_no_sense_are_refused(settings: dict[str, Any], sentence: str) -> None:
    assert sentence in refusal(Own(**settings))


def test_numbers_of_numpy_are_numbers() -> None:
    data = Own(num_classes=numpy.int64(10), image_shape=torch.Size([1, 8, 8]))
    open_data(data)
    assert take_victims(data, 2)[0].shape == (2, 1, 1, 8, 8)


class Undeclared(PrivateData):
    def load(self, train: bool) -> Split:
        return TensorSplit(PIXELS, LABELS)


def test_a_class_that_declares_nothing_is_told_what_to_set() -> None:
    assert "does not set num_classes and image_shape" in refusal(Undeclared())


# What else a user may write


class Raises(Own):
    def load(self, train: bool) -> Split:
        return TensorSplit(torch.load("/nowhere/x.pt"), LABELS)


class Exits(Own):
    def load(self, train: bool) -> Split:
        sys.exit(0)


class RaisesLater(Own):
    def load(self, train: bool) -> Split:
        if train:
            raise KeyError("public")
        return TensorSplit(PIXELS, LABELS)


class RaisesInSetup(Own):
    def setup(self, stage: str | None = None) -> None:
        raise RuntimeError


class WithoutLoad(PrivateData):
    num_classes, image_shape = 10, (1, 8, 8)


class LeavesOddly(Own):
    """Raises what is no Exception."""

    def load(self, train: bool) -> Split:
        raise GeneratorExit


class Unspeakable(Exception):
    """Cannot say what is wrong."""

    def __str__(self) -> str:
        raise ValueError("in __str__")


class CannotSay(Own):
    def load(self, train: bool) -> Split:
        raise Unspeakable


class RaisesInImages(Late):
    def load(self, train: bool) -> Split:
        class Broken(Lazy):
            def images(self, start: int, stop: int) -> Tensor:
                return self.held[start : 1 // 0]

        return Broken(PIXELS, LABELS)


@pytest.mark.parametrize(
    ("kind", "sentence", "line"),
    [
        (Raises, "load failed (FileNotFoundError: [Errno 2] No such file or directory: '/nowhere/x.pt'", "torch.load"),
        (Exits, "load failed (it calls sys.exit(0)", "sys.exit"),
        (RaisesLater, "load failed (KeyError: 'public'", "raise"),
        (RaisesInSetup, "setup failed (RuntimeError", "raise"),
        (WithoutLoad, "load failed (NotImplementedError: WithoutLoad has no method load)", None),
        (RaisesInImages, "Broken.images failed (ZeroDivisionError: ", "1 // 0"),
        (LeavesOddly, "load failed (GeneratorExit", "raise"),
        (CannotSay, "load failed (Unspeakable", "raise"),
    ],
)
def test_what_an_own_class_raises_is_one_sentence_with_its_line(
    kind: type[Own], sentence: str, line: str | None
) -> None:
    said = str(data_fault(refused(kind())))
    assert sentence in said
    if line:
        number = int(said.partition("test_contract.py, line ")[2].partition(")")[0])
        assert line in Path(__file__).read_text().splitlines()[number - 1]


def test_ctrl_c_in_an_own_class_is_ctrl_c() -> None:
    class Stopped(Own):
        def load(self, train: bool) -> Split:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        open_data(Stopped())


@pytest.mark.parametrize("given", [None, (PIXELS, LABELS), TensorDataset(PIXELS, LABELS), PIXELS])
def test_load_must_return_a_split(given: Any) -> None:
    class Other(Own):
        def load(self, train: bool) -> Split:
            return given  # type: ignore[no-any-return] # wrong on purpose

    said = str(data_fault(refused(Other())))
    assert "load must return a Split, such as datamodules.base.TensorSplit(pixels, labels), not " in said
    line = Path(__file__).read_text().splitlines()[int(said.rpartition("test_contract.py, line ")[2][:-1]) - 1]
    assert "def load" in line


class WithoutInit(PrivateData):
    """Forgets to call the base's."""

    num_classes, image_shape = 10, (1, 8, 8)

    def __init__(self) -> None:
        pass

    def load(self, train: bool) -> Split:
        return TensorSplit(PIXELS, LABELS)


def test_an_init_that_forgets_its_base_is_right() -> None:
    one, other = WithoutInit(), WithoutInit()
    open_data(one)
    one.notes.append("mine")
    assert torch.equal(take_victims(one, 40)[0][:, 0], PIXELS) and other.notes == []
    torch.testing.assert_close(one.mean_image(), PIXELS.mean(0))


def normalized(pixels: Tensor) -> Tensor:
    return (pixels - 0.1307) / 0.3081


class OwnVictims(Own):
    change: Callable[[Tensor, Tensor], Any]

    def victims(self, *args: Any, **kwargs: Any) -> Any:
        return type(self).change(*super().victims(*args, **kwargs))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda x, y: (normalized(x), y), "leave it out here"),
        (lambda x, y: (x * float("nan"), y), "are not all finite"),
        (lambda x, y: (x[:, 0], y), "of shape [40, 1, 8, 8], not [40, 1, 1, 8, 8]"),
        (lambda x, y: (x[:5], y), "not [40, 1, 1, 8, 8]"),
        (lambda x, y: (x, y + 1), "run from 1 to 10"),
        (lambda x, y: (x, y.float()), "must be whole numbers"),
        (lambda x, y: (x, y.flatten()), "labels of"),
        (lambda x, y: None, "victims failed"),
        (lambda x, y: (x, y, y), "victims failed"),
    ],
)
def test_own_victims_are_checked(change: Callable[[Tensor, Tensor], Any], sentence: str) -> None:
    class Changed(OwnVictims):
        pass

    Changed.change = staticmethod(change)  # type: ignore[method-assign, assignment] # wrong on purpose
    Changed.__qualname__ = "Changed"
    with pytest.raises(DataError) as caught:
        open_data(data := Changed())
        take_victims(data, 40)
    assert sentence in str(caught.value) and f"{__name__}.Changed" in str(caught.value)


class OwnTrainSplit(Own):
    @property
    def train_split(self) -> Split:
        return TensorSplit(normalized(PIXELS), LABELS)


class OwnTestSplit(Own):
    @property
    def test_split(self) -> Split:
        return Lazy(normalized(PIXELS), LABELS)


class OwnMean(Own):
    def mean_image(self) -> Tensor:
        return normalized(super().mean_image())


class OwnClassMeans(Own):
    def class_means(self) -> Tensor:
        return super().class_means()[:9]


class OwnSplit(Own):
    def load(self, train: bool) -> Split:
        class Normalized(TensorSplit):
            def images(self, start: int, stop: int) -> Tensor:
                return normalized(super().images(start, stop))

        return Normalized(PIXELS, LABELS)


class OwnCount(Own):
    def num_victims(self, batch_size: int = 1, same_class: int = 1) -> int:
        return 1.5  # type: ignore[return-value] # wrong on purpose


class OwnStep(Own):
    def mean_step(self) -> float:
        return float("nan")


class OwnStds(Own):
    def channel_stds(self) -> Tensor:
        return torch.zeros(1)


class OwnCovariance(Own):
    def covariance(self) -> Tensor | None:
        return torch.ones(64, 64)


class OwnClassCovariances(Own):
    def class_covariances(self) -> Tensor | None:
        return torch.eye(64).expand(9, -1, -1)


class Infinite(Own):
    def covariance(self) -> Tensor | None:
        return torch.full((64, 64), torch.inf)


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        (OwnStep, "mean_step must return a number in (0, 1], not nan"),
        (OwnStds, "channel_stds must return 1 finite numbers above 0, as a float tensor"),
        (OwnCovariance, "covariance must return a covariance that is positive definite: add a little to its diagonal"),
        (Infinite, "covariance must return a covariance that is positive definite"),
        (OwnClassCovariances, "class_covariances must return a float tensor of the shape [10, 64, 64], or None"),
        (OwnTrainSplit, "leave it out here"),
        (OwnTestSplit, "leave it out here"),
        (OwnMean, "leave it out here"),
        (OwnSplit, "leave it out here"),
        (OwnClassMeans, "of shape [9, 1, 8, 8], not [10, 1, 8, 8]"),
        (OwnCount, "num_victims must return a whole number, not 1.5"),
    ],
)
def test_whatever_else_is_overridden_is_checked(kind: type[Own], sentence: str) -> None:
    assert sentence in refusal(kind())


class OwnMoments(Own):
    """All of them right, a step of 1 as a whole number included."""

    def mean_step(self) -> float:
        return 1

    def channel_stds(self) -> Tensor:
        return torch.tensor([0.3])

    def covariance(self) -> Tensor | None:
        return torch.eye(64)

    def class_covariances(self) -> Tensor | None:
        return None


def test_moments_of_ones_own_are_taken() -> None:
    open_data(OwnMoments())


def test_training_takes_no_other_pixels_than_attacks_do() -> None:
    data = OwnSplit()
    with pytest.raises(DataError, match="leave it out here"):
        first(data, data.test_split, None, "train_images")
    bytes_ = Late(BYTES)
    assert torch.equal(first(bytes_, bytes_.test_split, 7, "train_images")[0], BYTES[:7].float() / 255)


def test_the_benchmark_tells_the_users_class(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine_data.py").write_text(
        "from datamodules import Digits\nfrom datamodules.base import PrivateData, TensorSplit\n\n"
        "class Normal(PrivateData):\n    num_classes, image_shape = 10, (1, 8, 8)\n\n    def load(self, train):\n"
        "        split = Digits().load(train)\n"
        "        return TensorSplit((split.pixels - 0.1307) / 0.3081, split.labels)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    scenario = Scenario(Spec("mine_data.Normal"), Spec("LeNet"), 1, 0, 2)
    with pytest.raises(UsageError) as caught:
        Workbench(torch.device("cpu")).victims(scenario, range(2))
    said, _, where = str(caught.value).rpartition(" (")
    assert said == (
        "the pixels of mine_data.Normal (the private ones) run from -0.4242 to 2.821, but must lie in [0, 1], as "
        "normalization belongs to the model: leave it out here"
    )
    assert where.endswith("mine_data.py, line 7)")
    monkeypatch.delitem(sys.modules, "mine_data")
