"""A small vision transformer."""

from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import pad
from torchvision.models import VisionTransformer

from benchmark.models.draw import Model, Shape


class ViT(VisionTransformer, Model):  # type: ignore[misc] # torchvision has no types
    """A small vision transformer, torchvision's: patches and a class token, pre-norm attention, GELU.

    Dosovitskiy et al. 2021 (arXiv 2010.11929, section 3.1), with torchvision's names of parameters and initialization
    but for the head: torchvision's starts at zero, so that a first update would tell nothing of the layers below. Here
    it is normal with a standard deviation of 0.02. Images that are no square of whole patches are padded with zeros at
    the right and the bottom. Attention is computed in the form whose gradient has a gradient. The defaults give 0.8
    million parameters; ViT-B has width 768, depth 12 and heads 12, ViT-Ti width 192, depth 12 and heads 3, both with
    patches of 16 on 224 pixels.

    Args:
        image_shape: (C, H, W), given by the data.
        num_classes: given by the data.
        patch_size: side of a patch in pixels, at least 1.
        width: of a token, at least 1 and a multiple of heads.
        depth: number of transformer blocks, at least 1.
        heads: of the attention, at least 1.
    """

    def __init__(
        self,
        image_shape: Shape,
        num_classes: int,
        patch_size: int = 4,
        width: int = 128,
        depth: int = 4,
        heads: int = 4,
    ) -> None:
        for name, value in (("patch_size", patch_size), ("width", width), ("depth", depth), ("heads", heads)):
            if value < 1:
                raise ValueError(f"{name} is {value}, but must be at least 1")
        if width % heads:
            raise ValueError(f"width is {width} and heads is {heads}, but the width must be a multiple of the heads")
        channels, *sides = image_shape
        side = -(-max(sides) // patch_size) * patch_size
        super().__init__(side, patch_size, depth, heads, width, 4 * width, num_classes=num_classes)
        self.side = side
        if channels != 3:
            self.conv_proj = patches = nn.Conv2d(channels, width, patch_size, patch_size)
            nn.init.trunc_normal_(patches.weight, std=patches.weight[0].numel() ** -0.5)
            nn.init.constant_(patches.get_parameter("bias"), 0)
        nn.init.trunc_normal_(self.get_parameter("heads.head.weight"), std=0.02)
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``[N, K]`` of images ``[N, C, H, W]``."""
        height, width = images.shape[-2:]
        with sdpa_kernel(SDPBackend.MATH):
            logits: Tensor = super().forward(pad(images, (0, self.side - width, 0, self.side - height)))
        return logits
