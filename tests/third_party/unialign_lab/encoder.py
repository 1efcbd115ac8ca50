"""A text as the counts of its letters; its weights are a file with one number per letter, or none."""

from hashlib import sha256
from pathlib import Path

import numpy as np

import unialign as ua

LETTERS = "abcdefghijklmnopqrstuvwxyz "
MODEL = "letters"


def find(model: str, weights: Path | None) -> Path:
    """Nothing has to be found: this file is the model."""
    return weights or Path(__file__)


def load(model: str, weights: Path, device: str) -> ua.TextEncoder:
    """The counts."""

    def tokens(text: str) -> list[int]:
        return [LETTERS.find(letter) + 1 for letter in text.lower()]

    def embed(text: str) -> np.ndarray:
        return np.bincount(tokens(text), minlength=len(LETTERS) + 1).astype(np.float32)

    digest = sha256(weights.read_bytes()).hexdigest()
    return ua.TextEncoder(len(LETTERS) + 1, 1000, MODEL, f"sha256:{digest}", embed, tokens)


ROW = ua.EncoderRow(
    description="counts of letters",
    default_model=MODEL,
    libraries=("unialign-lab",),
    network=str,
    find=find,
    load=load,
    license=lambda weights: "MIT",
)
