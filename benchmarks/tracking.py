"""Which persons are tracked and stored, compared with manual labels: our tracker and those of Roboflow's `trackers`.

    python benchmarks/tracking.py --videos DIR --weights yolo11n-pose.pt [--detections DIR] [--json FILE]

--videos: the folder with the clips that tracking_labels.json names (fights, daily, gestures); missing clips are
reported and left out. --detections: where to keep the network's detections, so that a second run needs no network. HOTA
and identity switches are computed by `trackers` (the extra `bench`); its trackers are measured next to ours, once with
their defaults and once accepting every detection (no minimum score, tracks from the first frame on).

For every fifth frame the labels say which person is in which detection ("people"), which persons are present but not
detected ("missed"), and which detections show two people or cannot be identified ("unclear": they are ignored).
Detections without a name are false positives or duplicates; "actors" are the people who perform the action.

- HOTA, AssA, IDSW: of all tracks in the labeled frames. Missed persons count equally against all trackers.
- actors kept: the fraction of the actors' detections that is in one of two slots, chosen by our rule for every tracker.
- changes: how often a slot changes from one person to another, between labeled frames.

Then, for all clips in --videos, the content of the two slots.
"""

import argparse
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from unialign.cache.digests import file_digest
from unialign.stages.extraction import ultralytics_pose
from unialign.stages.extraction.letterbox import letterbox
from unialign.stages.extraction.people import by_weight, follow, track_persons
from unialign.stages.extraction.poses import to_detections
from unialign.stages.extraction.tracker import Detections, Track, box_overlap
from unialign.stages.video import Video

LABELS = Path(__file__).with_name("tracking_labels.json")
SIDE, BATCH, CONFIDENCE, MOST, SLOTS = 640, 16, 0.25, 20, 2
GROUPS = ("fights", "daily", "gestures")
# A box matches a label, or an unclear region, above this overlap.
SAME = 0.5

Row = dict[str, Any]


@dataclass(frozen=True)
class Labelled:
    """The labels of a clip: actors, and for each labeled frame the boxes by name, the missed persons, the unclear
    boxes.
    """

    frame_size: tuple[int, int]
    actors: frozenset[str]
    frames: Mapping[int, Row]

    @property
    def names(self) -> list[str]:
        """All persons in it."""
        return sorted({name for one in self.frames.values() for name in (*one["people"], *one.get("missed", ()))})


def read_labels(path: Path = LABELS) -> dict[str, Labelled]:
    """The labels by clip."""
    return {
        clip: Labelled(
            (said["frame_size"][0], said["frame_size"][1]),
            frozenset(said["actors"]),
            {int(frame): one for frame, one in said["frames"].items()},
        )
        for clip, said in json.loads(path.read_text(encoding="utf-8")).items()
    }


def array(boxes: Sequence[Sequence[float]]) -> np.ndarray:
    """Boxes (n, 4), n may be 0."""
    return np.asarray(boxes, dtype=np.float64).reshape(-1, 4)


def shown(tracks: Sequence[Track], frame: int, said: Row) -> tuple[list[int], np.ndarray]:
    """Numbers and boxes of the tracks in a frame, without those that the labels call unclear."""
    numbers = [number for number, track in enumerate(tracks) if frame in track.frames]
    boxes = array([tracks[number].boxes[tracks[number].frames.index(frame)] for number in numbers])
    unclear, known = array(said.get("unclear", ())), array(list(said["people"].values()))
    doubtful = overlaps(boxes, unclear).max(axis=1, initial=0)
    open_ = (doubtful >= SAME) & (doubtful > overlaps(boxes, known).max(axis=1, initial=0))
    return [number for number, out in zip(numbers, open_, strict=True) if not out], boxes[~open_]


def as_sequence(
    labels: Labelled, tracks: Sequence[Track]
) -> tuple[list[np.ndarray], list[np.ndarray], list[np.ndarray]]:
    """Ids of labels, ids of tracks and their overlaps, frame by frame; a missed person overlaps nothing."""
    names, sequence = labels.names, ([], [], [])  # type: tuple[list[np.ndarray], list[np.ndarray], list[np.ndarray]]
    for frame, said in sorted(labels.frames.items()):
        found, missed = said["people"], said.get("missed", ())
        numbers, boxes = shown(tracks, frame, said)
        same = np.concatenate([overlaps(array(list(found.values())), boxes), np.zeros((len(missed), len(boxes)))])
        sequence[0].append(np.array([names.index(name) for name in (*found, *missed)], dtype=np.int64))
        sequence[1].append(np.array(numbers, dtype=np.int64))
        sequence[2].append(same)
    return sequence


