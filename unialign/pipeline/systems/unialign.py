"""UniAlign: a video backbone on cached frames with texts and pose features; the network is in `stages.models.unialign`.

Other systems with a video backbone (ART) are prepared the same way.
"""

from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch

from unialign.cache.digests import file_digest
from unialign.cache.reader import Recorded
from unialign.errors import MissingCache, UsageError
from unialign.pipeline.evaluation.pictures import Pictures
from unialign.pipeline.systems.base import ASSUMED, ClassSpecificWeights, Colors, DrawnClip, Example, System
from unialign.pipeline.training.preparation import Options, PreparedRun, Request, prepared
from unialign.pipeline.training.text_bank_start import label_rows, load_text_bank, shared_templates
from unialign.stages.datasets.base import Split
from unialign.stages.foreign_weights import load_foreign_weights
from unialign.stages.models.backbones.cached import CACHED, grid_side
from unialign.stages.models.unialign.config import UniAlignConfig
from unialign.stages.models.unialign.losses import uni_align_losses
from unialign.stages.models.unialign.model import build_unialign
from unialign.stages.sample_reader import SampleReader
from unialign.stages.training.clips import CachedFrames, PoseTokens
from unialign.stages.training.gpu_clips import clips_as_set
from unialign.stages.training.token_samples import FrameTokens, TokenClips

# With fewer training clips, texts are read only if somebody asks for them: with up to 150 clips they have not helped,
# and they cost accuracy beside poor poses (docs/systems/unialign.md).
FEW_CLIPS = 500
# In place of a file path: weights published by timm or torchvision.
HUB = Path("hub")
STORES = {"video": "frames", "pose": "pose-features", "text": "text"}


def prepare_clips(request: Request) -> PreparedRun:
    """Prepare a run of a video backbone: clips of cached frames, or of cached tokens where there is none to train, with
    pose features and texts if the system reads them.

    Raises `MissingCache` for stores with too few samples, `UsageError` for inconsistent settings.
    """
    config, readers, classes = request.config, request.readers, request.dataset.classes
    sides = request.sides()
    pose = pose_tokens(readers["pose-features"]) if "pose-features" in readers else None
    width = pose.reader.read_one(sides.train.samples.ids[0])["tokens"].shape[-1] if pose else None
    bank, templates = None, request.options.templates
    if "text" in readers:
        templates = templates or shared_templates(readers["text"], classes)
        bank = load_text_bank(readers["text"], classes, templates)
    weights = read_weights(request.options.backbone_weights, config.backbone)
    parts = {"num_classes": len(classes), "text_bank": bank, "weights": weights[1] if weights else None}
    parts |= {} if width is None else {"pose_width": width}
    if config.backbone == CACHED:
        tokens, parts["token_width"] = clip_tokens(readers["tokens"], config, sides.train.samples.ids[0])
        sources = sides.sources(
            lambda samples, learns: TokenClips(samples, tokens, request.settings, pose=pose, train=learns)
        )
    else:
        frames = frames_of(readers["frames"], config)
        sources = sides.sources(
            lambda samples, learns: clips_as_set(samples, frames, pose, request.settings, train=learns)
        )
    return prepared(
        request,
        sides,
        sources,
        parts,
        {"templates": list(templates), "backbone_weights": weights[0] if weights else None},
        texts=label_rows(templates, classes),
        notes=() if weights is None else (_loaded(config, weights[1]),),
    )


def settle_modalities(config: UniAlignConfig, split: Split) -> tuple[UniAlignConfig, str]:
    """Without text for few training clips, unless modalities are set, or texts are all that unseen classes have."""
    few = len(split.train) < FEW_CLIPS
    if not few or split.unseen or "modalities" in config.model_fields_set or "text" not in config.modalities:
        return config, ""
    kept = tuple(name for name in config.modalities if name != "text")
    listed = f"[{','.join(config.modalities)}]"
    return config.replaced(modalities=kept), (
        f"text is left out: it has not helped with few training clips, and there are {len(split.train)}; set "
        f"train.unialign.modalities={listed} to read it."
    )


def frames_of(reader: SampleReader, config: Any) -> CachedFrames:
    """A frame store together with the clip shape of a configuration (num_frames, image_size)."""
    encoding = str(reader.array_attributes("pictures")["encoding"])
    return CachedFrames(reader, encoding, config.num_frames, config.image_size, stored_side(reader))


def clip_tokens(reader: SampleReader, config: Any, sample: str) -> tuple[FrameTokens, int]:
    """A store of tokens with the layout of its views, and their width, taken from one sample.

    Raises `MissingCache` for a store without views, `UsageError` for clips of another length than configured, and for
    tokens without a grid where regions are looked for.
    """
    views = reader.array_attributes("tokens").get("views")
    if not views:
        raise MissingCache("the tokens do not say which views they hold; extract tokens again.")
    _, steps, number, width = reader.read_one(sample)["tokens"].shape
    if getattr(config, "regions", False) and not grid_side(number):
        raise UsageError(
            "regions are looked for in a grid, which these tokens do not have; extract tokens of a video backbone with "
            "extract.tokens.grid=4, or set regions to false."
        )
    if steps != config.num_frames:
        raise UsageError(
            f"num_frames of the model is {config.num_frames}, but the tokens have {steps} time steps a clip; set it to "
            f"{steps}, or `extract.tokens.num_frames` and extract tokens again."
        )
    return FrameTokens(reader, tuple(bool(view["flip"]) for view in views)), width


