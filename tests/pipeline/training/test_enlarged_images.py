"""Contract: training at a size above that of the stored images says so before it begins."""

from pathlib import Path

import pytest

from tests.made_stores import SIZE, frames_store, made_dataset
from unialign.pipeline.config import Config
from unialign.pipeline.training.preparation import Options
from unialign.pipeline.training.run_data import data_rows, report_of
from unialign.pipeline.training.train import config_from, prepare_run
from unialign.stages.training.settings import TrainSettings

SIDE = min(SIZE)


@pytest.mark.parametrize(("stored", "seen"), [(SIDE, SIDE), (SIDE, SIDE + 12), (None, SIDE + 12)])
def test_enlarged_images_are_said_so(tmp_path: Path, stored: int | None, seen: int) -> None:
    dataset = made_dataset()
    reader = frames_store(tmp_path, dataset, fields={"parameters": {"short_side": stored} if stored else {}})
    model = {"backbone": "tsm-resnet10", "num_frames": 2, "image_size": seen, "modalities": ["video"]}
    prepared = prepare_run(
        "unialign",
        dataset,
        protocol=None,
        readers={"frames": reader},
        config=config_from("unialign", model),
        settings=TrainSettings(device="cpu"),
        options=Options(),
    )
    said = [each for each in report_of(prepared, data_rows(prepared)).sentences() if "enlarged" in each]
    if stored == SIDE < seen:
        assert said == [
            "images are stored with a shorter side of 20 pixels and enlarged to 32, which adds cost and no detail: set "
            "image_size to 20 or less, or extract frames with --short-side 32 or more."
        ]
    else:
        assert not said


def test_by_default_images_are_stored_larger_than_they_are_seen() -> None:
    config = Config()
    seen = (config.train.unialign.image_size, config.train.art.image_size, config.train.alt.image_size)
    assert config.extract.frames.short_side == 256 > max(seen)
