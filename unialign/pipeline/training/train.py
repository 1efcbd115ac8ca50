"""One training run, from prepared data to a finished run folder."""

import contextlib
import io
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from unialign.cache import atomic
from unialign.cache.keys import digest
from unialign.cache.reader import Recorded, StoreReader
from unialign.cache.records import count_environments
from unialign.errors import CacheProblem, DamagedStore, MissingCache, UsageError
from unialign.pipeline.systems.registry import get_system, section_of
from unialign.pipeline.training import run_folder as folders
from unialign.pipeline.training.coverage import Covered
from unialign.pipeline.training.initial_weights import started
from unialign.pipeline.training.preparation import REVISION, Options, PreparedRun, Request, get_reader
from unialign.pipeline.training.run_data import (
    Report,
    data_digest,
    data_rows,
    data_text,
    learned_text,
    report_of,
)
from unialign.pipeline.training.tracking import show_result, tracked
from unialign.pipeline.training.unseen_classes import tested_as_split
from unialign.settings import Settings, checked
from unialign.stages.datasets.base import Dataset, check_classes
from unialign.stages.datasets.splits import few_shots
from unialign.stages.datasets.validation import Validation, with_validation
from unialign.stages.device import resolve_device, resolve_precision
from unialign.stages.sample_reader import SampleReader
from unialign.stages.training.checkpoints import Checkpoints
from unialign.stages.training.loader import BatchSource, Loader
from unialign.stages.training.logs import RunLog
from unialign.stages.training.loop import Data, Fitted, Part, Progress, fit
from unialign.stages.training.metrics import evaluation_by_class, scored_part
from unialign.stages.training.prediction import Predictions
from unialign.stages.training.processes import SETTING, Processes, joined_processes
from unialign.stages.training.settings import TrainSettings, settings_from
from unialign.stages.training.step import TRAIN_TOP1, Task
from unialign.stages.training.trackers import Trackers
from unialign.types import Json

Show = Callable[[Progress], None]
Tell = Callable[[str], None]
LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunResult:
    """Contents of a finished run.

    metrics: of the last epoch on the test samples, see `metrics.evaluation`; empty if a protocol has none.
    per_class: per-class values of the metrics that have them, None for classes without samples. best: the epoch with
    the highest top1 on val, with its metrics "val" and "test"; empty without a val part (`data` says why).
    heads: for systems with several classifiers, top-1 of each on "test" and "val", of their mean, and of their product
    with weights fitted on val, see `fusion`; empty for systems with a single classifier.
    train_top1: fraction of training clips that were answered correctly during the last epoch, augmented and with
    dropout; None for models without class scores in training. One far below 1 says that training was too short.
    keys: the stores read, by modality. samples: sample counts for each part of the split.
    extracted: number of samples added to the records of those stores during the run.
    data: report on the samples before training, see `run_data.Report`.
    seconds: duration of the call that finished the run. reused: whether the run was already finished before this call.
    exported: the encoder with the weights of the best epoch, or of the last one without a val part. zero_shot: for
    zero-shot systems, see `zero_shot.report`; empty for others. notes: what was said before training, as sentences.
    """

    run: str
    folder: Path
    key: str
    model: str
    dataset: str
    protocol: str
    epochs: int
    metrics: Mapping[str, float]
    best: Mapping[str, Json]
    keys: Mapping[str, Mapping[str, Json]]
    samples: Mapping[str, Mapping[str, Json]]
    extracted: int
    seconds: float
    reused: bool = False
    exported: Path | None = None
    per_class: Mapping[str, Json] = field(default_factory=dict)
    heads: Mapping[str, Json] = field(default_factory=dict)
    zero_shot: Mapping[str, Json] = field(default_factory=dict)
    train_top1: float | None = None
    data: Mapping[str, Json] = field(default_factory=dict)
    notes: Sequence[str] = ()

    def result(self) -> dict[str, Json]:
        """The object that `--json` prints and that result.json holds (without `folder` and `reused`)."""
        return {**self.__dict__, "folder": str(self.folder), "exported": str(self.exported) if self.exported else None}


