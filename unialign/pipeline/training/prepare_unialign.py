"""A training of UniAlign or ART, a video backbone on cached frames with texts and pose features, prepared."""

from collections.abc import Mapping
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

from unialign.cache.digests import file_digest
from unialign.errors import MissingCache, UsageError
from unialign.pipeline.training.preparation import (
    Options,
    PreparedRun,
    build_task,
    check_any,
    covered_sides,
    get_reader,
    plain,
)
from unialign.pipeline.training.text_bank_start import load_text_bank, shared_templates
from unialign.stages.datasets.base import Dataset
from unialign.stages.foreign_weights import load_foreign_weights
from unialign.stages.models.systems import SYSTEMS, Parts, checked_config
from unialign.stages.sample_reader import SampleReader
from unialign.stages.training.clips import CachedFrames, Clips, PoseTokens
from unialign.stages.training.settings import TrainSettings

# In place of a file: weights that timm or torchvision publish.
HUB = Path("hub")


def prepare_unialign(
    dataset: Dataset,
    *,
    protocol: str | None,
    readers: Mapping[str, SampleReader],
    model: Mapping[str, Any],
    settings: TrainSettings,
    options: Options,
    name: str = "unialign",
) -> PreparedRun:
    """What a training of UniAlign needs, or of another system that reads the same.

    readers: by modality of the cache ("frames", "pose-features", "text"); those that the model does not use are left
    alone. model: settings that differ from the system's configuration. name: of the system.
    Raises `MissingCache` for stores that are absent or hold too little, `UsageError` for settings that make no sense.
    """
    known = checked_config(SYSTEMS[name].config, model)
    protocol = protocol or dataset.default_protocol
    needed = {store: get_reader(readers, store, dataset) for store in SYSTEMS[name].stores(known)}
    clips = {store: reader for store, reader in needed.items() if store != "text"}
    sides = covered_sides(dataset, protocol, dataset.split(protocol), clips, options.min_coverage)
    check_any(sides.test, "test", dataset, protocol)
    encoding = str(needed["frames"].array_attributes("pictures")["encoding"])
    frames = CachedFrames(needed["frames"], encoding, known.num_frames, known.image_size)
    pose = pose_tokens(needed["pose-features"]) if "pose-features" in needed else None
    width = pose.reader.read_one(sides.train.samples.ids[0])["tokens"].shape[-1] if pose else None
    bank, templates = None, options.templates
    if "text" in needed:
        templates = templates or shared_templates(needed["text"], dataset.classes)
        bank = load_text_bank(needed["text"], dataset.classes, templates)
    weights = read_weights(options.backbone_weights, known.backbone)
    config = {
        "model": name,
        "dataset": dataset.name,
        "protocol": protocol,
        name: plain(known),
        "settings": settings.plain(),
        "templates": list(templates),
        "backbone_weights": weights[0] if weights else None,
    }
    parts = Parts(len(dataset.classes), bank, width, weights=weights[1] if weights else None)
    return PreparedRun(
        dataset=dataset,
        protocol=protocol,
        model=name,
        config=config,
        settings=settings,
        readers=needed,
        train=Clips(sides.train.samples, frames, pose, settings, train=True),
        val=Clips(sides.val.samples, frames, pose, settings, train=False),
        test=Clips(sides.test.samples, frames, pose, settings, train=False),
        train_side=sides.train,
        val_side=sides.val,
        test_side=sides.test,
        build=partial(build_task, name, parts, known, settings.seed),
    )


def pose_tokens(reader: SampleReader) -> PoseTokens:
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
        from unialign.stages.models.backbones.registry import hub_state_dict

        published = hub_state_dict(backbone)
        checksum = sha256()
        for name in sorted(published):
            checksum.update(name.encode() + published[name].cpu().contiguous().numpy().tobytes())
        return f"sha256:{checksum.hexdigest()}", published
    if not path.is_file():
        raise UsageError(f"{path}: no such file; give the weights of a video backbone, or hub to fetch published ones.")
    return file_digest(path), load_foreign_weights(path, "a video backbone")
