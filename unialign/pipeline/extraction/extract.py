"""One extraction, from a dataset to a complete store."""

import contextlib
import logging
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path

from unialign.cache import atomic
from unialign.cache.access import is_refused
from unialign.cache.digests import spanned_digest
from unialign.cache.index import forget_shard, load_table, write_index
from unialign.cache.joining import Seat, seat_at
from unialign.cache.keys import Key
from unialign.cache.lock import store_lock
from unialign.cache.mirrors import bucket_of, check_whole, url_of
from unialign.cache.reader import check_sizes
from unialign.cache.records import Entry, read_record, record_path
from unialign.cache.remote.outbox import Outbox, leased
from unialign.cache.repair import remove_uncovered, restore_group, restore_metadata
from unialign.cache.store import Store, create_store, grow_store, layout, open_store, store_path
from unialign.cache.verify import verify_store
from unialign.errors import DamagedStore, UsageError
from unialign.pipeline.extraction.executors import Begin, Done, Job, executor
from unialign.pipeline.extraction.joining import Claimed, claim_unit, is_prepared
from unialign.pipeline.extraction.pace import Pace, Tally
from unialign.pipeline.extraction.planning import Plan, Unit, make_plan
from unialign.pipeline.extraction.price import Price, price
from unialign.pipeline.extraction.source_digests import SourceDigests
from unialign.pipeline.extraction.supervisor import Limits
from unialign.pipeline.extraction.supply import Pile, Supply
from unialign.pipeline.memory import settled_objects
from unialign.stages.extraction.base import Extractor, Source
from unialign.types import Json

Progress = Callable[[int, int], None]

LOGGER = logging.getLogger(__name__)
ADVICE = "run the same command again with --repair."
# A long extraction updates the store's index after this many shards, so that resuming it is fast too.
INDEX_EVERY = 1024


@dataclass(frozen=True)
class Settings:
    """How an extraction runs; nothing here changes the result, except that `threads` may affect a network's last
    digits.

    shard_samples, codec: of a new store; an existing one keeps its own.
    repair: extract damaged shards again. retry: retry failed samples. join: with other processes that join too.
    limits: what one sample may use before it is given up. counts: see `ExtractorRow`.
    watch: is told how fast it goes, as samples are done.
    announce: is told what a user should know while it runs, such as where a cluster can be watched.
    begin: what gives the executor for `cluster`; of several extractions, one that shares the cluster.
    """

    cluster: str = ""
    threads: int = 1
    shard_samples: int = 32
    codec: str = "none"
    repair: bool = False
    retry: bool = False
    join: bool = False
    dry_run: bool = False
    limits: Limits = field(default_factory=Limits)
    counts: Sequence[str] = ()
    watch: Callable[[Pace], None] = lambda pace: None
    announce: Callable[[str], None] = LOGGER.info
    begin: Begin = executor


@dataclass(frozen=True)
class Extraction:
    """The result of an extraction.

    attempted: samples that this call worked on; with `dry_run`, those that it would work on. extracted: those of them
        that now have features. reused: samples that already had features. quarantined: every sample of the dataset
        without features, counted by status. So total = extracted + reused + the sum of quarantined, except in a dry
        run.
    left_out: the `counts` of the extractor's row in the records of all samples, added up.
    price: of a dry run with samples to do.
    """

    modality: str
    key: Key
    store: Path
    total: int
    attempted: int
    extracted: int
    reused: int
    quarantined: dict[str, int]
    seconds: float
    problems: tuple[tuple[str, str, str], ...] = ()
    left_out: Mapping[str, int] = field(default_factory=dict)
    price: Price | None = None

    @property
    def place(self) -> str:
        """Where the store is: its path, or its URL."""
        return url_of(self.store) or str(self.store)

    @property
    def reasons(self) -> tuple[Mapping[str, Json], ...]:
        """Why samples have no features: each status and reason once, with the number of samples and the first one."""
        groups: dict[tuple[str, str], list[str]] = defaultdict(list)
        for name, status, why in self.problems:
            groups[status, why].append(name)
        ordered = sorted(groups.items(), key=lambda group: -len(group[1]))
        return tuple(
            {"status": status, "why": why, "samples": len(names), "first": names[0]} for (status, why), names in ordered
        )

    def result(self) -> dict[str, Json]:
        """The object that `--json` prints."""
        return {
            "modality": self.modality,
            "key": self.key.digest,
            "store": self.place,
            "total": self.total,
            "attempted": self.attempted,
            "extracted": self.extracted,
            "reused": self.reused,
            "quarantined": self.quarantined,
            "reasons": list(self.reasons),
            "seconds": round(self.seconds, 3),
            **({"left_out": dict(self.left_out)} if self.left_out else {}),
            **({"price": self.price.result()} if self.price else {}),
        }


