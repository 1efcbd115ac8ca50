"""One training run from a configuration: which dataset, which stores, which model."""

from collections.abc import Mapping, Sequence

from unialign.cache.inventory import find_store
from unialign.cache.reader import Recorded, StoreReader
from unialign.cache.remote.mirror import reader_at
from unialign.errors import DamagedStore, MissingCache, StaleCache, UsageError
from unialign.pipeline.ablation.grid import Trial
from unialign.pipeline.ablation.results import TrialResult
from unialign.pipeline.config import Config, with_values
from unialign.pipeline.datasets import the_dataset
from unialign.pipeline.extraction.current_sources import files_now
from unialign.pipeline.extraction.extractors import row_of
from unialign.pipeline.extraction.online import online_readers
from unialign.pipeline.stores import open_chosen, stale_samples
from unialign.pipeline.systems.registry import get_system, section_of
from unialign.pipeline.training.preparation import Options
from unialign.pipeline.training.train import RunResult, Show, Tell, train_model
from unialign.stages.datasets.base import Dataset
from unialign.stages.extraction.corpus import read_entities
from unialign.stages.sample_reader import SampleReader
from unialign.words import counted


def train_from_config(
    config: Config,
    dataset: Dataset | None = None,
    *,
    online: bool = False,
    show: Show = lambda progress: None,
    tell: Tell = lambda sentence: None,
    check: bool = True,
    overwrite: bool = False,
) -> RunResult:
    """Train as configured, or return the finished run with the same configuration and caches.

    dataset: the configured dataset, if it has already been loaded.
    online: decode videos and run the stage-one networks during training instead of reading the cache.
    check: compare the source files that exist with the digests in the stores; raises `StaleCache` if they differ.
    overwrite: train again although a run with the same configuration and caches exists, whose folder is deleted.
    """
    section = config.train
    dataset = dataset or the_dataset(config)
    needed = needed_stores(config, dataset)
    if section.settings.flip and not dataset.mirror:
        raise UsageError(
            f"train.settings.flip is {section.settings.flip}, but a mirrored clip of {dataset.name} may be of another "
            "class (from left to right, from right to left); set it to 0."
        )
    entities = {each.name: each.text for each in read_entities(section.entities)} if section.entities else {}
    if online:
        readers: Mapping[str, SampleReader] = online_readers(needed, dataset, config)
    else:
        readers = cached_readers(needed, dataset, config, check=check)
    return train_model(
        section.model,
        dataset,
        protocol=config.protocol,
        readers=readers,
        model=getattr(section, section_of(section.model)),
        settings=section.settings,
        runs=config.runs.resolve(),
        options=Options(
            min_coverage=section.min_coverage,
            templates=section.templates,
            backbone_weights=section.backbone_weights,
            entities=entities,
            shots=section.shots,
            val_share=section.val_share,
            start=section.start,
            row=section.name,
            overwrite=overwrite,
        ),
        show=show,
        tell=tell,
    )


def needed_stores(config: Config, dataset: Dataset) -> tuple[str, ...]:
    """The modalities that the configured system reads on this dataset."""
    system, given = get_system(config.train.model), getattr(config.train, section_of(config.train.model))
    return system.stores(system.settled(given, dataset.split(config.protocol))[0])


def cached_readers(needed: Sequence[str], dataset: Dataset, config: Config, *, check: bool) -> dict[str, SampleReader]:
    """One reader per modality. Raises `MissingCache` for a missing store and `StaleCache` for outdated features."""
    cache = config.cache.resolve()
    readers: dict[str, SampleReader] = {}
    for modality in needed:
        reader = open_chosen(cache, dataset, modality, config.train.stores, keep=config.train.remote_cache)
        if check:
            check_fresh(modality, reader, dataset, config)
        readers[modality] = reader
    return readers


def check_fresh(modality: str, reader: Recorded, dataset: Dataset, config: Config) -> None:
    """Raise `StaleCache` for features whose sources have changed since extraction, including indirect sources.

    Pose features are compared with the poses and with the files that the poses were extracted from, so neither
    extraction step can be forgotten.
    """
    stale = stale_samples(reader, current_sources(reader, dataset, config))
    if stale:
        row = row_of(reader.store)
        steps = [row.made_from, modality] if row and row.made_from else [modality]
        commands = " and ".join(f"`unialign extract {step} --dataset {dataset.name}`" for step in steps)
        raise StaleCache(
            f"{reader.where}: {counted(len(stale), 'sample was', 'samples were')} made from other sources "
            f"than those there now ({stale[0]}); "
            f"run {commands} again."
        )


def current_sources(reader: Recorded, dataset: Dataset, config: Config) -> Mapping[str, str]:
    """Current digest of each sample's source, by id; missing sources are omitted, since caches outlive them.

    Raises `DamagedStore` for a derived store that does not say what it was made from, `MissingCache` if that is gone.
    """
    row = row_of(reader.store)
    if row is None:
        return {}
    if row.made_from:
        named = reader.store.key.fields.get(row.made_from)
        if not isinstance(named, str):
            raise DamagedStore(f"{reader.where} does not say from which {row.made_from} it was made; extract it anew.")
        try:
            made_from = reader_at(find_store(config.cache.resolve(), named, (reader.store.collection, row.made_from)))
        except MissingCache:
            # A remote store comes without the store it was derived from.
            if isinstance(reader, StoreReader):
                raise
            return {}
        files = current_sources(made_from, dataset, config)
        return made_from.sources() | {name: source for name, source in files.items() if source}
    if row.current is not None:
        return row.current(reader, dataset, config)
    return files_now(row.reads, dataset, config) if row.reads else {}


def train_trial(base: Config, trial: Trial, show: Show = lambda progress: None) -> TrialResult:
    """Train one trial of a grid: the base configuration overridden with the trial's values."""
    result = train_from_config(with_values(base, {"train.name": trial.row, **dict(trial.values)}), show=show)
    return TrialResult(
        trial=trial,
        run=str(result.folder),
        metrics=result.metrics,
        seconds=result.seconds,
        keys=result.keys,
        reused=result.reused,
    )
