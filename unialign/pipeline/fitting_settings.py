"""Settings that fit a dataset and a machine, as lines of unialign.yaml, each with its reason.

Where they come from: the sizes and schedule of small backbones are those of the demo and of docs/real_clips.md (60
training clips, trained from scratch); larger sets take the defaults, which are ART's (50 epochs of a ResNet-50).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from unialign.pipeline.first_look import FirstLook

# Training clips below which a backbone without pretrained weights learns nothing but a few shapes: a tiny one is used.
FEW_CLIPS, SOME_CLIPS = 500, 5000
STEPS, FEWEST_EPOCHS, MOST_EPOCHS = 400, 20, 100
POSE_SIDE, LEAST_POSE_SIDE = 640, 256
STORED_FRAMES = 32
# A shard of few clips is soon done; many of them would be many small files.
FEW_FOR_SHARDS, FEW_IN_SHARD = 200, 4
# With so few clips, one that cannot be decoded is more than the share that may be missing.
FEW_FOR_COVERAGE, MIN_COVERAGE = 100, 0.8


@dataclass(frozen=True)
class Line:
    """One setting: its dotted key, its value, why it has it; off: only proposed, as a comment."""

    key: str
    value: Any
    why: str
    off: bool = False


def fitting_settings(look: FirstLook, *, weights: str | None, gpu: bool) -> list[Line]:
    """The settings that should differ from the defaults. weights: of a pose network, if one was found."""
    lines = list(_stage_one(look, weights)) + list(_stage_two(look, gpu=gpu))
    if look.samples < FEW_FOR_SHARDS and look.videos:
        why = "clips that are stored at a time, and lost if the extraction is stopped in between"
        lines.append(Line("extract.shard_samples", FEW_IN_SHARD, why))
    if look.train + look.test < FEW_FOR_COVERAGE and look.videos:
        why = "so few clips: one that cannot be read is more than the 5 % that may be missing by default"
        lines.append(Line("train.min_coverage", MIN_COVERAGE, why))
    return lines


def _stage_one(look: FirstLook, weights: str | None) -> Iterator[Line]:
    if not look.videos:
        yield Line("extract.poses.source", "skeleton", "there are skeletons and no videos")
        return
    why = "an Ultralytics pose network (AGPL-3.0); loading one can run code: use only files you trust"
    yield Line("extract.poses.weights", weights or "yolo11n-pose.pt", why, off=weights is None)
    side = max(LEAST_POSE_SIDE, -(-look.long_side // 32) * 32)
    if look.long_side and side < POSE_SIDE:
        why = f"the clips are {look.long_side} pixels wide: a larger input of the network shows nothing more"
        yield Line("extract.poses.image_size", side, why)
    most = _usual_people(look)
    if most > 2:
        yield Line("extract.poses.num_people", most, "so many people are seen in a tenth of the clips or more")
    if 0 < look.frames < STORED_FRAMES:
        yield Line("extract.frames.num_frames", look.frames, "the clips have no more frames")


def _usual_people(look: FirstLook) -> int:
    """The most people that a tenth of the clips that were looked at have, or more; passers-by in a few do not count."""
    clips = sum(look.people.values())
    return max((number for number in look.people if _at_least(look, number) >= max(1, clips / 10)), default=0)


def _at_least(look: FirstLook, number: int) -> int:
    return sum(count for people, count in look.people.items() if people >= number)


def _stage_two(look: FirstLook, *, gpu: bool) -> Iterator[Line]:
    if not look.videos:
        yield Line("train.model", "skeleton", "reads poses alone; its size and epochs follow from the number of clips")
        return
    if look.train < FEW_CLIPS and not gpu:
        yield Line("extract.frames.short_side", 80, "a bit more than the backbone sees")
        tiny = f"{look.train:,} training clips without a GPU: a tiny backbone, which learns from scratch in minutes"
        yield Line("train.unialign.backbone", "tsm-tiny-difference", tiny)
        yield Line("train.unialign.image_size", 64, "its input")
        yield Line("train.unialign.num_frames", min(8, look.frames or 8), "of a clip, evenly spaced")
        yield Line("train.unialign.width", 128, "of what modalities are compared in")
    elif look.train < SOME_CLIPS or not gpu:
        yield Line("extract.frames.short_side", 128, "a bit more than the backbone sees")
        yield Line("train.unialign.backbone", "tsm-resnet18", f"{look.train:,} training clips")
        yield Line("train.unialign.image_size", 112, "its input")
        yield Line("train.unialign.num_frames", min(8, look.frames or 8), "of a clip, evenly spaced")
        hub = "published weights are worth more than any other setting; fetches them once, needs a network"
        yield Line("train.backbone_weights", "hub", hub, off=True)
    if look.train < SOME_CLIPS:
        yield Line("train.unialign.dropout", 0.2, "few clips: the default of 0.5 leaves too little to learn from")
        yield Line("train.unialign.momentum", 0.99, "few steps: the text bank has to move sooner")
        yield from _schedule(look.train)


def _schedule(train: int) -> Iterator[Line]:
    batch = 8 if train < FEW_CLIPS else 24
    epochs = max(FEWEST_EPOCHS, min(MOST_EPOCHS, round(STEPS * batch / max(1, train))))
    yield Line("train.settings.batch_size", min(batch, max(2, train)), "clips of a step")
    yield Line("train.settings.epochs", epochs, f"about {max(1, train // batch) * epochs:,} steps")
    yield Line("train.settings.optimizer", "adamw", "with the next three: learns faster than sgd in so few steps")
    yield Line("train.settings.lr", 0.003 if train < FEW_CLIPS else 0.001, "")
    yield Line("train.settings.schedule", "cosine", "")
    yield Line("train.settings.weight_decay", 0.05, "")
    yield Line("train.settings.crop_scale", [0.8, 1.0], "people stay in the picture")


def as_yaml(lines: Sequence[Line], *, indent: int = 2) -> str:
    """The lines as nested YAML, with their reasons as comments behind them; proposals are comments altogether."""
    text: list[str] = []
    open_sections: tuple[str, ...] = ()
    width = max((len(_pair(line, indent)) for line in lines), default=0)
    for line in _together(lines):
        *sections, _ = line.key.split(".")
        shared = 0
        while shared < min(len(sections), len(open_sections)) and sections[shared] == open_sections[shared]:
            shared += 1
        text += [f"{' ' * indent * depth}{sections[depth]}:" for depth in range(shared, len(sections))]
        open_sections = tuple(sections)
        pair = _pair(line, indent)
        text.append(f"{pair:<{width}}  # {line.why}" if line.why else pair)
    return "\n".join(text) + "\n"


def _together(lines: Sequence[Line]) -> list[Line]:
    """The lines with those of a section one after the other, in the order in which sections come first."""
    first: dict[tuple[str, ...], int] = {}
    for number, line in enumerate(lines):
        parts = line.key.split(".")
        for depth in range(len(parts) + 1):
            first.setdefault(tuple(parts[:depth]), number)

    def place(line: Line) -> tuple[tuple[int, int], ...]:
        parts = line.key.split(".")
        # Values of a section before its subsections, so that none has to be opened twice.
        return tuple((int(depth < len(parts)), first[tuple(parts[:depth])]) for depth in range(1, len(parts) + 1))

    return sorted(lines, key=place)


def _pair(line: Line, indent: int) -> str:
    *sections, name = line.key.split(".")
    value = yaml.safe_dump(line.value, default_flow_style=True).removesuffix("\n...\n").strip()
    return f"{' ' * indent * len(sections)}{'# ' if line.off else ''}{name}: {value}"
