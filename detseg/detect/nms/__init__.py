"""Non-max suppression: hard, soft, and weighted boxes fusion."""

from typing import TYPE_CHECKING, Any

from detseg.detect.nms.greedy import batched_nms, nms

if TYPE_CHECKING:
    from detseg.detect.nms.fusion import weighted_boxes_fusion
    from detseg.detect.nms.soft import soft_nms

__all__ = ["batched_nms", "nms", "soft_nms", "weighted_boxes_fusion"]

_LAZY = {"soft_nms": "detseg.detect.nms.soft", "weighted_boxes_fusion": "detseg.detect.nms.fusion"}


def __getattr__(name: str) -> Any:
    # Imported when asked for: their pages load numba, half a second.
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    globals()[name] = value = getattr(import_module(_LAZY[name]), name)
    return value
