"""The units of a plan, divided among processes that were started with `--join`, without a scheduler.

Every process cuts the same samples into the same units (`planning.py`), whenever it comes: finished shards are whole.
It works on those that nobody has finished or claimed, several at a time where they are short, and waits for others only
when it has none in hand: otherwise two processes could wait for each other. What a killed process had claimed becomes
free with its death, and is found by those that wait for the rest.
"""

import time
from collections.abc import Callable, Sequence

from unialign.cache.joining import Seat
from unialign.cache.records import record_path
from unialign.cache.store import Store, read_num_shards
from unialign.pipeline.extraction.bundles import Bundle
from unialign.pipeline.extraction.planning import Plan, Unit
from unialign.pipeline.extraction.supply import Piece, Supply

# Seconds between two looks at units that others work on.
POLL = 0.5
# What a process takes at once is at most one part in so many of what nobody has taken yet.
SHARE = 8


def is_prepared(store: Store, plan: Plan) -> bool:
    """Whether the arrays of a store have room for the whole plan."""
    return all(read_num_shards(store, spec) >= plan.num_shards for spec in store.arrays)


class Claimed(Supply[Piece]):
    """The work that falls to this process; it ends when all is finished, by whomever.

    claim: of a piece of work, the part that this process may do now and the part that others are at, None for no such
        part; it does not wait. done_elsewhere: called with the number of samples of what others have finished.
    """

    def __init__(
        self,
        pieces: Sequence[Piece],
        claim: Callable[[Piece], tuple[Piece | None, Piece | None]],
        done_elsewhere: Callable[[int], None] = lambda samples: None,
    ) -> None:
        self._left, self._claim, self._done_elsewhere = list(pieces), claim, done_elsewhere

    def take(self, most: int) -> list[Piece]:
        """See `Supply`. So that all end at about the same time, no more than a part of what is left."""
        while self._left:
            most, taken, left = max(1, min(most, len(self._left) // SHARE)), list[Piece](), list[Piece]()
            for place, piece in enumerate(self._left):
                if len(taken) == most:
                    left += self._left[place:]
                    break
                mine, others = self._claim(piece)
                if mine is not None:
                    taken.append(mine)
                if others is not None:
                    left.append(others)
                if mine is others is None:
                    self._done_elsewhere(len(piece))
            self._left = left
            if taken:
                return taken
            if left:
                time.sleep(POLL)
        return []


def claim_unit(store: Store, seat: Seat, unit: Unit) -> tuple[Unit | None, Unit | None]:
    """A unit as this process's own, or as that of others, or neither when it is finished; see `Claimed`."""
    record = record_path(store.path, unit.shard)
    # Claimed first, then looked at: whoever finished it may have ended in between.
    if not record.exists() and seat.claim(unit.shard) and not record.exists():
        return unit, None
    return None, None if record.exists() else unit


def claim_bundle(stores: Sequence[Store], seats: Sequence[Seat], bundle: Bundle) -> tuple[Bundle | None, Bundle | None]:
    """The units of a bundle that this process may do, and those that others are at; see `Claimed`.

    If somebody is at its first one, that process will want the others too.
    """
    mine, others = list[tuple[int, Unit]](), list[tuple[int, Unit]]()
    for place, unit in bundle.units:
        if others and not mine:
            own, theirs = None, None if record_path(stores[place].path, unit.shard).exists() else unit
        else:
            own, theirs = claim_unit(stores[place], seats[place], unit)
        mine += [(place, own)] if own else []
        others += [(place, theirs)] if theirs else []
    return Bundle(tuple(mine)) if mine else None, Bundle(tuple(others)) if others else None
