"""A tiny dataset with its caches, made with the store itself: what stage two's tests train on.

Four classes of two-second "clips": the color of the images, the pose features, the poses and the texts all tell them
apart, so that a small model learns them in a few steps.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from unialign.cache.arrays import ArraySpec
from unialign.cache.keys import Key
from unialign.cache.reader import StoreReader
from unialign.cache.records import Entry
from unialign.cache.store import Store, create_store, grow_store, store_path, write_shard
from unialign.stages.datasets.base import Dataset, Sample, Split
from unialign.stages.extraction.skeleton_arrays import pixel_specs
from unialign.stages.images import encode_image

COLLECTION = "made"
CLASSES = ("wave left", "wave right", "squat", "jump")
COLOURS = np.array([(220, 30, 30), (30, 220, 30), (30, 30, 220), (200, 200, 30)])
TEMPLATES = ("{}", "a clip of {}")
SIZE = (20, 26)
SHARD_SAMPLES = 8


def made_dataset(num_train: int = 12, num_test: int = 8) -> Dataset:
    """Samples of all classes in turn; the last `num_test` are the test side. "seen" trains on the first two only."""
    samples = tuple(
        Sample(f"clip{number:03d}", number % len(CLASSES), {}, {"side": "train" if number < num_train else "test"})
        for number in range(num_train + num_test)
    )

    def whole(all_samples: Sequence[Sample]) -> Split:
        sides = {side: tuple(s.id for s in all_samples if s.attributes["side"] == side) for side in ("train", "test")}
        return Split(**sides)

    def seen(all_samples: Sequence[Sample]) -> Split:
        return Split(tuple(s.id for s in all_samples if s.label < 2), tuple(s.id for s in all_samples if s.label >= 2))

    return Dataset("tiny", COLLECTION, Path("nowhere"), CLASSES, samples, {"whole": whole, "seen": seen})


def write_store(
    cache: Path,
    modality: str,
    specs: Sequence[ArraySpec],
    values: Mapping[str, Mapping[str, np.ndarray]],
    *,
    failed: Sequence[str] = (),
    attributes: Mapping[str, Any] | None = None,
    fields: Mapping[str, Any] | None = None,
    codec: str = "none",
) -> StoreReader:
    """A store of `values` by sample id; the ids in `failed` are recorded as unreadable. fields: more of its key."""
    key = Key({"extractor": "made", "modality": modality, "revision": 1, **(fields or {})})
    store = create_store(
        Store(
            path=store_path(cache, COLLECTION, modality, key),
            collection=COLLECTION,
            modality=modality,
            key=key,
            arrays=tuple(specs),
            shard_samples=SHARD_SAMPLES,
            attributes=dict(attributes or {}),
            codec=codec,
        )
    )
    ids = sorted(values)
    grow_store(store, -(-len(ids) // SHARD_SAMPLES))
    for shard, start in enumerate(range(0, len(ids), SHARD_SAMPLES)):
        part = ids[start : start + SHARD_SAMPLES]
        entries = [Entry(name, "unreadable" if name in failed else "ok", f"sha256:{name}") for name in part]
        write_shard(store, shard, entries, [{} if name in failed else values[name] for name in part])
    return StoreReader(store.path)


def frames_store(
    cache: Path,
    dataset: Dataset,
    encoding: str = "jpeg",
    failed: Sequence[str] = (),
    fields: Mapping[str, Any] | None = None,
) -> StoreReader:
    """3 to 8 images a clip, of its class' color with some noise. fields: see `write_store`."""
    height, width = SIZE
    values: dict[str, dict[str, np.ndarray]] = {}
    for number, sample in enumerate(dataset.samples):
        generator = np.random.default_rng(number)
        count = 3 + number % 6
        colours = COLOURS[sample.label] + generator.normal(0, 12, size=(count, height, width, 3))
        pictures = np.clip(colours, 0, 255).astype(np.uint8)
        encoded = [encode_image(picture, encoding, 90) for picture in pictures]
        values[sample.id] = {
            "pictures": np.frombuffer(b"".join(encoded), dtype=np.uint8),
            "offset": np.cumsum([0, *map(len, encoded)]).astype(np.int64),
            "frame_index": np.arange(count, dtype=np.int32) * 3,
            "size": np.array(SIZE, dtype=np.int32),
            "fps": np.asarray(30.0, dtype=np.float32),
        }
    specs = (
        ArraySpec(
            "pictures",
            "uint8",
            (8 * height * width * 3,),
            ("byte",),
            ragged=True,
            chunk=1024,
            attributes={"encoding": encoding},
        ),
        ArraySpec("offset", "int64", (9,), ("picture_start",), ragged=True),
        ArraySpec("frame_index", "int32", (8,), ("picture",), ragged=True),
        ArraySpec("size", "int32", (2,), ("size",)),
        ArraySpec("fps", "float32", (), ()),
    )
    return write_store(cache, "frames", specs, values, failed=failed, fields=fields)


