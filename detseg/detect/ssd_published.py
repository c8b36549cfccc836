"""torchvision's SSD300 and SSDLite320 with COCO weights, as networks of ours.

Both have the same layers in the same order, so names differ in their beginnings only.
"""

from collections.abc import Mapping
from functools import partial

from torch import Tensor

from detseg.detect.default_boxes import default_shapes, even_scales
from detseg.detect.published import Published

HEADS = {"head.regression_head.module_list": "boxes", "head.classification_head.module_list": "classes"}
VGG = {
    "backbone.scale_weight": "backbone.net.unit.weight",
    "backbone.features": "backbone.net.fine",
    "backbone.extra.0.7": "backbone.net.fc",
    "backbone.extra.0": "backbone.net.coarse",
    **{f"backbone.extra.{level + 1}": f"coarser.{level}" for level in range(4)},
}
MOBILENET = {
    "backbone.features.0": "backbone.net.fine",
    "backbone.features.1": "backbone.net.coarse",
    "backbone.extra": "coarser",
}


def rename(tensors: Mapping[str, Tensor], *, beginnings: Mapping[str, str], plain: bool) -> dict[str, Tensor]:
    """The tensors of torchvision's detector under our names.

    Args:
        tensors: its state dict.
        beginnings: of its names, and ours; the first that fits counts.
        plain: its predictors are single layers, which ours have as the first of a sequence.

    Raises:
        ValueError: a name begins with none of them.
    """
    result = {}
    for name, tensor in tensors.items():
        begin = next((b for b in beginnings if name == b or name.startswith(f"{b}.")), None)
        if begin is None:
            raise ValueError(f"{name} has no place in the detector; are these the weights of torchvision's SSD?")
        mine = beginnings[begin] + name[len(begin) :]
        if plain and begin in HEADS:
            layer, _, leaf = mine.rpartition(".")
            mine = f"{layer}.0.{leaf}"
        result[mine] = tensor
    return result


COCO = {
    "ssd_vgg16": Published(
        "ssd300_vgg16",
        {
            "strides": [8, 16],
            "shapes": default_shapes(
                [0.07, 0.15, 0.33, 0.51, 0.69, 0.87, 1.05], [(2,), (2, 3), (2, 3), (2, 3), (2,), (2,)], 300
            ),
            "coarser": [512, 256, 256, 256],
            "unpadded": 2,
            "steps": [8, 16, 32, 64],
            "lite": False,
            "score_threshold": 0.01,
            "iou_threshold": 0.45,
            "max_detections": 200,
        },
        partial(rename, beginnings={**HEADS, **VGG}, plain=True),
    ),
    "ssdlite_mobilenet_v3_large": Published(
        "ssdlite320_mobilenet_v3_large",
        {
            "strides": [16, 32],
            "shapes": default_shapes(even_scales(6, 0.2, 0.95), [(2, 3)] * 6, 320),
            "coarser": [512, 256, 256, 128],
            "lite": True,
            "score_threshold": 0.001,
            "iou_threshold": 0.55,
            "max_detections": 300,
        },
        partial(rename, beginnings={**HEADS, **MOBILENET}, plain=False),
    ),
}
