"""Published video data sets: official names, lists, class orders and sizes, on generated trees and on real lists."""

import json
from collections import Counter
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import pytest

from unialign.errors import UsageError
from unialign.pipeline.dataset_check import check_dataset
from unialign.stages.datasets.base import Dataset
from unialign.stages.datasets.catalog import DATASETS, load_dataset

# Official names of the first and last classes, in the order of labels.
EDGES = {
    "ucf101": ("apply eye makeup", "yo yo"),
    "hmdb51": ("brush hair", "wave"),
    "diving48": ("Back, 15som, 05Twis, FREE", "Reverse, Dive, NoTwis, PIKE"),
    "ssv2": ("Approaching something with your camera", "Wiping something off of something"),
    "k400": ("abseiling", "zumba"),
    "k600": ("abseiling", "zumba"),
    "k700": ("abseiling", "zumba"),
}


def names_of(shared: Path, name: str) -> list[str]:
    """The official class names in the order of labels, as label maps of mmaction2 and pyskl have them."""
    maps = shared / "text" / "label_maps_mmaction2"
    places = {
        "ucf101": maps / "ucf101" / "label_map.txt",
        "hmdb51": maps / "hmdb51" / "label_map.txt",
        "diving48": maps / "diving48" / "label_map.txt",
        "ssv2": maps / "sthv2" / "label_map.txt",
        **{f"k{number}": maps / "kinetics" / f"label_map_k{number}.txt" for number in (400, 600, 700)},
    }
    return places[name].read_text().splitlines()


