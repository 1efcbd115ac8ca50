"""Pictures of a finished run: confusion matrix, and test clips with what the model looked at.

UniAlign: skeletons over the kept frames and what CMSA weighed. ART and ALT: `gallery_regions`, over the frames that the
model saw. DVTA and cached tokens have no frames to draw on.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from unialign.cache.atomic import write_file
from unialign.cache.inventory import find_store
from unialign.cache.reader import Recorded, StoreReader
from unialign.errors import DamagedStore, MissingCache
from unialign.pipeline.evaluation.evaluate import open_stores, prepare_again
from unialign.pipeline.evaluation.gallery_regions import SHOWN_FRAMES, entities_of, tracklets_of
from unialign.pipeline.evaluation.plots import confusion_picture, draw_skeleton, sample_picture
from unialign.pipeline.training.preparation import PreparedRun
from unialign.pipeline.training.registry import run_config
from unialign.pipeline.training.run_folder import PREDICTIONS, read_keys, read_predictions
from unialign.stages.datasets.base import Dataset
from unialign.stages.images import decode_images
from unialign.stages.training.checkpoints import LAST, Checkpoints
from unialign.stages.training.metrics import confusion_matrix

MODELS = ("unialign", "art", "alt")
DRAWN = ("token_importance_video", "region_maps", "frame_weights", "semantic_classes", "entities", "owners")


def draw_run(run: Path, dataset: Dataset, cache: Path, *, keep: float = 0, num_samples: int = 6) -> list[Path]:
    """Write the pictures of a run into its folder `pictures/`; returns their paths, the confusion matrix first.

    Samples are spread over the classes: the first test clip of every few, wrong predictions first where there are any.
    keep: see `open_stores`. Raises `MissingCache` for a run that is not finished.
    """
    predictions = _predictions(run, dataset)
    predicted = predictions["probabilities"].argmax(axis=1)
    counts = confusion_matrix(predicted, predictions["labels"], len(dataset.classes))
    written = [run / "pictures" / "confusion.png"]
    write_file(written[0], confusion_picture(np.asarray(counts), dataset.classes))
    config, keys = run_config(run), read_keys(run)
    if config["model"] not in MODELS:
        return written
    readers = open_stores(keys["stores"], cache, keep)
    if "frames" not in readers:
        return written
    prepared = prepare_again(config, dataset, readers, 0)
    tested = {name: place for place, name in enumerate(prepared.test_side.samples.ids)}
    places = _chosen(predictions["labels"], predicted, num_samples)
    # Samples that are not tested any more cannot be drawn.
    places = [place for place in places if str(predictions["ids"][place]) in tested]
    if not places:
        return written
    shown = [tested[str(predictions["ids"][place])] for place in places]
    frames, outputs = _outputs(run, prepared, str(keys["run"]), shown)
    poses = _poses(readers.get("pose-features"), cache)
    for number, place in enumerate(places):
        name = str(predictions["ids"][place])
        truth, guess = (dataset.classes[int(values[place])] for values in (predictions["labels"], predicted))
        title = f"{name}: {truth}" + ("" if truth == guess else f", taken for: {guess}")
        found = {key: value[number] for key, value in outputs.items()}
        if config["model"] == "unialign":
            picture: bytes | None = _sample(name, title, readers["frames"], poses, found)
        elif config["model"] == "art":
            picture = tracklets_of(frames[number], found, dataset.classes, title)
        else:
            picture = entities_of(frames[number], found, tuple(config["entities"]) or dataset.classes, title)
        if picture is not None:
            written.append(run / "pictures" / f"{name.replace('/', '-')}.png")
            write_file(written[-1], picture)
    return written


def _predictions(run: Path, dataset: Dataset) -> dict[str, np.ndarray]:
    predictions = read_predictions(run)
    if predictions is None:
        raise MissingCache(f"{run} has no predictions; move its folder away and run `unialign train` again.")
    classes = max(int(predictions["labels"].max()) + 1, predictions["probabilities"].shape[1])
    if classes > len(dataset.classes):
        raise DamagedStore(
            f"{run / PREDICTIONS} is of {classes} classes, and {dataset.name} has {len(dataset.classes)}."
        )
    return predictions


def _chosen(labels: np.ndarray, predicted: np.ndarray, number: int) -> list[int]:
    wrong = np.flatnonzero(labels != predicted)[: number // 2]
    first = [int(np.flatnonzero(labels == label)[0]) for label in np.unique(labels)]
    right = [place for place in first if place not in wrong]
    step = max(1, len(right) // max(1, number - len(wrong)))
    return [*map(int, wrong), *right[::step][: number - len(wrong)]]


def _outputs(
    run: Path, prepared: PreparedRun, key: str, places: list[int]
) -> tuple[np.ndarray, Mapping[str, np.ndarray]]:
    """Frames (samples, T, H, W, 3) uint8 that the last checkpoint sees of some test samples, and what it gives."""
    task = prepared.build()
    Checkpoints(run / "checkpoints", key).named(LAST).load_into(task.model)
    task.model.eval()
    batch = prepared.test.__getitems__([(0, place) for place in places])
    with torch.inference_mode():
        outputs = task.model(task.inputs(batch, torch.device("cpu")))
    # Views of a clip are clips of their own; the first one is drawn.
    views = len(outputs["logits"]) // len(places)
    found = {name: outputs[name][::views].numpy() for name in DRAWN if name in outputs}
    names = getattr(task.model, "importance_names", ())
    found |= {name: outputs["importance"][::views, column].numpy() for column, name in enumerate(names)}
    frames = batch["frames"].flatten(0, -5)[::views]  # (samples, T, 3, H, W)
    return frames.permute(0, 1, 3, 4, 2).numpy(), found


def _poses(features: object, cache: Path) -> StoreReader | None:
    """The poses that the pose features were made from; None where they do not say it or came without them."""
    if not isinstance(features, Recorded) or "poses" not in features.store.key.fields:
        return None
    try:
        return StoreReader(find_store(cache, str(features.store.key.fields["poses"])))
    except MissingCache:
        if isinstance(features, StoreReader):
            raise
        return None


def _sample(
    name: str, title: str, frames: object, poses: StoreReader | None, outputs: Mapping[str, np.ndarray]
) -> bytes:
    assert isinstance(frames, Recorded)
    stored = frames.read_one(name)
    encoding = str(frames.array_attributes("pictures")["encoding"])
    kept = len(stored["frame_index"])
    weights = outputs["token_importance_video"]
    # The model saw the middle of each segment of the kept frames; segments are shown evenly.
    shown = np.linspace(0, len(weights) - 1, min(SHOWN_FRAMES, len(weights))).round().astype(int)
    which = ((shown + 0.5) * kept / len(weights)).astype(int).clip(0, kept - 1)
    pictures = decode_images(stored["pictures"], stored["offset"], stored["size"], encoding, list(which))
    drawn = []
    for picture, index in zip(pictures, stored["frame_index"][which], strict=True):
        people = _people(poses, name, int(index), stored)
        drawn.append(draw_skeleton(picture, people))
    importance = {key: float(value) for key, value in outputs.items() if key not in DRAWN}
    return sample_picture(drawn, weights[shown] if weights.ndim else None, title, importance)


def _people(poses: StoreReader | None, name: str, index: int, stored: Mapping[str, np.ndarray]) -> np.ndarray:
    """Joints (M, V, 2) in the pixels of the kept picture; none where there are no poses of that frame."""
    if poses is None or name not in poses.ids:
        return np.empty((0, 0, 2))
    arrays = poses.read_one(name)
    joints = arrays.get("pixels", arrays["keypoints"])[..., :2]
    if index >= len(joints):
        return np.empty((0, 0, 2))
    scale = stored["size"][::-1] / stored["source_size"][::-1]
    return np.asarray(joints[index].astype("float64") * scale)
