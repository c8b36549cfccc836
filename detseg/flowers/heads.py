"""One flower head of each species, built by its botany as a mesh of radius about 1.

daisy: narrow white ray petals around a domed yellow disc. dandelion: layer over layer of yellow straps and no
disc. rose: a spiral of wrapped petals, tight inside and open outside. sunflower: a large brown seed disc and
two rows of pointed yellow petals. tulip: a cup of three and three petals.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from detseg.flowers import shapes
from detseg.flowers.canvas import Stream
from detseg.flowers.shapes import Array, Colour, Mesh, curve, mix, steps

SPECIES = ("daisy", "dandelion", "rose", "sunflower", "tulip")


@dataclass
class Head:
    """A flower head: its mesh, the stripes of its petals, and where the stem begins on its axis."""

    mesh: Mesh
    stripes: Array
    base: float
    shadow: float = 0.12  # reach of the shadows petals throw on each other, in radii


def draw_head(species: str, stream: Stream, radius: float) -> Head:
    """A head of the species; `radius` in pixels decides how much detail is worth drawing."""
    return _BUILDERS[species](stream, radius)


def _tinted(stream: Stream, colours: Array, count: int, spread: float) -> Array:
    """colours (U,V,3) repeated for `count` petals, each a little lighter or darker."""
    tone = 1 + stream.uniforms(-spread, spread, count)
    return colours[None] * tone[:, None, None, None]


def _grid(rows: int, columns: int) -> tuple[Array, Array]:
    """Positions along (U,1) 0..1 and across (1,V) −1..1 a petal."""
    return steps(rows)[:, None], steps(columns, -1, 1)[None, :]


def _daisy(stream: Stream, radius: float) -> Head:
    disc = stream.uniform(0.26, 0.34)
    count = stream.integer(17, 26)
    rows, columns = (7, 5) if radius > 25 else (5, 3)
    outline = curve(steps(rows), [0, 0.25, 0.7, 0.9, 1], [0.5, 0.75, 1, 0.85, 0.45])
    along, _ = _grid(rows, columns)
    blush = (232.0, 170.0, 195.0) if stream.chance(0.15) else (236.0, 238.0, 250.0)
    colours = mix(mix((200.0, 205.0, 190.0), (250.0, 250.0, 252.0), along * 3), blush, (along - 0.75) * 2)
    colours = np.broadcast_to(colours, (rows, columns, 3))
    droop = stream.uniform(-0.06, 0.05)
    parts = []
    for layer in range(2):
        azimuth = (np.arange(count) + 0.5 * layer) / count + stream.uniforms(-0.25, 0.25, count) / count
        points = shapes.ray_petals(
            azimuth,
            (1 - 0.8 * disc) * stream.uniforms(0.88, 1.03, count) * (1 - 0.05 * layer),
            stream.uniforms(0.85, 1.15, count) * 4.6 / count,
            outline,
            base=0.8 * disc,
            height=0.03 * layer,
            elevation=0.02 + 0.015 * layer + stream.uniforms(-0.012, 0.012, count),
            curl=droop + stream.uniforms(-0.03, 0.03, count),
            cup=0.35,
            columns=columns,
            tooth=0.03,
        )
        side = steps(columns)
        parts.append(shapes.grid_mesh(points, _tinted(stream, colours, count, 0.05), side))
    parts.append(shapes.dome(disc, 0.02, 0.5 * disc, (200.0, 140.0, 10.0), (150.0, 100.0, 10.0)))
    seeds = max(24, min(150, int(radius * 2.5)))
    places, relative = shapes.spiral(seeds, disc * 0.97, 0.5 * disc, 0.03)
    tips = mix((238.0, 205.0, 50.0), (255.0, 212.0, 40.0), relative)
    hollows = mix((190.0, 130.0, 5.0), (205.0, 135.0, 5.0), relative)
    sizes = np.full(seeds, 1.25 * disc / np.sqrt(seeds))
    parts.append(shapes.florets(places, sizes, tips, hollows, 0.9))
    stripes = shapes.stripes_from(stream, 0.04)
    stripes[12:18] -= 16
    stripes[46:52] -= 16
    return Head(shapes.join(parts), stripes, -0.05)


def _dandelion(stream: Stream, radius: float) -> Head:
    layers = 9 if radius > 18 else 7
    full = stream.uniform(0.9, 1.25)
    rows, columns = (4, 3) if radius > 14 else (3, 3)
    outline = curve(steps(rows), [0, 0.3, 1], [0.6, 0.9, 1.0])
    along, _ = _grid(rows, columns)
    warm = stream.uniform(0, 1)
    outer: Colour = (255.0, 232.0 - 14 * warm, 44.0)
    inner: Colour = (252.0, 190.0 - 14 * warm, 8.0)
    parts = []
    for layer in range(layers):
        share = layer / (layers - 1)  # 0 outermost, 1 innermost
        count = int((50 - 26 * share) * full)
        azimuth = (np.arange(count) + stream.uniforms(-0.45, 0.45, count)) / count + 0.37 * layer
        tone = mix(outer, inner, share)
        colours = mix(tone * 0.78, tone, along * 1.5 + 0.1 - 0.3 * share)
        points = shapes.ray_petals(
            azimuth,
            (0.98 - 0.56 * share) * stream.uniforms(0.84, 1.05, count),
            stream.uniforms(0.075, 0.11, count) * (1 - 0.2 * share),
            outline,
            base=0.03 + 0.02 * (1 - share),
            height=0.02 + 0.1 * share,
            elevation=0.04 + 0.17 * share + stream.uniforms(-0.012, 0.012, count),
            curl=-0.05 - 0.02 * share + stream.uniforms(-0.025, 0.025, count),
            cup=0.3,
            columns=columns,
            tooth=0.05,
        )
        colours = np.broadcast_to(colours, (rows, columns, 3))
        parts.append(shapes.grid_mesh(points, _tinted(stream, colours, count, 0.08), steps(columns)))
    places, relative = shapes.spiral(36, 0.17, 0.05, 0.42)  # the youngest florets, still upright
    tips = mix((246.0, 176.0, 10.0), (255.0, 208.0, 24.0), relative)
    parts.append(shapes.florets(places, np.full(36, 0.045), tips, tips * 0.74, 1.8))
    parts.append(shapes.dome(0.25, 0.25, 0.14, (236.0, 166.0, 6.0), (216.0, 150.0, 6.0)))
    return Head(shapes.join(parts), shapes.stripes_from(stream, 0.03), -0.05, 0.06)


def _rose(stream: Stream, radius: float) -> Head:
    colour, deep = _ROSES[stream.integer(0, len(_ROSES) - 1)]
    count = stream.integer(17, 23) if radius > 16 else 15
    rows, columns = (9, 15) if radius > 45 else (8, 11) if radius > 22 else (6, 7)
    along, across = _grid(rows, columns)
    opened = stream.uniform(0.7, 1.1)
    share = (np.arange(count) / (count - 1))[:, None, None]
    azimuth = np.arange(count) * shapes.GOLDEN + stream.uniforms(-0.05, 0.05, count)
    edge = across * across
    # A round upper edge, waved a little; the tip of the outer petals comes to a point.
    wave = stream.uniforms(-0.05, 0.05, count * columns).reshape(count, 1, columns) * (0.4 + share)
    cut = 1 - 0.3 * edge * edge * edge + wave + 0.05 * share * np.maximum(1 - 4 * np.abs(across), 0)
    up = along * cut
    rim = (0.1 + 0.84 * share * (0.45 + 0.55 * share)) * (1 + stream.uniforms(-0.08, 0.08, count)[:, None, None])
    top = 0.85 - 0.68 * share * share * opened
    roll = np.maximum(up - 0.7, 0) / 0.3
    # The rim rolls outwards and one side of a petal lies behind its neighbour: a spiral, not rings.
    twist = across * up * (0.05 + 0.08 * share)
    reach = rim * (0.22 + 0.78 * up * (2 - up)) + 0.08 * roll * roll * share + twist
    height = top * up - (0.06 + 0.1 * share) * roll * roll + 0.05 * edge * share
    span = (0.32 - 0.13 * share) * across * (0.75 + 0.25 * np.sqrt(along))
    points = shapes.cup_petals(azimuth, reach, height, span)
    colours = mix(deep, colour, np.clip(1.08 * up - 0.05, 0, 1) * (0.7 + 0.3 * share))
    colours = mix(colours, np.minimum(np.asarray(colour) * 1.12 + 16, 255), np.clip(roll, 0, 1) * 0.75)
    colours = colours * (1 + stream.uniforms(-0.06, 0.06, count))[:, None, None, None]
    parts = [shapes.grid_mesh(points, colours, (across + 1) / 2 * np.ones((rows, 1)))]
    turns, outline = (np.arange(5) + 0.3) / 5, np.array([0.8, 1.0, 0.6, 0.1])
    length, width = np.full(5, 0.85), np.full(5, 0.2)
    sepals = shapes.ray_petals(turns, length, width, outline, base=0.05, height=-0.12, elevation=0.0, curl=-0.05)
    parts.append(shapes.grid_mesh(sepals, np.array([70.0, 120.0, 50.0])))
    return Head(shapes.join(parts), shapes.stripes_from(stream, 0.03), -0.1)


_ROSES: list[tuple[Colour, Colour]] = [
    ((214.0, 28.0, 44.0), (84.0, 2.0, 16.0)),
    ((186.0, 14.0, 40.0), (64.0, 0.0, 14.0)),
    ((244.0, 128.0, 160.0), (176.0, 40.0, 86.0)),
    ((250.0, 172.0, 190.0), (206.0, 92.0, 116.0)),
    ((250.0, 240.0, 226.0), (204.0, 184.0, 140.0)),
    ((252.0, 220.0, 110.0), (214.0, 150.0, 30.0)),
    ((252.0, 186.0, 140.0), (222.0, 110.0, 66.0)),
    ((226.0, 60.0, 120.0), (130.0, 10.0, 60.0)),
]


def _sunflower(stream: Stream, radius: float) -> Head:
    disc = stream.uniform(0.42, 0.54)
    count = stream.integer(16, 21)
    rows, columns = (7, 5) if radius > 25 else (5, 3)
    outline = curve(steps(rows), [0, 0.3, 0.5, 0.8, 1], [0.55, 0.95, 1, 0.55, 0.04])
    along, across = _grid(rows, columns)
    warm = stream.uniform(0, 1)
    tip: Colour = (255.0, 208.0 - 18 * warm, 24.0)
    base: Colour = (236.0, 140.0 - 16 * warm, 6.0)
    colours = mix(base, tip, 0.15 + along * 1.4 + 0 * across)
    parts = []
    for layer in range(2):
        azimuth = (np.arange(count) + 0.5 * layer + stream.uniforms(-0.22, 0.22, count)) / count
        points = shapes.ray_petals(
            azimuth,
            (1.04 - disc) * stream.uniforms(0.86, 1.08, count),
            stream.uniforms(0.85, 1.15, count) * 4.4 / count,
            outline,
            base=disc * 0.92,
            height=0.04 * layer,
            elevation=0.015 + 0.03 * layer + stream.uniforms(-0.02, 0.02, count),
            curl=stream.uniforms(-0.07, 0.05, count),
            cup=0.4,
            columns=columns,
        )
        tinted = _tinted(stream, colours * (0.9 + 0.1 * layer), count, 0.07)
        parts.append(shapes.grid_mesh(points, tinted, steps(columns)))
    dark: Colour = (58.0, 32.0, 14.0)
    heart: Colour = (104.0, 92.0, 34.0) if stream.chance(0.5) else (74.0, 46.0, 20.0)
    dish = 0.1 * disc
    parts.append(shapes.dome(disc, 0.05, dish, heart, (40.0, 22.0, 10.0)))
    seeds = max(60, min(330, int(radius * radius * 0.12)))
    places, relative = shapes.spiral(seeds, disc, dish, 0.06)
    tips = mix(mix(heart, dark, relative * 2.2 - 0.5), (196.0, 124.0, 24.0), relative * 6 - 5.0)
    tips = tips * (1.15 + stream.uniforms(-0.2, 0.25, seeds))[:, None]
    sizes = np.full(seeds, 1.3 * disc / np.sqrt(seeds))
    parts.append(shapes.florets(places, sizes, tips, tips * 0.38, 1.0))
    return Head(shapes.join(parts), shapes.stripes_from(stream, 0.1), -0.08)


def _tulip(stream: Stream, radius: float) -> Head:
    colour, base = _TULIPS[stream.integer(0, len(_TULIPS) - 1)]
    rows, columns = (13, 13) if radius > 20 else (8, 7)
    along, across = _grid(rows, columns)
    opened = stream.uniform(0, 1) * stream.uniform(0, 1)
    reaches = [0.12, 0.42, 0.6, 0.64, 0.54 + 0.14 * opened, 0.3 + 0.5 * opened]
    profile = curve(along[:, 0], [0, 0.12, 0.3, 0.5, 0.75, 1], reaches)[:, None]
    outline = curve(along[:, 0], [0, 0.1, 0.35, 0.6, 0.8, 0.93, 1], [0.55, 0.85, 1, 0.95, 0.7, 0.36, 0.03])[:, None]
    parts = []
    tall = stream.uniform(1.5, 1.85)
    for layer in range(2):  # the inner three, then the outer three
        azimuth = np.arange(3) / 3 + layer / 6 + stream.uniforms(-0.02, 0.02, 3)
        lean = stream.uniforms(-0.04, 0.06, 3)[:, None, None]
        reach = profile * (0.93 + 0.07 * layer) + lean * along + 0.02 * (1 - across * across)
        height = -0.75 + tall * along * (1.04 - 0.06 * layer) * (1 + stream.uniforms(-0.04, 0.04, 3)[:, None, None])
        points = shapes.cup_petals(azimuth, reach, height, outline * across * (0.19 + 0.005 * layer))
        tone = mix(base, colour, along * 2.6 - 0.05 + 0.2 * across * across)
        pale = np.minimum(np.asarray(colour) * 1.1 + 26, 255)
        tone = mix(tone, pale, across * across * across * across * 0.7 * np.minimum(along * 2, 1))
        tone = tone * (0.86 + 0.14 * layer)
        parts.append(shapes.grid_mesh(points, _tinted(stream, tone, 3, 0.05), (across + 1) / 2 * np.ones((rows, 1))))
    parts.append(shapes.dome(0.14, -0.72, 0.3, (214.0, 200.0, 90.0), (120.0, 140.0, 60.0)))
    return Head(shapes.join(parts), shapes.stripes_from(stream, 0.09), -0.74)


_TULIPS: list[tuple[Colour, Colour]] = [
    ((212.0, 26.0, 34.0), (196.0, 130.0, 40.0)),
    ((240.0, 190.0, 30.0), (214.0, 186.0, 60.0)),
    ((236.0, 96.0, 150.0), (236.0, 226.0, 200.0)),
    ((122.0, 40.0, 130.0), (190.0, 160.0, 170.0)),
    ((246.0, 240.0, 228.0), (196.0, 206.0, 130.0)),
    ((242.0, 120.0, 40.0), (238.0, 190.0, 60.0)),
    ((240.0, 160.0, 180.0), (240.0, 236.0, 210.0)),
]

_BUILDERS: dict[str, Callable[[Stream, float], Head]] = {
    "daisy": _daisy,
    "dandelion": _dandelion,
    "rose": _rose,
    "sunflower": _sunflower,
    "tulip": _tulip,
}
