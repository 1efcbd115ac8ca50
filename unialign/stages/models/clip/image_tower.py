"""OpenCLIP's image transformers as modules that give all tokens of an image, merged on the way (`tome`).

Legend: B images, P patches, N tokens left (the class token first), D width of a token.

Networks are OpenCLIP's own, by name ("ViT-B-16", "ViT-L-14-quickgelu"), with OpenCLIP's weights. Which activation
weights were trained with is not in a state dict: OpenAI's need a name that ends in "-quickgelu".
"""

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from unialign.errors import UsageError
from unialign.stages.models.clip.adapters import KINDS, install
from unialign.stages.models.clip.prompts import new_prompts
from unialign.stages.models.clip.tome import num_left, run_blocks
from unialign.stages.models.recompute import Recomputing

if TYPE_CHECKING:
    from open_clip.transformer import VisionTransformer

PROJECTIONS = ("clip", "none")
# Of the images that CLIP was trained with; the same for OpenAI's weights and for most of OpenCLIP's.
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
# What `get_model_config` may say of an image tower that `image_transformer` builds; others (convolutions, timm's
# networks, other blocks) have no patches to merge in this way.
KNOWN = {"image_size", "patch_size", "width", "layers", "head_width", "mlp_ratio"}


class ClipTower(Recomputing):
    """Tokens of images after one block of an OpenCLIP image transformer.

    network: OpenCLIP's transformer; it is changed: blocks after the last one used are removed, so every parameter left
        is part of the output.
    layer: the last block used, counted as Python counts: -1 is the last of the network, -2 the one before.
    num_pairs: pairs of tokens merged in each block, proportional: proportional attention, see `tome`.
    adapters: "S", "SM" or "STM" freezes the network and puts trained layers into it, see `adapters`.
    num_prompts: above 0 freezes the network and puts so many trained tokens into each block, see `prompts`.
    projection: "clip" applies CLIP's last norm and projection to every token, so that tokens lie in the space of the
        texts; "none" gives the block's output (and removes both).
    """

    mean = MEAN
    std = STD

    def __init__(
        self,
        *,
        network: "VisionTransformer",
        layer: int = -2,
        num_pairs: int = 8,
        proportional: bool = True,
        projection: str = "clip",
        adapters: str = "none",
        num_prompts: int = 0,
    ) -> None:
        super().__init__()
        blocks = network.transformer.resblocks
        if not -len(blocks) <= layer < len(blocks):
            raise UsageError(f"layer {layer} is not one of the network's {len(blocks)} blocks; -2 is the second-last.")
        if num_pairs < 0:
            raise UsageError(f"{num_pairs} pairs cannot be merged in a block; take 0 for none, or 8.")
        if adapters not in KINDS:
            raise UsageError(f"adapters {adapters!r} are unknown; known: {', '.join(KINDS)}.")
        if projection not in PROJECTIONS:
            raise UsageError(f"projection {projection!r} is unknown; known: {', '.join(PROJECTIONS)}.")
        self.num_pairs, self.proportional, self.projection = num_pairs, proportional, projection
        num_blocks = layer % len(blocks) + 1
        self.image_size = int(network.image_size[0])
        self.num_tokens = num_left(network.positional_embedding.shape[0], num_pairs, num_blocks)
        network.transformer.resblocks = blocks[:num_blocks]
        if projection == "clip":
            self.width = int(network.output_dim)
        else:
            self.width = int(network.transformer.width)
            network.ln_post, network.proj = nn.Identity(), None
        self.over_time = nn.ModuleList()
        if adapters != "none":
            network.requires_grad_(False)
            self.over_time = install(network.transformer.resblocks, adapters, int(network.transformer.width))
        self.prompts = nn.ParameterList()
        if num_prompts:
            network.requires_grad_(False)
            self.prompts = new_prompts(num_blocks, num_prompts, int(network.transformer.width))
        self.network: Any = network

    def forward(self, images: Tensor, num_frames: int = 1) -> dict[str, Tensor]:
        """tokens (B, N, D), class token first; owners (B, 1 + P) int64: the token that each input token ended in.

        images (B, 3, H, W), float32, normalized with `mean` and `std`. num_frames: of them that follow each other as
        the frames of one clip; only adaptation over time looks at it.
        """
        network = self.network
        patches = network.conv1(images).flatten(2).transpose(1, 2)  # (B, P, D)
        start = network.class_embedding.to(patches.dtype).expand(patches.shape[0], 1, -1)
        embedded = torch.cat([start, patches], dim=1) + network.positional_embedding.to(patches.dtype)
        state = run_blocks(
            network.transformer.resblocks,
            network.ln_pre(embedded),
            num_pairs=self.num_pairs,
            proportional=self.proportional,
            before=[partial(added, num_frames=num_frames) for added in self.over_time] or None,
            prompts=self.prompts if len(self.prompts) else None,
            call=self.block,
        )
        tokens = network.ln_post(state.tokens)
        if network.proj is not None:
            tokens = tokens @ network.proj
        return {"tokens": tokens, "owners": state.owners}


