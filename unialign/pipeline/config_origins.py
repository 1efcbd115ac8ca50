"""Where each value of the configuration comes from: a line of the file, the environment, an override, a flag."""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from unialign.pipeline.config import ENVIRONMENT, PLACES, config_file, is_recipe
from unialign.pipeline.yaml_values import read_yaml
from unialign.types import Json

DEFAULT = "default"


def value_origins(
    values: Mapping[str, Json],
    flags: Mapping[str, str],
    overrides: Sequence[str] = (),
    *,
    file: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """Where each value comes from, by its dotted key, in the order of `values`.

    values: the resolved configuration, as `Config.dump` has it. flags: the key that each given flag sets, to the flag.
    overrides, file, environment: as `load_config` got them, which has found them valid.
    """
    environment = os.environ if environment is None else environment
    found: dict[str, str] = {}
    path = config_file(file, environment)
    if is_recipe(path) and (own := config_file(None, environment)).is_file():
        found |= {
            key: origin for key, origin in _of_file(own).items() if key.partition(".")[0] in PLACES and key in values
        }
    if path.is_file():
        found |= _of_file(path)
    found |= {key: variable for key, variable in ENVIRONMENT.items() if environment.get(variable)}
    for override in overrides:
        name, _, text = override.partition("=")
        key = name if name.startswith("train.stores.") else name.replace("-", "_")
        found = {known: origin for known, origin in found.items() if not known.startswith(f"{key}.")}
        found |= dict.fromkeys([key, *leaves(read_yaml(text), f"{key}.")], f"override {override}")
    for key, flag in flags.items():
        found = {known: origin for known, origin in found.items() if not known.startswith(f"{key}.")}
        found[key] = flag
    return {key: _origin(key, found) for key in leaves(values)}


def leaves(values: Any, prefix: str = "") -> Iterator[str]:
    """The dotted keys of all values that are no sections; an empty section is a value."""
    if isinstance(values, Mapping):
        for name, value in values.items():
            if isinstance(value, Mapping) and value:
                yield from leaves(value, f"{prefix}{name}.")
            else:
                yield f"{prefix}{name}"


def _of_file(path: Path) -> dict[str, str]:
    root = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    return {key: f"{path}:{line}" for key, line in _lines(root)}


def _lines(node: yaml.Node | None, prefix: str = "") -> Iterator[tuple[str, int]]:
    """The keys of a file that hold values, with their lines."""
    if isinstance(node, yaml.MappingNode):
        # What is merged in counts less than what stands beside it.
        for name, value in sorted(node.value, key=lambda pair: pair[0].value != "<<"):
            if name.value == "<<":
                for each in value.value[::-1] if isinstance(value, yaml.SequenceNode) else [value]:
                    yield from _lines(each, prefix)
                continue
            key = f"{prefix}{name.value}"
            if isinstance(value, yaml.MappingNode) and value.value:
                yield from _lines(value, f"{key}.")
            else:
                yield key, name.start_mark.line + 1


def _origin(key: str, found: Mapping[str, str]) -> str:
    """That of the key; of a value inside a mapping that was given as a whole, that of the mapping."""
    # `extract.my_extractor` of a plug-in is short for `extract.plugins.my_extractor`.
    for name in (key, key.replace("extract.plugins.", "extract.", 1)):
        if name in found:
            return found[name]
    # Only stores are mappings of anything; the rest are sections, whose other keys keep their defaults.
    return found.get("train.stores", DEFAULT) if key.startswith("train.stores.") else DEFAULT
