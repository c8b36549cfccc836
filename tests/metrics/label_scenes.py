"""Drawn label maps: blobs of classes with ignored pixels, and predictions that are wrong here and there."""

import cv2
import numpy as np

IGNORE = 255


def label_map(rng, height, width, classes, grain=6):
    """(H, W) uint8 smooth blobs of all classes."""
    small = rng.random((max(1, height // grain), max(1, width // grain), classes)).astype(np.float32)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC).reshape(height, width, -1).argmax(2)


def label_scene(seed, images=5, classes=4, ignored=0.1, height=40, width=57):
    """Predictions and targets, lists of (H, W) int64 of different sizes."""
    rng = np.random.default_rng(seed)
    predictions, targets = [], []
    for i in range(images):
        h, w = height + 3 * i, width - 2 * i
        truth = label_map(rng, h, w, classes)
        wrong = label_map(rng, h, w, 3) == 0
        found = np.where(wrong, label_map(rng, h, w, classes), truth)
        if ignored:
            truth[(label_map(rng, h, w, 10, 3) == 0) | (rng.random((h, w)) < ignored)] = IGNORE
        predictions.append(found)
        targets.append(truth)
    return predictions, targets
