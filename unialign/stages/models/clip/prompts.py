"""Learned prompts in every layer of frozen CLIP towers.

Source: Rasheed et al., "Fine-tuned CLIP Models are Efficient Video Learners" (ViFi-CLIP), CVPR 2023, its prompting of
vision and language: 10 learned tokens in each layer of both towers, 0.15 M numbers for B/16. ALT (Chen et al., CVPR
2024) has a row of them, with the towers frozen. Of images: Jia et al., "Visual Prompt Tuning", ECCV 2022, deep form.

Legend: n prompts a layer, C width of a tower, N texts of W tokens, D width of the embeddings.

Each block has prompts of its own. Those of the block before are dropped, so all that prompts do is to be attended to:
images (`image_tower`, `tome`): by all tokens; they are no regions and do not merge.
texts (here): by the words and the end behind them; they stand behind the start, and words move n places on.
Choices where the sources are silent: prompts have no position embedding and start as normal numbers of deviation 0.02.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

if TYPE_CHECKING:
    from open_clip.transformer import TextTransformer

DEVIATION = 0.02


@dataclass(frozen=True)
class Words:
    """Token ids of texts that a tower with prompts embeds: labels (prompts, L, W); entities (K, W), if they are too."""

    labels: Tensor
    entities: Tensor | None = None


def new_prompts(num_blocks: int, num_prompts: int, width: int) -> nn.ParameterList:
    """Prompts (n, C) of each block, as they start."""
    return nn.ParameterList(nn.Parameter(torch.randn(num_prompts, width) * DEVIATION) for _ in range(num_blocks))


class PromptedTexts(nn.Module):
    """Unit embeddings of labels and entities from a frozen text tower with prompts.

    In evaluation they are embedded once, by the first call after the mode is set.
    """

    labels: Tensor
    entities: Tensor | None

    def __init__(self, *, network: "TextTransformer", words: Words, num_prompts: int) -> None:
        super().__init__()
        self.network: Any = network.requires_grad_(False)
        self.prompts = new_prompts(len(network.transformer.resblocks), num_prompts, network.width)
        self.register_buffer("labels", words.labels)
        self.register_buffer("entities", words.entities)
        self.kept: tuple[Tensor, Tensor | None] | None = None

    def forward(self) -> tuple[Tensor, Tensor | None]:
        """Labels (L, D), each the mean over its prompts set to length 1, and entities (K, D) if there are any."""
        if self.kept is not None:
            return self.kept
        num_prompts, num_labels, _ = self.labels.shape
        rows = self.embed(self.labels.flatten(0, 1)).reshape(num_prompts, num_labels, -1)  # (prompts, L, D)
        found = (
            functional.normalize(rows.mean(dim=0), dim=-1),
            None if self.entities is None else self.embed(self.entities),
        )
        if not (self.training or rows.requires_grad):
            self.kept = found
        return found

    def embed(self, words: Tensor) -> Tensor:
        """Unit embeddings (N, D) of token ids (N, W), at least in single precision."""
        network, num_prompts = self.network, len(self.prompts[0])
        length = words.shape[1] + num_prompts
        embedded = network.token_embedding(words)  # (N, W, C)
        room = embedded.new_zeros(len(words), num_prompts, embedded.shape[-1])
        tokens = torch.cat([embedded[:, :1], room, embedded[:, 1:]], dim=1) + network.positional_embedding[:length]
        for block, prompts in zip(network.transformer.resblocks, self.prompts, strict=True):
            shared = prompts.to(tokens.dtype).expand(len(words), -1, -1)
            tokens = torch.cat([tokens[:, :1], shared, tokens[:, 1 + num_prompts :]], dim=1)
            tokens = block(tokens, attn_mask=network.attn_mask[:length, :length])
        # The end has the highest id.
        ends = network.ln_final(tokens)[torch.arange(len(words), device=words.device), words.argmax(1) + num_prompts]
        projected = ends @ network.text_projection
        return functional.normalize(projected.to(self.prompts[0].dtype), dim=-1)

    def train(self, mode: bool = True) -> "PromptedTexts":
        """Training or evaluation; what was embedded before is forgotten."""
        super().train(mode)
        self.kept = None
        return self
