"""Run folders: the settings, inputs and results of a training run.

    <runs>/<dataset>-<model>[-<row>]-seed<seed>-<first 12 hex of the run's key>/
        config.yaml       every setting, resolved
        learned.csv       only if started from another run: source digests of what its weights were trained on
        data.csv          part, label and source digests of each sample, see `run_data`
        keys.json         the stores read, by modality, sample counts, the classes in the order of the model's outputs,
                          and the digest of data.csv
        env.json          versions and machine
        log.jsonl  metrics.csv  tensorboard/  checkpoints/
        predictions.npz   of the last epoch: ids, labels, probabilities, importance
        memory.json       peak memory in bytes of the process that finished it, resident and on its GPU
        result.json       written last, marks the run as finished; holds digests of the files above and of itself
        baselines.json    simple classifiers measured on the same features after the run, if that takes seconds
        elsewhere.json    what `unialign evaluate --dataset` measured of it on other datasets

The key is the digest of everything that determines the result; repeating a training run finds the finished folder. The
part of a folder's name before the key is for people: a run is found by its key, regardless of which row of which grid
trained it first, and this includes runs from when names had neither row nor seed.
"""

import io
import json
import logging
import platform
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml
from pydantic import ValidationError

from unialign.cache import atomic
from unialign.cache.access import is_refused
from unialign.cache.bounded import parse_json, read_plain
from unialign.cache.cores import usable_cores
from unialign.cache.keys import SHORT, digest
from unialign.cache.lock import store_lock
from unialign.cache.schema import METADATA_BYTES, reason
from unialign.errors import DamagedStore, LockedStore, MissingCache, UsageError
from unialign.pipeline.extraction.hardware import processor
from unialign.pipeline.manifest import file_name
from unialign.pipeline.memory import peak_gpu_memory, peak_memory
from unialign.pipeline.training.run_schema import FILES
from unialign.pipeline.yaml_values import read_yaml
from unialign.stages.archives import read_npz
from unialign.types import Json

if TYPE_CHECKING:
    import torch

DATA, PREDICTIONS = "data.csv", "predictions.npz"
# Written after the run has ended, so not covered by result.json.
BASELINES, ELSEWHERE = "baselines.json", "elsewhere.json"
# Files covered by digests in result.json besides the predictions, since later commands rely on them.
VERIFIED = ("config.yaml", DATA, "keys.json", "env.json", "memory.json")
# What a run's initial weights were trained on; only in runs that were started from another run.
LEARNED = "learned.csv"
# Maximum length of the row's name in a folder name.
LONGEST_ROW = 40
ANEW = "move the folder away to train anew."
# Maximum size in bytes of a run's non-metadata files; actual ones are about a hundredth of it.
LARGEST = 4 << 30
LOGGER = logging.getLogger(__name__)
LIBRARIES = ("unialign", "torch", "torchvision", "timm", "numpy", "zarr", "open_clip_torch", "pillow")


@dataclass(frozen=True)
class Run:
    """One run. identity: the content whose digest is its key."""

    folder: Path
    dataset: str
    model: str
    identity: Mapping[str, Json]

    @property
    def key(self) -> str:
        """64 hex digits."""
        return digest(dict(self.identity))

    @property
    def stem(self) -> str:
        """Prefix of the folder's name."""
        return f"{file_name(self.dataset)}-{self.model}-"

    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoints."""
        return self.folder / "checkpoints"


def run_of(
    runs: Path, *, dataset: str, model: str, identity: Mapping[str, Json], row: str = "", seed: int | None = None
) -> Run:
    """The run with this identity in the folder `runs`, whether it has been started or not.

    row, seed: added to the name of a new folder after dataset and model; an existing folder keeps its name.
    """
    parts = [
        file_name(dataset),
        model,
        readable(row),
        "" if seed is None else f"seed{seed}",
        digest(dict(identity))[:SHORT],
    ]
    return _found(Run(runs / "-".join(filter(None, parts)), dataset, model, identity))


def find_run(runs: Path, name: Path) -> Path:
    """The run folder that a command's argument refers to: a path, or a prefix of a name or key in the folder `runs`.

    Raises `MissingCache` if nothing matches, `UsageError` if several do.
    """
    if name.is_dir() or len(name.parts) != 1:
        return name
    word = name.name
    folders = run_folders(runs)
    found = [path for path in folders if path.name.startswith(word) or path.name.rpartition("-")[2].startswith(word)]
    if not found:
        raise MissingCache(
            f"{word} is not a run, and no run in {runs} has a name or key that begins so; `unialign train` makes runs."
        )
    if len(found) > 1:
        raise UsageError(f"{word} may be {' or '.join(path.name for path in found[:5])}; give more of the name.")
    return found[0]


def run_folders(runs: Path) -> list[Path]:
    """The folders of runs in the folder `runs`, finished or not, sorted by name."""
    return [path for path in sorted(runs.iterdir()) if (path / "config.yaml").is_file()] if runs.is_dir() else []


def newest_run(runs: Path) -> Path:
    """The run in a folder that was finished last. Raises `MissingCache` if none is."""
    finished = [path for path in run_folders(runs) if (path / "result.json").is_file()]
    if not finished:
        raise MissingCache(f"no finished run in {runs}; `unialign run` and `unialign train` make them.")
    return max(finished, key=lambda path: ((path / "result.json").stat().st_mtime_ns, path.name))


def readable(row: str) -> str:
    """A row's name made safe for a folder name: at most 40 letters, digits, underscores, dots and hyphens."""
    return re.sub(r"[^\w.]+", "-", row.lower())[:LONGEST_ROW].strip("-._")


