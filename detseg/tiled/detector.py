"""A detector around a detector, that looks at large images in tiles."""

from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any, Self

from detseg.data.tiles import tiling_for
from detseg.results import Results, as_maps
from detseg.sources import Image, open_all
from detseg.tiled.find import find_in_tiles


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
    def iou_threshold(self) -> float | None:
        """Of the detector's non-max suppression in each tile; may be set where the detector's may."""
        return getattr(self.detector, "iou_threshold", None)

    @iou_threshold.setter
    def iou_threshold(self, value: float) -> None:
        self.detector.iou_threshold = value

    @property
    def agnostic(self) -> bool:
        """Whether classes suppress each other, in tiles and between them; may be set where the detector's may."""
        return bool(getattr(self.detector, "agnostic", False))

    @agnostic.setter
    def agnostic(self, value: bool) -> None:
        self.detector.agnostic = value

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
            own: dict[str, Any] = {"batch_size": batch_size, "agnostic": self.agnostic}
            found = find_in_tiles(look, opened.pixels, self.tiling, **own)
            if "masks" in found and not run_lengths:
                found["masks"] = as_maps(found["masks"], opened.pixels.shape)
            result = Results(found, opened.source, self.categories)
            yield result if self._most is None else result.select(slice(self._most))
