"""Contract of a system from elsewhere: an entry point is all it takes to configure, train and evaluate it."""

from pathlib import Path
from typing import Any

import pytest

from tests.forked_command import run_forked, said_by_forked
from tests.made_stores import frames_store, made_dataset
from unialign.pipeline.manifest import save_manifest

pytestmark = pytest.mark.usefixtures("fork_server")

ROW = """
from pydantic import Field
from unialign import Settings, SystemRow

class MeanColorConfig(Settings, strict=True):
    num_frames: int = Field(2, ge=1, description="Frames of a clip.")
    image_size: int = Field(16, ge=1, description="Side of the images.")

ROW = SystemRow(MeanColorConfig, "mean_color.system:MEAN_COLOR")
"""
SYSTEM = """
import torch
from torch import nn
from unialign import System
from unialign.pipeline.systems.base import ClassSpecificWeights, Example
from unialign.pipeline.systems.unialign import frames_of
from unialign.pipeline.training.preparation import prepared
from unialign.stages.training.clips import Clips
from mean_color.row import MeanColorConfig

class MeanColor(nn.Linear):
    def forward(self, batch):
        return {"logits": super().forward(batch["frames"].mean(dim=(1, 3, 4)))}

    def update(self, outputs, labels):
        pass

def prepare(request):
    sides, frames = request.sides(), frames_of(request.readers["frames"], request.config)
    clips = sides.sources(lambda samples, learns: Clips(samples, frames, None, request.settings, train=learns))
    return prepared(request, sides, clips, {"num_classes": len(request.dataset.classes)})

MEAN_COLOR = System(
    config=MeanColorConfig,
    stores=lambda config: ("frames",),
    prepare=prepare,
    build=lambda config, num_classes: MeanColor(3, num_classes),
    losses=lambda model, outputs, labels: {"all": nn.functional.cross_entropy(outputs["logits"], labels)},
    class_specific=ClassSpecificWeights(("weight", "bias")),
    example=lambda config: Example(config, {"num_classes": 4}, {"frames": torch.zeros(1, 2, 3, 16, 16)}),
)
"""


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with a cache, and the folder `site` with two installed distributions, one of them broken."""
    folder = tmp_path_factory.mktemp("work")
    dataset = made_dataset()
    frames_store(folder / "cache", dataset)
    save_manifest(dataset, folder / "cache")
    package = folder / "site" / "mean_color"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "row.py").write_text(ROW)
    (package / "system.py").write_text(SYSTEM)
    for name, point in (("mean-color", "mean_color.row:ROW"), ("broken", "no_such_module:ROW")):
        info = folder / "site" / f"{name.replace('-', '_')}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[unialign.systems]\n{name} = {point}\n")
    return folder


def refused(work: Path, *words: str) -> str:
    """The message of a command that is refused."""
    return said_by_forked(*words, cwd=work, code=2, site=work / "site")[1]


def asked(work: Path, *words: str) -> dict[str, Any]:
    """What a command prints with --json."""
    return run_forked(*words, cwd=work, site=work / "site")


TRAIN = ("train", "--dataset", "tiny", "--model", "mean-color", "train.settings.epochs=1", "train.settings.device=cpu")


def test_a_system_from_elsewhere_is_trained_evaluated_and_found_again(work: Path) -> None:
    run = asked(work, *TRAIN, "train.mean_color.num_frames=3")
    assert (run["model"], set(run["keys"]), run["extracted"]) == ("mean-color", {"frames"}, 0)
    assert 0 <= run["metrics"]["top1"] <= 1
    assert "mean_color:\n  num_frames: 3\n  image_size: 16\n" in (Path(run["folder"]) / "config.yaml").read_text()
    assert asked(work, "evaluate", run["folder"])["agrees"]
    assert asked(work, *TRAIN, "train.mean-color.num-frames=3")["reused"]
    (row,) = asked(work, "models", "--only", "mean-color")["systems"]
    assert row["parameters"] == 4 * (3 + 1)


def test_its_settings_are_checked_as_ours_are(work: Path) -> None:
    error = refused(work, *TRAIN, "train.mean_color.num_frame=3")
    assert "unknown key 'train.mean_color.num_frame'; did you mean train.mean_color.num_frames?" in error
    assert "train.mean_color.num_frames: input should be greater" in refused(
        work, *TRAIN, "train.mean_color.num_frames=0"
    )


def test_a_broken_one_is_named_when_it_is_asked_for_and_stands_in_no_ones_way(work: Path) -> None:
    error = refused(work, "train", "--dataset", "tiny", "--model", "broken")
    assert error.count("\n") == 1
    assert "entry point 'broken' of unialign.systems (no_such_module:ROW) from broken 1.0 cannot be loaded" in error
    error = refused(work, "train", "--dataset", "tiny", "--model", "brocken")
    assert "no model 'brocken'; known are unialign, art, alt, dvta, stgcn++, skeleton, broken, mean-color" in error
