"""Predictions for a whole split, each sample once, over any number of processes.

Legend: N samples, V views of a clip, L classes, M modalities.
"""

from collections.abc import Mapping, Sequence
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


def predict(stepper: Stepper, loader: Loader, candidates: Sequence[int] = ()) -> Predictions:
    """Predictions of the model for every sample of a loader, the same in all processes; views of a clip are averaged.

    candidates: columns to choose among; the others have probability 0. All if empty.
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
            columns = {"scores": _probabilities(outputs["logits"], candidates)}
            if "importance" in outputs:
                columns["importance"] = outputs["importance"].float()
            for name, output in getattr(model, "heads", {}).items():
                columns[f"head {name}"] = _probabilities(outputs[output], candidates)
            for name, values in columns.items():
                mean = values.reshape(num_clips, -1, values.shape[-1]).mean(dim=1)  # (B, V, L) -> (B, L)
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


def _probabilities(logits: Tensor, candidates: Sequence[int]) -> Tensor:
    """Softmax (B, L) of the logits over the candidates; 0 elsewhere."""
    logits = logits.float()
    if candidates:
        others = torch.ones(logits.shape[-1], dtype=torch.bool, device=logits.device)
        others[list(candidates)] = False
        logits = logits.masked_fill(others, -torch.inf)
    return logits.softmax(dim=-1)