def touched(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def spread(count: int, classes: list[str]) -> Iterator[tuple[int, str]]:
    """Numbers of clips with a class each, every class about as often."""
    return ((at, classes[at % len(classes)]) for at in range(count))


def make_ucf101(root: Path, classes: list[str]) -> list[str]:
    lists = root / "ucfTrainTestlist"
    lists.mkdir(parents=True)
    (lists / "classInd.txt").write_text("".join(f"{at} {name}\n" for at, name in enumerate(classes, 1)))
    for number, sizes in enumerate(DATASETS["ucf101"].sizes.values(), 1):
        first = [f"{name}/v_{name}_g{at:05d}_c01.avi" for at, name in spread(sum(sizes.values()), classes)]
        train, test = first[: sizes["train"]], first[sizes["train"] :]
        numbered = [f"{clip} {classes.index(clip.split('/')[0]) + 1}" for clip in train]
        (lists / f"trainlist0{number}.txt").write_text("\r\n".join(numbered))
        (lists / f"testlist0{number}.txt").write_text("\n".join(test))
    here = [f"v_{name}_g{at:05d}_c01" for at, name in spread(300, classes)]
    for clip in here:
        touched(root / "UCF-101" / clip.split("_")[1] / f"{clip}.avi")
    return here


def make_hmdb51(root: Path, classes: list[str]) -> list[str]:
    for number in (1, 2, 3):
        for name in classes:
            # 70 and 30 clips of each class, and some that the split does not use.
            lines = [f"{name}_clip_{at}.avi {1 if at < 70 else 2 if at < 100 else 0} " for at in range(110)]
            path = root / "splits" / f"{name}_test_split{number}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("\n".join(lines))
    for name in classes:
        touched(root / "videos" / name / f"{name}_clip_5.avi")
    return [f"{name}/{name}_clip_5" for name in classes]


def make_diving48(root: Path, classes: list[str]) -> list[str]:
    vocab = [name.split("+") if "+" in name else [name] for name in classes]
    root.mkdir(parents=True)
    (root / "Diving48_vocab.json").write_text(json.dumps(vocab))
    begin = 0
    for part, count in DATASETS["diving48"].sizes["official"].items():
        entries = [{"vid_name": f"_8Vy{begin + at:07d}", "label": at % 48, "start_frame": 0} for at in range(count)]
        (root / f"Diving48_V2_{part}.json").write_text(json.dumps(entries))
        begin += count
    return [touched(root / "rgb" / f"_8Vy{at:07d}.mp4").stem for at in range(96)]


def make_ssv2(root: Path, classes: list[str]) -> list[str]:
    root.mkdir(parents=True)
    (root / "labels.json").write_text(json.dumps({name: str(at) for at, name in enumerate(classes)}))
    begin = 1
    for kind, part in (("train", "train"), ("validation", "val")):
        entries = [
            {
                "id": str(begin + at),
                "label": "pushing a pen",
                "template": name.replace("something", "[something]"),
                "placeholders": ["a pen"],
            }
            for at, name in spread(DATASETS["ssv2"].sizes["official"][part], classes)
        ]
        (root / f"something-something-v2-{kind}.json").write_text(json.dumps(entries))
        begin += len(entries)
    (root / "test.json").write_text('[{"id": "9"}]')
    return [touched(root / "videos" / f"{at}.webm").stem for at in range(1, 200)]


def make_kinetics(name: str) -> Callable[[Path, list[str]], list[str]]:
    def make(root: Path, classes: list[str]) -> list[str]:
        root.mkdir(parents=True)
        sizes = DATASETS[name].sizes["official"] if name == "k400" else {"train": 1400, "val": 700}
        for part, word in (("train", "train"), ("val", "validate")):
            rows = [
                f'"{label}",{part}{at:07d}x,{at % 100},{at % 100 + 10},{word},0'
                for at, label in spread(sizes[part], classes)
            ]
            (root / f"{word}.csv").write_text("\n".join(["label,youtube_id,time_start,time_end,split,is_cc", *rows]))
        (root / "test.csv").write_text("youtube_id,time_start,time_end,split\nabcdefghijk,3,13,test\n")
        here = [f"train{at:07d}x_{at % 100:06d}_{at % 100 + 10:06d}" for at in range(len(classes))]
        for at, clip in enumerate(here):
            touched(root / "train" / classes[at].replace(" ", "_") / f"{clip}.mp4")
        return here

    return make


MAKERS: dict[str, Callable[[Path, list[str]], list[str]]] = {
    "ucf101": make_ucf101,
    "hmdb51": make_hmdb51,
    "diving48": make_diving48,
    "ssv2": make_ssv2,
    **{f"k{number}": make_kinetics(f"k{number}") for number in (400, 600, 700)},
}


@pytest.mark.parametrize("name", list(MAKERS))
def test_names_classes_and_sizes_are_the_official_ones(tmp_path: Path, shared_data: Path, name: str) -> None:
    official = names_of(shared_data, name)
    here = MAKERS[name](tmp_path / "data", official)
    touched(tmp_path / "data" / "other" / "stranger.mp4")
    dataset = load_dataset(name, tmp_path / "data")
    assert [sample.id for sample in dataset.samples] == sorted(here)
    assert len(dataset.classes) == len(official)
    assert dataset.mirror == (name != "ssv2")
    report = check_dataset(dataset)
    for part in report["parts"]:
        published = DATASETS[name].sizes.get(part["protocol"], {}).get(part["part"], part["published"])
        if name not in ("k600", "k700"):  # lists of one size are enough to be read
            assert part["listed"] == published == part["published"]
        assert part["missing"] == part["listed"] - part["found"]
        assert len(part["examples"]) == min(10, part["missing"])
    assert {part["protocol"] for part in report["parts"]} == set(DATASETS[name].sizes or {"official"})
    assert sum(part["found"] for part in report["parts"]) == len(here) * len(dataset.protocols)
    assert any("1 videos are in no list" in note for note in dataset.notes)
    by_class = Counter(dataset.classes[sample.label] for sample in dataset.samples)
    assert len(by_class) == min(len(here), len(official))


@pytest.mark.parametrize("name", ["gym99", "gym288"])
def test_the_real_lists_of_finegym(tmp_path: Path, shared_data: Path, name: str) -> None:
    for path in (shared_data / "text" / "finegym").glob(f"{name}_*"):
        (tmp_path / path.name).write_text(path.read_text())
    lines = (tmp_path / f"{name}_val_element.txt").read_text().split("\n")[:200]
    for line in lines:
        touched(tmp_path / "subactions" / f"{line.split()[0]}.mp4")
    dataset = load_dataset(name, tmp_path)
    assert {sample.id: str(sample.label) for sample in dataset.samples} == dict(line.split() for line in lines)
    assert len(dataset.classes) == len(set(dataset.classes)) == int(name[3:])
    assert dataset.classes[0].startswith("(VT) round-off, flic-flac with 0.5 turn on")
    # One name in two sets of the official list.
    assert {"(BB) salto backward tucked, flight salto", "(BB) salto backward tucked, dismount"} <= set(dataset.classes)
    parts = {part["part"]: part for part in check_dataset(dataset)["parts"]}
    sizes = DATASETS[name].sizes["official"]
    assert (parts["train"]["listed"], parts["test"]["listed"]) == (sizes["train"], sizes["val"])
    assert (parts["train"]["found"], parts["test"]["found"]) == (0, 200)
    assert dataset.split().test == tuple(sorted(line.split()[0] for line in lines))


def write(root: Path, **files: str) -> Path:
    root.mkdir(exist_ok=True)
    for name, text in files.items():
        (root / name.replace("__", ".")).write_text(text)
    touched(root / "v" / "a.mp4")
    return root


GYM = "".join(f"Clabel: {at}; set: 1; Glabel: {at}; (VT) element {at}\n" for at in range(99))
CLIP = "A0xAXXysHUo_E_002184_002237_A_0035_0036"
KINETICS = "label,youtube_id,time_start,time_end,split\n"


@pytest.mark.parametrize(
    ("name", "files", "problem"),
    [
        ("ucf101", {}, "the official list classInd.txt is needed below it, and there is none"),
        ("ucf101", {"classInd__txt": "2 A\n"}, "is not `1 <class>`"),
        ("ucf101", {"classInd__txt": "1 A\n"}, "trainlist01.txt and testlist01.txt are needed"),
        ("ucf101", {"classInd__txt": "1 A\n", "trainlist01__txt": "B/v.avi 1"}, "of one of the 1 classes"),
        (
            "ucf101",
            {"classInd__txt": "1 A\n2 B\n", "trainlist01__txt": "A/v.avi 1", "testlist01__txt": "A/v.avi"},
            "in both parts of split 1",
        ),
        (
            "ucf101",
            {"classInd__txt": "1 A\n2 B\n", "trainlist01__txt": "A/v.avi 1", "testlist01__txt": "A/w.avi"},
            "none of the 2 listed clips is below it",
        ),
        ("hmdb51", {}, "the official lists brush_hair_test_split1.txt"),
        ("hmdb51", {"wave_test_split1__txt": "clip 1"}, "is not `<clip>.avi` and 0, 1 or 2"),
        ("diving48", {}, "Diving48_vocab.json is needed"),
        ("diving48", {"Diving48_vocab__json": "[[]]"}, "is no list of 48 dives"),
        ("diving48", {"Diving48_vocab__json": "{"}, "is no JSON"),
        (
            "diving48",
            {"Diving48_vocab__json": json.dumps([["x", str(at)] for at in range(48)])},
            "V2_train.json is needed",
        ),
        (
            "diving48",
            {
                "Diving48_vocab__json": json.dumps([["x", str(at)] for at in range(48)]),
                "Diving48_V2_train__json": '[{"vid_name": "a", "label": 48}]',
            },
            "entry 0 has no 'vid_name' and 'label'",
        ),
        ("ssv2", {}, "the official list labels.json is needed"),
        ("ssv2", {"labels__json": '{"A": "1"}'}, "is no object of templates"),
        (
            "ssv2",
            {"labels__json": '{"A": "0"}', "train__json": '[{"id": "1", "template": "B"}]'},
            "entry 0 has no 'id'",
        ),
        ("k400", {}, "the official CSV files"),
        ("k400", {"train__csv": KINETICS + "a,b\n"}, "line 2 has 2 of the 5 cells"),
        ("k400", {"train__csv": KINETICS + "a,abcdefghijk,x,5,train\n"}, "no start and end in seconds"),
        ("k400", {"train__csv": KINETICS + "a,abcdefghijk,1,5,train\nb,abcdefghijk,1,5,train\n"}, "is listed twice"),
        (
            "k400",
            {"train__csv": KINETICS + "a,abcdefghijk,1,5,train\nb,abcdefghijk,1,6,validate\n"},
            "no training clip",
        ),
        ("gym99", {}, "the official list gym99_categories.txt is needed"),
        ("gym99", {"gym99_categories__txt": GYM[:-1] + "0"}, "gym99_train_element_v1.1.txt is needed"),
        ("gym99", {"gym99_categories__txt": GYM.replace("Clabel: 7;", "Clabel: 8;")}, "is no list of 99 lines"),
        (
            "gym99",
            {"gym99_categories__txt": GYM, "gym99_train_element__txt": f"{CLIP} 99"},
            "is no clip and label from 0 to 98",
        ),
        (
            "gym99",
            {"gym99_categories__txt": GYM, "gym99_train_element__txt": "x 1", "gym99_train_element_v1.1__txt": "x 1"},
            "are both one",
        ),
    ],
)
def test_lists_of_another_form_are_refused(tmp_path: Path, name: str, files: dict[str, str], problem: str) -> None:
    with pytest.raises(UsageError, match=problem) as raised:
        load_dataset(name, write(tmp_path / "data", **files))
    assert str(tmp_path) in str(raised.value)


def test_clips_of_kinetics_are_cut_from_whole_videos_that_lie_here(tmp_path: Path) -> None:
    rows = "a,abcdefghijk,1,5.5,train\nb,abcdefghijk,7,9,validate\na,-_cdefghijk,2,4,train\nb,zzzdefghijk,2,4,train\n"
    root = write(tmp_path / "data", train__csv=KINETICS + rows)
    whole, trimmed = touched(root / "abcdefghijk.webm"), touched(root / "c" / "abcdefghijk_000007_000009.mp4")
    frames = touched(root / "-_cdefghijk_000002_000004" / "img_00001.jpg").parent
    dataset = load_dataset("k400", root)
    assert {sample.id: (sample.files["video"], sample.span) for sample in dataset.samples} == {
        "abcdefghijk_000001_000006": (whole, (Fraction(1), Fraction(11, 2))),
        "abcdefghijk_000007_000009": (trimmed, None),
        "-_cdefghijk_000002_000004": (frames, None),
    }
    assert "1 clips are cut from whole videos" in dataset.notes
    assert "official: 1 of 3 listed train clips are not here" in dataset.notes


def finegym(root: Path, times: object) -> Path:
    files = {
        "gym99_categories__txt": GYM,
        "gym99_train_element__txt": f"{CLIP} 7",
        "gym99_val_element__txt": f"{CLIP[:-11]}A_0040_0041 8",
        "finegym_annotation_info_v1.1__json": json.dumps(times),
    }
    root = write(root, **files)
    touched(root / "whole" / "A0xAXXysHUo.mp4")
    return root


def test_elements_of_finegym_are_cut_from_whole_videos_by_the_times_of_their_event(tmp_path: Path) -> None:
    event = {
        "timestamps": [[2184.5, 2237.1]],
        "segments": {"A_0035_0036": {"stages": 2, "timestamps": [[35.25, 35.9], [35.9, 36.75]]}, "A_0040_0041": None},
    }
    times = {
        "A0xAXXysHUo": {"E_002184_002237": event, "E_003000_003010": {"timestamps": [[3000, 3010]], "segments": None}}
    }
    event["segments"]["A_0040_0041"] = {"timestamps": [[40, 41]]}  # type: ignore[index]
    dataset = load_dataset("gym99", finegym(tmp_path / "data", times))
    first, second = dataset.samples
    assert (first.id, first.span) == (CLIP, (Fraction("2219.75"), Fraction("2221.25")))
    assert second.span == (Fraction("2224.5"), Fraction("2225.5"))
    assert dataset.split().test == (second.id,)
    # A clip that was cut before is taken as it is.
    clip = touched(tmp_path / "data" / "sub" / f"{CLIP}.mp4")
    again = load_dataset("gym99", tmp_path / "data").samples[0]
    assert (again.files["video"], again.span) == (clip, None)


@pytest.mark.parametrize(
    ("times", "problem"),
    [
        ([], "'the file' is no object"),
        ({"v": {"e": []}}, "'e' is no object"),
        ({"v": {"e": {"timestamps": [[1]]}}}, "timestamps of 'v e' are not"),
        ({"v": {"e": {"timestamps": [[2, 1]]}}}, "timestamps of 'v e' are not"),
        ({"v": {"e": {"timestamps": [[1, 1e9]]}}}, "timestamps of 'v e' are not"),
        ({"v": {"e": {"timestamps": [[1, 2]], "segments": {"a": {"timestamps": []}}}}}, "timestamps of 'v e a' are"),
        ({"v": {"e": {"timestamps": [[1, 2]], "segments": {"a": 3}}}}, "'v e a' is no object"),
    ],
)
def test_annotations_of_finegym_of_another_form_are_refused(tmp_path: Path, times: object, problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        load_dataset("gym99", finegym(tmp_path / "data", times))


def test_two_videos_of_a_clip_and_links_outside_are_refused(tmp_path: Path) -> None:
    root = write(tmp_path / "data", train__csv=KINETICS + "a,abcdefghijk,1,5,train\n")
    clip = touched(root / "x" / "abcdefghijk_000001_000005.mp4")
    assert isinstance(load_dataset("k400", root), Dataset)
    touched(root / "y" / clip.name)
    with pytest.raises(UsageError, match="two videos of one clip"):
        load_dataset("k400", root)
    (root / "y" / clip.name).unlink()
    outside = touched(tmp_path / "outside.mp4")
    clip.unlink()
    clip.symlink_to(outside)
    with pytest.raises(UsageError, match="leads out of the data root"):
        load_dataset("k400", root)
