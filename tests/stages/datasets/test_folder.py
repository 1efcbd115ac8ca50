"""Folders of videos and CSV lists: ids, classes, protocols, hostile input."""

import os
import socket
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unialign.cache.digests import file_digest
from unialign.errors import UsageError
from unialign.stages.datasets.base import Sample
from unialign.stages.datasets.folder import load_folder, slug
from unialign.stages.datasets.scan import check_name
from unialign.stages.datasets.splits import holdout, leave_groups_out
from unialign.stages.extraction.base import Outcome, Source
from unialign.stages.extraction.decoding import SourceVideo
from unialign.stages.extraction.skeleton_input import read_source


def clips(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


def test_class_folders_give_sorted_classes_and_relative_ids(tmp_path: Path) -> None:
    root = clips(
        tmp_path / "My Clips!",
        "take_off/b.MP4",
        "take_off/a.v2.avi",
        "land/c.mov",
        "land/day 1/c.webm",
        "land/notes.txt",
        ".git/x.mp4",
    )
    dataset = load_folder(root)
    assert dataset.collection == "folder-my-clips"
    assert dataset.classes == ("land", "take off")
    assert [(sample.id, sample.label) for sample in dataset.samples] == [
        ("land/c", 0),
        ("land/day 1/c", 0),
        ("take_off/a.v2", 1),
        ("take_off/b", 1),
    ]
    assert dataset.samples[0].files["video"].is_file()
    assert list(dataset.protocols) == ["holdout"]
    assert dataset.notes == ("files not taken: 1 .txt",)


def test_a_csv_gives_labels_attributes_and_protocols(tmp_path: Path) -> None:
    root = clips(tmp_path / "set", "x/1.mp4", "x/2.mp4", "y/3.mp4")
    (root / "labels.csv").write_text(
        "Path,Label,Split,Subject,description,other\n"
        "x/1.mp4,wave_hand,train,anna,slowly,9\n"
        "./x//2.mp4,clap,TEST,ben,twice,9\n"
        '\ny/3.mp4,clap,train,ben,"once, loudly",9\n'
        "gone.mp4,clap,test,ben,,9\n",
        encoding="utf-8-sig",
    )
    dataset = load_folder(root)
    assert dataset.classes == ("clap", "wave hand")
    assert dataset.descriptions == (("once, loudly",), ("slowly",))
    assert {sample.id: dict(sample.attributes) for sample in dataset.samples} == {
        "gone": {"split": "test", "subject": "ben"},
        "x/1": {"split": "train", "subject": "anna"},
        "x/2": {"split": "test", "subject": "ben"},
        "y/3": {"split": "train", "subject": "ben"},
    }
    assert dataset.samples[0].files == {}
    assert dataset.default_protocol == "split"
    assert dataset.split().test == ("gone", "x/2")
    assert list(dataset.protocols) == ["split", "group", "holdout"]
    assert set(dataset.split("group").test) in ({"x/1"}, {"gone", "x/2", "y/3"})


def test_a_csv_without_header_and_with_numbers_as_labels(tmp_path: Path) -> None:
    root = clips(tmp_path / "set", "a.mp4", "b.mp4", "c.mp4")
    (tmp_path / "list.csv").write_text("a.mp4,10\nb.mp4,9\nc.mp4,10\n")
    dataset = load_folder(root, tmp_path / "list.csv")
    assert dataset.classes == ("9", "10")
    assert [sample.label for sample in dataset.samples] == [1, 0, 1]


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (("train", "val", "test"), ("a", "b", "c")),
        (("Training", "VALIDATION", "Testing"), ("a", "b", "c")),
        (("train", "dev", "eval"), ("a", "b", "c")),
        (("train", "valid", "valid"), ("a", "", "bc")),
        (("train", "train", "test"), ("ab", "", "c")),
        (("trainset", "val_split", "Test set"), ("a", "b", "c")),
    ],
)
def test_every_name_of_a_part_is_understood(tmp_path: Path, words: tuple[str, ...], parts: tuple[str, ...]) -> None:
    root = clips(tmp_path / "set", "a.mp4", "b.mp4", "c.mp4")
    lines = "".join(f"{name}.mp4,x,{word}\n" for name, word in zip("abc", words, strict=True))
    (root / "labels.csv").write_text(f"path,label,split\n{lines}")
    split = load_folder(root).split()
    assert tuple(map("".join, (split.train, split.val, split.test))) == parts