def train_model(
    name: str,
    dataset: Dataset,
    *,
    protocol: str | None = None,
    readers: Mapping[str, SampleReader],
    model: Mapping[str, Any] | Settings,
    settings: TrainSettings,
    runs: Path,
    options: Options | None = None,
    show: Show = lambda progress: None,
    tell: Tell = lambda sentence: None,
) -> RunResult:
    """Train a system on cached modalities, or return the finished run with the same configuration and caches.

    name: a key of `systems.registry.SYSTEMS`. readers: by modality. model: the system's settings, or only those that
    differ from its defaults. runs: folder that contains the run folders. An interrupted run resumes from its newest
    complete checkpoint. Under torchrun, all processes call this. tell: called before training with the report on the
    data, one sentence at a time.
    Raises `MissingCache` if the caches hold too few samples, `UsageError` for bad settings, `LockedStore` while another
    process trains the same run, `UnialignError` for a loss that is not finite.
    """
    options, config = options or Options(), config_from(name, model)
    get_system(name).check(config, options)
    prepared = prepare_run(
        name, dataset, protocol=protocol, readers=readers, config=config, settings=settings, options=options
    )
    return train(prepared, runs, show, tell, row=options.row, overwrite=options.overwrite)


def config_from(name: str, model: Mapping[str, Any] | Settings) -> Settings:
    """The settings of a system with defaults filled in. Raises `UsageError` for unknown names and invalid values."""
    kind = get_system(name).config
    return model if isinstance(model, kind) else checked(kind, dict(model), f"train.{section_of(name)}")


def recorded_config(config: Mapping[str, Any]) -> Settings:
    """The settings of the system of a run. config: of its config.yaml. Raises what `config_from` raises."""
    name = config["model"]
    return config_from(name, {**get_system(name).config.before, **config[section_of(name)]})


def run_config(folder: Path) -> dict[str, Any]:
    """The settings of a run, from which its model can be rebuilt.

    Raises what `read_config` raises, and `DamagedStore` for settings unknown to this version.
    """
    config = folders.read_config(folder)
    path, name = folder / "config.yaml", config["model"]
    try:
        settings_from(config["settings"])
        section = section_of(name)
        if not isinstance(config.get(section), Mapping):
            raise DamagedStore(f"{path} lacks {section}, the settings of its model; it is not the file of a run.")
        recorded_config(config)
    except UsageError as error:
        raise DamagedStore(
            f"{path} cannot be used ({str(error).rstrip('.')}); it is of another version, or not the file of a run."
        ) from error
    return config


def prepare_run(
    name: str,
    dataset: Dataset,
    *,
    protocol: str | None,
    readers: Mapping[str, SampleReader],
    config: Settings,
    settings: TrainSettings,
    options: Options,
) -> PreparedRun:
    """Prepare a run of a system; few shots, val part and initial weights are handled here for all systems.

    readers: by modality; those that the system does not use are ignored. Raises what the system's `prepare` and
    `started` raise, `MissingCache` for a store that is not among the readers, `UsageError` for an unknown system, a
    dataset of one class, and a class with too few samples.
    """
    check_classes(dataset)
    system = get_system(name)
    protocol = protocol or dataset.default_protocol
    config, left_out = system.settled(config, dataset.split(protocol))
    few = few_shots(dataset, options.shots, settings.seed, protocol)
    found = with_validation(
        few, protocol, options.val_share, settings.seed, shots=options.shots, weighs=system.mixes(config)
    )
    if needless := system.no_val(config):
        found = Validation(replace(few.split(protocol), val=()), "none", needless)
    own = system.recipe(config, len(found.split.train), settings)
    settings = with_precision(settings.with_unset(own))
    request = Request(
        name=name,
        section=section_of(name),
        system=system,
        # Only this protocol's split changes: val samples are held out from train.
        dataset=replace(few, protocols={**few.protocols, protocol: lambda samples: found.split}),
        protocol=protocol,
        readers={store: get_reader(readers, store, dataset) for store in system.stores(config)},
        config=config,
        settings=settings,
        options=options,
    )
    made = system.prepare(request)
    made = replace(made, notes=(*made.notes, *([left_out] if left_out else [])))
    said = {"val_share": options.val_share, **({"shots": options.shots} if options.shots else {})}
    made = replace(made, config={**made.config, **said}, validation={"origin": found.origin, "why": found.why})
    made = tested_as_split(made, dataset, found.split)
    return started(made, dataset, options.start, system.class_specific) if options.start else made


def with_precision(settings: TrainSettings) -> TrainSettings:
    """The settings with the precision that "auto" stands for on this machine, which is what a run's key has."""
    if settings.precision != "auto":
        return settings
    device = resolve_device(settings.device, setting=SETTING)
    return settings.replaced(precision=resolve_precision(settings.precision, device))


