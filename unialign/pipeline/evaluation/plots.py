"""Images of a run: confusion matrix, skeletons and regions over frames, weights, ablation bar charts.

Functions return PNG bytes (`draw_skeleton` an image) and need no display.
"""

import io
from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from PIL import Image, ImageDraw

mpl.use("Agg")

LEAST_SIDE = 256
SHOWN_FRAMES = 8
COLOURS = ("#e41a1c", "#377eb8", "#4daf4a", "#984ea3", "#ff7f00", "#ffff33")
PEOPLE = ((255, 80, 60), (60, 170, 255), (120, 220, 90), (250, 200, 40))


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120, bbox_inches="tight", metadata={"Software": None})
    return buffer.getvalue()


def draw_confusion(matrix: np.ndarray, classes: Sequence[str]) -> bytes:
    """A confusion matrix (L, L) of counts, rows true, columns predicted, shaded by the fraction of the row."""
    size = max(4.0, 0.45 * len(classes))
    figure = Figure(figsize=(size + 2.5, size))
    axes = figure.subplots()
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    if len(classes) <= 40:
        for row, column in zip(*np.nonzero(matrix), strict=True):
            colour = "white" if shares[row, column] > 0.6 else "black"
            axes.text(column, row, str(int(matrix[row, column])), ha="center", va="center", fontsize=7, color=colour)
    axes.set_xticks(range(len(classes)), classes, rotation=90, fontsize=7)
    axes.set_yticks(range(len(classes)), classes, fontsize=7)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    return _png(figure)


def draw_ablation(names: Sequence[str], means: Sequence[float], points: Sequence[Sequence[float]]) -> bytes:
    """Accuracy per row: a bar for the mean, a dot per seed; values in percent."""
    figure = Figure(figsize=(6.5, 0.6 + 0.45 * len(names)))
    axes = figure.subplots()
    positions = np.arange(len(names))[::-1]
    axes.barh(positions, means, color="#9ecae1", height=0.65)
    for position, values in zip(positions, points, strict=True):
        axes.plot(values, [position] * len(values), "o", color="#08306b", markersize=4)
    for position, mean in zip(positions, means, strict=True):
        axes.text(103, position, f"{mean:.1f}", va="center", fontsize=8)
    axes.set_yticks(positions, names, fontsize=8)
    axes.set_xlabel("top-1, percent (bar: mean, dots: seeds)")
    axes.set_xlim(0, 112)
    axes.spines[["top", "right"]].set_visible(False)
    return _png(figure)


def draw_skeleton(frame: np.ndarray, keypoints: np.ndarray, bones: Sequence[tuple[int, int]]) -> Image.Image:
    """A frame (H, W, 3) uint8 with persons (M, V, 2) drawn on it, in pixels of the frame; NaN joints are left out.

    bones: pairs of joints to connect with a line. Small frames are enlarged first, so that lines hide less of them.
    """
    scale = max(1, -(-LEAST_SIDE // min(frame.shape[:2])))
    image = Image.fromarray(frame).resize((frame.shape[1] * scale, frame.shape[0] * scale), Image.Resampling.BICUBIC)
    pen = ImageDraw.Draw(image)
    width = max(1, round(min(image.size) / 130))
    for person, colour in zip(keypoints * scale, PEOPLE, strict=False):
        for first, second in bones:
            if np.isfinite(person[[first, second]]).all():
                pen.line([*map(float, person[first]), *map(float, person[second])], fill=colour, width=width)
        for x, y in person[np.isfinite(person).all(axis=1)]:
            pen.ellipse([x - width, y - width, x + width, y + width], fill=colour)
    return image


def draw_sample(
    frames: Sequence[Image.Image], weights: np.ndarray | None, title: str, importance: dict[str, float]
) -> bytes:
    """Frames of one clip in a row, with each frame's weight below it and the modality weights to the right.

    weights: (number of frames,) share of each frame in CMSA's similarity, or None if the model has none.
    importance: share of each modality.
    """
    figure = Figure(figsize=(1.7 * len(frames) + 3, 2.8))
    # The second-to-last column is empty to leave room for the modality names.
    ratios = [1.0] * len(frames) + [0.35, 1.1]
    grid = figure.add_gridspec(2, len(frames) + 2, height_ratios=[3, 1], width_ratios=ratios, wspace=0.06)
    top = float(weights.max()) if weights is not None and len(weights) else 1.0
    for number, frame in enumerate(frames):
        axes = figure.add_subplot(grid[0, number])
        axes.imshow(frame)
        axes.set_axis_off()
        if weights is not None:
            bar = figure.add_subplot(grid[1, number])
            bar.bar([0], [weights[number]], color="#3182bd")
            bar.set_ylim(0, top * 1.15)
            bar.set_xticks([])
            bar.set_yticks([])
            bar.set_xlabel(f"{weights[number]:.2f}", fontsize=7)
    if importance:
        axes = figure.add_subplot(grid[0, -1])
        axes.barh(list(importance), list(importance.values()), color="#fd8d3c")
        axes.set_xlim(0, 1)
        axes.tick_params(labelsize=7)
        axes.set_title("modality weight", fontsize=7)
    figure.suptitle(title, fontsize=9)
    return _png(figure)


def draw_tracklets(
    frames: np.ndarray, maps: np.ndarray, weights: np.ndarray, names: Sequence[str], title: str
) -> bytes:
    """Where each tracklet of a clip attends: one row per tracklet, one column per frame, brighter for higher values.

    frames (T, H, W, 3) uint8; maps (T, K, H', W'); weights (T, K): frame weights per tracklet; names: K tracklet names.
    """
    figure = Figure(figsize=(1.5 * len(frames) + 1.5, 1.75 * len(names) + 0.5))
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
        axes[row, 0].set_ylabel(name, fontsize=7)
    figure.suptitle(title, fontsize=9)
    return _png(figure)


def draw_entities(frames: np.ndarray, entities: np.ndarray, names: Sequence[str], title: str) -> bytes:
    """The entity assigned to each patch of a clip's frames; only the most frequent ones are colored.

    frames (T, H, W, 3) uint8; entities (T, H', W') indices into `names`.
    """
    found, counts = np.unique(entities, return_counts=True)
    shown = found[np.argsort(-counts, kind="stable")[: len(COLOURS)]]
    figure = Figure(figsize=(1.7 * len(frames) + 0.5, 2.6))
    axes = figure.subplots(1, len(frames), squeeze=False, gridspec_kw={"wspace": 0.05})[0]
    for part, frame, patches in zip(axes, frames, entities, strict=True):
        colours = np.zeros((*patches.shape, 4))
        for entity, colour in zip(shown, COLOURS, strict=False):
            colours[patches == entity] = mpl.colors.to_rgba(colour, 0.5)
        part.imshow(frame)
        part.imshow(colours, extent=(-0.5, frame.shape[1] - 0.5, frame.shape[0] - 0.5, -0.5))
        part.set_axis_off()
    keys = [Patch(color=colour, label=names[int(entity)]) for entity, colour in zip(shown, COLOURS, strict=False)]
    figure.legend(handles=keys, loc="lower center", ncols=len(keys), fontsize=7, frameon=False)
    figure.suptitle(title, fontsize=9)
    return _png(figure)
