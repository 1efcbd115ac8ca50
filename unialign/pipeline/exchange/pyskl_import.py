"""Annotation pickles of pyskl and mmaction2 as a store of poses, with everything from them that a store can hold."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from unialign.errors import UsageError
from unialign.pipeline.collection import claim_collection
from unialign.pipeline.config import Config, with_values
from unialign.pipeline.extraction.extract import Extraction, Settings, run_extraction
from unialign.pipeline.extraction.extractors import EXTRACTORS, prepare
from unialign.pipeline.manifest import save_manifest
from unialign.stages.datasets.base import Dataset
from unialign.stages.datasets.pyskl import PysklFile, read_pyskl
from unialign.words import counted

# `extract.poses.max_frames` is a multiple of this.
_FRAMES = 16


@dataclass(frozen=True)
class PysklImport:
    """What was created. not_held: what is in the file but has no place in the store, one phrase each."""

    extraction: Extraction
    not_held: tuple[str, ...]


def import_pyskl(
    source: Path, dataset: Dataset, config: Config, progress: Callable[[int, int], None] = lambda done, total: None
) -> PysklImport:
    """Extract the poses of a dataset from a pickle: `extract poses` from skeleton files, without leaving out any
    person.

    The store holds as many persons and frames as the configuration says, or as the file needs if that is more.
    progress: called with (samples done, samples). Raises `CorruptInput` for a pickle that cannot be read, `UsageError`
    for one without a sample of the dataset.
    """
    file = read_pyskl(source)
    known = {sample.id: sample.label for sample in dataset.samples}
    found = [annotation for annotation in file.annotations if annotation.id in known]
    if not found:
        raise UsageError(f"{source}: holds no sample of dataset {dataset.name}; leave out --dataset to use its own.")
    section = config.extract.poses
    num_frames = max(annotation.total_frames for annotation in found)
    wanted = {
        "extract.poses.source": "skeleton",
        "extract.poses.pickle": source,
        "extract.poses.num_people": max(section.num_people, *(len(annotation.keypoint) for annotation in found)),
        "extract.poses.max_frames": max(section.max_frames, -(-num_frames // _FRAMES) * _FRAMES),
    }
    config = with_values(config, wanted)
    prepared = prepare("poses", dataset, config)
    claim_collection(dataset, config.cache.resolve())
    extraction = run_extraction(
        prepared.extractor,
        prepared.sources,
        cache=config.cache.resolve(),
        collection=dataset.collection,
        settings=Settings(
            shard_samples=config.extract.shard_samples or EXTRACTORS["poses"].shard_samples, codec=config.extract.codec
        ),
        current=prepared.current,
        older=prepared.older,
        progress=progress,
    )
    save_manifest(dataset, config.cache.resolve())
    return PysklImport(extraction, _not_held(file, known))


def _not_held(file: PysklFile, known: dict[str, int]) -> tuple[str, ...]:
    outside = other = rounded = 0
    for annotation in file.annotations:
        if annotation.id not in known:
            outside += 1
            continue
        other += annotation.label != known[annotation.id]
        for values in (annotation.keypoint, annotation.score):
            if values is not None and not np.can_cast(values.dtype, np.float32):
                with np.errstate(over="ignore"):
                    rounded += not np.array_equal(values.astype(np.float32), values, equal_nan=True)
    phrases = ["entries of annotations beside those of the format, and original_shape"]
    if outside:
        phrases.append(f"{counted(outside, 'annotation that is', 'annotations that are')} no sample of the dataset")
    if other:
        phrases.append(f"{other} labels that are not those of the dataset")
    if rounded:
        phrases.append(f"digits of {rounded} arrays beyond float32")
    return tuple(phrases)
