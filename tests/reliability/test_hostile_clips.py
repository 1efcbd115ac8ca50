"""R19: broken and hostile files among the clips of a dataset. Each is read whole or has a status with a reason; none
ends the extraction, takes more than seconds and a bounded memory, opens a file elsewhere or a socket."""

import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest

from tests.reliability.conftest import Report
from tests.reliability.scenes import FULL, SEED
from tests.reliability.test_bad_samples import peak_memory
from tests.reliability.test_native_calls import can_trace
from tests.stages.made_videos import moving_frames, write_video
from unialign.cache.index import load_table
from unialign.cache.store import open_store
from unialign.pipeline.extraction.extract import Extraction, Settings, run_extraction
from unialign.stages.extraction.base import Source
from unialign.stages.extraction.frames import Frames

CONTAINERS = {"mp4": "libx264", "mov": "mpeg4", "avi": "mpeg4", "matroska": "libx264", "webm": "libvpx"}
ENDINGS = {"matroska": "mkv"}
NUM_FRAMES = 60
SECONDS_A_FILE = 5
# What names other files to open, under the name of a clip.
PLAYLISTS = {
    "concat": "ffconcat version 1.0\nfile '{secret}'\n",
    "hls": "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{secret}\n#EXTINF:9,\nhttp://127.0.0.1:9/x.ts\n#EXT-X-ENDLIST\n",
    "dash": "<?xml version='1.0'?><MPD xmlns='urn:mpeg:dash:schema:mpd:2011' type='static'><Period><AdaptationSet>"
    "<Representation id='0' bandwidth='1'><BaseURL>{secret}</BaseURL></Representation></AdaptationSet></Period></MPD>",
    "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\nc=IN IP4 127.0.0.1\nm=video 9 RTP/AVP 96\na=rtpmap:96 H264/90000\n",
    "image": "{secret}\n",
}


def write_sound(path: Path) -> None:
    """An mp4 without frames."""
    with av.open(str(path), "w", format="mp4") as out:
        stream = out.add_stream("aac", rate=16000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), "float32"), format="fltp", layout="mono")
        frame.sample_rate = 16000
        out.mux([*stream.encode(frame), *stream.encode()])


def patched(data: bytes, marker: bytes, offset: int, value: bytes) -> bytes:
    """The bytes with some of them replaced, `offset` behind the first place of a marker."""
    place = data.index(marker) + offset
    return data[:place] + value + data[place + len(value) :]


