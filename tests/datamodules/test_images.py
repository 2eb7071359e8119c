"""Image files of every mode and bit depth, against numpy's own arithmetic on the pixels that were written."""

import io
import os
import socket
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from PIL import Image, ImageCms

from datamodules import DataError, ImageFolder
from datamodules.images import read_square, square

SIDE = 6
Array = numpy.ndarray[Any, Any]


def noise(*shape: int, high: int = 256, dtype: Any = numpy.uint8, seed: int = 0) -> Array:
    return numpy.random.default_rng(seed).integers(0, high, (SIDE, SIDE, *shape)).astype(dtype)


def read(folder: Path, content: bytes | Image.Image, name: str = "a.png", **how: Any) -> Array:
    """The pixels of a file, unscaled in space, `[H, W, 3]`."""
    path = folder / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        content.save(path, **how)
    found = read_square(path, SIDE)
    assert found.dtype == torch.float32 and found.shape == (3, SIDE, SIDE)
    return found.permute(1, 2, 0).numpy()


def assert_is(found: Array, expected: Array, within: float = 1e-6) -> None:
    expected = expected if expected.ndim == 3 else expected[..., None].repeat(3, -1)
    assert numpy.abs(found - expected).max() <= within
    assert expected.std() > 0.1, "else white or black would pass"


