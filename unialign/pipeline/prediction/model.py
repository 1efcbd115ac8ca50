"""A trained model that labels new clips, extracted as those that it was trained on."""

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

import numpy as np

from unialign.cache import atomic
from unialign.cache.paths import expanded_path
from unialign.cache.reader import StoreReader
from unialign.errors import UsageError
from unialign.pipeline.config import Config, with_values
from unialign.pipeline.evaluation.evaluate import mixed, predicted, prepare_again
from unialign.pipeline.evaluation.gallery import outputs_of_task
from unialign.pipeline.extraction.everything import extract_all
from unialign.pipeline.extraction.extract import Extraction
from unialign.pipeline.extraction.extractors import EXTRACTORS, extract_configured, prepare
from unialign.pipeline.extraction.pace import Pace
from unialign.pipeline.prediction.as_trained import check_as_trained, extractor_of, settings_as_trained
from unialign.pipeline.prediction.new_clips import clip_kind
from unialign.pipeline.prediction.trained import TEXT, TextRows, Trained
from unialign.pipeline.training.preparation import PreparedRun
from unialign.stages.datasets.base import Dataset, Sample, Split
from unialign.stages.sample_reader import SampleReader
from unialign.stages.skeleton_layouts import layout_in
from unialign.stages.training.step import Task
from unialign.types import Json

# Clips that are extracted at a time: their features lie in a temporary cache until they are labeled.
CHUNK = 64
COLLECTION = "new-clips"
# Outputs of the networks that weigh the frames of a clip.
FRAME_WEIGHTS = ("token_importance_video", "frame_weights")


@dataclass(frozen=True)
class Poses:
    """People of a clip. keypoints (T, P, V, 2): x and y in pixels of the frame, NaN where nobody is. bones: pairs."""

    keypoints: np.ndarray
    bones: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Prediction:
    """What a model says of one clip.

    status: "ok", or why it has no label, see `cache.records.STATUSES`; why: the reason in words. probabilities: by
    class, the most likely one first. importance: weight of each modality, if the model weighs them. frames: (number of
    the frame from 0, weight) of those that the model saw, if it weighs them. poses: None without any in 2-D.
    """

    path: Path
    status: str
    why: str = ""
    probabilities: Mapping[str, float] = field(default_factory=dict)
    importance: Mapping[str, float] = field(default_factory=dict)
    frames: tuple[tuple[int, float], ...] = ()
    poses: Poses | None = None

    @property
    def label(self) -> str:
        """The most likely class; "" without one."""
        return next(iter(self.probabilities), "")

    def top(self, count: int = 5) -> list[tuple[str, float]]:
        """The most likely classes with their probabilities."""
        return list(islice(self.probabilities.items(), count))

    def result(self) -> dict[str, Json]:
        """The object that `--json` prints; without the poses."""
        return {
            "path": str(self.path),
            "status": self.status,
            **({"why": self.why} if self.why else {}),
            **({"label": self.label} if self.label else {}),
            "probabilities": dict(self.probabilities),
            "importance": dict(self.importance),
            "frames": [list(each) for each in self.frames],
        }


