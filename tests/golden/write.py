"""Write golden curves again, of all systems or of those that are named. When that is right: see `test_golden`.

OMP_NUM_THREADS=1 python -m tests.golden.write [SYSTEM ...]
"""

import json
import sys
import tempfile
from pathlib import Path

from tests.golden.curves import VALUES, golden_config, losses_of, make_caches, trained

FOLDER = Path(__file__).parent


def golden_file(system: str) -> Path:
    """Where a system's curve is."""
    return FOLDER / f"{system}.json"


def write(systems: list[str]) -> None:
    """Train these systems and write their losses, to more digits than the test looks at."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cache = make_caches(folder)
        for system in systems:
            run = trained(golden_config(system, cache, folder / "runs"), folder).folder
            curve = {"system": system, "losses": [float(f"{loss:.7g}") for loss in losses_of(run)]}
            golden_file(system).write_text(json.dumps(curve, indent=1) + "\n")


if __name__ == "__main__":
    write(sys.argv[1:] or list(VALUES))