def train(
    prepared: PreparedRun,
    runs: Path,
    show: Show,
    tell: Tell = lambda sentence: None,
    *,
    row: str = "",
    overwrite: bool = False,
) -> RunResult:
    """Train a prepared run in its run folder, see `train_model`. On an exception, a note says where it will resume."""
    keys, rows = store_keys(prepared.readers), data_rows(prepared)
    table, report = data_text(rows), report_of(prepared, rows)
    identity = prepared.identity(keys, data_digest(table))
    run = folders.run_of(
        runs,
        dataset=prepared.dataset.name,
        model=prepared.model,
        identity=identity,
        row=row,
        seed=prepared.settings.seed,
    )
    with contextlib.ExitStack() as stack:
        processes = stack.enter_context(joined_processes(prepared.settings.device))
        if processes.first:
            for sentence in (*prepared.notes, *report.sentences()):
                LOGGER.info("%s", sentence)
                tell(sentence)
            run = stack.enter_context(folders.sole_writer(run))
            if overwrite:
                folders.forget(run)
        run = processes.from_first(run)
        found = processes.from_first(folders.finished_result(run) if processes.first else None)
        if found is not None:
            LOGGER.info("reuses the finished run %s", run.folder)
            return _result(run, found, reused=True)
        if processes.first:
            LOGGER.info("trains in %s", run.folder)
            _begin(run, prepared, table, keys, processes, row)
        try:
            return _train(run, prepared, report, keys, processes, show)
        except BaseException as error:
            error.add_note(folders.place_of(run, prepared.settings.epochs))
            raise


def store_keys(readers: Mapping[str, SampleReader]) -> dict[str, dict[str, Json]]:
    """By modality: the key of the store that is read, its path below the cache root, and its number of samples.

    The path of a remote store is its URL. A reader that extracts online has no path and the key "online-<digest of its
    extractor's key>"; any other reader without a store has the key "unstored".
    """
    found: dict[str, dict[str, Json]] = {}
    for modality, reader in readers.items():
        if isinstance(reader, StoreReader):
            store = reader.store
            place = "/".join((store.collection, store.modality, reader.path.name))
            found[modality] = {"key": store.key.digest, "store": place, "samples": len(reader.ids)}
        elif isinstance(reader, Recorded):
            found[modality] = {"key": reader.store.key.digest, "store": reader.where, "samples": len(reader.ids)}
        else:
            extractor = getattr(reader, "extractor", None)
            key = f"online-{digest(dict(extractor.key()))}" if extractor else "unstored"
            found[modality] = {"key": key, "store": None, "samples": len(reader.ids)}
    return found


def _train(
    run: folders.Run,
    prepared: PreparedRun,
    report: Report,
    keys: Mapping[str, Mapping[str, Json]],
    processes: Processes,
    show: Show,
) -> RunResult:
    started, before = time.monotonic(), _recorded(prepared.readers)
    settings, task = prepared.settings, prepared.build()
    data = _data(prepared, processes)
    trackers = Trackers(settings.trackers if processes.first else (), tracked(prepared, run.folder, run.key))
    try:
        fitted = fit(
            task,
            data,
            settings,
            processes=processes,
            checkpoints=Checkpoints(run.checkpoints, run.key, settings.keep),
            log=lambda step: RunLog(run.folder, step=step, trackers=trackers),
            show=show,
        )
    except BaseException:
        trackers.close({})
        raise
    content = _content(run, prepared, fitted, keys) | {"data": report.result()}
    content["extracted"] = _recorded(prepared.readers) - before
    content["seconds"] = round(time.monotonic() - started, 3)
    if processes.first:
        if prepared.extra:
            if fitted.best_weights:
                task.model.load_state_dict(fitted.best_weights)
            network = task.model.get_submodule("network")
            export_encoder(run.folder / "encoder.pt", network, prepared.extra)
            content["exported"] = "encoder.pt"
        folders.finish(run, content, prediction_arrays(fitted.predictions, prepared, task))
        show_result(run.folder, prepared, fitted, trackers)
        trackers.close(fitted.metrics)
    # The other processes wait until the run is on disk.
    content = processes.from_first(content)
    return _result(run, content, reused=False)


def _data(prepared: PreparedRun, processes: Processes) -> Data:
    """What a run trains and evaluates on, in this process."""
    loader = partial(
        Loader,
        settings=prepared.settings,
        rank=processes.rank,
        world_size=processes.world_size,
        device=processes.device,
    )

    def part(source: BatchSource | None, side: Covered, candidates: tuple[int, ...] = ()) -> Part | None:
        if source is None or not len(source):
            return None
        missing = tuple(label for _, label in side.missing)
        return Part(loader(source), side.samples.labels, missing, prepared.unknown, candidates)

    return Data(
        train=loader(prepared.train),
        test=part(prepared.test, prepared.test_side, prepared.candidates),
        val=part(prepared.val, prepared.val_side),
        follow_test=prepared.follow_test,
        prefer_later=bool(prepared.extra),
    )


