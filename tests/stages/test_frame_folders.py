"""Contract of clips that are folders of images: decoded like a video, or rejected with a reason."""

import os
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from unialign.cache.reader import StoreReader
from unialign.errors import CorruptInput
from unialign.pipeline.config import load_config
from unialign.pipeline.dataset_check import draw_sample
from unialign.pipeline.extraction.extractors import extract_configured
from unialign.pipeline.extraction.source_digests import SourceDigests
from unialign.stages.datasets.catalog import load_dataset
from unialign.stages.extraction.base import Source, source_digest
from unialign.stages.extraction.frames import Frames
from unialign.stages.frame_files import content_digest, frame_files, is_frame
from unialign.stages.frame_folders import FrameFolder, opened_clip
from unialign.stages.video import Video


def pictures(count: int, size: tuple[int, int] = (24, 32)) -> list[np.ndarray]:
    return [np.full((*size, 3), 10 * at + 5, np.uint8) for at in range(count)]


def written(folder: Path, count: int = 6, name: str = "img_{:05d}.png", first: int = 1) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for at, picture in enumerate(pictures(count), start=first):
        Image.fromarray(picture).save(folder / name.format(at))
    return folder


@pytest.mark.parametrize(
    ("name", "frame"),
    [
        ("img_00001.jpg", True),
        ("IMG_1.JPEG", True),
        ("image-000001.png", True),
        ("frame000001.webp", True),
        ("00001.bmp", True),
        ("flow_x_00001.jpg", False),
        ("x_00001.jpg", False),
        ("thumb.jpg", False),
        ("img_00001.mp4", False),
    ],
)
def test_which_names_are_images_of_a_clip(name: str, frame: bool) -> None:
    assert is_frame(name) == frame


def test_images_come_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    folder = written(tmp_path / "a", 12, "{}.png", first=0)  # 10.png sorts before 2.png as text
    (folder / "flow_x_00003.png").write_bytes(b"none")
    clip = opened_clip(folder)
    assert isinstance(clip, FrameFolder)
    found = list(clip.frames())
    assert all(np.array_equal(one, other) for one, other in zip(found, pictures(12), strict=True))
    assert (clip.decoded, clip.declared, clip.size) == (12, 12, (24, 32))
    part = FrameFolder(folder, (Fraction(3), Fraction(7)))
    assert [int(each[0, 0, 0]) for each in part.frames()] == [35, 45, 55, 65]
    assert isinstance(opened_clip(folder / "1.png"), Video)


def test_a_span_beyond_the_images_is_truncated(tmp_path: Path) -> None:
    clip = FrameFolder(written(tmp_path / "a"), (Fraction(3), Fraction(7)))
    with pytest.raises(CorruptInput, match="has 6 images, but the sample ends at image 7") as raised:
        list(clip.frames())
    assert raised.value.status == "truncated"
    assert clip.reason == "has 6 images, but the sample ends at image 7"


def no_image(folder: Path) -> None:
    (folder / "img_00004.png").write_bytes(b"")


def missing(folder: Path) -> None:
    (folder / "img_00004.png").unlink()


def cut(folder: Path) -> None:
    path = folder / "img_00004.png"
    path.write_bytes(path.read_bytes()[:60])


def hostile(folder: Path) -> None:
    (folder / "img_00004.png").write_bytes(b"GIF89a" + bytes(100))


def other_size(folder: Path) -> None:
    Image.fromarray(pictures(1, (30, 32))[0]).save(folder / "img_00004.png")


def large(folder: Path) -> None:
    Image.new("1", (9000, 10)).save(folder / "img_00001.png")


def two_names(folder: Path) -> None:
    Image.fromarray(pictures(1)[0]).save(folder / "frame_00009.png")


def one_number(folder: Path) -> None:
    Image.fromarray(pictures(1)[0]).save(folder / "img_4.png")


def linked(folder: Path) -> None:
    (folder / "img_00007.png").symlink_to(folder / "img_00001.png")


def pipe(folder: Path) -> None:
    os.mkfifo(folder / "img_00007.png")


