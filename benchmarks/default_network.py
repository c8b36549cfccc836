"""The network that `detseg train detector` makes by default, for benchmarks: its anchors are for boxes of all sizes."""

from typing import Any

from detseg.detect.anchors import fit_anchors
from detseg.detect.yolo import SHARPNESS, VOTE_IOU, WIDTH, YoloDetector


def architecture(backbone: str = "tf_efficientnet_lite0", classes: int = 21, *, folded: bool = True) -> dict[str, Any]:
    """What `detseg.models.build_model` takes."""
    anchors = fit_anchors([[s, s * r] for s in (24, 40, 64, 96, 150, 240) for r in (0.8, 1.2)], 3, 3)
    return {
        "kind": "yolo",
        "backbone": backbone,
        "folded": folded,
        "num_classes": classes,
        "strides": list(YoloDetector.Options.strides),
        "anchors": anchors.tolist(),
        "width": WIDTH,
        "bins": YoloDetector.Options.bins,
        "sharpness": SHARPNESS,
        "vote_iou": VOTE_IOU,
    }
