"""Clips of cached frame tokens, with pose features: what ALT trains on with a cached tower, UniAlign with `cached`.

Legend: B clips, V views of a clip (only in evaluation), T frames, N tokens per frame, D their width, N_p pose tokens,
D_p their width.
"""

from dataclasses import dataclass

import numpy as np

from unialign.errors import UsageError
from unialign.stages.sample_reader import SampleReader
from unialign.stages.training.cached import CachedArrays
from unialign.stages.training.clips import PoseTokens
from unialign.stages.training.order import sample_generator, sample_words
from unialign.stages.training.reading import Wanted, reader_of
from unialign.stages.training.samples import Batch, Labelled
from unialign.stages.training.settings import TrainSettings


@dataclass(frozen=True)
class FrameTokens:
    """The store of frame tokens. flips: for each view of the cached grid, whether it is mirrored."""

    reader: SampleReader
    flips: tuple[bool, ...]


class TokenClips(CachedArrays):
    """`CachedArrays` of the views of tokens that are drawn; nothing else is read.

    A batch holds
        tokens (B, T, N, D) in the store's type: in training one view of the grid, mirrored with probability
        `settings.flip`; in evaluation `test_clips` of the views that are not mirrored, evenly spaced, (B, V, T, N, D)
        if that is more than one;
        pose_tokens, with pose features: in training (B, N_p, D_p) of one view of their grid, mirrored if the tokens
            are; in evaluation, for each view of the tokens, of the first one, or the mean of those that are not
            mirrored, float32;
        labels, indices (B,) int64.
    Crops and colors are those of the extraction. All randomness is a function of (seed, epoch, index).

    Raises `UsageError` for settings that the cached grid cannot satisfy.
    """

    def __init__(
        self,
        samples: Labelled,
        tokens: FrameTokens,
        settings: TrainSettings,
        *,
        pose: PoseTokens | None = None,
        train: bool,
    ) -> None:
        self.samples, self.tokens, self.settings, self.pose = samples, tokens, settings, pose
        self._views = {
            flip: [view for view, mirrored in enumerate(tokens.flips) if mirrored == flip] for flip in (False, True)
        }
        plain, number = self._views[False], settings.test_clips
        if train and settings.flip > 0 and not self._views[True]:
            raise UsageError(
                "train.settings.flip is above 0, but the tokens have no mirrored views; extract tokens with flips or "
                "set train.settings.flip to 0."
            )
        if train and settings.flip > 0 and pose is not None and not any(pose.flips):
            raise UsageError(
                "train.settings.flip is above 0, but the pose features have no mirrored views; extract pose-features "
                "with flips or set train.settings.flip to 0."
            )
        if number > len(plain):
            raise UsageError(
                f"train.settings.test_clips is {number}, but the tokens hold {len(plain)} offsets; "
                "lower it or extract tokens with more offsets."
            )
        if settings.twice_sample:
            raise UsageError(
                "train.settings.twice_sample takes frames where cached tokens have none; use test_clips with tokens."
            )
        if settings.test_crops != 1:
            raise UsageError(
                f"train.settings.test_crops is {settings.test_crops}, but tokens are of the middle of each picture; "
                "set it to 1 or train from frames."
            )
        # As for frames in evaluation: the middle of each of `test_clips` equal parts of the grid's offsets.
        self._tested = [plain[(2 * clip + 1) * len(plain) // (2 * number)] for clip in range(number)]
        columns = {"tokens": Wanted(tokens.reader, "tokens", window=1)}
        if pose is not None:
            # In evaluation all views, which may be averaged.
            columns["pose_tokens"] = Wanted(pose.reader, "tokens", window=1 if train else 0)
        reader = reader_of(columns, samples.ids)
        super().__init__(reader, samples.labels, seed=settings.seed, train=train, repeats=1 if train else number)

    def _starts(self, epoch: int, indices: np.ndarray) -> np.ndarray:
        if not self.train:
            tested = np.tile(self._tested, len(indices))
            return np.stack([tested, *([np.zeros_like(tested)] if self.pose else [])], axis=1)
        first, second = sample_words(self.settings.seed, epoch, indices)
        mirrored = (first >> np.uint64(11)).astype(np.float64) * 2.0**-53 < self.settings.flip
        drawn = np.empty(len(indices), dtype=np.int64)
        for flip, views in self._views.items():
            mine = np.flatnonzero(mirrored == flip)
            # The way numpy draws an integer below a bound (Lemire 2019); it redraws once in billions of draws.
            product = (second[mine] & np.uint64(0xFFFFFFFF)) * np.uint64(len(views))
            drawn[mine] = np.array(views, dtype=np.int64)[(product >> np.uint64(32)).astype(np.int64)]
            for place in mine[(product & np.uint64(0xFFFFFFFF)) < len(views)].tolist():
                drawn[place] = self._drawn(epoch, int(indices[place]))
        if self.pose is None:
            return drawn[:, None]
        of_pose = np.empty_like(drawn)
        for flip in (False, True):
            mine, known = np.flatnonzero(mirrored == flip), np.array(self.pose.views(mirrored=flip), dtype=np.int64)
            # The other half of the same word.
            product = (second[mine] >> np.uint64(32)) * np.uint64(len(known))
            of_pose[mine] = known[(product >> np.uint64(32)).astype(np.int64)]
        return np.stack([drawn, of_pose], axis=1)

    def _drawn(self, epoch: int, index: int) -> int:
        """The same for one sample, by numpy's own generator."""
        generator = sample_generator(self.settings.seed, epoch, index)
        views = self._views[bool(generator.random() < self.settings.flip)]
        return views[int(generator.integers(len(views)))]

    def _finished(self, batch: Batch) -> Batch:
        tokens = batch["tokens"]  # (B * V, 1, T, N, D)
        num_views = len(tokens) // len(batch["indices"])
        batch["tokens"] = tokens[:, 0] if num_views == 1 else tokens[:, 0].unflatten(0, (-1, num_views))
        if self.pose is not None:
            of_pose = batch["pose_tokens"].float()  # training: (B, 1, N_p, D_p); evaluation: (B * V, views, N_p, D_p)
            mean = not self.train and self.settings.pose_test == "mean"
            chosen = of_pose[:, self.pose.views(mirrored=False)].mean(dim=1) if mean else of_pose[:, 0]
            batch["pose_tokens"] = chosen if num_views == 1 else chosen.unflatten(0, (-1, num_views))
        return batch
