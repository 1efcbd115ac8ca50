"""Contract of supervision: whatever a sample does to its process, the others have the outcomes that they have alone."""

import gc
import os
import platform
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from tests.made_extractor import DEEDS, Spectrum, make_files
from unialign.cache.digests import file_digest
from unialign.errors import StaleCache, UnialignError
from unialign.pipeline.extraction import supervisor, worker
from unialign.pipeline.extraction.channel import Channel
from unialign.pipeline.extraction.supervisor import Limits, Supervisor
from unialign.stages.extraction.base import Extractor, Outcome, Source

LIMITS = Limits(seconds=1.5, memory=200 << 20)
PLAIN = Spectrum()
# What becomes of a sample, by what it does.
STATUS = {
    "segfault": "crashed", "abort": "crashed", "kill": "crashed", "exit": "crashed", "leave": "crashed",
    "hang": "timeout", "endless": "timeout", "fill": "out-of-memory", "leak": "out-of-memory",
    "raise": "internal-error", "lack-memory": "out-of-memory", "slow": "ok",
}  # fmt: skip


def run(extractor: Extractor, sources: Sequence[Source], limits: Limits = LIMITS, **given: bool) -> list[Outcome]:
    """The outcomes of one supervised run; fails if it leaves a process."""
    before = {each.pid for each in psutil.Process().children()}
    with Supervisor(extractor, 1, limits, **given) as watched:
        found = watched.run(sources)
    assert {each.pid for each in psutil.Process().children()} <= before
    return found


def check_same(found: Sequence[Outcome], expected: Sequence[Outcome]) -> None:
    """Fails unless the outcomes are equal, to the last byte."""
    for one, other in zip(found, expected, strict=True):
        assert (one.id, one.status, one.source, one.detail) == (other.id, other.status, other.source, other.detail)
        assert one.arrays.keys() == other.arrays.keys()
        for name, values in other.arrays.items():
            assert one.arrays[name].tobytes() == values.tobytes()


def check_deeds(
    folder: Path, deeds: dict[int, str], number: int, extractor: Spectrum = PLAIN, seconds: float = LIMITS.seconds
) -> list[Outcome]:
    """Run samples of which some do something; fails unless each has its status, and the others their own outcome."""
    sources = make_files(folder, number, deeds=deeds)
    found = run(extractor, sources, replace(LIMITS, seconds=seconds))
    assert [outcome.status for outcome in found] == [STATUS.get(deeds.get(n, ""), "ok") for n in range(number)]
    for n, outcome in enumerate(found):
        if outcome.status == "ok":
            check_same([outcome], list(Spectrum(lenient=True).run([sources[n]])))
        else:
            assert outcome.source == extractor.digest(sources[n])
            assert outcome.detail["why"]
    return found


def test_a_bad_sample_costs_itself_and_no_other(tmp_path: Path) -> None:
    for ahead in (0, 3):
        for deed in DEEDS:
            if STATUS[deed] != "timeout":
                check_deeds(tmp_path / f"{deed}{ahead}", {2: deed}, 6, Spectrum(ahead=ahead), seconds=30)


def test_many_bad_samples_in_one_unit_are_all_found(tmp_path: Path) -> None:
    deeds = {**dict(enumerate(DEEDS)), 14: "raise", 15: "segfault"}
    check_deeds(tmp_path, deeds, 18, Spectrum(ahead=2), seconds=3)


def test_the_reason_says_what_happened_and_no_folder_of_this_machine(tmp_path: Path) -> None:
    found = check_deeds(tmp_path, {0: "raise", 1: "segfault", 2: "exit", 3: "leak"}, 4, seconds=30)
    reasons = [str(outcome.detail["why"]) for outcome in found]
    assert reasons[0].startswith("AttributeError: 'NoneType' object at 0x... has no attribute 'frames' of clip (made_e")
    assert "SIGSEGV" in reasons[1]
    assert "exit code 3" in reasons[2]
    assert "memory" in reasons[3]
    assert not any(str(Path.cwd()) in reason or str(tmp_path) in reason for reason in reasons)


def test_a_worker_that_somebody_else_kills_costs_nobody(tmp_path: Path) -> None:
    sources = make_files(tmp_path / "files", 8)
    for killer in ("clip000", "clip004", "clip007"):
        calls = tmp_path / killer
        calls.mkdir()
        (calls / "armed").touch()
        found = run(Spectrum(calls=calls, killer=killer, ahead=1), sources)
        assert not (calls / "armed").exists()
        check_same(found, list(Spectrum().run(sources)))
        # What had come back is not done again; what was on its way is.
        assert len(list(calls.iterdir())) <= 2 * 8


