"""What the reliability tests run in processes of their own, to kill them, to race them and to read beside them.

    python -m tests.reliability.program ACTION ARGUMENTS...

Says `ready` on standard output when its imports are done. Ends with 75 when another process holds the store.
"""

import errno
import fcntl
import os
import shutil
import sys
import time
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

from tests.made_extractor import Spectrum, extract, make_files
from unialign.cache import atomic
from unialign.errors import LockedStore
from unialign.pipeline.prune import prune_stores

LOCKED = 75


def run_extract(
    cache: str, files: str, number: str, pause: str = "0", scale: str = "1", cluster: str = "", calls: str = ""
) -> None:
    """One extraction in shards of 4."""
    extractor = Spectrum(scale=float(scale), pause=float(pause), calls=Path(calls) if calls else None)
    extract(Path(cache), make_files(Path(files), int(number)), extractor, cluster=cluster)


def run_extract_leased(*words: str) -> None:
    """One extraction on a file system without `flock`."""

    def refuse(handle: int, how: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    fcntl.flock = refuse
    run_extract(*words)


def run_repair(cache: str, files: str, number: str) -> None:
    """One extraction that repairs first."""
    extract(Path(cache), make_files(Path(files), int(number)), repair=True)


def run_race(barrier: str, sabotage: str, *words: str) -> None:
    """An extraction that begins when a file appears. sabotage: "no-lock" takes the lock away."""
    if sabotage == "no-lock":
        import unialign.pipeline.extraction.extract

        unialign.pipeline.extraction.extract.store_lock = lambda *_: nullcontext()  # type: ignore[assignment]
    while not Path(barrier).exists():
        time.sleep(0.001)
    run_extract(*words)


def run_careless(*words: str) -> None:
    """An extraction without temporary names: what it writes grows under its own name."""
    real = atomic.write_parts

    def write_in_place(path: Path, parts: list[bytes]) -> tuple[int, str]:
        done = real(path, parts)
        data = path.read_bytes()
        for end in (len(data) // 2, len(data)):
            path.write_bytes(data[:end])
            time.sleep(0.005)
        return done

    atomic.write_parts = write_in_place  # type: ignore[assignment]
    run_extract(*words)


class Deaf:
    """The system's calls, but a rejected rename is passed over."""

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def replace(self, *given: Any) -> None:
        with suppress(OSError):
            os.replace(*given)


def run_deaf(*words: str) -> None:
    """An extraction that ignores a rejected rename."""
    atomic.system = Deaf()  # type: ignore[assignment]
    run_extract(*words)


def run_repairs(cache: str, files: str, number: str, rounds: str, victim: str) -> None:
    """Flip a byte of a file and repair, again and again.

    The damaged file takes the place of the good one by a rename: what a reader has checked and mapped is not watched.
    """
    for _ in range(int(rounds)):
        data = bytearray(Path(victim).read_bytes())
        data[0] ^= 1
        damaged = Path(cache, "damaged")
        damaged.write_bytes(data)
        os.replace(damaged, victim)
        time.sleep(0.01)
        extract(Path(cache), make_files(Path(files), int(number)), repair=True)


def run_prunes(cache: str, copy: str, rounds: str) -> None:
    """Remove every store of a cache and put it back, again and again."""
    for _ in range(int(rounds)):
        # What a reader has open at this moment stays.
        gone = {summary.path.name for summary in prune_stores(Path(cache), set(), dry_run=False).removed}
        for store in (path for path in Path(copy).iterdir() if path.name in gone):
            part = Path(cache, "made", "poses", f"{atomic.PREFIX}copy")
            shutil.copytree(store, part)
            os.replace(part, part.with_name(store.name))
        time.sleep(0.01)


def run_cli(files: str, pause: str, *words: str) -> None:
    """The command line itself, but its extractor is the small one."""
    from unialign.cli import main
    from unialign.pipeline.extraction import extractors

    sources = make_files(Path(files), len(list(Path(files).iterdir())))
    extractors.prepare = lambda *_: extractors.PreparedExtraction(Spectrum(pause=float(pause)), tuple(sources))
    sys.argv = ["unialign", *words]
    main()


def run_prune(cache: str, *keys: str) -> None:
    """Remove all stores but those of some keys."""
    prune_stores(Path(cache), set(keys), dry_run=False)


ACTIONS = {
    "extract": run_extract,
    "extract-leased": run_extract_leased,
    "repair": run_repair,
    "race": run_race,
    "careless": run_careless,
    "deaf": run_deaf,
    "repairs": run_repairs,
    "prunes": run_prunes,
    "prune": run_prune,
    "cli": run_cli,
}

if __name__ == "__main__":
    print("ready", flush=True)
    try:
        ACTIONS[sys.argv[1]](*sys.argv[2:])
    except LockedStore as error:
        print(error, file=sys.stderr)
        sys.exit(LOCKED)
