"""Petals, discs, leaves and stems as small triangle meshes, and their drawing as anti-aliased sprites.

Geometry uses only + − × ÷ √ on float64, which IEEE 754 rounds identically everywhere, and sines from a
rounded table; coordinates and colours become integers before a pixel is touched. Local coordinates: x right,
y down, z towards the viewer; a flower looks along +z and has a radius of about 1.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from detseg.flowers import canvas
from detseg.flowers.canvas import Stream

_STEPS = 4096
# Rounded to 2**-24, so that the last digit of a machine's math library cannot show.
_SINES = np.array([round(math.sin(2 * math.pi * k / _STEPS) * 2**24) / 2**24 for k in range(_STEPS)])
GOLDEN = 0.3819660112501051  # the golden angle in turns: the order of leaves and seeds

Array = np.ndarray
Colour = tuple[float, float, float]


def sine(turns: ArrayLike) -> Array:
    """Sine of an angle in turns (1 = full circle), the same digits on every machine."""
    return _SINES[np.floor(np.asarray(turns) * _STEPS + 0.5).astype(np.int64) & (_STEPS - 1)]


def cosine(turns: ArrayLike) -> Array:
    """Cosine of an angle in turns."""
    return sine(np.asarray(turns) + 0.25)


class Mesh(NamedTuple):
    """Triangles with colour: points, normals, colours (V,3), stripe (V,) 0..1, faces (T,3)."""

    points: Array
    normals: Array
    colours: Array
    stripe: Array
    faces: Array


@dataclass
class Light:
    """A sun: direction (towards it), and how strong ambient, direct and shining-through light are."""

    direction: tuple[float, float, float]
    ambient: float = 0.55
    direct: float = 0.6
    through: float = 0.35


@dataclass
class Sprite:
    """A drawn thing: premultiplied RGBA (h,w,4) uint8 and where its top-left corner lies in the image."""

    rgba: Array
    left: int
    top: int

    def paste(self, image: Array) -> None:
        """Lay it over an image, in place."""
        canvas.paste(image, self.rgba, self.left, self.top)


@lru_cache(maxsize=64)
def _grid_faces(count: int, rows: int, columns: int) -> Array:
    index = np.arange(count * rows * columns).reshape(count, rows, columns)
    a, b = index[:, :-1, :-1].ravel(), index[:, :-1, 1:].ravel()
    c, d = index[:, 1:, :-1].ravel(), index[:, 1:, 1:].ravel()
    return np.concatenate([np.stack([a, b, c], 1), np.stack([b, d, c], 1)])


def grid_mesh(points: Array, colours: Array, stripe: Array | float = 0.0) -> Mesh:
    """A mesh from grids: points (P,U,V,3); colours and stripe broadcast to (P,U,V,3) and (P,U,V)."""
    count, rows, columns, _ = points.shape
    u, v = np.arange(rows), np.arange(columns)  # a point's normal is that of the cross of its neighbours
    along = points[:, np.minimum(u + 1, rows - 1)] - points[:, np.maximum(u - 1, 0)]
    across = points[:, :, np.minimum(v + 1, columns - 1)] - points[:, :, np.maximum(v - 1, 0)]
    return Mesh(
        points.reshape(-1, 3),
        np.cross(along, across).reshape(-1, 3),
        np.broadcast_to(colours, points.shape).reshape(-1, 3),
        np.broadcast_to(stripe, points.shape[:3]).reshape(-1),
        _grid_faces(count, rows, columns),
    )


def join(meshes: Sequence[Mesh]) -> Mesh:
    """Several meshes as one."""
    starts = np.cumsum([0] + [len(mesh.points) for mesh in meshes])
    moved = [mesh._replace(faces=mesh.faces + start) for mesh, start in zip(meshes, starts, strict=False)]
    return Mesh(*(np.concatenate(arrays) for arrays in zip(*moved, strict=True)))


def steps(count: int, low: float = 0.0, high: float = 1.0) -> Array:
    """`count` evenly spaced values from low to high."""
    return low + (high - low) * (np.arange(count) / max(1, count - 1))


def curve(at: Array, xs: Sequence[float], ys: Sequence[float]) -> Array:
    """Straight lines through the points (xs, ys), read at `at`; np.interp may round differently elsewhere."""
    x, y = np.asarray(xs, float), np.asarray(ys, float)
    left = np.clip(np.searchsorted(x, at, side="right") - 1, 0, len(x) - 2)
    return y[left] + (y[left + 1] - y[left]) * ((at - x[left]) / (x[left + 1] - x[left]))


def mix(a: Colour | Array, b: Colour | Array, share: Array | float) -> Array:
    """Colour between a (share 0) and b (share 1); share (...) gives (...,3)."""
    share = np.clip(np.asarray(share), 0, 1)[..., None]
    return np.asarray(a) * (1 - share) + np.asarray(b) * share


def ray_petals(
    azimuth: Array,
    length: Array,
    width: Array,
    outline: Array,
    *,
    base: float | Array,
    height: float | Array,
    elevation: float | Array,
    curl: float | Array = 0.0,
    cup: float | Array = 0.0,
    columns: int = 3,
    tooth: float = 0.0,
) -> Array:
    """Points (P,U,V,3) of P strap petals that start on a ring and point outwards.

    outline (U,) is the relative width along the petal; elevation and curl are turns (the slope at the base
    and how much it changes to the tip); cup lifts the edges; tooth notches the tip.
    """
    rows = len(outline)
    along = steps(rows)
    slope = np.reshape(elevation, (-1, 1)) + np.reshape(curl, (-1, 1)) * along
    slope = np.broadcast_to(slope, (len(azimuth), rows))
    stride = np.reshape(length, (-1, 1)) / (rows - 1)
    out = np.cumsum(cosine(slope) * stride, 1) - cosine(slope[:, :1]) * stride
    rise = np.cumsum(sine(slope) * stride, 1) - sine(slope[:, :1]) * stride
    side = steps(columns, -1, 1)
    half = np.reshape(width, (-1, 1)) * outline / 2
    across = half[:, :, None] * side
    lift = np.reshape(cup, (-1, 1, 1)) * half[:, :, None] * side * side
    far = (np.reshape(base, (-1, 1)) + out)[:, :, None] - sine(slope)[:, :, None] * lift
    if tooth:
        notch = np.where(np.arange(columns) % 2 == 0, 0.0, -tooth) if columns > 3 else -tooth * (1 - side * side)
        far = far + np.where(along[:, None] == 1, notch, 0.0) * np.reshape(length, (-1, 1, 1))
    up = (np.reshape(height, (-1, 1)) + rise)[:, :, None] + cosine(slope)[:, :, None] * lift
    c, s = cosine(azimuth)[:, None, None], sine(azimuth)[:, None, None]
    return np.stack([far * c - across * s, far * s + across * c, np.broadcast_to(up, far.shape)], -1)


def cup_petals(azimuth: Array, radius: Array, height: Array, span: Array) -> Array:
    """Points (P,U,V,3) of petals around the axis; span is each point's angle (turns) from the petal's middle line."""
    radius, height, span = np.broadcast_arrays(radius, height, span)
    angle = azimuth[:, None, None] + span
    return np.stack([radius * cosine(angle), radius * sine(angle), height], -1)


def broad_leaves(
    places: Array, length: Array, width: Array, turns: Array, colours: Array, *, curl: Array, cup: Array
) -> Mesh:
    """Egg-shaped leaves: bases at places (P,3), pointing along `turns`; colours (P,3); folded by cup."""
    outline = np.array([0.05, 0.62, 0.95, 1.0, 0.8, 0.45, 0.02])
    wide = length * width
    points = ray_petals(
        turns, length, wide, outline, base=0.0, height=0.0, elevation=0.04, curl=curl, cup=cup, columns=5
    )
    return grid_mesh(points + places[:, None, None, :], colours[:, None, None, :], steps(5))


def florets(places: Array, sizes: Array, tips: Array, hollows: Array, lift: float) -> Mesh:
    """Small pyramids on a disc: places (F,3), sizes (F,), tip and edge colours (F,3); one draws one seed."""
    count = len(places)
    corner = np.arange(4) * 0.25 + 0.125
    ring = np.stack([cosine(corner), sine(corner), np.zeros(4)], -1)
    corners = places[:, None, :] + ring * sizes[:, None, None]
    peaks = places + np.stack([np.zeros(count), np.zeros(count), sizes * lift], -1)
    points = np.concatenate([corners, peaks[:, None]], 1)
    normals = np.concatenate([ring * 0.7 + np.array([0, 0, 1.0]), np.array([[0, 0, 1.0]])])
    colours = np.concatenate([np.repeat(hollows[:, None], 4, 1), tips[:, None]], 1)
    first = 5 * np.arange(count)[:, None]
    faces = np.concatenate([np.stack([first + k, first + (k + 1) % 4, first + 4], -1) for k in range(4)])
    return Mesh(
        points.reshape(-1, 3),
        np.tile(normals, (count, 1)),
        colours.reshape(-1, 3),
        np.zeros(5 * count),
        faces.reshape(-1, 3),
    )


def spiral(count: int, radius: float, dome: float, height: float) -> tuple[Array, Array]:
    """Phyllotaxis: places (F,3) of `count` seeds on a domed disc, and their relative radius (F,) 0..1."""
    order = np.arange(count) + 0.5
    relative = np.sqrt(order / count)
    turn = order * GOLDEN
    turn = turn - np.floor(turn)
    x, y = radius * relative * cosine(turn), radius * relative * sine(turn)
    return np.stack([x, y, height + dome * (1 - relative * relative)], -1), relative


def dome(radius: float, height: float, rise: float, inner: Colour, outer: Colour) -> Mesh:
    """A smooth cushion, under florets or as a bud."""
    share = steps(4)[None, :, None]
    angle = steps(13)[None, None, :]
    x, y = radius * share * cosine(angle), radius * share * sine(angle)
    points = np.stack(np.broadcast_arrays(x, y, height + rise * (1 - share * share)), -1)
    return grid_mesh(points, mix(inner, outer, share))


def ribbon(path: Array, width: Array, colours: Array, bulge: float = 1.0, columns: int = 3) -> Mesh:
    """A stem or leaf along path (U,3) in image pixels; width (U,); bulge 1 is round, below 0 a gutter."""
    side = steps(columns, -1, 1)
    tangent = np.concatenate([path[1:2] - path[:1], path[2:] - path[:-2], path[-1:] - path[-2:-1]])
    size = np.sqrt(tangent[:, 0] * tangent[:, 0] + tangent[:, 1] * tangent[:, 1]) + 1e-9
    half = (width / 2)[:, None]
    x = path[:, :1] - (tangent[:, 1] / size)[:, None] * half * side
    y = path[:, 1:2] + (tangent[:, 0] / size)[:, None] * half * side
    z = path[:, 2:3] + bulge * half * (1 - side * side)
    return grid_mesh(np.stack([x, y, z], -1)[None], colours, (side + 1) / 2 * np.ones((len(path), 1)))


def bezier(start: Sequence[float], middle: Sequence[float], end: Sequence[float], count: int) -> Array:
    """Points (count,3) of a quadratic curve."""
    t = steps(count)[:, None]
    a, b, c = np.asarray(start, float), np.asarray(middle, float), np.asarray(end, float)
    return a * (1 - t) * (1 - t) + b * 2 * t * (1 - t) + c * t * t


def rotation(tilt: float, lean: float, spin: float) -> Array:
    """Matrix (3,3) that spins about the axis and then tips it by `tilt` towards direction `lean` (turns)."""
    (ct, cl, cs), (st, sl, ss) = cosine([tilt, lean, spin]).tolist(), sine([tilt, lean, spin]).tolist()
    # Tipping towards (cl, sl): the axis goes to (st·cl, st·sl, ct).
    first = [ct * cl * cl + sl * sl, (ct - 1) * cl * sl, st * cl]
    second = [(ct - 1) * cl * sl, ct * sl * sl + cl * cl, st * sl]
    tip = np.array([first, second, [-st * cl, -st * sl, ct]])
    x = tip[:, 0] * cs + tip[:, 1] * ss
    y = tip[:, 1] * cs - tip[:, 0] * ss
    return np.stack([x, y, tip[:, 2]], 1)


def turn(points: Array, matrix: Array) -> Array:
    """points (V,3) times the matrix, without BLAS (whose rounding differs between machines)."""
    x, y, z = points[:, 0:1], points[:, 1:2], points[:, 2:3]
    return x * matrix[:, 0] + y * matrix[:, 1] + z * matrix[:, 2]


def place(mesh: Mesh, matrix: Array, scale: float, x: float, y: float, perspective: float = 0.1) -> Mesh:
    """The mesh rotated, scaled and moved to (x, y) in image pixels; nearer parts come out larger."""
    points = turn(mesh.points, matrix)
    zoom = 1 + perspective * points[:, 2]
    points = np.stack([points[:, 0] * zoom * scale + x, points[:, 1] * zoom * scale + y, points[:, 2] * scale], 1)
    return mesh._replace(points=points, normals=turn(mesh.normals, matrix))


def shade(mesh: Mesh, light: Light) -> Array:
    """Lit colours (V,3) as int64 0..255."""
    nx, ny, nz = mesh.normals[:, 0], mesh.normals[:, 1], mesh.normals[:, 2]
    size = np.sqrt(nx * nx + ny * ny + nz * nz) + 1e-12
    lx, ly, lz = light.direction
    facing = (nx * lx + ny * ly + nz * lz) / np.where(nz < 0, -size, size)
    shine = light.ambient + light.direct * np.maximum(facing, 0) + light.through * np.maximum(-facing, 0)
    return np.clip(np.floor(mesh.colours * shine[:, None]), 0, 255).astype(np.int64)


NEUTRAL = np.full(64, 256, np.int64)
LEAF_VEINS = np.full(64, 256, np.int64)
LEAF_VEINS[30:34] = 316
LEAF_VEINS[[8, 16, 24, 39, 47, 55]] = 238


def render(
    mesh: Mesh,
    light: Light,
    bounds: tuple[int, int],
    *,
    stripes: Array = NEUTRAL,
    shadow: float = 0.0,
    blur: int = 0,
    clip: bool = False,
    samples: int = 0,
) -> Sprite | None:
    """Draw a mesh placed in image pixels. Shadow is the reach of self-shadowing in pixels, 0 for none.

    With clip, what lies outside the image of `bounds` (width, height) is left out. A pixel is the mean of
    samples x samples points, by default more in small things. None: nothing to draw.
    """
    low, high = mesh.points.min(0), mesh.points.max(0)
    left, top = math.floor(low[0]) - 1, math.floor(low[1]) - 1
    right, bottom = math.ceil(high[0]) + 1, math.ceil(high[1]) + 1
    if clip:
        left, top = max(left, -8), max(top, -8)
        right, bottom = min(right, bounds[0] + 8), min(bottom, bounds[1] + 8)
    width, height = right - left, bottom - top
    if width <= 0 or height <= 0:
        return None
    samples = samples or (2 if max(width, height) > 90 else 3 if max(width, height) > 40 else 4)
    fine = samples * canvas.SUBPIXEL
    shift = np.array([left, top, 0.0])
    fixed = np.floor((mesh.points - shift) * fine + 0.5).astype(np.int64)
    values = np.empty((len(fixed), 5), np.int64)
    values[:, 0] = fixed[:, 2]
    values[:, 1:4] = shade(mesh, light)
    values[:, 4] = np.floor(mesh.stripe * 1023).astype(np.int64)
    rgb = np.zeros((height * samples, width * samples, 3), np.uint8)
    depth = np.full((height * samples, width * samples), canvas.EMPTY, np.int32)
    canvas.fill_triangles(np.ascontiguousarray(fixed[:, :2]), values, mesh.faces, stripes, rgb, depth)
    taps = _taps(light, shadow * samples) if shadow else np.zeros((0, 3), np.int64)
    rgba = canvas.resolve(rgb, depth, samples, taps, 90)
    if blur:
        pad = 2 * blur
        rgba = canvas.blur(np.pad(rgba, ((pad, pad), (pad, pad), (0, 0))), blur)
        left, top = left - pad, top - pad
    return Sprite(rgba, left, top)


def _taps(light: Light, reach: float) -> Array:
    """Where `resolve` looks for something that throws a shadow: towards the light, near and far."""
    far = np.array([[reach * 0.4], [reach]])
    rise = np.maximum(8, np.floor(far * canvas.SUBPIXEL * 0.6))
    return np.hstack([np.floor(np.array(light.direction[:2]) * far * 1.4 + 0.5), rise]).astype(np.int64)


def stripes_from(stream: Stream, strength: float) -> Array:
    """64 brightness factors for the veins of a petal, mirrored about its middle."""
    half = stream.uniforms(-strength, strength, 32)
    smooth = (half + np.roll(half, 1)) / 2
    return np.floor(256 * (1 + np.concatenate([smooth, smooth[::-1]]))).astype(np.int64)
