"""Skeleton encoders: loading them from a file, and computing features of clips.

Three kinds of file are read: the checkpoints of encoders trained here, the public Shift-GCN weights for NTU RGB+D, and
the checkpoints of PYSKL and of EfficientGCN (`published_encoders`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from unialign.errors import CorruptInput, UsageError
from unialign.stages.extraction.pose_clips import PoseClip, Shape
from unialign.stages.extraction.pose_recipes import RECIPES, recipe_of
from unialign.stages.extraction.published_encoders import AS_NAMED, Reading, is_published, published_encoder
from unialign.stages.foreign_weights import load_foreign_weights
from unialign.stages.models.skeleton.encoders import ENCODERS
from unialign.stages.models.skeleton.motion import FRAMES_PER_TOKEN, MotionStatistics
from unialign.stages.skeleton_layouts import LAYOUTS, NTU_25, Layout, layout_from

FIELDS = ("model", "config", "layout", "recipe", "clip_len", "classes", "protocol", "dataset", "state_dict")
NUM_PERSONS = 2
SHIFT_GCN_FRAMES = 300
# The encoder without weights, and the frames of its clips.
MOTION, MOTION_FRAMES = "motion", 32


@dataclass(frozen=True)
class Encoder:
    """A network with its weights and the requirements on its input.

    network: maps keypoints (N, P, S, V, C) and a mask (N, P) to tokens, feature and logits.
    recipe: the entry of `pose_recipes.RECIPES` that makes its clips.
    clip_len: frames of the clips that it was trained with.
    reading: how clips are made, where not the file itself but its name says so; else None.
    num_persons: slots of a clip. frames_per_token: how many frames of a clip a token stands for.
    classes: the meaning of its logits; empty if the file does not say.
    protocol, dataset: what it was trained on; "" if the file does not say. An encoder trained on a class must not be
        used in a zero-shot protocol that counts the class as unseen.
    """

    name: str
    network: nn.Module
    config: Mapping[str, Any]
    layout: Layout
    recipe: str
    clip_len: int
    width: int
    classes: tuple[str, ...] = ()
    protocol: str = ""
    dataset: str = ""
    reading: Reading | None = None
    num_persons: int = NUM_PERSONS
    frames_per_token: int = 4

    def shape(self, clip_len: int | None = None) -> Shape:
        """Frames and person slots of a clip of this length, or of the length that it was trained with."""
        return Shape(clip_len or self.clip_len, self.num_persons)

    def num_tokens(self, clip_len: int | None = None) -> int:
        """Tokens per clip, the last of which may stand for fewer frames."""
        return -(-(clip_len or self.clip_len) // self.frames_per_token)


def load_encoder(path: Path, asked: Reading = AS_NAMED) -> Encoder:
    """The encoder of a checkpoint or of a public state dict, on the CPU and in evaluation mode.

    asked: how clips are made for a checkpoint of PYSKL, where its path does not say or is wrong. Raises `UsageError` if
    there is no such file, or for `asked` with any other, and `CorruptInput` if it is something else.
    """
    if not path.is_file():
        raise UsageError(f"{path}: no such file; name the weights of a skeleton encoder.")
    content = load_foreign_weights(path, "a skeleton encoder")
    if is_published(content):
        return _published(path, content, asked)
    if asked != Reading(clip_len=asked.clip_len):
        raise UsageError(f"{path} says itself how its clips are made; leave out `--stream`, `--layout` and `--recipe`.")
    if "l1.gcn1.Linear_weight" in content:
        return _public_shift_gcn(path, content)
    return _own_checkpoint(path, content)


def motion_encoder(layout: Layout, coordinates: Sequence[str]) -> Encoder:
    """The encoder without weights, for poses with these joints and coordinates; nothing was ever trained on a class."""
    recipe = recipe_of(layout, coordinates, "body")
    network = MotionStatistics(layout=layout, coordinates=2 if recipe == "body-2d" else 3, num_persons=NUM_PERSONS)
    return Encoder(
        name=MOTION,
        network=network,
        config={},
        layout=layout,
        recipe=recipe,
        clip_len=MOTION_FRAMES,
        width=network.width,
        frames_per_token=FRAMES_PER_TOKEN,
    )


def encode(encoder: Encoder, clips: Sequence[PoseClip], batch_size: int) -> dict[str, np.ndarray]:
    """Tokens (clips, T', D) and feature (clips, D) in float32, on the device of the network.

    Every call of the network gets exactly `batch_size` clips, the last one repeated to fill the batch, so that a clip's
    features do not depend on how many others are encoded at the same time.
    """
    # The encoder without weights computes on the CPU.
    device = next((weight.device for weight in encoder.network.parameters()), torch.device("cpu"))
    parts: dict[str, list[np.ndarray]] = {"tokens": [], "feature": []}
    for start in range(0, len(clips), batch_size):
        batch = list(clips[start : start + batch_size])
        padded = batch + batch[-1:] * (batch_size - len(batch))
        keypoints = torch.from_numpy(np.stack([clip.keypoints for clip in padded])).to(device)
        present = torch.from_numpy(np.stack([clip.present for clip in padded])).to(device)
        # TensorFloat-32 and timing-based kernel selection would change a feature's last bits from run to run.
        exact = torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)
        with torch.inference_mode(), exact:
            output: dict[str, Tensor] = encoder.network(keypoints, present)
        for name, values in parts.items():
            values.append(output[name][: len(batch)].cpu().numpy())
    return {name: np.concatenate(values) for name, values in parts.items()}


def _published(path: Path, content: Mapping[str, Any], asked: Reading) -> Encoder:
    found = published_encoder(path, content, asked)
    network = _filled(path, found.network, found.config, found.state)
    if found.network == "efficientgcn":
        frames_per_token = network.frames_per_token
    else:
        frames_per_token = 2 ** (1 if found.network == "posec3d" else len(network.form.wider))
    return Encoder(
        name=found.network,
        network=network,
        config=found.config,
        layout=LAYOUTS[found.reading.layout],
        recipe=found.recipe,
        clip_len=found.reading.clip_len,
        width=network.width,
        protocol=found.protocol,
        dataset=found.dataset,
        reading=found.reading,
        num_persons=found.num_persons,
        frames_per_token=frames_per_token,
    )


def _public_shift_gcn(path: Path, content: Mapping[str, Any]) -> Encoder:
    classifier = content.get("fc.weight")
    if not isinstance(classifier, Tensor):
        raise CorruptInput(f"{path} looks like Shift-GCN, but has no classifier fc.weight; download it again.")
    config = {"num_classes": len(classifier)}
    network = _filled(path, "shift-gcn", config, content)
    return Encoder(
        name="shift-gcn",
        network=network,
        config=config,
        layout=NTU_25,
        recipe="agcn-3d",
        clip_len=SHIFT_GCN_FRAMES,
        width=network.width,
        # The file does not say cross-subject or cross-view; the number of classes identifies the dataset.
        dataset=f"ntu{len(classifier)}",
    )


def _own_checkpoint(path: Path, content: Mapping[str, Any]) -> Encoder:
    missing = [name for name in FIELDS if name not in content]
    if missing:
        raise CorruptInput(f"{path} is not a skeleton encoder: it lacks {', '.join(missing)}.")
    for field, known in (("model", ENCODERS), ("layout", LAYOUTS), ("recipe", RECIPES)):
        if not (field == "layout" and isinstance(content[field], Mapping)) and content[field] not in known:
            raise CorruptInput(f"{path} names the {field} {content[field]!r}; known are {', '.join(known)}.")
    try:
        layout = layout_from(content["layout"], str(path))
    except UsageError as error:
        raise CorruptInput(str(error)) from error
    network = _filled(path, content["model"], content["config"], content["state_dict"])
    return Encoder(
        name=content["model"],
        network=network,
        config=dict(content["config"]),
        layout=layout,
        recipe=content["recipe"],
        clip_len=int(content["clip_len"]),
        width=network.width,
        classes=tuple(content["classes"]),
        protocol=content["protocol"],
        dataset=content["dataset"],
    )


def _filled(path: Path, name: str, config: Mapping[str, Any], state: Mapping[str, Tensor]) -> Any:
    try:
        network = ENCODERS[name](**config)
        network.load_state_dict(state, strict=True)
    except (TypeError, ValueError, KeyError, AttributeError, RuntimeError, UsageError) as error:
        reason = " ".join(str(error).split())[:300]
        raise CorruptInput(f"{path}: its weights do not fit the network {name}: {reason}") from error
    return network.eval()
