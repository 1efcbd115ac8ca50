"""Fixtures that every test may use."""

import multiprocessing
import os
from multiprocessing import forkserver
from pathlib import Path

# One thread for the networks of tests: small ones are slower with two, and sums depend on the number.
os.environ["OMP_NUM_THREADS"] = "1"

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
# They start processes and take longest. First, so that nobody waits for one of them at the end of a run; side by side,
# so that those which share the server below come to one worker.
LONGEST = (
    *("test_cli", "test_trials", "test_kill_training", "test_two_processes", "test_kill", "test_failing_calls"),
    *("test_read_only", "test_flips", "test_plugin_systems", "test_bombs", "test_supervisor", "test_third_party"),
)
# What most commands load, and `unialign` itself: once, in 7 seconds, instead of in each process.
PRELOADED = [
    *("tests.golden.curves", "unialign.pipeline.ablation.trials", "unialign.cli"),
    # Imported late, see `trials.PRELOADED`.
    *("unialign.stages.models.backbones.registry", "unialign.cache.batches.work_ring", "torch.utils.tensorboard"),
    # Texts, classifiers beside a run, pictures and pages.
    *("sentence_transformers", "sklearn.svm", "sklearn.linear_model", "unialign.pipeline.evaluation.gallery"),
    "unialign.pipeline.pages.report",
]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest modules first; all others keep their order."""
    items.sort(key=lambda item: LONGEST.index(item.path.stem) if item.path.stem in LONGEST else len(LONGEST))


@pytest.fixture(scope="session")
def fork_server() -> None:
    """The one server of this process that others are forked from, with the libraries loaded.

    A sweep starts one where there is none, but which test is the first is chance, and so is what it has loaded: every
    process of the others would load the rest for itself, which takes longer than a small training.
    """
    multiprocessing.get_context("forkserver").set_forkserver_preload(PRELOADED)
    forkserver.ensure_running()


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real material beside the checkout; tests that need it skip where it is absent."""
    if not SHARED.is_dir():
        pytest.skip("needs the folder ../shared/data with real clips and weights")
    return SHARED
