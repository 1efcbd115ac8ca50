"""The rendered collection on disk: the list of its clips, and writing those that are missing."""

import csv
import io
import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from itertools import product
from multiprocessing import get_context
from pathlib import Path

from unialign.cache.atomic import write_file
from unialign.errors import UsageError
from unialign.stages.demo.camera import AZIMUTHS
from unialign.stages.demo.motions import ACTIONS, CLASSES, DESCRIPTIONS
from unialign.stages.demo.scene import FPS, ClipKey, render_take, stage_take, track_take
from unialign.stages.demo.skeleton_file import format_skeleton
from unialign.stages.video import encode_clip

# Raise this when the same seed gives different images or skeletons than before.
REVISION = 2


def list_clips(performers: int, cameras: int, replications: int) -> list[ClipKey]:
    """All clips of a collection, sorted by name. Raises `UsageError` for counts that the names cannot hold."""
    limits = {"performers": (performers, 999), "cameras": (cameras, len(AZIMUTHS)), "replications": (replications, 999)}
    for what, (count, most) in limits.items():
        if not 1 <= count <= most:
            raise UsageError(f"the rendered collection has 1 to {most} {what}, not {count}.")
    numbers = (range(1, count + 1) for count in (cameras, performers, replications, len(ACTIONS)))
    return [ClipKey(*each) for each in product(*numbers)]


def video_path(root: Path, key: ClipKey) -> Path:
    """Path of the video of a clip."""
    return root / "rgb" / f"{key.name}_rgb.mp4"


def skeleton_path(root: Path, key: ClipKey) -> Path:
    """Path of the skeleton of a clip."""
    return root / "skeletons" / f"{key.name}.skeleton"


def write_clip(root: Path, seed: int, key: ClipKey) -> None:
    """Renders one clip and writes both of its files, the skeleton last."""
    take = stage_take(key, seed)
    encode_clip(video_path(root, key), render_take(take), FPS)
    write_file(skeleton_path(root, key), format_skeleton(*track_take(take), key.performer))


def render_collection(
    root: Path,
    *,
    seed: int = 0,
    performers: int = 10,
    cameras: int = 2,
    replications: int = 1,
    workers: int = 2,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Writes `rgb/<name>_rgb.mp4`, `skeletons/<name>.skeleton`, `classes.csv` and `rendering.json` below `root`.

    A clip whose two files exist is not rendered again; a larger collection keeps the clips of a smaller one. `progress`
    is called with the number of finished clips and of all clips, first with those that already existed. A script that
    uses more than one worker needs the guard `if __name__ == "__main__"`.
    Raises `UsageError` for impossible counts and for a root that was rendered with another seed or revision.
    """
    if workers < 1 or seed < 0:
        raise UsageError(f"rendering needs at least 1 worker and a seed of 0 or more, not {workers} and {seed}.")
    clips = list_clips(performers, cameras, replications)
    _claim(root, seed)
    write_file(root / "classes.csv", format_classes())
    missing = [key for key in clips if not (video_path(root, key).is_file() and skeleton_path(root, key).is_file())]
    done = len(clips) - len(missing)
    report = progress or (lambda done, total: None)
    report(done, len(clips))
    with _each_written(root, seed, missing, workers) as written:
        for _ in written:
            done += 1
            report(done, len(clips))


def format_classes() -> bytes:
    """The content of `classes.csv`: label (from 0), name, description."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["label", "name", "description"])
    writer.writerows(zip(range(len(CLASSES)), CLASSES, DESCRIPTIONS, strict=True))
    return text.getvalue().encode()


def _claim(root: Path, seed: int) -> None:
    """Records the settings of the clips in `root`, so that two collections are never mixed in one folder."""
    path = root / "rendering.json"
    wanted = f"{json.dumps({'revision': REVISION, 'seed': seed}, sort_keys=True)}\n".encode()
    if not path.is_file():
        write_file(path, wanted)
    elif path.read_bytes() != wanted:
        raise UsageError(
            f"{path}: this folder was rendered with another seed or version; choose a new folder or delete it."
        )


@contextmanager
def _each_written(root: Path, seed: int, keys: Sequence[ClipKey], workers: int) -> Iterator[Iterator[None]]:
    """An iterator that yields None once per written clip; on an error, clips that have not been started are dropped."""
    task = partial(write_clip, root, seed)
    if workers == 1 or len(keys) < 2:
        yield map(task, keys)
        return
    # "spawn": a forked child would inherit the locks of the parent's threads.
    pool = ProcessPoolExecutor(min(workers, len(keys)), mp_context=get_context("spawn"))
    try:
        yield pool.map(task, keys, chunksize=2)
    finally:
        pool.shutdown(cancel_futures=True)