def _found(run: Run) -> Run:
    """The run in its existing folder, regardless of the folder's name; finished folders take precedence.

    Folders of before have the dataset's name unchanged.
    """
    if not run.folder.parent.is_dir():
        return run
    tail = f"-{run.key[:SHORT]}"
    folders = [
        path
        for path in sorted(run.folder.parent.iterdir())
        if path.name.startswith((run.stem, f"{run.dataset}-{run.model}-"))
        and path.name.endswith(tail)
        and path.is_dir()
    ]
    finished = [path for path in folders if (path / "result.json").is_file()]
    return replace(run, folder=(finished or folders or [run.folder])[0])


def finished_result(run: Run) -> dict[str, Any] | None:
    """The content of result.json of a finished run with the same key; None if it is not finished.

    Raises what `read_result` raises, `DamagedStore` for a result with another key or without its digest (every run
    with a current key was written with one), and `MissingCache` if the encoder that the run exported is missing.
    """
    path = run.folder / "result.json"
    if not path.is_file():
        return None
    result = read_result(run.folder)
    if result["key"] != run.key:
        raise DamagedStore(f"{path} belongs to another run ({result['key'][:12]}); {ANEW}")
    if not is_signed(run.folder):
        raise DamagedStore(f"{path} has lost the digest that it was written with; {ANEW}")
    exported = result.get("exported")
    if exported and not (run.folder / exported).is_file():
        raise MissingCache(f"{run.folder / exported}, the encoder of this finished run, is gone; {ANEW}")
    return result


def read_result(folder: Path) -> dict[str, Any]:
    """The content of the result.json of a run folder, without its digest.

    Runs that predate the digest are read unchecked, see `is_signed`; a folder with a data.csv, or whose keys.json
    mentions one, is not one of those. Raises `MissingCache` for an unfinished run, `DamagedStore` for a file that
    cannot be read, was changed or does not belong to a run.
    """
    path = folder / "result.json"
    result = _parsed(path, _present(path))
    claimed = result.pop("digest", None)
    if claimed != digest(result) and (claimed is not None or _has_table(folder)):
        raise DamagedStore(f"{path} was changed after the run had ended; {ANEW}")
    _check(path, result)
    return result


def is_signed(folder: Path) -> bool:
    """Whether the result.json of a run contains a digest; only runs from before November 2026 lack one."""
    path = folder / "result.json"
    return "digest" in _parsed(path, _present(path))


def _has_table(folder: Path) -> bool:
    """Whether a run is recent enough to have a data.csv and a digest in its result."""
    keys = folder / "keys.json"
    return (folder / DATA).is_file() or (keys.is_file() and "data" in _parsed(keys, _present(keys)))


@contextmanager
def sole_writer(run: Run) -> Iterator[Run]:
    """Lock the run for the duration of the block and yield it, in the folder another process may have created.

    Raises `LockedStore` if another process is training it.
    """
    with ExitStack() as stack:
        try:
            # The lock does not depend on the folder's name.
            lock = run.folder.with_name(f"{run.stem}{run.key[:SHORT]}")
            stack.enter_context(store_lock(lock, run.folder.parent))
        except LockedStore as error:
            raise LockedStore(f"{run.folder}: another process trains this run; wait for it or stop it.") from error
        except OSError as error:
            # A finished run is not written to, so a read-only folder is fine.
            if not is_refused(error) or not (run.folder / "result.json").is_file():
                raise
        yield _found(run)


