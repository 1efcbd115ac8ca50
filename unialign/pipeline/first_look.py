"""What a dataset holds and what could go wrong with it, seen in a few seconds: the facts that settings follow from."""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from unialign.cache.inventory import iterate_stores
from unialign.cache.reader import StoreReader
from unialign.errors import CacheProblem, CorruptInput
from unialign.stages.datasets.base import Dataset, Sample
from unialign.stages.datasets.split_problems import split_problems
from unialign.types import Json
from unialign.words import counted

# Clips that are decoded, and seconds after which no more are.
MOST_CLIPS, SECONDS = 48, 6.0
# Clips of which people are counted in a store of poses.
MOST_POSES = 200
FEW_FRAMES = 8


@dataclass(frozen=True)
class FirstLook:
    """What was found in a dataset.

    train, val, test: sizes of the parts of the first protocol. classes: their number. videos: samples that have one.
    decoded: clips that were decoded for what follows. frames: of the median clip; 0 if none was decoded. shortest: its
    number of frames. side, long_side: the median clip's in pixels. fps: its frames per second. decode_rate: frames per
    second, decoded by one thread. people: clips by the largest number of people in a frame, from a store of poses; or
    by their number in one frame, see `people_seen`.
    groups: whether the split keeps groups (people, places) apart. problems: a sentence each.
    """

    dataset: str
    samples: int
    classes: int
    train: int
    val: int
    test: int
    videos: int
    decoded: int = 0
    frames: int = 0
    shortest: int = 0
    side: int = 0
    long_side: int = 0
    fps: float = 0.0
    decode_rate: float = 0.0
    people: Mapping[int, int] = field(default_factory=dict)
    problems: tuple[str, ...] = ()

    def result(self) -> dict[str, Json]:
        """The object that `--json` prints."""
        return {
            **self.__dict__,
            "people": {str(number): count for number, count in self.people.items()},
            "problems": list(self.problems),
        }


@dataclass(frozen=True)
class _Seen:
    """One decoded clip."""

    frames: int
    size: tuple[int, int]
    fps: float
    seconds: float


def first_look(
    dataset: Dataset,
    cache: Path,
    *,
    protocol: str | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> FirstLook:
    """Look at a dataset: its split, some of its videos, decoded whole, and its poses if the cache has some.

    cache: its root. progress: called with (clips looked at, clips to look at). Raises `UsageError` for an unknown
    protocol.
    """
    split = dataset.split(protocol)
    with_video = [sample for sample in dataset.samples if "video" in sample.files]
    seen, broken = _decoded(with_video, progress)
    longest = [max(each.size) for each in seen]
    spent = sum(each.seconds for each in seen)
    return FirstLook(
        dataset=dataset.name,
        samples=len(dataset.samples),
        classes=len(dataset.classes),
        train=len(split.train),
        val=len(split.val),
        test=len(split.test),
        videos=len(with_video),
        decoded=len(seen),
        frames=_middle([each.frames for each in seen]),
        shortest=min((each.frames for each in seen), default=0),
        side=_middle([min(each.size) for each in seen]),
        long_side=_middle(longest),
        fps=round(median(each.fps for each in seen), 2) if seen else 0.0,
        decode_rate=round(sum(each.frames for each in seen) / spent, 1) if spent else 0.0,
        people=_people(dataset, cache),
        problems=tuple(_problems(dataset, protocol, seen, broken)),
    )


def _middle(values: Sequence[int]) -> int:
    return round(median(values)) if values else 0


def _decoded(
    samples: Sequence[Sample], progress: Callable[[int, int], None]
) -> tuple[list[_Seen], list[tuple[str, str]]]:
    """Some clips, evenly spread, decoded from start to end; and (id, why) of those that cannot be."""
    from unialign.stages.video import Video

    count = min(MOST_CLIPS, len(samples))
    chosen = [samples[number * len(samples) // count] for number in range(count)]
    seen: list[_Seen] = []
    broken: list[tuple[str, str]] = []
    begun = time.monotonic()
    for number, sample in enumerate(chosen):
        if time.monotonic() - begun > SECONDS:
            break
        progress(number, count)
        video, started = Video(sample.files["video"], sample.span), time.monotonic()
        try:
            frames = sum(1 for _ in video.frames())
        except CorruptInput as error:
            broken.append((sample.id, f"{error.status}: {video.reason}"))
            continue
        seen.append(_Seen(frames, video.size, video.fps, time.monotonic() - started))
    return seen, broken


def _people(dataset: Dataset, cache: Path) -> dict[int, int]:
    """Clips by the largest number of people in a frame, of some clips of a store of poses; empty without one."""
    import numpy as np

    for path in iterate_stores(cache):
        if path.parts[-3:-1] != (dataset.collection, "poses"):
            continue
        try:
            reader = StoreReader(path)
            ids = reader.ids[:: max(1, len(reader.ids) // MOST_POSES)]
            counts = Counter(
                int(np.isfinite(reader.read_one(name)["keypoints"][..., 0]).any(axis=2).sum(axis=1).max(initial=0))
                for name in ids
            )
        except CacheProblem:
            continue
        if counts:
            return dict(sorted(counts.items()))
    return {}


def _problems(
    dataset: Dataset, protocol: str | None, seen: Sequence[_Seen], broken: Sequence[tuple[str, str]]
) -> Iterator[str]:
    """What may spoil a result or stop a run, a sentence each."""
    yield from (*dataset.notes, *split_problems(dataset, protocol))
    if broken:
        yield (
            f"{len(broken)} of {len(seen) + len(broken)} clips that were looked at cannot be used "
            f"({broken[0][0]}: {broken[0][1]}); they will be left out and counted"
        )
    short = sum(each.frames < FEW_FRAMES for each in seen)
    if short:
        yield f"{counted(short, 'clip has', 'clips have')} fewer than {FEW_FRAMES} frames: little can be seen in so few"
