"""True images beside their reconstructions."""

import base64
import io

import torch
from PIL import Image
from torch import Tensor

SHOWN = 8
"""Images in a picture; the first victims', good or bad."""


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
    """The PNG of a strip for people: larger, with gaps between the images.

    Args:
        picture: what :func:`strip` made.
    """
    image = Image.open(io.BytesIO(base64.b64decode(picture)))
    side = image.height // 2
    scale, gap = max(1, 96 // side), 4
    columns = image.width // side
    cell = side * scale + gap
    sheet = Image.new("RGB", (columns * cell + gap, 2 * cell + gap), "white")
    for row in range(2):
        for column in range(columns):
            tile = image.crop((column * side, row * side, (column + 1) * side, (row + 1) * side))
            tile = tile.resize((side * scale, side * scale), Image.Resampling.NEAREST)
            sheet.paste(tile, (gap + column * cell, gap + row * cell))
    file = io.BytesIO()
    sheet.save(file, format="PNG", optimize=True)
    return file.getvalue()
