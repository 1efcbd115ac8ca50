"""Contract of UniAlign's default modalities: few training clips are trained on without text, and it is said."""

from typing import Any

import pytest

from unialign.pipeline.systems.unialign import FEW_CLIPS, settle_modalities
from unialign.settings import checked
from unialign.stages.datasets.base import Split
from unialign.stages.models.unialign.config import UniAlignConfig

ALL = ("video", "pose", "text")


def settled(num_train: int, unseen: tuple[int, ...] = (), **given: Any) -> tuple[tuple[str, ...], str]:
    split = Split(tuple(map(str, range(num_train))), ("test",), unseen=unseen)
    config, why = settle_modalities(checked(UniAlignConfig, given, "train.unialign"), split)
    return config.modalities, why


def test_below_the_limit_text_is_left_out_with_a_reason_and_the_way_back() -> None:
    kept, why = settled(FEW_CLIPS - 1, width=8)
    assert kept == ("video", "pose")
    assert why == (
        f"text is left out: it has not helped with few training clips, and there are {FEW_CLIPS - 1}; set "
        "train.unialign.modalities=[video,pose,text] to read it."
    )


@pytest.mark.parametrize(
    ("num_train", "unseen", "given"),
    [(FEW_CLIPS, (), {}), (10, (1,), {}), (10, (), {"modalities": list(ALL)})],
    ids=["enough clips", "classes known by their texts alone", "asked for"],
)
def test_otherwise_it_is_read(num_train: int, unseen: tuple[int, ...], given: dict[str, Any]) -> None:
    assert settled(num_train, unseen, **given) == (ALL, "")
