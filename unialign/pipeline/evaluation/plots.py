"""Drawings of a run: confusion matrix, skeletons and regions over frames, weights, ablation bar charts.

Functions return `Pictures` (`draw_skeleton` an image) and need no display. Each has a legend that says what is drawn.
"""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from PIL import Image, ImageDraw

from unialign.pipeline.evaluation.class_groups import boxes, confusion_groups, group_names
from unialign.pipeline.evaluation.pictures import Pictures, pictures_of
from unialign.pipeline.evaluation.tracks import ABSENT, JUMP, LOST

LEAST_SIDE = 320
SHOWN_FRAMES = 8
# Okabe and Ito's colors, which color-blind people can tell apart.
COLOURS = ("#E69F00", "#56B4E9", "#009E73", "#CC79A7", "#D55E00", "#F0E442")
BLUE, BAR, VERMILION, OLIVE = "#0072B2", "#9CC7E0", "#D55E00", "#8C6D00"
PEOPLE = ((204, 121, 167), (0, 158, 115), (240, 228, 66), (213, 94, 0))
# The first person, where the layout says which joints are on which side.
SIDES = {"left": (230, 159, 0), "right": (86, 180, 233), "": (255, 255, 255)}
RIM = (0, 0, 0)
# More classes are drawn by group.
MOST_NAMED = 40
MOST_GROUPS = 12


def draw_confusion(matrix: np.ndarray, classes: Sequence[str]) -> Pictures:
    """A confusion matrix (L, L) of counts, rows true, columns predicted, shaded by the fraction of the row.

    Classes that are taken for each other stand together, with a box around each such group (see `class_groups`). Of
    more than `MOST_NAMED` classes, the groups with most errors inside are drawn, each by itself.
    """
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    groups = confusion_groups(matrix)
    if len(classes) > MOST_NAMED:
        return _draw_groups(matrix, shares, groups, classes)
    order = [label for labels in groups for label in labels]
    size = max(4.5, 0.42 * len(classes))
    figure = Figure(figsize=(size + 3.0, size))
    axes = figure.subplots()
    image = _matrix(axes, matrix[np.ix_(order, order)], shares[np.ix_(order, order)], [classes[at] for at in order])
    for start, count in boxes(groups):
        axes.add_patch(_box(start, count))
    bar = figure.colorbar(image, ax=axes, fraction=0.04, pad=0.02)
    bar.set_label("share of the true class", fontsize=8)
    bar.ax.tick_params(labelsize=7)
    axes.set_title(
        f"Numbers: test clips, {int(matrix.sum())} in all. Boxes: classes that are taken for each other.", fontsize=8
    )
    return pictures_of(figure)


