"""Contract of an extraction: what is recorded is not done again, whatever is not recorded is; one key per setting."""

import multiprocessing
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.cache.test_store import tree_digest
from tests.made_extractor import Spectrum, extract, make_files
from unialign.cache.keys import differences
from unialign.cache.lock import store_lock
from unialign.cache.reader import StoreReader
from unialign.cache.records import count_environments, read_record, record_path
from unialign.cache.store import open_store
from unialign.cache.verify import verify_store
from unialign.errors import DamagedStore, LockedStore
from unialign.pipeline.extraction.extract import Settings, run_extraction
from unialign.pipeline.extraction.hardware import processor
from unialign.pipeline.extraction.planning import cut_units
from unialign.stages.extraction.base import Outcome, Source
from unialign.stages.extraction.frames import Frames
from unialign.stages.extraction.skeletons import ReadySkeletons


def test_a_second_run_extracts_nothing_and_one_more_clip_extracts_one(tmp_path: Path) -> None:
    sources = make_files(tmp_path / "files", 10)
    first = extract(tmp_path / "cache", sources)
    again = extract(tmp_path / "cache", sources)
    more = extract(tmp_path / "cache", make_files(tmp_path / "files", 11))
    assert (first.extracted, first.reused) == (10, 0)
    assert (again.extracted, again.reused) == (0, 10)
    assert (more.extracted, more.reused) == (1, 10)
    assert first.store == again.store == more.store
    assert len(StoreReader(more.store).ids) == 11
    assert verify_store(more.store) == []


def test_another_setting_is_another_store_and_the_difference_is_named(tmp_path: Path) -> None:
    sources = make_files(tmp_path / "files", 4)
    one, two = extract(tmp_path / "cache", sources), extract(tmp_path / "cache", sources, Spectrum(scale=0.5))
    assert one.store != two.store
    assert differences(open_store(one.store).key.fields, open_store(two.store).key.fields) == [
        {"field": "parameters.scale", "first": 1.0, "second": 0.5}
    ]


def test_every_sample_is_stored_or_counted_by_status(tmp_path: Path) -> None:
    sources = [*make_files(tmp_path / "files", 9, bad=(2, 5)), Source("gone", None)]
    done = extract(tmp_path / "cache", sources)
    assert done.quarantined == {"missing-file": 1, "truncated": 2}
    assert (done.attempted, done.extracted, done.reused) == (10, 7, 0)
    assert len(StoreReader(done.store).ids) + sum(done.quarantined.values()) == done.total == 10
    again = extract(tmp_path / "cache", sources)
    assert (again.attempted, again.extracted, again.reused) == (0, 0, 7)


def test_a_record_says_what_computed_its_shard_and_a_mixed_store_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources = make_files(tmp_path / "files", 12)
    store = extract(tmp_path / "cache", sources[:8]).store
    assert read_record(record_path(store, 0)).environment == {"processor": processor()}
    assert count_environments(store) == [{"processor": processor(), "shards": 2}]
    monkeypatch.setattr("unialign.pipeline.extraction.hardware.processor", lambda: "Other 9000")
    extract(tmp_path / "cache", sources)
    assert count_environments(store) == [
        {"processor": processor(), "shards": 2},
        {"processor": "Other 9000", "shards": 1},
    ]
    assert verify_store(store) == []


def test_a_record_of_a_network_names_device_and_builds(tmp_path: Path) -> None:
    @dataclass(frozen=True)
    class Network(Spectrum):
        device: str = "auto"

    store = extract(tmp_path / "cache", make_files(tmp_path / "files", 2), Network(), threads=2).store
    environment = dict(read_record(record_path(store, 0)).environment)
    if torch.cuda.is_available():
        assert environment["device"] == torch.cuda.get_device_name()
    else:
        expected = {"device": "cpu", "torch": torch.__version__, "threads": 2}
        assert environment == {"processor": processor(), **expected}


def test_a_file_that_the_disk_does_not_give_costs_itself_and_is_not_tried_each_time(tmp_path: Path) -> None:
    sources = make_files(tmp_path / "files", 6)
    # Reading its first byte is an input/output error, as of a bad block.
    (tmp_path / "files" / "clip002.bin").unlink()
    (tmp_path / "files" / "clip002.bin").symlink_to("/proc/self/mem")
    done = extract(tmp_path / "cache", sources)
    assert (done.extracted, done.quarantined) == (5, {"internal-error": 1})
    assert "Input/output error" in done.problems[0][2]
    assert extract(tmp_path / "cache", sources).attempted == 0
    for real in (Frames(), ReadySkeletons()):
        (outcome,) = real.run([sources[2]])
        assert (outcome.status, outcome.detail["why"]) == ("unreadable", "Input/output error")


