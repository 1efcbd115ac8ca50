"""Several modalities of the same videos in one go, so that a clip is decoded once; each store as if extracted alone.

Units of the stores that are made from the same clips are put together (`bundles.py`): one process works on all of a
bundle, on a cluster and among processes that join too. A sample that one store has already is extracted for the others
only. If a sample ends its worker, each extractor tries it alone, since only one of them may be the cause.
"""

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from itertools import groupby, islice

from unialign.cache.joining import seat_at
from unialign.cache.remote.outbox import Outbox
from unialign.cache.store import Store
from unialign.pipeline.extraction.bundles import Bundle, all_of, bundled
from unialign.pipeline.extraction.executors import (
    Done,
    Job,
    OnCluster,
    Shelf,
    Watch,
    run_dask,
    store_unit,
    supervisor_on_worker,
)
from unialign.pipeline.extraction.extract import (
    Extraction,
    Ledger,
    Task,
    check_join,
    finish_store,
    join_in,
    kept_told,
    leave,
    prepare_store,
    writing,
)
from unialign.pipeline.extraction.joining import Claimed, claim_bundle
from unialign.pipeline.extraction.pace import Pace, Tally, tally
from unialign.pipeline.extraction.planning import Plan, Unit
from unialign.pipeline.extraction.supervisor import GUILTY, Supervisor
from unialign.pipeline.extraction.supply import Pile, Supply, groups
from unialign.stages.extraction.base import Extractor, Outcome, Source
from unialign.stages.extraction.together import Together, VideoExtractor, parts
from unialign.types import Json

# Samples given to a worker at a time. Those of few frames may wait in its memory until all extractors have read them.
GROUP = 128
# Which of the tasks a sample is extracted for, by their places.
Places = tuple[int, ...]


def extract_together(
    tasks: Sequence[Task], extractors: Sequence[VideoExtractor], watch: Callable[[Pace], None] = lambda pace: None
) -> list[Extraction]:
    """Bring the stores of several extractors of videos up to date; each task is of the extractor at its place, and all
    have the same settings but those of their stores.

    Raises what `run_extraction` raises.
    """
    # In the same order in every process, so that two of them do not wait for one another.
    ordered = sorted(range(len(tasks)), key=lambda place: tasks[place].path)
    how = _join if tasks[0].settings.join else _fill
    plans, extracted = how(tasks, ordered, _Units(tasks, extractors), watch)
    return [task.summary(plan, count) for task, plan, count in zip(tasks, plans, extracted, strict=True)]


def _fill(
    tasks: Sequence[Task], ordered: Sequence[int], units: "_Units", watch: Callable[[Pace], None]
) -> tuple[list[Plan], list[int]]:
    """Fill the stores alone; the plan of each, and how many samples got its features."""
    with ExitStack() as locks:
        held = {place: locks.enter_context(writing(tasks[place])) for place in ordered}
        outboxes = [held[place] for place in range(len(tasks))]
        prepared = [prepare_store(task, outbox) for task, outbox in zip(tasks, outboxes, strict=True)]
        stores, plans = zip(*prepared, strict=True)
        bundles = bundled(plans)
        pace = Pace(sum(len(bundle) for bundle in bundles))
        with kept_told(stores, plans):
            extracted = units.run(plans, Pile(bundles), pace, watch, outboxes) if bundles else [0] * len(tasks)
        for task, store, outbox in zip(tasks, stores, outboxes, strict=True):
            finish_store(task, store, outbox)
    return list(plans), extracted


def _join(
    tasks: Sequence[Task], ordered: Sequence[int], units: "_Units", watch: Callable[[Pace], None]
) -> tuple[list[Plan], list[int]]:
    """Fill the stores together with other processes; the plan of each, and how many samples this one gave features."""
    for task in tasks:
        check_join(task)
    with ExitStack() as locks:
        seats, joined = {}, dict[int, tuple[Store, Plan]]()
        for place in ordered:
            seats[place] = locks.enter_context(seat_at(tasks[place].path, tasks[place].cache))
            # Each is shared before the next one is entered.
            joined[place] = join_in(tasks[place], seats[place])
        stores, plans = zip(*(joined[place] for place in range(len(tasks))), strict=True)
        bundles = bundled(plans)
        pace = Pace(sum(len(bundle) for bundle in bundles))

        def elsewhere(samples: int) -> None:
            pace.add(Tally(samples))
            watch(pace)

        claim = partial(claim_bundle, stores, [seats[place] for place in range(len(tasks))])
        extracted = [0] * len(tasks)
        if bundles:
            extracted = units.run(plans, Claimed(bundles, claim, elsewhere), pace, watch, [None] * len(tasks))
        for place in ordered:
            leave(tasks[place], stores[place], seats[place])
    return list(plans), extracted


