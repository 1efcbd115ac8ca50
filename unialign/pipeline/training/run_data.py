"""The data of a run, sample by sample: part, label, and digests of the sources of its features.

The table is part of a run's identity, is stored in its folder as data.csv, and shows how two runs differ. Derived
features carry the digest of their original source (pose features that of the video), so a changed file changes the
table even though all store keys stay the same.
"""

import csv
import io
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from unialign.cache.bounded import read_plain
from unialign.cache.digests import text_digest
from unialign.errors import DamagedStore
from unialign.pipeline.training.run_folder import DATA, LARGEST, LEARNED, read_result, read_verified
from unialign.types import Json
from unialign.words import counted

if TYPE_CHECKING:
    from unialign.pipeline.training.preparation import PreparedRun

TEXT = "text"
PARTS = ("train", "val", "test", TEXT)
SHOWN, CLASSES = 3, 8
# Hex digits of a digest kept in the table: 128 bits.
DIGITS = 32


@runtime_checkable
class Sourced(Protocol):
    """A store or an online extractor: both know the sources of their samples."""

    def sources(self) -> Mapping[str, str]:
        """Digest of each sample's source, by id."""


@dataclass(frozen=True)
class Row:
    """One sample. part: "train", "val", "test", or "text" for a row of the text store. label: class name, "" for texts.

    sources: source digest of its features by modality, "" if the modality has none.
    """

    id: str
    part: str
    label: str
    sources: Mapping[str, str]


def data_rows(prepared: "PreparedRun") -> list[Row]:
    """The samples of a run by part and id, including those missing from the caches, then the text rows it reads."""
    names = prepared.dataset.classes
    labels = {sample.id: names[sample.label] for sample in prepared.dataset.samples}
    sources = {name: reader.sources() for name, reader in prepared.readers.items() if isinstance(reader, Sourced)}
    texts = sources.pop(TEXT, {})
    sides = (("test", prepared.test_side), ("train", prepared.train_side), ("val", prepared.val_side))
    rows = [
        Row(each, part, labels[each], {name: digests.get(each, "") for name, digests in sources.items()})
        for part, side in sides
        for each in sorted([*side.samples.ids, *(name for name, _ in side.missing)])
    ]
    return rows + [Row(each, TEXT, "", {TEXT: texts[each]}) for each in sorted(set(prepared.texts) & texts.keys())]


def data_text(rows: Sequence[Row]) -> str:
    """The table as CSV: part, id, label, and a shortened digest per modality."""
    modalities = sorted({name for row in rows for name in row.sources})
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["part", "id", "label", *modalities])
    for row in rows:
        digests = [_digits(row.sources.get(name, "")) for name in modalities]
        writer.writerow([row.part, row.id, row.label, *digests])
    return text.getvalue()


def data_digest(text: str) -> str:
    """SHA-256 of the table, 64 hex digits."""
    return text_digest(text).removeprefix("sha256:")


def split_digest(rows: Iterable[tuple[bool, str, str]]) -> str:
    """SHA-256 of the samples of a split, 64 hex digits. rows: whether it is tested, id, class name of each."""
    return text_digest("".join(sorted(f"{tested}\t{name}\t{label}\n" for tested, name, label in rows))).removeprefix(
        "sha256:"
    )


def read_data(folder: Path, digest: str) -> list[Row] | None:
    """The table in a run folder; None for a run that predates it. digest: the one recorded in the run's keys.json.

    Raises `DamagedStore` for a table that cannot be read or has been changed.
    """
    path = folder / DATA
    if not digest and not path.is_file():
        return None
    try:
        text = read_plain(path, LARGEST).decode()
    except (OSError, UnicodeDecodeError) as error:
        raise DamagedStore(f"{path} cannot be read ({error}); the run's data is not known any more.") from error
    if data_digest(text) != digest:
        raise DamagedStore(f"{path} is not what was written; the run's data is not known any more.")
    try:
        return rows_of(text)
    except (ValueError, csv.Error) as error:
        raise DamagedStore(f"{path} cannot be read ({error}); it is not the file of a run.") from error


