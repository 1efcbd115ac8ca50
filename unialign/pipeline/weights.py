"""Weight files on this machine: what each holds, what it is for, and whether it loads."""

import zipfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from unialign.cache.digests import file_digest
from unialign.errors import CorruptInput, UnialignError, UsageError
from unialign.stages.datasets.scan import walk_files
from unialign.types import Json

SUFFIXES = (".pt", ".pth", ".pyth", ".pth.tar", ".bin", ".safetensors")
MOST_FILES = 1000
# Published files whose digest is known, by SHA-256.
KNOWN: Mapping[str, str] = {
    "7b73c469c7af983ddf0937403e85d61bae30f01816bdd08c388827076bdd4812": "Shift-GCN, NTU 60 xsub, joints",
    "0d17f748bcafc3140edbb3d72104eeeb51d4b644d6b66c3b046036b003f40889": "Shift-GCN, NTU 120 xsub, joints",
    "14d3e55e7c29ee73d22a2306050c7156d516bdeee3ab47547174e38256f807e7": "PYSKL's gesture demo, ST-GCN++",
}
_CLIP_FRAMES, _CLIP_SIDE = 16, 224


@dataclass(frozen=True)
class WeightFile:
    """One file: path below the folder, size in bytes, SHA-256.

    what: the network. loads: whether it does; None if that was not tried. uses: the options that take it. note: how it
    is read, or why it does not load. known: what is published with this digest; "" if that is not known here.
    """

    path: str
    size: int
    digest: str
    what: str
    loads: bool | None
    uses: tuple[str, ...] = ()
    note: str = ""
    known: str = ""

    def result(self) -> dict[str, Json]:
        """The fields as plain values."""
        return {**asdict(self), "uses": list(self.uses)}


def found_weights(folder: Path, progress: Callable[[int, int], None] = lambda done, total: None) -> list[WeightFile]:
    """Every weight file below a folder, sorted by path; not the files of stores, nor the checkpoints of training runs,
    which `train.start=RUN` takes by their run.

    progress: called with bytes done and bytes of all files. Raises `UsageError` for a folder that is none, that holds
    no weight files, or more than 1000.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder}: is not a folder; give the one that your weight files lie in.")
    # No pipes and devices, and no links to nothing.
    found = (each for each in walk_files(folder) if each.name.lower().endswith(SUFFIXES) and each.is_file())
    paths = sorted(path for path in (Path(each.path) for each in found) if not _belongs(path))
    if not paths:
        raise UsageError(f"{folder}: holds no weight files ({', '.join(SUFFIXES)}).")
    if len(paths) > MOST_FILES:
        raise UsageError(f"{folder}: holds {len(paths):,} weight files; give a folder of at most {MOST_FILES:,}.")
    sizes = [path.stat().st_size for path in paths]
    made, done = [], 0
    for path, size in zip(paths, sizes, strict=True):
        progress(done, sum(sizes))
        digest = file_digest(path).removeprefix("sha256:")
        what, loads, uses, note = _described(path)
        name = path.relative_to(folder).as_posix()
        made.append(WeightFile(name, size, digest, what, loads, uses, note, KNOWN.get(digest, "")))
        done += size
    progress(done, sum(sizes))
    return made


def _belongs(path: Path) -> bool:
    """Whether a file is part of a store, or a checkpoint of a training run."""
    checkpoint = path.parent.name == "checkpoints" and (path.parents[1] / "config.yaml").is_file()
    return checkpoint or any(parent.suffix == ".zarr" for parent in path.parents)


Described = tuple[str, bool | None, tuple[str, ...], str]


def _described(path: Path) -> Described:
    from unialign.stages.foreign_weights import load_foreign_weights

    try:
        content = load_foreign_weights(path, "a network")
    except CorruptInput as error:
        if _names_ultralytics(path):
            return "Ultralytics network", None, ("extract poses --weights",), "not opened: loading one can run code"
        return "unknown", False, (), str(error)
    return _skeleton_encoder(path, content) or _backbones(content)


def _names_ultralytics(path: Path) -> bool:
    """Whether the pickle in a PyTorch archive names the package; nothing of it is run."""
    try:
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                if name.endswith("data.pkl"):
                    with archive.open(name) as pickled:
                        return b"ultralytics" in pickled.read(1 << 20)
    except (zipfile.BadZipFile, OSError, NotImplementedError):
        pass  # no archive
    return False


def _skeleton_encoder(path: Path, content: Mapping[str, Any]) -> Described | None:
    """None for a file that is nothing of the kind."""
    from unialign.stages.extraction.pose_encoder import FIELDS, load_encoder
    from unialign.stages.extraction.published_encoders import is_skeleton_network

    own = all(name in content for name in FIELDS)
    if not own and "l1.gcn1.Linear_weight" not in content and not is_skeleton_network(content):
        return None
    uses = ("extract pose-features --weights",)
    try:
        encoder = load_encoder(path)
    except UnialignError as error:
        return "skeleton encoder", False, uses, str(error).removeprefix(f"{path}: ").removeprefix(f"{path} ")
    on = f", trained on {encoder.dataset} {encoder.protocol}".rstrip() if encoder.dataset else ""
    note = f"{encoder.layout.name}, {encoder.recipe}, {encoder.clip_len} frames{on}"
    return f"skeleton encoder {encoder.name}", True, uses, note


def _backbones(content: Mapping[str, Any]) -> Described:
    """What video backbones take; of a CLIP, text and tokens too."""
    from unialign.stages.models.backbones.registry import BACKBONES

    reports = {name: _fitting(name, content) for name in BACKBONES}
    fitting = [name for name, report in reports.items() if report]
    clip = any(str(name).endswith("token_embedding.weight") for name in content)
    uses = [f"train --backbone-weights ({', '.join(fitting)})"] if fitting else []
    if clip:
        uses += ["extract text --encoder openclip --weights", "extract tokens --weights"]
        return "CLIP", True if fitting else None, tuple(uses), "name its network with --model"
    if not fitting:
        return "unknown", False, (), "no network of unialign has these weights"
    return "video or image network", True, tuple(uses), reports[fitting[0]]


def _fitting(name: str, content: Mapping[str, Any]) -> str:
    """What a backbone would take of the weights; "" if they are not its own."""
    from unialign.stages.models.backbones.registry import matched

    try:
        return matched(_without_values(name), content)[1].sentence()
    except (UsageError, RuntimeError, AttributeError, TypeError, ValueError):
        return ""  # it may be any content, so names and shapes can be anything


@cache
def _without_values(name: str) -> Any:
    """A backbone on the device "meta": names and shapes only."""
    import torch

    from unialign.stages.models.backbones.registry import build_backbone

    with torch.device("meta"):
        return build_backbone(name, num_frames=_CLIP_FRAMES, image_size=_CLIP_SIDE)
