"""The file of a skeleton encoder, as the training of one writes it."""

from pathlib import Path

from unialign.pipeline.training.train import export_encoder
from unialign.stages.extraction.pose_encoder import Encoder


def write_encoder(path: Path, encoder: Encoder, **changes: object) -> None:
    fields = {
        "model": encoder.name,
        "config": dict(encoder.config),
        "layout": encoder.layout.plain,
        "recipe": encoder.recipe,
        "clip_len": encoder.clip_len,
        "classes": list(encoder.classes),
        "protocol": encoder.protocol,
        "dataset": encoder.dataset,
    }
    export_encoder(path, encoder.network, {**fields, **changes})
