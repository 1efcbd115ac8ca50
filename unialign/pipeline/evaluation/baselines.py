"""Accuracy of simple classifiers on cached features, as a reference for the accuracy of every network.

Legend: N samples, F features per sample, L classes, E text embedding width.
"""

import importlib
import logging
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from unialign.cache.access import is_refused
from unialign.cache.inventory import find_store
from unialign.cache.reader import StoreReader
from unialign.errors import MissingCache, UsageError
from unialign.pipeline.config import Config, with_values
from unialign.pipeline.evaluation.baseline_features import FEATURES, ZERO_SHOT_FEATURES, Features
from unialign.pipeline.evaluation.zero_shot_baselines import zero_shot_guesses
from unialign.pipeline.extraction.extractors import row_of
from unialign.pipeline.stores import open_remote
from unialign.pipeline.training.coverage import Covered
from unialign.pipeline.training.from_config import cached_readers
from unialign.pipeline.training.preparation import Sides, covered_sides, get_reader
from unialign.pipeline.training.run_folder import write_baselines
from unialign.pipeline.training.text_bank_start import load_descriptions, load_text_bank
from unialign.stages.datasets.base import Dataset, check_classes
from unialign.stages.datasets.validation import groups_of
from unialign.stages.sample_reader import SampleReader
from unialign.stages.training.metrics import evaluation
from unialign.types import Json

LOGGER = logging.getLogger(__name__)

MODALITIES = ("poses", "pose-features", "tokens", "frames")
FOLDS = 4
# Baselines computed alongside a training run by default, for at most this many samples.
QUICK, QUICK_SAMPLES = ("1-nn", "ridge", "svm"), 3000
# Beyond these training set sizes, kernels and coordinate descent take hours; such rows are skipped and reported.
MOST_SAMPLES = {"svm": 6000, "linear svm": 10_000, "logistic regression": 20_000, "1-nn": 100_000, "k-nn": 100_000}

Labels = NDArray[np.int64]


class Progress(Protocol):
    """What is told of the work: samples read, then classifiers fitted with the name of the next one."""

    def __call__(self, done: int, total: int, text: str = ..., /) -> None:
        """Done of how many, and what is being done."""


def silent(done: int, total: int, text: str = "") -> None:
    """Shows nothing."""


@dataclass(frozen=True)
class Row:
    """One baseline on the test samples of a protocol.

    features: the modality. top1, mean_class: fractions of 1, see `metrics.evaluation`. seconds: time for selecting
    settings, fitting and testing. chosen: the selected settings, "" if it has none.
    """

    baseline: str
    features: str
    top1: float
    mean_class: float
    seconds: float
    chosen: str = ""

    def result(self) -> dict[str, Json]:
        """The object that `--json` prints for it."""
        return {**self.__dict__}


@dataclass(frozen=True)
class Baselines:
    """The rows of one protocol. chosen_on: what settings were selected on. skipped: omitted rows, with the reason."""

    dataset: str
    protocol: str
    store: str
    rows: tuple[Row, ...]
    chosen_on: str
    samples: Mapping[str, int]
    skipped: tuple[str, ...] = ()

    @property
    def best(self) -> Row:
        """The row with the highest top-1, the first one if tied."""
        return max(self.rows, key=lambda row: row.top1)

    def result(self) -> dict[str, Json]:
        """The object that `--json` prints."""
        rows: list[Json] = [row.result() for row in self.rows]
        return {
            "dataset": self.dataset,
            "protocol": self.protocol,
            "store": self.store,
            "rows": rows,
            "chosen_on": self.chosen_on,
            "samples": dict(self.samples),
            "skipped": list(self.skipped),
        }


@dataclass(frozen=True)
class Part:
    """Features (N, F) and labels (N,) of one side's samples."""

    features: Features
    labels: Labels

    def __len__(self) -> int:
        return len(self.labels)

    def of(self, which: NDArray[Any]) -> "Part":
        """A subset of the samples, by index or mask."""
        return Part(self.features[which], self.labels[which])


