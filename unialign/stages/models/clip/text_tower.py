"""OpenCLIP's text transformers as modules that training runs, and texts as their token ids.

Rows of the `text` store come from `stages.extraction.text_openclip`; this is for systems that train inside the tower.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from unialign.errors import UsageError
from unialign.stages.models.clip.image_tower import load_part

if TYPE_CHECKING:
    from open_clip.transformer import TextTransformer

# What `get_model_config` may say of a text tower that `text_transformer` builds; others look both ways, pool otherwise
# or come from elsewhere.
KNOWN = {"context_length", "vocab_size", "width", "heads", "layers", "mlp_ratio"}
PARTS = ("token_embedding", "positional_embedding", "transformer", "ln_final", "text_projection")


def text_transformer(name: str) -> "TextTransformer":
    """OpenCLIP's text transformer of that name with random weights.

    Raises `UsageError` for an unknown name, and for a network that does not read from left to right as CLIP's does.
    """
    from open_clip.transformer import QuickGELU, TextTransformer  # takes seconds to import

    whole = _network(name)
    act_layer = QuickGELU if whole.get("quick_gelu", False) else nn.GELU
    return TextTransformer(output_dim=whole["embed_dim"], act_layer=act_layer, **whole["text_cfg"])


def load_text(network: "TextTransformer", state_dict: Mapping[str, Any]) -> None:
    """Put the text tower's share of an OpenCLIP state dict into it. Raises `UsageError` where it does not fit."""
    prefix = "text." if any(key.startswith("text.") for key in state_dict) else ""
    named = {key.removeprefix(prefix): value for key, value in state_dict.items() if key.startswith(prefix)}
    given = {key: value for key, value in named.items() if key.partition(".")[0] in PARTS}
    load_part(network, given, "text tower")


def token_ids(name: str, texts: Sequence[str], room: int) -> Tensor:
    """Ids of the texts' tokens (N, W) int64 with start and end, zeros behind, W those of the longest text.

    room: places of the network's context that must stay free. Raises `UsageError` for a text that does not fit, and as
    `text_transformer` does.
    """
    import open_clip  # takes seconds to import

    _network(name)  # the tokenizers of others would be looked for on the network
    tokenizer: Any = open_clip.get_tokenizer(name)
    rows = [tokenizer.encode(text) for text in texts]
    longest = max(len(row) for row in rows) + 2
    if longest > tokenizer.context_length - room:
        text = next(text for text, row in zip(texts, rows, strict=True) if len(row) + 2 == longest)
        raise UsageError(
            f"the text {text!r} has {longest} tokens, but {name} reads {tokenizer.context_length} and {room} of them "
            "are learned prompts; shorten it."
        )
    ids = torch.zeros(len(rows), longest, dtype=torch.int64)
    for place, row in enumerate(rows):
        ids[place, : len(row) + 2] = torch.tensor([tokenizer.sot_token_id, *row, tokenizer.eot_token_id])
    return ids


def _network(name: str) -> dict[str, Any]:
    """What OpenCLIP knows of a network. Raises `UsageError`, see `text_transformer`."""
    from open_clip import get_model_config, list_models  # takes seconds to import

    if name not in list_models():
        raise UsageError(f"OpenCLIP has no network {name!r}; take for example ViT-B-16 or ViT-L-14-quickgelu.")
    whole: dict[str, Any] = get_model_config(name)
    if not set(whole["text_cfg"]) <= KNOWN:
        raise UsageError(f"the text tower of {name} is not CLIP's own; take for example ViT-B-16 or ViT-L-14.")
    return whole
