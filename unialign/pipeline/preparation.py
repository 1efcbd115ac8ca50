"""From a dataset and its caches to what the training loop takes; used by training and by evaluation alike."""

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from unialign.cache.arrays import Json
from unialign.cache.errors import CorruptInput, MissingCache, UsageError
from unialign.cache.keys import digest
from unialign.pipeline.coverage import CachedModality, Covered, covered
from unialign.stages.datasets.base import Dataset
from unialign.stages.extraction.pose_clips import RECIPES, Shape
from unialign.stages.models.backbones import load_pretrained
from unialign.stages.models.skeleton_graph import layout_of
from unialign.stages.models.stgcnpp import STGCNPlusPlus
from unialign.stages.models.systems import SYSTEMS, checked_config
from unialign.stages.training.clips import Clips, Frames, Labelled, PoseTokens
from unialign.stages.training.loader import BatchSource
from unialign.stages.training.pose_samples import Poses, PoseClips
from unialign.stages.training.settings import TrainSettings
from unialign.stages.training.step import Task

# Which store a modality of the model reads.
STORES = {"video": "frames", "pose": "pose-features", "text": "text"}
RECIPE_OF = {"coco-17": "pyskl-2d", "ntu-25": "agcn-3d"}
NUM_PERSONS = 2


@dataclass(frozen=True)
class Options:
    """What a run needs beside dataset, caches, model and settings.

    min_coverage: smallest share of each side of the split that the caches must hold. templates: those of the text
    store that are used, all that every class has if empty. backbone_weights: a file of weights that the video backbone
    starts from.
    """

    min_coverage: float = 0.95
    templates: tuple[str, ...] = ()
    backbone_weights: Path | None = None


@dataclass(frozen=True)
class Prepared:
    """Everything that one run trains and evaluates.

    config: resolved settings for config.yaml; `identity` of a run is made of it. build: makes the task, with the seed of
    the settings. extra: values that an export of the model needs.
    """

    dataset: Dataset
    protocol: str
    model: str
    config: Mapping[str, Json]
    settings: TrainSettings
    readers: Mapping[str, CachedModality]
    train: BatchSource
    test: BatchSource
    train_side: Covered
    test_side: Covered
    build: Callable[[], Task]
    extra: Mapping[str, Any] = field(default_factory=dict)

    def identity(self, keys: Mapping[str, Mapping[str, Json]]) -> dict[str, Json]:
        """What decides the result: settings, the stores' keys, and which samples are used."""
        sides = (self.train_side, self.test_side)
        return {
            "config": {**self.config, "settings": self.settings.identity()},
            "stores": {name: found["key"] for name, found in keys.items()},
            "samples": digest([[list(side.samples.ids), list(side.samples.labels)] for side in sides]),
            "missing": digest([side.missing for side in sides]),
        }


def load_text_bank(
    reader: CachedModality, class_names: Sequence[str], templates: Sequence[str] | None = None
) -> tuple[Tensor, tuple[str, ...]]:
    """The label rows of a text store as (templates, classes, width) float32, and the templates in that order.

    templates: which; by default all that hold a row for every class, sorted.
    Raises `MissingCache` when a class has no row at all, or a template lacks a class.
    """
    rows: dict[str, dict[str, str]] = {}
    for name in reader.ids:
        kind, _, rest = name.partition("|")
        template, _, class_name = rest.partition("|")
        if kind == "label":
            rows.setdefault(template, {})[class_name] = name
    advice = "run `unialign extract text` for this dataset."
    for class_name in class_names:
        if not any(class_name in found for found in rows.values()):
            raise MissingCache(f"the text store has no row for class {class_name!r}; {advice}")
    chosen = tuple(templates) if templates else tuple(sorted(t for t, found in rows.items() if found.keys() >= {*class_names}))
    if not chosen:
        raise MissingCache(f"no template of the text store has a row for each of the {len(class_names)} classes; {advice}")
    for template in chosen:
        lacking = [name for name in class_names if name not in rows.get(template, {})]
        if lacking:
            raise MissingCache(
                f"the text store has no row for template {template!r} and class {lacking[0]!r} "
                f"({len(lacking)} classes lack one); {advice}"
            )
    bank = [[reader.read_one(rows[template][name])["embedding"] for name in class_names] for template in chosen]
    return torch.from_numpy(np.asarray(bank, dtype=np.float32)), chosen