class Model:
    """A trained model; `unialign.load_model` makes one. `predict` labels clips.

    trained: what it is made of. clips: what it reads of a clip. notes: what to know of its answers, after the first.
    """

    def __init__(self, trained: Trained, config: Config, weights: Sequence[Path] = ()) -> None:
        """config: where weights lie, and how extraction runs. weights: further files of weights.

        Raises `UsageError` for a model of poses from files that hold a whole dataset.
        """
        self.trained = trained
        self.notes: list[str] = []
        self.clips = clip_kind(trained)
        self._config, self._given = config, tuple(weights)

    def __repr__(self) -> str:
        return f"<{self.trained.config['model']} of {self.trained.where}: {len(self.classes)} classes>"

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes that it tells apart."""
        return self.trained.columns

    def predict(self, clips: str | Path | Iterable[str | Path]) -> "Prediction | list[Prediction]":
        """The prediction for a clip, or a list of them for several, in order.

        A clip that cannot be used has a status instead of a label. Raises `MissingCache` for weights that no file has,
        `StaleCache` if features would be made otherwise than in training, `UsageError` for a video without the skeleton
        file that the model needs beside it.
        """
        if isinstance(clips, (str, Path)):
            return next(iter(self.stream([expanded_path(clips)])))
        return list(self.stream([expanded_path(each) for each in clips]))

    def stream(
        self, clips: Iterable[Path], watch: Callable[[str], Callable[[Pace], None]] = lambda title: lambda pace: None
    ) -> Iterator[Prediction]:
        """The predictions one after the other, a chunk of clips at a time. watch: see `extract_all`."""
        waiting = iter(clips)
        while chunk := list(islice(waiting, CHUNK)):
            with tempfile.TemporaryDirectory(prefix="unialign-") as folder:
                yield from self._chunk(chunk, Path(folder), watch)

    def _chunk(
        self, clips: list[Path], folder: Path, watch: Callable[[str], Callable[[Pace], None]]
    ) -> Iterator[Prediction]:
        config = with_values(self._as_trained(folder), {"cache": folder / "cache", "extract.cluster": ""})
        paths = {f"clip-{number:06d}": path for number, path in enumerate(clips)}
        dataset = self._dataset(paths)
        done = self._extracted(dataset, config, watch)
        # What is wrong with the clip itself, not with what was made from it.
        problems = {name: (status, why) for each in reversed(done.values()) for name, status, why in each.problems}
        readers = {modality: StoreReader(each.store) for modality, each in done.items()}
        usable = [name for name in paths if all(name in reader for reader in readers.values())]
        found = self._labelled(usable, readers) if usable else {}
        for name, path in paths.items():
            if name in found:
                yield replace(found[name], path=path)
            else:
                status, why = problems.get(name, ("no-features", ""))
                yield Prediction(path, status, why)

    def _as_trained(self, folder: Path) -> Config:
        encoder = None
        if self.trained.encoder is not None:
            encoder = folder / "encoder.pt"
            atomic.write_file(encoder, self.trained.encoder)
        return settings_as_trained(self.trained, self._config, self._given, encoder)

    def _dataset(self, paths: Mapping[str, Path]) -> Dataset:
        """The clips, with the first class as their label. Raises what `ClipKind.files` raises."""
        samples = tuple(Sample(name, 0, self.clips.files(path.resolve())) for name, path in sorted(paths.items()))
        return Dataset(
            name=COLLECTION,
            collection=COLLECTION,
            root=Path(),
            classes=self.trained.classes,
            samples=samples,
            protocols={COLLECTION: lambda samples: Split((), tuple(each.id for each in samples))},
            published=True,
            skeleton_format=self.clips.skeletons or "",
        )

    def _extracted(
        self, dataset: Dataset, config: Config, watch: Callable[[str], Callable[[Pace], None]]
    ) -> dict[str, Extraction]:
        """The result of each modality, made as in training. Raises what `check_as_trained` raises."""
        names = {extractor_of(modality, fields): modality for modality, fields in self.trained.keys.items()}
        first = [name for name in names if not EXTRACTORS[name].made_from]
        notes = [
            check_as_trained(names[name], prepare(name, dataset, config).extractor.key(), self.trained)
            for name in first
        ]
        done = {names[name]: each for name, each in extract_all(dataset, config, names=first, watch=watch)}
        for name, modality in names.items():
            if name not in first:
                done[modality] = extract_configured(name, dataset, config, watch=watch(name))
                notes.append(check_as_trained(modality, done[modality].key.fields, self.trained))
        self.notes = [note for note in dict.fromkeys(notes) if note]
        return done

    def _labelled(self, usable: Sequence[str], stored: Mapping[str, StoreReader]) -> dict[str, Prediction]:
        """The predictions of clips that have all features, by id."""
        readers: dict[str, SampleReader] = {**stored}
        if self.trained.texts:
            readers[TEXT] = TextRows(self.trained.texts)
        config = {**self.trained.config, "val_share": 0.0, "shots": 0}
        prepared = prepare_again(config, self._roles(usable), readers, 0, COLLECTION)
        if prepared.columns != self.trained.columns:
            raise UsageError(
                f"{self.trained.where} chooses among {', '.join(self.trained.columns)}, which cannot be asked of new "
                "clips: its test was a part of its training classes (held_out)."
            )
        task, device = prepared.build(), self._config.train.settings.device
        task.model.load_state_dict(dict(self.trained.weights))
        predictions = mixed(predicted(prepared, task, device), self.trained.head_weights, self.trained.where)
        names = [prepared.test_side.samples.ids[place] for place in predictions.indices]
        frames = self._frame_weights(prepared, task, stored, names)
        importance_names = getattr(task.model, "importance_names", ())
        found: dict[str, Prediction] = {}
        for row, name in enumerate(names):
            scores = predictions.scores[row]
            order = np.argsort(-scores, kind="stable")
            weighed = predictions.importance[row] if predictions.importance is not None else ()
            found[name] = Prediction(
                path=Path(),
                status="ok",
                probabilities={self.classes[column]: float(scores[column]) for column in order.tolist()},
                importance={each: float(weight) for each, weight in zip(importance_names, weighed, strict=False)},
                frames=frames.get(name, ()),
                poses=_poses(stored.get("poses"), name),
            )
        return found

    def _roles(self, usable: Sequence[str]) -> Dataset:
        """The clips as test samples, and a sample without features for each class that was trained or tested on.

        Systems take the classes and their roles (seen, unseen) from the samples of a split. One clip is also a training
        sample, from which systems read the shapes of features.
        """
        trained = self.trained
        both = [label for label in trained.tested if label in trained.learned]
        # Where only unseen classes are tested, clips are of such a class; otherwise of one that is known.
        label = next(iter([*both, *(trained.tested if "candidates" in trained.config else trained.learned)]))
        clips = [Sample(name, label, {}) for name in usable]
        named = {each: Sample(f"class-{each:06d}", each, {}) for each in {*trained.learned, *trained.tested}}
        learned = tuple(named[each].id for each in trained.learned)
        ids = tuple(sample.id for sample in clips)
        roles = Split((*learned, ids[0]), ids, candidates=trained.candidates, unseen=trained.unseen)
        return replace(
            self._dataset({}),
            name=str(trained.config["dataset"]),
            samples=tuple(sorted([*clips, *named.values()], key=lambda sample: sample.id)),
            protocols={COLLECTION: lambda samples: roles},
        )

    def _frame_weights(
        self, prepared: PreparedRun, task: Task, stored: Mapping[str, StoreReader], names: Sequence[str]
    ) -> dict[str, tuple[tuple[int, float], ...]]:
        """For each clip, the frames that the model saw with their weights; {} for models that weigh none."""
        if "frames" not in stored:
            return {}
        places = {name: place for place, name in enumerate(prepared.test_side.samples.ids)}
        _, outputs, _ = outputs_of_task(prepared, task, [places[name] for name in names])
        weights = next((outputs[name] for name in FRAME_WEIGHTS if name in outputs), None)
        if weights is None or weights.ndim < 2:
            return {}
        weights = weights.reshape(*weights.shape[:2], -1).mean(axis=2)
        found = {}
        for name, of_clip in zip(names, weights, strict=True):
            kept = stored["frames"].read_one(name, ["frame_index"])["frame_index"]
            # The model sees the middle frame of each segment of the kept frames.
            seen = ((np.arange(len(of_clip)) + 0.5) * len(kept) / len(of_clip)).astype(int)
            found[name] = tuple((int(kept[place]), float(weight)) for place, weight in zip(seen, of_clip, strict=True))
        return found


def _poses(reader: StoreReader | None, name: str) -> Poses | None:
    if reader is None:
        return None
    attributes, arrays = reader.array_attributes("keypoints"), reader.read_one(name)
    layout = layout_in(attributes)
    flat = "z" not in attributes.get("coordinates", ())
    joints = arrays.get("pixels", arrays["keypoints"] if flat else None)
    if joints is None or layout is None:
        return None
    return Poses(joints[..., :2].astype(np.float32), tuple(layout.bones))
