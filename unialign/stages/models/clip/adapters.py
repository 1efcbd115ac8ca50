"""Small trained layers inside the blocks of a frozen image tower, which turn it into a video network.

Source: Yang et al., "AIM: Adapting Image Models for Efficient Video Action Recognition", ICLR 2023, section 3: spatial
(S), temporal (T) and joint adaptation (M, beside the MLP). ALT's table of image encoders has S, SM and STM; it gives
no more than their sizes (138, 141 and 145 M parameters for B/16), which a hidden width of a quarter fits.

Legend: T frames, N tokens of a frame, C width.

    A(x)  = up(gelu(down(x)))                      C -> C / 4 -> C; `up` starts at zero, so the tower starts as it was
    T     x <- x + A_T(attention over the T tokens at the same place)    the block's own attention, used once more
    S     x <- x + (1 + A_S)(attention over the N tokens of a frame)
    M     x <- x + MLP(x) + A_M(x) / 2

Where tokens merge, those at one place of several frames no longer stand for the same patch; T takes them all the same.
"""

from typing import Any

from torch import Tensor, nn

from unialign.stages.models.clip.tome import attention

KINDS = ("none", "S", "SM", "STM")
REDUCTION = 4
JOINT_SCALE = 0.5


class Adapter(nn.Module):
    """A(x), of the shape of x; with `skip`, x + A(x)."""

    def __init__(self, width: int, *, skip: bool) -> None:
        super().__init__()
        self.down = nn.Linear(width, width // REDUCTION)
        self.up = nn.Linear(width // REDUCTION, width)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)
        self.skip = skip

    def forward(self, rows: Tensor) -> Tensor:
        """(..., C) to (..., C)."""
        made: Tensor = self.up(nn.functional.gelu(self.down(rows)))
        return rows + made if self.skip else made


class Beside(nn.Module):
    """A block's MLP with an adapter beside it; the MLP's weights keep their names."""

    def __init__(self, mlp: nn.Sequential, adapter: Adapter) -> None:
        super().__init__()
        self.steps = [name for name, _ in mlp.named_children()]
        for name, child in mlp.named_children():
            self.add_module(name, child)
        self.adapter = adapter

    def forward(self, rows: Tensor) -> Tensor:
        """(..., C) to (..., C)."""
        made = rows
        for name in self.steps:
            made = self.get_submodule(name)(made)
        beside: Tensor = self.adapter(rows)
        return made + JOINT_SCALE * beside


class OverTime(nn.Module):
    """T: what is added to a block's tokens before it runs. The attention is the block's, which it does not own."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.adapter = Adapter(width, skip=False)

    def forward(self, tokens: Tensor, block: Any, num_frames: int) -> Tensor:
        """(B T, N, C) to (B T, N, C)."""
        _, num_tokens, width = tokens.shape
        rows = block.ln_1(tokens).reshape(-1, num_frames, num_tokens, width).transpose(1, 2)  # (B, N, T, C)
        mixed, _ = attention(block.attn, rows.flatten(0, 1), None)  # (B N, T, C)
        placed = mixed.reshape(-1, num_tokens, num_frames, width).transpose(1, 2).flatten(0, 1)
        added: Tensor = self.adapter(placed)
        return added


def install(blocks: nn.Sequential | nn.ModuleList, kind: str, width: int) -> nn.ModuleList:
    """Put S and M into blocks of OpenCLIP, whose own parameters are frozen; returns T for each block, or nothing."""
    blocks.requires_grad_(False)
    for block in blocks if "S" in kind else ():
        place: Any = block
        place.ls_1 = nn.Sequential(place.ls_1, Adapter(width, skip=True))
        if "M" in kind:
            place.mlp = Beside(place.mlp, Adapter(width, skip=False))
    return nn.ModuleList(OverTime(width) for _ in blocks) if "T" in kind else nn.ModuleList()
