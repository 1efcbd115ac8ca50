"""YAML as people expect it: values as in YAML 1.2 and JSON, and no repeated keys."""

import re
from typing import Any

import yaml

# Maximum size of a configuration. The largest are those of runs of ALT, which hold the texts of its 548 entities.
MAX_CHARACTERS, MAX_VALUES, MAX_DEPTH = 1 << 20, 1 << 17, 50
# Parsing takes about 100 us per mark, so their number bounds the time, before anything is parsed.
MAX_MARKS, _MARK = 1 << 17, re.compile(r"[\[\]{},:\n-]")

_BASES = {"0o": 8, "0x": 16}


class _Loader(yaml.SafeLoader):
    """PyYAML follows YAML 1.1: there 010 is 8, 1:30 is 90, off is false, 8e-5 is a string, and keys may be repeated."""

    # Which plain scalars are more than strings, by first character; PyYAML's own rules are those of YAML 1.1.
    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 (as in the base class)

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """A mapping as written, before merges. Raises `yaml.YAMLError` for a repeated key."""
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
    """The values in a YAML document.

    Raises `yaml.YAMLError`, also for a document that is larger, deeper or, with aliases expanded, longer than any
    configuration; runs no code from it.
    """
    if len(text) > MAX_CHARACTERS:
        raise yaml.YAMLError(f"it has {len(text)} characters, more than {MAX_CHARACTERS}")
    marks = sum(1 for _ in _MARK.finditer(text))
    if marks > MAX_MARKS:
        raise yaml.YAMLError(f"it has {marks} line ends, brackets, commas, colons and hyphens, more than {MAX_MARKS}")
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        if _spelled_out(node, {}, 0)[0] > MAX_VALUES:
            raise yaml.YAMLError(f"its aliases stand for more than {MAX_VALUES} values")
        return loader.construct_document(node)
    except (RecursionError, ValueError, OverflowError) as error:
        # Raised by Python itself: numbers with thousands of digits, hundreds of brackets.
        raise yaml.YAMLError(str(error)) from error
    finally:
        loader.dispose()


def _spelled_out(node: yaml.Node, known: dict[int, tuple[int, int]], depth: int) -> tuple[int, int]:
    """Number of values in a node, with aliases expanded, and its depth."""
    too_deep = yaml.YAMLError(f"it is nested more than {MAX_DEPTH} levels deep, or an alias refers to itself")
    if depth > MAX_DEPTH:
        raise too_deep
    if id(node) not in known:
        inner: list[yaml.Node] = []
        if isinstance(node, yaml.SequenceNode):
            inner = node.value
        elif isinstance(node, yaml.MappingNode):
            inner = [each for pair in node.value for each in pair]
        found = [_spelled_out(each, known, depth + 1) for each in inner]
        levels = 1 + max((height for _, height in found), default=0)
        if levels > MAX_DEPTH:
            raise too_deep
        known[id(node)] = 1 + sum(count for count, _ in found), levels
    return known[id(node)]
