"""Several modalities of the same videos in one go, so that a clip is decoded once; each store as if extracted alone.

Samples are taken in order of id, a group at a time, and each store gets its units as soon as their samples are there. A
sample that one store has already is extracted for the others only. If a sample ends its worker, each extractor tries it
alone, since only one of them may be the cause.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from itertools import groupby, islice

from unialign.cache.lock import store_lock
from unialign.pipeline.extraction.executors import Done, Shelf, store_unit
from unialign.pipeline.extraction.extract import Extraction, Ledger, Task, finish_store, prepare_store
from unialign.pipeline.extraction.pace import Pace, tally
from unialign.pipeline.extraction.planning import Plan
from unialign.pipeline.extraction.supervisor import GUILTY, Supervisor
from unialign.stages.extraction.base import Outcome, Source
from unialign.stages.extraction.together import Together, VideoExtractor, parts
from unialign.types import Json

# Samples given to a worker at a time. Those of few frames may wait in its memory until all extractors have read them.
GROUP = 128
# Which of the tasks a sample is extracted for, by their places.
Places = tuple[int, ...]


def extract_together(
    tasks: Sequence[Task], extractors: Sequence[VideoExtractor], watch: Callable[[Pace], None] = lambda pace: None
) -> list[Extraction]:
    """Bring the stores of several extractors of videos up to date; each task is of the extractor at its place.

    Raises what `run_extraction` raises.
    """
    with ExitStack() as locks:
        # In the same order in every process, so that two of them do not wait for one another.
        for task in sorted(tasks, key=lambda task: task.path):
            locks.enter_context(store_lock(task.path, task.cache))
        stores, plans = zip(*(prepare_store(task) for task in tasks), strict=True)
        ledgers = [Ledger(task, plan) for task, plan in zip(tasks, plans, strict=True)]
        _run(tasks, extractors, plans, ledgers, watch)
        for task, store in zip(tasks, stores, strict=True):
            finish_store(task, store)
        several = zip(tasks, plans, ledgers, strict=True)
        return [task.summary(plan, ledger.extracted) for task, plan, ledger in several]


def _run(
    tasks: Sequence[Task],
    extractors: Sequence[VideoExtractor],
    plans: Sequence[Plan],
    ledgers: Sequence[Ledger],
    watch: Callable[[Pace], None],
) -> None:
    wanted: dict[str, tuple[Source, list[int]]] = {}
    for place, plan in enumerate(plans):
        for unit in plan.units:
            for source in unit.sources:
                wanted.setdefault(source.id, (source, []))[1].append(place)
    shelves = [Shelf(plan.units) for plan in plans]
    behind: list[tuple[int, Future[Done]]] = []
    pace = Pace(len(wanted))
    with ThreadPoolExecutor(1) as disk, _Crew(tasks[0], extractors, pace, watch) as crew:
        for place, outcome in crew.run([wanted[name] for name in sorted(wanted)]):
            for unit, outcomes in shelves[place].put([outcome]):
                # One unit is stored at a time; the others wait for the disk.
                for number, stored in behind:
                    ledgers[number].note(stored.result())
                environment = crew.environment(place)
                job = tasks[place].job()
                behind = [(place, disk.submit(store_unit, job, unit, outcomes, environment))]
        for number, stored in behind:
            ledgers[number].note(stored.result())


class _Crew:
    """A supervised worker for each combination of extractors that samples are extracted for; started when needed."""

    def __init__(
        self, task: Task, extractors: Sequence[VideoExtractor], pace: Pace, watch: Callable[[Pace], None]
    ) -> None:
        self._task, self._extractors, self._pace, self._watch = task, extractors, pace, watch
        self._supervisors: dict[Places, Supervisor] = {}
        self._environment: Mapping[str, Json] = {}

    def __enter__(self) -> "_Crew":
        return self

    def __exit__(self, *_: object) -> None:
        for supervisor in self._supervisors.values():
            supervisor.close()

    def run(self, wanted: Sequence[tuple[Source, list[int]]]) -> Iterator[tuple[int, Outcome]]:
        """The outcomes of each sample, each with the place of its extractor, in order."""
        for combined, several in groupby(wanted, lambda each: tuple(each[1])):
            while group := [source for source, _ in islice(several, GROUP)]:
                rest = iter(group)
                for outcomes in self._supervised(combined, group):
                    for outcome in outcomes:
                        yield from self._divided(combined, next(rest), outcome)

    def environment(self, place: int) -> Mapping[str, Json]:
        """What computed the outcomes of an extractor, for the records: as if it had worked alone."""
        if getattr(self._extractors[place], "device", None) is not None:
            return self._environment
        return {"processor": self._environment["processor"]}

    def _supervised(
        self, places: Places, sources: Sequence[Source], *, counted: bool = True
    ) -> Iterator[Sequence[Outcome]]:
        if places not in self._supervisors:
            several = tuple(self._extractors[place] for place in places)
            extractor = several[0] if len(several) == 1 else Together(several)
            settings = self._task.settings
            self._supervisors[places] = Supervisor(extractor, settings.threads, settings.limits)  # type: ignore[arg-type]
        supervisor = self._supervisors[places]
        for outcomes in supervisor.stream(sources):
            self._environment = {**self._environment, **supervisor.environment}
            if counted:
                self._seen(outcomes)
            yield outcomes

    def _divided(self, places: Places, source: Source, outcome: Outcome) -> Iterator[tuple[int, Outcome]]:
        """The outcomes that a combined one holds."""
        if len(places) == 1:
            yield places[0], outcome
        elif outcome.status in GUILTY:
            for place in places:
                for (alone,) in self._supervised((place,), [source], counted=False):
                    yield place, alone
        else:
            yield from zip(places, parts(outcome, len(places)), strict=True)

    def _seen(self, outcomes: Sequence[Outcome]) -> None:
        self._pace.add(tally(outcomes, self._pace.since_last()))
        self._watch(self._pace)
