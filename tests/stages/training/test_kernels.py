"""Contract of the kernels of a run: as asked for inside, as before outside, and an operation without such is named."""

import pytest
import torch

from unialign.errors import UnialignError
from unialign.stages.training.kernels import chosen_kernels


@pytest.mark.parametrize("deterministic", [False, True])
def test_kernels_are_chosen_for_the_run_alone(deterministic: bool) -> None:
    cudnn = torch.backends.cudnn
    before = cudnn.benchmark, cudnn.deterministic
    with chosen_kernels(deterministic=deterministic):
        assert torch.are_deterministic_algorithms_enabled() == deterministic
        assert (cudnn.benchmark, cudnn.deterministic) == (not deterministic, deterministic)
    assert not torch.are_deterministic_algorithms_enabled()
    assert (cudnn.benchmark, cudnn.deterministic) == before


def test_an_operation_without_a_deterministic_kernel_is_named() -> None:
    with (
        pytest.raises(UnialignError, match=r"train.settings.deterministic cannot be kept \(put_.*set it to false"),
        chosen_kernels(deterministic=True),
    ):
        torch.zeros(2).put_(torch.tensor([0, 0]), torch.ones(2))
    assert not torch.are_deterministic_algorithms_enabled()


def test_other_errors_pass() -> None:
    with pytest.raises(RuntimeError, match="mine"), chosen_kernels(deterministic=True):
        raise RuntimeError("mine")
