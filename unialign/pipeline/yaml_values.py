"""YAML as people write it: values as in YAML 1.2 and JSON, and no key twice."""

import re
from typing import Any

import yaml

_BASES = {"0o": 8, "0x": 16}


class _Loader(yaml.SafeLoader):
    """PyYAML follows YAML 1.1: there 010 is 8, 1:30 is 90, off is false, 8e-5 is text, and a key may stand twice."""

    # Which plain scalars are more than text, by first character; PyYAML's own are those of YAML 1.1.
    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 (as in the base class)

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """A mapping as written, before merges. Raises `yaml.YAMLError` for a key that stands twice in it."""
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        lines: dict[tuple[str, str], int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            line = key.start_mark.line + 1
            if (key.tag, key.value) in lines:
                raise yaml.YAMLError(
                    f"the key {key.value!r} stands twice, in lines {lines[key.tag, key.value]} and {line}"
                )
            lines[key.tag, key.value] = line
        return node


def _integer(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    text = str(loader.construct_scalar(node))
    return int(text, _BASES.get(text[:2], 10))


for _tag, _pattern, _starts in (
    ("merge", r"<<", "<"),
    ("null", r"~|null|Null|NULL|", "~nN\0"),
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
    ("float", r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?", "-+.0123456789"),
    ("float", r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)", "-+."),
):
    # PyYAML asks for the resolvers of an empty scalar under "".
    _Loader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_tag}", re.compile(rf"(?:{_pattern})$"), [start.strip("\0") for start in _starts]
    )
_Loader.add_constructor("tag:yaml.org,2002:int", _integer)


def read_yaml(text: str) -> object:
    """The values in a text of YAML. Raises `yaml.YAMLError`; runs no code from it."""
    return yaml.load(text, Loader=_Loader)  # noqa: S506 (a SafeLoader with the scalars of YAML 1.2)
