"""From the configuration to the extractor of a modality and the samples that it gets."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from unialign.cache.errors import MissingCache, UsageError
from unialign.cache.reader import StoreReader
from unialign.pipeline.config import Config
from unialign.pipeline.stores import choose_store
from unialign.stages.datasets.base import Dataset
from unialign.stages.extraction.base import Extractor, Source
from unialign.stages.extraction.digest import source_digest, text_digest

if TYPE_CHECKING:
    from unialign.stages.extraction.pose_features import PoseFeatures

MODALITIES = ("poses", "pose-features", "text", "frames")

# Samples in a shard of a new store: a shard is what a kill loses, so slow modalities get small ones.
SHARD_SAMPLES = {"poses": 16, "pose-features": 128, "text": 1024, "frames": 32}


@dataclass(frozen=True)
class Prepared:
    """An extraction that is ready to run.

    current: digest of what a source is made from now; None: that of the file at its path.
    """

    extractor: Extractor
    sources: tuple[Source, ...]
    current: Callable[[Source], str] | None = None


def prepare(modality: str, dataset: Dataset, config: Config) -> Prepared:
    """The extractor of a modality with the samples of a dataset, as configured.

    Raises `UsageError` for settings that do not fit, `MissingCache` when an input modality was not extracted yet.
    """
    return _PREPARE[modality](dataset, config)


def _files(dataset: Dataset, kind: str) -> tuple[Source, ...]:
    return tuple(Source(sample.id, sample.files.get(kind)) for sample in dataset.samples)


def _poses(dataset: Dataset, config: Config) -> Prepared:
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
        return Prepared(network, _files(dataset, "video"))
    from unialign.stages.extraction.skeletons import PysklSkeletons, ReadySkeletons

    pickle = section.pickle or (dataset.root if dataset.root.is_file() else None)
    if pickle:
        packed = PysklSkeletons(path=pickle.resolve(), num_people=section.num_people, max_frames=section.max_frames)
        return Prepared(packed, tuple(Source(sample.id, pickle.resolve()) for sample in dataset.samples))
    ready = ReadySkeletons(num_people=section.num_people, max_frames=section.max_frames)
    return Prepared(ready, _files(dataset, "skeleton"))


def _pose_features(dataset: Dataset, config: Config) -> Prepared:
    from unialign.stages.extraction.pose_features import pose_source

    section = config.extract.pose_features
    chosen = {"poses": section.poses} if section.poses else {}
    path = choose_store(config.cache.resolve(), dataset.collection, "poses", chosen, dataset.name)
    reader = StoreReader(path)
    extractor = pose_features_extractor(config, poses=path, poses_key=reader.store.key.digest)
    extractor.check(reader)
    ids = [sample.id for sample in dataset.samples]
    unknown = [name for name, row in zip(ids, reader.table.find(ids).tolist(), strict=True) if row < 0]
    if unknown:
        raise MissingCache(
            f"{len(unknown)} samples of {dataset.name} have no poses yet ({unknown[0]}); "
            f"run `unialign extract poses --dataset {dataset.name}` first."
        )
    return Prepared(
        extractor,
        tuple(Source(name) for name in ids),
        lambda source: pose_source(reader, source.id),
    )


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
        weights_digest=source_digest(weights),
        num_offsets=section.num_offsets,
        flips=section.flips,
        device=config.extract.device,
    )


def _text(dataset: Dataset, config: Config) -> Prepared:
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
    extractor = text_extractor(
        encoder=section.encoder,
        model=section.model or "",
        weights=section.weights,
        long_text=section.long_text,
        device=config.extract.device,
    )
    extractor.check(rows)
    return Prepared(extractor, rows, lambda source: text_digest(source.text))


def _frames(dataset: Dataset, config: Config) -> Prepared:
    from unialign.stages.extraction.frames import Frames

    section = config.extract.frames
    extractor = Frames(
        short_side=section.short_side,
        num_frames=section.num_frames,
        encoding=section.encoding,
        quality=section.quality,
    )
    return Prepared(extractor, _files(dataset, "video"))


_PREPARE: Mapping[str, Callable[[Dataset, Config], Prepared]] = {
    "poses": _poses,
    "pose-features": _pose_features,
    "text": _text,
    "frames": _frames,
}
