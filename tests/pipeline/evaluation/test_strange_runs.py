"""Contract of untrusted run folders: whatever their files say, an answer or one sentence, never a traceback."""

import io
import json
import shutil
from collections.abc import Callable, Iterator
from copy import deepcopy
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from tests.made_stores import CLASSES
from tests.pipeline.made_training import tiny_training, validated_dataset
from unialign.cache.keys import digest
from unialign.errors import DamagedStore, UnialignError
from unialign.pipeline.ablation.results import hits_of
from unialign.pipeline.evaluation.compare_runs import compare_runs, rows_of_difference
from unialign.pipeline.evaluation.evaluate import evaluate_run
from unialign.pipeline.evaluation.evaluate_elsewhere import needed_elsewhere
from unialign.pipeline.evaluation.gallery import draw_run
from unialign.pipeline.training import run_folder
from unialign.pipeline.training.run_folder import memory_of
from unialign.pipeline.training.train import RunResult

DATASET = validated_dataset(8, 4, 8)
STRANGE: tuple[Any, ...] = (None, True, -1, 1e300, "x", [], {}, [1], {"x": 1}, {"key": 1}, [["x"]])
GONE = object()
READ = {"config.yaml": yaml.safe_load, "keys.json": json.loads, "env.json": json.loads, "memory.json": json.loads}


@pytest.fixture(scope="module")
def finished(made_caches: Path, tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    return tiny_training(made_caches, tmp_path_factory.mktemp("runs"), dataset=DATASET, epochs=1)


@pytest.fixture
def run(finished: RunResult, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished.folder, tmp_path / finished.folder.name))


def changed(value: Any, place: tuple[Any, ...], new: Any) -> Any:
    """The same value with another one in a place, or without what is there."""
    name, *rest = place
    copied = dict(value) if isinstance(value, dict) else list(value)
    if rest:
        copied[name] = changed(copied[name], tuple(rest), new)
    elif new is GONE:
        del copied[name]
    else:
        copied[name] = new
    return copied


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in a value; of lists the first one only."""
    if at:
        yield at
    inner = value.items() if isinstance(value, dict) else enumerate(value[:1]) if isinstance(value, list) else ()
    for name, each in inner:
        yield from places(each, (*at, name))


def sign(run: Path, **fields: Any) -> None:
    """Give result.json these fields and the digests of everything as it is now, as a stranger can."""
    path = run / "result.json"
    content = json.loads(path.read_text()) | fields
    content.pop("digest", None)
    if isinstance(content.get("files"), dict):
        content["files"] = {name: sha256((run / name).read_bytes()).hexdigest() for name in content["files"]}
    if content.get("predictions"):
        content["predictions"] = sha256((run / "predictions.npz").read_bytes()).hexdigest()
    path.write_text(json.dumps({**content, "digest": digest(content)}))


def answered(call: Callable[[], object]) -> bool:
    """Whether a call answers; `UnialignError` of one line is the only other end."""
    message = ""
    try:
        call()
    except UnialignError as error:
        message = str(error)
    assert "\n" not in message
    return not message


def compared(run: Path, other: Path) -> Callable[[], object]:
    return lambda: [list(rows_of_difference(compare_runs(*pair))) for pair in ((run, other), (other, run))]


@pytest.fixture
def parsed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same text of YAML is parsed once: that takes most of the time of a comparison."""
    parsed = lru_cache(run_folder.read_yaml)
    monkeypatch.setattr(run_folder, "read_yaml", lambda text: deepcopy(parsed(text)))


@pytest.mark.usefixtures("parsed_once")
@pytest.mark.parametrize("name", [*READ, "result.json"])
def test_whatever_a_field_says_two_runs_are_compared_or_the_field_is_named(
    run: Path, finished: RunResult, name: str
) -> None:
    path = run / name
    before, result = path.read_text(), (run / "result.json").read_text()
    read = READ.get(name, json.loads)
    value, refused = read(before), 0
    for place in places(value):
        for new in (*STRANGE, GONE):
            (run / "result.json").write_text(result)
            strange = changed(value, place, new)
            if name == "result.json":
                strange.pop("digest", None)
                path.write_text(json.dumps({**strange, "digest": digest(strange)}))
            else:
                path.write_text(json.dumps(strange))  # which is YAML too
                sign(run)
            refused += not answered(compared(run, finished.folder))
            answered(lambda: memory_of(run))
    assert refused > 10 or name == "memory.json"


def test_libraries_that_are_no_object_are_named(run: Path, finished: RunResult) -> None:
    machine = json.loads((run / "env.json").read_text())
    (run / "env.json").write_text(json.dumps({**machine, "libraries": "torch"}))
    sign(run)
    with pytest.raises(DamagedStore, match=r"env.json .*libraries: .*; it is not the file of a run"):
        compare_runs(run, finished.folder)