def run_extraction(
    extractor: Extractor,
    sources: Sequence[Source],
    *,
    cache: Path,
    collection: str,
    settings: Settings,
    current: Callable[[Source], str] | None = None,
    older: str = "",
    progress: Progress = lambda done, total: None,
) -> Extraction:
    """Bring the store of an extractor up to date with the sources and return what was done.

    current: computes the current digest of a source; by default that of the file at its path. older: see `make_plan`.
    progress: called with (samples stored by this process, samples to do). Raises `LockedStore` while another process
        writes the store and `DamagedStore` if it is damaged and `settings.repair` is off. An interrupt keeps finished
        shards.
    """
    if current is None:
        task = file_task(
            extractor, sources, cache=cache, collection=collection, settings=settings, older=older, progress=progress
        )
    else:  # other digests are not those of files
        task = Task(extractor, sources, cache, collection, settings, current, older, None, progress)
    if settings.dry_run:
        store = open_store(task.path) if task.path.exists() else None
        plan = _plan(store, sources, task.current, settings, set(), older)
        cost = price(extractor, plan, settings.threads, settings.limits)
        seconds = time.monotonic() - task.started
        modality, reused = extractor.modality, plan.reused
        return Extraction(modality, task.key, task.path, plan.total, plan.to_do, 0, reused, {}, seconds, price=cost)
    with settled_objects():
        return task.summary(*_work(task))


@dataclass(frozen=True)
class Task:
    """What `run_extraction` was asked for. started: on the monotonic clock."""

    extractor: Extractor
    sources: Sequence[Source]
    cache: Path
    collection: str
    settings: Settings
    current: Callable[[Source], str]
    older: str
    digests: SourceDigests | None
    progress: Progress
    started: float = field(default_factory=time.monotonic)

    @cached_property
    def key(self) -> Key:
        """The key of its store."""
        return Key(dict(self.extractor.key()))

    @property
    def path(self) -> Path:
        """The path of its store."""
        return store_path(self.cache, self.collection, self.extractor.modality, self.key)

    def wanted(self) -> Store:
        """Its store, as the extractor describes it."""
        return Store(
            path=self.path,
            collection=self.collection,
            modality=self.extractor.modality,
            key=self.key,
            arrays=tuple(self.extractor.arrays()),
            shard_samples=self.settings.shard_samples,
            attributes=self.extractor.attributes(),
            codec=self.settings.codec,
        )

    def opened(self) -> Store:
        """The store, created if needed. Raises `DamagedStore` for one with other arrays."""
        wanted = self.wanted()
        store = create_store(wanted)
        if layout(store) != layout(wanted):
            raise DamagedStore(f"{store.path}: the store has other arrays than its extractor makes; move it away.")
        return store

    def summary(self, plan: Plan, extracted: int) -> Extraction:
        """The result, once the store is written. extracted: samples that got features."""
        store = open_store(self.path)
        failed = _failed(store, self.sources)
        return Extraction(
            modality=self.extractor.modality,
            key=self.key,
            store=self.path,
            total=plan.total,
            attempted=plan.to_do,
            extracted=extracted,
            reused=plan.total - extracted - len(failed),
            quarantined=dict(sorted(Counter(entry.status for entry in failed).items())),
            seconds=time.monotonic() - self.started,
            problems=tuple((entry.id, entry.status, str(entry.detail.get("why", ""))) for entry in failed),
            left_out=_left_out(store, self.sources, self.settings.counts),
        )

    def plan(self, store: Store, lost: set[str]) -> Plan:
        """What there is to do."""
        plan = _plan(store, self.sources, self.current, self.settings, lost, self.older)
        LOGGER.info("writes %s: %d samples are there, %d are to do", store.path, plan.reused, plan.to_do)
        return plan

    def seen(self, pace: Pace, more: Tally) -> None:
        """Count what was extracted, which may not be stored yet, and show it."""
        pace.add(more)
        self.settings.watch(pace)

    def job(self, outbox: Outbox | None) -> Job:
        """The settings of its units."""
        return Job(self.extractor, self.path, self.settings.threads, self.settings.limits, outbox)


