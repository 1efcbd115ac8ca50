"""Contract of benchmarks/tracking.py: its labels are consistent, and its counts are those of hand-made cases."""

import numpy as np

from benchmarks.tracking import Kept, Labelled, as_sequence, read_labels, shown
from unialign.stages.extraction.tracker import Track


def box(x: float) -> np.ndarray:
    return np.array([x, 0, x + 10, 20], dtype=np.float32)


def track(places: dict[int, float]) -> Track:
    made = Track()
    for frame, x in places.items():
        made.add(frame, box(x), np.zeros((17, 3), np.float32), 0.9)
    return made


SAID = Labelled(
    (100, 200),
    frozenset({"actor"}),
    {
        0: {"people": {"actor": [0, 0, 10, 20], "other": [50, 0, 60, 20]}},
        5: {"people": {"actor": [0, 0, 10, 20]}, "missed": ["other"], "unclear": [[80, 0, 90, 20]]},
    },
)


def test_the_labels_name_twelve_clips_and_their_actors() -> None:
    labels = read_labels()
    assert {group: sum(clip.startswith(group) for clip in labels) for group in ("fights", "daily", "gestures")} == {
        "fights": 4,
        "daily": 4,
        "gestures": 4,
    }
    for clip, said in labels.items():
        assert said.actors <= set(said.names), clip
        assert list(said.frames) == list(range(0, 5 * len(said.frames), 5)), clip
        for one in said.frames.values():
            assert not set(one["people"]) & set(one.get("missed", ()))
            for x1, y1, x2, y2 in (*one["people"].values(), *one.get("unclear", ())):
                assert 0 <= x1 < x2 <= said.frame_size[1]
                assert 0 <= y1 < y2 <= said.frame_size[0]


def test_what_is_unclear_does_not_count() -> None:
    tracks = [track({0: 0, 5: 0}), track({5: 80})]
    assert shown(tracks, 5, SAID.frames[5])[0] == [0]
    ids, followed, same = as_sequence(SAID, tracks)
    assert [one.tolist() for one in ids] == [[0, 1], [0, 1]]
    assert [one.tolist() for one in followed] == [[0], [0]]
    assert same[1].tolist() == [[1.0], [0.0]]


def test_actors_and_changes_are_counted() -> None:
    kept = Kept()
    kept.add(SAID, [track({0: 50, 5: 0})])
    assert (kept.found, kept.kept, kept.changes) == (2, 1, 1)
    kept.add(SAID, [track({0: 0, 5: 0}), track({0: 50})])
    assert (kept.found, kept.kept, kept.changes) == (4, 3, 1)