EVALUATED = [
    *(("config.yaml", (name,), new) for name in ("unialign", "settings", "templates") for new in (GONE, "x", [1])),
    *(("config.yaml", (name,), new) for name in ("shots", "val_share", "entities") for new in ("x", -1, [1], True)),
    ("config.yaml", ("model",), "dvta"),
    ("config.yaml", ("model",), ["unialign"]),
    ("config.yaml", ("protocol",), 5),
    ("config.yaml", ("unialign", "width"), "wide"),
    ("config.yaml", ("unialign", "width"), 32),
    ("config.yaml", ("settings", "batch_size"), 0),
    ("config.yaml", ("settings", "unknown"), 0),
    ("keys.json", ("stores",), {}),
    ("keys.json", ("stores", "frames", "store"), "../../elsewhere/frames/x.zarr"),
    ("keys.json", ("stores", "frames", "store"), "/etc"),
    ("keys.json", ("stores", "frames", "store"), "a/../b"),
    ("keys.json", ("classes",), "x"),
    ("keys.json", ("classes",), [1]),
    ("keys.json", ("run",), "0" * 64),
    *(("result.json", (name,), new) for name in ("metrics", "best", "data", "files") for new in (GONE, "x", [1])),
    ("result.json", ("best",), {"epoch": "x", "test": [1]}),
]


@pytest.mark.parametrize(("name", "place", "new"), EVALUATED)
def test_a_strange_run_is_evaluated_or_named(
    run: Path, made_caches: Path, name: str, place: tuple[Any, ...], new: Any
) -> None:
    value = READ.get(name, json.loads)((run / name).read_text())
    strange = changed(value, place, new)
    (run / name).write_text(yaml.safe_dump(strange) if name == "config.yaml" else json.dumps(strange))
    sign(run)
    done = [
        answered(lambda: evaluate_run(run, DATASET, cache=made_caches)),
        place == ("best",) or answered(lambda: evaluate_run(run, DATASET, cache=made_caches, which="best")),
        answered(lambda: draw_run(run, DATASET, made_caches, num_samples=1)),
    ]
    assert not answered(lambda: needed_elsewhere(run))  # UniAlign knows the classes of its training only
    # What older runs lack may be missing.
    assert all(done) == (new is GONE and place[0] in ("templates", "best", "data", "files"))


def test_settings_that_the_model_lacks_are_named(run: Path, made_caches: Path) -> None:
    config = yaml.safe_load((run / "config.yaml").read_text())
    del config["unialign"]
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    sign(run)
    with pytest.raises(DamagedStore, match=r"config.yaml lacks unialign, the settings of its model; it is not the"):
        evaluate_run(run, DATASET, cache=made_caches)
    with pytest.raises(DamagedStore, match="lacks unialign"):
        needed_elsewhere(run)


def arrays(**more: Any) -> Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]:
    return lambda stored: {name: value for name, value in {**stored, **more}.items() if value is not None}


@pytest.mark.parametrize(
    "change",
    [
        arrays(ids=None),
        arrays(probabilities=None),
        arrays(labels=None),
        arrays(labels=np.full(8, -1)),
        arrays(labels=np.zeros(3, dtype=np.int64)),
        arrays(labels=np.zeros(8)),
        arrays(ids=np.arange(8)),
        arrays(probabilities=np.zeros(8)),
        arrays(probabilities=np.zeros((8, 0))),
        arrays(probabilities=np.full((8, len(CLASSES)), "x")),
        arrays(probabilities=np.zeros((7, len(CLASSES)))),
    ],
)
def test_strange_predictions_are_named(
    run: Path, made_caches: Path, change: Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]
) -> None:
    with np.load(run / "predictions.npz") as stored:
        made = change(dict(stored))
    buffer = io.BytesIO()
    np.savez(buffer, **made)
    (run / "predictions.npz").write_bytes(buffer.getvalue())
    sign(run)
    for call in (
        lambda: evaluate_run(run, DATASET, cache=made_caches),
        lambda: hits_of(run),
        lambda: draw_run(run, DATASET, made_caches),
    ):
        with pytest.raises(DamagedStore, match=r"predictions.npz"):
            call()


def test_predictions_of_other_classes_are_not_drawn(run: Path, made_caches: Path) -> None:
    with np.load(run / "predictions.npz") as stored:
        made = arrays(labels=np.full(8, 99))(dict(stored))
    np.savez(run / "predictions.npz", **made)
    sign(run)
    with pytest.raises(DamagedStore, match=r"predictions.npz is of 100 classes, and tiny has 4"):
        draw_run(run, DATASET, made_caches)


@pytest.mark.parametrize("text", ["", "part,id\n", "part,id,label,frames\ntest,x\n", "part,id,label\n\n", 'a"\0', "x"])
def test_a_strange_table_of_samples_is_named(run: Path, made_caches: Path, finished: RunResult, text: str) -> None:
    (run / "data.csv").write_text(text)
    keys = json.loads((run / "keys.json").read_text())
    (run / "keys.json").write_text(json.dumps({**keys, "data": sha256(text.encode()).hexdigest()}))
    sign(run)
    with pytest.raises(DamagedStore, match=r"data.csv"):
        compare_runs(run, finished.folder)
    with pytest.raises(DamagedStore, match=r"data.csv"):
        evaluate_run(run, DATASET, cache=made_caches)
