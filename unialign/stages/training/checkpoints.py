"""Checkpoints, verified by their own checksums, so that a resumed run never starts from a partial state.

    checkpoints/000003-000000.pt, .json    after 3 epochs and 0 samples of the fourth; the newest `keep` are kept
    checkpoints/last.pt, last.json         the same state as the newest numbered one
    checkpoints/best.pt, best.json         the model and the weights of its heads, at its best evaluation

The `.json` next to a `.pt` holds its size, SHA-256, position and run: if it is missing or does not match, the `.pt` is
ignored. It is written first, so that a kill in between leaves a `.json` without a `.pt`, which is not a checkpoint,
rather than a file without a checksum. Files are loaded with torch's `weights_only`, which runs no code from them.
"""

import hashlib
import io
import json
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from unialign.cache import atomic
from unialign.cache.bounded import parse_json, read_plain
from unialign.cache.schema import METADATA_BYTES
from unialign.errors import DamagedStore, MissingCache, UnialignError
from unialign.stages.foreign_weights import read_weights
from unialign.stages.training.loader import Position

LOGGER = logging.getLogger(__name__)
LAST, BEST = "last", "best"


@dataclass(frozen=True)
class Loaded:
    """A checkpoint's content, its file, and one sentence for each newer one that could not be used."""

    state: dict[str, Any]
    path: Path
    skipped: tuple[str, ...]

    def weights(self) -> dict[str, torch.Tensor]:
        """The weights of the model, by name, or their average if there is one. Raises `DamagedStore` without any."""
        found, average = self.state.get("model"), self.state.get("average", {})
        if isinstance(found, Mapping) and isinstance(average, Mapping):
            weights = {**found, **average}
            if all(isinstance(each, torch.Tensor) for each in weights.values()):
                return weights
        raise DamagedStore(f"{self.path} holds no weights of a model; it is not the checkpoint of a run.")

    def head_weights(self) -> dict[str, float]:
        """What the model's heads weigh in the prediction, by name; {} for equal weights, as in older checkpoints.

        Raises `DamagedStore` for anything else.
        """
        found = self.state.get("head_weights", {})
        if not isinstance(found, Mapping) or not all(
            isinstance(name, str) and isinstance(weight, float) and 0 <= weight < math.inf
            for name, weight in found.items()
        ):
            raise DamagedStore(f"{self.path}: head_weights are not numbers of at least 0; it is not of this program.")
        return dict(found)

    def load_into(self, model: torch.nn.Module) -> None:
        """Load these weights into a model. Raises `DamagedStore` if they belong to another model."""
        try:
            model.load_state_dict(self.weights())
        except RuntimeError as error:
            first = " ".join(str(error).split("\n\t")[-1].split())[:300]
            raise DamagedStore(f"{self.path} does not fit the model of config.yaml beside it ({first}).") from error


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of one run. run: its key; files of another run are ignored. keep: how many numbered ones to
    keep.
    """

    folder: Path
    run: str
    keep: int = 2

    def save(self, state: Mapping[str, Any], position: Position) -> Path:
        """Store a state under its position and as "last"; returns the numbered file.

        Older ones beyond `keep` are removed afterwards; only valid ones count. Raises `UnialignError` if it cannot be
        written to disk; existing checkpoints are kept.
        """
        data = _serialised(state)
        name = f"{position.epoch:06d}-{position.samples:09d}"
        path = self._write(name, data, position)
        self._write(LAST, data, position)
        self._prune()
        return path

    def save_best(self, state: Mapping[str, Any], position: Position) -> Path:
        """Store a state as "best"."""
        return self._write(BEST, _serialised(state), position)

    def newest(self) -> Loaded | None:
        """The newest valid checkpoint; None if the run has none yet.

        Reports (log and `skipped`) newer ones that were skipped. Raises `DamagedStore` if there are some and none can
        be used.
        """
        skipped: list[str] = []
        files = [path for path in self.folder.glob("*.pt") if path.stem != BEST and not _is_temporary(path)]
        for path in sorted(files, key=self._rank, reverse=True):
            try:
                state = self._read(path)
            except DamagedStore as error:
                LOGGER.warning("%s Trying an older checkpoint.", error)
                skipped.append(str(error))
            else:
                return Loaded(state, path, tuple(skipped))
        if skipped:
            raise DamagedStore(
                f"{self.folder}: none of {len(skipped)} checkpoints is whole; move the folder away to train anew. "
                f"The newest: {skipped[0]}"
            )
        return None

    def position(self) -> Position | None:
        """The position of the newest checkpoint, from its `.json` alone; None if there is none."""
        found = [self._rank(path)[:2] for path in self.folder.glob("*.pt") if path.stem != BEST]
        epoch, samples = max(found, default=(-1, -1))
        return Position(epoch, samples) if epoch >= 0 else None

    def settle(self, found: Loaded) -> None:
        """Make "last" the same as the numbered checkpoint, in case the run was killed before that was done."""
        if found.path.stem != LAST:
            note = self._note(found.path)
            self._write(LAST, self._checked(found.path), Position(note["epoch"], note["samples"]))

    def named(self, name: str) -> Loaded:
        """The checkpoint "best" or "last". Raises `MissingCache` if there is none, `DamagedStore` if it is damaged.

        If "last" is damaged, the newest valid numbered one is used.
        """
        path = self.folder / f"{name}.pt"
        if name == LAST and (found := self.newest()) is not None:
            return found
        if not path.is_file():
            raise MissingCache(
                f"{path}: the run has no such checkpoint. Where it has a result.json, move its folder away; then run "
                "`unialign train` with the same settings."
            )
        return Loaded(self._read(path), path, ())

    def _write(self, name: str, data: bytes, position: Position) -> Path:
        path = self.folder / f"{name}.pt"
        note = {
            "bytes": len(data),
            "sha256": hashlib.sha256(data).hexdigest(),
            "epoch": position.epoch,
            "samples": position.samples,
            "run": self.run,
        }
        try:
            atomic.write_text(path.with_suffix(".json"), json.dumps(note, indent=2) + "\n")
            atomic.write_file(path, data)
        except OSError as error:
            if not path.exists():
                atomic.remove(path.with_suffix(".json"))
            raise UnialignError(
                f"{path}: the checkpoint cannot be written ({error.strerror}); make room and start the same command "
                "again, it goes on from the last whole one."
            ) from error
        return path

    def _note(self, path: Path) -> dict[str, Any]:
        """The `.json` next to a checkpoint. Raises `DamagedStore` if it cannot be used."""
        beside = path.with_suffix(".json")
        try:
            note = parse_json(read_plain(beside, METADATA_BYTES))
            if not {"bytes", "sha256", "epoch", "samples", "run"} <= set(note):
                raise ValueError("fields are missing")
            int(note["epoch"]), int(note["samples"])
        except (OSError, ValueError, TypeError) as error:
            raise DamagedStore(f"{beside} does not match {path.name} ({error}).") from error
        return dict(note)

    def _checked(self, path: Path) -> bytes:
        """The bytes of a valid checkpoint of this run. Raises `DamagedStore` otherwise."""
        note = self._note(path)
        if note["run"] != self.run:
            raise DamagedStore(f"{path} belongs to another run ({str(note['run'])[:12]}).")
        try:
            data = path.read_bytes()
        except OSError as error:
            raise DamagedStore(f"{path} cannot be read ({error.strerror}).") from error
        if len(data) != note["bytes"] or hashlib.sha256(data).hexdigest() != note["sha256"]:
            raise DamagedStore(f"{path} is not what was written ({len(data)} of {note['bytes']} bytes).")
        return data

    def _read(self, path: Path) -> dict[str, Any]:
        data = self._checked(path)
        try:
            file = io.BytesIO(data)
            return dict(read_weights(file))
        except Exception as error:
            # torch.load raises many types of errors for other files, some of them private.
            raise DamagedStore(f"{path} holds something else than plain weights.") from error

    def _rank(self, path: Path) -> tuple[int, int, bool]:
        """Newest first; at the same position, "last" first. A file without a `.json` is ordered by its name."""
        try:
            note = self._note(path)
            return int(note["epoch"]), int(note["samples"]), path.stem == LAST
        except DamagedStore:
            epoch, _, samples = path.stem.partition("-")
            if epoch.isdecimal() and samples.isdecimal():
                return int(epoch), int(samples), False
            return -1, -1, False

    def _prune(self) -> None:
        whole = 0
        for path in sorted(self.folder.glob("[0-9]*-[0-9]*.pt"), key=self._rank, reverse=True):
            if whole < self.keep:
                try:
                    self._checked(path)
                except DamagedStore as error:
                    LOGGER.warning("%s It is removed.", error)
                else:
                    whole += 1
                    continue
            # The `.json` is written first: a kill in between leaves a file that does not match it.
            atomic.remove(path.with_suffix(".json"))
            atomic.remove(path)


def _is_temporary(path: Path) -> bool:
    return path.name.startswith(atomic.PREFIX)


def _serialised(state: Mapping[str, Any]) -> bytes:
    buffer = io.BytesIO()
    torch.save(dict(state), buffer)
    return buffer.getvalue()
