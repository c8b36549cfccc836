"""The colour of each class, the same in boxes, masks, plots and palettes of files."""

import colorsys
from collections import Counter
from collections.abc import Iterable
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Color = tuple[int, int, int]

# Okabe and Ito's palette, told apart with every common colour blindness, without its black.
_BASE_COLORS: tuple[Color, ...] = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (213, 94, 0),
    (204, 121, 167),
    (0, 114, 178),
)
_GOLDEN = 0.6180339887498949
# Lightness and saturation take turns, so that near hues still differ. A period of four suits the golden
# ratio: its hues nearly repeat after 55 steps, which is no multiple of four. With this start the nearest two
# of 80 classes are 6 apart in CIE Lab, of 40 classes 10.
_SHADES = ((0.60, 0.95), (0.42, 0.85), (0.78, 0.70), (0.52, 0.42))
_FIRST_HUE = 0.40
# Darker colours (pure blue has 0.07) vanish on leaves and shadows.
_LEAST_LUMINANCE = 0.13


@lru_cache(maxsize=4096)
def class_color(label: int) -> Color:
    """RGB colour of class `label` (0..): always the same one, whatever other classes there are.

    The first seven are a palette safe for colour-blind readers; the following ones step through the hues by
    the golden ratio, which keeps any run of neighbours far apart.
    """
    if label < 0:
        raise ValueError(f"class labels start at 0, got {label}")
    if label < len(_BASE_COLORS):
        return _BASE_COLORS[label]
    step = label - len(_BASE_COLORS)
    lightness, saturation = _SHADES[step % len(_SHADES)]
    hue = (_FIRST_HUE + step * _GOLDEN) % 1.0
    linear = _linear(np.array(colorsys.hls_to_rgb(hue, lightness, saturation)))
    bright = float(linear @ _LUMINANCE)
    white = max(0.0, (_LEAST_LUMINANCE - bright) / (1 - bright))
    linear = linear + (1 - linear) * white
    rgb = np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)
    red, green, blue = np.rint(rgb * 255).astype(int).tolist()
    return red, green, blue


# Towards white (above 0) or black, and around the circle of hues: first as it is, then far and near in turn.
_VARIATIONS = ((0.0, 0.0), (-0.35, -0.04), (0.45, 0.04), (-0.2, 0.07), (0.2, -0.07), (-0.45, 0.03))


def instance_colors(labels: Iterable[int]) -> list[Color]:
    """RGB colours of the objects of an image: shades of their class's colour, so that neighbours differ.

    The first object of a class has the colour of the class, and six take turns.
    """
    seen: Counter[int] = Counter()
    colors = []
    for label in labels:
        colors.append(_shade(class_color(label), *_VARIATIONS[seen[label] % len(_VARIATIONS)]))
        seen[label] += 1
    return colors


def _shade(color: Color, light: float, turn: float) -> Color:
    hue, lightness, saturation = colorsys.rgb_to_hls(*(value / 255 for value in color))
    lightness += light * (1 - lightness if light > 0 else lightness)
    red, green, blue = (round(255 * v) for v in colorsys.hls_to_rgb((hue + turn) % 1, lightness, saturation))
    return (red, green, blue) if light or turn else color


_LUMINANCE = np.array([0.2126, 0.7152, 0.0722])


def _linear(rgb: NDArray[np.float64]) -> NDArray[np.float64]:
    """Linear light of sRGB values 0..1."""
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def luminance(color: Color) -> float:
    """Relative luminance 0..1 of an sRGB colour, as WCAG defines it."""
    return float(_linear(np.array(color) / 255) @ _LUMINANCE)
