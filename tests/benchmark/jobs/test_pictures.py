"""Strips and sheets hold each image where it belongs, whatever its shape."""

import base64
import io

import numpy
import pytest
import torch
from PIL import Image
from torch import Tensor

from benchmark.jobs.pictures import SHOWN, columns_of, cut, enlarged, halves, strip


def opened(content: bytes) -> Image.Image:
    return Image.open(io.BytesIO(content))


def tiles(sheet: Image.Image, height: int, width: int, count: int) -> Tensor:
    """The images of a sheet, `[2, count, height, width, 3]`; checks size and gaps too."""
    scale = max(1, 96 // max(height, width))
    across, down = width * scale + 4, height * scale + 4
    assert sheet.size == (48 + count * across + 4, 2 * down + 4)
    pixels = torch.from_numpy(numpy.array(sheet))
    found = torch.empty(2, count, height, width, 3, dtype=torch.uint8)
    for row in range(2):
        for column in range(count):
            top, left = 4 + row * down, 48 + 4 + column * across
            tile = pixels[top : top + height * scale, left : left + width * scale]
            found[row, column] = tile[scale // 2 :: scale, scale // 2 :: scale]
            assert (pixels[top - 1, left : left + width * scale] == 255).all(), "a gap above"
            assert (pixels[top : top + height * scale, left - 1] == 255).all() or column == 0, "a gap beside"
    return found


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("height", "width"), [(8, 8), (7, 5), (5, 7), (1, 9), (9, 1), (28, 32), (100, 60), (60, 130), (1, 1)]
)
@pytest.mark.parametrize(("victims", "batch"), [(3, 1), (2, 2), (9, 1), (1, 1)])
def test_each_image_is_cut_right(channels: int, height: int, width: int, victims: int, batch: int) -> None:
    generator = torch.Generator().manual_seed(0)
    true, found = torch.rand(2, victims, batch, channels, height, width, generator=generator)
    shown = min(SHOWN, victims * batch)
    both = tiles(opened(enlarged(strip(true, found))), height, width, shown)
    for images, row in ((true, both[0]), (found, both[1])):
        expected = (images.flatten(0, 1)[:shown].expand(-1, 3, -1, -1) * 255).round().byte()
        assert torch.equal(row.permute(0, 3, 1, 2), expected)


def test_a_strip_of_before_is_one_of_squares() -> None:
    """Records hold them: there was nothing in them but pixels."""
    images = torch.rand(5, 1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    file = io.BytesIO()
    now = opened(base64.b64decode(strip(images, images)))
    Image.fromarray(numpy.array(now)).save(file, format="PNG")
    assert enlarged(base64.b64encode(file.getvalue()).decode()) == enlarged(strip(images, images))


def test_what_is_cut_from_a_strip_are_the_images_of_a_victim() -> None:
    true, found = torch.rand(2, 2, 3, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    picture = strip(true, found)
    assert columns_of(picture) == 6
    for png, images in zip(cut(picture, 3, 3), (true[1], found[1]), strict=True):
        pixels = torch.from_numpy(numpy.array(opened(png))).permute(2, 0, 1)
        assert torch.equal(pixels, (torch.cat(list(images), dim=2) * 255).round().to(torch.uint8))


def test_the_halves_of_a_strip_are_its_rows_each_pixel_a_square() -> None:
    true, found = torch.rand(2, 3, 1, 3, 40, 30, generator=torch.Generator().manual_seed(0))
    for half, images in zip(halves(strip(true, found)), (true, found), strict=True):
        assert half.size == (3 * 60, 80)  # 96 pixels or less for the longer side
        beside = (torch.cat(list(images.flatten(0, 1)), dim=2) * 255).round().to(torch.uint8)
        pixels = torch.from_numpy(numpy.array(half)).permute(2, 0, 1)
        assert torch.equal(pixels, beside.repeat_interleave(2, 1).repeat_interleave(2, 2))


@pytest.mark.parametrize("picture", ["", "AAAA", base64.b64encode(b"\x89PNG\r\n\x1a\n").decode()])
def test_what_is_no_strip_has_no_columns(picture: str) -> None:
    assert columns_of(picture) == 0
