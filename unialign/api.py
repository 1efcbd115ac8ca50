"""The Python front door: what `import unialign as ua` offers beside types and errors. See docs/python.md.

Everything that the command line does can be done from here with the same configuration; stores, which the command line
only lists, can be read and fed to any training loop.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unialign.arguments import checked
from unialign.cache.inventory import find_store, iterate_stores, why_empty
from unialign.cache.paths import expanded_path
from unialign.cache.reader import Recorded, StoreReader
from unialign.pipeline.config import Config, load_config

if TYPE_CHECKING:
    from unialign.pipeline.ablation.results import Ablation
    from unialign.pipeline.evaluation.evaluate import Evaluated
    from unialign.pipeline.extraction.extract import Extraction
    from unialign.pipeline.pages.page import Page
    from unialign.pipeline.prediction.model import Model
    from unialign.pipeline.training.train import RunResult
    from unialign.stages.datasets.base import Dataset
    from unialign.stages.training.store_batches import Batches, StoreDataset

# The place of a store: a folder (~ and $NAME are expanded, as everywhere), a URL, or the beginning of its name within a
# cache.
Place = str | Path


@checked
def open_store(place: Place, *, cache: Place | None = None) -> Recorded:
    """A store to read, with checks of presence and checksums.

    place: its folder; a URL (http, s3, ...; needs `pip install unialign[remote]`); or, with `cache`, the beginning of
    its name ("yolo-4893").
    The result has `len()` and `in`; `store.ids`, sorted; `store[id]`, a dict of arrays without the sample axis, as
    long as the sample; `store.attributes`; and a repr that shows arrays, axes and units.
    Raises `MissingCache` where there is none, `DamagedStore` where it is not what was written, `UsageError` for a name
    that fits several.
    """
    if "://" in str(place):
        from unialign.cache.remote.remote_reader import RemoteReader

        return RemoteReader(str(place), None)
    folder = expanded_path(place)
    if cache is not None and not folder.is_dir():
        return StoreReader(find_store(expanded_path(cache).resolve(), str(place)))
    return StoreReader(folder.resolve())


@checked
def list_stores(cache: Place = "cache") -> list[Recorded]:
    """The stores of a cache that can be opened, sorted by path; `unialign cache ls` reports the damaged ones.

    Raises `MissingCache` for a folder that holds no stores: one that is not there, or a part of a cache.
    """
    from unialign.errors import CacheProblem, MissingCache

    found: list[Recorded] = []
    root = expanded_path(cache).resolve()
    paths = list(iterate_stores(root))
    if not paths:
        raise MissingCache(f"{why_empty(root)}; `unialign extract` makes stores.")
    for path in paths:
        try:
            found.append(StoreReader(path))
        except CacheProblem:
            continue
    return found


@checked
def batches(
    stores: Recorded | Sequence[Recorded],
    *,
    batch_size: int,
    ids: Sequence[str] | None = None,
    labels: Mapping[str, int] | None = None,
    window: int = 0,
    arrays: Sequence[str] | None = None,
    shuffle: bool = True,
    seed: int = 0,
    window_shards: int = 0,
) -> "Batches":
    """Batches of several stores joined by sample id: dicts of tensors (B, ...), gathered by threads ahead of the loop.

    ids: which samples; by default all that every store holds. labels: id to class, which adds "labels" (B,) int64.
    window: entries of the first axis (frames) of arrays whose samples differ in length; a random window in each epoch
    with `shuffle`, the middle without; a shorter sample begins again at its first entry.
    arrays: names of the arrays to read; all by default. seed: order and windows follow from (seed, epoch, sample).
    window_shards: read so many shards at a time, for stores larger than memory.

    Each pass over the result is another epoch; "indices" of a batch count in `.ids`.
    Raises `UsageError` for arrays that need a window, `MissingCache` for ids that a store lacks.
    """
    from unialign.stages.training.store_batches import Batches, joined

    reader = joined(_several(stores), ids=ids, window=window, arrays=arrays)
    return Batches(
        reader, batch_size=batch_size, shuffle=shuffle, seed=seed, labels=labels, window_shards=window_shards
    )


@checked
def dataset(
    stores: Recorded | Sequence[Recorded],
    *,
    ids: Sequence[str] | None = None,
    labels: Mapping[str, int] | None = None,
    window: int = 0,
    arrays: Sequence[str] | None = None,
) -> "StoreDataset":
    """Several stores joined by sample id, for a stock `torch.utils.data.DataLoader`; arguments as in `batches`.

    Works with the default collate, shuffling, samplers and any number of workers. See `StoreDataset` for what a sample
    is, and for whole batches, which are faster.
    """
    from unialign.stages.training.store_batches import StoreDataset, joined

    return StoreDataset(joined(_several(stores), ids=ids, window=window, arrays=arrays), labels)


def _several(stores: Recorded | Sequence[Recorded]) -> Sequence[Recorded]:
    return (stores,) if isinstance(stores, Recorded) else tuple(stores)


def configured(config: Config | Place | None = None, **values: Any) -> Config:
    """A configuration, as the command line makes it: the values given, over the environment, over a YAML file.

    config: a file instead of unialign.yaml in the working folder, or a configuration to start from.
    values: fields by name, with "__" for the dot: `train__settings__epochs=5`.
    Raises `UsageError` that names the field for an unknown field or a value of the wrong kind.
    """
    named = {name.replace("__", "."): value for name, value in values.items()}
    if isinstance(config, Config):
        from unialign.pipeline.config import with_values

        return with_values(config, {name: value for name, value in named.items() if value is not None})
    return load_config(named, file=Path(config) if config is not None else None)


@checked
def load_dataset(name: str, root: Place, *, labels: Place | None = None, roots: Sequence[Place] = ()) -> "Dataset":
    """A dataset read from its data root: samples, class names, splits (`dataset.split("xsub").train`).

    name: as for `--dataset`, also "package.module:function". labels: what the dataset takes, see `DatasetRow`. roots:
    other folders that links and absolute paths in lists may lead into. Raises `UsageError` for an unknown name and for
    a root that holds something else.
    """
    from unialign.stages.datasets import catalog

    folders = [expanded_path(each).resolve() for each in roots]
    return catalog.load_dataset(
        name, expanded_path(root).resolve(), expanded_path(labels) if labels is not None else None, folders
    )


@checked
def extract(
    modality: str,
    *,
    config: Config | Place | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
    repair: bool = False,
    retry: bool = False,
    **values: Any,
) -> "Extraction":
    """Run an extractor ("poses", "pose-features", "text", "frames", "tokens", or a plug-in's) on a dataset, into the
    cache.

    values: `dataset`, `data`, `cache` and everything else of the configuration, see `configured`. progress: called with
    (samples done, samples to do). `open_store(result.store)` reads what came out; `result.quarantined` counts the
    samples without features by status. Raises `UsageError`, `MissingCache`, `LockedStore`, `DamagedStore`.
    """
    from unialign.pipeline.datasets import rooted_dataset
    from unialign.pipeline.extraction.extractors import extract_configured, get_row

    get_row(modality)
    resolved = configured(config, **values)
    return extract_configured(
        modality, rooted_dataset(resolved), resolved, repair=repair, retry=retry, progress=progress
    )


@checked
def train(
    *, config: Config | Place | None = None, online: bool = False, overwrite: bool = False, **values: Any
) -> "RunResult":
    """Train on cached modalities, or return the finished run of the same settings and data.

    values: `dataset`, `cache`, `runs`, `train__model`, `train__settings__epochs`, ..., see `configured`. The result has
    `metrics`, `best`, `folder`. overwrite: delete that run first.
    Raises `MissingCache`, `StaleCache`, `UsageError`, `LockedStore`.
    """
    from unialign.pipeline.training.from_config import train_from_config

    return train_from_config(configured(config, **values), online=online, overwrite=overwrite)


@checked
def evaluate(run: Place, *, config: Config | Place | None = None, best: bool = False, **values: Any) -> "Evaluated":
    """Measure a finished run again from its checkpoint and the stores that it names; `best`: the checkpoint chosen on
    validation samples instead of the last one. The result has `metrics`, `per_class`, `confusion`.

    Raises `MissingCache` for a run, store or checkpoint that is not there, `StaleCache`, `DamagedStore`.
    """
    from unialign.pipeline.datasets import the_dataset
    from unialign.pipeline.evaluation.evaluate import evaluate_run
    from unialign.pipeline.training.run_folder import read_config

    folder = expanded_path(run)
    resolved = configured(config, **{"dataset": read_config(folder)["dataset"], **values})
    return evaluate_run(
        folder,
        the_dataset(resolved),
        cache=resolved.cache.resolve(),
        keep=resolved.train.remote_cache,
        which="best" if best else "last",
    )


@checked
def report(
    what: Place | None = None, *, config: Config | Place | None = None, out: Place | None = None, **values: Any
) -> "Page":
    """Write a page about a finished run or ablation: one HTML file that holds everything it shows.

    what: a folder, the beginning of a run's name or key, or the name of a grid; None: the newest in `runs`. out: the
    file; by default report.html in the folder of the run or ablation. The result has `path` and `bytes`.
    Raises `MissingCache` where there is none, `DamagedStore` for one that cannot be read.
    """
    from unialign.pipeline.pages.report import write_report

    place = None if out is None else expanded_path(out).resolve()
    return write_report(configured(config, **values), None if what is None else expanded_path(what), out=place)


@checked
def load_model(
    run: Place | None = None,
    *,
    weights: Place | Sequence[Place] = (),
    best: bool = False,
    config: Config | Place | None = None,
    **values: Any,
) -> "Model":
    """A trained model that labels new clips: `load_model("runs/RUN").predict("clip.mp4").label`.

    run: a run's folder, the beginning of its name or key, or a file of `unialign export`; None: the run finished last.
    weights: files that its features were extracted with (the pose network's), where the configuration does not name
    them. best: the best epoch's weights instead of the last's. values: `cache`, `runs`, ..., see `configured`.
    Clips are extracted as in training, which is checked: see `Model.predict`.
    Raises `MissingCache` for a run, store or checkpoint that is not there, `DamagedStore` for a damaged one.
    """
    from unialign.pipeline.prediction.load import load

    given = (weights,) if isinstance(weights, (str, Path)) else weights
    place = None if run is None else expanded_path(run)
    return load(place, configured(config, **values), weights=[expanded_path(each) for each in given], best=best)


@checked
def ablate(
    grid: Place, *, config: Config | Place | None = None, jobs: int | None = None, cluster: str = "", **values: Any
) -> "Ablation":
    """Train every row of a grid (a YAML file) for every seed on the same caches, and compare them.

    It never extracts. jobs: training runs in parallel; by default as many as cores and memory allow. cluster: where
    they are trained, as `--cluster` of `unialign ablate` names it. Finished runs are reused. Raises `FailedTrials` when
    training runs failed, after all others have ended.
    """
    from unialign.pipeline.ablation.grid import read_grid
    from unialign.pipeline.ablation.sweep import sweep

    ablation, _ = sweep(read_grid(grid), configured(config, **values), jobs=jobs, cluster=cluster)
    return ablation