def test_a_list_as_spreadsheets_write_it_is_read(tmp_path: Path) -> None:
    root = clips(tmp_path / "set", "a.mp4", "b.mp4", "c.mp4")
    text = ' PATH ,Label,\r\na.mp4,"jump, high",\r\n\r\nb.mp4, run ,\r\nc.mp4,run,,,\r\n'
    (root / "labels.csv").write_bytes(b"\xef\xbb\xbf" + text.encode())
    dataset = load_folder(root)
    assert dataset.classes == ("jump, high", "run")
    assert [sample.label for sample in dataset.samples] == [0, 1, 1]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "holds no lines"),
        ("path,label\n", "no clips"),
        ("name,action\na.mp4,x\n", "line 1 is neither"),
        ("path,label\n../a.mp4,x\n", r"line 2: the name '../a.mp4' holds '\.\.'"),
        ("path,label\n/etc/a.mp4,x\n", "absolute"),
        ("path,label\nC:a.mp4,x\n", "absolute"),
        ("path,label\na\\b.mp4,x\n", "backslash"),
        ("path,label\na\0b.mp4,x\n", "control character|not CSV"),
        (f"path,label\n{'a' * 300}.mp4,x\n", "304 characters"),
        ("path,label\n.,x\n", "names no file"),
        ("path,label\n,x\n", "empty name"),
        ("path,label\na.txt,x\n", "which is neither a video"),
        ("path,label\na.mp4\n", "line 2 has 1 of the 2"),
        ("path,label\na.mp4, \n", "empty label"),
        ("path,label,split\na.mp4,x,trial\n", "line 2 has the split 'trial'; known are train, training, val"),
        ("path,label,split\na.mp4,x,test\nA.mp4,y,eval\n", "both a test and an eval part"),
        ("path,label\na.mp4,jump, high\n", "line 2 has 3 cells, but line 1 has 2"),
        ("a.mp4,x\nA.mp4,jump,high\n", "line 2 has 3 cells, but line 1 has 2"),
        ("path\tlabel\na.mp4\tx\n", "separated by tabs"),
        ("path;label\na.mp4;jump, high\n", "separated by semicolons"),
        ("a.mp4|x\n", "separated by vertical bars"),
        ("path label\na.mp4 0\n", "separated by blanks"),
        ("path,label,\na.mp4,jump, high\n", "line 2 has 3 cells, but line 1 has 2"),
        ("path,label\na.mp4,x\x00y\n", "the label holds a control character|not CSV"),
        ("path,label,Label\na.mp4,x,y\n", "line 1 has the column 'label' 2 times"),
        ('path,label\na.mp4,"x\nA.mp4,y"\n', "line 2: the label goes on over several lines"),
        ('path,label,description\n\na.mp4,x,"so\nA.mp4,y,so"\n', "line 3: the description goes on"),
        ("path,label\na.mp4,x\na.mp4,y\n", "lines 2 and 3 both list"),
        ("path,label\na.mp4,x\na.avi,x\n", "both give the sample id 'a'"),
        ("path,label\na.mp4,x\nA.mp4,x\n", "only in case"),
        ("path,label\ncafé.mp4,x\ncafe\u0301.mp4,x\n", "Unicode form"),
        ("path,label\na.mp4,x_y\nb.mp4,x y\n", "read the same"),
        ("path,label\na.mp4,Jump\nb.mp4,jump\n", "read the same"),
        ("path,label,subject\na.mp4,x,Anna\nA.mp4,y,anna\n", "lines 2 and 3 have the subjects 'Anna' and 'anna'"),
        ("path,label,room\na.mp4,x,é\nA.mp4,y,e\u0301\n", "lines 2 and 3 have the rooms"),
        ("path,label\na.mp4,1\nb.mp4,01\n", "'01' and '1' read the same"),
        ("path,label\nb.mp4,x\n", "none of 1 video it"),
        ('path,label\n"a.mp4,x\n', "is not CSV"),
        ("path,label\n" + "x" * 200_000 + ",y\n", "not CSV"),
    ],
)
def test_a_bad_list_is_refused_with_its_line(tmp_path: Path, text: str, problem: str) -> None:
    root = clips(tmp_path / "set", "a.mp4", "a.avi", "A.mp4")
    (root / "labels.csv").write_text(text)
    with pytest.raises(UsageError, match=problem):
        load_folder(root)


