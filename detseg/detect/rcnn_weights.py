"""torchvision's R-CNNs as models of ours: the arguments that make the same network, and the names of their tensors."""

import re
from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import Tensor

from detseg.detect.proposals import published_anchors

_RATIOS = (0.5, 1.0, 2.0)
_SHARED = {"published": True, "width": 256, "hidden": 1024, "class_boxes": True, "score_threshold": 0.05}
RESNET: dict[str, Any] = {
    **_SHARED,
    "strides": [4, 8, 16, 32],
    "anchors": published_anchors([[32], [64], [128], [256], [512]], _RATIOS),
    "candidates": 1000,
    "proposals": 1000,
}
MOBILENET: dict[str, Any] = {
    **_SHARED,
    "strides": [32],
    "tap": "features_13",
    "anchors": published_anchors([[32, 64, 128, 256, 512]] * 3, _RATIOS),
    "candidates": 150,
    "proposals": 150,
    "least_objectness": 0.05,
}
# How names begin there, in files of all ages, and here.
_NAMES = {
    r"backbone\.body\.(\d+)\.": r"backbone.net.features_\1.",
    r"backbone\.body\.": "backbone.net.",
    r"backbone\.fpn\.(inner|layer)_blocks\.(\d+)\.(0\.)?": r"pyramid.neck.\1_blocks.\2.0.",
    r"rpn\.head\.conv\.(0\.0\.)?": "proposal_head.body.0.",
    r"rpn\.head\.cls_logits\.": "proposal_head.objectness.",
    r"rpn\.head\.bbox_pred\.": "proposal_head.boxes.",
    r"roi_heads\.box_head\.fc6\.": "box_head.body.1.",
    r"roi_heads\.box_head\.fc7\.": "box_head.body.3.",
    r"roi_heads\.box_predictor\.cls_score\.": "box_head.classes.",
    r"roi_heads\.box_predictor\.bbox_pred\.": "box_head.boxes.",
    **{rf"roi_heads\.mask_head\.(mask_fcn{i + 1}|{i}\.0)\.": f"mask_head.body.{2 * i}." for i in range(4)},
    r"roi_heads\.mask_predictor\.conv5_mask\.": "mask_head.finer.",
    r"roi_heads\.mask_predictor\.mask_fcn_logits\.": "mask_head.classes.",
}


def rename(tensors: Mapping[str, Tensor], *, theirs: float, ours: float) -> dict[str, Tensor]:
    """The tensors of one of torchvision's R-CNNs under our names.

    Args:
        tensors: its state dict.
        theirs, ours: what batch norms add to variances there and here; the variances make up for the difference.

    Raises:
        ValueError: a name is of no such network.
    """
    result = {}
    for name, tensor in tensors.items():
        if name.endswith("num_batches_tracked"):
            continue
        if name.endswith("running_var"):
            # A variance may come out below zero, never minus `ours` or less.
            tensor = (tensor + (theirs - ours)).clamp(min=-ours * (1 - 1e-6))
        result[_name_here(name)] = tensor
    return result


def _name_here(name: str) -> str:
    for there, here in _NAMES.items():
        found, count = re.subn(f"^{there}", here, name)
        if count:
            return found
    raise ValueError(f"{name} is no tensor of one of torchvision's R-CNNs")


# COCO weights of ResNets were trained with batch norms that add nothing, MobileNet's with torch's default.
rename_resnet = partial(rename, theirs=0.0, ours=1e-5)
rename_mobilenet = partial(rename, theirs=1e-5, ours=1e-3)
