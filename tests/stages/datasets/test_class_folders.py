"""Folders as labels: parts of a split, levels, folders without a video, links and other roots."""

from pathlib import Path

import pytest

from tests.stages.datasets.test_folder import clips
from unialign.errors import UsageError
from unialign.stages.datasets.base import Split
from unialign.stages.datasets.facts import dataset_facts, shown_facts
from unialign.stages.datasets.folder import load_folder


@pytest.mark.parametrize(
    ("names", "parts"),
    [
        (("train/jump/a", "train/run/b", "val/jump/c"), (2, 0, 1)),
        (("train/jump/a", "train/run/b", "val/jump/c", "test/run/d"), (2, 1, 1)),
        (("Training/jump/a", "VALIDATION/run/b", "testing/run/d"), (1, 1, 1)),
        (("training/jump/a", "validation/run/b"), (1, 0, 1)),
        (("train/jump/p1/a", "train/run/p1/b", "test/run/p2/c"), (2, 0, 1)),
        (("test/jump/a", "test/run/b"), (0, 0, 2)),
        (("trainset/jump/a", "test_set/run/b"), (1, 0, 1)),
    ],
)
def test_folders_called_as_parts_are_the_split(
    tmp_path: Path, names: tuple[str, ...], parts: tuple[int, int, int]
) -> None:
    dataset = load_folder(clips(tmp_path / "set", *(f"{name}.mp4" for name in names)))
    assert dataset.classes == ("jump", "run")
    assert [sample.id for sample in dataset.samples] == sorted(names)
    split = dataset.split()
    assert (dataset.default_protocol, (len(split.train), len(split.val), len(split.test))) == ("split", parts)


