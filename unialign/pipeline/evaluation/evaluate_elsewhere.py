"""Evaluation of a finished run on a dataset it was not trained on, whose classes it recognizes by their texts.

Protocol: zero-shot transfer as in ALT (Chen et al., CVPR 2024, its table of zero-shot results): trained on one dataset,
tested on the classes and test samples of another, without any training on the latter.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from unialign.cache.access import is_refused
from unialign.cache.reader import Recorded
from unialign.errors import MissingCache, StaleCache, UsageError
from unialign.pipeline.evaluation.evaluate import class_rows, predicted, prepare_again
from unialign.pipeline.manifest import load_manifest
from unialign.pipeline.systems.registry import get_system
from unialign.pipeline.training.initial_weights import build_from, finished_run, trained_on
from unialign.pipeline.training.preparation import by_place
from unialign.pipeline.training.run_data import split_digest
from unialign.pipeline.training.run_folder import read_keys, write_elsewhere
from unialign.pipeline.training.train import recorded_config, run_config
from unialign.stages.datasets.base import Dataset
from unialign.stages.sample_reader import SampleReader
from unialign.stages.training.metrics import evaluation_overall, scored_part
from unialign.types import Json

# Modalities whose stores must have been extracted with the same settings as those the model was trained on.
SAME = ("text", "tokens")


@dataclass(frozen=True)
class Elsewhere:
    """Results of a run on another dataset.

    metrics, per_class: as in `evaluate.Evaluated`, over the candidate classes of the protocol. trained_on: datasets of
    the run and of the runs it started from. shared: names of classes that also occur in one of those datasets, for
    which results are not strictly zero-shot; None if the class names of one are not in the cache. keys: of the stores
    that were read. split: digest of the tested samples, see `run_data.split_digest`. used, missing: number of test
    samples that the stores hold and lack.
    """

    run: str
    trained_on: tuple[str, ...]
    dataset: str
    protocol: str
    metrics: Mapping[str, float]
    per_class: tuple[Mapping[str, Json], ...]
    shared: tuple[str, ...] | None
    keys: Mapping[str, str]
    split: str
    used: int
    missing: int

    def result(self) -> dict[str, Json]:
        """The object that `--json` prints."""
        return dict(self.__dict__)


def evaluate_elsewhere(
    folder: Path,
    dataset: Dataset,
    *,
    readers: Mapping[str, SampleReader],
    cache: Path,
    protocol: str | None = None,
    device: str = "auto",
    num_workers: int = 0,
) -> Elsewhere:
    """Evaluate the last checkpoint of a run on the test samples of another dataset's protocol.

    readers: of that dataset, by modality. cache: where the manifest of the run's own dataset is looked up.
    Raises what `needed_elsewhere` raises, `StaleCache` for texts or tokens extracted with other settings than those the
    run was trained on, `MissingCache` for missing stores or files, `UsageError` for a protocol without test samples or
    with test samples whose content the run was trained on.
    """
    needed, config, keys = needed_elsewhere(folder), run_config(folder), read_keys(folder)
    for name in SAME:
        if name in needed:
            _check_same(name, readers[name], keys["stores"], dataset, folder)
    prepared = prepare_again(config, dataset, readers, num_workers, protocol or dataset.default_protocol)
    if not len(prepared.test):
        raise UsageError(f"protocol {prepared.protocol} of {dataset.name} has no test samples.")
    source = finished_run(folder)
    source.check_unseen(folder, prepared, own=False)
    task = build_from(prepared.build, source.weights, get_system(config["model"]).class_specific, folder)
    scores, side = predicted(prepared, task, device).scores, prepared.test_side
    candidates = prepared.dataset.split(prepared.protocol).candidates or tuple(range(len(dataset.classes)))
    scores, side = scores[:, list(candidates)], by_place(side, candidates)
    classes = tuple(dataset.classes[label] for label in candidates)
    before = tuple(dict.fromkeys(name for name, _ in trained_on(config)))
    scored = scored_part(scores, side.samples.labels, side.missing_labels)
    return Elsewhere(
        run=folder.name,
        trained_on=before,
        dataset=dataset.name,
        protocol=prepared.protocol,
        metrics=evaluation_overall(scored),
        per_class=class_rows(classes, scored),
        shared=shared_classes(cache, before, classes),
        keys={name: reader.store.key.digest for name, reader in readers.items() if isinstance(reader, Recorded)},
        split=split_digest(
            (True, name, classes[label])
            for name, label in (*zip(side.samples.ids, side.samples.labels, strict=True), *side.missing)
        ),
        used=len(side.samples),
        missing=len(side.missing),
    )


def record_elsewhere(folder: Path, found: Elsewhere) -> None:
    """Keep the result in the run's folder, for `unialign results`; not in a folder that cannot be written."""
    row = {name: getattr(found, name) for name in ("dataset", "protocol", "split", "used", "missing")}
    row |= {"trained_on": list(found.trained_on), "metrics": dict(found.metrics), "keys": dict(found.keys)}
    try:
        write_elsewhere(folder, row)
    except OSError as error:
        if not is_refused(error):
            raise


def needed_elsewhere(folder: Path) -> tuple[str, ...]:
    """The modalities that a run reads. Raises `UsageError` for a model that is limited to its training classes."""
    config = run_config(folder)
    name = config["model"]
    system, chosen = get_system(name), recorded_config(config)
    if not system.any_class(chosen):
        raise UsageError(
            f"{folder} was trained on {config['dataset']}, and this {name} knows no other classes; evaluate "
            "it there, or train alt (no probe), which recognises classes by their texts."
        )
    return system.stores(chosen)


def shared_classes(cache: Path, names: Sequence[str], classes: Sequence[str]) -> tuple[str, ...] | None:
    """Those of `classes` that also occur in one of the datasets `names`, ignoring case; None without manifests."""
    try:
        known = {each.casefold() for name in names for each in load_manifest(cache, name).classes}
    except MissingCache:
        return None
    return tuple(each for each in classes if each.casefold() in known)


def _check_same(
    name: str,
    reader: SampleReader,
    stores: Mapping[str, Mapping[str, Json]],
    dataset: Dataset,
    folder: Path,
) -> None:
    if isinstance(reader, Recorded) and reader.store.key.digest != stores[name]["key"]:
        raise StaleCache(
            f"{reader.where} was made with other settings than the {name} that {folder} was trained on "
            f"({str(stores[name]['key'])[:12]}); extract {name} of {dataset.name} with those."
        )
