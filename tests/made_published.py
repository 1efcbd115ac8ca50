"""Checkpoints with the names and shapes of PYSKL's and EfficientGCN's, and made-up weights, everywhere the same."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

WIDTHS = (64, 64, 64, 64, 128, 128, 128, 256, 256, 256)
Shapes = Iterator[tuple[str, tuple[int, ...]]]


def checkpoint(path: Path, kind: str, *, joints: int = 17, classes: int = 60) -> Path:
    """A file of that network below `path`'s folder, whose name says what it reads."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"meta": {"epoch": 16}, "state_dict": state(kind, joints=joints, classes=classes)}, path)
    return path


def efficient_checkpoint(path: Path, size: str) -> Path:
    """A file of EfficientGCN-B0 or B2 with all that its training leaves in it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    best = {"acc_top1": 0.9, "cm": np.zeros((60, 60))}
    torch.save({"model": efficient_state(size), "scheduler": {"lr_lambdas": [None]}, "best_state": best}, path)
    return path


def efficient_state(size: str) -> dict[str, Tensor]:
    """size: B0, of sand-glass layers, or B2, of separable ones."""
    named = dict(efficientgcn(size))
    generator = torch.Generator().manual_seed(15)
    made = {name: weight(name, shape, named, generator) for name, shape in sorted(named.items())}
    # One graph for all layers, which share it there.
    graphs = [name for name in made if name.endswith(".A")]
    return made | {name: made[graphs[0]].clone() for name in graphs}


def state(kind: str, *, joints: int = 17, classes: int = 60) -> dict[str, Tensor]:
    """kind: stgcn++, stgcn, aagcn, ctrgcn, posec3d or efficientgcn."""
    if kind == "efficientgcn":
        return efficient_state("B0")
    shapes = dict(posec3d() if kind == "posec3d" else graph(kind, joints))
    named = {f"backbone.{name}": shape for name, shape in shapes.items()}
    features = 512 if kind == "posec3d" else 256
    named |= {"cls_head.fc_cls.weight": (classes, features), "cls_head.fc_cls.bias": (classes,)}
    generator = torch.Generator().manual_seed(14)
    return {name: weight(name, shape, named, generator) for name, shape in sorted(named.items())}


def weight(name: str, shape: tuple[int, ...], named: Mapping[str, object], generator: torch.Generator) -> Tensor:
    """Of a size that keeps features of a deep network near 1."""
    leaf = name.rpartition(".")[2]
    of_norm = f"{name.rpartition('.')[0]}.running_var" in named
    if leaf == "num_batches_tracked":
        return torch.tensor(1000)
    if leaf in ("running_var", "PA", "edge") or (of_norm and leaf == "weight"):
        return 0.5 + torch.rand(shape, generator=generator)
    if leaf == "A":
        return torch.rand(shape, generator=generator) / shape[-1]
    if leaf == "alpha":
        return torch.full(shape, 0.7)
    values = torch.randn(shape, generator=generator)
    gain = 1.0 if len(shape) == 5 else 0.1
    return values * (0.1 if len(shape) == 1 else (gain / values[0].numel()) ** 0.5)


def norm(name: str, size: int) -> Shapes:
    for leaf in ("weight", "bias", "running_mean", "running_var"):
        yield f"{name}.{leaf}", (size,)
    yield f"{name}.num_batches_tracked", ()


def conv(name: str, after: int, before: int, *size: int) -> Shapes:
    yield f"{name}.weight", (after, before, *(size or (1, 1)))
    yield f"{name}.bias", (after,)


def graph(kind: str, joints: int) -> Shapes:
    """Of a graph network; CTR-GCN calls its parts gcn1 and tcn1, and normalizes two persons together, as AGCN does."""
    together = kind in ("aagcn", "ctrgcn")
    blocks, one = ("net", "1") if kind == "ctrgcn" else ("gcn", "")
    yield from norm("data_bn", 3 * joints * (2 if together else 1))
    if together:
        yield "A", (3, joints, joints)
    before = 3
    for index, after in enumerate(WIDTHS):
        block = f"{blocks}.{index}"
        yield from SPACES[kind](f"{block}.gcn{one}", before, after, joints)
        yield from TIMES[kind](f"{block}.tcn{one}", after)
        if index and before != after:
            yield from unit(f"{block}.residual", after, before, 1, 1)
        before = after


def unit(name: str, after: int, before: int, *size: int) -> Shapes:
    yield from conv(f"{name}.conv", after, before, *size)
    yield from norm(f"{name}.bn", after)


def graph_convolution(name: str, before: int, after: int, joints: int) -> Shapes:
    yield f"{name}.A", (3, joints, joints)
    yield from conv(f"{name}.conv", 3 * after, before)
    yield from norm(f"{name}.bn", after)


def down(name: str, before: int, after: int) -> Shapes:
    if before != after:
        yield from conv(f"{name}.down.0", after, before)
        yield from norm(f"{name}.down.1", after)


def plus_plus(name: str, before: int, after: int, joints: int) -> Shapes:
    yield from graph_convolution(name, before, after, joints)
    yield from down(name, before, after)


def weighted(name: str, before: int, after: int, joints: int) -> Shapes:
    yield from graph_convolution(name, before, after, joints)
    yield f"{name}.PA", (3, joints, joints)


def adaptive(name: str, before: int, after: int, joints: int) -> Shapes:
    yield f"{name}.A", (3, joints, joints)
    yield f"{name}.alpha", (1,)
    for subset in range(3):
        yield from conv(f"{name}.conv_a.{subset}", after // 4, before)
        yield from conv(f"{name}.conv_b.{subset}", after // 4, before)
        yield from conv(f"{name}.conv_d.{subset}", after, before)
    yield from conv(f"{name}.conv_ta", 1, after, 9)
    yield from conv(f"{name}.conv_sa", 1, after, joints)
    yield f"{name}.fc1c.weight", (after // 2, after)
    yield f"{name}.fc1c.bias", (after // 2,)
    yield f"{name}.fc2c.weight", (after, after // 2)
    yield f"{name}.fc2c.bias", (after,)
    yield from norm(f"{name}.bn", after)
    yield from down(name, before, after)


def refined(name: str, before: int, after: int, joints: int) -> Shapes:
    yield f"{name}.A", (3, joints, joints)
    yield f"{name}.alpha", (1,)
    inner = 8 if before <= 16 else before // 8
    for subset in range(3):
        yield from conv(f"{name}.convs.{subset}.conv1", inner, before)
        yield from conv(f"{name}.convs.{subset}.conv2", inner, before)
        yield from conv(f"{name}.convs.{subset}.conv3", after, before)
        yield from conv(f"{name}.convs.{subset}.conv4", after, inner)
    yield from norm(f"{name}.bn", after)
    yield from down(name, before, after)


def six_branches(name: str, width: int) -> Shapes:
    part = width // 6
    for branch in range(5):
        size = width - 5 * part if branch == 0 else part
        yield from conv(f"{name}.branches.{branch}.0", size, width)
        yield from norm(f"{name}.branches.{branch}.1", size)
        if branch < 4:
            yield from conv(f"{name}.branches.{branch}.3.conv", size, size, 3, 1)
    yield from conv(f"{name}.branches.5", part, width)
    yield from norm(f"{name}.transform.0", width)
    yield from conv(f"{name}.transform.2", width, width)
    yield from norm(f"{name}.bn", width)


def four_branches(name: str, width: int) -> Shapes:
    part = width // 4
    for branch in range(3):
        yield from conv(f"{name}.branches.{branch}.0", part, width)
        yield from norm(f"{name}.branches.{branch}.1", part)
        if branch < 2:
            yield from unit(f"{name}.branches.{branch}.3", part, part, 5, 1)
    yield from norm(f"{name}.branches.2.4", part)
    yield from conv(f"{name}.branches.3.0", part, width)
    yield from norm(f"{name}.branches.3.1", part)


def window(name: str, width: int) -> Shapes:
    yield from unit(name, width, width, 9, 1)


SPACES = {"stgcn++": plus_plus, "stgcn": weighted, "aagcn": adaptive, "ctrgcn": refined}
TIMES = {"stgcn++": six_branches, "stgcn": window, "aagcn": window, "ctrgcn": four_branches}


def posec3d() -> Shapes:
    """Of the SlowOnly network of joints or limbs of COCO, with stages of 4, 6 and 3 blocks."""

    def unbiased(name: str, after: int, before: int, *size: int) -> Shapes:
        yield f"{name}.conv.weight", (after, before, *size)
        yield from norm(f"{name}.bn", after)

    yield from unbiased("conv1", 32, 17, 1, 7, 7)
    before = 32
    for stage, blocks in enumerate((4, 6, 3)):
        width = 32 * 2**stage
        for index in range(blocks):
            name = f"layer{stage + 1}.{index}"
            yield from unbiased(f"{name}.conv1", width, before, 3 if stage else 1, 1, 1)
            yield from unbiased(f"{name}.conv2", width, width, 1, 3, 3)
            yield from unbiased(f"{name}.conv3", 4 * width, width, 1, 1, 1)
            if index == 0:
                yield from unbiased(f"{name}.downsample", 4 * width, before, 1, 1, 1)
            before = 4 * width


def efficientgcn(size: str) -> Shapes:
    """Stages of (channels, stride, temporal layers): two behind each of three inputs, two behind them all."""
    sand_glass = size == "B0"
    widths, depth = ((48, 32, 64, 128), (0, 0, 1, 1)) if sand_glass else ((64, 32, 96, 192), (1, 1, 2, 2))
    reduction = 2 if sand_glass else 4

    def normed(name: str, after: int, before: int, *kernel: int) -> Shapes:
        yield from conv(f"{name}.0", after, before, *kernel)
        yield from norm(f"{name}.1", after)

    def space(name: str, before: int, after: int) -> Shapes:
        yield f"{name}.conv.A", (3, 25, 25)
        yield f"{name}.conv.edge", (3, 25, 25)
        yield from conv(f"{name}.conv.gcn", 3 * after, before)
        yield from norm(f"{name}.bn", after)
        if before != after:
            yield from normed(f"{name}.residual", after, before)

    def time(name: str, width: int, *, stride: int) -> Shapes:
        inner = width // reduction if sand_glass else 2 * width
        if sand_glass:
            yield from normed(f"{name}.depth_conv1", width, 1, 5, 1)
            yield from normed(f"{name}.point_conv1", inner, width)
            yield from normed(f"{name}.point_conv2", width, inner)
            yield from normed(f"{name}.depth_conv2", width, 1, 5, 1)
        else:
            yield from normed(f"{name}.expand_conv", inner, width)
            yield from normed(f"{name}.depth_conv", inner, 1, 5, 1)
            yield from normed(f"{name}.point_conv", width, inner)
        if stride > 1:
            yield from normed(f"{name}.residual", width, width)

    def stages(name: str, before: int, first: int, *, stride: int) -> Shapes:
        for index in range(2):
            after = widths[first + index]
            yield from space(f"{name}.block-{index}_scn", before, after)
            for layer in range(depth[first + index]):
                yield from time(f"{name}.block-{index}_tcn-{layer}", after, stride=1 if layer else stride)
            yield from normed(f"{name}.block-{index}_att.att.fcn", after // reduction, after)
            yield from conv(f"{name}.block-{index}_att.att.conv_t", after, after // reduction)
            yield from conv(f"{name}.block-{index}_att.att.conv_v", after, after // reduction)
            yield from norm(f"{name}.block-{index}_att.bn", after)
            before = after

    for branch in range(3):
        name = f"input_branches.{branch}"
        yield from norm(f"{name}.init_bn", 6)
        yield from space(f"{name}.stem_scn", 6, 64)
        yield from unit(f"{name}.stem_tcn", 64, 64, 5, 1)
        yield from stages(name, 64, 0, stride=1)
    yield from stages("main_stream", 3 * widths[1], 2, stride=2)
    yield from conv("classifier.fc", 60, widths[3], 1, 1, 1)
