"""How fast an extraction goes, and what it waits for: for progress while it runs, and for the summary after it."""

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from unialign.stages.extraction.base import Outcome
from unialign.types import Json

# What time is spent on, in the order in which a clip meets it.
STEPS = ("decoder", "network", "disk")


@dataclass(frozen=True)
class Tally:
    """What was done at once: samples, frames, and seconds by what they were spent on; seconds: all of the worker's."""

    samples: int = 0
    frames: int = 0
    spent: Mapping[str, float] = field(default_factory=dict)
    seconds: float = 0.0


def tally(outcomes: Iterable[Outcome], seconds: float, disk: float = 0.0) -> Tally:
    """The tally of some outcomes; disk: seconds for storing them."""
    samples, frames, spent = 0, 0, {"disk": disk}
    for outcome in outcomes:
        samples += 1
        decoded = outcome.detail.get("decoded", 0)
        frames += decoded if isinstance(decoded, int) else 0
        for name, took in outcome.spent.items():
            spent[name] = spent.get(name, 0.0) + took
    return Tally(samples, frames, spent, seconds)


class Pace:
    """An extraction in progress. done: samples, by whichever process; total: samples to do. frames: decoded here."""

    def __init__(self, total: int) -> None:
        self.done, self.total, self.frames = 0, total, 0
        self._spent = dict.fromkeys(STEPS, 0.0)
        self._worked = 0.0
        self._started = self._last = self._counted = time.monotonic()

    def add(self, more: Tally) -> None:
        """Count what was done."""
        self._counted = time.monotonic()
        self.done += more.samples
        self.frames += more.frames
        for name, took in more.spent.items():
            self._spent[name] = self._spent.get(name, 0.0) + took
        self._worked += more.seconds

    def since_last(self) -> float:
        """Seconds since the last call, or the start."""
        before, self._last = self._last, time.monotonic()
        return self._last - before

    @property
    def frames_per_second(self) -> float:
        """From the start to what was counted last: who asks later does not make it slower."""
        return self.frames / max(self._counted - self._started, 1e-3)

    def shares(self) -> dict[str, float]:
        """The share of the workers' time, from 0 to 1, that each of `STEPS` was waited for, if it was at all."""
        worked = max(self._worked, 1e-3)
        return {name: min(1.0, self._spent[name] / worked) for name in STEPS if self._spent[name] > 0}

    def text(self) -> str:
        """Such as "213 frames/s (network 80 %, decoder 12 %, disk 1 %)"; empty for what has no frames."""
        if not self.frames:
            return ""
        shares = sorted(self.shares().items(), key=lambda share: -share[1])
        waits = ", ".join(f"{name} {share:.0%}".replace("%", " %") for name, share in shares)
        return f"{self.frames_per_second:,.0f} frames/s{f' ({waits})' if waits else ''}"

    def result(self) -> dict[str, Json]:
        """For `--json`."""
        shares: dict[str, Json] = {name: round(share, 3) for name, share in self.shares().items()}
        return {"frames": self.frames, "frames_per_second": round(self.frames_per_second, 1), "shares": shares}
