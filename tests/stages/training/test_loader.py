"""Contract of the loader: the same batches for any number of workers and processes, and from any point of an epoch."""

import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from tests.made_stores import made_dataset, made_stores
from unialign.pipeline.systems.unialign import pose_tokens
from unialign.stages.training.clips import CachedFrames, Clips
from unialign.stages.training.loader import Loader, Position
from unialign.stages.training.order import sample_generator
from unialign.stages.training.samples import Batch, Labelled, Pick
from unialign.stages.training.settings import TrainSettings


class Numbers:
    """A source whose batches are what was asked for, and a number drawn for each."""

    def __init__(self, count: int, delay: float = 0.0, broken: int = -1) -> None:
        self.count, self.delay, self.broken = count, delay, broken

    def __len__(self) -> int:
        return self.count

    def __getitems__(self, picks: Sequence[Pick]) -> Batch:
        time.sleep(self.delay)
        if any(index == self.broken for _, index in picks):
            raise RuntimeError("sample is broken")
        drawn = [sample_generator(0, *pick).random() for pick in picks]
        return {"indices": torch.tensor([index for _, index in picks]), "drawn": torch.tensor(drawn)}


def epochs(loader: Loader, start: Position, end: int) -> list[tuple[list[int], list[float], Position]]:
    """What the batches that count hold, from a position to an epoch."""
    seen, position = [], start
    while position.epoch < end:
        for share in loader.epoch(position):
            data = {name: values[: share.count].tolist() for name, values in share.data.items()}
            seen.append((data["indices"], data["drawn"], share.after))
        position = seen[-1][2]
    return seen


def test_every_epoch_has_every_sample_once_in_another_order() -> None:
    loader = Loader(Numbers(11), TrainSettings(batch_size=4))
    seen = epochs(loader, Position(), 3)
    by_epoch = [[index for indices, _, _ in seen[3 * epoch : 3 * epoch + 3] for index in indices] for epoch in range(3)]
    assert all(sorted(each) == list(range(11)) for each in by_epoch)
    assert len({tuple(each) for each in by_epoch}) == 3


def test_from_any_position_all_that_follows_is_the_same() -> None:
    loader = Loader(Numbers(11), TrainSettings(batch_size=4))
    whole = epochs(loader, Position(), 2)
    assert [place for _, _, place in whole] == [
        *(Position(0, 4), Position(0, 8), Position(1, 0)),
        *(Position(1, 4), Position(1, 8), Position(2, 0)),
    ]
    for number, (_, _, place) in enumerate(whole[:-1]):
        assert epochs(Loader(Numbers(11), TrainSettings(batch_size=4)), place, 2) == whole[number + 1 :]


@pytest.mark.parametrize("count", [11, 13, 16])
def test_two_processes_share_each_batch_also_after_a_resume(count: int) -> None:
    settings = TrainSettings(batch_size=4)
    whole = epochs(Loader(Numbers(count), settings), Position(), 1)
    for done in range(len(whole)):
        start = whole[done - 1][2] if done else Position()
        ranks = [list(Loader(Numbers(count), settings, rank=r, world_size=2).epoch(start)) for r in range(2)]
        for (indices, _, place), first, second in zip(whole[done:], *ranks, strict=True):
            mine = [share.data["indices"][: share.count].tolist() for share in (first, second)]
            assert sorted(mine[0] + mine[1]) == sorted(indices)
            assert first.after == second.after == place
            assert first.count + second.count == first.total == len(indices)
            assert len(second.data["indices"]) >= 1  # nobody is without a step


def test_evaluation_deals_out_every_sample_once_and_pads_none() -> None:
    settings = TrainSettings(batch_size=4)
    for world_size in (1, 2, 3):
        dealt = [
            index
            for rank in range(world_size)
            for batch in Loader(Numbers(9), settings, rank=rank, world_size=world_size).in_order()
            for index in batch["indices"].tolist()
        ]
        assert sorted(dealt) == list(range(9))
    assert list(Loader(Numbers(1), settings, rank=1, world_size=2).in_order()) == []


@pytest.mark.parametrize(
    ("device", "asked", "sizes"), [("cpu", 0, [2, 2, 2, 2, 1]), ("cuda", 0, [4, 4, 1]), ("cpu", 5, [5, 4])]
)
def test_batches_of_evaluation_have_their_own_size(
    monkeypatch: pytest.MonkeyPatch, device: str, asked: int, sizes: list[int]
) -> None:
    monkeypatch.setattr("unialign.stages.training.loader.on_device", lambda batches, device: batches)
    settings = TrainSettings(batch_size=2, eval_batch_size=asked)
    loader = Loader(Numbers(9), settings, device=torch.device(device))
    assert [len(batch["indices"]) for batch in loader.in_order()] == sizes
    assert [share.count for share in loader.epoch(Position())] == [2, 2, 2, 2, 1]


def test_workers_change_nothing(tmp_path: Path) -> None:
    dataset = made_dataset()
    stores = made_stores(tmp_path, dataset)
    samples = Labelled(tuple(s.id for s in dataset.samples), tuple(s.label for s in dataset.samples))
    frames, pose = CachedFrames(stores["frames"], "jpeg", 4, 16), pose_tokens(stores["pose-features"])

    def batches(num_workers: int, start: Position) -> list[Batch]:
        settings = TrainSettings(batch_size=6, num_workers=num_workers, flip=0.5)
        loader = Loader(Clips(samples, frames, pose, settings, train=True), settings)
        return [share.data for epoch in (start, Position(1)) for share in loader.epoch(epoch)]

    alone, helped = batches(0, Position()), batches(2, Position())
    for later, others in ((alone, helped), (alone[2:], batches(0, Position(0, 12)))):
        for first, second in zip(later, others, strict=True):
            assert first.keys() == second.keys()
            assert all(torch.equal(first[name], second[name]) for name in first)


def test_the_loops_random_state_is_left_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    list(Loader(Numbers(11), TrainSettings(batch_size=4)).epoch(Position()))
    assert torch.equal(torch.rand(3), expected)


def test_an_error_while_decoding_reaches_the_loop_and_the_thread_ends() -> None:
    threads = threading.active_count()
    with pytest.raises(RuntimeError, match="sample is broken"):
        list(Loader(Numbers(11, broken=7), TrainSettings(batch_size=4)).epoch(Position()))
    assert threading.active_count() == threads


def test_leaving_an_epoch_early_ends_the_thread() -> None:
    threads = threading.active_count()
    shares = Loader(Numbers(100), TrainSettings(batch_size=2)).epoch(Position())
    next(shares)
    shares.close()  # type: ignore[attr-defined]
    assert threading.active_count() == threads


def test_decoding_overlaps_with_the_loop_and_the_wait_is_measured() -> None:
    settings = TrainSettings(batch_size=2)
    starved = Loader(Numbers(12, delay=0.03), settings)
    for _ in starved.epoch(Position()):
        pass
    fed = Loader(Numbers(12, delay=0.02), settings)
    for _ in fed.epoch(Position()):
        time.sleep(0.08)
    assert starved.meter.share > 0.6
    assert fed.meter.share < 0.4
