"""What carries a flower head: the stem and leaves of each species, seen from the side or from above."""

import numpy as np

from detseg.flowers import shapes
from detseg.flowers.canvas import Stream
from detseg.flowers.shapes import Array, Mesh, curve, mix, steps

_STEM = {"daisy": 0.09, "dandelion": 0.12, "rose": 0.12, "sunflower": 0.17, "tulip": 0.2}
_GREENS = {
    "daisy": ((72, 108, 42), (120, 158, 70)),
    "dandelion": ((104, 124, 58), (160, 158, 100)),
    "rose": ((36, 78, 32), (78, 122, 58)),
    "sunflower": ((78, 114, 40), (130, 162, 68)),
    "tulip": ((84, 126, 78), (132, 172, 114)),
}
_STEM_LEAVES = {"daisy": (0, 1), "dandelion": (0, 0), "rose": (2, 4), "sunflower": (2, 3), "tulip": (2, 3)}
_OPEN_AIR = ("sky", "bokeh", "leaves")  # backgrounds where no ground is seen: a stem must leave the image


def build_plant(
    species: str,
    stream: Stream,
    start: tuple[float, float],
    axis: Array,
    radius: float,
    background: str,
    size: tuple[int, int],
) -> Mesh:
    """Stem and leaves, in image pixels, of a head that joins its stem at `start` and looks along `axis`."""
    dark, bright = _GREENS[species]
    tone = mix(dark, bright, stream.uniform(0, 1))
    if background in ("grass", "soil") and species != "tulip":
        return _rosette(species, stream, start, radius, tone)
    path = _stem_path(stream, start, axis, radius, background, size)
    meshes = [shapes.ribbon(path, np.full(len(path), _STEM[species] * radius), tone * 0.9)]
    count = stream.integer(*_STEM_LEAVES[species])
    if species == "tulip":
        meshes += [_blade(stream, path, radius, tone, 1.0 if k % 2 else -1.0) for k in range(count)]
    elif count:
        meshes.append(_stem_leaves(species, stream, path, radius, tone, count))
    if path[-1, 1] < size[1]:
        meshes.append(_tuft(stream, path[-1], radius, tone))
    return shapes.join(meshes)


def _stem_path(
    stream: Stream, start: tuple[float, float], axis: Array, r: float, background: str, size: tuple[int, int]
) -> Array:
    """A curve that leaves along the head's axis and bends to the ground."""
    bottom = size[1] + 10.0
    if background not in _OPEN_AIR:
        bottom = min(bottom, start[1] + r * stream.uniform(4, 7))
    drop = max(bottom - start[1], 2 * r)
    foot = (start[0] + stream.uniform(-0.2, 0.2) * drop, start[1] + drop, -r)
    knee = (start[0] - axis[0] * r * 1.6, start[1] - min(float(axis[1]), -0.3) * r * 1.6, -0.4 * r)
    return shapes.bezier((*start, 0.0), knee, foot, 11)


def _stem_leaves(species: str, stream: Stream, path: Array, r: float, tone: Array, count: int) -> Mesh:
    """Leaves to both sides of a stem; those of roses come in threes."""
    large = {"daisy": 0.7, "rose": 0.95, "sunflower": 1.35}[species]
    sides, places, turns, length = [], [], [], []
    for k in range(count):
        side = 1.0 if k % 2 else -1.0
        at = path[stream.integer(2, 7)]
        angle = -0.25 + side * stream.uniform(0.12, 0.3)
        long = large * r * stream.uniform(0.75, 1.15)
        for fan in (0.0, -0.13, 0.13) if species == "rose" else (0.0,):
            sides.append(side)
            places.append(at)
            turns.append(angle + fan)
            length.append(long * (1.0 if fan == 0 else 0.75))
    number = len(places)
    return shapes.broad_leaves(
        np.array(places),
        np.array(length),
        stream.uniforms(0.45, 0.62, number) * (1.3 if species == "sunflower" else 1.0),
        np.array(turns),
        tone * stream.uniforms(0.78, 1.1, number)[:, None],
        curl=stream.uniforms(-0.14, 0.0, number),
        cup=stream.uniforms(0.2, 0.6, number),
    )


