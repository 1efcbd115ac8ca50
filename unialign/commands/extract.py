"""`unialign extract ...`: stage one."""

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from unialign import console
from unialign.commands.options import (
    AsJson,
    Cache,
    ConfigFile,
    DatasetName,
    Labels,
    Overrides,
    Root,
    find_dataset,
    resolve,
)
from unialign.pipeline.config import Config

app = typer.Typer(no_args_is_help=True, help="Stage one: extract a modality of a dataset into the cache.")

Cluster = Annotated[
    str | None, typer.Option("--cluster", help="local:N for N workers here, or a Dask scheduler's address.")
]
Threads = Annotated[
    int | None, typer.Option("--threads", help="Threads of the networks in each worker (0: all cores).")
]
ShardSamples = Annotated[int | None, typer.Option("--shard-samples", help="Samples in a shard of a new store.")]
Codec = Annotated[
    str | None,
    typer.Option("--codec", help="How a new store keeps its chunks: none, or zstd or blosc, meant for remote stores."),
]
Device = Annotated[str | None, typer.Option("--device", help="auto, cpu, cuda, cuda:1.")]
Repair = Annotated[bool, typer.Option("--repair", help="Extract damaged shards again.")]
Retry = Annotated[bool, typer.Option("--retry", help="Try quarantined samples again.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what there is to do, and stop.")]
Weights = Annotated[Path | None, typer.Option("--weights", help="Weights file of the network.")]

FAILED_SHOWN = 10


@app.command(
    "poses",
    epilog="Example: unialign extract poses --dataset folder --root clips --weights yolo11n-pose.pt",
)
def poses(
    dataset: DatasetName = None,
    root: Root = None,
    cache: Cache = None,
    labels: Labels = None,
    weights: Weights = None,
    source: Annotated[str | None, typer.Option(help="video (a pose network) or skeleton (ready-made files).")] = None,
    pickle: Annotated[Path | None, typer.Option(help="A pyskl pickle, for --source skeleton.")] = None,
    confidence: Annotated[float | None, typer.Option(help="Least score of a detected person.")] = None,
    num_people: Annotated[int | None, typer.Option("--num-people", help="People kept in each clip.")] = None,
    image_size: Annotated[int | None, typer.Option("--image-size", help="Side of the network's input.")] = None,
    cluster: Cluster = None,
    threads: Threads = None,
    shard_samples: ShardSamples = None,
    codec: Codec = None,
    device: Device = None,
    repair: Repair = False,
    retry: Retry = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
    config: ConfigFile = None,
    overrides: Overrides = None,
) -> None:
    """Keypoints of people: an Ultralytics network on the videos (AGPL-3.0), or ready-made skeletons."""
    resolved = resolve(
        config,
        overrides,
        dataset=dataset,
        data=root,
        cache=cache,
        labels=labels,
        extract__poses__weights=weights,
        extract__poses__source=source,
        extract__poses__pickle=pickle,
        extract__poses__confidence=confidence,
        extract__poses__num_people=num_people,
        extract__poses__image_size=image_size,
        **_execution(cluster, threads, shard_samples, codec, device),
    )
    _run("poses", resolved, repair=repair, retry=retry, dry_run=dry_run, as_json=as_json)


@app.command("pose-features", epilog="Example: unialign extract pose-features --dataset ntu60 --weights shift_gcn.pt")
def pose_features(
    dataset: DatasetName = None,
    root: Root = None,
    cache: Cache = None,
    labels: Labels = None,
    weights: Weights = None,
    poses: Annotated[str | None, typer.Option(help="Which store of poses, when there are several.")] = None,
    cluster: Cluster = None,
    threads: Threads = None,
    shard_samples: ShardSamples = None,
    codec: Codec = None,
    device: Device = None,
    repair: Repair = False,
    retry: Retry = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
    config: ConfigFile = None,
    overrides: Overrides = None,
) -> None:
    """Features of a skeleton network on cached poses, over a grid of temporal offsets and flips."""
    resolved = resolve(
        config,
        overrides,
        dataset=dataset,
        data=root,
        cache=cache,
        labels=labels,
        extract__pose_features__weights=weights,
        extract__pose_features__poses=poses,
        **_execution(cluster, threads, shard_samples, codec, device),
    )
    _run("pose-features", resolved, repair=repair, retry=retry, dry_run=dry_run, as_json=as_json)


@app.command("text", epilog="Example: unialign extract text --dataset ntu60 --encoder minilm --templates action")
def text(
    dataset: DatasetName = None,
    root: Root = None,
    cache: Cache = None,
    labels: Labels = None,
    encoder: Annotated[str | None, typer.Option(help="minilm (embedded), openclip or sentence.")] = None,
    model: Annotated[str | None, typer.Option(help="Network of the encoder, such as ViT-B-16:openai.")] = None,
    weights: Weights = None,
    templates: Annotated[str | None, typer.Option(help="Built-in set (plain, action) or a file, one a line.")] = None,
    descriptions: Annotated[
        Path | None, typer.Option(help="File with one longer text a class, in label order.")
    ] = None,
    long_text: Annotated[str | None, typer.Option("--long-text", help="error, or windows: pooled in pieces.")] = None,
    codec: Codec = None,
    device: Device = None,
    repair: Repair = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
    config: ConfigFile = None,
    overrides: Overrides = None,
) -> None:
    """Embeddings of class names in prompt templates, and of longer descriptions."""
    resolved = resolve(
        config,
        overrides,
        dataset=dataset,
        data=root,
        cache=cache,
        labels=labels,
        extract__text__encoder=encoder,
        extract__text__model=model,
        extract__text__weights=weights,
        extract__text__templates=templates,
        extract__text__descriptions=descriptions,
        extract__text__long_text=long_text,
        **_execution(None, None, None, codec, device),
    )
    _run("text", resolved, repair=repair, retry=False, dry_run=dry_run, as_json=as_json)


