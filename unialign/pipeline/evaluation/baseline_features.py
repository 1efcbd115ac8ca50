"""One vector per sample for simple classifiers, by modality, read a block of samples at a time.

Legend: F features per sample. Every function takes the store and ids, and yields a vector (F,) float32 for each.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from unialign.cache.batches.joined import Entries
from unialign.errors import CorruptInput, UsageError
from unialign.stages.extraction.body_space import Body, body_space, even_positions, read_between
from unialign.stages.images import decode_images
from unialign.stages.sample_reader import SampleReader
from unialign.stages.skeleton_layouts import layout_in
from unialign.stages.training.reading import Wanted, reader_of

Features = NDArray[np.float32]
Vectors = Callable[[SampleReader, Sequence[str]], Iterator[Features]]

FRAMES = 16  # per sample of poses
PICTURES, SIDE = 8, 12  # images per sample of frames, and their side in pixels
BLOCK = 64  # samples read at once


def pose_vectors(reader: SampleReader, ids: Sequence[str]) -> Iterator[Features]:
    """Joints in body space at the centers of `FRAMES` equal segments, flattened. Raises as `_bodies` does."""
    for body in _bodies(reader, ids):
        yield read_between(body.joints.swapaxes(0, 1), even_positions(body.joints.shape[1], FRAMES)).ravel()


def motion_vectors(reader: SampleReader, ids: Sequence[str]) -> Iterator[Features]:
    """Where joints are in body space and how far they move: mean, deviation, largest and smallest coordinate over time,
    flattened. Raises as `_bodies` does.

    For unseen classes: what joints do carries over to other movements, and when they do it does not.
    """
    for body in _bodies(reader, ids):
        joints = body.joints
        values = (joints.mean(axis=1), joints.std(axis=1), joints.max(axis=1), joints.min(axis=1))
        yield np.asarray(np.stack(values), np.float32).ravel()


def pose_feature_vectors(reader: SampleReader, ids: Sequence[str]) -> Iterator[Features]:
    """The encoder's feature for the first view."""
    for feature in _first_views(reader, "feature", ids):
        yield np.asarray(feature, np.float32).ravel()


def token_vectors(reader: SampleReader, ids: Sequence[str]) -> Iterator[Features]:
    """The mean token over frames and regions of the first view."""
    for view in _first_views(reader, "tokens", ids):
        tokens = np.asarray(view, np.float32)
        yield np.asarray(tokens.reshape(-1, tokens.shape[-1]).mean(axis=0))


def picture_vectors(reader: SampleReader, ids: Sequence[str]) -> Iterator[Features]:
    """`PICTURES` frames, each resized to `SIDE` x `SIDE` pixels, flattened."""
    encoding = str(reader.array_attributes("pictures").get("encoding", "jpeg"))
    columns = {name: Wanted(reader, name) for name in ("pictures", "offset", "size")}
    joined = reader_of(columns, ids, by_entry=columns)
    for block in _blocks(ids):
        sizes = joined.entries("size", block).values.reshape(len(block), 2)
        offsets, pictures = joined.entries("offset", block), joined.entries("pictures", block)
        for place, size in enumerate(sizes):
            count = len(offsets[place]) - 1
            which = np.clip(even_positions(count, PICTURES).round(), 0, count - 1).astype(int).tolist()
            images = decode_images(pictures[place], offsets[place], size, encoding, which)
            small = [Image.fromarray(each).resize((SIDE, SIDE), Image.Resampling.BILINEAR) for each in images]
            yield np.asarray(np.stack([np.asarray(each, np.float32) for each in small]).ravel() / 255, np.float32)


FEATURES: Mapping[str, Vectors] = {
    "poses": pose_vectors,
    "pose-features": pose_feature_vectors,
    "tokens": token_vectors,
    "frames": picture_vectors,
}
ZERO_SHOT_FEATURES: Mapping[str, Vectors] = {"poses": motion_vectors}


def _bodies(reader: SampleReader, ids: Sequence[str]) -> Iterator[Body]:
    """Up to two persons of each sample, see `body_space`.

    Raises `CorruptInput` for a sample without any person (extraction stores none), `UsageError` for unknown joints.
    """
    attributes = reader.array_attributes("keypoints")
    layout = layout_in(attributes)
    if layout is None:
        raise UsageError("the poses' joints are of an unknown order; baselines need to know where the hips are.")
    scored = list(attributes.get("coordinates", ())) == ["x", "y", "score"]
    for sample, keypoints in zip(ids, _whole(reader, "keypoints", ids), strict=True):
        try:
            yield body_space(keypoints, layout, min(2, keypoints.shape[1]), scored=scored)
        except CorruptInput as error:
            raise CorruptInput(f"poses of sample {sample!r}: {error}", error.status) from error


def _whole(reader: SampleReader, array: str, ids: Sequence[str]) -> Iterator[np.ndarray]:
    joined = reader_of({array: Wanted(reader, array)}, ids, by_entry=[array])
    for block in _blocks(ids):
        yield from _parts(joined.entries(array, block))


def _first_views(reader: SampleReader, array: str, ids: Sequence[str]) -> Iterator[np.ndarray]:
    joined = reader_of({array: Wanted(reader, array)}, ids, by_entry=[array])
    for block in _blocks(ids):
        for part in _parts(joined.entries(array, block, np.zeros(len(block), np.int64), 1)):
            yield part[0]


def _parts(entries: Entries) -> Iterator[np.ndarray]:
    return (entries[place] for place in range(len(entries)))


def _blocks(ids: Sequence[str]) -> Iterator[np.ndarray]:
    return (np.arange(first, min(first + BLOCK, len(ids))) for first in range(0, len(ids), BLOCK))