# (setting, training features, training labels, features to classify) -> predicted labels.
Classifier = Callable[[float, Features, Labels, Features], Labels]


def baselines_from_config(config: Config, dataset: Dataset, features: str, *, progress: Progress = silent) -> Baselines:
    """Baselines on a modality of the configured dataset, or on one store.

    features: one of `MODALITIES`, or the name or URL of a store. Raises what `cached_readers` and `run_baselines`
    raise.
    """
    modality = features
    if features not in MODALITIES:
        cache = config.cache.resolve()
        if "://" in features:
            modality = open_remote(features, cache, config.train.remote_cache).store.modality
        else:
            modality = find_store(cache, features).parts[-2]
        config = with_values(config, {"train.stores": {**config.train.stores, modality: features}})
    texts = ("text",) if needs_text(dataset, config.protocol) else ()
    wanted = [modality, *texts] if modality in MODALITIES else []
    return run_baselines(
        dataset,
        protocol=config.protocol,
        modality=modality,
        readers=cached_readers(wanted, dataset, config, check=True),
        min_coverage=config.train.min_coverage,
        progress=progress,
    )


def quick_baselines(config: Config, dataset: Dataset, modalities: Iterable[str]) -> tuple[Row, ...]:
    """The best of the fast classifiers on each modality that training read, and on what these were made from (poses),
    to compare with a network.

    Empty if it would take more than seconds (see `QUICK_SAMPLES`); modalities without baselines are skipped. Raises
    what `run_baselines` raises.
    """
    return best_by_features(quick_rows(config, dataset, modalities))


def best_by_features(rows: Iterable[Row]) -> tuple[Row, ...]:
    """The row with the highest top-1 on each kind of features, the first one if tied."""
    best: dict[str, Row] = {}
    for row in rows:
        if row.features not in best or row.top1 > best[row.features].top1:
            best[row.features] = row
    return tuple(best.values())


def quick_rows(config: Config, dataset: Dataset, modalities: Iterable[str]) -> tuple[Row, ...]:
    """All of the fast classifiers on these modalities; see `quick_baselines`."""
    read = set(modalities)
    unseen = needs_text(dataset, config.protocol)
    if len(dataset.samples) > QUICK_SAMPLES or (unseen and "text" not in read):
        return ()
    found: list[Row] = []
    before = _made_from(config, dataset, read)
    config = with_values(config, {"train.stores": {**before, **config.train.stores}})
    for modality in (each for each in MODALITIES if each in read or each in before):
        wanted = [modality, "text"] if unseen else [modality]
        found += run_baselines(
            dataset,
            protocol=config.protocol,
            modality=modality,
            readers=cached_readers(wanted, dataset, config, check=False),
            min_coverage=config.train.min_coverage,
            names=QUICK,
        ).rows
    return tuple(found)


def _made_from(config: Config, dataset: Dataset, read: Iterable[str]) -> dict[str, str]:
    """The stores in the cache that what was read was made from, such as poses, by modality."""
    found: dict[str, str] = {}
    for modality in sorted(set(read) & set(MODALITIES)):
        reader = cached_readers([modality], dataset, config, check=False)[modality]
        row = row_of(reader.store) if isinstance(reader, StoreReader) else None
        if not isinstance(reader, StoreReader) or row is None or row.made_from not in MODALITIES:
            continue
        digest, place = str(reader.store.key.fields.get(row.made_from)), (dataset.collection, row.made_from)
        try:
            found[row.made_from] = find_store(config.cache.resolve(), digest, place).name.removesuffix(".zarr")
        except MissingCache:
            LOGGER.info("no baselines on %s: the store that %s were made from is gone", row.made_from, modality)
    return found


def record_baselines(folder: Path, rows: Sequence[Row]) -> None:
    """Keep these rows beside the run in `folder`, for `unialign results`; not in a folder that cannot be written."""
    if not rows:
        return
    try:
        write_baselines(folder, [row.result() for row in rows])
    except OSError as error:
        if not is_refused(error):
            raise


