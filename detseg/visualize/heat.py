"""What a network looked at, drawn: heat over images, feature maps, the filters of the first layer.

Images are uint8 RGB (H, W, 3). Sheets are `WIDTH` pixels wide, so that `stack` makes one page of them.
"""

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from detseg.visualize.sheets import INK, PAPER, QUIET, check_count, grid, on_paper, scaled, sheet_letter_size
from detseg.visualize.text import Color, Image, checked_image, fit_text, letter_size, paste, text_mask, text_patch

Box = tuple[float, float, float, float]
Floats = NDArray[np.floating]

WIDTH = 1280
TEXT = 400  # letters and gaps are those of sheets with tiles of this width
GAP, SIZE = TEXT // 40, sheet_letter_size(TEXT)
HEAT, VALUES = cv2.COLORMAP_INFERNO, cv2.COLORMAP_VIRIDIS
# So much of the image the strongest heat hides, from this share of the highest heat on.
OPACITY, FULL_FROM = 0.72, 0.6
# So much of the colours of the image is taken away: orange petals do not look like heat then.
FADING = 0.8
# So bright is what the network was not given.
UNSEEN = 0.4
# Rows at a time: images of cameras are large, and numbers between 0 and 1 take eight times their memory.
BLOCK = 256
BAR: Color = (0, 114, 178)
TRACK: Color = (232, 232, 228)
FILTER_COLUMNS = 16


def value_colors(values: Floats, scale: int = VALUES) -> Image:
    """Colours (…, 3) of values (…) in 0..1, from dark to bright in steps that look even."""
    levels = np.rint(np.clip(np.nan_to_num(values), 0, 1) * 255).astype(np.uint8)
    table = cv2.applyColorMap(np.arange(256, dtype=np.uint8)[None], scale)[0, :, ::-1]
    return np.ascontiguousarray(table[levels])


def percent(share: float) -> str:
    """0.0531 as "5.3 %"; what rounds to nothing as "< 0.1 %"."""
    return f"{100 * share:.1f} %" if share >= 0.0005 else "< 0.1 %"


def draw_heat(image: Image, heat: Floats, area: Box | None = None) -> Image:
    """A faded copy of `image` with heat laid over it, coloured by its share of the highest; darkened outside of it.

    Args:
        heat: (h, w), at least 0.
        area: xyxy in pixels of `image` that `heat` spans, may stick out; by default the whole image.
    """
    image = checked_image(image)
    height, width = image.shape[:2]
    area = (0, 0, width, height) if area is None else area
    share, inside = spread(heat.astype(np.float32) / max(float(heat.max()), 1e-12), area, (height, width))
    result = np.empty_like(image)
    for top in range(0, height, BLOCK):
        part = slice(top, top + BLOCK)
        grey = cv2.cvtColor(image[part], cv2.COLOR_RGB2GRAY)[..., None]
        faded = image[part] * (1 - FADING) + grey * FADING
        opacity = (OPACITY * np.minimum(share[part] / FULL_FROM, 1))[..., None]
        warm = faded * (1 - opacity) + value_colors(share[part], HEAT) * opacity
        result[part] = np.rint(np.where(inside[part, :, None], warm, faded * UNSEEN))
    return result


