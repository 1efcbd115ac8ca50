"""What a zero-shot run reports beside the accuracies of its last epoch, and how clean that is."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from unialign.stages.models.dvta.model import DVTAConfig
from unialign.stages.training.loop import Fitted
from unialign.stages.training.zero_shot import (
    Calibration,
    choose_calibration,
    generalised_accuracy,
    select_epoch,
)
from unialign.types import Json


@dataclass(frozen=True)
class Roles:
    """Classes of a run, as labels of the dataset, ascending.

    candidates: what evaluation chooses from, the columns of its scores. stranger: those of them that training has no
    sample of, where the others are seen ones (generalised runs; otherwise empty). unseen: those of the protocol. seen:
    all others.
    """

    candidates: tuple[int, ...]
    stranger: tuple[int, ...]
    unseen: tuple[int, ...]
    seen: tuple[int, ...]

    @property
    def of_val(self) -> tuple[int, ...]:
        """What evaluation on val, which is of seen classes, chooses from: these, or in a generalised run all."""
        return self.candidates if self.stranger else self.seen


def report(
    roles: Roles, config: DVTAConfig, encoder_clean: bool | None, labels: Sequence[int], fitted: Fitted
) -> Mapping[str, Json]:
    """The field `zero_shot` of result.json. labels: of the test samples, places in `roles.candidates`.

    rule, epoch, top1: how the epoch was chosen, which one it is (from 1), and its accuracy over the candidates.
    clean: no unseen test sample took part in that choice. encoder_clean: nor in the training of the pose encoder; None
    where that is not known. held_out: labels of the seen classes that were tested as unseen ones.
    Of generalised runs also seen, unseen, harmonic, area of the last epoch with the configured calibration; with
    held_out classes `calibration`, the best one for them, in their place.
    """
    name = "validation" if config.held_out else "unseen"
    history = [
        {"epoch": row["epoch"], "top1": row["top1"], name: row["top1"]} if "top1" in row else {"epoch": row["epoch"]}
        for row in fitted.history
    ]
    chosen = select_epoch(history, published_rule=config.published_rule)
    played = roles.stranger or roles.candidates
    found: dict[str, Json] = {
        "rule": chosen.rule,
        "epoch": int(chosen.row["epoch"]),
        "top1": chosen.row["top1"],
        "clean": chosen.clean,
        "encoder_clean": encoder_clean,
        "held_out": list(played) if config.held_out else [],
    }
    if not roles.stranger or fitted.predictions is None:
        return found
    # The softmax of what may be far apart: below the smallest number all are equally improbable.
    scores = np.log(np.maximum(fitted.predictions.scores, np.finfo(np.float32).tiny))
    truth = [labels[index] for index in fitted.predictions.indices]
    stranger = [place for place, label in enumerate(roles.candidates) if label in roles.stranger]
    known = [place for place in range(len(roles.candidates)) if place not in stranger]
    if config.held_out:
        best = choose_calibration(scores, truth, seen=known, pseudo_unseen=stranger)
        return found | {"calibration": best.value}
    given = Calibration(config.calibration, ())
    return found | generalised_accuracy(scores, truth, seen=known, unseen=stranger, calibration=given)
