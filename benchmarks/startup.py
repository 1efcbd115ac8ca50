"""CPU time that commands take before they do anything: imports, configuration, looking things up.

Each command runs as a process of its own in a folder with a small rendered collection, one store and one finished run.
The figure is user plus system time of the process, the smallest of the rounds, since whatever else the machine does can
only add to it. The first run of each command is not counted: it warms the file cache.
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path

from unialign.stages.demo.render import render_collection

TINY = [
    *("train.unialign.backbone=tsm-tiny", "train.unialign.num_frames=4", "train.unialign.image_size=32"),
    *("train.unialign.width=32", "train.unialign.modalities=[video]"),
    *("train.settings.epochs=1", "train.settings.batch_size=8"),
]
# Words of the command line, and the goal in seconds.
COMMANDS: list[tuple[list[str], float]] = [
    (["--help"], 0.4),
    (["train", "--help"], 0.4),
    (["cache", "ls"], 1.0),
    (["train", "lerning_rate=1"], 2.0),
    (["train", "train.settings.lerning_rate=1"], 2.0),
    (["train", *TINY], 3.0),
]


def command(words: list[str], folder: Path, quiet: bool = True) -> tuple[float, int]:
    """Run `unialign WORDS`; returns the CPU seconds of the process and its exit code."""
    pid = os.fork()
    if pid == 0:
        os.chdir(folder)
        if quiet:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, 1)
            os.dup2(null, 2)
        os.execv(sys.executable, [sys.executable, "-m", "unialign.cli", *words])
    _, status, used = os.wait4(pid, 0)
    return used.ru_utime + used.ru_stime, os.waitstatus_to_exitcode(status)


def prepare(folder: Path) -> None:
    """A collection, its frames in a cache, and a finished run."""
    render_collection(folder / "data", performers=2, cameras=1, workers=1)
    (folder / "unialign.yaml").write_text("dataset: demo\ndata: data\nextract: {threads: 1}\n")
    for words in (["extract", "frames"], ["train", *TINY]):
        _, code = command(words, folder, quiet=False)
        assert code == 0, f"unialign {' '.join(words)} ended with exit code {code}"


def main() -> None:
    """Print a table of all commands."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as name:
        prepare(Path(name))
        print("\n| command | CPU, s | goal, s |\n|---|---|---|")
        for words, goal in COMMANDS:
            command(words, Path(name))
            best = min(command(words, Path(name))[0] for _ in range(rounds))
            shown = " ".join(words[:2]) + (" ... (reused)" if words[1:] == TINY else "")
            print(f"| `unialign {shown}` | {best:.2f} | {goal:.1f} |", flush=True)


if __name__ == "__main__":
    main()
