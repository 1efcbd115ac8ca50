"""ONNX files with the inputs and outputs of OpenMMLab's exports (RTMO, RTMDet, RTMPose), whose answers are known.

No weights can be had offline, so these networks find what is drawn: a person is a rectangle of one color, its joints
are spread over it. They compute with the image, so that a wrong order of colors, scale or crop gives another answer.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

# Where joints lie in a person's box, as fractions of its width and height.
OPSET = 17


def places(num_joints: int) -> np.ndarray:
    """(V, 2): spread over the inner box, no two in one column or row."""
    steps = (np.arange(num_joints) + 0.5) / num_joints
    return np.stack([0.2 + 0.6 * steps, 0.2 + 0.6 * np.roll(steps, num_joints // 3)], axis=-1).astype(np.float32)


class _Graph:
    """Nodes, one after the other."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def put(self, operator: str, *inputs: str, output: str = "", **attributes: object) -> str:
        """The name of the output of a new node."""
        name = output or f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, list(inputs), [name], **attributes))
        return name

    def constant(self, value: object, kind: type = np.float32) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value, kind), name))
        return name

    def save(self, path: Path, takes: Sequence[object], gives: dict[str, Sequence[object]]) -> Path:
        kinds = {"labels": TensorProto.INT64}
        graph = helper.make_graph(
            self.nodes,
            "made",
            [helper.make_tensor_value_info("input", TensorProto.FLOAT, list(takes))],
            [helper.make_tensor_value_info(name, kinds.get(name, TensorProto.FLOAT), list(shape))  # type: ignore[arg-type]
             for name, shape in gives.items()],
            self.constants,
        )  # fmt: skip
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)
        onnx.checker.check_model(model)
        path.write_bytes(model.SerializeToString())
        return path

    def box(self, mask: str) -> str:
        """(4,): the box around what is more than 0 in a mask (1, 1, S, S)."""
        edges = []
        for axis in (2, 3):  # rows, then columns
            other = 5 - axis
            line = self.put("ReduceMax", mask, axes=[0, 1, other], keepdims=0)
            seen = self.put("Cast", self.put("Greater", line, self.constant(0.0)), to=TensorProto.FLOAT)
            first = self.put("ArgMax", seen, axis=0, keepdims=1)
            last = self.put("ArgMax", seen, axis=0, keepdims=1, select_last_index=1)
            edges += [self.put("Cast", each, to=TensorProto.FLOAT) for each in (first, last)]
        low_y, high_y, low_x, high_x = edges
        one = self.constant([1.0])
        far = [self.put("Add", each, one) for each in (high_x, high_y)]
        return self.put("Concat", low_x, low_y, *far, axis=0)

    def is_color(self, channels: Sequence[float], reach: float) -> str:
        """(1, 1, H, W): 1 where all channels of the input are within `reach` of these values."""
        wanted = self.constant(np.array(channels).reshape(1, 3, 1, 1))
        distance = self.put("Abs", self.put("Sub", "input", wanted))
        far = self.put("ReduceMax", distance, axes=[1], keepdims=1)
        return self.put("Cast", self.put("Less", far, self.constant(reach)), to=TensorProto.FLOAT)


def _scored(graph: _Graph, masks: Sequence[str], boxes: Sequence[str], scores: Sequence[float]) -> None:
    """Boxes with their scores; 0 for what is not in the image."""
    rows = []
    for mask, box, score in zip(masks, boxes, scores, strict=True):
        seen = graph.put("ReduceMax", mask, axes=[0, 1, 2, 3], keepdims=0)
        shown = graph.put("Unsqueeze", seen, graph.constant([0], np.int64))
        rows.append(graph.put("Concat", box, graph.put("Mul", shown, graph.constant([score])), axis=0))
    flat = graph.put("Concat", *rows, axis=0)
    graph.put("Reshape", flat, graph.constant([1, len(boxes), 5], np.int64), output="dets")


def rtmo(
    path: Path, colors: Sequence[Sequence[int]], scores: Sequence[float], num_joints: int = 17, side: int = 64
) -> Path:
    """An RTMO file that finds a person for each of those colors (red, green, blue), with those scores."""
    graph, boxes, poses = _Graph(), [], []
    masks = [graph.is_color(color[::-1], 30.0) for color in colors]
    for mask in masks:
        box = graph.box(mask)
        boxes.append(box)
        low = graph.put("Slice", box, graph.constant([0], np.int64), graph.constant([2], np.int64))
        high = graph.put("Slice", box, graph.constant([2], np.int64), graph.constant([4], np.int64))
        spread = graph.put("Mul", graph.constant(places(num_joints)), graph.put("Sub", high, low))
        points = graph.put("Add", spread, low)
        poses.append(graph.put("Concat", points, graph.constant(np.full((num_joints, 1), 0.75)), axis=1))
    _scored(graph, masks, boxes, scores)
    joined = graph.put("Concat", *poses, axis=0)
    graph.put("Reshape", joined, graph.constant([1, len(colors), num_joints, 3], np.int64), output="keypoints")
    gives = {"dets": [1, "n", 5], "keypoints": [1, "n", num_joints, 3]}
    return graph.save(path, [1, 3, side, side], gives)


MEAN, DEVIATION = np.array([123.675, 116.28, 103.53]), np.array([58.395, 57.12, 57.375])


def rtmdet(
    path: Path, colors: Sequence[Sequence[int]], scores: Sequence[float], labels: Sequence[int], side: int = 64
) -> Path:
    """An RTMDet file that finds something of that label for each of those colors (red, green, blue)."""
    graph = _Graph()
    # Its channels are blue, green, red, each normalized.
    wanted = [((np.array(color) - MEAN) / DEVIATION)[::-1] for color in colors]
    masks = [graph.is_color(each, 0.5) for each in wanted]
    boxes = [graph.box(mask) for mask in masks]
    _scored(graph, masks, boxes, scores)
    graph.put("Identity", graph.constant([list(labels)], np.int64), output="labels")
    return graph.save(path, ["batch", 3, side, side], {"dets": ["batch", "n", 5], "labels": ["batch", "n"]})


def rtmpose(path: Path, color: Sequence[int], num_joints: int = 17, sides: tuple[int, int] = (64, 48)) -> Path:
    """An RTMPose file: joint j is where that color (red, green, blue) begins, and j bins of half a pixel further on."""
    graph = _Graph()
    mask = graph.is_color((np.array(color) - MEAN) / DEVIATION, 0.5)
    gives = {}
    for name, axis, size in (("simcc_x", 3, sides[1]), ("simcc_y", 2, sides[0])):
        line = graph.put("ReduceMax", mask, axes=[0, 1, 5 - axis], keepdims=0)
        first = graph.put("ArgMax", line, axis=0, keepdims=1)
        doubled = graph.put("Mul", first, graph.constant([2], np.int64))
        bins = graph.put("Add", doubled, graph.constant(np.arange(num_joints), np.int64))
        values = graph.constant([0.0, 0.5 if axis == 2 else 0.875])
        hot = graph.put("OneHot", bins, graph.constant(2 * size, np.int64), values, axis=-1)
        graph.put("Unsqueeze", hot, graph.constant([0], np.int64), output=name)
        gives[name] = ["batch", num_joints, 2 * size]
    return graph.save(path, ["batch", 3, *sides], gives)
