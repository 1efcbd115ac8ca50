"""Contract of cached arrays: the same batches from threads, from worker processes and from any point of an epoch."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from tests.cache.test_store import build
from tests.made_stores import made_dataset, pose_features_store
from unialign.cache.batches.batch_reader import BatchReader
from unialign.cache.batches.joined import Column, columns_of
from unialign.cache.reader import Shard, StoreReader
from unialign.errors import DamagedStore, UsageError
from unialign.stages.training import cached
from unialign.stages.training.cached import FEATURE, CachedArrays, PooledFeatures
from unialign.stages.training.loader import Loader, Position
from unialign.stages.training.order import BatchIndices, crop_starts, window_order
from unialign.stages.training.prefetch import BufferPool, ahead
from unialign.stages.training.reading import Wanted, reader_of
from unialign.stages.training.settings import TrainSettings

NUM = 45
START = Position()
WINDOW = 12


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> CachedArrays:
    reader = StoreReader(build(tmp_path_factory.mktemp("cache"), num_samples=NUM).path)
    other = StoreReader(build(tmp_path_factory.mktemp("other"), num_samples=NUM, shard_samples=7).path)
    columns = {**columns_of(reader, ["keypoints", "feature"], window=WINDOW), "count": Column(other, "count")}
    return CachedArrays(BatchReader(columns, reader.ids), [number % 5 for number in range(NUM)], seed=3)


Plain = list[tuple[list[int], list[int], bytes, bytes]]


def plain(batches: Iterator[cached.Batch]) -> Plain:
    """Batches as values that compare."""
    return [
        (b["indices"].tolist(), b["count"].tolist(), b["keypoints"].numpy().tobytes(), b["feature"].numpy().tobytes())
        for b in batches
    ]


def epoch(source: CachedArrays, start: Position = START, **settings: int) -> Plain:
    loader = Loader(source, TrainSettings(batch_size=6, seed=3, **settings))
    return plain(share.data for share in loader.epoch(start))


def test_batches_hold_each_sample_under_its_id_cropped_by_seed_epoch_and_sample(source: CachedArrays) -> None:
    found = epoch(source)
    assert sorted(index for batch in found for index in batch[0]) == list(range(NUM))
    assert all(batch[0] == batch[1] for batch in found)  # count is the sample's number, from the other store
    again, other = epoch(source), epoch(source, Position(1))
    assert found == again
    whole = source.__getitems__([(0, index) for index in range(NUM)])
    later = source.__getitems__([(1, index) for index in range(NUM)])
    assert whole["labels"].tolist() == [index % 5 for index in range(NUM)]
    lengths = source.reader.lengths[:, 0]
    differ = [index for index in range(NUM) if not torch.equal(whole["keypoints"][index], later["keypoints"][index])]
    assert differ
    assert all(lengths[index] > WINDOW for index in differ)
    assert other != found


# One of those that load the libraries anew: how several take turns is seen in the first.
@pytest.mark.parametrize(("kind", "workers"), [("fork", 2), ("spawn", 1), ("forkserver", 1)])
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.usefixtures("fork_server")
def test_a_stock_dataloader_gives_the_same_batches_with_workers_of_any_kind(
    source: CachedArrays, kind: str, workers: int
) -> None:
    source.__getitems__([0, 1])  # what is open before a fork must not disturb it
    stock = DataLoader(
        source,
        batch_sampler=[BatchIndices(2, np.arange(start, min(start + 8, NUM))) for start in range(0, NUM, 8)],  # type: ignore[arg-type]
        num_workers=workers,
        multiprocessing_context=kind,
        collate_fn=as_it_is,
    )
    here = [source.__getitems__([(2, i) for i in range(start, min(start + 8, NUM))]) for start in range(0, NUM, 8)]
    assert plain(iter(stock)) == plain(iter(here))


def as_it_is(batch: cached.Batch) -> cached.Batch:
    return batch


def test_plain_indices_are_those_of_epoch_0_and_mixed_epochs_are_rejected(source: CachedArrays) -> None:
    assert plain(iter([source.__getitems__([4, 9])])) == plain(iter([source.__getitems__([(0, 4), (0, 9)])]))
    with pytest.raises(ValueError, match="several epochs"):
        source.__getitems__([(0, 4), (1, 9)])
    with pytest.raises(ValueError, match="labels"):
        CachedArrays(source.reader, [1])


@pytest.mark.parametrize("settings", [{"read_threads": 1}, {"read_threads": 5}, {"num_workers": 1}])
def test_neither_threads_nor_workers_change_a_batch(source: CachedArrays, settings: dict[str, int]) -> None:
    assert epoch(source, **settings) == epoch(source)


@pytest.mark.parametrize("batches", [1, 3])
def test_how_many_batches_are_gathered_at_once_changes_none(
    source: CachedArrays, batches: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = [source.__getitems__([(0, index) for index in batch[0]]) for batch in epoch(source)]
    monkeypatch.setattr(cached, "_TOGETHER", batches * 6 * source.reader.sample_bytes)
    assert epoch(source) == plain(iter(expected))
    assert epoch(source, Position(0, 12)) == plain(iter(expected[2:]))


def test_saved_after_every_batch_and_restored_all_that_follows_is_equal(source: CachedArrays) -> None:
    settings = TrainSettings(batch_size=6, seed=3)
    loader = Loader(source, settings)
    whole, states = [], []
    for number in range(3):
        for share in loader.epoch(Position(number)):
            whole += plain(iter([share.data]))
            states.append(loader.state_dict())
    for number, state in enumerate(states[:16]):
        fresh = Loader(source, settings)
        fresh.load_state_dict(state)
        rest = 8 - (number + 1) % 8
        assert plain(share.data for share in fresh.resume()) == whole[number + 1 : number + 1 + rest]


def test_restored_on_another_number_of_processes_the_rest_of_the_epoch_is_the_same(source: CachedArrays) -> None:
    settings = TrainSettings(batch_size=6, seed=3)
    first = Loader(source, settings)
    shares = first.epoch(Position())
    done = [next(shares) for _ in range(3)]
    state = first.state_dict()
    shares.close()
    rest: list[list[int]] = [[] for _ in range(5)]
    for rank in range(2):
        loader = Loader(source, settings, rank=rank, world_size=2)
        loader.load_state_dict(state)
        for number, share in enumerate(loader.resume()):
            rest[number] += share.data["indices"][: share.count].tolist()
    seen = [index for share in done for index in share.data["indices"].tolist()]
    assert sorted(seen + [index for batch in rest for index in batch]) == list(range(NUM))
    assert [sorted(batch) for batch in rest] == [sorted(batch[0]) for batch in epoch(source)[3:]]


def test_evaluation_crops_in_the_middle_and_pads_nothing(source: CachedArrays) -> None:
    still = CachedArrays(source.reader, source.labels.tolist(), train=False)
    found = list(Loader(still, TrainSettings(batch_size=6)).in_order())
    assert [index for batch in found for index in batch["indices"].tolist()] == list(range(NUM))
    lengths = source.reader.lengths[:, 0]
    reader = source.reader.columns["keypoints"].reader
    row = int(np.argmax(lengths))
    start = (int(lengths[row]) - WINDOW) // 2
    expected = reader.read_one(source.reader.ids[row])["keypoints"][start : start + WINDOW]
    np.testing.assert_array_equal(found[row // 6]["keypoints"][row % 6].numpy(), expected)


def test_a_kept_batch_keeps_its_numbers_and_memory_is_used_again(source: CachedArrays) -> None:
    loader = Loader(source, TrainSettings(batch_size=6, seed=3))
    kept = [share.data for number in range(3) for share in loader.epoch(Position(number))]
    assert plain(iter(kept)) == [batch for number in range(3) for batch in epoch(source, Position(number))]
    pool = BufferPool(source.reader, 4)
    for _ in range(5):
        with pool.lend() as buffers:
            view = torch.from_numpy(buffers.arrays["feature"][:3])[1:3]
        assert view is not None
        del view, buffers
    assert len(pool) == 1
    with pool.lend() as buffers:
        held = torch.from_numpy(buffers.arrays["feature"][:3])[1]
    del buffers
    with pool.lend(), pool.lend():
        pass
    assert len(pool) == 3
    assert held.shape == (5,)


def test_windows_hold_few_shards_and_give_every_sample_once(
    source: CachedArrays, monkeypatch: pytest.MonkeyPatch
) -> None:
    shard, release, held = StoreReader.shard, StoreReader.release, [0]
    first = threading.Lock()

    def counted(self: StoreReader, name: str, number: int, *, warm: bool = False) -> Shard:
        found = shard(self, name, number, warm=warm)
        held.append(len({place for _, place in self._open}))
        return found

    def slow_release(self: StoreReader, name: str, number: int) -> None:
        if first.acquire(blocking=False):
            time.sleep(0.2)  # the bound must not rest on closing being quick
        release(self, name, number)

    monkeypatch.setattr(StoreReader, "shard", counted)
    monkeypatch.setattr(StoreReader, "release", slow_release)
    reader = StoreReader(source.reader.columns["keypoints"].reader.path)
    fresh = BatchReader(columns_of(reader, ["keypoints", "feature"], window=WINDOW), reader.ids)
    loader = Loader(CachedArrays(fresh, [0] * NUM), TrainSettings(batch_size=6, seed=3, window_shards=3))
    seen = [index for share in loader.epoch(Position()) for index in share.data["indices"].tolist()]
    assert sorted(seen) == list(range(NUM))
    assert max(held) <= 3 * 3  # this window, the next one, and the one that a batch still reaches into
    assert not reader._open
    assert [batch[0] for batch in epoch(source, window_shards=3)] != [batch[0] for batch in epoch(source)]
    assert epoch(source, window_shards=3) == epoch(source, window_shards=3, read_threads=5)
    resumed = epoch(source, Position(0, 24), window_shards=3)
    assert resumed == epoch(source, window_shards=3)[4:]
    shares = loader.epoch(Position())
    next(shares)
    shares.close()
    assert not reader._open


def test_windows_need_mapped_stores_and_threads(source: CachedArrays) -> None:
    with pytest.raises(UsageError, match="window_shards"):
        Loader(source, TrainSettings(window_shards=2, num_workers=1))


def test_a_damaged_shard_ends_the_epoch_with_its_name(tmp_path: Path) -> None:
    store = build(tmp_path, num_samples=20)
    path = store.shard_path("feature", 2)
    data = bytearray(path.read_bytes())
    data[1] ^= 1
    path.write_bytes(data)
    reader = StoreReader(store.path)
    damaged = CachedArrays(BatchReader(columns_of(reader, ["feature"]), reader.ids), [0] * 20)
    for window_shards in (0, 2):
        with pytest.raises(DamagedStore, match="feature"):
            list(Loader(damaged, TrainSettings(batch_size=4, window_shards=window_shards)).epoch(Position()))


def test_crops_are_uniform_and_functions_of_seed_epoch_and_sample() -> None:
    samples = np.arange(20_000)
    starts = crop_starts(1, 2, samples, np.full(20_000, 9))
    np.testing.assert_array_equal(starts[::-1], crop_starts(1, 2, samples[::-1], np.full(20_000, 9)))
    counts = np.bincount(starts, minlength=10)
    assert len(counts) == 10
    assert np.abs(counts - 2000).max() < 6 * np.sqrt(2000 * 0.9)
    for other in (crop_starts(2, 2, samples, np.full(20_000, 9)), crop_starts(1, 3, samples, np.full(20_000, 9))):
        assert abs(np.corrcoef(starts, other)[0, 1]) < 0.03
    assert crop_starts(1, 2, samples[:3], np.zeros(3)).tolist() == [0, 0, 0]


def test_a_window_order_is_a_permutation_that_touches_few_shards_at_a_time() -> None:
    shard = np.repeat(np.arange(10), 7)
    order, window_of = window_order(shard, 5, 1, 3)
    assert sorted(order.tolist()) == list(range(70))
    assert (np.diff(window_of[order]) >= 0).all()
    assert [len(np.unique(shard[window_of == window])) for window in range(4)] == [3, 3, 3, 1]
    assert not np.array_equal(order, window_order(shard, 5, 2, 3)[0])
    np.testing.assert_array_equal(order, window_order(shard, 5, 1, 3)[0])


def test_work_ahead_keeps_order_and_raises_in_its_turn() -> None:
    def work(item: int) -> int:
        if item == 3:
            raise RuntimeError("broken")
        return item * item

    found = ahead(work, range(9), threads=3, depth=4)
    assert [next(found) for _ in range(3)] == [0, 1, 4]
    with pytest.raises(RuntimeError, match="broken"):
        next(found)


@pytest.mark.parametrize("views", [[1], [0, 2, 3], [0, 1, 2, 3, 1]])
def test_pooled_features_read_and_average_only_the_views_that_are_used(tmp_path: Path, views: list[int]) -> None:
    dataset = made_dataset(9, 0)
    reader = pose_features_store(tmp_path, dataset)  # 4 views of 6 float32
    joined = reader_of({FEATURE: Wanted(reader, FEATURE, window=1)}, reader.ids)
    source = PooledFeatures(joined, [0] * 9, views, candidates=(2, 5))
    loader = Loader(source, TrainSettings(batch_size=4))
    batches = [share.data for share in loader.epoch(Position())]
    assert loader.meter.spent.bytes == 9 * len(views) * 6 * 4
    for batch in [*batches, source.__getitems__([(0, 3), (0, 8)])]:
        assert batch["candidates"].tolist() == [2, 5]
        whole = np.stack([reader.read_one(reader.ids[index])[FEATURE] for index in batch["indices"].tolist()])
        expected = torch.from_numpy(whole)[:, views].mean(dim=1)
        assert torch.equal(batch["pose_features"], expected)
