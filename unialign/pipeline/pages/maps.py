"""Clips as points in two dimensions: t-SNE and principal components of cached features.

Legend: N clips, F features.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from unialign.cache.reader import Recorded
from unialign.errors import UnialignError
from unialign.pipeline.evaluation.baseline_features import FEATURES
from unialign.pipeline.pages.page import packed
from unialign.types import Json

# More points take minutes and cover each other.
MOST_POINTS = 1200
PERPLEXITY = 30.0
# The first of these that a page's stores have is drawn.
ORDER = ("pose-features", "tokens", "poses", "frames")
WHAT = {
    "pose-features": "the pose encoder's features",
    "tokens": "mean tokens of the video network",
    "poses": "joints in body space",
    "frames": "small frames",
}


def map_content(
    readers: Mapping[str, Recorded],
    ids: Sequence[str],
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Json:
    """The `map` of a page; None without a store of features, and for fewer than five clips.

    Evenly spaced clips if there are too many. Always the same for the same features, on one machine.
    """
    for modality in (each for each in ORDER if each in readers):
        reader = readers[modality]
        clips = [place for place, name in enumerate(ids) if name in reader]
        if len(clips) < 5:
            continue
        if len(clips) > MOST_POINTS:
            clips = [clips[place] for place in np.linspace(0, len(clips) - 1, MOST_POINTS).astype(int)]
        try:
            vectors = []
            for vector in FEATURES[modality](reader, [ids[place] for place in clips]):
                vectors.append(vector)
                progress(len(vectors), len(clips))
        except UnialignError:
            continue
        features = np.stack(vectors)
        drawn = "" if len(clips) == len(ids) else f"{len(clips):,} of {len(ids):,} clips. "
        return {
            "clips": clips,
            "views": [
                {"name": "t-SNE", "points": packed(_square(_neighbours(features)))},
                {"name": "principal components", "points": packed(_square(_components(features, 2)))},
            ],
            "note": f"{drawn}Points: {WHAT[modality]} of {reader.store.name}, before any training on them"
            f"{' here' if modality != 'pose-features' else ' but the encoder'}. t-SNE keeps neighbors together; "
            "sizes of and distances between its clusters mean nothing. Principal components keep distances, as far as "
            "two dimensions can.",
        }
    return None


def _neighbours(features: NDArray[np.float32]) -> NDArray[np.float64]:
    from sklearn.manifold import TSNE

    few = _components(features, 30)
    perplexity = min(PERPLEXITY, (len(features) - 1) / 3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        model = TSNE(2, perplexity=perplexity, init="pca", learning_rate="auto", random_state=0, n_jobs=1)
        return np.asarray(model.fit_transform(few), np.float64)


def _components(features: NDArray[np.float32], count: int) -> NDArray[np.float64]:
    """The first principal components, each with its largest weight positive, so that no sign is left to chance."""
    centred = np.asarray(features, np.float64) - features.mean(axis=0)
    left, values, right = np.linalg.svd(centred, full_matrices=False)
    count = min(count, len(values))
    signs = np.sign(right[np.arange(count), np.abs(right[:count]).argmax(axis=1)])
    found = left[:, :count] * values[:count] * np.where(signs, signs, 1)
    return np.pad(found, ((0, 0), (0, max(0, 2 - count))))


def _square(points: NDArray[np.float64]) -> NDArray[np.float32]:
    """(N, 2) in [0, 1], each axis on its own scale."""
    low, high = points.min(axis=0), points.max(axis=0)
    return np.asarray((points - low) / np.maximum(high - low, 1e-12), np.float32)
