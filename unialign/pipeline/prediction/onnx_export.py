"""The network of a run as an ONNX file, checked with ONNX Runtime against torch on clips of its own test part."""

import io
import json
import warnings
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from unialign.cache import atomic
from unialign.errors import UnialignError, UsageError
from unialign.pipeline.config import Config
from unialign.pipeline.evaluation.evaluate import open_stores, prepare_again
from unialign.pipeline.manifest import load_manifest
from unialign.pipeline.training.run_folder import read_keys
from unialign.pipeline.training.train import run_config
from unialign.stages.training.checkpoints import BEST, LAST, Checkpoints
from unialign.types import Json

OPSET = 17
# Largest difference from torch, as a share of the largest output: single precision in another order of sums.
TOLERANCE = 1e-4
# The network is traced with so many clips, and compared on more and on one, so that no number of clips is built in.
TRACED, CLIPS = 2, 4
NOT_INPUTS = ("indices", "labels")
MORE_OUTPUTS = ("importance", "feature", "tokens")


@dataclass(frozen=True)
class Exported:
    """inputs, outputs: shapes by name, the first axis is the clips. difference: the largest from torch, see
    `TOLERANCE`; clips: that it was measured on.
    """

    path: Path
    inputs: Mapping[str, Sequence[int | str]]
    outputs: Mapping[str, Sequence[int | str]]
    difference: float
    clips: int

    def result(self) -> dict[str, Json]:
        """The object that `--json` prints."""
        shapes = {
            name: {key: list(shape) for key, shape in getattr(self, name).items()} for name in ("inputs", "outputs")
        }
        return {"path": str(self.path), **shapes, "difference": self.difference, "clips": self.clips}


class _Positional(nn.Module):
    """A model with tensors as arguments and results, in the order of their names."""

    def __init__(self, model: nn.Module, inputs: Sequence[str], outputs: Sequence[str]) -> None:
        super().__init__()
        self.model, self.inputs, self.outputs = model, tuple(inputs), tuple(outputs)

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """The outputs by position."""
        found = self.model(dict(zip(self.inputs, tensors, strict=True)))
        return tuple(found[name] for name in self.outputs)


def export_onnx(folder: Path, config: Config, path: Path, *, best: bool = False) -> Exported:
    """Write the network of a finished run to an ONNX file, for any number of clips.

    Inputs are what the network sees: normalized frames (clips, frames, 3, side, side), pose tokens, keypoints. Outputs
    are logits, of each head where there are several, and what else the model says. The metadata name classes and heads'
    weights. best: of the best epoch.
    Raises `UsageError` without the extra `onnxruntime` or for a network that ONNX cannot hold, `UnialignError` if ONNX
    Runtime computes something else than torch, and what `open_stores` raises.
    """
    _check_libraries()
    own, keys, cache = run_config(folder), read_keys(folder), config.cache.resolve()
    readers = open_stores(keys["stores"], cache, config.train.remote_cache)
    dataset = load_manifest(cache, own["dataset"], next(iter(keys["stores"].values()))["store"].split("/")[0])
    prepared = prepare_again(own, dataset, readers, 0)
    loaded = Checkpoints(folder / "checkpoints", keys["run"]).named(BEST if best else LAST)
    task = prepared.build()
    loaded.load_into(task.model)
    task.model.cpu().eval()
    places = range(min(CLIPS, len(prepared.test)))
    batch = task.inputs(prepared.test.__getitems__([(0, place) for place in places]), torch.device("cpu"))
    inputs = {name: value for name, value in batch.items() if name not in NOT_INPUTS}
    with torch.inference_mode():
        found = task.model(inputs)
    heads: Mapping[str, str] = getattr(task.model, "heads", {})
    names = [*(heads.values() or ["logits"]), *(name for name in MORE_OUTPUTS if name in found)]
    data = _traced(_Positional(task.model, list(inputs), names), inputs, names, own["model"])
    weights = loaded.head_weights() or dict.fromkeys(heads, 1.0)
    about = {"classes": list(prepared.columns), "heads": dict(heads), "head_weights": weights, "run": folder.name}
    data = _described(data, about)
    difference = _difference(data, inputs, {name: found[name] for name in names}, own["model"])
    if difference > TOLERANCE:
        raise UnialignError(
            f"the ONNX file of {folder} differs from torch by {difference:.2g} of the largest output, more than "
            f"{TOLERANCE:g}; nothing was written. Report this with the versions of `unialign doctor`."
        )
    atomic.write_file(path, data)
    return Exported(path, _shapes(inputs), _shapes({name: found[name] for name in names}), difference, len(places))


def _check_libraries() -> None:
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
    except ModuleNotFoundError as error:
        raise UsageError("--onnx needs onnx and onnxruntime: pip install 'unialign[onnxruntime]'.") from error


def _traced(model: nn.Module, inputs: Mapping[str, Tensor], names: Sequence[str], system: str) -> bytes:
    """The ONNX file. Raises `UsageError` for a network that the exporter cannot express."""
    out = io.BytesIO()
    clips = {name: {0: "clips"} for name in (*inputs, *names)}
    # The exporter prints, and warns about everything that tracing makes constant: all shapes but the first are meant to
    # be, and the result is compared with torch.
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        try:
            torch.onnx.export(
                model.eval(),
                tuple(value[:TRACED] for value in inputs.values()),
                out,  # type: ignore[arg-type] # without dynamo, it also writes into a buffer
                input_names=list(inputs),
                output_names=list(names),
                dynamic_axes=clips,
                opset_version=OPSET,
                dynamo=False,
            )
        except (torch.onnx.errors.OnnxExporterError, RuntimeError) as error:
            raise _refused(system, error) from error
    return out.getvalue()


def _refused(system: str, error: Exception) -> UsageError:
    reason = str(error).strip().splitlines()[-1].partition(". Please")[0][:200]
    return UsageError(
        f"the network of {system} cannot be exported to ONNX ({reason}); leave out --onnx: the safetensors file holds "
        "the whole model."
    )


def _described(data: bytes, about: Mapping[str, Any]) -> bytes:
    import onnx

    model = onnx.load_model_from_string(data)
    onnx.helper.set_model_props(model, {name: json.dumps(value) for name, value in about.items()})
    return bytes(model.SerializeToString())


def _difference(data: bytes, inputs: Mapping[str, Tensor], outputs: Mapping[str, Tensor], system: str) -> float:
    """The largest difference of an output of all clips and of the first alone, divided by its largest value.

    Raises `UsageError` for a network that ONNX Runtime computes for some numbers of clips only.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # its reason is in the exception
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    most = 0.0
    for clips in (slice(None), slice(1)):
        # Tracing drops inputs that nothing reads.
        given = {each.name: inputs[each.name][clips].numpy() for each in session.get_inputs()}
        try:
            found = session.run(list(outputs), given)
        # Its exceptions are of a compiled module, with no common class but this.
        except Exception as error:
            raise _refused(system, error) from error
        for mine, theirs in zip(found, outputs.values(), strict=True):
            largest = max(float(theirs.abs().max()), 1e-6)
            most = max(most, float(np.abs(mine - theirs[clips].numpy()).max()) / largest)
    return most


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, list[int | str]]:
    return {name: ["clips", *value.shape[1:]] for name, value in tensors.items()}
