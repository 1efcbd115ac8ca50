"""The settings of DVTA (see `dvta.model`); the defaults are those of its published code."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from unialign.settings import Settings


class DVTAConfig(Settings, strict=True):
    """Every setting of the model and, last, of how its runs are evaluated."""

    before: ClassVar[Mapping[str, Any]] = {"prototypes": False}

    enhancement: bool = Field(True, description="SDE; without it a class' text is its label alone.")
    attention_scale: bool = Field(False, description="Divide SDE's products by sqrt(D), as the paper says.")
    text_order: Literal["attend-first", "project-first"] = Field(
        "attend-first",
        description="Mix the texts and then project (code), or project the label and mix it with the context (paper).",
    )
    combine: Literal["sum", "mean"] = Field("sum", description="Of p1 and p2: sum (code) or mean (paper).")
    direct: bool = Field(True, description="DA, direct alignment.")
    augmented: bool = Field(True, description="AA, augmented alignment.")
    direct_loss: bool = Field(False, description="DA has the loss for itself too (paper).")
    detach_augmented: bool = Field(True, description="AA's gradient stops before v and t (code).")
    activation: Literal["leaky-sigmoid", "sigmoid", "none"] = Field(
        "leaky-sigmoid", description="What the metric network's output goes through."
    )
    leak: float = Field(0.01, gt=0, description="gamma of the leaky sigmoid.")
    projector_depth: int = Field(
        4, ge=1, le=4, description="Layers of F_s: 1 is linear, 2 the residual layer and the last one, 4 all."
    )
    temperature: float = Field(0.1, gt=0, description="Start of tau_1 and tau_2, which are learned without limits.")
    prototypes: bool = Field(
        True,
        description="Add the similarity to class prototypes that ridge regression predicts from the texts; false: as "
        "published.",
    )
    held_out: int = Field(
        0,
        ge=0,
        description="Seen classes that are tested in place of the unseen ones, to choose epoch and calibration.",
    )
    calibration: float = Field(
        0.0, description="Subtracted from the log-probabilities of seen classes in generalised protocols."
    )
    published_rule: bool = Field(
        False, description="Report the best epoch on the unseen test classes (code); the result is marked as unclean."
    )

    @model_validator(mode="after")
    def _no_conflict(self) -> Self:
        if self.published_rule and self.held_out:
            raise ValueError("published_rule looks at the test classes, and with held_out there are none; drop one")
        if not (self.direct or self.augmented):
            raise ValueError("direct and augmented are both off; one of the alignments must be on")
        if self.direct_loss and not (self.direct and self.augmented):
            raise ValueError("direct_loss is a second loss beside the joint one; it needs both direct and augmented")
        if not self.direct and self.detach_augmented:
            raise ValueError("without direct nothing trains the projectors; set detach_augmented to false")
        return self
