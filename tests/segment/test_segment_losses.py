"""Losses of segmentation: by hand, against torch, scikit-learn and plain loops, and where nothing counts."""

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F

from detseg.segment.losses import IGNORE_INDEX, parse_loss, segmentation_losses, soft_dice
from tests.dividing import distance, gradient, in_processes

ALL = {"ce": 1.0, "dice": 1.0, "focal": 1.0}


def scene(classes: int = 4, ignored: float = 0.3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(classes)
    logits = torch.randn(3, classes, 7, 5, generator=generator) * 2
    targets = torch.randint(0, classes, (3, 7, 5), generator=generator)
    targets[torch.rand(3, 7, 5, generator=generator) < ignored] = IGNORE_INDEX
    return logits.requires_grad_(), targets


def plain(logits: Tensor, targets: Tensor, weights: list[float]) -> dict[str, float]:
    """All three, pixel by pixel."""
    probabilities = logits.detach().double().softmax(1).numpy()
    ce = focal = total = 0.0
    classes = logits.shape[1]
    overlap, predicted, truth = np.zeros(classes), np.zeros(classes), np.zeros(classes)
    for n, y, x in np.ndindex(*targets.shape):
        label = int(targets[n, y, x])
        if label == IGNORE_INDEX:
            continue
        p = probabilities[n, :, y, x]
        ce -= weights[label] * math.log(p[label])
        focal -= weights[label] * (1 - p[label]) ** 2 * math.log(p[label])
        total += weights[label]
        overlap[label] += p[label]
        truth[label] += 1
        predicted += p
    dice = [(weights[k], 1 - 2 * overlap[k] / (predicted[k] + truth[k])) for k in range(classes) if truth[k]]
    return {
        "loss_ce": ce / total,
        "loss_focal": focal / total,
        "loss_dice": sum(w * d for w, d in dice) / sum(w for w, _ in dice),
    }


def test_by_hand() -> None:
    # Two pixels, two classes: probabilities of the right class 3/4 and 1/2; a third is ignored.
    logits = torch.tensor([[math.log(3), 0.0, 9.0], [0.0, 0.0, -9.0]]).view(1, 2, 1, 3)
    targets = torch.tensor([[[0, 1, IGNORE_INDEX]]])
    losses = segmentation_losses(logits, targets, ALL)
    assert float(losses["loss_ce"]) == pytest.approx((math.log(4 / 3) + math.log(2)) / 2)
    assert float(losses["loss_focal"]) == pytest.approx((math.log(4 / 3) / 16 + math.log(2) / 4) / 2)
    # Class 0: overlap 3/4, predicted 5/4, one pixel. Class 1: overlap 1/2, predicted 3/4, one pixel.
    assert float(losses["loss_dice"]) == pytest.approx(1 - (1.5 / 2.25 + 1.0 / 1.75) / 2)


@pytest.mark.parametrize(
    ("weights", "dtype"),
    [(None, torch.int64), ([1.0, 0.5, 2.0, 0.0], torch.uint8), ([1.0, 0.5, 2.0, 0.0], torch.int32)],
)
def test_plain_loops(weights: list[float] | None, dtype: torch.dtype) -> None:
    logits, targets = scene()
    tensor = None if weights is None else torch.tensor(weights)
    losses = segmentation_losses(logits, targets.to(dtype), ALL, tensor)
    expected = plain(logits, targets, weights or [1.0] * 4)
    assert {name: float(loss.detach()) for name, loss in losses.items()} == pytest.approx(expected, rel=1e-5)


def test_cross_entropy_is_torchs() -> None:
    logits, targets = scene()
    weights = torch.tensor([1.0, 0.5, 2.0, 0.1])
    ours = segmentation_losses(logits, targets, {"ce": 1.0}, weights)["loss_ce"]
    theirs = F.cross_entropy(logits, targets, weights, ignore_index=IGNORE_INDEX)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(*(torch.autograd.grad(loss, logits)[0] for loss in (ours, theirs)))


def test_dice_of_decided_predictions_is_one_minus_the_f1_score() -> None:
    logits, targets = scene(ignored=0.2)
    decided = F.one_hot(logits.argmax(1), 4).permute(0, 3, 1, 2) * 1000.0
    valid = targets != IGNORE_INDEX
    expected = 1 - f1_score(targets[valid], logits.argmax(1)[valid], average="macro")
    assert float(segmentation_losses(decided, targets, {"dice": 1.0})["loss_dice"]) == pytest.approx(expected)


def test_right_and_certain_costs_nothing() -> None:
    _, targets = scene()
    decided = F.one_hot(targets.where(targets != IGNORE_INDEX, 0), 4).permute(0, 3, 1, 2) * 100.0
    for loss in segmentation_losses(decided.float(), targets, ALL).values():
        assert float(loss) == pytest.approx(0, abs=1e-6)


WEIGHTS = torch.tensor([1.0, 2.0, 0.0, 1.0])


@pytest.mark.parametrize(("label", "weights"), [(IGNORE_INDEX, None), (IGNORE_INDEX, WEIGHTS), (2, WEIGHTS)])
def test_where_nothing_counts_the_loss_is_zero_with_a_gradient(label: int, weights: Tensor | None) -> None:
    """Everything ignored, or all of a class that weighs nothing."""
    logits, targets = scene()
    losses = segmentation_losses(logits, torch.full_like(targets, label), ALL, weights)
    assert [loss.item() for loss in losses.values()] == [0.0, 0.0, 0.0]
    (gradient,) = torch.autograd.grad(sum(losses.values()), logits)
    assert (gradient == 0).all()


def test_ignored_pixels_get_no_gradient_and_others_do() -> None:
    logits, targets = scene()
    (gradient,) = torch.autograd.grad(sum(segmentation_losses(logits, targets, ALL).values()), logits)
    ignored = targets == IGNORE_INDEX
    assert (gradient.permute(0, 2, 3, 1)[ignored] == 0).all()
    assert (gradient.permute(0, 2, 3, 1)[~ignored] != 0).all()


def test_the_order_of_images_and_of_classes_does_not_matter() -> None:
    logits, targets = scene()
    expected = segmentation_losses(logits, targets, ALL)
    order = torch.tensor([2, 0, 1])
    torch.testing.assert_close(segmentation_losses(logits[order], targets[order], ALL), expected)
    classes = torch.tensor([3, 1, 0, 2])  # old class of each new one
    renamed = targets.where(targets == IGNORE_INDEX, classes.argsort()[targets.clamp(max=3)])
    torch.testing.assert_close(segmentation_losses(logits[:, classes], renamed, ALL), expected)


def test_extreme_logits_stay_finite() -> None:
    _, targets = scene()
    logits = torch.full((3, 4, 7, 5), -1e4)
    logits[:, 1] = 1e4
    logits.requires_grad_()
    losses = segmentation_losses(logits, targets, ALL)
    (gradient,) = torch.autograd.grad(sum(losses.values()), logits)
    assert all(loss.isfinite() for loss in losses.values()) and gradient.isfinite().all()


def test_half_precision_is_computed_in_float32() -> None:
    logits, targets = scene()
    with torch.autocast("cpu", torch.bfloat16):
        losses = segmentation_losses(logits.bfloat16(), targets, ALL)
    expected = segmentation_losses(logits.bfloat16().float(), targets, ALL)
    torch.testing.assert_close(losses, expected, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_class_weights_of_other_types(dtype: torch.dtype) -> None:
    logits, targets = scene()
    expected = segmentation_losses(logits, targets, ALL, WEIGHTS)
    torch.testing.assert_close(segmentation_losses(logits, targets, ALL, WEIGHTS.to(dtype)), expected)


@pytest.mark.parametrize("scale", [1e-9, 1e9])
def test_only_the_ratios_of_class_weights_count(scale: float) -> None:
    logits, targets = scene()
    expected = segmentation_losses(logits, targets, ALL, WEIGHTS)
    torch.testing.assert_close(segmentation_losses(logits, targets, ALL, WEIGHTS * scale), expected)
    nothing = segmentation_losses(logits, targets, ALL, WEIGHTS * 0)
    assert [loss.item() for loss in nothing.values()] == [0.0, 0.0, 0.0]


def test_losses_stay_on_the_device_of_their_inputs() -> None:
    with FakeTensorMode():
        logits = torch.zeros(2, 3, 8, 8, device="cuda")
        targets = torch.zeros(2, 8, 8, dtype=torch.uint8, device="cuda")
        for weights in (None, torch.ones(3, device="cuda")):
            for loss in segmentation_losses(logits, targets, ALL, weights).values():
                assert loss.device.type == "cuda" and loss.dtype == torch.float32


def test_names_and_weights() -> None:
    assert parse_loss("ce") == {"ce": 1.0}
    assert parse_loss("ce+ dice") == {"ce": 1.0, "dice": 1.0}
    assert parse_loss({"ce": 2, "focal": 0.5}) == {"ce": 2.0, "focal": 0.5}
    logits, targets = scene()
    once = segmentation_losses(logits, targets, ALL)
    thrice = segmentation_losses(logits, targets, {"dice": 3.0})
    torch.testing.assert_close(thrice, {"loss_dice": 3 * once["loss_dice"]})


def test_wrong_losses() -> None:
    wrong = [("", "unknown loss"), ("ce+lovasz", "lovasz"), ({}, "unknown loss"), ({"ce": -1.0}, "positive")]
    for loss, message in wrong:
        with pytest.raises(ValueError, match=message):
            parse_loss(loss)


def test_wrong_targets() -> None:
    logits, targets = scene()
    with pytest.raises(ValueError, match=r"\(3, 7, 5\)"):
        segmentation_losses(logits, targets[:, :6], ALL)
    with pytest.raises(ValueError, match="integers"):
        segmentation_losses(logits, targets.float(), ALL)
    for name in ALL:  # an unknown class is never taken for another one
        with pytest.raises((IndexError, RuntimeError)):
            segmentation_losses(logits, targets.clamp(max=4).clamp(min=4), {name: 1.0})


def test_dice_of_large_images_is_that_of_double_precision() -> None:
    """One sum over millions of float32 numbers, one after the other, would be off by percents."""
    generator = torch.Generator().manual_seed(0)
    log_probabilities = torch.randn(4, 2, 1024, 1024, generator=generator).log_softmax(1)
    targets = torch.randint(2, (4, 1024, 1024), generator=generator)
    expected = soft_dice(log_probabilities.double(), targets)
    assert float(soft_dice(log_probabilities, targets)) == pytest.approx(float(expected), abs=1e-5)


@pytest.mark.parametrize("class_weights", [None, torch.tensor([0.5, 1.0, 3.0])])
def test_losses_of_processes_are_those_of_one_with_all_images(class_weights):
    """The second process has few pixels to learn, and of fewer classes."""
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(4, 3, 6, 5, generator=generator).requires_grad_()
    targets = torch.randint(0, 3, (4, 6, 5), generator=generator)
    targets[2, 1:], targets[3] = IGNORE_INDEX, 1

    def losses(share):
        return segmentation_losses(logits[share], targets[share], parse_loss("ce+focal+dice"), class_weights)

    whole = losses(slice(4))
    divided = in_processes(losses, [slice(0, 2), slice(2, 4)])
    for name, value in whole.items():
        torch.testing.assert_close(sum(found[name] for found in divided) / 2, value)
    gradients = [gradient(found, [logits]) for found in divided]
    assert distance(gradients, gradient(whole, [logits])) < 1e-5
