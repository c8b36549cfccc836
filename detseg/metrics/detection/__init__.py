"""Detection metrics: COCO and VOC average precision, error analysis, confusion matrix."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from detseg.metrics.detection.average_precision import FIGURES

__all__ = ["FIGURES"]


def __getattr__(name: str) -> Any:
    if name != "FIGURES":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from detseg.metrics.detection import average_precision

    return average_precision.FIGURES
