"""Colours of classes."""

import cv2
import numpy as np
import pytest

from detseg.data.colours import class_color, instance_colors


def test_class_colours_are_stable_and_distinct():
    assert class_color(0) == (230, 159, 0) and class_color(100) == class_color(100)
    colors = np.array([[class_color(i) for i in range(80)]], np.float32) / 255
    lab = cv2.cvtColor(colors, cv2.COLOR_RGB2LAB)[0]
    distance = np.linalg.norm(lab[:, None] - lab[None], axis=2) + 1e3 * np.eye(80)
    assert distance[:7, :7].min() > 20
    assert distance[:40, :40].min() > 9
    assert distance.min() > 5
    with pytest.raises(ValueError, match="start at 0, got -1"):
        class_color(-1)


def test_objects_of_a_class_have_shades_of_its_colour():
    assert instance_colors([]) == []
    assert instance_colors([4, 0, 4])[:2] == [class_color(4), class_color(0)]
    for label in range(40):
        shades = instance_colors([label] * 8)
        assert shades[6:] == shades[:2]
        lab = cv2.cvtColor(np.array([shades[:6]], np.float32) / 255, cv2.COLOR_RGB2LAB)[0]
        distance = np.linalg.norm(lab[:, None] - lab[None], axis=2) + 1e3 * np.eye(6)
        assert distance.min() > 9, label
        assert np.diagonal(distance, 1).min() > 15, "one after another"