class _Units:
    """Runs bundles for some tasks, here or on a cluster."""

    def __init__(self, tasks: Sequence[Task], extractors: Sequence[VideoExtractor]) -> None:
        self.tasks, self.extractors = tasks, tuple(extractors)

    def run(
        self,
        plans: Sequence[Plan],
        supply: Supply[Bundle],
        pace: Pace,
        watch: Callable[[Pace], None],
        outboxes: Sequence[Outbox | None],
    ) -> list[int]:
        """How many samples got features, by the place of their store. watch: is told the pace."""
        jobs = tuple(task.job(outbox) for task, outbox in zip(self.tasks, outboxes, strict=True))
        ledgers = [Ledger(task, plan) for task, plan in zip(self.tasks, plans, strict=True)]
        settings = self.tasks[0].settings

        def seen(more: Tally) -> None:
            pace.add(more)
            watch(pace)

        with settings.begin(settings.cluster, settings.threads, settings.announce) as run:
            client = run.client if isinstance(run, OnCluster) else None
            for place, done in (
                self._on_cluster(client, jobs, supply, seen) if client else self._here(jobs, supply, seen)
            ):
                ledgers[place].note(done)
        return [ledger.extracted for ledger in ledgers]

    def _here(self, jobs: Sequence[Job], supply: Supply[Bundle], watch: Watch) -> Iterator[tuple[int, Done]]:
        """One process extracts, another thread stores what it has made: one unit at a time."""
        behind: list[tuple[int, Future[Done]]] = []
        with ThreadPoolExecutor(1) as disk, _Crew(jobs, self.extractors) as crew:
            for group in groups(supply):
                for place, unit, outcomes in crew.extracted(all_of(group), watch):
                    for number, stored in behind:
                        yield number, stored.result()
                    job, environment = jobs[place], crew.environment(place)
                    behind = [(place, disk.submit(store_unit, job, unit, outcomes, environment))]
            for number, stored in behind:
                yield number, stored.result()

    def _on_cluster(
        self, client: object, jobs: tuple[Job, ...], supply: Supply[Bundle], watch: Watch
    ) -> Iterator[tuple[int, Done]]:
        for told, done in run_dask(client, partial(_run_on_worker, jobs, self.extractors), supply):
            watch(told)
            yield from done


class _Own(threading.local):
    """What a Dask worker thread keeps between bundles."""

    crew: "_Crew | None" = None


_own = _Own()


def _run_on_worker(
    jobs: tuple[Job, ...], extractors: tuple[VideoExtractor, ...], bundle: Bundle
) -> tuple[Tally, list[tuple[int, Done]]]:
    """Run one bundle on a Dask worker: what it took, and each unit that was stored, with the place of its store."""
    if _own.crew is None or _own.crew.jobs != jobs:
        if _own.crew is not None:
            _own.crew.close()
        _own.crew = _Crew(jobs, extractors, partial(supervisor_on_worker, jobs[0]))
    crew, outcomes, done, disk = _own.crew, list[Outcome](), list[tuple[int, Done]](), 0.0
    started = time.monotonic()
    for place, unit, made in crew.extracted(bundle, lambda told: None, outcomes.extend):
        before = time.monotonic()
        done.append((place, store_unit(jobs[place], unit, made, crew.environment(place))))
        disk += time.monotonic() - before
    return tally(outcomes, time.monotonic() - started, disk), done


class _Crew:
    """A supervised worker for each combination of extractors that samples are extracted for; started when needed."""

    def __init__(
        self,
        jobs: Sequence[Job],
        extractors: Sequence[VideoExtractor],
        supervise: Callable[[Extractor], Supervisor] | None = None,
    ) -> None:
        self.jobs, self._extractors = tuple(jobs), extractors
        self._supervise = supervise or partial(Supervisor, threads=jobs[0].threads, limits=jobs[0].limits)
        self._supervisors: dict[Places, Supervisor] = {}
        self._environment: Mapping[str, Json] = {}

    def __enter__(self) -> "_Crew":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the workers."""
        for supervisor in self._supervisors.values():
            supervisor.close()

    def extracted(
        self, bundle: Bundle, watch: Watch, keep: Callable[[Sequence[Outcome]], None] = lambda outcomes: None
    ) -> Iterator[tuple[int, Unit, list[Outcome]]]:
        """Each unit of a bundle, with the place of its store and its outcomes, as soon as they are there.

        watch: is told what was done. keep: gets the outcomes of all extractors together.
        """
        last = time.monotonic()

        def seen(outcomes: Sequence[Outcome]) -> None:
            nonlocal last
            before, last = last, time.monotonic()
            keep(outcomes)
            watch(tally(outcomes, last - before))

        places = {place for place, _ in bundle.units}
        shelves = {place: Shelf([unit for own, unit in bundle.units if own == place]) for place in places}
        for place, outcome in self._run(bundle.clips, seen):
            for unit, outcomes in shelves[place].put([outcome]):
                yield place, unit, outcomes

    def _run(
        self, clips: Sequence[tuple[Source, Places]], seen: Callable[[Sequence[Outcome]], None]
    ) -> Iterator[tuple[int, Outcome]]:
        """The outcomes of each sample, each with the place of its extractor, in order."""
        for combined, several in groupby(clips, lambda each: each[1]):
            while group := [source for source, _ in islice(several, GROUP)]:
                rest = iter(group)
                for outcomes in self._supervised(combined, group):
                    seen(outcomes)
                    for outcome in outcomes:
                        yield from self._divided(combined, next(rest), outcome)

    def environment(self, place: int) -> Mapping[str, Json]:
        """What computed the outcomes of an extractor, for the records: as if it had worked alone."""
        if getattr(self._extractors[place], "device", None) is not None:
            return self._environment
        return {"processor": self._environment["processor"]}

    def _supervised(self, places: Places, sources: Sequence[Source]) -> Iterator[Sequence[Outcome]]:
        if places not in self._supervisors:
            several = tuple(self._extractors[place] for place in places)
            extractor = several[0] if len(several) == 1 else Together(several)
            self._supervisors[places] = self._supervise(extractor)  # type: ignore[arg-type]
        supervisor = self._supervisors[places]
        for outcomes in supervisor.stream(sources):
            self._environment = {**self._environment, **supervisor.environment}
            yield outcomes

    def _divided(self, places: Places, source: Source, outcome: Outcome) -> Iterator[tuple[int, Outcome]]:
        """The outcomes that a combined one holds."""
        if len(places) == 1:
            yield places[0], outcome
        elif outcome.status in GUILTY:
            for place in places:
                for (alone,) in self._supervised((place,), [source]):
                    yield place, alone
        else:
            yield from zip(places, parts(outcome, len(places)), strict=True)
