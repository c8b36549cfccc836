"""Box, objectness and class losses of the grid head."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from detseg.boxes import paired_iou
from detseg.detect.assign import Assignment
from detseg.detect.model import ImageLabels
from detseg.together import divisor

# Relative weights, found by measuring: at their own scale the box loss is by far the smallest. The last is a fifth of
# the box loss's.
BOX, OBJECTNESS, CLASS, DISTRIBUTION = 3.0, 1.0, 1.0, 0.6


Entropy = Callable[[Tensor, Tensor], Tensor]


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy (m,) of one softmax over all classes: logits (m, K), labels (m,)."""
    return F.cross_entropy(logits, labels, reduction="none")


def image_label_loss(
    objectness: Tensor, class_logits: Tensor, given: ImageLabels, class_entropy: Entropy = cross_entropy
) -> Tensor:
    """Class loss of images of which only a class is known, divided by the N images of the batch.

    Of each class that prediction of its image learns which detects it with the highest score, as in YOLO9000 (Redmon
    & Farhadi 2017, section 4): where the object lies is not known, so nothing else is taught.

    Args:
        objectness, class_logits: (N, P) and (N, P, K) logits, float32.
        given: the images' classes.
        class_entropy: as in `grid_losses`.
    """
    places = objectness.shape[1]
    with torch.no_grad():
        logits = class_logits[given.image]
        entropy = class_entropy(logits.flatten(0, 1), given.labels.repeat_interleave(places)).view(-1, places)
        best = (F.logsigmoid(objectness[given.image]) - entropy).argmax(1)
    return CLASS * class_entropy(class_logits[given.image, best], given.labels).sum() / len(objectness)


def quality_focal(logits: Tensor, quality: Tensor, beta: float = 2.0) -> Tensor:
    """Cross-entropy against a soft target, weighted by the distance to it (Li et al. 2020, arXiv:2006.04388).

    Logits and `quality`, in [0, 1], 0 for background, have one shape, that of the result. The higher `beta`, the less
    counts what is already right.
    """
    distance = (logits.sigmoid() - quality).abs().pow(beta)
    return distance * F.binary_cross_entropy_with_logits(logits, quality, reduction="none")


def distribution_focal(logits: Tensor, means: Tensor) -> Tensor:
    """Cross-entropy (m,) of bins (m, 4 * B) with the two on either side of wanted means (m, 4) in -1..1; mean of the 4.

    The two share the target so that their mean is what is wanted (Li et al. 2020, arXiv:2006.04388, equation 6).
    """
    chances = logits.unflatten(-1, (4, -1)).log_softmax(-1)
    last = chances.shape[-1] - 1
    position = (means + 1) / 2 * last
    low = position.long().clamp(0, last - 1)
    share = (position - low)[..., None]
    low = low[..., None]
    near = chances.gather(-1, low) * (1 - share) + chances.gather(-1, low + 1) * share
    return -near.mean((1, 2))


def distribution_loss(logits: Tensor, means: Tensor, chosen: Tensor) -> Tensor:
    """`distribution_focal` of bins (M, C, 4 * B) and wanted means (M, C, 4), averaged over pairs `chosen` (M, C)."""
    weight = chosen.flatten().float()
    cost = distribution_focal(logits.flatten(0, 1), means.flatten(0, 1)) * weight
    return DISTRIBUTION * cost.sum() / divisor(weight.sum())


def grid_losses(
    found: Tensor,
    objectness: Tensor,
    class_logits: Tensor,
    assignment: Assignment,
    boxes: Tensor,
    labels: Tensor,
    ignore: Tensor,
    class_entropy: Entropy = cross_entropy,
) -> dict[str, Tensor]:
    """Box, objectness and class loss of a batch.

    Args:
        found: (M, C, 4) decoded boxes of the objects' candidates.
        objectness, class_logits: (N, P) and (N, P, K) logits; all float32.
        assignment: pairs of the M objects and the predictions.
        boxes, labels: (M, 4) float32 xyxy and (M,) int64 of the objects.
        ignore: (N, P) bool, predictions that are not taught as background: in or at crowd regions, and all of images of
            which only the class is known.
        class_entropy: loss (m,) of logits (m, K) and labels (m,).

    Returns:
        ``loss_box`` (1 - CIoU), ``loss_objectness`` (quality focal; the target is the prediction's IoU with its
        object, 0 without one) and ``loss_class`` (cross-entropy). Each is summed over the pairs, or for objectness
        over all predictions, and divided by the number of pairs (at least 1).
    """
    index = assignment.prediction.flatten()
    weight = assignment.chosen.flatten().float()
    candidates = assignment.prediction.shape[1]
    pairs = divisor(weight.sum())

    # Candidates that were not chosen are computed and cancelled, not left out: so shapes are known without
    # asking the device.
    at = found.flatten(0, 1)
    wanted = boxes.repeat_interleave(candidates, 0)
    box_loss = ((1 - paired_iou(at, wanted, kind="ciou")) * weight).sum() / pairs

    quality = paired_iou(at.detach(), wanted).clamp(0, 1) * weight
    target, learning = (
        torch.zeros_like(objectness).flatten().scatter_reduce(0, index, x, "amax").view_as(objectness)
        for x in (quality, weight)
    )
    counted = ~ignore | (learning > 0)
    objectness_loss = (quality_focal(objectness, target) * counted).sum() / pairs

    logits = class_logits.reshape(-1, class_logits.shape[-1])[index]
    class_loss = (class_entropy(logits, labels.repeat_interleave(candidates)) * weight).sum() / pairs
    return {
        "loss_box": BOX * box_loss,
        "loss_objectness": OBJECTNESS * objectness_loss,
        "loss_class": CLASS * class_loss,
    }
