"""`unialign data`: what there is, what of a dataset is here, and what a sample looks like."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from tests.pipeline.made_utd import write_files
from unialign.cli import app
from unialign.errors import UsageError
from unialign.pipeline.config import load_config
from unialign.pipeline.dataset_check import check_dataset, draw_sample, find_sample
from unialign.pipeline.manifest import load_manifest, manifest_path, save_manifest
from unialign.pipeline.training.from_config import train_from_config
from unialign.stages.datasets.base import Dataset, Sample
from unialign.stages.datasets.catalog import DATASETS, load_dataset
from unialign.stages.datasets.splits import holdout
from unialign.stages.video import encode_clip


def called(*arguments: object) -> str:
    done = CliRunner().invoke(app, [str(each) for each in arguments])
    assert done.exit_code == 0, done.output
    return done.stdout


def test_every_dataset_is_listed_with_its_published_sizes() -> None:
    found = {each["name"]: each for each in json.loads(called("data", "ls", "--json"))}
    assert list(found) == list(DATASETS)
    assert found["ucf101"]["sizes"]["split1"] == {"train": 9537, "test": 3783}
    assert found["ntu120"]["sizes"]["xset"] == {"train": 54468, "test": 59477}
    assert found["skeletons"]["root"] == "file"
    assert "FineGym288" in called("data", "ls")


def test_a_part_of_a_data_set_misses_what_was_published(tmp_path: Path) -> None:
    root = write_files(tmp_path / "utd")
    report = json.loads(called("data", "check", "--dataset", "utd-mhad", "--root", root, "--json"))
    assert (report["samples"], report["classes"], report["files"]) == (10, 27, {"skeleton": 10})
    assert report["parts"][0] == {
        "protocol": "subject-odd",
        "part": "train",
        "found": 5,
        "listed": None,
        "published": 431,
        "missing": 426,
        "examples": [],
    }
    assert report["parts"][2]["missing"] is None
    assert len(report["empty_classes"]) == 22
    shown = called("data", "check", "--dataset", "utd-mhad", "--root", root)
    assert "426" in shown
    assert "note: classes have no names" in shown


def test_lists_without_clips_are_counted(tmp_path: Path) -> None:
    """What has to be downloaded is known before anything is there."""
    (tmp_path / "gym99_categories.txt").write_text(
        "\n".join(f"Clabel: {at}; set: 1; Glabel: 1; element {at}" for at in range(99))
    )
    names = [f"abcdefghijk_E_000001_000009_A_{at:04d}_0009" for at in range(5)]
    (tmp_path / "gym99_train_element_v1.1.txt").write_text("\n".join(f"{name} 0" for name in names[:3]))
    (tmp_path / "gym99_val_element.txt").write_text("\n".join(f"{name} 1" for name in names[3:]))
    report = json.loads(called("data", "check", "--dataset", "gym99", "--root", tmp_path, "--json"))
    assert [(part["part"], part["found"], part["listed"], part["published"]) for part in report["parts"]] == [
        ("train", 0, 3, 26_320),
        ("val", 0, 2, 8_521),
    ]
    assert report["parts"][0]["examples"] == names[:3]
    shown = called("data", "check", "--dataset", "gym99", "--root", tmp_path)
    assert "none of the 5 listed clips is below it" in " ".join(shown.split())


def test_every_published_dataset_has_sizes() -> None:
    own = {"folder", "skeletons", "skeleton-files", "ctr-gcn", "pyskl", "demo", "pku-mmd-2"}
    assert {name for name, row in DATASETS.own.items() if not row.sizes} == own
    # Of which SynSE's and SMIE's splits are parts.
    for name in ("ntu60", "ntu120"):
        whole = DATASETS[name].sizes["xsub"]
        assert all(each["train"] < whole["train"] for key, each in DATASETS[name].sizes.items() if "-" in key)
    assert sum(DATASETS["pku-mmd"].sizes["xsub"].values()) == sum(DATASETS["pku-mmd"].sizes["xview"].values()) == 21_545
    assert {sum(each.values()) for each in DATASETS["jhmdb"].sizes.values()} == {928}


def test_a_sample_is_described_and_drawn(tmp_path: Path) -> None:
    where = ("--dataset", "utd-mhad", "--root", write_files(tmp_path / "utd"))
    out = tmp_path / "sample.png"
    facts = json.loads(called("data", "show", "a5_s2", *where, "--out", out, "--json"))
    assert (facts["id"], facts["class"], facts["parts"]["subject-odd"]) == ("a5_s2_t1", "class 4", "test")
    image = np.asarray(Image.open(out))
    # White paper and lines of a person in each of the frames.
    assert image.shape[1] > 3 * image.shape[0]
    for part in np.array_split(image, 6, axis=1):
        assert 0.5 < (part == 255).all(axis=2).mean() < 0.999
    done = CliRunner().invoke(app, ["data", "show", "a5", *map(str, where), "--out", str(out)])
    assert isinstance(done.exception, UsageError)


def test_frames_of_a_video_are_shown(tmp_path: Path) -> None:
    (tmp_path / "v" / "red").mkdir(parents=True)
    (tmp_path / "v" / "blue").mkdir()
    for name, color in (("red", (250, 0, 0)), ("blue", (0, 0, 250))):
        encode_clip(tmp_path / "v" / name / "a.mp4", [np.full((64, 96, 3), color, np.uint8)] * 20, 10)
    dataset = load_dataset("folder", tmp_path / "v")
    image = Image.open(io.BytesIO(draw_sample(dataset, find_sample(dataset, "red/a"), load_config({}))))
    assert image.size == (6 * 360, 240)
    assert np.asarray(image).mean(axis=(0, 1)) == pytest.approx((250, 0, 0), abs=8)


def test_unknown_and_ambiguous_ids_and_samples_without_files_are_refused(tmp_path: Path) -> None:
    dataset = Dataset("x", "x", tmp_path, ("a",), (Sample("a1", 0, {}), Sample("a2", 0, {})), {"holdout": holdout})
    with pytest.raises(UsageError, match="no sample 'a'; 2 begin so, such as 'a1'"):
        find_sample(dataset, "a")
    with pytest.raises(UsageError, match="no sample 'b'; the first is 'a1'"):
        find_sample(dataset, "b")
    with pytest.raises(UsageError, match="a1: has neither a video nor skeletons here"):
        draw_sample(dataset, find_sample(dataset, "a1"), load_config({}))
    assert check_dataset(dataset)["parts"][0]["published"] is None


def test_flips_are_refused_where_a_mirrored_clip_changes_its_class(tmp_path: Path) -> None:
    samples = (Sample("a", 0, {}), Sample("b", 0, {}))
    dataset = Dataset("ssv2", "ssv2", tmp_path, ("push left",), samples, {"holdout": holdout}, mirror=False)
    save_manifest(dataset, tmp_path)
    assert not load_manifest(tmp_path, "ssv2").mirror
    config = load_config({"dataset": "ssv2", "cache": tmp_path, "train.settings.flip": 0.5})
    with pytest.raises(UsageError, match=r"train\.settings\.flip is 0\.5, but a mirrored clip of ssv2"):
        train_from_config(config)
    save_manifest(Dataset("x", "x", tmp_path, ("a",), samples, {"holdout": holdout}), tmp_path)
    assert "mirror" not in manifest_path(tmp_path, "x", "x").read_text()
