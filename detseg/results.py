"""What `predict` finds in an image, as objects that print, draw and save themselves.

None of this needs torch: results of exported models are the same.
"""

import base64
import difflib
import html
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from detseg.files import write_atomically

Source = str | Path | NDArray[np.uint8]
Categories = Sequence[tuple[int, str]]


class OfImage:
    """What all results have: the image they are of, and the classes.

    Attributes:
        source: the image, RGB (H, W, C), or its path: it is read again when it is drawn, and takes no memory till then.
        categories: (id, name) of each label.
    """

    def __init__(self, source: Source, categories: Categories) -> None:
        self.source, self.categories = source, categories

    @property
    def names(self) -> list[str]:
        """Class names by label."""
        return [name for _, name in self.categories]

    @cached_property
    def image(self) -> NDArray[np.uint8]:
        """The image (H, W, C) uint8, RGB if C is 3."""
        if isinstance(self.source, np.ndarray):
            return self.source
        from detseg.data.images import read_image

        return read_image(self.source)

    def plot(self) -> NDArray[np.uint8]:
        """The image (H, W, 3) uint8 RGB with what was found drawn on it."""
        raise NotImplementedError

    def to_json(self) -> str:
        """What was found, as a line of JSON."""
        raise NotImplementedError

    def save(self, path: str | Path) -> Path:
        """Write the drawing, or with the ending ``.json`` what `to_json` gives; returns the path.

        Raises ValueError for an ending that images do not have, OSError where it cannot be written.
        """
        path = Path(path)
        if path.suffix.lower() == ".json":
            write_atomically(path, self.to_json() + "\n")
        else:
            from detseg.data.images import write_image

            write_image(path, self.plot())
        return path

    def _repr_html_(self) -> str:
        """The drawing and what was found, in a notebook."""
        import cv2

        _, data = cv2.imencode(".jpg", cv2.cvtColor(self.plot(), cv2.COLOR_RGB2BGR))
        text = base64.b64encode(data.tobytes()).decode("ascii")
        return f'<figure><img style="max-width:100%" src="data:image/jpeg;base64,{text}">' + (
            f"<figcaption>{html.escape(str(self))}</figcaption></figure>"
        )

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self}>"


