"""Blank images to draw on."""

import numpy as np

BACKGROUND = 77


def blank(height=120, width=160):
    return np.full((height, width, 3), BACKGROUND, np.uint8)


def changed(image):
    """(H, W) bool: pixels that differ from a blank image."""
    return (image != BACKGROUND).any(axis=2)