def check_clips(config: Any, options: Options) -> None:
    """Raise `UsageError` for weights of a backbone that a run on cached tokens does not have."""
    if config.backbone == CACHED and options.backbone_weights is not None:
        raise UsageError(
            "train.backbone_weights would be of a network on frames, but the backbone is cached: tokens come from the "
            "weights that `unialign extract tokens` was given; leave it out."
        )


def stores_of(config: Any, *modalities: str) -> tuple[str, ...]:
    """The stores of these modalities, of the video as its backbone reads it."""
    stores = {**STORES, "video": "tokens"} if config.backbone == CACHED else STORES
    return tuple(stores[name] for name in modalities)


def stored_side(reader: SampleReader) -> int:
    """The shorter side of the images of a frame store, in pixels; 0 if nothing says it."""
    extractor = getattr(reader, "extractor", None)
    key: Mapping[str, Any] = reader.store.key.fields if isinstance(reader, Recorded) else {}
    parameters = (extractor.key() if extractor else key).get("parameters")
    side = parameters.get("short_side") if isinstance(parameters, Mapping) else None
    return side if isinstance(side, int) else 0


def pose_tokens(reader: SampleReader) -> PoseTokens:
    """A pose feature store with the layout of its views. Raises `MissingCache` for a store without views."""
    views = reader.array_attributes("tokens").get("views")
    if not views:
        raise MissingCache("the pose features do not say which views they hold; extract pose-features again.")
    return PoseTokens(reader, tuple(bool(view["flip"]) for view in views))


def _loaded(config: Any, weights: Mapping[str, Any]) -> str:
    """What of the weights the backbone takes. Raises `UsageError` for weights of another network."""
    from unialign.stages.models.backbones.registry import check_pretrained

    found = check_pretrained(config.backbone, weights, num_frames=config.num_frames, image_size=config.image_size)
    return found.sentence()


def read_weights(path: Path | None, backbone: str) -> tuple[str, dict[str, Any]] | None:
    """Digest and content of a weights file or, for the path "hub", of the backbone's published weights; None for none.

    Raises `UsageError` for a path without a file, and what `load_foreign_weights` raises.
    """
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


def backbone_normalization(model: Any) -> Colors:
    """The mean and standard deviation that the video backbone expects."""
    return tuple(model.backbone.mean), tuple(model.backbone.std)


def clip_example(config: Any, *, pose: bool) -> Example:
    """One clip for a video backbone, and the parts for building the system around it."""
    parts = {
        "num_classes": ASSUMED["classes"],
        "text_bank": torch.zeros(ASSUMED["prompts"], ASSUMED["classes"], ASSUMED["text_width"]),
    }
    if config.backbone == CACHED:
        parts["token_width"] = ASSUMED["token_width"]
        batch = {"tokens": torch.zeros(1, config.num_frames, 1, ASSUMED["token_width"])}
    else:
        batch = {"frames": torch.zeros(1, config.num_frames, 3, config.image_size, config.image_size)}
    if pose:
        parts["pose_width"] = ASSUMED["pose_width"]
        batch["pose_tokens"] = torch.zeros(1, ASSUMED["pose_tokens"], ASSUMED["pose_width"])
    return Example(config, parts, batch, config.backbone, config.num_frames, config.image_size)


def draw_importance(clip: DrawnClip) -> Pictures:
    """Skeletons drawn over the cached frames, with CMSA's frame weights below and its modality weights beside them."""
    from unialign.pipeline.evaluation.plots import SHOWN_FRAMES, draw_sample
    from unialign.pipeline.evaluation.skeleton_frames import skeleton_frames

    kept = len(clip.stored.read_one(clip.sample)["frame_index"])
    weights = clip.outputs["token_importance_video"]
    # The model saw the middle frame of each segment of the cached frames; the segments shown are evenly spaced.
    shown = np.linspace(0, len(weights) - 1, min(SHOWN_FRAMES, len(weights))).round().astype(int)
    which = ((shown + 0.5) * kept / len(weights)).astype(int).clip(0, kept - 1)
    drawn = skeleton_frames(clip.stored, clip.poses, clip.sample, which.tolist())
    seen = weights[shown] if weights.ndim else None
    return draw_sample(drawn.images, seen, clip.title, dict(clip.importance), drawn.numbers, sided=drawn.sided)


UNIALIGN = System(
    config=UniAlignConfig,
    stores=lambda config: stores_of(config, *config.modalities),
    prepare=prepare_clips,
    build=build_unialign,
    losses=uni_align_losses,
    normalization=backbone_normalization,
    clipped_apart=("bank.",),
    check=check_clips,
    class_specific=ClassSpecificWeights(("head.", "bank.agent", "bank.main")),
    mixes=lambda config: len(config.modalities) > 1,
    settled=settle_modalities,
    example=lambda config: clip_example(config, pose="pose" in config.modalities),
    draw=draw_importance,
)
