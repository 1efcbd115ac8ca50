"""Contract of `resolve_device`: a device that cannot be used is one sentence that names its setting."""

import pytest
import torch

from unialign.errors import UsageError
from unialign.stages.device import resolve_device


def test_auto_is_a_gpu_if_there_is_one() -> None:
    assert resolve_device("auto", setting="extract.device").type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert resolve_device("cpu", setting="extract.device") == torch.device("cpu")


def test_an_unknown_device_names_the_setting_and_the_choices() -> None:
    with pytest.raises(UsageError, match=r"extract\.device 'gpu' is unknown; it is auto, cpu, cuda or cuda:<number>"):
        resolve_device("gpu", setting="extract.device")


def test_a_gpu_that_is_not_there_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UsageError, match=r"train\.settings\.device is cuda:1, but torch sees no GPU; set it to auto"):
        resolve_device("cuda:1", setting="train.settings.device")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert resolve_device("cuda", setting="train.settings.device", local_rank=1) == torch.device("cuda", 1)
    with pytest.raises(UsageError, match="there is no GPU 2: torch sees 2"):
        resolve_device("cuda:2", setting="train.settings.device")
