"""All training runs of test_two_processes.py, in one start of its two processes: loading the libraries is most of each.

torchrun --nproc-per-node 2 -m tests.pipeline.train_by_two FOLDER SYSTEM ...

UniAlign trains from the stores in FOLDER/tiny and each system from the golden ones in FOLDER/golden, which has a folder
of the system's name for its run.
"""

import os
import sys
from pathlib import Path

from tests.golden.curves import golden_config, trained
from tests.pipeline import made_training
from unialign.pipeline.config import Config, with_values
from unialign.stages.training.processes import joined_processes

SHORT = {"train.settings.epochs": 2, "train.settings.eval_every": 1}


def short_config(system: str, folder: Path) -> Config:
    """Two epochs of four batches."""
    return with_values(golden_config(system, folder / "cache", folder / "runs" / system), SHORT)


if __name__ == "__main__":
    tiny, golden = (Path(sys.argv[1], name) for name in ("tiny", "golden"))
    # Each process makes the weights of small networks for itself.
    scratch = golden / f"scratch-{os.environ['RANK']}"
    scratch.mkdir()
    with joined_processes("cpu") as processes:
        made_training.train_and_step(tiny / "cache", tiny / "runs", 11, 7, processes)
        for name in sys.argv[2:]:
            trained(short_config(name, golden), scratch)