def forget(run: Run) -> None:
    """Delete the run's folder, finished or not; call it within `sole_writer`."""
    if run.folder.is_dir():
        LOGGER.info("deletes %s", run.folder)
        atomic.remove(run.folder)


def begin(
    run: Run,
    config: Mapping[str, Json],
    data: str,
    keys: Mapping[str, Json],
    machine: Mapping[str, Json],
    learned: str = "",
) -> None:
    """Write config.yaml, data.csv, keys.json, env.json and learned.csv; remove leftovers of killed writers."""
    atomic.make_folder(run.folder)
    atomic.sweep(run.folder)
    text = yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True)
    atomic.write_text(run.folder / "config.yaml", text)
    atomic.write_text(run.folder / DATA, data)
    if learned:
        atomic.write_text(run.folder / LEARNED, learned)
    _write_json(run.folder / "keys.json", keys)
    _write_json(run.folder / "env.json", machine)


def finish(run: Run, result: Mapping[str, Json], arrays: Mapping[str, np.ndarray]) -> None:
    """Write predictions.npz (unless there are no arrays), memory.json, then result.json, which marks the run finished.

    result.json holds digests of the predictions, of the files in `VERIFIED` and of itself.
    """
    content = dict(result)
    if arrays:
        buffer = io.BytesIO()
        np.savez(buffer, allow_pickle=False, **arrays)
        atomic.write_file(run.folder / PREDICTIONS, buffer.getvalue())
        content["predictions"] = sha256(buffer.getvalue()).hexdigest()
    _write_json(run.folder / "memory.json", {"peak": peak_memory(), "gpu_peak": peak_gpu_memory()})
    there = [name for name in (*VERIFIED, LEARNED) if name != LEARNED or (run.folder / name).is_file()]
    content["files"] = {name: sha256((run.folder / name).read_bytes()).hexdigest() for name in there}
    _write_json(run.folder / "result.json", {**content, "digest": digest(content)})


def write_baselines(folder: Path, rows: Sequence[Mapping[str, Json]]) -> None:
    """Keep the simple classifiers that were measured beside a finished run, see `evaluation.baselines.Row`."""
    _write_json(folder / BASELINES, {"rows": [dict(row) for row in rows]})


def read_baselines(folder: Path) -> list[dict[str, Any]]:
    """The simple classifiers measured beside a run; empty without any. Raises what `read_json` raises."""
    return list(read_json(folder / BASELINES)["rows"]) if (folder / BASELINES).is_file() else []


def write_elsewhere(folder: Path, row: Mapping[str, Json]) -> None:
    """Keep what a finished run reached on a protocol of another dataset, in place of an earlier measurement of it."""
    place = row["dataset"], row["protocol"]
    others = [each for each in read_elsewhere(folder) if (each["dataset"], each["protocol"]) != place]
    _write_json(folder / ELSEWHERE, {"rows": [*others, dict(row)]})


def read_elsewhere(folder: Path) -> list[dict[str, Any]]:
    """What a run reached on other datasets; empty if it was tested on none. Raises what `read_json` raises."""
    return list(read_json(folder / ELSEWHERE)["rows"]) if (folder / ELSEWHERE).is_file() else []


def read_predictions(folder: Path) -> dict[str, np.ndarray] | None:
    """The arrays of a run's predictions.npz; None for a run without one.

    Always ids (N,) str, labels (N,) int and probabilities (N, L) float. Raises `DamagedStore` for a file that cannot be
    read, has other content, or does not match its digest in result.json.
    """
    path = folder / PREDICTIONS
    if not path.is_file():
        return None
    data = _present(path)
    claimed = read_result(folder).get("predictions") if (folder / "result.json").is_file() else None
    if claimed is not None and sha256(data).hexdigest() != claimed:
        raise DamagedStore(f"{path} was changed after the run had ended; {ANEW}")
    try:
        arrays = dict(read_npz(data))
        _check_predictions(arrays)
    except ValueError as error:
        raise DamagedStore(f"{path} cannot be read ({error}); {ANEW}") from error
    return arrays


def _check_predictions(arrays: Mapping[str, np.ndarray]) -> None:
    """Raise `ValueError` for arrays that are not predictions."""
    kinds = {"ids": ("U", 1), "labels": ("i", 1), "probabilities": ("f", 2)}
    for name, (kind, axes) in kinds.items():
        if name not in arrays:
            raise ValueError(f"{name} are missing")
        if arrays[name].dtype.kind != kind or arrays[name].ndim != axes:
            raise ValueError(f"{name} are {arrays[name].dtype}, shape {arrays[name].shape}")
    if len({len(arrays[name]) for name in kinds}) > 1 or not arrays["probabilities"].size:
        raise ValueError("ids, labels and probabilities are not of the same samples")
    if arrays["labels"].min() < 0:
        raise ValueError("a label is below 0")


