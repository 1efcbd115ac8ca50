"""What the commands of `unialign extract` share: their options, and the extraction itself."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from unialign import console
from unialign.commands.options import setting
from unialign.types import Json

if TYPE_CHECKING:
    from unialign.pipeline.config import Config

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
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say what there is to do.")]

REASONS_SHOWN = 10


def execution(
    cluster: str | None,
    threads: int | None,
    timeout: float | None,
    shard_samples: int | None,
    codec: str | None,
    device: str | None,
) -> dict[str, Any]:
    """The flags of how an extraction runs, by the names of their configuration."""
    return {
        "extract__cluster": cluster,
        "extract__threads": threads,
        "extract__timeout": timeout,
        "extract__shard_samples": shard_samples,
        "extract__codec": codec,
        "extract__device": device,
    }


def run(
    name: str, config: "Config", *, repair: bool, retry: bool, dry_run: bool, as_json: bool, join: bool = False
) -> None:
    """Run an extractor as configured and say what was done; exit code 3 with quarantined samples."""
    from unialign.pipeline.datasets import rooted_dataset
    from unialign.pipeline.extraction.extractors import extract_configured, get_row
    from unialign.stages.datasets.facts import dataset_facts, shown_facts

    dataset = rooted_dataset(config)
    if config.protocol:
        # A name that does not exist is said now, not when training begins.
        dataset.split(config.protocol)
    facts = dataset_facts(dataset)
    if not as_json and not console.is_quiet():
        console.show_fields(shown_facts(facts))
    with console.progress_bar(f"extract {name}", hidden=as_json) as progress:
        done = extract_configured(
            name,
            dataset,
            config,
            repair=repair,
            retry=retry,
            join=join,
            dry_run=dry_run,
            progress=progress,
            announce=console.say,
        )
    told = get_row(name).told
    work = f"{done.attempted:,} to do" if dry_run else f"{done.extracted:,} extracted"
    if as_json:
        console.show_json({**done.result(), "dataset": facts})
    else:
        quarantined = ", ".join(f"{count} {status}" for status, count in done.quarantined.items()) or "none"
        console.show_result(
            f"{done.store}: {work}, {done.reused:,} reused, quarantined: {quarantined}",
            {
                "modality": done.modality,
                "store": done.store,
                "samples": f"{done.total:,} of {dataset.name}: {work}, {done.reused:,} reused",
                "quarantined": quarantined,
                "seconds": f"{done.seconds:.1f}",
                **(told(done, dataset.classes) if told and not dry_run and not console.is_quiet() else {}),
            },
        )
        show_reasons(done.reasons)
    if done.quarantined:
        raise typer.Exit(3)


def show_reasons(reasons: Sequence[Mapping[str, Json]]) -> None:
    """Why samples have no features, a line for each reason, the commonest first."""
    for reason in reasons[:REASONS_SHOWN]:
        why = f" ({reason['why']})" if reason["why"] else ""
        console.say(f"  {reason['samples']:,} {reason['status']}{why}, such as {reason['first']}")
    if len(reasons) > REASONS_SHOWN:
        console.say(f"  and {len(reasons) - REASONS_SHOWN} more reasons; --json lists them")
