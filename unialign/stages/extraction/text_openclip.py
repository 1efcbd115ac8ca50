"""OpenCLIP text towers: finding their weights, and loading them with the right activation."""

from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np

from unialign.cache.bounded import parse_json
from unialign.cache.digests import file_digest
from unialign.errors import UsageError
from unialign.stages.extraction.text_network import TextEncoder, fetch_model
from unialign.stages.foreign_weights import check_clip_weights


def openclip_name(model: str) -> str:
    """Name of the network in `NAME:TAG` or `NAME`."""
    return model.partition(":")[0].replace("/", "-")


def find_openclip(model: str, weights: Path | None) -> Path:
    """The weights file of a network: `weights`, or looked up by tag. Raises `UsageError` for unknown or missing
    ones.
    """
    import open_clip

    name, tag = openclip_name(model), model.partition(":")[2]
    if name not in open_clip.list_models():
        near = ", ".join(get_close_matches(name, open_clip.list_models(), n=3) or ["ViT-B-16", "ViT-L-14"])
        what = f"OpenCLIP has no network {name!r}" if name else f"{weights}: a weights file does not name its network"
        raise UsageError(f"{what}; name it with `--model`, for example {near}.")
    elsewhere = open_clip.get_model_config(name)["text_cfg"].get("hf_tokenizer_name")
    if elsewhere:
        raise UsageError(
            f"{name} reads text with the tokenizer {elsewhere!r}, which does not come with OpenCLIP; choose a network "
            f"with OpenCLIP's own tokenizer, such as ViT-B-16 or ViT-L-14."
        )
    published = open_clip.get_pretrained_cfg(name.removesuffix("-quickgelu"), tag) if tag else {}
    tags = open_clip.list_pretrained_tags_by_model(name)
    if (tag and not published) or (weights is None and not tag):
        what = f"no weights {tag!r}" if tag else "no weights without a tag"
        raise UsageError(
            f"OpenCLIP has {what} for {name}; write `--model {name}:TAG` with TAG one of {', '.join(tags) or '(none)'},"
            f" or give a local file with `--weights FILE`."
        )
    _check_activation(name, tag, weights)
    if weights is None:
        return _fetch_openclip(name, tag, published)
    if not weights.is_file():
        raise UsageError(f"{weights}: is not a file; give the weights file, such as open_clip_model.safetensors.")
    return weights.absolute()


def _fetch_openclip(name: str, tag: str, published: dict[str, Any]) -> Path:
    """The weights file of a tag, from the Hugging Face cache or the network; otherwise `UsageError` with the
    alternatives.
    """
    import open_clip
    from open_clip.constants import HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME

    repository, _, only_file = str(published.get("hf_hub", "")).rpartition("/")
    if repository:
        names = [only_file] if only_file else [HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME]
        for file in names:
            folder = fetch_model(repository, [file], file)
            if folder is not None:
                return folder / file
        source = f"{names[0]} of https://huggingface.co/{repository}"
    else:
        source = str(published["url"])
        try:
            return Path(open_clip.download_pretrained_from_url(source))
        except OSError:
            pass  # no network: reported below
    raise UsageError(
        f"the OpenCLIP weights {name}:{tag} are not on this machine and cannot be downloaded; get {source} elsewhere "
        f"and pass `--model {name}:{tag} --weights FILE`; `extract text --encoder minilm` needs no download."
    )


def _published_activation(name: str, tag: str, weights: Path | None) -> tuple[bool, str] | None:
    """Whether weights were trained with QuickGELU, and how that is known; None if it is not.

    A state dict does not say. A tag does, as does the configuration file that Hugging Face repositories keep next to
    the weights, and some published files have it in their name.
    """
    import open_clip

    if tag:
        published = open_clip.get_pretrained_cfg(name.removesuffix("-quickgelu"), tag)
        return bool(published.get("quick_gelu", False)), f"tag {tag!r}"
    if weights is None:
        return None
    beside = weights.parent / "open_clip_config.json"
    if beside.is_file():
        try:
            network = parse_json(beside.read_bytes()).get("model_cfg", {})
        except (ValueError, AttributeError) as error:
            raise UsageError(f"{beside}: is not an OpenCLIP configuration ({error}); repair or remove it.") from error
        return bool(network.get("quick_gelu", False)), f"{beside.name} beside it"
    return (True, "its file name") if "quickgelu" in weights.name else None


def _check_activation(name: str, tag: str, weights: Path | None) -> None:
    """Raises `UsageError` if the weights are known to be trained with the other activation.

    OpenCLIP only warns, and only for tags, and computes wrong embeddings.
    """
    import open_clip

    network = open_clip.get_model_config(name)
    known = _published_activation(name, tag, weights)
    if known is None or known[0] == network.get("quick_gelu", False):
        return
    right = (f"{name}-quickgelu" if known[0] else name.removesuffix("-quickgelu")) + (f":{tag}" if tag else "")
    kind = "with QuickGELU" if known[0] else "without QuickGELU"
    what = f"{weights}: these weights" if weights else "these weights"
    raise UsageError(f"{what} were trained {kind} ({known[1]}), but {name} uses the other one; use `--model {right}`.")


def load_openclip(model: str, weights: Path, device: str) -> TextEncoder:
    """The text tower of a network with the weights in a file; its rows are float32 (width,), not normalized.

    Raises `UsageError` for a file that is no checkpoint of that network.
    """
    import open_clip
    import torch

    name = openclip_name(model)
    try:
        check_clip_weights(weights)
        network = open_clip.create_model(
            name, pretrained=str(weights), device=device, require_pretrained=True, weights_only=True
        )
    except Exception as error:  # it may be any file, so reading it can raise anything
        reason = str(error).strip().partition("\n")[0]
        raise UsageError(
            f"{weights}: cannot be loaded into OpenCLIP's {name} ({reason}); give a state dict of that network, or "
            f"name the network that it belongs to with `--model`."
        ) from error
    network.visual = torch.nn.Identity()  # only the text tower is used; this frees the memory of the other
    network.eval()
    tokenizer = open_clip.get_tokenizer(name)

    def embed_all(texts: Sequence[str]) -> np.ndarray:
        with torch.inference_mode():
            rows = network.encode_text(tokenizer(list(texts)).to(device))
        return np.asarray(rows.float().cpu().numpy())

    def embed(text: str) -> np.ndarray:
        return np.asarray(embed_all([text])[0])

    return TextEncoder(
        width=len(embed("width")),
        max_tokens=tokenizer.context_length,
        tokenizer="open_clip SimpleTokenizer",  # its vocabulary is part of the library, whose version is in the key
        weights_digest=file_digest(weights),
        embed=embed,
        # Its smallest tokens are bytes, so it has no unknown token, but its vocabulary is that of English.
        latin_only=True,
        embed_all=embed_all,
        is_padded=True,
        tokens=lambda text: [tokenizer.sot_token_id, *tokenizer.encode(text), tokenizer.eot_token_id],
    )


# sentence-transformers
