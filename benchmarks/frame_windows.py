"""Memory of a training whose frames do not fit into it: UniAlign's own loader over windows of shards.

    python benchmarks/frame_windows.py --gigabytes 20 --videos DIR --json memory.json

Makes a store of frames as `extract frames` does (32 JPEGs a clip with a shorter side of 256 pixels, 32 clips a shard)
of that size from the videos in DIR, whose clips come many times, evicts it from the page cache, and reads it in a new
process by the loader that UniAlign trains with (`train.settings.window_shards`), for one epoch. Twenty times on the way
it says what has come on top of the imports: *own* memory of the process, *mapped* pages of files in it, and how much of
the store is in the *page cache*, mapped or not, which the system takes back when it needs it.
"""

import argparse
import json
import sys
import tempfile
from itertools import cycle, islice
from pathlib import Path

from page_cache import evict, files_of, resident
from processes import MIB, fresh, machine, memory_of
from training_loader import labelled
from workloads import KEY, made_path

from unialign.cache.index import write_index
from unialign.cache.reader import StoreReader
from unialign.cache.records import Entry
from unialign.cache.store import Store, create_store, grow_store, write_shard
from unialign.stages.extraction.base import Source
from unialign.stages.extraction.decoding import SourceVideo
from unialign.stages.extraction.frames import Frames
from unialign.stages.training.clips import CachedFrames, Clips
from unialign.stages.training.loader import Loader, Position
from unialign.stages.training.settings import TrainSettings

SHARD, LOOKS = 32, 20
FIELDS = {"own_bytes": "RssAnon", "mapped_bytes": "RssFile"}
CACHED = "page_cache_bytes"


def make_store(folder: Path, videos: Path, size: float) -> Path:
    """A store of frames of about `size` bytes."""
    extractor = Frames()
    paths = sorted(path for path in videos.rglob("*") if path.suffix in {".mp4", ".avi"})
    found = (extractor.outcome(SourceVideo(Source(path.stem, path))).arrays for path in paths)
    clips = list(islice((arrays for arrays in found if len(arrays.get("offset", ())) == 33), 2 * SHARD))
    if not clips:
        raise SystemExit(f"no video of at least 32 frames in {videos}; give --videos DIR")
    path, given = made_path(folder, "frames"), cycle(clips)
    number = round(size / SHARD / (sum(clip["pictures"].nbytes for clip in clips) / len(clips)))
    store = create_store(Store(path, "benchmark", "frames", KEY, extractor.arrays(), SHARD, {"licence": "none"}))
    grow_store(store, number)
    for shard in range(number):
        entries = [Entry(f"{shard * SHARD + place:08d}", "ok", "sha256:made") for place in range(SHARD)]
        write_shard(store, shard, entries, [next(given) for _ in entries])
    write_index(store)
    return path


def epoch(path: Path, window: int, frames: int) -> list[dict[str, float]]:
    """Memory on the way through an epoch in this process, beyond what it has now."""
    before = {name: memory_of(field) for name, field in FIELDS.items()}
    files = files_of(path)
    reader = StoreReader(path)
    settings = TrainSettings(window_shards=window)
    source = Clips(labelled(len(reader.ids)), CachedFrames(reader, "jpeg", frames, 224), None, settings, train=True)
    loader, looks = Loader(source, settings), []
    for share in loader.epoch(Position()):
        if (share.batch + 1) * LOOKS // share.num_batches > len(looks):
            row = {name: float(memory_of(field) - before[name]) for name, field in FIELDS.items()}
            row[CACHED] = float(sum(map(resident, files)))
            looks.append({"share": (share.batch + 1) / share.num_batches, **row, "wait": round(loader.meter.share, 3)})
    return looks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=Path, default=Path("../shared/data/videos"), help="default %(default)s")
    parser.add_argument("--gigabytes", type=float, default=20.0, help="size of the store (default %(default)s)")
    parser.add_argument("--window", type=int, default=8, help="shards of a window (default %(default)s)")
    parser.add_argument("--frames", type=int, default=8, help="of a training clip (default %(default)s)")
    parser.add_argument("--folder", type=Path, help="where the store is made, and deleted (default: temporary files)")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--step", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step:
        print(json.dumps({"rows": epoch(options.step, options.window, options.frames)}))
        return
    with tempfile.TemporaryDirectory(prefix="unialign-bench-", dir=options.folder) as folder:
        path = make_store(Path(folder), options.videos, 1e9 * options.gigabytes)
        size = sum(file.stat().st_size for file in files_of(path))
        print(f"{size / 1e9:.1f} GB, {evict(files_of(path)):.1%} of it in the page cache", file=sys.stderr)
        rows = fresh(__file__, ["--step", path, "--window", options.window, "--frames", options.frames])["rows"]
    print(f"{machine()}\n{size / 1e9:.1f} GB of frames in shards of {SHARD} clips, windows of {options.window}\n")
    print("| of the epoch | own, MiB | mapped, MiB | of the store in the page cache, MiB |\n|---|---|---|---|")
    for row in rows:
        print(f"| {row['share']:.0%} | {' | '.join(f'{row[name] / MIB:,.0f}' for name in [*FIELDS, CACHED])} |")
    if options.json:
        options.json.write_text(json.dumps({"machine": machine(), "bytes": size, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
