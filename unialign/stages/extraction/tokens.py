"""Stage one: tokens of cached frames by a frozen CLIP image tower with token merging, over a fixed grid of views.

Legend: V views, T frames per view, S side of an image, P patches, N tokens left per frame, D their width.

A view is a temporal offset, mirrored or not. Its frames are those used in evaluation (evenly spaced, the center square
of each image), so a model with a frozen tower gives the same result on cached tokens as on frames.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from unialign.cache.arrays import ArraySpec
from unialign.cache.digests import file_digest
from unialign.cache.reader import Recorded
from unialign.cache.remote.mirror import reader_at
from unialign.errors import CorruptInput, StaleCache, UsageError
from unialign.stages.device import resolve_device
from unialign.stages.extraction.ahead import decoders, in_order
from unialign.stages.extraction.base import Outcome, Source
from unialign.stages.extraction.derived import derived
from unialign.stages.extraction.heartbeat import beat
from unialign.stages.extraction.pose_clips import View, clip_grid
from unialign.stages.extraction.text_openclip import find_openclip, openclip_name
from unialign.stages.foreign_weights import load_clip_weights
from unialign.stages.images import decode_images
from unialign.stages.models.clip.image_tower import ClipTower, image_transformer, load_clip
from unialign.stages.sample_reader import SampleReader
from unialign.stages.training.augmentation import fixed_regions, resized, sparse_frames
from unialign.types import Json

REVISION = 1


class TokenNetwork:
    """An image tower on its device, in evaluation mode: images in, tokens out."""

    def __init__(self, tower: ClipTower, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)
        self.tower = tower.to(self.device).eval().requires_grad_(False)
        self.image_size = tower.image_size
        mean, std = (torch.tensor(each, device=self.device).view(3, 1, 1) for each in (tower.mean, tower.std))
        self._mean, self._std = mean, std

    @torch.inference_mode()
    def encode(self, frames: Tensor) -> dict[str, np.ndarray]:
        """tokens (T, N, D) float16 and owners (T, 1 + P) uint16: the output token that each input token was merged
        into.

        frames (T, 3, S, S) uint8 with S of the tower. All frames, and nothing else, go through the network at once.
        Raises `CorruptInput` if a token is not finite or too large for float16.
        """
        side = self.tower.image_size
        if frames.dtype != torch.uint8 or frames.shape[1:] != (3, side, side):
            raise ValueError(f"frames are (T, 3, {side}, {side}) uint8, not {tuple(frames.shape)} {frames.dtype}")
        made = self.tower((frames.to(self.device).float() / 255 - self._mean) / self._std)
        tokens = made["tokens"].float().cpu().numpy()
        # Also false for NaN, so neither an overflow nor an undefined value enters the cache.
        if not np.abs(tokens).max() <= np.finfo(np.float16).max:
            raise CorruptInput("the image tower gives no finite tokens")
        return {"tokens": tokens.astype(np.float16), "owners": made["owners"].cpu().numpy().astype(np.uint16)}


class ImageTokens(Protocol):
    """A network that makes tokens of the images of a clip."""

    image_size: int

    def encode(self, frames: Tensor) -> dict[str, np.ndarray]:
        """The arrays of one view, from frames (T, 3, S, S) uint8. Raises `CorruptInput` if they are not finite."""
        ...


@dataclass(frozen=True)
class ViewTokens:
    """What extractors of `tokens` share: views of cached frames, each encoded as a whole.

    frames, weights: paths of the store of frames and of the weights on this machine; not in the key.
    frames_key: digest of the key of the frames. weights_digest: SHA-256 of the weights, checked when they are loaded.
    num_frames: T. num_offsets, flips: the grid. image_size: S.
    """

    frames: Path
    frames_key: str
    weights: Path
    weights_digest: str
    num_frames: int = 8
    num_offsets: int = 1
    flips: bool = False
    image_size: int = 0
    device: str = "auto"

    modality = "tokens"

    def __post_init__(self) -> None:
        if self.num_frames < 1 or self.num_offsets < 1:
            raise UsageError(
                f"tokens of {self.num_frames} frames at {self.num_offsets} offsets; each must be 1 or more."
            )

    @property
    def views(self) -> tuple[View, ...]:
        """The grid, in the order of the first axis of the arrays."""
        return clip_grid(self.num_offsets, self.flips)

    def digest(self, source: Source) -> str:
        """See `Extractor`."""
        return frames_source(reader_at(self.frames), source.id)

    def run(self, sources: Sequence[Source]) -> Iterator[Outcome]:
        """One outcome per source, in order; its source digest is `frames_source`.

        A sample whose frames are quarantined keeps their status. Raises `MissingCache` for a sample without frames.
        """
        reader = reader_at(self.frames)
        self._network()
        yield from derived(sources, reader, "frames", frames_source, self.features)

    def features(self, reader: SampleReader, sources: Sequence[Source]) -> Iterator[Outcome]:
        """The same for samples that all have frames, read from anything that answers like a `StoreReader`.

        The images of the next samples are decoded in threads while the network works. Each view goes through it alone:
        in a larger batch its last bits would be others.
        """
        network = self._network()
        encoding = str(reader.array_attributes("pictures").get("encoding"))

        def decoded(sample: tuple[Source, Mapping[str, np.ndarray]]) -> tuple[Source, list[Tensor]]:
            return sample[0], [self.pictures(sample[1], encoding, view) for view in self.views]

        stored = ((source, reader.read_one(source.id)) for source in sources)
        for source, views in in_order(decoded, stored, decoders()):
            digest = reader.source(source.id)
            try:
                made = [network.encode(images) for images in views]
            except CorruptInput as error:
                yield Outcome(source.id, error.status, digest, detail={"why": str(error)})
                continue
            yield Outcome(source.id, "ok", digest, {name: np.stack([one[name] for one in made]) for name in made[0]})

    def pictures(self, stored: Mapping[str, np.ndarray], encoding: str, view: View) -> Tensor:
        """The frames (T, 3, S, S) uint8 of a view, from the arrays of a sample's frames; a short clip repeats some."""
        beat()
        place = (view.offset + 0.5) / view.num_offsets
        which = sparse_frames(len(stored["offset"]) - 1, self.num_frames, place)
        distinct, places = np.unique(which, return_inverse=True)
        pictures = decode_images(stored["pictures"], stored["offset"], stored["size"], encoding, distinct.tolist())
        (middle,) = fixed_regions((pictures.shape[1], pictures.shape[2]), 1)
        images = resized(pictures, middle, self._network().image_size)[torch.from_numpy(places)]
        return images.flip(-1) if view.flip else images

    def _network(self) -> ImageTokens:
        raise NotImplementedError


