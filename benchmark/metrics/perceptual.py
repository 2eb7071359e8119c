"""LPIPS, the learned perceptual distance (Zhang et al. 2018, arXiv 1801.03924), with AlexNet.

The heads come with the `lpips` package; the ImageNet trunk is a file that the user has, or that is
downloaded where that was asked for. It is looked for, checked and loaded here, and its hash stands
beside every result: a trunk of random weights gives small, plausible numbers, and neither `lpips`
nor torchmetrics would notice.

What this LPIPS is, exactly: version 0.1 of the heads, pixels scaled from [0, 1] to [-1, 1], gray
repeated to three channels, and images whose shorter side is below `LPIPS_SIZE` enlarged bilinearly,
with their shape kept, until it is `LPIPS_SIZE`. Nothing else is resized. The AlexNet trunk needs
31 pixels, and at 32 its last layers see one pixel, hence the enlargement.
"""

import hashlib
import io
import re
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

LPIPS_SIZE = 64
"""Shorter side, in pixels, to which smaller images are enlarged before LPIPS."""

_BATCH = 64  # images at a time: bounds the memory, changes no result

# Torchvision's own file, and the same layers without the classifier.
_WHOLE, _FEATURES = "alexnet-owt-7be5be79.pth", "alexnet_features.pth"

_HASH = re.compile(r"-([0-9a-f]{8,64})\.pth$")
"""How torchvision's file names end: in the start of the sha256 of what is inside."""


class PerceptualUnavailable(RuntimeError):
    """LPIPS cannot be measured here; the message is one sentence that says why and what to do."""


@dataclass(frozen=True)
class Backbone:
    """A trunk file for LPIPS.

    Attributes:
        path: Where it is.
        sha256: Hash of the whole file, 64 hexadecimal digits.
    """

    path: Path
    sha256: str


def find_backbone(path: str | Path | None = None) -> Backbone:
    """Find the trunk's file. Never downloads.

    Two forms are accepted: torchvision's checkpoint, and one with the `features` layers alone
    (`alexnet_features.pth`). A file name that ends in the start of a hash, as torchvision's do,
    must tell the truth. What is inside is looked at by `Perceptual`.

    Args:
        path: A file, or a folder to look in; without it, torch hub's folder of checkpoints.

    Returns:
        The file and its hash.

    Raises:
        PerceptualUnavailable: There is no such file, it cannot be read, or its hash is not the
            one in its name.
    """
    file = _locate(path)
    sha256 = hashlib.sha256(_read(file)).hexdigest()
    promised = _HASH.search(file.name)
    if promised and not sha256.startswith(promised[1]):
        raise PerceptualUnavailable(
            f"LPIPS weights {file} are damaged or not what their name says (sha256 starts with "
            f"{sha256[: len(promised[1])]}, not {promised[1]}): delete them and get them again, as with --download."
        )
    return Backbone(file, sha256)


def is_cached() -> bool:
    """Tell whether the trunk is in torch hub's folder of checkpoints."""
    return any((_cache() / name).exists() for name in (_WHOLE, _FEATURES))


def download_backbone() -> None:
    """Download torchvision's AlexNet (233 MB) to torch hub's folder of checkpoints, and check its hash.

    Raises:
        PerceptualUnavailable: There is no network, the bytes are others, or the folder cannot be written.
    """
    from torchvision.models import AlexNet_Weights

    url = AlexNet_Weights.IMAGENET1K_V1.url
    file = _cache() / url.rpartition("/")[2]
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        promised = _HASH.search(url)
        assert promised, "the hash is in the name"
        torch.hub.download_url_to_file(url, str(file), hash_prefix=promised[1], progress=False)
    except Exception as error:  # no network, a full disk, other bytes, a proxy that has its own errors
        reason = " ".join(str(error).split()) or type(error).__name__
        raise PerceptualUnavailable(
            f"LPIPS weights could not be downloaded from {url} ({reason}): put them at {file} by hand, or say where "
            "they are with --lpips-weights PATH."
        ) from error


