"""A training of UniAlign on cached frames, pose features and texts, prepared."""

import io
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch

from unialign.cache.errors import CorruptInput, MissingCache, UsageError
from unialign.pipeline.coverage import CachedModality, covered
from unialign.pipeline.preparation import Options, Prepared, check_enough, the_reader
from unialign.pipeline.text_bank import load_text_bank, shared_templates
from unialign.stages.datasets.base import Dataset
from unialign.stages.models.backbones import hub_state_dict, load_pretrained
from unialign.stages.models.systems import SYSTEMS, checked_config
from unialign.stages.training.clips import Clips, Frames, PoseTokens
from unialign.stages.training.settings import TrainSettings
from unialign.stages.training.step import Task

# In place of a file: weights that timm or torchvision publish.
HUB = Path("hub")

# Which store a modality of the model reads.
STORES = {"video": "frames", "pose": "pose-features", "text": "text"}


def prepare_unialign(
    dataset: Dataset,
    *,
    protocol: str | None,
    readers: Mapping[str, CachedModality],
    model: Mapping[str, Any],
    settings: TrainSettings,
    options: Options,
) -> Prepared:
    """What a training of UniAlign needs.

    readers: by modality of the cache ("frames", "pose-features", "text"); those that the model does not use are left
    alone. model: settings that differ from `UniAlignConfig`.
    Raises `MissingCache` for stores that are absent or hold too little, `UsageError` for settings that make no sense.
    """
    known = checked_config(model)
    protocol = protocol or dataset.default_protocol
    needed = {STORES[name]: the_reader(readers, STORES[name], dataset) for name in known.modalities}
    clips = {name: reader for name, reader in needed.items() if name != "text"}
    split = dataset.split(protocol)
    train_side, test_side = (
        covered(dataset, side, ids, clips, protocol=protocol, minimum=options.min_coverage)
        for side, ids in (("train", split.train), ("test", split.test))
    )
    check_enough(dataset, protocol, train_side, test_side)
    encoding = str(needed["frames"].array_attributes("pictures")["encoding"])
    frames = Frames(needed["frames"], encoding, known.num_frames, known.image_size)
    pose = pose_tokens(needed["pose-features"]) if "pose" in known.modalities else None
    width = pose.reader.read_one(train_side.samples.ids[0])["tokens"].shape[-1] if pose else None
    bank, templates = None, options.templates
    if "text" in known.modalities:
        templates = templates or shared_templates(needed["text"], dataset.classes)
        bank = load_text_bank(needed["text"], dataset.classes, templates)
    weights = read_weights(options.backbone_weights, known.backbone)
    config = {
        "model": "unialign",
        "dataset": dataset.name,
        "protocol": protocol,
        "unialign": {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(known).items()},
        "settings": settings.plain(),
        "templates": list(templates),
        "backbone_weights": weights[0] if weights else None,
    }
    parts = {"num_classes": len(dataset.classes), "text_bank": bank, "pose_width": width, "config": model}
    return Prepared(
        dataset=dataset,
        protocol=protocol,
        model="unialign",
        config=config,
        settings=settings,
        readers=needed,
        train=Clips(train_side.samples, frames, pose, settings, train=True),
        test=Clips(test_side.samples, frames, pose, settings, train=False),
        train_side=train_side,
        test_side=test_side,
        build=partial(build_task, parts, weights[1] if weights else None, settings.seed),
    )


def build_task(parts: Mapping[str, Any], weights: Mapping[str, Any] | None, seed: int) -> Task:
    """UniAlign and its losses, random weights from the seed; `weights` of a video backbone go on top of them."""
    torch.manual_seed(seed)
    system = SYSTEMS["unialign"]
    network: Any = system.build(**parts)
    if weights:
        load_pretrained(network.backbone, weights)
    return Task(network, system.losses, network.backbone.mean, network.backbone.std)


def pose_tokens(reader: CachedModality) -> PoseTokens:
    """A store of pose features and the grid of its views."""
    views = reader.array_attributes("tokens").get("views")
    if not views:
        raise MissingCache("the pose features do not say which views they hold; extract pose-features again.")
    return PoseTokens(reader, tuple(bool(view["flip"]) for view in views))


def read_weights(path: Path | None, backbone: str) -> tuple[str, dict[str, Any]] | None:
    """Digest and content of a file of weights, or, for the path "hub", of the backbone's published ones."""
    if path is None:
        return None
    if path == HUB:
        published = hub_state_dict(backbone)
        checksum = sha256()
        for name in sorted(published):
            checksum.update(name.encode() + published[name].cpu().contiguous().numpy().tobytes())
        return f"sha256:{checksum.hexdigest()}", published
    if not path.is_file():
        raise UsageError(f"{path}: no such file; give the weights of a video backbone, or hub to fetch published ones.")
    data = path.read_bytes()
    try:
        content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:
        # torch.load answers foreign bytes with errors of many kinds, some of them private.
        raise CorruptInput(f"{path} is not a file of plain PyTorch weights; download it again.") from error
    if not isinstance(content, Mapping):
        raise CorruptInput(f"{path} holds a {type(content).__name__}, not the weights of a video backbone.")
    return f"sha256:{sha256(data).hexdigest()}", dict(content)
