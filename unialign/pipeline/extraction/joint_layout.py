"""What the joints of a pose network are, as the user says: a known layout's name, or a file that describes them."""

from pathlib import Path

import yaml

from unialign.errors import UsageError
from unialign.pipeline.yaml_values import MAX_CHARACTERS, read_yaml
from unialign.stages.skeleton_layouts import LAYOUTS, Layout, custom_layout, layout_from


def joint_layout(chosen: str) -> Layout:
    """The layout of that name, or the one in a YAML file: `joints`, names in the network's order, and `edges`, pairs of
    their numbers that connect them as one tree.

    Raises `UsageError` for anything else.
    """
    path = Path(chosen)
    if chosen in LAYOUTS or not path.is_file():
        return layout_from(chosen, "extract.poses.layout")
    try:
        with path.open(encoding="utf-8") as file:
            found = read_yaml(file.read(MAX_CHARACTERS + 1))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not valid YAML: {' '.join(str(error).split())}.") from error
    joints, edges = (found.get(name) if isinstance(found, dict) else None for name in ("joints", "edges"))
    if not isinstance(joints, list) or not isinstance(edges, list) or not all(map(_is_pair, edges)):
        raise UsageError(f"{path}: should have `joints`, a list of names, and `edges`, a list of pairs of numbers.")
    return custom_layout([str(name) for name in joints], [(first, second) for first, second in edges], where=str(path))


def _is_pair(edge: object) -> bool:
    return isinstance(edge, list) and [type(joint) for joint in edge] == [int, int]