class Perceptual:
    """LPIPS between pairs of images; see the module's docstring for its exact definition.

    Args:
        backbone: The trunk, from `find_backbone`.
        device: Where to compute.

    Raises:
        PerceptualUnavailable: The file is damaged, holds another network or changed since it was
            found, or the package `lpips` is missing.
    """

    def __init__(self, backbone: Backbone, device: torch.device | str = "cpu") -> None:
        self.backbone = backbone
        self.device = torch.device(device)
        try:
            import lpips  # here, so that everything else runs without it
        except ImportError as error:
            raise PerceptualUnavailable(
                f"LPIPS needs the package lpips, which cannot be imported ({error}): install it."
            ) from error
        trunk = _load_trunk(backbone)
        # `pnet_rand` avoids the download; the weights that it draws are replaced at once, and
        # the caller's random numbers stay as they were.
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # lpips calls torchvision by a deprecated argument
            self.model = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False).eval()
        # lpips cuts `features` into slices but keeps layer numbers: slice2.3.weight is 3.weight.
        own = {name.split(".", 1)[1]: name for name in self.model.net.state_dict()}
        if own.keys() != trunk.keys():
            raise _wrong(backbone, "other layers than this network has")
        try:
            self.model.net.load_state_dict({own[key]: value for key, value in trunk.items()})
        except RuntimeError as error:
            raise _wrong(backbone, "layers of other shapes than this network has") from error
        self.model.requires_grad_(False).to(self.device)

    @torch.no_grad()
    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        """Distances of the pairs `(a[m], b[m])`.

        Args:
            a: Images, `[M, C, H, W]` in [0, 1], C = 1 or 3.
            b: Images, same shape and range.

        Returns:
            `[M]` float32, 0 for identical images and larger the less alike, on `a`'s device.

        Raises:
            ValueError: The shapes differ or do not fit, or a pixel lies outside [0, 1].
        """
        if a.ndim != 4 or a.shape != b.shape or a.shape[1] not in (1, 3):
            raise ValueError(
                f"LPIPS compares [M, C, H, W] images of 1 or 3 channels, not {list(a.shape)} with {list(b.shape)}"
            )
        # lpips checks nothing. Written so that NaN fails as well.
        if not all(bool(((x >= 0) & (x <= 1)).all()) for x in (a, b)):
            raise ValueError("LPIPS needs pixels in [0, 1]")
        if len(a) == 0:
            return torch.zeros(0, device=a.device)
        parts = [
            self.model(self._prepare(x), self._prepare(y)).flatten()
            for x, y in zip(torch.split(a, _BATCH), torch.split(b, _BATCH), strict=True)
        ]
        return torch.cat(parts).to(a.device)

    def describe(self) -> dict[str, str | int]:
        """What this LPIPS is, for the provenance of a result.

        Returns:
            `net` ("alex"), `file` (name without folder), `sha256` of that file, `size` (`LPIPS_SIZE`).
        """
        return {
            "net": "alex",
            "file": Path(self.backbone.path).name,
            "sha256": self.backbone.sha256,
            "size": LPIPS_SIZE,
        }

    def _prepare(self, images: Tensor) -> Tensor:
        """`[M, 1 or 3, H, W]` in [0, 1] to `[M, 3, H', W']` in [-1, 1] on the device."""
        images = images.detach().to(self.device, torch.float32)
        images = images.expand(-1, 3, -1, -1)
        height, width = images.shape[-2:]
        shorter = min(height, width)
        if shorter < LPIPS_SIZE:
            size = (round(height * LPIPS_SIZE / shorter), round(width * LPIPS_SIZE / shorter))
            images = functional.interpolate(images, size, mode="bilinear", align_corners=False)
        return 2 * images - 1


def _cache() -> Path:
    """Torch hub's folder of checkpoints."""
    return Path(torch.hub.get_dir()) / "checkpoints"


def _short(path: Path) -> str:
    """A path that does not tell the user's name: the sentence stands in records that are published."""
    return f"~/{path.relative_to(Path.home())}" if path.is_relative_to(Path.home()) else str(path)


def _locate(path: str | Path | None) -> Path:
    """The trunk's file, which exists when this returns."""
    place = _cache() if path is None else Path(path).expanduser()
    if place.is_file():
        return place
    for name in (_WHOLE, _FEATURES):
        if (place / name).is_file():
            return place / name
    where = f"in {_short(place)}" if path is None or place.is_dir() else f"at {place}, which is not a file or folder"
    do = (
        "add --download to fetch them, or say where they are with --lpips-weights PATH"
        if path is None
        else "give their file or its folder, or leave --lpips-weights out and add --download to fetch them"
    )
    raise PerceptualUnavailable(f"LPIPS weights {_WHOLE} (or {_FEATURES}) were not found {where}: {do}.")


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise PerceptualUnavailable(
            f"LPIPS weights {file} cannot be read ({error}): see to their permissions."
        ) from error


def _load_trunk(backbone: Backbone) -> dict[str, Tensor]:
    """The trunk's tensors by their name in torchvision's `features` ("0.weight")."""
    data = _read(Path(backbone.path))
    # Hashed again: the bytes in use must be the ones that the results will name.
    if hashlib.sha256(data).hexdigest() != backbone.sha256:
        raise PerceptualUnavailable(f"LPIPS weights {backbone.path} have changed since they were found: start again.")
    try:
        state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # half a dozen unrelated types, by where the damage is
        raise _wrong(backbone, "nothing that torch can load, so it is damaged or of another kind") from error
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise _wrong(backbone, "something other than a dict of tensors")
    prefix = "features."
    if any(str(key).startswith(prefix) for key in state):  # torchvision's file: drop the classifier
        return {k.removeprefix(prefix): v for k, v in state.items() if str(k).startswith(prefix)}
    return state


def _wrong(backbone: Backbone, holds: str) -> PerceptualUnavailable:
    return PerceptualUnavailable(
        f"LPIPS weights {backbone.path} are not AlexNet's: the file holds {holds}; replace it, as by --download."
    )
