"""New clips are labeled as evaluation labels them, by a run and by its exported file."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import unialign as ua
from tests.forked_command import run_forked
from tests.pipeline import made_systems
from tests.pipeline.made_utd import write_files
from unialign.pipeline.config import Config, with_values
from unialign.pipeline.prediction.export import export_model, read_exported
from unialign.pipeline.prediction.model import Model, Poses, Prediction
from unialign.pipeline.prediction.new_clips import ClipKind, clip_kind
from unialign.pipeline.prediction.onnx_export import export_onnx
from unialign.pipeline.prediction.picture import write_annotated
from unialign.pipeline.prediction.trained import trained_run
from unialign.stages.models.backbones.registry import build_backbone
from unialign.stages.video import decode_frames, encode_clip

SYSTEMS: dict[str, dict[str, Any]] = {
    "unialign": made_systems.SYSTEMS["train.unialign"],
    "art": made_systems.SYSTEMS["train.art"],
    "alt": {**made_systems.SYSTEMS["train.alt"], "corpus": "labels"},
}


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with twelve clips of two classes, their frames and texts, with a tiny CLIP that is known meanwhile."""
    folder = tmp_path_factory.mktemp("predict")
    rng = np.random.default_rng(0)
    for label, name in enumerate(("jump", "wave")):
        (folder / "clips" / name).mkdir(parents=True)
        for number in range(6):
            frames = np.full((9, 32, 40, 3), 60 + 120 * label, dtype=np.uint8) + rng.integers(
                0, 60, (9, 32, 40, 3), np.uint8
            )
            encode_clip(folder / "clips" / name / f"{number}.mp4", frames, fps=10)
    # CLIP's text tower has the width of its image tower, which ALT is.
    with made_systems.known_clip(folder) as weights:
        clip = {"extract.text": {"encoder": "openclip", "model": made_systems.NETWORK, "weights": weights}}
        for config in (configured(folder), with_values(configured(folder), clip)):
            ua.extract("text", config=config)
        ua.extract("frames", config=configured(folder))
        yield folder


def configured(folder: Path) -> Config:
    places = {"data": folder / "clips", "dataset": "folder", "cache": folder / "cache", "runs": folder / "runs"}
    frames = {"extract.frames.short_side": 32, "extract.frames.num_frames": 4, "extract.threads": 1}
    settings = {"epochs": 2, "batch_size": 4, "device": "cpu"}
    return with_values(Config(), {**places, **frames, "train.settings": settings, "train.val_share": 0})


def trained(work: Path, system: str) -> Path:
    """A finished run of a system, trained the first time."""
    text = "openclip" if system == "alt" else "minilm"
    values = {"train.model": system, f"train.{system}": SYSTEMS[system], "train.stores.text": text}
    return ua.train(config=with_values(configured(work), values)).folder


@pytest.fixture(scope="module", params=list(SYSTEMS))
def run(request: pytest.FixtureRequest, work: Path) -> Path:
    """A finished run of each system."""
    return trained(work, request.param)


def predictions_of(run: Path) -> tuple[list[str], np.ndarray]:
    with np.load(run / "predictions.npz") as stored:
        return stored["ids"].tolist(), stored["probabilities"]


def test_a_tested_clip_gets_the_probabilities_of_evaluation_from_the_run_and_from_its_exported_file(
    work: Path, run: Path, tmp_path: Path
) -> None:
    ids, probabilities = predictions_of(run)
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    clips = [*(work / "clips" / f"{name}.mp4" for name in ids), broken]
    model = ua.load_model(run, config=configured(work))
    found = model.predict(clips)
    assert isinstance(found, list)
    scores = np.array([[each.probabilities[name] for name in model.classes] for each in found[:-1]])
    np.testing.assert_allclose(scores, probabilities, rtol=1e-4, atol=1e-6)
    assert [each.path for each in found] == clips
    assert (found[-1].status, found[-1].label) == ("unreadable", "")
    assert found[-1].why
    # The middle of each half of frames 1, 3, 5, 7, from models that weigh frames.
    seen = [] if "-alt-" in run.name else [3, 7]
    assert [frame for frame, _ in found[0].frames] == seen
    assert found[0].top(1)[0][1] == max(found[0].probabilities.values())
    # The exported file needs neither run nor cache.
    exported = tmp_path / "model.safetensors"
    export_model(trained_run(run, configured(work)), exported, run)
    alone = ua.load_model(exported, cache=tmp_path / "no-cache", runs=tmp_path / "no-runs").predict(clips[0])
    assert isinstance(alone, Prediction)
    # A batch of another size rounds otherwise.
    assert alone.probabilities == pytest.approx(found[0].probabilities, rel=1e-5)
    assert (alone.label, [frame for frame, _ in alone.frames]) == (found[0].label, seen)
    assert json.loads(json.dumps(alone.result()))["label"] == found[0].label


