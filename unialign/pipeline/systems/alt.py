"""ALT: CLIP on cached frames, or an adapter on cached frame tokens; the network is in `stages.models.alt`."""

from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unialign.cache.digests import file_digest
from unialign.errors import MissingCache, UsageError
from unialign.pipeline.evaluation.pictures import Pictures
from unialign.pipeline.systems.base import ASSUMED, ClassSpecificWeights, DrawnClip, Example, System
from unialign.pipeline.systems.unialign import HUB, frames_of
from unialign.pipeline.training.preparation import Options, PreparedRun, Request, Sides, prepared
from unialign.pipeline.training.text_bank_start import label_rows, load_text_bank, shared_templates
from unialign.stages.extraction.corpus import entity_id
from unialign.stages.foreign_weights import load_clip_weights
from unialign.stages.models.alt.build import build_alt
from unialign.stages.models.alt.config import ALTConfig
from unialign.stages.models.alt.model import ALT as Network
from unialign.stages.models.alt.model import TokenShape, alt_losses
from unialign.stages.models.clip.image_tower import MEAN, STD, ClipTower, image_transformer
from unialign.stages.models.clip.prompts import Words
from unialign.stages.models.clip.text_tower import token_ids
from unialign.stages.sample_reader import SampleReader
from unialign.stages.training.gpu_clips import clips_as_set
from unialign.stages.training.loader import BatchSource
from unialign.stages.training.token_samples import FrameTokens, TokenClips
from unialign.types import Json

# Projection setting of token extraction -> that of ALT: with "none", ALT learns a projection of the block's output.
PROJECTION_OF = {"clip": "clip", "none": "linear"}


def prepare_alt(request: Request) -> PreparedRun:
    """Prepare a run of ALT on frames (tower tuned or frozen) or tokens (tower cached).

    `backbone_weights` are CLIP weights for the tower; with cached tokens there is no tower, and they are not read.
    Raises `MissingCache` for stores with too few samples, `UsageError` for inconsistent settings.
    """
    config, options, text, classes = request.config, request.options, request.readers["text"], request.dataset.classes
    sides = request.sides()
    sources, shape = _sources(request, sides)
    weights = None if config.tower == "cached" else read_clip(options.backbone_weights)
    templates = options.templates or shared_templates(text, classes)
    corpus, said = _corpus(config, text, options)
    parts = {
        "num_classes": len(classes),
        "text_bank": load_text_bank(text, classes, templates),
        "corpus": corpus,
        "tokens": shape,
        "weights": weights and weights[1],
        "words": prompted_words(config, classes, templates, options.entities),
    }
    said = {"templates": list(templates), **said, "backbone_weights": weights and weights[0]}
    rows = (*label_rows(templates, classes), *map(entity_id, said["entities"]))
    return prepared(request, sides, sources, parts, said, texts=rows)


def check_start(config: ALTConfig, options: Options) -> None:
    """Raise `UsageError` for a run in which weights that are never trained would stay random."""
    if config.num_prompts and options.backbone_weights is None:
        raise UsageError("train.alt.num_prompts runs CLIP's text tower; give its weights as train.backbone_weights.")
    if config.tower == "frozen" and options.backbone_weights is None and options.start is None:
        raise UsageError(
            "train.alt.tower is frozen, but nothing says what it holds; give OpenCLIP weights as "
            "train.backbone_weights, or a run as train.start."
        )
    if config.logits == "probe" and options.start is None:
        raise UsageError("train.alt.logits is probe, but nothing says what is probed; give a run as train.start.")


def _sources(request: Request, sides: Sides) -> tuple[tuple[BatchSource, BatchSource, BatchSource], TokenShape | None]:
    """Batch sources for train, val and test, and the shape of cached tokens."""
    config, readers, settings = request.config, request.readers, request.settings
    if config.tower == "cached":
        tokens, shape = frame_tokens(readers["tokens"], config, sides.train.samples.ids[0])
        return sides.sources(lambda samples, learns: TokenClips(samples, tokens, settings, train=learns)), shape
    frames = frames_of(readers["frames"], config)
    return sides.sources(lambda samples, learns: clips_as_set(samples, frames, None, settings, train=learns)), None


def _corpus(config: ALTConfig, reader: SampleReader, options: Options) -> tuple[Tensor | None, dict[str, Json]]:
    """The embeddings of the entities (None if unused), and the fields that describe them in config.yaml."""
    if not config.align or config.corpus != "entities":
        return None, {"entities": {}, "corpus": None}
    names, rows = load_corpus(reader, tuple(options.entities))
    # The digest detects changed entity descriptions, which change the stored rows.
    held = f"sha256:{sha256(rows.numpy().tobytes()).hexdigest()}"
    return rows, {"entities": {name: options.entities.get(name, "") for name in names}, "corpus": held}