def _show_alike(store: Path, classes: tuple[str, ...]) -> None:
    from unialign.cache.reader import StoreReader
    from unialign.pipeline.text_bank import alike_classes

    found = alike_classes(StoreReader(store), classes, 3)
    alike = "; ".join(f"{first} / {second} {cosine:.2f}" for first, second, cosine in found)
    console.show_fields({"most alike": f"{alike} (cosine of the class texts)" if alike else "-"})


@app.command("frames", epilog="Example: unialign extract frames --dataset ntu60 --short-side 256 --num-frames 32")
def frames(
    dataset: DatasetName = None,
    root: Root = None,
    cache: Cache = None,
    labels: Labels = None,
    short_side: Annotated[
        int | None, typer.Option("--short-side", help="Shorter side of the pictures, pixels.")
    ] = None,
    num_frames: Annotated[int | None, typer.Option("--num-frames", help="Evenly spaced pictures of a clip.")] = None,
    encoding: Annotated[str | None, typer.Option(help="jpeg or rgb24.")] = None,
    quality: Annotated[int | None, typer.Option(help="JPEG quality.")] = None,
    cluster: Cluster = None,
    shard_samples: ShardSamples = None,
    codec: Codec = None,
    repair: Repair = False,
    retry: Retry = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
    config: ConfigFile = None,
    overrides: Overrides = None,
) -> None:
    """Decoded, resized pictures, so that a video backbone trains without decoding video again."""
    resolved = resolve(
        config,
        overrides,
        dataset=dataset,
        data=root,
        cache=cache,
        labels=labels,
        extract__frames__short_side=short_side,
        extract__frames__num_frames=num_frames,
        extract__frames__encoding=encoding,
        extract__frames__quality=quality,
        **_execution(cluster, None, shard_samples, codec, None),
    )
    _run("frames", resolved, repair=repair, retry=retry, dry_run=dry_run, as_json=as_json)


def _execution(
    cluster: str | None, threads: int | None, shard_samples: int | None, codec: str | None, device: str | None
) -> dict[str, Any]:
    return {
        "extract__cluster": cluster,
        "extract__threads": threads,
        "extract__shard_samples": shard_samples,
        "extract__codec": codec,
        "extract__device": device,
    }


def _run(modality: str, config: Config, *, repair: bool, retry: bool, dry_run: bool, as_json: bool) -> None:
    from unialign.pipeline.extract import Extraction, Settings, run_extraction
    from unialign.pipeline.extractors import SHARD_SAMPLES, prepare
    from unialign.pipeline.manifest import save_manifest

    dataset = find_dataset(config)
    workers = int(config.extract.cluster.partition(":")[2] or 1) if config.extract.cluster.startswith("local") else 1
    prepared = prepare(modality, dataset, config)
    settings = Settings(
        cluster=config.extract.cluster,
        threads=config.extract.threads or max(1, (os.cpu_count() or 1) // workers),
        shard_samples=config.extract.shard_samples or SHARD_SAMPLES[modality],
        codec=config.extract.codec,
        repair=repair,
        retry=retry,
        dry_run=dry_run,
    )
    with console.progress_bar(f"extract {modality}", hidden=as_json) as progress:
        done: Extraction = run_extraction(
            prepared.extractor,
            prepared.sources,
            cache=config.cache.resolve(),
            collection=dataset.collection,
            settings=settings,
            current=prepared.current,
            progress=progress,
        )
    if not dry_run:
        save_manifest(dataset, config.cache.resolve())
    work = f"{done.total - done.reused:,} to do" if dry_run else f"{done.extracted:,} extracted"
    if as_json:
        console.show_json(done.result())
    else:
        console.show_fields(
            {
                "modality": modality,
                "store": done.store,
                "samples": f"{done.total:,} of {dataset.name}: {work}, {done.reused:,} reused",
                "quarantined": ", ".join(f"{count} {status}" for status, count in done.quarantined.items()) or "none",
                "seconds": f"{done.seconds:.1f}",
            }
        )
        if modality == "text" and not dry_run:
            _show_alike(done.store, dataset.classes)
        for name, status, why in done.problems[:FAILED_SHOWN]:
            console.messages.print(f"  {name}: {status}{f' ({why})' if why else ''}", highlight=False, markup=False)
        if len(done.problems) > FAILED_SHOWN:
            console.messages.print(f"  and {len(done.problems) - FAILED_SHOWN} more")
    if done.quarantined:
        raise typer.Exit(3)
