"""ONNX: one file that onnxruntime, OpenVINO, TensorRT and others read; standard operators only, opset 17.

Non-max suppression is ONNX's own NonMaxSuppression, the rest of the selection plain tensor operators around it. The
network is traced by TorchScript's exporter, which takes a second for shapes that may vary, where the one of
torch.export was not done after 80, and needs no package beside onnx.
"""

import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from detseg.exporters.graph import suppressed
from detseg.exporters.registry import register_exporter
from detseg.exporters.trace import ANY_SIZE, Traceable, traceable
from detseg.predict.predictor import Predictor
from detseg.runtime.engines import KEY

OPSET = 17


@register_exporter("onnx", extra="onnx")
def write_onnx(
    predictor: Predictor, path: Path, *, raw: bool = False, floats: bool = False, letterbox: bool = False
) -> None:
    """Write a model as ONNX, for images of any number and size (multiples of 32 pixels)."""
    import onnx

    model = traceable(predictor, _NonMaxSuppression.apply, raw=raw, floats=floats, letterbox=letterbox)
    _trace(model, path, any_size=letterbox or predictor.task in ANY_SIZE)
    written = onnx.load(str(path))
    onnx.helper.set_model_props(written, {KEY: model.description})
    onnx.checker.check_model(written, full_check=True)
    onnx.save(written, str(path))


def _trace(model: Traceable, path: Path, *, any_size: bool) -> None:
    axes = {name: _axes(name) for name in model.outputs} | {
        "input": {0: "batch", 2: "height", 3: "width"} if any_size else {0: "batch"}
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what cannot be traced for any size; the tests try several
        torch.onnx.export(
            model.module,
            (model.example,),
            str(path),
            input_names=["input"],
            output_names=list(model.outputs),
            dynamic_axes=axes,
            opset_version=OPSET,
            dynamo=False,
        )


def _axes(name: str) -> dict[int, str]:
    """Dimensions of an output that vary with the input."""
    if name in ("logits", "probabilities"):
        return {0: "batch", 2: "rows", 3: "columns"}
    if name in ("masks", "part_1", "part_2"):
        return {i: f"{name}_{i}" for i in range(4)}
    return {0: f"{name}_0", 1: f"{name}_1"}


class _NonMaxSuppression(torch.autograd.Function):
    """`suppressed` that ONNX has as one operator."""

    @staticmethod
    def forward(ctx: Any, boxes: Tensor, scores: Tensor, most: int, iou_threshold: float) -> Tensor:
        return suppressed(boxes, scores, most, iou_threshold)

    @staticmethod
    def symbolic(g: Any, boxes: Any, scores: Any, most: int, iou_threshold: float) -> Any:
        def constant(value: float, kind: torch.dtype) -> Any:
            return g.op("Constant", value_t=torch.tensor([value], dtype=kind))

        limits = constant(most, torch.int64), constant(iou_threshold, torch.float32), constant(0.0, torch.float32)
        kept = g.op("NonMaxSuppression", boxes, scores, *limits)
        return kept.setType(boxes.type().with_dtype(torch.int64).with_sizes([None, 3]))
