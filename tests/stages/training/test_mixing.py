"""Contract of mixup and cutmix: which pixels and labels are mixed, by shares that follow from the batch's place."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, one_hot

from unialign.stages.training.loader import Position, RankBatch
from unialign.stages.training.mixing import mixed_clips
from unialign.stages.training.processes import Processes
from unialign.stages.training.settings import TrainSettings
from unialign.stages.training.step import Stepper, Task

FRAMES = torch.arange(4.0).view(4, 1, 1, 1, 1).expand(4, 2, 3, 20, 30).contiguous()  # (B, T, 3, H, W)


def mixed(place: tuple[int, int] = (0, 4), rank: int = 0, **values: Any) -> tuple[Tensor, Tensor, float]:
    return mixed_clips(FRAMES, TrainSettings(**values), place, rank)


@settings(max_examples=40, deadline=None)
@given(epoch=st.integers(0, 50), samples=st.integers(0, 10**6), alpha=st.sampled_from([0.1, 0.8, 1.0, 5.0]))
def test_mixup_is_one_share_of_all_pixels(epoch: int, samples: int, alpha: float) -> None:
    frames, order, share = mixed((epoch, samples), mixup=alpha)
    assert 0 <= share <= 1
    assert sorted(order.tolist()) == [0, 1, 2, 3]
    expected = share * FRAMES + (1 - share) * FRAMES[order]
    torch.testing.assert_close(frames, expected)


@settings(max_examples=60, deadline=None)
@given(epoch=st.integers(0, 50), samples=st.integers(0, 10**6), alpha=st.sampled_from([0.1, 1.0, 5.0]))
def test_cutmix_is_a_box_whose_area_is_the_share_of_the_other_clip(epoch: int, samples: int, alpha: float) -> None:
    frames, order, share = mixed((epoch, samples), cutmix=alpha)
    for clip in range(4):
        if order[clip] == clip:
            assert (frames[clip] == clip).all()
            continue
        cut = frames[clip, 0, 0] == order[clip]
        assert ((frames[clip] == order[clip]) == cut).all()  # the same box in every frame and color
        assert float(cut.float().mean()) == pytest.approx(1 - share)
        rows, columns = cut.any(dim=1), cut.any(dim=0)
        assert (cut == rows[:, None] & columns[None, :]).all()
    assert (torch.arange(4.0).view(4, 1, 1, 1, 1) == FRAMES).all()  # the batch itself is left alone


def test_the_same_place_gives_the_same_and_another_place_or_process_another() -> None:
    first = mixed((1, 8), mixup=0.8)
    again = mixed((1, 8), mixup=0.8)
    assert first[2] == again[2]
    assert torch.equal(first[0], again[0])
    others = [mixed((1, 12), mixup=0.8), mixed((2, 8), mixup=0.8), mixed((1, 8), 1, mixup=0.8)]
    others.append(mixed((1, 8), mixup=0.8, seed=1))
    assert len({share for _, _, share in (first, *others)}) == 5


def test_with_both_each_batch_has_one_of_them_about_as_often() -> None:
    kinds = [bool(mixed((epoch, 4), mixup=1.0, cutmix=1.0)[0].frac().any()) for epoch in range(200)]
    assert 60 < sum(kinds) < 140


def test_shares_follow_the_beta_distribution() -> None:
    shares = np.array([mixed((epoch, 4), mixup=0.8)[2] for epoch in range(400)])
    assert shares.mean() == pytest.approx(0.5, abs=0.06)
    assert shares.var() == pytest.approx(1 / (4 * (2 * 0.8 + 1)), abs=0.02)


class Mean(nn.Linear):
    """Classifies the mean color of a clip."""

    def forward(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:  # type: ignore[override]
        return {"logits": super().forward(batch["frames"].mean(dim=(1, 3, 4)))}

    def update(self, outputs: Mapping[str, Tensor], labels: Tensor) -> None:
        self.updated = labels.tolist()


def test_the_loss_of_a_mixed_batch_is_that_of_mixed_labels() -> None:
    torch.manual_seed(0)
    labels, values = torch.tensor([0, 1, 2, 2]), {"mixup": 0.8, "label_smoothing": 0.0, "batch_size": 4}
    made = TrainSettings(**values, lr=0.1, device="cpu")
    model = Mean(3, 3)
    task = Task(model, lambda model, outputs, labels: {"all": cross_entropy(outputs["logits"], labels)})
    stepper = Stepper(task, made, Processes(0, 1, torch.device("cpu")))
    frames = torch.randint(0, 256, (4, 2, 3, 8, 8), dtype=torch.uint8)
    batch = {"frames": frames, "labels": labels, "indices": torch.arange(4)}
    share = RankBatch(batch, 4, 4, 0, 1, Position(1, 0), np.arange(4), 4, True)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    report = stepper.step(share, 0.1)
    assert report is not None
    mixed_frames, order, own = mixed_clips(frames / 255, made, (1, 0), 0)
    targets = own * one_hot(labels, 3) + (1 - own) * one_hot(labels[order], 3)
    model.load_state_dict(before)
    expected = cross_entropy(model({"frames": mixed_frames})["logits"], targets)
    assert float(report.values[0]) == pytest.approx(expected.item(), rel=1e-5)
    assert model.updated == labels.tolist()
