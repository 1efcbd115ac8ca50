"""Zero-shot protocols in systems whose scores have a column for every class (UniAlign, ART, ALT).

The split decides what is chosen among: the unseen classes only, or all of them in a generalised protocol. Systems that
number their classes themselves (DVTA, skeleton encoders) decide it in their `prepare`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from unialign.cache.reader import Recorded
from unialign.errors import UsageError
from unialign.pipeline.training.preparation import PreparedRun
from unialign.stages.datasets.base import Dataset, Split
from unialign.stages.datasets.zero_shot_splits import unseen_digest
from unialign.stages.extraction.pose_encoder import MOTION
from unialign.stages.sample_reader import SampleReader
from unialign.stages.training.loop import Fitted
from unialign.stages.training.zero_shot import generalised_accuracy
from unialign.types import Json

CONVENTIONAL, GENERALISED = "conventional", "generalised"


def tested_as_split(made: PreparedRun, dataset: Dataset, split: Split) -> PreparedRun:
    """The same run, tested among the candidates of its split and with a report on its unseen classes.

    Unchanged for a split without unseen classes and for systems that number their classes themselves. Raises
    `UsageError` for pose features of an encoder that was trained on an unseen class.
    """
    if not split.unseen or made.classes or made.report is not None:
        return made
    clean = None
    if "pose-features" in made.readers:
        clean = check_encoder(made.readers["pose-features"], dataset, made.protocol, split.unseen)
    said = {"candidates": list(split.candidates)} if split.candidates else {}
    return replace(
        made,
        config={**made.config, **said},
        candidates=split.candidates,
        report=partial(report_unseen, split, len(dataset.classes), clean, made.test_side.samples.labels),
    )


def check_encoder(reader: SampleReader, dataset: Dataset, protocol: str, unseen: Sequence[int]) -> bool | None:
    """True if the encoder that computed the features has seen no unseen class; None if the store does not say.

    Classes are compared by name, so an encoder trained on another dataset that names a class differently is not known
    to be clean. Raises `UsageError` if it has seen one, and for different class names of the same dataset.
    """
    attributes = reader.store.attributes if isinstance(reader, Recorded) else {}
    if attributes.get("encoder") == MOTION:
        return True
    trained = dict(attributes.get("trained_on", {}))
    if not trained.get("classes"):
        return None
    strange = [name for name in trained["classes"] if name not in dataset.classes]
    if strange and trained.get("dataset") == dataset.name:
        raise UsageError(
            f"the encoder of the pose features was trained with other class names ({strange[0]}); train it with the "
            "same --labels as this run."
        )
    leaked = [dataset.classes[label] for label in unseen if dataset.classes[label] in trained["classes"]]
    if leaked:
        raise UsageError(
            f"the encoder of the pose features was trained on {len(leaked)} classes that {protocol} counts as unseen "
            f"({leaked[0]}); train one with `unialign train --model skeleton --protocol {protocol}` and extract again."
        )
    return None if strange else True


def report_unseen(
    split: Split, num_classes: int, encoder_clean: bool | None, labels: Sequence[int], fitted: Fitted
) -> Mapping[str, Json]:
    """The field `zero_shot` of result.json. labels: of the test samples.

    test: "conventional" (among the unseen classes) or "generalised" (among all). candidates: how many classes are
    chosen among; chance: what guessing would reach. split: digest of which classes are unseen. encoder_clean: whether
    the encoder of the pose features has not seen them; None without one, or if unknown. For generalised protocols with
    test samples of both kinds also seen, unseen, harmonic and area, see `generalised_accuracy`.
    """
    number = len(split.candidates) or num_classes
    found: dict[str, Json] = {
        "test": CONVENTIONAL if split.candidates else GENERALISED,
        "candidates": number,
        "chance": 1 / number,
        "split": unseen_digest(num_classes, split.unseen),
        "encoder_clean": encoder_clean,
    }
    truth = [] if fitted.predictions is None else [labels[index] for index in fitted.predictions.indices]
    seen = [label for label in range(num_classes) if label not in split.unseen]
    if (
        split.candidates
        or fitted.predictions is None
        or not set(truth) & set(split.unseen)
        or not set(truth) & set(seen)
    ):
        return found
    scores = np.log(np.maximum(fitted.predictions.scores, np.finfo(np.float32).tiny))
    return found | generalised_accuracy(scores, truth, seen=seen, unseen=split.unseen)
