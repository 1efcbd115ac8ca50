"""Batches on a GPU ahead of the loop: copies from page-locked memory, on a stream beside that of the model."""

from collections.abc import Iterator

import torch

from unialign.stages.training.clips import Batch


def on_device(batches: Iterator[Batch], device: torch.device) -> Iterator[Batch]:
    """The same batches on a CUDA device; the copy of the next one runs while the loop works on this one.

    Host memory stays held until its copy is done. Not tested without a GPU.
    """
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    ready: tuple[Batch, Batch, torch.cuda.Event] | None = None
    for batch in batches:
        with torch.cuda.stream(stream):
            moved = {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}
            event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            event.record(stream)
        if ready is not None:
            yield _arrived(ready, device)
        ready = moved, batch, event
    if ready is not None:
        yield _arrived(ready, device)


def _arrived(ready: tuple[Batch, Batch, torch.cuda.Event], device: torch.device) -> Batch:
    moved, _, event = ready
    current = torch.cuda.current_stream(device)
    current.wait_event(event)
    for tensor in moved.values():
        # The memory was taken on the other stream; it must not be given away while this one still reads it.
        tensor.record_stream(current)
    # The host's memory may be overwritten as soon as it is let go of.
    event.synchronize()
    return moved
