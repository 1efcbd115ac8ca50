"""`unialign init`: what a dataset and this machine are like, and the unialign.yaml that follows from it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

from unialign.cache.cores import usable_cores
from unialign.pipeline.config import Config, with_values
from unialign.pipeline.datasets import rooted_dataset
from unialign.pipeline.extraction.hardware import processor
from unialign.pipeline.first_look import FirstLook, first_look
from unialign.pipeline.fitting_settings import Line, as_yaml, fitting_settings
from unialign.pipeline.people_seen import people_seen
from unialign.pipeline.rates import measured_rates
from unialign.stages.datasets.base import Dataset
from unialign.types import Json
from unialign.words import counted

# What a file instead of a folder is read as, by its suffix.
FILES: Mapping[str, str] = {".pkl": "pyskl", ".pickle": "pyskl", ".npz": "skeletons"}
POSE_WEIGHTS = ("*-pose.pt", "*rtmo*.onnx")


@dataclass(frozen=True)
class Proposal:
    """A configuration with what it follows from. machine: "processor", "cores", "gpu" and the rates of `rates.py`."""

    dataset: Dataset
    look: FirstLook
    machine: Mapping[str, Json]
    lines: tuple[Line, ...]
    text: str

    def result(self) -> dict[str, Json]:
        """The object that `--json` prints."""
        settings = {line.key: line.value for line in self.lines if not line.off}
        return {"look": self.look.result(), "machine": dict(self.machine), "settings": settings}


def propose(
    data: Path,
    *,
    dataset: str | None = None,
    labels: Path | None = None,
    weights: Path | None = None,
    progress: Callable[[int, int, str], None] = lambda done, total, text: None,
) -> Proposal:
    """Look at a dataset and measure this machine, in 20 seconds at most after libraries are loaded.

    data: its folder or file. dataset: its name; by default "folder", or what the file's suffix says. weights: of a pose
    network; by default those in the working folder or beside the data, if there is one such file. progress: called with
    (done, total, what is done).
    Raises `UsageError` for data that cannot be read.
    """
    name = dataset or FILES.get(data.suffix, "folder")
    values = {"data": data, "dataset": name, "labels": labels}
    config = with_values(Config(), {key: value for key, value in values.items() if value is not None})
    found = rooted_dataset(config)
    look = first_look(
        found, config.cache.resolve(), progress=lambda done, total: progress(done, total, "look at clips")
    )
    weights = weights or _weights_beside(data)
    gpu = _gpu()
    if not look.people and weights:
        looked = with_values(config, {"extract.poses.weights": weights})
        progress(1, 1, "count people")
        look = replace(look, people=people_seen(found, looked, look.frames // 2))
    lines = fitting_settings(look, weights=str(weights) if weights else None, gpu=bool(gpu))
    own = with_values(config, {line.key: line.value for line in lines if not line.off})
    machine = {"processor": processor(), "cores": usable_cores(), "gpu": gpu or None}
    progress(1, 1, "measure this machine")
    machine |= measured_rates(own) if look.videos else {}
    places = [Line("data", str(data), ""), Line("dataset", name, "")]
    places += [Line("labels", str(labels), "")] if labels else []
    text = _header(look, machine) + as_yaml(places) + as_yaml(lines)
    return Proposal(found, look, machine, tuple(lines), text)


def _weights_beside(data: Path) -> Path | None:
    """The weights of a pose network in the working folder, or beside the data; None unless there is just one file."""
    for folder in dict.fromkeys((Path(), data.parent)):
        found = sorted(path for pattern in POSE_WEIGHTS for path in folder.glob(pattern))
        if found:
            return found[0] if len(found) == 1 else None
    return None


def _gpu() -> str:
    """The name of the first GPU; "" without one."""
    import torch

    return str(torch.cuda.get_device_name(0)) if torch.cuda.is_available() else ""


def _header(look: FirstLook, machine: Mapping[str, Json]) -> str:
    """What the settings follow from, as comments."""
    parts = ", ".join(f"{getattr(look, part):,} {part}" for part in ("train", "val", "test") if getattr(look, part))
    lines = [
        f"Settings for {counted(look.samples, 'clip')} of {counted(look.classes, 'class', 'classes')} ({parts}), by "
        "`unialign init`. `unialign run` does the rest.",
        "Only what differs from the defaults stands here; `unialign config show` lists every setting.",
    ]
    if look.decoded:
        lines.append(
            f"The median clip of {look.decoded} that were looked at: {look.frames} frames, {look.long_side} x "
            f"{look.side} pixels, {look.fps:g} frames per second."
        )
    device = machine["gpu"] or "no GPU"
    lines.append(f"This machine: {machine['processor']}, {counted(machine['cores'], 'core')}, {device}.")
    if time := pose_seconds(look, machine):
        lines.append(f"Poses and frames will take about {timedelta(seconds=round(time))}, once.")
    return "".join(f"# {line}\n" for line in lines) + "\n"


def pose_seconds(look: FirstLook, machine: Mapping[str, Json]) -> float | None:
    """Seconds that the extraction of poses will take here; None if not known."""
    rates = [machine.get("network"), look.decode_rate * machine["cores"]]
    if not all(isinstance(rate, float) and rate > 0 for rate in rates):
        return None
    return look.videos * look.frames / min(float(rate) for rate in rates)
