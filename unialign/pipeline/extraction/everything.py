"""`extract all`: every modality that is configured, in the order in which one is made from another.

Poses and frames of the same videos are extracted together, so that each clip is decoded once, by whichever process.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

from unialign.pipeline.collection import claim_collection
from unialign.pipeline.config import Config
from unialign.pipeline.extraction.executors import one_cluster
from unialign.pipeline.extraction.extract import Extraction, Settings, file_task
from unialign.pipeline.extraction.extractors import extract_with, prepare, settings_for
from unialign.pipeline.extraction.pace import Pace
from unialign.pipeline.extraction.together import extract_together
from unialign.pipeline.manifest import save_manifest
from unialign.stages.datasets.base import Dataset

LOGGER = logging.getLogger(__name__)

Watch = Callable[[Pace], None]


def configured_modalities(config: Config) -> list[str]:
    """What `extract all` extracts: poses, frames and text, and what has its weights configured."""
    extract = config.extract
    return [
        "poses",
        "frames",
        "text",
        *(["pose-features"] if extract.pose_features.weights else []),
        *(["tokens"] if extract.tokens.weights else []),
    ]


def extract_all(
    dataset: Dataset,
    config: Config,
    *,
    names: Sequence[str] | None = None,
    repair: bool = False,
    retry: bool = False,
    join: bool = False,
    dry_run: bool = False,
    watch: Callable[[str], Watch] = lambda name: lambda pace: None,
    announce: Callable[[str], None] = LOGGER.info,
) -> Iterator[tuple[str, Extraction]]:
    """The name and the result of each modality, as they are done.

    names: of the modalities, by default all that are configured. watch: is asked for one per step, by its title.
    A process that joins begins a step when all samples of those before it are done, by whomever. In a dry run, each
    modality is looked at by itself. Raises what `extract_with` raises.
    """
    names = configured_modalities(config) if names is None else list(names)
    together = ["poses", "frames"]
    from_videos = config.extract.poses.source == "video" and not dry_run
    with one_cluster() as begin:

        def settings(name: str, title: str) -> Settings:
            return replace(
                settings_for(name, config),
                repair=repair,
                retry=retry and name != "text",
                join=join,
                dry_run=dry_run,
                watch=watch(title),
                announce=announce,
                begin=begin,
            )

        if from_videos and set(together) <= set(names):
            title = " and ".join(together)
            done = _from_videos({name: settings(name, title) for name in together}, dataset, config)
            yield from zip(together, done, strict=True)
            names = [name for name in names if name not in together]
        for name in names:
            yield name, extract_with(name, dataset, config, settings(name, name))


def _from_videos(settings: Mapping[str, Settings], dataset: Dataset, config: Config) -> list[Extraction]:
    cache = config.cache.resolve()
    prepared = {name: prepare(name, dataset, config) for name in settings}
    tasks = [
        file_task(each.extractor, each.sources, cache=cache, collection=dataset.collection, settings=settings[name])
        for name, each in prepared.items()
    ]
    claim_collection(dataset, cache)
    extractors = [each.extractor for each in prepared.values()]
    done = extract_together(tasks, extractors, tasks[0].settings.watch)  # type: ignore[arg-type]
    save_manifest(dataset, cache)
    return done
