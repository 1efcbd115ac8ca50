"""Contract of the text bank that training starts from: the rows of a text store, asked for by template and class."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.made_stores import CLASSES, TEMPLATES, text_store
from tests.pipeline.made_training import readers_of
from unialign.errors import MissingCache, UsageError
from unialign.pipeline.training.text_bank_start import load_text_bank, shared_templates


def test_the_text_bank_has_the_rows_asked_for(made_caches: Path, tmp_path: Path) -> None:
    reader = readers_of(made_caches)["text"]
    assert shared_templates(reader, CLASSES) == tuple(sorted(TEMPLATES))
    bank = load_text_bank(reader, CLASSES, ["{}"])
    assert bank.shape == (1, 4, 8)
    np.testing.assert_array_equal(bank[0, 2].numpy(), reader.read_one("label|{}|squat")["embedding"])
    assert torch.equal(load_text_bank(reader, CLASSES)[1], bank[0])
    with pytest.raises(MissingCache, match=r"no row for class 'swim'.*unialign extract text"):
        load_text_bank(reader, [*CLASSES, "swim"])
    with pytest.raises(MissingCache, match=r"no row for template 'other \{\}'"):
        load_text_bank(reader, CLASSES, ["other {}"])


def test_a_template_that_lacks_a_class_is_left_out(tmp_path: Path) -> None:
    class Joined:
        """Two stores of texts as one."""

        def __init__(self) -> None:
            self.parts = [
                text_store(tmp_path / "a", CLASSES, ["{}"]),
                text_store(tmp_path / "b", CLASSES[:3], ["a {}"]),
            ]
            self.ids = tuple(sorted({name for part in self.parts for name in part.ids}))

        def read_one(self, sample: str, /) -> dict[str, np.ndarray]:
            return next(part for part in self.parts if sample in part.ids).read_one(sample)

        def array_attributes(self, name: str, /) -> dict[str, Any]:
            return {}

    assert shared_templates(Joined(), CLASSES) == ("{}",)
    assert load_text_bank(Joined(), CLASSES).shape == (1, 4, 8)
    assert shared_templates(Joined(), CLASSES[:2]) == ("a {}", "{}")


def test_two_classes_with_one_embedding_are_refused(made_caches: Path) -> None:
    class Muddled:
        """A store in which two classes were one text to the encoder."""

        def __init__(self) -> None:
            self.real = readers_of(made_caches)["text"]
            self.ids = self.real.ids

        def read_one(self, sample: str, /) -> dict[str, np.ndarray]:
            return self.real.read_one(sample.replace("jump", "squat"))

        def array_attributes(self, name: str, /) -> dict[str, Any]:
            return {}

    with pytest.raises(UsageError, match="same embedding for 'squat' and 'jump' in template"):
        load_text_bank(Muddled(), CLASSES)
