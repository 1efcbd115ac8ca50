"""Re-evaluation of a finished run from its checkpoint and the stores it was trained on."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from unialign.cache.reader import StoreReader
from unialign.errors import DamagedStore, MissingCache, StaleCache, UsageError
from unialign.pipeline.evaluation.compare_runs import data_differences
from unialign.pipeline.stores import open_remote
from unialign.pipeline.training.preparation import Options, PreparedRun
from unialign.pipeline.training.run_data import data_rows, data_text, read_data, rows_of
from unialign.pipeline.training.run_folder import read_keys, read_predictions, read_result
from unialign.pipeline.training.train import prepare_run, recorded_config, run_config
from unialign.stages.datasets.base import Dataset
from unialign.stages.sample_reader import SampleReader
from unialign.stages.training.checkpoints import BEST, LAST, Checkpoints
from unialign.stages.training.loader import Loader
from unialign.stages.training.metrics import (
    Scored,
    confused_pairs,
    confusion_matrix,
    evaluation_by_class,
    evaluation_overall,
    scored_part,
)
from unialign.stages.training.prediction import Predictions, predict
from unialign.stages.training.processes import joined_processes
from unialign.stages.training.settings import settings_from
from unialign.stages.training.step import Stepper, Task
from unialign.types import Json
from unialign.words import counted

LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class Evaluated:
    """Results of evaluating a run's checkpoint now.

    metrics: see `metrics.evaluation`. per_class: see `class_rows`. confusion (L, L): rows are true classes, columns
    predicted ones; confused: its largest errors, see `metrics.confused_pairs`. stored: metrics of the same checkpoint
    in result.json. agrees: whether all stored metrics are reproduced exactly. largest_change: of a probability relative
    to predictions.npz, over the samples in both; None for "best", whose predictions are not stored. data: how the
    samples differ from those of the run, see `compare_runs.data_differences`; empty if they do not, or if the run did
    not record them.
    """

    run: str
    checkpoint: str
    metrics: Mapping[str, float]
    per_class: tuple[Mapping[str, Json], ...]
    confusion: np.ndarray
    classes: tuple[str, ...]
    stored: Mapping[str, float]
    agrees: bool
    largest_change: float | None
    skipped: tuple[str, ...] = ()
    data: Mapping[str, Any] = field(default_factory=dict)

    def result(self) -> dict[str, Json]:
        """The object that `--json` prints."""
        return {**self.__dict__, "confusion": self.confusion.tolist(), "confused": self.confused}

    @property
    def confused(self) -> list[Json]:
        """The most frequent pairs of true and predicted class."""
        return list(confused_pairs(self.confusion, self.classes))


def evaluate_run(
    folder: Path,
    dataset: Dataset,
    *,
    cache: Path | None = None,
    readers: Mapping[str, SampleReader] | None = None,
    keep: float = 0,
    which: str = LAST,
    device: str = "auto",
    num_workers: int = 0,
) -> Evaluated:
    """Evaluate the checkpoint "last" or "best" of a run on the test samples of its protocol, in one process.

    cache: root of the stores named in keys.json; alternatively, pass readers by modality. keep: see `open_stores`.
    Raises `MissingCache` for a missing run, store or checkpoint, `StaleCache` for a store with another key,
    `DamagedStore` for damaged or changed files, `UsageError` for another dataset, for one whose classes have changed or
    that tests samples the run was trained on, and, for "best", for a run without a best epoch.
    """
    if which not in (LAST, BEST):
        raise UsageError(f"checkpoint {which!r} is unknown; it is last or best.")
    config, keys, result = run_config(folder), read_keys(folder), read_result(folder)
    if config["dataset"] != dataset.name:
        raise UsageError(f"{folder} was trained on {config['dataset']}, not on {dataset.name}.")
    if which == BEST and not result.get("best"):
        validation = result.get("data", {}).get("validation")
        why = validation.get("why") if isinstance(validation, Mapping) else None
        raise UsageError(
            f"{folder} has no best epoch ({why or 'no epoch was evaluated'}); evaluate its last one, without --best."
        )
    given = dict(readers) if readers is not None else open_stores(keys["stores"], cache, keep)
    prepared = prepare_again(config, dataset, given, num_workers)
    if not len(prepared.test):
        raise UsageError(f"protocol {prepared.protocol} of {dataset.name} has no test samples of the model's classes.")
    _check_classes(folder, keys.get("classes"), prepared.columns)
    changed = changed_data(folder, keys.get("data") or "", prepared)
    loaded = Checkpoints(folder / "checkpoints", keys["run"]).named(which)
    task = prepared.build()
    loaded.load_into(task.model)
    predictions = mixed(predicted(prepared, task, device), loaded.head_weights(), str(loaded.path))
    scored = _scored(predictions, prepared)
    metrics = evaluation_overall(scored)
    # Runs that predate the val part store the metrics of the best epoch next to its number.
    told = result["metrics"] if which == LAST else result["best"].get("test", result["best"])
    stored = {name: value for name, value in (told if isinstance(told, Mapping) else {}).items() if name in metrics}
    classes = prepared.classes or dataset.classes
    confusion = confusion_matrix(scored.guesses, scored.labels, len(classes))
    return Evaluated(
        run=folder.name,
        checkpoint=which,
        metrics=metrics,
        per_class=class_rows(classes, scored),
        confusion=confusion,
        classes=classes,
        stored=stored,
        agrees=bool(stored) and stored == {name: metrics[name] for name in stored},
        largest_change=largest_change(folder, prepared, predictions) if which == LAST else None,
        skipped=loaded.skipped,
        data=changed,
    )


def mixed(predictions: Predictions, weights: Mapping[str, float], where: str) -> Predictions:
    """The predictions with the heads weighted as a checkpoint says. where: its file. Raises `DamagedStore` for weights
    of other heads.
    """
    if weights and weights.keys() != predictions.heads.keys():
        raise DamagedStore(f"{where} weighs other heads than those of the model of config.yaml beside it.")
    return predictions.mixed(weights)


def _scored(predictions: Predictions, prepared: PreparedRun) -> Scored:
    side, choices = prepared.test_side, len(prepared.candidates)
    labels, missing = side.samples.labels, side.missing_labels
    return scored_part(predictions.scores, labels, missing, unknown=prepared.unknown, choices=choices)


def _check_classes(folder: Path, known: Sequence[str] | None, classes: Sequence[str]) -> None:
    """Raise `UsageError` if a run's outputs stand for other classes; older runs have no class list and pass."""
    if known is not None and list(known) != list(classes):
        raise UsageError(
            f"{folder} knows the classes {', '.join(known)}; the dataset has {', '.join(classes)} now. Bring back its "
            "labels, or train anew."
        )


