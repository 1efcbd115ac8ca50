"""Whether the end of a video or a part of it is missing: what its container declares against what was read."""

import itertools
import statistics
from typing import Any

# An MPEG-4 part 2 packet this small repeats the previous frame and decodes to none.
LARGEST_REPEAT = 8
# What muxers write in the header while the count is unknown: FFmpeg 2^30 (to a pipe), others 2^32 - 1.
NEVER_FILLED_IN = 2**30
# A guess of this many frames per second is the clock of the container, not a frame rate.
CLOCK = 1000
USUAL_RATE = 30
# Two days at 60 frames per second: a longer index, which a few bytes can announce, is not scanned.
MAX_FRAMES = 10_000_000
# FFmpeg's unit for the times of a container.
MICROSECOND = 1e-6

MP4 = "mov,mp4,m4a,3gp,3g2,mj2"
# What each container declares. The others declare nothing that survives truncation; for them only gaps are detected.
COUNT = (MP4, "avi", "ivf")
DURATION = ("matroska,webm", "flv", "asf")
OWN_DURATION = ("mxf",)


class Tally:
    """What a container declares, and what its packets contained. Plain numbers, all taken while the file is open.

    There are three kinds of declaration. mp4 and ivf have a frame count; in an mp4, of the frames that its edit list
    plays. avi has a count of equal ticks, each with a frame, an empty entry or an MPEG-4 packet that repeats the
    previous frame. mkv, webm, flv and asf have the duration of all streams together, so audio or subtitles may continue
    after the last frame; mxf and a fragmented mp4 have the duration of the video. Counts and durations that were never
    filled in (a recording to a pipe, or one that was cut off) declare nothing.

    declared: frames declared, None if nothing is. rate: frames per second, 0.0 where not stated.
    streams: those whose packets must be counted. is_open: nothing states how many frames there must be.
    """

    def __init__(self, container: Any, stream: Any) -> None:
        self.kind = container.format.name
        self.codec = stream.codec_context.name
        self.tick = float(stream.time_base)
        self.rate = stated_rate(stream)
        self.start = (container.start_time or 0) * MICROSECOND
        self.streams = tuple(container.streams) if self.kind in DURATION and container.duration else (stream,)
        self.promised = stream.frames if self.kind in COUNT and 0 < stream.frames < NEVER_FILLED_IN else 0
        self.duration = 0.0
        if self.kind in DURATION:
            self.duration = (container.duration or 0) * MICROSECOND
            if self.duration > self.start > 0:
                # FFmpeg writes the end time here; a value below the start time is a length.
                self.duration -= self.start
        elif self.kind in OWN_DURATION or (self.kind == MP4 and not self.promised):
            self.duration = (stream.duration or 0) * self.tick
        if self.kind == MP4:
            self.promised = played(stream)
        # The header of a fragmented mp4 does not count its fragments.
        self.is_open = not self.promised or (self.kind == MP4 and self.promised > stream.frames)
        self.declared: int | None = max(0, round(self.duration * self.rate)) or None
        if self.promised:
            self.declared = self.promised if self.kind != "avi" else max(1, round(self.promised / self.step))
        self.end = self.start
        self.ours = 0
        self.unshown = 0
        self.times: dict[int, int] = {}
        self.last_stamp = 0
        self.has_key = False
        self.first_key: int | None = None
        self.leading = 0

    @property
    def step(self) -> int:
        """Ticks from one frame to the next: 1, or 20 in an avi that counts 600 ticks per second at 30 frames."""
        return max(1, round(1 / (self.rate * self.tick))) if self.rate * self.tick else 1

    def count(self, packet: Any, is_ours: bool) -> None:
        """Count one packet of any stream; `is_ours`: it belongs to the video stream."""
        stamp = packet.dts if packet.pts is None else packet.pts
        if not packet.size:
            return
        if stamp is not None:
            self.end = max(self.end, float((stamp + (packet.duration or 0)) * packet.time_base))
        if is_ours:
            self.ours += not packet.is_discard
            self.unshown += is_unshown(packet, self.codec)
            self._count_leading(packet, stamp)
            if stamp is not None:
                self.times[stamp] = packet.duration or 0
                self.last_stamp = max(self.last_stamp, stamp if packet.dts is None else packet.dts)

    def _count_leading(self, packet: Any, stamp: int | None) -> None:
        """Frames before the first keyframe: a clip cut out of a longer one lacks the frames that they depend on."""
        if not self.has_key and packet.is_keyframe:
            self.has_key, self.first_key = True, stamp
        elif not self.has_key or (stamp is not None and self.first_key is not None and stamp < self.first_key):
            self.leading += not packet.is_discard

    def finish(self, stream: Any) -> None:
        """Read what the demuxer learned while reading: the index of a fragmented mp4 or of an avi."""
        if self.kind == MP4:
            self.promised = max(self.promised, played(stream))
            self.declared = self.promised or self.declared
        elif self.kind == "avi" and len(stream.index_entries):
            # Entries without data at the end are frames that repeat the last one.
            self.last_stamp = max(self.last_stamp, stream.index_entries[-1].timestamp)

    def missing(self, decoded: int) -> str:
        """What is missing, in words; "" if nothing is.

        - fewer frames than the container counts, not counting frames at an open start whose reference frames are gone;
        - the last packet of all streams ends more than 3 frames and 2 % before the stated duration;
        - at a constant rate, as many frames are missing in between.
        """
        early = self.duration - (self.end - self.start)
        if early * (self.rate or USUAL_RATE) > self.tolerance:
            return f"ends after {self.end - self.start:.2f} of {self.duration:.2f} declared seconds"
        if self.promised:
            return self._missing_frames(decoded)
        span = self.constant_span()
        if decoded < span - self.leading - self.unshown - self.tolerance:
            return f"lacks pictures in between: {decoded} of {span} at its constant rate"
        if self.declared and span and self.declared - span > self.tolerance:
            # The video ends before the audio, and only the end of the audio was declared.
            self.declared = span
        return ""

    @property
    def tolerance(self) -> float:
        """Number of frames by which a stated duration may be wrong."""
        return max(3, 0.02 * (self.declared or len(self.times)))

    def _missing_frames(self, decoded: int) -> str:
        reached = self.last_stamp + self.step if self.kind == "avi" else self.ours
        if reached < self.promised or decoded < self.ours - self.leading - self.unshown:
            return f"ends after {decoded} of {self.declared} declared frames"
        return ""

    def constant_span(self) -> int:
        """Frames that fit between the first and the last one, both included, if the rate is constant; otherwise 0.

        Constant: nine in ten steps between frames are the usual one. Then the others are gaps, unless the previous
        frame is meant to be shown that long (gif).
        """
        times = sorted(self.times)
        steps = [later - earlier for earlier, later in itertools.pairwise(times)]
        if not steps:
            return 0
        middle = statistics.median(steps)
        # Times are whole ticks (milliseconds in mkv), so a step may be off by one.
        usual = [step for step in steps if abs(step - middle) <= max(1, 0.1 * middle)]
        if len(usual) < 0.9 * len(steps) or not sum(usual):
            return 0
        mean = sum(usual) / len(usual)
        lacking = (step - max(mean, self.times[time]) for time, step in zip(times, steps, strict=False))
        return len(times) + round(sum(gap for gap in lacking if gap > mean / 2) / mean)


def stated_rate(stream: Any) -> float:
    """Frames per second: the average, or FFmpeg's guess if the average counts ticks (dv, some avi); 0.0 for none."""
    average, guess = (float(rate or 0) for rate in (stream.average_rate, stream.guessed_rate))
    if not average:
        return guess if guess < CLOCK else 0.0
    return guess if average > 1.5 * guess > 0 else average


def is_unshown(packet: Any, codec: str) -> bool:
    """Whether a packet yields no frame by design: a repeated frame in MPEG-4, a hidden reference frame in VP8."""
    if codec == "vp8":
        return not memoryview(packet)[0] & 16
    return codec in ("mpeg4", "msmpeg4v1", "msmpeg4v2", "msmpeg4v3") and packet.size <= LARGEST_REPEAT


def played(stream: Any) -> int:
    """Number of frames that an mp4 or mov plays: FFmpeg's index also holds discarded ones that others depend on."""
    entries = stream.index_entries
    if len(entries) > MAX_FRAMES:
        return len(entries)
    return sum(not entry.is_discard and entry.size > 0 for entry in entries)
