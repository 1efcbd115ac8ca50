"""Accuracies from papers and their code, to stand beside those of our runs: the rows of published.csv.

A figure is as good as its evidence, which every row states:
    stated       the paper's text or a table of it
    code         the README or model zoo of the authors' code
    computed     from other published figures or released scores; the note says how
    inferred     stated, but what it belongs to is inferred; the note says what is open
    third-party  a leaderboard or a summary by others
Adding one is adding a line.
"""

import csv
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib import resources

from unialign.types import Json

EVIDENCE = ("stated", "code", "computed", "inferred", "third-party")
METRICS = ("top1", "top1_std", "top5", "mean_class")


@dataclass(frozen=True)
class Published:
    """One published result. dataset, protocol: as unialign calls them, where it has the protocol.

    shots: training samples of each class; 0: all. metrics: fractions of 1, by the names of `metrics.METRICS`; top1_std
    is the deviation that the source gives. evidence: one of `EVIDENCE`. note: frames, views, pre-training, doubts.
    """

    dataset: str
    protocol: str
    shots: int
    method: str
    metrics: dict[str, float]
    evidence: str
    source: str
    note: str

    def result(self) -> dict[str, Json]:
        """The object that `--json` prints."""
        return {**self.__dict__, "metrics": dict(self.metrics)}


@cache
def published_results() -> tuple[Published, ...]:
    """All rows, by dataset, protocol and shots."""
    text = resources.files(__package__).joinpath("published.csv").read_text(encoding="utf-8")
    return tuple(
        Published(
            dataset=row["dataset"],
            protocol=row["protocol"],
            shots=int(row["shots"]),
            method=row["method"],
            # Percent in the file, as the papers print them.
            metrics={name: round(float(row[name]) / 100, 6) for name in METRICS if row[name]},
            evidence=row["evidence"],
            source=row["source"],
            note=row["note"],
        )
        for row in csv.DictReader(text.splitlines())
    )


def published_for(datasets: Iterable[str]) -> tuple[Published, ...]:
    """The rows of these datasets."""
    wanted = set(datasets)
    return tuple(row for row in published_results() if row.dataset in wanted)