def test_a_stopped_supervisor_does_not_count_the_time(tmp_path: Path) -> None:
    (tmp_path / "one.bin").write_bytes(b"ok")
    code = (
        "import sys; from pathlib import Path; from tests.made_extractor import Spectrum\n"
        "from unialign.pipeline.extraction.supervisor import *\n"
        "with Supervisor(Spectrum(pause=0.8), 1, Limits(seconds=2.0)) as watched:\n"
        f"    sources = [Source(str(n), Path({str(tmp_path / 'one.bin')!r})) for n in range(2)]\n"
        "    watched.run(()); watched._loaded(); print('ready', flush=True)\n"
        "    print([found.status for found in watched.run(sources)], watched._worker.pid)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.5)
    (child,) = psutil.Process(process.pid).children()
    for each in (process, child):
        each.send_signal(signal.SIGSTOP)
    time.sleep(3)
    for each in (child, process):
        each.send_signal(signal.SIGCONT)
    assert process.communicate(timeout=60)[0] == f"['ok', 'ok'] {child.pid}\n"


def test_a_sample_that_hangs_costs_two_deadlines_also_among_others(tmp_path: Path) -> None:
    for ahead in (0, 2):
        calls = tmp_path / f"calls{ahead}"
        calls.mkdir()
        check_deeds(tmp_path / f"files{ahead}", {2: "hang"}, 5, Spectrum(calls=calls, ahead=ahead))
        assert len(list(calls.glob("clip002-*"))) == 2


def test_a_worker_that_is_stopped_within_a_message_has_its_deadline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    armed = tmp_path / "armed"
    armed.touch()
    supervisor_pid, send = os.getpid(), Channel.send_pickled

    def send_half(channel: Channel, data: bytes, seconds: float | None = None) -> None:
        if os.getpid() != supervisor_pid and b"histogram" in data and armed.exists():
            armed.unlink()
            os.write(channel.fileno(), len(data).to_bytes(8, "big") + data[: len(data) // 2])
            os.kill(os.getpid(), signal.SIGSTOP)
        send(channel, data, seconds)

    monkeypatch.setattr(Channel, "send_pickled", send_half)
    sources = make_files(tmp_path / "files", 4)
    found = run(PLAIN, sources)
    assert not armed.exists()
    check_same(found, list(PLAIN.run(sources)))


def test_a_worker_ends_with_its_supervisor(tmp_path: Path) -> None:
    code = (
        "import os; from tests.made_extractor import Spectrum; from unialign.pipeline.extraction.supervisor import *\n"
        "watched = Supervisor(Spectrum(), 1, Limits())\n"
        "print(watched._loaded().pid, flush=True)\n"
        "os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=False)
    deadline = time.monotonic() + 10
    while psutil.pid_exists(int(done.stdout)) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not psutil.pid_exists(int(done.stdout))


def test_an_idle_worker_ends_by_itself_and_another_one_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "IDLE", 0.2)
    sources = make_files(tmp_path, 3)
    with Supervisor(Spectrum(), 1, LIMITS) as watched:
        first = watched.run(sources)
        assert watched._worker is not None
        psutil.Process(watched._worker.pid).wait(10)
        check_same(watched.run(sources), first)


def test_an_interpreter_of_its_own_does_the_same_as_a_fork(tmp_path: Path) -> None:
    class Local(Spectrum):
        """A class that no module holds."""

    sources = make_files(tmp_path, 6, deeds={2: "segfault", 4: "raise"})
    check_same(run(Local(), sources, replace(LIMITS, seconds=60), fork=False), run(Local(), sources))


@dataclass(frozen=True)
class Unloadable(Spectrum):
    """An extractor that cannot be loaded: it raises `error`, or does one of `DEEDS`."""

    error: Exception | None = None
    deed: str = ""

    def run(self, sources: Sequence[Source]) -> Iterator[Outcome]:
        if self.error:
            raise self.error
        DEEDS[self.deed]()
        return super().run(sources)


def test_what_fails_before_any_sample_is_read_ends_the_extraction(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources = make_files(tmp_path, 2)
    with pytest.raises(StaleCache, match="replaced"):
        run(Unloadable(error=StaleCache("the weights were replaced")), sources)
    with pytest.raises(RuntimeError, match="no such device") as raised:
        run(Unloadable(error=RuntimeError("no such device")), sources)
    assert "test_supervisor.py" in raised.value.__notes__[0]
    with pytest.raises(UnialignError, match=r"spectrum cannot be loaded: .*SIGSEGV"):
        run(Unloadable(deed="segfault"), sources)
    monkeypatch.setattr(supervisor, "LOADING", 0.5)
    with pytest.raises(UnialignError, match="seconds"):
        run(Unloadable(deed="hang"), sources)


def test_an_extractor_that_leaves_out_a_sample_is_a_defect(tmp_path: Path) -> None:
    class Lazy(Spectrum):
        def run(self, sources: Sequence[Source]) -> Iterator[Outcome]:
            return super().run(sources[1:])

    with pytest.raises(RuntimeError, match="one outcome per sample"):
        run(Lazy(), make_files(tmp_path, 3))


def test_a_fork_computes_with_several_threads_though_this_process_did_before(tmp_path: Path) -> None:
    class Product(Spectrum):
        def outcome(self, source: Source) -> Outcome:
            square = torch.full((600, 600), 0.5)
            return replace(super().outcome(source), detail={"sum": float((square @ square).sum())})

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        sources = make_files(tmp_path, 2)
        expected = list(Product().run(sources))
        with Supervisor(Product(), 2, Limits(seconds=20)) as watched:
            check_same(watched.run(sources), expected)
    finally:
        torch.set_num_threads(before)


def test_temporary_files_of_a_worker_go_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Scratch(Spectrum):
        def outcome(self, source: Source) -> Outcome:
            import tempfile

            Path(tempfile.mkdtemp(), "scratch").touch()
            return super().outcome(source)

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    found = run(Scratch(), make_files(tmp_path / "files", 4, deeds={1: "kill"}))
    assert [outcome.status for outcome in found] == ["ok", "crashed", "ok", "ok"]
    gc.collect()
    assert list((tmp_path / "temporary").iterdir()) == []


def test_a_process_with_a_driver_of_gpus_is_not_forked(monkeypatch: pytest.MonkeyPatch) -> None:
    assert supervisor.can_fork()
    monkeypatch.setattr(supervisor, "DRIVERS", (Path(os.__file__).parent.name, "libc.so"))
    assert not supervisor.can_fork()


def raised(code: Callable[[], object]) -> Exception:
    """What a piece of code raises."""
    try:
        code()
    except Exception as error:  # noqa: BLE001 - any
        return error
    raise AssertionError("nothing")


def test_the_place_of_a_defect_is_the_innermost_one_of_the_package() -> None:
    assert worker.why(raised(lambda: np.concatenate([]))).startswith(
        "ValueError: need at least one array to concatenate"
    )
    assert "(test_supervisor.py:" in worker.why(raised(lambda: np.concatenate([])))
    inside = worker.why(raised(lambda: file_digest(Path("nowhere"))))
    assert re.search(r"\(unialign/cache/digests\.py:\d+\)$", inside)


def test_a_reason_names_no_folder() -> None:
    source = Source("a", Path("/some where/odd, folder/clip.mp4"))
    text = worker.why(OSError("cannot read /some where/odd, folder/clip.mp4 or https://host/x/y"), [source])
    assert text.startswith("OSError: cannot read clip.mp4 or https://host/x/y (")


def test_a_stream_gives_no_more_than_is_allowed(tmp_path: Path) -> None:
    sources = make_files(tmp_path, 9)
    (tmp_path / "calls").mkdir()
    with Supervisor(Spectrum(calls=tmp_path / "calls"), 1, LIMITS) as watched:
        stream = watched.stream(sources, 4)
        given = [outcome.id for outcomes in islice(stream, 1) for outcome in outcomes]
        while len(given) < 4:
            given += [outcome.id for outcome in next(stream)]
        time.sleep(0.2)
        assert len(list((tmp_path / "calls").iterdir())) == len(given) == 4
        watched.allow(7)
        watched.allow(9)
        given += [outcome.id for outcomes in stream for outcome in outcomes]
        assert given == [source.id for source in sources]
        # Permission that came too late does not disturb what is asked next.
        assert [outcome.id for outcome in watched.run(sources[:2])] == given[:2]


FRAMES = """
import resource
import numpy as np
from unialign.pipeline.extraction.hardware import keep_freed_memory

def new_pages():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    frames = [np.ones(1 << 19, np.uint8) for _ in range(40)]
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

new_pages()
before = new_pages()
keep_freed_memory()
new_pages()
print(before, new_pages())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told to keep memory")
def test_a_worker_uses_the_memory_of_freed_frames_again() -> None:
    done = subprocess.run([sys.executable, "-c", FRAMES], capture_output=True, text=True, check=True, timeout=60)
    before, after = map(int, done.stdout.split())
    assert after < before / 10
