"""Flower scenes: where the flowers of an image stand, what is visible of them, and how a camera sees it.

An object is the flower head only: stems and leaves belong to the background.
"""

from dataclasses import dataclass

import numpy as np

from detseg.flowers import backgrounds, canvas, shapes
from detseg.flowers.canvas import Stream
from detseg.flowers.heads import SPECIES, draw_head
from detseg.flowers.plants import build_plant
from detseg.flowers.shapes import Array, Light, Sprite

_SALT = 20240  # keeps these streams apart from others with the same seed
MIN_SIDE = 14  # pixels of the shorter side of a head's visible box, in an image whose short side is 320
MIN_VISIBLE = 0.4  # share of a head that other things and the image's border must leave free


@dataclass
class FlowerScene:
    """One drawn image with the truth about it."""

    image: Array  # (H,W,3) uint8 RGB
    boxes: Array  # (M,4) float32 xyxy, tight around the visible masks
    labels: Array  # (M,) int64 into SPECIES
    masks: Array  # (M,H,W) bool, disjoint
    semantic: Array  # (H,W) uint8, 0 background and 1..5 species
    jpeg_quality: int  # the compression that belongs to the image


@dataclass
class _Flower:
    """A flower as planned: where its head is, how large, and how it stands; angles in turns."""

    species: str
    x: float
    y: float
    radius: float
    tilt: float
    lean: float
    spin: float
    blur: int
    key: int
    plant: Sprite | None = None
    head: Sprite | None = None


def draw_scene(seed: int, size: tuple[int, int] = (320, 320)) -> FlowerScene:
    """The scene that belongs to a seed, as an image of `size` (width, height), each at least 64."""
    if seed < 0:
        raise ValueError(f"seed={seed}: give 0 or more")
    if min(size) < 64:
        raise ValueError(f"size={size}: flowers need images of at least 64 x 64 pixels; give (width, height)")
    stream = Stream(_SALT, seed)
    light = _sun(stream)
    from_side = stream.chance(0.5)
    kind = stream.pick(backgrounds.FROM_SIDE if from_side else backgrounds.FROM_ABOVE)
    image = backgrounds.paint(kind, stream, size, light)
    flowers = _plan(stream, size, from_side)
    for flower in flowers:
        _draw_flower(flower, Stream(_SALT, seed, flower.key), light, size, kind)
    flowers, ids = _keep_visible(flowers, size)
    for flower in flowers:
        _paint_flower(image, flower, light, from_side)
    image = _develop(stream, image)
    return _scene(image, flowers, ids, stream.integer(72, 95))


def _sun(stream: Stream) -> Light:
    x, y, z = stream.uniform(-0.8, 0.8), stream.uniform(-0.9, -0.3), stream.uniform(0.5, 0.9)
    size = float(np.sqrt(x * x + y * y + z * z))
    hard = stream.uniform(0, 1)
    return Light((x / size, y / size, z / size), 0.72 - 0.2 * hard, 0.44 + 0.24 * hard, 0.36)


def _plan(stream: Stream, size: tuple[int, int], from_side: bool) -> list[_Flower]:
    """Flowers from the farthest to the nearest, overlapping a little."""
    unit = min(size) / 320
    count = min(stream.integer(1, 12), stream.integer(1, 12))
    main = stream.pick(SPECIES)
    mixed = stream.chance(0.55)
    largest = stream.uniform(34, 84) * (1.15 if count < 4 else 1.0) / (1 + 0.06 * count)
    flowers: list[_Flower] = []
    for key in range(count):
        species = stream.pick(SPECIES) if mixed else main
        for _ in range(12):
            scale = stream.uniform(0.38, 1.0)
            radius = max(15.0, largest * scale) * unit
            x = stream.uniform(0.6 * radius, size[0] - 0.6 * radius)
            y = stream.uniform(0.6 * radius, size[1] - (1.1 if from_side else 0.6) * radius)
            near = ((x - other.x, y - other.y, 0.72 * (radius + other.radius)) for other in flowers)
            if all(dx * dx + dy * dy > least * least for dx, dy, least in near):
                break
        else:
            continue
        tilt, lean = _pose(stream, species, from_side)
        flowers.append(_Flower(species, x, y, radius, tilt, lean, stream.uniform(0, 1), 0, key))
    focus = stream.uniform(0.7, 1.1) * largest * unit
    for flower in flowers:
        flower.blur = int(abs(focus - flower.radius) / (22 * unit) * unit * 0.9)
    return sorted(flowers, key=lambda flower: flower.radius)


def _pose(stream: Stream, species: str, from_side: bool) -> tuple[float, float]:
    """Tilt away from the viewer and the direction of the lean, in turns."""
    if species == "tulip":
        return stream.uniform(0.17, 0.26), -0.25 + stream.uniform(-0.06, 0.06)
    if from_side:
        return stream.uniform(0.02, 0.17), -0.25 + stream.uniform(-0.12, 0.12)
    return stream.uniform(0.0, 0.12), stream.uniform(0, 1)


