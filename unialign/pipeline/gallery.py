"""Pictures of a finished UniAlign run: confusion matrix, and test clips with skeletons and what CMSA weighed."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from unialign.cache.atomic import write_file
from unialign.cache.errors import MissingCache
from unialign.cache.inventory import find_store
from unialign.cache.reader import StoreReader
from unialign.pipeline.evaluate import open_stores, prepare_again
from unialign.pipeline.plots import confusion_picture, draw_skeleton, sample_picture
from unialign.pipeline.preparation import Prepared
from unialign.pipeline.runs import read_config, read_json
from unialign.stages.datasets.base import Dataset
from unialign.stages.pictures import decode_pictures
from unialign.stages.training.checkpoints import LAST, Checkpoints
from unialign.stages.training.metrics import confusion_matrix

SHOWN_FRAMES = 8


def draw_run(run: Path, dataset: Dataset, cache: Path, *, num_samples: int = 6) -> list[Path]:
    """Write the pictures of a run into its folder `pictures/`; returns their paths, the confusion matrix first.

    Samples are spread over the classes: the first test clip of every few, wrong predictions first where there are any.
    Raises `MissingCache` for a run that is not finished.
    """
    predictions = _predictions(run)
    predicted = predictions["probabilities"].argmax(axis=1)
    counts = confusion_matrix(predicted, predictions["labels"], len(dataset.classes))
    written = [run / "pictures" / "confusion.png"]
    write_file(written[0], confusion_picture(np.asarray(counts), dataset.classes))
    config, keys = read_config(run), read_json(run / "keys.json")
    if config["model"] != "unialign":
        return written
    readers = open_stores(keys["stores"], cache)
    prepared = prepare_again(config, dataset, readers, 0)
    places = _chosen(predictions["labels"], predicted, num_samples)
    outputs = _outputs(run, prepared, str(keys["run"]), places)
    poses = _poses(readers.get("pose-features"), cache)
    for number, place in enumerate(places):
        name = str(predictions["ids"][place])
        truth, guess = (dataset.classes[int(values[place])] for values in (predictions["labels"], predicted))
        title = f"{name}: {truth}" + ("" if truth == guess else f", taken for: {guess}")
        picture = _sample(name, title, readers["frames"], poses, {key: value[number] for key, value in outputs.items()})
        written.append(run / "pictures" / f"{name.replace('/', '-')}.png")
        write_file(written[-1], picture)
    return written


def _predictions(run: Path) -> dict[str, np.ndarray]:
    path = run / "predictions.npz"
    if not path.is_file():
        raise MissingCache(f"{run} has no predictions; finish it with `unialign train`.")
    with np.load(path, allow_pickle=False) as stored:
        return {name: stored[name] for name in stored.files}


def _chosen(labels: np.ndarray, predicted: np.ndarray, number: int) -> list[int]:
    wrong = np.flatnonzero(labels != predicted)[: number // 2]
    first = [int(np.flatnonzero(labels == label)[0]) for label in np.unique(labels)]
    right = [place for place in first if place not in wrong]
    step = max(1, len(right) // max(1, number - len(wrong)))
    return [*map(int, wrong), *right[::step][: number - len(wrong)]]


def _outputs(run: Path, prepared: Prepared, key: str, places: list[int]) -> Mapping[str, np.ndarray]:
    """Importance of modalities and frames for some test samples, from the last checkpoint."""
    task = prepared.build()
    task.model.load_state_dict(Checkpoints(run / "checkpoints", key).named(LAST).state["model"])
    task.model.eval()
    batch = prepared.test.__getitems__([(0, place) for place in places])
    with torch.inference_mode():
        outputs = task.model(task.inputs(batch, torch.device("cpu")))
    names = getattr(task.model, "importance_names", ())
    # Views of a clip are clips of their own; the first one is drawn.
    views = len(outputs["logits"]) // len(places)
    found = {"frames": outputs["token_importance_video"][::views].numpy()}
    return found | {name: outputs["importance"][::views, column].numpy() for column, name in enumerate(names)}


def _poses(features: object, cache: Path) -> StoreReader | None:
    """The poses that the pose features were made from."""
    if not isinstance(features, StoreReader):
        return None
    return StoreReader(find_store(cache, str(features.store.key.fields["poses"])))


def _sample(
    name: str, title: str, frames: object, poses: StoreReader | None, outputs: Mapping[str, np.ndarray]
) -> bytes:
    assert isinstance(frames, StoreReader)
    stored = frames.read_one(name)
    encoding = str(frames.array_attributes("pictures")["encoding"])
    kept = len(stored["frame_index"])
    weights = outputs["frames"]
    # The model saw the middle of each segment of the kept frames; segments are shown evenly.
    shown = np.linspace(0, len(weights) - 1, min(SHOWN_FRAMES, len(weights))).round().astype(int)
    which = ((shown + 0.5) * kept / len(weights)).astype(int).clip(0, kept - 1)
    pictures = decode_pictures(stored["pictures"], stored["offset"], stored["size"], encoding, list(which))
    drawn = []
    for picture, index in zip(pictures, stored["frame_index"][which], strict=True):
        people = _people(poses, name, int(index), stored)
        drawn.append(draw_skeleton(picture, people))
    importance = {key: float(value) for key, value in outputs.items() if key != "frames"}
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
