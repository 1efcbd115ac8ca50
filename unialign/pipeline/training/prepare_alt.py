"""A training of ALT on cached frames or on cached tokens of frames, prepared."""

from collections.abc import Mapping, Sequence
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unialign.cache.digests import file_digest
from unialign.errors import MissingCache, UsageError
from unialign.pipeline.training.preparation import (
    Options,
    PreparedRun,
    Sides,
    build_task,
    check_any,
    covered_sides,
    get_reader,
    plain,
)
from unialign.pipeline.training.prepare_unialign import HUB
from unialign.pipeline.training.text_bank_start import load_text_bank, shared_templates
from unialign.stages.datasets.base import Dataset
from unialign.stages.extraction.corpus import entity_id
from unialign.stages.foreign_weights import load_clip_weights
from unialign.stages.models.alt.config import ALTConfig
from unialign.stages.models.alt.model import TokenShape
from unialign.stages.models.clip.prompts import Words
from unialign.stages.models.clip.text_tower import token_ids
from unialign.stages.models.systems import SYSTEMS, Parts, checked_config
from unialign.stages.sample_reader import SampleReader
from unialign.stages.training.clips import CachedFrames, Clips, FrameTokens, TokenClips
from unialign.stages.training.loader import BatchSource
from unialign.stages.training.settings import TrainSettings
from unialign.types import Json

# ALT's projection by what the extraction of tokens calls its own: "none" leaves the block's output for a learned one.
PROJECTION_OF = {"clip": "clip", "none": "linear"}


def prepare_alt(
    dataset: Dataset,
    *,
    protocol: str | None,
    readers: Mapping[str, SampleReader],
    model: Mapping[str, Any],
    settings: TrainSettings,
    options: Options,
) -> PreparedRun:
    """What a training of ALT needs.

    readers: by modality of the cache: "text", and "frames" (tower tuned or frozen) or "tokens" (tower cached).
    model: settings that differ from `ALTConfig`. Weights of the options are those of a CLIP, for the tower; with cached
    tokens there is none, and they are not read.
    Raises `MissingCache` for stores that are absent or hold too little, `UsageError` for settings that make no sense.
    """
    known = checked_config(ALTConfig, model)
    protocol = protocol or dataset.default_protocol
    needed = {name: get_reader(readers, name, dataset) for name in SYSTEMS["alt"].stores(known)}
    seen = {name: reader for name, reader in needed.items() if name != "text"}
    sides = covered_sides(dataset, protocol, dataset.split(protocol), seen, options.min_coverage)
    check_any(sides.test, "test", dataset, protocol)
    (train, val, test), shape = _clips(needed, known, settings, sides)
    weights = None if known.tower == "cached" else read_clip(options.backbone_weights)
    templates = options.templates or shared_templates(needed["text"], dataset.classes)
    corpus, said = _corpus(known, needed["text"], options)
    config = {
        "model": "alt",
        "dataset": dataset.name,
        "protocol": protocol,
        "alt": plain(known),
        "settings": settings.plain(),
        "templates": list(templates),
        **said,
        "backbone_weights": weights and weights[0],
    }
    parts = Parts(
        len(dataset.classes),
        text_bank=load_text_bank(needed["text"], dataset.classes, templates),
        corpus=corpus,
        tokens=shape,
        weights=weights and weights[1],
        words=prompted_words(known, dataset.classes, templates, options.entities),
    )
    return PreparedRun(
        dataset=dataset,
        protocol=protocol,
        model="alt",
        config=config,
        settings=settings,
        readers=needed,
        train=train,
        val=val,
        test=test,
        train_side=sides.train,
        val_side=sides.val,
        test_side=sides.test,
        build=partial(build_task, "alt", parts, known, settings.seed),
    )


def check_start(settings: Mapping[str, Any], options: Options) -> None:
    """Raises `UsageError` for a training in which something that never learns would stay random."""
    known = checked_config(ALTConfig, settings)
    if known.num_prompts and options.backbone_weights is None:
        raise UsageError("train.alt.num_prompts runs CLIP's text tower; give its weights as train.backbone_weights.")
    if known.tower == "frozen" and options.backbone_weights is None and options.start is None:
        raise UsageError(
            "train.alt.tower is frozen, but nothing says what it holds; give OpenCLIP weights as "
            "train.backbone_weights, or a run as train.start."
        )
    if known.logits == "probe" and options.start is None:
        raise UsageError("train.alt.logits is probe, but nothing says what is probed; give a run as train.start.")


def _clips(
    readers: Mapping[str, SampleReader], config: ALTConfig, settings: TrainSettings, sides: Sides
) -> tuple[tuple[BatchSource, BatchSource, BatchSource], TokenShape | None]:
    """Batches of train, val and test, and the shape of cached tokens."""
    parts = ((sides.train.samples, True), (sides.val.samples, False), (sides.test.samples, False))
    if config.tower == "cached":
        tokens, shape = frame_tokens(readers["tokens"], config, sides.train.samples.ids[0])
        first, second, third = (TokenClips(samples, tokens, settings, train=learns) for samples, learns in parts)
        return (first, second, third), shape
    encoding = str(readers["frames"].array_attributes("pictures")["encoding"])
    frames = CachedFrames(readers["frames"], encoding, config.num_frames, config.image_size)
    train, val, test = (Clips(samples, frames, None, settings, train=learns) for samples, learns in parts)
    return (train, val, test), None


