"""Contract: all training reads its stores through the batch readers, wherever they lie, and only what was drawn."""

import os
import time
from collections.abc import Callable, Iterator, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.cache.made_remote import serving
from tests.made_stores import frames_store, made_dataset, pose_features_store, poses_store, write_store
from unialign.cache.arrays import ArraySpec
from unialign.cache.batches.batch_reader import BatchReader
from unialign.cache.batches.joined import Entries
from unialign.cache.index import write_index
from unialign.cache.reader import Recorded, StoreReader
from unialign.cache.remote.remote_reader import RemoteReader
from unialign.errors import DamagedStore, UsageError
from unialign.pipeline.systems.unialign import pose_tokens
from unialign.stages.extraction.pose_clips import Shape
from unialign.stages.images import decode_images, encode_image
from unialign.stages.skeleton_layouts import LAYOUTS
from unialign.stages.training.clips import CachedFrames, Clips
from unialign.stages.training.loader import Loader, Position
from unialign.stages.training.pose_samples import CachedPoses, PoseClips
from unialign.stages.training.samples import Batch, Labelled
from unialign.stages.training.settings import TrainSettings
from unialign.stages.training.streamed import Streamed
from unialign.stages.training.token_samples import FrameTokens, TokenClips

DATASET = made_dataset(24, 8)
SAMPLES = Labelled(tuple(s.id for s in DATASET.samples), tuple(s.label for s in DATASET.samples))
VIEWS = (False, True, False, True)
Readers = Mapping[str, Recorded]


def tokens_store(cache: Path) -> StoreReader:
    generator = np.random.default_rng(5)
    spec = ArraySpec("tokens", "float16", (4, 2, 3, 5), ("view", "frame", "token", "channel"), chunk=1)
    made = {name: {"tokens": generator.normal(size=spec.shape).astype(np.float16)} for name in SAMPLES.ids}
    return write_store(cache, "tokens", [spec], made)


def stores(cache: Path, codec: str = "none") -> dict[str, StoreReader]:
    made = {
        "frames": frames_store(cache / "plain", DATASET),
        "pose-features": pose_features_store(cache / "plain", DATASET),
        "poses": poses_store(cache / "plain", DATASET),
        "tokens": tokens_store(cache / "plain"),
    }
    if codec == "none":
        return made
    values = {name: {each: reader.read_one(each) for each in reader.ids} for name, reader in made.items()}
    return {
        name: write_store(cache, name, reader.store.arrays, values[name], codec=codec) for name, reader in made.items()
    }


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Readers:
    return stores(tmp_path_factory.mktemp("plain"))


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Readers:
    return stores(tmp_path_factory.mktemp("packed"), "zstd")


@pytest.fixture(scope="module")
def remote(plain: Readers, packed: Readers) -> Iterator[Readers]:
    """Frames and poses as they are, the others compressed."""
    chosen = {name: (plain if name in ("frames", "poses") else packed)[name] for name in plain}
    paths = {name: reader.path for name, reader in chosen.items() if isinstance(reader, StoreReader)}
    for path in paths.values():
        write_index(StoreReader(path).store)
    folder = Path(os.path.commonpath(paths.values()))
    with serving(folder) as site:
        yield {name: RemoteReader(f"{site.url}/{path.relative_to(folder).as_posix()}") for name, path in paths.items()}


Make = Callable[[Readers, TrainSettings, bool], Streamed]


def clips(readers: Readers, settings: TrainSettings, train: bool) -> Streamed:
    frames = CachedFrames(readers["frames"], "jpeg", 4, 16)
    return Clips(SAMPLES, frames, pose_tokens(readers["pose-features"]), settings, train=train)


def tokens(readers: Readers, settings: TrainSettings, train: bool) -> Streamed:
    return TokenClips(
        SAMPLES, FrameTokens(readers["tokens"], VIEWS), settings.model_copy(update={"test_crops": 1}), train=train
    )


def pose_clips(readers: Readers, settings: TrainSettings, train: bool) -> Streamed:
    poses = CachedPoses(readers["poses"], LAYOUTS["coco-17"], "pyskl-2d", Shape(16, 2))
    return PoseClips(SAMPLES, poses, settings, train=train)


KINDS: dict[str, Make] = {"clips": clips, "tokens": tokens, "poses": pose_clips}


def same(one: list[Batch], other: list[Batch]) -> bool:
    return len(one) == len(other) and all(
        first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
        for first, second in zip(one, other, strict=True)
    )