class Results(OfImage, Mapping[str, Any]):
    """The D objects found in an image, best first: ``found.boxes``, or ``found["boxes"]`` as in a mapping.

    Attributes:
        boxes: (D, 4) float32 xyxy in the image's pixels.
        scores: (D,) float32.
        labels: (D,) int64: label i is called ``names[i]``.
        masks: (D, H, W) bool, or D COCO run lengths; None of a model that finds boxes alone.
    """

    def __init__(self, found: Mapping[str, Any], source: Source, categories: Categories) -> None:
        super().__init__(source, categories)
        self._found = dict(found)

    @property
    def boxes(self) -> NDArray[np.float32]:
        """See the class."""
        return self._found["boxes"]

    @property
    def scores(self) -> NDArray[np.float32]:
        """See the class."""
        return self._found["scores"]

    @property
    def labels(self) -> NDArray[np.int64]:
        """See the class."""
        return self._found["labels"]

    @property
    def masks(self) -> Any:
        """See the class."""
        return self._found.get("masks")

    def __getitem__(self, name: str) -> Any:
        return self._found[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._found)

    def __len__(self) -> int:
        """The number of objects, D, which says more than the number of the mapping's names."""
        return len(self.scores)

    __eq__ = object.__eq__  # arrays have no one answer
    __hash__ = object.__hash__

    def select(self, rows: Any) -> Self:
        """The objects at `rows`: a slice, indices or (D,) bool."""
        indices = np.arange(len(self))[rows]
        found = {
            n: v[indices] if isinstance(v, np.ndarray) else [v[i] for i in indices] for n, v in self._found.items()
        }
        result = type(self)(found, self.source, self.categories)
        if "image" in self.__dict__:
            result.__dict__["image"] = self.image
        return result

    def of_classes(self, names: Sequence[str]) -> Self:
        """The objects of some classes; ValueError for a name that is none of the model's."""
        return self.select(np.isin(self.labels, labels_named(names, self.names)))

    def __str__(self) -> str:
        counts = Counter(self.names[label] for label in self.labels.tolist())
        return ", ".join(f"{count} {name}" for name, count in counts.most_common()) or "nothing"

    def plot(self) -> NDArray[np.uint8]:
        """The image (H, W, 3) uint8 RGB with boxes, names and scores, and masks if there are some."""
        from detseg.visualize import draw_boxes

        return draw_boxes(self.image, self.boxes, self.labels, self.names, self.scores, masks=self.masks)

    def crops(self) -> list[NDArray[np.uint8]]:
        """The part of the image in each box, at least a pixel."""
        height, width = self.image.shape[:2]
        low = np.floor(self.boxes[:, :2]).clip(0, [width - 1, height - 1]).astype(int)
        high = np.maximum(np.ceil(self.boxes[:, 2:]).clip(0, [width, height]).astype(int), low + 1)
        sides = zip(low.tolist(), high.tolist(), strict=True)
        return [self.image[y1:y2, x1:x2] for (x1, y1), (x2, y2) in sides]

    def to_coco(
        self, image_id: int | None = None, *, exact: bool = True, polygons: bool = False
    ) -> list[dict[str, Any]]:
        """COCO results, one dict an object, with the dataset's category ids.

        Args:
            image_id: of the image; left out if None.
            exact: all digits; else two behind the point of boxes, five of scores.
            polygons: masks as outlines, without holes, in place of run lengths.
        """
        owner = {} if image_id is None else {"image_id": image_id}
        results: list[dict[str, Any]] = []
        for label, (x1, y1, x2, y2), score in self._rows():
            box = [x1, y1, x2 - x1, y2 - y1]
            if not exact:
                box, score = [round(v, 2) for v in box], round(score, 5)
            results.append({**owner, "category_id": self.categories[label][0], "bbox": box, "score": score})
        for result, mask in zip(results, () if self.masks is None else self.masks, strict=False):
            result["segmentation"] = _polygons(mask, result["bbox"]) if polygons else _run_lengths(mask)
        return results

    def to_yolo(self, *, scores: bool = False) -> str:
        """Rows of a YOLO label file: label and box (centre, width, height), or a mask's outline, in shares.

        A row has one outline without holes: of a mask in several parts that of the largest.

        `scores` come last in each row.
        """
        height, width = self.image.shape[:2]
        lines = []
        for i, (label, (x1, y1, x2, y2), score) in enumerate(self._rows()):
            shares = [(x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height]
            if self.masks is not None:
                outline = _polygons(self.masks[i], [x1, y1, x2 - x1, y2 - y1])[0]
                shares = [n / (height if k % 2 else width) for k, n in enumerate(outline)]
            numbers = [*shares, score] if scores else shares
            lines.append(" ".join([str(label), *(f"{n:.6f}" for n in numbers)]) + "\n")
        return "".join(lines)

    def to_supervision(self) -> Any:
        """As `supervision.Detections`; ValueError if supervision is not installed."""
        try:
            import supervision
        except ImportError as error:
            raise ValueError("to_supervision needs supervision: pip install supervision") from error
        masks = None if self.masks is None else as_maps(self.masks, self.image.shape)
        names = np.array([self.names[label] for label in self.labels.tolist()], dtype=str)
        return supervision.Detections(
            xyxy=self.boxes, confidence=self.scores, class_id=self.labels, mask=masks, data={"class_name": names}
        )

    def to_json(self) -> str:
        """A line of JSON: a list of name, label, score and box xyxy of each object, and its mask's run lengths."""
        rows: list[dict[str, Any]] = [
            {"name": self.names[label], "label": label, "score": round(score, 5), "box": [round(v, 2) for v in box]}
            for label, box, score in self._rows()
        ]
        for row, mask in zip(rows, () if self.masks is None else self.masks, strict=False):
            row["segmentation"] = _run_lengths(mask)
        return json.dumps(rows, ensure_ascii=False)

    def _rows(self) -> Iterator[tuple[int, list[float], float]]:
        return zip(self.labels.tolist(), self.boxes.tolist(), self.scores.tolist(), strict=True)


class Segmentation(OfImage):
    """What is seen in one image.

    Attributes:
        mask: (H, W) uint8, the label of every pixel.
        confidence: (H, W) float32, the probability of that label.
    """

    def __init__(
        self, mask: NDArray[np.uint8], confidence: NDArray[np.float32], source: Source, categories: Categories
    ) -> None:
        super().__init__(source, categories)
        self.mask, self.confidence = mask, confidence

    def pixels(self) -> dict[int, int]:
        """How many pixels each label has, the largest first, without those that are not there."""
        counts = np.bincount(self.mask.ravel(), minlength=len(self.categories))
        order = np.argsort(-counts, kind="stable")
        return {label: int(counts[label]) for label in order.tolist() if counts[label]}

    def shares(self) -> dict[str, float]:
        """The share of the image that each class has, the largest first, without those that are not there."""
        return {self.names[label]: count / self.mask.size for label, count in self.pixels().items()}

    def to_coco(self, image_id: int | None = None) -> list[dict[str, Any]]:
        """COCO results, one dict a class, the largest first: its pixels as run lengths, their mean confidence as score.

        Args:
            image_id: of the image; left out if None.
        """
        owner = {} if image_id is None else {"image_id": image_id}
        results: list[dict[str, Any]] = []
        for label in self.pixels():
            own = self.mask == label
            what = {"category_id": self.categories[label][0], "segmentation": _run_lengths(own)}
            results.append({**owner, **what, "score": float(self.confidence[own].mean(dtype=np.float64))})
        return results

    def __str__(self) -> str:
        return ", ".join(f"{100 * share:.1f} % {name}" for name, share in self.shares().items())

    def plot(self) -> NDArray[np.uint8]:
        """The image (H, W, 3) uint8 RGB with the colour of each pixel's class."""
        from detseg.visualize import draw_mask

        return draw_mask(self.image, self.mask, self.names)

    def to_json(self) -> str:
        """A line of JSON: the share of the image that each class has."""
        return json.dumps(self.shares(), ensure_ascii=False)


class Classification(OfImage):
    """What one image is taken for.

    Attributes:
        labels: (K,) int64, all classes, the likeliest first.
        scores: (K,) float32, their probabilities.
    """

    def __init__(
        self, labels: NDArray[np.int64], scores: NDArray[np.float32], source: Source, categories: Categories
    ) -> None:
        super().__init__(source, categories)
        self.labels, self.scores = labels, scores

    def best(self, count: int = 3) -> list[tuple[str, float]]:
        """Names and probabilities of the likeliest classes, and of those after the first only what does not round to 0
        per cent."""
        ranked = zip(self.labels[:count].tolist(), self.scores[:count].tolist(), strict=True)
        return [(self.names[label], score) for i, (label, score) in enumerate(ranked) if not i or score >= 0.005]

    def __str__(self) -> str:
        return ", ".join(f"{name} {100 * score:.0f} %" for name, score in self.best())

    def plot(self) -> NDArray[np.uint8]:
        """The image (H, W, 3) uint8 RGB over the likeliest classes."""
        from detseg.visualize import contact_sheet

        return contact_sheet([self.image], columns=1, tile=max(self.image.shape[:2]), captions=[str(self)])

    def to_json(self) -> str:
        """A line of JSON: the probability of each class, the likeliest first."""
        ranked = zip(self.labels.tolist(), self.scores.tolist(), strict=True)
        return json.dumps({self.names[label]: round(score, 5) for label, score in ranked}, ensure_ascii=False)


def labels_named(names: Sequence[str], known: Sequence[str]) -> list[int]:
    """The labels of classes; ValueError for a name that is not among the `known` ones."""
    unknown = [name for name in names if name not in known]
    if unknown:
        shown = ", ".join(known[:20]) + (", …" if len(known) > 20 else "")
        near = ", ".join(difflib.get_close_matches(unknown[0], known, 3, 0.5))
        hint = f"; did you mean {near}?" if near else ""
        raise ValueError(f"the model knows no class {unknown[0]!r}; it knows {shown}{hint}")
    return [known.index(name) for name in names]


def as_maps(masks: Any, shape: Sequence[int]) -> NDArray[np.bool_]:
    """Masks (D, H, W) bool, of maps or of COCO run lengths; `shape` is the image's."""
    if isinstance(masks, np.ndarray):
        return masks.astype(bool, copy=False)
    from pycocotools import mask as coco

    result = np.zeros((len(masks), *shape[:2]), bool)
    for row, mask in zip(result, masks, strict=True):
        row[:] = coco.decode(mask)
    return result


def _run_lengths(mask: Any) -> dict[str, Any]:
    """COCO run lengths of a map or of run lengths, as JSON takes them."""
    if isinstance(mask, np.ndarray):
        from pycocotools import mask as coco

        mask = coco.encode(np.asfortranarray(mask, np.uint8))
    return {"size": list(mask["size"]), "counts": mask["counts"].decode("ascii")}


def _polygons(mask: Any, box: Sequence[float]) -> list[list[float]]:
    """The outlines of a mask; of one without a pixel a point of its box, for readers want a polygon of every object."""
    from detseg.data.object_masks import outlines

    return [list(polygon) for polygon in outlines(mask)] or [[*box[:2]] * 3]
