"""Initial weights of a training run: those of a finished run, regardless of its classes."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from unialign.errors import UsageError
from unialign.pipeline.systems.base import ClassSpecificWeights
from unialign.pipeline.training.preparation import PreparedRun
from unialign.pipeline.training.run_data import contents, data_rows, data_text, read_data, read_learned, rows_of
from unialign.pipeline.training.run_folder import read_config, read_keys, read_result
from unialign.stages.datasets.base import Dataset
from unialign.stages.training.checkpoints import LAST, Checkpoints
from unialign.stages.training.step import Task
from unialign.words import counted


@dataclass(frozen=True)
class InitialWeights:
    """A finished run to start from.

    trained_on: (dataset, protocol) of this run and of every run it was started from, in turn. learned: ids of its own
    training samples. contents: source digests of these samples and of the training samples of all earlier runs, with
    dataset and id; empty for runs that predate this record.
    """

    model: str
    key: str
    trained_on: tuple[tuple[str, str], ...]
    weights: Mapping[str, Tensor]
    learned: frozenset[str] = frozenset()
    contents: Mapping[str, str] = field(default_factory=dict)

    def check_unseen(self, folder: Path, prepared: PreparedRun, *, own: bool) -> None:
        """Raise `UsageError` if test samples were made from the same files as samples these weights were trained on.

        own: ignore samples that have a copy in the train part of `prepared`; its report lists those.
        """
        rows = rows_of(data_text(data_rows(prepared)))
        excused = contents(rows, "train") if own else {}
        known = {
            name: self.contents[each]
            for each, name in contents(rows, "test").items()
            if each in self.contents and each not in excused
        }
        if known:
            raise UsageError(
                f"{folder} was trained on the content of {counted(len(known), 'sample')} that {prepared.protocol} of "
                f"{prepared.dataset.name} tests ({min(known)} = {known[min(known)]}); start from one that has not seen "
                "them."
            )


def started(prepared: PreparedRun, dataset: Dataset, folder: Path, own: ClassSpecificWeights) -> PreparedRun:
    """The same training run, initialized from the last checkpoint of a finished run of the same model.

    The key of that run becomes part of this run's key. dataset: with all samples of its splits. Raises `MissingCache`
    for a folder without a finished run; `UsageError` for a run of another model, for a run that (or a predecessor of
    which) was trained on samples that are tested now, identified by dataset name or by source digest, and, when the
    task is built, for weights that do not fit this model.
    """
    source = finished_run(folder)
    if source.model != prepared.model:
        raise UsageError(
            f"{folder} is a run of {source.model}, which {prepared.model} cannot start from (train.start)."
        )
    tested = {*prepared.test_side.samples.ids, *(name for name, _ in prepared.test_side.missing)}
    for name, protocol in source.trained_on:
        known = tested.intersection(dataset.split(protocol).train) if name == dataset.name else set()
        if name == source.trained_on[0][0] == dataset.name:
            known |= tested & source.learned  # from its own table, in case the split has changed since
        if known:
            raise UsageError(
                f"{folder} was trained ({protocol}) on {counted(len(known), 'sample')} that {prepared.protocol} of "
                f"{name} tests ({min(known)}); start from one that has not seen them."
            )
    source.check_unseen(folder, prepared, own=True)
    build = partial(build_from, prepared.build, source.weights, own, folder)
    start = {"run": source.key, "trained_on": [list(each) for each in source.trained_on]}
    return replace(prepared, build=build, config={**prepared.config, "start": start}, learned=source.contents)


def finished_run(folder: Path) -> InitialWeights:
    """The initial weights that a run folder provides. Raises `MissingCache` if the run is not finished."""
    config, keys = read_config(folder), read_keys(folder)
    read_result(folder)
    weights = Checkpoints(folder / "checkpoints", keys["run"]).named(LAST).weights()
    rows = read_data(folder, keys.get("data") or "") or []
    learned = frozenset(row.id for row in rows if row.part == "train")
    seen = {each: f"{config['dataset']}/{name}" for each, name in contents(rows, "train").items()}
    return InitialWeights(
        config["model"], keys["run"], trained_on(config), weights, learned, read_learned(folder) | seen
    )


def trained_on(config: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """(dataset, protocol) of a run and of every run it was started from, read from its config.yaml."""
    before = config.get("start", {}).get("trained_on", [])
    return ((config["dataset"], config["protocol"]), *((name, protocol) for name, protocol in before))


def build_from(build: Callable[[], Task], state: Mapping[str, Tensor], own: ClassSpecificWeights, folder: Path) -> Task:
    """A task with the weights of a run, except class-specific ones. Raises `UsageError` if they do not fit."""
    task = build()
    random = task.model.state_dict()
    given, needed = (
        {name: value for name, value in side.items() if not name.startswith(own.of_classes)} for side in (state, random)
    )
    lacking = [name for name in needed.keys() - given.keys() if not any(part in name for part in own.added)]
    wrong = sorted([*given.keys() - needed.keys(), *lacking])
    wrong += sorted(name for name in given.keys() & needed.keys() if given[name].shape != needed[name].shape)
    if wrong:
        raise UsageError(
            f"{folder}: {len(wrong)} weights are not those of this model ({', '.join(wrong[:3])}); give it the "
            "settings that the run has in its config.yaml."
        )
    task.model.load_state_dict({**random, **given})
    return task
