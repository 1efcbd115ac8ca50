"""Every extractor known to the program, by name: one row each, and how it is created from the configuration."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ValidationError

from unialign.cache.cores import usable_cores
from unialign.cache.digests import file_digest, text_digest
from unialign.cache.reader import Recorded
from unialign.cache.remote.mirror import Reader, reader_at
from unialign.cache.store import Store, open_store
from unialign.errors import MissingCache, UsageError
from unialign.pipeline.collection import claim_collection
from unialign.pipeline.config import (
    Config,
    FramesSection,
    PoseFeaturesSection,
    PosesSection,
    TextSection,
    TokensSection,
)
from unialign.pipeline.extraction.clusters import sharing_gpus
from unialign.pipeline.extraction.current_sources import poses_now
from unialign.pipeline.extraction.extract import Extraction, Progress, Settings, run_extraction
from unialign.pipeline.extraction.hardware import network_threads
from unialign.pipeline.extraction.joint_layout import joint_layout
from unialign.pipeline.extraction.pace import Pace
from unialign.pipeline.extraction.row import DerivedExtractor, ExtractorRow, PreparedExtraction, files
from unialign.pipeline.extraction.supervisor import Limits
from unialign.pipeline.manifest import save_manifest
from unialign.pipeline.stores import choose_store
from unialign.plugins import Table, called
from unialign.stages.datasets.base import Dataset
from unialign.stages.datasets.skeleton_formats import SkeletonFormat
from unialign.stages.extraction.base import Extractor, Source
from unialign.stages.skeleton_layouts import COCO_17
from unialign.words import counted

if TYPE_CHECKING:
    from unialign.stages.extraction.pose_features import PoseFeatures

LOGGER = logging.getLogger(__name__)
# In place of the key of poses that are extracted during training.
ONLINE = "online"
WITHOUT_NETWORK = (
    "without --weights of a skeleton network, features say where each joint is and how far it moves (motion): best for "
    "classes that no network was trained on; for others, train one with `unialign train --model skeleton`."
)


def prepare(name: str, dataset: Dataset, config: Config) -> PreparedExtraction:
    """The extractor of that name with the samples of a dataset, as configured.

    Raises `UsageError` for an unknown name and settings that do not fit, `MissingCache` if an input modality has not
    been extracted yet.
    """
    row = get_row(name)
    settings = settings_of(name, config)
    if name in EXTRACTORS.own:
        return row.prepare(dataset, config, settings)
    prepared: PreparedExtraction = called(row.prepare, f"extractor {name}", dataset, config, settings)
    made = (prepared.extractor.name, prepared.extractor.modality)
    if made != (name, row.modality):
        raise UsageError(
            f"extractor {name}: what its plug-in made is called {made[0]} and makes {made[1]}, not {name} and "
            f"{row.modality}, which stores are found by; its author has to correct `name` or `modality`."
        )
    return prepared


def get_row(name: str) -> ExtractorRow:
    """The extractor of that name. Raises `UsageError` for an unknown one."""
    if name not in EXTRACTORS:
        raise UsageError(f"unknown extractor {name!r}; known are {', '.join(EXTRACTORS)}.")
    return EXTRACTORS[name]


def settings_of(name: str, config: Config) -> BaseModel:
    """The settings of an extractor. Raises `UsageError` for invalid ones of a plug-in."""
    section = name.replace("-", "_")
    if name in EXTRACTORS.own:
        own: BaseModel = getattr(config.extract, section)
        return own
    try:
        return get_row(name).settings.model_validate(config.extract.plugins.get(section, {}))
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(str(part) for part in each['loc'])}: {each['msg'][0].lower()}{each['msg'][1:]}"
            for each in error.errors()
        )
        known = ", ".join(get_row(name).settings.model_fields)
        raise UsageError(f"extract.{section}: {problems}; known here: {known}.") from error


def row_of(store: Store) -> ExtractorRow | None:
    """The extractor that made a store; None if unknown here, such as for a store written from Python."""
    fields = store.key.fields
    made_by = str(fields.get("extractor"))
    if fields.get("origin") == "python":
        return None
    if made_by in EXTRACTORS.plugins() and EXTRACTORS[made_by].modality == store.modality:
        return EXTRACTORS[made_by]
    return EXTRACTORS.own.get(store.modality)


def extract_configured(
    name: str,
    dataset: Dataset,
    config: Config,
    *,
    repair: bool = False,
    retry: bool = False,
    join: bool = False,
    dry_run: bool = False,
    progress: Progress = lambda done, total: None,
    watch: Callable[[Pace], None] = lambda pace: None,
    announce: Callable[[str], None] = LOGGER.info,
) -> Extraction:
    """Run the extractor of that name on a dataset as configured, and list the dataset next to the stores.

    Raises what `prepare` and `run_extraction` raise.
    """
    how: dict[str, Any] = {
        "repair": repair,
        "retry": retry,
        "join": join,
        "dry_run": dry_run,
        "watch": watch,
        "announce": announce,
    }
    return extract_with(name, dataset, config, replace(settings_for(name, config), **how), progress)


def extract_with(
    name: str,
    dataset: Dataset,
    config: Config,
    settings: Settings,
    progress: Progress = lambda done, total: None,
) -> Extraction:
    """The same with ready settings, see `settings_for`."""
    prepared = prepare(name, dataset, config)
    if prepared.note:
        settings.announce(prepared.note)
    if not settings.dry_run:
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
    if not settings.dry_run:
        save_manifest(dataset, config.cache.resolve())
    return done


def settings_for(name: str, config: Config) -> Settings:
    """How the extractor of that name runs, as configured.

    Raises `UsageError` for `workers_per_gpu` with another cluster than local-cuda, or without a GPU.
    """
    cluster = config.extract.cluster
    if config.extract.workers_per_gpu > 1:
        cluster = sharing_gpus(cluster, config.extract.workers_per_gpu)
    return Settings(
        cluster=cluster,
        threads=config.extract.threads or network_threads(cluster, usable_cores()),
        shard_samples=config.extract.shard_samples or get_row(name).shard_samples,
        codec=config.extract.codec,
        limits=Limits(config.extract.timeout, int(config.extract.memory * 1e9)),
        counts=get_row(name).counts,
    )


def _poses(dataset: Dataset, config: Config, section: PosesSection) -> PreparedExtraction:
    if section.source == "video":
        return PreparedExtraction(_pose_network(config, section), files(dataset, "video"))
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


def _pose_network(config: Config, section: PosesSection) -> Extractor:
    """What finds people in videos: by its suffix, an ONNX file is one of OpenMMLab's networks."""
    layout = joint_layout(section.layout) if section.layout else COCO_17
    shared: dict[str, Any] = {
        "confidence": section.confidence,
        "num_people": section.num_people,
        "image_size": section.image_size,
        "max_frames": section.max_frames,
        "device": config.extract.device,
        "layout": layout,
        "decoder": config.extract.decoder,
    }
    if section.weights and section.weights.suffix.lower() == ".onnx":
        from unialign.stages.extraction.rtm_networks import rtm_file
        from unialign.stages.extraction.rtm_poses import RtmPoses, libraries

        if section.backend not in ("torch", "onnxruntime") or section.precision != "fp32" or section.rectangular:
            raise UsageError(
                f"{section.weights} is run by ONNX Runtime as it is; leave out extract.poses.backend, precision and "
                "rectangular."
            )
        libraries()
        detector = rtm_file(section.detector.resolve(), "--detector") if section.detector else None
        return RtmPoses(rtm_file(section.weights.resolve(), "--weights"), detector, **shared)
    if section.detector:
        raise UsageError(f"extract.poses.detector goes with an .onnx file of RTMPose, not with {section.weights}.")
    from unialign.stages.extraction.poses import yolo_poses

    return yolo_poses(
        section.weights.resolve() if section.weights else None,
        backend=section.backend,
        precision=section.precision,
        rectangular=section.rectangular,
        **shared,
    )


