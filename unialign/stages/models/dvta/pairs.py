"""The metric network of DVTA on all pairs of poses and texts, without a tensor of concatenated pairs.

Legend: B poses, U texts, S pieces that a text is mixed from, D width, H = 2D hidden units.

    G(v, t) = w3 relu(W2 relu(W1 [v; t] + b1) + b2) + b3

Three identities save work; none changes a value beyond rounding:

    W1 [v; t] = Wv v + Wt t                            B + U rows in place of B x U rows of double width
    t = sum_s a_s t_s with sum_s a_s = 1, so           a text that each pose mixes for itself needs no row of its own
        Wt t + b1 = sum_s a_s (Wt t_s + b1)
    a unit that is positive for every pair is linear   W2's part for it splits as well; one that is positive for no
                                                       pair gives nothing. What is left goes through the pairs.

How many units are left depends on weights and data: about half of them with the layers' first weights.
"""

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

# Pairs at a time where no gradient is asked for: 100 MB of hidden units in float32.
PAIRS = 16_384


class PairNetwork(nn.Module):
    """G for every pose with every text. Source: DVTA (arXiv 2409.14336), the deep metric network of its AA module."""

    def __init__(self, *, width: int) -> None:
        super().__init__()
        self.width = width
        self.first = nn.Linear(2 * width, 2 * width)
        self.second = nn.Linear(2 * width, width)
        self.last = nn.Linear(width, 1)

    def forward(self, poses: Tensor, texts: Tensor, weights: Tensor | None = None) -> Tensor:
        """Scores (B, U) of poses (B, D) with texts (U, S, D).

        weights (B, U, S): what each pose mixes the pieces of each text with, rows sum to 1; None for S = 1.
        """
        visual = functional.linear(poses, self.first.weight[:, : self.width])  # (B, H)
        textual = functional.linear(texts, self.first.weight[:, self.width :], self.first.bias)  # (U, S, H)
        always, varying = _units(visual, textual, exact=weights is None)
        linear, bent = self.second.weight[:, always], self.second.weight[:, varying]  # (D, .), (D, .)
        visual_part = functional.linear(visual[:, always], linear)  # (B, D)
        text_part = functional.linear(textual[..., always], linear, self.second.bias)  # (U, S, D)
        visual, textual = visual[:, varying], textual[..., varying]
        step = len(poses) if torch.is_grad_enabled() else max(1, PAIRS // len(texts))
        scores = []
        for start in range(0, len(poses), step):
            rows = slice(start, start + step)
            some = None if weights is None else weights[rows]
            hidden = _mixed(visual[rows], textual, some).relu_().flatten(0, 1)  # (U * b, varying)
            rest = _mixed(visual_part[rows], text_part, some).flatten(0, 1)  # (U * b, D)
            second = torch.addmm(rest, hidden, bent.T).relu_()
            scores.append(self.last(second).view(len(texts), -1).T)  # (b, U)
        return torch.cat(scores)


@torch.no_grad()
def _units(visual: Tensor, textual: Tensor, *, exact: bool) -> tuple[Tensor | slice, Tensor | slice]:
    """Places of the hidden units that are positive for every pair of (B, H) and (U, S, H), and of those that vary.

    exact: nothing is mixed in between. How many there are depends on values; where those are not at hand (a cost is
    counted, a graph compiled, which this would cut, or a GPU computes, which the host would have to wait for), all
    units count as varying.
    """
    if visual.device.type != "cpu" or torch.compiler.is_compiling():
        return slice(0, 0), slice(None)
    # Rounding keeps order, so the sums of extremes bound the sums as they come out.
    lowest = visual.amin(dim=0) + textual.amin(dim=(0, 1))
    highest = visual.amax(dim=0) + textual.amax(dim=(0, 1))
    # Mixing with weights that sum to 1 only up to rounding may pass the bounds by so much.
    margin = 0.0 if exact else 1e-2 * (highest - lowest)
    return (lowest > margin).nonzero().squeeze(1), ((lowest <= margin) & (highest > -margin)).nonzero().squeeze(1)


def _mixed(poses: Tensor, texts: Tensor, weights: Tensor | None) -> Tensor:
    """poses_b + sum_s weights_bus texts_us, (U, B, .), of poses (B, .) and texts (U, S, .)."""
    if weights is None:
        return texts + poses  # (U, 1, .) + (B, .)
    return torch.baddbmm(poses.expand(len(texts), -1, -1), weights.transpose(0, 1).to(texts.dtype), texts)
