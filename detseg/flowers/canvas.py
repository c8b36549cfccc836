"""Integer drawing kernels and the random stream under the embedded flower images.

Everything here gives the same bytes on every machine: random numbers come from the raw output of PCG64
(whose stream numpy guarantees), and pixels are computed in integers.
"""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from detseg.kernels import njit

Item = TypeVar("Item")
SUBPIXEL = 16  # vertex coordinates and depths are integers in 1/16 of a sample
EMPTY = -(2**30)  # depth of a sample nothing was drawn on
_BLOCK = 256


class Stream:
    """Random numbers from integer keys: the same keys give the same numbers everywhere."""

    def __init__(self, *key: int):
        self._bits = np.random.PCG64(np.random.SeedSequence(key))
        self._block = np.empty(0)
        self._used = 0

    def floats(self, count: int) -> np.ndarray:
        """`count` float64 in [0, 1)."""
        if count > _BLOCK // 4:
            return self._fresh(count)
        if self._used + count > len(self._block):
            self._block, self._used = self._fresh(_BLOCK), 0
        self._used += count
        return self._block[self._used - count : self._used]

    def _fresh(self, count: int) -> np.ndarray:
        return (self._bits.random_raw(count) >> np.uint64(11)) * 2.0**-53

    def uniform(self, low: float, high: float) -> float:
        """One float64 in [low, high)."""
        return low + (high - low) * float(self.floats(1)[0])

    def uniforms(self, low: float, high: float, count: int) -> np.ndarray:
        """`count` float64 in [low, high)."""
        return low + (high - low) * self.floats(count)

    def integer(self, low: int, high: int) -> int:
        """One integer in low..high, both included."""
        return low + int(self.uniform(0, 1) * (high - low + 1))

    def chance(self, probability: float) -> bool:
        """True with the given probability."""
        return self.uniform(0, 1) < probability

    def pick(self, items: Sequence[Item]) -> Item:
        """One of the items, all equally likely."""
        return items[self.integer(0, len(items) - 1)]

    def bytes(self, count: int) -> np.ndarray:
        """`count` uint8, uniform."""
        raw = self._bits.random_raw((count + 7) // 8)
        return raw.astype("<u8").view(np.uint8)[:count]


@njit(nogil=True)
def fill_triangles(
    xy: np.ndarray,
    values: np.ndarray,
    faces: np.ndarray,
    stripes: np.ndarray,
    rgb: np.ndarray,
    depth: np.ndarray,
) -> None:
    """Draw triangles with interpolated colour into a depth-tested canvas, in place.

    xy (V,2) int64 in 1/16 sample; values (V,5) int64: depth, red, green, blue (0..255), stripe position
    (0..1023, an index into `stripes`, 64 brightness factors of which 256 is neutral); faces (T,3).
    rgb (H,W,3) uint8, depth (H,W) int32; the larger depth is nearer.
    """
    height, width = depth.shape
    start = np.zeros(5, np.int64)
    across = np.zeros(5, np.int64)
    down = np.zeros(5, np.int64)
    for face in range(faces.shape[0]):
        a, b, c = faces[face, 0], faces[face, 1], faces[face, 2]
        area = (xy[b, 0] - xy[a, 0]) * (xy[c, 1] - xy[a, 1]) - (xy[b, 1] - xy[a, 1]) * (xy[c, 0] - xy[a, 0])
        if area < 0:
            b, c = c, b
            area = -area
        if area < 8:  # a sliver: covers no sample centre worth drawing, and its gradients overflow
            continue
        ax, ay, bx, by, cx, cy = xy[a, 0], xy[a, 1], xy[b, 0], xy[b, 1], xy[c, 0], xy[c, 1]
        left = max(0, (min(ax, bx, cx) + 7) >> 4)
        right = min(width - 1, (max(ax, bx, cx) - 8) >> 4)
        top = max(0, (min(ay, by, cy) + 7) >> 4)
        bottom = min(height - 1, (max(ay, by, cy) - 8) >> 4)
        if left > right or top > bottom:
            continue
        for k in range(5):
            ab, ac = values[b, k] - values[a, k], values[c, k] - values[a, k]
            across[k] = (((ab * (cy - ay) - ac * (by - ay)) << 16) // area) << 4
            down[k] = (((ac * (bx - ax) - ab * (cx - ax)) << 16) // area) << 4
        px = (left << 4) + 8
        for y in range(top, bottom + 1):
            py = (y << 4) + 8
            # The three edge functions; a sample is inside where none is negative.
            ab = (bx - ax) * (py - ay) - (by - ay) * (px - ax)
            bc = (cx - bx) * (py - by) - (cy - by) * (px - bx)
            ca = (ax - cx) * (py - cy) - (ay - cy) * (px - cx)
            x = left
            while x <= right and (ab | bc | ca) < 0:
                ab -= (by - ay) << 4
                bc -= (cy - by) << 4
                ca -= (ay - cy) << 4
                x += 1
            for k in range(5):
                step = (across[k] >> 4) * ((x << 4) + 8 - ax) + (down[k] >> 4) * (py - ay)
                start[k] = (values[a, k] << 16) + step
            first = x
            while x <= right and (ab | bc | ca) >= 0:
                near = (start[0] + across[0] * (x - first)) >> 16
                if near > depth[y, x]:
                    depth[y, x] = near
                    factor = stripes[((start[4] + across[4] * (x - first)) >> 20) & 63]
                    for k in range(3):
                        value = (((start[k + 1] + across[k + 1] * (x - first)) >> 8) * factor) >> 16
                        rgb[y, x, k] = min(255, max(0, value))
                ab -= (by - ay) << 4
                bc -= (cy - by) << 4
                ca -= (ay - cy) << 4
                x += 1


@njit(nogil=True)
def resolve(rgb: np.ndarray, depth: np.ndarray, samples: int, taps: np.ndarray, strength: int) -> np.ndarray:
    """Average samples x samples blocks into premultiplied RGBA uint8 (H,W,4), shading what lies behind.

    taps (K,3) int64: x and y offset towards the light and the rise (in depth units) above which the
    neighbour there throws a shadow; strength 0..256 is how dark a full shadow of one tap is.
    """
    height, width = depth.shape[0] // samples, depth.shape[1] // samples
    out = np.zeros((height, width, 4), np.uint8)
    total = samples * samples
    for y in range(height):
        for x in range(width):
            red, green, blue, covered = 0, 0, 0, 0
            for sy in range(y * samples, (y + 1) * samples):
                for sx in range(x * samples, (x + 1) * samples):
                    here = depth[sy, sx]
                    if here == EMPTY:
                        continue
                    light = 256
                    for k in range(taps.shape[0]):
                        ny, nx = sy + taps[k, 1], sx + taps[k, 0]
                        if 0 <= ny < depth.shape[0] and 0 <= nx < depth.shape[1]:
                            rise = depth[ny, nx] - here - taps[k, 2]
                            if rise > 0:
                                light -= (strength * min(rise, taps[k, 2])) // taps[k, 2]
                    light = max(light, 60)
                    red += (rgb[sy, sx, 0] * light) >> 8
                    green += (rgb[sy, sx, 1] * light) >> 8
                    blue += (rgb[sy, sx, 2] * light) >> 8
                    covered += 1
            if covered:
                out[y, x, 0] = red // total
                out[y, x, 1] = green // total
                out[y, x, 2] = blue // total
                out[y, x, 3] = covered * 255 // total
    return out


@njit(nogil=True)
def _box_blur(source: np.ndarray, radius: int) -> np.ndarray:
    """One box filter along the rows and one along the columns of uint8 (H,W,C)."""
    height, width, channels = source.shape
    middle = np.empty_like(source)
    out = np.empty_like(source)
    share = 65536 // (2 * radius + 1)
    for y in range(height):
        for k in range(channels):
            total = np.int64(source[y, 0, k]) * (radius + 1)
            for x in range(radius):
                total += source[y, min(x + 1, width - 1), k]
            for x in range(width):
                middle[y, x, k] = (total * share + 32768) >> 16
                total += np.int64(source[y, min(x + radius + 1, width - 1), k])
                total -= np.int64(source[y, max(x - radius, 0), k])
    flat = middle.reshape(height, width * channels)
    flat_out = out.reshape(height, width * channels)
    totals = flat[0].astype(np.int32) * np.int32(radius + 1)
    for y in range(radius):
        for i in range(width * channels):
            totals[i] += np.int32(flat[min(y + 1, height - 1), i])
    for y in range(height):
        enters, leaves = min(y + radius + 1, height - 1), max(y - radius, 0)
        for i in range(width * channels):
            flat_out[y, i] = np.uint8((totals[i] * np.int32(share) + np.int32(32768)) >> np.int32(16))
            totals[i] += np.int32(flat[enters, i]) - np.int32(flat[leaves, i])
    return out


def blur(image: np.ndarray, radius: int, passes: int = 2) -> np.ndarray:
    """Repeated box blur of uint8 (H,W,C); the border pixels continue outside."""
    for _ in range(passes if radius > 0 else 0):
        image = _box_blur(np.ascontiguousarray(image), radius)
    return image


@njit(nogil=True)
def noise(height: int, width: int, cell_x: int, cell_y: int, octaves: int, seed: int) -> np.ndarray:
    """Smooth value noise (H,W) uint8 from hashed lattices; each octave halves the cell and the weight."""
    out = np.zeros((height, width), np.uint8)
    total = np.zeros((height, width), np.int32)
    cell = np.empty(width, np.int32)
    part = np.empty(width, np.int32)
    weights = np.int32(0)
    for octave in range(octaves):
        step_x, step_y = max(1, cell_x >> octave), max(1, cell_y >> octave)
        weight = np.int32(1 << (octaves - 1 - octave))
        weights += weight
        columns = width // step_x + 2
        lattice = np.empty((height // step_y + 2, columns), np.int32)
        for j in range(lattice.shape[0]):
            for i in range(columns):
                h = (i * 374761393 + j * 668265263 + (seed + octave) * 1442695041) & 0xFFFFFFFF
                h = ((h ^ (h >> 13)) * 1274126177) & 0xFFFFFFFF
                lattice[j, i] = ((h ^ (h >> 16)) >> 8) & 255
        for x in range(width):
            fx = ((x % step_x) << 8) // step_x
            cell[x], part[x] = x // step_x, (fx * fx * (768 - 2 * fx)) >> 16
        row = np.empty(columns, np.int32)
        for y in range(height):
            j, fy = y // step_y, ((y % step_y) << 8) // step_y
            fy = (fy * fy * (768 - 2 * fy)) >> 16
            for i in range(columns):
                row[i] = (lattice[j, i] * (256 - fy) + lattice[j + 1, i] * fy) >> 4
            for x in range(width):
                i = cell[x]
                total[y, x] += weight * ((row[i] * (256 - part[x]) + row[i + 1] * part[x]) >> 12)
    for y in range(height):
        for x in range(width):
            out[y, x] = total[y, x] // weights
    return out


@njit(nogil=True)
def develop(image: np.ndarray, tables: np.ndarray, dark: int, grain: int, random: np.ndarray) -> None:
    """Exposure by channel tables (3,256), a vignette and grain, in place; random holds 2 bytes a sample."""
    height, width, _ = image.shape
    column = np.empty(width, np.int64)
    for x in range(width):
        column[x] = (2 * x - width) * (2 * x - width) * 256 // (width * width)
    for y in range(height):
        row = (2 * y - height) * (2 * y - height) * 256 // (height * height)
        for x in range(width):
            keep = 65536 - (row + column[x]) * dark // 2
            for k in range(3):
                i = ((y * width + x) * 3 + k) * 2
                speck = ((np.int64(random[i]) + np.int64(random[i + 1]) - 255) * grain) >> 8
                value = ((tables[k, image[y, x, k]] * keep) >> 16) + speck
                image[y, x, k] = min(255, max(0, value))


@njit(nogil=True)
def measure(ids: np.ndarray, count: int) -> np.ndarray:
    """Area and tight half-open box of every id 1..count: (count,5) int64 area, left, top, right, bottom."""
    out = np.zeros((count + 1, 5), np.int64)
    out[:, 1:3] = 2**30
    for y in range(ids.shape[0]):
        for x in range(ids.shape[1]):
            k = ids[y, x]
            if k:
                out[k, 0] += 1
                out[k, 1], out[k, 2] = min(out[k, 1], x), min(out[k, 2], y)
                out[k, 3], out[k, 4] = max(out[k, 3], x + 1), max(out[k, 4], y + 1)
    return out[1:]


@njit(nogil=True)
def mark(ids: np.ndarray, sprite: np.ndarray, left: int, top: int, value: int) -> None:
    """Write `value` into ids (H,W) where the sprite covers at least half of a pixel."""
    for y in range(max(0, -top), min(sprite.shape[0], ids.shape[0] - top)):
        for x in range(max(0, -left), min(sprite.shape[1], ids.shape[1] - left)):
            if sprite[y, x, 3] >= 128:
                ids[top + y, left + x] = value


@njit(nogil=True)
def paste(image: np.ndarray, sprite: np.ndarray, left: int, top: int) -> None:
    """Lay a premultiplied RGBA sprite over image (H,W,3) uint8, in place."""
    for y in range(max(0, -top), min(sprite.shape[0], image.shape[0] - top)):
        for x in range(max(0, -left), min(sprite.shape[1], image.shape[1] - left)):
            rest = 255 - sprite[y, x, 3]
            if rest < 255:
                for k in range(3):
                    value = sprite[y, x, k] + (image[top + y, left + x, k] * rest + 127) // 255
                    image[top + y, left + x, k] = min(255, value)


@njit(nogil=True)
def darken(image: np.ndarray, alpha: np.ndarray, left: int, top: int, strength: int) -> None:
    """Multiply image by 1 - strength/256 * alpha/255, in place: a soft shadow. alpha (h,w,1) uint8."""
    for y in range(max(0, -top), min(alpha.shape[0], image.shape[0] - top)):
        for x in range(max(0, -left), min(alpha.shape[1], image.shape[1] - left)):
            keep = 65280 - strength * alpha[y, x, 0]
            if keep < 65280:
                for k in range(3):
                    image[top + y, left + x, k] = (image[top + y, left + x, k] * keep) // 65280