@dataclass
class Kept:
    """How much of the actors the slots hold. found, kept: detections of actors. changes: of the person in a slot."""

    found: int = 0
    kept: int = 0
    changes: int = 0

    def add(self, labels: Labelled, slots: Sequence[Track]) -> None:
        """Count a clip."""
        last: dict[int, str] = {}
        for frame, said in sorted(labels.frames.items()):
            names = list(said["people"])
            numbers, boxes = shown(slots, frame, said)
            same = overlaps(array(list(said["people"].values())), boxes)
            holders = {
                name: numbers[int(row.argmax())]
                for name, row in zip(names, same, strict=True)
                if row.max(initial=0) >= SAME
            }
            self.found += sum(name in labels.actors for name in names)
            self.kept += sum(name in labels.actors for name in holders)
            for name, slot in holders.items():
                self.changes += last.get(slot, name) != name
                last[slot] = name


Tracker = Callable[[Sequence[Detections], float], list[Track]]


def ours(frames: Sequence[Detections], fps: float) -> list[Track]:
    """The tracks of our extraction."""
    return follow(frames, SLOTS).tracks


def peer(make: Callable[[float], Any], frames: Sequence[Detections], fps: float) -> list[Track]:
    """The tracks of a tracker of `trackers`."""
    import supervision

    tracker, tracks = make(fps), {}  # type: Any, dict[int, Track]
    for frame, one in enumerate(frames):
        given = supervision.Detections(
            xyxy=one.boxes.astype(np.float32).reshape(-1, 4),
            confidence=one.scores.astype(np.float32),
            class_id=np.zeros(len(one.scores), dtype=int),
            data={"place": np.arange(len(one.scores))},
        )
        back = tracker.update(given)
        for number, place in zip(back.tracker_id, back.data.get("place", ()), strict=True):
            if number >= 0:
                track = tracks.setdefault(int(number), Track())
                track.add(frame, one.boxes[place], one.keypoints[place], float(one.scores[place]))
    return list(tracks.values())


