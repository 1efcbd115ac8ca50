"""Clips of cached keypoints for the training of skeleton encoders.

Legend: B clips, M person slots, T frames of a clip, V joints, C coordinates.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import Dataset

from unialign.errors import CorruptInput
from unialign.stages.extraction.body_space import LOWEST_SCORE
from unialign.stages.extraction.pose_clips import RECIPES, PoseClip, Shape, View, frame_size
from unialign.stages.sample_reader import SampleReader
from unialign.stages.skeleton_layouts import Layout
from unialign.stages.training.augmentation import sparse_frames
from unialign.stages.training.clips import Batch, Labelled, Pick
from unialign.stages.training.order import sample_generator
from unialign.stages.training.settings import TrainSettings

MIDDLE = View(offset=0, num_offsets=1, flip=False)


@dataclass(frozen=True)
class CachedPoses:
    """The store of poses and how clips are made of them.

    recipe: name in `pose_clips.RECIPES`. crop: shortest random part of a sample, as a share of its frames.
    """

    reader: SampleReader
    layout: Layout
    recipe: str
    shape: Shape
    crop: float = 0.5


class PoseClips(Dataset[Batch]):
    """Map-style dataset over picks (epoch, index); `__getitems__` makes a whole batch.

    A batch holds keypoints (B, M, T, V, C) float32, present (B, M) bool, labels and indices (B,) int64.

    In training a random part of the frames that show somebody is cut into segments, and each gives one random frame (a
    part with fewer frames than the clip is read round and round); mirrored with the probability `settings.flip`.
    Evaluation reads the first view of the extraction's grid, so it sees what extraction will.

    Source: PYSKL, UniformSampleFrames in training mode; the random part is this project's.
    """

    def __init__(self, samples: Labelled, poses: CachedPoses, settings: TrainSettings, *, train: bool) -> None:
        self.samples = samples
        self.poses = poses
        self.settings = settings
        self.train = train

    def __len__(self) -> int:
        return len(self.samples)

    def __getitems__(self, picks: Sequence[Pick]) -> Batch:
        """The batch of these picks, see the class. Raises `CorruptInput` for a sample that shows nobody."""
        clips = [self._clip(epoch, index) for epoch, index in picks]
        indices = [index for _, index in picks]
        return {
            "keypoints": torch.from_numpy(np.stack([clip.keypoints for clip in clips])),
            "present": torch.from_numpy(np.stack([clip.present for clip in clips])),
            "indices": torch.tensor(indices, dtype=torch.int64),
            "labels": torch.tensor([self.samples.labels[index] for index in indices], dtype=torch.int64),
        }

    def _clip(self, epoch: int, index: int) -> PoseClip:
        sample, poses = self.samples.ids[index], self.poses
        stored = poses.reader.read_one(sample)
        keypoints, view, size = stored["keypoints"], MIDDLE, frame_size(poses.reader, stored)
        if self.train:
            generator = sample_generator(self.settings.seed, epoch, index)
            shown = frames_with_somebody(keypoints[:, : poses.shape.num_persons], scored=size is not None)
            keypoints = random_part(keypoints, shown, generator, poses.crop, poses.shape.num_frames)
            view = View(offset=0, num_offsets=1, flip=bool(generator.random() < self.settings.flip))
        try:
            return RECIPES[poses.recipe](keypoints, poses.layout, view, poses.shape, size)
        except CorruptInput as error:
            raise CorruptInput(f"poses of sample {sample!r}: {error}", error.status) from error


def random_part(
    keypoints: np.ndarray, shown: np.ndarray, generator: np.random.Generator, crop: float, clip_len: int
) -> np.ndarray:
    """Frames of a random part of keypoints (T, M, V, C), at most `clip_len` of them, in order.

    shown: indices of the frames that show somebody; the part's length is a share in [crop, 1] of them. A sample
    without any is returned as it is.
    """
    if not len(shown):
        return keypoints
    length = max(1, round(len(shown) * generator.uniform(crop, 1.0)))
    start = int(generator.integers(0, len(shown) - length + 1))
    places = generator.random(clip_len)
    part = shown[start : start + length]
    frames = part[sparse_frames(length, clip_len, places)] if length > clip_len else part
    return np.asarray(keypoints[frames])


def frames_with_somebody(keypoints: np.ndarray, *, scored: bool) -> np.ndarray:
    """Indices of the frames of (T, M, V, C) that show a joint. scored: the last coordinate is a score (2-D poses)."""
    seen = np.isfinite(keypoints).all(axis=-1)
    if scored:
        seen &= keypoints[..., -1] > LOWEST_SCORE
    return np.flatnonzero(seen.any(axis=(1, 2)))