def _draw_groups(
    matrix: np.ndarray, shares: np.ndarray, groups: Sequence[Sequence[int]], classes: Sequence[str]
) -> Pictures:
    inside = [int(matrix[np.ix_(labels, labels)].sum() - np.trace(matrix[np.ix_(labels, labels)])) for labels in groups]
    ranked = sorted((place for place in range(len(groups)) if inside[place]), key=lambda place: (-inside[place], place))
    chosen = [groups[place][:MOST_NAMED] for place in ranked[:MOST_GROUPS]]
    if not chosen:
        chosen = [groups[0][:MOST_NAMED]]
    columns = min(3, len(chosen))
    rows = -(-len(chosen) // columns)
    figure = Figure(figsize=(5.2 * columns, 4.4 * rows), layout="constrained")
    places = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, labels in zip(places, chosen, strict=False):
        part = np.ix_(labels, labels)
        _matrix(axes, matrix[part], shares[part], [classes[label] for label in labels])
        axes.set_title(group_names([labels], [_short(name) for name in classes])[0], fontsize=8)
    for axes in places[len(chosen) :]:
        axes.set_axis_off()
    wrong = int(matrix.sum() - np.trace(matrix))
    _caption(
        figure,
        f"The {len(chosen)} groups of classes with most errors inside: {sum(sorted(inside)[::-1][:MOST_GROUPS])} of "
        f"{wrong} errors among {int(matrix.sum())} test clips of {len(classes)} classes.",
    )
    return pictures_of(figure)


def _matrix(axes: Axes, counts: np.ndarray, shares: np.ndarray, names: Sequence[str]) -> Any:
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    size = 7 if len(names) > 8 else 8
    for row, column in zip(*np.nonzero(counts), strict=True):
        colour = "white" if shares[row, column] > 0.6 else "black"
        axes.text(column, row, str(int(counts[row, column])), ha="center", va="center", fontsize=size, color=colour)
    short = [_short(name) for name in names]
    axes.set_xticks(range(len(names)), short, rotation=90, fontsize=size)
    axes.set_yticks(range(len(names)), short, fontsize=size)
    axes.set_xlabel("predicted", fontsize=9)
    axes.set_ylabel("true", fontsize=9)
    return image


def _box(start: int, count: int) -> Rectangle:
    return Rectangle((start - 0.5, start - 0.5), count, count, fill=False, edgecolor=VERMILION, linewidth=1.4)


def _short(name: str, most: int = 30) -> str:
    # A dollar sign would begin a formula.
    return (name if len(name) <= most else name[: most - 1] + "…").replace("$", r"\$")


def _caption(figure: Figure, text: str) -> None:
    figure.text(0.5, -0.01, text, ha="center", va="top", fontsize=8, color="#444444", wrap=True)


def draw_ablation(
    rows: Sequence[Mapping[str, Any]], baselines: Sequence[Mapping[str, Any]] = (), over: str = ""
) -> Pictures:
    """Top-1 per row: a bar for the mean, per seed a dot with its interval, diamonds for simple baselines; beside it the
    change from the first row with its interval.

    rows: "name", "mean", "seeds" [{"top1", "low", "high"}], "change", "low", "high" (None without). baselines: "name",
    "top1", "low", "high". All fractions of 1. over: what the intervals of changes were drawn over.
    """
    total = len(rows) + len(baselines)
    figure = Figure(figsize=(10.5, 1.1 + 0.52 * total), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True, gridspec_kw={"width_ratios": [2, 1]})
    _rows_chart(left, rows, baselines)
    for place, row in zip(range(total - 1, -1, -1), rows, strict=False):
        if row["change"] is not None and row is not rows[0]:
            _interval(right, row["change"], row["low"], row["high"], place, VERMILION, "o", 5)
            beside = right.get_yaxis_transform()
            right.text(1.02, place, f"{100 * row['change']:+.1f}", va="center", fontsize=9, transform=beside)
    right.axvline(0, color="#777777", linewidth=0.8, linestyle="--")
    right.set_xlabel("change from the first row, points", fontsize=9)
    right.tick_params(left=False, labelsize=9)
    right.spines[["top", "right"]].set_visible(False)
    keys = _rows_keys(bool(baselines))
    keys.append(
        Line2D(
            [],
            [],
            color=VERMILION,
            marker="o",
            markersize=5,
            label=f"change: 95 % bootstrap interval over {over or '-'}",
        )
    )
    figure.legend(handles=keys, loc="outside lower center", ncols=2, fontsize=8, frameon=False)
    return pictures_of(figure)


def _rows_chart(axes: Axes, rows: Sequence[Mapping[str, Any]], baselines: Sequence[Mapping[str, Any]]) -> None:
    """The bars, dots and diamonds of `draw_ablation`, the first row on top."""
    total = len(rows) + len(baselines)
    names = [textwrap.fill(_short(str(row["name"]), 56), 28) for row in (*rows, *baselines)]
    axes.set_yticks(np.arange(total)[::-1], names, fontsize=9)
    for place, row in zip(range(total - 1, -1, -1), rows, strict=False):
        axes.barh(place, 100 * row["mean"], color=BAR, height=0.72)
        axes.text(104, place, f"{100 * row['mean']:.1f}", va="center", fontsize=9)
        seeds = row["seeds"]
        for number, seed in enumerate(seeds):
            at = place + 0.6 * (0.5 - (number + 0.5) / len(seeds))
            _interval(axes, seed["top1"], seed["low"], seed["high"], at, BLUE, "o", 3.5)
    for place, row in zip(range(len(baselines) - 1, -1, -1), baselines, strict=True):
        _interval(axes, row["top1"], row["low"], row["high"], place, OLIVE, "D", 5)
        axes.text(104, place, f"{100 * row['top1']:.1f}", va="center", fontsize=9)
    axes.set_xlim(0, 102)
    axes.set_xlabel("top-1, percent", fontsize=9)
    axes.tick_params(labelsize=9)
    axes.spines[["top", "right"]].set_visible(False)


def _rows_keys(baselines: bool) -> list[Any]:
    keys: list[Any] = [
        Patch(color=BAR, label="mean over seeds"),
        Line2D([], [], color=BLUE, marker="o", markersize=4, label="a seed, 95 % interval over test clips (Wilson)"),
    ]
    if baselines:
        keys.append(Line2D([], [], color=OLIVE, marker="D", markersize=5, label="simple baseline, as a seed"))
    return keys


def draw_overview(
    clips: Sequence[tuple[Image.Image, str, bool]],
    rows: Sequence[Mapping[str, Any]],
    baselines: Sequence[Mapping[str, Any]],
    title: str,
) -> Pictures:
    """One picture for a README: frames of clips with their answers on the left, the rows of an ablation on the right.

    clips: frame with skeletons, what is written below it, and whether the answer is right. rows, baselines: as for
    `draw_ablation`.
    """
    columns = max(1, -(-len(clips) // 2))
    figure = Figure(figsize=(1.55 * columns + 5.6, 4.3), layout="constrained")
    grid = figure.add_gridspec(2, columns + 1, width_ratios=[1.0] * columns + [3.4])
    for number, (image, words, right) in enumerate(clips):
        axes = figure.add_subplot(grid[number // columns, number % columns])
        axes.imshow(image)
        axes.set_xticks([])
        axes.set_yticks([])
        axes.spines[:].set_visible(False)
        axes.set_xlabel(
            textwrap.fill(_short(words, 80), 18), fontsize=8, color=BLUE if right else VERMILION, labelpad=3
        )
    chart = figure.add_subplot(grid[:, -1])
    _rows_chart(chart, rows, baselines)
    chart.legend(
        handles=_rows_keys(bool(baselines)),
        loc="upper center",
        bbox_to_anchor=(0.5, -0.14),
        fontsize=7.5,
        frameon=False,
    )
    figure.suptitle(_short(title, 160), fontsize=10)
    # Small enough for a README.
    return pictures_of(figure, dots=100)


def _interval(
    axes: Axes, value: float, low: float | None, high: float | None, place: float, colour: str, marker: str, size: float
) -> None:
    errors = None if low is None or high is None else [[100 * (value - low)], [100 * (high - value)]]
    axes.errorbar(
        [100 * value], [place], xerr=errors, color=colour, marker=marker, markersize=size, capsize=2.5, linewidth=1.2
    )


def draw_skeleton(
    frame: np.ndarray,
    keypoints: np.ndarray,
    bones: Sequence[tuple[int, int]],
    sides: Sequence[str] = (),
    states: str = "",
) -> Image.Image:
    """A frame (H, W, 3) uint8 with persons (M, V, 2) drawn on it, in pixels of the frame; NaN joints are left out.

    bones: pairs of joints to connect with a line. sides: of each joint (`Layout.side`), for the first person's own left
    and right; without, every person has one color. states: a letter of `tracks` for each person; a lost one is dashed,
    a jump is written beside the head. Small frames are enlarged first, so that lines hide less of them.
    """
    scale = max(1, -(-LEAST_SIDE // min(frame.shape[:2])))
    image = Image.fromarray(frame).resize((frame.shape[1] * scale, frame.shape[0] * scale), Image.Resampling.BICUBIC)
    pen = ImageDraw.Draw(image)
    width = max(2, round(min(image.size) / 75))
    for number, person in reversed(list(enumerate(keypoints[: len(PEOPLE)] * scale))):
        state = states[number] if number < len(states) else ""
        if state == ABSENT:
            continue
        known = np.isfinite(person).all(axis=1)

        def colour(joint: int, number: int = number) -> tuple[int, int, int]:
            return SIDES[sides[joint]] if sides and not number else PEOPLE[number]

        for rim in (width, 0):
            for child, parent in bones:
                if known[child] and known[parent]:
                    line = [*map(float, person[child]), *map(float, person[parent])]
                    _line(pen, line, RIM if rim else colour(child), width + (2 if rim else 0), dashed=state == LOST)
        for joint in np.flatnonzero(known).tolist():
            x, y = map(float, person[joint])
            if state != LOST:
                pen.ellipse([x - width, y - width, x + width, y + width], fill=colour(joint))
        if state in (LOST, JUMP) and known.any():
            x, y = map(float, person[known][person[known][:, 1].argmin()])
            word = "lost" if state == LOST else "jump"
            pen.text(
                (x, max(y - 6, 22)), word, (255, 255, 255), anchor="mb", font_size=18, stroke_width=2, stroke_fill=RIM
            )
    return image


def _line(
    pen: ImageDraw.ImageDraw,
    ends: list[float],
    colour: tuple[int, int, int],
    width: int,
    *,
    dashed: bool,
) -> None:
    if not dashed:
        pen.line(ends, fill=colour, width=width)
        return
    first, last = np.array(ends[:2]), np.array(ends[2:])
    pieces = max(1, round(float(np.linalg.norm(last - first)) / (3 * width)))
    for piece in range(pieces):
        start, end = (first + (last - first) * (piece + share) / pieces for share in (0.0, 0.55))
        pen.line([*map(float, start), *map(float, end)], fill=colour, width=width)


def draw_sample(
    frames: Sequence[Image.Image],
    weights: np.ndarray | None,
    title: str,
    importance: dict[str, float],
    numbers: Sequence[int] = (),
    *,
    sided: bool = False,
) -> Pictures:
    """Frames of one clip in a row, with each frame's weight below it and the modality weights to the right.

    weights: (number of frames,) share of each frame in CMSA's similarity, or None if the model has none. importance:
    share of each modality. numbers: of the frames in the clip, from 0. sided: skeletons have a left and a right.
    """
    shape = frames[0].size[0] / frames[0].size[1] if frames else 1.0
    wide = 2.1 * min(max(shape, 0.6), 1.8)
    figure = Figure(figsize=(wide * len(frames) + (3.4 if importance else 0.4), 3.9))
    # The second-to-last column is empty to leave room for the modality names.
    ratios = [wide] * len(frames) + ([0.9, 1.9] if importance else [])
    grid = figure.add_gridspec(2, len(ratios), height_ratios=[2.6, 1], width_ratios=ratios, wspace=0.06, hspace=0.28)
    top = float(weights.max()) if weights is not None and len(weights) else 1.0
    for number, frame in enumerate(frames):
        axes = figure.add_subplot(grid[0, number])
        axes.imshow(frame)
        axes.set_xticks([])
        axes.set_yticks([])
        axes.spines[:].set_visible(False)
        if number < len(numbers):
            axes.set_xlabel(f"frame {numbers[number] + 1}", fontsize=8, labelpad=2)
        if not number:
            axes.set_ylabel("cached frames", fontsize=8)
        if weights is not None:
            bar = figure.add_subplot(grid[1, number])
            bar.bar([0], [weights[number]], color=BLUE)
            bar.set_ylim(0, top * 1.2)
            bar.set_xticks([])
            bar.set_yticks([])
            bar.set_xlabel(f"{weights[number]:.2f}", fontsize=8)
            bar.spines[["top", "right", "left"]].set_visible(False)
            if not number:
                bar.set_ylabel("share in the\nsimilarity", fontsize=8)
    if importance:
        axes = figure.add_subplot(grid[0, -1])
        axes.barh(list(importance), list(importance.values()), color=COLOURS[0])
        axes.set_xlim(0, 1)
        axes.tick_params(labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_title("weight of each modality", fontsize=8)
    figure.suptitle(_short(title, 160), fontsize=11)
    if sided:
        _skeleton_legend(figure)
    return pictures_of(figure)


def _skeleton_legend(figure: Figure) -> None:
    def line(colour: tuple[int, int, int], label: str, style: Literal["-", ":"] = "-") -> Line2D:
        red, green, blue = (value / 255 for value in colour)
        return Line2D([], [], color=(red, green, blue), linewidth=2.5, linestyle=style, label=label)

    keys = [
        line(SIDES["left"], "first person's own left"),
        line(SIDES["right"], "own right"),
        line((150, 150, 150), "middle (white)"),
        line(PEOPLE[1], "another person"),
        line((90, 90, 90), "lost: pose of the last frame that has one", ":"),
        Line2D([], [], linestyle="", label="“jump”: another person may have taken the track over"),
    ]
    figure.legend(
        handles=keys, loc="upper center", bbox_to_anchor=(0.5, 0.03), ncols=len(keys), fontsize=8, frameon=False
    )


def draw_tracklets(
    frames: np.ndarray, maps: np.ndarray, weights: np.ndarray, names: Sequence[str], title: str
) -> Pictures:
    """Where each tracklet of a clip attends: one row per tracklet, one column per frame, brighter for higher values.

    frames (T, H, W, 3) uint8; maps (T, K, H', W'); weights (T, K): frame weights per tracklet; names: K tracklet names.
    """
    figure = Figure(figsize=(1.9 * len(frames) + 1.5, 2.15 * len(names) + 0.5))
    axes = figure.subplots(len(names), len(frames), squeeze=False, gridspec_kw={"wspace": 0.05, "hspace": 0.25})
    for row, name in enumerate(names):
        for column, frame in enumerate(frames):
            seen = maps[column, row] / maps[column, row].max()
            heat = Image.fromarray((255 * seen).astype(np.uint8)).resize(frame.shape[1::-1], Image.Resampling.BICUBIC)
            part = axes[row, column]
            part.imshow(frame)
            part.imshow(heat, cmap="inferno", alpha=0.5, vmin=0, vmax=255)
            part.set_xticks([])
            part.set_yticks([])
            part.set_xlabel(f"{weights[column, row]:.2f}", fontsize=7, labelpad=2)
        axes[row, 0].set_ylabel(_short(name), fontsize=8)
    figure.suptitle(_short(title, 160), fontsize=11)
    _caption(
        figure, "A row for each tracklet, named by its class; brighter: where it looks; numbers: weight of the frame."
    )
    return pictures_of(figure)


def draw_entities(frames: np.ndarray, entities: np.ndarray, names: Sequence[str], title: str) -> Pictures:
    """The entity assigned to each patch of a clip's frames; only the most frequent ones are colored.

    frames (T, H, W, 3) uint8; entities (T, H', W') indices into `names`.
    """
    found, counts = np.unique(entities, return_counts=True)
    shown = found[np.argsort(-counts, kind="stable")[: len(COLOURS)]]
    figure = Figure(figsize=(2.1 * len(frames) + 0.5, 3.1))
    axes = figure.subplots(1, len(frames), squeeze=False, gridspec_kw={"wspace": 0.05})[0]
    for part, frame, patches in zip(axes, frames, entities, strict=True):
        colours = np.zeros((*patches.shape, 4))
        for entity, colour in zip(shown, COLOURS, strict=False):
            colours[patches == entity] = mpl.colors.to_rgba(colour, 0.5)
        part.imshow(frame)
        part.imshow(colours, extent=(-0.5, frame.shape[1] - 0.5, frame.shape[0] - 0.5, -0.5))
        part.set_axis_off()
    keys = [
        Patch(color=colour, label=_short(names[int(entity)])) for entity, colour in zip(shown, COLOURS, strict=False)
    ]
    figure.legend(handles=keys, loc="lower center", ncols=len(keys), fontsize=8, frameon=False)
    _caption(figure, "Each patch of the network's frames in the color of the text it is nearest to; the rest is rarer.")
    figure.suptitle(_short(title, 160), fontsize=11)
    return pictures_of(figure)
