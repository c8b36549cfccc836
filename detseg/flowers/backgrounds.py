"""What stands behind the embedded flowers: grass, soil, foliage, meadow with sky, and blurred light."""

from collections.abc import Callable

import numpy as np

from detseg.flowers import canvas, shapes
from detseg.flowers.canvas import Stream
from detseg.flowers.shapes import Array, Colour, Light, mix, steps

# Seen from above (flowers look up at the viewer) or from the side (stems go down).
FROM_ABOVE = ("grass", "soil", "leaves")
FROM_SIDE = ("meadow", "sky", "bokeh")


def paint(kind: str, stream: Stream, size: tuple[int, int], light: Light) -> Array:
    """A background (H,W,3) uint8 of the given (width, height)."""
    return _PAINTERS[kind](stream, size, light)


def _noise(stream: Stream, size: tuple[int, int], cell_x: float, cell_y: float, octaves: int) -> Array:
    return canvas.noise(size[1], size[0], max(2, int(cell_x)), max(2, int(cell_y)), octaves, stream.integer(0, 2**30))


def _ramp(values: Array, dark: Colour, light: Colour) -> Array:
    """Colour uint8 (…,3) for values uint8, by a table of 256 colours."""
    table = np.clip(np.floor(mix(dark, light, steps(256))), 0, 255).astype(np.uint8)
    return np.take(table, values, axis=0)


