"""How a mask file becomes values of classes: as stored, above nothing, from a brightness on, or by colour."""

from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from detseg.data.index_png import MaskError, StoredMask, index_values, open_mask

SOFT_FROM = 128  # the threshold that messages name
NEARLY_GREY = 48  # the most that the channels of a grey JPEG differ by


class ListedColour(NamedTuple):
    """A line of a list of colours."""

    rgb: tuple[int, int, int]
    value: int
    name: str


class MaskReading(NamedTuple):
    """How the values of mask files are found; by default they are the numbers that are stored."""

    binary: bool = False  # whatever is not 0 is 1; of palettes in black and white, whatever is white
    threshold: int | None = None  # the brightness from which on a pixel is 1, below it is 0; JPEG is allowed
    colours: tuple[ListedColour, ...] = ()  # colours are looked up, those of palettes too

    def __str__(self) -> str:
        if self.colours:
            return f"by the {len(self.colours)} colours of the list of classes"
        if self.threshold is not None:
            return f"what is {self.threshold} or lighter is the second class"
        return (
            "whatever is not 0 (white, in palettes of black and white) is the second class" if self.binary else "as is"
        )

    def values(self, path: str | Path) -> NDArray[np.uint8] | NDArray[np.uint16]:
        """The values (H, W) of a mask file; or MaskError."""
        if self.colours:
            return _by_colour(path, self.colours)
        if self.threshold is not None:
            return (_brightness(path) >= self.threshold).astype(np.uint8)
        mask = open_mask(path)
        if not self.binary:
            return index_values(mask, path)
        white = white_pixels(mask)
        return ((index_values(mask, path) > 0) if white is None else white).astype(np.uint8)


STORED = MaskReading()


def white_pixels(mask: StoredMask) -> NDArray[np.bool_] | None:
    """(H, W), True where a palette's colour is white; None unless black and white are all the colours it uses."""
    if mask.palette is None or mask.pixels.ndim != 2:
        return None
    used = np.flatnonzero(np.bincount(mask.pixels.ravel(), minlength=256))
    if used.max(initial=0) >= len(mask.palette):
        return None
    colours = mask.palette[used]
    if not np.isin(colours, (0, 255)).all() or (colours != colours[:, :1]).any():
        return None
    return (mask.palette[:, 0] == 255)[mask.pixels]


def is_soft(values: set[int]) -> bool:
    """Whether a mask has white, black and greys up to the light ones: edges that were smoothed, not numbers."""
    return 0 in values and max(values) >= 250 and any(SOFT_FROM < value < 250 for value in values) and len(values) > 3


def soft_edges(path: str | Path, count: int) -> MaskError:
    """The error for a mask with `count` greys between black and white."""
    what = f"{count} greys between black and white: its edges are soft"
    remedy = f"threshold at {SOFT_FROM}: --threshold {SOFT_FROM} takes what is lighter as the class"
    return MaskError(path, what, remedy, "soft-mask")


def _brightness(path: str | Path) -> NDArray[Any]:
    mask = open_mask(path, lossy=True)
    pixels = mask.pixels
    if mask.palette is not None and pixels.ndim == 2:
        shown = _shown(mask, path)
        if (shown == shown[..., :1]).all():  # of a palette of colours the numbers count
            pixels = shown[..., 0]
    if pixels.dtype == np.bool_:
        return pixels.astype(np.uint8) * np.uint8(255)
    if pixels.ndim == 3 and mask.mode in ("RGB", "YCbCr"):
        spread = pixels.max(2).astype(np.int16) - pixels.min(2)
        if np.quantile(spread, 0.99) <= NEARLY_GREY:  # a JPEG's grey has some colour
            return np.rint(pixels.mean(2)).astype(np.uint8)
    return index_values(StoredMask(pixels, mask.mode, None), path)


def _shown(mask: StoredMask, path: str | Path) -> NDArray[np.uint8]:
    """The colours (H, W, 3) of a palette file."""
    assert mask.palette is not None
    if mask.pixels.max(initial=0) >= len(mask.palette):
        what, remedy = f"value {mask.pixels.max()} has no colour in the palette", "save the mask anew"
        raise MaskError(path, what, remedy, "damaged-mask")
    return mask.palette[mask.pixels]


# ------------------------------------------------------------------ colours


def _by_colour(path: str | Path, colours: tuple[ListedColour, ...]) -> NDArray[np.uint8] | NDArray[np.uint16]:
    codes = colour_codes(path)
    values = np.take(_table(colours), codes)
    if values.min(initial=0) < 0:
        raise _unknown_colours(path, codes[values < 0], colours)
    return values.astype(np.uint16)


def colour_codes(path: str | Path) -> NDArray[np.uint32]:
    """The colour of every pixel (H, W) of a mask file as one number: red in the highest 8 of 24 bits; or MaskError."""
    mask = open_mask(path)
    pixels = mask.pixels if mask.palette is None or mask.pixels.ndim != 2 else _shown(mask, path)
    if pixels.dtype == np.bool_:
        pixels = pixels.astype(np.uint8) * np.uint8(255)
    if pixels.dtype != np.uint8 or mask.mode == "CMYK":
        what = (
            f"the mask ({mask.mode}, {pixels.dtype}) has no colours of 8 bits, and a list of colours says its classes"
        )
        raise MaskError(path, what, "save it as RGB, or remove the list", "colour-mask")
    if pixels.ndim == 2 or pixels.shape[2] < 3:
        return (pixels if pixels.ndim == 2 else pixels[..., 0]).astype(np.uint32) * np.uint32(0x010101)
    red, green, blue = (pixels[..., channel].astype(np.uint32) for channel in range(3))
    return (red << 16 | green << 8 | blue).astype(np.uint32)


@lru_cache(maxsize=2)  # 32 MB each
def _table(colours: tuple[ListedColour, ...]) -> NDArray[np.int16]:
    """(2 ** 24,): the value of each colour, -1 for those that are not listed."""
    table = np.full(1 << 24, -1, np.int16)
    for rgb, value, _ in colours:
        table[colour_code(rgb)] = value
    return table


def colour_code(rgb: tuple[int, int, int]) -> int:
    """A colour as one number, see `colour_codes`."""
    return rgb[0] << 16 | rgb[1] << 8 | rgb[2]


def _unknown_colours(path: str | Path, codes: NDArray[np.uint32], colours: tuple[ListedColour, ...]) -> MaskError:
    found, counts = np.unique(codes, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    listed = np.array([colour.rgb for colour in colours])
    shown = []
    for position in order[:3]:
        rgb = np.array([found[position] >> 16, found[position] >> 8 & 255, found[position] & 255], np.int64)
        nearest = colours[int(np.abs(listed - rgb).sum(1).argmin())]
        shown.append(
            f"{','.join(map(str, rgb))} ({counts[position]} pixels; the nearest is {nearest.name} "
            f"{','.join(map(str, nearest.rgb))})"
        )
    what = f"{len(found)} colours that are not in the list of classes: {', '.join(shown)}{', ...' * (len(found) > 3)}"
    remedy = "add them to the list, or save the mask without smoothing and without compression that changes colours"
    return MaskError(path, what, remedy, "mask-values")