def png(pixels: Array, color: int) -> bytes:
    """A PNG of 16 bits, written by hand: Pillow writes none in color."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", SIDE, SIDE, 16, color, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def tiff(pixels: Array, bits: int, photometric: int = 1, kind: int = 1, content: bytes | None = None) -> bytes:
    """A TIFF in little endian, written by hand: Pillow writes few kinds."""
    order, data = (">" if pixels.dtype.byteorder == ">" else "<"), pixels.tobytes() if content is None else content
    samples = pixels.shape[2] if pixels.ndim == 3 else 1
    data += b"\0" * (len(data) % 2)
    more = b"".join(struct.pack(f"{order}{samples}H", *[value] * samples) for value in (bits, kind))
    places = [8 + len(data), 8 + len(data) + 2 * samples] if samples > 2 else [bits, kind]
    tags = [
        (256, 4, 1, SIDE), (257, 4, 1, SIDE), (258, 3, samples, places[0]), (259, 3, 1, 1), (262, 3, 1, photometric),
        (273, 4, 1, 8), (277, 3, 1, samples), (278, 4, 1, SIDE), (279, 4, 1, len(data)), (339, 3, samples, places[1]),
    ]  # fmt: skip # a line for each would take a page
    entries = b"".join(
        struct.pack(f"{order}HHI", *tag[:3])
        + (struct.pack(f"{order}HH", tag[3], 0) if tag[1] == 3 and tag[2] == 1 else struct.pack(f"{order}I", tag[3]))
        for tag in tags
    )
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", 8 + len(data) + len(more))
    return head + data + more + struct.pack(f"{order}H", len(tags)) + entries + bytes(4)


# 8 bits


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.tif", "a.ppm", "a.webp"])
def test_color_and_gray_of_8_bits_are_what_they_were(tmp_path: Path, name: str) -> None:
    lossless = {"lossless": True} if name == "a.webp" else {}
    assert_is(read(tmp_path, Image.fromarray(noise(3)), name, **lossless), noise(3) / 255)
    assert_is(read(tmp_path, Image.fromarray(noise()), name, **lossless), noise() / 255)


def test_color_of_8_bits_is_resized_as_it_always_was(tmp_path: Path) -> None:
    """Checksums of published records rest on it."""
    pixels = numpy.random.default_rng(1).integers(0, 256, (40, 50, 3), dtype=numpy.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    expected = Image.fromarray(pixels[:, 5:45]).resize((8, 8), Image.Resampling.BILINEAR)
    assert torch.equal(
        read_square(tmp_path / "a.png", 8), torch.from_numpy(numpy.array(expected)).permute(2, 0, 1).float() / 255
    )


def test_black_and_white(tmp_path: Path) -> None:
    bits = noise(high=2)
    for name in ("a.png", "a.tif", "a.bmp"):
        assert_is(read(tmp_path, Image.fromarray(bits.astype(bool)), name), bits.astype(float))


def test_palette(tmp_path: Path) -> None:
    colors, index = noise(3).reshape(-1, 3)[:8], noise(high=8)
    image = Image.fromarray(index, "P")
    image.putpalette(colors.tobytes())
    for bits in (8, 4):
        assert_is(read(tmp_path, image, bits=bits), colors[index] / 255)


def test_gray_of_2_and_4_bits_has_a_range_of_its_own(tmp_path: Path) -> None:
    for bits in (2, 4):
        values = noise(high=2**bits)
        rows = numpy.unpackbits(values[..., None], axis=-1)[..., -bits:].reshape(SIDE, -1)
        content = numpy.packbits(rows, axis=1).tobytes()
        assert_is(read(tmp_path, tiff(values, bits, content=content), "a.tif"), values / (2**bits - 1))


def test_cmyk(tmp_path: Path) -> None:
    inks = noise(4).astype(float)
    image = Image.fromarray(noise(4), "CMYK")
    expected = (255 - inks[..., :3]) * (255 - inks[..., 3:]) / 255**2
    assert_is(read(tmp_path, image, "a.tif"), expected, within=1.01 / 255)
    flat = Image.new("CMYK", (SIDE, SIDE), (200, 20, 90, 30))
    flat.paste((0, 60, 0, 0), (0, 0, SIDE, 3))
    for row, inks in ((1, numpy.array([0, 60, 0, 0])), (5, numpy.array([200, 20, 90, 30]))):
        large = flat.resize((64, 64), Image.Resampling.NEAREST)
        large.save(tmp_path / "a.jpg", quality=100, subsampling=0)
        found = read_square(tmp_path / "a.jpg", 64).numpy()[:, row * 10, 10]
        assert numpy.abs(found - (255 - inks[:3]) * (255 - inks[3]) / 255**2).max() < 3 / 255


def test_hsv_and_ycbcr() -> None:
    import colorsys

    pixels = noise(3)
    expected = numpy.array([[colorsys.hsv_to_rgb(*pixel) for pixel in row] for row in pixels / 255])
    assert_is(square(Image.fromarray(pixels, "HSV"), SIDE).permute(1, 2, 0).numpy() / 255, expected, within=3 / 255)
    y, cb, cr = (pixels[..., i].astype(float) - (128 if i else 0) for i in range(3))
    expected = numpy.stack([y + 1.402 * cr, y - 0.344136 * cb - 0.714136 * cr, y + 1.772 * cb], -1).clip(0, 255) / 255
    assert_is(square(Image.fromarray(pixels, "YCbCr"), SIDE).permute(1, 2, 0).numpy() / 255, expected, within=2 / 255)


# Transparency


@pytest.mark.parametrize(("mode", "channels"), [("RGBA", 4), ("LA", 2)])
def test_transparent_images_are_laid_on_white(tmp_path: Path, mode: str, channels: int) -> None:
    pixels = noise(channels)
    share = pixels[..., -1:] / 255
    expected = pixels[..., :-1] / 255 * share + 1 - share
    expected = expected if channels == 4 else expected[..., 0]
    for name in ("a.png", "a.tif"):
        assert_is(read(tmp_path, Image.fromarray(pixels, mode), name), expected, within=1.01 / 255)
    pixels[..., -1] = 255
    opaque = pixels[..., :-1] if channels == 4 else pixels[..., 0]
    assert_is(read(tmp_path, Image.fromarray(pixels, mode)), opaque / 255)


def test_premultiplied_and_palette_transparency() -> None:
    pixels = noise(4)
    expected = square(Image.fromarray(pixels, "RGBA"), SIDE).int()
    assert (square(Image.fromarray(pixels, "RGBA").convert("RGBa"), SIDE).int() - expected).abs().float().mean() < 3
    gray = Image.fromarray(noise(2), "LA")
    assert (square(gray.convert("La"), SIDE).int() - square(gray, SIDE).int()).abs().float().mean() < 3
    palette = Image.fromarray(noise(high=8), "P")
    palette.putpalette(noise(3).tobytes())
    laid = square(palette.convert("PA"), SIDE)
    assert torch.equal(laid, square(palette, SIDE))
    palette.info["transparency"] = 3
    white = torch.from_numpy(noise(high=8) == 3)
    assert torch.equal(square(palette, SIDE), laid.masked_fill(white, 255))


def test_a_drawing_that_is_all_in_its_transparency_is_not_read_as_black(tmp_path: Path) -> None:
    strokes = numpy.zeros((SIDE, SIDE, 4), numpy.uint8)
    strokes[..., 3] = noise()
    assert_is(read(tmp_path, Image.fromarray(strokes)), 1 - noise() / 255, within=1.01 / 255)
    strokes[..., :3] = 255
    with pytest.raises(DataError, match=r"a\.png shows nothing on white"):
        read(tmp_path, Image.fromarray(strokes))


# More than 8 bits


def test_gray_of_16_bits(tmp_path: Path) -> None:
    values = noise(high=65536, dtype=numpy.uint16)
    assert_is(read(tmp_path, Image.fromarray(values)), values / 65535)
    assert_is(read(tmp_path, Image.fromarray(values), "a.tif"), values / 65535)
    assert_is(read(tmp_path, png(values, 0)), values / 65535)
    assert_is(read(tmp_path, tiff(values.astype("<u2"), 16), "a.tif"), values / 65535)
    assert_is(read(tmp_path, tiff(values.astype(">u2"), 16), "a.tif"), values / 65535)
    assert_is(read(tmp_path, b"P5\n6 6\n65535\n" + values.astype(">u2").tobytes(), "a.pgm"), values / 65535)
    for mode in ("I;16", "I;16L", "I;16B"):
        raw = Image.frombytes(mode, (SIDE, SIDE), values.astype(">u2" if mode == "I;16B" else "<u2").tobytes())
        assert_is(square(raw, SIDE).permute(1, 2, 0).numpy(), values / 65535)


def test_negatives_of_tiff_are_turned(tmp_path: Path) -> None:
    values = noise(high=65536, dtype=numpy.uint16)
    assert_is(read(tmp_path, tiff(values, 16, photometric=0), "a.tif"), 1 - values / 65535)
    assert_is(read(tmp_path, tiff(noise(), 8, photometric=0), "a.tif"), 1 - noise() / 255)


def test_12_bits_are_scaled_by_what_the_file_can_hold(tmp_path: Path) -> None:
    values = noise(high=4096, dtype=numpy.uint16)
    bits = numpy.unpackbits(values.astype(">u2").view(numpy.uint8).reshape(SIDE, SIDE, 2), axis=-1)[..., 4:]
    packed = numpy.packbits(bits.reshape(SIDE, -1), axis=1).tobytes()
    assert_is(read(tmp_path, tiff(values, 12, content=packed), "a.tif"), values / 4095)
    content = b"P5\n6 6\n4095\n" + values.astype(">u2").tobytes()
    assert_is(read(tmp_path, content, "a.pgm"), values / 4095, within=1e-4)  # Pillow scales it to 65535
    # in 16 bits they are dark, which they are: nobody can tell them from a dark image
    assert numpy.abs(read(tmp_path, Image.fromarray(values)) - values[..., None] / 65535).max() < 1e-6


@pytest.mark.parametrize("kind", ["png", "ppm", "tif"])
def test_color_of_16_bits_has_the_precision_of_8(tmp_path: Path, kind: str) -> None:
    values = noise(3, high=65536, dtype=numpy.uint16)
    content = {
        "png": lambda: png(values, 2),
        "ppm": lambda: b"P6\n6 6\n65535\n" + values.astype(">u2").tobytes(),
        "tif": lambda: tiff(values, 16, photometric=2),
    }[kind]()
    assert_is(read(tmp_path, content, f"a.{kind}"), values / 65535, within=1.01 / 255)


def test_gray_of_16_bits_keeps_its_precision_when_it_is_resized(tmp_path: Path) -> None:
    values = numpy.linspace(30000, 30400, 32 * 48).reshape(32, 48).astype(numpy.uint16)  # two gray levels of 8 bits
    Image.fromarray(values).save(tmp_path / "a.png")
    found = read_square(tmp_path / "a.png", 8)
    assert found.shape == (3, 8, 8) and len(found.unique()) > 50
    assert abs(found.mean() - values[:, 8:40].mean() / 65535) < 1e-5


def test_floats_in_the_range_are_taken_and_others_refused(tmp_path: Path) -> None:
    values = (noise(high=65536, dtype=numpy.uint16) / 65535).astype(numpy.float32)
    assert_is(read(tmp_path, Image.fromarray(values), "a.tif"), values)
    assert_is(read(tmp_path, tiff(values, 32, photometric=0, kind=3), "a.tif"), 1 - values)
    for wrong in (values * 255, values - 0.5, (values - 0.1307) / 0.3081, numpy.where(values > 0.9, numpy.nan, values)):
        with pytest.raises(DataError, match=r"a\.tif has floats from .* to .*: scale them to \[0, 1\]"):
            read(tmp_path, Image.fromarray(wrong.astype(numpy.float32)), "a.tif")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (tiff(noise(high=60000, dtype=numpy.int32), 32, kind=2), "signed pixels"),
        (tiff(noise(high=60000, dtype=numpy.uint32), 32), "pixels of 32 bits"),
        (tiff(noise(high=30000, dtype=numpy.int16), 16, kind=2), "signed pixels"),
        (tiff(noise(high=100, dtype=numpy.int8), 8, kind=2), "signed pixels"),
        (tiff(noise(high=2) / 2, 64, kind=3), "is damaged or not of the expected format"),
        (tiff((noise(3, high=2) / 2).astype(numpy.float32), 32, photometric=2, kind=3), "not of the expected format"),
    ],
)
def test_what_cannot_be_read_rightly_is_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    with pytest.raises(DataError, match=rf"a\.tif .*{reason}"):
        read(tmp_path, content, "a.tif")


def test_lab_is_refused(tmp_path: Path) -> None:
    profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    lab = ImageCms.profileToProfile(Image.fromarray(noise(3)), *profiles, outputMode="LAB")
    assert lab is not None
    with pytest.raises(DataError, match=r"a\.tif has pixels of the kind LAB.*convert it to RGB"):
        read(tmp_path, lab, "a.tif")


# Files


def test_the_first_of_several_images_is_taken(tmp_path: Path) -> None:
    first, second = (Image.fromarray(noise(3, seed=seed)) for seed in (0, 1))
    for name in ("a.png", "a.tif", "a.webp"):
        more = {"lossless": True} if name == "a.webp" else {}
        assert_is(read(tmp_path, first, name, save_all=True, append_images=[second], **more), noise(3) / 255)


def test_the_cameras_orientation_is_not_followed(tmp_path: Path) -> None:
    tags = Image.Exif()
    tags[274] = 6
    assert_is(read(tmp_path, Image.fromarray(noise(3)), exif=tags), noise(3) / 255)


@pytest.mark.parametrize("kept", [0.3, 0.9])
@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tif", "a.bmp", "a.webp", "a.ppm"])
def test_a_truncated_file_is_refused(tmp_path: Path, name: str, kept: float) -> None:
    file = io.BytesIO()
    pixels = numpy.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=numpy.uint8)
    Image.fromarray(pixels).save(file, Image.registered_extensions()[Path(name).suffix])
    whole = file.getvalue()
    with pytest.raises(DataError, match=f"{name} is damaged"):
        read(tmp_path, whole[: int(kept * len(whole))], name)


def test_a_picture_of_too_many_pixels_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(DataError, match=r"a\.png has more pixels than are decoded safely \(20\): scale it down"):
        read(tmp_path, Image.fromarray(noise(3)))


def test_no_program_is_started_for_a_file(tmp_path: Path) -> None:
    """Pillow gives PostScript, whatever the file is called, to another program."""
    with pytest.raises(DataError, match=r"a\.png is damaged or not of the expected format \(UnidentifiedImageError\)"):
        read(tmp_path, b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 6 6\n%%EndComments\nshowpage\n")


@pytest.mark.timeout(10)
@pytest.mark.parametrize("kind", ["pipe", "socket", "folder", "device", "lost link"])
def test_what_is_no_file_does_not_hang(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
        Image.fromarray(noise(3)).save(tmp_path / name / "1.png")
    monkeypatch.chdir(tmp_path)  # a socket's path must be short
    path = Path("a/0.png")
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(str(path))
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero" if kind == "device" else "nowhere")
    data = ImageFolder(".", root=".", size=8)
    with pytest.raises(DataError, match=r"a/0\.png is not a regular file"):
        data.setup()
    path.rmdir() if kind == "folder" else path.unlink()
    path.symlink_to("1.png")
    data.setup()
    assert data.num_victims() == 3, "a link to a file is a file"
