"""`unialign init`: what is found in a dataset, and a unialign.yaml that fits it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tests.forked_command import run_forked
from tests.made_stores import made_dataset
from unialign.pipeline.config import Config, with_values
from unialign.pipeline.first_look import FirstLook, first_look
from unialign.pipeline.fitting_settings import Line, as_yaml, fitting_settings
from unialign.pipeline.people_seen import people_seen
from unialign.stages.datasets.base import Sample
from unialign.stages.video import encode_clip

SIZES = st.integers(0, 200_000)


def looks() -> st.SearchStrategy[FirstLook]:
    return st.builds(
        FirstLook,
        dataset=st.just("folder"),
        samples=SIZES,
        classes=st.integers(2, 700),
        train=st.integers(1, 200_000),
        val=SIZES,
        test=SIZES,
        videos=SIZES,
        frames=st.integers(0, 3000),
        side=st.integers(0, 4000),
        long_side=st.integers(0, 4000),
        people=st.dictionaries(st.integers(0, 9), st.integers(1, 50), max_size=3),
    )


@given(looks(), st.sampled_from([None, "yolo11n-pose.pt", "a folder/b: #c.pt"]), st.booleans())
def test_what_is_written_is_a_configuration_with_just_these_values(
    look: FirstLook, weights: str | None, gpu: bool
) -> None:
    lines = fitting_settings(look, weights=weights, gpu=gpu)
    read = yaml.safe_load(as_yaml(lines))
    config = Config.model_validate(read, context={})
    for line in lines:
        value: object = config.model_dump(mode="json")
        for name in line.key.split("."):
            value = value[name]  # type: ignore[index]
        assert line.off or value == line.value
    assert not config.train.settings.warmup_epochs or config.train.settings.epochs > 1


def test_lines_of_a_section_stand_together_and_proposals_are_comments() -> None:
    lines = [Line("a.b.c", 1, "why"), Line("d", "x", ""), Line("a.e", [2, 3], "so", off=True), Line("a.b.f", True, "")]
    assert as_yaml(lines) == "d: x\na:\n  # e: [2, 3]  # so\n  b:\n    c: 1       # why\n    f: true\n"


def test_small_sets_get_small_networks_and_more_epochs_and_large_ones_the_defaults() -> None:
    def settings(train: int, gpu: bool) -> dict[str, object]:
        look = FirstLook("folder", train, 9, train, 0, 9, train, frames=60, side=720, long_side=1280)
        return {line.key: line.value for line in fitting_settings(look, weights="w.pt", gpu=gpu) if not line.off}

    assert settings(60, gpu=False)["train.unialign.backbone"] == "tsm-tiny-difference"
    assert settings(60, gpu=True)["train.unialign.backbone"] == "tsm-resnet18"
    assert settings(60, gpu=False)["train.settings.epochs"] > settings(400, gpu=False)["train.settings.epochs"]  # type: ignore[operator]
    assert settings(40_000, gpu=True) == {"extract.poses.weights": "w.pt"}


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of four clips of 12 frames; one is cut."""
    root = tmp_path_factory.mktemp("init") / "clips"
    rng = np.random.default_rng(0)
    for name in ("jump", "wave"):
        (root / name).mkdir(parents=True)
        for number in range(4):
            encode_clip(root / name / f"{number}.mp4", rng.integers(0, 255, (12, 48, 64, 3), dtype=np.uint8), fps=10)
    cut = root / "wave" / "3.mp4"
    cut.write_bytes(cut.read_bytes()[:2000])
    return root


def test_init_says_what_it_found_and_writes_settings_that_are_read(
    clips: Path, tmp_path: Path, fork_server: None
) -> None:
    found = run_forked("init", clips, cwd=tmp_path)
    look = found["look"]
    assert (look["samples"], look["train"], look["test"], look["decoded"]) == (8, 6, 2, 7)
    assert (look["frames"], look["long_side"], look["side"], look["fps"]) == (12, 64, 48, 10)
    assert any("wave/3" in problem and "cannot be used" in problem for problem in look["problems"])
    assert any("group" in problem for problem in look["problems"])
    assert found["machine"]["decoder"] > 0
    config = Config.model_validate(yaml.safe_load((tmp_path / "unialign.yaml").read_text()), context={})
    assert config.train.unialign.backbone == found["settings"]["train.unialign.backbone"]  # type: ignore[attr-defined]
    assert (config.dataset, config.data) == ("folder", clips)
    again = run_forked("init", clips, cwd=tmp_path, code=2)
    assert again["error"] == "unialign.yaml exists; give another name with --out, or --overwrite."


def test_people_are_counted_where_poses_exist(made_caches: Path) -> None:
    look = first_look(made_dataset(), made_caches)
    assert look.videos == 0
    assert sum(look.people.values()) in (0, look.samples)


def test_people_are_counted_by_the_network_where_there_are_only_weights(shared_data: Path) -> None:
    files = sorted((shared_data / "videos/gestures").glob("*/*_00.mp4"))[:2]
    samples = tuple(Sample(path.parent.name, 0, {"video": path}) for path in files)
    config = with_values(
        Config(),
        {
            "extract.poses": {"weights": shared_data / "weights/yolo11n-pose.pt", "image_size": 320},
            "extract.device": "cpu",
        },
    )
    assert people_seen(replace(made_dataset(), samples=samples), config, 12) == {1: 2}
    # A frame that a clip does not have is its last one.
    assert people_seen(replace(made_dataset(), samples=samples[:1]), config, 10_000) == {1: 1}
    assert people_seen(made_dataset(), Config(), 0) == {}


def test_a_few_passers_by_are_no_reason_to_keep_more_people() -> None:
    def kept(people: dict[int, int]) -> list[object]:
        look = FirstLook("folder", 40, 2, 30, 0, 10, 40, frames=60, side=720, long_side=1280, people=people)
        lines = fitting_settings(look, weights=None, gpu=False)
        return [line.value for line in lines if line.key == "extract.poses.num_people"]

    assert kept({1: 38, 5: 2}) == []
    assert kept({1: 30, 3: 8, 4: 1, 5: 1}) == [3]
    assert kept({2: 40}) == []
