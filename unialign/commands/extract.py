"""`unialign extract ...`: stage one."""

from pathlib import Path
from typing import Annotated

import typer

from unialign.commands.extraction import (
    Cluster,
    Codec,
    Device,
    DryRun,
    Join,
    Repair,
    Retry,
    ShardSamples,
    Threads,
    Timeout,
    WorkersPerGpu,
    execution,
    run,
    run_all,
)
from unialign.commands.extractor_plugins import WithPlugins
from unialign.commands.options import (
    AsJson,
    Cache,
    Command,
    ConfigFile,
    DatasetName,
    Labels,
    Overrides,
    Quiet,
    Root,
    Verbose,
    resolve,
    setting,
)

app = typer.Typer(
    cls=WithPlugins,
    no_args_is_help=True,
    help="Extract a modality of a dataset into the cache (stage one).",
    epilog="Example: unialign extract poses --dataset folder --root clips --weights yolo11n-pose.pt",
)


@app.command(
    "poses",
    cls=Command,
    epilog="Example: unialign extract poses --dataset folder --root clips --weights yolo11n-pose.pt",
)
def poses(
    dataset: DatasetName = None,
    root: Root = None,
    cache: Cache = None,
    labels: Labels = None,
    weights: Annotated[Path | None, setting("extract.poses.weights")] = None,
    detector: Annotated[Path | None, setting("extract.poses.detector")] = None,
    layout: Annotated[str | None, setting("extract.poses.layout")] = None,
    source: Annotated[str | None, setting("extract.poses.source")] = None,
    pickle: Annotated[Path | None, setting("extract.poses.pickle")] = None,
    confidence: Annotated[float | None, setting("extract.poses.confidence")] = None,
    num_people: Annotated[int | None, setting("extract.poses.num_people")] = None,
    image_size: Annotated[int | None, setting("extract.poses.image_size")] = None,
    body_rule: Annotated[str | None, setting("extract.poses.body_rule")] = None,
    backend: Annotated[str | None, setting("extract.poses.backend")] = None,
    precision: Annotated[str | None, setting("extract.poses.precision")] = None,
    cluster: Cluster = None,
    workers_per_gpu: WorkersPerGpu = None,
    threads: Threads = None,
    timeout: Timeout = None,
    shard_samples: ShardSamples = None,
    codec: Codec = None,
    device: Device = None,
    repair: Repair = False,
    retry: Retry = False,
    join: Join = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    config: ConfigFile = None,
    overrides: Overrides = None,
) -> None:
    """Extract keypoints of people.

    They come from a network on the videos, Ultralytics' (AGPL-3.0) or RTMO and RTMPose (Apache-2.0), or from existing
    skeleton files.
    """
    resolved = resolve(
        config,
        overrides,
        dataset=dataset,
        data=root,
        cache=cache,
        labels=labels,
        extract__poses__weights=weights,
        extract__poses__detector=detector,
        extract__poses__layout=layout,
        extract__poses__source=source,
        extract__poses__pickle=pickle,
        extract__poses__confidence=confidence,
        extract__poses__num_people=num_people,
        extract__poses__image_size=image_size,
        extract__poses__body_rule=body_rule,
        extract__poses__backend=backend,
        extract__poses__precision=precision,
        **execution(cluster, threads, timeout, shard_samples, codec, device, workers_per_gpu),
    )
    run("poses", resolved, repair=repair, retry=retry, join=join, dry_run=dry_run, as_json=as_json)


@app.command(
    "pose-features",
    cls=Command,
    epilog="Example: unialign extract pose-features --dataset ntu60 --weights shift_gcn.pt",
)
def pose_features(
    dataset: DatasetName = None,
    root: Root = None,
    cache: Cache = None,
    labels: Labels = None,
    weights: Annotated[Path | None, setting("extract.pose_features.weights")] = None,
    poses: Annotated[str | None, setting("extract.pose_features.poses")] = None,
    stream: Annotated[str | None, setting("extract.pose_features.stream")] = None,
    layout: Annotated[str | None, setting("extract.pose_features.layout")] = None,
    recipe: Annotated[str | None, setting("extract.pose_features.recipe")] = None,
    clip_len: Annotated[int | None, setting("extract.pose_features.clip_len")] = None,
    cluster: Cluster = None,
    workers_per_gpu: WorkersPerGpu = None,
    threads: Threads = None,
    timeout: Timeout = None,
    shard_samples: ShardSamples = None,
    codec: Codec = None,
    device: Device = None,
    repair: Repair = False,
    retry: Retry = False,
    join: Join = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    config: ConfigFile = None,
    overrides: Overrides = None,
) -> None:
    """Extract features of cached poses with a skeleton network.

    Each clip has views: temporal offsets, mirrored or not.
    """
    resolved = resolve(
        config,
        overrides,
        dataset=dataset,
        data=root,
        cache=cache,
        labels=labels,
        extract__pose_features__weights=weights,
        extract__pose_features__poses=poses,
        extract__pose_features__stream=stream,
        extract__pose_features__layout=layout,
        extract__pose_features__recipe=recipe,
        extract__pose_features__clip_len=clip_len,
        **execution(cluster, threads, timeout, shard_samples, codec, device, workers_per_gpu),
    )
    run("pose-features", resolved, repair=repair, retry=retry, join=join, dry_run=dry_run, as_json=as_json)


