"""`extract poses` with an ONNX file: which extractor it becomes, and what the joints are called."""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from tests import made_rtm
from tests.cache.test_store import tree_digest
from tests.stages.extraction.test_rtm_poses import BLUE, RED, frame
from unialign.cache.reader import StoreReader
from unialign.cli import app
from unialign.errors import UsageError
from unialign.pipeline.extraction import executors, together
from unialign.pipeline.extraction.executors import Job
from unialign.pipeline.extraction.joint_layout import joint_layout
from unialign.pipeline.extraction.supervisor import Supervisor
from unialign.pipeline.extraction.supply import Supply
from unialign.stages.skeleton_layouts import COCO_17, layout_in
from unialign.stages.video import encode_clip

OWN = """
joints: [head, hips, left foot, right foot]
edges: [[0, 1], [2, 1], [1, 3]]
"""


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two clips of two classes."""
    for name, color in (("wave", RED), ("jump", BLUE)):
        (tmp_path / "data" / name).mkdir(parents=True)
        encode_clip(tmp_path / "data" / name / "a.mp4", [frame((color, (20, 10, 60, 100)))] * 3, fps=10, crf=10)
    return tmp_path / "data"


def test_own_joints_of_an_onnx_file_come_into_the_store(data: Path, tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text(OWN)
    weights = made_rtm.rtmo(tmp_path / "end2end.onnx", [RED, BLUE], [0.9, 0.8], num_joints=4)
    words = ["extract", "poses", "--dataset", "folder", "--root", data, "--cache", tmp_path / "cache"]
    words += ["--weights", weights, "--layout", tmp_path / "own.yaml", "--device", "cpu", "--json"]
    done = CliRunner().invoke(app, list(map(str, words)))
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert (found["extracted"], found["quarantined"]) == (2, {})
    reader = StoreReader(Path(found["store"]))
    layout = layout_in(reader.array_attributes("keypoints"))
    assert layout is not None
    assert layout.joints == ("head", "hips", "left foot", "right foot")
    assert layout.mirror == (0, 1, 3, 2)
    assert reader.read_one(reader.ids[0])["keypoints"].shape == (3, 2, 4, 3)
    assert reader.store.attributes["licence"].startswith("Apache-2.0")


@pytest.mark.parametrize("how", [["--join"], ["--cluster", "local:1"]])
def test_extract_all_gives_the_same_bytes_with_others_and_on_one_cluster(
    data: Path, tmp_path: Path, how: list[str], monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    begun: list[str] = []

    @contextmanager
    def connected(cluster: str, threads: int, allowed_failures: int) -> Iterator[SimpleNamespace]:
        begun.append(cluster)
        yield SimpleNamespace(dashboard_link="here")

    def alone(job: Job, extractor: Any) -> Supervisor:
        supervisor = Supervisor(extractor, job.threads, job.limits)
        request.addfinalizer(supervisor.close)
        return supervisor

    # What Dask's workers do is tested elsewhere; here, that one cluster serves all modalities.
    monkeypatch.setattr("unialign.pipeline.extraction.clusters.connected", connected)

    def run_here(client: object, run: Callable[[Any], Any], supply: Supply[Any]) -> Iterator[Any]:
        return map(run, supply.take(sys.maxsize))

    for module in (executors, together):
        monkeypatch.setattr(module, "run_dask", run_here)
        monkeypatch.setattr(module, "supervisor_on_worker", alone)
    weights = made_rtm.rtmo(tmp_path / "end2end.onnx", [RED, BLUE], [0.9, 0.8])
    words = ["extract", "all", "--dataset", "folder", "--root", str(data), "--weights", str(weights), "--json"]
    words += ["--device", "cpu", "--threads", "1"]
    stores: list[dict[str, str]] = []
    for cache, more in (("alone", []), ("shared", how), ("shared", how)):
        done = CliRunner().invoke(app, [*words, "--cache", str(tmp_path / cache), *more])
        assert done.exit_code == 0, done.output
        found = json.loads(done.stdout.splitlines()[-1])["extractions"]
        # One decoding for both.
        assert found[0].get("speed") == found[1].get("speed")
        stores.append({each["modality"]: tree_digest(Path(each["store"])) for each in found})
    assert list(stores[0]) == ["poses", "frames", "text"]
    assert stores[0] == stores[1] == stores[2]
    assert [each["extracted"] for each in found] == [0, 0, 0]
    # The last one has nothing to do, and begins none.
    assert begun == (["local:1"] if "--cluster" in how else [])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--backend", "openvino"], "is run by ONNX Runtime as it is"),
        (["--precision", "bf16"], "is run by ONNX Runtime as it is"),
        (["--detector", "absent.onnx"], "no such file"),
        (["--layout", "ntu-99"], "unknown joint layout 'ntu-99'"),
    ],
)
def test_what_does_not_go_with_an_onnx_file_is_one_clear_error(
    data: Path, tmp_path: Path, flags: list[str], message: str
) -> None:
    weights = made_rtm.rtmo(tmp_path / "end2end.onnx", [RED], [0.9])
    words = ["extract", "poses", "--dataset", "folder", "--root", data, "--cache", tmp_path / "cache"]
    done = CliRunner().invoke(app, [*map(str, words), "--weights", str(weights), *flags])
    assert isinstance(done.exception, UsageError)
    assert message in str(done.exception)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("joints: [a, b", "is not valid YAML"),
        ("[1, 2]", "should have `joints`"),
        ("joints: [a, b]\nedges: [[0, one]]", "pairs of numbers"),
        ("joints: [a, b, c]\nedges: [[0, 1]]", "do not connect 3 joints"),
    ],
)
def test_a_file_that_describes_no_joints_is_one_clear_error(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "own.yaml").write_text(text)
    with pytest.raises(UsageError, match=message):
        joint_layout(str(tmp_path / "own.yaml"))


def test_a_name_is_the_layout_of_the_table() -> None:
    assert joint_layout("coco-17") == COCO_17