def run_baselines(
    dataset: Dataset,
    *,
    protocol: str | None,
    modality: str,
    readers: Mapping[str, SampleReader],
    min_coverage: float = 0.95,
    names: Sequence[str] = (),
    progress: Progress = silent,
) -> Baselines:
    """All baselines of a protocol on the store of one modality; settings are selected without using test samples.

    names: keys of `CLASSIFIERS`; all if empty. Settings are selected on the protocol's val part or, without one, by
    cross-validation within train, keeping groups (subjects) together. For a protocol that tests classes without
    training samples, the rows are linear maps to and from the class texts instead; readers must then include "text".
    Raises `UsageError` for a modality without baselines, a dataset of one class and a test part without samples,
    `MissingCache` for stores with too few samples.
    """
    check_classes(dataset)
    protocol = protocol or dataset.default_protocol
    if modality not in MODALITIES:
        raise UsageError(f"there are no baselines on {modality}; take {', '.join(MODALITIES)} or a store of one.")
    reader = get_reader(readers, modality, dataset)
    split = dataset.split(protocol)
    sides = covered_sides(dataset, protocol, split, {modality: reader}, min_coverage)
    labels = {sample.id: sample.label for sample in dataset.samples}
    seen = sorted({labels[each] for each in split.train})
    unseen = sorted(split.unseen or {labels[each] for each in split.test} - set(seen))
    vectors_of = ZERO_SHOT_FEATURES.get(modality, FEATURES[modality]) if unseen else FEATURES[modality]
    parts = _parts(partial(vectors_of, reader), sides, progress)
    # Import the library up front: it takes longer than most of its classifiers and must not count in their time.
    for name in ("linear_model", "neighbors", "svm"):
        importlib.import_module(f"sklearn.{name}")
    groups = _groups(dataset, sides.train.samples.ids)
    if unseen:
        generalised = not split.candidates if split.unseen else any(labels[each] in set(seen) for each in split.test)
        candidates = list(range(len(dataset.classes))) if generalised else unseen
        with _one_thread():
            rows = list(_zero_shot_rows(dataset, parts, unseen, candidates, sides, readers))
        chosen_on, skipped = "seen classes that play unseen ones", list[str]()
    else:
        with _one_thread(), warnings.catch_warnings():
            # Where classes have one or two samples each, scikit-learn suspects a regression.
            warnings.filterwarnings("ignore", "The number of unique classes is greater than 50%", UserWarning)
            rows, skipped = _supervised_rows(
                parts, sides, len(dataset.classes), groups, names or list(CLASSIFIERS), progress
            )
        chosen_on = _where_chosen(parts, groups)
    return Baselines(
        dataset=dataset.name,
        protocol=protocol,
        store=str(getattr(reader, "where", "")),
        rows=tuple(replace(row, features=modality) for row in rows),
        chosen_on=chosen_on,
        samples={name: len(part) for name, part in parts.items()},
        skipped=tuple(skipped),
    )


def _one_thread() -> Any:
    """A context in which linear algebra uses one thread.

    These matrices are small. Threads gain little on an idle machine, and on a busy one they wait for each other:
    minutes were seen where one thread takes two seconds.
    """
    from threadpoolctl import threadpool_limits

    return threadpool_limits(limits=1)


def _supervised_rows(
    parts: Mapping[str, Part],
    sides: Sides,
    num_classes: int,
    groups: Labels | None,
    names: Sequence[str],
    progress: Progress,
) -> tuple[list[Row], list[str]]:
    train, test = parts["train"], parts["test"]
    rows, skipped = [], []
    single = len(np.unique(train.labels)) == 1
    for place, name in enumerate(names):
        progress(place, len(names), f"baseline: {name}")
        values, spoken, classifier = CLASSIFIERS[name]
        if single and name != "majority":
            skipped.append(f"{name}: all training samples are of one class")
            continue
        most = MOST_SAMPLES.get(name)
        if most and len(train) > most:
            skipped.append(f"{name}: {len(train)} training samples are more than {most}")
            continue
        started = time.monotonic()
        best = values[0] if len(values) == 1 else _chosen(classifier, values, parts, groups)
        guesses = classifier(best, train.features, train.labels, test.features)
        rows.append(_row(name, guesses, sides.test, num_classes, started, spoken.format(best) if spoken else ""))
    return rows, skipped