def frame_tokens(reader: SampleReader, config: ALTConfig, sample: str) -> tuple[FrameTokens, TokenShape]:
    """A token store with the layout of its views, and the shape of a frame's tokens, taken from one sample.

    Raises `MissingCache` for a store without views, `UsageError` for one extracted for another configuration.
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

    names: which to load, in this order; default: all in the store, sorted. Raises `MissingCache` if a row is missing.
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
    """Token ids of the strings that a text tower with learned prompts embeds; None without such prompts.

    entities: texts by name, needed if the configuration sends entities through the tower. Raises `UsageError` for a
        string that is too long with the prompts, and for entities without texts.
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
    """Digest and content of an OpenCLIP weights file. Raises `UsageError` for a missing or different file."""
    if path is None:
        return None
    if path == HUB or not path.is_file():
        raise UsageError(f"{path}: no such file; train.backbone_weights of alt is a file of OpenCLIP weights.")
    return file_digest(path), load_clip_weights(path)


def _attributes(reader: SampleReader) -> Mapping[str, Any]:
    """The attributes that the extractor recorded in the store, or those of the online extractor."""
    store = getattr(reader, "store", None)
    if store is not None:
        return dict(store.attributes)
    extractor = getattr(reader, "extractor", None)
    return dict(extractor.attributes()) if extractor is not None else {}


def alt_example(config: ALTConfig) -> Example:
    """A clip, or its tokens. Text embeddings have the width of the network's own."""
    network = image_transformer(config.network, image_size=config.image_size)
    width, tokens = int(network.output_dim), None
    batch = {"frames": torch.zeros(1, config.num_frames, 3, config.image_size, config.image_size)}
    if config.tower == "cached":
        projection = "clip" if config.projection == "clip" else "none"
        tower = ClipTower(network=network, layer=config.layer, num_pairs=config.merged_pairs, projection=projection)
        tokens = TokenShape(tower.num_tokens, tower.width)
        batch = {"tokens": torch.zeros(1, config.num_frames, tokens.num_tokens, tokens.width)}
    texts = (ASSUMED["prompts"], ASSUMED["classes"])
    parts = {
        "num_classes": ASSUMED["classes"],
        "text_bank": torch.zeros(*texts, width),
        "corpus": torch.zeros(ASSUMED["entities"], width),
        "tokens": tokens,
        "words": Words(torch.zeros(*texts, ASSUMED["tokens_of_a_text"], dtype=torch.int64)),
    }
    # Which strings go through the tower does not matter here: they are embedded once, not once per view.
    counted = config.replaced(prompted_texts="labels")
    return Example(counted, parts, batch, config.network, config.num_frames, config.image_size)


def draw_entities(clip: DrawnClip) -> Pictures | None:
    """The entity assigned to each patch, drawn over the model's input frames; None without region alignment."""
    from unialign.pipeline.evaluation.plots import SHOWN_FRAMES, draw_entities

    found = clip.outputs
    if "entities" not in found or "owners" not in found or found["entities"].shape[1] == 1:
        return None
    shown = np.linspace(0, len(clip.frames) - 1, min(SHOWN_FRAMES, len(clip.frames))).round().astype(int)
    owners = found["owners"][shown, 1:]  # of the patches, without the class token
    patches = np.take_along_axis(found["entities"][shown], owners, axis=1)
    side = int(np.sqrt(patches.shape[1]))
    names = tuple(clip.config["entities"]) or clip.classes
    return draw_entities(clip.frames[shown], patches.reshape(len(shown), side, side), names, clip.title)


ALT = System(
    config=ALTConfig,
    stores=lambda config: ("tokens" if config.tower == "cached" else "frames", "text"),
    prepare=prepare_alt,
    build=build_alt,
    losses=alt_losses,
    normalization=lambda model: (MEAN, STD),
    rate=Network.rate,
    class_specific=ClassSpecificWeights(
        ("labels", "corpus", "texts.labels", "texts.entities", "classifier."),
        # Adapters and prompts added to a previously tuned tower, and the text tower that prompts require.
        (".adapter.", ".ls_1.1.", "prompts.", "texts."),
    ),
    check=check_start,
    any_class=lambda config: config.logits != "probe",
    example=alt_example,
    draw=draw_entities,
)
