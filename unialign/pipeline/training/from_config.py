"""One training from a configuration: which dataset, which stores, which model."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from unialign.cache.digests import file_digest
from unialign.cache.inventory import find_store
from unialign.cache.reader import Recorded, StoreReader
from unialign.errors import DamagedStore, MissingCache, StaleCache
from unialign.pipeline.ablation.grid import Trial
from unialign.pipeline.ablation.results import TrialResult
from unialign.pipeline.config import Config, with_values
from unialign.pipeline.datasets import the_dataset
from unialign.pipeline.extraction.online import online_readers
from unialign.pipeline.extraction.source_digests import SourceDigests
from unialign.pipeline.stores import open_chosen, stale_samples
from unialign.pipeline.systems.registry import get_system, section_of
from unialign.pipeline.training.preparation import Options
from unialign.pipeline.training.train import RunResult, Show, Tell, train_model
from unialign.stages.datasets.base import Dataset
from unialign.stages.datasets.pyskl import read_pyskl
from unialign.stages.extraction.corpus import read_entities
from unialign.stages.sample_reader import SampleReader

# Modalities that are made from another one of the cache; their key names its store in a field of that name.
INPUTS = {"pose-features": "poses", "tokens": "frames"}


def train_from_config(
    config: Config,
    dataset: Dataset | None = None,
    *,
    online: bool = False,
    show: Show = lambda progress: None,
    tell: Tell = lambda sentence: None,
    check: bool = True,
) -> RunResult:
    """Train what the configuration says, or return the finished run of the same configuration and caches.

    dataset: the one that the configuration names, where it was read before.
    online: decode and run the networks of stage one during training, instead of reading the cache.
    check: compare source files that are there with the digests in the stores; `StaleCache` where they differ.
    """
    section = config.train
    chosen = getattr(section, section_of(section.model))
    needed = get_system(section.model).stores(chosen)
    dataset = dataset or the_dataset(config)
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
        model=chosen,
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
        ),
        show=show,
        tell=tell,
    )


def cached_readers(needed: Sequence[str], dataset: Dataset, config: Config, *, check: bool) -> dict[str, SampleReader]:
    """A reader for each modality. Raises `MissingCache` for one that is not there and `StaleCache` for old features."""
    cache = config.cache.resolve()
    readers: dict[str, SampleReader] = {}
    for modality in needed:
        reader = open_chosen(
            cache,
            dataset.collection,
            modality,
            config.train.stores,
            dataset.name,
            keep=config.train.remote_cache,
        )
        if check:
            check_fresh(modality, reader, dataset, cache, config)
        readers[modality] = reader
    return readers


def check_fresh(modality: str, reader: Recorded, dataset: Dataset, cache: Path, config: Config) -> None:
    """Raise `StaleCache` for features that were made from other sources than those there now, through all modalities.

    Features of poses are compared with the poses and with the files that those are made from, so that neither step of
    an extraction can be forgotten.
    """
    stale = stale_samples(reader, current_sources(modality, reader, dataset, cache, config))
    if stale:
        steps = [INPUTS[modality], modality] if modality in INPUTS else [modality]
        commands = " and ".join(f"`unialign extract {step} --dataset {dataset.name}`" for step in steps)
        raise StaleCache(
            f"{reader.where}: {len(stale)} samples were made from other sources than those there now ({stale[0]}); "
            f"run {commands} again."
        )


def current_sources(modality: str, reader: Recorded, dataset: Dataset, cache: Path, config: Config) -> dict[str, str]:
    """Digest of what each sample is made from now; without those whose source is not there, for caches outlive it."""
    if modality in INPUTS:
        named = reader.store.key.fields.get(INPUTS[modality])
        if not isinstance(named, str):
            raise DamagedStore(
                f"{reader.where} does not say from which {INPUTS[modality]} it was made; extract it anew."
            )
        try:
            made_from = StoreReader(find_store(cache, named))
        except MissingCache:
            # A remote store comes without the one that it was made from.
            if isinstance(reader, StoreReader):
                raise
            return {}
        files = current_sources(INPUTS[modality], made_from, dataset, cache, config)
        return made_from.sources() | {name: source for name, source in files.items() if source}
    if modality not in ("frames", "poses"):
        return {}
    extractor = reader.store.key.fields["extractor"]
    if extractor == "pyskl":
        return pickled_sources(reader, dataset, config)
    kind = "skeleton" if extractor == "skeleton" else "video"
    digests = SourceDigests(cache, dataset.collection)
    found = {sample.id: digests.of(sample.files[kind]) for sample in dataset.samples if kind in sample.files}
    digests.save()
    return found


def pickled_sources(reader: Recorded, dataset: Dataset, config: Config) -> dict[str, str]:
    """The same for samples of a pickle, the dataset's own or else the configured one; empty where it is not there.

    Records of before there was a digest of each annotation hold that of the whole file, which stands for all of them.
    """
    pickle = config.extract.poses.pickle or dataset.root
    found = {sample.id: sample.digest for sample in dataset.samples if sample.digest}
    if config.extract.poses.pickle is not None and pickle.is_file() and pickle.resolve() != dataset.root.resolve():
        found = {annotation.id: annotation.digest for annotation in read_pyskl(pickle).annotations}
    if not found:
        return {}
    whole = file_digest(pickle)
    return {name: whole if said == whole else found.get(name, "") for name, said in reader.sources().items()}


def train_trial(base: Config, trial: Trial, show: Show = lambda progress: None) -> TrialResult:
    """Train one trial of a grid: the base configuration with the trial's values on top."""
    result = train_from_config(with_values(base, {"train.name": trial.row, **dict(trial.values)}), show=show)
    return TrialResult(
        trial=trial,
        run=str(result.folder),
        metrics=result.metrics,
        seconds=result.seconds,
        keys=result.keys,
        reused=result.reused,
    )
