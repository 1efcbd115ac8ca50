"""How two runs differ: settings, code, stores, data sample by sample, libraries, hardware, and results."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from unialign.cache.keys import differences
from unialign.pipeline.training.run_data import TEXT, Row, read_data
from unialign.pipeline.training.run_folder import is_signed, read_config, read_json, read_keys, read_result
from unialign.stages.training.settings import NOT_IDENTITY
from unialign.types import Json
from unialign.words import counted

EXAMPLES = 3
LIBRARIES = ("libraries", "python")
UNKNOWN = "not recorded: one of the runs is of before it was"


def compare_runs(first: Path, second: Path) -> dict[str, Json]:
    """The differences between two run folders, as the object that `--json` prints.

    Lists of {"field", "first", "second"}: "settings" (with "decides": whether it can change a result), "code",
    "stores" (keys), "libraries", "hardware", "metrics". "data": see `data_differences`; None if not recorded.
    "unsigned": runs whose numbers are not covered by a digest, see `run_folder.is_signed`.
    Raises `MissingCache` for a folder that is not a run, `DamagedStore` for files that were changed.
    """
    configs = [read_config(folder) for folder in (first, second)]
    keys = [read_keys(folder) for folder in (first, second)]
    machines = [read_json(folder / "env.json") for folder in (first, second)]
    left, right = (
        read_data(folder, found.get("data") or "") for folder, found in zip((first, second), keys, strict=True)
    )
    return {
        "first": first.name,
        "second": second.name,
        "same_run": keys[0]["run"] == keys[1]["run"],
        "settings": [{**row, "decides": _decides(str(row["field"]))} for row in differences(*configs)],
        "code": differences(*(_code(*each) for each in zip(keys, machines, strict=True))),
        "stores": differences(*({name: store["key"] for name, store in found["stores"].items()} for found in keys)),
        "data": None if left is None or right is None else data_differences(left, right),
        "libraries": differences(*({name: env.get(name) for name in LIBRARIES} for env in machines)),
        "hardware": differences(*(_hardware(*each) for each in zip(machines, keys, strict=True))),
        "metrics": differences(*(_metrics(folder) for folder in (first, second))),
        "unsigned": [each.name for each in (first, second) if _is_finished(each) and not is_signed(each)],
    }


def data_differences(first: Sequence[Row], second: Sequence[Row]) -> dict[str, dict[str, Any]]:
    """How the samples of two runs differ: {"added", "removed", "part", "label", "source", "texts"}.

    Each is {"count", "examples"}, with the ids of the first few. added: only in the second run. source: same sample,
    but its features were made from other bytes. texts: text store rows that only one run has, or whose texts differ.
    """
    left, right = ({row.id: row for row in rows if row.part != TEXT} for rows in (first, second))
    texts = [{row.id: row.sources for row in rows if row.part == TEXT} for rows in (first, second)]
    both = sorted(left.keys() & right.keys())
    found: dict[str, list[str]] = {
        "added": sorted(right.keys() - left.keys()),
        "removed": sorted(left.keys() - right.keys()),
        "part": [each for each in both if left[each].part != right[each].part],
        "label": [each for each in both if left[each].label != right[each].label],
        "source": [each for each in both if _other_source(left[each].sources, right[each].sources)],
        "texts": sorted(each for each in texts[0].keys() | texts[1].keys() if texts[0].get(each) != texts[1].get(each)),
    }
    return {kind: {"count": len(ids), "examples": ids[:EXAMPLES]} for kind, ids in found.items()}


def rows_of_difference(found: Mapping[str, Any]) -> Iterator[tuple[str, str, str, str]]:
    """The differences as table rows: what, field, first, second."""
    for kind in ("settings", "code", "stores", "libraries", "hardware", "metrics"):
        for row in found[kind]:
            what = kind if row.get("decides", True) else "settings (change no result)"
            yield what, str(row["field"]), _shown(row["first"]), _shown(row["second"])
    for run in found["unsigned"]:
        yield "metrics", f"of {run}", "not signed", "evaluate it before you believe its numbers"
    if found["data"] is None:
        yield "data", "samples", UNKNOWN, UNKNOWN
        return
    for kind, each in found["data"].items():
        if each["count"]:
            more = ", ..." if each["count"] > len(each["examples"]) else ""
            yield "data", SAID[kind], f"{each['count']:,}", f"{', '.join(each['examples'])}{more}"


SAID = {
    "added": "samples in the second only",
    "removed": "samples in the first only",
    "part": "samples in another part",
    "label": "samples with another label",
    "source": "samples made from other files",
    "texts": "other texts",
}


ONE = {
    "added": "sample more",
    "removed": "sample fewer",
    "part": "sample in another part",
    "label": "sample with another label",
    "source": "sample made from another file",
    "texts": "other text",
}


def sentence_of(found: Mapping[str, Mapping[str, Any]]) -> str:
    """How the current samples differ from those of a run, with the first example of each kind; "" if they do not."""
    words = {**SAID, "added": "samples more", "removed": "samples fewer"}
    return ", ".join(
        f"{counted(each['count'], ONE[kind], words[kind])} ({each['examples'][0]})"
        for kind, each in found.items()
        if each["count"]
    )


def _other_source(first: Mapping[str, str], second: Mapping[str, str]) -> bool:
    return any(first[name] != second[name] for name in first.keys() & second.keys())


def _decides(field: str) -> bool:
    section, _, name = field.partition(".")
    return field != "name" and (section != "settings" or name not in NOT_IDENTITY)


def _code(keys: Mapping[str, Any], machine: Mapping[str, Any]) -> dict[str, Json]:
    return {"revision": keys.get("revision", "not recorded"), "unialign": machine.get("libraries", {}).get("unialign")}


def _hardware(machine: Mapping[str, Any], keys: Mapping[str, Any]) -> dict[str, Json]:
    stores = {
        name: [{field: value for field, value in each.items() if field != "shards"} for each in store["environment"]]
        for name, store in keys["stores"].items()
        if store.get("environment")
    }
    own = {name: value for name, value in machine.items() if name not in LIBRARIES}
    return {**own, "features": stores}


def _metrics(folder: Path) -> dict[str, Json]:
    """The metrics of the last and the best epoch; empty for an unfinished run."""
    if not _is_finished(folder):
        return {}
    result = read_result(folder)
    return {"last": dict(result["metrics"]), "best": dict(result.get("best", {}))}


def _is_finished(folder: Path) -> bool:
    return (folder / "result.json").is_file()


def _shown(value: Json) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)
