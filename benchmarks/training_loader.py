"""How fast the loaders of stage two feed a training: images, tokens and poses, each against what the machine could do.

    python benchmarks/training_loader.py --videos DIR --json results.json

images: clips of 32 JPEGs with a shorter side of 256 pixels, made from the videos in DIR; a training clip is 16 of
them, a random crop each, resized to 224 x 224. The *limit* (training_limit.cpp, needs g++ and the headers of libjpeg)
decodes the same JPEGs with Pillow's libjpeg-turbo and resizes the same crops with torch's kernel on all cores, without
Python. Peers read the same bytes and do the same. tokens: one drawn view of 401 KB of each sample, against a memory
map. pose: pooled features as DVTA reads them, pose tokens as UniAlign reads them beside its images, and clips of
keypoints as a skeleton encoder reads them; the limit is a memory map with the same arithmetic, and for keypoints the
same recipe called by a thread per core. For pooled features that map leaves out what a training step needs besides
them (labels, indices, memory that the next batch does not overwrite), so a second map gives these too. One peer of
images is no JPEG decoder: raw RGB pixels in a memory map, which take 12 times the space. threads: training steps on
the processor beside different numbers of threads that decode.

Readers take turns within every round; ratios are to the limit of the same round, figures are medians. Batches that
lie ready when a reader's turn begins are taken before its time does, and its worker processes stand still in the turns
of others. "cpu_ms" is the processor time of this process per sample: it depends less on what else the machine does.
"""

import argparse
import ctypes
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import count, islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import torch
from page_cache import files_of, warm
from processes import children, machine, signalled
from torch.utils.data import DataLoader, Dataset
from torchvision.io import ImageReadMode, decode_jpeg
from workloads import at_page, empty_store

from unialign.cache.arrays import ArraySpec
from unialign.cache.cores import usable_cores
from unialign.cache.index import write_index
from unialign.cache.reader import StoreReader
from unialign.cache.records import Entry
from unialign.cache.store import grow_store, write_shard
from unialign.stages.extraction.base import Source
from unialign.stages.extraction.decoding import SourceVideo
from unialign.stages.extraction.frames import Frames
from unialign.stages.extraction.pose_clips import Shape, View
from unialign.stages.extraction.pose_recipes import RECIPES
from unialign.stages.extraction.skeleton_arrays import pixel_specs
from unialign.stages.skeleton_layouts import LAYOUTS
from unialign.stages.training.augmentation import network_frames, random_region, resized, sparse_frames
from unialign.stages.training.cached import FEATURE, PooledFeatures
from unialign.stages.training.clips import CachedFrames, Clips, drawn_views
from unialign.stages.training.loader import Loader, Position
from unialign.stages.training.order import epoch_order, sample_generator
from unialign.stages.training.pose_samples import CachedPoses, PoseClips, frames_with_somebody, random_part
from unialign.stages.training.reading import Wanted, reader_of
from unialign.stages.training.samples import Labelled
from unialign.stages.training.settings import TrainSettings
from unialign.stages.training.token_samples import FrameTokens, TokenClips

FRAMES, SIZE, BATCH, VIEWS = 16, 224, 24, 2
# Of tokens and of pooled features: as DVTA trains.
ROWS = 128
SHARD = 64
LIMIT, OURS = "limit", "unialign"
SETTINGS = TrainSettings(batch_size=BATCH)
MANY = TrainSettings(batch_size=ROWS)
# Turns a reader: samples of one batch after the other, for ever.
Turns = Iterator[int]


@dataclass(frozen=True)
class Pictures:
    """Clips of JPEGs: the file of all bytes, (M, 2) first byte and size of each JPEG, and of each clip its first JPEG,
    how many it has, and (height, width). Clip i shows the same as clip i + `sources`."""

    file: Path
    spans: np.ndarray
    first: np.ndarray
    counts: np.ndarray
    sizes: np.ndarray
    sources: int

    def __len__(self) -> int:
        return len(self.first)


def labelled(number: int) -> Labelled:
    return Labelled(tuple(f"{place:08d}" for place in range(number)), (0,) * number)