def _pyskl_skeletons(dataset: Dataset, section: PosesSection) -> PreparedExtraction:
    """From the configured pickle, or else that of the dataset."""
    from unialign.stages.extraction.skeletons import PysklSkeletons

    pickle = section.pickle or dataset.root
    packed = PysklSkeletons(pickle.resolve(), section.layout, section.num_people, section.max_frames)
    sources = tuple(Source(sample.id, pickle.resolve()) for sample in dataset.samples)
    # Older records hold the digest of the whole pickle instead of that of each annotation.
    return PreparedExtraction(packed, sources, packed.digest, file_digest(pickle))


def _skeleton_files(dataset: Dataset, form: SkeletonFormat, section: PosesSection) -> PreparedExtraction:
    from unialign.stages.extraction.skeleton_files import SkeletonFiles

    ready = SkeletonFiles(form, num_people=section.num_people, max_frames=section.max_frames)
    return PreparedExtraction(ready, files(dataset, "skeleton"), ready.digest if form.digest else None)


def _ntu_skeletons(dataset: Dataset, section: PosesSection) -> PreparedExtraction:
    from unialign.stages.extraction.skeletons import ReadySkeletons

    ready = ReadySkeletons(num_people=section.num_people, max_frames=section.max_frames, body_rule=section.body_rule)
    return PreparedExtraction(ready, files(dataset, "skeleton"))


