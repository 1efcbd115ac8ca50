"""DVTA learns what it never saw, in the steps of the training loop, and its scores feed the zero-shot accuracies."""

import numpy as np
import torch
from torch import Tensor

from unialign.stages.models.dvta.config import DVTAConfig
from unialign.stages.models.dvta.model import DVTA, dvta_losses
from unialign.stages.training.loader import Position, RankBatch
from unialign.stages.training.processes import Processes
from unialign.stages.training.settings import TrainSettings
from unialign.stages.training.step import Stepper, Task, fetched
from unialign.stages.training.zero_shot import generalised_accuracy

CLASSES, POSE, TEXT, BATCH = 24, 16, 12, 64
UNSEEN = (3, 9, 15, 21)
SEEN = tuple(label for label in range(CLASSES) if label not in UNSEEN)


def world() -> tuple[Tensor, Tensor]:
    """Class texts, and a map from texts to poses that seen and unseen classes share."""
    torch.manual_seed(0)
    return torch.randn(CLASSES, TEXT, 2), torch.randn(TEXT, POSE) / TEXT**0.5


def drawn(texts: Tensor, to_pose: Tensor, classes: tuple[int, ...], count: int) -> tuple[Tensor, Tensor]:
    labels = torch.tensor(classes)[torch.randint(len(classes), (count,))]
    return texts[labels].mean(dim=2) @ to_pose + 0.05 * torch.randn(count, POSE), labels


def test_unseen_classes_are_recognised_after_training_on_seen_ones() -> None:
    texts, to_pose = world()
    model = DVTA(config=DVTAConfig(), class_texts=texts, pose_width=POSE)
    settings = TrainSettings(optimizer="adamw", lr=2e-3, weight_decay=0.0, epochs=1, batch_size=BATCH, device="cpu")
    stepper = Stepper(Task(model, dvta_losses), settings, Processes(0, 1, torch.device("cpu")))
    features, labels = drawn(texts, to_pose, tuple(range(CLASSES)), 400)
    unseen = torch.isin(labels, torch.tensor(UNSEEN))

    def scores() -> Tensor:
        with torch.no_grad():
            return model.eval()({"pose_features": features})["logits"]  # type: ignore[no-any-return]

    def unseen_accuracy() -> float:
        best = torch.tensor(UNSEEN)[scores()[unseen][:, UNSEEN].argmax(dim=1)]
        return float((best == labels[unseen]).float().mean())

    before = unseen_accuracy()
    losses: list[float] = []
    for step in range(100):
        model.train()
        poses, own = drawn(texts, to_pose, SEEN, BATCH)
        batch = {"pose_features": poses, "labels": own}
        share = RankBatch(batch, BATCH, BATCH, step, 100, Position(), np.arange(BATCH), BATCH, ends_step=True)
        report = stepper.step(share, settings.lr)
        losses += [values["loss"] for values in fetched([report] if report else [])]
    assert losses[-1] < 0.5 * losses[0]
    after = unseen_accuracy()
    assert before < 0.5 < 0.65 < after
    found = generalised_accuracy(scores(), labels, seen=SEEN, unseen=UNSEEN)
    assert found["seen"] > 0.9
    assert 0.0 < found["area"] <= 1.0