def _stretch(values: Array, gain: int) -> Array:
    """More contrast around the middle, as integers."""
    return np.clip((values.astype(np.int32) - 128) * gain // 16 + 128, 0, 255).astype(np.uint8)


def _blades(
    stream: Stream,
    image: Array,
    light: Light,
    count: int,
    length: tuple[float, float],
    width: tuple[float, float],
    dark: Colour,
    bright: Colour,
    upright: float,
    first: float = -10.0,
    samples: int = 1,  # one is enough for what is blurred afterwards
) -> None:
    """Draw curved grass blades that stand between row `first` and the bottom of the image, in place."""
    high, wide = image.shape[:2]
    rows = 4
    t = steps(rows)[None, :, None]
    x, y = stream.uniforms(-10, wide + 10, count), stream.uniforms(first, high + length[1] * 0.7, count)
    long = stream.uniforms(*length, count)
    angle = stream.uniforms(-0.25, 0.25, count) * (1.6 - 1.3 * upright) - 0.25
    bend = stream.uniforms(-0.6, 0.6, count)
    thick = stream.uniforms(*width, count)
    dx, dy = shapes.cosine(angle) * long, shapes.sine(angle) * long
    path_x = (x[:, None] + dx[:, None] * t[..., 0] - (dy * bend)[:, None] * t[..., 0] * t[..., 0])[:, :, None]
    path_y = (y[:, None] + dy[:, None] * t[..., 0] + (dx * bend)[:, None] * t[..., 0] * t[..., 0])[:, :, None]
    side = steps(3, -1, 1)[None, None, :]
    taper = (thick[:, None, None] * (1 - 0.92 * t)) / 2
    along = np.sqrt(dx * dx + dy * dy)[:, None, None]
    px = path_x - (dy[:, None, None] / along) * taper * side
    py = path_y + (dx[:, None, None] / along) * taper * side
    depth = (stream.uniforms(0, 1, count) * 100)[:, None, None] + 20 * t + 0.5 * taper * (1 - side * side)
    points = np.stack([px, py, np.broadcast_to(depth, px.shape)], -1)
    tone = stream.uniforms(0, 1, count)[:, None, None]
    colours = mix(dark, bright, (0.55 * tone + 0.35 * t + 0.2 + 0.1 * side) * np.ones_like(px))
    mesh = shapes.grid_mesh(points, colours * (0.74 + 0.3 * depth[..., None] / 110))
    if sprite := shapes.render(mesh, light, (wide, high), clip=True, samples=samples):
        sprite.paste(image)


def _grass(stream: Stream, size: tuple[int, int], light: Light) -> Array:
    unit = min(size) / 320
    base = _noise(stream, size, 70 * unit, 70 * unit, 4)
    dark, bright = stream.pick(_GREENS)
    image = _ramp(base, dark, tuple(mix(dark, bright, 0.6)))
    number = size[0] * size[1] / (320 * 320 * unit * unit)
    for blur, count, wide in ((2, 260, 4.6), (1, 240, 4.2)):
        length, width = (34 * unit, 85 * unit), (wide * unit, 1.7 * wide * unit)
        _blades(stream, image, light, int(count * number), length, width, dark, bright, 0.55)
        image = canvas.blur(image, max(blur, int(blur * unit)), 1)
    return image


def _soil(stream: Stream, size: tuple[int, int], light: Light) -> Array:
    unit = min(size) / 320
    low = _stretch(_noise(stream, size, 60 * unit, 60 * unit, 3), 26)
    fine = _noise(stream, size, 9 * unit, 7 * unit, 3)
    mixed = ((low.astype(np.int32) + fine) // 2).astype(np.uint8)
    dark, bright = stream.pick(_EARTHS)
    # Light from the upper left on the clods: brightness by the slope of the fine noise.
    slope = fine.astype(np.int32) - np.roll(fine, (2, 2), (0, 1))
    clods = np.clip(mixed + slope * stream.integer(2, 5) // 8, 0, 255).astype(np.uint8)
    image = _ramp(_stretch(clods, 28), dark, bright)
    _pebbles(stream, image, light, unit, mix(dark, bright, 0.9))
    if stream.chance(0.6):
        count, length, width = stream.integer(6, 40), (15 * unit, 45 * unit), (2 * unit, 5 * unit)
        _blades(stream, image, light, count, length, width, (50, 80, 20), (120, 160, 60), 0.2)
    return canvas.blur(image, max(1, int(unit)), 1)


def _pebbles(stream: Stream, image: Array, light: Light, unit: float, tone: Array) -> None:
    """Scatter rounded stones over the image, in place."""
    count = stream.integer(10, 60)
    high, wide = image.shape[:2]
    radius = stream.uniforms(0.2, 1.0, count)
    radius = (1.5 + 5 * radius * radius * radius) * unit
    places = np.stack([stream.uniforms(0, wide, count), stream.uniforms(0, high, count)], 1)
    share = steps(4)[None, :, None]
    angle = steps(9)[None, None, :] + stream.uniforms(0, 1, count)[:, None, None]
    size = radius[:, None, None] * share * (1 + 0.25 * shapes.cosine(2 * angle))
    points = np.stack(
        [
            places[:, 0, None, None] + size * shapes.cosine(angle),
            places[:, 1, None, None] + size * 0.8 * shapes.sine(angle),
            radius[:, None, None] * (1 - share * share) * np.ones_like(angle),
        ],
        -1,
    )
    colours = tone * stream.uniforms(0.7, 1.25, count)[:, None, None, None]
    if sprite := shapes.render(shapes.grid_mesh(points, colours), light, (wide, high), clip=True):
        canvas.darken(image, canvas.blur(sprite.rgba[..., 3:], 1), sprite.left + 1, sprite.top + 2, 150)
        sprite.paste(image)


def _leaves(stream: Stream, size: tuple[int, int], light: Light) -> Array:
    unit = min(size) / 320
    dark, bright = stream.pick(_GREENS)
    shade = mix(dark, bright, stream.uniform(-0.1, 0.3))
    image = _ramp(_noise(stream, size, 60 * unit, 60 * unit, 3), tuple(shade * 0.3), tuple(shade))
    large = stream.uniform(26, 50)
    for layer in range(3):
        count = int((95 - 25 * layer) * (40 / large) * size[0] * size[1] / (320 * 320 * unit * unit))
        x, y = stream.uniforms(-20, size[0] + 20, count), stream.uniforms(-20, size[1] + 20, count)
        tone = mix(dark, bright, stream.uniforms(0.0, 1.0, count)) * (0.5 + 0.25 * layer)
        mesh = shapes.broad_leaves(
            np.stack([x, y, stream.uniforms(0, 40, count)], 1),
            stream.uniforms(0.75, 1.3, count) * large * unit,
            stream.uniforms(0.5, 0.72, count),
            stream.uniforms(0, 1, count),
            tone,
            curl=stream.uniforms(-0.16, 0.02, count),
            cup=stream.uniforms(0.1, 0.6, count),
        )
        veins, samples = shapes.LEAF_VEINS, 1 + layer // 2
        if sprite := shapes.render(mesh, light, size, stripes=veins, shadow=4 * unit, clip=True, samples=samples):
            sprite.paste(image)
        image = canvas.blur(image, max(1, int((3 - layer) * unit)), 1)
    return image


def _meadow(stream: Stream, size: tuple[int, int], light: Light) -> Array:
    unit = min(size) / 320
    horizon = stream.uniform(0.1, 0.5)
    image = _sky(stream, size, light)
    rows = np.arange(size[1]) / size[1]
    hills = _noise(stream, size, 90 * unit, 30 * unit, 4)
    ridge = _noise(stream, (size[0], 2), 40 * unit, 4, 4)[0] / 255.0
    dark, bright = stream.pick(_GREENS)
    trees = rows[:, None] > horizon - 0.16 * ridge[None, :]
    image[trees] = _ramp(hills, (28, 50, 30), (84, 112, 66))[trees]
    field = rows > horizon
    image[field] = _ramp(hills, tuple(np.asarray(dark) * 0.8 + 10), tuple(np.asarray(bright) * 0.85))[field]
    image = canvas.blur(image, max(2, int(5 * unit)))
    pale, light_green = mix(dark, bright, 0.35), mix(dark, bright, 0.9)
    for share, count, long, wide, blur in ((0.12, 150, 40, 3.5, 2), (0.3, 90, 75, 5.5, 2)):
        first, number = size[1] * (horizon + share), int(count * size[0] / (320 * unit))
        length, width = (0.6 * long * unit, long * unit), (wide * unit, 1.5 * wide * unit)
        _blades(stream, image, light, number, length, width, tuple(pale), tuple(light_green), 0.8, first)
        image = canvas.blur(image, max(1, int(blur * unit)), 1)
    return image


def _sky(stream: Stream, size: tuple[int, int], light: Light) -> Array:
    unit = min(size) / 320
    top, bottom = stream.pick(_SKIES)
    clouds = _stretch(_noise(stream, size, 120 * unit, 60 * unit, 5), stream.integer(30, 60)).astype(np.int32)
    share = (np.arange(size[1]) * 256 // size[1])[:, None, None]
    base = (np.floor(np.asarray(top)).astype(np.int32) * (256 - share) + np.asarray(bottom, np.int32) * share) >> 8
    cover = np.maximum(clouds - stream.integer(110, 190), 0)[..., None]
    image = base + (np.array([250, 250, 250], np.int32) - base) * cover // 200
    return canvas.blur(np.clip(image, 0, 255).astype(np.uint8), max(1, int(2 * unit)), 1)


def _bokeh(stream: Stream, size: tuple[int, int], light: Light) -> Array:
    unit = min(size) / 320
    dark, bright, glow = stream.pick(_GLOWS)
    image = _ramp(_stretch(_noise(stream, size, 150 * unit, 130 * unit, 2), 24), dark, bright)
    angle = steps(25)
    for _ in range(stream.integer(4, 18)):
        x, y = stream.uniform(0, size[0]), stream.uniform(0, size[1])
        radius = stream.uniform(8, 34) * unit
        rim = np.stack([x + radius * shapes.cosine(angle), y + radius * shapes.sine(angle), 0 * angle], -1)
        middle = np.broadcast_to(np.array([x, y, 0.0]), rim.shape)
        disc = shapes.grid_mesh(np.stack([middle, rim])[None], mix(bright, glow, stream.uniform(0.2, 0.9)))
        disc = disc._replace(normals=np.broadcast_to(np.array([0.0, 0.0, 1.0]), disc.normals.shape))
        if sprite := shapes.render(disc, _FLAT, size, clip=True):
            sprite.rgba = (sprite.rgba.astype(np.int32) * stream.integer(40, 120) // 256).astype(np.uint8)
            sprite.paste(image)
    return canvas.blur(image, max(2, int(stream.integer(2, 5) * unit)))


_FLAT = Light((0.0, 0.0, 1.0), 0.5, 0.5)
_GREENS: list[tuple[Colour, Colour]] = [
    ((44, 78, 24), (150, 190, 74)),
    ((34, 74, 36), (122, 178, 92)),
    ((62, 84, 20), (178, 196, 84)),
    ((40, 62, 34), (130, 160, 100)),
    ((26, 54, 24), (96, 140, 66)),
]
_EARTHS: list[tuple[Colour, Colour]] = [
    ((40, 26, 18), (132, 100, 74)),
    ((30, 24, 20), (104, 88, 76)),
    ((66, 42, 26), (166, 122, 84)),
    ((74, 62, 48), (176, 160, 134)),
]
_SKIES: list[tuple[Colour, Colour]] = [
    ((70, 130, 206), (176, 208, 236)),
    ((104, 152, 204), (212, 224, 232)),
    ((60, 104, 170), (224, 196, 170)),
    ((150, 164, 180), (206, 212, 216)),
]
_GLOWS: list[tuple[Colour, Colour, Colour]] = [
    ((18, 42, 18), (86, 124, 58), (210, 226, 150)),
    ((14, 26, 30), (52, 86, 84), (180, 214, 200)),
    ((54, 46, 24), (130, 118, 66), (250, 226, 170)),
    ((30, 40, 52), (104, 120, 132), (226, 232, 240)),
    ((40, 60, 20), (138, 164, 76), (240, 244, 200)),
]
_PAINTERS: dict[str, Callable[[Stream, tuple[int, int], Light], Array]] = {
    "grass": _grass,
    "soil": _soil,
    "leaves": _leaves,
    "meadow": _meadow,
    "sky": _sky,
    "bokeh": _bokeh,
}
