"""Files of strangers, a few bytes or values changed: each is read, or refused in one sentence, and never costs much.

Every format of skeletons, labels, images and features that is read; docs/security.md has the counts of longer runs.
"""

import json
import random
import resource
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from PIL import Image

from tests.reliability.mutations import VALUES, places
from tests.stages.datasets.test_pku_mmd import made as made_pku
from unialign.errors import UnialignError
from unialign.pipeline.exchange.feature_import import read_features
from unialign.stages.datasets.catalog import load_dataset
from unialign.stages.datasets.keypoint_files import read_keypoints
from unialign.stages.datasets.kinect_files import read_skeleton
from unialign.stages.extraction.base import Source
from unialign.stages.extraction.skeleton_files import SkeletonFiles
from unialign.stages.frame_folders import opened_clip

TRIED = 150
SECONDS, MEGABYTES = 5.0, 600
TOKENS = (
    b"-1",
    b"0",
    b"1e999",
    b"nan",
    b"inf",
    b"99999999999999999999",
    b"\xff\xfe",
    b"\0",
    b'"',
    b",",
    b"\n",
    b"",
    b"../x",
)
GENERATOR = np.random.default_rng(0)
PIXELS = GENERATOR.uniform(20, 400, (5, 18, 2)).round(1)


def flat(joints: np.ndarray) -> list[float]:
    return np.column_stack([joints, np.full(len(joints), 0.5)]).ravel().tolist()


