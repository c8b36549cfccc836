"""Losses of the grid head: what it says of an object's place, of its presence and of its class."""

import torch
from torch import Tensor
from torch.nn import functional as F

from detseg.boxes import paired_iou
from detseg.detect.assign import Assignment


def quality_focal(logits: Tensor, quality: Tensor, beta: float = 2.0) -> Tensor:
    """Cross-entropy against a soft target, weighted by the distance to it (Li et al. 2020, arXiv:2006.04388).

    Args:
        logits: any shape.
        quality: same shape, in [0, 1]; 0 is background.
        beta: how strongly what is already right is ignored.

    Returns:
        The loss of each element, no reduction.
    """
    distance = (logits.sigmoid() - quality).abs().pow(beta)
    return distance * F.binary_cross_entropy_with_logits(logits, quality, reduction="none")


def grid_losses(
    predicted: Tensor,
    objectness: Tensor,
    class_logits: Tensor,
    assignment: Assignment,
    boxes: Tensor,
    labels: Tensor,
    ignore: Tensor,
) -> dict[str, Tensor]:
    """Box, objectness and class loss of a batch.

    Args:
        predicted: (N, P, 4) float32 decoded boxes.
        objectness: (N, P) float32 logits.
        class_logits: (N, P, K) float32 logits.
        assignment: pairs of the M objects and the predictions.
        boxes: (M, 4) float32 xyxy.
        labels: (M,) int64.
        ignore: (N, P) bool, predictions inside crowd regions, which are not taught as background.

    Returns:
        ``loss_box`` (CIoU), ``loss_objectness`` (quality focal, the target is the assignment's quality),
        ``loss_class`` (cross-entropy). Each is a weighted sum over pairs, divided by the sum of the qualities
        (at least 1), so that an image without objects has exactly zero box and class loss.
    """
    weight = assignment.quality.flatten()
    index = assignment.prediction.flatten()
    pairs = assignment.prediction.shape[1]
    normaliser = weight.sum().clamp(min=1)

    target = torch.zeros_like(objectness).flatten().scatter_reduce(0, index, weight, "amax")
    target = target.view_as(objectness)
    background = ignore & (target == 0)
    objectness_loss = (quality_focal(objectness, target) * ~background).sum() / normaliser

    # Pairs of weight zero are computed and cancelled, not left out: shapes stay known without asking the device.
    iou = paired_iou(predicted.reshape(-1, 4)[index], boxes.repeat_interleave(pairs, 0), kind="ciou")
    box_loss = ((1 - iou) * weight).sum() / normaliser
    logits = class_logits.reshape(-1, class_logits.shape[-1])[index]
    entropy = F.cross_entropy(logits, labels.repeat_interleave(pairs), reduction="none")
    class_loss = (entropy * weight).sum() / normaliser
    return {"loss_box": box_loss, "loss_objectness": objectness_loss, "loss_class": class_loss}
