"""R7: a flipped bit is found by `verify`, and a read raises or gives the exact arrays. Silent differences: 0.

Every 20th byte of a store in the usual run; every byte, and 2,000 random ones of a larger store, with RELIABILITY=full.
"""

import random
from collections.abc import Iterable
from pathlib import Path

import pytest

from tests.reliability.conftest import Report
from tests.reliability.scenes import FULL, SEED, Scene, blind, files_of, make_scene, read_everything, sized
from unialign.cache.verify import verify_store
from unialign.errors import CacheProblem

Flip = tuple[Path, int]


def every_byte(store: Path, step: int) -> list[Flip]:
    """(file, place) of every `step`-th byte of a store."""
    return [(path, place) for path in files_of(store) for place in range(0, path.stat().st_size, step)]


def random_bytes(store: Path, count: int, choice: random.Random) -> list[Flip]:
    """(file, place) of random bytes, each byte of the store as likely as any other."""
    everything = every_byte(store, 1)
    return [choice.choice(everything) for _ in range(count)]


def found_by_verify(store: Path) -> bool:
    """Whether `verify` names damage, or says that this is not a store any more."""
    try:
        return bool(verify_store(store))
    except CacheProblem:
        return True


def check_flips(scene: Scene, flips: Iterable[Flip], choice: random.Random) -> dict[str, int]:
    """Flip one bit at each place, verify, read everything in both ways, put it back; returns the counts."""
    number = refused = 0
    for path, place in flips:
        before = path.read_bytes()
        bit = 1 << choice.randrange(8)
        path.write_bytes(before[:place] + bytes([before[place] ^ bit]) + before[place + 1 :])
        what = f"byte {place} of {path.relative_to(scene.store)}, bit {bit}"
        assert found_by_verify(scene.store), f"verify missed {what}"
        refused += read_everything(scene.store, scene.expected, what) > 0
        path.write_bytes(before)
        number += 1
    assert read_everything(scene.store, scene.expected) == 0
    return {"flips": number, "detected": number, "refused_by_reads": refused, "silent": 0}


@pytest.mark.timeout(1800)
def test_every_flipped_byte_is_found(memory: Path, report: Report) -> None:
    scene, choice = make_scene(memory, bad=(5,)), random.Random(SEED)
    flips = every_byte(scene.store, sized(20, 1))
    if FULL:
        counts = check_flips(scene, flips, choice)
        large = make_scene(memory / "large", 48, bad=(3, 20, 21, 22, 23))
        more = check_flips(large, random_bytes(large.store, 2000, choice), choice)
        counts = {name: counts[name] + more[name] for name in counts}
    else:
        counts = check_flips(scene, flips, choice)
    assert counts["refused_by_reads"] > counts["flips"] // 4
    report("R7", seed=SEED, **counts)


def test_meta_checksums_that_see_lengths_only_are_caught(memory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blind(monkeypatch)
    scene = make_scene(memory)
    shard = next(path for path in files_of(scene.store) if "/c/" in str(path))
    with pytest.raises(AssertionError, match="verify missed"):
        check_flips(scene, [(shard, 3)], random.Random(0))


def test_meta_a_reader_that_does_not_check_is_caught(memory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scene = make_scene(memory)
    shards = [path for path in files_of(scene.store) if "/c/" in str(path)]
    blind(monkeypatch)
    # Verified by nobody: what the reads alone would let through.
    monkeypatch.setattr("tests.reliability.test_flips.found_by_verify", lambda _: True)
    blinded = make_scene(memory / "blind")
    for shard in shards:
        other = blinded.store / shard.relative_to(scene.store)
        with pytest.raises(AssertionError, match="silently differs"):
            check_flips(blinded, [(other, 3)], random.Random(0))
