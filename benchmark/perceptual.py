"""LPIPS, the learned perceptual distance (Zhang et al. 2018, arXiv 1801.03924), without a download.

The heads come with the `lpips` package; the ImageNet trunk is a file that the user has. It is
looked for, checked and loaded here, and its hash stands beside every result: a trunk of random
weights gives small, plausible numbers, and neither `lpips` nor torchmetrics would notice.

What this LPIPS is, exactly: version 0.1 of the heads, pixels scaled from [0, 1] to [-1, 1], grey
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
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

Net = Literal["alex", "squeeze"]

LPIPS_SIZE = 64
"""Shorter side, in pixels, to which smaller images are enlarged before LPIPS."""

_BATCH = 64  # images at a time: bounds the memory, changes no result

# Torchvision's own file first, then the same layers without the classifier.
_FILES: dict[str, tuple[str, str]] = {
    "alex": ("alexnet-owt-7be5be79.pth", "alexnet_features.pth"),
    "squeeze": ("squeezenet1_1-b8a52dc0.pth", "squeezenet1_1_features.pth"),
}


class PerceptualUnavailable(RuntimeError):
    """LPIPS can not be measured here; the message is one sentence that says why and what to do."""


@dataclass(frozen=True)
class Backbone:
    """A trunk file for LPIPS.

    Attributes:
        net: Which network it holds.
        path: Where it is.
        sha256: Hash of the whole file, 64 hexadecimal digits.
    """

    net: Net
    path: Path
    sha256: str


def find_backbone(net: Net = "alex", path: str | Path | None = None) -> Backbone:
    """Find the trunk's file. Never downloads.

    Two forms are accepted: torchvision's checkpoint, and one with the `features` layers alone
    (`alexnet_features.pth`, `squeezenet1_1_features.pth`). A file name that ends in the start
    of a hash, as torchvision's do, must tell the truth. What is inside is looked at by
    `Perceptual`.

    Args:
        net: Trunk: "alex", the one that papers report, or "squeeze", which is smaller.
        path: A file, or a folder to look in; without it, torch hub's folder of checkpoints.

    Returns:
        The file and its hash.

    Raises:
        PerceptualUnavailable: There is no such file, it can not be read, or its hash is not the
            one in its name.
        ValueError: `net` is unknown.
    """
    if net not in _FILES:
        raise ValueError(f"net must be one of {', '.join(_FILES)}, not {net!r}")
    file = _locate(net, path)
    sha256 = hashlib.sha256(_read(file)).hexdigest()
    promised = re.search(r"-([0-9a-f]{8,64})\.pth$", file.name)
    if promised and not sha256.startswith(promised[1]):
        raise PerceptualUnavailable(
            f"LPIPS weights {file} are damaged or not what their name says: sha256 starts with "
            f"{sha256[: len(promised[1])]}, not {promised[1]}."
        )
    return Backbone(net, file, sha256)


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
                f"LPIPS needs the package lpips, which can not be imported ({error})."
            ) from error
        trunk = _load_trunk(backbone)
        # `pnet_rand` avoids the download; the weights that it draws are replaced at once, and
        # the caller's random numbers stay as they were.
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # lpips calls torchvision by a deprecated argument
            self.model = lpips.LPIPS(net=backbone.net, pnet_rand=True, verbose=False).eval()
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
            `net`, `file` (name without folder), `sha256` of that file, `size` (`LPIPS_SIZE`).
        """
        return {
            "net": self.backbone.net,
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


def _locate(net: Net, path: str | Path | None) -> Path:
    """The trunk's file, which exists when this returns."""
    cache = Path(torch.hub.get_dir()) / "checkpoints"
    place = cache if path is None else Path(path).expanduser()
    if place.is_file():
        return place
    for name in _FILES[net]:
        if (place / name).is_file():
            return place / name
    full, features = _FILES[net]
    where = f"in {place}" if path is None or place.is_dir() else f"at {place}, which is not there"
    into = "there" if path is None else f"into {cache}"
    raise PerceptualUnavailable(
        f"LPIPS weights {full} (or {features}) not found {where}; give the file or its folder "
        f"with --lpips-weights PATH, or put it {into}."
    )


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise PerceptualUnavailable(f"LPIPS weights {file} can not be read: {error}.") from error


def _load_trunk(backbone: Backbone) -> dict[str, Tensor]:
    """The trunk's tensors by their name in torchvision's `features` ("0.weight")."""
    data = _read(Path(backbone.path))
    # Hashed again: the bytes in use must be the ones that the results will name.
    if hashlib.sha256(data).hexdigest() != backbone.sha256:
        raise PerceptualUnavailable(f"LPIPS weights {backbone.path} have changed since they were found.")
    try:
        state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # half a dozen unrelated types, by where the damage is
        raise _wrong(backbone, "nothing that torch can load, so it is damaged or of another kind") from error
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise _wrong(backbone, "something else than a dict of tensors")
    prefix = "features."
    if any(str(key).startswith(prefix) for key in state):  # torchvision's file: drop the classifier
        return {k.removeprefix(prefix): v for k, v in state.items() if str(k).startswith(prefix)}
    return state


def _wrong(backbone: Backbone, holds: str) -> PerceptualUnavailable:
    return PerceptualUnavailable(
        f"LPIPS weights {backbone.path} do not fit the network {backbone.net!r}: the file holds {holds}."
    )
