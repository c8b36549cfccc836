"""Instance masks: mask folders in which each number above 0 is an object of the image, all of one class.

PennFudan and cell images are made so. It cannot be told from the files whether numbers are objects or classes, so the
set says it: its list of classes has one name, alone.
"""

from __future__ import annotations

import os
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from detseg.data.annotations import AnnotationError, Annotations, Category, Problem
from detseg.data.formats.assemble import Assembler
from detseg.data.formats.format import Format, Sources
from detseg.data.formats.layout import TRIED, beginning
from detseg.data.formats.locate import (
    image_targets,
    measure_images,
    place_images,
    read_lines,
    unique_stems,
    write_names,
)
from detseg.data.formats.mask_folders import class_file, left_out, require_matches
from detseg.data.formats.mask_layout import CLASS_FILES, Layout, find_layout

if TYPE_CHECKING:
    from detseg.data.formats.locate import PlaceImages

MOST = 65535  # objects in a 16-bit file


class _Object(NamedTuple):
    number: int
    box: tuple[int, int, int, int]  # xyxy
    counts: list[int]  # COCO's run lengths, down the columns
    area: int


def _find(path: Path, images: str | Path | None) -> Sources | None:
    layout = find_layout(path, None, images, only_named=True) if path.is_dir() else None
    if layout is None or not layout.matches or _is_yolo(path):
        return None
    sources = _sources(layout)
    if sources is None:
        _refuse(path, layout)
    return sources


def _guess(path: Path, images: str | Path | None) -> Sources | None:
    """The same for folders of any name."""
    layout = find_layout(path, None, images)
    if layout is None:
        return None
    sources = _sources(layout)
    if sources is None:
        _refuse(path, layout)
    return sources


def _sources(layout: Layout) -> Sources | None:
    name = _single_name(class_file(layout))
    return None if name is None else {split: partial(_read, layout, split, name) for split in layout.splits}


def _refuse(path: Path, layout: Layout) -> None:
    """Raise AnnotationError, which says what masks of classes are good for; nothing if they are no image's."""
    if layout.matches:
        raise AnnotationError(
            f"{path}: holds masks with a class for every pixel, no objects: detseg train segmenter learns from them. "
            "If each value above 0 is the number of an object, write their one class, alone, into "
            f"{layout.class_files[0].name}"
        )


def _is_yolo(path: Path) -> bool:
    """Whether there are YOLO's labels too: a YAML file, or text files below the folder whose rows are numbers."""
    if any(path.glob("*.yaml")) or any(path.glob("*.yml")):
        return True
    for where, folders, names in os.walk(path):
        folders[:] = [name for name in folders if not name.startswith(".") and name != "ImageSets"]
        texts = [name for name in names if name.lower().endswith(".txt") and name not in CLASS_FILES]
        if where != str(path) and any(_is_row(Path(where, name)) for name in texts[:TRIED]):
            return True
    return False


def _is_row(file: Path) -> bool:
    words = beginning(file).partition(b"\n")[0].split()
    return len(words) >= 5 and all(re.fullmatch(rb"[-+.0-9eE]+", word) for word in words)


def _single_name(file: Path | None) -> str | None:
    """The class of a list that has one name, alone; else None."""
    if file is None:
        return None
    try:
        if len(read_lines(file)) != 1:
            return None
        from detseg.data.formats.class_list import read_class_list  # here: it brings OpenCV

        classes = read_class_list(file)
    except AnnotationError:
        return None
    return classes.categories[1].name if classes.reading.binary else None


# ------------------------------------------------------------------ reading


def _read(layout: Layout, split: str, name: str) -> Annotations:
    """Every number of a mask as an object with a box and a run-length mask."""
    from detseg.data.index_png import MaskError

    require_matches(layout)
    pairs = layout.splits[split]
    paths = [image for image, _ in pairs]
    sizes = measure_images(paths, np.zeros((len(pairs), 2), np.int32))
    assembler, areas, lumped = Assembler(), [], []
    with ThreadPoolExecutor() as pool:
        found = pool.map(_objects_of, [mask for _, mask in pairs])
        for (image, mask), size, content in zip(pairs, sizes.tolist(), found, strict=True):
            assembler.add_image(image, mask, tuple(size))
            if isinstance(content, MaskError):
                assembler.add_problem(content.what, content.remedy, content.kind)
                continue
            (height, width), objects, pieces = content
            if (width, height) != tuple(size) and all(size):
                what = f"the mask is {width} x {height} pixels, its image {size[0]} x {size[1]}"
                assembler.add_problem(what, "use the image that was annotated", "mask-size-differs")
                continue
            lumped += [mask] if pieces > 1 else []
            for item in objects:
                assembler.add_object(item.box, 0)
                assembler.segments.add_rle(height, width, item.counts)
                areas.append(item.area)
    data = assembler.build([Category(1, name)], layout.root)
    notes = left_out(layout) if split == next(iter(layout.splits)) else []
    if lumped:
        what = (
            f"{len(lumped)} of {len(data)} masks have one number in several pieces, the first is {lumped[0]}: each is "
            "read as one object"
        )
        remedy = "if the pieces are objects, give each a number of its own"
        notes.append(Problem(data.source, "", None, what, remedy, "warning", "one-number"))
    problems = (*data.read_problems, *notes)
    return replace(data, areas=np.array(areas, np.float64), read_problems=problems)


