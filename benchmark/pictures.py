"""True images beside their reconstructions."""

import base64
import io

import torch
from PIL import Image, ImageDraw
from torch import Tensor

SHOWN = 8
"""Images in a picture; the first victims', good or bad."""

_GAP, _MARGIN = 4, 48  # pixels


def strip(true: Tensor, found: Tensor) -> str:
    """True images above their reconstructions, one pixel for each pixel, as a PNG in base64.

    Args:
        true: ``[V, N, C, H, W]`` in [0, 1].
        found: the same shape; clamped.
    """
    rows = torch.stack([images.flatten(0, 1)[:SHOWN] for images in (true, found)]).clamp(0, 1)
    pixels = (rows.expand(-1, -1, 3, -1, -1) * 255).round().to(torch.uint8)
    joined = pixels.permute(0, 3, 1, 4, 2).flatten(2, 3).flatten(0, 1)  # rows of pixels, then columns
    file = io.BytesIO()
    Image.fromarray(joined.contiguous().numpy()).save(file, format="PNG", optimize=True)
    return base64.b64encode(file.getvalue()).decode()


def enlarged(picture: str) -> bytes:
    """The PNG of a strip for people: larger, with gaps between the images and a name for each row.

    Args:
        picture: what :func:`strip` made.
    """
    image = Image.open(io.BytesIO(base64.b64decode(picture)))
    side = image.height // 2
    columns, scale = image.width // side, max(1, 96 // side)
    cell = side * scale + _GAP
    sheet = Image.new("RGB", (_MARGIN + columns * cell + _GAP, 2 * cell + _GAP), "white")
    for row, name in enumerate(("private", "found")):
        ImageDraw.Draw(sheet).text((_GAP, row * cell + cell // 2), name, fill="black")
        for column in range(columns):
            tile = image.crop((column * side, row * side, (column + 1) * side, (row + 1) * side))
            tile = tile.resize((side * scale, side * scale), Image.Resampling.NEAREST)
            sheet.paste(tile, (_MARGIN + column * cell + _GAP, row * cell + _GAP))
    file = io.BytesIO()
    sheet.save(file, format="PNG", optimize=True)
    return file.getvalue()
