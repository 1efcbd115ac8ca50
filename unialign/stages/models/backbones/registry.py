"""Video backbones by name, and how weights get into them.

A backbone is built with keyword arguments `num_frames` and `image_size` and maps
frames (B, T, 3, H, W), float32, normalized with its `mean` and `std`, to
{"tokens": (B, N, D), "grid": (B, T', H', W', D), "pooled": (B, D)}; its attribute `width` is D.
tokens: one per time step; grid: one per time step and place; pooled: the clip.
`own_prefixes` begin the names of weights that image weights do not have. `published_names` (optional): pairs of a
regular expression for names in published files and what they are called here; or, where names are not enough,
`rewritten(entries)`, which returns the entries under the backbone's names and the names of those that it leaves out.
`adapted(given, names)` (optional): weights of published files, under the backbone's names, as it needs them; names:
what the file calls them.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import timm
import torch
from timm.layers import resample_abs_pos_embed
from torch import Tensor, nn
from torchvision.models.video import MViT_V2_S_Weights, Swin3D_T_Weights

from unialign.errors import UsageError
from unialign.stages.models.backbones.efficientnet import efficientnet_lite
from unialign.stages.models.backbones.tea import tea_res2net, tea_resnet
from unialign.stages.models.backbones.tsm import small_tsm, tsm
from unialign.stages.models.backbones.tube_transformer import tube_transformer
from unialign.stages.models.backbones.uniformer_v2 import uniformer_v2
from unialign.stages.models.backbones.video_transformer import Mvit, Swin, frame_transformer

BACKBONES: dict[str, Callable[..., nn.Module]] = {
    "tsm-tiny": partial(small_tsm, 16),
    "tsm-tiny-difference": partial(small_tsm, 16, True),
    "tsm-resnet10": partial(small_tsm, 32),
    "tsm-resnet18": partial(tsm, "resnet18"),
    "tsm-resnet50": partial(tsm, "resnet50"),
    "tsm-resnet101": partial(tsm, "resnet101"),
    "efficientnet-lite0": partial(efficientnet_lite, "tf_efficientnet_lite0"),
    "vit-tiny-temporal": partial(frame_transformer, "vit_tiny_patch16_224"),
    "pe-core-b16": partial(frame_transformer, "vit_pe_core_base_patch16_224"),
    "pe-core-l14": partial(frame_transformer, "vit_pe_core_large_patch14_336", 14),
    "pe-core-b16-frames": partial(frame_transformer, "vit_pe_core_base_patch16_224", temporal_depth=0),
    "pe-core-l14-frames": partial(frame_transformer, "vit_pe_core_large_patch14_336", 14, temporal_depth=0),
    "videomae-v2-s16": partial(tube_transformer, "s", "sines"),
    "videomae-v2-b16": partial(tube_transformer, "b", "sines"),
    "videomae-v2-g14": partial(tube_transformer, "g of VideoMAE", "sines", 14),
    "vjepa2-l16": partial(tube_transformer, "l", "rotary"),
    "vjepa2-h16": partial(tube_transformer, "h", "rotary"),
    "vjepa2-g16": partial(tube_transformer, "g", "rotary"),
    "vjepa2.1-b16": partial(tube_transformer, "b", "scaled"),
    "vjepa2.1-l16": partial(tube_transformer, "l", "scaled"),
    "vjepa2.1-g16": partial(tube_transformer, "g", "scaled"),
    "vjepa2.1-gigantic16": partial(tube_transformer, "G", "scaled"),
    "mvit-v2-s": Mvit,
    "swin3d-t": Swin,
    "tea-resnet50": partial(tea_resnet, "resnet50"),
    "tea-res2net50": partial(tea_res2net, (3, 4, 6, 3)),
    "tea-res2net50-released": partial(tea_res2net, (3, 4, 6, 3), True),
    "uniformerv2-b16": partial(uniformer_v2, "ViT-B-16-quickgelu", 4),
    "uniformerv2-l14": partial(uniformer_v2, "ViT-L-14-quickgelu", 4),
    "uniformerv2-l14-frozen": partial(uniformer_v2, "ViT-L-14-quickgelu", 4, frozen=True),
    "uniformerv2-b16-ssv2": partial(uniformer_v2, "ViT-B-16-quickgelu", 8, 2, stem=True),
    "uniformerv2-l14-ssv2": partial(uniformer_v2, "ViT-L-14-quickgelu", 16, 2, stem=True),
    "uniformerv2-b16-local": partial(uniformer_v2, "ViT-B-16-quickgelu", 8, 2),
    "uniformerv2-l14-local": partial(uniformer_v2, "ViT-L-14-quickgelu", 16, 2),
}

IMAGE_WEIGHTS = {
    "tsm-resnet18": "resnet18",
    "tsm-resnet50": "resnet50",
    "tsm-resnet101": "resnet101",
    "vit-tiny-temporal": "vit_tiny_patch16_224",
    "pe-core-b16": "vit_pe_core_base_patch16_224",
    "pe-core-l14": "vit_pe_core_large_patch14_336",
    "pe-core-b16-frames": "vit_pe_core_base_patch16_224",
    "pe-core-l14-frames": "vit_pe_core_large_patch14_336",
    "tea-resnet50": "resnet50",
    "tea-res2net50": "res2net50_26w_4s",
    "tea-res2net50-released": "res2net50_26w_4s",
}
VIDEO_WEIGHTS = {"mvit-v2-s": MViT_V2_S_Weights, "swin3d-t": Swin3D_T_Weights}

# Names around the network in checkpoints of torch's DataParallel, of TSM's authors and of this package.
WRAPPERS = ("module.", "base_model.", "backbone.")
# Where training programs keep the weights inside a larger record; the average of V-JEPA's before what it is of.
ENTRIES = ("state_dict", "model_state", "ema_encoder", "target_encoder", "encoder", "model", "module")
TOWER = "visual."  # the image tower, in a file of a whole CLIP
HEADS = ("fc.", "new_fc.", "head.", "head_drop.", "cls_head.", "classifier.")


@dataclass(frozen=True)
class LoadReport:
    """What `load_pretrained` did: entries taken, heads dropped, own parts that stay at their random start."""

    num_loaded: int
    dropped: tuple[str, ...]
    kept_random: tuple[str, ...]

    def sentence(self) -> str:
        """The same in words."""
        left = f"left out: {_some(list(self.dropped))}" if self.dropped else "none left out"
        begun = f"random at the start: {_some(list(self.kept_random))}" if self.kept_random else "nothing is random"
        return f"weights of the video backbone: {self.num_loaded} entries loaded; {left}; {begun}."


def build_backbone(
    name: str, *, num_frames: int, image_size: int, weights: Mapping[str, Any] | None = None
) -> nn.Module:
    """The backbone of that name; it starts from `weights`, or at random without any.

    Raises `UsageError` for an unknown name and for weights of another network.
    """
    if name not in BACKBONES:
        raise UsageError(f"backbone {name!r} is unknown; known: {', '.join(BACKBONES)}.")
    backbone = BACKBONES[name](num_frames=num_frames, image_size=image_size)
    if weights:
        load_pretrained(backbone, weights)
    return backbone


def load_pretrained(backbone: nn.Module, state_dict: Mapping[str, Any]) -> LoadReport:
    """Puts weights of an image or video network into a backbone, in place, and says what happened. See `matched`."""
    given, report = matched(backbone, state_dict)
    backbone.load_state_dict(given, strict=False)
    return report


def check_pretrained(name: str, state_dict: Mapping[str, Any], *, num_frames: int, image_size: int) -> LoadReport:
    """What `load_pretrained` would do to the backbone of that name, without the time and memory to build it.

    Raises what `build_backbone` and `matched` raise.
    """
    with torch.device("meta"):
        backbone = build_backbone(name, num_frames=num_frames, image_size=image_size)
    return matched(backbone, state_dict)[1]


def matched(backbone: nn.Module, state_dict: Mapping[str, Any]) -> tuple[dict[str, Tensor], LoadReport]:
    """The weights of an image or video network under a backbone's names, and what becomes of them.

    Wrappers' names are taken off, classification heads are dropped (and of CLIP all but the image tower), a ViT's
    position embedding is resampled to the backbone's image size, and what image weights cannot have (the temporal
    transformer of a `FrameTransformer`) stays as it begins if none of it is given. Raises `UsageError` that lists what
    is missing, unexpected or of another shape.
    """
    try:
        return _matched(backbone, state_dict)
    except (
        RuntimeError,
        TypeError,
        ValueError,
        AttributeError,
        LookupError,
    ) as error:  # names and values can be anything
        reason = str(error).partition("\n")[0]
        raise UsageError(
            f"the weights do not fit the backbone: what they hold is no network's ({reason}). Give weights of this "
            "architecture."
        ) from error


def _matched(backbone: nn.Module, state_dict: Mapping[str, Any]) -> tuple[dict[str, Tensor], LoadReport]:
    target = backbone.state_dict()
    entries, left = _unwrapped(state_dict), list[str]()
    rewritten = getattr(backbone, "rewritten", None)
    if rewritten is not None:
        entries, left = rewritten({_inner_name(name): value for name, value in entries.items()})
    given, dropped, unexpected = _renamed(entries, target, getattr(backbone, "published_names", ()))
    own = tuple(key for key in target if key.startswith(_own_prefixes(backbone)))
    kept_random = own if not any(key in given for key in own) else ()
    missing = [
        key for key in target if key not in given and key not in kept_random and not key.endswith("num_batches_tracked")
    ]
    given = {key: _fitted(key, value, target[key]) for key, value in given.items()}
    adapted: Callable[..., dict[str, Tensor]] = getattr(backbone, "adapted", lambda given, names: given)
    given = adapted(given, entries.keys())
    reshaped = [
        f"{key} {tuple(value.shape)} instead of {tuple(target[key].shape)}"
        for key, value in given.items()
        if value.shape != target[key].shape
    ]
    problems = {"missing": missing, "unexpected": unexpected, "of another shape": reshaped}
    found = [f"{len(keys)} {kind} ({_some(keys)})" for kind, keys in problems.items() if keys]
    if found:
        raise UsageError(f"the weights do not fit the backbone: {'; '.join(found)}. Give weights of this architecture.")
    return given, LoadReport(num_loaded=len(given), dropped=(*left, *dropped), kept_random=kept_random)


def hub_state_dict(name: str) -> dict[str, Any]:
    """Published weights for a backbone: ImageNet's for "tsm-*", "tea-*", "vit-*" (by timm), else Kinetics-400's.

    Raises `UsageError` where there are none, or where they cannot be fetched.
    """
    if name not in IMAGE_WEIGHTS and name not in VIDEO_WEIGHTS:
        raise UsageError(f"the hub has no published weights for backbone {name!r}; give --backbone-weights FILE.")
    try:
        if name in VIDEO_WEIGHTS:
            weights = VIDEO_WEIGHTS[name].DEFAULT
            return dict(weights.get_state_dict(progress=False, check_hash=True, weights_only=True))
        return dict(timm.create_model(IMAGE_WEIGHTS[name], pretrained=True).state_dict())
    except (OSError, RuntimeError) as error:  # no network, no such file there, a cut download
        reason = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        raise UsageError(f"cannot fetch weights for {name!r} ({reason}); give --backbone-weights FILE.") from error


def _own_prefixes(backbone: nn.Module) -> tuple[str, ...]:
    prefixes = getattr(backbone, "own_prefixes", ())
    return tuple(str(prefix) for prefix in prefixes)


def _unwrapped(state_dict: Mapping[str, Any]) -> Mapping[str, Any]:
    """The entries themselves, where a training program stored them inside a larger record."""
    for name in ENTRIES:
        if isinstance(state_dict.get(name), Mapping):
            return dict(state_dict[name])
    return state_dict


def _renamed(
    entries: Mapping[str, Any], target: Mapping[str, Tensor], published: Iterable[tuple[str, str]]
) -> tuple[dict[str, Tensor], list[str], list[str]]:
    """Entries under the backbone's own names; dropped heads; names that fit nowhere."""
    given: dict[str, Tensor] = {}
    dropped, unexpected = [], []
    names = {key: _inner_name(key) for key in entries}
    clip = any(name.startswith(TOWER) for name in names.values())
    for key, value in entries.items():
        if clip and not names[key].startswith(TOWER):
            dropped.append(key)  # of the text tower, some of which is called as the image tower's
            continue
        name = names[key].removeprefix(TOWER).removeprefix("trunk.")
        for pattern, replacement in published:
            name = re.sub(pattern, replacement, name)
        if name in target:
            given[name] = value
        elif f"network.{name}" in target:
            given[f"network.{name}"] = value
        elif name.removeprefix("network.").startswith(HEADS):
            dropped.append(key)
        else:
            unexpected.append(key)
    return given, dropped, unexpected


def _inner_name(name: str) -> str:
    while name.startswith(WRAPPERS):
        name = name.split(".", 1)[1]
    return name.replace(".net.", ".")  # TSM's authors wrap each shifted convolution


def _fitted(name: str, value: Tensor, target: Tensor) -> Tensor:
    """Position embeddings resampled; convolutions over one frame as convolutions over images."""
    if name.endswith("pos_embed"):
        return _resampled(value, target)
    if name.endswith("positional_embedding"):  # (1 + P, D)
        return _resampled(value[None], target[None])[0]
    return value.squeeze(2) if value.ndim == target.ndim + 1 == 5 else value


def _resampled(embedding: Tensor, target: Tensor) -> Tensor:
    """A ViT's position embedding (1, 1 + P, D) for another number of patches P; both images are square."""
    if embedding.shape == target.shape or embedding.shape[-1] != target.shape[-1]:
        return embedding
    side = round((target.shape[1] - 1) ** 0.5)
    resampled: Tensor = resample_abs_pos_embed(embedding, [side, side], num_prefix_tokens=1)
    return resampled


def _some(keys: list[str]) -> str:
    return ", ".join(keys[:4]) + (", ..." if len(keys) > 4 else "")
