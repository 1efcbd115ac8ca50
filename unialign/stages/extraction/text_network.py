"""The interface of text networks, and what their libraries share: silencing, downloads, tokenizers."""

import hashlib
import json
import logging
import os
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from unialign.stages.extraction.heartbeat import beat

# Texts that go through a network at once.
BATCH = 16


@dataclass(frozen=True)
class TextEncoder:
    """A loaded network.

    width: D of a row. max_tokens: how many tokens it reads, special ones included. tokenizer: its digest or name.
        embed: one text to one float32 row (D,), not yet normalized. tokens: the token ids of a text, special ones
        included, untruncated. unknown: the id for everything that it has no tokens for, if there is one. latin_only: it
        was trained on English and reads letters of other scripts byte by byte. embed_all: several texts of one length
        to rows (N, D), in one call; None if it has no such call. is_padded: texts have one length for it, `max_tokens`.
    """

    width: int
    max_tokens: int
    tokenizer: str
    weights_digest: str
    embed: Callable[[str], np.ndarray]
    tokens: Callable[[str], Sequence[int]]
    unknown: int | None = None
    latin_only: bool = False
    embed_all: Callable[[Sequence[str]], np.ndarray] | None = None
    is_padded: bool = False
    # For each length, whether the rows of a batch have the bits of texts alone.
    _alike: dict[int, bool] = field(default_factory=dict, init=False, compare=False, repr=False)

    def count_tokens(self, text: str) -> int:
        """Number of tokens of a text."""
        return len(self.tokens(text))

    def spells(self, text: str) -> bool:
        """Whether a text of four letters or more is split into single letters."""
        letters = sum(char.isalpha() for char in text)
        return letters > 3 and self.count_tokens(text) - self.count_tokens("") >= letters

    def unknown_share(self, text: str) -> float:
        """Share of a text that it cannot read: of its tokens, special ones excluded, or of its letters."""
        if self.latin_only:
            letters = [char for char in text if char.isalpha()]
            return sum(not unicodedata.name(char, "").startswith("LATIN") for char in letters) / max(len(letters), 1)
        own = self.count_tokens(text) - self.count_tokens("")
        return list(self.tokens(text)).count(self.unknown) / own if own > 0 and self.unknown is not None else 0.0

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """(N, D) float32; each row has the bits that its text gets alone, so it never depends on its neighbors.

        Texts of one length go through the network `BATCH` at a time if that gives the same bits here, which depends on
        the processor, its libraries and the length: the first batch of each length is computed both ways.
        """
        places: dict[int, list[int]] = defaultdict(list)
        for place, text in enumerate(texts):
            places[self.max_tokens if self.is_padded else self.count_tokens(text)].append(place)
        rows = np.empty((len(texts), self.width), dtype=np.float32)
        for length, several in places.items():
            for start in range(0, len(several), BATCH):
                some = several[start : start + BATCH]
                rows[some] = self._encode([texts[place] for place in some], length)
        return rows

    def _encode(self, texts: Sequence[str], length: int) -> np.ndarray:
        """The rows of up to `BATCH` texts of one length."""
        alike = self._alike.get(length)
        if self.embed_all is not None and alike:
            beat()
            # Always as many, since bits depend on the number.
            return self.embed_all([*texts, *[texts[-1]] * (BATCH - len(texts))])[: len(texts)]
        rows = []
        for text in texts:
            beat()
            rows.append(self.embed(text))
        alone = np.stack(rows)
        if self.embed_all is not None and alike is None and len(texts) == BATCH:
            self._alike[length] = np.array_equal(self.embed_all(texts), alone)
        return alone


@dataclass(frozen=True)
class EncoderRow:
    """One way to get a `TextEncoder`; what `extract text --encoder` names.

    description: the kind of network, for readers of the store. libraries: distributions that affect the bytes. network:
        the part of the model's name that is part of the key. find: (model, weights or None) to the local file or
        folder. load: (model, that path, device) to the network. license: of the weights at that path.
    """

    description: str
    default_model: str
    libraries: tuple[str, ...]
    network: Callable[[str], str]
    find: Callable[[str, Path | None], Path]
    load: Callable[[str, Path, str], TextEncoder]
    license: Callable[[Path], str]


@contextmanager
def quiet_libraries(offline: bool = True) -> Iterator[None]:
    """Silence the Hugging Face libraries and OpenCLIP: no progress bars, reports or telemetry and, if `offline`, no
    requests.

    On exit everything is as before, except that telemetry stays off.
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
    # OpenCLIP logs through functions of the root logger, which install a handler if there is none.
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


def fetch_model(repository: str, patterns: Sequence[str], needed: str) -> Path | None:
    """Folder of a Hugging Face repository with the file `needed`: from the local cache, else downloaded, else None."""
    from huggingface_hub import snapshot_download

    for local in (True, False):
        try:
            with quiet_libraries(offline=local):
                folder = Path(snapshot_download(repository, allow_patterns=list(patterns), local_files_only=local))
        except (OSError, ValueError):
            continue  # not found, no network, or not the name of a repository: the caller says what to do
        if (folder / needed).is_file():
            return folder
    return None


def tokenizer_digest(tokenizer: Any) -> str:
    """Digest of a Hugging Face tokenizer's rules and vocabulary, without the settings that calls change."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    rules = json.loads(backend.to_str()) if backend is not None else {"vocabulary": tokenizer.get_vocab()}
    rules = {name: rule for name, rule in rules.items() if name not in ("truncation", "padding")}
    return f"sha256:{hashlib.sha256(json.dumps(rules, sort_keys=True).encode()).hexdigest()}"


# OpenCLIP