def _chosen(classifier: Classifier, values: Sequence[float], parts: Mapping[str, Part], groups: Labels | None) -> float:
    """The value with the most correct predictions on val or, without val samples, over the folds; the first if tied."""
    pairs = [(parts["train"], parts["val"])] if len(parts["val"]) else list(_folds(parts["train"], groups))
    right = [
        sum(
            int((classifier(value, fit.features, fit.labels, held.features) == held.labels).sum())
            for fit, held in pairs
        )
        for value in values
    ]
    return values[int(np.argmax(right))]


def _where_chosen(parts: Mapping[str, Part], groups: Labels | None) -> str:
    """What `_chosen` compares values on."""
    if len(parts["val"]):
        return "the val part"
    folds = len(list(_folds(parts["train"], groups)))
    by_group = "" if groups is None else ", by group"
    return f"{folds} folds of train{by_group}" if folds else "nothing, for want of clips: each first value"


def _folds(train: Part, groups: Labels | None) -> Iterator[tuple[Part, Part]]:
    """Pairs of (train without a fold, the fold). Folds are whole groups, or stratified by class without groups."""
    if groups is not None:
        place = groups % FOLDS if len(np.unique(groups)) > FOLDS else groups
    else:
        place = np.zeros(len(train), np.int64)
        for label in np.unique(train.labels):
            (members,) = np.nonzero(train.labels == label)
            place[members] = np.arange(len(members)) % FOLDS
    for fold in np.unique(place):
        kept = place != fold
        if kept.any() and len(np.unique(train.labels[kept])) > 1:
            yield train.of(kept), train.of(~kept)


def _groups(dataset: Dataset, ids: Sequence[str]) -> Labels | None:
    """(N,) group index of each sample; None if samples have no groups or all are in one."""
    attribute, units = groups_of(dataset, ids)
    if not attribute or len(units) < 2:
        return None
    numbers = {name: number for number, unit in enumerate(sorted(units)) for name in units[unit]}
    return np.array([numbers[name] for name in ids], np.int64)


def _zero_shot_rows(
    dataset: Dataset,
    parts: Mapping[str, Part],
    unseen: Sequence[int],
    candidates: Sequence[int],
    sides: Sides,
    readers: Mapping[str, SampleReader],
) -> Iterator[Row]:
    """See `zero_shot_baselines`."""
    texts = _class_texts(get_reader(readers, "text", dataset), dataset.classes)
    train, test = parts["train"], parts["test"]
    for found in zero_shot_guesses(
        train.features, train.labels, test.features, texts, num_unseen=len(unseen), candidates=candidates
    ):
        row = _row(found.baseline, found.guesses, sides.test, len(dataset.classes), time.monotonic(), found.chosen)
        yield replace(row, seconds=found.seconds)


def _class_texts(text: SampleReader, classes: Sequence[str]) -> dict[str, Features]:
    """Text embeddings of all classes (L, E), centered, then unit length: labels, descriptions, both concatenated."""

    def unit(values: NDArray[Any]) -> Features:
        centred = values - values.mean(axis=0)
        return np.asarray(centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-12), np.float32)

    found = {"labels": unit(load_text_bank(text, classes).mean(dim=0).numpy())}
    try:
        found["descriptions"] = unit(load_descriptions(text, classes).numpy())
    except UsageError:
        return found  # a text store without descriptions gets only the row for labels
    return {**found, "both": unit(np.concatenate([found["labels"], found["descriptions"]], axis=1))}


def _row(name: str, guesses: Labels, side: Covered, num_classes: int, started: float, chosen: str) -> Row:
    scores = np.eye(num_classes, dtype=np.float32)[guesses]
    missing = tuple(label for _, label in side.missing)
    found = evaluation(scores, np.asarray(side.samples.labels), missing)
    return Row(name, "", found["top1"], found["mean_class"], round(time.monotonic() - started, 3), chosen)


