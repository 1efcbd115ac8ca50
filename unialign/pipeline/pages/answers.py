"""What trained runs answered to the test clips, side by side.

Legend: N test clips that all runs have, L classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unialign.errors import MissingCache, UsageError
from unialign.pipeline.evaluation.intervals import wilson_interval
from unialign.pipeline.pages.page import packed
from unialign.pipeline.training.run_folder import read_config, read_keys, read_predictions, read_result
from unialign.types import Json

# Answers (runs times clips) that a page holds at most, about 3 bytes each; beyond, it leaves out seeds, then clips.
MOST_ANSWERS = 1_500_000


@dataclass(frozen=True)
class Answers:
    """One run's answers. row: its place in the table. label: for people.

    ids: of its test clips. labels, guesses (N,) int64: of the class names of `classes`. sure (N,): probability of the
    answer. importance (N, M): weights of the modalities named in `modalities`, None without.
    """

    folder: Path
    row: int
    seed: int
    label: str
    config: dict[str, Any]
    keys: dict[str, Any]
    result: dict[str, Any]
    ids: tuple[str, ...]
    labels: NDArray[np.int64]
    guesses: NDArray[np.int64]
    sure: NDArray[np.float32]
    importance: NDArray[np.float32] | None = None
    modalities: tuple[str, ...] = ()

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in the order of labels and answers; classes without a score come last."""
        by_class = self.result.get("per_class", {}).get("accuracy")
        return tuple(by_class or self.keys.get("classes") or map(str, range(int(self.labels.max()) + 1)))

    def at(self, places: NDArray[np.int64]) -> "Answers":
        """The same for some of its clips."""
        return replace(
            self,
            ids=tuple(self.ids[place] for place in places.tolist()),
            labels=self.labels[places],
            guesses=self.guesses[places],
            sure=self.sure[places],
            importance=None if self.importance is None else self.importance[places],
        )

    def facts(self) -> dict[str, Json]:
        """What the page holds of the run besides its answers."""
        right, total = int((self.guesses == self.labels).sum()), len(self.labels)
        low, high = wilson_interval(right, total)
        top1 = right / total
        return {"row": self.row, "seed": self.seed, "label": self.label, "top1": top1, "low": low, "high": high}


def read_answers(folder: Path, row: int, label: str) -> Answers:
    """The answers of a finished run. Raises `MissingCache` for one without predictions, and what `read_predictions`
    and `read_result` raise.
    """
    config, keys, result = read_config(folder), read_keys(folder), read_result(folder)
    stored = read_predictions(folder)
    if stored is None:
        raise MissingCache(f"{folder} has no predictions; move its folder away and run `unialign train` again.")
    seed, shares = config["settings"].get("seed", 0), stored["probabilities"]
    importance, names = stored.get("importance"), stored.get("importance_names")
    weighed = importance is not None and names is not None and importance.shape == (len(shares), len(names))
    guesses = shares.argmax(axis=1).astype(np.int64)
    return Answers(
        folder=folder,
        row=row,
        seed=seed if isinstance(seed, int) else 0,
        label=label,
        config=config,
        keys=keys,
        result=result,
        ids=tuple(stored["ids"].tolist()),
        labels=stored["labels"].astype(np.int64),
        guesses=guesses,
        sure=np.asarray(shares[np.arange(len(guesses)), guesses], np.float32),
        importance=np.asarray(importance, np.float32) if weighed else None,
        modalities=tuple(map(str, names.tolist())) if weighed and names is not None else (),
    )


def side_by_side(runs: Sequence[Answers]) -> list[Answers]:
    """The runs cut down to the clips that all have, in the order of their ids. Raises `UsageError` for runs of other
    classes, and for runs without any clip in common.
    """
    for run in runs[1:]:
        if run.classes != runs[0].classes:
            raise UsageError(f"{run.folder} and {runs[0].folder} know different classes; report on them one by one.")
    shared = sorted(set(runs[0].ids).intersection(*(run.ids for run in runs[1:])))
    if not shared:
        raise UsageError(f"{runs[0].folder} and the other runs have no test clip in common; report on them one by one.")
    found = []
    for run in runs:
        place = {name: number for number, name in enumerate(run.ids)}
        found.append(run.at(np.array([place[name] for name in shared], np.int64)))
    return found


def kept(runs: Sequence[Answers]) -> tuple[list[Answers], str]:
    """The runs and clips that fit on a page, and a sentence if something does not: first seeds are left out, of every
    row the later ones, then clips, evenly.
    """
    total, chosen = len(runs[0].ids), list(runs)
    while len(chosen) * total > MOST_ANSWERS:
        counts = {row: sum(run.row == row for run in chosen) for row in {run.row for run in chosen}}
        if max(counts.values()) == 1:
            break
        last = {row: max(place for place, run in enumerate(chosen) if run.row == row) for row in counts}
        dropped = {last[row] for row, count in counts.items() if count == max(counts.values())}
        chosen = [run for place, run in enumerate(chosen) if place not in dropped]
    notes = []
    if len(chosen) < len(runs):
        notes.append(f"answers of {len(chosen)} of {len(runs)} runs are here")
    most = MOST_ANSWERS // len(chosen)
    if total > most:
        places = np.unique(np.linspace(0, total - 1, most).astype(np.int64))
        chosen = [run.at(places) for run in chosen]
        notes.append(f"{len(places):,} of {total:,} clips, evenly spaced")
    return chosen, f"To stay small, this page does not hold everything: {'; '.join(notes)}." if notes else ""


def answers_content(runs: Sequence[Answers]) -> dict[str, Json]:
    """The `clips` of a page."""
    kind = np.uint8 if len(runs[0].classes) < 256 else np.uint16
    return {
        "ids": list(runs[0].ids),
        "labels": packed(runs[0].labels.astype(np.uint16)),
        "predicted": [packed(run.guesses.astype(kind)) for run in runs],
        "confidence": [packed(np.round(255 * run.sure).astype(np.uint8)) for run in runs],
        "importance": [
            None
            if run.importance is None or len(run.modalities) < 2
            else {
                "names": list(run.modalities),
                "values": packed(np.round(255 * run.importance.clip(0, 1)).astype(np.uint8)),
            }
            for run in runs
        ],
    }