@dataclass(frozen=True)
class Tokens(ViewTokens):
    """Extractor of `tokens` with a CLIP image tower; create one with `token_extractor`.

    network: OpenCLIP's name. image_size: 0 is the network's own. layer, merged_pairs, proportional_attention,
    projection ("clip" or "none"): see `models.clip.image_tower`. Otherwise as `ViewTokens`.
    """

    network: str = ""
    layer: int = -2
    merged_pairs: int = 8
    proportional_attention: bool = True
    projection: str = "clip"

    name = "openclip"

    def key(self) -> Mapping[str, Json]:
        """See `Extractor`."""
        return {
            "extractor": self.name,
            "revision": REVISION,
            "frames": self.frames_key,
            "network": self.network,
            "weights": self.weights_digest.removeprefix("sha256:"),
            "num_frames": self.num_frames,
            "num_offsets": self.num_offsets,
            "flips": self.flips,
            "image_size": self.image_size,
            "layer": self.layer,
            "merged_pairs": self.merged_pairs,
            "proportional_attention": self.proportional_attention,
            "projection": self.projection,
            "libraries": {
                "open_clip_torch": version("open_clip_torch"),
                "timm": version("timm"),
                "torch": torch.__version__.split("+")[0],
            },
        }

    def arrays(self) -> tuple[ArraySpec, ...]:
        """`tokens` and `owners` of each view. Reads the weights: the network determines the shapes."""
        tower, views = self._network().tower, self.views
        grid = (len(views), self.num_frames)
        listed: Json = [{"offset": view.offset, "num_offsets": view.num_offsets, "flip": view.flip} for view in views]
        num_inputs = int(tower.network.positional_embedding.shape[0])
        whole = {"views": listed, "class_token": "the first token of each frame"}
        ended = {"views": listed, "meaning": "the token that each input token (class token, patches) ended in"}
        return (
            ArraySpec(
                "tokens",
                "float16",
                (*grid, tower.num_tokens, tower.width),
                ("view", "frame", "token", "channel"),
                chunk=1,
                attributes=whole,
            ),
            ArraySpec("owners", "uint16", (*grid, num_inputs), ("view", "frame", "patch"), chunk=1, attributes=ended),
        )

    def attributes(self) -> Mapping[str, Json]:
        """The network that computed the tokens."""
        return {
            "encoder": f"image tower of a vision-language model (OpenCLIP {self.network})",
            "projection": self.projection,
            "licence": "as published with the weights: the file does not say",
        }

    def _network(self) -> TokenNetwork:
        settings = (self.image_size, self.layer, self.merged_pairs, self.proportional_attention, self.projection)
        return loaded(self.network, self.weights, self.weights_digest, self.device, settings)


def token_extractor(model: str, weights: Path | None, *, frames: Path, frames_key: str, **settings: Any) -> Tokens:
    """The extractor for OpenCLIP's `NAME:TAG` or `NAME`, with its weights located (by tag, or the given file).

    settings: other fields of `Tokens`. Raises `UsageError` for unknown networks, missing weights, and weights with the
        other activation.
    """
    found = find_openclip(model, weights)
    return Tokens(frames, frames_key, found, file_digest(found), network=openclip_name(model), **settings)


@lru_cache(maxsize=1)
def loaded(name: str, path: Path, digest: str, device: str, settings: tuple[int, int, int, bool, str]) -> TokenNetwork:
    """The network of a file, on its device; loaded once per process.

    Raises `StaleCache` if the file is not the one that the key names, `UsageError` if it does not fit the network.
    """
    found = file_digest(path)
    if found != digest:
        raise StaleCache(f"{path} has the digest {found[:19]}, not {digest[:19]}; it was replaced, start again.")
    image_size, layer, merged_pairs, proportional, projection = settings
    network = image_transformer(name, image_size=image_size)
    load_clip(network, load_clip_weights(path))
    tower = ClipTower(
        network=network, layer=layer, num_pairs=merged_pairs, proportional=proportional, projection=projection
    )
    return TokenNetwork(tower, resolve_device(device, setting="extract.device"))


def frames_source(reader: Recorded, sample: str) -> str:
    """The source digest that the tokens of a sample record: that of its frames, or why there are none."""
    status = reader.status(sample)
    return reader.source(sample) if status == "ok" else f"frames:{status}"
