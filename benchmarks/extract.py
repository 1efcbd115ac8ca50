"""How fast stage one is, beside what bounds it: the network, the decoder, and the machinery around both.

    python benchmarks/extract.py --weights yolo11n-pose.pt --videos ../shared/data/videos/gestures --json rows.json
    python benchmarks/extract.py --cases orchestration --samples 100000

The first line is the whole table, in ten minutes on an idle machine with 2 cores; the case memory has to be named.
Stand-in networks take a known time and no processor, as one on a GPU does: they sleep, and find a person in each frame.
Starting a worker and a store is left out everywhere but in orchestration: its time is that of an extraction of one clip
for each decoding thread.

- network-bound: clips in front of a stand-in of 200, 1,000 and 5,000 frames/s. The ratio is to the stand-in's rate, or
  to bare decoding where that is slower. Beside it the usual loop: decode, letterbox, network, tracking, in one thread.
- decode-bound: a stand-in that takes no time. The ratio is to bare decoding in a thread per core: `decode_frames`, that
  is, the same decoder with the same settings and RGB frames. A second stand-in takes images that the processor has
  resized, as a network on the processor does; its ratio is to bare decoding and resizing. Beside it the ratio of
  processor time, all processes together, which other programs on the machine affect less.
- two-workers: the same, `--cluster local:2` to `local:1`, with one decoding thread each; and what bare decoding on all
  cores comes to, which nothing exceeds.
- real-network (needs --weights; on a few clips): the bare network on ready images, the loop
  `model.predict(video, stream=True)`, and unialign with each backend that is installed. The ratio is to the loop.
- orchestration: an extractor that does nothing. The ratio is 50 microseconds to what a sample takes; mib is how much
  the memory of this process, which plans and stores, has grown.
- memory: what both processes take for themselves, every thousand of 10,000 made clips; mib is a column of its own, and
  the ratio is to the first one.

`--json FILE` writes {"rows": [{"case", "reader", "per_second", "ratio"}]}; per_second counts frames, or samples.
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property, partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from processes import MIB, machine, memory_of

from unialign.cache.arrays import ArraySpec
from unialign.cache.cores import usable_cores
from unialign.cache.digests import file_digest
from unialign.pipeline.extraction.extract import Extraction, Settings, run_extraction
from unialign.pipeline.extraction.pace import Pace
from unialign.pipeline.extraction.supervisor import Limits, Supervisor
from unialign.pipeline.memory import private_memory
from unialign.stages.extraction import ultralytics_pose
from unialign.stages.extraction.base import Outcome, Source
from unialign.stages.extraction.decoding import SourceVideo
from unialign.stages.extraction.letterbox import letterbox
from unialign.stages.extraction.pose_backends import BACKENDS
from unialign.stages.extraction.poses import DetectionJob, YoloPoses
from unialign.stages.video import decode_frames, encode_clip

SIDE = 640
RATES = (200, 1000, 5000)
# Repeats of each clip in front of a stand-in of 200 frames/s, at most.
SLOW_REPEATS = 8
SAMPLE_BUDGET = 50e-6
# Samples of a shard of poses.
SHARD = 16
CASES = ("network-bound", "decode-bound", "two-workers", "real-network", "orchestration", "memory")
# Made clips of the case memory: so many in all, of so many frames, measured at every step.
MADE_CLIPS, MADE_FRAMES, STEP = 10_000, 8, 1000


class StandIn:
    """A network that takes its time and no processor: the next batch cannot begin before the last one is done.

    takes_frames: as one on a GPU, it gets frames as they are decoded and resizes them itself.
    """

    def __init__(self, rate: float, takes_frames: bool) -> None:
        self.rate, self.takes_frames = rate, takes_frames
        self.free = 0.0

    def put(self, place: int, first: int, images: Sequence[np.ndarray]) -> None:
        pass

    def detect_in(self, place: int, number: int, confidence: float, max_detections: int) -> list[np.ndarray]:
        self.free = max(time.perf_counter(), self.free) + (number / self.rate if self.rate else 0)
        time.sleep(max(0.0, self.free - time.perf_counter()))
        person = np.linspace(200, 400, 56, dtype=np.float32)[None]
        return [person] * number


# One a process, as a network is.
STAND_INS: dict[tuple[float, bool], StandIn] = {}


@dataclass(frozen=True)
class StandInPoses(YoloPoses):
    """Poses by a stand-in of so many frames per second; 0: any number."""

    rate: float = 0.0
    takes_frames: bool = True

    def network(self, device: str, sides: tuple[int, ...]) -> Any:
        return STAND_INS.setdefault((self.rate, self.takes_frames), StandIn(self.rate, self.takes_frames))

    def key(self) -> Mapping[str, Any]:
        return {"extractor": "stand-in", "revision": 1}


@dataclass(frozen=True)
class Nothing:
    """An extractor that does nothing, for what the machinery itself takes."""

    modality = "poses"
    name = "nothing"

    def key(self) -> Mapping[str, Any]:
        return {"extractor": self.name, "revision": 1}

    def arrays(self) -> tuple[ArraySpec, ...]:
        return (ArraySpec("value", "float32", (1,), ("channel",)),)

    def attributes(self) -> Mapping[str, Any]:
        return {}

    def digest(self, source: Source) -> str:
        return ""

    def run(self, sources: Sequence[Source]) -> Iterator[Outcome]:
        value = np.zeros(1, dtype=np.float32)
        for source in sources:
            yield Outcome(source.id, "ok", "", {"value": value})


@dataclass(frozen=True)
class Clips:
    """The clips that are extracted, each `repeats` times under another id, and how many frames they have."""

    paths: tuple[Path, ...]
    repeats: int

    @cached_property
    def lengths(self) -> Mapping[Path, int]:
        """Frames of each clip."""
        return {path: sum(1 for _ in decode_frames(path)) for path in self.paths}

    def frames_of(self, source: Source) -> int:
        assert source.path is not None
        return self.lengths[source.path]

    @property
    def sources(self) -> list[Source]:
        return [Source(f"{path.stem}-{turn}", path) for path in self.paths for turn in range(self.repeats)]

    def frames(self) -> int:
        return self.repeats * sum(self.lengths.values())


@dataclass(frozen=True)
class Cost:
    """What something took: seconds, and processor seconds of this process and of those that began and ended in it."""

    seconds: float
    processor: float

    def __sub__(self, other: "Cost") -> "Cost":
        return Cost(self.seconds - other.seconds, self.processor - other.processor)


def cost(task: Callable[[], object]) -> Cost:
    before, started = os.times(), time.perf_counter()
    task()
    after = os.times()
    return Cost(time.perf_counter() - started, sum(after[:4]) - sum(before[:4]))


def extracted(extractor: Any, sources: list[Source], **settings: Any) -> tuple[Extraction, Cost]:
    """An extraction into an empty cache, and what it took."""
    done: list[Extraction] = []

    def extract() -> None:
        done.append(
            run_extraction(
                extractor,
                sources,
                cache=Path(folder),
                collection="bench",
                settings=Settings(**settings),
                current=lambda _: "",
            )
        )

    with tempfile.TemporaryDirectory() as folder:
        took = cost(extract)
    return done[0], took


def without_start(extractor: Any, clips: "Clips", few: int, **settings: Any) -> tuple[Cost, int]:
    """What the extraction of all clips took beyond that of the first few, and how many frames the others have."""
    first = clips.sources[:few]
    _, start = extracted(extractor, first, **settings)
    _, whole = extracted(extractor, clips.sources, **settings)
    return whole - start, sum(clips.frames_of(source) for source in clips.sources[few:])


def loop(extractor: YoloPoses, sources: list[Source]) -> None:
    """The usual loop over clips, one thing after the other in one thread."""
    network = extractor.network("cpu", (SIDE, SIDE))
    for source in sources:
        clip = DetectionJob(SourceVideo(source))
        images = [letterbox(image, SIDE) for image in clip.video.frames()]
        for start in range(0, len(images), extractor.batch_frames):
            batch = np.stack(images[start : start + extractor.batch_frames])
            clip.found.extend(network.detect_in(0, len(batch), 0.25, 20))
        extractor.outcome(clip)


def bare_decoding(clips: Clips, threads: int, side: int = 0) -> float:
    """Frames per second of nothing but decoding, and resizing to a side that is not 0, in so many threads."""

    def decode(source: Source) -> int:
        assert source.path is not None
        frames = decode_frames(source.path)
        return sum(1 for frame in frames if not side or letterbox(frame, side).size)

    with ThreadPoolExecutor(threads) as pool:
        frames = 0
        started = time.perf_counter()
        for number in pool.map(decode, clips.sources):
            frames += number
        return frames / (time.perf_counter() - started)


def network_bound(clips: Clips, frames: int, cores: int) -> list[dict[str, Any]]:
    """Serial unialign and the usual loop in front of stand-ins."""
    rows = []
    decoding = bare_decoding(clips, cores)
    rows.append(row("network-bound", f"bare decoding, {cores} threads", decoding, decoding))
    for rate in RATES:
        bound = min(rate, decoding)
        poses = StandInPoses(Path(), "", rate=float(rate))
        rows.append(
            row(
                "network-bound",
                f"loop, {rate} frames/s",
                frames / cost(partial(loop, poses, clips.sources)).seconds,
                bound,
            )
        )
        took, number = without_start(poses, clips, cores, threads=cores)
        rows.append(row("network-bound", f"unialign, {rate} frames/s", number / took.seconds, bound))
    return rows


def decode_bound(clips: Clips, frames: int, cores: int, rounds_each: int) -> list[dict[str, Any]]:
    """Serial unialign behind a decoder that does not keep up."""
    rows = []
    for resizing, side, takes_frames in (("", 0, True), (" and resizing", SIDE, False)):
        poses = StandInPoses(Path(), "", takes_frames=takes_frames)
        bare_name, name = f"bare decoding{resizing}, {cores} threads", f"unialign{resizing}"
        found: dict[str, list[np.ndarray]] = {bare_name: [], name: []}
        # In turn, so that what else the machine does affects both.
        for _ in range(rounds_each):
            bare = cost(partial(bare_decoding, clips, cores, side))
            found[bare_name].append(np.array([bare.seconds, bare.processor]) / frames)
            took, number = without_start(poses, clips, cores, threads=cores)
            found[name].append(np.array([took.seconds, took.processor]) / number)
        means = {reader: np.mean(each, axis=0) for reader, each in found.items()}
        for reader, (seconds, processor) in means.items():
            made = row("decode-bound", reader, 1 / seconds, 1 / means[bare_name][0])
            # Of a machine that does nothing else, both ratios are the same.
            made |= {"processor_ms": 1e3 * processor, "processor_ratio": means[bare_name][1] / processor}
            print(f"{'':<59} {made['processor_ms']:>12.3f} ms  {made['processor_ratio']:.3f} of processor time")
            rows.append(made)
    return rows


def two_workers(clips: Clips, frames: int, cores: int) -> list[dict[str, Any]]:
    """Two Dask workers beside one, with the shards that poses have."""
    rates = []
    for workers in (1, 2):
        poses, shard = StandInPoses(Path(), ""), SHARD if len(clips.sources) >= 16 * SHARD else 1
        _, start = extracted(poses, clips.sources[:workers], cluster=f"local:{workers}", shard_samples=1)
        _, whole = extracted(poses, clips.sources, cluster=f"local:{workers}", shard_samples=shard)
        number = sum(clips.frames_of(source) for source in clips.sources[workers:])
        rates.append(number / max((whole - start).seconds, 1e-3))
    readers = [*((f"unialign, local:{number}", rate) for number, rate in enumerate(rates, start=1))]
    readers.append((f"bare decoding, {cores} threads", bare_decoding(clips, cores)))
    return [row("two-workers", name, rate, rates[0]) for name, rate in readers]


def real_network(
    weights: Path, clips: Clips, frames: int, cores: int, rounds: int, backends: Sequence[str]
) -> list[dict[str, Any]]:
    """The loop of the library, then the bare network and unialign with each backend, in turn; the best of the rounds.

    Loading is left out. unialign is its supervised worker, with decoding, tracking and the way back of the outcomes.
    """
    model, digest = ultralytics_pose.loader()(str(weights)), file_digest(weights)

    def predict() -> float:
        found = 0
        started = time.perf_counter()
        for path in clips.paths:
            found += sum(1 for _ in model.predict(str(path), stream=True, imgsz=SIDE, verbose=False, device="cpu"))
        return found / (time.perf_counter() - started)

    readers: dict[str, Callable[[], float]] = {"model.predict(video, stream=True)": predict}
    with ExitStack() as workers:
        for backend in backends:
            is_there = all(find_spec(library) for library in BACKENDS[backend].libraries)
            for rectangular in (False, True) if is_there else ():
                poses = YoloPoses(
                    weights, digest, backend=backend, rectangular=rectangular, device="cpu", image_size=SIDE
                )
                name = f"{backend}{', rectangular' if rectangular else ''}"
                worker = workers.enter_context(Supervisor(poses, cores, Limits()))
                readers[f"bare network, {name}"] = partial(bare_network, poses, clips)
                readers[f"unialign, {name}"] = partial(supervised, worker, clips, frames)
        predict()
        rates: dict[str, list[float]] = {name: [] for name in readers}
        for _ in range(rounds):
            for name, rate in readers.items():
                rates[name].append(rate())
    usual = max(rates["model.predict(video, stream=True)"])
    return [row("real-network", name, max(found), usual) for name, found in rates.items()]


def supervised(worker: Supervisor, clips: Clips, frames: int) -> float:
    """Frames per second of a worker that is loaded."""
    worker.load()
    worker.run(clips.sources[:1])
    return frames / cost(lambda: worker.run(clips.sources)).seconds


def bare_network(poses: YoloPoses, clips: Clips, batches: int = 3) -> float:
    """Frames per second of the network on ready images."""
    stride = ultralytics_pose.network_stride(poses.weights, poses.weights_digest) if poses.rectangular else 0
    image = letterbox(next(decode_frames(clips.paths[0])), SIDE, stride)
    batch = np.repeat(image[None], poses.batch_frames, axis=0)
    network = poses.network("cpu", image.shape[:2])
    network.detect(batch, 0.25, 20)
    return batches * len(batch) / cost(lambda: [network.detect(batch, 0.25, 20) for _ in range(batches)]).seconds


def orchestration(samples: int) -> list[dict[str, Any]]:
    """What a sample takes besides its extraction."""
    sources = [Source(f"sample-{number:08d}") for number in range(samples)]
    before = memory_of("VmHWM")
    done, took = extracted(Nothing(), sources, shard_samples=1024)
    assert done.extracted == samples
    rate, added = samples / took.seconds, (memory_of("VmHWM") - before) / MIB
    each = f"{1e6 / rate:.1f} microseconds a sample, {1e6 * took.processor / samples:.1f} of processor time"
    print(f"orchestration: {each} at {samples:,} samples, {added:.0f} MiB more")
    made = {"case": "orchestration", "reader": "unialign", "per_second": rate, "ratio": SAMPLE_BUDGET * rate}
    return [{**made, "processor_ms": 1e3 * took.processor / samples, "mib": added}]


def memory() -> list[dict[str, Any]]:
    """Memory of both processes, beyond shared files, while made clips are extracted."""
    rows: list[dict[str, Any]] = []
    steps = iter(range(STEP, MADE_CLIPS + 1, STEP))
    wanted = next(steps)

    def look(pace: Pace) -> None:
        nonlocal wanted
        if pace.done >= wanted:
            here = memory_of("RssAnon")
            worker = sum(private_memory(child.pid) for child in psutil.Process().children())
            mib = (here + worker) / MIB
            ratio = mib / rows[0]["mib"] if rows else 1.0
            print(
                f"memory         after {pace.done:>6,} clips {mib:>8.1f} MiB, worker {worker / MIB:.1f}   {ratio:.3f}"
            )
            rows.append(
                {"case": "memory", "reader": f"{wanted:,} clips", "per_second": None, "ratio": ratio, "mib": mib}
            )
            wanted = next(steps, MADE_CLIPS + 1)

    with tempfile.TemporaryDirectory() as folder:
        paths = []
        for number in range(16):
            paths.append(Path(folder) / f"{number:02d}.mp4")
            frames = np.random.default_rng(number).integers(0, 256, (MADE_FRAMES, 64, 64, 3), dtype=np.uint8)
            encode_clip(paths[-1], frames, fps=10)
        sources = [Source(f"clip-{number:05d}", paths[number % len(paths)]) for number in range(MADE_CLIPS)]
        extracted(StandInPoses(Path(), ""), sources, threads=usable_cores(), watch=look)
    return rows


def row(case: str, reader: str, per_second: float, bound: float) -> dict[str, Any]:
    print(f"{case:<14} {reader:<44} {per_second:>12,.1f}/s   {per_second / bound:.3f}", flush=True)
    return {"case": case, "reader": reader, "per_second": per_second, "ratio": per_second / bound}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=Path, required=False, help="folder of clips; all but orchestration need it")
    parser.add_argument("--weights", type=Path, help="an Ultralytics pose network, for real-network")
    parser.add_argument(
        "--backends",
        nargs="+",
        choices=tuple(BACKENDS),
        default=[name for name in BACKENDS if name != "torch-compile"],
        help="of real-network; torch-compile takes minutes to begin",
    )
    parser.add_argument("--cases", nargs="+", choices=CASES, default=CASES[:-1], help="default: all but memory")
    parser.add_argument("--clips", type=int, default=12)
    parser.add_argument("--network-clips", type=int, default=4, help="of real-network, each extracted once")
    parser.add_argument("--repeats", type=int, default=30, help="how often each clip is extracted by a stand-in")
    parser.add_argument(
        "--rounds", type=int, default=2, help="of decode-bound and real-network, whose readers take turns"
    )
    parser.add_argument("--samples", type=int, default=1_000_000, help="of orchestration")
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    print(machine())
    cores, rows = usable_cores(), []
    if chosen.videos:
        clips = Clips(
            tuple(sorted(path for path in chosen.videos.rglob("*") if path.suffix in {".mp4", ".avi"})[: chosen.clips]),
            chosen.repeats,
        )
        frames = clips.frames()
        print(f"{len(clips.sources)} clips, {frames:,} frames")
        if "network-bound" in chosen.cases:
            fewer = replace(clips, repeats=min(clips.repeats, SLOW_REPEATS))
            rows += network_bound(fewer, fewer.frames(), cores)
        if "decode-bound" in chosen.cases:
            rows += decode_bound(clips, frames, cores, chosen.rounds)
        if "two-workers" in chosen.cases:
            rows += two_workers(clips, frames, cores)
        if "real-network" in chosen.cases and chosen.weights:
            once = Clips(clips.paths[: chosen.network_clips], repeats=1)
            rows += real_network(chosen.weights, once, once.frames(), cores, chosen.rounds, chosen.backends)
    if "orchestration" in chosen.cases:
        rows += orchestration(chosen.samples)
    if "memory" in chosen.cases:
        rows += memory()
    if chosen.json:
        chosen.json.write_text(json.dumps({"rows": rows}, indent=1))


if __name__ == "__main__":
    main()
