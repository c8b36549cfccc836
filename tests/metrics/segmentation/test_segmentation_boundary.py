"""Boundary IoU: the region of all classes at once against erosion of each class's mask, and by hand."""

import math

import cv2
import numpy as np
import pytest
from scipy import ndimage

from detseg.metrics import evaluate_segmentation
from detseg.metrics.segmentation.boundary import boundary_counts, boundary_distance, boundary_region
from tests.metrics.cases import case
from tests.metrics.label_scenes import IGNORE, label_map, label_scene


def eroded(mask, distance):
    """What is left of a mask (H, W) when `distance` pixels are taken off, also along the image's edge."""
    return ndimage.binary_erosion(mask, np.ones((3, 3), bool), iterations=distance, border_value=0)


def plain_counts(target, prediction, classes):
    """(3, K) of one image, class by class; ignored pixels take nothing off and are dropped at the end."""
    distance = max(1, round(0.02 * math.sqrt(target.shape[0] ** 2 + target.shape[1] ** 2)))
    ignored = target == IGNORE
    rows = []
    for k in range(classes):
        true, found = (mask & ~ignored & ~eroded(mask | ignored, distance) for mask in (target == k, prediction == k))
        rows.append((true.sum(), found.sum(), (true & found).sum()))
    return np.array(rows).T


def test_erosion_of_each_class_finds_the_same():
    for size in [(1, 1), (1, 40), (3, 3), (37, 50), (130, 211), (512, 384)]:
        for ignored in [0.0, 0.05, 0.9]:
            with case(size, ignored):
                rng = np.random.default_rng(0)
                target, prediction = (label_map(rng, *size, 5, grain=25) for _ in range(2))
                band = label_map(rng, *size, 12, grain=9) < 12 * ignored
                target = np.where(band, IGNORE, target)
                counts = boundary_counts(target.astype(np.uint8), prediction.astype(np.uint8), 5)
                np.testing.assert_array_equal(counts, plain_counts(target, prediction, 5))


def test_the_authors_way_of_eroding():
    # A frame of one zero around the mask, then d times a 3 × 3 erosion that does not see beyond the frame.
    rng = np.random.default_rng(1)
    labels = label_map(rng, 90, 140, 4, grain=30).astype(np.uint8)
    distance = boundary_distance(90, 140)
    assert distance == 3
    region = boundary_region(labels)
    for k in range(4):
        mask = (labels == k).astype(np.uint8)
        framed = cv2.copyMakeBorder(mask, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
        inner = cv2.erode(framed, np.ones((3, 3), np.uint8), iterations=distance)[1:-1, 1:-1]
        np.testing.assert_array_equal(region & (labels == k), (mask - inner).astype(bool))
        assert inner.any()


def test_shifted_square_by_hand():
    target, found = np.zeros((2, 100, 100), int)
    target[20:60, 20:60] = found[20:60, 21:61] = 1
    assert boundary_distance(100, 100) == 3
    m = evaluate_segmentation([target], [found], ["ground", "square"])
    # A ring 3 wide of a square of 40 has 444 pixels. Moved by one pixel the rings share, of rows 3 + 3 of 39,
    # and between them 34 rows of the left and the right side with 2 pixels each.
    both = 6 * 39 + 34 * 4
    assert m.per_class[1].boundary_iou == both / (2 * 444 - both)
    assert m.per_class[1].iou == 40 * 39 / (40 * 41)
    assert m.per_class[1].boundary_iou < m.per_class[1].iou


def test_small_objects_are_all_boundary():
    predictions, targets = label_scene(0, images=3, height=3, width=10)
    m = evaluate_segmentation([t[:2] for t in targets], [p[:2] for p in predictions], list("abcd"))
    np.testing.assert_array_equal(m.images.boundary, [m.images.truth, m.images.predicted, m.images.hits])
    assert m.boundary_iou == m.miou


def test_one_pixel():
    for found in [0, 1]:
        with case(found):
            target, prediction = np.zeros((2, 60, 60), int)
            target[30, 30], prediction[30, 30] = 1, found
            m = evaluate_segmentation([target], [prediction], ["ground", "dot"])
            assert m.per_class[1].boundary_iou == found and m.per_class[1].pixels == 1
            # d is 2: the ground's boundary is its 2 pixels along the edge and, in truth, 24 around the dot.
            edge = 60 * 60 - 56 * 56
            assert m.per_class[0].boundary_iou == pytest.approx(1 if found else edge / (edge + 24))


def test_a_boundary_in_an_ignored_band_is_no_error():
    # Truth leaves a band of 4 pixels open; d is 6. The prediction ends anywhere in it.
    target = np.zeros((200, 220), int)
    target[:, 100:] = 1
    target[:, 98:102] = IGNORE
    assert boundary_distance(200, 220) == 6
    for end in (98, 99, 100, 102):
        found = np.zeros_like(target)
        found[:, end:] = 1
        assert evaluate_segmentation([target], [found], ["a", "b"]).boundary_iou == 1
    found = np.zeros_like(target)
    found[:, 95:] = 1  # three pixels too far
    m = evaluate_segmentation([target], [found], ["a", "b"])
    assert m.boundary_iou < 0.9 < m.miou
    # Across the band 2 pixels of each side are near enough to the other class; the rest is along the edge.
    counts = m.images.boundary[:, 0]
    edge = 200 * 98 - 188 * 92
    assert counts[0, 0] == edge + 188 * 2


def test_a_band_wider_than_the_distance_hides_the_boundary():
    target, found = np.zeros((2, 60, 60), int)
    target[20:40, 20:40] = found[20:40, 20:40] = 1
    target[15:45, 15:45][found[15:45, 15:45] == 0] = IGNORE
    m = evaluate_segmentation([target], [found], ["ground", "square"])
    assert math.isnan(m.per_class[1].boundary_iou) and m.per_class[1].iou == 1
    assert m.boundary_iou == m.per_class[0].boundary_iou == 1


def test_nothing_but_ignored():
    counts = boundary_counts(np.full((9, 9), IGNORE, np.uint8), np.zeros((9, 9), np.uint8), 2)
    assert not counts.any()
    assert boundary_region(np.zeros((0, 4), np.uint8)).shape == (0, 4)


def test_images_are_added_before_dividing():
    predictions, targets = label_scene(3)
    m = evaluate_segmentation(targets, predictions, list("abcd"))
    true, found, both = sum(plain_counts(t, p, 4) for p, t in zip(predictions, targets, strict=True))
    np.testing.assert_allclose([row.boundary_iou for row in m.per_class], both / (true + found - both), atol=1e-12)
    assert m.boundary_iou == pytest.approx(np.mean(both / (true + found - both)))
