"""Clips of cached frames and pose features, requested by a data loader one batch at a time.

Legend: B clips, V views of a clip (only in evaluation), T frames, H W height and width of stored images, S side of
an image, N_p pose tokens, D their width.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from unialign.cache.batches.joined import Entries, Joined
from unialign.errors import DamagedStore, UsageError
from unialign.stages.images import checked_size, decode_into
from unialign.stages.sample_reader import SampleReader
from unialign.stages.training.augmentation import (
    Region,
    fixed_regions,
    multiscale_region,
    random_region,
    recoloured_levels,
    resized,
    saturate,
    sparse_frames,
    turn_hue,
)
from unialign.stages.training.by_sample import BySample, Kind, Rows, indices_of
from unialign.stages.training.order import sample_generator
from unialign.stages.training.reading import Wanted, reader_of
from unialign.stages.training.samples import Batch, Labelled
from unialign.stages.training.settings import TrainSettings


@dataclass(frozen=True)
class CachedFrames:
    """The store of frames and how clips are made from them.

    encoding: of the array "pictures". short_side: pixels of the shorter side of a stored image; 0: not known.
    """

    reader: SampleReader
    encoding: str
    num_frames: int
    image_size: int
    short_side: int = 0


@dataclass(frozen=True)
class PoseTokens:
    """The store of pose features. flips: for each view of the cached grid, whether it is mirrored."""

    reader: SampleReader
    flips: tuple[bool, ...]

    def views(self, *, mirrored: bool) -> list[int]:
        """Indices of the views that are mirrored, or of those that are not."""
        return [view for view, flipped in enumerate(self.flips) if flipped == mirrored]


@dataclass(frozen=True)
class _Drawn:
    """What is drawn for one clip. which: (T,) frames of each temporal clip. regions: of all of them."""

    which: tuple[np.ndarray, ...]
    regions: tuple[Region, ...]
    mirrored: bool = False
    colour: np.ndarray | None = None
    pose_view: int = 0
    saturation: float = 1.0
    hue: float = 0.0


@dataclass(frozen=True)
class ClipsRead:
    """The inputs of a batch. sizes: (B, 2). pictures: the distinct images of each temporal clip of each sample in turn.

    first: (B,) index of a sample's first image among them. pose_tokens: (B, N_p, D) float32.
    """

    ids: tuple[str, ...]
    drawn: tuple[_Drawn, ...]
    sizes: np.ndarray
    pictures: Entries
    first: np.ndarray
    pose_tokens: Tensor | None


class Clips(BySample[ClipsRead]):
    """Map-style dataset over picks (epoch, index); `__getitems__` makes a whole batch.

    A batch holds
        frames (B, T, 3, S, S) uint8; (B, V, T, 3, S, S) where evaluation averages V > 1 views;
        levels (B, 256) uint8, with `settings.colour` in training: the new value of each level of the frames;
        mirrored (B,) bool, with `settings.flip` in training: whether to mirror the frames;
        pose_tokens (B, N_p, D) float32, with pose features: in training one view of the grid, mirrored if the frames
            are; in evaluation the first one, or the mean of those that are not mirrored;
        labels, indices (B,) int64.
    `augmentation.network_frames` turns the first three into the network's input, on its device.
    All randomness is a function of (seed, epoch, index), so neither workers nor their order change a batch.

    Raises `UsageError` for mirrored training with a grid of pose features that has no mirrored views.
    """

    def __init__(
        self, samples: Labelled, frames: CachedFrames, pose: PoseTokens | None, settings: TrainSettings, *, train: bool
    ) -> None:
        if train and pose is not None and settings.flip > 0 and not any(pose.flips):
            raise UsageError(
                "train.settings.flip is above 0, but the pose features have no mirrored views; "
                "extract pose-features with flips or set train.settings.flip to 0."
            )
        self.frames, self.pose, self.settings, self.train = frames, pose, settings, train
        columns = {name: Wanted(frames.reader, name) for name in ("pictures", "offset", "size")}
        if pose is not None:
            columns["tokens"] = Wanted(pose.reader, "tokens")
        self.reader = reader_of(columns, samples.ids, by_entry=columns)
        self._token_bytes = np.dtype(self.reader.columns["tokens"].spec.dtype).itemsize if pose else 0
        num_views = 1 if train else len(settings.test_places) * settings.test_crops
        shape = (frames.num_frames, frames.image_size, frames.image_size, 3)
        kinds: dict[str, Kind] = {"frames": (np.dtype(np.uint8), (num_views, *shape))}
        if train and settings.colour > 0:
            kinds["levels"] = (np.dtype(np.uint8), (256,))
        super().__init__(samples, Rows(kinds))

    def read(self, picks: Sequence[tuple[int, int]]) -> ClipsRead:
        """See `BySample`. Only the images and the pose tokens that were drawn are read."""
        indices, ids = indices_of(picks), tuple(self.samples.ids[index] for _, index in picks)
        sizes = self.reader.entries("size", indices).values.reshape(len(indices), 2)
        offsets = self.reader.entries("offset", indices)
        drawn = tuple(
            self._drawn(epoch, index, len(offsets[place]) - 1, checked_size(sizes[place]))
            for place, (epoch, index) in enumerate(picks)
        )
        distinct = [[np.unique(which) for which in each.which] for each in drawn]
        stretches = [
            _stretches(ids[place], offsets[place], int(self.reader.lengths[index, 0]), np.concatenate(distinct[place]))
            for place, index in enumerate(indices.tolist())
        ]
        counts = [len(each) for each in stretches]
        starts, stops = np.concatenate(stretches).T if stretches else np.zeros((2, 0), np.int64)
        pictures = self.reader.entries("pictures", np.repeat(indices, counts), starts, stops - starts)
        first = np.cumsum([0, *counts])[:-1]
        return ClipsRead(ids, drawn, sizes, pictures, first, self._pose_tokens(indices, drawn))

    def bytes_of(self, read: ClipsRead) -> int:
        """See `BySample`."""
        tokens = 0 if read.pose_tokens is None else read.pose_tokens.numel() * self._token_bytes
        return read.sizes.nbytes + read.pictures.values.nbytes + tokens

    def make(self, read: ClipsRead, place: int, rows: Mapping[str, np.ndarray]) -> None:
        """See `BySample`."""
        drawn, out = read.drawn[place], rows["frames"][place]
        image, views = int(read.first[place]), iter(out)
        size = checked_size(read.sizes[place])
        for which in drawn.which:
            # A short clip repeats frames; each is decoded once.
            distinct, places = np.unique(which, return_inverse=True)
            images = self._scratch((len(distinct), *size, 3))
            for number, index in enumerate(distinct.tolist()):
                try:
                    decode_into(read.pictures[image], self.frames.encoding, images[number], index)
                except DamagedStore as error:
                    raise DamagedStore(f"frames of sample {read.ids[place]!r}: {error}") from error
                image += 1
            for region in drawn.regions:
                view = next(views)
                if len(distinct) == len(which):
                    resized(images, region, self.frames.image_size, view)
                else:
                    view[:] = resized(images, region, self.frames.image_size).permute(0, 2, 3, 1).numpy()[places]
        if drawn.saturation != 1:
            saturate(out, drawn.saturation)
        if drawn.hue:
            turn_hue(out, drawn.hue)
        if drawn.colour is not None:
            rows["levels"][place] = recoloured_levels(out, drawn.colour)

    def finished(self, read: ClipsRead, batch: Batch) -> Batch:
        """See `BySample`."""
        frames = batch["frames"].permute(0, 1, 2, 5, 3, 4)  # (B, V, T, 3, S, S)
        batch["frames"] = frames[:, 0] if frames.shape[1] == 1 else frames
        if self.train and self.settings.flip > 0:
            batch["mirrored"] = torch.tensor([each.mirrored for each in read.drawn])
        if read.pose_tokens is not None:
            batch["pose_tokens"] = read.pose_tokens
        return batch

    def _drawn(self, epoch: int, index: int, num_kept: int, size: tuple[int, int]) -> _Drawn:
        settings, num_frames = self.settings, self.frames.num_frames
        if num_kept < 1:
            raise DamagedStore(f"sample {self.samples.ids[index]!r} has no images; extract the frames again.")
        if not self.train:
            which = [sparse_frames(num_kept, num_frames, place) for place in settings.test_places]
            return _Drawn(tuple(which), tuple(fixed_regions(size, settings.test_crops, settings.test_crop)))
        generator = sample_generator(settings.seed, epoch, index)
        mirrored = bool(generator.random() < settings.flip)
        which = [sparse_frames(num_kept, num_frames, generator.random(num_frames))]
        if settings.crop == "multiscale":
            region = multiscale_region(generator, size)
        else:
            region = random_region(generator, size, settings.crop_scale, settings.crop_ratio)
        colour = 1 + generator.uniform(-settings.colour, settings.colour, size=2) if settings.colour > 0 else None
        views = self.pose.views(mirrored=mirrored) if self.pose else [0]
        view = views[int(generator.integers(len(views)))] if self.pose else 0
        # Drawn last, so that runs without them draw as they did before there were these.
        saturation, hue = 1.0, 0.0
        if settings.saturation > 0:
            saturation += float(generator.uniform(-settings.saturation, settings.saturation))
        is_plain = settings.colour_share < 1 and generator.random() >= settings.colour_share
        if is_plain:
            colour, saturation = colour if colour is None else np.ones(2), 1.0
        if settings.grayscale > 0 and generator.random() < settings.grayscale:
            saturation = 0.0
        if settings.hue > 0:
            drawn = float(generator.uniform(-settings.hue, settings.hue))
            hue = 0.0 if is_plain or saturation == 0 else drawn
        return _Drawn(tuple(which), (region,), mirrored, colour, view, saturation, hue)

    def _pose_tokens(self, indices: np.ndarray, drawn: Sequence[_Drawn]) -> Tensor | None:
        if self.pose is None:
            return None
        if self.train or self.settings.pose_test == "first":
            return drawn_views(self.reader, indices, np.array([each.pose_view for each in drawn], np.int64))
        views = self.pose.views(mirrored=False)
        each = drawn_views(self.reader, np.repeat(indices, len(views)), np.tile(views, len(indices)))
        return each.view(len(indices), -1, *each.shape[1:]).mean(dim=1)

    def _scratch(self, shape: tuple[int, ...]) -> np.ndarray:
        """Per-thread memory for decoded images; each call overwrites the result of the one before."""
        size, held = int(np.prod(shape)), getattr(self.scratch, "memory", None)
        if held is None or len(held) < size:
            held = self.scratch.memory = np.empty(size, dtype=np.uint8)
        return np.asarray(held[:size].reshape(shape))


def drawn_views(reader: Joined, indices: np.ndarray, views: np.ndarray) -> Tensor:
    """One view of the grid of pose tokens for each of the places, (B, N_p, D) float32. indices, views: (B,) int64."""
    return torch.from_numpy(reader.entries("tokens", indices, views, 1).values).float()


def _stretches(sample: str, offset: np.ndarray, num_bytes: int, which: np.ndarray) -> np.ndarray:
    """(n, 2) first byte and end of some images of a sample. Raises `DamagedStore` if the sample does not have them."""
    begin, end = offset[which], offset[which + 1]
    if ((begin < 0) | (end < begin) | (end > num_bytes)).any():
        raise DamagedStore(
            f"the images of sample {sample!r} are not where their offsets say; extract the frames again."
        )
    return np.stack([begin, end], axis=1)
