"""Records: the small files that vouch for shards. A shard without a valid record does not exist for any reader."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from unialign.cache.arrays import Json
from unialign.cache.atomic import write_file
from unialign.cache.errors import DamagedStore
from unialign.cache.keys import canonical, digest

FORMAT = 1

# `ok`, or why a sample has no features. "too-long" is a clip with more frames than the store's frame axis.
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
)


@dataclass(frozen=True)
class Entry:
    """What a record says of one sample.

    source: digest of what it was made from ("sha256:<hex>"), "" when there was nothing to read.
    lengths: entries along each ragged axis, by axis name: {"frame": 57}.
    detail: counts and reasons ("decoded", "declared", "why").
    """

    id: str
    status: str
    source: str = ""
    lengths: Mapping[str, int] = field(default_factory=dict)
    detail: Mapping[str, Json] = field(default_factory=dict)

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
    """One shard: the samples in its slots, in slot order, and the file of each array (none if no sample is ok)."""

    shard: int
    entries: tuple[Entry, ...]
    files: Mapping[str, ShardFile]


def record_path(store: Path, shard: int) -> Path:
    """Where the record of a shard lies."""
    return store / "records" / f"{shard:06d}.json"


def write_record(store: Path, record: Record) -> None:
    """Write a record, atomically; from now on readers see the shard."""
    body: dict[str, Json] = {
        "format": FORMAT,
        "shard": record.shard,
        "samples": [
            {
                "id": entry.id,
                "status": entry.status,
                "source": entry.source,
                "lengths": dict(entry.lengths),
                "detail": dict(entry.detail),
            }
            for entry in record.entries
        ],
        "files": {name: {"bytes": file.bytes, "sha256": file.sha256} for name, file in record.files.items()},
    }
    # The record vouches for itself too: a flipped bit in it must not turn into another sample's id.
    write_file(record_path(store, record.shard), canonical({**body, "digest": digest(body)}) + b"\n")


def read_record(path: Path) -> Record:
    """The record in a file. Raises `DamagedStore` when it is missing, malformed or does not match its own digest."""
    try:
        body = json.loads(path.read_bytes())
        claimed = body.pop("digest")
        if digest(body) != claimed:
            raise DamagedStore(f"{path}: the record does not match its own digest; run `unialign cache verify`.")
        if body["format"] != FORMAT or record_path(path.parents[1], body["shard"]) != path:
            raise DamagedStore(f"{path}: the record belongs to another shard or format; run `unialign cache verify`.")
        return Record(
            shard=body["shard"],
            entries=tuple(Entry(**sample) for sample in body["samples"]),
            files={name: ShardFile(**file) for name, file in body["files"].items()},
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedStore(f"{path}: the record cannot be read ({error}); run `unialign cache verify`.") from error


def list_records(store: Path) -> list[Path]:
    """The record files of a store in shard order; nothing is opened."""
    folder = store / "records"
    return sorted(folder.glob("[0-9]*.json")) if folder.is_dir() else []