def emptied(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()


@pytest.mark.parametrize(
    ("damage", "status", "reason"),
    [
        (missing, "truncated", "lacks image number 4 of 1 to 6"),
        (no_image, "corrupt-frames", r"cannot be decoded .it is no image of a format that is read.;"),
        (cut, "corrupt-frames", "img_00004.png cannot be decoded"),
        (hostile, "corrupt-frames", "img_00004.png cannot be decoded"),
        (other_size, "unreadable", "changes from .24, 32. to .30, 32. at img_00004.png"),
        (large, "unreadable", "img_00001.png has 9000 x 10 pixels"),
        (two_names, "unreadable", "named in several ways, frame_NUMBER.png and img_NUMBER.png"),
        (one_number, "unreadable", "have one number"),
        (linked, "unreadable", "img_00007.png is a link, or no file"),
        (pipe, "unreadable", "img_00007.png is a link, or no file"),
        (emptied, "unreadable", "holds no images named img_00001.jpg"),
    ],
)
def test_damage_is_a_status_with_its_reason(tmp_path: Path, damage: object, status: str, reason: str) -> None:
    folder = written(tmp_path / "a")
    damage(folder)  # type: ignore[operator]
    with pytest.raises(CorruptInput, match=reason) as raised:
        list(FrameFolder(folder).frames())
    assert raised.value.status == status
    (outcome,) = Frames(num_frames=4).run([Source("x", folder)])
    assert outcome.status == status
    assert str(tmp_path) not in str(outcome.detail)


def test_the_digest_covers_names_and_contents_of_the_images_alone(tmp_path: Path) -> None:
    folder = written(tmp_path / "a")
    before = content_digest(folder)
    assert content_digest(written(tmp_path / "other")) == before
    (folder / "notes.txt").write_text("x")
    assert content_digest(folder) == before
    assert source_digest(Source("x", folder)) == before
    assert source_digest(Source("x", folder, span=(Fraction(0), Fraction(2)))) != before
    (folder / "img_00006.png").rename(folder / "img_006.png")
    renamed = content_digest(folder)
    Image.fromarray(pictures(2)[1]).save(folder / "img_00001.png")
    assert len({before, renamed, content_digest(folder)}) == 3
    assert content_digest(tmp_path / "none") == content_digest(tmp_path) == ""


def test_a_digest_is_remembered_until_an_image_changes(tmp_path: Path) -> None:
    folder = written(tmp_path / "a")
    for path in frame_files(folder):
        os.utime(path, (1, 1))
    digests = SourceDigests(tmp_path / "cache", "made")
    assert digests.stamp(folder) == []  # changed just now
    first = digests.of(folder)
    digests.learn(folder, ["stamp"], "sha256:known")
    assert digests.of(folder) == first  # another stamp


def test_folders_of_images_are_clips_of_class_folders_end_to_end(tmp_path: Path) -> None:
    root = tmp_path / "rawframes"
    for name in ("wave/a", "wave/b.1", "jump/c", "jump/d"):
        written(root / name, 5)
    missing(root / "jump" / "d")
    # A folder with the name of a video, and images beside a video, are no clips.
    (root / "jump" / "e.mp4").write_bytes(b"")
    written(root / "jump" / "e", 2)
    dataset = load_dataset("folder", root)
    assert [sample.id for sample in dataset.samples] == ["jump/c", "jump/d", "jump/e", "wave/a", "wave/b.1"]
    assert dataset.samples[2].files["video"].suffix == ".mp4"
    config = load_config({"cache": tmp_path / "cache", "data": root, "dataset": "folder"})
    done = extract_configured("frames", dataset, config)
    assert (done.extracted, dict(done.quarantined)) == (3, {"truncated": 1, "unreadable": 1})
    store = StoreReader(done.store)
    assert store["wave/b.1"]["frame_index"].tolist() == [0, 1, 2, 3, 4]
    assert np.isnan(store["wave/a"]["fps"])
    assert extract_configured("frames", dataset, config).extracted == 0
    Image.fromarray(pictures(2)[1]).save(root / "wave" / "a" / "img_00001.png")
    assert extract_configured("frames", dataset, config).extracted == 1
    assert draw_sample(dataset, dataset.samples[3], config).startswith(b"\x89PNG")
