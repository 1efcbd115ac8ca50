"""YAML as people write it: numbers as in YAML 1.2 and JSON, where 8e-5 is one."""

import re

import yaml


class _Loader(yaml.SafeLoader):
    """PyYAML follows YAML 1.1, which reads 8e-5 (no point before the exponent) as a text."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


def read_yaml(text: str) -> object:
    """The values in a text of YAML. Raises `yaml.YAMLError`; runs no code from it."""
    return yaml.load(text, Loader=_Loader)  # noqa: S506 (a SafeLoader with one more kind of number)