def epoch(make: Make, readers: Readers, start: Position = Position(), **values: Any) -> list[Batch]:  # noqa: B008
    settings = TrainSettings(batch_size=5, flip=0.5, seed=2, **values)
    return [one.data for one in Loader(make(readers, settings, True), settings).epoch(start)]


def in_order(make: Make, readers: Readers, **values: Any) -> list[Batch]:
    settings = TrainSettings(batch_size=5, **values)
    return list(Loader(make(readers, settings, False), settings).in_order())


@pytest.mark.parametrize("kind", KINDS)
def test_compressed_and_remote_stores_give_the_batches_of_mapped_ones(
    kind: str, plain: Readers, packed: Readers, remote: Readers
) -> None:
    make, values = KINDS[kind], {"pose_test": "mean", "test_clips": 2, "test_crops": 3}
    for readers in (packed, remote):
        assert same(epoch(make, readers), epoch(make, plain))
        assert same(in_order(make, readers, **values), in_order(make, plain, **values))


@pytest.mark.parametrize("kind", KINDS)
def test_threads_windows_and_where_a_run_was_interrupted_change_no_sample(kind: str, plain: Readers) -> None:
    make = KINDS[kind]
    found = epoch(make, plain)
    assert same(epoch(make, plain, read_threads=5, prefetch=1), found)
    assert same(epoch(make, plain, Position(0, 10)), found[2:])
    windows = epoch(make, plain, window_shards=1)
    assert same(epoch(make, plain, window_shards=1, read_threads=1), windows)
    assert same(epoch(make, plain, Position(0, 15), window_shards=1), windows[3:])
    assert sorted(i for one in windows for i in one["indices"].tolist()) == list(range(len(SAMPLES)))
    rows = {int(i): (one, row) for one in found for row, i in enumerate(one["indices"])}
    for one in windows:
        for row, index in enumerate(one["indices"].tolist()):
            other, place = rows[index]
            assert all(torch.equal(one[name][row], other[name][place]) for name in one if name != "persons")


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_read_sample_by_sample_and_a_kept_batch_keeps_its_numbers(
    kind: str, plain: Readers, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise AssertionError("read_one is for looking at one sample")

    monkeypatch.setattr(StoreReader, "read_one", refused)
    settings = TrainSettings(batch_size=3)
    source = KINDS[kind](plain, settings, True)
    loader = Loader(source, settings)
    kept = [one.data for number in range(2) for one in loader.epoch(Position(number))]
    whole = [source.__getitems__([(number, i) for i in range(len(SAMPLES))]) for number in range(2)]
    for batch, of_all in zip(kept, [whole[0]] * 11 + [whole[1]] * 11, strict=True):
        for name in batch.keys() - {"persons"}:
            assert torch.equal(batch[name], of_all[name][batch["indices"]])
        if kind == "poses":
            assert torch.equal(batch["persons"], torch.nonzero(batch["present"].flatten())[:, 0])
    list(loader.in_order())


def test_only_what_was_drawn_is_read(plain: Readers, monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, int] = {}
    entries = BatchReader.entries

    def counted(self: BatchReader, name: str, *rest: Any) -> Entries:
        found = entries(self, name, *rest)
        given[name] = given.get(name, 0) + len(found.values)
        return found

    monkeypatch.setattr(BatchReader, "entries", counted)
    settings = TrainSettings()
    made = clips(plain, settings, True)
    made.__getitems__([(0, 5), (0, 5)])  # 8 images each, of which 4 are seen, and 4 views of pose tokens
    one = plain["frames"].read_one(SAMPLES.ids[5])  # type: ignore[attr-defined]
    assert given["tokens"] == 2
    assert 0.3 < given["pictures"] / (2 * len(one["pictures"])) < 0.7
    assert TokenClips(SAMPLES, FrameTokens(plain["tokens"], VIEWS), settings, train=True).reader.sample_bytes == 60


def test_views_of_tokens_are_drawn_at_once_as_they_are_one_by_one(plain: Readers) -> None:
    for flip in (0.0, 0.3, 1.0):
        settings = TrainSettings(flip=flip, seed=4)
        made = TokenClips(SAMPLES, FrameTokens(plain["tokens"], VIEWS), settings, train=True)
        for epoch in range(20):
            places = np.arange(len(SAMPLES))
            drawn = made._starts(epoch, places)[:, 0]
            assert drawn.tolist() == [made._drawn(epoch, place) for place in places.tolist()]


@pytest.mark.parametrize("window_shards", [0, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_the_meter_says_what_was_read_and_what_the_loader_would_reach_alone(
    kind: str, window_shards: int, plain: Readers
) -> None:
    settings = TrainSettings(batch_size=5, window_shards=window_shards, read_threads=2)
    loader = Loader(KINDS[kind](plain, settings, True), settings)
    for number in range(2):
        for _ in loader.epoch(Position(number)):
            time.sleep(0.01)
        meter = loader.meter
        assert meter.samples == len(SAMPLES)
        assert meter.spent.bytes / len(SAMPLES) == {"tokens": 60}.get(kind, pytest.approx(4000, rel=0.9))
        assert meter.megabytes_per_second == pytest.approx(meter.spent.bytes / 1e6 / meter.seconds)
        assert 0 < meter.spent.seconds < 2 * meter.seconds
        assert meter.samples_alone == pytest.approx(2 * len(SAMPLES) / meter.spent.seconds)
        assert meter.samples_alone > len(SAMPLES) / meter.seconds


@pytest.mark.parametrize("kind", KINDS)
def test_windows_of_compressed_stores_are_rejected(kind: str, packed: Readers) -> None:
    with pytest.raises(UsageError, match=r"train\.settings\.window_shards is for local, uncompressed stores"):
        epoch(KINDS[kind], packed, window_shards=2)


def test_images_are_those_that_pillow_decodes() -> None:
    """To the last bit, so that a change of decoder is no change of what is computed."""
    generator = np.random.default_rng(3)
    coarse = generator.integers(0, 256, size=(9, 7, 3), dtype=np.uint8)
    for height, width in ((64, 64), (33, 47), (17, 100), (1, 1)):
        picture = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))
        for options in ({}, {"progressive": True}, {"subsampling": "4:4:4"}, {"quality": 30}):
            file = BytesIO()
            Image.fromarray(picture).save(file, "JPEG", **{"quality": 90, "subsampling": "4:2:0", **options})
            data = np.frombuffer(file.getvalue(), np.uint8)
            (found,) = decode_images(data, np.array([0, len(data)]), np.array([height, width]), "jpeg", [0])
            np.testing.assert_array_equal(found, np.asarray(Image.open(file).convert("RGB")))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            {"pictures": lambda data: np.append(data[:-60], np.zeros(60, np.uint8))},
            r"'one': image 1 is not a complete JPEG",
        ),
        ({"size": lambda size: size - 4}, r"'one': image 0 is not a complete JPEG .*too small"),
        ({"size": lambda size: size + 4}, r"'one': image 0 is 24 x 32, not \(28, 36\)"),
        ({"size": lambda size: size * 0}, r"no stored image has 0 x 0 pixels"),
        ({"offset": lambda offset: offset[::-1].copy()}, r"'one' are not where their offsets say"),
        ({"offset": lambda offset: offset - 1}, r"'one' are not where their offsets say"),
        ({"offset": lambda offset: offset * 2}, r"'one' are not where their offsets say"),
        ({"offset": lambda offset: offset[:1]}, r"'one' has no images"),
    ],
)
def test_images_that_are_not_what_their_arrays_say_name_the_sample(
    damage: dict[str, Callable[[np.ndarray], np.ndarray]], message: str, tmp_path: Path
) -> None:
    picture = np.random.default_rng(0).integers(0, 256, size=(24, 32, 3), dtype=np.uint8)
    data = np.frombuffer(encode_image(picture, "jpeg", 90), np.uint8)
    arrays = {
        "pictures": np.concatenate([data, data]),
        "offset": np.array([0, len(data), 2 * len(data)]),
        "size": np.array([24, 32], np.int32),
    }
    (name, change), *_ = damage.items()
    arrays[name] = change(arrays[name])
    specs = [
        ArraySpec("pictures", "uint8", (8192,), ("byte",), ragged=True, chunk=512),
        ArraySpec("offset", "int64", (9,), ("start",), ragged=True),
        ArraySpec("size", "int32", (2,), ("axis",)),
    ]
    reader = write_store(tmp_path, "frames", specs, {"one": arrays})
    settings = TrainSettings(batch_size=1)
    made = Clips(Labelled(("one",), (0,)), CachedFrames(reader, "jpeg", 2, 16), None, settings, train=True)
    with pytest.raises(DamagedStore, match=message):
        list(Loader(made, settings).epoch(Position()))