def _utd_skeletons(dataset: Dataset, section: PosesSection) -> PreparedExtraction:
    from unialign.stages.extraction.utd_skeletons import UtdSkeletons

    return PreparedExtraction(UtdSkeletons(max_frames=section.max_frames), files(dataset, "skeleton"))


# How poses are read from skeleton files, by `Dataset.skeleton_format`.
SKELETON_FORMATS: Mapping[str, Callable[[Dataset, PosesSection], PreparedExtraction]] = {
    "ntu": _ntu_skeletons,
    "pyskl": _pyskl_skeletons,
    "utd-mhad": _utd_skeletons,
}


def _pose_features(dataset: Dataset, config: Config, section: PoseFeaturesSection) -> PreparedExtraction:
    from unialign.stages.extraction.pose_features import pose_source

    path, reader = _input("poses", section.poses, dataset, config)
    extractor = pose_features_extractor(config, poses=path, poses_key=reader.store.key.digest)
    extractor.check(reader)
    sources = _of_input("poses", reader, dataset)
    note = WITHOUT_NETWORK if config.extract.pose_features.encoder == "auto" and extractor.weights is None else ""
    return PreparedExtraction(extractor, sources, lambda source: pose_source(reader, source.id), note=note)


def _input(modality: str, chosen: str | None, dataset: Dataset, config: Config) -> tuple[Path, Reader]:
    """The input store of another modality: its path in the cache, and a reader."""
    names = {modality: chosen} if chosen else {}
    path = choose_store(config.cache.resolve(), dataset, modality, names)
    return path, reader_at(path)


def _of_input(modality: str, reader: Recorded, dataset: Dataset) -> tuple[Source, ...]:
    """All samples of a dataset; the input store must hold each, with features or quarantined."""
    ids = [sample.id for sample in dataset.samples]
    unknown = [name for name, row in zip(ids, reader.table.find(ids).tolist(), strict=True) if row < 0]
    if unknown:
        raise MissingCache(
            f"{counted(len(unknown), f'sample of {dataset.name} has', f'samples of {dataset.name} have')} "
            f"no {modality} yet ({unknown[0]}); "
            f"run `unialign extract {modality} --dataset {dataset.name}` first."
        )
    return tuple(Source(name) for name in ids)


def pose_features_extractor(config: Config, *, poses: Path, poses_key: str) -> "PoseFeatures":
    """The configured skeleton encoder on a store of poses. Raises `UsageError` for missing or superfluous weights."""
    from unialign.stages.extraction.pose_encoder import MOTION, load_encoder
    from unialign.stages.extraction.pose_features import PoseFeatures
    from unialign.stages.extraction.published_encoders import Reading

    section = config.extract.pose_features
    if section.encoder == MOTION or (section.encoder == "auto" and not section.weights and poses_key != ONLINE):
        if section.weights or poses_key == ONLINE:
            why = "works on cached poses only" if poses_key == ONLINE else "has no weights; leave out --weights"
            raise UsageError(f"extract.pose_features.encoder is motion, which {why}.")
        clip_len = section.clip_len or None
        return PoseFeatures(MOTION, poses, poses_key, None, "", section.num_offsets, section.flips, clip_len)
    if section.weights is None:
        raise UsageError(
            "pose features need a skeleton encoder: give --weights (published weights, see docs/weights.md, or the "
            "encoder.pt of `unialign train --model skeleton`), or `extract.pose_features.weights` in unialign.yaml."
        )
    weights = section.weights.resolve()
    asked = Reading(section.stream, section.layout, section.recipe, section.clip_len)
    encoder = load_encoder(weights, asked)
    return PoseFeatures(
        name=encoder.name,
        poses=poses,
        poses_key=poses_key,
        weights=weights,
        weights_digest=file_digest(weights),
        num_offsets=section.num_offsets,
        flips=section.flips,
        clip_len=section.clip_len or None,
        reading=encoder.reading,
        device=config.extract.device,
    )


def _text(dataset: Dataset, config: Config, section: TextSection) -> PreparedExtraction:
    from unialign.stages.extraction.corpus import entity_rows, read_entities
    from unialign.stages.extraction.templates import TEMPLATES, read_templates
    from unialign.stages.extraction.text import read_descriptions, text_extractor, text_rows

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


def _frames(dataset: Dataset, config: Config, section: FramesSection) -> PreparedExtraction:
    from unialign.stages.extraction.frames import Frames

    extractor = Frames(
        short_side=section.short_side,
        num_frames=section.num_frames,
        encoding=section.encoding,
        quality=section.quality,
        decoder=config.extract.decoder,
    )
    return PreparedExtraction(extractor, files(dataset, "video"))