def _parts(
    vectors_of: Callable[[Sequence[str]], Iterator[Features]], sides: Sides, progress: Progress
) -> dict[str, Part]:
    """Train, val and test features, centered on train's mean and divided by one scale, so that units do not matter.

    There is no scale per feature: joints that hardly move would count as much as those that distinguish classes.
    """
    total = sum(len(side.samples) for side in (sides.train, sides.val, sides.test))
    done, found = 0, {}
    for name, side in (("train", sides.train), ("val", sides.val), ("test", sides.test)):
        vectors = []
        for vector in vectors_of(side.samples.ids):
            vectors.append(vector)
            done += 1
            progress(done, total)
        labels = np.asarray(side.samples.labels, np.int64)
        found[name] = Part(np.stack(vectors) if vectors else np.zeros((0, 0), np.float32), labels)
    mean = found["train"].features.mean(axis=0)
    scale = float((found["train"].features - mean).std()) or 1.0
    return {
        name: Part(np.asarray((part.features - mean) / scale, np.float32) if len(part) else part.features, part.labels)
        for name, part in found.items()
    }


def _majority(value: float, features: Features, labels: Labels, wanted: Features) -> Labels:
    del value, features
    return np.full(len(wanted), np.bincount(labels).argmax(), np.int64)


def _neighbours(value: float, features: Features, labels: Labels, wanted: Features) -> Labels:
    from sklearn.neighbors import KNeighborsClassifier

    # Closer neighbors count more, which breaks ties.
    model = KNeighborsClassifier(min(int(value), len(labels)), weights="distance" if value > 1 else "uniform")
    return np.asarray(model.fit(features, labels).predict(wanted), np.int64)


def _ridge(value: float, features: Features, labels: Labels, wanted: Features) -> Labels:
    from sklearn.linear_model import RidgeClassifier

    return np.asarray(RidgeClassifier(alpha=value).fit(features, labels).predict(wanted), np.int64)


def _logistic(value: float, features: Features, labels: Labels, wanted: Features) -> Labels:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    with warnings.catch_warnings():
        # Full convergence would not change which class ranks first.
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = LogisticRegression(C=value, max_iter=200).fit(features, labels)
    return np.asarray(model.predict(wanted), np.int64)


def _linear_svm(value: float, features: Features, labels: Labels, wanted: Features) -> Labels:
    from sklearn.svm import SVC

    return np.asarray(SVC(kernel="linear", C=value).fit(features, labels).predict(wanted), np.int64)


def _svm(value: float, features: Features, labels: Labels, wanted: Features) -> Labels:
    from sklearn.svm import SVC

    return np.asarray(SVC(C=value).fit(features, labels).predict(wanted), np.int64)


ALPHAS = (1.0, 10.0, 100.0, 1000.0, 10_000.0)
# By name: the values to choose from, the format of the chosen one for output, and the classifier.
CLASSIFIERS: Mapping[str, tuple[Sequence[float], str, Classifier]] = {
    "majority": ((0.0,), "", _majority),
    "1-nn": ((1.0,), "", _neighbours),
    "k-nn": ((3.0, 5.0, 9.0, 15.0), "k {:g}", _neighbours),
    "ridge": (ALPHAS, "alpha {:g}", _ridge),
    "logistic regression": ((0.0001, 0.001, 0.01, 0.1), "C {:g}", _logistic),
    "linear svm": ((0.0001, 0.001, 0.01, 0.1), "C {:g}", _linear_svm),
    "svm": ((1.0, 10.0, 100.0), "RBF kernel, C {:g}", _svm),
}


def needs_text(dataset: Dataset, protocol: str | None) -> bool:
    """Whether a protocol has unseen classes, or tests classes without training samples."""
    split = dataset.split(protocol)
    if split.unseen:
        return True
    labels = {sample.id: sample.label for sample in dataset.samples}
    return not {labels[each] for each in split.test} <= {labels[each] for each in split.train}
