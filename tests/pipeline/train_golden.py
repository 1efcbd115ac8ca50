"""Short trainings of some systems from the golden caches, as torchrun starts them in each process.

torchrun --nproc-per-node 2 -m tests.pipeline.train_golden CACHE RUNS SYSTEM ...

The run folder of each system is below RUNS, in a folder of its name.
"""

import os
import sys
from pathlib import Path

from tests.golden.curves import golden_config, trained
from unialign.pipeline.config import Config, with_values
from unialign.stages.training.processes import joined_processes

SHORT = {"train.settings.epochs": 2, "train.settings.eval_every": 1}


def short_config(system: str, cache: Path, runs: Path) -> Config:
    """Two epochs of four batches."""
    return with_values(golden_config(system, cache, runs), SHORT)


if __name__ == "__main__":
    cache, runs, *systems = sys.argv[1:]
    # Each process makes the weights of small networks for itself.
    scratch = Path(runs).parent / f"scratch-{os.environ['RANK']}"
    scratch.mkdir(parents=True, exist_ok=True)
    with joined_processes("cpu"):
        for name in systems:
            trained(short_config(name, Path(cache), Path(runs, name)), scratch)
