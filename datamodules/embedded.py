"""Data that come with scikit-learn: no files to get, no root, no download."""

import torch
from PIL import Image
from sklearn.datasets import load_digits, load_sample_image

from datamodules.base import PrivateData, Split, TensorSplit
from datamodules.images import square


class Digits(PrivateData):
    """Digits: 8x8 gray handwritten digits that ship with scikit-learn, no download.

    The 1,797 images of the UCI "Optical Recognition of Handwritten Digits" test set: the first
    1,297 are public (train), the last 500 private (test).
    """

    num_classes = 10
    image_shape = (1, 8, 8)

    def load(self, train: bool) -> Split:
        digits = load_digits()
        part = slice(None, 1297) if train else slice(1297, None)
        images = torch.from_numpy(digits.images[part]).float().unsqueeze(1) / 16
        return TensorSplit(images, torch.from_numpy(digits.target[part]).long())


class Photos(PrivateData):
    """Photos: 120 color crops of two photographs that ship with scikit-learn, no download.

    The crops are the whole 64x64 squares of a fixed grid, in strides over the photograph, since its
    top row is all sky. The label tells the photograph, and victims alternate between the two. Every
    third crop is public (train), the others are private (test). The photographs are "china.jpg" by danielbuechele
    (flickr.com/photos/danielbuechele/6061409035) and "flower.jpg" by vultilion
    (flickr.com/photos/vultilion/6056698931), both under CC BY 2.0
    (creativecommons.org/licenses/by/2.0), here cropped and resized.

    Args:
        size: Height and width to which the crops are resized.
    """

    num_classes = 2
    crop = 64
    first, stride = 33, 23  # no factor in common with the 60 crops of a photograph

    def __init__(self, size: int = 32) -> None:
        super().__init__()
        if size < 1:
            raise ValueError(f"size must be at least 1 pixel, not {size}.")
        self.image_shape = (3, size, size)

    def load(self, train: bool) -> Split:
        photos = [self._crops(name) for name in ("china.jpg", "flower.jpg")]
        pairs = enumerate(zip(*photos, strict=True))
        turns = [crops for place, crops in pairs if (place % 3 == 2) == train]
        pixels = [square(crop, self.image_shape[1]) for crops in turns for crop in crops]
        return TensorSplit(torch.stack(pixels), torch.tensor([0, 1]).repeat(len(turns)))

    def _crops(self, name: str) -> list[Image.Image]:
        photo = Image.fromarray(load_sample_image(name))
        crops = [
            photo.crop((left, top, left + self.crop, top + self.crop))
            for top in range(0, photo.height - self.crop + 1, self.crop)
            for left in range(0, photo.width - self.crop + 1, self.crop)
        ]
        return [crops[(self.first + self.stride * place) % len(crops)] for place in range(len(crops))]
