"""A clip as an mp4 with what a model says of it: people's poses, labels, and the weights of modalities and frames."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from unialign.cache import atomic
from unialign.pipeline.prediction.model import Prediction
from unialign.stages.video import Video, encode_clip

# The shorter side of the picture is at least so long, so that text and bones are legible over small clips.
LEAST_SIDE, PANEL_LABELS = 480, 3
TEXT, LINE, MARGIN = 20, 30, 12
STRIP = 34
BACK, FRONT, FAINT, BAR, HEAD = (18, 20, 24), (240, 240, 240), (120, 124, 130), (0, 114, 178), (230, 159, 0)
# Of the people, in the order of their slots; told apart in all common forms of color blindness (Okabe and Ito).
PEOPLE = ((230, 159, 0), (86, 180, 233), (0, 158, 115), (204, 121, 167))
FPS = 25


def write_annotated(found: Prediction, path: Path) -> None:
    """Write the clip of a prediction with what was found in it. Raises what `Video.frames` raises."""
    atomic.make_folder(path.parent)
    video = Video(found.path)
    frames = video.frames()
    first = next(frames)
    fps = round(video.fps) if np.isfinite(video.fps) and video.fps >= 1 else FPS
    encode_clip(path, _pictures(found, first, frames, _weights(found)), fps=fps)


def _weights(found: Prediction) -> tuple[np.ndarray, np.ndarray]:
    """Numbers (N,) of the frames that the model saw, and their weights divided by the largest."""
    numbers = np.array([number for number, _ in found.frames], dtype=float)
    weights = np.array([weight for _, weight in found.frames], dtype=float)
    return numbers, weights / weights.max() if len(weights) and weights.max() > 0 else weights


def _pictures(
    found: Prediction, first: np.ndarray, rest: Iterator[np.ndarray], weights: tuple[np.ndarray, np.ndarray]
) -> Iterator[np.ndarray]:
    scale = max(1.0, LEAST_SIDE / min(first.shape[:2]))
    # Even sides, as the encoder needs them.
    size = round(first.shape[1] * scale / 2) * 2, round(first.shape[0] * scale / 2) * 2
    panel = _panel(found, size[0])
    last = max(found.frames[-1][0] if found.frames else 0, len(found.poses.keypoints) - 1 if found.poses else 0, 1)

    def frames() -> Iterator[np.ndarray]:
        yield first
        yield from rest

    for number, frame in enumerate(frames()):
        picture = Image.fromarray(frame).resize(size, Image.Resampling.BICUBIC)
        if found.poses is not None and number < len(found.poses.keypoints):
            people = found.poses.keypoints[number] * (np.array(size) / np.array(frame.shape[1::-1]))
            _draw_people(picture, people, found.poses.bones)
        whole = Image.new("RGB", (size[0], size[1] + panel.height), BACK)
        whole.paste(picture, (0, 0))
        whole.paste(panel, (0, size[1]))
        if found.frames:
            _draw_strip(whole, weights, number, last)
        yield np.asarray(whole)


def _draw_people(picture: Image.Image, people: np.ndarray, bones: tuple[tuple[int, int], ...]) -> None:
    """people (P, V, 2) in pixels of the picture; bones on a dark edge, so that they stand out from any ground."""
    pen = ImageDraw.Draw(picture)
    width = max(2, round(min(picture.size) / 120))
    for person, color in zip(people, PEOPLE * (1 + len(people) // len(PEOPLE)), strict=False):
        seen = np.isfinite(person).all(axis=1) & (person > 0).any(axis=1)
        lines = [(*map(float, person[a]), *map(float, person[b])) for a, b in bones if seen[a] and seen[b]]
        for fill, wide in ((BACK, width + 3), (color, width)):
            for line in lines:
                pen.line(line, fill=fill, width=wide)
        for x, y in person[seen]:
            pen.ellipse([x - width, y - width, x + width, y + width], fill=color, outline=BACK)


def _panel(found: Prediction, width: int) -> Image.Image:
    """Below the picture: the likeliest labels with bars, and the weights of the modalities."""
    labels = found.top(PANEL_LABELS)
    lines = max(len(labels), len(found.importance))
    height = MARGIN + LINE * lines + (STRIP if found.frames else 0) + MARGIN // 2
    panel = Image.new("RGB", (width, height + height % 2), BACK)
    half = int(width * (0.62 if found.importance else 1.0))
    for row, (name, probability) in enumerate(labels):
        _bar(panel, MARGIN, row, half - 2 * MARGIN, name, probability)
    for row, (name, weight) in enumerate(found.importance.items()):
        _bar(panel, half, row, width - half - MARGIN, f"{name} weight", weight)
    return panel


def _bar(panel: Image.Image, left: int, row: int, width: int, name: str, share: float) -> None:
    """A line of text over a bar of its share."""
    pen = ImageDraw.Draw(panel)
    top = MARGIN + row * LINE
    font = ImageFont.load_default(size=TEXT)
    number = f"{share:.0%}"
    room = width - pen.textlength(number, font=font) - 3 * MARGIN
    while name and pen.textlength(name, font=font) > room:
        name = name[:-2].rstrip() + "…" if len(name) > 2 else ""
    pen.rectangle([left, top, left + width, top + LINE - 5], fill=(40, 44, 50))
    pen.rectangle([left, top, left + max(2, round(width * share)), top + LINE - 5], fill=BAR)
    pen.text((left + 6, top + 1), name, fill=FRONT, font=font)
    pen.text((left + width - 6, top + 1), number, fill=FRONT, font=font, anchor="ra")


def _draw_strip(whole: Image.Image, weights: tuple[np.ndarray, np.ndarray], number: int, last: int) -> None:
    """At the bottom: a bar for each frame that the model saw, as high as its weight, and where the clip is now."""
    pen = ImageDraw.Draw(whole)
    bottom, top = whole.height - MARGIN // 2, whole.height - STRIP + 4
    room = whole.width - 2 * MARGIN

    def place(at: float) -> float:
        return MARGIN + room * at / last

    wide = max(2.0, min(14.0, 0.6 * room / max(1, len(weights[0]))))
    pen.line([MARGIN, bottom, whole.width - MARGIN, bottom], fill=FAINT)
    for at, weight in zip(*weights, strict=True):
        left = min(max(place(at) - wide / 2, MARGIN), whole.width - MARGIN - wide)
        pen.rectangle([left, bottom - max(1, (bottom - top) * weight), left + wide, bottom], fill=BAR)
    pen.line([place(min(number, last)), top - 2, place(min(number, last)), bottom], fill=HEAD, width=3)
