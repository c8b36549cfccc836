"""Label maps as images: index PNG (grey, the value is the class) and palette PNG (the same, shown in colours).

Images of colours are refused here: which class a colour means is not in the file. Where a list says it, and for masks
whose values are no numbers of classes, see `detseg.data.mask_reading`.
"""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from detseg.data.checks.problems import AnnotationError
from detseg.data.colours import class_color
from detseg.data.images import open_image
from detseg.data.sample import IGNORE
from detseg.files import write_atomically

WHITISH = (224, 224, 224)
"""How 255 (ignore) is shown."""


class MaskError(AnnotationError):
    """A mask that cannot be used; `what`, `remedy` and `kind` are as in `detseg.data.Problem`."""

    def __init__(self, path: str | Path, what: str, remedy: str, kind: str) -> None:
        super().__init__(f"{path}: {what} ({remedy})")
        self.what, self.remedy, self.kind = what, remedy, kind


class StoredMask(NamedTuple):
    """What a mask file holds, before anything is made of it."""

    pixels: NDArray[Any]  # (H, W), or (H, W, C) with up to four channels
    mode: str  # as Pillow names it
    palette: NDArray[np.uint8] | None  # (up to 256, 3) RGB, the colour of each value


def open_mask(path: str | Path, lossy: bool = False) -> StoredMask:
    """Read a mask file. An EXIF orientation is not applied: a mask shows the upright image.

    MaskError: it is missing, damaged, or a JPEG, unless `lossy` allows that.
    """
    try:
        with open_image(path) as image:
            is_jpeg, mode, factor = image.format in ("JPEG", "MPO"), image.mode, _factor(image)
            pixels = np.asarray(image)
            colours = image.getpalette("RGB") if mode in ("P", "PA") else None
    except FileNotFoundError as error:
        what, remedy = "the mask does not exist", "put it there, or remove the image from the set"
        raise MaskError(path, what, remedy, "missing-mask") from error
    except Exception as error:  # Pillow raises many kinds, from SyntaxError to struct.error
        what, remedy = f"the mask cannot be read: {error}", "replace it, or remove the image from the set"
        raise MaskError(path, what, remedy, "damaged-mask") from error
    if is_jpeg and not lossy:
        what = "the mask is a JPEG file, which changes the numbers"
        remedy = "save it anew from its source as PNG, or, if it shows one class in white on black, --threshold 128"
        raise MaskError(path, what, remedy, "lossy-mask")
    palette = None if colours is None else np.array(colours, np.uint8).reshape(-1, 3)
    return StoredMask(pixels if factor == 1 else pixels // factor, mode, palette)


def palette_of(path: str | Path) -> NDArray[np.uint8] | None:
    """The palette (up to 256, 3) RGB of an image file, from its header; None if it has none or cannot be read."""
    try:
        with open_image(path) as image:
            colours = image.getpalette("RGB") if image.mode in ("P", "PA") else None
    except Exception:  # Pillow raises many kinds
        return None
    return None if colours is None else np.array(colours, np.uint8).reshape(-1, 3)


def read_index_image(path: str | Path) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """The values (H, W) of a label map as they are in the file: uint8, or uint16 from 16-bit files.

    Palette files give the index, not the colour; grey saved as three or four channels gives the first. Where all
    colours are the same and only the transparency differs, it is the mask. MaskError: missing, damaged, a JPEG, of
    colours, or colours and transparency both tell something.
    """
    return index_values(open_mask(path), path)


def index_values(mask: StoredMask, path: str | Path) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """The values (H, W) of a mask file, see `read_index_image`."""
    values = mask.pixels
    if values.ndim == 3:
        values = np.ascontiguousarray(_one_channel(values, mask.mode, path))
    if values.dtype == np.bool_:
        return values.astype(np.uint8)
    if values.dtype in (np.uint8, np.uint16):
        return values
    if values.dtype.kind not in "iu" or values.min(initial=0) < 0 or values.max(initial=0) > 65535:
        what = f"the mask holds numbers of another kind ({mask.mode})"
        raise MaskError(path, what, "save whole numbers of 8 or 16 bits", "colour-mask")
    return values.astype(np.uint16)


def _one_channel(pixels: NDArray[Any], mode: str, path: str | Path) -> NDArray[Any]:
    """The channel (H, W) that holds the values of an image of several, which says nothing in the others."""
    colours = pixels[..., : 3 if pixels.shape[2] >= 3 else 1]
    first = colours[..., 0]
    if mode in ("RGBA", "LA"):
        alpha = pixels[..., -1]
        if (alpha != alpha.flat[0]).any() and (alpha != first).any():
            if (colours == colours[0, 0]).all():
                return alpha
            what, remedy = (
                "its transparency differs from pixel to pixel, and so do its colours",
                "save it without alpha",
            )
            raise MaskError(path, f"the mask is not clear: {what}", remedy, "alpha-mask")
    if (colours != first[..., None]).any():
        what = f"the mask is an image of colours ({mode}), not of class numbers"
        remedy = (
            "put a list of the colours beside it, such as labelmap.txt or class_dict.csv, or give each colour the "
            "number of its class and save that with detseg.data.write_index_png"
        )
        raise MaskError(path, what, remedy, "colour-mask")
    return first


def _factor(image: Image.Image) -> int:
    """What Pillow multiplies the values by: grey of 2 and 4 bits is stretched over 0..255. Ask before it is decoded."""
    tiles = getattr(image, "tile", None)  # of images from files
    stored = tiles[0][3] if tiles else None
    kind = stored[0] if isinstance(stored, tuple) and stored else stored
    return {"L;2": 85, "L;4": 17}.get(str(kind), 1)


def write_index_png(path: str | Path, mask: ArrayLike, palette: ArrayLike | None = None) -> None:
    """Write a label map (H, W) as an 8-bit palette PNG: its values are the labels, viewers show colours.

    Args:
        path: the file; its folder is made, and the file is complete or not there.
        mask: integers 0..255; 255 is "ignore". Others, and other shapes, raise ValueError.
        palette: (up to 256, 3) RGB, the colour of each value; None is `mask_palette()`.
    """
    labels = np.asarray(mask)
    if labels.ndim != 2 or labels.size == 0 or labels.dtype.kind not in "iub":
        raise ValueError(f"{path}: a mask must be whole numbers (height, width), got {labels.dtype} {labels.shape}")
    if labels.min() < 0 or labels.max() > 255:
        raise ValueError(f"{path}: a mask holds labels 0..255, got {labels.min()}..{labels.max()}")
    colours = mask_palette() if palette is None else np.asarray(palette)
    if colours.ndim != 2 or colours.shape[1] != 3 or not 1 <= len(colours) <= 256:
        raise ValueError(f"{path}: a palette must have shape (1 to 256, 3), got {colours.shape}")
    image = Image.fromarray(np.ascontiguousarray(labels, np.uint8))
    image.putpalette(colours.astype(np.uint8).tobytes())
    content = io.BytesIO()
    image.save(content, "PNG")
    write_atomically(Path(path), content.getvalue())


def write_object_png(path: str | Path, numbers: ArrayLike, colors: ArrayLike) -> None:
    """Write the numbers (H, W) of an image's M objects, 0 for none: with a palette, or of more than 255 as 16-bit grey.

    `colors` are (M, 3) RGB.
    """
    shades = np.reshape(np.asarray(colors, np.uint8), (-1, 3))
    if len(shades) <= 255:
        write_index_png(path, numbers, np.concatenate([np.zeros((1, 3), np.uint8), shades]))
        return
    content = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(numbers, np.uint16)).save(content, "PNG")
    write_atomically(Path(path), content.getvalue())


def mask_palette(names: Sequence[str] = ("background",)) -> NDArray[np.uint8]:
    """(256, 3) RGB colours of the labels; 255 is whitish.

    A first class named "background" is black, and the others get the colours that a detector gives them: the
    species that is a detector's class 0 and a segmenter's class 1 has one colour in both.
    """
    background = int(bool(names) and is_background(names[0]))
    colours = [(0, 0, 0)] * background + [class_color(label) for label in range(256 - background)]
    colours[IGNORE] = WHITISH
    return np.array(colours, np.uint8)


def is_background(name: str) -> bool:
    """Whether a class of this name is what is left when all objects are taken away."""
    return name.strip().strip("_").lower() == "background"