def _begin(
    run: folders.Run,
    prepared: PreparedRun,
    table: str,
    keys: Mapping[str, Mapping[str, Json]],
    processes: Processes,
    row: str,
) -> None:
    stores = {name: dict(found) for name, found in keys.items()}
    for name, reader in prepared.readers.items():
        if isinstance(reader, StoreReader):
            stores[name]["environment"] = count_environments(reader.path)
    content = {"stores": stores, "samples": _sides(prepared), "run": run.key, "classes": list(prepared.columns)}
    folders.begin(
        run,
        {**prepared.config, **({"name": row} if row else {})},
        table,
        {**content, "data": data_digest(table), "revision": REVISION},
        folders.environment(processes.device, processes.world_size),
        learned_text(prepared.learned),
    )


def _sides(prepared: PreparedRun) -> dict[str, dict[str, Json]]:
    sides = {"train": prepared.train_side, "val": prepared.val_side, "test": prepared.test_side}
    return {part: side.result() for part, side in sides.items()}


def _content(
    run: folders.Run, prepared: PreparedRun, fitted: Fitted, keys: Mapping[str, Mapping[str, Json]]
) -> dict[str, Json]:
    """The content of result.json."""
    return {
        "key": run.key,
        "model": prepared.model,
        "dataset": prepared.dataset.name,
        "protocol": prepared.protocol,
        "epochs": prepared.settings.epochs,
        "metrics": dict(fitted.metrics),
        "train_top1": fitted.history[-1].get(TRAIN_TOP1) if fitted.history else None,
        "per_class": class_metrics(prepared, fitted.predictions),
        "heads": dict(fitted.heads),
        "best": dict(fitted.best),
        "keys": {name: dict(found) for name, found in keys.items()},
        "samples": _sides(prepared),
        "exported": None,
        "notes": list(prepared.notes),
        "zero_shot": dict(prepared.report(fitted)) if prepared.report else {},
    }


def class_metrics(prepared: PreparedRun, predictions: Predictions | None) -> dict[str, Json]:
    """The metrics that have a value per class, keyed by class; empty if nothing was tested."""
    if predictions is None:
        return {}
    side = prepared.test_side
    labels = [side.samples.labels[index] for index in predictions.indices]
    scored = scored_part(predictions.scores, labels, side.missing_labels, unknown=prepared.unknown)
    found = evaluation_by_class(scored)
    names = prepared.classes or prepared.dataset.classes
    return {metric: dict(zip(names, values, strict=True)) for metric, values in found.items()}


def prediction_arrays(predictions: Predictions | None, prepared: PreparedRun, task: Task) -> dict[str, np.ndarray]:
    """The arrays of predictions.npz: ids, labels, probabilities and, if available, importance with column names."""
    if predictions is None:
        return {}
    samples = prepared.test_side.samples
    arrays = {
        "ids": np.array([samples.ids[index] for index in predictions.indices]),
        "labels": np.array([samples.labels[index] for index in predictions.indices], dtype=np.int64),
        "probabilities": predictions.scores,
    }
    if predictions.importance is not None:
        arrays |= {
            "importance": predictions.importance,
            "importance_names": np.array(getattr(task.model, "importance_names", ())),
        }
    return arrays


def export_encoder(path: Path, network: torch.nn.Module, fields: Mapping[str, Any]) -> None:
    """Write a skeleton encoder for `extract pose-features`: its fields and its weights (moved to the CPU)."""
    weights = {name: value.detach().cpu() for name, value in network.state_dict().items()}
    buffer = io.BytesIO()
    torch.save({**fields, "state_dict": weights}, buffer)
    atomic.write_file(path, buffer.getvalue())


def _recorded(readers: Mapping[str, SampleReader]) -> int:
    """Current number of samples in the records of the stores: extraction increases it, reading does not.

    A store that has been removed in the meantime counts as when it was opened: what was read from it had been checked.
    """
    found = 0
    for reader in readers.values():
        if isinstance(reader, StoreReader):
            try:
                found += len(StoreReader(reader.path).table)
            except CacheProblem:
                found += len(reader.table)
    return found


def _result(run: folders.Run, content: Mapping[str, Any], *, reused: bool) -> RunResult:
    try:
        values = {name: content[name] for name in RunResult.__dataclass_fields__ if name in content}
        exported = run.folder / str(values.pop("exported")) if values.get("exported") else values.pop("exported", None)
        return RunResult(run=run.folder.name, folder=run.folder, exported=exported, reused=reused, **values)
    except TypeError as error:
        raise MissingCache(f"{run.folder / 'result.json'} lacks fields; move the folder away to train anew.") from error
