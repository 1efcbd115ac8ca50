"""Clips of cached keypoints for the training of skeleton encoders.

Legend: B clips, M person slots, T frames of a clip, V joints, C coordinates.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from unialign.cache.batches.joined import Entries
from unialign.errors import CorruptInput
from unialign.stages.extraction.body_space import LOWEST_SCORE
from unialign.stages.extraction.pose_clips import RECIPES, Shape, View, frame_size
from unialign.stages.sample_reader import SampleReader
from unialign.stages.skeleton_layouts import Layout
from unialign.stages.training.augmentation import sparse_frames
from unialign.stages.training.by_sample import BySample, Kind, Rows, indices_of
from unialign.stages.training.order import sample_generator
from unialign.stages.training.reading import Wanted, arrays_of, reader_of
from unialign.stages.training.samples import Batch, Labelled
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


@dataclass(frozen=True)
class _Read:
    """What a batch is made of. keypoints: (T, M, V, C) of each sample. sizes: (B, 2), None for poses without."""

    picks: Sequence[tuple[int, int]]
    keypoints: Entries
    sizes: np.ndarray | None


class PoseClips(BySample[_Read]):
    """Map-style dataset over picks (epoch, index); `__getitems__` makes a whole batch.

    A batch holds keypoints (B, M, T, V, C) float32, present (B, M) bool, labels and indices (B,) int64.

    In training a random part of the frames that show somebody is cut into segments, and each gives one random frame (a
    part with fewer frames than the clip is read round and round); mirrored with the probability `settings.flip`.
    Evaluation reads the first view of the extraction's grid, so it sees what extraction will.
    Batches raise `CorruptInput` for a sample that shows nobody.

    Source: PYSKL, UniformSampleFrames in training mode; the random part is this project's.
    """

    def __init__(self, samples: Labelled, poses: CachedPoses, settings: TrainSettings, *, train: bool) -> None:
        self.poses, self.settings, self.train = poses, settings, train
        held = {spec.name: spec for spec in arrays_of(poses.reader)}
        names = [name for name in ("keypoints", "frame_size") if name in held]
        self.reader = reader_of({name: Wanted(poses.reader, name) for name in names}, samples.ids, by_entry=names)
        shape = (poses.shape.num_persons, poses.shape.num_frames, *held["keypoints"].shape[2:])
        kinds: dict[str, Kind] = {
            "keypoints": (np.dtype(np.float32), shape),
            "present": (np.dtype(np.bool_), shape[:1]),
        }
        super().__init__(samples, Rows(kinds))

    def read(self, picks: Sequence[tuple[int, int]]) -> _Read:
        """See `BySample`."""
        indices = indices_of(picks)
        keypoints = self.reader.entries("keypoints", indices)
        if "frame_size" not in self.reader.columns:
            return _Read(picks, keypoints, None)
        return _Read(picks, keypoints, self.reader.entries("frame_size", indices).values.reshape(len(indices), 2))

    def make(self, read: _Read, place: int, rows: Mapping[str, np.ndarray]) -> None:
        """See `BySample`."""
        (epoch, index), keypoints, poses, view = read.picks[place], read.keypoints[place], self.poses, MIDDLE
        size = frame_size(poses.reader, {"frame_size": read.sizes[place]} if read.sizes is not None else {})
        if self.train:
            generator = sample_generator(self.settings.seed, epoch, index)
            shown = frames_with_somebody(keypoints[:, : poses.shape.num_persons], scored=size is not None)
            keypoints = random_part(keypoints, shown, generator, poses.crop, poses.shape.num_frames)
            view = View(offset=0, num_offsets=1, flip=bool(generator.random() < self.settings.flip))
        try:
            clip = RECIPES[poses.recipe](keypoints, poses.layout, view, poses.shape, size)
        except CorruptInput as error:
            raise CorruptInput(f"poses of sample {self.samples.ids[index]!r}: {error}", error.status) from error
        rows["keypoints"][place], rows["present"][place] = clip.keypoints, clip.present

    def finished(self, read: _Read, batch: Batch) -> Batch:
        """See `BySample`."""
        return batch


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