def overlaps(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """IoU of each box of (a, 4) with each of (b, 4): (a, b)."""
    return box_overlap(first[:, None], second[None])


def trackers_by_name() -> dict[str, Tracker]:
    """Ours, and those of the library if installed."""
    found: dict[str, Tracker] = {"ours": ours}
    from trackers import BoTSORTTracker, ByteTrackTracker, OCSORTTracker, SORTTracker

    lowest = {"track_activation_threshold": CONFIDENCE}
    high = {"high_conf_det_threshold": CONFIDENCE}
    plain: dict[str, tuple[Any, Row, Row]] = {
        "SORT": (SORTTracker, {}, lowest),
        "ByteTrack": (ByteTrackTracker, {}, lowest | high),
        "OC-SORT": (OCSORTTracker, {}, high),
        # Without its camera motion compensation, which needs the images.
        "BoT-SORT": (BoTSORTTracker, {"enable_cmc": False}, lowest | high),
    }
    for name, (make, always, more) in plain.items():
        found[name] = partial(peer, lambda fps, make=make, always=always: make(frame_rate=fps, **always))
        widest = {**always, **more, "minimum_consecutive_frames": 1}
        found[f"{name}, open"] = partial(peer, lambda fps, make=make, widest=widest: make(frame_rate=fps, **widest))
    return found


def measured(
    track: Tracker, clips: Mapping[str, tuple[list[Detections], float]], labels: Mapping[str, Labelled]
) -> Row:
    """The results of one tracker on these clips."""
    from trackers.eval import (
        aggregate_clear_metrics,
        aggregate_hota_metrics,
        compute_clear_metrics,
        compute_hota_metrics,
    )

    hota, clear, kept = [], [], Kept()
    for clip, (frames, fps) in clips.items():
        tracks = track(frames, fps)
        sequence = as_sequence(labels[clip], tracks)
        hota.append(compute_hota_metrics(*sequence))
        clear.append(compute_clear_metrics(*sequence))
        kept.add(labels[clip], by_weight(tracks, labels[clip].frame_size)[:SLOTS])
    both = aggregate_hota_metrics(hota)
    return {
        "hota": both["HOTA"],
        "deta": both["DetA"],
        "assa": both["AssA"],
        "switches": aggregate_clear_metrics(clear)["IDSW"],
        "actors_found": kept.found,
        "actors_kept": kept.kept,
        "changes": kept.changes,
    }


@dataclass
class Network:
    """Detects people in clips as extraction does, and caches the detections in a folder."""

    weights: Path | None
    folder: Path | None
    loaded: list[ultralytics_pose.PoseNetwork] = field(default_factory=list)

    def found(self, videos: Path, clip: str) -> tuple[list[Detections], float, tuple[int, int]]:
        """The detections of each frame, frames per second, and (height, width)."""
        path = self.folder / f"{clip.replace('/', '__')}.npz" if self.folder else None
        if path is None or not path.is_file():
            held = self._detect(videos / clip)
            if path is not None:
                path.parent.mkdir(parents=True, exist_ok=True)
                np.savez(path, **held)
        else:
            held = dict(np.load(path))
        size = (int(held["size"][0]), int(held["size"][1]))
        frames = np.split(held["found"], np.cumsum(held["counts"])[:-1])
        return [to_detections(one, *size, SIDE) for one in frames], float(held["fps"]), size

    def _detect(self, path: Path) -> dict[str, Any]:
        if not self.loaded:
            weights = ultralytics_pose.check_weights(self.weights)
            self.loaded.append(
                ultralytics_pose.load_network(weights, file_digest(weights), "cpu", (BATCH, SIDE, SIDE, 3))
            )
        video, found, squares = Video(path), [], []  # type: Video, list[np.ndarray], list[np.ndarray]

        def run() -> None:
            batch = np.zeros((BATCH, SIDE, SIDE, 3), dtype=np.uint8)
            batch[: len(squares)] = squares
            found.extend(self.loaded[0].detect(batch, CONFIDENCE, MOST)[: len(squares)])
            squares.clear()

        for image in video.frames():
            squares.append(letterbox(image, SIDE))
            if len(squares) == BATCH:
                run()
        if squares:
            run()
        counts = np.array([len(one) for one in found])
        return {
            "size": np.array(video.size),
            "fps": np.array(video.fps),
            "counts": counts,
            "found": np.concatenate(found),
        }


def clips_of(videos: Path, group: str) -> Iterator[str]:
    """The clips of a folder, by name."""
    for path in sorted((videos / group).rglob("*.mp4")):
        yield path.relative_to(videos).as_posix()


def slots_used(network: Network, videos: Path, clips: Sequence[str]) -> Row:
    """The content of the slots of all these clips."""
    counts: Row = {"clips": len(clips), "frames": 0, "second_slot_used": 0}
    for clip in clips:
        frames, _, size = network.found(videos, clip)
        persons = track_persons(frames, SLOTS, frame_size=size)
        counts["frames"] += len(frames)
        counts["second_slot_used"] += bool((~np.isnan(persons.keypoints[:, 1])).any())
        for name, value in persons.counts.items():
            counts[name] = counts.get(name, 0) + value
    return counts


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=Path, required=True)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--detections", type=Path)
    parser.add_argument("--labelled-only", action="store_true", help="leave out the second table")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    network, labels = Network(options.weights, options.detections), read_labels()
    missing = [clip for clip in labels if not (options.videos / clip).is_file()]
    for clip in missing:
        print(f"{clip}: not there, left out")
    clips = {clip: network.found(options.videos, clip)[:2] for clip in labels if clip not in missing}
    results: Row = {"labelled": {}, "all": {}}
    print(f"{'tracker':18s} {'clips':9s}  HOTA  DetA  AssA  IDSW  actors kept  changes")
    for name, track in trackers_by_name().items():
        for group in ("all", *GROUPS):
            chosen = {clip: found for clip, found in clips.items() if group in ("all", clip.split("/")[0])}
            if not chosen:
                continue
            row = results["labelled"][f"{name}: {group}"] = measured(track, chosen, labels)
            print(
                f"{name:18s} {group:9s} {100 * row['hota']:5.1f} {100 * row['deta']:5.1f} {100 * row['assa']:5.1f} "
                f"{row['switches']:5d}  {row['actors_kept']:4d} of {row['actors_found']:3d}  {row['changes']:6d}"
            )
    for group in () if options.labelled_only else GROUPS:
        results["all"][group] = slots_used(network, options.videos, list(clips_of(options.videos, group)))
        print(group, results["all"][group])
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
