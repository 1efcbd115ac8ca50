"""The text bank: what a vision-language model says of each class, refined slowly by what training learns.

Legend: B batch, K prompts (templates), L classes, C text width, D shared width.

Source: form 1 ("agent") follows ART (arXiv 2511.21202), equations 12 to 17. That UniAlign refines its text semantics in
this way is a RECONSTRUCTION: its abstract only says "similar to an exponential moving average". Form 2 ("feature") is
a second guess: a moving average of the classes' video features.

    agent      S^a <- S^a - eta * gradient of L_sema        S <- mu * S + (1 - mu) * S^a
    feature    S_c <- unit(mu * S_c + (1 - mu) * mean of the unit video features of class c in the batch)

S and S^a start at the same S^0. No gradient passes through S. mu = 1 keeps the texts of the vision-language model,
mu = 0 is direct fine-tuning (agent), or the last batch's features (feature).
"""

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from unialign.errors import UsageError

FORMS = ("agent", "feature")


class TextBank(nn.Module):
    """Holds S (a buffer) and, in form 1, S^a (a parameter), and projects them to the shared width.

    initial: S^0, (K, L, C), finite, no row all zero; its rows are set to length 1, so that a learning rate means the
    same for every text encoder.

    Form 1 keeps both banks in the text encoder's space and learns a linear map (C -> D, no bias) that both share. It
    starts orthogonal, so cosines between texts begin as the text encoder has them (exactly so for D >= C). Form 2 mixes
    with video features, so its bank lies in the shared space: S^0 goes through the same kind of map once, at the start,
    and the map is not kept.

    The state (S, S^a, the map) belongs to checkpoints, never to a cache.
    """

    main: Tensor

    def __init__(self, *, initial: Tensor, width: int, form: str = "agent", momentum: float = 0.999) -> None:
        super().__init__()
        if form not in FORMS:
            raise ValueError(f"text bank form {form!r} is unknown; known: {', '.join(FORMS)}")
        if not 0.0 <= momentum <= 1.0:
            raise ValueError(f"momentum {momentum} is not between 0 and 1")
        whole = initial.is_meta or bool((initial.isfinite().all(-1) & (initial != 0).any(-1)).all())
        if initial.ndim != 3 or not whole:
            raise ValueError("a text bank is (prompts, classes, width) with a finite embedding in every row")
        self.form = form
        self.momentum = momentum
        rows = functional.normalize(initial.detach().float(), dim=-1)  # (K, L, C)
        self.projection: nn.Linear | None = None
        self.agent: nn.Parameter | None = None
        linear = nn.Linear(initial.shape[-1], width, bias=False)
        nn.init.orthogonal_(linear.weight)
        if form == "agent":
            self.projection = linear
            self.agent = nn.Parameter(rows.clone())
            self.register_buffer("main", rows.clone())  # (K, L, C)
        else:
            with torch.no_grad():
                self.register_buffer("main", functional.normalize(linear(rows), dim=-1))  # (K, L, D)

    def forward(self) -> Tensor:
        """Text tokens of the main bank, (K, L, D), unit rows. Gradients reach the projection, never S."""
        return self._projected(self.main)

    def consistency(self, video: Tensor, prototypes: Tensor, temperature: Tensor) -> dict[str, Tensor]:
        """Logits of the two parts of L_sema, from the agent bank; empty in form 2, which has no agent.

        Of the bank they move S^a alone, as equation 12 says: the map gets no gradient. (Where it did, L_sema with its
        weight of 5 trained the map that the alignment needs too, and cost the demo's full model 6 points.)
        video (B, D): the clips' features; prototypes (L, D): the classifier's weights. The caller detaches them.

        bank_video_logits (B, L): max over prompts of cos(video_b, S^a_nc) / temperature (ART, equations 14 and 15).
        bank_prototype_logits (L, L): max over prompts of cos(prototype_i, S^a_nj) / temperature (ART, equation 16);
        row i belongs to class i.
        Deviation: ART prints no temperature; without one the softmax over cosines is almost flat.
        """
        if self.agent is None or self.projection is None:
            return {}
        texts = functional.normalize(
            functional.linear(self.agent, self.projection.weight.detach()), dim=-1
        )  # (K, L, D)
        logits = {}
        for name, queries in (("bank_video_logits", video), ("bank_prototype_logits", prototypes)):
            cosines = torch.einsum("bd,kld->bkl", functional.normalize(queries.float(), dim=-1), texts)  # (B, K, L)
            logits[name] = cosines.amax(dim=1) / temperature  # (B, L)
        return logits

    @torch.no_grad()
    def update(self, features: Tensor, labels: Tensor) -> None:
        """Moves the main bank one step; call it once after each optimizer step.

        features (B, D): unit video features of the batch, labels (B,): both used by form 2 only. Form 2 adds up over
        all processes of a distributed run; a class that no process saw keeps its rows.
        """
        if self.agent is not None:
            self.main.mul_(self.momentum).add_(self.agent, alpha=1.0 - self.momentum)
            return
        members = functional.one_hot(labels, self.main.shape[1]).to(self.main.dtype)  # (B, L)
        sums = members.T @ features.detach().to(self.main.dtype)  # (L, D)
        counts = members.sum(dim=0)  # (L,)
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(sums)
            torch.distributed.all_reduce(counts)
        means = sums / counts.clamp(min=1.0).unsqueeze(-1)  # (L, D)
        moved = functional.normalize(self.main * self.momentum + means * (1.0 - self.momentum), dim=-1)  # (K, L, D)
        self.main.copy_(torch.where((counts > 0).unsqueeze(-1), moved, self.main))

    def _projected(self, rows: Tensor) -> Tensor:
        if self.projection is None:
            return rows
        return functional.normalize(self.projection(rows), dim=-1)


def check_bank(bank: Tensor, num_classes: int) -> None:
    """Raise `UsageError` unless a text bank is (prompts, num_classes, width) with something in every row."""
    if bank.ndim != 3 or bank.shape[1] != num_classes:
        raise UsageError(
            f"the text embeddings have shape {tuple(bank.shape)}, needed is (prompts, {num_classes}, width); "
            "extract text for this dataset."
        )
    if bank.is_meta:  # a bank without values, whose cost is counted
        return
    bad = ~(bank.isfinite().all(-1) & (bank != 0).any(-1))  # (prompts, classes)
    if bool(bad.any()):
        prompt, label = bad.nonzero()[0].tolist()
        raise UsageError(f"the text embedding of prompt {prompt}, class {label} is empty; extract text again.")