def test_tokens_of_a_video_backbone_are_made_of_new_clips_too(work: Path, tmp_path: Path) -> None:
    weights = tmp_path / "backbone.pt"
    torch.manual_seed(7)
    torch.save(build_backbone("tsm-resnet10", num_frames=2, image_size=32).state_dict(), weights)
    tokens = {"model": "tsm-resnet10", "weights": weights, "num_frames": 2, "image_size": 32}
    model = {**SYSTEMS["unialign"], "backbone": "cached"}
    values = {"extract.tokens": tokens, "train.unialign": model, "train.stores.text": "minilm"}
    config = with_values(configured(work), values)
    ua.extract("tokens", config=config)
    ids, probabilities = predictions_of(run := ua.train(config=config).folder)
    # The configuration of who predicts says nothing of the tokens.
    trained_on = ua.load_model(run, weights=[weights], config=configured(work))
    found = trained_on.predict([work / "clips" / f"{name}.mp4" for name in ids])
    assert isinstance(found, list)
    scores = np.array([[each.probabilities[name] for name in trained_on.classes] for each in found])
    np.testing.assert_allclose(scores, probabilities, rtol=1e-3, atol=1e-5)


def test_clips_that_would_be_extracted_otherwise_than_in_training_are_refused(work: Path) -> None:
    of_run = trained_run(trained(work, "unialign"), configured(work))
    other = {**of_run.keys["frames"], "revision": 0}
    with pytest.raises(ua.StaleCache, match=r"frames of new clips would not be what .*: revision 1 instead of 0"):
        Model(replace(of_run, keys={"frames": other}), configured(work)).predict(work / "clips" / "jump" / "0.mp4")
    # Another library changes last digits: it is said.
    libraries = {**of_run.keys["frames"], "libraries": {"pillow": "0"}}
    model = Model(replace(of_run, keys={"frames": libraries}), configured(work))
    assert model.predict(work / "clips" / "jump" / "0.mp4").status == "ok"
    assert model.notes == ["frames: libraries are not those of the training; the last digits may differ"]


