"""The key of a store: every setting that affects a feature's bytes, field by field, and its digest."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from unialign.types import Json

SHORT = 12
# What stands in place of a value that one of two keys lacks.
ABSENT = "(absent)"


def canonical(value: Json) -> bytes:
    """The canonical spelling of a value: JSON with sorted keys, no spaces, UTF-8. Rejects NaN and infinity
    (`ValueError`).
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def digest(value: Json) -> str:
    """SHA-256 of the canonical spelling, as 64 hex digits."""
    return hashlib.sha256(canonical(value)).hexdigest()


@dataclass(frozen=True)
class Key:
    """The settings that made a store.

    fields: a JSON object; nested objects are fields of their own ("parameters.confidence").
    """

    fields: Mapping[str, Json]

    @property
    def digest(self) -> str:
        """SHA-256 of the fields, 64 hex digits; equal fields give equal digests in any order of insertion."""
        return digest(dict(self.fields))

    @property
    def short(self) -> str:
        """The first 12 digits, as in a store's name."""
        return self.digest[:SHORT]


def flatten(fields: Mapping[str, Json], prefix: str = "") -> Iterator[tuple[str, Json]]:
    """The leaves of nested fields as ("parameters.confidence", 0.25), sorted by name."""
    for name in sorted(fields):
        value = fields[name]
        if isinstance(value, Mapping) and value:
            yield from flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def differences(first: Mapping[str, Json], second: Mapping[str, Json]) -> list[dict[str, Json]]:
    """The fields in which two keys differ: [{"field", "first", "second"}]; a field that one lacks reads `ABSENT`."""
    left, right = dict(flatten(first)), dict(flatten(second))
    return [
        {"field": name, "first": left.get(name, ABSENT), "second": right.get(name, ABSENT)}
        for name in sorted(left.keys() | right.keys())
        if name not in left or name not in right or left[name] != right[name]
    ]