def _tokens(dataset: Dataset, config: Config, section: TokensSection) -> PreparedExtraction:
    from unialign.stages.extraction.tokens import frames_source

    path, reader = _input("frames", section.frames, dataset, config)
    extractor = tokens_extractor(config, frames=path, frames_key=reader.store.key.digest)
    sources = _of_input("frames", reader, dataset)
    return PreparedExtraction(extractor, sources, lambda source: frames_source(reader, source.id))


def tokens_extractor(config: Config, *, frames: Path, frames_key: str) -> DerivedExtractor:
    """The configured image tower or video backbone on a store of frames. Raises `UsageError` for absent or wrong
    weights.
    """
    from unialign.stages.models.backbones.registry import BACKBONES

    section = config.extract.tokens
    if section.model in BACKBONES:
        from unialign.stages.extraction.backbone_tokens import backbone_tokens

        return backbone_tokens(
            section.model,
            section.weights.resolve() if section.weights else None,
            frames=frames,
            frames_key=frames_key,
            num_frames=section.num_frames,
            num_offsets=section.num_offsets,
            flips=section.flips,
            image_size=section.image_size,
            grid=section.grid,
            device=config.extract.device,
        )
    from unialign.stages.extraction.tokens import token_extractor

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


def _left_out(done: Extraction, _: Sequence[str]) -> Mapping[str, str]:
    """Of poses: the people and detections without a slot."""
    counts = {name: done.left_out.get(name, 0) for name in LEFT_OUT}
    persons, detections, strays, frames = counts.values()
    words = (
        f"{counted(persons, 'person', 'people')} ({counted(detections, 'detection')}) beyond the slots, "
        f"{counted(strays, 'stray detection')}; {counted(frames, 'frame shows', 'frames show')} only them"
    )
    return {"left out": words} if done.left_out else {}


def _similar_classes(done: Extraction, classes: Sequence[str]) -> Mapping[str, str]:
    """The pairs of classes whose prompts are hardest to distinguish."""
    from unialign.pipeline.training.text_bank_start import similar_classes

    found = similar_classes(reader_at(done.store), tuple(classes), 3)
    pairs = "; ".join(f"{first} / {second} {cosine:.2f}" for first, second, cosine in found)
    return {"most similar": f"{pairs} (cosine of the class texts)" if pairs else "-"}


def _read_as(done: Extraction, _: Sequence[str]) -> Mapping[str, str]:
    """The encoder of pose features and how it reads poses: of a published one, its file's name may say so."""
    found = open_store(done.store).attributes
    if "recipe" not in found:
        return {}
    on = " ".join(filter(None, (found["trained_on"]["dataset"], found["trained_on"]["protocol"])))
    words = f"{found['encoder']}, {found['layout']}, {found['recipe']}, {found['clip_len']} frames"
    return {"encoder": f"{words}, trained on {on}" if on else words}


# Counts of a record of poses that the summary adds up; see `stages.extraction.people.Persons`.
LEFT_OUT = ("left_out_persons", "left_out_detections", "single_detections", "frames_without_kept")

EXTRACTORS: Table[ExtractorRow] = Table(
    "unialign.extractors",
    ExtractorRow,
    {
        "poses": ExtractorRow(
            "poses",
            "Keypoints of people: a network on the videos (Ultralytics' is AGPL-3.0), or ready-made skeletons.",
            _poses,
            PosesSection,
            shard_samples=16,
            current=poses_now,
            counts=LEFT_OUT,
            told=_left_out,
        ),
        "pose-features": ExtractorRow(
            "pose-features",
            "Features of a skeleton network on cached poses, over a grid of temporal offsets and flips.",
            _pose_features,
            PoseFeaturesSection,
            shard_samples=128,
            told=_read_as,
            made_from="poses",
            online=lambda config: pose_features_extractor(config, poses=config.cache, poses_key=ONLINE),
        ),
        "text": ExtractorRow(
            "text",
            "Embeddings of class names in prompt templates, of longer descriptions, and of entities.",
            _text,
            TextSection,
            shard_samples=1024,
            told=_similar_classes,
        ),
        "frames": ExtractorRow(
            "frames",
            "Decoded, resized images, so that a video backbone trains without decoding video again.",
            _frames,
            FramesSection,
            reads="video",
        ),
        "tokens": ExtractorRow(
            "tokens",
            "Tokens of cached frames by a CLIP image tower that merges similar patches, or by a frozen video backbone.",
            _tokens,
            TokensSection,
            made_from="frames",
            online=lambda config: tokens_extractor(config, frames=config.cache, frames_key="online"),
        ),
    },
)