def test_the_network_as_onnx_gives_what_torch_gives(work: Path, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    onnx = pytest.importorskip("onnx")
    made = export_onnx(trained(work, "unialign"), configured(work), tmp_path / "network.onnx")
    assert made.difference < 1e-5
    session = onnxruntime.InferenceSession(str(made.path), providers=["CPUExecutionProvider"])
    assert {each.name for each in session.get_inputs()} == set(made.inputs)
    # Any number of clips.
    shape = [5 if side == "clips" else side for side in made.inputs["frames"]]
    (logits, *_) = session.run(None, {"frames": np.zeros(shape, dtype=np.float32)})
    assert logits.shape == (5, 2)
    told = {each.key: json.loads(each.value) for each in onnx.load(made.path).metadata_props}
    assert told["classes"] == ["jump", "wave"]


def test_a_network_that_onnx_cannot_hold_is_refused_in_one_sentence(work: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    with pytest.raises(ua.UsageError, match=r"the network of alt cannot be exported to ONNX \(.*Sort.*\); leave out"):
        export_onnx(trained(work, "alt"), configured(work), tmp_path / "network.onnx")
    assert not list(tmp_path.iterdir())


def test_unseen_classes_are_recognized_in_new_skeleton_files_of_another_format(tmp_path: Path) -> None:
    files = write_files(tmp_path / "files")
    values = {"data": files, "dataset": "utd-mhad", "cache": tmp_path / "cache", "runs": tmp_path / "runs"}
    values |= {"extract.poses.source": "skeleton", "extract.pose_features.encoder": "motion", "extract.threads": 1}
    values |= {"extract.text.templates": "plain"}
    values |= {"train.model": "dvta", "train.dvta.enhancement": False, "protocol": "zero-shot-1", "train.val_share": 0}
    config = with_values(Config(), {**values, "train.settings": {"epochs": 2, "batch_size": 4, "device": "cpu"}})
    for modality in ("poses", "pose-features", "text"):
        ua.extract(modality, config=config)
    run = ua.train(config=config).folder
    ids, probabilities = predictions_of(run)
    found = ua.load_model(run, config=config).predict([files / f"{name}_skeleton.mat" for name in ids])
    assert isinstance(found, list)
    # Among the unseen classes alone, as in the test.
    assert {len(each.probabilities) for each in found} == {probabilities.shape[1]} == {5}
    np.testing.assert_allclose([sorted(each.probabilities.values()) for each in found], np.sort(probabilities), 1e-4)


def test_what_a_new_clip_of_a_model_is_follows_from_the_keys_of_its_stores(work: Path) -> None:
    of_run = trained_run(trained(work, "unialign"), configured(work))

    def kind(**poses: object) -> ClipKind:
        return clip_kind(replace(of_run, keys={"poses": poses}))  # type: ignore[dict-item]

    assert kind(extractor="yolo", decoder="av").files(Path("a.mp4")) == {"video": Path("a.mp4")}
    assert kind(extractor="skeleton").suffixes == (".skeleton",)
    csv = kind(extractor="skeleton", format="csv", layout="coco-17", unit="pixel")
    assert (csv.suffixes, csv.files(Path("a.csv"))) == ((".csv",), {"skeleton": Path("a.csv")})
    for whole in ({"extractor": "pyskl"}, {"extractor": "skeleton", "format": "npz"}):
        with pytest.raises(ua.UsageError, match="no file for a single clip; predict takes skeleton files of ntu, utd"):
            kind(**whole)


def test_the_command_labels_folders_line_by_line_and_writes_one_file(
    work: Path, tmp_path: Path, fork_server: None
) -> None:
    run = trained(work, "unialign")
    where = ("--cache", work / "cache", "--runs", work / "runs")
    last = run_forked("predict", work / "clips" / "jump", "--run", run, *where, cwd=tmp_path)
    assert last["path"].endswith("jump/5.mp4")
    lines = (tmp_path / ".stdout").read_text().splitlines()
    assert [json.loads(line)["status"] for line in lines] == ["ok"] * 6
    done = run_forked("export", run.name, *where, cwd=tmp_path)
    assert (tmp_path / done["file"]).stat().st_size == done["bytes"]
    again = run_forked("export", run.name, *where, cwd=tmp_path, code=2)
    assert again["error"] == f"{run.name}.safetensors exists; give another name, or --overwrite."


def test_a_file_that_is_no_exported_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(ua.MissingCache, match=r"gone\.safetensors: no such file"):
        read_exported(tmp_path / "gone.safetensors")
    (tmp_path / "other.safetensors").write_bytes(b"\0" * 64)
    with pytest.raises(ua.DamagedStore, match=r"other\.safetensors cannot be read"):
        read_exported(tmp_path / "other.safetensors")


def test_the_annotated_clip_has_every_frame_with_bones_and_bars(work: Path, tmp_path: Path) -> None:
    people = np.full((9, 1, 2, 2), np.nan, dtype=np.float32)
    people[:, 0] = [(10, 8), (30, 24)]
    clip = work / "clips" / "jump" / "0.mp4"
    found = Prediction(clip, "ok", "", {"jump": 0.75, "a very long name of a class " * 9: 0.25}, {"video": 1.0})
    pictures = {}
    for name, more in (("bare", {}), ("full", {"poses": Poses(people, ((0, 1),)), "frames": ((3, 0.2), (7, 0.8))})):
        write_annotated(replace(found, **more), tmp_path / f"{name}.mp4")
        pictures[name] = np.stack(list(decode_frames(tmp_path / f"{name}.mp4"))).astype(int)
        assert len(pictures[name]) == 9
    height, width = 480, 600
    assert pictures["full"].shape[2] == width
    # The bone, in the color of the first person, goes through the middle of the picture.
    middle = pictures["full"][4, height // 2, width // 2]
    assert np.abs(middle - (230, 159, 0)).max() < 60
    assert np.abs(pictures["bare"][4, height // 2, width // 2] - (230, 159, 0)).max() > 60
    # The place of the present frame moves over the strip below.
    strips = [(np.abs(frame[-20] - (230, 159, 0)).max(axis=1) < 70).nonzero()[0].mean() for frame in pictures["full"]]
    assert (np.diff(strips) > 0).all()