def spread(heat: Floats, area: Box, size: tuple[int, int]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Heat (h, w) that spans an area, at each pixel of an image of `size` (height, width): (H, W), float32.

    Args:
        area: xyxy in the image's pixels, may stick out.

    Returns:
        The heat, beyond the area that of its edge, and whether pixels (H, W) lie in the area.
    """
    (height, width), (x1, y1, x2, y2) = size, area
    rows, columns = heat.shape
    # Pixels count from their centres: x of the image lies at (x + 0.5 - x1) * columns / (x2 - x1) - 0.5 of the heat.
    scale_x, scale_y = columns / (x2 - x1), rows / (y2 - y1)
    place = np.array([[scale_x, 0, (0.5 - x1) * scale_x - 0.5], [0, scale_y, (0.5 - y1) * scale_y - 0.5]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    values = heat.astype(np.float32, copy=False)
    laid = cv2.warpAffine(values, place, (width, height), flags=flags, borderMode=cv2.BORDER_REPLICATE)
    x, y = np.arange(width) + 0.5, np.arange(height) + 0.5
    return np.asarray(laid, np.float32), ((y >= y1) & (y < y2))[:, None] & ((x >= x1) & (x < x2))


def heat_picture(image: Image, heat: Floats, caption: str, area: Box | None = None) -> Image:
    """`draw_heat` in the image's own size, over a line with the caption and what the colours mean."""
    return captioned(draw_heat(image, heat, area), caption)


def captioned(drawn: Image, caption: str) -> Image:
    """A drawing of heat over a line with the caption and what the colours mean."""
    size, width = letter_size(drawn), drawn.shape[1]
    legend = _legend(size, HEAT, "little", "much")
    gap = size // 2
    strip = on_paper(len(legend) + 2 * gap, width)
    room = width - 2 * gap
    if legend.shape[1] <= room // 2:
        paste(strip, legend, width - gap - legend.shape[1], gap)
        room -= legend.shape[1] + 2 * gap
    paste(strip, text_patch(fit_text(caption, size, room), size, INK, PAPER), gap, gap)
    return np.vstack([drawn, strip])


def heat_sheet(
    image: Image, heat: Sequence[Floats], captions: Sequence[str], area: Box | None = None, *, note: str = ""
) -> Image:
    """An image (H, W, 3) as it is, then with the heat (h, w) of each class; `area` is that of `draw_heat`."""
    check_count("captions", captions, len(heat), of="classes")
    columns = min(3, len(heat) + 1)
    tile = tile_width(3)
    small, factor_x, factor_y = scaled(checked_image(image), tile)
    place = None if area is None else (area[0] * factor_x, area[1] * factor_y, area[2] * factor_x, area[3] * factor_y)
    cells = [small, *(draw_heat(small, one, place) for one in heat)]
    title = heat_heading("What speaks for each class", note)
    return stack([title, grid(cells, columns, tile, ["the image", *captions], text=TEXT)])


def class_bars(names: Sequence[str], scores: Sequence[float]) -> Image:
    """A bar for the probability of each class."""
    check_count("scores", scores, len(names), of="names")
    line = text_mask("", SIZE).shape[0]
    left, right = round(WIDTH * 0.4), WIDTH - GAP - text_mask("100.0 %", SIZE).shape[1] - GAP
    height, rows = round(line * 1.35), [on_paper(0, WIDTH)]
    top = (height - line) // 2
    for name, score in zip(names, scores, strict=True):
        words = text_patch(fit_text(" ".join(name.split()), SIZE, left - 3 * GAP), SIZE, INK, PAPER)
        share = text_patch(percent(score), SIZE, INK, PAPER)
        row = on_paper(height, WIDTH, (words, GAP, top), (share, right + GAP, top))
        bar = row[line // 4 + top : line - line // 4 + top]
        bar[:, left:right] = TRACK
        bar[:, left : left + round((right - left) * score)] = BAR
        rows.append(row)
    return np.vstack(rows)


def map_sheet(stages: Sequence[tuple[str, Floats]]) -> Image:
    """Feature maps, a row for each stage (a line on it, its maps (M, h, w)), from the lowest value to the highest."""
    most = max((len(maps) for _, maps in stages), default=1)
    tile = tile_width(max(most, 4))
    legend = _legend(SIZE, VALUES, "its lowest value", "its highest")
    strips = [_heading("What the feature maps of each stage show", "", legend=legend)]
    for caption, maps in stages:
        strips.append(_line(caption, QUIET))
        cells = [scaled(value_colors(_stretched(one)), tile, cv2.INTER_NEAREST_EXACT)[0] for one in maps]
        strips.append(grid(cells, max(1, len(cells)), tile, None, text=TEXT))
    return stack(strips)


def filter_sheet(filters: Floats) -> Image:
    """The kernels (O, 3, kh, kw) of a first layer as tiny images: grey is 0, bright red wants red."""
    highest = np.abs(filters).max((1, 2, 3), keepdims=True)
    values = 0.5 + 0.5 * filters / np.maximum(highest, 1e-12)
    pictures = np.rint(values.transpose(0, 2, 3, 1) * 255).astype(np.uint8)
    tile = tile_width(FILTER_COLUMNS)
    cells = [scaled(picture, tile, cv2.INTER_NEAREST_EXACT)[0] for picture in pictures]
    note = f"{len(filters)} of {filters.shape[3]} × {filters.shape[2]} pixels; grey is 0"
    heading = _heading("The filters that look at the image itself", note)
    return stack([heading, grid(cells, FILTER_COLUMNS, tile, None, text=TEXT)])


def stack(strips: Sequence[Image]) -> Image:
    """Strips of up to `WIDTH` pixels below each other, at the left."""
    return np.vstack([on_paper(len(strip), WIDTH, (strip, 0, 0)) for strip in strips])


def title_strip(title: str, remark: str) -> Image:
    """What a page is about, in large letters, and a quieter line below."""
    large = round(1.6 * SIZE)
    text = text_patch(fit_text(title, large, WIDTH - 2 * GAP), large, INK, PAPER)
    strip = on_paper(len(text) + 2 * GAP, WIDTH, (text, GAP, 2 * GAP))
    return stack([strip, _line(remark, QUIET), on_paper(2 * GAP, WIDTH)])


def heat_heading(text: str, note: str) -> Image:
    """A line above a sheet of heat, with what the colours mean."""
    return _heading(text, note, legend=_legend(SIZE, HEAT, "little", "much"))


def _heading(text: str, note: str, *, legend: Image | None = None) -> Image:
    size = round(1.2 * SIZE)
    room = WIDTH - 3 * GAP - (0 if legend is None else legend.shape[1] + 2 * GAP)
    words = text_patch(fit_text(text, size, room), size, INK, PAPER)
    strip = on_paper(len(words) + 3 * GAP, WIDTH, (words, GAP, 2 * GAP))
    rest = room - words.shape[1] - 2 * GAP
    bottom = 2 * GAP + words.shape[0]
    if note and rest > 0:
        quiet = text_patch(fit_text(note, SIZE, rest), SIZE, QUIET, PAPER)
        paste(strip, quiet, 3 * GAP + words.shape[1], bottom - quiet.shape[0])
    if legend is not None:
        paste(strip, legend, WIDTH - GAP - legend.shape[1], bottom - legend.shape[0])
    return strip


def _line(text: str, color: Color) -> Image:
    patch = text_patch(fit_text(text, SIZE, WIDTH - 2 * GAP), SIZE, color, PAPER)
    return on_paper(len(patch) + GAP, WIDTH, (patch, GAP, GAP))


def _legend(size: int, scale: int, low: str, high: str) -> Image:
    """What the colours mean: the lowest on the left."""
    words = [text_patch(word, size, QUIET, PAPER, size // 2) for word in (low, high)]
    ramp = value_colors(np.linspace(0, 1, 7 * size)[None].repeat(round(size * 0.7), 0), scale)
    height = len(words[0])
    return np.hstack([words[0], on_paper(height, ramp.shape[1], (ramp, 0, (height - len(ramp)) // 2)), words[1]])


def tile_width(columns: int) -> int:
    """Width of each of so many tiles side by side."""
    return (WIDTH - GAP) // columns - GAP


def _stretched(values: Floats) -> Floats:
    """From its lowest value, 0, to its highest, 1."""
    low, high = float(values.min()), float(values.max())
    return (values - low) / max(high - low, 1e-12)
