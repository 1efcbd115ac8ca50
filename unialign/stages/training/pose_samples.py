"""Clips of cached keypoints for the training of skeleton encoders.

Legend: B clips, M person slots, T frames of a clip, V joints, C coordinates.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from unialign.cache.batches.joined import Entries
from unialign.errors import CorruptInput
from unialign.stages.extraction.body_space import LOWEST_SCORE, body_arrays, body_space, mirrored_body
from unialign.stages.extraction.pose_clips import PoseClip, Shape, View, frame_size
from unialign.stages.extraction.pose_recipes import RECIPES
from unialign.stages.sample_reader import SampleReader
from unialign.stages.skeleton_layouts import Layout
from unialign.stages.training.augmentation import sparse_frames
from unialign.stages.training.by_sample import BySample, Kind, Rows, indices_of
from unialign.stages.training.order import sample_generator
from unialign.stages.training.reading import Wanted, arrays_of, reader_of
from unialign.stages.training.samples import Batch, Labelled
from unialign.stages.training.settings import TrainSettings
from unialign.stages.training.skeleton_augmentation import SkeletonAugmentation, augmented, random_positions

MIDDLE = View(offset=0, num_offsets=1, flip=False)


@dataclass(frozen=True)
class CachedPoses:
    """The store of poses and how clips are made from them.

    recipe: name in `pose_recipes.RECIPES`. crop: minimum length of a random part, as a fraction of the sample's frames.
    """

    reader: SampleReader
    layout: Layout
    recipe: str
    shape: Shape
    crop: float = 0.5


@dataclass(frozen=True)
class _Read:
    """The inputs of a batch. keypoints: (T, M, V, C) of each sample. sizes: (B, 2), None for poses without."""

    picks: Sequence[tuple[int, int]]
    keypoints: Entries
    sizes: np.ndarray | None


class PoseClips(BySample[_Read]):
    """Map-style dataset over picks (epoch, index); `__getitems__` makes a whole batch.

    A batch holds keypoints (B, M, T, V, C) float32, present (B, M) bool, labels and indices (B,) int64, and in training
    persons (P,) int64, the places in `present.flatten()` where it is True: what is on a GPU cannot say so in time.

    In training a random part of the frames with a person is cut into segments, and each contributes one random frame (a
    part with fewer frames than the clip is repeated cyclically); mirrored with probability `settings.flip`. Evaluation
    reads the first view of the extraction's grid, the same as extraction does.
    Batches raise `CorruptInput` for a sample without any person.

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

    def bytes_of(self, read: _Read) -> int:
        """See `BySample`."""
        return read.keypoints.values.nbytes

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
        if self.train:
            batch["persons"] = _persons(batch)
        return batch


@dataclass(frozen=True)
class _ReadBodies:
    """The inputs of a batch in body space. keypoints: (T, M, V, C) of each sample, then of each partner.

    generators: one per clip, in training; the next draws are its augmentation. shares: (B,) float32, weight of the clip
    itself in its mixture. partners: (B,) int64, the samples mixed in; empty without mixtures.
    """

    picks: Sequence[tuple[int, int]]
    keypoints: Entries
    generators: Sequence[np.random.Generator]
    shares: np.ndarray
    partners: np.ndarray


