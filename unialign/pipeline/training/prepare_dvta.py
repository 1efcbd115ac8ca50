"""A training of DVTA on cached pose features and texts, prepared: zero-shot, so classes matter more than samples.

A run tests on the unseen classes of its protocol, or, with `held_out`, on classes of the training side that play them:
that is where epochs and the calibration of generalised runs are chosen without a look at the test.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from unialign.cache.batches.batch_reader import BatchReader
from unialign.cache.batches.joined import Column, Joined
from unialign.cache.reader import Recorded, StoreReader
from unialign.cache.remote.fetching import FetchingReader
from unialign.errors import UsageError
from unialign.pipeline.training.coverage import Covered
from unialign.pipeline.training.preparation import (
    Options,
    PreparedRun,
    build_task,
    check_any,
    covered_sides,
    get_reader,
    plain,
)
from unialign.pipeline.training.prepare_encoder import renumbered
from unialign.pipeline.training.prepare_unialign import pose_tokens
from unialign.pipeline.training.text_bank_start import load_descriptions, load_text_bank, shared_templates
from unialign.pipeline.training.zero_shot_report import Roles, report
from unialign.stages.datasets.base import Dataset, Split
from unialign.stages.datasets.splits import holdout
from unialign.stages.models.dvta.model import DVTAConfig
from unialign.stages.models.systems import Parts, checked_config
from unialign.stages.sample_reader import SampleReader
from unialign.stages.training.pooled import FEATURE, PooledFeatures
from unialign.stages.training.settings import TrainSettings
from unialign.stages.training.zero_shot import pseudo_unseen_classes


def prepare_dvta(
    dataset: Dataset,
    *,
    protocol: str | None,
    readers: Mapping[str, SampleReader],
    model: Mapping[str, Any],
    settings: TrainSettings,
    options: Options,
) -> PreparedRun:
    """What a training of DVTA needs. readers: "pose-features", "text". model: settings that differ from `DVTAConfig`.

    Raises `MissingCache` for stores that are absent or hold too little, `UsageError` for settings that make no sense,
    a protocol without unseen classes, a text store without descriptions where they are wanted, and features of an
    encoder that has been trained on an unseen class.
    """
    known = checked_config(DVTAConfig, model)
    protocol = protocol or dataset.default_protocol
    needed = {name: get_reader(readers, name, dataset) for name in ("pose-features", "text")}
    poses = {"pose-features": needed["pose-features"]}
    split, roles = split_by_class(dataset, protocol, known)
    sides = covered_sides(dataset, protocol, split, poses, options.min_coverage)
    check_any(sides.test, "test", dataset, protocol)
    val_side, test_side = _by_place(sides.val, roles.of_val), _by_place(sides.test, roles.candidates)
    if settings.flip > 0:
        raise UsageError(f"train.settings.flip is {settings.flip}; dvta augments nothing, set it to 0.")
    encoder_clean = check_encoder(poses["pose-features"], dataset, protocol, roles)
    train = joined_features(poses["pose-features"], sides.train.samples.ids)
    flips = pose_tokens(poses["pose-features"]).flips
    views = [0] if settings.pose_test == "first" else [view for view, mirrored in enumerate(flips) if not mirrored]

    def evaluated(side: Covered, candidates: tuple[int, ...]) -> PooledFeatures:
        joined = joined_features(poses["pose-features"], side.samples.ids)
        return PooledFeatures(joined, side.samples.labels, views, candidates)

    templates = options.templates or shared_templates(needed["text"], dataset.classes)
    parts = _parts(needed["text"], dataset.classes, templates, train.columns[FEATURE].shape[-1], known)
    config = {
        "dvta": plain(known),
        "settings": settings.plain(),
        "templates": list(templates),
        "candidates": list(roles.candidates),
    }
    return PreparedRun(
        dataset=dataset,
        protocol=protocol,
        model="dvta",
        config={"model": "dvta", "dataset": dataset.name, "protocol": protocol, **config},
        settings=settings,
        readers=needed,
        train=PooledFeatures(train, sides.train.samples.labels, views),
        val=evaluated(val_side, roles.of_val) if len(val_side.samples) else None,
        test=evaluated(test_side, roles.candidates),
        train_side=sides.train,
        val_side=val_side,
        test_side=test_side,
        build=partial(build_task, "dvta", parts, known, settings.seed),
        classes=tuple(dataset.classes[label] for label in roles.candidates),
        report=partial(report, roles, known, encoder_clean, test_side.samples.labels),
        follow_test=bool(known.held_out) or known.published_rule,
    )


def _parts(
    text: SampleReader, classes: Sequence[str], templates: Sequence[str], pose_width: int, config: DVTAConfig
) -> Parts:
    """What DVTA is built of: the texts of the classes, and descriptions where it is enhanced by them."""
    return Parts(
        num_classes=len(classes),
        text_bank=load_text_bank(text, classes, templates),
        pose_width=pose_width,
        descriptions=load_descriptions(text, classes) if config.enhancement else None,
    )


def _by_place(side: Covered, classes: Sequence[int]) -> Covered:
    """The same side with places in `classes` as labels."""
    return renumbered(side, {label: place for place, label in enumerate(classes)})


def split_by_class(dataset: Dataset, protocol: str, config: DVTAConfig) -> tuple[Split, Roles]:
    """Ids of both sides of a run and the part that each class plays in it.

    Unseen are all classes without a training sample in the protocol, whether or not the test has samples of them.
    Raises `UsageError` for a protocol without any and for settings that do not go with it.
    """
    split = dataset.split(protocol)
    labels = {sample.id: sample.label for sample in dataset.samples}
    seen = tuple(sorted({labels[name] for name in split.train}))
    unseen = tuple(label for label in range(len(dataset.classes)) if label not in seen)
    if not unseen:
        fitting = [name for name in dataset.protocols if name.startswith(("zero-shot", "generalised", "synse", "smie"))]
        known = f"take one of {', '.join(fitting)}" if fitting else "dataset has none that does"
        raise UsageError(f"protocol {protocol} of {dataset.name} leaves no class unseen, which dvta is for; {known}.")
    generalised = any(labels[name] in seen for name in split.test)
    if generalised and config.published_rule:
        raise UsageError("train.dvta.published_rule is for zero-shot protocols; a generalised one has no such rule.")
    if not config.held_out:
        candidates = tuple(range(len(dataset.classes))) if generalised else unseen
        return split, Roles(candidates, unseen if generalised else (), unseen, seen)
    if config.held_out >= len(seen):
        raise UsageError(f"train.dvta.held_out is {config.held_out}, but only {len(seen)} classes are seen; lower it.")
    pseudo = pseudo_unseen_classes(seen, config.held_out)
    train = set(split.train)
    kept = [sample for sample in dataset.samples if sample.id in train and sample.label not in pseudo]
    tested = tuple(name for name in split.train if labels[name] in pseudo)
    if not generalised:
        return Split(tuple(sample.id for sample in kept), tested), Roles(pseudo, (), unseen, seen)
    parts = holdout(kept)  # samples of seen classes, too, must be new to the model
    return Split(parts.train, (*parts.test, *tested)), Roles(seen, pseudo, unseen, seen)


def check_encoder(reader: SampleReader, dataset: Dataset, protocol: str, roles: Roles) -> bool | None:
    """True where the encoder of the features has seen no unseen class; None where the store does not tell.

    Classes are compared by name, so an encoder of another data set that calls any class otherwise is not known to be
    clean. Raises `UsageError` where it has seen one, and for other names of the same data set.
    """
    attributes = reader.store.attributes if isinstance(reader, Recorded) else {}
    trained = dict(attributes.get("trained_on", {}))
    if not trained.get("classes"):
        return None
    strange = [name for name in trained["classes"] if name not in dataset.classes]
    if strange and trained.get("dataset") == dataset.name:
        raise UsageError(
            f"the encoder of the pose features was trained with other class names ({strange[0]}); train it with the "
            "same --labels as this run."
        )
    leaked = [dataset.classes[label] for label in roles.unseen if dataset.classes[label] in trained["classes"]]
    if leaked:
        raise UsageError(
            f"the encoder of the pose features was trained on {len(leaked)} classes that {protocol} counts as unseen "
            f"({leaked[0]}); train one with `unialign train --model stgcn++ protocol={protocol}` and extract again."
        )
    return None if strange else True


def joined_features(reader: SampleReader, ids: Sequence[str]) -> Joined:
    """The features of some samples, for batches. Raises `UsageError` for a source that is no store."""
    if not isinstance(reader, Recorded):
        raise UsageError("dvta trains from a store of pose features; leave out --online.")
    columns = {FEATURE: Column(reader, FEATURE)}
    mapped = isinstance(reader, StoreReader) and reader.store.codec == "none"
    return BatchReader(columns, ids) if mapped else FetchingReader(columns, ids)


def chosen_on_held_out(settings: Mapping[str, Any], options: Options) -> str:
    """Why a run of these settings needs no val part; "" where it does."""
    del options
    return "train.dvta.held_out tests on seen classes that play unseen ones" if settings.get("held_out") else ""
