"""What a training run shows beside its curves, in TensorBoard and in trackers: clips, settings, confusions."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from unialign.pipeline.training.preparation import PreparedRun
from unialign.stages.training.loop import Fitted
from unialign.stages.training.metrics import confusion_matrix
from unialign.stages.training.prediction import Predictions
from unialign.stages.training.trackers import TrackedRun, Trackers, flat
from unialign.types import Json

# Training clips that are shown, and the most classes whose confusions can be read.
CLIPS, MOST_CLASSES = 4, 60
# Pixels of a side of a cell of the confusion matrix.
CELL = 26


def tracked(prepared: PreparedRun, folder: Path, key: str) -> TrackedRun:
    """What trackers are told of a run."""
    return TrackedRun(prepared.dataset.name, folder.name, key, folder, flat(prepared.config))


def show_result(folder: Path, prepared: PreparedRun, fitted: Fitted, trackers: Trackers) -> None:
    """Show a run that has ended: some training clips as the network gets them, the confusion matrix of its test, and
    its settings beside its metrics.
    """
    from torch.utils.tensorboard import SummaryWriter
    from torch.utils.tensorboard.summary import hparams

    pictures = {"clips": _clips(prepared), "confusion": _confusion(prepared, fitted.predictions)}
    step = trackers.step
    with SummaryWriter(str(folder / "tensorboard"), filename_suffix=".result") as writer:
        for name, png in pictures.items():
            if png:
                writer.add_image(name, np.asarray(Image.open(io.BytesIO(png)).convert("RGB")), step, dataformats="HWC")
                trackers.image(name, png)
        results = {f"test/{name}": value for name, value in fitted.metrics.items()}
        # The writer's own `add_hparams` would put them into a run of their own.
        for summary in hparams(_plain(prepared.config), results):  # type: ignore[no-untyped-call]
            writer.file_writer.add_summary(summary)
        for name, value in results.items():
            writer.add_scalar(name, value, step)


def _plain(config: Mapping[str, Any]) -> dict[str, Json]:
    """Settings in the kinds that TensorBoard takes."""
    return {
        name: value if isinstance(value, (bool, int, float, str)) else str(value)
        for name, value in flat(config).items()
    }


def _clips(prepared: PreparedRun) -> bytes:
    """A row of frames for each of some training clips, after augmentation; nothing for a model without frames."""
    picks = [(0, place) for place in range(min(CLIPS, len(prepared.train)))]
    if "frames" not in prepared.readers or not picks:
        return b""
    frames = prepared.train.__getitems__(picks)["frames"].numpy()  # (B, T, 3, H, W)
    rows = [np.concatenate(list(clip.transpose(0, 2, 3, 1)), axis=1) for clip in frames]
    return _png(np.concatenate(rows, axis=0))


def _confusion(prepared: PreparedRun, predictions: Predictions | None) -> bytes:
    """Nothing without a test, or with more classes than can be read."""
    classes = prepared.classes or prepared.dataset.classes
    if predictions is None or len(classes) > MOST_CLASSES:
        return b""
    labels = [prepared.test_side.samples.labels[index] for index in predictions.indices]
    counts = confusion_matrix(predictions.scores.argmax(axis=1), np.array(labels), len(classes))
    return _png(confusion_picture(counts, classes))


def confusion_picture(counts: np.ndarray, classes: Sequence[str]) -> np.ndarray:
    """Counts (L, L), rows true, columns predicted, as an RGB image (H, W, 3): darker for a larger share of the row.

    Plain, but made in milliseconds: the one of `unialign evaluate` takes a second, which is long beside a small run.
    """
    font = ImageFont.load_default(size=CELL // 2)
    left = round(max(font.getlength(name) for name in classes)) + CELL // 2
    image = Image.new("RGB", (left + CELL * len(classes), CELL * len(classes)), "white")
    pen = ImageDraw.Draw(image)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    for row, name in enumerate(classes):
        pen.text((left - 4, row * CELL + CELL // 2), name, fill="black", font=font, anchor="rm")
        for column in range(len(classes)):
            x, y, share = left + column * CELL, row * CELL, float(shares[row, column])
            shade = (round(255 * (1 - share)), round(255 * (1 - share) + 90 * share), round(255 - 75 * share))
            pen.rectangle([x, y, x + CELL - 2, y + CELL - 2], fill=shade)
            if counts[row, column]:
                ink = "white" if share > 0.6 else "black"
                middle = (x + CELL // 2, y + CELL // 2)
                pen.text(middle, str(int(counts[row, column])), fill=ink, font=font, anchor="mm")
    return np.asarray(image)


def _png(image: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(image).save(out, "PNG")
    return out.getvalue()
