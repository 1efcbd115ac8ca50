"""What an extraction will cost, from a few of its samples: `--dry-run`."""

import time
from contextlib import closing
from dataclasses import dataclass

from unialign.pipeline.extraction.planning import Plan
from unialign.pipeline.extraction.supervisor import Limits, Supervisor
from unialign.stages.extraction.base import Extractor
from unialign.types import Json

# Most samples that are measured, and seconds after which no more are.
MEASURED = 64
SECONDS = 20.0


@dataclass(frozen=True)
class Price:
    """An estimate. measured: samples that it comes from. hours: in one process like this one; bytes: on disk."""

    measured: int
    samples: int
    seconds_per_sample: float
    bytes_per_sample: float

    @property
    def hours(self) -> float:
        """Of the whole job."""
        return self.samples * self.seconds_per_sample / 3600

    @property
    def bytes(self) -> float:
        """Of the whole job, without compression."""
        return self.samples * self.bytes_per_sample

    def result(self) -> dict[str, Json]:
        """For `--json`."""
        return {
            "measured": self.measured,
            "seconds_per_sample": round(self.seconds_per_sample, 6),
            "hours": round(self.hours, 4),
            "gigabytes": round(self.bytes / 1e9, 6),
        }


def price(extractor: Extractor, plan: Plan, threads: int, limits: Limits) -> Price | None:
    """Extract some of the samples that are to do, evenly spread, and store nothing; None if there are none to do.

    They go through the worker together, as in the extraction itself: alone, a clip would pay for the rest of its last
    batch, and nothing would be decoded ahead. Loading is left out, since it is paid once, and so is a first sample
    before the clock starts: networks, decoders and allocators are set up with it. Raises what `Supervisor.run` raises.
    """
    todo = [source for unit in plan.units for source in unit.sources]
    if not todo:
        return None
    some = [todo[number * len(todo) // min(MEASURED, len(todo))] for number in range(min(MEASURED, len(todo)))]
    measured, num_bytes, started = 0, 0, 0.0
    with Supervisor(extractor, threads, limits) as supervisor:
        supervisor.load()
        supervisor.run(some[:1])
        started = time.monotonic()
        with closing(supervisor.stream(some)) as stream:
            for outcomes in stream:
                measured += len(outcomes)
                num_bytes += sum(array.nbytes for outcome in outcomes for array in outcome.arrays.values())
                if time.monotonic() - started > SECONDS:
                    break
        seconds = time.monotonic() - started
    return Price(measured, len(todo), seconds / measured, num_bytes / measured)
