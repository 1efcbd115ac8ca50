"""Clips of cached frames and pose features, or of tokens: what a data loader asks for, a batch at a time.

Legend: B clips, V views of a clip (only in evaluation), T frames, S side of a picture, N_p pose tokens, N tokens of a
frame, D width of either.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from unialign.errors import UsageError
from unialign.stages.images import decode_images
from unialign.stages.sample_reader import SampleReader
from unialign.stages.training.augmentation import fixed_regions, random_region, recoloured, resized, sparse_frames
from unialign.stages.training.order import sample_generator
from unialign.stages.training.settings import TrainSettings

Batch = dict[str, Any]
Pick = tuple[int, int]


@dataclass(frozen=True)
class Labelled:
    """Which samples there are, in order of id, and their class indices."""

    ids: tuple[str, ...]
    labels: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(self.ids) != len(self.labels):
            raise ValueError(f"{len(self.ids)} ids, but {len(self.labels)} labels")

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class CachedFrames:
    """The store of frames and what clips are made of them. encoding: of the array "pictures"."""

    reader: SampleReader
    encoding: str
    num_frames: int
    image_size: int


@dataclass(frozen=True)
class PoseTokens:
    """The store of pose features. flips: for each view of the cached grid, whether it is mirrored."""

    reader: SampleReader
    flips: tuple[bool, ...]


@dataclass(frozen=True)
class FrameTokens:
    """The store of tokens of frames. flips: for each view of the cached grid, whether it is mirrored."""

    reader: SampleReader
    flips: tuple[bool, ...]


class Clips(Dataset[Batch]):
    """Map-style dataset over picks (epoch, index); `__getitems__` makes a whole batch.

    A batch holds
        frames (B, T, 3, S, S) uint8; (B, V, T, 3, S, S) where evaluation averages V > 1 views;
        pose_tokens (B, N_p, D) float32, with pose features: in training one view of the grid, mirrored if the frames
            are; in evaluation the first one, or the mean of those that are not mirrored;
        labels, indices (B,) int64.
    Everything random comes from (seed, epoch, index), so neither workers nor their order change a batch.

    Raises `UsageError` for mirrored training with a grid of pose features that has no mirrored views.
    """

    def __init__(
        self, samples: Labelled, frames: CachedFrames, pose: PoseTokens | None, settings: TrainSettings, *, train: bool
    ) -> None:
        self.samples = samples
        self.frames = frames
        self.pose = pose
        self.settings = settings
        self.train = train
        if train and pose is not None and settings.flip > 0 and not any(pose.flips):
            raise UsageError(
                "train.settings.flip is above 0, but the pose features have no mirrored views; "
                "extract pose-features with flips or set train.settings.flip to 0."
            )

    def __len__(self) -> int:
        return len(self.samples)

    def __getitems__(self, picks: Sequence[Pick]) -> Batch:
        """The batch of these picks, see the class."""
        clips = [self._clip(epoch, index) for epoch, index in picks]
        batch: Batch = {name: torch.stack([clip[name] for clip in clips]) for name in clips[0]}
        indices = [index for _, index in picks]
        batch["indices"] = torch.tensor(indices, dtype=torch.int64)
        batch["labels"] = torch.tensor([self.samples.labels[index] for index in indices], dtype=torch.int64)
        return batch

    def _clip(self, epoch: int, index: int) -> dict[str, Tensor]:
        sample = self.samples.ids[index]
        if not self.train:
            clip = {"frames": self._test_frames(sample)}
            if self.pose is not None:
                clip["pose_tokens"] = self._test_tokens(self.pose, sample)
            return clip
        generator = sample_generator(self.settings.seed, epoch, index)
        flip = bool(generator.random() < self.settings.flip)
        clip = {"frames": self._train_frames(sample, generator, flip)}
        if self.pose is not None:
            tokens = self.pose.reader.read_one(sample)["tokens"]  # (views, N_p, D)
            views = [view for view, mirrored in enumerate(self.pose.flips) if mirrored == flip]
            clip["pose_tokens"] = _float32(tokens[views[int(generator.integers(len(views)))]])
        return clip

    def _train_frames(self, sample: str, generator: np.random.Generator, flip: bool) -> Tensor:
        settings, num_frames = self.settings, self.frames.num_frames
        stored = self.frames.reader.read_one(sample)
        which = sparse_frames(len(stored["offset"]) - 1, num_frames, generator.random(num_frames))
        pictures = self._decode(stored, which)
        size = (pictures.shape[1], pictures.shape[2])
        region = random_region(generator, size, settings.crop_scale, settings.crop_ratio)
        images = resized(pictures, region, self.frames.image_size)
        if settings.colour > 0:
            images = recoloured(images, generator, settings.colour)
        return images.flip(-1) if flip else images

    def _test_frames(self, sample: str) -> Tensor:
        stored = self.frames.reader.read_one(sample)
        views = []
        for clip in range(self.settings.test_clips):
            place = (clip + 0.5) / self.settings.test_clips
            which = sparse_frames(len(stored["offset"]) - 1, self.frames.num_frames, place)
            pictures = self._decode(stored, which)
            regions = fixed_regions((pictures.shape[1], pictures.shape[2]), self.settings.test_crops)
            views += [resized(pictures, region, self.frames.image_size) for region in regions]
        return views[0] if len(views) == 1 else torch.stack(views)

    def _decode(self, stored: Mapping[str, np.ndarray], which: np.ndarray) -> np.ndarray:
        # A short clip repeats frames; each is decoded once.
        distinct, places = np.unique(which, return_inverse=True)
        pictures = decode_images(
            stored["pictures"], stored["offset"], stored["size"], self.frames.encoding, distinct.tolist()
        )
        return np.asarray(pictures[places])

    def _test_tokens(self, pose: PoseTokens, sample: str) -> Tensor:
        tokens = pose.reader.read_one(sample)["tokens"]
        if self.settings.pose_test == "first":
            return _float32(tokens[0])
        plain = [view for view, mirrored in enumerate(pose.flips) if not mirrored]
        return _float32(tokens[plain].astype(np.float32).mean(axis=0))


class TokenClips(Dataset[Batch]):
    """Map-style dataset over picks (epoch, index), of cached tokens; `__getitems__` makes a whole batch.

    A batch holds
        tokens (B, T, N, D) in the store's type: in training a view of the grid, mirrored with the probability
            `settings.flip`; in evaluation `test_clips` of the views that are not mirrored, evenly spaced, (B, V, T, N,
            D) where that is more than one;
        labels, indices (B,) int64.
    Crops and colours are those of the extraction. Everything random comes from (seed, epoch, index).

    Raises `UsageError` for settings that the cached grid cannot follow.
    """

    def __init__(self, samples: Labelled, tokens: FrameTokens, settings: TrainSettings, *, train: bool) -> None:
        self.samples = samples
        self.tokens = tokens
        self.settings = settings
        self.train = train
        self._views = {
            flip: [view for view, mirrored in enumerate(tokens.flips) if mirrored == flip] for flip in (False, True)
        }
        num_plain = len(self._views[False])
        if train and settings.flip > 0 and not self._views[True]:
            raise UsageError(
                "train.settings.flip is above 0, but the tokens have no mirrored views; extract tokens with flips or "
                "set train.settings.flip to 0."
            )
        if settings.test_clips > num_plain:
            raise UsageError(
                f"train.settings.test_clips is {settings.test_clips}, but the tokens hold {num_plain} offsets; "
                "lower it or extract tokens with more offsets."
            )
        if settings.test_crops != 1:
            raise UsageError(
                f"train.settings.test_crops is {settings.test_crops}, but tokens are of the middle of each picture; "
                "set it to 1 or train from frames."
            )

    def __len__(self) -> int:
        return len(self.samples)

    def __getitems__(self, picks: Sequence[Pick]) -> Batch:
        """The batch of these picks, see the class."""
        indices = [index for _, index in picks]
        return {
            "tokens": torch.stack([self._clip(epoch, index) for epoch, index in picks]),
            "indices": torch.tensor(indices, dtype=torch.int64),
            "labels": torch.tensor([self.samples.labels[index] for index in indices], dtype=torch.int64),
        }

    def _clip(self, epoch: int, index: int) -> Tensor:
        tokens = self.tokens.reader.read_one(self.samples.ids[index])["tokens"]  # (views, T, N, D)
        if self.train:
            generator = sample_generator(self.settings.seed, epoch, index)
            views = self._views[bool(generator.random() < self.settings.flip)]
            return _copied(tokens[views[int(generator.integers(len(views)))]])
        # As frames of evaluation: the middle of each of `test_clips` equal parts of the grid's offsets.
        plain, number = self._views[False], self.settings.test_clips
        chosen = [plain[(2 * clip + 1) * len(plain) // (2 * number)] for clip in range(number)]
        return _copied(tokens[chosen[0]] if number == 1 else tokens[chosen])


def _copied(values: np.ndarray) -> Tensor:
    return torch.from_numpy(np.array(values))  # what a store gives may be read-only


def _float32(values: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))