def file_task(
    extractor: Extractor,
    sources: Sequence[Source],
    *,
    cache: Path,
    collection: str,
    settings: Settings,
    older: str = "",
    progress: Progress = lambda done, total: None,
) -> Task:
    """The task of an extractor whose samples are made from the files at their paths."""
    digests = SourceDigests(cache, collection)
    current = partial(_file_digest, digests)
    return Task(extractor, sources, cache, collection, settings, current, older, digests, progress)


def _work(task: Task) -> tuple[Plan, int]:
    """Bring the store up to date, alone or with others; returns the plan and how many samples got features."""
    try:
        if task.settings.join:
            return _join(task)
        with writing(task) as outbox:
            return _update(task, outbox)
    except OSError as error:
        # A read-only cache is fine if there is nothing to do.
        if task.settings.repair or not is_refused(error) or not task.path.exists():
            raise
        store = task.opened()
        check_sizes(store, load_table(store), ADVICE)
        plan = task.plan(store, set())
        if plan.units:
            raise
        return plan, 0


@contextmanager
def writing(task: Task) -> Iterator[Outbox | None]:
    """Be the only process that writes the store, while the block runs; gives where its shards are sent, if they are.

    Raises `LockedStore` while another process writes it.
    """
    with store_lock(task.path, task.cache):
        if not bucket_of(task.cache):
            yield None
            return
        if task.settings.repair:
            raise UsageError(
                f"--repair does not reach into {bucket_of(task.cache)}: bring the store here with `cache import URL`, "
                "repair it, and send it back with `cache export STORE URL --overwrite`."
            )
        with leased(task.path, task.cache) as outbox:
            outbox.begin(task.path)
            yield outbox


def _update(task: Task, outbox: Outbox | None) -> tuple[Plan, int]:
    """Create, repair and fill the store, whose lock is held; returns the plan and how many samples got features."""
    store, plan = prepare_store(task, outbox)
    with kept_told([store], [plan]):
        extracted = _run_plan(task, store, plan, Pile(plan.units), Pace(plan.to_do), outbox)
    finish_store(task, store, outbox)
    return plan, extracted


@contextmanager
def kept_told(stores: Sequence[Store], plans: Sequence[Plan]) -> Iterator[None]:
    """Note on an exception how much of the plans is stored, for whoever interrupted the extraction."""
    before = [_stored(store) for store in stores]
    try:
        yield
    except BaseException as error:
        for store, plan, count in zip(stores, plans, before, strict=True):
            done = f"{store.modality}: {_stored(store) - count:,} of {plan.to_do:,} samples are stored"
            error.add_note(f"{done} ({store.shard_samples} at a time).")
        error.add_note("The same command goes on from there.")
        raise


def _stored(store: Store) -> int:
    return int(load_table(store).shards.samples.sum())


def prepare_store(task: Task, outbox: Outbox | None = None) -> tuple[Store, Plan]:
    """Create or repair the store, which nobody else writes, and grow it for the plan. outbox: see `writing`."""
    atomic.sweep_beside(task.path)
    if task.settings.repair and task.path.exists():
        restore_group(task.wanted())
    store = task.opened()
    lost = _clean(store, outbox, repair=task.settings.repair)
    plan = task.plan(store, lost)
    if plan.units:
        grow_store(store, plan.num_shards)
    if outbox:
        outbox.send_metadata(store)
    return store, plan


def finish_store(task: Task, store: Store, outbox: Outbox | None = None) -> None:
    """Bring the index of a store up to date, and remember the digests of its sources. outbox: see `writing`."""
    _index(store, outbox)
    if task.digests:
        task.digests.save()


def _index(store: Store, outbox: Outbox | None) -> None:
    write_index(store)
    if outbox:
        outbox.send_index(store)


def _join(task: Task) -> tuple[Plan, int]:
    """Fill the store together with other processes; returns the plan and how many samples this one gave features."""
    check_join(task)
    with seat_at(task.path, task.cache) as seat:
        store, plan = join_in(task, seat)
        pace = Pace(plan.to_do)
        units = Claimed(plan.units, partial(claim_unit, store, seat), lambda samples: task.seen(pace, Tally(samples)))
        extracted = _run_plan(task, store, plan, units, pace)
        leave(task, store, seat)
    return plan, extracted


def check_join(task: Task) -> None:
    """Raise `UsageError` for what needs a store alone, and for one in object storage, which has no locks."""
    check_whole(task.cache, "--join")
    settings = task.settings
    if settings.repair or settings.retry or settings.cluster:
        raise UsageError(
            "--join shares the store among plain processes; repair, retry or use a cluster without it, in one command."
        )


