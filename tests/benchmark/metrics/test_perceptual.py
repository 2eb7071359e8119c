"""LPIPS: the loading code with random trunks, known values with the real ones where present."""

import hashlib
import io
import warnings
from collections.abc import Callable, Iterator
from email.message import Message
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lpips
import pytest
import torch
from torch import Tensor
from torchvision.models import AlexNet_Weights

from benchmark.cli.main import main
from benchmark.errors import UsageError
from benchmark.jobs.executors.worker import find_perceptual
from benchmark.metrics.perceptual import (
    LPIPS_SIZE,
    Backbone,
    Perceptual,
    PerceptualUnavailable,
    find_backbone,
)

torch.set_num_threads(1)

REAL = Path(__file__).parents[3].parent / "shared" / "data" / "checkpoints"
FULL, FEATURES = "alexnet-owt-7be5be79.pth", "alexnet_features.pth"


def real() -> Backbone:
    if not (REAL / FEATURES).is_file():
        pytest.skip(f"needs the ImageNet weights {FEATURES} in ../shared/data/checkpoints")
    return find_backbone(REAL)


@pytest.fixture(scope="module", autouse=True)
def quick() -> Iterator[None]:
    """AlexNet's classifier, which LPIPS drops, takes a second to draw."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.nn.Linear, "reset_parameters", lambda _: None)
        yield


@pytest.fixture(scope="module")
def reference(quick: None) -> "lpips.LPIPS":
    """A network whose random trunk the files below hold."""
    with warnings.catch_warnings(), torch.random.fork_rng():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        return lpips.LPIPS(net="alex", pnet_rand=True, verbose=False).eval()


@pytest.fixture(scope="module")
def trunk(reference: "lpips.LPIPS") -> dict[str, Tensor]:
    return {k.split(".", 1)[1]: v for k, v in reference.net.state_dict().items()}


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty torch hub folder of checkpoints."""
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    return folder


def save_features(folder: Path, trunk: dict[str, Tensor]) -> Path:
    file = folder / FEATURES
    torch.save(trunk, file)
    return file


def save_full(folder: Path, trunk: dict[str, Tensor]) -> Path:
    """In torchvision's form, under a name whose hash is true."""
    state = {f"features.{k}": v for k, v in trunk.items()}
    state["classifier.1.weight"] = torch.zeros(10, 512, 1, 1)
    draft = folder / "draft"
    torch.save(state, draft)
    digest = hashlib.sha256(draft.read_bytes()).hexdigest()
    return draft.rename(folder / f"alexnet-owt-{digest[:8]}.pth")


def images(count: int, channels: int, height: int, width: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, channels, height, width, generator=generator)


# Loading


