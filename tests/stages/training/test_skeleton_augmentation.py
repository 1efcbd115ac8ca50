"""Contract of the augmentation of skeletons: bounded, reproducible, the same change for a whole clip."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unialign.stages.extraction.body_space import Body
from unialign.stages.training.skeleton_augmentation import SkeletonAugmentation, augmented, random_positions

NONE = SkeletonAugmentation(1.0, 0, 0, 0, 0, 0, 0, 0)


def body(axes: int = 3, persons: int = 2) -> Body:
    generator = np.random.default_rng(0)
    joints = generator.normal(size=(persons, 12, 5, axes)).astype(np.float32)
    seen = np.ones((persons, 12, 5), bool)
    joints[1:], seen[1:] = 0, False
    return Body(joints, seen, generator.normal(size=(12, axes)).astype(np.float32))


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 300), st.integers(1, 64), st.integers(0, 10_000))
def test_positions_are_in_order_and_inside_the_sample(length: int, count: int, seed: int) -> None:
    found = random_positions(length, count, np.random.default_rng(seed), SkeletonAugmentation(frame_dropout=0.3))
    assert found.shape == (count,)
    assert (np.diff(found) >= 0).all()
    assert found[0] >= -0.5
    assert found[-1] <= length - 0.5 + 1e-9


@pytest.mark.parametrize("axes", [2, 3])
def test_without_any_change_the_body_stays(axes: int) -> None:
    found = augmented(body(axes), np.random.default_rng(0), NONE)
    assert np.allclose(found.joints, body(axes).joints)
    assert np.allclose(found.root, body(axes).root)


@pytest.mark.parametrize("axes", [2, 3])
def test_a_rotation_keeps_lengths_and_turns_the_way_alike(axes: int) -> None:
    turned = SkeletonAugmentation(1.0, 30, 60, 0, 0, 0, 0, 0)
    found = augmented(body(axes), np.random.default_rng(1), turned)
    assert not np.allclose(found.joints, body(axes).joints, atol=0.01)
    assert np.allclose(np.linalg.norm(found.joints, axis=-1), np.linalg.norm(body(axes).joints, axis=-1), atol=1e-5)
    whole = body(axes).joints[0] + body(axes).root[:, None]
    again = found.joints[0] + found.root[:, None]
    assert np.allclose(np.linalg.norm(again, axis=-1), np.linalg.norm(whole, axis=-1), atol=1e-5)


def test_somebody_absent_stays_absent_and_nobody_vanishes() -> None:
    found = augmented(body(), np.random.default_rng(0), SkeletonAugmentation(joint_dropout=1.0))
    assert (found.joints[1] == 0).all()
    assert found.seen.any(axis=(1, 2)).tolist() == [True, False]


def test_dropped_joints_are_missing_in_the_whole_clip_and_say_so() -> None:
    found = augmented(body(), np.random.default_rng(0), SkeletonAugmentation(1.0, 0, 0, 0, 0, 0, 0.5, 0))
    gone = ~found.seen[0].any(axis=0)
    assert 0 < gone.sum() < 5
    assert (found.joints[0][:, gone] == 0).all()
    assert found.seen[0][:, ~gone].all()


def test_the_same_generator_gives_the_same_body() -> None:
    first, second = (augmented(body(), np.random.default_rng(7), SkeletonAugmentation()) for _ in range(2))
    assert np.array_equal(first.joints, second.joints)
