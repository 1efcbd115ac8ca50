"""Fixtures that every test may use."""

import os
from pathlib import Path

# One thread for the networks of tests: small ones are slower with two, and sums depend on the number.
os.environ["OMP_NUM_THREADS"] = "1"

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real material beside the checkout; tests that need it skip where it is absent."""
    if not SHARED.is_dir():
        pytest.skip("needs the folder ../shared/data with real clips and weights")
    return SHARED
