"""The settings of UniAlign (see `unialign.model`)."""

from typing import Annotated, Literal

from pydantic import Field, field_validator

from unialign.settings import Settings

Modality = Literal["video", "pose", "text"]
LOWEST_TEMPERATURE = 0.01  # CLIP's limit (a logit scale of 100)


class UniAlignConfig(Settings, strict=True):
    """Every setting of the model, with defaults."""

    backbone: str = Field(
        "tsm-resnet50", description="Video backbone; `unialign models` lists them; cached: none, the store of tokens."
    )
    num_frames: int = Field(16, ge=1, description="Frames of a clip.")
    image_size: int = Field(224, ge=1, description="Side of the square images that the backbone sees.")
    width: int = Field(512, ge=1, description="Width D that all modalities are projected to.")
    cmsa: Literal["A", "B", "off"] = Field("A", description="Form of CMSA, see docs/systems/unialign.md.")
    modalities: Annotated[tuple[Modality, ...], Field(strict=False)] = Field(
        ("video", "pose", "text"),
        description="What the model reads; video is always part of it. If nobody sets it, fewer than 500 training "
        "clips are read without text.",
    )
    learn_importance: bool = Field(True, description="False weights all tokens and modalities equally (an ablation).")
    bank_form: Literal["agent", "feature"] = Field(
        "agent", description="Form of the text bank, see docs/systems/unialign.md."
    )
    momentum: float = Field(
        0.999, ge=0, le=1, description="Of the text bank. The paper gives none; sweep 0, 0.9, 0.99, 0.999, 0.9999, 1."
    )
    gamma: float = Field(5.0, ge=0, description="Weight of L_sema (5 in ART).")
    lambda_vp: float = Field(
        1.0, ge=0, description="Weight of the losses between modalities (with `cmsa` B between all pairs)."
    )
    temperature: float = Field(
        0.07, ge=LOWEST_TEMPERATURE, description="Temperature of the similarities at the start (CLIP's)."
    )
    learn_temperature: bool = Field(True, description="Train the temperature (never below 0.01), as CLIP does.")
    dropout: float = Field(0.5, ge=0, lt=1, description="Before each classifier.")
    detach_video: bool = Field(True, description="L_sema does not train the backbone.")
    detach_prototypes: bool = Field(True, description="L_sema does not train the classifier.")

    @field_validator("modalities")
    @classmethod
    def _video_and_each_once(cls, value: tuple[Modality, ...]) -> tuple[Modality, ...]:
        if "video" not in value or len(set(value)) != len(value):
            raise ValueError(f"{list(value)} must hold video, and may hold pose and text once each")
        return value
