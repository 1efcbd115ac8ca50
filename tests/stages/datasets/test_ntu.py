"""NTU RGB+D: names, splits, joining of files, the list of missing skeletons."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unialign.errors import UsageError
from unialign.stages.datasets.base import Dataset, Sample
from unialign.stages.datasets.ntu import (
    TRAIN_SUBJECTS_60,
    TRAIN_SUBJECTS_120,
    NtuName,
    load_ntu,
    missing_skeletons,
    parse_name,
)
from unialign.stages.datasets.ntu_classes import NTU_CLASSES

NAMES_60 = st.builds(
    NtuName, st.integers(1, 17), st.integers(1, 3), st.integers(1, 40), st.integers(1, 2), st.integers(1, 60)
)


def touch(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


@given(st.builds(NtuName, *[st.integers(0, 999)] * 5))
def test_a_name_is_read_back(name: NtuName) -> None:
    assert parse_name(str(name)) == name
    assert len(str(name)) == 20


@pytest.mark.parametrize(
    "text",
    [
        "",
        "S001C001P001R001A1",
        "s001c001p001r001a001",
        "S001C001P001R001A001 ",
        "S001C001P001R001A001_rgb",
        "S००१C001P001R001A001",
    ],
)
def test_other_names_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="not a sample name"):
        parse_name(text)


def test_subject_lists_have_the_published_sizes() -> None:
    assert len(TRAIN_SUBJECTS_60) == 20
    assert len(TRAIN_SUBJECTS_120) == 53
    assert max(TRAIN_SUBJECTS_60) <= 40
    assert max(TRAIN_SUBJECTS_120) <= 106


def test_the_list_of_missing_skeletons_is_the_published_one() -> None:
    names = [parse_name(name) for name in missing_skeletons()]
    assert len(names) == 535
    first = [name for name in names if name.setup <= 17]
    assert len(first) == 302
    assert all(name.action <= 60 and name.performer <= 40 for name in first)
    # Published sizes: raw xsub 40,320 / 16,560 less the list gives 40,091 / 16,487; xview 37,920 -> 37,646.
    assert sum(name.performer in TRAIN_SUBJECTS_60 for name in first) == 40_320 - 40_091
    assert sum(name.camera != 1 for name in first) == 37_920 - 37_646
    assert sum(name.performer in TRAIN_SUBJECTS_120 for name in names) == 63_360 - 63_026
    assert sum(name.setup % 2 == 0 for name in names) == 54_720 - 54_468


def test_class_names_are_plain_and_unique() -> None:
    assert len(NTU_CLASSES) == len(set(NTU_CLASSES)) == 120
    assert all(name == name.lower().strip() and name.isascii() for name in NTU_CLASSES)
    assert (NTU_CLASSES[0], NTU_CLASSES[59], NTU_CLASSES[60]) == (
        "drink water",
        "walking apart from each other",
        "put on headphone",
    )


@settings(max_examples=25, deadline=None)
@given(st.sets(NAMES_60, min_size=1, max_size=30), st.sampled_from(["xsub", "xview", "xset"]))
def test_splits_are_disjoint_and_cover(names: set[NtuName], protocol: str) -> None:
    from unialign.stages.datasets.ntu import _EDITIONS

    samples = [Sample(str(name), name.label, {}, name.attributes) for name in sorted(names, key=str)]
    rule = _EDITIONS["ntu60" if protocol == "xview" else "ntu120"].protocols[protocol]
    split = rule(samples)
    assert not set(split.train) & set(split.test)
    assert sorted(split.train + split.test) == [sample.id for sample in samples]
    for sample in split.train:
        name = parse_name(sample)
        assert {
            "xsub": name.performer in TRAIN_SUBJECTS_120,
            "xview": name.camera in (2, 3),
            "xset": name.setup % 2 == 0,
        }[protocol]


def test_videos_and_skeletons_are_joined_by_name(tmp_path: Path) -> None:
    name = "S001C002P003R002A013"
    touch(tmp_path, f"rgb/{name}_rgb.avi", f"skeletons/a/{name}.skeleton", f"depth/{name}.bin", "readme.txt")
    dataset = load_ntu(tmp_path, "ntu60")
    (sample,) = dataset.samples
    assert sample.id == name
    assert sample.label == 12
    assert dataset.classes[sample.label] == "tear up paper"
    assert sample.files == {
        "video": tmp_path / f"rgb/{name}_rgb.avi",
        "skeleton": tmp_path / f"skeletons/a/{name}.skeleton",
    }
    assert sample.attributes == {"setup": 1, "camera": 2, "performer": 3, "replication": 2}
    assert dataset.collection == "ntu"
    assert dataset.default_protocol == "xsub"


def test_ntu60_leaves_the_extension_out_and_both_share_ids(tmp_path: Path) -> None:
    old, new = "S017C001P001R001A060", "S018C001P041R001A061"
    touch(tmp_path, f"{old}.skeleton", f"{new}.skeleton")
    small, large = load_ntu(tmp_path, "ntu60"), load_ntu(tmp_path, "ntu120")
    assert [sample.id for sample in small.samples] == [old]
    assert [sample.id for sample in large.samples] == [old, new]
    assert small.collection == large.collection
    assert (len(small.classes), len(large.classes)) == (60, 120)
    assert list(large.protocols)[:3] == ["xsub", "xset", "synse-110-10"]


def test_a_listed_skeleton_is_not_used_but_its_video_is(tmp_path: Path) -> None:
    listed, whole = "S001C002P005R002A008", "S001C001P001R001A001"
    assert listed in missing_skeletons()
    touch(tmp_path / "both", f"{listed}.skeleton", f"{listed}_rgb.avi", f"{whole}.skeleton")
    touch(tmp_path / "skeletons", f"{listed}.skeleton", f"{whole}.skeleton")
    assert [(s.id, sorted(s.files)) for s in load_ntu(tmp_path / "both", "ntu60").samples] == [
        (whole, ["skeleton"]),
        (listed, ["video"]),
    ]
    assert [s.id for s in load_ntu(tmp_path / "skeletons", "ntu60").samples] == [whole]


def test_two_files_of_one_kind_are_refused_with_both_names(tmp_path: Path) -> None:
    name = "S001C001P001R001A001"
    touch(tmp_path, f"a/{name}_rgb.avi", f"b/{name}_rgb.mp4")
    with pytest.raises(UsageError) as caught:
        load_ntu(tmp_path, "ntu60")
    assert f"a/{name}_rgb.avi" in str(caught.value)
    assert f"b/{name}_rgb.mp4" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("S001C004P001R001A001", "camera 4"),
        ("S001C001P041R001A001", "performer 41"),
        ("S000C001P001R001A001", "setup 0"),
    ],
)
def test_numbers_that_the_dataset_does_not_have_are_refused(tmp_path: Path, name: str, problem: str) -> None:
    touch(tmp_path, f"{name}.skeleton")
    with pytest.raises(UsageError, match=problem):
        load_ntu(tmp_path, "ntu60")


def test_links_do_not_lead_out_of_the_root(tmp_path: Path) -> None:
    name = "S001C001P001R001A001.skeleton"
    touch(tmp_path, f"outside/{name}", "inside/blob")
    (tmp_path / "inside" / name).symlink_to("blob")
    assert len(load_ntu(tmp_path / "inside", "ntu60").samples) == 1
    (tmp_path / "inside" / "again").symlink_to(".", target_is_directory=True)
    assert len(load_ntu(tmp_path / "inside", "ntu60").samples) == 1
    (tmp_path / "inside" / name).unlink()
    (tmp_path / "inside" / name).symlink_to(tmp_path / "outside" / name)
    with pytest.raises(UsageError, match="out of the data root"):
        load_ntu(tmp_path / "inside", "ntu60")
    (tmp_path / "inside" / name).unlink()
    (tmp_path / "inside" / name).symlink_to("nothing")
    with pytest.raises(UsageError, match="link to nothing"):
        load_ntu(tmp_path / "inside", "ntu60")
    (tmp_path / "inside" / name).unlink()
    (tmp_path / "inside" / "folder").symlink_to(tmp_path / "outside", target_is_directory=True)
    with pytest.raises(UsageError, match="out of the data root"):
        load_ntu(tmp_path / "inside", "ntu60")


def test_a_root_may_itself_be_a_link(tmp_path: Path) -> None:
    touch(tmp_path, "real/S001C001P001R001A001.skeleton")
    (tmp_path / "link").symlink_to("real", target_is_directory=True)
    dataset: Dataset = load_ntu(tmp_path / "link", "ntu60")
    assert len(dataset.samples) == 1


def test_a_root_without_samples_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no file of ntu120 found"):
        load_ntu(tmp_path, "ntu120")


def test_files_that_look_like_data_are_noted(tmp_path: Path) -> None:
    for name in ("S001C001P001R001A001_rgb.avi", "S001C001P002R001A001.mp4", "S001C001P003R001A001.txt", "clip.AVI"):
        (tmp_path / name).touch()
    (note,) = load_ntu(tmp_path, "ntu60").notes
    assert note.startswith("files not taken: 1 .mp4, 1 .avi, such as S001C001P002R001A001.mp4; names are S001C002")
