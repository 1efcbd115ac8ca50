"""Records: the small files that cover shards by checksum. Readers ignore a shard without a valid record."""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from unialign.cache.atomic import write_file
from unialign.cache.bounded import check_inside, read_plain
from unialign.cache.keys import canonical
from unialign.cache.schema import MAX_SHARD, RECORD_BYTES, RecordBody, reason
from unialign.errors import DamagedStore
from unialign.types import Json

# 2: entries have checksums. A record of format 1 is rejected, since it does not cover single samples.
FORMAT = 2

# Length of `{"digest":"<64 hex>",`, with which every record begins.
_HEAD = 77

# What follows it if a record states what computed its shard, and the maximum length of that.
_ENVIRONMENT, _ENVIRONMENT_BYTES = '"environment":', 4096

# `ok`, or why a sample has no features. "too-long" is a clip with more frames than the store's frame axis. The last
# four are set by the supervisor (`pipeline/extraction/supervisor.py`); "internal-error" is a bug in this package or a
# library. New ones must be appended: an index stores their positions.
STATUSES = (
    "ok",
    "missing-file",
    "unreadable",
    "truncated",
    "corrupt-frames",
    "no-person",
    "too-long",
    "timeout",
    "out-of-memory",
    "crashed",
    "internal-error",
)


@dataclass(frozen=True)
class Entry:
    """A record's entry of one sample.

    source: digest of what it was made from ("sha256:<hex>"), "" if there was nothing to read.
    lengths: entries along each ragged axis, by axis name: {"frame": 57}.
    detail: counts and reasons ("decoded", "declared", "why").
    checksums: by array, the crc32c over the sample's own chunks (`cache.codecs.sample_checksum`).
    """

    id: str
    status: str
    source: str = ""
    lengths: Mapping[str, int] = field(default_factory=dict)
    detail: Mapping[str, Json] = field(default_factory=dict)
    checksums: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.status not in STATUSES:
            raise ValueError(f"sample {self.id}: unknown status {self.status!r}")


@dataclass(frozen=True)
class ShardFile:
    """Size and SHA-256 of one array's file in a shard."""

    bytes: int
    sha256: str


@dataclass(frozen=True)
class Record:
    """One shard: the samples in its slots, in slot order, and the file of each array (none if no sample is ok).

    environment: what computed it, see `write_shard`; empty in older records.
    """

    shard: int
    entries: tuple[Entry, ...]
    files: Mapping[str, ShardFile]
    environment: Mapping[str, Json] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for entry in self.entries:
            if set(entry.checksums) != (set(self.files) if entry.status == "ok" else set()):
                raise ValueError(
                    f"sample {entry.id}: checksums of {sorted(entry.checksums)}, files of {sorted(self.files)}"
                )


def record_path(store: Path, shard: int) -> Path:
    """Path of the record of a shard."""
    return store / "records" / f"{shard:06d}.json"


def write_record(store: Path, record: Record) -> None:
    """Write a record, atomically; from then on readers see the shard.

    It names its store, so that a complete unit of another store, with the same samples, cannot replace it.
    """
    body: dict[str, Json] = {
        "format": FORMAT,
        "store": store.stem,
        "shard": record.shard,
        "samples": [
            {
                "id": entry.id,
                "status": entry.status,
                "source": entry.source,
                "lengths": dict(entry.lengths),
                "detail": dict(entry.detail),
                "checksums": dict(entry.checksums),
            }
            for entry in record.entries
        ],
        "files": {name: {"bytes": file.bytes, "sha256": file.sha256} for name, file in record.files.items()},
    }
    if record.environment:
        body["environment"] = dict(record.environment)
    # The record also covers itself: a flipped bit in it must not turn into another sample's id.
    path = record_path(store, record.shard)
    check_inside(store, path)
    write_file(path, _signed(canonical(body)[1:] + b"\n"))


def _signed(body: bytes) -> bytes:
    """A record from its text after the opening brace; "digest" comes first, as the first of the sorted keys."""
    checksum = hashlib.sha256(b"{" + body.removesuffix(b"\n")).hexdigest()
    return f'{{"digest":"{checksum}",'.encode() + body