def changed_data(folder: Path, digest: str, prepared: PreparedRun) -> dict[str, Any]:
    """How the samples differ from those of the run; empty if they do not, or if the run did not record them.

    digest: of the run's data.csv. Raises `UsageError` if samples are tested now that the run was trained on.
    """
    then = read_data(folder, digest)
    if then is None:
        return {}
    now = rows_of(data_text(data_rows(prepared)))
    learned = {row.id for row in then if row.part == "train"}
    known = sorted(row.id for row in now if row.part == "test" and row.id in learned)
    if known:
        raise UsageError(
            f"{folder} was trained on {counted(len(known), 'sample')} that {prepared.protocol} of "
            f"{prepared.dataset.name} tests now ({known[0]}); bring back the split, or train anew."
        )
    found = data_differences(then, now)
    return dict(found) if any(each["count"] for each in found.values()) else {}


def predicted(prepared: PreparedRun, task: Task, device: str) -> Predictions:
    """Predictions of a trained task for the test samples, computed in one process."""
    settings = prepared.settings
    with joined_processes(device) as processes:
        if settings.precision == "fp16" and processes.device.type != "cuda":
            settings = settings.replaced(precision="fp32")
        loader = Loader(prepared.test, settings, rank=processes.rank, world_size=processes.world_size)
        return predict(Stepper(task, settings, processes), loader, prepared.candidates)