@app.command(
    "text", cls=Command, epilog="Example: unialign extract text --dataset ntu60 --encoder minilm --templates action"
)
def text(
    dataset: DatasetName = None,
    root: Root = None,
    cache: Cache = None,
    labels: Labels = None,
    encoder: Annotated[str | None, setting("extract.text.encoder")] = None,
    model: Annotated[str | None, setting("extract.text.model")] = None,
    weights: Annotated[Path | None, setting("extract.text.weights")] = None,
    templates: Annotated[str | None, setting("extract.text.templates")] = None,
    descriptions: Annotated[Path | None, setting("extract.text.descriptions")] = None,
    entities: Annotated[Path | None, setting("extract.text.entities")] = None,
    long_text: Annotated[str | None, setting("extract.text.long_text")] = None,
    timeout: Timeout = None,
    codec: Codec = None,
    device: Device = None,
    repair: Repair = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    config: ConfigFile = None,
    overrides: Overrides = None,
) -> None:
    """Embed class names with a text encoder.

    Rows are class names in prompt templates, longer descriptions, and entities.
    """
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


@app.command(
    "frames", cls=Command, epilog="Example: unialign extract frames --dataset ntu60 --short-side 256 --num-frames 32"
)
def frames(
    dataset: DatasetName = None,
    root: Root = None,
    cache: Cache = None,
    labels: Labels = None,
    short_side: Annotated[int | None, setting("extract.frames.short_side")] = None,
    num_frames: Annotated[int | None, setting("extract.frames.num_frames")] = None,
    encoding: Annotated[str | None, setting("extract.frames.encoding")] = None,
    quality: Annotated[int | None, setting("extract.frames.quality")] = None,
    cluster: Cluster = None,
    timeout: Timeout = None,
    shard_samples: ShardSamples = None,
    codec: Codec = None,
    repair: Repair = False,
    retry: Retry = False,
    join: Join = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    config: ConfigFile = None,
    overrides: Overrides = None,
) -> None:
    """Extract decoded, resized frames.

    A video backbone then trains without decoding video again.
    """
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
    run("frames", resolved, repair=repair, retry=retry, join=join, dry_run=dry_run, as_json=as_json)


@app.command(
    "tokens",
    cls=Command,
    epilog="Example: unialign extract tokens --dataset ntu60 --model ViT-B-16-quickgelu:openai --num-frames 8",
)
def tokens(
    dataset: DatasetName = None,
    root: Root = None,
    cache: Cache = None,
    labels: Labels = None,
    model: Annotated[str | None, setting("extract.tokens.model")] = None,
    weights: Annotated[Path | None, setting("extract.tokens.weights")] = None,
    frames: Annotated[str | None, setting("extract.tokens.frames")] = None,
    num_frames: Annotated[int | None, setting("extract.tokens.num_frames")] = None,
    num_offsets: Annotated[int | None, setting("extract.tokens.num_offsets")] = None,
    projection: Annotated[str | None, setting("extract.tokens.projection")] = None,
    cluster: Cluster = None,
    workers_per_gpu: WorkersPerGpu = None,
    threads: Threads = None,
    timeout: Timeout = None,
    shard_samples: ShardSamples = None,
    codec: Codec = None,
    device: Device = None,
    repair: Repair = False,
    retry: Retry = False,
    join: Join = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    config: ConfigFile = None,
    overrides: Overrides = None,
) -> None:
    """Extract tokens of cached frames with a CLIP image tower.

    The tower merges similar patches; ALT trains on the tokens with the tower frozen.
    """
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
        **execution(cluster, threads, timeout, shard_samples, codec, device, workers_per_gpu),
    )
    run("tokens", resolved, repair=repair, retry=retry, join=join, dry_run=dry_run, as_json=as_json)


@app.command(
    "all",
    cls=Command,
    epilog="Example: unialign extract all --dataset folder --root clips --weights yolo11n-pose.pt",
)
def everything(
    dataset: DatasetName = None,
    root: Root = None,
    cache: Cache = None,
    labels: Labels = None,
    weights: Annotated[Path | None, setting("extract.poses.weights")] = None,
    cluster: Cluster = None,
    workers_per_gpu: WorkersPerGpu = None,
    threads: Threads = None,
    timeout: Timeout = None,
    codec: Codec = None,
    device: Device = None,
    repair: Repair = False,
    retry: Retry = False,
    join: Join = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    config: ConfigFile = None,
    overrides: Overrides = None,
) -> None:
    """Extract every modality that is configured.

    Poses and frames of the same videos are extracted together, so that each clip is decoded once. Then follow text, and
    pose features and tokens if their weights are configured. On a cluster and with --join, one follows the other.
    """
    resolved = resolve(
        config,
        overrides,
        dataset=dataset,
        data=root,
        cache=cache,
        labels=labels,
        extract__poses__weights=weights,
        **execution(cluster, threads, timeout, None, codec, device, workers_per_gpu),
    )
    run_all(resolved, repair=repair, retry=retry, join=join, dry_run=dry_run, as_json=as_json)
