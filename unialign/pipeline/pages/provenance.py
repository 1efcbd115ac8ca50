"""What a page's numbers were made from: stores with their keys and licenses, settings, machines, versions."""

from collections.abc import Mapping, Sequence
from typing import Any

from unialign.cache.keys import flatten
from unialign.cache.reader import Recorded
from unialign.pipeline.pages.answers import Answers
from unialign.pipeline.training.run_folder import read_json
from unialign.types import Json

# Settings beyond this many are in the run's config.yaml alone.
LONGEST = 400


def store_parts(readers: Mapping[str, Recorded], keys: Mapping[str, Any]) -> list[Json]:
    """One part per store: place, key, license, and the key field by field. keys: "stores" of a run's keys.json."""
    parts: list[Json] = []
    for modality in [*readers, *(name for name in keys if name not in readers)]:
        reader, read = readers.get(modality), keys.get(modality, {})
        facts: list[list[str]] = []
        if reader is not None:
            attributes = reader.attributes
            facts += [
                ["store", f"{reader.store.collection}/{reader.store.modality}/{reader.store.name}"],
                ["samples", f"{len(reader):,} of {len(reader.table):,}"],
                ["key", reader.store.key.digest],
                ["license of the weights", str(attributes.get("licence", "no weights"))],
                *([["trained on", _plain(attributes["trained_on"])]] if "trained_on" in attributes else []),
                *([name, _plain(value)] for name, value in flatten(dict(reader.store.key.fields))),
            ]
        else:
            facts += [["store", str(read.get("store") or "none")], ["key", str(read.get("key", ""))]]
        facts += [["computed on", _plain(each)] for each in read.get("environment", [])]
        parts.append({"title": f"{modality} store", "open": False, "fields": facts})
    return parts


def run_parts(run: Answers, runs: Sequence[Answers]) -> list[Json]:
    """The run that clips are shown of: its key, data, machine and settings; and the keys of all runs."""
    machine = read_json(run.folder / "env.json") if (run.folder / "env.json").is_file() else {}
    data = run.result.get("data", {})
    facts = [
        ["run", run.folder.name],
        ["key", str(run.result["key"])],
        ["dataset, protocol", f"{run.result['dataset']}, {run.result['protocol']}"],
        ["samples", _plain({part: side.get("used") for part, side in run.result["samples"].items()})],
        ["digest of the table of samples", str(run.keys.get("data") or "not recorded")],
        ["duplicates across parts", _plain((data.get("duplicates") or "none found") if data else "not recorded")],
        ["choice of the epoch", _plain(data.get("validation") or run.result.get("best") or "the last one")],
        ["samples extracted during training", str(run.result["extracted"])],
    ]
    settings = [[name, _plain(value)] for name, value in flatten(run.config) if name != "name"]
    return [
        {"title": f"Run: {run.label}", "open": True, "fields": facts},
        {
            "title": "Machine and versions",
            "open": True,
            "fields": [[name, _plain(value)] for name, value in flatten(machine)],
        },
        {"title": "Settings", "open": False, "fields": settings},
        {
            "title": f"Keys of {len(runs)} runs",
            "open": False,
            "table": {
                "head": ["run", "folder", "key"],
                "rows": [[each.label, each.folder.name, each.result["key"]] for each in runs],
            },
        },
    ]


def _plain(value: Json) -> str:
    if isinstance(value, Mapping):
        text = ", ".join(f"{name} {_plain(each)}" for name, each in value.items())
    elif isinstance(value, list | tuple):
        text = ", ".join(map(_plain, value))
    else:
        text = "none" if value is None else str(value)
    return text if len(text) <= LONGEST else text[: LONGEST - 4] + " ..."
