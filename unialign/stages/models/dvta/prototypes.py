"""Class prototypes in the space of pose features, predicted from texts: the closed form beside DVTA's learned one.

Legend: N training samples, L classes, P pose width, D text width.

    m_c = mean feature of class c, of the seen classes
    W   = ridge regression from the texts of the seen classes to m
    p_c = W t_c, of every class, seen or not

DVTA maps features to texts; the other direction makes fewer classes the nearest ones of most samples (hubs). Source:
Shigeto et al., Ridge Regression, Hubness, and Zero-Shot Learning, ECML PKDD 2015; there from samples, here from class
means. That DVTA's scores and these are added is this project's.
"""

import torch
import torch.nn.functional as functional
from torch import Tensor

# 0.1 to 1 are level on three datasets; texts have unit length, so it does not depend on the encoder.
ALPHA = 0.3


def predicted_prototypes(features: Tensor, labels: Tensor, texts: Tensor) -> tuple[Tensor, Tensor]:
    """The prototypes (L, P) of all classes and the mean feature (P,), float32.

    features (N, P), labels (N,): of training. texts (L, D): one embedding of each class.
    """
    features, texts = features.double(), texts.double()
    texts = functional.normalize(texts - texts.mean(dim=0), dim=-1)
    seen = torch.unique(labels)
    means = torch.stack([features[labels == label].mean(dim=0) for label in seen.tolist()])
    origin, middle = texts[seen].mean(dim=0), means.mean(dim=0)
    known = texts[seen] - origin
    # As many unknowns as seen classes, which are fewer than the texts are wide.
    inner = known @ known.T + ALPHA * torch.eye(len(seen), dtype=known.dtype)
    predicted = (texts - origin) @ known.T @ torch.linalg.solve(inner, means - middle) + middle
    return predicted.float(), features.mean(dim=0).float()
