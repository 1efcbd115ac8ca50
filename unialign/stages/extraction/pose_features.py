"""Stage one: skeleton-encoder features of cached poses, over a fixed grid of temporal offsets and mirror images.

Legend: T' tokens, D width of the encoder.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from unialign.cache.arrays import ArraySpec
from unialign.cache.digests import file_digest
from unialign.cache.reader import Recorded
from unialign.cache.remote.mirror import reader_at
from unialign.errors import CorruptInput, StaleCache, UsageError
from unialign.stages.device import resolve_device
from unialign.stages.extraction.ahead import decoders, in_order
from unialign.stages.extraction.base import Outcome, Source
from unialign.stages.extraction.derived import derived
from unialign.stages.extraction.heartbeat import beat
from unialign.stages.extraction.pose_clips import PoseClip, View, clip_grid, frame_size
from unialign.stages.extraction.pose_encoder import MOTION, Encoder, encode, load_encoder, motion_encoder
from unialign.stages.extraction.pose_recipes import RECIPES
from unialign.stages.extraction.published_encoders import AS_NAMED, Reading
from unialign.stages.sample_reader import SampleReader
from unialign.stages.skeleton_layouts import layout_in
from unialign.types import Json

REVISION = 1
LICENCES = {"shift-gcn": "weights CC-BY-NC-4.0 (kchengiva/Shift-GCN)", MOTION: "none: it has no weights"}


@dataclass(frozen=True)
class PoseFeatures:
    """Features of every view of a sample's poses.

    poses, weights: paths of the store of poses and of the encoder's file on this machine; not in the key. weights is
        None, and weights_digest empty, for the encoder without any ("motion").
    poses_key: digest of the key of the poses. weights_digest: SHA-256 of the encoder's file, checked when it is loaded.
    name: the encoder that the file must hold ("shift-gcn", "stgcn++").
    clip_len: frames per clip; None is the length that the encoder was trained with.
    reading: how clips are made for a published file that does not say so itself; part of the key then.
    batch_size: clips per call of the network. Other sizes may change the last bits of a feature, so the default is best
        left alone; the number and order of samples do not matter.
    """

    name: str
    poses: Path
    poses_key: str
    weights: Path | None
    weights_digest: str
    num_offsets: int = 4
    flips: bool = True
    clip_len: int | None = None
    reading: Reading | None = None
    device: str = "auto"
    batch_size: int = 16

    modality = "pose-features"

    @property
    def views(self) -> tuple[View, ...]:
        """The grid, in the order of the first axis of the arrays."""
        return clip_grid(self.num_offsets, self.flips)

    def key(self) -> Mapping[str, Json]:
        """See `Extractor`. Layout, recipe and, unless given, clip_len are decided by the weights, or by `reading`."""
        reading = {"reading": asdict(self.reading)} if self.reading else {}
        return {
            "extractor": self.name,
            "revision": REVISION,
            "poses": self.poses_key,
            "weights": self.weights_digest.removeprefix("sha256:"),
            "num_offsets": self.num_offsets,
            "flips": self.flips,
            "clip_len": self.clip_len,
            **reading,
            "libraries": {"torch": torch.__version__.split("+")[0]},
        }

    def arrays(self) -> tuple[ArraySpec, ...]:
        """Tokens and their mean for each view. Reads the weights, which decide the shapes."""
        encoder, views = self._encoder(), self.views
        shape = (len(views), encoder.num_tokens(self.clip_len), encoder.width)
        listed: Json = [{"offset": view.offset, "num_offsets": view.num_offsets, "flip": view.flip} for view in views]
        return (
            ArraySpec("tokens", "float16", shape, ("view", "token", "channel"), chunk=1, attributes={"views": listed}),
            ArraySpec(
                "feature", "float32", (shape[0], shape[2]), ("view", "channel"), chunk=1, attributes={"views": listed}
            ),
        )

    def attributes(self) -> Mapping[str, Json]:
        """Where the encoder comes from, what it was trained on, and how its input is made."""
        encoder = self._encoder()
        return {
            "encoder": encoder.name,
            "layout": encoder.layout.name,
            "recipe": encoder.recipe,
            "clip_len": self.clip_len or encoder.clip_len,
            "trained_on": {"dataset": encoder.dataset, "protocol": encoder.protocol, "classes": list(encoder.classes)},
            "licence": LICENCES.get(encoder.name, "that of the encoder's own training data"),
        }

    def check(self, reader: SampleReader) -> None:
        """Raise `UsageError` unless the joints of a store of poses are those that the encoder was trained with."""
        check_layout(reader, self._encoder())

    def digest(self, source: Source) -> str:
        """See `Extractor`."""
        return pose_source(reader_at(self.poses), source.id)

    def run(self, sources: Sequence[Source]) -> Iterator[Outcome]:
        """One outcome per source, in order; its source digest is `pose_source`.

        A sample whose poses are quarantined keeps their status; one without any person gets no-person. Raises
        `MissingCache` for a sample without poses, `UsageError` for poses whose joints are not those of the encoder.
        """
        reader = reader_at(self.poses)
        check_layout(reader, self._encoder())
        yield from derived(sources, reader, "poses", pose_source, self.features)

    def features(self, reader: SampleReader, sources: Sequence[Source]) -> Iterator[Outcome]:
        """The same for samples that all have poses, read from anything with the interface of a `StoreReader`."""
        encoder = self._encoder()
        check_layout(reader, encoder)
        num_views = len(self.views)
        stored = ((source, reader.read_one(source.id)) for source in sources)
        # Those of the next batch are prepared while the network works on this one.
        waiting = in_order(lambda each: (each[0], self._prepare(*each, reader, encoder)), stored, decoders())
        # As many samples at a time as fill a batch: clips of several samples share a call of the network.
        while group := list(islice(waiting, max(1, self.batch_size // num_views))):
            beat()
            clips = [clip for _, sample in group if not isinstance(sample, Outcome) for clip in sample]
            features = encode(encoder, clips, self.batch_size) if clips else {}
            start = 0
            for source, sample in group:
                if isinstance(sample, Outcome):
                    yield sample
                    continue
                part = {name: values[start : start + num_views] for name, values in features.items()}
                start += num_views
                yield self._outcome(source, reader.source(source.id), part)

    def _prepare(
        self, source: Source, sample: Mapping[str, np.ndarray], reader: SampleReader, encoder: Encoder
    ) -> list[PoseClip] | Outcome:
        recipe, shape = RECIPES[encoder.recipe], encoder.shape(self.clip_len)
        size = frame_size(reader, sample)
        try:
            return [recipe(sample["keypoints"], encoder.layout, view, shape, size) for view in self.views]
        except CorruptInput as error:
            return Outcome(source.id, error.status, reader.source(source.id), detail={"why": str(error)})

    def _outcome(self, source: Source, digest: str, features: Mapping[str, np.ndarray]) -> Outcome:
        tokens = features["tokens"]
        # Also false for NaN, so neither an overflow nor an undefined value gets into the cache.
        if not np.abs(tokens).max() <= np.finfo(np.float16).max:
            return Outcome(source.id, "unreadable", digest, detail={"why": "the encoder gives no finite features"})
        arrays: dict[str, np.ndarray] = {"tokens": tokens.astype(np.float16), "feature": features["feature"]}
        return Outcome(source.id, "ok", digest, arrays)

    def _encoder(self) -> Encoder:
        if self.weights is None:
            return motion_of(self.poses)
        digest = self.weights_digest.removeprefix("sha256:")
        return loaded(self.weights, digest, self.name, self.device, self.reading or AS_NAMED)


@lru_cache(maxsize=2)
def motion_of(poses: Path) -> Encoder:
    """The encoder without weights for a store of poses. Raises `UsageError` for joints of an unknown order."""
    attributes = reader_at(poses).array_attributes("keypoints")
    layout = layout_in(attributes)
    if layout is None:
        raise UsageError(
            f"{poses}: the joints are of an unknown order; motion features need to know where the hips are."
        )
    return motion_encoder(layout, attributes.get("coordinates", ()))


@lru_cache(maxsize=2)
def loaded(path: Path, digest: str, name: str, device: str, reading: Reading = AS_NAMED) -> Encoder:
    """The encoder of a file, on its device; loaded once per process.

    Raises `StaleCache` if the file is not the one that the key names, `UsageError` if it holds another encoder.
    """
    encoder = load_encoder(path, reading)
    found = file_digest(path).removeprefix("sha256:")
    if found != digest:
        raise StaleCache(f"{path} has the SHA-256 {found[:12]}, not {digest[:12]}; it was replaced, start again.")
    if encoder.name != name:
        raise UsageError(f"{path} holds the encoder {encoder.name}, not {name}; name that one or other weights.")
    encoder.network.to(resolve_device(device, setting="extract.device"))
    return encoder


def pose_source(reader: Recorded, sample: str) -> str:
    """The source digest that the features of a sample record: that of its poses, or why there are none."""
    status = reader.status(sample)
    return reader.source(sample) if status == "ok" else f"poses:{status}"


def check_layout(reader: SampleReader, encoder: Encoder) -> None:
    """Raise `UsageError` unless the joints of a store of poses are those that an encoder was trained with."""
    attributes = reader.array_attributes("keypoints")
    known = layout_in(attributes)
    if known != encoder.layout:
        found = known.name if known else str(attributes.get("joints") or "of an unknown order")
        raise UsageError(
            f"the joints of the poses are {found}, but the encoder {encoder.name} needs {encoder.layout.name}; "
            "extract other poses or name another encoder."
        )