def read_record(path: Path) -> Record:
    """The record in a file. Raises `DamagedStore` if it is missing, malformed or does not match its own digest."""
    try:
        data = read_plain(path, RECORD_BYTES)
    except OSError as error:
        raise DamagedStore(
            f"{path}: the record cannot be read ({error.strerror}); run `unialign cache verify`."
        ) from error
    return decode_record(data, str(path))


def decode_record(data: bytes, name: str) -> Record:
    """The record in some bytes. name: the file's path or address, which ends in the number of the shard.

    Raises `DamagedStore` if they do not match their own digest, or belong to another shard.
    """
    if _signed(data[_HEAD:]) != data:
        raise DamagedStore(f"{name}: the record does not match its own digest; run `unialign cache verify`.")
    try:
        body = RecordBody.model_validate_json(data)
        if body.format == 1:
            raise DamagedStore(
                f"{name}: the record was made by an earlier version of unialign, without checksums of samples; "
                "run `unialign extract MODALITY --repair` to make its samples again, or remove the store."
            )
        if body.format != FORMAT or not name.endswith(f"/{body.shard:06d}.json"):
            raise DamagedStore(f"{name}: the record belongs to another shard or format; run `unialign cache verify`.")
        folder = PurePosixPath(name).parent.parent.name
        if folder.endswith(".zarr") and body.store != folder.removesuffix(".zarr"):
            raise DamagedStore(
                f"{name}: the record belongs to the store {body.store[:200]}; "
                "give the folder that name back if it was renamed, or run `unialign extract MODALITY --repair`."
            )
        return Record(
            shard=body.shard,
            entries=tuple(
                Entry(each.id, each.status, each.source, each.lengths, each.detail, each.checksums)
                for each in body.samples
            ),
            files={array: ShardFile(file.bytes, file.sha256) for array, file in body.files.items()},
            environment=body.environment,
        )
    except ValueError as error:
        raise DamagedStore(
            f"{name}: the record cannot be read ({reason(error)}); run `unialign cache verify`."
        ) from error


def shard_of(name: str) -> int | None:
    """The number of the shard that a record's file is named after; None for another name."""
    stem = name.removesuffix(".json")
    # Other spellings of a number (Arabic digits, an extra zero) are other files.
    number = int(stem) if stem != name and stem.isascii() and stem.isdecimal() and len(stem) < 20 else MAX_SHARD + 1
    return number if number <= MAX_SHARD and name == f"{number:06d}.json" else None


def list_records(store: Path) -> list[Path]:
    """The record files of a store in shard order; nothing is opened."""
    folder = store / "records"
    found = [path for path in folder.glob("[0-9]*.json") if shard_of(path.name) is not None] if folder.is_dir() else []
    return sorted(found, key=lambda path: (len(path.name), path.name))


def count_environments(store: Path) -> list[dict[str, Json]]:
    """What computed the shards of a store: each `Record.environment` with its number of "shards", most frequent first.

    More than one row means that several environments were mixed. Only the beginning of each record is read, unverified.
    """
    counts: Counter[str] = Counter()
    for path in list_records(store):
        counts[_environment(path)] += 1
    return [{**json.loads(text), "shards": count} for text, count in sorted(counts.items(), key=lambda each: -each[1])]


def _environment(path: Path) -> str:
    """The canonical text of a record's `environment`, "{}" where it has none: of the sorted keys it is the first."""
    try:
        head = read_plain(path, RECORD_BYTES, first=_HEAD + _ENVIRONMENT_BYTES)[_HEAD:].decode(errors="replace")
        if not head.startswith(_ENVIRONMENT):
            return "{}"
        value, _ = json.JSONDecoder().raw_decode(head, len(_ENVIRONMENT))
        return canonical(value).decode() if isinstance(value, dict) else "{}"
    except (OSError, ValueError, RecursionError):
        return "{}"
