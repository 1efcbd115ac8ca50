"""Contract of the features without weights: statistics of each joint over time, in which order does not count."""

import numpy as np
import pytest
import torch

from unialign.stages.models.skeleton.motion import MotionStatistics
from unialign.stages.skeleton_layouts import LAYOUTS

LAYOUT = LAYOUTS["coco-17"]
NETWORK = MotionStatistics(layout=LAYOUT, coordinates=2, num_persons=2)


def clips(num_frames: int) -> tuple[torch.Tensor, torch.Tensor]:
    keypoints = torch.from_numpy(np.random.default_rng(0).normal(size=(3, 2, num_frames, 17, 5))).float()
    present = torch.tensor([[True, True], [True, False], [True, False]])
    return keypoints, present


def test_a_feature_is_mean_deviation_largest_and_smallest_of_each_coordinate() -> None:
    keypoints, present = clips(10)
    feature = NETWORK(keypoints, present)["feature"]
    assert feature.shape == (3, NETWORK.width) == (3, 4 * 2 * 17 * 2)
    parts = feature.view(3, 4, 2, 17, 2).numpy()
    joints = keypoints[0, 1, :, 5, :2].numpy()
    expected = [joints.mean(axis=0), joints.std(axis=0), joints.max(axis=0), joints.min(axis=0)]
    np.testing.assert_allclose(parts[0, :, 1, 5], expected, rtol=1e-5)
    # The second person of the other clips is not there, whatever its row holds.
    assert not parts[1:, :, 1].any()


def test_the_order_of_frames_does_not_count_but_within_tokens() -> None:
    keypoints, present = clips(8)
    there, back = NETWORK(keypoints, present), NETWORK(keypoints.flip(2), present)
    torch.testing.assert_close(there["feature"], back["feature"])
    torch.testing.assert_close(there["tokens"], back["tokens"].flip(1))
    assert not torch.allclose(there["tokens"][:, 0], there["tokens"][:, 1])


@pytest.mark.parametrize(("num_frames", "num_tokens"), [(1, 1), (3, 1), (4, 1), (5, 2), (32, 8)])
def test_tokens_cover_all_frames(num_frames: int, num_tokens: int) -> None:
    keypoints, present = clips(num_frames)
    found = NETWORK(keypoints, present)
    assert found["tokens"].shape == (3, num_tokens, NETWORK.width)
    assert found["tokens"].isfinite().all()
    largest = slice(2 * 2 * 17 * 2, 3 * 2 * 17 * 2)
    torch.testing.assert_close(found["tokens"].amax(dim=1)[:, largest], found["feature"][:, largest])
