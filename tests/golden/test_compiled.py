"""Contract: training through torch.compile gives the golden losses too.

In `make test` one system for three steps, its graphs traced and differentiated but run by torch's own kernels;
`make compiled` trains all of them to the end, compiled for this machine.
"""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partialmethod
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.golden import curves
from tests.golden.write import golden_file
from unialign.errors import UnialignError
from unialign.pipeline.config import with_values
from unialign.stages.training.loop import Progress

FULL = os.environ.get("COMPILED") == "full"
SYSTEMS = list(curves.VALUES) if FULL else ["dvta"]


@pytest.fixture(autouse=True)
def _comparable(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The same random numbers as without compilation, and in the short lane no compilation of kernels."""
    import torch._inductor.config

    if not FULL:
        plain: Callable[..., None] = torch.nn.Module.compile
        monkeypatch.setattr(torch.nn.Module, "compile", partialmethod(plain, backend="aot_eager"))
    with torch._inductor.config.patch(fallback_random=True):
        yield


def stopping(steps: int) -> Callable[[Progress], None]:
    """What stops a training after some steps."""
    left = [steps]

    def show(progress: Progress) -> None:
        del progress
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt

    return show


@pytest.mark.parametrize("system", SYSTEMS)
def test_compiled_training_gives_the_golden_losses(system: str, tmp_path: Path) -> None:
    import torch._dynamo.utils

    torch._dynamo.utils.counters.clear()
    (tmp_path / "scratch").mkdir()
    cache = curves.make_caches(tmp_path)
    config = with_values(curves.golden_config(system, cache, tmp_path / "runs"), {"train.settings.compile": True})
    with nullcontext() if FULL else pytest.raises(KeyboardInterrupt):
        curves.trained(config, tmp_path / "scratch", stopping(curves.STEPS + 1 if FULL else 3))
    (run,) = (tmp_path / "runs").glob("tiny-*")
    found = curves.losses_of(run)
    golden = json.loads(golden_file(system).read_text())["losses"]
    assert len(found) == (len(golden) if FULL else 3)
    assert not curves.first_difference(found, golden[: len(found)])
    counters: Any = torch._dynamo.utils.counters
    assert counters["frames"]["ok"] > 0
    assert not counters["graph_break"]


def test_where_nothing_can_be_compiled_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("no compiler")

    plain: Callable[..., None] = torch.nn.Module.compile
    monkeypatch.setattr(torch.nn.Module, "compile", partialmethod(plain, backend=broken))
    (tmp_path / "scratch").mkdir()
    config = curves.golden_config("dvta", curves.make_caches(tmp_path), tmp_path / "runs")
    with pytest.raises(UnialignError, match=r"torch\.compile does not work here .*no compiler.*compile to false"):
        curves.trained(with_values(config, {"train.settings.compile": True}), tmp_path / "scratch")
