"""Skeleton encoders that others published: which network a file holds, and how clips for it are made.

PYSKL's (and mmaction2's) ST-GCN++, ST-GCN, AGCN, CTR-GCN and PoseConv3D, and EfficientGCN. Sizes follow from the
weights; stream, data and training recipe are only in the path: `stgcnpp_ntu60_xsub_hrnet/b.pth` reads bones.

Source of names and recipes: kennymckormick/pyskl, models/gcns, models/cnns and configs; 1suancaiyu/EfficientGCNv1,
src/model and configs.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from unialign.errors import CorruptInput, UsageError
from unialign.stages.extraction.pose_recipes import RECIPES, with_stream
from unialign.stages.extraction.pyskl_clips import STREAMS
from unialign.stages.models.skeleton.efficient_gcn import SAND_GLASS, SEPARABLE, Stage
from unialign.stages.models.skeleton.graph_network import Form
from unialign.stages.skeleton_layouts import LAYOUTS, Layout

LIMBS = "limb"
PERSONS = 2


@dataclass(frozen=True)
class Reading:
    """How clips for a published encoder are made; what is empty follows from the file.

    stream: one of `pyskl_clips.STREAMS`, or "limb". layout: name of the joint layout. recipe: one of
    `pose_recipes.RECIPES`, of joints; `stream` makes the others of it. clip_len: frames of a clip.
    """

    stream: str = ""
    layout: str = ""
    recipe: str = ""
    clip_len: int = 0


AS_NAMED = Reading()


@dataclass(frozen=True)
class Published:
    """What a published file holds.

    network, config: name in `encoders.ENCODERS` and its arguments. state: its weights under our names.
    reading: complete. recipe: with its stream. num_persons: slots of a clip.
    dataset, protocol: what it was trained on; "" if its path does not say.
    """

    network: str
    config: Mapping[str, Any]
    state: Mapping[str, Tensor]
    reading: Reading
    recipe: str
    num_persons: int
    dataset: str
    protocol: str


# Names that only one network has, by network.
_MARKS = {
    "stgcn++": "gcn.0.tcn.branches.0.0.weight",
    "st-gcn": "gcn.0.gcn.PA",
    "agcn": "gcn.0.gcn.conv_d.0.weight",
    "ctr-gcn": "net.0.gcn1.convs.0.conv1.weight",
    "posec3d": "layer1.0.conv1.conv.weight",
    "efficientgcn": "main_stream.block-0_att.att.fcn.0.weight",
}

# Names in published files, as regular expressions, and what is meant; in this order.
_BLOCKS = (
    (r"^data_bn\.", "norm."),
    (r"^(?:gcn|net)\.(\d+)\.gcn1?\.", r"blocks.\1.space."),
    (r"^(?:gcn|net)\.(\d+)\.tcn1?\.", r"blocks.\1.time."),
    (r"^(?:gcn|net)\.(\d+)\.residual\.conv\.", r"blocks.\1.residual.0."),
    (r"^(?:gcn|net)\.(\d+)\.residual\.bn\.", r"blocks.\1.residual.1."),
    (r"\.space\.A$", ".space.graph"),
    (r"\.space\.alpha$", ".space.strength"),
    (r"\.space\.bn\.", ".space.norm."),
    (r"\.space\.down\.", ".space.residual."),
)
_WINDOW = ((r"\.time\.conv\.", ".time.0."), (r"\.time\.bn\.", ".time.1."))
_NAMES: Mapping[str, tuple[tuple[str, str], ...]] = {
    "stgcn++": (
        *_BLOCKS,
        (r"\.space\.conv\.", ".space.project."),
        (r"\.branches\.(\d+)\.3\.conv\.", r".branches.\1.3."),
        (r"\.time\.transform\.", ".time.join."),
        (r"\.time\.bn\.", ".time.norm."),
    ),
    "st-gcn": (
        *_BLOCKS,
        (r"\.space\.conv\.", ".space.project."),
        (r"\.space\.PA$", ".space.importance"),
        *_WINDOW,
    ),
    "agcn": (
        *_BLOCKS,
        (r"\.conv_a\.", ".giver."),
        (r"\.conv_b\.", ".taker."),
        (r"\.conv_d\.", ".project."),
        (r"\.conv_sa\.", ".over_joints."),
        (r"\.conv_ta\.", ".over_frames."),
        (r"\.fc1c\.", ".over_channels.0."),
        (r"\.fc2c\.", ".over_channels.2."),
        *_WINDOW,
    ),
    "ctr-gcn": (
        *_BLOCKS,
        (r"\.convs\.(\d+)\.conv1\.", r".giver.\1."),
        (r"\.convs\.(\d+)\.conv2\.", r".taker.\1."),
        (r"\.convs\.(\d+)\.conv3\.", r".project.\1."),
        (r"\.convs\.(\d+)\.conv4\.", r".relate.\1."),
        (r"\.branches\.(\d+)\.3\.conv\.", r".branches.\1.3."),
        (r"\.branches\.(\d+)\.3\.bn\.", r".branches.\1.4."),
    ),
    "posec3d": (
        (r"^conv1\.", "stem."),
        *((rf"^layer{stage + 1}\.", f"stages.{stage}.") for stage in range(3)),
        (r"\.conv1\.(conv|bn)\.", r".reduce.\1."),
        (r"\.conv2\.(conv|bn)\.", r".window.\1."),
        (r"\.conv3\.(conv|bn)\.", r".expand.\1."),
        (r"\.downsample\.", ".residual."),
        (r"(^stem|reduce|window|expand|residual)\.conv\.", r"\1.0."),
        (r"(^stem|reduce|window|expand|residual)\.bn\.", r"\1.1."),
    ),
    "efficientgcn": (
        (r"^input_branches\.(\d+)\.block-(\d+)_", r"branches.\1.stages.\2."),
        (r"^main_stream\.block-(\d+)_", r"trunk.\1."),
        (r"^input_branches\.(\d+)\.init_bn\.", r"branches.\1.norm."),
        (r"^input_branches\.(\d+)\.stem_scn\.", r"branches.\1.stem_space."),
        (r"^input_branches\.(\d+)\.stem_tcn\.conv\.", r"branches.\1.stem_time.window."),
        (r"^input_branches\.(\d+)\.stem_tcn\.bn\.", r"branches.\1.stem_time.norm."),
        (r"\.scn\.", ".space."),
        (r"space\.bn\.", "space.norm."),
        (r"space\.conv\.gcn\.", "space.project."),
        (r"space\.conv\.A$", "space.graph"),
        (r"space\.conv\.edge$", "space.importance"),
        (r"\.att\.bn\.", ".attend.norm."),
        (r"\.att\.att\.fcn\.", ".attend.squeeze."),
        (r"\.att\.att\.conv_t\.", ".attend.over_frames."),
        (r"\.att\.att\.conv_v\.", ".attend.over_joints."),
        (r"\.tcn-(\d+)\.", r".times.\1."),
        (r"\.depth_conv1\.", ".before."),
        (r"\.depth_conv2\.", ".after."),
        (r"\.point_conv1\.", ".narrow."),
        (r"\.point_conv2\.", ".widen."),
        (r"\.expand_conv\.", ".widen."),
        (r"\.depth_conv\.", ".window."),
        (r"\.point_conv\.", ".narrow."),
    ),
}
_HEADS = ("cls_head.fc_cls.", "cls_head.fc.", "classifier.fc.")
_BODY = "backbone."

_JOINTS = {25: "ntu-25", 17: "coco-17", 18: "coco-18", 21: "hand-21"}
_SHORT_STREAMS = {"j": "joint", "b": "bone", "jm": "joint-motion", "bm": "bone-motion"}
_STREAM = re.compile(r"(?<![a-z])(joint[-_]motion|bone[-_]motion|jm|bm|joint|bone|limb|j|b)(?![a-z])")
_NTU = re.compile(r"ntu-(xsub|xview|xset)(120)?")  # as EfficientGCN's files say it
_TRAINED_ON = re.compile(r"(ntu60|ntu120)[-_](xsub|xview|xset)|(gym|diving48|ucf101|hmdb51|k400)(?!p)")
# Frames of a clip: of graph networks, of PoseConv3D, of ST-GCN's own recipe, of the gesture network, of EfficientGCN.
GRAPH_FRAMES, HEATMAP_FRAMES, PADDED_FRAMES, BOXED_FRAMES, EFFICIENT_FRAMES = 100, 48, 300, 10, 288


def is_published(content: Mapping[str, Any]) -> bool:
    """Whether the content of a file of weights has the names that networks of PYSKL, mmaction2 or EfficientGCN have."""
    entries = _entries(content)
    return _MARKS["efficientgcn"] in entries or any(name.startswith(_BODY) for name in entries)


def is_skeleton_network(content: Mapping[str, Any]) -> bool:
    """Whether it is one that `published_encoder` loads. Video networks of mmaction2 have the same first names."""
    body = {name.removeprefix(_BODY) for name in _entries(content)}
    return is_published(content) and any(mark in body for mark in _MARKS.values())


def published_encoder(path: Path, content: Mapping[str, Any], asked: Reading) -> Published:
    """The network in the content of a file, its weights under our names, and how its clips are made.

    path: for what its name and folder say, and for messages. asked: overrides that. Raises `CorruptInput` for another
    network, and `UsageError` where neither the file nor `asked` says enough, or both disagree.
    """
    entries = _entries(content)
    body = {name.removeprefix(_BODY): value for name, value in entries.items() if name.startswith(_BODY)}
    if _MARKS["efficientgcn"] in entries:
        body = {name: value for name, value in entries.items() if not name.startswith(_HEADS)}
    network = next((name for name, mark in _MARKS.items() if mark in body), None)
    if network is None:
        raise CorruptInput(
            f"{path} holds a network of PYSKL or mmaction2 that unialign does not have; it loads ST-GCN++, ST-GCN, "
            "AGCN, CTR-GCN, PoseConv3D (SlowOnly) and EfficientGCN."
        )
    state = {_renamed(name, network): value for name, value in body.items() if name != "A"}  # A: in every block too
    for name, value in entries.items():
        for head in _HEADS:
            if name.startswith(head):
                # EfficientGCN's is a convolution over single values.
                plain = value.flatten(1) if network == "efficientgcn" and value.dim() > 1 else value
                state[f"classify.{name.removeprefix(head)}"] = plain
    if network == "ctr-gcn":
        # There a joint takes the difference the other way around: tanh(a - b) = -tanh(b - a) with both negated.
        state = {name: -value if re.search(r"\.(giver|taker)\.", name) else value for name, value in state.items()}
    try:
        config, joints = _SIZES.get(network, _graph_sizes)(state)
    except (LookupError, ArithmeticError, TypeError, ValueError, StopIteration) as error:  # names can be anything
        raise CorruptInput(f"{path}: its weights are not whole ({error}); download it again.") from error
    layout = _layout(path, joints, asked)
    if network == "efficientgcn":
        config |= {"layout": layout.name}
    elif network != "posec3d":
        config |= {"layout": layout.name, "form": replace(config["form"], count_absent=True)}
    reading = _reading(path, network, config.get("in_channels"), layout, asked)
    if network == "posec3d":
        config |= {"limbs": reading.stream == LIMBS, "side": int(reading.recipe.partition("-")[2])}
    if network == "ctr-gcn":
        config |= {"rectified": True}
    dataset, protocol = _trained_on(path)
    persons = 1 if reading.recipe == "pyskl-boxed" else PERSONS
    return Published(network, config, state, reading, _recipe(reading), persons, dataset, protocol)


def _entries(content: Mapping[str, Any]) -> dict[str, Tensor]:
    inside = content.get("state_dict", content.get("model", content))
    found = inside if isinstance(inside, Mapping) else {}
    return {str(name): value for name, value in found.items() if isinstance(value, Tensor)}


def _renamed(name: str, network: str) -> str:
    for pattern, replacement in _NAMES[network]:
        name = re.sub(pattern, replacement, name)
    return name


def _graph_sizes(state: Mapping[str, Tensor]) -> tuple[dict[str, Any], int]:
    """Arguments of a graph network, and its number of joints."""
    numbers = {int(name.split(".")[1]) for name in state if name.startswith("blocks.")}
    widths = [len(state[f"blocks.{number}.space.norm.weight"]) for number in sorted(numbers)]
    wider = [number for number in range(2, len(widths) + 1) if widths[number - 1] > widths[number - 2]]
    first = next(value for name, value in state.items() if re.match(r"blocks\.0\.space\.project\.(0\.)?weight$", name))
    joints, channels = state["blocks.0.space.graph"].shape[-1], first.shape[1]
    form = Form(wider=tuple(wider), norm_persons=len(state["norm.weight"]) // (joints * channels))
    sizes = {"num_classes": len(state["classify.weight"]), "in_channels": channels, "width": widths[0]}
    return {**sizes, "blocks": len(widths), "form": form}, joints


def _heatmap_sizes(state: Mapping[str, Tensor]) -> tuple[dict[str, Any], int]:
    """Arguments of a PoseConv3D, and its number of joints."""
    stages = [{name.split(".")[2] for name in state if name.startswith(f"stages.{stage}.")} for stage in range(3)]
    stem = state["stem.0.weight"]
    sizes = {"num_classes": len(state["classify.weight"]), "num_heatmaps": stem.shape[1], "width": len(stem)}
    return {**sizes, "blocks": tuple(len(stage) for stage in stages)}, stem.shape[1]


def _efficient_sizes(state: Mapping[str, Tensor]) -> tuple[dict[str, Any], int]:
    """Arguments of an EfficientGCN (B0, B2, B4 or another), and its number of joints."""

    def stages(where: str) -> tuple[Stage, ...]:
        inside = [name.removeprefix(where).split(".") for name in state if name.startswith(where)]
        found = []
        for number in sorted({int(parts[0]) for parts in inside}):
            depth = len({parts[2] for parts in inside if parts[:2] == [str(number), "times"]})
            stride = 2 if f"{where}{number}.times.0.residual.0.weight" in state else 1
            found.append((len(state[f"{where}{number}.space.norm.weight"]), stride, depth))
        return tuple(found)

    layer = SAND_GLASS if any(".before." in name for name in state) else SEPARABLE
    wide = next((value for name, value in state.items() if name.endswith(".widen.0.weight")), None)
    squeeze = state["trunk.0.attend.squeeze.0.weight"]
    sizes = {
        "num_classes": len(state["classify.weight"]),
        "stem": len(state["branches.0.stem_space.norm.weight"]),
        "branch": stages("branches.0.stages."),
        "trunk": stages("trunk."),
        "layer": layer,
        "expand": 0 if layer == SAND_GLASS or wide is None else len(wide) // wide.shape[1],
        "reduction": squeeze.shape[1] // len(squeeze),
    }
    return sizes, state["trunk.0.space.graph"].shape[-1]


# How the sizes of a network are found; those of graph networks otherwise.
_SIZES = {"posec3d": _heatmap_sizes, "efficientgcn": _efficient_sizes}


def _layout(path: Path, joints: int, asked: Reading) -> Layout:
    name = asked.layout or _JOINTS.get(joints, "")
    if name not in LAYOUTS:
        what = f"{name!r} is unknown" if name else f"{joints} joints leave it open"
        raise UsageError(f"{path}: the joint layout {what}; give `--layout` with one of {', '.join(LAYOUTS)}.")
    if len(LAYOUTS[name].joints) != joints:
        raise UsageError(
            f"{path}: its network has {joints} joints, but the layout {name} has {len(LAYOUTS[name].joints)}."
        )
    return LAYOUTS[name]


def _reading(path: Path, network: str, channels: int | None, layout: Layout, asked: Reading) -> Reading:
    where = f"{path.parent.name}/{path.stem}".lower()
    found = _STREAM.search(path.stem.lower())
    # The "B0" in the name of an EfficientGCN is its size.
    named = found[1].replace("_", "-") if found and network != "efficientgcn" else ""
    stream = asked.stream or _SHORT_STREAMS.get(named, named)
    possible: tuple[str, ...] = STREAMS
    if network == "posec3d":
        possible = ("joint", LIMBS)
    elif network == "efficientgcn" or channels == 2:  # EfficientGCN makes its three inputs of the joints
        possible = ("joint",)
    if not stream and len(possible) == 1:
        stream = possible[0]
    if stream not in possible:
        what = f"the stream {stream!r} is not one of {network}'s" if stream else "its name does not say which stream"
        raise UsageError(
            f"{path}: {what}; PYSKL calls its files j, b, jm, bm, joint or limb. Give `--stream` with one of "
            f"{', '.join(possible)}."
        )
    clip_len = GRAPH_FRAMES
    recipes: tuple[str, ...]
    if network == "posec3d":
        recipes, clip_len = ("heatmap-64", "heatmap-56"), HEATMAP_FRAMES
    elif network == "efficientgcn":
        recipes, clip_len = ("efficientgcn-3d",), EFFICIENT_FRAMES
    elif channels == 2:
        recipes, clip_len = ("pyskl-boxed",), BOXED_FRAMES
    elif layout.spine is None:
        recipes = ("pyskl-2d", "pyskl-2d-padded")
    else:
        recipes = ("pyskl-3d", "pyskl-3d-padded", "agcn-3d", "centered-3d")
    # ST-GCN's own recipe has zeros behind the sample; networks that were fine-tuned see smaller heatmaps.
    padded = "vanilla" in where and channels == 3
    other = padded or ("k400p" in where and network == "posec3d")
    recipe = asked.recipe or recipes[1 if other else 0]
    clip_len = PADDED_FRAMES if padded else clip_len
    reading = Reading(stream, layout.name, recipe, asked.clip_len or clip_len)
    if recipe not in recipes or _recipe(reading) not in RECIPES:
        raise UsageError(
            f"{path}: the recipe {recipe!r} does not fit the stream {stream} of {network}; give `--recipe` with one of "
            f"{', '.join(recipes)}, or leave it out."
        )
    return reading


def _recipe(reading: Reading) -> str:
    """With its stream. Limbs are drawn by the network, from joints."""
    return reading.recipe if reading.stream == LIMBS else with_stream(reading.recipe, reading.stream)


def _trained_on(path: Path) -> tuple[str, str]:
    where = f"{path.parent.name}/{path.stem}".lower()
    if ntu := _NTU.search(where):
        return f"ntu{ntu[2] or 60}", ntu[1]
    found = _TRAINED_ON.search(where)
    if not found:
        return "", ""
    return (found[1], found[2]) if found[1] else ("gym99" if found[3] == "gym" else found[3], "")
