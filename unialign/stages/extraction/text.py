"""The `text` modality: one embedding per (template, class) and per longer description of a class."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from itertools import islice, pairwise
from pathlib import Path

import numpy as np

from unialign.cache.arrays import ArraySpec
from unialign.cache.digests import text_digest
from unialign.errors import CorruptInput, StaleCache, UsageError
from unialign.stages.extraction.base import Outcome, Source
from unialign.stages.extraction.templates import check_template, read_lines
from unialign.stages.extraction.text_encoders import ENCODERS, load_encoder
from unialign.stages.extraction.text_network import TextEncoder
from unialign.stages.extraction.text_windows import windows
from unialign.types import Json

log = logging.getLogger(__name__)

OTHER_LANGUAGE = "name the classes in its language, or take `--encoder sentence` with a model of theirs"
# A name with this share of unknown tokens carries no information.
MOST_UNKNOWN = 0.5
LONG_TEXT = ("error", "windows")
# Texts that are sorted into batches at a time, and whose rows appear together.
AT_ONCE = 256


def label_id(template: str, class_name: str) -> str:
    """Id of the row of a class name in a template."""
    return f"label|{template}|{class_name}"


def description_id(index: int, class_name: str) -> str:
    """Id of the row of description number `index` (from 0) of a class."""
    return f"description|{index}|{class_name}"


def text_rows(
    classes: Sequence[str], templates: Sequence[str], descriptions: Sequence[Sequence[str]] = ()
) -> tuple[Source, ...]:
    """One source per (template, class), by template, then one per description, by class.

    classes: names in label order. descriptions: for each class any number of descriptions, or empty. Raises
        `UsageError` for a class name that is empty, repeated or contains a `|`, for a bad or repeated template, and for
        descriptions that are blank or whose number differs from that of the classes.
    """
    labels: dict[str, int] = {}
    for label, name in enumerate(classes):
        if not name.strip() or "|" in name:
            raise UsageError(f"class {label} is named {name!r}; a class name must not be empty or contain '|'.")
        if name in labels:
            raise UsageError(f"classes {labels[name]} and {label} are both named {name!r}; give them different names.")
        labels[name] = label
    for template in templates:
        check_template(template, "templates")
        if list(templates).count(template) > 1:
            raise UsageError(f"templates: {template!r} is repeated; remove one.")
    if descriptions and len(descriptions) != len(classes):
        raise UsageError(f"there are descriptions for {len(descriptions)} classes, but {len(classes)} classes.")
    rows = [
        Source(label_id(template, name), text=template.replace("{}", name))
        for template in templates
        for name in classes
    ]
    for name, texts in zip(classes, descriptions, strict=False):
        for index, text in enumerate(texts):
            if not text.strip():
                raise UsageError(f"description {index} of class {name!r} is blank; write it or leave it out.")
            rows.append(Source(description_id(index, name), text=text))
    return tuple(rows)


def read_descriptions(path: Path, num_classes: int) -> tuple[tuple[str, ...], ...]:
    """The descriptions in a text file by class, in label order: one line per class, tabs between several of a class.

    Raises `UsageError` for an unreadable file, a blank line or part, and a number of lines other than `num_classes`.
    """
    lines = read_lines(path)
    if len(lines) != num_classes:
        raise UsageError(
            f"{path}: has {len(lines)} lines, but the dataset has {num_classes} classes; write one line per class, in "
            f"label order."
        )
    rows = []
    for number, line in enumerate(lines, start=1):
        parts = tuple(part.strip() for part in line.split("\t"))
        if not all(parts):
            what = "is blank" if len(parts) == 1 else "has a blank part between tabs"
            raise UsageError(f"{path}: line {number} of {len(lines)} {what}; write the description of that class.")
        rows.append(parts)
    return tuple(rows)


@dataclass(frozen=True)
class TextEmbeddings:
    """Extractor of the `text` modality; create one with `text_extractor`, which fills in what depends on the network.

    long_text: how to handle a text with more tokens than the network reads. "error": `UsageError` before anything is
        embedded. "windows": the text is cut into `windows`, each is embedded and scaled to length 1 (if `normalise`),
        and the row is their mean, scaled to length 1 again. It is never truncated silently.
    normalize: rows have length 1.
    Each row is that of its text alone (see `TextEncoder.encode`): in a batch of texts that are padded to the longest,
    its last bits would depend on its neighbors (9e-8 measured with MiniLM).
    """

    name: str
    model: str
    weights: Path
    weights_digest: str
    tokenizer: str
    width: int
    long_text: str = "error"
    normalise: bool = True
    device: str = "auto"

    modality = "text"
    revision = 1

    def key(self) -> Mapping[str, Json]:
        """Encoder, network, weights, tokenizer, handling of long texts, and the libraries that affect the bytes."""
        return {
            "extractor": self.name,
            "revision": self.revision,
            "model": ENCODERS[self.name].network(self.model),
            "weights": self.weights_digest,
            "tokenizer": self.tokenizer,
            "long_text": self.long_text,
            "normalise": self.normalise,
            "libraries": {library: version(library) for library in ENCODERS[self.name].libraries},
        }

    def arrays(self) -> tuple[ArraySpec, ...]:
        """One array, `embedding` (width,)."""
        length = "rows have length 1" if self.normalise else "as the network gives them"
        return (ArraySpec("embedding", "float32", (self.width,), ("channel",), attributes={"units": length}),)

    def attributes(self) -> Mapping[str, Json]:
        """The kind of network, the license of its weights, and the structure of row ids."""
        return {
            "encoder": ENCODERS[self.name].description,
            "licence": ENCODERS[self.name].license(self.weights),
            "row_ids": "label|<template>|<class name> or description|<number>|<class name>",
        }

    def check(self, sources: Sequence[Source]) -> None:
        """Raises `UsageError` for classes that the network cannot read or distinguish, and, if long texts are an
        error, for a text that is too long for it. Warns if it reads most class names letter by letter.
        """
        network = self._network()
        self._check_length(sources, network)
        self._check_classes(sources, network)
        names = {source.id.rpartition("|")[2] for source in sources if source.id.startswith("label|")}
        spelled = sorted(name for name in names if network.spells(name))
        if spelled and 2 * len(spelled) >= len(names):
            how_many = f"{len(spelled)} of {len(names)} class names letter by letter ({spelled[0]})"
            log.warning("%s reads %s: it hardly knows their language; %s.", self.model, how_many, OTHER_LANGUAGE)

    def _check_length(self, sources: Sequence[Source], network: TextEncoder) -> None:
        if self.long_text != "error":
            return
        counts = [(network.count_tokens(source.text), source.id) for source in sources]
        too_long = [(count, name) for count, name in counts if count > network.max_tokens]
        if too_long:
            count, name = too_long[0]
            others = f" (and {len(too_long) - 1} more texts are too long)" if len(too_long) > 1 else ""
            raise UsageError(
                f"the text {name!r} has {count} tokens, but {self.name} {self.model} reads at most {network.max_tokens}"
                f"{others}; shorten it, or pass `--long-text windows` to embed it in pieces and average them."
            )

    def _check_classes(self, sources: Sequence[Source], network: TextEncoder) -> None:
        tokens: dict[tuple[str, tuple[int, ...]], str] = {}
        for source in sources:
            kind, _, rest = source.id.partition("|")
            if kind != "label":
                continue
            template, _, name = rest.rpartition("|")
            share = network.unknown_share(name)
            if share >= MOST_UNKNOWN:
                raise UsageError(
                    f"the class {name!r}: {self.name} {self.model} has no tokens for {share:.0%} of the name; "
                    f"{OTHER_LANGUAGE}."
                )
            # Equal tokens give equal embeddings.
            other = tokens.setdefault((template, tuple(network.tokens(source.text))), name)
            if other != name:
                raise UsageError(
                    f"the classes {other!r} and {name!r} look the same to {self.name} {self.model}, so nothing "
                    f"could tell their embeddings apart; {OTHER_LANGUAGE}."
                )

    def digest(self, source: Source) -> str:
        """See `Extractor`."""
        return text_digest(source.text)

    def run(self, sources: Sequence[Source]) -> Iterator[Outcome]:
        """One row per source, in order; a blank text is "unreadable". Raises for long texts before the first row,
        `StaleCache` if the weights changed since the key was made, `CorruptInput` if they give no finite numbers.
        """
        network = self._network()
        self._check_length(sources, network)
        rest = iter(sources)
        while some := list(islice(rest, AT_ONCE)):
            yield from self._embedded(some, network)

    def _embedded(self, sources: Sequence[Source], network: TextEncoder) -> Iterator[Outcome]:
        """The rows of some sources, whose texts go through the network together."""
        texts = [source.text if source.text.strip() else "" for source in sources]
        pieces = [windows(text, network.count_tokens, network.max_tokens) if text else [] for text in texts]
        rows = network.encode([piece for several in pieces for piece in several]).astype(np.float64)
        ends = np.cumsum([0, *map(len, pieces)]).tolist()
        for source, text, (start, end) in zip(sources, texts, pairwise(ends), strict=True):
            digest = text_digest(source.text)
            if not text:
                yield Outcome(source.id, "unreadable", digest, detail={"why": "the text is blank"})
                continue
            detail = {"tokens": network.count_tokens(text), "windows": end - start}
            yield Outcome(source.id, "ok", digest, {"embedding": self._row(rows[start:end])}, detail)

    def _network(self) -> TextEncoder:
        network = load_encoder(self.name, self.model, self.weights, self.device)
        if network.weights_digest != self.weights_digest:
            raise StaleCache(f"{self.weights}: the weights are not those that this extraction was planned with.")
        return network

    def _row(self, rows: np.ndarray) -> np.ndarray:
        """The (width,) float32 row of a text from those of its pieces (pieces, width), float64."""
        row = unit_rows(unit_rows(rows).mean(axis=0, keepdims=True))[0] if self.normalise else rows.mean(axis=0)
        if not np.isfinite(row).all():
            raise CorruptInput(
                f"{self.weights}: the network gives zeros or numbers that are not finite; check the file."
            )
        return np.asarray(row, dtype=np.float32)


def unit_rows(rows: np.ndarray) -> np.ndarray:
    """Rows (N, D) scaled to length 1, float64; a row of zeros has no direction and becomes NaN."""
    lengths = np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(rows / lengths)


def text_extractor(
    encoder: str = "minilm",
    model: str = "",
    weights: Path | None = None,
    long_text: str = "error",
    normalise: bool = True,
    device: str = "auto",
) -> TextEmbeddings:
    """The extractor for an encoder of `ENCODERS`, with its network loaded.

    model: `NAME:TAG` or `NAME` of OpenCLIP, a Hugging Face name for "sentence"; empty means the encoder's default.
    weights: a local weights file ("openclip") or model folder ("sentence"); None looks the model up in the local
        Hugging Face cache and then on the network. device: "auto" (CUDA if available), "cpu", "cuda:1".
    Raises `UsageError` for unknown names, missing weights, and weights that do not belong to the network.
    """
    if encoder not in ENCODERS:
        raise UsageError(f"there is no text encoder {encoder!r}; choose one of {', '.join(ENCODERS)}.")
    if long_text not in LONG_TEXT:
        raise UsageError(f"long texts are handled as {' or '.join(LONG_TEXT)}, not {long_text!r}.")
    kind = ENCODERS[encoder]
    model = model or (kind.default_model if weights is None else "")
    found = kind.find(model, weights)
    network = load_encoder(encoder, model, found, device)
    return TextEmbeddings(
        name=encoder,
        model=model,
        weights=found,
        weights_digest=network.weights_digest,
        tokenizer=network.tokenizer,
        width=network.width,
        long_text=long_text,
        normalise=normalise,
        device=device,
    )
