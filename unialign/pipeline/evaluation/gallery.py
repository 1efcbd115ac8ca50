"""Images of a finished run: confusion matrix, and test clips as drawn by its system (`System.draw`).

Systems without a `draw` function and runs that read no frames only get the confusion matrix.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from unialign.cache.inventory import find_store
from unialign.cache.reader import Recorded, StoreReader
from unialign.errors import DamagedStore, MissingCache
from unialign.pipeline.evaluation.evaluate import open_stores, prepare_again
from unialign.pipeline.evaluation.pictures import write_pictures
from unialign.pipeline.evaluation.plots import draw_confusion
from unialign.pipeline.systems.base import DrawnClip
from unialign.pipeline.systems.registry import get_system
from unialign.pipeline.training.preparation import PreparedRun
from unialign.pipeline.training.run_folder import PREDICTIONS, read_keys, read_predictions
from unialign.pipeline.training.train import run_config
from unialign.stages.datasets.base import Dataset
from unialign.stages.training.checkpoints import LAST, Checkpoints
from unialign.stages.training.metrics import confusion_matrix
from unialign.stages.training.step import Task
from unialign.words import counted

# Clips that go through the network together.
AT_ONCE = 8


def draw_run(run: Path, dataset: Dataset, cache: Path, *, keep: float = 0, num_samples: int = 6) -> list[Path]:
    """Write the images of a run into its folder `pictures/`, as PNG, SVG and PDF; returns the paths of the PNG
    files, the confusion matrix first.

    Up to half of the samples are wrong predictions; the rest are first test clips of evenly spaced classes.
    keep: see `open_stores`. Raises `MissingCache` for an unfinished run.
    """
    predictions = _predictions(run, dataset)
    predicted = predictions["probabilities"].argmax(axis=1)
    counts = confusion_matrix(predicted, predictions["labels"], len(dataset.classes))
    written = [write_pictures(run / "pictures" / "confusion", draw_confusion(np.asarray(counts), dataset.classes))]
    config, keys = run_config(run), read_keys(run)
    draw = get_system(config["model"]).draw
    if draw is None:
        return written
    readers = open_stores(keys["stores"], cache, keep)
    stored = readers.get("frames")
    if not isinstance(stored, Recorded):
        return written
    prepared = prepare_again(config, dataset, readers, 0)
    tested = {name: place for place, name in enumerate(prepared.test_side.samples.ids)}
    places = _chosen(predictions["labels"], predicted, num_samples)
    # Samples that are no longer in the test part cannot be drawn.
    places = [place for place in places if str(predictions["ids"][place]) in tested]
    if not places:
        return written
    shown = [tested[str(predictions["ids"][place])] for place in places]
    frames, outputs, importance = outputs_of(run, prepared, str(keys["run"]), shown)
    poses = poses_behind(readers.get("pose-features"), cache)
    for number, place in enumerate(places):
        name = str(predictions["ids"][place])
        truth, guess = (dataset.classes[int(values[place])] for values in (predictions["labels"], predicted))
        sure = f"({100 * float(predictions['probabilities'][place].max()):.0f} %)"
        clip = DrawnClip(
            sample=name,
            title=f"{name}: {truth}, {f'rightly answered {sure}' if truth == guess else f'taken for {guess} {sure}'}",
            frames=frames[number],
            outputs={key: values[number] for key, values in outputs.items()},
            importance={key: float(values[number]) for key, values in importance.items()},
            classes=dataset.classes,
            config=config,
            stored=stored,
            poses=poses,
        )
        image = draw(clip)
        if image is not None:
            written.append(write_pictures(run / "pictures" / name.replace("/", "-"), image))
    return written


def _predictions(run: Path, dataset: Dataset) -> dict[str, np.ndarray]:
    predictions = read_predictions(run)
    if predictions is None:
        raise MissingCache(f"{run} has no predictions; move its folder away and run `unialign train` again.")
    classes = max(int(predictions["labels"].max()) + 1, predictions["probabilities"].shape[1])
    if classes > len(dataset.classes):
        raise DamagedStore(
            f"{run / PREDICTIONS} is of {counted(classes, 'class', 'classes')}, and {dataset.name} has "
            f"{len(dataset.classes)}."
        )
    return predictions


def _chosen(labels: np.ndarray, predicted: np.ndarray, number: int) -> list[int]:
    wrong = np.flatnonzero(labels != predicted)[: number // 2]
    first = [int(np.flatnonzero(labels == label)[0]) for label in np.unique(labels)]
    right = [place for place in first if place not in wrong]
    step = max(1, len(right) // max(1, number - len(wrong)))
    return [*map(int, wrong), *right[::step][: number - len(wrong)]]


def outputs_of(
    run: Path,
    prepared: PreparedRun,
    key: str,
    places: Sequence[int],
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[np.ndarray, Mapping[str, np.ndarray], Mapping[str, np.ndarray]]:
    """For some test samples: the model's input frames (samples, T, H, W, 3) uint8, its outputs at the last checkpoint,
    and the weight of each modality by name. Without frames for a model that reads none.
    """
    task = prepared.build()
    Checkpoints(run / "checkpoints", key).named(LAST).load_into(task.model)
    return outputs_of_task(prepared, task, places, progress)


def outputs_of_task(
    prepared: PreparedRun,
    task: Task,
    places: Sequence[int],
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[np.ndarray, Mapping[str, np.ndarray], Mapping[str, np.ndarray]]:
    """The same for a task with its weights, which moves to the CPU."""
    task.model.cpu().eval()
    frames, found = [], defaultdict(list)
    for start in range(0, len(places), AT_ONCE):
        part = places[start : start + AT_ONCE]
        batch = prepared.test.__getitems__([(0, place) for place in part])
        with torch.inference_mode():
            outputs = task.model(task.inputs(batch, torch.device("cpu")))
        # Views of a clip are separate entries of the batch; the first one is drawn.
        count = len(outputs["logits"])
        views = count // len(part)
        for name, value in outputs.items():
            if value.shape[:1] == (count,):
                found[name].append(value[::views].numpy())
        if "frames" in batch:
            # (samples, T, 3, H, W)
            frames.append(batch["frames"].flatten(0, -5)[::views].permute(0, 1, 3, 4, 2).numpy())
        progress(start + len(part), len(places))
    # What compares the clips of a batch with each other is as wide as the batch.
    joined = {
        name: np.concatenate(values)
        for name, values in found.items()
        if len({value.shape[1:] for value in values}) == 1 and sum(map(len, values)) == len(places)
    }
    names = getattr(task.model, "importance_names", ())
    importance = {name: joined["importance"][:, column] for column, name in enumerate(names)}
    return np.concatenate(frames) if frames else np.empty(0), joined, importance


def poses_behind(features: object, cache: Path) -> StoreReader | None:
    """The poses that the pose features were extracted from; None if not recorded or, for remote stores, missing."""
    if not isinstance(features, Recorded) or "poses" not in features.store.key.fields:
        return None
    try:
        poses = str(features.store.key.fields["poses"])
        return StoreReader(find_store(cache, poses, (features.store.collection, "poses")))
    except MissingCache:
        if isinstance(features, StoreReader):
            raise
        return None
