"""What the commands of `unialign extract` share: their options, and the extraction itself."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from unialign import console
from unialign.commands.options import setting
from unialign.types import Json

if TYPE_CHECKING:
    from unialign.pipeline.config import Config
    from unialign.pipeline.extraction.extract import Extraction
    from unialign.pipeline.extraction.pace import Pace
    from unialign.pipeline.extraction.price import Price
    from unialign.stages.datasets.base import Dataset

Cluster = Annotated[str | None, setting("extract.cluster", metavar="CLUSTER")]
Threads = Annotated[int | None, setting("extract.threads")]
Timeout = Annotated[float | None, setting("extract.timeout")]
ShardSamples = Annotated[int | None, setting("extract.shard_samples")]
Codec = Annotated[str | None, setting("extract.codec")]
Device = Annotated[str | None, setting("extract.device")]
Repair = Annotated[bool, typer.Option("--repair", help="Extract damaged shards again.")]
Retry = Annotated[bool, typer.Option("--retry", help="Try quarantined samples again.")]
Join = Annotated[
    bool,
    typer.Option("--join", help="Work on the store together with other processes that were started with --join too."),
]
DryRun = Annotated[
    bool,
    typer.Option("--dry-run", help="Only say what there is to do, and estimate its time and room on some samples."),
]

REASONS_SHOWN = 10
CLASSES_SHOWN = 20


@dataclass(frozen=True)
class Execution:
    """How an extraction runs."""

    cluster: Cluster = None
    workers_per_gpu: Annotated[int | None, setting("extract.workers_per_gpu")] = None
    threads: Threads = None
    timeout: Timeout = None
    shard_samples: ShardSamples = None
    codec: Codec = None
    device: Device = None


@dataclass(frozen=True)
class Work:
    """Which samples an extraction works on."""

    repair: Repair = False
    retry: Retry = False
    join: Join = False
    dry_run: DryRun = False


def run(name: str, config: "Config", work: Work, *, as_json: bool) -> None:
    """Run an extractor as configured and say what was done; exit code 3 with quarantined samples."""
    from unialign.pipeline.extraction.extractors import extract_configured

    dataset, facts = begun(config, as_json=as_json)
    paces: dict[str, Pace] = {}
    with console.progress_bar(f"extract {name}", hidden=as_json) as bar:
        done = extract_configured(
            name,
            dataset,
            config,
            **asdict(work),
            watch=watching(name, bar, paces),
            announce=console.say,
        )
    if as_json:
        console.show_json({**result(done, paces.get(name)), "dataset": facts})
    else:
        show_extraction(name, done, paces.get(name), dataset, dry_run=work.dry_run)
    if done.quarantined:
        raise typer.Exit(3)


def run_all(config: "Config", work: Work, *, as_json: bool) -> None:
    """Run all extractors that are configured and say what was done; exit code 3 with quarantined samples."""
    from unialign.pipeline.extraction.everything import extract_all

    dataset, facts = begun(config, as_json=as_json)
    paces: dict[str, Pace] = {}
    results: list[Json] = []
    lost = False
    with console.progress_bars(hidden=as_json) as begin:
        several = extract_all(
            dataset,
            config,
            **asdict(work),
            watch=lambda title: watching(title, begin(f"extract {title}"), paces),
            announce=console.say,
        )
        for name, done in several:
            pace = next((pace for title, pace in paces.items() if name in title.split(" and ")), None)
            lost = lost or bool(done.quarantined)
            results.append(result(done, pace))
            if not as_json:
                show_extraction(name, done, pace, dataset, dry_run=work.dry_run)
    if as_json:
        console.show_json({"extractions": results, "dataset": facts})
    if lost:
        raise typer.Exit(3)


def begun(config: "Config", *, as_json: bool) -> tuple["Dataset", dict[str, Json]]:
    """The dataset, and what is known of it, which is shown."""
    from unialign.pipeline.datasets import rooted_dataset
    from unialign.stages.datasets.facts import dataset_facts, shown_facts

    dataset = rooted_dataset(config)
    if config.protocol:
        # A name that does not exist is said now, not when training begins.
        dataset.split(config.protocol)
    facts = dataset_facts(dataset, config.protocol)
    if not as_json and not console.is_quiet():
        console.show_fields(shown_facts(facts))
    return dataset, facts


def watching(title: str, bar: console.Update, paces: dict[str, "Pace"]) -> "Callable[[Pace], None]":
    """Shows the pace of a step on the bar, and keeps it."""

    def watch(pace: "Pace") -> None:
        paces[title] = pace
        bar(pace.done, pace.total, f"extract {title}{f': {text}' if (text := pace.text()) else ''}")

    return watch


def result(done: "Extraction", pace: "Pace | None") -> dict[str, Json]:
    """The object of one modality that `--json` prints."""
    return {**done.result(), **({"speed": pace.result()} if pace else {})}


def show_extraction(name: str, done: "Extraction", pace: "Pace | None", dataset: "Dataset", *, dry_run: bool) -> None:
    """What was done, for people."""
    from unialign.pipeline.extraction.extractors import get_row

    told = get_row(name).told
    work = f"{done.attempted:,} to do" if dry_run else f"{done.extracted:,} extracted"
    quarantined = ", ".join(f"{count} {status}" for status, count in done.quarantined.items()) or "none"
    console.show_result(
        f"{done.place}: {work}, {done.reused:,} reused, quarantined: {quarantined}",
        {
            "modality": done.modality,
            "store": done.place,
            "samples": f"{done.total:,} of {dataset.name}: {work}, {done.reused:,} reused",
            "quarantined": quarantined,
            "seconds": f"{done.seconds:.1f}",
            **priced(done.price),
            **({"speed": pace.text()} if pace and pace.frames else {}),
            **(told(done, dataset.classes) if told and not dry_run and not console.is_quiet() else {}),
        },
    )
    show_reasons(done.reasons)
    if not console.is_quiet():
        show_classes(done.problems, dataset)


def priced(price: "Price | None") -> dict[str, str]:
    """What a dry run says of time and room."""
    if price is None:
        return {}
    time, room = console.clock(3600 * price.hours), console.human_bytes(price.bytes)
    each = f"{price.seconds_per_sample:.3g} s and {console.human_bytes(price.bytes_per_sample)} a sample"
    return {"estimate": f"{time} in one process, besides loading, and {room} ({each}, measured on {price.measured:,})"}


def show_classes(problems: Sequence[tuple[str, str, str]], dataset: "Dataset") -> None:
    """The samples without features by class and status: classes that lose most of theirs are seen at a glance."""
    from collections import Counter

    labels = {sample.id: dataset.classes[sample.label] for sample in dataset.samples}
    counts = Counter((labels[name], status) for name, status, _ in problems if name in labels)
    if not counts:
        return
    sizes, statuses = Counter(labels.values()), sorted({status for _, status in counts})
    lost = Counter({name: sum(counts[name, status] for status in statuses) for name in sizes})
    rows = [
        (name, sizes[name], sizes[name] - number, *(counts[name, status] for status in statuses))
        for name, number in lost.most_common(CLASSES_SHOWN)
        if number
    ]
    console.show_table("Samples without features", ("class", "samples", "ok", *statuses), rows)


def show_reasons(reasons: Sequence[Mapping[str, Json]]) -> None:
    """Why samples have no features, a line for each reason, the commonest first."""
    for reason in reasons[:REASONS_SHOWN]:
        why = f" ({reason['why']})" if reason["why"] else ""
        console.say(f"  {reason['samples']:,} {reason['status']}{why}, such as {reason['first']}")
    if len(reasons) > REASONS_SHOWN:
        console.say(f"  and {len(reasons) - REASONS_SHOWN} more reasons; --json lists them")
