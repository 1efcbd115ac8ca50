"""DVTA on cached pose features and texts: zero-shot, so classes matter more than samples.

A run tests on the unseen classes of its protocol or, with `held_out`, on pseudo-unseen classes of the training side:
those serve to select the epoch and the calibration of generalized runs without using the test samples. The network is
in `stages.models.dvta`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unialign.cache.batches.joined import Joined
from unialign.cache.reader import Recorded
from unialign.errors import UsageError
from unialign.pipeline.systems.base import ASSUMED, Example, System, refuse_start
from unialign.pipeline.systems.unialign import pose_tokens
from unialign.pipeline.training.coverage import Covered
from unialign.pipeline.training.preparation import PreparedRun, Request, Sides, by_place, prepared
from unialign.pipeline.training.text_bank_start import (
    description_rows,
    label_rows,
    load_descriptions,
    load_text_bank,
    shared_templates,
)
from unialign.pipeline.training.unseen_classes import check_encoder
from unialign.stages.datasets.base import Dataset, Split, refuse_single_class
from unialign.stages.datasets.splits import holdout
from unialign.stages.datasets.zero_shot_splits import unseen_digest
from unialign.stages.models.dvta.config import DVTAConfig
from unialign.stages.models.dvta.model import build_dvta, dvta_losses
from unialign.stages.models.dvta.prototypes import predicted_prototypes
from unialign.stages.sample_reader import SampleReader
from unialign.stages.training.cached import FEATURE, PooledFeatures
from unialign.stages.training.loop import Fitted
from unialign.stages.training.reading import Wanted, reader_of
from unialign.stages.training.settings import TrainSettings
from unialign.stages.training.zero_shot import (
    Calibration,
    choose_calibration,
    generalised_accuracy,
    pseudo_unseen_classes,
    select_epoch,
)
from unialign.types import Json

# Up to so many training samples, a run takes few and large steps, otherwise those of the published code (for NTU 60).
FEW_SAMPLES, STEPS = 5000, 360
PIECE = 4096  # samples that are read at once


@dataclass(frozen=True)
class Roles:
    """Classes of a run by role, as labels of the dataset, ascending.

    candidates: the classes that evaluation chooses from, the columns of its scores. untrained: candidates without
    training samples, in generalized runs, where the other candidates are seen classes; otherwise empty. unseen: the
    unseen classes of the protocol. seen: all others.
    """

    candidates: tuple[int, ...]
    untrained: tuple[int, ...]
    unseen: tuple[int, ...]
    seen: tuple[int, ...]

    @property
    def of_val(self) -> tuple[int, ...]:
        """Candidate classes for val samples, which are of seen classes: the seen ones, or all in a generalized run."""
        return self.candidates if self.untrained else self.seen


def prepare_dvta(request: Request) -> PreparedRun:
    """Prepare a run of DVTA.

    Raises `MissingCache` for stores with too few samples, `UsageError` for invalid settings, a protocol without unseen
    classes, a text store without descriptions if they are needed, and features of an encoder that was trained on an
    unseen class.
    """
    config, settings, dataset = request.config, request.settings, request.dataset
    features, text = request.readers["pose-features"], request.readers["text"]
    split, roles = split_by_class(dataset, request.protocol, config)
    sides = request.sides(split)
    val, test = by_place(sides.val, roles.of_val), by_place(sides.test, roles.candidates)
    if settings.flip > 0:
        raise UsageError(f"train.settings.flip is {settings.flip}; dvta augments nothing, set it to 0.")
    encoder_clean = check_encoder(features, dataset, request.protocol, roles.unseen)
    flips = pose_tokens(features).flips
    views = [0] if settings.pose_test == "first" else [view for view, mirrored in enumerate(flips) if not mirrored]

    def pooled(side: Covered, candidates: tuple[int, ...] = ()) -> PooledFeatures:
        return PooledFeatures(joined_features(features, side.samples.ids), side.samples.labels, views, candidates)

    train = pooled(sides.train)
    templates = request.options.templates or shared_templates(text, dataset.classes)
    bank = load_text_bank(text, dataset.classes, templates)
    descriptions = load_descriptions(text, dataset.classes) if config.enhancement else None
    described = bank.mean(dim=0) if descriptions is None else descriptions
    parts = {
        "num_classes": len(dataset.classes),
        "text_bank": bank,
        "pose_width": train.reader.columns[FEATURE].shape[-1],
        "descriptions": descriptions,
        "prototypes": predicted_prototypes(*all_features(train), described) if config.prototypes else None,
    }
    return prepared(
        request,
        Sides(sides.train, val, test),
        (train, pooled(val, roles.of_val) if len(val.samples) else None, pooled(test, roles.candidates)),
        parts,
        {"templates": list(templates), "candidates": list(roles.candidates)},
        texts=(*label_rows(templates, dataset.classes), *description_rows(text, dataset.classes)),
        classes=tuple(dataset.classes[label] for label in roles.candidates),
        report=partial(
            report_zero_shot,
            roles,
            config,
            encoder_clean,
            unseen_digest(len(dataset.classes), roles.unseen),
            test.samples.labels,
        ),
        follow_test=bool(config.held_out) or config.published_rule,
    )


def split_by_class(dataset: Dataset, protocol: str, config: DVTAConfig) -> tuple[Split, Roles]:
    """Sample ids of both sides of a run and the role of each class in it.

    Unseen are the classes that the protocol declares so; in one that declares none, all without a training sample,
    whether or not the test has samples of them.
    Raises `UsageError` for a protocol without unseen classes and for settings that are incompatible with it.
    """
    split = dataset.split(protocol)
    labels = {sample.id: sample.label for sample in dataset.samples}
    seen = tuple(sorted({labels[name] for name in split.train}))
    # Classes of few files at hand that are in neither are no part of a published list.
    unseen = split.unseen or tuple(label for label in range(len(dataset.classes)) if label not in seen)
    if not unseen:
        fitting = [name for name in dataset.protocols if name.startswith(("zero-shot", "generalised", "synse", "smie"))]
        known = f"take one of {', '.join(fitting)}" if fitting else "dataset has none that does"
        raise UsageError(f"protocol {protocol} of {dataset.name} leaves no class unseen, which dvta is for; {known}.")
    generalised = not split.candidates if split.unseen else any(labels[name] in seen for name in split.test)
    if not generalised and len(unseen) == 1:
        refuse_single_class(f"protocol {protocol} of {dataset.name}", dataset.classes[unseen[0]])
    if not generalised and config.held_out == 1:
        raise UsageError("train.dvta.held_out is 1, and among one class every answer is right; hold out two or more.")
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
    parts = holdout(kept)  # test samples of seen classes must also be new to the model
    return Split(parts.train, (*parts.test, *tested)), Roles(seen, pseudo, unseen, seen)


def all_features(source: PooledFeatures) -> tuple[Tensor, Tensor]:
    """Features (N, P) and labels (N,) of all samples of a source, read a piece at a time."""
    pieces = [
        source.__getitems__(range(first, min(first + PIECE, len(source)))) for first in range(0, len(source), PIECE)
    ]
    return torch.cat([piece["pose_features"] for piece in pieces]), torch.cat([piece["labels"] for piece in pieces])


def joined_features(reader: SampleReader, ids: Sequence[str]) -> Joined:
    """The features of some samples, for batches. Raises `UsageError` for a reader that is not a store."""
    if not isinstance(reader, Recorded):
        raise UsageError("dvta trains from a store of pose features; leave out --online.")
    return reader_of({FEATURE: Wanted(reader, FEATURE, window=1)}, ids)


def report_zero_shot(
    roles: Roles, config: DVTAConfig, encoder_clean: bool | None, split: str, labels: Sequence[int], fitted: Fitted
) -> Mapping[str, Json]:
    """The field `zero_shot` of result.json. labels: of the test samples, indices into `roles.candidates`.

    rule, epoch, top1: how the epoch was selected, its number (from 1), and its accuracy over the candidates.
    clean: whether that selection used no unseen test samples. encoder_clean: the same for the training of the pose
    encoder; None if unknown. held_out: labels of the seen classes that were tested as unseen ones. split: digest of
    which classes are unseen, see `zero_shot_splits.unseen_digest`.
    For generalized runs also seen, unseen, harmonic and area of the last epoch with the configured calibration; with
    held_out classes, instead `calibration`, the best one for them.
    """
    name = "validation" if config.held_out else "unseen"
    history = [
        {"epoch": row["epoch"], "top1": row["top1"], name: row["top1"]} if "top1" in row else {"epoch": row["epoch"]}
        for row in fitted.history
    ]
    chosen = select_epoch(history, published_rule=config.published_rule)
    played = roles.untrained or roles.candidates
    found: dict[str, Json] = {
        "rule": chosen.rule,
        "epoch": int(chosen.row["epoch"]),
        "top1": chosen.row["top1"],
        "clean": chosen.clean,
        "encoder_clean": encoder_clean,
        "held_out": list(played) if config.held_out else [],
        "split": split,
    }
    if not roles.untrained or fitted.predictions is None:
        return found
    # Softmax underflows for widely spread logits; scores below the smallest float32 are treated as equal.
    scores = np.log(np.maximum(fitted.predictions.scores, np.finfo(np.float32).tiny))
    truth = [labels[index] for index in fitted.predictions.indices]
    unseen = [place for place, label in enumerate(roles.candidates) if label in roles.untrained]
    known = [place for place in range(len(roles.candidates)) if place not in unseen]
    if config.held_out:
        best = choose_calibration(scores, truth, seen=known, pseudo_unseen=unseen)
        return found | {"calibration": best.value}
    given = Calibration(config.calibration, ())
    return found | generalised_accuracy(scores, truth, seen=known, unseen=unseen, calibration=given)


def dvta_recipe(config: DVTAConfig, num_train: int, settings: TrainSettings) -> dict[str, Any]:
    """Default training settings: Adam with a cosine schedule, with a rate and epochs that fit the number of samples.

    With few samples as measured on UTD-MHAD (docs/systems/dvta.md), with many as in the published code.
    """
    del config
    many = num_train > FEW_SAMPLES
    epochs = 100 if many else max(10, round(32 * STEPS / max(1, num_train)))
    if "epochs" in settings.model_fields_set:
        epochs = settings.epochs
    return {
        "optimizer": "adamw",
        "weight_decay": 0.0,
        "gradient_clip": 0.0,
        "schedule": "cosine",
        "epochs": epochs,
        "warmup_epochs": (0.15 if many else 0.1) * epochs,
        "batch_size": 128 if many else 32,
        "lr": 1e-6 if many else 3e-4,
    }


def dvta_example(config: DVTAConfig) -> Example:
    """One feature vector against all classes; frames go to the pose encoder, whose cost is not counted."""
    texts = torch.zeros(1, ASSUMED["classes"], ASSUMED["sentence_width"])
    parts = {
        "num_classes": ASSUMED["classes"],
        "text_bank": texts,
        "pose_width": ASSUMED["pose_width"],
        "descriptions": texts[0].clone(),
    }
    return Example(config, parts, {"pose_features": torch.zeros(1, ASSUMED["pose_width"])}, views=False)


DVTA = System(
    config=DVTAConfig,
    stores=lambda config: ("pose-features", "text"),
    prepare=prepare_dvta,
    build=build_dvta,
    losses=dvta_losses,
    check=lambda config, options: refuse_start("dvta", options),
    no_val=lambda config: "train.dvta.held_out tests on seen classes that play unseen ones" if config.held_out else "",
    recipe=dvta_recipe,
    example=dvta_example,
)