def _objects_of(path: str) -> Any:
    """((height, width), objects, pieces of the only number or 0) of a mask file; or the MaskError."""
    from detseg.data.index_png import MaskError, read_index_image

    try:
        values = read_index_image(path)
    except MaskError as error:
        return error
    objects = objects_in(values)
    pieces = 0
    if len(objects) == 1:
        import cv2

        pieces = cv2.connectedComponents((values > 0).astype(np.uint8))[0] - 1
    return values.shape, objects, pieces


def objects_in(values: NDArray[Any]) -> list[_Object]:
    """The objects of a map (H, W) of their numbers, in the order of these; 0 is none."""
    height = values.shape[0]
    columns = np.ascontiguousarray(values.T).ravel()
    # Runs of one number, down the columns and on into the next one.
    edges = np.r_[0, np.flatnonzero(columns[1:] != columns[:-1]) + 1, columns.size]
    numbers = columns[edges[:-1]]
    runs = np.flatnonzero(numbers)
    runs = runs[np.argsort(numbers[runs], kind="stable")]
    starts = np.flatnonzero(np.diff(numbers[runs].astype(np.int64), prepend=0))
    found = []
    for part in np.split(runs, starts[1:]) if len(runs) else []:
        begins, lasts = edges[part], edges[part + 1] - 1
        ends = np.stack([begins, lasts + 1], 1).ravel()
        counts = np.diff(ends, prepend=0, append=columns.size).tolist()
        whole = (begins // height != lasts // height).any()  # from one column to another: the foot and the head of both
        ys = (0, height - 1) if whole else (int((begins % height).min()), int((lasts % height).max()))
        box = (int(begins[0]) // height, ys[0], int(lasts[-1]) // height + 1, ys[1] + 1)
        area = int((lasts - begins).sum()) + len(part)
        found.append(_Object(int(numbers[part[0]]), box, counts if counts[-1] else counts[:-1], area))
    return found


# ------------------------------------------------------------------ writing


def write_instance_masks(
    annotations: Annotations, folder: Path, split: str = "train", images: PlaceImages = "link"
) -> None:
    """Write one split: images/train, masks/train with a number for each object, and classes.txt.

    Where objects overlap, the smaller one is on top.

    Raises:
        AnnotationError: there are several classes, objects without polygons or masks, or covered by others, or too
            many in an image; or images are to be kept where they are.
    """
    if len(annotations.categories) != 1:
        raise AnnotationError(
            f"{folder}: not written, instance masks hold objects of one class, and there are "
            f"{len(annotations.categories)}: {', '.join(annotations.names[:10])}"
        )
    bare = int((~annotations.drawn).sum())
    if bare:
        raise AnnotationError(
            f"{folder}: not written, {bare} objects have no polygons or masks, so they cannot be drawn"
        )
    if images == "keep":
        raise AnnotationError(f"{folder}: instance masks lie beside their images: copy or link them")
    write_names(annotations, folder / "classes.txt")
    stems = unique_stems(annotations, set())
    place_images(annotations.paths.tolist(), image_targets(annotations, stems, folder / "images" / split), images)
    for index, stem in enumerate(stems):
        _write_mask(annotations, index, folder / "masks" / split / f"{stem}.png")


def _write_mask(annotations: Annotations, index: int, file: Path) -> None:
    import io

    from PIL import Image
    from pycocotools import mask as coco

    from detseg.files import write_atomically

    width, height = annotations.sizes[index].tolist()
    rows = range(*annotations.objects(index).indices(len(annotations.ids)))
    if len(rows) > MOST:
        raise AnnotationError(f"{file}: not written, {len(rows)} objects; a mask can number {MOST}")
    assert annotations.segments is not None or not rows
    values = np.zeros((height, width), np.uint16 if len(rows) > 255 else np.uint8)
    codes = [annotations.segments.rle(row, height, width) for row in rows] if annotations.segments is not None else []
    for number in sorted(range(len(codes)), key=lambda k: -float(coco.area(codes[k]))):
        if codes[number]["size"] != [height, width]:  # type: ignore[index]
            raise AnnotationError(
                f"{file}: not written, the mask of object {annotations.ids[rows[number]]} has another size"
            )
        values[coco.decode(codes[number]).view(np.bool_)] = number + 1
    missing = sorted(set(range(1, len(codes) + 1)) - set(np.unique(values).tolist()))
    if missing:
        hidden = annotations.ids[rows[missing[0] - 1]]
        raise AnnotationError(f"{file}: not written, object {hidden} is covered by others or has no pixel")
    content = io.BytesIO()
    Image.fromarray(values).save(content, "PNG")
    write_atomically(file, content.getvalue())


FORMAT = Format(
    name="instance-masks",
    title="instance masks",
    looks_for="mask folders with the number of an object in every pixel, 0 for none, and classes.txt with the name of "
    "their one class, alone",
    find=_find,
    write=write_instance_masks,
    holds=frozenset(["polygons", "masks"]),
    guess=_guess,
)