def bad_clips(folder: Path, secret: Path) -> Iterator[tuple[str, bytes]]:
    """Names and contents of files none of which is a clip that can be read whole."""
    for container in CONTAINERS:
        ending = ENDINGS.get(container, container)
        whole = (folder / f"whole.{ending}").read_bytes()
        for percent in (10, 50, 90):
            yield f"cut{percent}.{ending}", whole[: len(whole) * percent // 100]
        yield f"empty.{ending}", b""
        yield f"noise.{ending}", random.Random(SEED).randbytes(len(whole))
        yield f"head.{ending}", whole[:64] + random.Random(SEED).randbytes(len(whole) - 64)
        yield f"text.{ending}", b"not a clip\n" * 99
    for name, text in PLAYLISTS.items():
        for ending in ("mp4", "avi"):
            yield f"{name}.{ending}", text.format(secret=secret).encode()
    mp4 = (folder / "whole.mp4").read_bytes()
    yield "tag.mp4", mp4.replace(b"avc1", b"hev1")
    yield "frames.mp4", patched(mp4, b"stsz", 12, b"\x7f\xff\xff\xff")


def odd_clips(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Files with a number that is wrong and that nobody needs: all their frames are there."""
    mp4, avi = (folder / "whole.mp4").read_bytes(), (folder / "whole.avi").read_bytes()
    yield "box.mp4", patched(mp4, b"moov", -4, b"\x7f\xff\xff\xff")
    yield "length.avi", patched(avi, b"strh", 40, b"\xff\xff\xff\x7f")
    yield "total.avi", patched(avi, b"avih", 24, b"\xff\xff\xff\x7f")


def write_zoo(folder: Path) -> tuple[set[str], set[str]]:
    """Write good and bad files; returns the names of both."""
    folder.mkdir()
    secret = folder.parent / "nobodys-business.avi"
    pictures = moving_frames(NUM_FRAMES, 64, 96)
    good = set()
    for container, codec in CONTAINERS.items():
        path = folder / f"whole.{ENDINGS.get(container, container)}"
        good.add(write_video(path, container, codec, pictures).name)
    shutil.copy(folder / "whole.avi", secret)
    good.add(write_video(folder / "point.mkv", "matroska", "ffv1", [np.zeros((1, 1, 3), "uint8")] * 9).name)
    large = [np.zeros((4608, 8192, 3), "uint8")] * 2
    good.add(write_video(folder / "bomb.avi", "avi", "mjpeg", large, colours="yuvj420p").name)
    bad = {"sound.mp4", "folder.mp4", "nowhere.mp4", "pipe.mp4"}
    for name, data in odd_clips(folder):
        (folder / name).write_bytes(data)
        good.add(name)
    for name, data in bad_clips(folder, secret):
        (folder / name).write_bytes(data)
        bad.add(name)
    write_sound(folder / "sound.mp4")
    (folder / "folder.mp4").mkdir()
    os.mkfifo(folder / "pipe.mp4")
    return good, bad


def extract_zoo(folder: Path) -> tuple[Extraction, dict[str, str]]:
    """The frames of all files of a folder, and the status of each."""
    names = sorted([path.name for path in folder.iterdir()] + ["nowhere.mp4"])
    sources = [Source(name, folder / name) for name in names]
    settings = Settings(shard_samples=16)
    done = run_extraction(
        Frames(short_side=32, num_frames=8), sources, cache=folder.parent / "cache", collection="zoo", settings=settings
    )
    table = load_table(open_store(done.store))
    return done, {table.entry(row).id: table.entry(row).status for row in table.find(names).tolist()}


def check_zoo(folder: Path) -> tuple[int, int]:
    """Extract good and bad files together; returns their numbers."""
    good, bad = write_zoo(folder / "zoo")
    started = time.monotonic()
    with peak_memory(1_200_000_000):
        done, found = extract_zoo(folder / "zoo")
    assert time.monotonic() - started < SECONDS_A_FILE * len(found)
    assert {name for name, status in found.items() if status == "ok"} == good, (
        "a bad file is read, or a good one is not"
    )
    assert not {"crashed", "timeout", "out-of-memory", "internal-error"} & set(found.values()), found
    assert all(why for _, _, why in done.problems)
    return len(good), len(bad)


@pytest.mark.timeout(600)
def test_each_file_is_read_whole_or_has_a_reason(memory: Path, report: Report) -> None:
    good, bad = check_zoo(memory)
    report("R19", good_files=good, bad_files=bad, bad_ones_read=0, good_ones_refused=0, extractions_ended=0)


@pytest.mark.skipif(not FULL or not can_trace(), reason="slow, and needs strace: RELIABILITY=full")
@pytest.mark.timeout(1200)
def test_no_file_elsewhere_is_opened_and_no_socket(memory: Path, report: Report) -> None:
    write_zoo(memory / "zoo")
    log = memory / "calls"
    code = (
        "from pathlib import Path; from tests.reliability.test_hostile_clips import extract_zoo\n"
        f"extract_zoo(Path({str(memory / 'zoo')!r}))\n"
    )
    words = ["strace", "-f", "-qq", "--seccomp-bpf", "-e", "trace=open,openat,openat2,socket,connect", "-o", str(log)]
    subprocess.run([*words, sys.executable, "-c", code], check=True, timeout=900)
    calls = log.read_text(errors="replace")
    assert "whole.mp4" in calls
    assert "nobodys-business" not in calls
    assert "AF_INET" not in calls
    report("R19", files_opened_elsewhere=0, sockets=0)


def test_meta_a_decoder_that_promises_nothing_is_caught(memory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sabotage: whatever a file gives is taken as all of it."""
    monkeypatch.setattr("unialign.stages.video.Video._judge", lambda self, tally: None)
    with pytest.raises(AssertionError, match="a bad file is read"):
        check_zoo(memory)
