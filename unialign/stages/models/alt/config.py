"""The settings of ALT (see `alt.model`): each thing that the paper leaves open is a field."""

from typing import Literal, Self

from pydantic import Field, model_validator

from unialign.settings import Settings


class ALTConfig(Settings, strict=True):
    """Every setting of the model, with defaults: the image encoder, the alignment, the adapter, the classifier."""

    network: str = Field("ViT-B-16-quickgelu", description="OpenCLIP's name of the network.")
    num_frames: int = Field(8, ge=1, description="Frames of a clip.")
    image_size: int = Field(224, ge=1, description="Side of the square images that the tower sees.")
    tower: Literal["tuned", "frozen", "cached"] = Field(
        "tuned",
        description="Train the image tower, run it without gradients, or read its tokens from the store; cached holds "
        "no tower, and `network`, `layer`, `merged_pairs` and `image_size` do not matter.",
    )
    tower_adapters: Literal["none", "S", "SM", "STM"] = Field(
        "none", description="Small trained layers inside a frozen tower."
    )
    num_prompts: int = Field(
        0, ge=0, description="Learned tokens in each layer of the frozen towers of images and texts (10 in the paper)."
    )
    prompted_texts: Literal["labels", "all"] = Field(
        "labels", description="Texts that go through the prompted tower: the labels, or the entities too."
    )
    layer: int = Field(-2, description="Block that gives the tokens E; -2 is the paper's second-last.")
    merged_pairs: int = Field(8, ge=0, description="Pairs of tokens that each block merges.")
    proportional_attention: bool = Field(True, description="Merged tokens count by their size in attention.")
    projection: Literal["clip", "linear"] = Field(
        "clip", description="How E comes to the texts' width: CLIP's last norm and projection, or a learned map."
    )
    align: bool = Field(True, description="Off, the visual vectors are the queries.")
    corpus: Literal["entities", "labels"] = Field("entities", description="What S holds.")
    region: bool = Field(True, description="Off, the class token is the only region.")
    gumbel_scale: float = Field(
        100.0, gt=0, description="Factor of the cosines; 1 as printed, where noise decides almost alone."
    )
    test_noise: bool = Field(False, description="Gumbel noise in evaluation too.")
    reduction: Literal["mean", "mlp"] = Field("mean", description="N tokens to one: their mean, or an MLP along N.")
    visual: Literal["regions", "class"] = Field("regions", description="e^ from all regions, or from the class token.")
    shared_mlp: bool = Field(False, description="q and e^ go through the same MLP.")
    mlp_ratio: int = Field(6, ge=1, description="Hidden width of the MLPs of equations 6 and 9 over D.")
    num_blocks: int = Field(4, ge=1, description="Adapter blocks: 4 for B/16, 6 for L/14.")
    self_attention: bool = Field(True, description="Self-attention in each block.")
    cross_attention: bool = Field(True, description="Cross-attention to the frames in each block.")
    convolution: bool = Field(True, description="Convolution over frames before cross-attention.")
    kernel: int = Field(3, ge=1, description="Frames that a convolution sees; an odd number.")
    ffn_ratio: int = Field(4, ge=0, description="Hidden width of the MLP behind each attention over D; 0: none.")
    layer_norm: bool = Field(True, description="Layer norm before each part.")
    logits: Literal["cosine", "plain", "probe"] = Field(
        "cosine",
        description="Unit vectors times `logit_scale`, C z as printed, or a linear probe of a run (`train.start`).",
    )
    logit_scale: float = Field(100.0, gt=0, description="Scale of cosine logits (CLIP's).")
    tower_rate: float = Field(0.1, gt=0, description="Learning rate of a tuned tower over that of the rest.")

    @model_validator(mode="after")
    def _no_conflict(self) -> Self:
        for name, off in (("tower_adapters", "none"), ("num_prompts", 0)):
            if getattr(self, name) != off and self.tower != "frozen":
                raise ValueError(f"{name} belong into a frozen tower; this one is {self.tower}: take tower: frozen")
        if self.prompted_texts == "all" and not (self.num_prompts and self.align and self.corpus == "entities"):
            raise ValueError("prompted_texts: all needs num_prompts and a corpus of entities; take labels")
        if self.kernel % 2 == 0:
            raise ValueError(f"kernel must be an odd number, not {self.kernel}")
        if not (self.self_attention or self.cross_attention):
            raise ValueError("the adapter needs self_attention or cross_attention")
        if self.convolution and not self.cross_attention:
            raise ValueError("convolution changes what cross_attention reads; switch both off, or neither")
        return self

    @property
    def tower_is_fixed(self) -> bool:
        """Whether nothing in the image tower learns."""
        return self.tower == "frozen" and self.tower_adapters == "none" and not self.num_prompts

    @property
    def needs_visual(self) -> bool:
        """Whether e^ is used at all."""
        return self.cross_attention or not self.align
