"""Training clips whose JPEGs a GPU decodes, crops and resizes: `train.settings.decoder: nvjpeg`.

The images of a batch are decoded by one call of nvJPEG, through TorchCodec (BSD-3; `torchvision.io.decode_jpeg`, which
did the same, is deprecated since torchvision 0.29). A thread does it on a stream of its own, ahead of the loop.

Never run on a GPU, since none was available. TorchCodec decodes such a list on the CPU too, into the same kind of
tensors, and everything behind it knows no device; the tests run that.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from unialign.errors import DamagedStore, UnialignError, UsageError
from unialign.stages.images import checked_size, decode_into
from unialign.stages.training.augmentation import levels_around
from unialign.stages.training.clips import CachedFrames, Clips, ClipsRead, PoseTokens
from unialign.stages.training.order import BatchIndices
from unialign.stages.training.prefetch import ahead
from unialign.stages.training.samples import Batch, Labelled
from unialign.stages.training.settings import TrainSettings
from unialign.stages.training.windows import windowed

# JPEGs, (bytes,) uint8 each, to images on a device, (3, H, W) uint8 each.
Decoder = Callable[[list[Tensor], torch.device], list[Tensor]]


def clips_as_set(
    samples: Labelled, frames: CachedFrames, pose: PoseTokens | None, settings: TrainSettings, *, train: bool
) -> Clips:
    """`Clips`, decoded by what the settings name; evaluation always decodes on the CPU, so that it can run anywhere.

    Raises what `Clips` and `GpuClips` raise.
    """
    if train and settings.decoder == "nvjpeg":
        return GpuClips(samples, frames, pose, settings)
    return Clips(samples, frames, pose, settings, train=train)


class GpuClips(Clips):
    """`Clips` in training, with `frames` and `levels` of a batch on a GPU.

    What is drawn, cropped and recolored is as in `Clips`. Pixels are not the same: nvJPEG's may differ by a few levels,
    and resizing computes in float32 and rounds once, which differs by at most 1 (in tests on the CPU).
    decoder: for tests; TorchCodec by default.

    Raises `UsageError` for frames that are no JPEGs, for worker processes, and for changes of saturation and hue, which
    only the CPU computes.
    """

    def __init__(
        self,
        samples: Labelled,
        frames: CachedFrames,
        pose: PoseTokens | None,
        settings: TrainSettings,
        decoder: Decoder | None = None,
    ) -> None:
        wrong = {
            "saturation, hue and grayscale at 0": settings.saturation or settings.hue or settings.grayscale,
            "frames stored as jpeg": frames.encoding != "jpeg",
            "num_workers at 0": settings.num_workers,
        }
        if unmet := [what for what, is_wrong in wrong.items() if is_wrong]:
            raise UsageError(f"train.settings.decoder nvjpeg needs {', '.join(unmet)}; set it to cpu.")
        super().__init__(samples, frames, pose, settings, train=True)
        self.decoder = decoder or _torchcodec
        # Until `use` names a GPU.
        self.device = torch.device("cpu")
        self._cuda_stream: torch.cuda.Stream | None = None

    def use(self, device: torch.device | None) -> None:
        """See `Streamed`. Raises `UsageError` for anything but a GPU, and where TorchCodec cannot be loaded."""
        if device is None or device.type != "cuda":
            raise UsageError("train.settings.decoder nvjpeg needs a GPU, and this run has none; set it to cpu.")
        if self.decoder is _torchcodec:
            _load_torchcodec()
        self.device, self._cuda_stream = device, torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def batches(self, batches: Sequence[BatchIndices], *, threads: int, depth: int) -> Iterator[Batch]:
        """See `Streamed`."""
        return ahead(self.decoded, batches, threads=1, depth=depth)

    def windows(
        self, batches: Sequence[BatchIndices], window_of: np.ndarray, *, threads: int, depth: int
    ) -> Iterator[Batch]:
        """See `Streamed`."""
        made = windowed(self.decoded, self.mapped, batches, window_of, threads)
        try:
            yield from ahead(lambda number: next(made), range(len(batches)), threads=1, depth=depth)
        finally:
            made.close()

    def decoded(self, picks: BatchIndices) -> Batch:
        """The batch of these picks, complete on the device. Raises what `Clips` raises for damaged images."""
        read = self.read(picks)
        with nullcontext() if self._cuda_stream is None else torch.cuda.stream(self._cuda_stream):
            frames = self._frames(read)
            batch: Batch = {"frames": frames[:, None]}
            if self.settings.colour > 0:
                batch["levels"] = _levels(read, frames)
        if self._cuda_stream is not None:
            # This thread waits, not the loop, which may then read the batch from a stream of its own.
            self._cuda_stream.synchronize()
        self.spent.add(0.0, self.bytes_of(read))
        return self.finished(read, batch | self._tensors(picks, {}))

    def _frames(self, read: ClipsRead) -> Tensor:
        """(B, T, S, S, 3) uint8."""
        encoded = [torch.from_numpy(read.pictures[number]) for number in range(len(read.pictures))]
        try:
            images = self.decoder(encoded, self.device)
        except RuntimeError as error:
            self._find_damage(read)
            raise UnialignError(
                f"nvJPEG cannot decode images that the CPU decodes ({str(error).splitlines()[0]}); set "
                "train.settings.decoder to cpu."
            ) from error
        side = self.frames.image_size
        shape = (len(read.drawn), self.frames.num_frames, side, side, 3)
        frames = torch.empty(shape, dtype=torch.uint8, device=self.device)
        for place, drawn in enumerate(read.drawn):
            distinct, places = np.unique(drawn.which[0], return_inverse=True)
            first, region = int(read.first[place]), drawn.regions[0]
            mine, size = images[first : first + len(distinct)], checked_size(read.sizes[place])
            if any(image.shape != (3, *size) for image in mine):
                raise DamagedStore(f"frames of sample {read.ids[place]!r} are not {size}; extract the frames again.")
            rows, columns = (
                slice(region.top, region.top + region.height),
                slice(region.left, region.left + region.width),
            )
            part = torch.stack([image[:, rows, columns] for image in mine]).float()
            small = interpolate(part, (side, side), mode="bilinear", antialias=True).round_().clamp_(0, 255).byte()
            frames[place] = small[places.tolist()].permute(0, 2, 3, 1)
        return frames

    def _find_damage(self, read: ClipsRead) -> None:
        """Raise `DamagedStore` for the first image that the CPU cannot decode either: nvJPEG does not say which."""
        for place, drawn in enumerate(read.drawn):
            out = np.empty((*checked_size(read.sizes[place]), 3), np.uint8)
            for number, index in enumerate(np.unique(drawn.which[0]).tolist()):
                try:
                    decode_into(read.pictures[int(read.first[place]) + number], "jpeg", out, index)
                except DamagedStore as error:
                    raise DamagedStore(f"frames of sample {read.ids[place]!r}: {error}") from error


def _levels(read: ClipsRead, frames: Tensor) -> Tensor:
    """(B, 256) uint8, the new value of each level of each clip: one wait for the device for all of them."""
    sums = frames.flatten(1).sum(dim=1, dtype=torch.int64).tolist()
    size = frames[0].numel() if len(frames) else 1
    rows = [
        np.arange(256, dtype=np.uint8) if drawn.colour is None else levels_around(total / size, drawn.colour)
        for drawn, total in zip(read.drawn, sums, strict=True)
    ]
    return torch.from_numpy(np.stack(rows)).to(frames.device)


def _load_torchcodec() -> None:
    try:
        import torchcodec.decoders  # noqa: F401
    except ModuleNotFoundError:
        raise  # the command says which extra has it
    except (ImportError, OSError, RuntimeError) as error:
        raise UsageError(
            "torchcodec finds no libraries of FFmpeg 4 to 9, without which it does not load; install them (on Debian: "
            "apt install ffmpeg), or set train.settings.decoder to cpu."
        ) from error


def _torchcodec(encoded: list[Tensor], device: torch.device) -> list[Tensor]:
    from torchcodec.decoders import decode_jpeg

    found: list[Tensor] = decode_jpeg(encoded, mode="RGB", device=device)
    return found