def store_of(
    folder: Path, name: str, specs: tuple[ArraySpec, ...], number: int, value: Callable[[int], Mapping[str, np.ndarray]]
) -> StoreReader:
    """A store of so many samples, in shards of 64."""
    store = empty_store(folder, name, specs, SHARD)
    grow_store(store, -(-number // SHARD))
    for shard, start in enumerate(range(0, number, SHARD)):
        numbers = range(start, min(start + SHARD, number))
        entries = [Entry(f"{place:08d}", "ok", "sha256:made") for place in numbers]
        write_shard(store, shard, entries, [dict(value(place)) for place in numbers])
    write_index(store)
    return StoreReader(store.path)


def make_pictures(videos: Path, folder: Path, number: int, sources: int) -> tuple[Pictures, StoreReader]:
    """`number` clips from at most `sources` videos, as one file and as a store; a video's clip comes several times."""
    extractor, made = Frames(short_side=256, num_frames=32), []
    paths = sorted(path for path in videos.rglob("*") if path.suffix in {".mp4", ".avi"})
    for path in paths[:: max(1, len(paths) // (2 * sources))]:
        arrays = extractor.outcome(SourceVideo(Source(path.stem, path))).arrays
        if len(arrays.get("offset", ())) == 33:
            made.append(arrays)
        if len(made) == sources:
            break
    if not made:
        raise SystemExit(f"no video of at least 32 frames in {videos}; give --videos DIR")
    file, at, spans, first = folder / "pictures.bin", 0, [], []
    with file.open("wb") as out:
        for place in range(number):
            arrays = made[place % len(made)]
            first.append(len(spans))
            spans += [(at + begin, end - begin) for begin, end in pairwise(arrays["offset"].tolist())]
            at += out.write(arrays["pictures"].tobytes())
    reader = store_of(folder, "frames", extractor.arrays(), number, lambda place: made[place % len(made)])
    sizes = np.array([made[place % len(made)]["size"] for place in range(number)])
    return Pictures(file, np.array(spans), np.array(first), np.full(number, 32), sizes, len(made)), reader


def drawn(pictures: Pictures, epoch: int, index: int) -> tuple[np.ndarray, Any]:
    """The frames and the crop of a clip, as `Clips` draws them."""
    generator = sample_generator(0, epoch, index)
    generator.random()
    which = sparse_frames(int(pictures.counts[index]), FRAMES, generator.random(FRAMES))
    size = (int(pictures.sizes[index, 0]), int(pictures.sizes[index, 1]))
    return which, random_region(generator, size, SETTINGS.crop_scale, SETTINGS.crop_ratio)


def built_limit(folder: Path) -> Any:
    """The compiled limit."""
    from torch.utils.cpp_extension import include_paths

    libraries = Path(torch.__file__).parent / "lib"
    (jpeg,) = (Path(PIL.__file__).parents[1] / "pillow.libs").glob("libjpeg-*")
    source, target = Path(__file__).with_name("training_limit.cpp"), folder / "limit.so"
    command = ["g++", "-O3", "-std=c++20", "-shared", "-fPIC", str(source), "-o", str(target)]
    command += [
        *(f"-I{path}" for path in include_paths()),
        f"-L{libraries}",
        "-ltorch",
        "-ltorch_cpu",
        "-lc10",
        str(jpeg),
    ]
    subprocess.run([*command, f"-Wl,-rpath,{libraries}", f"-Wl,-rpath,{jpeg.parent}"], check=True)
    library = ctypes.CDLL(str(target))
    library.decode_clips.restype = ctypes.c_int64
    return library.decode_clips


def limit(pictures: Pictures, folder: Path) -> Turns:
    decode, data = built_limit(folder), np.fromfile(pictures.file, np.uint8)
    out = np.zeros((BATCH, FRAMES, SIZE, SIZE, 3), np.uint8)
    for epoch in count():
        clips, spans = [], []
        for index in epoch_order(len(pictures), 0, epoch).tolist():
            which, region = drawn(pictures, epoch, index)
            clips.append((*pictures.sizes[index], region.top, region.left, region.height, region.width, len(spans)))
            spans += pictures.spans[pictures.first[index] + which].tolist()
        wanted, stretches = np.array(clips, np.int64), np.array(spans, np.int64)
        pointers = [ctypes.c_void_p(each.ctypes.data) for each in (data, stretches)]
        memory = ctypes.c_void_p(out.ctypes.data)
        for start in range(0, len(clips) - 4 * BATCH + 1, 4 * BATCH):
            some = np.ascontiguousarray(wanted[start : start + 4 * BATCH])
            sizes = [ctypes.c_int64(each) for each in (len(some), FRAMES, SIZE)]
            rest = (ctypes.c_int64(BATCH), ctypes.c_int64(usable_cores()))
            if decode(*pointers, ctypes.c_void_p(some.ctypes.data), *sizes, memory, *rest):
                raise SystemExit("the limit could not decode a clip")
            yield len(some)


def loaded(source: Any, settings: TrainSettings = SETTINGS) -> Turns:
    """unialign's own loader over one of its sources."""
    loader = Loader(source, settings)
    for epoch in count():
        for batch in loader.epoch(Position(epoch)):
            yield batch.count


def clips_of(reader: StoreReader, **values: Any) -> Clips:
    settings = SETTINGS.model_copy(update=values)
    return Clips(labelled(len(reader.ids)), CachedFrames(reader, "jpeg", FRAMES, SIZE), None, settings, train=True)


def decoded(data: np.ndarray, pictures: Pictures, epoch: int, index: int) -> torch.Tensor:
    """A clip as one writes it with torchvision: (T, 3, S, S) uint8."""
    which, region = drawn(pictures, epoch, index)
    images = []
    for begin, size in pictures.spans[pictures.first[index] + which].tolist():
        image = decode_jpeg(torch.from_numpy(data[begin : begin + size].copy()), mode=ImageReadMode.RGB)
        images.append(image[:, region.top : region.top + region.height, region.left : region.left + region.width])
    whole = torch.stack(images)
    return torch.nn.functional.interpolate(whole, size=(SIZE, SIZE), mode="bilinear", antialias=True)


class Mapped(Dataset[torch.Tensor]):
    def __init__(self, pictures: Pictures) -> None:
        self.pictures = pictures
        self.data = np.memmap(pictures.file, np.uint8, "r")

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> torch.Tensor:
        return decoded(self.data, self.pictures, 0, index)


def torchvision_loader(pictures: Pictures, folder: Path) -> Turns:
    del folder
    workers = DataLoader(Mapped(pictures), BATCH, shuffle=True, num_workers=usable_cores(), persistent_workers=True)
    for _ in count():
        yield from (len(batch) for batch in workers)


class Raw(Dataset[torch.Tensor]):
    """The pixels of each source's images in one file, as FFCV stores them without JPEG; nothing is decoded."""

    def __init__(self, pictures: Pictures, folder: Path) -> None:
        self.pictures, self.file, self.first = pictures, folder / "pixels.bin", []
        data, end = np.memmap(pictures.file, np.uint8, "r"), 0
        with self.file.open("wb") as out:
            for index in range(pictures.sources):
                self.first.append(end)
                for image in jpegs(pictures, data, index):
                    encoded = torch.frombuffer(bytearray(image), dtype=torch.uint8)
                    end += out.write(decode_jpeg(encoded, mode=ImageReadMode.RGB).permute(1, 2, 0).contiguous().numpy())
        self.pixels = np.memmap(self.file, np.uint8, "c")

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> torch.Tensor:
        which, region = drawn(self.pictures, 0, index)
        height, width = self.pictures.sizes[index].tolist()
        first, size = self.first[index % self.pictures.sources], height * width * 3
        clip = self.pixels[first : first + 32 * size].reshape(32, height, width, 3)
        out = np.empty((len(which), SIZE, SIZE, 3), np.uint8)
        for number, frame in enumerate(which.tolist()):
            resized(clip[frame : frame + 1], region, SIZE, out[number : number + 1])
        return torch.from_numpy(out)


def raw_pixels(pictures: Pictures, folder: Path) -> Turns:
    workers = DataLoader(
        Raw(pictures, folder), BATCH, shuffle=True, num_workers=usable_cores(), persistent_workers=True
    )
    for _ in count():
        yield from (len(batch) for batch in workers)


def of_bytes(pictures: Pictures, index: int, images: Sequence[bytes]) -> torch.Tensor:
    """The same from the JPEGs of a whole clip, which is what a shard of another format holds."""
    which, region = drawn(pictures, 0, index)
    cut = [
        decode_jpeg(torch.frombuffer(bytearray(images[number]), dtype=torch.uint8), mode=ImageReadMode.RGB)[
            :, region.top : region.top + region.height, region.left : region.left + region.width
        ]
        for number in which
    ]
    return torch.nn.functional.interpolate(torch.stack(cut), size=(SIZE, SIZE), mode="bilinear", antialias=True)


def jpegs(pictures: Pictures, data: np.ndarray, index: int) -> list[bytes]:
    first = pictures.first[index]
    return [data[begin : begin + size].tobytes() for begin, size in pictures.spans[first : first + 32].tolist()]


def web_dataset(pictures: Pictures, folder: Path) -> Turns:
    import webdataset

    data, shards = np.memmap(pictures.file, np.uint8, "r"), folder / "web"
    shards.mkdir()
    with webdataset.ShardWriter(f"{shards}/%06d.tar", maxcount=SHARD, verbose=0) as writer:
        for index in range(len(pictures)):
            images = {f"{number:02d}.jpg": image for number, image in enumerate(jpegs(pictures, data, index))}
            writer.write({"__key__": f"{index:08d}", **images})

    def clip(sample: dict[str, Any]) -> torch.Tensor:
        images = [value for name, value in sorted(sample.items()) if name.endswith(".jpg")]
        return of_bytes(pictures, int(sample["__key__"]), images)

    urls = sorted(str(path) for path in shards.iterdir())
    source = webdataset.WebDataset(urls, shardshuffle=len(urls), nodesplitter=None).shuffle(200).map(clip).repeat()
    workers = DataLoader(source.batched(BATCH, partial=False), None, num_workers=usable_cores())
    yield from (len(batch) for batch in workers)


def lit_data(pictures: Pictures, folder: Path) -> Turns:
    import litdata
    from litdata.streaming.cache import Cache

    data, target = np.memmap(pictures.file, np.uint8, "r"), folder / "lit"
    target.mkdir()
    cache = Cache(str(target), chunk_bytes="64MB")
    for index in range(len(pictures)):
        images = jpegs(pictures, data, index)
        cache[index] = {"index": index, "ends": np.cumsum([len(image) for image in images]), "images": b"".join(images)}
    cache.done()
    cache.merge()

    class Streamed(litdata.StreamingDataset):  # type: ignore[misc]
        def __getitem__(self, index: Any) -> torch.Tensor:
            found = super().__getitem__(index)
            ends = [0, *np.asarray(found["ends"]).tolist()]
            images = [found["images"][begin:end] for begin, end in pairwise(ends)]
            return of_bytes(pictures, int(found["index"]), images)

    source = Streamed(str(target), shuffle=True)
    for _ in count():
        loader = litdata.StreamingDataLoader(source, batch_size=BATCH, num_workers=usable_cores(), shuffle=True)
        yield from (len(batch) for batch in loader)


def nvidia_dali(pictures: Pictures, folder: Path) -> Turns:
    """NVIDIA DALI without a GPU: one pipeline of threads that decodes of each image the rows of its crop."""
    from nvidia.dali import fn, pipeline_def, types

    del folder
    data = np.memmap(pictures.file, np.uint8, "r")

    def given() -> Iterator[tuple[list[np.ndarray], list[np.ndarray], list[np.ndarray]]]:
        for epoch in count():
            order = epoch_order(len(pictures), 0, epoch).tolist()
            for start in range(0, len(order) - BATCH + 1, BATCH):
                images, corners, shapes = [], [], []
                for index in order[start : start + BATCH]:
                    which, region = drawn(pictures, epoch, index)
                    spans = pictures.spans[pictures.first[index] + which].tolist()
                    images += [data[begin : begin + size] for begin, size in spans]
                    corners += [np.array([region.top, region.left], np.int32)] * len(spans)
                    shapes += [np.array([region.height, region.width], np.int32)] * len(spans)
                yield images, corners, shapes

    threads = {"num_threads": usable_cores(), "device_id": None, "prefetch_queue_depth": SETTINGS.prefetch}

    @pipeline_def(batch_size=BATCH * FRAMES, **threads)  # type: ignore[untyped-decorator]
    def made() -> Any:
        image, corner, shape = fn.external_source(source=given(), num_outputs=3)
        part = fn.decoders.image_slice(image, start=corner, shape=shape, axis_names="HW", output_type=types.RGB)
        return fn.resize(part, size=(SIZE, SIZE), antialias=True, interp_type=types.INTERP_LINEAR)

    pipeline = made()
    pipeline.build()
    while True:
        (out,) = pipeline.run()
        yield len(np.asarray(out.as_tensor())) // FRAMES


def token_map(file: Path, number: int, shape: tuple[int, ...]) -> Turns:
    """One view of each sample, gathered from a memory map into memory that is used again."""
    rows = np.memmap(file, np.float16, "r", shape=(number * VIEWS, *shape))
    out = at_page((ROWS, *shape), "float16")
    for epoch in count():
        order = epoch_order(number, 0, epoch)
        views = np.random.default_rng(epoch).integers(VIEWS, size=number)
        for start in range(0, number - ROWS + 1, ROWS):
            places = order[start : start + ROWS]
            np.take(rows, places * VIEWS + views[places], axis=0, out=out, mode="clip")
            torch.from_numpy(out)
            yield ROWS


def feature_map(values: np.ndarray, views: list[int]) -> Turns:
    """The mean of some views of each sample, gathered from a memory map; only those views are read."""
    rows, number = values.reshape(-1, values.shape[-1]), len(views)
    out = at_page((ROWS * number, values.shape[-1]), "float32")
    for epoch in count():
        order = epoch_order(len(values), 0, epoch)
        for start in range(0, len(values) - ROWS + 1, ROWS):
            places = order[start : start + ROWS, None] * values.shape[1] + views
            np.take(rows, places.ravel(), axis=0, out=out, mode="clip")
            if number > 1:
                torch.from_numpy(out).unflatten(0, (ROWS, number)).mean(dim=1)
            yield ROWS


def whole_batch_map(values: np.ndarray, views: list[int]) -> Turns:
    """The same with what else a training step takes: labels, indices, and memory that the next batches leave alone."""
    rows, number = values.reshape(-1, values.shape[-1]), len(views)
    labels, ahead = np.zeros(len(values), np.int64), SETTINGS.prefetch + 2
    memory = [at_page((ROWS * number, values.shape[-1]), "float32") for _ in range(ahead)]
    for epoch in count():
        order = epoch_order(len(values), 0, epoch)
        for place, start in enumerate(range(0, len(values) - ROWS + 1, ROWS)):
            indices, out = order[start : start + ROWS], memory[place % ahead]
            np.take(rows, (indices[:, None] * values.shape[1] + views).ravel(), axis=0, out=out, mode="clip")
            features = torch.from_numpy(out).unflatten(0, (ROWS, number)).mean(dim=1) if number > 1 else out
            batch = {"pose_features": torch.as_tensor(features), "indices": torch.from_numpy(indices)}
            batch["labels"] = torch.from_numpy(labels[indices])
            yield len(batch["indices"])


def grid_map(values: np.ndarray, views: list[int]) -> Turns:
    """The same from whole samples, as one writes it first."""
    for epoch in count():
        order, out = epoch_order(len(values), 0, epoch), at_page((ROWS, *values.shape[1:]), "float32")
        for start in range(0, len(values) - ROWS + 1, ROWS):
            np.take(values, order[start : start + ROWS], axis=0, out=out, mode="clip")
            torch.from_numpy(out)[:, views].mean(dim=1)
            yield ROWS


def keypoint_map(values: np.ndarray, shape: Shape) -> Turns:
    """The recipe of a training clip on rows of a memory map, by a thread per core."""
    layout, size = LAYOUTS["coco-17"], (320.0, 256.0)
    out = np.zeros((BATCH, shape.num_persons, shape.num_frames, 17, 3), np.float32)

    def make(epoch: int, place: int, index: int) -> None:
        generator, keypoints = sample_generator(0, epoch, index), values[index]
        shown = frames_with_somebody(keypoints, scored=True)
        part = random_part(keypoints, shown, generator, 0.5, shape.num_frames)
        view = View(offset=0, num_offsets=1, flip=bool(generator.random() < 0))
        out[place] = RECIPES["pyskl-2d"](part, layout, view, shape, size).keypoints

    with ThreadPoolExecutor(usable_cores()) as pool:
        for epoch in count():
            order = epoch_order(len(values), 0, epoch)
            for start in range(0, len(values) - BATCH + 1, BATCH):
                list(pool.map(partial(make, epoch), range(BATCH), order[start : start + BATCH].tolist()))
                yield BATCH


def measured(case: str, readers: Mapping[str, Turns], rounds: int, seconds: float) -> list[dict[str, Any]]:
    """The rows of a case. The first reader is the limit."""
    rates: dict[str, list[float]] = {name: [] for name in readers}
    costs: dict[str, list[float]] = {name: [] for name in readers}
    workers: dict[str, set[int]] = {name: set() for name in readers}
    others = children()
    for number in range(-1, rounds):
        for name, turns in readers.items():
            signalled(workers[name], signal.SIGCONT)
            ready = 12 if number < 0 else 8
            for _ in islice(turns, ready if name != LIMIT else 1):
                pass
            done, started, spent = 0, time.perf_counter(), time.process_time()
            while (passed := time.perf_counter() - started) < (seconds if number >= 0 else 0):
                done += next(turns)
            if number >= 0:
                rates[name].append(done / passed)
                costs[name].append(1e3 * (time.process_time() - spent) / done)
                # Whoever stops it early has these.
                found = f"{rates[name][-1]:,.1f} per second, {costs[name][-1]:.3g} ms of CPU"
                print(f"{case}: {name}, round {number + 1} of {rounds}: {found}", file=sys.stderr)
            workers[name] = children().difference(others, *(pids for each, pids in workers.items() if each != name))
            signalled(workers[name], signal.SIGSTOP)
    return [
        {
            "case": case,
            "reader": name,
            "per_second": round(statistics.median(values), 1),
            "ratio_to_limit": round(
                statistics.median([one / other for one, other in zip(values, rates[LIMIT], strict=True)]), 3
            ),
            # Of worker processes it is not known.
            "cpu_ms": None if workers[name] else float(f"{statistics.median(costs[name]):.3g}"),
        }
        for name, values in rates.items()
    ]


def waits(reader: StoreReader, rate: float, seconds: float) -> list[dict[str, Any]]:
    """Share of an epoch that a network waits which takes a known time and no processor, at several speeds."""
    rows = []
    for speed in (rate / 2, 200.0, 500.0, 1000.0):
        loader, ends = Loader(clips_of(reader), SETTINGS), time.monotonic() + seconds
        batches = loader.epoch(Position())
        for number, batch in enumerate(batches):
            if number == SETTINGS.prefetch:
                loader.meter.start()  # the first batches of a run are waited for once
            time.sleep(batch.count / speed)
            if time.monotonic() > ends:
                break
        batches.close()  # type: ignore[attr-defined]
        rows.append({"case": "wait", "network_per_second": round(speed, 1), "data_wait": round(loader.meter.share, 4)})
    return rows


def images(options: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    pictures, reader = make_pictures(options.videos, folder, options.clips, options.sources)
    warm(files_of(folder))
    readers: dict[str, Turns] = {LIMIT: limit(pictures, folder), OURS: loaded(clips_of(reader))}
    readers["unialign, colour 0"] = loaded(clips_of(reader, colour=0.0))
    for name, peer in PEERS.items():
        if options.peers == "all" or any(name.lower().startswith(word) for word in options.peers.split(",")):
            readers[name] = peer(pictures, folder)
    rows = measured("images", readers, options.rounds, options.seconds)
    ours = next(row["per_second"] for row in rows if row["reader"] == OURS)
    return rows + waits(reader, ours, 4 * options.seconds)


PEERS: dict[str, Callable[[Pictures, Path], Turns]] = {
    "torchvision, DataLoader workers": torchvision_loader,
    "WebDataset": web_dataset,
    "LitData": lit_data,
    "NVIDIA DALI, CPU": nvidia_dali,
    "raw pixels, DataLoader workers": raw_pixels,
}


def tokens(options: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    shape, number = (8, 49, 512), options.samples
    spec = ArraySpec("tokens", "float16", (VIEWS, *shape), ("view", "frame", "token", "channel"), chunk=1)
    generator, file = np.random.default_rng(0), folder / "tokens.bin"
    with file.open("wb") as out:

        def value(place: int) -> Mapping[str, np.ndarray]:
            made = generator.standard_normal(spec.shape, dtype=np.float32).astype(np.float16)
            out.write(made.tobytes())
            return {"tokens": made}

        reader = store_of(folder, "tokens", (spec,), number, value)
    warm(files_of(folder))
    made = TokenClips(labelled(number), FrameTokens(reader, (False,) * VIEWS), MANY, train=True)
    return measured(
        "tokens", {LIMIT: token_map(file, number, shape), OURS: loaded(made, MANY)}, options.rounds, options.seconds
    )


def pose(options: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    # As many as DVTA trains on: the training clips of NTU RGB+D 60, X-Sub.
    number, generator = 40_091, np.random.default_rng(0)
    features = generator.standard_normal((number, 8, 256), dtype=np.float32)
    spec = ArraySpec("feature", "float32", (8, 256), ("view", "channel"), chunk=1)
    reader = store_of(folder, "features", (spec,), number, lambda place: {"feature": features[place]})
    file = folder / "features.bin"
    features.tofile(file)
    mapped = np.memmap(file, np.float32, "r", shape=features.shape)
    warm(files_of(folder))
    joined = reader_of({FEATURE: Wanted(reader, FEATURE, window=1)}, reader.ids)
    rows = []
    for name, views in (("first view", [0]), ("mean of 4 views", [0, 2, 4, 6])):
        ours = PooledFeatures(joined, [0] * number, views)
        readers = {LIMIT: feature_map(mapped, views), OURS: loaded(ours, MANY)}
        readers["memory map, with labels and indices"] = whole_batch_map(mapped, views)
        readers["memory map, all views read"] = grid_map(mapped, views)
        found = measured("pose", readers, options.rounds, options.seconds)
        rows += [{**row, "what": f"DVTA, {name}"} for row in found]
    rows += pose_tokens(options, folder)
    number = 2048
    keypoints = generator.uniform(1, 250, (number, 120, 2, 17, 3)).astype(np.float32)
    keypoints[..., 2] = 0.9
    sizes = np.array([256, 320], np.int32)
    poses = store_of(
        folder, "poses", pixel_specs(120, 2), number, lambda place: {"keypoints": keypoints[place], "frame_size": sizes}
    )
    shape = Shape(100, 2)
    file = folder / "keypoints.bin"
    keypoints.tofile(file)
    mapped = np.memmap(file, np.float32, "r", shape=keypoints.shape)
    clips = PoseClips(labelled(number), CachedPoses(poses, LAYOUTS["coco-17"], "pyskl-2d", shape), SETTINGS, train=True)
    found = measured("pose", {LIMIT: keypoint_map(mapped, shape), OURS: loaded(clips)}, options.rounds, options.seconds)
    return rows + [{**row, "what": "encoder, clips of 100 frames"} for row in found]


def pose_tokens(options: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """The drawn view of 25 tokens of 256 numbers of each clip of a batch, which `Clips` reads beside its images.

    Stored as float16 and given as float32, as those of `extract pose-features` are.
    """
    number, views, shape = 2048, 4, (25, 256)
    values = np.random.default_rng(0).standard_normal((number, views, *shape), dtype=np.float32).astype(np.float16)
    spec = ArraySpec("tokens", "float16", (views, *shape), ("view", "token", "channel"), chunk=1)
    reader = store_of(folder, "pose-tokens", (spec,), number, lambda place: {"tokens": values[place]})
    file = folder / "pose-tokens.bin"
    values.tofile(file)
    rows = np.memmap(file, np.float16, "r", shape=(number * views, *shape))
    warm(files_of(folder))
    joined = reader_of({"tokens": Wanted(reader, "tokens")}, reader.ids, by_entry=["tokens"])

    def batches() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for epoch in count():
            order = epoch_order(number, 0, epoch)
            chosen = np.random.default_rng(epoch).integers(views, size=number)
            for start in range(0, number - BATCH + 1, BATCH):
                yield order[start : start + BATCH], chosen[start : start + BATCH]

    def mapped() -> Turns:
        for places, chosen in batches():
            torch.from_numpy(np.take(rows, places * views + chosen, axis=0)).float()
            yield BATCH

    def ours() -> Turns:
        for places, chosen in batches():
            drawn_views(joined, places, chosen)
            yield BATCH

    found = measured("pose", {LIMIT: mapped(), OURS: ours()}, options.rounds, options.seconds)
    return [{**row, "what": "UniAlign, pose tokens of 24 clips"} for row in found]


def threads(options: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """A small network that trains on the processor while 1, 2, 4 or (0) one thread per core decode for it: what a step
    takes, and what all threads of the process take for it.
    """
    _, reader = make_pictures(options.videos, folder, 8 * 24, options.sources)
    warm(files_of(folder))
    layers = [torch.nn.Conv2d(3, 16, 7, 4), torch.nn.ReLU(), torch.nn.Conv2d(16, 32, 3, 2), torch.nn.ReLU()]
    network = torch.nn.Sequential(*layers, torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(32, 10))
    torch.set_num_threads(usable_cores())
    chosen = {number: SETTINGS.model_copy(update={"batch_size": 8, "read_threads": number}) for number in (1, 2, 4, 0)}
    found: dict[int, list[tuple[float, float, float]]] = {number: [] for number in chosen}
    for number in range(options.rounds):
        for read_threads, settings in chosen.items():
            loader, spent = Loader(clips_of(reader), settings), time.process_time()
            for batch in loader.epoch(Position(number)):
                frames = network_frames(batch.data["frames"], [0.5] * 3, [0.25] * 3, batch.data["levels"])
                network(frames.flatten(0, 1)).square().mean().backward()
            steps = loader.meter.samples / 8
            cost = 1e3 * (time.process_time() - spent) / steps
            found[read_threads].append((1e3 * loader.meter.seconds / steps, cost, loader.meter.share))
    torch.set_num_threads(1)
    names = ("step_ms", "cpu_ms", "data_wait")
    return [
        {"case": "threads", "read_threads": read_threads}
        | {
            name: round(statistics.median(values), 4)
            for name, values in zip(names, zip(*runs, strict=True), strict=True)
        }
        for read_threads, runs in found.items()
    ]


CASES = {"images": images, "tokens": tokens, "pose": pose, "threads": threads}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--videos", type=Path, default=Path("../shared/data/videos"), help="real videos (default %(default)s)"
    )
    parser.add_argument("--cases", default=",".join(CASES), help="%(default)s")
    parser.add_argument("--clips", type=int, default=2000, help="of images (default %(default)s)")
    parser.add_argument("--sources", type=int, default=40, help="videos that they are made from (default %(default)s)")
    parser.add_argument("--samples", type=int, default=2000, help="of tokens (default %(default)s)")
    parser.add_argument("--peers", default="all", help="all (default), none, or beginnings of names")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0, help="of a reader in a round (default %(default)s)")
    parser.add_argument("--json", type=Path, help="write the rows to this file too")
    options = parser.parse_args()
    if options.samples < ROWS:
        parser.error(f"--samples must be at least {ROWS}, a batch of tokens")
    if options.clips < 4 * BATCH:
        parser.error(f"--clips must be at least {4 * BATCH}, what the limit decodes at once")
    # Workers and threads each compute with one.
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    for case in options.cases.split(","):
        with tempfile.TemporaryDirectory(prefix="unialign-bench-") as folder:
            rows += CASES[case](options, Path(folder))
        if options.json:
            options.json.write_text(json.dumps({"machine": machine(), "rows": rows}, indent=2) + "\n")
    print(f"{machine()}\n\n| case | reader | per second | of the limit | CPU ms |\n|---|---|---|---|---|")
    for row in rows:
        if row["case"] == "wait":
            print(f"| wait | network of {row['network_per_second']:,} clips/s | | {row['data_wait']:.2%} waited | |")
        elif row["case"] == "threads":
            what = f"read_threads {row['read_threads']} | {row['step_ms']:.1f} ms a step"
            print(f"| threads | {what} | {row['data_wait']:.2%} waited | {row['cpu_ms']:.1f} |")
        else:
            what = f", {row['what']}" if "what" in row else ""
            figures = f"{row['per_second']:,} | {row['ratio_to_limit']} | {row['cpu_ms'] or ''}"
            print(f"| {row['case']}{what} | {row['reader']} | {figures} |")
    sys.stdout.flush()
    # Peers' threads may still wait for turns; workers end once they run again and find nobody.
    signalled(children(), signal.SIGCONT)
    os._exit(0)


if __name__ == "__main__":
    main()
