"""Stage one: tokens of cached frames by a frozen video backbone, over a fixed grid of views.

Legend: V views, T frames of a clip, T' time steps of the backbone, S side of an image, G side of the kept
grid, D width.

Each time step gives the mean of its patches and, for G above 0, its patches averaged to G x G, row by row. They are
read as tokens of frames are: the mean is in the place of the class token.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from unialign.cache.arrays import ArraySpec
from unialign.cache.digests import file_digest
from unialign.errors import CorruptInput, StaleCache, UsageError
from unialign.stages.device import resolve_device
from unialign.stages.extraction.tokens import ViewTokens
from unialign.stages.foreign_weights import load_foreign_weights
from unialign.stages.models.backbones.registry import build_backbone, load_pretrained
from unialign.types import Json

REVISION = 1
# Sides of the images that published weights were trained with.
SIDES: Mapping[str, int] = {"vjepa2.1-": 384, "vjepa2-": 256, "pe-core-l14": 336, "uniformerv2-l14-frozen": 336}
USUAL_SIDE = 224


class BackboneNetwork:
    """A video backbone on its device, in evaluation mode: the images of a clip in, tokens out."""

    def __init__(self, backbone: Any, image_size: int, grid: int, device: torch.device | str = "cpu") -> None:
        self.device, self.image_size, self.grid = torch.device(device), image_size, grid
        self.backbone = backbone.to(self.device).eval().requires_grad_(False)
        mean, std = (torch.tensor(each, device=self.device).view(3, 1, 1) for each in (backbone.mean, backbone.std))
        self._mean, self._std = mean, std

    @torch.inference_mode()
    def encode(self, frames: Tensor) -> dict[str, np.ndarray]:
        """tokens (T', 1 + G * G, D) float16 of one clip, frames (T, 3, S, S) uint8.

        Raises `CorruptInput` if a token is not finite or too large for float16.
        """
        made = self.backbone(((frames.to(self.device).float() / 255 - self._mean) / self._std)[None])
        steps = made["grid"][0].mean(dim=(1, 2))[:, None]  # (T', 1, D)
        if self.grid:
            cells = adaptive_avg_pool2d(made["grid"][0].permute(0, 3, 1, 2), self.grid)  # (T', D, G, G)
            steps = torch.cat([steps, cells.flatten(2).transpose(1, 2)], dim=1)
        tokens = steps.float().cpu().numpy()
        # Also false for NaN, so neither an overflow nor an undefined value enters the cache.
        if not np.abs(tokens).max() <= np.finfo(np.float16).max:
            raise CorruptInput("the backbone gives no finite tokens")
        return {"tokens": tokens.astype(np.float16)}


@dataclass(frozen=True)
class BackboneTokens(ViewTokens):
    """Extractor of `tokens` with a network of `backbones.registry`; create one with `backbone_tokens`.

    name: of the backbone. grid: G. Otherwise as `ViewTokens`; image_size 0 is that of the published weights.
    """

    name: str = ""
    grid: int = 0

    def key(self) -> Mapping[str, Json]:
        """See `Extractor`."""
        return {
            "extractor": self.name,
            "revision": REVISION,
            "frames": self.frames_key,
            "weights": self.weights_digest.removeprefix("sha256:"),
            "num_frames": self.num_frames,
            "num_offsets": self.num_offsets,
            "flips": self.flips,
            "image_size": self.image_size,
            "grid": self.grid,
            "libraries": {"timm": version("timm"), "torch": torch.__version__.split("+")[0]},
        }

    def arrays(self) -> tuple[ArraySpec, ...]:
        """`tokens` of each view. Reads the weights: the network determines the shapes."""
        network, views = self._network(), self.views
        empty = torch.zeros(self.num_frames, 3, network.image_size, network.image_size, dtype=torch.uint8)
        shape = network.encode(empty)["tokens"].shape
        listed: Json = [{"offset": view.offset, "num_offsets": view.num_offsets, "flip": view.flip} for view in views]
        meaning = {"views": listed, "class_token": "the first token of each time step: the mean of its patches"}
        return (
            ArraySpec(
                "tokens",
                "float16",
                (len(views), *shape),
                ("view", "step", "token", "channel"),
                chunk=1,
                attributes=meaning,
            ),
        )

    def attributes(self) -> Mapping[str, Json]:
        """The network that computed the tokens."""
        return {
            "encoder": f"video backbone {self.name}",
            "projection": "none",
            "licence": "as published with the weights: the file does not say",
        }

    def _network(self) -> BackboneNetwork:
        return loaded(
            self.name, self.weights, self.weights_digest, self.device, self.num_frames, self.image_size, self.grid
        )


def backbone_tokens(
    name: str, weights: Path | None, *, frames: Path, frames_key: str, image_size: int = 0, **settings: Any
) -> BackboneTokens:
    """The extractor for a backbone with the weights in a file. settings: other fields of `BackboneTokens`.

    Raises `UsageError` without weights: frozen random ones would be noise.
    """
    if weights is None or not weights.is_file():
        raise UsageError(f"tokens of {name} need its published weights: give `--weights FILE` (docs/weights.md).")
    side = image_size or next((side for start, side in SIDES.items() if name.startswith(start)), USUAL_SIDE)
    return BackboneTokens(
        name=name,
        frames=frames,
        frames_key=frames_key,
        weights=weights,
        weights_digest=file_digest(weights),
        image_size=side,
        **settings,
    )


@lru_cache(maxsize=1)
def loaded(
    name: str, path: Path, digest: str, device: str, num_frames: int, image_size: int, grid: int
) -> BackboneNetwork:
    """The network of a file, on its device; loaded once per process.

    Raises `StaleCache` if the file is not the one that the key names, `UsageError` if it does not fit the network, or
    leaves a part of it at random.
    """
    found = file_digest(path)
    if found != digest:
        raise StaleCache(f"{path} has the digest {found[:19]}, not {digest[:19]}; it was replaced, start again.")
    backbone = build_backbone(name, num_frames=num_frames, image_size=image_size)
    report = load_pretrained(backbone, load_foreign_weights(path, "a video backbone"))
    if report.kept_random:
        raise UsageError(
            f"{path} leaves {len(report.kept_random)} weights of {name} at random ({report.kept_random[0]}), so its "
            "tokens would be noise; give weights that were trained as this backbone, or train it."
        )
    return BackboneNetwork(backbone, image_size, grid, resolve_device(device, setting="extract.device"))
