"""Tiny caches for every system: frames, texts with entities, and tokens by a tiny CLIP that OpenCLIP knows by name."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from open_clip import factory

from tests.made_stores import frames_store, made_dataset, text_store, write_store
from unialign.cache.arrays import ArraySpec
from unialign.pipeline.config import Config, with_values
from unialign.pipeline.extraction.extract import Settings, run_extraction
from unialign.pipeline.extraction.extractors import prepare
from unialign.pipeline.manifest import save_manifest

DATASET = made_dataset()
ENTITIES = ("arm", "ball", "leg", "tree", "wall")
NETWORK = "tiny-system-tower"
CLIP: dict[str, Any] = {
    "embed_dim": 8,
    "vision_cfg": {"image_size": 32, "layers": 3, "width": 32, "patch_size": 8, "head_width": 16},
    "text_cfg": {"context_length": 32, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}
SYSTEMS: dict[str, dict[str, Any]] = {
    "train.unialign": {
        "backbone": "tsm-resnet10",
        "num_frames": 2,
        "image_size": 16,
        "width": 16,
        "modalities": ["video", "text"],
    },
    "train.art": {
        "backbone": "tsm-resnet10",
        "num_frames": 2,
        "image_size": 32,
        "latent": 8,
        "num_heads": 2,
        "enhancement_layers": 1,
        "region_layers": 1,
    },
    "train.alt": {
        "network": NETWORK,
        "num_frames": 2,
        "image_size": 32,
        "merged_pairs": 2,
        "num_blocks": 1,
        "mlp_ratio": 1,
        "ffn_ratio": 1,
    },
    "train.settings": {
        "epochs": 2,
        "batch_size": 5,
        "lr": 0.01,
        "optimizer": "adamw",
        "device": "cpu",
        "log_every": 1,
        "checkpoint_batches": 1,
    },
}


@contextmanager
def known_clip(folder: Path) -> Iterator[Path]:
    """A file of random weights of a small CLIP, which OpenCLIP knows by name inside the block."""
    (folder / f"{NETWORK}.json").write_text(json.dumps(CLIP))
    paths, configs = list(factory._MODEL_CONFIG_PATHS), dict(factory._MODEL_CONFIGS)
    open_clip.add_model_config(folder)
    torch.manual_seed(7)  # not the seed of the runs, so that a tower left random shows
    torch.save(factory.CLIP(**CLIP).state_dict(), folder / "weights.pt")
    try:
        yield folder / "weights.pt"
    finally:
        factory._MODEL_CONFIG_PATHS[:] = paths
        factory._MODEL_CONFIGS.clear()
        factory._MODEL_CONFIGS.update(configs)


def text_and_entities(cache: Path, spare: Path) -> None:
    """The texts of `made_stores` and a random unit row for each entity, in one store."""
    plain = text_store(spare)
    values = {name: plain.read_one(name) for name in plain.ids}
    for number, name in enumerate(ENTITIES):
        row = np.random.default_rng(4000 + number).normal(size=8)
        values[f"entity|{name}"] = {"embedding": (row / np.linalg.norm(row)).astype(np.float32)}
    write_store(cache, "text", (ArraySpec("embedding", "float32", (8,), ("channel",)),), values)


def made_config(folder: Path, weights: Path) -> Config:
    """All caches in a folder, and the configuration that trains from them. The tokens are extracted."""
    cache = folder / "cache"
    frames_store(cache, DATASET)
    text_and_entities(cache, folder / "spare")
    config = with_values(
        Config(),
        {
            "dataset": "tiny",
            "cache": cache,
            "runs": folder / "runs",
            "extract.device": "cpu",
            "extract.tokens": {
                "model": NETWORK,
                "weights": weights,
                "num_frames": 2,
                "num_offsets": 2,
                "flips": True,
                "merged_pairs": 2,
            },
            "train.backbone_weights": None,
            **SYSTEMS,
        },
    )
    prepared = prepare("tokens", DATASET, config)
    run_extraction(
        prepared.extractor,
        prepared.sources,
        cache=cache,
        collection=DATASET.collection,
        settings=Settings(shard_samples=16),
        current=prepared.current,
    )
    save_manifest(DATASET, cache)
    return config