def _corpus(config: ALTConfig, reader: SampleReader, options: Options) -> tuple[Tensor | None, dict[str, Json]]:
    """The embeddings of the entities, None where none are used, and what config.yaml says of them."""
    if not config.align or config.corpus != "entities":
        return None, {"entities": {}, "corpus": None}
    names, rows = load_corpus(reader, tuple(options.entities))
    # A description may change under an entity's name, and the store then holds another row.
    held = f"sha256:{sha256(rows.numpy().tobytes()).hexdigest()}"
    return rows, {"entities": {name: options.entities.get(name, "") for name in names}, "corpus": held}


def frame_tokens(reader: SampleReader, config: ALTConfig, sample: str) -> tuple[FrameTokens, TokenShape]:
    """A store of tokens with the grid of its views, and the shape of a frame's tokens, read off one sample.

    Raises `MissingCache` for a store without views, `UsageError` for one that was made for another configuration.
    """
    views = reader.array_attributes("tokens").get("views")
    if not views:
        raise MissingCache("the tokens do not say which views they hold; extract tokens again.")
    held = PROJECTION_OF.get(str(_attributes(reader).get("projection")))
    if held != config.projection:
        raise UsageError(
            f"train.alt.projection is {config.projection}, but the tokens were extracted for {held}; change it, or "
            "`extract.tokens.projection` (clip, or none for linear) and extract tokens again."
        )
    _, num_frames, num_tokens, width = reader.read_one(sample)["tokens"].shape
    if num_frames != config.num_frames:
        raise UsageError(
            f"train.alt.num_frames is {config.num_frames}, but the tokens are of {num_frames} frames a clip; change "
            "it, or `extract.tokens.num_frames` and extract tokens again."
        )
    return FrameTokens(reader, tuple(bool(view["flip"]) for view in views)), TokenShape(num_tokens, width)


def load_corpus(reader: SampleReader, names: Sequence[str] = ()) -> tuple[tuple[str, ...], Tensor]:
    """Names and embeddings (entities, width) float32 of a text store's entities.

    names: which, in this order; by default all that the store holds, sorted. Raises `MissingCache` when a row is not
    there.
    """
    held = set(reader.ids)
    prefix = entity_id("")
    chosen = tuple(names) or tuple(sorted(each.removeprefix(prefix) for each in held if each.startswith(prefix)))
    advice = "run `unialign extract text --entities FILE` for this dataset"
    if not chosen:
        raise MissingCache(f"the text store has no row for any entity; {advice}, or set train.alt.corpus to labels.")
    lacking = [name for name in chosen if entity_id(name) not in held]
    if lacking:
        raise MissingCache(
            f"the text store has no row for entity {lacking[0]!r} ({len(lacking)} such entities); {advice}."
        )
    rows = [reader.read_one(entity_id(name))["embedding"] for name in chosen]
    return chosen, torch.from_numpy(np.asarray(rows, dtype=np.float32))


def prompted_words(
    config: ALTConfig, classes: Sequence[str], templates: Sequence[str], entities: Mapping[str, str]
) -> Words | None:
    """Token ids of what a text tower with learned prompts embeds, None without such prompts.

    entities: texts by name, needed where the configuration sends entities through the tower. Raises `UsageError` for
    a text that is too long beside the prompts, and for entities without texts.
    """
    if not config.num_prompts:
        return None
    filled = [template.replace("{}", name) for template in templates for name in classes]
    labels = token_ids(config.network, filled, config.num_prompts).reshape(len(templates), len(classes), -1)
    if config.prompted_texts != "all":
        return Words(labels)
    if not entities or not all(entities.values()):
        raise UsageError("train.alt.prompted_texts: all needs the entities' texts; name their file as train.entities.")
    return Words(labels, token_ids(config.network, list(entities.values()), config.num_prompts))


def read_clip(path: Path | None) -> tuple[str, dict[str, Tensor]] | None:
    """Digest and content of a file of OpenCLIP weights. Raises `UsageError` for what is none."""
    if path is None:
        return None
    if path == HUB or not path.is_file():
        raise UsageError(f"{path}: no such file; train.backbone_weights of alt is a file of OpenCLIP weights.")
    return file_digest(path), load_clip_weights(path)


def _attributes(reader: SampleReader) -> Mapping[str, Any]:
    """What the extractor said of the store, or says of itself online."""
    store = getattr(reader, "store", None)
    if store is not None:
        return dict(store.attributes)
    extractor = getattr(reader, "extractor", None)
    return dict(extractor.attributes()) if extractor is not None else {}