def open_stores(
    named: Mapping[str, Mapping[str, Json]], cache: Path | None, keep: float = 0
) -> dict[str, SampleReader]:
    """Readers for the stores in a run's keys.json, by modality.

    keep: GB of local disk below the cache root for caching blocks of remote stores; 0: no caching. Raises `StaleCache`
    if the store at that path has another key, `MissingCache` for features that came from no store, `UsageError` without
    a cache.
    """
    if cache is None:
        raise UsageError("give the cache folder whose stores the run has read.")
    opened: dict[str, SampleReader] = {}
    for modality, found in named.items():
        if not found["store"]:
            raise MissingCache(f"the run's {modality} came from no store; give a reader for it.")
        place = str(found["store"])
        reader = open_remote(place, cache, keep) if "://" in place else StoreReader(cache / place)
        LOGGER.info("reads %s of %d samples from %s", modality, len(reader.ids), reader.where)
        if reader.store.key.digest != found["key"]:
            raise StaleCache(f"{reader.where} holds another key than the run has read ({str(found['key'])[:12]}).")
        opened[modality] = reader
    return opened


def prepare_again(
    config: Mapping[str, Any],
    dataset: Dataset,
    readers: Mapping[str, SampleReader],
    num_workers: int,
    protocol: str = "",
) -> PreparedRun:
    """Prepare a run again from its config.yaml. protocol: of the dataset, if other than the run's."""
    # Initial weights are not needed: the checkpoint replaces them. Missing samples are reported, not rejected.
    entities = config.get("entities", {})
    options = Options(
        min_coverage=0.0,
        templates=tuple(config.get("templates", ())),
        # Runs that predate prompts list only the names, without texts.
        entities=entities if isinstance(entities, Mapping) else dict.fromkeys(entities, ""),
        shots=config.get("shots", 0),
        val_share=config.get("val_share", 0.0),
    )
    name = config["model"]
    return prepare_run(
        name,
        dataset,
        protocol=protocol or config["protocol"],
        readers=readers,
        config=recorded_config(config),
        settings=settings_from({**config["settings"], "num_workers": num_workers}),
        options=options,
    )


def class_rows(classes: tuple[str, ...], scored: Scored) -> tuple[dict[str, Json], ...]:
    """One row per class, in label order: number of samples, of samples missing from the caches and of correct
    predictions, and the metrics that have a value per class.
    """
    values = evaluation_by_class(scored)
    counts = [np.bincount(each, minlength=len(classes)) for each in (scored.labels, scored.missing)]
    right = np.bincount(scored.labels[scored.guesses == scored.labels], minlength=len(classes))
    return tuple(
        {
            "name": name,
            "samples": int(counts[0][label]),
            "missing": int(counts[1][label]),
            "correct": int(right[label]),
            **{metric: found[label] for metric, found in values.items()},
        }
        for label, name in enumerate(classes)
    )


def largest_change(folder: Path, prepared: PreparedRun, predictions: Predictions) -> float | None:
    """Largest difference from a run's stored probabilities, over the samples in both; None if there are none."""
    stored = read_predictions(folder)
    if stored is None:
        return None
    ids, probabilities = stored["ids"].tolist(), stored["probabilities"]
    places = {name: place for place, name in enumerate(ids)}
    samples = prepared.test_side.samples.ids
    both = [(row, places[samples[index]]) for row, index in enumerate(predictions.indices) if samples[index] in places]
    if not both:
        return None
    now, then = (list(side) for side in zip(*both, strict=True))
    return float(np.abs(predictions.scores[now] - probabilities[then]).max())
