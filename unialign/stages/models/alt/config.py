"""The settings of ALT (see `alt`): each thing that the paper leaves open is a field."""

import math
from dataclasses import dataclass

from unialign.errors import UsageError
from unialign.stages.models.alt.blocks import REDUCTIONS
from unialign.stages.models.clip.adapters import KINDS

CHOICES = {
    "tower": ("tuned", "frozen", "cached"),
    "tower_adapters": KINDS,
    "prompted_texts": ("labels", "all"),
    "projection": ("clip", "linear"),
    "corpus": ("entities", "labels"),
    "reduction": REDUCTIONS,
    "visual": ("regions", "class"),
    "logits": ("cosine", "plain", "probe"),
}


@dataclass(frozen=True)
class ALTConfig:
    """Every setting of the model, with defaults. Raises `UsageError` for a value that makes no sense.

    Image encoder
    network: OpenCLIP's name. tower: "tuned" trains it, "frozen" runs it without gradients, "cached" reads its tokens
        from the store and holds no tower; then network, layer, merged_pairs and image_size say nothing.
    tower_adapters: "S", "SM", "STM": small trained layers inside a frozen tower, see `clip.adapters`.
    num_prompts: learned tokens in each layer of the frozen tower and of the frozen text tower (paper: 10), see
        `prompts`; 0 for none, and texts as they are cached. prompted_texts: which of them go through that tower: the
        labels alone, or "all", with the entities (the paper does not say).
    layer: the block that gives E; the paper's "second-last" (-2) leaves B/16 109 tokens and L/14 73.
    merged_pairs, proportional_attention: see `tome`; the paper gives 8 pairs and does not speak of the attention.
    projection: how E comes to the width of the texts: CLIP's own last norm and projection, or a learned linear map.

    Alignment (the component ablation is align, corpus, region)
    align: off, the visual vectors are the queries. corpus: S holds entities or the label embeddings. region: off, the
        class token is the only region.
    gumbel_scale: factor of the cosines; 1 as printed, where the noise decides almost alone, 100 is CLIP's logit scale.
    test_noise: Gumbel noise in evaluation too. reduction: N tokens to one by their mean, or by an MLP along N.
    visual: e^ from all regions, as printed, or from the class token.
    shared_mlp: q and e^ go through the same MLP. mlp_ratio: hidden width of the MLPs of equations 6 and 9 over D.

    Adapter (none of it printed but num_blocks: 4 for B/16, 6 for L/14; 27 D^2 parameters a block fit the totals)
    self_attention, cross_attention, convolution: its parts. kernel: frames that a convolution sees.
    ffn_ratio: hidden width of the MLP behind each attention over D, 0 for none. layer_norm: before each part.

    logits: "cosine" takes unit vectors times logit_scale (CLIP's 100), "plain" is C z as printed; "probe" is the linear
        probe of the paper: a linear classifier of z learns, and all else stays as it starts (`train.start`).
    tower_rate: the tower's learning rate over that of the rest (8e-6 and 8e-5 in the paper).
    """

    network: str = "ViT-B-16-quickgelu"
    num_frames: int = 8
    image_size: int = 224
    tower: str = "tuned"
    tower_adapters: str = "none"
    num_prompts: int = 0
    prompted_texts: str = "labels"
    layer: int = -2
    merged_pairs: int = 8
    proportional_attention: bool = True
    projection: str = "clip"
    align: bool = True
    corpus: str = "entities"
    region: bool = True
    gumbel_scale: float = 100.0
    test_noise: bool = False
    reduction: str = "mean"
    visual: str = "regions"
    shared_mlp: bool = False
    mlp_ratio: int = 6
    num_blocks: int = 4
    self_attention: bool = True
    cross_attention: bool = True
    convolution: bool = True
    kernel: int = 3
    ffn_ratio: int = 4
    layer_norm: bool = True
    logits: str = "cosine"
    logit_scale: float = 100.0
    tower_rate: float = 0.1

    def __post_init__(self) -> None:
        for name, known in CHOICES.items():
            if getattr(self, name) not in known:
                raise UsageError(f"{name} {getattr(self, name)!r} is unknown; known: {', '.join(known)}.")
        for name in ("num_frames", "image_size", "mlp_ratio", "num_blocks"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} must be at least 1, not {getattr(self, name)}.")
        for name in ("merged_pairs", "ffn_ratio", "num_prompts"):
            if getattr(self, name) < 0:
                raise UsageError(f"{name} must be at least 0, not {getattr(self, name)}.")
        for name in ("gumbel_scale", "logit_scale", "tower_rate"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) > 0):
                raise UsageError(f"{name} must be a finite number above 0, not {getattr(self, name)}.")
        self._check_tower()
        if self.kernel < 1 or self.kernel % 2 == 0:
            raise UsageError(f"kernel must be an odd number, not {self.kernel}.")
        if not (self.self_attention or self.cross_attention):
            raise UsageError("the adapter needs self_attention or cross_attention.")
        if self.convolution and not self.cross_attention:
            raise UsageError("convolution changes what cross_attention reads; switch both off, or neither.")

    def _check_tower(self) -> None:
        for name, off in (("tower_adapters", "none"), ("num_prompts", 0)):
            if getattr(self, name) != off and self.tower != "frozen":
                raise UsageError(f"{name} belong into a frozen tower; this one is {self.tower}: take tower: frozen.")
        if self.prompted_texts == "all" and not (self.num_prompts and self.align and self.corpus == "entities"):
            raise UsageError("prompted_texts: all needs num_prompts and a corpus of entities; take labels.")

    @property
    def tower_is_fixed(self) -> bool:
        """Whether nothing in the image tower learns."""
        return self.tower == "frozen" and self.tower_adapters == "none" and not self.num_prompts

    @property
    def needs_visual(self) -> bool:
        """Whether e^ is used at all."""
        return self.cross_attention or not self.align
