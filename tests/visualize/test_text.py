"""Text in images: in any script, and legible."""

import cv2
import numpy as np

from detseg.visualize import class_color
from detseg.visualize.compare import FOUND, IGNORED, MISSED, WRONG
from detseg.visualize.text import fit_text, text_color, text_mask


def test_names_in_other_scripts_are_drawn():
    for name in ("Gänseblümchen", "Пион", "牡丹", "ひまわり", "해바라기"):
        if not hasattr(cv2, "FontFace") and any(ord(c) > 0x2E00 for c in name):
            continue  # this OpenCV has no font for Chinese, Japanese and Korean
        mask, missing = text_mask(name, 24), text_mask("\uffff" * len(name), 24)
        assert mask.max() > 200, name
        assert mask.shape != missing.shape or (mask != missing).any(), name
        # Two different letters of the name do not look the same, as two missing ones would.
        first, last = (text_mask(c, 24) for c in (name[0], name[-1]))
        assert first.shape != last.shape or (first != last).any(), name


def test_text_contrast_is_legible_on_every_colour():
    def luminance(color):
        linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in np.array(color) / 255]
        return np.dot([0.2126, 0.7152, 0.0722], linear)

    for color in [*map(class_color, range(200)), FOUND, WRONG, MISSED, IGNORED]:
        light, dark = sorted((luminance(color), luminance(text_color(color))), reverse=True)
        assert (light + 0.05) / (dark + 0.05) > 4.5, color  # WCAG AA


def test_a_name_of_several_lines_is_drawn_on_one():
    np.testing.assert_array_equal(text_mask("two\nlines\x1b", 24), text_mask(r"two\nlines\x1b", 24))


def test_halves_of_characters_and_names_without_end_are_drawn():
    np.testing.assert_array_equal(text_mask("caf\udce9 \ud800", 24), text_mask(r"caf\xe9 \ud800", 24))
    assert fit_text("long" * 10**6, 24, 200).startswith("longlong") and fit_text("long" * 10**6, 24, 200).endswith("…")
    assert text_mask("W" * 10**6, 12).shape[1] < 100_000
