"""What a detector looks at for one of its detections: ODAM (Zhao & Chan 2023, arXiv:2304.06354).

The score of a detection follows from the maps of the backbone. A cell of a map speaks for it by

    sum over channels of  d score / d map * map

which is, to first order, what the score would lose if the cell were 0. Grad-CAM averages the gradient over all places
first, and so marks everything of a class; without that, the heat is that of one object. As in the paper, boxes that a
first stage proposes are taken as given: the score depends on the maps through RoIAlign.

The paper looks at the one map of the pyramid that a box was found in. Here it is all maps that the network goes on
from: which of them a pyramid draws on differs from network to network, and some have none.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from detseg.backbones.meta import evaluating, frozen
from detseg.detect.model import DetectionModel, select


class Sight(NamedTuple):
    """What `look` notes of one image: D detections, and what their scores are computed from."""

    found: dict[str, Tensor]  # boxes (D, 4) xyxy in pixels of the image, scores (D,), labels (D,), best first
    scores: Tensor  # (D,) the same scores, with their graph
    maps: list[Tensor]  # (1, C, h, w), where the graph begins
    strides: list[int]  # of the maps, in pixels


def look(model: DetectionModel, image: Tensor) -> Sight:
    """Detect objects in an image (1, C, H, W), uint8 or float in [0, 1], and keep how scores follow from the maps.

    The detections are those of `model(image)`, without masks. What lies before the maps keeps no graph, so this takes
    little longer than a detection. Raises ValueError for a model without maps.
    """
    maps: list[Tensor] = []
    strides: list[int] = []

    def begin(given: Sequence[Tensor], steps: Sequence[int]) -> list[Tensor]:
        leaves = [x.detach().requires_grad_() for x in given]
        maps.extend(leaves)
        strides.extend(steps)
        return [x.clone() for x in leaves]  # layers that work in place may not change a leaf

    # Masks, if `exportable` computes them, are not needed.
    outputs = model.exportable() if type(model).raw is DetectionModel.raw else model.raw
    with torch.inference_mode(False), torch.enable_grad(), evaluating(model), frozen(model), model.with_maps(begin):
        boxes, scores = (part[0] for part in outputs(image)[:2])
        if not maps:
            raise ValueError(f"{type(model).__name__} does not look at maps of its backbone: override `with_maps`")
        tree = getattr(model, "tree", None)
        rivals = None if tree is None else tree.roots
        chosen = select(boxes.detach(), scores.detach(), image.shape[-2:], model, rivals=rivals)
        return Sight(chosen.found, scores[chosen.rows, chosen.found["labels"]], maps, strides)


def evidence(score: Tensor, maps: Sequence[Tensor]) -> list[Tensor]:
    """What each cell of maps (1, C, h, w) contributes to a score (), to first order: (h, w) each, also below 0.

    Their sum is the derivative of the score by a factor on all maps. Raises ValueError if the score depends on none.
    """
    gradients = torch.autograd.grad(score, maps, retain_graph=True, allow_unused=True)
    if all(gradient is None for gradient in gradients):
        raise ValueError("the score does not depend on these maps; give maps that the network goes on from")
    return [
        x.new_zeros(x.shape[2:]) if gradient is None else (gradient * x.detach()).sum((0, 1))
        for gradient, x in zip(gradients, maps, strict=True)
    ]


def heat(parts: Sequence[Tensor], strides: Sequence[int], size: tuple[int, int]) -> Tensor:
    """Evidence (h, w) of maps of these strides as heat over the pixels of an image of `size` (height, width), ≥ 0.

    What a cell contributes is spread over its pixels, so maps of different strides add up; places that speak against
    the detection are 0.
    """
    height, width = size
    total = parts[0].new_zeros(height, width)
    for part, stride in zip(parts, strides, strict=True):
        density = part[None, None] / stride**2
        large = F.interpolate(density, scale_factor=float(stride), mode="bilinear", align_corners=False)[0, 0]
        total += large[:height, :width]  # cells reach over the right and lower edge
    return total.relu()
