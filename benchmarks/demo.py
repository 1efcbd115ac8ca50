"""The figures of `unialign demo`: python benchmarks/demo.py [--folder demo]

Writes benchmarks/results/demo.json, from which `make results` makes the demo's table in README.md. A demo that already
ran in the folder is not run again.
"""

import argparse
import json
from pathlib import Path

from encoders import RESULTS, called, processor


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("demo"))
    folder = parser.parse_args().folder.resolve()
    found = called(["demo", "--folder", folder])
    kept = {name: value for name, value in found.items() if name not in ("folder", "pictures", "pages")}
    run = next(iter(sorted((folder / "runs").glob("demo-unialign-*"))))
    content = {"kind": "demo", **kept, "processor": processor(run)}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "demo.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