def prepare_unialign(
    dataset: Dataset,
    *,
    protocol: str | None,
    readers: Mapping[str, CachedModality],
    model: Mapping[str, Any],
    settings: TrainSettings,
    options: Options,
) -> Prepared:
    """What a training of UniAlign needs.

    readers: by modality of the cache ("frames", "pose-features", "text"); those that the model does not use are ignored.
    model: settings that differ from `UniAlignConfig`.
    Raises `MissingCache` for stores that are absent or hold too little, `UsageError` for settings that make no sense.
    """
    known = checked_config(model)
    protocol = protocol or dataset.default_protocol
    needed = {STORES[name]: _reader(readers, STORES[name], dataset) for name in known.modalities}
    clips = {name: reader for name, reader in needed.items() if name != "text"}
    split = dataset.split(protocol)
    sides = [
        covered(dataset, side, ids, clips, protocol=protocol, minimum=options.min_coverage)
        for side, ids in (("train", split.train), ("test", split.test))
    ]
    _check_enough(dataset, protocol, *sides)
    pose = _pose_tokens(needed["pose-features"]) if "pose" in known.modalities else None
    width = pose.reader.read_one(sides[0].samples.ids[0])["tokens"].shape[-1] if pose else None
    encoding = str(needed["frames"].array_attributes("pictures")["encoding"])
    frames = Frames(needed["frames"], encoding, known.num_frames, known.image_size)
    bank, templates = (
        load_text_bank(needed["text"], dataset.classes, options.templates)
        if "text" in known.modalities
        else (None, ())
    )
    weights = _read_weights(options.backbone_weights)

    def build() -> Task:
        torch.manual_seed(settings.seed)
        network: Any = SYSTEMS["unialign"].build(
            num_classes=len(dataset.classes), text_bank=bank, pose_width=width, config=model
        )
        if weights:
            load_pretrained(network.backbone, weights[1])
        return Task(network, SYSTEMS["unialign"].losses, network.backbone.mean, network.backbone.std)

    config = {
        "model": "unialign",
        "dataset": dataset.name,
        "protocol": protocol,
        "classes": len(dataset.classes),
        "unialign": _plain(asdict(known)),
        "settings": settings.plain(),
        "templates": list(templates),
        "min_coverage": options.min_coverage,
        "backbone_weights": weights[0] if weights else None,
    }
    train, test = (
        Clips(side.samples, frames, pose, settings, train=train) for side, train in zip(sides, (True, False), strict=True)
    )
    return Prepared(dataset, protocol, "unialign", config, settings, needed, train, test, *sides, build)


class EncoderTraining(nn.Module):
    """A skeleton encoder behind the contract of the training loop: a dict in, a dict out."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tokens, feature and logits of a batch's keypoints."""
        outputs: dict[str, Tensor] = self.network(batch["keypoints"], batch["present"])
        return outputs

    def update(self, outputs: Mapping[str, Tensor], labels: Tensor) -> None:
        """Nothing moves beside the weights."""


def classification_loss(model: nn.Module, outputs: Mapping[str, Tensor], labels: Tensor) -> dict[str, Tensor]:
    """Cross-entropy of the logits."""
    return {"classification": cross_entropy(outputs["logits"].float(), labels)}


