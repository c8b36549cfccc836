"""Non-max suppression: hard, soft, and weighted boxes fusion."""

from detseg.detect.nms.fusion import weighted_boxes_fusion
from detseg.detect.nms.greedy import batched_nms, nms
from detseg.detect.nms.soft import soft_nms

__all__ = ["batched_nms", "nms", "soft_nms", "weighted_boxes_fusion"]