def pose_features_store(
    cache: Path,
    dataset: Dataset,
    *,
    flips: bool = True,
    failed: Sequence[str] = (),
    attributes: Mapping[str, Any] | None = None,
    fields: Mapping[str, str] | None = None,
) -> StoreReader:
    """2 offsets, mirrored or not, of 4 tokens of width 6. attributes, fields: see `write_store`."""
    views = [
        {"offset": o, "num_offsets": 2, "flip": f} for o in range(2) for f in ((False, True) if flips else (False,))
    ]
    values: dict[str, dict[str, np.ndarray]] = {}
    for number, sample in enumerate(dataset.samples):
        generator = np.random.default_rng(1000 + number)
        tokens = generator.normal(0, 0.3, size=(len(views), 4, 6))
        tokens[..., sample.label] += 2
        tokens = tokens.astype(np.float16)
        values[sample.id] = {"tokens": tokens, "feature": tokens.astype(np.float32).mean(axis=1)}
    specs = (
        ArraySpec(
            "tokens", "float16", (len(views), 4, 6), ("view", "token", "channel"), chunk=1, attributes={"views": views}
        ),
        ArraySpec("feature", "float32", (len(views), 6), ("view", "channel"), chunk=1, attributes={"views": views}),
    )
    return write_store(cache, "pose-features", specs, values, failed=failed, attributes=attributes, fields=fields)


def poses_store(cache: Path, dataset: Dataset, failed: Sequence[str] = ()) -> StoreReader:
    """COCO-17 keypoints of one person, 6 to 30 frames, one of them empty; the class decides how the joints move."""
    values: dict[str, dict[str, np.ndarray]] = {}
    for number, sample in enumerate(dataset.samples):
        generator = np.random.default_rng(2000 + number)
        count = 6 + 5 * (number % 6)
        time = np.arange(count)[:, None]
        keypoints = np.full((count, 2, 17, 3), np.nan)
        keypoints[:, 0, :, 0] = 60 + 3 * np.arange(17) + 20 * np.sin(time * (sample.label + 1))
        keypoints[:, 0, :, 1] = 40 + 2 * np.arange(17) + 10 * sample.label
        keypoints[:, 0, :, :2] += generator.normal(0, 0.5, size=(count, 17, 2))
        keypoints[:, 0, :, 2] = 0.9
        keypoints[2] = np.nan
        values[sample.id] = {
            "keypoints": keypoints.astype(np.float32),
            "frame_size": np.array([160, 120], dtype=np.int32),
        }
    return write_store(cache, "poses", pixel_specs(32, 2), values, failed=failed)


def text_store(cache: Path, classes: Sequence[str] = CLASSES, templates: Sequence[str] = TEMPLATES) -> StoreReader:
    """Unit embeddings of width 8 for each template and class, and one description a class."""
    values: dict[str, dict[str, np.ndarray]] = {}
    for place, name in enumerate(classes):
        for number, template in enumerate(templates):
            row = np.random.default_rng(3000 + 10 * place + number).normal(0, 0.2, size=8)
            row[place] += 2
            values[f"label|{template}|{name}"] = {"embedding": (row / np.linalg.norm(row)).astype(np.float32)}
        values[f"description|0|{name}"] = {"embedding": np.full(8, 8**-0.5, dtype=np.float32)}
    specs = (ArraySpec("embedding", "float32", (8,), ("channel",)),)
    return write_store(cache, "text", specs, values)


def made_stores(cache: Path, dataset: Dataset, encoding: str = "jpeg") -> dict[str, StoreReader]:
    """All four, by modality."""
    return {
        "frames": frames_store(cache, dataset, encoding),
        "pose-features": pose_features_store(cache, dataset),
        "poses": poses_store(cache, dataset),
        "text": text_store(cache),
    }
