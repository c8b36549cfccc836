"""Exported models as predictors: images of any size in, results in their own pixels out."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from detseg.data.augment.classification_transforms import ClassificationEval
from detseg.data.letterbox import Letterbox, letterbox_image
from detseg.data.limits import CLEAR, AtTheCap
from detseg.options import check_score_threshold
from detseg.reading import reading
from detseg.results import Classification, OfImage, Results, Segmentation
from detseg.runtime.engines import Engine
from detseg.runtime.paste import decided, in_image
from detseg.sources import Image, in_batches, open_all, with_sources

R = TypeVar("R", bound=OfImage)
STRIDE = 32
AS_IT_IS = Letterbox(1.0, 1.0, 0, 0)


class ExportedModel(Generic[R]):
    """A model that was exported.

    Attributes:
        description: what the file says of the model.
        task: "detect", "segment", "classify" or "localize".
        categories: (id, name) of each label.
        size: side of the square that images are fitted into.
        channels: of images.
        source: the file, for messages.
    """

    source = "the exported model"

    def __init__(self, engine: Engine) -> None:
        self.engine, self.description = engine, engine.description
        self.task, self.channels = str(self.description["task"]), int(self.description["channels"])
        self.categories = [(int(c["id"]), str(c["name"])) for c in self.description["categories"]]
        self.size = int(self.description["size"])
        self.model = self  # what options of a network are asked of: this has none

    @property
    def names(self) -> list[str]:
        """Class names by label."""
        return [name for _, name in self.categories]

    def run(self, squares: Sequence[NDArray[np.uint8]]) -> dict[str, NDArray[Any]]:
        """The outputs for images (H, W, C) of one size; FileError where the file gives others than it describes."""
        batch = np.ascontiguousarray(np.stack(squares).transpose(0, 3, 1, 2))
        with reading(self.source, "export it again"):
            found = self.engine(batch if self.description["input"] == "uint8" else batch.astype(np.float32) / 255)
            self.check(found, len(squares))
        return found

    def check(self, found: dict[str, NDArray[Any]], count: int) -> None:
        """Raise ValueError where the outputs for `count` images are none of such a model."""
        shape = found["probabilities"].shape
        if shape[:2] != (count, len(self.categories)):
            raise ValueError(
                f"probabilities have the shape {shape}, of {count} images and {len(self.categories)} classes"
            )

    def predict(self, images: Image | Iterable[Image], **options: Any) -> list[R]:
        """What is found in images, one or several; `options` are those of `stream`."""
        return list(self.stream(images, **options))

    def stream(self, images: Image | Iterable[Image], *args: Any, **options: Any) -> Iterator[R]:
        """As `predict`, one image after another."""
        raise NotImplementedError


class ExportedDetector(ExportedModel[Results]):
    """A detector or a localizer; see `ExportedModel`.

    Attributes:
        max_detections: the most objects that are found in an image; may be lowered.
    """

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        self.exported_cap = None if self.task == "localize" else int(self.description["max_detections"])
        self._cap = self.exported_cap

    def check(self, found: dict[str, NDArray[Any]], count: int) -> None:
        """See `ExportedModel`."""
        most = len(found["scores"])
        rows = {"images": (most,), "scores": (most,), "labels": (most,), "boxes": (most, 4)}
        rows |= {"regions": (most, 4), "masks": (most, *found["masks"].shape[-2:])} if self.finds_masks else {}
        if odd := next((name for name, shape in rows.items() if found[name].shape != shape), None):
            raise ValueError(f"{odd} have the shape {found[odd].shape}, not {rows[odd]}")
        if most and not 0 <= found["labels"].min() <= found["labels"].max() < len(self.categories):
            raise ValueError(f"labels beyond the {len(self.categories)} classes")

    @property
    def finds_masks(self) -> bool:
        """Whether objects have masks."""
        return bool(self.description["masks"])

    @property
    def max_detections(self) -> int | None:
        """See the class; None of a localizer, which finds one."""
        return self._cap

    @max_detections.setter
    def max_detections(self, most: int) -> None:
        if self.exported_cap is None:
            raise ValueError("a localizer finds one object in an image; max-detections is for detectors")
        if not 1 <= most <= self.exported_cap:
            raise ValueError(f"it was exported with at most {self.exported_cap} detections; max-detections was {most}")
        self._cap = most

    def check_any_size(self, size: int | None = None) -> None:
        """Raise ValueError for a side of the square, pixels, that the model does not take."""
        any_size = self.description["any_size"] and not self.description["letterbox"]
        if size is not None and (not any_size or size < STRIDE or size % STRIDE):
            wanted = f"multiples of {STRIDE}" if any_size else f"{self.size} pixels only"
            raise ValueError(f"the model takes {wanted}, not {size}")

    def predict(self, images: Image | Iterable[Image], **options: Any) -> list[Results]:
        """Objects in images, one or several; `options` are those of `stream`."""
        every = self.stream(images, **options)
        return list(AtTheCap(self.max_detections, max(options.get("score_threshold", CLEAR), CLEAR)).watch(every))

    def stream(
        self,
        images: Image | Iterable[Image],
        *,
        score_threshold: float = 0.3,
        batch_size: int = 8,
        size: int | None = None,
        run_lengths: bool = False,
    ) -> Iterator[Results]:
        """Objects with at least `score_threshold` in images, one after another; see `detseg.predict.Detector`."""
        check_score_threshold(score_threshold)
        self.check_any_size(size)
        pixels, sources = with_sources(open_all(images, self.channels, batch_size))
        every = self._find(pixels, self.size if size is None else size, score_threshold, batch_size, run_lengths)
        return (Results(found, next(sources), self.categories) for found in every)

    def _find(
        self, images: Iterable[NDArray[np.uint8]], size: int, threshold: float, batch_size: int, coded: bool
    ) -> Iterator[dict[str, Any]]:
        inside = bool(self.description["letterbox"])  # of the graph; images of several sizes make no batch then
        for batch in in_batches(images, 1 if inside else batch_size):
            fitted = ((image, AS_IT_IS) if inside else letterbox_image(image, size) for image in batch)
            squares, boxes = zip(*fitted, strict=True)
            found = self.run(squares)
            for i, (image, box) in enumerate(zip(batch, boxes, strict=True)):
                rows = np.flatnonzero((found["images"] == i) & (found["scores"] >= threshold))
                one = {name: values[rows] for name, values in found.items() if name != "images"}
                shape = (image.shape[0], image.shape[1])
                yield in_image(one, box, shape, coded=coded, most=self.max_detections)


class ExportedSegmenter(ExportedModel[Segmentation]):
    """A segmenter; see `ExportedModel`."""

    def stream(self, images: Image | Iterable[Image], batch_size: int = 8, /) -> Iterator[Segmentation]:
        """The class of every pixel of images, one after another."""
        pixels, sources = with_sources(open_all(images, self.channels, batch_size))
        for batch in in_batches(pixels, batch_size):
            squares = [letterbox_image(image, self.size)[0] for image in batch]
            for image, probabilities in zip(batch, self.run(squares)["probabilities"], strict=True):
                mask, confidence = decided(probabilities, (image.shape[0], image.shape[1]), self.size)
                yield Segmentation(mask, confidence, next(sources), self.categories)


class ExportedClassifier(ExportedModel[Classification]):
    """A classifier; see `ExportedModel`."""

    def stream(self, images: Image | Iterable[Image], batch_size: int = 16, /) -> Iterator[Classification]:
        """All classes of images, the likeliest first, one image after another."""
        pixels, sources = with_sources(open_all(images, self.channels, batch_size))
        for batch in in_batches(map(ClassificationEval(self.size), pixels), batch_size):
            for scores in self.run(batch)["probabilities"]:
                order = np.argsort(-scores, kind="stable").astype(np.int64)
                yield Classification(order, scores[order], next(sources), self.categories)