def test_a_changed_source_is_extracted_again_and_replaces_the_old(tmp_path: Path) -> None:
    sources = make_files(tmp_path / "files", 6)
    store = extract(tmp_path / "cache", sources).store
    before = StoreReader(store).read_one("clip003")["histogram"]
    sources[3].path.write_bytes(b"other bytes, same name")  # type: ignore[union-attr]
    assert extract(tmp_path / "cache", sources).extracted == 1
    assert not np.array_equal(StoreReader(store).read_one("clip003")["histogram"], before)


def test_a_mended_source_leaves_quarantine_and_retry_tries_the_others(tmp_path: Path) -> None:
    sources = make_files(tmp_path / "files", 5, bad=(1, 2))
    assert extract(tmp_path / "cache", sources).quarantined == {"truncated": 2}
    sources[1].path.write_bytes(b"ok now")  # type: ignore[union-attr]
    mended = extract(tmp_path / "cache", sources)
    assert (mended.extracted, mended.quarantined) == (1, {"truncated": 1})
    again = extract(tmp_path / "cache", sources, retry=True)
    assert (again.attempted, again.extracted, again.quarantined) == (1, 0, {"truncated": 1})


def test_repair_does_the_damaged_shards_only_and_restores_every_byte(tmp_path: Path) -> None:
    sources = make_files(tmp_path / "files", 12)
    store = extract(tmp_path / "cache", sources).store
    whole = tree_digest(store)
    opened = open_store(store)
    victim = opened.shard_path("rows", 1)
    victim.write_bytes(victim.read_bytes()[:-7])
    with pytest.raises(DamagedStore, match="--repair"):
        extract(tmp_path / "cache", sources)
    flipped = opened.shard_path("histogram", 2)
    flipped.write_bytes(b"\xff" + flipped.read_bytes()[1:])
    record_path(store, 0).write_bytes(b"{}")
    (store / "rows" / "zarr.json").write_text("{}")
    calls = tmp_path / "calls"
    calls.mkdir()
    extract(tmp_path / "cache", sources[:4], Spectrum(calls=calls), repair=True)
    extract(tmp_path / "cache", sources, Spectrum(calls=calls))
    assert len(list(calls.iterdir())) == 12
    assert tree_digest(store) == whole


def test_dry_run_counts_and_writes_nothing(tmp_path: Path) -> None:
    sources = make_files(tmp_path / "files", 5)
    planned = extract(tmp_path / "cache", sources, dry_run=True)
    assert (planned.total, planned.attempted, planned.reused, planned.extracted) == (5, 5, 0, 0)
    assert not planned.store.exists()


def test_the_estimate_of_a_dry_run_leaves_out_what_is_paid_once(tmp_path: Path) -> None:
    """Networks are loaded, and their kernels and buffers made, with the first sample of a process."""
    planned = extract(tmp_path / "cache", make_files(tmp_path / "files", 2), SlowAtFirst(), dry_run=True)
    assert planned.price is not None
    assert planned.price.seconds_per_sample < 0.2


# What the first sample of a process made.
MADE: list[str] = []


@dataclass(frozen=True)
class SlowAtFirst(Spectrum):
    """Takes half a second longer for the first sample of a process."""

    def run(self, sources: Sequence[Source]) -> Iterator[Outcome]:
        if sources and not MADE:
            MADE.append(sources[0].id)
            time.sleep(0.5)
        yield from super().run(sources)


def hold(path: Path, cache: Path, ready: "multiprocessing.synchronize.Event") -> None:
    with store_lock(path, cache):
        ready.set()
        multiprocessing.Event().wait(60)


def test_a_lock_names_its_owner_and_ends_with_it(tmp_path: Path) -> None:
    sources = make_files(tmp_path / "files", 4)
    store = extract(tmp_path / "cache", sources).store
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    owner = context.Process(target=hold, args=(store, tmp_path / "cache", ready))
    owner.start()
    assert ready.wait(60)
    with pytest.raises(LockedStore, match=str(owner.pid)):
        extract(tmp_path / "cache", sources)
    owner.kill()
    owner.join()
    assert extract(tmp_path / "cache", sources).reused == 4


def test_the_order_of_units_and_the_place_do_not_change_the_bytes(tmp_path: Path) -> None:
    sources = make_files(tmp_path / "files", 11)
    one = extract(tmp_path / "a", sources).store
    two = extract(tmp_path / "b" / "deeper", list(reversed(sources))).store
    assert tree_digest(one) == tree_digest(two)


