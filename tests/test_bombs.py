"""Contract of every parser: what is small costs little. Each bomb is rejected in a sentence, below 10 s and 1 GB."""

import json
import subprocess
import sys
from pathlib import Path

from tests.bombs import BOMBS, SECONDS


def test_every_bomb_is_refused_within_its_bounds(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-m", "tests.bombs", str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    outcomes = json.loads(done.stdout.splitlines()[-1])
    assert set(outcomes) == set(BOMBS)
    for name, (said, seconds, peak) in outcomes.items():
        assert said.startswith("refused: "), f"{name}: {said}"
        assert "\n" not in said, name
        assert seconds < SECONDS, f"{name}: {seconds} s"
        assert peak < 1024, f"{name}: {peak} MiB"
