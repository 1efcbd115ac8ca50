"""Predictions for a whole split, each sample once, over any number of processes.

Legend: N samples, V views of a clip, L classes, M modalities.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from unialign.errors import UnialignError
from unialign.stages.training.fusion import weighted
from unialign.stages.training.loader import Loader
from unialign.stages.training.step import Stepper


@dataclass(frozen=True)
class Predictions:
    """indices (N,): positions of the samples in the split, ascending. scores (N, L): probabilities, rows sum to 1.

    importance (N, M): weights of the modalities, None for models without. heads: probabilities (N, L) of each
    classifier that contributes to the scores, by name; empty for models with only one.
    """

    indices: np.ndarray
    scores: np.ndarray
    importance: np.ndarray | None
    heads: Mapping[str, np.ndarray] = field(default_factory=dict)

    def mixed(self, weights: Mapping[str, float]) -> "Predictions":
        """The same with the heads' weighted product as scores, see `fusion`; unchanged without weights."""
        return replace(self, scores=weighted(self.heads, weights)) if weights else self


def predict(stepper: Stepper, loader: Loader) -> Predictions:
    """Predictions of the model for every sample of a loader, the same in all processes; views of a clip are averaged.

    Each process fills its rows of a table of zeros and the tables are added, so nothing is counted twice. Raises
    `UnialignError` if the model returns NaN or infinity.
    """
    model, processes = stepper.task.model, stepper.processes
    # Each process has had its own batch statistics since its last step; those of the first one are saved.
    processes.agree(model.buffers())
    was_training = model.training
    model.eval()
    tables: dict[str, Tensor] = {}
    counts = torch.zeros(len(loader), dtype=torch.int64, device=stepper.device)
    with torch.inference_mode():
        for batch in loader.in_order():
            inputs = stepper.task.inputs(batch, stepper.device)
            num_clips = len(batch["indices"])
            with stepper.autocast():
                outputs = model(inputs)
            counts[inputs["indices"]] += 1
            columns = {"scores": outputs["logits"].float().softmax(dim=-1)}
            if "importance" in outputs:
                columns["importance"] = outputs["importance"].float()
            for name, output in getattr(model, "heads", {}).items():
                columns[f"head {name}"] = outputs[output].float().softmax(dim=-1)
            for name, values in columns.items():
                mean = values.unflatten(0, (num_clips, -1)).mean(dim=1)  # (B, V, L) -> (B, L)
                table = tables.setdefault(name, torch.zeros(len(loader), mean.shape[1], device=stepper.device))
                table[inputs["indices"]] = mean
    model.train(was_training)
    # A process without samples does not know the widths of the tables yet.
    widths = next(known for known in processes.gathered({n: t.shape[1] for n, t in tables.items()}) if known)
    for name, width in widths.items():
        table = tables.setdefault(name, torch.zeros(len(loader), width, device=stepper.device))
        tables[name] = processes.total(table)
    counts = processes.total(counts)
    if not bool((counts == 1).all()):
        raise UnialignError(f"{int((counts != 1).sum())} samples were not evaluated exactly once; report this.")
    if not all(bool(table.isfinite().all()) for table in tables.values()):
        raise UnialignError("the predictions are not finite; lower train.settings.lr or look at the last epoch.")
    arrays = {name: table.cpu().numpy() for name, table in tables.items()}
    heads = {name.removeprefix("head "): values for name, values in arrays.items() if name.startswith("head ")}
    return Predictions(np.arange(len(loader)), arrays["scores"], arrays.get("importance"), heads)