def rows_of(text: str) -> list[Row]:
    """The rows of a table written by `data_text`. Raises `ValueError` or `csv.Error` for anything else."""
    head, *lines = csv.reader(io.StringIO(text)) if text else [[]]
    if head[:3] != ["part", "id", "label"] or len(set(head)) < len(head):
        raise ValueError("its first line is not part,id,label and the modalities")
    found = []
    for number, line in enumerate(lines, 2):
        if len(line) != len(head) or line[0] not in PARTS:
            raise ValueError(f"line {number} is no sample")
        found.append(Row(line[1], line[0], line[2], dict(zip(head[3:], line[3:], strict=True))))
    return found


def contents(rows: Sequence[Row], part: str) -> dict[str, str]:
    """Source digests of the features of a part's samples, each with the id of a sample.

    A digest shared by all samples (one file for all) carries no information and is left out, as are values that are
    not digests.
    """
    samples = [row for row in rows if row.part == part]
    found = {each: row.id for row in samples for each in map(_digits, row.sources.values()) if each and ":" not in each}
    if len(samples) > 2:
        counts = Counter(digest for row in samples for digest in set(map(_digits, row.sources.values())))
        found = {digest: name for digest, name in found.items() if counts[digest] < len(samples)}
    return found


def learned_text(learned: Mapping[str, str]) -> str:
    """CSV that `read_learned` can read; "" if `learned` is empty."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(sorted(learned.items()))
    return text.getvalue()


def read_learned(folder: Path) -> dict[str, str]:
    """What a run's initial weights were trained on: source digests, with dataset and id.

    Empty for a run without initial weights and for runs that predate this record. Raises `DamagedStore` for a table
    that was changed or is missing.
    """
    if not (folder / LEARNED).is_file() and LEARNED not in read_result(folder).get("files", {}):
        return {}
    try:
        rows = list(csv.reader(io.StringIO(read_verified(folder / LEARNED).decode())))
    except (ValueError, csv.Error) as error:
        raise DamagedStore(f"{folder / LEARNED} cannot be read ({error}).") from error
    if any(len(row) != 2 for row in rows):
        raise DamagedStore(f"{folder / LEARNED} holds something else than digests; it is not the file of a run.")
    return {row[0]: row[1] for row in rows}


def _digits(source: str) -> str:
    """The first `DIGITS` digits of a digest; a placeholder such as "poses:no-person" is kept whole."""
    return source.removeprefix("sha256:")[:DIGITS] if source.startswith("sha256:") else source


@dataclass(frozen=True)
class Report:
    """What to know about a run's data before it trains.

    only_train, only_test: classes (with their sample counts) missing from the other side. duplicates: ((part, id),
    (part, id)) of samples whose features were made from the same bytes, pairs across parts first. validation: what the
    best epoch is selected on, or why there is none. consequence: what test classes without training samples mean for
    the metrics. enlarged: (shorter side of the stored images, side that the network sees) if the first is less.
    """

    only_train: Mapping[str, int]
    only_test: Mapping[str, int]
    duplicates: tuple[tuple[tuple[str, str], tuple[str, str]], ...]
    validation: Mapping[str, Json]
    consequence: str = ""
    enlarged: tuple[int, int] | None = None

    def result(self) -> dict[str, Json]:
        """The field `data` of result.json; duplicates as counts per pair of parts, and the first few examples."""
        counts = Counter(f"{first}-{second}" for (first, _), (second, _) in self.duplicates)
        return {
            "only_train": dict(self.only_train),
            "only_test": dict(self.only_test),
            "duplicates": dict(counts),
            "duplicate_examples": [[list(first), list(second)] for first, second in self.duplicates[:SHOWN]],
            "validation": dict(self.validation),
        }

    def sentences(self) -> Iterator[str]:
        """The same as sentences: only what is unusual, and always what the best epoch is selected on."""
        for classes, side, so in ((self.only_test, "test", self.consequence), (self.only_train, "train", "")):
            if classes:
                shown = ", ".join(f"{name} ({count:,})" for name, count in list(classes.items())[:CLASSES])
                more = f" and {len(classes) - CLASSES} more" if len(classes) > CLASSES else ""
                yield f"classes only in {side}, with their samples: {shown}{more}{so and f'; {so}'}."
        across = [pair for pair in self.duplicates if pair[0][0] != pair[1][0]]
        within = len(self.duplicates) - len(across)
        if across:
            parts = Counter(f"{second} and {first}" for (first, _), (second, _) in across)
            counts = ", ".join(f"{count} in both {parts}" for parts, count in parts.items())
            shown = ", ".join(f"{second} = {first}" for (_, first), (_, second) in across[:SHOWN])
            yield f"samples of the same content, which a model may know by heart: {counts} ({shown})."
        if within:
            yield f"{counted(within, 'sample has', 'samples have')} the content of another one in the same part."
        if self.enlarged:
            stored, seen = self.enlarged
            yield (
                f"images are stored with a shorter side of {stored} pixels and enlarged to {seen}, which adds cost and "
                f"no detail: set image_size to {stored} or less, or extract frames with --short-side {seen} or more."
            )
        origin, why = self.validation["origin"], self.validation["why"]
        yield (
            f"no best epoch is chosen, the last one counts: {why}."
            if origin == "none"
            else f"best epoch: chosen on {why}."
        )


def report_of(prepared: "PreparedRun", rows: Sequence[Row]) -> Report:
    """The report on these rows, as returned by `data_rows`."""
    counts = {part: Counter(row.label for row in rows if row.part == part) for part in ("train", "val", "test")}
    learned, validation = counts["train"], dict(prepared.validation)
    if validation["origin"] != "none" and not len(prepared.val_side.samples):
        validation = {"origin": "none", "why": "the caches hold none of its samples"}
    tested, consequence = counts["test"], "they count as wrong" if prepared.unknown else ""
    if not tested:
        # An encoder trained for a zero-shot protocol excludes all test samples.
        labels = {sample.id: prepared.dataset.classes[sample.label] for sample in prepared.dataset.samples}
        tested = Counter(labels[each] for each in prepared.dataset.split(prepared.protocol).test)
        consequence = "there are no others, so nothing is tested"
    return Report(
        only_train={name: learned[name] for name in sorted(learned.keys() - tested.keys())},
        only_test={name: tested[name] for name in sorted(tested.keys() - learned.keys())},
        duplicates=tuple(duplicates(rows)),
        validation=validation,
        consequence=consequence,
        enlarged=_enlarged(prepared.train),
    )


def _enlarged(source: object) -> tuple[int, int] | None:
    # Here, since it loads torch, which comparing runs does not need.
    from unialign.stages.training.clips import Clips

    frames = source.frames if isinstance(source, Clips) else None
    return (frames.short_side, frames.image_size) if frames and 0 < frames.short_side < frames.image_size else None


def duplicates(rows: Sequence[Row]) -> list[tuple[tuple[str, str], tuple[str, str]]]:
    """Pairs (first, other) of samples with the same source digest in a modality, pairs across parts first.

    Within a group of duplicates, every other sample is paired with the first, which is a training sample if there is
    one. A digest shared by all samples (one file for all) carries no information and is left out.
    """
    rank = {"train": 0, "val": 1, "test": 2}
    samples = [row for row in rows if row.part in rank]
    groups: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in samples:
        for modality, digest in row.sources.items():
            if digest and ":" not in digest.removeprefix("sha256:"):
                groups[modality, digest].append(row)
    found: dict[tuple[str, str], tuple[str, str]] = {}
    for group in groups.values():
        if not 1 < len(group) < max(len(samples), 3):
            continue
        first, *others = sorted(group, key=lambda row: (rank[row.part], row.id))
        for other in others:
            found.setdefault((other.part, other.id), (first.part, first.id))
    return sorted(((first, other) for other, first in found.items()), key=lambda pair: (pair[0][0] == pair[1][0], pair))
