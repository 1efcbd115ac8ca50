"""Decoding of one source video, shared by all extractors: its frames, and what to record if it is damaged."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from unialign.errors import CorruptInput
from unialign.stages.extraction.base import Outcome, Source, source_digest
from unialign.stages.extraction.heartbeat import beat
from unialign.stages.frame_folders import opened_clip
from unialign.stages.video import Video
from unialign.stages.video_decoders import PYAV
from unialign.types import Json


class SourceVideo:
    """One source while it is decoded. A failure ends its frames and is kept in `failure`; it is never raised.

    video: the clip, if it is opened already. decoder: see `Video`.
    digest: of the file's bytes, "" if it cannot be read. is_decoded: whether `frames` has ended, successfully or not.
    """

    def __init__(self, source: Source, video: Video | None = None, decoder: str = PYAV) -> None:
        self.source = source
        self.video = video or (opened_clip(source.path, source.span, decoder) if source.path else Video(Path()))
        self.digest = ""
        self.failure: Outcome | None = None
        self.is_decoded = False

    def frames(self, most: int = 0) -> Iterator[np.ndarray]:
        """The frames of the source, RGB uint8 (H, W, 3); at most `most` of them (0: any number), else "too-long".

        Raises nothing for a source that cannot be used: the frames end and `failure` has its outcome.
        """
        try:
            if self.source.path is None:
                raise CorruptInput("no video", "missing-file")
            self.digest = source_digest(self.source)
            for index, image in enumerate(self.video.frames()):
                if most and index == most:
                    self.fail("too-long", f"has more than {most} frames")
                    break
                beat()
                yield image
        except CorruptInput as error:
            self.fail(error.status, self.video.reason or "the sample has no video")
        except OSError as error:
            self.fail("unreadable", error.strerror or type(error).__name__)
        self.is_decoded = True

    def fail(self, status: str, why: str) -> None:
        """Record the outcome of a source that gives no features."""
        detail = {**self.counts(), "why": why}
        if status == "too-long":
            # Decoding stopped, so the count says nothing about the clip.
            del detail["decoded"]
        self.failure = Outcome(self.source.id, status, self.digest, detail=detail)

    def counts(self) -> dict[str, Json]:
        """What a record says about the decoding."""
        counts: dict[str, Json] = {"decoded": self.video.decoded, "declared": self.video.declared}
        if self.video.pixel_aspect != 1:
            counts["pixel_aspect"] = str(self.video.pixel_aspect)
        return counts if not self.video.corrupt else {**counts, "corrupt": self.video.corrupt}

    def outcome(self, arrays: Mapping[str, np.ndarray], detail: Mapping[str, Json]) -> Outcome:
        """The outcome of a source that was decoded completely: "ok" with these arrays."""
        return Outcome(self.source.id, "ok", self.digest, arrays, {**self.counts(), **detail})
