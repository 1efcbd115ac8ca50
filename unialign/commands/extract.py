"""`unialign extract ...`: stage one."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from unialign.commands.extraction import (
    Cluster,
    Codec,
    Device,
    DryRun,
    Execution,
    Repair,
    ShardSamples,
    Timeout,
    Work,
    run,
    run_all,
)
from unialign.commands.extractor_plugins import WithPlugins
from unialign.commands.groups import Data, General, configured, grouped
from unialign.commands.options import Command, setting

app = typer.Typer(
    cls=WithPlugins,
    no_args_is_help=True,
    help="Extract a modality of a dataset into the cache (stage one).",
    epilog="Example: unialign extract poses --dataset folder --root clips --weights yolo11n-pose.pt",
)


@dataclass(frozen=True)
class Poses:
    """Settings of `extract poses`."""

    weights: Annotated[Path | None, setting("extract.poses.weights")] = None
    detector: Annotated[Path | None, setting("extract.poses.detector")] = None
    layout: Annotated[str | None, setting("extract.poses.layout")] = None
    source: Annotated[str | None, setting("extract.poses.source")] = None
    pickle: Annotated[Path | None, setting("extract.poses.pickle")] = None
    confidence: Annotated[float | None, setting("extract.poses.confidence")] = None
    num_people: Annotated[int | None, setting("extract.poses.num_people")] = None
    image_size: Annotated[int | None, setting("extract.poses.image_size")] = None
    body_rule: Annotated[str | None, setting("extract.poses.body_rule")] = None
    backend: Annotated[str | None, setting("extract.poses.backend")] = None
    precision: Annotated[str | None, setting("extract.poses.precision")] = None


@app.command(
    "poses",
    cls=Command,
    epilog="Example: unialign extract poses --dataset folder --root clips --weights yolo11n-pose.pt",
)
@grouped
def poses(data: Data, settings: Poses, execution: Execution, work: Work, general: General) -> None:
    """Extract keypoints of people.

    They come from a network on the videos, Ultralytics' (AGPL-3.0) or RTMO and RTMPose (Apache-2.0), or from existing
    skeleton files.
    """
    run("poses", configured(general, data, settings, execution), work, as_json=general.as_json)


@dataclass(frozen=True)
class PoseFeatures:
    """Settings of `extract pose-features`."""

    weights: Annotated[Path | None, setting("extract.pose_features.weights")] = None
    poses: Annotated[str | None, setting("extract.pose_features.poses")] = None
    stream: Annotated[str | None, setting("extract.pose_features.stream")] = None
    layout: Annotated[str | None, setting("extract.pose_features.layout")] = None
    recipe: Annotated[str | None, setting("extract.pose_features.recipe")] = None
    clip_len: Annotated[int | None, setting("extract.pose_features.clip_len")] = None


@app.command(
    "pose-features",
    cls=Command,
    epilog="Example: unialign extract pose-features --dataset ntu60 --weights shift_gcn.pt",
)
@grouped
def pose_features(data: Data, settings: PoseFeatures, execution: Execution, work: Work, general: General) -> None:
    """Extract features of cached poses with a skeleton network.

    Each clip has views: temporal offsets, mirrored or not.
    """
    run("pose-features", configured(general, data, settings, execution), work, as_json=general.as_json)


@dataclass(frozen=True)
class Text:
    """Settings of `extract text`."""

    encoder: Annotated[str | None, setting("extract.text.encoder")] = None
    model: Annotated[str | None, setting("extract.text.model")] = None
    weights: Annotated[Path | None, setting("extract.text.weights")] = None
    templates: Annotated[str | None, setting("extract.text.templates")] = None
    descriptions: Annotated[Path | None, setting("extract.text.descriptions")] = None
    entities: Annotated[Path | None, setting("extract.text.entities")] = None
    long_text: Annotated[str | None, setting("extract.text.long_text")] = None
    timeout: Timeout = None
    codec: Codec = None
    device: Device = None


@app.command(
    "text", cls=Command, epilog="Example: unialign extract text --dataset ntu60 --encoder minilm --templates action"
)
@grouped
def text(
    *,
    data: Data,
    settings: Text,
    repair: Repair = False,
    dry_run: DryRun = False,
    general: General,
) -> None:
    """Embed class names with a text encoder.

    Rows are class names in prompt templates, longer descriptions, and entities.
    """
    work = Work(repair=repair, dry_run=dry_run)
    run("text", configured(general, data, settings), work, as_json=general.as_json)


@dataclass(frozen=True)
class Frames:
    """Settings of `extract frames`."""

    short_side: Annotated[int | None, setting("extract.frames.short_side")] = None
    num_frames: Annotated[int | None, setting("extract.frames.num_frames")] = None
    encoding: Annotated[str | None, setting("extract.frames.encoding")] = None
    quality: Annotated[int | None, setting("extract.frames.quality")] = None
    cluster: Cluster = None
    timeout: Timeout = None
    shard_samples: ShardSamples = None
    codec: Codec = None


@app.command(
    "frames", cls=Command, epilog="Example: unialign extract frames --dataset ntu60 --short-side 256 --num-frames 32"
)
@grouped
def frames(data: Data, settings: Frames, work: Work, general: General) -> None:
    """Extract decoded, resized frames.

    A video backbone then trains without decoding video again.
    """
    run("frames", configured(general, data, settings), work, as_json=general.as_json)


@dataclass(frozen=True)
class Tokens:
    """Settings of `extract tokens`."""

    model: Annotated[str | None, setting("extract.tokens.model")] = None
    weights: Annotated[Path | None, setting("extract.tokens.weights")] = None
    frames: Annotated[str | None, setting("extract.tokens.frames")] = None
    num_frames: Annotated[int | None, setting("extract.tokens.num_frames")] = None
    num_offsets: Annotated[int | None, setting("extract.tokens.num_offsets")] = None
    projection: Annotated[str | None, setting("extract.tokens.projection")] = None


@app.command(
    "tokens",
    cls=Command,
    epilog="Example: unialign extract tokens --dataset ntu60 --model ViT-B-16-quickgelu:openai --num-frames 8",
)
@grouped
def tokens(data: Data, settings: Tokens, execution: Execution, work: Work, general: General) -> None:
    """Extract tokens of cached frames with a CLIP image tower.

    The tower merges similar patches; ALT trains on the tokens with the tower frozen.
    """
    run("tokens", configured(general, data, settings, execution), work, as_json=general.as_json)


@app.command(
    "all",
    cls=Command,
    epilog="Example: unialign extract all --dataset folder --root clips --weights yolo11n-pose.pt",
)
@grouped
def everything(
    *,
    data: Data,
    weights: Annotated[Path | None, setting("extract.poses.weights")] = None,
    execution: Execution,
    work: Work,
    general: General,
) -> None:
    """Extract every modality that is configured.

    Poses and frames of the same videos are extracted together, so that each clip is decoded once. Then follow text, and
    pose features and tokens if their weights are configured. On a cluster and with --join, one follows the other.
    """
    run_all(configured(general, data, execution, extract__poses__weights=weights), work, as_json=general.as_json)
