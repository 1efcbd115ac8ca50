"""From the configuration to the extractor of a modality and the samples that it processes."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from unialign.cache.cores import usable_cores
from unialign.cache.digests import file_digest, text_digest
from unialign.cache.reader import StoreReader
from unialign.errors import MissingCache, UsageError
from unialign.pipeline.collection import claim_collection
from unialign.pipeline.config import Config, PosesSection
from unialign.pipeline.extraction.extract import Extraction, Progress, Settings, run_extraction
from unialign.pipeline.extraction.hardware import network_threads
from unialign.pipeline.extraction.supervisor import Limits
from unialign.pipeline.manifest import save_manifest
from unialign.pipeline.stores import choose_store
from unialign.stages.datasets.base import Dataset
from unialign.stages.datasets.skeleton_formats import SkeletonFormat
from unialign.stages.extraction.base import Extractor, Source

if TYPE_CHECKING:
    from unialign.stages.extraction.pose_features import PoseFeatures
    from unialign.stages.extraction.tokens import Tokens

MODALITIES = ("poses", "pose-features", "text", "frames", "tokens")

# Samples per shard of a new store: a kill loses at most the current shard, so slow modalities get small ones.
SHARD_SAMPLES = {"poses": 16, "pose-features": 128, "text": 1024, "frames": 32, "tokens": 32}


@dataclass(frozen=True)
class PreparedExtraction:
    """An extraction that is ready to run.

    current: computes the current digest of a source; None: that of the file at its path. older: see `make_plan`.
    """

    extractor: Extractor
    sources: tuple[Source, ...]
    current: Callable[[Source], str] | None = None
    older: str = ""


def prepare(modality: str, dataset: Dataset, config: Config) -> PreparedExtraction:
    """The extractor of a modality with the samples of a dataset, as configured.

    Raises `UsageError` for settings that do not fit, `MissingCache` when an input modality was not extracted yet.
    """
    return _PREPARE[modality](dataset, config)


def extract_configured(
    modality: str,
    dataset: Dataset,
    config: Config,
    *,
    repair: bool = False,
    retry: bool = False,
    dry_run: bool = False,
    progress: Progress = lambda done, total: None,
) -> Extraction:
    """Extract a modality of a dataset as configured, and list the dataset beside the stores.

    Raises what `prepare` and `run_extraction` raise.
    """
    prepared = prepare(modality, dataset, config)
    settings = Settings(
        cluster=config.extract.cluster,
        threads=config.extract.threads or network_threads(config.extract.cluster, usable_cores()),
        shard_samples=config.extract.shard_samples or SHARD_SAMPLES[modality],
        codec=config.extract.codec,
        repair=repair,
        retry=retry,
        dry_run=dry_run,
        limits=Limits(config.extract.timeout, int(config.extract.memory * 1e9)),
    )
    if not dry_run:
        claim_collection(dataset, config.cache.resolve())
    done = run_extraction(
        prepared.extractor,
        prepared.sources,
        cache=config.cache.resolve(),
        collection=dataset.collection,
        settings=settings,
        current=prepared.current,
        older=prepared.older,
        progress=progress,
    )
    if not dry_run:
        save_manifest(dataset, config.cache.resolve())
    return done


def _files(dataset: Dataset, kind: str) -> tuple[Source, ...]:
    return tuple(Source(sample.id, sample.files.get(kind)) for sample in dataset.samples)


def _poses(dataset: Dataset, config: Config) -> PreparedExtraction:
    section = config.extract.poses
    if section.source == "video":
        from unialign.stages.extraction.poses import yolo_poses

        network = yolo_poses(
            section.weights.resolve() if section.weights else None,
            confidence=section.confidence,
            num_people=section.num_people,
            image_size=section.image_size,
            max_frames=section.max_frames,
            device=config.extract.device,
        )
        return PreparedExtraction(network, _files(dataset, "video"))
    if section.pickle:
        return _pyskl_skeletons(dataset, section)
    if isinstance(dataset.skeleton_format, SkeletonFormat):
        return _skeleton_files(dataset, dataset.skeleton_format, section)
    if dataset.skeleton_format not in SKELETON_FORMATS:
        raise UsageError(
            f"{dataset.name} has skeletons in the format {dataset.skeleton_format!r}; "
            f"known are {', '.join(SKELETON_FORMATS)}."
        )
    return SKELETON_FORMATS[dataset.skeleton_format](dataset, section)


def _pyskl_skeletons(dataset: Dataset, section: PosesSection) -> PreparedExtraction:
    """From the configured pickle, or else that of the dataset."""
    from unialign.stages.extraction.skeletons import PysklSkeletons

    pickle = section.pickle or dataset.root
    packed = PysklSkeletons(path=pickle.resolve(), num_people=section.num_people, max_frames=section.max_frames)
    sources = tuple(Source(sample.id, pickle.resolve()) for sample in dataset.samples)
    # Older records hold the digest of the whole pickle instead of that of each annotation.
    return PreparedExtraction(packed, sources, packed.digest, file_digest(pickle))


def _skeleton_files(dataset: Dataset, form: SkeletonFormat, section: PosesSection) -> PreparedExtraction:
    from unialign.stages.extraction.skeleton_files import SkeletonFiles

    files = SkeletonFiles(form, num_people=section.num_people, max_frames=section.max_frames)
    return PreparedExtraction(files, _files(dataset, "skeleton"), files.digest if form.digest else None)


def _ntu_skeletons(dataset: Dataset, section: PosesSection) -> PreparedExtraction:
    from unialign.stages.extraction.skeletons import ReadySkeletons

    ready = ReadySkeletons(num_people=section.num_people, max_frames=section.max_frames)
    return PreparedExtraction(ready, _files(dataset, "skeleton"))


def _utd_skeletons(dataset: Dataset, section: PosesSection) -> PreparedExtraction:
    from unialign.stages.extraction.utd_skeletons import UtdSkeletons

    return PreparedExtraction(UtdSkeletons(max_frames=section.max_frames), _files(dataset, "skeleton"))


# How poses are read from skeleton files, by `Dataset.skeleton_format`.
SKELETON_FORMATS: Mapping[str, Callable[[Dataset, PosesSection], PreparedExtraction]] = {
    "ntu": _ntu_skeletons,
    "pyskl": _pyskl_skeletons,
    "utd-mhad": _utd_skeletons,
}


def _pose_features(dataset: Dataset, config: Config) -> PreparedExtraction:
    from unialign.stages.extraction.pose_features import pose_source

    reader = _input("poses", config.extract.pose_features.poses, dataset, config)
    extractor = pose_features_extractor(config, poses=reader.path, poses_key=reader.store.key.digest)
    extractor.check(reader)
    sources = _of_input("poses", reader, dataset)
    return PreparedExtraction(extractor, sources, lambda source: pose_source(reader, source.id))


def _input(modality: str, chosen: str | None, dataset: Dataset, config: Config) -> StoreReader:
    """The input store of another modality."""
    names = {modality: chosen} if chosen else {}
    return StoreReader(choose_store(config.cache.resolve(), dataset.collection, modality, names, dataset.name))


def _of_input(modality: str, reader: StoreReader, dataset: Dataset) -> tuple[Source, ...]:
    """All samples of a dataset; the input store must hold each, with features or quarantined."""
    ids = [sample.id for sample in dataset.samples]
    unknown = [name for name, row in zip(ids, reader.table.find(ids).tolist(), strict=True) if row < 0]
    if unknown:
        raise MissingCache(
            f"{len(unknown)} samples of {dataset.name} have no {modality} yet ({unknown[0]}); "
            f"run `unialign extract {modality} --dataset {dataset.name}` first."
        )
    return tuple(Source(name) for name in ids)


def pose_features_extractor(config: Config, *, poses: Path, poses_key: str) -> "PoseFeatures":
    """The configured skeleton encoder on a store of poses. Raises `UsageError` without weights."""
    from unialign.stages.extraction.pose_encoder import load_encoder
    from unialign.stages.extraction.pose_features import PoseFeatures

    section = config.extract.pose_features
    if section.weights is None:
        raise UsageError(
            "pose features need a skeleton encoder: give --weights (public Shift-GCN weights, or the encoder.pt of "
            "`unialign train --model stgcn++`), or `extract.pose_features.weights` in unialign.yaml."
        )
    weights = section.weights.resolve()
    encoder = load_encoder(weights)
    return PoseFeatures(
        name=encoder.name,
        poses=poses,
        poses_key=poses_key,
        weights=weights,
        weights_digest=file_digest(weights),
        num_offsets=section.num_offsets,
        flips=section.flips,
        device=config.extract.device,
    )


def _text(dataset: Dataset, config: Config) -> PreparedExtraction:
    from unialign.stages.extraction.corpus import entity_rows, read_entities
    from unialign.stages.extraction.templates import TEMPLATES, read_templates
    from unialign.stages.extraction.text import read_descriptions, text_extractor, text_rows

    section = config.extract.text
    if section.templates in TEMPLATES:
        templates: Sequence[str] = TEMPLATES[section.templates]
    else:
        if not Path(section.templates).is_file():
            raise UsageError(
                f"templates {section.templates!r} are neither a file nor one of the sets {', '.join(TEMPLATES)}."
            )
        templates = read_templates(Path(section.templates))
    descriptions: Sequence[Sequence[str]] = dataset.descriptions
    if section.descriptions:
        descriptions = read_descriptions(section.descriptions, len(dataset.classes))
    rows = text_rows(dataset.classes, templates, descriptions)
    if section.entities:
        rows += entity_rows(read_entities(section.entities))
    extractor = text_extractor(
        encoder=section.encoder,
        model=section.model or "",
        weights=section.weights,
        long_text=section.long_text,
        device=config.extract.device,
    )
    extractor.check(rows)
    return PreparedExtraction(extractor, rows, lambda source: text_digest(source.text))


def _frames(dataset: Dataset, config: Config) -> PreparedExtraction:
    from unialign.stages.extraction.frames import Frames

    section = config.extract.frames
    extractor = Frames(
        short_side=section.short_side,
        num_frames=section.num_frames,
        encoding=section.encoding,
        quality=section.quality,
    )
    return PreparedExtraction(extractor, _files(dataset, "video"))


def _tokens(dataset: Dataset, config: Config) -> PreparedExtraction:
    from unialign.stages.extraction.tokens import frames_source

    reader = _input("frames", config.extract.tokens.frames, dataset, config)
    extractor = tokens_extractor(config, frames=reader.path, frames_key=reader.store.key.digest)
    sources = _of_input("frames", reader, dataset)
    return PreparedExtraction(extractor, sources, lambda source: frames_source(reader, source.id))


def tokens_extractor(config: Config, *, frames: Path, frames_key: str) -> "Tokens":
    """The configured CLIP image tower on a store of frames. Raises `UsageError` for absent or wrong weights."""
    from unialign.stages.extraction.tokens import token_extractor

    section = config.extract.tokens
    return token_extractor(
        section.model,
        section.weights.resolve() if section.weights else None,
        frames=frames,
        frames_key=frames_key,
        num_frames=section.num_frames,
        num_offsets=section.num_offsets,
        flips=section.flips,
        image_size=section.image_size,
        layer=section.layer,
        merged_pairs=section.merged_pairs,
        proportional_attention=section.proportional_attention,
        projection=section.projection,
        device=config.extract.device,
    )


_PREPARE: Mapping[str, Callable[[Dataset, Config], PreparedExtraction]] = {
    "poses": _poses,
    "pose-features": _pose_features,
    "text": _text,
    "frames": _frames,
    "tokens": _tokens,
}
