"""True images beside their reconstructions."""

import base64
import io

import torch
from PIL import Image, ImageDraw, PngImagePlugin
from torch import Tensor

SHOWN = 8
"""Images in a picture; the first victims', good or bad."""

_GAP, _MARGIN, _LEAST = 4, 48, 96  # pixels

_COLUMNS = "columns"
"""Key of the text in a strip that says how many images stand beside each other."""


def strip(true: Tensor, found: Tensor) -> str:
    """True images above their reconstructions, one pixel for each pixel, as a PNG in base64.

    Args:
        true: ``[V, N, C, H, W]`` in [0, 1].
        found: the same shape; clamped.
    """
    rows = torch.stack([images.flatten(0, 1)[:SHOWN] for images in (true, found)]).clamp(0, 1)
    pixels = (rows.expand(-1, -1, 3, -1, -1) * 255).round().to(torch.uint8)
    joined = pixels.permute(0, 3, 1, 4, 2).flatten(2, 3).flatten(0, 1)  # rows of pixels, then columns
    about = PngImagePlugin.PngInfo()
    about.add_text(_COLUMNS, str(rows.shape[1]))
    file = io.BytesIO()
    Image.fromarray(joined.contiguous().numpy()).save(file, format="PNG", optimize=True, pnginfo=about)
    return base64.b64encode(file.getvalue()).decode()


def columns_of(picture: str) -> int:
    """How many images stand beside each other in what :func:`strip` made; 0 where a record holds another picture."""
    try:
        image, columns = _opened(picture)
        image.load()
    except Exception:  # a damaged file makes Pillow raise nearly anything
        return 0
    return columns if columns > 0 and image.width % columns == image.height % 2 == 0 else 0


def cut(picture: str, first: int, images: int) -> tuple[bytes, bytes]:
    """Some of the images of a strip, one pixel for each pixel.

    Args:
        picture: what :func:`strip` made.
        first: place of the first image.
        images: how many.

    Returns:
        The PNG of the true images beside each other, and that of their reconstructions.
    """
    image, columns = _opened(picture)
    width, height = image.width // columns, image.height // 2
    left, right = first * width, (first + images) * width
    return _png(image.crop((left, 0, right, height))), _png(image.crop((left, height, right, 2 * height)))


def halves(picture: str) -> tuple[Image.Image, Image.Image]:
    """The true images of a strip beside each other, and their reconstructions, as large as in :func:`enlarged`.

    Args:
        picture: what :func:`strip` made.
    """
    image, columns = _opened(picture)
    scale = _scale(image.width // columns, image.height // 2)
    width, height = image.width * scale, image.height // 2 * scale
    large = image.resize((width, 2 * height), Image.Resampling.NEAREST)
    return large.crop((0, 0, width, height)), large.crop((0, height, width, 2 * height))


def _scale(width: int, height: int) -> int:
    """How many pixels of a screen a pixel of a small image is wide and high."""
    return max(1, _LEAST // max(width, height))


def _opened(picture: str) -> tuple[Image.Image, int]:
    """The image of a strip, and its columns."""
    image = Image.open(io.BytesIO(base64.b64decode(picture)))
    return image, int(image.info.get(_COLUMNS, image.width // (image.height // 2)))  # older strips are of squares


def _png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, format="PNG", optimize=True)
    return file.getvalue()


def enlarged(picture: str) -> bytes:
    """The PNG of a strip for people: larger, with gaps between the images and a name for each row.

    Args:
        picture: what :func:`strip` made.
    """
    image, columns = _opened(picture)
    height = image.height // 2
    width = image.width // columns
    scale = _scale(width, height)
    across, down = width * scale + _GAP, height * scale + _GAP
    sheet = Image.new("RGB", (_MARGIN + columns * across + _GAP, 2 * down + _GAP), "white")
    for row, name in enumerate(("private", "found")):
        ImageDraw.Draw(sheet).text((_GAP, row * down + down // 2), name, fill="black")
        for column in range(columns):
            left, top = column * width, row * height
            tile = image.crop((left, top, left + width, top + height))
            tile = tile.resize((width * scale, height * scale), Image.Resampling.NEAREST)
            sheet.paste(tile, (_MARGIN + column * across + _GAP, row * down + _GAP))
    return _png(sheet)
