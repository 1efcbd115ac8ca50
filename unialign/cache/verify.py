"""Checking a store byte by byte: missing, truncated, changed, foreign or leftover files."""

import hashlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from unialign.cache.atomic import PREFIX
from unialign.cache.checks import check_record
from unialign.cache.index import check_index, index_path
from unialign.cache.mirrors import check_whole, url_of
from unialign.cache.records import Record, list_records, read_record, shard_of
from unialign.cache.store import Store, is_store_name, open_store, read_num_shards
from unialign.errors import DamagedStore
from unialign.types import Json


@dataclass(frozen=True)
class Damage:
    """One problem in a store.

    shard: the work unit that has to be extracted again; None for metadata or a stray file.
    file: path inside the store.
    """

    shard: int | None
    file: str
    problem: str


def verify_store(path: Path, progress: Callable[[int, int], None] = lambda done, total: None) -> list[Damage]:
    """All problems in a store, sorted by file; an empty list means that every byte is as it was written.

    progress: called with (shards checked, shards). Raises `MissingCache` if there is no store.
    """
    try:
        store = open_store(path)
    except DamagedStore as error:
        return [Damage(None, "zarr.json", str(error))]
    if url_of(path):
        check_whole(path.parents[2], "cache verify")
    damage = _check_metadata(store)
    expected = {path / "zarr.json", index_path(path), *(path / spec.name / "zarr.json" for spec in store.arrays)}
    files = list_records(path)
    records = []
    for number, file in enumerate(files):
        expected.add(file)
        try:
            record = read_record(file)
            # A record that does not fit this store is damage of its shard, even with a correct digest.
            check_record(store, record)
        except (DamagedStore, ValueError) as error:
            damage.append(Damage(shard_of(file.name), str(file.relative_to(path)), str(error)))
            continue
        records.append(record)
        damage += _check_shard(store, record)
        expected |= {store.shard_path(name, record.shard) for name in record.files}
        progress(number + 1, len(files))
    damage += [Damage(*found) for found in check_index(store, records)]
    damage += _check_strays(store, expected)
    return sorted(damage, key=lambda found: found.file)


def damage_rows(damage: list[Damage]) -> list[dict[str, Json]]:
    """The same as JSON objects."""
    return [asdict(found) for found in damage]


def _check_metadata(store: Store) -> list[Damage]:
    damage = []
    if is_store_name(store.path.name) and not store.path.stem.endswith(f"-{store.key.short}"):
        damage.append(Damage(None, "zarr.json", "the metadata is that of another store than the folder's name says"))
    highest = max((shard_of(file.name) or 0 for file in list_records(store.path)), default=-1)
    for spec in store.arrays:
        name = f"{spec.name}/zarr.json"
        try:
            if highest >= read_num_shards(store, spec):
                damage.append(Damage(None, name, "the sample axis is shorter than the records"))
        except DamagedStore as error:
            damage.append(Damage(None, name, str(error).removeprefix(f"{store.path / name}: ")))
    return damage


def _check_shard(store: Store, record: Record) -> list[Damage]:
    damage = []
    for name, expected in record.files.items():
        path = store.shard_path(name, record.shard)
        relative = str(path.relative_to(store.path))
        if path.is_symlink() or not path.is_file():
            damage.append(Damage(record.shard, relative, "missing"))
        elif path.stat().st_size != expected.bytes:
            damage.append(Damage(record.shard, relative, f"{path.stat().st_size} bytes instead of {expected.bytes}"))
        else:
            with path.open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
            if found != expected.sha256:
                damage.append(Damage(record.shard, relative, "the content was changed (SHA-256 differs)"))
    return damage


def _check_strays(store: Store, expected: set[Path]) -> list[Damage]:
    damage = []
    for path in sorted(store.path.rglob("*")):
        if path in expected or (path.is_dir() and not path.is_symlink()):
            continue
        relative = path.relative_to(store.path)
        if path.name.startswith(PREFIX):
            damage.append(
                Damage(None, str(relative), "a temporary that a killed writer left; the next extraction removes it")
            )
        elif len(relative.parts) > 2 and relative.parts[1] == "c":
            damage.append(Damage(None, str(relative), "no record covers this file; an extraction was cut short"))
        else:
            damage.append(Damage(None, str(relative), "not a file of this store"))
    return damage
