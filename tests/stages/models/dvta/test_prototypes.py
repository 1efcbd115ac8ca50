"""Contract of the prototypes beside DVTA: predicted from texts alone, and added to its scores in evaluation only."""

import numpy as np
import torch
from sklearn.linear_model import Ridge
from torch.nn.functional import normalize

from unialign.stages.models.dvta.config import DVTAConfig
from unialign.stages.models.dvta.model import DVTA
from unialign.stages.models.dvta.prototypes import ALPHA, predicted_prototypes

LABELS = torch.tensor([0, 0, 0, 2, 3, 3])
CANDIDATES = torch.tensor([4, 1])


def made() -> tuple[torch.Tensor, torch.Tensor]:
    """Features (6, 4) of classes 0, 2, 3, and texts (5, 7) of five."""
    torch.manual_seed(0)
    return torch.randn(6, 4) + 3, torch.randn(5, 7)


def test_prototypes_are_those_of_ridge_regression_from_centered_unit_texts_to_class_means() -> None:
    features, texts = made()
    moved = (texts - texts.mean(dim=0)).numpy()
    moved /= np.linalg.norm(moved, axis=1, keepdims=True)
    means = np.stack([features[label == LABELS].numpy().mean(axis=0) for label in (0, 2, 3)])
    expected = Ridge(alpha=ALPHA).fit(moved[[0, 2, 3]], means).predict(moved)
    prototypes, mean = predicted_prototypes(features, LABELS, texts)
    np.testing.assert_allclose(prototypes.numpy(), expected, atol=1e-5)
    np.testing.assert_allclose(mean.numpy(), features.numpy().mean(axis=0), atol=1e-6)


def test_their_cosine_is_added_to_the_published_scores_and_training_does_not_see_them() -> None:
    features, texts = made()
    prototypes = predicted_prototypes(features, LABELS, texts)
    pair = []
    for given in (None, prototypes):
        torch.manual_seed(1)
        pair.append(
            DVTA(config=DVTAConfig(), class_texts=torch.stack([texts, texts], -1), pose_width=4, prototypes=given)
        )
    plain, added = pair
    batch = {"pose_features": features, "labels": LABELS}
    for name, value in plain.train()(batch).items():
        torch.testing.assert_close(added.train()(batch)[name], value, rtol=0, atol=0)
    batch = {"pose_features": features, "candidates": CANDIDATES}
    cosines = (
        normalize(features - prototypes[1], dim=-1) @ normalize(prototypes[0][CANDIDATES] - prototypes[1], dim=-1).T
    )
    difference = added.eval()(batch)["logits"] - plain.eval()(batch)["logits"]
    torch.testing.assert_close(difference, cosines / 0.1)
