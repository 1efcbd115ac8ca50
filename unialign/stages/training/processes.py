"""The processes of a run: a single one, or those that torchrun started."""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as distributed
from torch import Tensor

from unialign.stages.device import resolve_device

SETTING = "train.settings.device"


@dataclass(frozen=True)
class Processes:
    """This process among those of the run. device: of its tensors."""

    rank: int
    world_size: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether this process writes files and logs."""
        return self.rank == 0

    def total(self, values: Tensor) -> Tensor:
        """The sum over all processes, in place."""
        if self.world_size > 1:
            distributed.all_reduce(values)
        return values

    def agree(self, values: Iterable[Tensor]) -> None:
        """Give all processes the values of the first one, in place."""
        if self.world_size > 1:
            for value in values:
                distributed.broadcast(value, src=0)

    def gathered(self, value: Any) -> list[Any]:
        """The value of every process, by rank."""
        if self.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.world_size
        distributed.all_gather_object(values, value)
        return values

    def from_first(self, value: Any) -> Any:
        """The first process's value, in all processes."""
        if self.world_size == 1:
            return value
        values = [value]
        distributed.broadcast_object_list(values, src=0)
        return values[0]


@contextmanager
def joined_processes(device: str) -> Iterator[Processes]:
    """The role of this process while the block runs.

    Under torchrun (RANK and WORLD_SIZE in the environment) the processes join a group, over NCCL on GPUs and Gloo
    otherwise; a group that the caller has already joined is used and left as is.
    """
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    if world_size == 1:
        yield Processes(0, 1, resolve_device(device, setting=SETTING))
        return
    place = resolve_device(device, setting=SETTING, local_rank=int(os.environ.get("LOCAL_RANK", "0")))
    own = not distributed.is_initialized()
    if own:
        if place.type == "cuda":
            torch.cuda.set_device(place)
        distributed.init_process_group("nccl" if place.type == "cuda" else "gloo")
    try:
        yield Processes(distributed.get_rank(), distributed.get_world_size(), place)
    finally:
        if own:
            distributed.destroy_process_group()