def written(path: Path, content: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def openpose(root: Path) -> Path:
    for at, joints in enumerate(PIXELS):
        people = [{"person_id": [-1], "pose_keypoints_2d": flat(joints)}]
        written(root / "a" / f"a_{at:012d}_keypoints.json", {"version": 1.3, "people": people})
    return root / "a"


def alphapose(root: Path) -> Path:
    found = [
        {"image_id": f"{at}.jpg", "category_id": 1, "keypoints": flat(joints[:17]), "score": 2.5, "idx": at % 2}
        for at, joints in enumerate(PIXELS)
    ]
    return written(root / "a.json", found)


def mediapipe(root: Path) -> Path:
    person = [{"x": at / 40, "y": 0.5, "z": 0.1, "visibility": 0.9} for at in range(33)]
    frames = [{"pose_landmarks": person, "pose_world_landmarks": [person]}, None, person]
    return written(root / "a.json", {"width": 640, "height": 480, "frames": frames})


def st_gcn(root: Path) -> Path:
    person = {"pose": (PIXELS[0] / 500).ravel().tolist(), "score": [0.5] * 18}
    data = [{"frame_index": at, "skeleton": [person, person]} for at in (1, 2, 4)]
    return written(root / "a.json", {"data": data, "label": "x", "label_index": 0})


def table(root: Path) -> Path:
    header = ["frame", "person", *(f"j{at}_{kind}" for at in range(17) for kind in ("x", "y", "score"))]
    lines = [",".join(map(str, [at, 0, *flat(joints[:17])])) for at, joints in enumerate(PIXELS)]
    return written(root / "a.csv", "\n".join([",".join(header), *lines]))


def own_npz(root: Path) -> Path:
    np.savez(
        root / "a.npz",
        ids=np.array(["a", "b"]),
        labels=np.array(["x", "y"]),
        lengths=np.array([3, 2]),
        keypoints=PIXELS[:, None, :17],
        splits=np.array(["train", "test"]),
        groups=np.array(["p", "q"]),
        image_size=np.array([480, 640]),
    )
    return root / "a.npz"


def ctr_gcn(root: Path) -> Path:
    frames = GENERATOR.uniform(-1, 1, (4, 3, 150)).astype(np.float32)
    labels = np.eye(3, dtype=np.int64)[[0, 1, 2, 0]]
    np.savez(root / "a.npz", x_train=frames[:2], y_train=labels[:2], x_test=frames[2:], y_test=labels[2:])
    return root / "a.npz"


def ntu(root: Path) -> Path:
    joint = "0.1 0.2 3.0 10 20 100 200 0 0 0 1 2"
    body = ["72057594037931101 0 1 1 1 1 0 0.01 0.02 2", "25", *[joint] * 25]
    return written(
        root / "S001C001P001R001A001.skeleton",
        "\n".join(["3", "1", *body, "0", "2", *body, "7 " + body[0][18:], *body[1:]]),
    )


def rawframes(root: Path) -> Path:
    for at in range(1, 4):
        (root / "a").mkdir(exist_ok=True)
        Image.fromarray(np.full((24, 32, 3), 40 * at, np.uint8)).save(root / "a" / f"img_{at:05d}.jpg")
    return root / "a"


def labels(root: Path) -> Path:
    for name in ("a", "b", "c"):
        (root / f"{name}.mp4").touch()
    return written(
        root / "labels.csv",
        "path,label,split,start,end,subject,description\na.mp4,x,train,0,1,p,one\n"
        'b.mp4,y,test,0.5,2,q,"two, three"\nc.mp4,x,val,,,r,\n',
    )


def features(name: str, write: Callable[[Path], object]) -> Callable[[Path], Path]:
    def make(root: Path) -> Path:
        write(root / name)
        return root / name

    return make


VECTORS = GENERATOR.normal(size=(3, 4)).astype(np.float32)


def hdf5(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["features"], file["ids"] = VECTORS, np.array(["a", "b", "c"], dtype=object)


def extracted(name: str) -> Callable[[Path], object]:
    """A dataset, and all its skeletons."""

    def read(path: Path) -> object:
        dataset = load_dataset(name, path)
        assert not isinstance(dataset.skeleton_format, str)
        sources = [Source(each.id, each.files["skeleton"]) for each in dataset.samples]
        return list(SkeletonFiles(dataset.skeleton_format).run(sources))

    return read


@dataclass(frozen=True)
class Case:
    """make: (folder) -> what `read` gets; every file below the folder may be changed."""

    make: Callable[[Path], Path]
    read: Callable[[Path], object]


CASES = {
    "openpose": Case(openpose, lambda path: read_keypoints(path, "a")),
    "alphapose": Case(alphapose, lambda path: read_keypoints(path, "a")),
    "mediapipe": Case(mediapipe, lambda path: read_keypoints(path, "a")),
    "st-gcn": Case(st_gcn, lambda path: read_keypoints(path, "a")),
    "csv skeletons": Case(table, lambda path: read_keypoints(path, "a")),
    "npz skeletons": Case(own_npz, extracted("skeletons")),
    "ctr-gcn": Case(ctr_gcn, extracted("ctr-gcn")),
    "pku-mmd": Case(lambda root: made_pku(root / "set"), extracted("pku-mmd")),
    "ntu skeletons": Case(ntu, read_skeleton),
    "rawframes": Case(rawframes, lambda path: [each.shape for each in opened_clip(path).frames()]),
    "labels.csv": Case(labels, lambda path: load_dataset("folder", path.parent)),
    "features npy": Case(features("a.npy", lambda path: np.save(path, VECTORS)), read_features),
    "features npz": Case(
        features("a.npz", lambda path: np.savez(path, features=VECTORS, ids=np.array(["a", "b", "c"]))), read_features
    ),
    "features pt": Case(
        features(
            "a.pt", lambda path: torch.save({"features": torch.from_numpy(VECTORS), "ids": ["a", "b", "c"]}, path)
        ),
        read_features,
    ),
    "features csv": Case(features("a.csv", lambda path: np.savetxt(path, VECTORS, delimiter=",")), read_features),
    "features hdf5": Case(features("a.h5", hdf5), read_features),
}


def changed(data: bytes, draw: random.Random) -> bytes:
    """The bytes with one change: of a bit, a stretch, a word of text, or a value of JSON."""
    kind = draw.choice(("flip", "cut", "drop", "double", "token", "token", "json", "json"))
    at = draw.randrange(len(data)) if data else 0
    if kind == "json" and data[:1] in (b"{", b"["):
        try:
            return _value_changed(data, draw)
        except (ValueError, LookupError):
            kind = "flip"
    if kind == "token":
        # The place of a number or word, so that what is around it still makes sense.
        end = next((place for place in range(at, len(data)) if data[place] in b' ,\n"]}:'), len(data))
        return data[:at] + draw.choice(TOKENS) + data[end:]
    if kind == "cut":
        return data[:at]
    if kind == "drop":
        return data[:at] + data[at + draw.choice((1, 4, 40, 400)) :]
    if kind == "double":
        return data[:at] + data[at : at + draw.choice((1, 8, 200))] + data[at:]
    return data[:at] + bytes([data[at] ^ (1 << draw.randrange(8))]) + data[at + 1 :] if data else data


def _value_changed(data: bytes, draw: random.Random) -> bytes:
    content: Any = json.loads(data)
    way = draw.choice(list(places(content)))
    if not way:
        return json.dumps(draw.choice(VALUES)).encode()
    inner = content
    for key in way[:-1]:
        inner = inner[key]
    if draw.random() < 0.2:
        del inner[way[-1]]
    else:
        inner[way[-1]] = draw.choice(VALUES)
    return json.dumps(content).encode()


def tried(name: str, folder: Path, count: int, seed: int = 0) -> Counter[str]:
    """How many changed files were read, and how many were refused; anything else ends it."""
    draw, outcomes = random.Random(f"{name} {seed}"), Counter[str]()
    case = CASES[name]
    place = case.make(folder)
    files = {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(count):
        path = draw.choice(sorted(path for path in files if files[path]))
        data = files[path]
        for _ in range(draw.choice((1, 1, 2, 3))):
            data = changed(data, draw)
        path.write_bytes(data)
        started = time.process_time()
        outcomes[_outcome(case, place)] += 1
        assert time.process_time() - started < SECONDS
        path.write_bytes(files[path])
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert grown < MEGABYTES, f"{grown:.0f} MB"
    return outcomes


def _outcome(case: Case, place: Path) -> str:
    message = ""
    try:
        case.read(place)
    except UnialignError as error:
        message = str(error) or "nothing"
    assert len(message.splitlines()) <= 1, message
    return "refused" if message else "read"


@pytest.mark.parametrize("name", CASES)
def test_a_changed_file_is_read_or_refused_in_one_sentence(tmp_path: Path, name: str) -> None:
    outcomes = tried(name, tmp_path, TRIED)
    assert outcomes.total() == TRIED
    # The changes are neither all harmless nor all at once fatal.
    assert outcomes["refused"] >= TRIED // 20


def test_what_is_not_changed_is_read(tmp_path: Path) -> None:
    for number, (name, case) in enumerate(CASES.items()):
        (tmp_path / str(number)).mkdir()
        assert _outcome(case, case.make(tmp_path / str(number))) == "read", name