def leave(task: Task, store: Store, seat: Seat) -> None:
    """Let go of a store that was filled together with other processes; the last one to leave finishes it."""
    seat.leave()
    if seat.is_first:
        # Whoever was killed may have left a temporary file.
        atomic.sweep(store.path)
        finish_store(task, store)
    elif task.digests:
        task.digests.save()


def join_in(task: Task, seat: Seat) -> tuple[Store, Plan]:
    """The prepared store and the plan: of this process if it is the first, else what the first one has prepared."""
    while not seat.is_first:
        if task.path.exists():
            store = task.opened()
            plan = task.plan(store, set())
            if is_prepared(store, plan):
                return store, plan
        seat.retry()
    store, plan = prepare_store(task)
    seat.share()
    return store, plan


def _file_digest(digests: SourceDigests | None, source: Source) -> str:
    """Digest of a source's file, or of its part; "" if there is none."""
    return spanned_digest(digests.of(source.path), source.span) if digests and source.path else ""


def _left_out(store: Store, sources: Sequence[Source], counts: Sequence[str]) -> dict[str, int]:
    """The sums of some counts in the records of the samples that have features."""
    if not counts:
        return {}
    table = load_table(store)
    rows = table.find([source.id for source in sources])
    details = [table.entry(row).detail for row in rows[(rows >= 0) & table.ok[rows]].tolist()]
    found = {name: [detail[name] for detail in details if name in detail] for name in counts}
    return {name: sum(int(str(value)) for value in values) for name, values in found.items() if values}


def _failed(store: Store, sources: Sequence[Source]) -> list[Entry]:
    """What the records say about the samples that have no features."""
    table = load_table(store)
    rows = table.find([source.id for source in sources])
    return [table.entry(row) for row in rows[(rows >= 0) & ~table.ok[rows]].tolist()]


def _plan(
    store: Store | None,
    sources: Sequence[Source],
    current: Callable[[Source], str],
    settings: Settings,
    lost: set[str],
    older: str,
) -> Plan:
    table = load_table(store) if store else None
    size = store.shard_samples if store else settings.shard_samples
    return make_plan(sources, table, current, shard_samples=size, retry=settings.retry, lost=lost, older=older)


def _clean(store: Store, outbox: Outbox | None, *, repair: bool) -> set[str]:
    """Remove what killed writers left behind; with `repair`, withdraw damaged shards, so that they are extracted again.

    Returns the samples of withdrawn shards, as far as their records can still be read. Raises `DamagedStore` for a
    shard file that is missing or truncated, without `repair`.
    """
    atomic.sweep(store.path)
    lost: set[str] = set()
    if repair:
        damage = verify_store(store.path)
        remove_uncovered(store, [each.file for each in damage if each.shard is None])
        for shard in sorted({each.shard for each in damage if each.shard is not None}):
            with contextlib.suppress(DamagedStore):
                lost |= {entry.id for entry in read_record(record_path(store.path, shard)).entries}
            forget_shard(store, shard)
        restore_metadata(store)
    if outbox:
        outbox.check_sizes(store, load_table(store))
    else:
        check_sizes(store, load_table(store), ADVICE)
    return lost


class Ledger:
    """What came of a plan. extracted: samples that got their first features, or newer ones."""

    def __init__(self, task: Task, plan: Plan) -> None:
        self.extracted = 0
        self._digests = task.digests
        # The digest of a part of a file is not that of the file.
        whole = [source for unit in plan.units for source in unit.sources if source.span is None]
        self._files = {source.id: source.path for source in whole if source.path}
        # Before any of them is read.
        self._stamps = {name: task.digests.stamp(path) for name, path in self._files.items()} if task.digests else {}

    def note(self, done: Done) -> None:
        """Count the samples of a stored unit, and remember the digests of their sources."""
        for name, status, digest in done.samples:
            self.extracted += status == "ok"
            if self._digests and name in self._files:
                self._digests.learn(self._files[name], self._stamps[name], digest)


def _run_plan(
    task: Task, store: Store, plan: Plan, units: Supply[Unit], pace: Pace, outbox: Outbox | None = None
) -> int:
    """Run units of the plan; returns how many samples got their first features, or newer ones."""
    if not plan.units:
        return 0
    ledger, stored = Ledger(task, plan), 0
    task.progress(0, plan.to_do)
    with task.settings.begin(task.settings.cluster, task.settings.threads, task.settings.announce) as run:
        for number, done in enumerate(run(task.job(outbox), units, partial(task.seen, pace)), start=1):
            ledger.note(done)
            stored += len(done.samples)
            task.progress(stored, plan.to_do)
            if number % INDEX_EVERY == 0:
                _index(store, outbox)
    return ledger.extracted