def prepare_encoder(
    dataset: Dataset,
    *,
    protocol: str | None,
    readers: Mapping[str, CachedModality],
    model: Mapping[str, Any],
    settings: TrainSettings,
    options: Options,
) -> Prepared:
    """What a training of ST-GCN++ on cached poses needs; its classes are those of the protocol's training samples.

    model: "width" and "dropout" of the network, "clip_len" frames of a clip (100), "crop": shortest random part of a sample
    in training (0.5). Joint layout and recipe follow from the store of poses. Test samples of other classes than the
    training's (zero-shot protocols) are left out of the evaluation.
    """
    protocol = protocol or dataset.default_protocol
    chosen = {"width": 64, "dropout": 0.0, "clip_len": 100, "crop": 0.5}
    unknown = sorted(set(model) - set(chosen))
    if unknown:
        raise UsageError(f"unknown setting of stgcn++: {', '.join(unknown)}; known: {', '.join(chosen)}.")
    chosen |= model
    reader = _reader(readers, "poses", dataset)
    attributes = reader.array_attributes("keypoints")
    layout = layout_of(attributes.get("layout") or attributes.get("joints") or "unknown")
    if layout is None or layout.name not in RECIPE_OF:
        raise UsageError(f"the poses' joints are of an unknown order; an encoder reads {', '.join(RECIPE_OF)}.")
    recipe = RECIPE_OF[layout.name]
    assert recipe in RECIPES
    split = dataset.split(protocol)
    labels = {sample.id: sample.label for sample in dataset.samples}
    seen = sorted({labels[each] for each in split.train})
    tested = tuple(each for each in split.test if labels[each] in set(seen))
    train_side, test_side = (
        covered(dataset, side, ids, {"poses": reader}, protocol=protocol, minimum=options.min_coverage)
        for side, ids in (("train", split.train), ("test", tested))
    )
    _check_enough(dataset, protocol, train_side)
    numbers = {label: number for number, label in enumerate(seen)}
    train_side, test_side = (_renumbered(side, numbers) for side in (train_side, test_side))
    poses = Poses(reader, layout, recipe, Shape(int(chosen["clip_len"]), NUM_PERSONS), float(chosen["crop"]))
    network = {
        "layout": layout.name,
        "num_classes": len(seen),
        "width": int(chosen["width"]),
        "dropout": float(chosen["dropout"]),
    }

    def build() -> Task:
        torch.manual_seed(settings.seed)
        return Task(EncoderTraining(STGCNPlusPlus(**network)), classification_loss)

    config = {
        "model": "stgcn++",
        "dataset": dataset.name,
        "protocol": protocol,
        "classes": len(seen),
        "encoder": {**chosen, "layout": layout.name, "recipe": recipe},
        "settings": settings.plain(),
        "min_coverage": options.min_coverage,
    }
    extra = {
        "model": "stgcn++",
        "config": network,
        "layout": layout.name,
        "recipe": recipe,
        "clip_len": int(chosen["clip_len"]),
        "classes": [dataset.classes[label] for label in seen],
        "protocol": protocol,
        "dataset": dataset.name,
    }
    train = PoseClips(train_side.samples, poses, settings, train=True)
    test = PoseClips(test_side.samples, poses, settings, train=False)
    return Prepared(
        dataset, protocol, "stgcn++", config, settings, {"poses": reader}, train, test, train_side, test_side, build, extra
    )


def _reader(readers: Mapping[str, CachedModality], name: str, dataset: Dataset) -> CachedModality:
    if name not in readers:
        raise MissingCache(
            f"the model needs {name} of {dataset.collection}, which were not given; "
            f"make them with `unialign extract {name} --dataset {dataset.name}`."
        )
    return readers[name]


def _check_enough(dataset: Dataset, protocol: str, *sides: Covered) -> None:
    for side, name in zip(sides, ("train", "test"), strict=False):
        if not len(side.samples):
            raise UsageError(f"protocol {protocol} of {dataset.name} has no {name} samples that the caches hold.")


def _pose_tokens(reader: CachedModality) -> PoseTokens:
    views = reader.array_attributes("tokens").get("views")
    if not views:
        raise MissingCache("the pose features do not say which views they hold; extract pose-features again.")
    return PoseTokens(reader, tuple(bool(view["flip"]) for view in views))


def _renumbered(side: Covered, numbers: Mapping[int, int]) -> Covered:
    """The same side with labels as places in the list of training classes."""
    samples = Labelled(side.samples.ids, tuple(numbers[label] for label in side.samples.labels))
    return Covered(samples, tuple((name, numbers[label]) for name, label in side.missing), side.lost)


def _read_weights(path: Path | None) -> tuple[str, dict[str, Any]] | None:
    """Digest and content of a file of weights."""
    if path is None:
        return None
    if not path.is_file():
        raise UsageError(f"{path}: no such file; name the weights of a video backbone.")
    data = path.read_bytes()
    try:
        content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:
        # torch.load answers foreign bytes with errors of many kinds, some of them private.
        raise CorruptInput(f"{path} is not a file of plain PyTorch weights; download it again.") from error
    if not isinstance(content, Mapping):
        raise CorruptInput(f"{path} holds a {type(content).__name__}, not the weights of a video backbone.")
    return f"sha256:{sha256(data).hexdigest()}", dict(content)


def _plain(values: Mapping[str, Any]) -> dict[str, Json]:
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
