"""From videos to a trained, evaluated model: every step of both stages in order, each reused where it is done.

Nothing is remembered here. Extractions resume by their records, training runs by their checkpoints, and a step that is
finished costs the time to see that; so the same call goes on after a kill at any point.
"""

import logging
from collections.abc import Callable, Iterator

from unialign.errors import UsageError
from unialign.pipeline.config import Config, with_values
from unialign.pipeline.extraction.everything import Watch, extract_all
from unialign.pipeline.extraction.extract import Extraction
from unialign.pipeline.extraction.extractors import extract_configured, get_row
from unialign.pipeline.training.from_config import needed_stores, train_from_config
from unialign.pipeline.training.train import RunResult, Show
from unialign.stages.datasets.base import Dataset
from unialign.stages.extraction.pose_encoder import MOTION
from unialign.stages.training.settings import NOT_IDENTITY

LOGGER = logging.getLogger(__name__)
# The system whose encoder computes the pose features, and the title of its step.
ENCODER, ENCODER_STEP = "skeleton", "skeleton encoder"
CHECKPOINT_EVERY = 10


def end_to_end(
    dataset: Dataset,
    config: Config,
    *,
    retry: bool = False,
    watch: Callable[[str], Watch] = lambda name: lambda pace: None,
    announce: Callable[[str], None] = LOGGER.info,
    show: Callable[[str], Show] = lambda name: lambda progress: None,
    tell: Callable[[str], None] = lambda sentence: None,
) -> Iterator[tuple[str, Extraction | RunResult]]:
    """The name and the result of each step, as it is done; the last one is the run of `train.model`.

    Modalities that its system reads are extracted, unless `train.stores` names a store. Pose features need a skeleton
    encoder: without `extract.pose_features.weights` one is trained on the same split, see `encoder_config`. Where
    unseen classes are tested, features without a network take its place: an encoder tells apart what it was trained on.
    watch, show: are asked for one per step, by its title. retry: extract quarantined samples again.
    Raises what `extract_configured` and `train_from_config` raise.
    """
    section = config.train
    needed = needed_stores(config, dataset)
    wanted = with_inputs([name for name in needed if name not in section.stores])
    check_inputs(wanted, dataset, config)
    derived = [name for name in wanted if get_row(name).made_from]
    chosen = dict(section.stores)
    first = [name for name in wanted if name not in derived]
    for name, done in extract_all(dataset, config, names=first, retry=retry, watch=watch, announce=announce):
        chosen.setdefault(done.modality, done.store.name.removesuffix(".zarr"))
        yield name, done
    config = with_values(config, {"train.stores": chosen})
    for name in derived:
        if name == "pose-features" and needs_encoder(config) and tests_unseen(dataset, config.protocol):
            config = with_values(config, {"extract.pose_features.encoder": MOTION})
        elif name == "pose-features" and needs_encoder(config):
            encoder = train_from_config(encoder_config(config), dataset, show=show(ENCODER_STEP))
            yield ENCODER_STEP, encoder
            config = with_values(config, {"extract.pose_features.weights": encoder.exported})
        config = _reading(config, name, chosen)
        done = extract_configured(name, dataset, config, retry=retry, watch=watch(name), announce=announce)
        chosen.setdefault(done.modality, done.store.name.removesuffix(".zarr"))
        yield name, done
    config = with_values(config, {"train.stores": chosen})
    yield section.model, train_from_config(config, dataset, show=show(section.model), tell=tell)


def with_inputs(needed: list[str]) -> list[str]:
    """The modalities, each after the one that it is made from."""
    found: list[str] = []
    for name in needed:
        made_from = get_row(name).made_from
        found += [each for each in ([made_from, name] if made_from else [name]) if each not in found]
    return found


def needs_encoder(config: Config) -> bool:
    """Whether pose features are asked for without the weights that compute them."""
    section = config.extract.pose_features
    return section.weights is None and section.encoder != MOTION


def tests_unseen(dataset: Dataset, protocol: str | None) -> bool:
    """Whether some tested class has no training samples."""
    split, labels = dataset.split(protocol), {sample.id: sample.label for sample in dataset.samples}
    return not {labels[name] for name in split.test} <= {labels[name] for name in split.train}


def check_inputs(wanted: list[str], dataset: Dataset, config: Config) -> None:
    """Raise `UsageError` for what would be missing later: weights of the pose network, videos, weights of tokens."""
    poses = config.extract.poses
    if "poses" in wanted and poses.source == "video" and poses.weights is None:
        raise UsageError(
            "poses need the weights of a pose network: give --weights yolo11n-pose.pt (any Ultralytics pose network), "
            "or `extract.poses.weights` in unialign.yaml; without people in the clips, train on the frames alone: "
            "train.unialign.modalities=[video,text]."
        )
    if "frames" in wanted and not any("video" in sample.files for sample in dataset.samples):
        raise UsageError(
            f"{dataset.name} has no videos, which train.model {config.train.model} reads; train a skeleton encoder "
            "instead: train.model=skeleton."
        )


def encoder_config(config: Config) -> Config:
    """The configuration of the skeleton encoder: `train.skeleton`, by that system's own recipe.

    The recipe follows from the number of clips; of `train.settings`, which are the other system's, only the seed and
    what does not change a result count (device, threads, checkpoints).
    """
    settings, epochs = config.train.settings, config.train.encoder_epochs
    kept = {name: getattr(settings, name) for name in settings.model_fields_set if name in (*NOT_IDENTITY, "seed")}
    # An epoch of a few clips takes less time than a checkpoint.
    kept.setdefault("checkpoint_every", CHECKPOINT_EVERY)
    if epochs:
        kept["epochs"] = epochs
    return with_values(config, {"train.model": ENCODER, "train.settings": kept, "train.start": None})


def _reading(config: Config, name: str, chosen: dict[str, str]) -> Config:
    """The configuration in which a modality is made from the store that the steps before have written."""
    made_from = get_row(name).made_from
    field = f"extract.{name.replace('-', '_')}.{made_from}"
    section = getattr(config.extract, name.replace("-", "_"), None)
    if section is None or getattr(section, made_from, "") is not None:
        return config
    return with_values(config, {field: chosen[made_from]})
