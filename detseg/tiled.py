"""Detectors on images larger than their networks: tile by tile, and what is found in them as of one image.

Each tile is looked at as an image of its own (Akyon et al. 2022, Slicing aided hyper inference, arXiv:2202.06934), and
so are larger tiles, and the whole image, all shrunk alike, for what is larger than a tile can show. What a tile sees in
part is left to the tile that sees all of it. None of this needs torch.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from detseg.data.object_masks import placed, window
from detseg.data.tiles import Tiling, cut_by, lay_tiles, tiling_for
from detseg.results import Results, as_maps
from detseg.sources import Image, in_batches, open_all

Found = dict[str, Any]
"""`boxes` (D, 4), `scores` (D,), `labels` (D,), numpy, and of models that find them `masks`, D COCO run lengths."""

Look = Callable[[Sequence[NDArray[np.uint8]]], Iterable[Mapping[str, Any]]]
"""What a detector finds in each of a few images (H, W, C), as `Found`."""

IOU_THRESHOLD = 0.5  # above, boxes of a class in two views are one object
IN_PART = 0.5  # of its score decides with which right an object that no tile sees whole stands against others
# Between the sides of tiles from level to level, which adds a third to the time. At 3 and 4 less is found of what is
# larger than the overlap: mAP 0.47 and 0.44 in place of 0.50 in three scenes of benchmarks/tiles.py, 0.42 without.
RATIO = 2
LARGE = 0.5  # of the overlap: what is smaller is looked for in tiles of this level and those before alone


def find_in_tiles(look: Look, image: NDArray[np.uint8], tiling: Tiling, *, batch_size: int = 8) -> Found:
    """What a detector finds in an image (H, W, C), in its pixels, best first.

    Besides the image it holds `batch_size` tiles at a time and what was found so far.
    """
    size = image.shape[1], image.shape[0]
    rectangles: list[NDArray[np.int64]] = []
    views: list[Found] = []
    cuts: list[NDArray[np.bool_]] = []
    for level, least in _levels(max(size), tiling):
        tiles = lay_tiles(*size, level.tile, level.overlap)
        rectangles.append(tiles)
        for numbers in in_batches(range(len(tiles)), batch_size):
            corners = tiles[numbers].tolist()
            for number, found in zip(numbers, look([image[y:v, x:u] for x, y, u, v in corners]), strict=True):
                boxes = found["boxes"] + np.tile(tiles[number, :2], 2).astype(np.float32)
                cut = cut_by(boxes, tiles, size, level.margin)
                # Where another tile sees all of it, and more than this one, that one decides.
                kept = (~cut[:, number] | cut.all(1)) & ((boxes[:, 2:] - boxes[:, :2]).max(1, initial=0) >= least)
                views.append(_moved(_select({**found, "boxes": boxes}, kept), tiles[number], image.shape))
                cuts.append(cut[kept, number])
    return merge(views, np.concatenate(rectangles), cuts)


def _levels(side: int, tiling: Tiling) -> Iterator[tuple[Tiling, float]]:
    """The tiles that images with a longer `side` are looked at in, the smallest first, the last of the whole image.

    With each the longer side that boxes have in them at least: what is smaller is seen better in the ones before.
    """
    least = 0.0
    while True:
        yield tiling, least
        if tiling.tile >= side:
            return
        least = LARGE * tiling.overlap
        tiling = Tiling(tiling.tile * RATIO, tiling.overlap * RATIO)


def _select(found: Mapping[str, Any], kept: NDArray[np.bool_]) -> Found:
    rows = np.flatnonzero(kept)
    names = ("boxes", "scores", "labels", *(("masks",) if "masks" in found else ()))
    return {n: [found[n][i] for i in rows.tolist()] if n == "masks" else np.asarray(found[n])[rows] for n in names}


def _moved(found: Found, tile: NDArray[np.int64], shape: Sequence[int]) -> Found:
    """The same with masks of a tile laid into the image of `shape` (H, W, …)."""
    if "masks" in found:
        parts = (window(mask) for mask in found["masks"])
        found["masks"] = [placed(int(tile[0]) + x, int(tile[1]) + y, part, shape) for x, y, part in parts]
    return found


def merge(views: Sequence[Found], rectangles: NDArray[np.integer], cuts: Sequence[NDArray[np.bool_]]) -> Found:
    """What several views of an image found, as one: of a class and an object the best detection, best first.

    Detections of one view leave each other alone: its detector has decided. Of two views those of a class are one
    object where their IoU is above `IOU_THRESHOLD`; where one of them is cut off, the IoU of what both views can see of
    the two. Better is what has the higher score, of which those that are cut off count `IN_PART`. Two that are cut off
    and one object are joined.

    Args:
        views: boxes and masks are in the image's pixels.
        rectangles: (V, 4) xyxy, what each view shows.
        cuts: of each view (D,), whether the object goes on beyond what it shows.
    """
    names = views[0].keys()
    found: Found = {name: np.concatenate([view[name] for view in views]) for name in names if name != "masks"}
    masks = [mask for view in views for mask in view.get("masks", ())]
    cut, owners = np.concatenate(cuts), np.repeat(np.arange(len(views)), [len(c) for c in cuts])
    pairs = _pairs(found, owners, rectangles, cut)
    groups = _groups(found["scores"] * np.where(cut, IN_PART, 1.0), pairs, cut)
    groups.sort(key=lambda group: -found["scores"][group[0]])
    result: Found = {name: values[[group[0] for group in groups]] for name, values in found.items()}
    for box, group in zip(result["boxes"], groups, strict=True):
        parts = found["boxes"][group]
        box[:2], box[2:] = parts[:, :2].min(0), parts[:, 2:].max(0)
    if "masks" in names:
        result["masks"] = [_joined([masks[i] for i in group]) for group in groups]
    return result


def _joined(masks: list[Any]) -> Any:
    if len(masks) == 1:
        return masks[0]
    from pycocotools import mask as coco

    return coco.merge(masks)


def _pairs(
    found: Found, owners: NDArray[np.int64], rectangles: NDArray[np.integer], cut: NDArray[np.bool_]
) -> NDArray[np.int64]:
    """(P, 2) the detections of two views that are one object, see `merge`; the views side by side, so all are few."""
    boxes, labels = found["boxes"].astype(np.float64), found["labels"]
    offsets = np.searchsorted(owners, np.arange(len(rectangles) + 1))
    meet = (rectangles[:, None, :2] < rectangles[None, :, 2:]).all(2)
    result = [np.zeros((0, 2), np.int64)]
    for a, b in np.argwhere(np.triu(meet & meet.T, 1)).tolist():
        common = np.concatenate(
            [np.maximum(rectangles[a, :2], rectangles[b, :2]), np.minimum(rectangles[a, 2:], rectangles[b, 2:])]
        )
        rows, columns = (_within(boxes, range(offsets[v], offsets[v + 1]), common) for v in (a, b))
        if not len(rows) or not len(columns):
            continue
        iou = _iou(boxes[rows], boxes[columns])
        in_part = cut[rows][:, None] | cut[columns]
        if in_part.any():
            low, high = np.tile(common[:2], 2), np.tile(common[2:], 2)
            seen = _iou(boxes[rows].clip(low, high), boxes[columns].clip(low, high))
            iou = np.where(in_part, seen, iou)
        i, j = np.nonzero((iou > IOU_THRESHOLD) & (labels[rows][:, None] == labels[columns]))
        result.append(np.column_stack([rows[i], columns[j]]))
    return np.concatenate(result)


def _within(boxes: NDArray[np.float64], rows: range, common: NDArray[np.integer]) -> NDArray[np.int64]:
    """Those of `rows` whose boxes reach into the rectangle `common` (4,)."""
    own = boxes[rows.start : rows.stop]
    return rows.start + np.flatnonzero(((own[:, :2] < common[2:]) & (own[:, 2:] > common[:2])).all(1))


def _iou(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """(N, M) of boxes (N, 4) and (M, 4); 0 of those without area."""
    sides = np.minimum(a[:, None, 2:], b[None, :, 2:]) - np.maximum(a[:, None, :2], b[None, :, :2])
    shared = sides.clip(0, None).prod(2)
    union = (a[:, 2:] - a[:, :2]).prod(1)[:, None] + (b[:, 2:] - b[:, :2]).prod(1) - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)


def _groups(ranks: NDArray[np.floating], pairs: NDArray[np.int64], cut: NDArray[np.bool_]) -> list[list[int]]:
    """The detections that stay, by falling rank, each with those that are joined to it.

    Greedy: each takes the place of all that are one with it and have not lost theirs.
    """
    both = np.concatenate([pairs, pairs[:, ::-1]])
    both = both[np.argsort(both[:, 0], kind="stable")]
    offsets = np.searchsorted(both[:, 0], np.arange(len(ranks) + 1)).tolist()
    partners, in_part = both[:, 1].tolist(), cut.tolist()
    gone = [False] * len(ranks)
    groups = []
    for first in np.argsort(-ranks, kind="stable").tolist():
        if gone[first]:
            continue
        group = [first]
        for one in group:  # which grows: pieces of pieces belong to it too
            for other in partners[offsets[one] : offsets[one + 1]]:
                if other == first or gone[other] or (one != first and not in_part[other]):
                    continue
                gone[other] = True
                if in_part[first] and in_part[other]:
                    group.append(other)
        groups.append(group)
    return groups


class Tiled:
    """A detector, trained or exported, that looks at large images tile by tile.

    Args:
        detector: what `detseg.load` or `detseg.runtime.load` gives.
        tile: side of the tiles, pixels of the image; by default by the objects of training, see
            `detseg.data.tiles.tiling_for`.
        overlap: pixels that neighbours share at least: as large as a large object; by default by those of training too.

    Attributes:
        detector: see above.
        tiling: side and overlap of the tiles, and why they are so.
        max_detections: the most objects of an image, None for any number; those of a tile are the detector's.

    Raises:
        ValueError: it is no detector, it has a tree of classes, or tile or overlap are out of range.
    """

    def __init__(self, detector: Any, *, tile: int | None = None, overlap: int | None = None) -> None:
        if detector.task != "detect":
            raise ValueError("only detectors look at images in tiles")
        if getattr(detector.model, "tree", None) is not None:
            raise ValueError("tiles are merged by class; with a tree of classes they may differ in their nodes")
        self.detector = detector
        self.tiling = tiling_for(detector.description.get("objects"), detector.size, tile, overlap)
        self._most: int | None = None

    @property
    def max_detections(self) -> int | None:
        """See the class."""
        return self._most

    @max_detections.setter
    def max_detections(self, most: int) -> None:
        if most < 1:
            raise ValueError(f"max-detections must be at least 1, not {most}")
        self._most = most

    @property
    def task(self) -> str:
        """That of the detector, as all below."""
        return str(self.detector.task)

    @property
    def model(self) -> Any:
        """The network."""
        return self.detector.model

    @property
    def description(self) -> dict[str, Any]:
        """What is known of the model."""
        return dict(self.detector.description)

    @property
    def categories(self) -> list[tuple[int, str]]:
        """(id, name) of each label."""
        return list(self.detector.categories)

    @property
    def names(self) -> list[str]:
        """Class names by label."""
        return list(self.detector.names)

    @property
    def size(self) -> int:
        """Side of the square that a tile is fitted into."""
        return int(self.detector.size)

    @property
    def channels(self) -> int:
        """Of images."""
        return int(self.detector.channels)

    @property
    def finds_masks(self) -> bool:
        """Whether objects have masks."""
        return bool(self.detector.finds_masks)

    def to(self, device: Any) -> Self:
        """Move the network, where it is torch's; returns itself."""
        self.detector.to(device)
        return self

    def check_any_size(self, size: int | None = None) -> None:
        """Raise ValueError for a `size` that the detector does not take."""
        self.detector.check_any_size(size)

    def predict(self, images: Image | Iterable[Image], **options: Any) -> list[Results]:
        """Objects in images, one or several; `options` are those of `stream`."""
        return list(self.stream(images, **options))

    def stream(
        self,
        images: Image | Iterable[Image],
        *,
        score_threshold: float = 0.3,
        batch_size: int = 8,
        run_lengths: bool = False,
        **options: Any,
    ) -> Iterator[Results]:
        """Objects in images, one image after another; of several images the next one is read meanwhile.

        Args:
            images: see `detseg.predict.Detector`.
            score_threshold: lowest score.
            batch_size: tiles at a time.
            run_lengths: masks as COCO run lengths. Maps (D, H, W) of a large image may be more than the memory holds.
            options: what else the detector's own `stream` takes, such as `size` and `tta`.
        """
        options |= {"score_threshold": score_threshold, "batch_size": batch_size, "run_lengths": True}
        look = partial(self.detector.stream, **options)
        for opened in open_all(images, self.channels):
            found = find_in_tiles(look, opened.pixels, self.tiling, batch_size=batch_size)
            if "masks" in found and not run_lengths:
                found["masks"] = as_maps(found["masks"], opened.pixels.shape)
            result = Results(found, opened.source, self.categories)
            yield result if self._most is None else result.select(slice(self._most))