def _draw_flower(flower: _Flower, stream: Stream, light: Light, size: tuple[int, int], kind: str) -> None:
    """Draw the sprites of a planned flower: stem and leaves, then the head."""
    head = draw_head(flower.species, stream, flower.radius)
    matrix = shapes.rotation(flower.tilt, flower.lean, flower.spin)
    mesh = shapes.place(head.mesh, matrix, flower.radius, flower.x, flower.y)
    shadow = max(1.0, head.shadow * flower.radius)
    flower.head = shapes.render(mesh, light, size, stripes=head.stripes, shadow=shadow, blur=flower.blur)
    foot = shapes.turn(np.array([[0.0, 0.0, head.base]]), matrix)[0] * flower.radius
    start = (flower.x + foot[0], flower.y + foot[1])
    plant = build_plant(flower.species, stream, start, matrix[:, 2], flower.radius, kind, size)
    reach = max(1.0, 0.1 * flower.radius)
    veins = shapes.LEAF_VEINS
    flower.plant = shapes.render(plant, light, size, stripes=veins, shadow=reach, blur=flower.blur, clip=True)


def _keep_visible(flowers: list[_Flower], size: tuple[int, int]) -> tuple[list[_Flower], Array]:
    """Drop flowers too hidden or too small to annotate; the rest, and their map (H,W): 0 or 1 + index."""
    least = MIN_SIDE * min(size) / 320
    while flowers:
        ids = _map_of(flowers, size)
        whole = np.array([0 if f.head is None else (f.head.rgba[..., 3] >= 128).sum() for f in flowers])
        found = canvas.measure(ids, len(flowers))
        sides = np.minimum(found[:, 3] - found[:, 1], found[:, 4] - found[:, 2])
        shares = np.where(sides < least, 0.0, found[:, 0] / np.maximum(whole, 1))
        worst = int(shares.argmin())
        if shares[worst] >= MIN_VISIBLE:
            return flowers, ids
        flowers = flowers[:worst] + flowers[worst + 1 :]
    return flowers, _map_of(flowers, size)


def _map_of(flowers: list[_Flower], size: tuple[int, int]) -> Array:
    """Which head each pixel shows (H,W) uint8: 0 none, 1 + index; what comes later hides what came before."""
    ids = np.zeros((size[1], size[0]), np.uint8)
    for number, flower in enumerate(flowers, 1):
        for sprite, mark in ((flower.plant, 0), (flower.head, number)):
            if sprite is not None:
                canvas.mark(ids, sprite.rgba, sprite.left, sprite.top, mark)
    return ids


def _paint_flower(image: Array, flower: _Flower, light: Light, from_side: bool) -> None:
    """Lay shadow, plant and head over the image, in place."""
    if flower.plant is not None:
        flower.plant.paste(image)
    head = flower.head
    if head is None:
        return
    reach = (0.12 if from_side else 0.28) * flower.radius
    soft = max(1, int(flower.radius * 0.09))
    pad = 2 * soft
    alpha = canvas.blur(np.pad(head.rgba[..., 3:], ((pad, pad), (pad, pad), (0, 0))), soft)
    dx, dy = int(-light.direction[0] * reach * 1.5), int(-light.direction[1] * reach * 1.5)
    canvas.darken(image, alpha, head.left - pad + dx, head.top - pad + dy, 70 if from_side else 140)
    head.paste(image)


def _develop(stream: Stream, image: Array) -> Array:
    """What a camera does: softness, exposure, colour temperature, vignette and sensor noise."""
    if stream.chance(0.2):
        image = canvas.blur(image, 1, 1)
    exposure, warmth = stream.uniform(0.88, 1.25), stream.uniform(-0.09, 0.09)
    gains = np.array([[1 + warmth], [1.0], [1 - warmth]]) * exposure
    tables = np.clip(np.floor(np.arange(256) * gains + 0.5), 0, 255).astype(np.int64)
    canvas.develop(image, tables, stream.integer(0, 60), stream.integer(2, 14), stream.bytes(2 * image.size))
    return image


def _scene(image: Array, flowers: list[_Flower], ids: Array, quality: int) -> FlowerScene:
    masks = ids[None] == np.arange(1, len(flowers) + 1, dtype=np.uint8)[:, None, None]
    labels = np.array([SPECIES.index(flower.species) for flower in flowers], np.int64)
    boxes = canvas.measure(ids, len(flowers))[:, 1:].astype(np.float32)
    semantic = np.concatenate([np.zeros(1, np.uint8), labels.astype(np.uint8) + 1])[ids]
    return FlowerScene(image, boxes, labels, masks, semantic, quality)
