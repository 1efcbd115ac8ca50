"""Small training runs of every system from made caches, whose losses depend on nothing but the code.

80 steps each (20 epochs of 4, the last batch of an epoch smaller), float32, one thread, fixed seeds. Beside their
size, settings differ from the defaults for two reasons:

- Every term of a loss is there, and large enough to be seen: a squared distance in ART's L_MTC, which the hinge leaves
  out where neighbors are alike; DVTA's second loss, and a leak that lets a gradient through.
- Rounding of another machine stays rounding. Backbones with rectifiers and batch statistics do not give that: a change
  of 1e-7 in the first weights moved losses by more than 1 within 80 steps. So UniAlign and ART train a small
  UniFormerV2, temperatures are higher (in ALT's choice of entities too) and rates low, and images are stored as they
  are, since JPEG decoders differ. With these settings such a change moves no loss by more than 1e-6 of it.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from tests.made_stores import frames_store, made_dataset, pose_features_store, poses_store
from tests.pipeline.made_systems import NETWORK, known_clip, text_and_entities
from tests.pipeline.made_systems import SYSTEMS as SIZES
from unialign.pipeline.config import Config, with_values
from unialign.pipeline.manifest import save_manifest
from unialign.pipeline.training.from_config import train_from_config
from unialign.pipeline.training.train import RunResult, Show
from unialign.stages.datasets.base import Sample, Split
from unialign.stages.datasets.zero_shot_splits import generalised_zero_shot
from unialign.stages.models.backbones.registry import BACKBONES
from unialign.stages.models.backbones.uniformer_v2 import uniformer_v2
from unialign.stages.training.logs import read_lines

EPOCHS = 20
STEPS = 4 * EPOCHS
TOLERANCE = 1e-4
BACKBONE = "uniformerv2-made"
PLAIN = made_dataset(19, 8)

VIDEO = {"backbone": BACKBONE, "num_frames": 2, "image_size": 32, "temperature": 0.2}
SETTINGS: dict[str, Any] = {
    "epochs": EPOCHS,
    "batch_size": 5,
    "lr": 0.002,
    "device": "cpu",
    "log_every": 1,
    "eval_every": EPOCHS,
    "checkpoint_every": EPOCHS,
}
VALUES: dict[str, dict[str, Any]] = {
    "unialign": {
        "train.unialign": {**VIDEO, "width": 16, "modalities": ["video", "pose", "text"]},
        "train.settings": SETTINGS,
    },
    "art": {
        "train.art": {
            **SIZES["train.art"],
            **VIDEO,
            "latent": 16,
            "num_tracks": 3,
            "temporal_form": "square",
            "gamma_mtc": 0.5,
        },
        "train.settings": SETTINGS,
    },
    "alt": {
        "train.alt": {**SIZES["train.alt"], "gumbel_scale": 10.0, "logit_scale": 20.0},
        "train.settings": {**SETTINGS, "optimizer": "adamw", "lr": 5e-4},
    },
    "dvta": {
        "protocol": "unseen",  # one class fewer in training, so smaller batches for as many steps
        "train.dvta": {"direct_loss": True, "leak": 0.5},
        "train.settings": {
            **SETTINGS,
            "batch_size": 4,
            "optimizer": "adamw",
            "lr": 1e-3,
            "weight_decay": 0.0,
            "schedule": "step",
            "warmup_epochs": 0.0,
            "gradient_clip": 20.0,
        },
    },
}


def make_caches(folder: Path) -> Path:
    """The stores that the training runs read and the list of samples, below a folder; returns the cache.

    Protocols beside those of `made_dataset`: "unseen", and both with two samples in a val part: "val", "unseen val".
    """

    def with_val(samples: Sequence[Sample]) -> Split:
        split = PLAIN.protocols["whole"](samples)
        return Split(split.train[:-2], split.test, split.train[-2:])

    whole = {"whole": PLAIN.protocols["whole"], "val": with_val}
    unseen = {
        f"un{'seen val' if name == 'val' else 'seen'}": partial(generalised_zero_shot, (3,), whole[name])
        for name in whole
    }
    cache, dataset = folder / "cache", replace(PLAIN, protocols={**PLAIN.protocols, **whole, **unseen})
    frames_store(cache, dataset, "rgb24")
    poses = poses_store(cache, dataset)
    pose_features_store(cache, dataset, fields={"poses": poses.store.key.digest})
    text_and_entities(cache, folder / "spare")
    save_manifest(dataset, cache)
    return cache


def golden_config(system: str, cache: Path, runs: Path) -> Config:
    """The configuration of a system's training."""
    base = {"dataset": "tiny", "cache": cache, "runs": runs, "train.model": system, "train.backbone_weights": None}
    return with_values(Config(), {**base, **VALUES[system]})


@contextmanager
def known_networks(scratch: Path) -> Iterator[None]:
    """The small networks have names inside the block. scratch: an existing folder."""
    with known_clip(scratch):
        BACKBONES[BACKBONE] = partial(uniformer_v2, NETWORK, 2)
        try:
            yield
        finally:
            del BACKBONES[BACKBONE]


def trained(config: Config, scratch: Path, show: Show = lambda progress: None) -> RunResult:
    """The run of a configuration, on one thread: sums depend on the number. scratch: an existing folder."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with known_networks(scratch):
            return train_from_config(config, show=show)
    finally:
        torch.set_num_threads(threads)


def losses_of(run: Path) -> list[float]:
    """The loss of each step in the log of a run that was not interrupted."""
    return [line["loss"] for line in read_lines(run / "log.jsonl") if line["event"] == "step"]


def first_difference(found: Sequence[float], golden: Sequence[float]) -> str:
    """The first step whose loss is not the golden one, and how many are not; empty where all are.

    Losses may differ by `TOLERANCE`, of the golden one where that is above 1.
    """
    near = [abs(ours - theirs) <= TOLERANCE * max(1.0, abs(theirs)) for ours, theirs in zip(found, golden, strict=True)]
    if all(near):
        return ""
    place = near.index(False)
    return (
        f"step {place + 1} is the first that differs: the loss is {found[place]:.7g}, the golden one "
        f"{golden[place]:.7g}; {near.count(False)} of {len(near)} steps differ"
    )
