"""Weights that a training starts from: those of a finished run, whatever classes it was for."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from torch import Tensor

from unialign.cache.errors import UsageError
from unialign.pipeline.preparation import Prepared
from unialign.pipeline.runs import read_config, read_json
from unialign.stages.training.checkpoints import LAST, Checkpoints
from unialign.stages.training.step import Task


@dataclass(frozen=True)
class Own:
    """What a training does not take over from a run: these weights and buffers start as they do without one.

    of_classes: beginnings of the names of what belongs to a run's classes (classifiers, texts). added: parts of the
    names of layers that may be put into a trained network, and that the run need not have.
    """

    of_classes: tuple[str, ...] = ()
    added: tuple[str, ...] = ()


NOTHING = Own()


def started(prepared: Prepared, folder: Path, own: Own) -> Prepared:
    """The same training from the last checkpoint of a finished run of the same model; its key is part of this one's.

    Raises `MissingCache` for a folder without a finished run, `UsageError` for one of
    another model, and, when the task is built, for weights that are not those that this training has.
    """
    model, key, state = trained_weights(folder)
    if model != prepared.model:
        raise UsageError(f"{folder} is a run of {model}, which {prepared.model} cannot start from (train.start).")
    build = partial(build_from, prepared.build, state, own, folder)
    return replace(prepared, build=build, config={**prepared.config, "start": key})


def trained_weights(folder: Path) -> tuple[str, str, dict[str, Tensor]]:
    """Model, key and last weights of a finished run. Raises `MissingCache` where there is none."""
    config, keys = read_config(folder), read_json(folder / "keys.json")
    read_json(folder / "result.json")
    return config["model"], keys["run"], Checkpoints(folder / "checkpoints", keys["run"]).named(LAST).state["model"]


def build_from(build: Callable[[], Task], state: Mapping[str, Tensor], own: Own, folder: Path) -> Task:
    """A task with the weights of a run, but for its own. Raises `UsageError` where they do not fit."""
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