@pytest.mark.parametrize(
    ("names", "problem"),
    [
        (("train/a", "val/b"), "in train/ without a class folder"),
        (("train/jump/a", "train/b", "test/run/c"), "b.mp4: lies in train/ without"),
        (("train/jump/a", "run/b"), "train/ would be parts of a split, run/ beside them classes"),
        (("car/a", "bus/b", "train/c"), "train/ would be parts of a split, bus/, car/ beside"),
        (("train/jump/a", "test/run/b", "eval/run/c"), "both a test and an eval part"),
        (("jump/a", "sports/run/b", "sports/ski/c"), "jump/ hold videos themselves, sports/ only in folders"),
        (("train/jump/a", "test/ball/run/b"), "jump/ hold videos themselves, ball/ only in folders"),
        (("jump/a", "jump/b"), "all of 2 videos lie in one class folder, 'jump'"),
        (("videos/jump/a", "videos/run/b"), "with the folders jump/, run/ as classes, give --root .*videos"),
        (("data/train/jump/a", "data/test/run/b"), "with the folders test/, train/ as parts of a split, give --root"),
        (("train/jump/a", "test/jump/b"), "one class folder, 'jump'"),
        (("train/videos/jump/a", "test/videos/run/b"), "jump/, run/ as classes, move them up"),
        (("train1/jump/a", "test1/run/b"), "test1/, train1/ would be parts of several splits"),
    ],
)
def test_layouts_that_leave_the_label_open_are_refused(tmp_path: Path, names: tuple[str, ...], problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        load_folder(clips(tmp_path / "set", *(f"{name}.mp4" for name in names)))


def test_a_folder_without_a_video_is_named(tmp_path: Path) -> None:
    root = clips(tmp_path / "set", "jump/a.mp4", "run/b.avi", "wave/c.xyz", "wave/d.xyz", "wave/e.txt", "run/f.json")
    (root / "empty").mkdir()
    (root / "alias").symlink_to("jump", target_is_directory=True)
    dataset = load_folder(root)
    assert dataset.classes == ("jump", "run")
    assert dataset.notes == (
        "folder alias is no class: a link to jump",
        "folder empty is no class: it is empty",
        "folder wave is no class: none of its files is a video that is read (2 .xyz, 1 .txt)",
        "files not taken: 2 .xyz, 1 .json, 1 .txt",
    )
    split = load_folder(
        clips(tmp_path / "split", "train/jump/a.mp4", "train/run/b.mp4", "test/run/c.mp4", "test/x/d.q")
    )
    assert split.notes[0] == "folder test/x is no class: none of its files is a video that is read (1 .q)"
    with pytest.raises(UsageError, match=r"no videos in class folders found; there are 2 \.xyz"):
        load_folder(clips(tmp_path / "none", "wave/c.xyz", "wave/d.xyz"))


def test_classes_that_may_be_persons_are_named(tmp_path: Path) -> None:
    dataset = load_folder(clips(tmp_path / "set", "p1/jump/a.mp4", "p1/run/b.mp4", "p2/jump/c.mp4"))
    assert dataset.classes == ("p1", "p2")
    assert dataset.notes == (
        "classes are the outer folders (p1/, p2/), several of which have the same folders inside (jump/)",
    )


def test_what_was_understood_can_be_shown(tmp_path: Path) -> None:
    dataset = load_folder(
        clips(tmp_path / "set", "train/jump/a.mp4", "train/run/b.mp4", "test/run/c.mp4", "test/d.txt")
    )
    facts = dataset_facts(dataset)
    assert facts["classes"] == {"jump": 1, "run": 2}
    assert facts["protocols"]["split"] == {"train": 2, "val": 0, "test": 1}
    assert shown_facts(facts) == {
        "dataset": "folder: 3 clips, 2 classes",
        "classes": "jump 1, run 2",
        "splits": "split: 2 train, 1 test; holdout: 2 train, 1 test",
        "notes": f"\n{' ' * 9}".join(
            (
                "files not taken: 1 .txt",
                "all tested clips are of one class (run): top-1 says nothing about the others",
                "2 classes have fewer than 2 clips to train on (jump, run): add clips, or leave these classes out",
            )
        ),
    }


def test_classes_without_clips_are_only_counted() -> None:
    """Few files of a large dataset: what is there is not buried among zeros."""
    facts = {"name": "ntu60", "samples": 3, "classes": {"a": 0, "b": 2, "c": 1, "d": 0}, "protocols": {}, "notes": []}
    assert shown_facts(facts)["classes"] == "b 2, c 1; 2 without clips"


def test_links_lead_where_the_configuration_allows(tmp_path: Path) -> None:
    archive = clips(tmp_path / "archive", "wave/a.mp4", "wave/deep/b.mp4", "solo.mp4")
    root = clips(tmp_path / "set", "jump/x.mp4", ".store/bow/y.mp4")
    (root / "wave").symlink_to(archive / "wave", target_is_directory=True)
    (root / "bow").symlink_to(".store/bow", target_is_directory=True)
    (root / "jump" / "z.mp4").symlink_to(archive / "solo.mp4")
    with pytest.raises(UsageError, match=r"wave: a link that leads out of the data root .*`roots:`"):
        load_folder(root)
    with pytest.raises(UsageError, match="leads out of"):
        load_folder(root, roots=[archive / "wave"])
    dataset = load_folder(root, roots=[archive])
    assert [sample.id for sample in dataset.samples] == ["bow/y", "jump/x", "jump/z", "wave/a", "wave/deep/b"]
    (root / "again").symlink_to(archive / "wave", target_is_directory=True)
    with pytest.raises(UsageError, match="both lead to the folder"):
        load_folder(root, roots=[archive])


def test_loops_of_links_end(tmp_path: Path) -> None:
    archive = clips(tmp_path / "archive", "a.mp4")
    (archive / "loop").symlink_to(archive, target_is_directory=True)
    root = clips(tmp_path / "set", "jump/x.mp4")
    (root / "jump" / "up").symlink_to(root, target_is_directory=True)
    (root / "wave").symlink_to(archive, target_is_directory=True)
    with pytest.raises(UsageError, match="both lead to the folder"):
        load_folder(root, roots=[archive])


def test_absolute_paths_of_a_list_become_relative_ids(tmp_path: Path) -> None:
    archive = clips(tmp_path / "archive", "wave/a.mp4", "jump/x.mp4")
    root = clips(tmp_path / "set", "jump/x.mp4", "jump/y.mp4")
    (tmp_path / "way").symlink_to(root, target_is_directory=True)
    text = f"path,label\n{root}/jump/x.mp4,jump\n{tmp_path}/way/jump/y.mp4,jump\n{archive}/wave/a.mp4,wave\n"
    (root / "labels.csv").write_text(text)
    with pytest.raises(UsageError, match=r"line 4: the name .* is absolute and not below .*`roots:`"):
        load_folder(root)
    dataset = load_folder(root, roots=[archive])
    assert {sample.id: sample.files["video"] for sample in dataset.samples} == {
        "jump/x": root / "jump" / "x.mp4",
        "jump/y": root / "jump" / "y.mp4",
        "wave/a": archive / "wave" / "a.mp4",
    }
    (root / "labels.csv").write_text(f"{text}{archive}/jump/x.mp4,jump\n")
    with pytest.raises(UsageError, match="both give the sample id 'jump/x'"):
        load_folder(root, roots=[archive])
    for name in (f"{archive}/../secret/a.mp4", "/etc/a.mp4", f"{archive}x/a.mp4", str(archive)):
        (root / "labels.csv").write_text(f"path,label\n{name},wave\n")
        with pytest.raises(UsageError, match="line 2"):
            load_folder(root, roots=[archive])


def test_a_linked_file_of_a_list_stays_where_links_may_lead(tmp_path: Path) -> None:
    archive = clips(tmp_path / "archive", "a.mp4")
    secret = clips(tmp_path / "secret", "b.mp4")
    root = clips(tmp_path / "set", "jump/x.mp4")
    (archive / "door.mp4").symlink_to(secret / "b.mp4")
    (root / "labels.csv").write_text(f"path,label\njump/x.mp4,jump\n{archive}/door.mp4,wave\n")
    with pytest.raises(UsageError, match="leads out of the data root"):
        load_folder(root, roots=[archive])


def test_groups_of_ucf101_are_known(tmp_path: Path) -> None:
    names = [
        f"{action}/v_{action}_g{group:02d}_c{clip:02d}.avi"
        for action in ("ApplyEyeMakeup", "YoYo", "Archery")
        for group in (1, 7, 8, 14, 25)
        for clip in (1, 2)
    ]
    dataset = load_folder(clips(tmp_path / "UCF-101", *names))
    assert dataset.classes == ("apply eye makeup", "archery", "yo yo")
    assert list(dataset.protocols) == ["ucf101-1", "ucf101-2", "group", "holdout"]
    tested = {name.rpartition("_g")[2][:2] for name in dataset.split().test}
    assert tested == {"01", "07"}
    assert len(dataset.split("ucf101-2").test) == 12
    mixed = load_folder(clips(tmp_path / "mixed", *names, "YoYo/mine.mp4"))
    assert list(mixed.protocols) == ["holdout"]


def test_which_groups_are_tested_can_be_said(tmp_path: Path) -> None:
    root = clips(tmp_path / "set", "a.mp4", "b.mp4", "c.mp4")
    (root / "labels.csv").write_text("path,label,performer,room\na.mp4,x,anna,1\nb.mp4,y,ben,1\nc.mp4,x,cleo,2\n")
    dataset = load_folder(root)
    assert dataset.default_protocol == "group"
    assert dataset.split("performer=ben") == Split(("a", "c"), ("b",))
    assert dataset.split("room=2") == Split(("a", "b"), ("c",))
    for name, problem in {
        "performer=dora": "no performer 'dora'; it has anna, ben, cleo",
        "performer=anna,ben,cleo": "no performer left to train on",
        "actor=anna": r"it has group, holdout, or performer=... to say which are tested \(performer, room\)",
        "xsub": "has no protocol 'xsub'",
        "performer=": "no performer ''",
    }.items():
        with pytest.raises(UsageError, match=problem):
            dataset.split(name)


def test_a_link_to_nothing_is_refused(tmp_path: Path) -> None:
    root = clips(tmp_path / "set", "jump/x.mp4", "run/y.mp4")
    (root / "jump" / "lost.mp4").symlink_to(root / "gone.mp4")
    with pytest.raises(UsageError, match="a link to nothing"):
        load_folder(root)


def test_a_link_to_itself_is_one_to_nothing(tmp_path: Path) -> None:
    root = clips(tmp_path / "set", "jump/x.mp4", "run/y.mp4")
    (root / "jump" / "loop.mp4").symlink_to("loop.mp4")
    with pytest.raises(UsageError, match=r"loop\.mp4: a link to nothing"):
        load_folder(root)