def read_verified(path: Path) -> bytes:
    """The content of a file in a run folder; for a finished run, checked to be unchanged since the run ended.

    Runs whose result.json predates file digests are read unchecked. Raises `MissingCache` if the file is missing,
    `DamagedStore` if it was changed.
    """
    data = _present(path)
    finished = (path.parent / "result.json").is_file()
    claimed = read_result(path.parent).get("files", {}).get(path.name) if finished else None
    if claimed is not None and sha256(data).hexdigest() != claimed:
        raise DamagedStore(f"{path} was changed after the run had ended; {ANEW}")
    return data


def place_of(run: Run, epochs: int) -> str:
    """A sentence saying where an interrupted run will resume."""
    # Here, since it loads torch, which listing and removing runs do not need.
    from unialign.stages.training.checkpoints import Checkpoints

    position = Checkpoints(run.folder / "checkpoints", run.key).position()
    if position is None:
        return f"{run.folder}: no checkpoint was written yet, so the same command begins anew."
    within = f", behind {position.samples} of its samples" if position.samples else ""
    if position.epoch >= epochs:
        return f"{run.folder}: training has ended; the same command evaluates it."
    return f"{run.folder}: the same command goes on from epoch {position.epoch + 1} of {epochs}{within}."


def memory_of(folder: Path) -> tuple[int | None, int | None]:
    """Peak memory in bytes (resident, GPU) of the process that finished a run; None if not measured.

    Raises `DamagedStore` for a file that cannot be read.
    """
    if not (folder / "memory.json").is_file():
        return None, None
    measured = read_json(folder / "memory.json")
    return measured.get("peak"), measured.get("gpu_peak")


def read_config(folder: Path) -> dict[str, Any]:
    """The resolved settings of a run; those of its model are validated by `train.run_config`.

    Raises `MissingCache` for a folder that is not a run, `DamagedStore` for a file that cannot be read.
    """
    path = folder / "config.yaml"
    if not path.is_file():
        raise MissingCache(f"{folder} is not a run; `unialign train` makes them.")
    try:
        config = read_yaml(read_verified(path).decode())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise DamagedStore(f"{path} cannot be read ({' '.join(str(error).split())}).") from error
    return _check(path, config)


def read_keys(folder: Path) -> dict[str, Any]:
    """The keys.json of a run folder: its "run" key and, by modality, its "stores" with "key" and "store".

    Raises what `read_json` raises.
    """
    return read_json(folder / "keys.json")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file of a run folder. Raises what `read_verified` raises, and `DamagedStore` for invalid content."""
    return _check(path, _parsed(path, read_verified(path)))


def _present(path: Path) -> bytes:
    if not path.is_file():
        raise MissingCache(
            f"{path} does not exist: the run is not finished (the same command resumes it) or its folder is incomplete."
        )
    try:
        return read_plain(path, METADATA_BYTES if path.name in FILES else LARGEST)
    except OSError as error:
        if is_refused(error):
            raise
        raise DamagedStore(f"{path} cannot be read ({error.strerror}).") from error


def _parsed(path: Path, data: bytes) -> dict[str, Any]:
    try:
        return dict(parse_json(data))
    except (ValueError, TypeError) as error:
        raise DamagedStore(f"{path} cannot be read ({error}).") from error


def _check(path: Path, content: Any) -> dict[str, Any]:
    """The content of a run's file, unchanged. Raises `DamagedStore` naming the first invalid field."""
    try:
        FILES[path.name].model_validate(content)
    except ValidationError as error:
        raise DamagedStore(f"{path} cannot be used ({reason(error)}); it is not the file of a run.") from error
    return dict(content)


def environment(device: "torch.device", world_size: int) -> dict[str, Json]:
    """Versions and machine, for the record; without host names or paths."""
    import torch

    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "machine": platform.machine(),
        "processor": processor(),
        "cores": usable_cores(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "cuda": torch.version.cuda if device.type == "cuda" else None,
        "processes": world_size,
        "libraries": {name: _version(name) for name in LIBRARIES},
    }


def _version(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:
        return "absent"


def _write_json(path: Path, value: Mapping[str, Json]) -> None:
    atomic.write_text(path, json.dumps(dict(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n")
