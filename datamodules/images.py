"""One image file as a square of pixels, whatever its mode and bit depth; what cannot be read right is refused."""

from pathlib import Path
from typing import Any

import numpy
import torch
from PIL import Image
from torch import Tensor

from datamodules.disk import reading
from datamodules.errors import DataError

FORMATS = ("PNG", "JPEG", "PPM", "BMP", "TIFF", "WEBP", "GIF")
"""What Pillow may take a file for: others of its formats start programs, such as the one for PostScript."""

_EIGHT_BITS = ("1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr", "HSV")
_SIXTEEN_BITS = ("I;16", "I;16L", "I;16B", "I;16N")
_TRANSPARENT = ("LA", "La", "PA", "RGBA", "RGBa")

# Tags of TIFF.
_BITS, _PHOTOMETRIC, _SAMPLE_FORMAT = 258, 262, 339


def read_square(path: Path, size: int) -> Tensor:
    """The center square of an image file, float32 in [0, 1], `[3, size, size]`; see `square`.

    Raises:
        DataError: the file cannot be read, or not rightly.
    """
    with reading(path):
        try:
            with Image.open(path, formats=FORMATS) as image:
                found = square(image, size)
        except Image.DecompressionBombError:
            raise DataError(
                f"{path} has more pixels than are decoded safely ({2 * (Image.MAX_IMAGE_PIXELS or 0):,}): scale it down"
            ) from None
        except _Unreadable as error:
            raise DataError(f"{path} {error}") from None
    return found.float() / 255 if found.dtype == torch.uint8 else found


def square(image: Image.Image, size: int) -> Tensor:
    """The center square of an image, resized with antialiasing, `[3, size, size]`.

    Of a file of several images it is the first. Transparent images are laid on white. The orientation that a camera
    notes is not followed, as torchvision does not either. Gray images of more than 8 bits and floats keep their
    precision; color images of 16 bits are read with 8 bits, which is all that Pillow has for them.

    Returns:
        uint8, or float32 in [0, 1] where the image has more than 8 bits.
    """
    pixels = _deep(image) if _is_deep(image) else _opaque(image)
    side = min(pixels.size)
    left, top = (pixels.width - side) // 2, (pixels.height - side) // 2
    # cropped first: resize(box=...) would blend in pixels from outside the square
    center = pixels.crop((left, top, left + side, top + side))
    small = torch.from_numpy(numpy.array(center.resize((size, size), Image.Resampling.BILINEAR)))  # antialiases
    return small.permute(2, 0, 1) if small.ndim == 3 else small.clamp(0, 1).expand(3, -1, -1)


class _Unreadable(Exception):
    """What is wrong with an image; the end of a sentence that begins with its path."""


def _is_deep(image: Image.Image) -> bool:
    """Whether it has more than 8 bits for each channel."""
    return image.mode in (*_SIXTEEN_BITS, "I", "F")


def _deep(image: Image.Image) -> Image.Image:
    """A gray image of 16 bits or floats as floats in [0, 1], scaled by what its kind of file can hold, not by what this
    one holds: a dark image stays dark."""
    tags: Any = getattr(image, "tag_v2", {})
    if 2 in _all(tags.get(_SAMPLE_FORMAT)):
        raise _Unreadable("has signed pixels, whose black and white are unknown: convert it to unsigned 16 bits")
    if "transparency" in image.info:
        raise _Unreadable("has 16 bits and a transparent gray: convert it to an image without transparency")
    values = numpy.asarray(image).astype(numpy.float64)
    if image.mode in _SIXTEEN_BITS or (image.mode == "I" and image.format in ("PPM", "PNG")):
        white = 2.0 ** min([*_all(tags.get(_BITS)), 16]) - 1
    elif image.mode == "F":
        white = 1.0
    else:
        raise _Unreadable("has pixels of 32 bits, whose white is unknown: convert it to unsigned 16 bits, or to floats")
    values /= white
    low, high = values.min(), values.max()
    if not (low >= 0 and high <= 1):  # NaN too
        raise _Unreadable(f"has floats from {low:.4g} to {high:.4g}: scale them to [0, 1], where 1 is white")
    if tags.get(_PHOTOMETRIC) == 0:  # Pillow leaves these negatives as they are
        values = 1 - values
    return Image.fromarray(values.astype(numpy.float32))


def _opaque(image: Image.Image) -> Image.Image:
    """An image of 8 bits for each channel as RGB, laid on white where it is transparent."""
    if 2 in _all(getattr(image, "tag_v2", {}).get(_SAMPLE_FORMAT)):
        raise _Unreadable("has signed pixels, whose black and white are unknown: convert it to unsigned 8 bits")
    if image.mode not in (*_EIGHT_BITS, *_TRANSPARENT):
        raise _Unreadable(f"has pixels of the kind {image.mode}, which cannot be read rightly: convert it to RGB")
    if not image.has_transparency_data:
        return image.convert("RGB")
    layer = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
    laid = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    if _is_flat(laid) and not _is_flat(layer):
        raise _Unreadable("shows nothing on white, as it is transparent: lay it on another color")
    return laid


def _is_flat(image: Image.Image) -> bool:
    return all(low == high for low, high in (image.getchannel(band).getextrema() for band in image.getbands()))


def _all(tag: Any) -> tuple[Any, ...]:
    """The values of a TIFF tag, none where it is missing."""
    return () if tag is None else tuple(tag) if isinstance(tag, tuple | list) else (tag,)