def test_a_blank_before_a_quote_is_no_part_of_a_text(tmp_path: Path) -> None:
    root = clips(tmp_path / "set", "a.mp4", "b.mp4", "c.mp4")
    (root / "labels.csv").write_text('path, label\n"a.mp4", "jump, high"\nb.mp4, "wave"\nc.mp4, wave\n')
    dataset = load_folder(root)
    assert dataset.classes == ("jump, high", "wave")
    assert [sample.label for sample in dataset.samples] == [0, 1, 1]


def test_a_list_that_is_not_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_bytes(b"path,label\n\xff\xfe,x\n")
    with pytest.raises(UsageError, match="not UTF-8"):
        load_folder(tmp_path)
    with pytest.raises(UsageError, match="not a file"):
        load_folder(tmp_path, tmp_path / "absent.csv")


def test_class_folders_refuse_stray_colliding_and_linked_videos(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no videos"):
        load_folder(clips(tmp_path / "empty", "a/readme.txt"))
    with pytest.raises(UsageError, match="beside the class folders"):
        load_folder(clips(tmp_path / "stray", "a/b.mp4", "c.mp4"))
    with pytest.raises(UsageError, match="both give the sample id 'a/b'"):
        load_folder(clips(tmp_path / "twice", "a/b.mp4", "a/b.avi", "c/d.mp4"))
    with pytest.raises(UsageError, match="differ only in case"):
        load_folder(clips(tmp_path / "case", "a/b.mp4", "a/B.mp4", "c/d.mp4"))
    with pytest.raises(UsageError, match="backslash"):
        load_folder(clips(tmp_path / "odd", "a/b\\c.mp4"))
    outside = clips(tmp_path / "outside", "secret.mp4") / "secret.mp4"
    linked = clips(tmp_path / "linked", "a/b.mp4", "d/e.mp4")
    (linked / "a" / "c.mp4").symlink_to(outside)
    with pytest.raises(UsageError, match="out of the data root"):
        load_folder(linked)


def test_a_list_cannot_reach_out_through_a_linked_folder(tmp_path: Path) -> None:
    clips(tmp_path / "outside", "secret.mp4")
    root = clips(tmp_path / "set", "a.mp4")
    (root / "door").symlink_to(tmp_path / "outside", target_is_directory=True)
    (root / "labels.csv").write_text("path,label\na.mp4,x\ndoor/secret.mp4,x\n")
    with pytest.raises(UsageError, match="out of the data root"):
        load_folder(root)


def test_a_name_of_bytes_that_are_no_text_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "set" / "a"
    folder.mkdir(parents=True)
    try:
        os.close(os.open(os.fsencode(folder) + b"/\xff.mp4", os.O_CREAT | os.O_WRONLY))
    except OSError:
        pytest.skip("this file system refuses such names itself")
    with pytest.raises(UsageError, match="bytes that are no text"):
        load_folder(tmp_path / "set")


@settings(deadline=None, max_examples=60)
@given(st.text(max_size=320))
def test_a_name_that_passes_stays_below_the_root(name: str) -> None:
    message = ""
    checked = ""
    try:
        checked = check_name(name, "list.csv")
    except UsageError as error:
        message = str(error)
    if message:
        assert message.startswith("list.csv: ")
        assert message.encode()
        return
    full = os.path.normpath(os.path.join("/srv/data", checked))
    assert full.startswith("/srv/data/")
    assert "\0" not in checked


@settings(deadline=None, max_examples=40)
@given(st.dictionaries(st.text(min_size=1, max_size=6), st.integers(0, 4), min_size=1, max_size=60))
def test_holdout_is_stratified_disjoint_and_independent_of_order(labels: dict[str, int]) -> None:
    samples = [Sample(name, label, {}, {"group": label}) for name, label in sorted(labels.items())]
    split = holdout(samples)
    assert not set(split.train) & set(split.test)
    assert sorted(split.train + split.test) == [sample.id for sample in samples]
    assert set(holdout(samples[::-1]).test) == set(split.test)
    for label in set(labels.values()):
        members = {name for name, own in labels.items() if own == label}
        expected = max(len(members) // 4, 1 if len(members) > 1 else 0)
        assert len(members & set(split.test)) == expected


@settings(deadline=None, max_examples=40)
@given(st.dictionaries(st.text("abc", min_size=1, max_size=4), st.sampled_from("uvwxyz"), min_size=1))
def test_groups_are_never_divided(groups: dict[str, str]) -> None:
    samples = [Sample(name, 0, {}, {"group": group}) for name, group in sorted(groups.items())]
    split = leave_groups_out("group", samples)
    assert sorted(split.train + split.test) == [sample.id for sample in samples]
    train, test = ({groups[name] for name in part} for part in (split.train, split.test))
    assert not train & test
    assert len(test) == max(len(train | test) // 4, 1 if len(train | test) > 1 else 0)


def test_slugs_are_plain() -> None:
    assert slug("GMDCSA24 (cut)") == "gmdcsa24-cut"
    assert slug("数据") != slug("データ")
    assert len(slug("数据")) == 8


@pytest.mark.parametrize(
    ("name", "num_samples", "num_classes"), [("gestures", 76, 8), ("daily", 34, 8), ("fights", 60, 2)]
)
def test_real_folders_load(shared_data: Path, name: str, num_samples: int, num_classes: int) -> None:
    dataset = load_folder(shared_data / "videos" / name)
    assert len(dataset.samples) == num_samples
    assert len(dataset.classes) == num_classes
    assert all(sample.files["video"].is_file() for sample in dataset.samples)
    split = dataset.split("holdout")
    assert len(split.train) + len(split.test) == num_samples
    assert {sample.label for sample in dataset.samples if sample.id in set(split.train)} == set(range(num_classes))
    if name == "gestures":
        assert "take off" in dataset.classes
        assert "emergency/roomA_00" in {sample.id for sample in dataset.samples}
        assert {sample.attributes["room"] for sample in dataset.samples} == {"A"}
        assert list(dataset.protocols) == ["holdout"]  # one room makes no groups
    if name == "daily":
        assert all(dataset.descriptions)


def test_videos_that_a_list_does_not_name_are_counted(tmp_path: Path) -> None:
    root = clips(tmp_path / "set", "a.mp4", "b.mp4", "deep/c.MKV", ".hidden/d.mp4", "notes.txt")
    (root / "labels.csv").write_text("path,label\na.mp4,x\ngone.mp4,y\n")
    assert load_folder(root).notes[-1] == "2 videos below the data root not in the list, such as b.mp4"
    (root / "labels.csv").write_text("path,label\na.mp4,x\nb.mp4,y\ndeep/c.MKV,y\n")
    assert load_folder(root).notes == ()


def test_what_is_no_file_is_named_when_it_is_read_and_holds_nobody_up(tmp_path: Path) -> None:
    root = clips(tmp_path / "set", "a.mp4")
    os.mkfifo(root / "pipe.mp4")
    (root / "folder.mp4").mkdir()
    (root / "device.mp4").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(root / "socket.mp4"))
    names = ("pipe", "folder", "socket")
    (root / "labels.csv").write_text("path,label\na.mp4,y\n" + "".join(f"{name}.mp4,x\n" for name in names))
    dataset = load_folder(root)
    for sample in dataset.samples[1:]:
        video = SourceVideo(Source(sample.id, sample.files.get("video")))
        assert list(video.frames()) == []
        assert video.failure is not None
        assert (video.failure.status, video.failure.detail["why"]) == (
            "unreadable",
            "holds no images named img_00001.jpg and so on"
            if sample.id == "folder"
            else f"is a {sample.id}, not a file",
        )
        assert sample.files["video"].exists()
    for path in (root / "pipe.mp4", root / "device.mp4", root / "folder.mp4"):
        with pytest.raises(OSError, match=r"not a file|directory"):
            file_digest(path)
        found = read_source(Source("x", path), Path.read_bytes)
        assert isinstance(found, Outcome)
        assert found.status == "unreadable"