def _blade(stream: Stream, path: Array, r: float, tone: Array, side: float) -> Mesh:
    """A tulip's broad blue-green leaf from the foot of the stem."""
    foot = path[-1] + np.array([side * 0.2 * r, 0.0, 0.0])
    tall = min(stream.uniform(1.8, 3.4) * r, 0.85 * float(path[-1, 1] - path[0, 1]) + 0.6 * r)
    tip = foot + np.array([side * stream.uniform(0.5, 1.6) * r, -tall, 0.5 * r])
    knee = foot + np.array([side * stream.uniform(0.0, 0.5) * r, -0.6 * tall, 0.2 * r])
    width = curve(steps(9), [0, 0.35, 1], [0.4, 0.62, 0.02]) * r
    return shapes.ribbon(shapes.bezier(foot, knee, tip, 9), width, tone * stream.uniform(0.8, 1.1), -0.5, 5)


def _tuft(stream: Stream, foot: Array, r: float, tone: Array) -> Mesh:
    """Grass that hides where a stem enters the ground."""
    blades = []
    for _ in range(7):
        start = foot + np.array([stream.uniform(-0.5, 0.5) * r, 0.12 * r, 0.2 * r])
        tip = start + np.array([stream.uniform(-0.7, 0.7) * r, -stream.uniform(0.5, 1.4) * r, 0.3 * r])
        knee = (start + tip) / 2 + np.array([stream.uniform(-0.15, 0.15) * r, -0.2 * r, 0.0])
        shade = tone * np.array([0.85, 1.0, 0.7]) * stream.uniform(0.6, 1.05)
        blades.append(shapes.ribbon(shapes.bezier(start, knee, tip, 5), steps(5, 0.13, 0.01) * r, shade))
    return shapes.join(blades)


def _rosette(species: str, stream: Stream, centre: tuple[float, float], r: float, tone: Array) -> Mesh:
    """Leaves around a head seen from above: toothed and long below a dandelion, broad below the others."""
    count = stream.integer(5, 9)
    turns = (np.arange(count) + stream.uniforms(-0.3, 0.3, count)) / count + stream.uniform(0, 1)
    tones = tone * stream.uniforms(0.62, 0.98, count)[:, None] * np.array([0.85, 1.0, 0.8])
    length = stream.uniforms(1.1, 1.65, count) * r
    if species == "dandelion":
        rows = 13
        along = steps(rows)
        teeth = np.where(np.arange(rows) % 2 == 1, 1.0, 0.42)
        outline = teeth * curve(along, [0, 0.3, 0.85, 1], [0.25, 0.7, 1.0, 0.05])
        points = shapes.ray_petals(
            turns,
            length,
            length * 0.42,
            outline,
            base=0.0,
            height=-0.3 * r,
            elevation=0.0,
            cup=0.3,
            columns=3,
            curl=stream.uniforms(-0.1, 0.05, count),
        )
        points = points + np.array([centre[0], centre[1], 0.0])
        return shapes.grid_mesh(points, (tones * np.array([0.75, 0.95, 0.7]))[:, None, None, :], steps(3))
    places = np.tile(np.array([[centre[0], centre[1], -0.4 * r]]), (count, 1))
    places[:, 2] += np.arange(count) * 0.05 * r
    wide = {"daisy": 0.4, "rose": 0.6, "sunflower": 0.8}[species]
    return shapes.broad_leaves(
        places,
        length,
        stream.uniforms(0.85, 1.15, count) * wide,
        turns,
        tones,
        curl=stream.uniforms(-0.1, 0.03, count),
        cup=stream.uniforms(0.1, 0.5, count),
    )
