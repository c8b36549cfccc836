"""Segmentation metrics: mean IoU and its relatives, boundary IoU."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from detseg.metrics.segmentation.mean_iou import FIGURES

__all__ = ["FIGURES"]


def __getattr__(name: str) -> Any:
    if name != "FIGURES":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from detseg.metrics.segmentation import mean_iou

    return mean_iou.FIGURES
