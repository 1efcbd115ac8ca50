"""Clips that several extractors read while they are decoded once.

Every reader gets all frames in order and sees the same counts after each as if it decoded alone, so its outcome is the
same. The fastest is at most `ROOM` frames of a clip ahead of the slowest that has begun with it or will.
"""

import queue
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np

from unialign.stages.extraction.base import Source
from unialign.stages.extraction.decoding import SourceVideo
from unialign.stages.frame_folders import opened_clip
from unialign.stages.video import Video
from unialign.stages.video_decoders import PYAV

# Frames of a clip that wait for a reader: at 1080p, 50 MB.
ROOM = 8
TICK = 0.1
# What a `Video` says of itself, which may change with every frame.
COUNTS = ("decoded", "declared", "corrupt", "size", "pixel_aspect", "fps", "reason")
# A frame, or None at the end, with the counts at that moment and what ended the clip.
Step = tuple[np.ndarray | None, dict[str, Any], BaseException | None]


class SharedClips:
    """The clips of one run, for so many readers. Each reader opens each clip once, in the same order.

    decoder: see `Video`. stopped: set when nobody waits for anything any more; clips then end early.
    """

    def __init__(self, readers: int, stopped: threading.Event, decoder: str = PYAV) -> None:
        self._readers, self._decoder = readers, decoder
        self._clips: dict[str, _Clip] = {}
        self._lock = threading.Lock()
        self._stopped = stopped

    def open(self, reader: int, source: Source) -> SourceVideo:
        """The clip of a source for a reader, counted from 0."""
        if source.path is None:
            return SourceVideo(source)
        with self._lock:
            clip = self._clips.get(source.id)
            if clip is None:
                clip = self._clips[source.id] = _Clip(source, self._readers, self._stopped, self._decoder)
            clip.opened += 1
            if clip.opened == self._readers:
                del self._clips[source.id]
        return SourceVideo(source, _View(clip, reader))


class _Clip:
    """One clip in progress. opened: by how many readers."""

    def __init__(self, source: Source, readers: int, stopped: threading.Event, decoder: str) -> None:
        assert source.path is not None
        self.path, self.span, self.decoder = source.path, source.span, decoder
        self.opened = 0
        self._stopped = stopped
        self._steps: list[queue.Queue[Step]] = [queue.Queue(ROOM) for _ in range(readers)]
        self._gone = [False] * readers
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def steps(self, reader: int) -> Iterator[Step]:
        """What is decoded, for one reader; decoding begins with the first one."""
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._decode, daemon=True)
                self._thread.start()
        try:
            while not self._stopped.is_set():
                try:
                    step = self._steps[reader].get(timeout=TICK)
                except queue.Empty:
                    continue
                yield step
                if step[0] is None:
                    return
        finally:
            self._gone[reader] = True

    def _decode(self) -> None:
        video = opened_clip(self.path, self.span, self.decoder)
        error: BaseException | None = None
        try:
            for image in video.frames():
                if not self._give((image, _counts(video), None)):
                    return
        except BaseException as raised:  # noqa: BLE001 - raised again in each reader
            error = raised
        self._give((None, _counts(video), error))

    def _give(self, step: Step) -> bool:
        """Give it to every reader that still reads; whether there is one."""
        for reader, steps in enumerate(self._steps):
            while not self._gone[reader] and not self._stopped.is_set():
                try:
                    steps.put(step, timeout=TICK)
                except queue.Full:
                    continue
                break
        return not (all(self._gone) or self._stopped.is_set())


def _counts(video: Any) -> dict[str, Any]:
    return {name: getattr(video, name) for name in COUNTS}


class _View(Video):
    """A shared clip as one reader sees it."""

    def __init__(self, clip: _Clip, reader: int) -> None:
        super().__init__(clip.path, clip.span)
        self._clip, self._reader = clip, reader

    def frames(self) -> Iterator[np.ndarray]:
        """See `Video.frames`."""
        for image, counts, error in self._clip.steps(self._reader):
            for name, value in counts.items():
                setattr(self, name, value)
            if error is not None:
                raise error
            if image is not None:
                yield image
