"""Pascal VOC XML: the writer. `voc.py` says how the coordinates are counted."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

from detseg.data.annotations import AnnotationError, Annotations
from detseg.data.formats.locate import (
    PlaceImages,
    place_images,
    read_lines,
    require_writable,
    unique_stems,
)
from detseg.data.formats.voc import voc_splits
from detseg.files import write_atomically

log = logging.getLogger(__name__)


def write_voc(
    annotations: Annotations, folder: str | Path, split: str = "train", *, images: PlaceImages = "link"
) -> None:
    """Write one split of a VOC folder: Annotations/, ImageSets/Main/<split>.txt, JPEGImages/, labels.txt.

    labels.txt keeps the order of the categories. VOC has neither category ids, image ids nor outlines: they
    are lost, and lost outlines are counted in a logged warning. Fractions of pixels are kept.

    Args:
        images: "link" puts links to the images into JPEGImages (copies where links are impossible),
            "copy" copies them, "leave" only notes their path in the XML.

    Raises:
        AnnotationError: a box is not finite, an object has no category, or the folder holds other categories.
    """
    folder = Path(folder)
    require_writable(annotations, folder)
    _write_labels(annotations, folder / "labels.txt")
    outlined = _outline_count(annotations)
    if outlined:
        log.warning("%s: VOC has no outlines, %d objects keep only their boxes", folder, outlined)
    stems = unique_stems(annotations, _taken(folder, split))
    extensions = [Path(path).suffix for path in annotations.paths.tolist()]
    targets = [folder / "JPEGImages" / f"{s}{e}" for s, e in zip(stems, extensions, strict=True)]
    place_images(annotations.paths.tolist(), targets, images)
    for row, (stem, target) in enumerate(zip(stems, targets, strict=True)):
        write_atomically(folder / "Annotations" / f"{stem}.xml", _xml(annotations, row, target.name))
    write_atomically(folder / "ImageSets" / "Main" / f"{split}.txt", "".join(f"{s}\n" for s in stems))


def _taken(folder: Path, split: str) -> set[str]:
    """Names that the folder's other splits use."""
    return {name for other, file in voc_splits(folder).items() if other != split for name in read_lines(file)}


def _write_labels(annotations: Annotations, file: Path) -> None:
    names = list(annotations.names)
    if len(set(names)) < len(names) or any(not name.strip() or "\n" in name for name in names):
        raise AnnotationError(f"{file}: VOC knows categories by name only, so names must differ: {names}")
    if file.is_file() and read_lines(file) != names:
        raise AnnotationError(f"{file}: the folder already holds other categories; write to a new folder")
    write_atomically(file, "".join(f"{name}\n" for name in names))


def _outline_count(annotations: Annotations) -> int:
    segments = annotations.segments
    return 0 if segments is None else int((segments.has_polygons | segments.has_rle).sum())


def _number(value: Any) -> str:
    """The shortest text that reads back as the same number; whole numbers without a point."""
    return str(int(value)) if float(value).is_integer() else repr(float(value))


def _xml(annotations: Annotations, row: int, filename: str) -> str:
    width, height = annotations.sizes[row].tolist()
    path = Path(str(annotations.paths[row])).absolute()
    lines = [
        "<annotation>",
        f"  <filename>{escape(filename)}</filename>",
        f"  <path>{escape(str(path))}</path>",
        f"  <size><width>{width}</width><height>{height}</height><depth>3</depth></size>",
        "  <segmented>0</segmented>",
    ]
    owned = annotations.objects(row)
    for position in range(owned.start, owned.stop):
        x1, y1, x2, y2 = annotations.boxes[position].tolist()
        corners = {"xmin": x1 + 1, "ymin": y1 + 1, "xmax": x2, "ymax": y2}
        box = "".join(f"<{side}>{_number(value)}</{side}>" for side, value in corners.items())
        lines += [
            "  <object>",
            f"    <name>{escape(annotations.names[annotations.labels[position]])}</name>",
            f"    <difficult>{int(annotations.iscrowd[position])}</difficult>",
            f"    <bndbox>{box}</bndbox>",
            "  </object>",
        ]
    return "\n".join([*lines, "</annotation>", ""])
