"""Contract of the report on near-duplicate class texts."""

import numpy as np
import pytest

from unialign.pipeline.training.text_bank_start import closest_pairs


def test_most_similar_pairs_come_first_and_templates_are_averaged() -> None:
    ids = [f"label|{template}|{name}" for template in ("{}", "a {}") for name in ("run", "jog", "sit")]
    rows = np.array([[1, 0], [2, 0.2], [0, 1], [1, 0.2], [1, 0], [0, 5]], dtype=np.float32)
    pairs = closest_pairs(ids, rows)
    assert [pair[:2] for pair in pairs] == [("jog", "run"), ("run", "sit"), ("jog", "sit")]
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    run, jog = unit[0] + unit[3], unit[1] + unit[4]
    expected = run @ jog / np.linalg.norm(run) / np.linalg.norm(jog)
    assert pairs[0][2] == pytest.approx(expected, abs=1e-6)
    assert all(type(pair[2]) is float for pair in pairs)
    assert len(closest_pairs(ids, rows, count=1)) == 1


def test_equal_cosines_are_sorted_by_name() -> None:
    pairs = closest_pairs([f"label|{{}}|{name}" for name in "dacb"], np.ones((4, 3)))
    assert [pair[:2] for pair in pairs] == [("a", "b"), ("a", "c"), ("a", "d"), ("b", "c"), ("b", "d"), ("c", "d")]
    assert {pair[2] for pair in pairs} == {1.0}


def test_one_class_has_no_pair() -> None:
    assert closest_pairs(["label|{}|a"], np.ones((1, 3))) == []


def test_rows_without_direction_are_refused() -> None:
    with pytest.raises(ValueError, match="no direction for class 'b'"):
        closest_pairs(["label|{}|a", "label|{}|b"], np.array([[1.0, 0.0], [0.0, 0.0]]))
    with pytest.raises(ValueError, match="2 ids for 1 rows"):
        closest_pairs(["a", "b"], np.ones((1, 2)))
