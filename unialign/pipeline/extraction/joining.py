"""The units of a plan, divided among processes that were started with `--join`, without a scheduler.

Every process cuts the same samples into the same units (`planning.py`), whenever it comes: finished shards are whole.
It works on those that nobody has finished or claimed. What a killed process had claimed becomes free with its death,
and is found by those that wait for the rest.
"""

import time
from collections.abc import Callable, Iterator, Sequence

from unialign.cache.joining import Seat
from unialign.cache.records import record_path
from unialign.cache.store import Store, read_num_shards
from unialign.pipeline.extraction.planning import Plan, Unit

# Seconds between two looks at units that others work on.
POLL = 0.5


def is_prepared(store: Store, plan: Plan) -> bool:
    """Whether the arrays of a store have room for the whole plan."""
    return all(read_num_shards(store, spec) >= plan.num_shards for spec in store.arrays)


def unclaimed(
    units: Sequence[Unit], store: Store, seat: Seat, done_elsewhere: Callable[[int], None] = lambda samples: None
) -> Iterator[Unit]:
    """The units that fall to this process; ends when all are finished, by whomever.

    done_elsewhere: called with the number of samples of each unit that another process has finished.
    """
    left = list(units)
    while left:
        held = []
        for unit in left:
            record = record_path(store.path, unit.shard)
            # Claimed first, then looked at: whoever finished it may have ended in between.
            if not record.exists() and seat.claim(unit.shard) and not record.exists():
                yield unit
            elif record.exists():
                done_elsewhere(len(unit.sources))
            else:
                held.append(unit)
        left = held
        if left:
            time.sleep(POLL)
