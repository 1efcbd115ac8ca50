"""The manifest of a dataset's samples, saved next to the stores, so training needs neither videos nor annotations."""

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator

from unialign.cache.atomic import write_text
from unialign.cache.bounded import parse_json
from unialign.cache.keys import digest
from unialign.cache.mirrors import bucket_of
from unialign.cache.remote.mirror import send_changed
from unialign.cache.schema import reason
from unialign.errors import DamagedStore, MissingCache, UsageError
from unialign.stages.datasets.base import Dataset, Sample, Split
from unialign.stages.datasets.described_splits import GENERALISED
from unialign.stages.datasets.zero_shot_splits import ZERO_SHOT_SPLITS

PARTS = ("train", "test", "val")


class _Manifest(BaseModel):
    """The schema of a manifest; later versions may add fields."""

    model_config = ConfigDict(strict=True, extra="ignore")

    dataset: str
    collection: str
    classes: list[str]
    descriptions: list[list[str]]
    samples: list[tuple[str, int, dict[str, int | str]]]
    protocols: dict[str, dict[str, list[str]]]
    mirror: bool = True
    candidates: dict[str, list[int]] = {}
    unseen: dict[str, list[int]] = {}

    @model_validator(mode="after")
    def _fits(self) -> "_Manifest":
        for name, label, _ in self.samples:
            if not 0 <= label < len(self.classes):
                raise ValueError(f"sample {name[:80]!r} has the label {label} of {len(self.classes)} classes")
        listed = (*self.candidates.values(), *self.unseen.values())
        if any(not 0 <= label < len(self.classes) for labels in listed for label in labels):
            raise ValueError(f"a candidate or unseen class is none of the {len(self.classes)} classes")
        return self


def file_name(dataset: str) -> str:
    """A dataset's name in names of files: "mine.gestures" for "mine:gestures".

    Windows shares allow no colon, and for rsync and scp it ends the name of a host.
    """
    return dataset.replace(":", ".")


def manifest_path(cache: Path, collection: str, dataset: str) -> Path:
    """Path of a dataset's manifest; one that is there under the dataset's own name, colon and all, keeps it."""
    earlier, path = (cache / collection / "datasets" / f"{name}.json" for name in (dataset, file_name(dataset)))
    return earlier if earlier.is_file() else path


def save_manifest(dataset: Dataset, cache: Path) -> None:
    """Write ids, labels, class names and splits, unless the file already has the same content.

    Of a cache in object storage, it is sent there too.
    """
    made = {name: protocol(dataset.samples) for name, protocol in dataset.protocols.items()}
    splits = {
        # A split without val is written in the format from before the val part was introduced.
        name: {part: list(getattr(split, part)) for part in PARTS if part != "val" or split.val}
        for name, split in made.items()
    }
    candidates = {name: list(split.candidates) for name, split in made.items() if split.candidates}
    unseen = {name: list(split.unseen) for name, split in made.items() if split.unseen}
    body = {
        "dataset": dataset.name,
        "collection": dataset.collection,
        "classes": list(dataset.classes),
        "descriptions": [list(texts) for texts in dataset.descriptions],
        "samples": [[sample.id, sample.label, dict(sample.attributes)] for sample in dataset.samples],
        "protocols": splits,
        # Written only where they say something, so that older manifests stay byte-identical.
        **({} if dataset.mirror else {"mirror": False}),
        **({"candidates": candidates} if candidates else {}),
        **({"unseen": unseen} if unseen else {}),
    }
    text = json.dumps({**body, "digest": digest(body)}, ensure_ascii=False) + "\n"
    path = manifest_path(cache, dataset.collection, dataset.name)
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        write_text(path, text)
    if bucket_of(cache):
        send_changed(cache, [path])


def load_manifest(cache: Path, name: str, collection: str | None = None) -> Dataset:
    """The dataset with that name as of the last extraction into this cache, without source files.

    collection: its collection, if several have a dataset with that name.
    Raises `MissingCache` if nothing of it was extracted, `UsageError` if two collections have a dataset with that name,
    and `DamagedStore` if the manifest was changed.
    """
    found = sorted(
        {manifest_path(cache, path.parent.name, name) for path in cache.glob(f"{collection or '*'}/datasets")}
    )
    found = [path for path in found if path.is_file()]
    if not found:
        raise MissingCache(
            f"nothing of dataset {name} is in {cache}; "
            f"start with `unialign extract frames --dataset {name} --root FOLDER`."
        )
    if len(found) > 1:
        shown = ", ".join(path.parts[-3] for path in found)
        raise UsageError(
            f"{cache} holds {name} of several collections ({shown}); say which with --root, whether or not that is "
            "still there."
        )
    return read_manifest(found[0])


def read_manifest(path: Path) -> Dataset:
    """The dataset in a manifest. Raises `DamagedStore` if it is invalid or does not match its own digest."""
    try:
        data = path.read_bytes()
        body = parse_json(data)
        if body.pop("digest") != digest(body):
            raise DamagedStore(f"{path}: does not match its own digest; run any `unialign extract` of it again.")
        _Manifest.model_validate_json(data)
        protocols: dict[str, Callable[[Sequence[Sample]], Split]] = {
            name: partial(
                _stored_split,
                _listed_split(body, name, split),
            )
            for name, split in body["protocols"].items()
        }
        return Dataset(
            name=body["dataset"],
            collection=body["collection"],
            root=path,
            classes=tuple(body["classes"]),
            samples=tuple(Sample(name, label, {}, attributes) for name, label, attributes in body["samples"]),
            protocols=protocols,
            descriptions=tuple(tuple(texts) for texts in body["descriptions"]),
            mirror=body.get("mirror", True),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedStore(
            f"{path}: cannot be read ({reason(error)}); run any `unialign extract` of it again."
        ) from error


def _listed_split(body: Mapping[str, Any], name: str, parts: Mapping[str, Sequence[str]]) -> Split:
    """A split of a manifest. Those of earlier versions do not say which classes a published list leaves unseen."""
    train, test, val = (tuple(parts.get(part, ())) for part in ("train", "test", "val"))
    candidates, unseen = (tuple(body.get(field, {}).get(name, ())) for field in ("candidates", "unseen"))
    published = ZERO_SHOT_SPLITS.get(name.removeprefix(GENERALISED))
    if published and published.dataset == body["dataset"] and not unseen:
        unseen = published.unseen
        candidates = () if name.startswith(GENERALISED) else unseen
    return Split(train, test, val, candidates, unseen)


def _stored_split(split: Split, _: Sequence[Sample]) -> Split:
    return split