def image_transformer(name: str, *, image_size: int = 0) -> "VisionTransformer":
    """OpenCLIP's image transformer of that name with random weights. image_size: 0 takes the network's own.

    Raises `UsageError` for an unknown name, a network that is no plain ViT, and an image that patches do not fill.
    """
    from open_clip import get_model_config, list_models  # takes seconds to import
    from open_clip.transformer import QuickGELU, VisionTransformer

    if name not in list_models():
        raise UsageError(f"OpenCLIP has no network {name!r}; take for example ViT-B-16 or ViT-L-14-quickgelu.")
    whole = get_model_config(name)
    config = dict(whole["vision_cfg"])
    if not set(config) <= KNOWN or not isinstance(config["layers"], int):
        raise UsageError(f"the image tower of {name} is not a plain ViT; take for example ViT-B-16 or ViT-L-14.")
    size = image_size or config["image_size"]
    if size % config["patch_size"]:
        raise UsageError(f"image_size {size} does not fit {name}; take a multiple of {config['patch_size']}.")
    return VisionTransformer(
        image_size=size,
        patch_size=config["patch_size"],
        width=config["width"],
        layers=config["layers"],
        heads=config["width"] // config.get("head_width", 64),
        mlp_ratio=config.get("mlp_ratio", 4.0),
        output_dim=whole["embed_dim"],
        act_layer=QuickGELU if whole.get("quick_gelu", False) else nn.GELU,
    )


def load_clip(network: "VisionTransformer", state_dict: Mapping[str, Any]) -> int:
    """Put weights into a whole image transformer; returns how many entries of other parts (text) were left out.

    state_dict: of an OpenCLIP model ("visual." before the names of the image tower), or of its image tower alone. The
    position embedding is resampled where the image size differs.
    Raises `UsageError` as `load_part` does.
    """
    prefix = "visual." if any(key.startswith("visual.") for key in state_dict) else ""
    given = {key.removeprefix(prefix): value for key, value in state_dict.items() if key.startswith(prefix)}
    target = network.state_dict()
    embedding = given.get("positional_embedding")
    if (
        embedding is not None
        and embedding.ndim == 2
        and embedding.shape[1:] == target["positional_embedding"].shape[1:]
    ):
        side = list(network.grid_size)
        from timm.layers import resample_abs_pos_embed

        given["positional_embedding"] = resample_abs_pos_embed(embedding.unsqueeze(0), side, num_prefix_tokens=1)[0]
    load_part(network, given, "image tower")
    return len(state_dict) - len(given)


def load_part(network: nn.Module, given: Mapping[str, Any], what: str) -> None:
    """Put exactly these weights into a part of a CLIP.

    Raises `UsageError` that says what is missing, unexpected or of another shape; then nothing was changed.
    """
    target = network.state_dict()
    problems = {
        "missing": [key for key in target if key not in given],
        "unexpected": [key for key in given if key not in target],
        "of another shape": [key for key in target if key in given and given[key].shape != target[key].shape],
    }
    found = [f"{len(keys)} {kind} ({', '.join(keys[:3])})" for kind, keys in problems.items() if keys]
    if found:
        raise UsageError(f"the weights do not fit the {what}: {'; '.join(found)}. Give weights of this network.")
    network.load_state_dict(given)