@pytest.mark.parametrize("save", [save_features, save_full])
def test_both_forms_load_and_give_the_networks_own_values(
    tmp_path: Path,
    trunk: dict[str, Tensor],
    reference: "lpips.LPIPS",
    save: Callable[[Path, dict[str, Tensor]], Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = save(tmp_path, trunk)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        perceptual = Perceptual(find_backbone(str(file)))
        a, b = images(3, 3, 64, 80), images(3, 3, 64, 80, seed=1)
        found = perceptual(a, b)
    with torch.no_grad():
        expected = reference(2 * a - 1, 2 * b - 1).flatten()
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    output = capsys.readouterr()
    assert output.out == output.err == ""
    assert perceptual.describe() == {
        "net": "alex",
        "file": file.name,
        "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        "size": 64,
    }


def test_loading_leaves_the_random_numbers_alone(tmp_path: Path, trunk: dict[str, Tensor]) -> None:
    backbone = find_backbone(str(save_features(tmp_path, trunk)))
    before = torch.random.get_rng_state()
    perceptual = Perceptual(backbone)
    perceptual(images(1, 3, 64, 64), images(1, 3, 64, 64))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_looks_in_a_folder_and_in_the_hub_cache(cache: Path, trunk: dict[str, Tensor]) -> None:
    file = save_features(cache, trunk)
    assert find_backbone().path == file
    assert find_backbone(str(cache)) == find_backbone()


def test_an_explicit_path_comes_before_the_cache(cache: Path, tmp_path: Path, trunk: dict[str, Tensor]) -> None:
    save_features(cache, trunk)
    mine = save_full(tmp_path, trunk)
    assert find_backbone(str(mine)).path == mine
    # And a path with nothing there is an error, not a reason to take another file.
    with pytest.raises(PerceptualUnavailable):
        find_backbone(str(tmp_path / "nowhere"))


# Refusals


def test_the_hash_in_torchvisions_names_must_be_true(cache: Path) -> None:
    # The right name over other bytes: both packages would take it.
    file = cache / FULL
    torch.save({}, file)
    for path in (None, str(cache), str(file)):
        with pytest.raises(PerceptualUnavailable) as caught:
            find_backbone(path)
        message = str(caught.value)
        assert str(file) in message
        assert hashlib.sha256(file.read_bytes()).hexdigest()[:8] in message


def test_the_reason_says_what_was_looked_for_where_and_what_to_do(cache: Path) -> None:
    with pytest.raises(PerceptualUnavailable) as caught:
        find_backbone()
    message = str(caught.value)
    for part in (FULL, FEATURES, str(cache), "--lpips-weights PATH", "--download"):
        assert part in message
    assert "\n" not in message

    with pytest.raises(PerceptualUnavailable) as caught:
        find_backbone(str(cache / "typo.pth"))
    for part in (FULL, str(cache / "typo.pth"), "leave --lpips-weights out", "--download"):
        assert part in str(caught.value)


@pytest.mark.parametrize("kept", [0.0, 0.01, 0.5, 0.999])
def test_a_truncated_file_is_named(tmp_path: Path, trunk: dict[str, Tensor], kept: float) -> None:
    file = save_features(tmp_path, trunk)
    data = file.read_bytes()
    file.write_bytes(data[: int(kept * len(data))])
    with pytest.raises(PerceptualUnavailable) as caught:
        Perceptual(find_backbone(str(file)))
    assert str(file) in str(caught.value)


def test_wrong_contents_are_named(tmp_path: Path, trunk: dict[str, Tensor]) -> None:
    first, *rest = trunk
    contents: list[object] = [
        {},
        [1, 2],
        {"0.weight": "text"},
        {k: trunk[k] for k in rest},  # a layer is missing
        trunk | {"99.weight": torch.zeros(1)},  # one too many
        trunk | {first: trunk[first][:1]},  # another shape
    ]
    for content in contents:
        file = tmp_path / "weights.pth"
        torch.save(content, file)
        with pytest.raises(PerceptualUnavailable, match=r"weights\.pth are not AlexNet's"):
            Perceptual(find_backbone(str(file)))


def test_another_networks_file_is_refused(tmp_path: Path) -> None:
    from torchvision.models import squeezenet1_1

    torch.save(squeezenet1_1(weights=None).state_dict(), tmp_path / "squeezenet1_1.pth")
    with pytest.raises(PerceptualUnavailable, match="are not AlexNet's: the file holds other layers"):
        Perceptual(find_backbone(tmp_path / "squeezenet1_1.pth"))


def test_a_file_that_changed_is_refused(tmp_path: Path, trunk: dict[str, Tensor]) -> None:
    file = save_features(tmp_path, trunk)
    backbone = find_backbone(str(file))
    torch.save({k: v + 1 for k, v in trunk.items()}, file)
    with pytest.raises(PerceptualUnavailable, match="have changed"):
        Perceptual(backbone)
    file.unlink()
    with pytest.raises(PerceptualUnavailable, match="cannot be read"):
        Perceptual(backbone)


# Download, never over the network


@pytest.fixture
def downloads(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What torch hub is asked for."""
    asked: list[tuple[Any, ...]] = []

    def download(url: str, file: str, hash_prefix: str | None = None, progress: bool = True) -> None:
        asked.append((url, Path(file), hash_prefix, progress))

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    return asked


ADDRESS = AlexNet_Weights.IMAGENET1K_V1.url


def test_alexnet_comes_from_torchvisions_own_address_with_its_hash(
    cache: Path, downloads: list[tuple[Any, ...]], capsys: pytest.CaptureFixture[str]
) -> None:
    cache.rmdir()
    assert find_perceptual(None, required=False, download=True)[0] is None  # nothing came
    assert downloads == [(ADDRESS, cache / FULL, "7be5be79", False)]
    assert ADDRESS.startswith("https://") and ADDRESS.endswith(f"/{FULL}")
    assert capsys.readouterr().err == "leakboard: downloading AlexNet's weights for LPIPS (233 MB)\n"


def test_nothing_is_downloaded_unasked_or_where_weights_are(
    cache: Path, tmp_path: Path, trunk: dict[str, Tensor], downloads: list[tuple[Any, ...]]
) -> None:
    reason = find_perceptual(None, required=False)[1]
    assert "add --download to fetch them" in reason
    mine = save_full(tmp_path, trunk)
    assert find_perceptual(str(mine), required=True, download=True)[0] is not None
    with pytest.raises(UsageError, match="leave --lpips-weights out and add --download"):
        find_perceptual(str(tmp_path / "nowhere"), required=False, download=True)
    save_features(cache, trunk)
    assert find_perceptual(None, required=True, download=True)[0] is not None
    assert downloads == []


def test_other_bytes_are_not_kept_and_a_lost_network_is_one_sentence(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Answer(io.BytesIO):
        def info(self) -> Message:
            return Message()

    monkeypatch.setattr(torch.hub, "urlopen", lambda _: Answer(b"other bytes"))
    found, reason = find_perceptual(None, required=False, download=True)
    assert found is None and 'invalid hash value (expected "7be5be79"' in reason and list(cache.iterdir()) == []

    def no_network(_: Any) -> Any:
        raise OSError("no route\nto host")

    monkeypatch.setattr(torch.hub, "urlopen", no_network)
    found, reason = find_perceptual(None, required=False, download=True)
    assert found is None and "\n" not in reason and list(cache.iterdir()) == []
    for part in (ADDRESS, "(no route to host)", str(cache / FULL), "--lpips-weights PATH"):
        assert part in reason
    with pytest.raises(UsageError, match="could not be downloaded"):
        find_perceptual(None, required=True, download=True)


@pytest.mark.parametrize("words", [["run"], ["plan"], ["threshold", "quick"]])
@pytest.mark.parametrize("given", [True, False])
def test_commands_that_measure_lpips_download_it_when_asked(
    words: list[str], given: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def find(weights: str | None, required: bool, download: bool = False) -> None:
        asked.append((weights, required, download))
        raise UsageError("that is enough")

    for place in ("jobs.conductor", "cli.plan"):
        monkeypatch.setattr(f"benchmark.{place}.find_perceptual", find)
    monkeypatch.setattr("benchmark.thresholds.search.load", lambda *_: (SimpleNamespace(name="quick"), []))
    with pytest.raises(SystemExit):
        main([*words, *(["--download"] if given else [])])
    assert asked == [(None, False, given)]


# Use, with the random trunk


@pytest.fixture(scope="module")
def perceptual(tmp_path_factory: pytest.TempPathFactory, trunk: dict[str, Tensor]) -> Perceptual:
    file = save_features(tmp_path_factory.mktemp("weights"), trunk)
    return Perceptual(find_backbone(str(file)))


def test_identical_images_are_at_zero(perceptual: Perceptual) -> None:
    a = images(2, 3, 32, 32)
    assert perceptual(a, a).tolist() == [0, 0]
    assert (perceptual(a, images(2, 3, 32, 32, seed=1)) > 0).all()


def test_gray_is_color_without_color(perceptual: Perceptual) -> None:
    a, b = images(2, 1, 28, 28), images(2, 1, 28, 28, seed=1)
    color = perceptual(a.repeat(1, 3, 1, 1), b.repeat(1, 3, 1, 1))
    torch.testing.assert_close(perceptual(a, b), color)


@pytest.mark.parametrize(("size", "enlarged"), [((8, 8), (64, 64)), ((32, 48), (64, 96)), ((100, 50), (128, 64))])
def test_small_images_are_enlarged_with_their_shape(
    perceptual: Perceptual, size: tuple[int, int], enlarged: tuple[int, int]
) -> None:
    a, b = images(2, 3, *size), images(2, 3, *size, seed=1)
    large = [torch.nn.functional.interpolate(x, enlarged, mode="bilinear") for x in (a, b)]
    assert min(enlarged) == LPIPS_SIZE
    torch.testing.assert_close(perceptual(a, b), perceptual(*large))


def test_large_images_are_not_resized(perceptual: Perceptual, reference: "lpips.LPIPS") -> None:
    a, b = images(1, 3, 80, 100), images(1, 3, 80, 100, seed=1)
    torch.testing.assert_close(perceptual(a, b), reference(a, b, normalize=True).flatten())


def test_batches_change_nothing(perceptual: Perceptual) -> None:
    a, b = images(70, 1, 8, 8), images(70, 1, 8, 8, seed=1)
    together = perceptual(a, b)
    assert together.shape == (70,)
    assert not together.requires_grad
    for i in (0, 63, 64, 69):
        alone = perceptual(a[i : i + 1], b[i : i + 1])
        torch.testing.assert_close(alone, together[i : i + 1], rtol=1e-4, atol=1e-6)
    assert perceptual(a[:0], b[:0]).shape == (0,)


@pytest.mark.parametrize("value", [-0.01, 1.01, float("nan"), float("inf")])
def test_pixels_outside_the_range_are_refused(perceptual: Perceptual, value: float) -> None:
    a, b = images(2, 3, 64, 64), images(2, 3, 64, 64)
    b[1, 0, 0, 0] = value
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        perceptual(a, b)


def test_shapes_are_checked(perceptual: Perceptual) -> None:
    for a, b in (
        (images(2, 3, 64, 64), images(2, 1, 64, 64)),
        (images(2, 2, 64, 64), images(2, 2, 64, 64)),
        (images(2, 3, 64, 64)[0], images(2, 3, 64, 64)[0]),
    ):
        with pytest.raises(ValueError, match="LPIPS compares"):
            perceptual(a, b)


# The real trunks


def test_torchmetrics_agrees(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second implementation over the same files, which it takes from the hub cache."""
    backbone = real()
    from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity
    from torchvision import models

    # torchvision's own file is not at hand: put the same layers into its form, under its name.
    # Neither package looks at the hash.
    with torch.device("meta"):
        shapes = models.alexnet(weights=None).state_dict()
    features = torch.load(backbone.path, weights_only=True)
    state = {
        k: features[k.removeprefix("features.")] if k.startswith("features.") else torch.zeros(()).expand(v.shape)
        for k, v in shapes.items()
    }
    torch.save(state, cache / FULL)
    other = LearnedPerceptualImagePatchSimilarity(net_type="alex", reduction="none", normalize=True)
    a, b = images(3, 3, 64, 64), images(3, 3, 64, 64, seed=1)
    torch.testing.assert_close(Perceptual(backbone)(a, b), other(a, b), rtol=0, atol=1e-6)


def test_distance_grows_with_noise() -> None:
    perceptual = Perceptual(real())
    x = torch.linspace(0, 1, 32)
    clean = (0.5 + 0.4 * torch.sin(12 * x[:, None]) * torch.cos(9 * x)).expand(1, 3, 32, 32)
    noise = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    distances = [perceptual(clean, (clean + level * noise).clamp(0, 1)).item() for level in (0.0, 0.02, 0.1, 0.4)]
    assert distances[0] == 0
    assert distances == sorted(set(distances))
