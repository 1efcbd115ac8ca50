"""Contract of the encoder `motion` of pose features: features of cached poses without any weights."""

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.pipeline.made_utd import called, write_files
from unialign.cli import app
from unialign.errors import UsageError

MOTION = "extract.pose_features.encoder=motion"


def test_features_without_weights_are_extracted_and_have_a_baseline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    where = ("--dataset", "utd-mhad", "--root", write_files(tmp_path / "files"), "--json")
    called("extract", "poses", "--source", "skeleton", *where)
    found = json.loads(called("extract", "pose-features", MOTION, *where).splitlines()[-1])
    assert (found["extracted"], found["quarantined"]) == (10, {})
    assert Path(found["store"]).name.startswith("motion-")
    rows = json.loads(called("baseline", "--features", "pose-features", *where).splitlines()[-1])["rows"]
    assert max(row["top1"] for row in rows) == 1
    # Another collection that was extracted with the same settings has stores of the same names and keys.
    collection = Path(found["store"]).parents[1]
    shutil.copytree(collection, collection.with_name("another"))
    again = called("baseline", "--features", "pose-features", *where)
    assert [row["top1"] for row in json.loads(again.splitlines()[-1])["rows"]] == [row["top1"] for row in rows]
    # Without weights there is nothing else to extract, which is said; "network" insists on some.
    unasked = called("extract", "pose-features", *where)
    assert json.loads(unasked.splitlines()[-1])["store"] == found["store"]
    (said,) = CliRunner().invoke(app, ("extract", "pose-features", *map(str, where))).stderr.splitlines()[:1]
    assert said.startswith("without --weights of a skeleton network")
    network = ("extract", "pose-features", "extract.pose_features.encoder=network", *map(str, where))
    assert "need a skeleton encoder" in str(CliRunner().invoke(app, network).exception)
    superfluous = ("extract", "pose-features", MOTION, "--weights", "encoder.pt", *map(str, where))
    refused = CliRunner().invoke(app, superfluous)
    assert isinstance(refused.exception, UsageError)
    assert "has no weights; leave out --weights" in str(refused.exception)
