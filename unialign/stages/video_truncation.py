"""Whether the end of a video is missing, or a stretch of it: what its container promised against what came."""

import itertools
import statistics
from typing import Any

# An MPEG-4 part 2 packet this small says "the same picture again" and gives no frame.
LARGEST_REPEAT = 8
# What a muxer leaves in the header while it does not know the count: FFmpeg 2^30 (to a pipe), others 2^32 - 1.
NEVER_FILLED_IN = 2**30
# A guess of this many pictures per second is the clock of the container, not a rate.
CLOCK = 1000
USUAL_RATE = 30
# Two days at 60 pictures per second: an index of more, which a few bytes can announce, is not looked through.
MOST_PICTURES = 10_000_000
# FFmpeg's unit of a container's times.
MICROSECOND = 1e-6

MP4 = "mov,mp4,m4a,3gp,3g2,mj2"
# What each container promises. The others promise nothing that survives a cut; for them only holes are found.
COUNT = (MP4, "avi", "ivf")
DURATION = ("matroska,webm", "flv", "asf")
OWN_DURATION = ("mxf",)


class Tally:
    """The promise of a container, and what its packets brought. Plain numbers, all taken while the file is open.

    Three kinds of promise. mp4 and ivf have a count of pictures; of an mp4 those that its edit list plays. avi has a
    count of equal ticks, each with a picture, an empty entry or an MPEG-4 packet that repeats the picture before. mkv,
    webm, flv and asf have a duration, that of all streams together, so sound or subtitles may go on after the pictures;
    mxf and an mp4 in fragments have one of the pictures. Counts and durations that were never filled in (a recording to
    a pipe, or one that was cut off) promise nothing.

    declared: pictures promised, None for none. rate: pictures per second, 0.0 where not stated.
    streams: those whose packets must be counted. is_open: nothing says how many pictures must come.
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
                # The time of the end, as FFmpeg writes it; where it is less than that of the start, it is a length.
                self.duration -= self.start
        elif self.kind in OWN_DURATION or (self.kind == MP4 and not self.promised):
            self.duration = (stream.duration or 0) * self.tick
        if self.kind == MP4:
            self.promised = played(stream)
        # The header of an mp4 in fragments counts none of them.
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
        """Ticks from one picture to the next: 1, or 20 in an avi that counts 600 ticks per second at 30 pictures."""
        return max(1, round(1 / (self.rate * self.tick))) if self.rate * self.tick else 1

    def count(self, packet: Any, is_ours: bool) -> None:
        """Take note of one packet of any stream; `is_ours`: of the pictures."""
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
        """Pictures before the first one that stands alone: a clip cut out of a longer one lacks what they rest on."""
        if not self.has_key and packet.is_keyframe:
            self.has_key, self.first_key = True, stamp
        elif not self.has_key or (stamp is not None and self.first_key is not None and stamp < self.first_key):
            self.leading += not packet.is_discard

    def finish(self, stream: Any) -> None:
        """Look once more at what the demuxer learned on its way: the index of a fragmented mp4 or of an avi."""
        if self.kind == MP4:
            self.promised = max(self.promised, played(stream))
            self.declared = self.promised or self.declared
        elif self.kind == "avi" and len(stream.index_entries):
            # Entries without data at the end are pictures that repeat the last one.
            self.last_stamp = max(self.last_stamp, stream.index_entries[-1].timestamp)

    def missing(self, decoded: int) -> str:
        """What is missing, in words; "" when nothing is.

        - fewer pictures than the container counts, but for those that an open start leaves without what they rest on;
        - the last packet of all streams ends 3 frames and 2 % before the stated duration;
        - where the rate is constant, as many are lacking in between.
        """
        early = self.duration - (self.end - self.start)
        if early * (self.rate or USUAL_RATE) > self.tolerance:
            return f"ends after {self.end - self.start:.2f} of {self.duration:.2f} declared seconds"
        if self.promised:
            return self._missing_pictures(decoded)
        span = self.constant_span()
        if decoded < span - self.leading - self.unshown - self.tolerance:
            return f"lacks pictures in between: {decoded} of {span} at its constant rate"
        if self.declared and span and self.declared - span > self.tolerance:
            # The pictures end before the sound, whose end is all that was declared.
            self.declared = span
        return ""

    @property
    def tolerance(self) -> float:
        """Pictures by which a stated duration may be wrong."""
        return max(3, 0.02 * (self.declared or len(self.times)))

    def _missing_pictures(self, decoded: int) -> str:
        reached = self.last_stamp + self.step if self.kind == "avi" else self.ours
        if reached < self.promised or decoded < self.ours - self.leading - self.unshown:
            return f"ends after {decoded} of {self.declared} declared frames"
        return ""

    def constant_span(self) -> int:
        """Pictures that fit between the first and the last one, both counted, where the rate is constant; 0 elsewhere.

        Constant: nine in ten follow each other by the usual step. Then the others are holes, not a habit, unless the
        picture before is meant to stay that long (gif).
        """
        times = sorted(self.times)
        steps = [later - earlier for earlier, later in itertools.pairwise(times)]
        if not steps:
            return 0
        middle = statistics.median(steps)
        # Times are whole ticks (milliseconds in mkv), so a step may be one off.
        usual = [step for step in steps if abs(step - middle) <= max(1, 0.1 * middle)]
        if len(usual) < 0.9 * len(steps) or not sum(usual):
            return 0
        mean = sum(usual) / len(usual)
        lacking = (step - max(mean, self.times[time]) for time, step in zip(times, steps, strict=False))
        return len(times) + round(sum(gap for gap in lacking if gap > mean / 2) / mean)


def stated_rate(stream: Any) -> float:
    """Pictures per second: the average, or FFmpeg's guess where that counts ticks (dv, some avi); 0.0 for none."""
    average, guess = (float(rate or 0) for rate in (stream.average_rate, stream.guessed_rate))
    if not average:
        return guess if guess < CLOCK else 0.0
    return guess if average > 1.5 * guess > 0 else average


def is_unshown(packet: Any, codec: str) -> bool:
    """Whether a packet gives no picture by design: MPEG-4's "the same again", and what VP8 keeps for later ones."""
    if codec == "vp8":
        return not memoryview(packet)[0] & 16
    return codec in ("mpeg4", "msmpeg4v1", "msmpeg4v2", "msmpeg4v3") and packet.size <= LARGEST_REPEAT


def played(stream: Any) -> int:
    """Pictures of an mp4 or mov that are played: FFmpeg's index holds those that the edit list needs, some marked."""
    entries = stream.index_entries
    if len(entries) > MOST_PICTURES:
        return len(entries)
    return sum(not entry.is_discard and entry.size > 0 for entry in entries)