class BodyClips(BySample[_ReadBodies]):
    """Clips in body space over picks (epoch, index); a batch has the same arrays as one of `PoseClips`.

    With an augmentation (training) a random part of a sample is read at random positions, augmented as in
    `skeleton_augmentation`, mirrored with probability `settings.flip`, and with mixup > 0 half of the clips are mixed
    with a clip of another sample: a batch then also holds partner_labels (B,) int64 and share (B,) float32, the weight
    of the clip's own label. Without one it is what extraction reads: the first view of its grid.
    Batches raise `CorruptInput` for a sample without any person.
    """

    def __init__(
        self,
        samples: Labelled,
        poses: CachedPoses,
        settings: TrainSettings,
        augmentation: SkeletonAugmentation | None,
        *,
        mixup: float = 0.0,
    ) -> None:
        self.poses, self.settings, self.augmentation = poses, settings, augmentation
        self.mixup = mixup if augmentation else 0.0
        held = {spec.name: spec for spec in arrays_of(poses.reader)}
        self.reader = reader_of({"keypoints": Wanted(poses.reader, "keypoints")}, samples.ids, by_entry=["keypoints"])
        coordinates = 2 if poses.recipe == "body-2d" else 3
        joints = held["keypoints"].shape[2]
        shape = (poses.shape.num_persons, poses.shape.num_frames, joints, 2 * coordinates + 1)
        kinds: dict[str, Kind] = {
            "keypoints": (np.dtype(np.float32), shape),
            "present": (np.dtype(np.bool_), shape[:1]),
        }
        super().__init__(samples, Rows(kinds))

    def read(self, picks: Sequence[tuple[int, int]]) -> _ReadBodies:
        """See `BySample`."""
        indices, shares = indices_of(picks), np.ones(len(picks), np.float32)
        if self.augmentation is None:
            return _ReadBodies(picks, self.reader.entries("keypoints", indices), (), shares, indices[:0])
        generators = [sample_generator(self.settings.seed, epoch, index) for epoch, index in picks]
        if not self.mixup:
            return _ReadBodies(picks, self.reader.entries("keypoints", indices), generators, shares, indices[:0])
        partners = indices.copy()
        for place, generator in enumerate(generators):
            if generator.random() < 0.5:
                partners[place] = generator.integers(len(self.samples))
                shares[place] = generator.beta(self.mixup, self.mixup)
        keypoints = self.reader.entries("keypoints", np.concatenate([indices, partners]))
        return _ReadBodies(picks, keypoints, generators, shares, partners)

    def bytes_of(self, read: _ReadBodies) -> int:
        """See `BySample`."""
        return read.keypoints.values.nbytes

    def make(self, read: _ReadBodies, place: int, rows: Mapping[str, np.ndarray]) -> None:
        """See `BySample`."""
        clip, share = self._clip(read, place, read.picks[place][1], place), read.shares[place]
        keypoints, present = clip.keypoints, clip.present
        if share < 1:
            other = self._clip(read, len(read.picks) + place, int(read.partners[place]), place)
            keypoints, present = share * keypoints + (1 - share) * other.keypoints, present | other.present
        rows["keypoints"][place], rows["present"][place] = keypoints, present

    def finished(self, read: _ReadBodies, batch: Batch) -> Batch:
        """See `BySample`."""
        if self.augmentation is not None:
            batch["persons"] = _persons(batch)
        if len(read.partners):
            labels = [self.samples.labels[partner] for partner in read.partners.tolist()]
            batch["partner_labels"] = torch.tensor(labels, dtype=torch.int64)
            batch["share"] = torch.from_numpy(read.shares)
        return batch

    def _clip(self, read: _ReadBodies, entry: int, index: int, place: int) -> PoseClip:
        """A clip of the sample `index`, whose keypoints were read as `entry`; drawn by the generator of `place`."""
        keypoints, poses = read.keypoints[entry], self.poses
        try:
            if self.augmentation is None:
                return RECIPES[poses.recipe](keypoints, poses.layout, MIDDLE, poses.shape, None)
            body = body_space(keypoints, poses.layout, poses.shape.num_persons, scored=poses.recipe == "body-2d")
        except CorruptInput as error:
            raise CorruptInput(f"poses of sample {self.samples.ids[index]!r}: {error}", error.status) from error
        generator = read.generators[place]
        if generator.random() < self.settings.flip:
            body = mirrored_body(body, poses.layout)
        body = augmented(body, generator, self.augmentation)
        places = random_positions(body.joints.shape[1], poses.shape.num_frames, generator, self.augmentation)
        return PoseClip(*body_arrays(body, places))


def _persons(batch: Batch) -> torch.Tensor:
    persons: torch.Tensor = batch["present"].flatten().nonzero().squeeze(1)
    return persons


def random_part(
    keypoints: np.ndarray, shown: np.ndarray, generator: np.random.Generator, crop: float, clip_len: int
) -> np.ndarray:
    """Frames of a random part of keypoints (T, M, V, C), at most `clip_len` of them, in order.

    shown: indices of the frames with a person; the part's length is a fraction in [crop, 1] of them. A sample without
    any is returned unchanged.
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
    """Indices of the frames of (T, M, V, C) with any joint. scored: the last coordinate is a score (2-D poses)."""
    seen = np.isfinite(keypoints).all(axis=-1)
    if scored:
        seen &= keypoints[..., -1] > LOWEST_SCORE
    return np.flatnonzero(seen.any(axis=(1, 2)))
