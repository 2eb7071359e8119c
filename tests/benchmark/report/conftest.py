"""Records with pictures, curves and names of others."""

import base64
import io
from collections.abc import Callable
from typing import Any

import pytest
from PIL import Image, PngImagePlugin

from tests.conftest import MakeRecord

Record = dict[str, Any]
MakeCell = Callable[..., Record]


def strip_of(images: int, size: int = 2) -> str:
    """A strip as records hold it: image i is of gray 10 i, its reconstruction of 10 i + 5."""
    strip = Image.new("RGB", (images * size, 2 * size))
    for place in range(images):
        for row, gray in enumerate((10 * place, 10 * place + 5)):
            strip.paste((gray,) * 3, (place * size, row * size, (place + 1) * size, (row + 1) * size))
    about, file = PngImagePlugin.PngInfo(), io.BytesIO()
    about.add_text("columns", str(images))
    strip.save(file, format="PNG", pnginfo=about)
    return base64.b64encode(file.getvalue()).decode()


def gray_of(png: str) -> list[int]:
    """The grays of a picture, from left to right."""
    image = Image.open(io.BytesIO(base64.b64decode(png)))
    return [image.getpixel((column, 0))[0] for column in range(0, image.width, 2)]  # type: ignore[index] # it is in color


@pytest.fixture(scope="session")
def cell(made_record: MakeRecord) -> MakeCell:
    """A record whose victims have these PSNRs, one image each; no baseline is better than 11.5 dB."""

    def make(*psnr: float, defense: Any = None, adaptive: bool = False, attack: Any = None, **config: Any) -> Record:
        named = {"defense": defense, "adaptive": adaptive, "attack": attack or {"class": "IDLG"}}
        record = made_record(count=len(psnr), **named, **config)
        for victim, value in zip(record["victims"], psnr, strict=True):
            victim["psnr"], victim["mse"] = [value], [10 ** (-value / 10)]
            victim["leaked_any"] = victim["leaked_all"] = value >= 20
        return record | {"picture": strip_of(min(8, len(psnr)))}

    return make