def test_a_store_without_its_digest_memory_is_still_current(tmp_path: Path) -> None:
    sources = make_files(tmp_path / "files", 4)
    extract(tmp_path / "cache", sources)
    shutil.rmtree(tmp_path / "cache" / ".digests")
    assert extract(tmp_path / "cache", sources).reused == 4


@settings(max_examples=200, deadline=None)
@given(
    st.dictionaries(st.integers(0, 60), st.integers(0, 9)),
    st.sets(st.integers(0, 9)),
    st.integers(1, 7),
    st.randoms(),
)
def test_an_interrupted_plan_is_cut_the_same_way_again_and_no_older_entry_supersedes(
    ids: dict[int, int], taken: set[int], size: int, random: object
) -> None:
    sources = [Source(f"{n:02d}") for n in ids]
    # Some samples have an older entry in a shard that is there.
    floors = {f"{n:02d}": shard for n, shard in ids.items() if shard in taken}
    whole = cut_units(sources, taken, size, floors)
    assert sorted(source.id for unit in whole for source in unit.sources) == sorted(source.id for source in sources)
    assert len({unit.shard for unit in whole} | taken) == len(whole) + len(taken)
    assert all(unit.shard > floors.get(source.id, -1) for unit in whole for source in unit.sources)
    finished = [unit for unit in whole if random.random() < 0.5]  # type: ignore[attr-defined]
    held = {source.id for unit in finished for source in unit.sources}
    left = [source for source in sources if source.id not in held]
    rest = cut_units(left, taken | {unit.shard for unit in finished}, size, floors)
    assert sorted([*finished, *rest], key=lambda unit: unit.shard) == sorted(whole, key=lambda unit: unit.shard)


def test_whoever_interrupts_is_told_what_is_stored_and_how_it_goes_on(tmp_path: Path) -> None:
    def stopped(done: int, total: int) -> None:
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as raised:
        run_extraction(
            Spectrum(),
            make_files(tmp_path / "files", 10),
            cache=tmp_path / "cache",
            collection="made",
            settings=Settings(shard_samples=4),
            progress=stopped,
        )
    assert raised.value.__notes__ == [
        "poses: 4 of 10 samples are stored (4 at a time).",
        "The same command goes on from there.",
    ]


def test_a_changed_sample_does_not_land_below_its_older_entry_when_a_repair_frees_a_shard(tmp_path: Path) -> None:
    sources = make_files(tmp_path / "files", 4)
    extract(tmp_path / "cache", sources)
    sources = make_files(tmp_path / "files", 5)
    store = extract(tmp_path / "cache", sources).store
    # Shard 0 is damaged, and the sample of shard 1 changes; of both, two are done again in one shard.
    open_store(store).shard_path("histogram", 0).unlink()
    sources[4].path.write_bytes(b"other bytes, same name")  # type: ignore[union-attr]
    expected = next(Spectrum().run([sources[4]])).arrays["histogram"]
    assert extract(tmp_path / "cache", [sources[0], sources[4]], repair=True).extracted == 2
    np.testing.assert_array_equal(StoreReader(store).read_one(sources[4].id)["histogram"], expected)
    assert extract(tmp_path / "cache", [sources[0], sources[4]]).extracted == 0


def test_repair_removes_what_a_killed_writer_left_where_nothing_is_to_do_any_more(tmp_path: Path) -> None:
    sources = make_files(tmp_path / "files", 4)
    store = extract(tmp_path / "cache", sources).store
    whole = tree_digest(store)
    # A shard for a source that is as before again: its files were written, its record was not.
    for array in ("rows/c/1/0/0", "histogram/c/1/0"):
        (store / array).parent.mkdir(parents=True)
        (store / array).write_bytes(b"half a shard")
    extract(tmp_path / "cache", sources)
    assert {each.problem for each in verify_store(store)} == {"no record covers this file; an extraction was cut short"}
    extract(tmp_path / "cache", sources, repair=True)
    assert verify_store(store) == []
    assert tree_digest(store) == whole


def test_repair_of_a_retried_sample_does_not_fall_back_into_quarantine(tmp_path: Path) -> None:
    sources = make_files(tmp_path / "files", 4, bad=(1,))
    extract(tmp_path / "cache", sources)
    # The same bytes, tried again and this time read: a second shard supersedes the quarantined entry of the first.
    kept = extract(tmp_path / "cache", sources, Spectrum(lenient=True), retry=True)
    assert (kept.extracted, kept.quarantined) == (1, {})
    shard = open_store(kept.store).shard_path("histogram", 1)
    shard.write_bytes(shard.read_bytes()[:-1])
    repaired = extract(tmp_path / "cache", sources, Spectrum(lenient=True), repair=True)
    assert (repaired.extracted, repaired.quarantined) == (1, {})
    assert "clip001" in StoreReader(kept.store).ids
