"""R23: stores from untrusted sources, changed and signed again, played by a process that guards its memory.

200,000 cases with FUZZ=full (`make fuzz`), 10,000 with RELIABILITY=full, some hundreds otherwise;
`corpus.json` holds those that once broke something.
"""

import faulthandler
import json
import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.reliability.conftest import Report
from tests.reliability.guarded import Guarded
from tests.reliability.scenes import FULL, SEED, sized

CORPUS = Path(__file__).with_name("corpus.json")
# Seconds without a new case after which a process counts as hung.
PATIENCE = 120


def play(folder: Path, codec: str, seed: int, first: int, count: int, cases: Any = None) -> Counter[str]:
    """The counts of a process that played those cases; fails for a crash, a hang and a wrong outcome."""
    folder.mkdir()
    command = [sys.executable, "-m", "tests.reliability.hostile", *map(str, (folder, codec, seed, first, count))]
    with (folder / "out").open("w+") as out:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=out, stderr=subprocess.STDOUT, text=True)
        assert process.stdin
        process.stdin.write(json.dumps(cases or []))
        process.stdin.close()
        seen, since = "", time.monotonic()
        while process.poll() is None:
            now = (folder / "at").read_text() if (folder / "at").exists() else ""
            if now != seen:
                seen, since = now, time.monotonic()
            elif time.monotonic() - since > PATIENCE:
                process.kill()
            time.sleep(0.2)
        out.seek(0)
        text = out.read()
    assert process.returncode == 0, f"ended with {process.returncode} in case {seen.strip()} of seed {seed}: {text}"
    shutil.rmtree(folder)
    counts: Counter[str] = Counter(json.loads(text.splitlines()[-1]))
    assert counts["peak_mib"] < 1024, counts
    return counts


CASES = 200_000 if os.environ.get("FUZZ") == "full" else sized(400, 10_000)
# One process plays so many at most: two cores share the work evenly, and a loaded machine meets no deadline.
SLICE = 10_000


def slices() -> Iterator[tuple[str, int, int]]:
    """The codec, the first case and the number of cases of each process."""
    for codec, share in (("none", 0.6), ("zstd", 0.2), ("blosc", 0.2)):
        count = int(CASES * share)
        for first in range(0, count, SLICE):
            yield codec, first, min(SLICE, count - first)


@pytest.mark.parametrize(("codec", "first", "count"), [*slices()])
def test_no_store_crashes_hangs_writes_outside_or_gives_what_it_does_not_hold(
    memory: Path, report: Report, codec: str, first: int, count: int
) -> None:
    total = play(memory / "play", codec, SEED, first, count)
    assert total["refused"] > count / 10
    assert total["served"] > count / 10
    report(
        "R23",
        **{
            f"changed stores ({codec}, from {first})": total["cases"],
            "refused": total["refused"],
            "read as stored": total["served"],
            "repaired": total["repaired"],
            "crashes, hangs, outside writes, other values": 0,
            "peak MiB": total["peak_mib"],
        },
    )


def test_what_once_broke_something_does_no_more(memory: Path) -> None:
    kept = json.loads(CORPUS.read_text())
    for codec in sorted({case["codec"] for case in kept}):
        cases = [case for case in kept if case["codec"] == codec]
        assert play(memory / "play", codec, 0, 0, 0, cases)["cases"] == len(cases)


@pytest.mark.parametrize("at_end", [True, False])
def test_meta_a_byte_beside_guarded_memory_ends_the_process(at_end: bool) -> None:
    child = os.fork()
    if not child:
        faulthandler.disable()
        guard = Guarded()
        guard.at_end = at_end
        array = guard.memory(100)
        array[:] = 1
        beside = np.lib.stride_tricks.as_strided(array[-1:] if at_end else array[:1], (2,), (1 if at_end else -1,))
        os.close(1), os.close(2)
        int(beside.sum())
        os._exit(0)
    assert os.WIFSIGNALED(os.waitpid(child, 0)[1])


@pytest.mark.skipif(FULL, reason="one run is enough")
def test_meta_lengths_that_nobody_checks_are_found(memory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sabotage: the table of a store is believed as it is."""
    site = memory / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(
        "import unialign.cache.checks as checks\nchecks._check_rows = lambda *_: None\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{site}:{os.getcwd()}")
    cases = [
        {"number": 2, "steps": [["column", "lengths/frame", 0, 2**31 - 1, True]]},
    ]
    with pytest.raises(AssertionError, match="ended with -"):
        play(memory / "play", "none", 0, 0, 0, cases)
