"""The settings of ART (see `art.model`): each choice that the paper leaves open is a field."""

from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from unialign.settings import Settings

Term = Literal["spatial", "temporal", "tracklet"]


class ARTConfig(Settings, strict=True):
    """Every setting of the model, with defaults."""

    backbone: str = Field(
        "uniformerv2-b16",
        description="Video backbone; `unialign models` lists them; cached: none, the store of tokens.",
    )
    num_frames: int = Field(16, ge=1, description="Frames of a clip.")
    image_size: int = Field(224, ge=1, description="Side of the square images that the backbone sees.")
    num_tracks: int = Field(2, ge=1, description="Tracklets K.")
    selection: Literal["classes", "rows"] = Field(
        "classes", description="Whether the K texts are chosen among classes or among all prompts of all classes."
    )
    regions: bool = Field(
        True, description="False leaves out RSSA and with it tracklets, L_con and L_MTC; L_v's classifier predicts."
    )
    enhancement: bool = Field(True, description="False leaves out SE (equation 1).")
    integration: Literal["add", "concat"] = Field("add", description="How equation 2 joins texts and frames.")
    latent: int = Field(256, ge=1, description="Latent width d; a multiple of `num_heads`.")
    enhancement_layers: int = Field(4, description="Layers of equation 1.")
    region_layers: int = Field(4, ge=1, description="Layers of equation 3.")
    num_heads: int = Field(8, ge=1, description="Attention heads of both (not in the paper).")
    aggregation: Literal["similarity", "sum"] = Field(
        "similarity", description="Equation 9: weights by similarity, or a plain sum."
    )
    similarity: Literal["dot", "cosine"] = Field("dot", description="Similarity in equation 9.")
    mtc: Annotated[tuple[Term, ...], Field(strict=False)] = Field(
        ("spatial", "temporal", "tracklet"), description="Terms of L_MTC."
    )
    temporal_form: Literal["hinge", "abs", "square"] = Field("hinge", description="Form of equation 6.")
    temporal_target: float = Field(0.6, ge=-1, le=1, description="lambda of equation 6.")
    gamma_mtc: float = Field(5.0, ge=0, le=1e6, description="Weight of L_MTC (equation 18).")
    gamma_bank: float = Field(5.0, ge=0, le=1e6, description="Weight of L_sema (equation 18).")
    bank_tuning: Literal["none", "video", "prototype", "both"] = Field("both", description="Parts of L_sema.")
    momentum: float = Field(0.999, ge=0, le=1, description="mu of the text bank (the paper gives no value).")
    prototypes: Literal["video", "final"] = Field(
        "video", description="W of equation 16: L_v's classifier, or the part of the final one that reads x_cls."
    )
    detach_video: bool = Field(True, description="L_sema does not train the backbone.")
    detach_prototypes: bool = Field(True, description="L_sema does not train the classifier.")
    temperature: float = Field(
        0.07, ge=0.01, le=1e6, description="Of the cosines in L_sema and in `similarity: cosine` (CLIP's start)."
    )
    dropout: float = Field(0.5, ge=0, le=0.99, description="Before each classifier.")

    @field_validator("mtc")
    @classmethod
    def _each_once(cls, value: tuple[Term, ...]) -> tuple[Term, ...]:
        if len(set(value)) != len(value):
            raise ValueError(f"{list(value)} may hold spatial, temporal, tracklet, once each")
        return value

    @model_validator(mode="after")
    def _no_conflict(self) -> Self:
        if self.enhancement and self.enhancement_layers < 1:
            raise ValueError("enhancement_layers must be at least 1; to leave SE out, set enhancement to false")
        if self.latent % self.num_heads:
            raise ValueError(f"latent {self.latent} must be a multiple of num_heads {self.num_heads}")
        if self.prototypes == "final" and not self.regions:
            raise ValueError("prototypes 'final' needs the final classifier, which regions false leaves out")
        return self
