"""What all exporters have in common: the module that is traced, an example of its input, names, and the description."""

import json
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import detseg
from detseg.exporters.graph import Final, Probabilities, Suppress, most_of
from detseg.exporters.letterbox import Letterboxed
from detseg.predict.predictor import Predictor

DETECTIONS = ("images", "boxes", "scores", "labels", "masks", "regions")
ANY_SIZE = ("detect", "segment")  # the others look at squares of one size
EXAMPLES = 2  # one would make some tracers take the batch for a constant


class Traceable(NamedTuple):
    """A model that is ready to be traced."""

    module: nn.Module
    example: Tensor  # (N, C, H, W) uint8 or float32
    outputs: tuple[str, ...]
    description: str  # JSON: what a runtime has to know


def traceable(predictor: Predictor, suppress: Suppress, *, raw: bool, floats: bool, letterbox: bool) -> Traceable:
    """The model of a predictor with final results, or with `raw` what it gives before any selection.

    With `letterbox` it takes images of any size and fits them in itself.

    Raises:
        ValueError: several fused detectors or a sliding window; or letterboxing in what is no detector's final results.
    """
    model: Any = predictor.model
    if not hasattr(model, "exportable") or not hasattr(model, "backbone"):
        raise ValueError("only the model of one run can be exported")
    kind = torch.float32 if floats else torch.uint8
    detects = predictor.task in ("detect", "localize")
    if letterbox and (raw or not detects):
        raise ValueError("only detectors and localizers with final results can letterbox by themselves")
    sides = (predictor.size + 60, predictor.size + 20) if letterbox else (predictor.size, predictor.size)
    example = torch.full((EXAMPLES, predictor.channels, *sides), 0.5 if floats else 127).to(kind)
    module: nn.Module = model.exportable() if raw else Final(model, suppress) if detects else Probabilities(model)
    if letterbox:
        module = Letterboxed(module, predictor.size)
    with torch.no_grad():
        found = module.eval()(example)
    count = len(found) if isinstance(found, (tuple, list)) else 1
    if raw:
        names = ("boxes", "scores", *(f"part_{i}" for i in range(1, count - 1))) if detects else ("logits",)
    else:
        names = DETECTIONS[:count] if detects else ("probabilities",)
    description = _description(predictor, raw, floats) | {"letterbox": letterbox, "outputs": names}
    return Traceable(module, example, names, json.dumps(description, ensure_ascii=False))


def _description(predictor: Predictor, raw: bool, floats: bool) -> dict[str, Any]:
    model: Any = predictor.model
    return {
        "detseg": detseg.__version__,
        "task": predictor.task,
        "categories": [{"id": number, "name": name} for number, name in predictor.categories],
        "size": predictor.size,
        "any_size": predictor.task in ANY_SIZE,
        "channels": predictor.channels,
        "input": "float32 in [0, 1]" if floats else "uint8",
        "normalisation": {name: getattr(model, name).flatten().tolist() for name in ("mean", "std")},
        "raw": raw,
        "score_threshold": float(getattr(model, "score_threshold", 0.0)),
        "iou_threshold": float(getattr(model, "iou_threshold", 0.5)),
        "max_detections": most_of(model),
        "masks": bool(getattr(model, "finds_masks", False)),
        "output_scale": int(getattr(model, "output_scale", 1)),
        "calibrated": getattr(model, "calibration", None) is not None,
        "objects": predictor.description.get("objects"),
    }
