"""The model of a run folder or of an exported file."""

from collections.abc import Sequence
from pathlib import Path

from unialign.errors import UsageError
from unialign.pipeline.config import Config
from unialign.pipeline.prediction.export import SUFFIX, read_exported
from unialign.pipeline.prediction.model import Model
from unialign.pipeline.prediction.trained import trained_run
from unialign.pipeline.training.run_folder import find_run, newest_run


def load(run: Path | None, config: Config, *, weights: Sequence[Path] = (), best: bool = False) -> Model:
    """The model of a run (None: the newest in `config.runs`), or of a file of `unialign export`.

    config: where the cache, the runs and weights lie. weights: further files. best: of the best epoch, not the last.
    Raises what `find_run`, `trained_run` and `read_exported` raise.
    """
    runs = config.runs.resolve()
    if run is not None and run.suffix == SUFFIX:
        if best:
            raise UsageError(f"{run} holds the weights of one epoch; leave out best, or give it to `unialign export`.")
        return Model(read_exported(run), config, weights)
    folder = newest_run(runs) if run is None else find_run(runs, run)
    return Model(trained_run(folder, config, best=best), config, weights)
