"""How good detections are, as numbers, tables and curves; the names are loaded when first used."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from detseg.metrics.detection import ClassMetrics, DetectionMetrics, PrecisionRecall, evaluate_detections
    from detseg.metrics.inputs import Detections

_HOME = {
    "ClassMetrics": "detection",
    "DetectionMetrics": "detection",
    "Detections": "inputs",
    "PrecisionRecall": "detection",
    "evaluate_detections": "detection",
}

__all__ = ["ClassMetrics", "DetectionMetrics", "Detections", "PrecisionRecall", "evaluate_detections"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
