"""`unialign extract ...`: stage one."""

from pathlib import Path
from typing import Annotated

import typer

from unialign.commands.extraction import (
    Cluster,
    Codec,
    Device,
    DryRun,
    Repair,
    Retry,
    ShardSamples,
    Threads,
    Timeout,
    Weights,
    execution,
    run,
)
from unialign.commands.extractor_plugins import WithPlugins
from unialign.commands.options import AsJson, Cache, ConfigFile, DatasetName, Labels, Overrides, Root, resolve

app = typer.Typer(
    cls=WithPlugins, no_args_is_help=True, help="Stage one: extract a modality of a dataset into the cache."
)


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
    timeout: Timeout = None,
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
        **execution(cluster, threads, timeout, shard_samples, codec, device),
    )
    run("poses", resolved, repair=repair, retry=retry, dry_run=dry_run, as_json=as_json)


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
    timeout: Timeout = None,
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
        **execution(cluster, threads, timeout, shard_samples, codec, device),
    )
    run("pose-features", resolved, repair=repair, retry=retry, dry_run=dry_run, as_json=as_json)


@app.command("text", epilog="Example: unialign extract text --dataset ntu60 --encoder minilm --templates action")
def text(
    dataset: DatasetName = None,
    root: Root = None,
    cache: Cache = None,
    labels: Labels = None,
    encoder: Annotated[
        str | None, typer.Option(help="minilm (embedded), openclip, sentence, or that of a plug-in.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="Network of the encoder, such as ViT-B-16:openai.")] = None,
    weights: Weights = None,
    templates: Annotated[str | None, typer.Option(help="Built-in set (plain, action) or a file, one a line.")] = None,
    descriptions: Annotated[
        Path | None, typer.Option(help="File with one longer text a class, in label order.")
    ] = None,
    entities: Annotated[
        Path | None,
        typer.Option("--entities", help="File of ALT's entities, see `unialign corpus`; rows of their own."),
    ] = None,
    long_text: Annotated[str | None, typer.Option("--long-text", help="error, or windows: pooled in pieces.")] = None,
    timeout: Timeout = None,
    codec: Codec = None,
    device: Device = None,
    repair: Repair = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
    config: ConfigFile = None,
    overrides: Overrides = None,
) -> None:
    """Embeddings of class names in prompt templates, of longer descriptions, and of entities."""
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
        extract__text__entities=entities,
        extract__text__long_text=long_text,
        **execution(None, None, timeout, None, codec, device),
    )
    run("text", resolved, repair=repair, retry=False, dry_run=dry_run, as_json=as_json)


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
    timeout: Timeout = None,
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
        **execution(cluster, None, timeout, shard_samples, codec, None),
    )
    run("frames", resolved, repair=repair, retry=retry, dry_run=dry_run, as_json=as_json)


@app.command(
    "tokens",
    epilog="Example: unialign extract tokens --dataset ntu60 --model ViT-B-16-quickgelu:openai --num-frames 8",
)
def tokens(
    dataset: DatasetName = None,
    root: Root = None,
    cache: Cache = None,
    labels: Labels = None,
    model: Annotated[str | None, typer.Option(help="OpenCLIP network, such as ViT-B-16-quickgelu:openai.")] = None,
    weights: Weights = None,
    frames: Annotated[str | None, typer.Option(help="Which store of frames, when there are several.")] = None,
    num_frames: Annotated[int | None, typer.Option("--num-frames", help="Frames of a clip.")] = None,
    num_offsets: Annotated[int | None, typer.Option("--num-offsets", help="Temporal offsets of a clip.")] = None,
    projection: Annotated[str | None, typer.Option(help="clip, or none (for train.alt.projection=linear).")] = None,
    cluster: Cluster = None,
    threads: Threads = None,
    timeout: Timeout = None,
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
    """Tokens of cached frames by a CLIP image tower that merges alike patches, for ALT with a frozen tower."""
    resolved = resolve(
        config,
        overrides,
        dataset=dataset,
        data=root,
        cache=cache,
        labels=labels,
        extract__tokens__model=model,
        extract__tokens__weights=weights,
        extract__tokens__frames=frames,
        extract__tokens__num_frames=num_frames,
        extract__tokens__num_offsets=num_offsets,
        extract__tokens__projection=projection,
        **execution(cluster, threads, timeout, shard_samples, codec, device),
    )
    run("tokens", resolved, repair=repair, retry=retry, dry_run=dry_run, as_json=as_json)
