"""What `detseg predict` finds in images, task by task: the drawing, the text, the results, the mask."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import UnidentifiedImageError

from detseg.console import print_line
from detseg.data.class_tree import SURE
from detseg.data.colours import instance_colors
from detseg.data.images import open_image, read_image, write_image
from detseg.data.index_png import is_background, mask_palette, write_index_png, write_object_png
from detseg.data.limits import AtTheCap
from detseg.data.object_masks import number_map
from detseg.data.sample import IGNORE
from detseg.results import Results, Segmentation
from detseg.sources import ahead, in_batches
from detseg.tiled import Tiled

if TYPE_CHECKING:
    from rich.console import Console

    from detseg.cli.predict import Predict

DETECTIONS = "detections.json"
COMMENT = b"drawn by detseg predict"
SCORE_THRESHOLD = 0.3
# Images at a time: enough for a GPU, few enough for the memory of a laptop.
BATCH = 8

Numbered = tuple[int, NDArray[np.uint8]]
"""Which of the images it is, and its pixels."""


class Reader:
    """Reads images, some ahead: (position, pixels) of each; prints which cannot be read and leaves them out.

    `names` is what to call images that are not called by their path, `channels` what they are read with, and so many
    are read `in_advance`.

    Attributes:
        problems: with those that were left out so far.
    """

    def __init__(
        self,
        images: Sequence[Path],
        console: Console,
        names: Mapping[Path, str] | None = None,
        channels: int = 3,
        in_advance: int = BATCH,
    ) -> None:
        self.images, self.console, self.channels, self.in_advance = images, console, channels, in_advance
        self.names = [str(image) if names is None else names.get(image, str(image)) for image in images]
        self.problems: list[str] = []

    def __iter__(self) -> Iterator[Numbered]:
        for position, read in enumerate(ahead(self._read, self.images, self.in_advance)):
            if isinstance(read, ValueError):
                self.problems.append(str(read).replace(str(self.images[position]), self.names[position]))
                print_line(self.console, f"{self.problems[-1]}; left out")
            else:
                yield position, read
        if len(self.problems) == len(self.images):
            self.finish()  # at once: what is written of an earlier call is worth more than nothing

    def _read(self, image: Path) -> NDArray[np.uint8] | ValueError:
        try:
            return read_image(image, self.channels)
        except ValueError as error:
            return error

    def finish(self) -> None:
        """Raise ValueError where images were left out; the message has their number and the first of them."""
        if self.problems:
            count = f"{len(self.problems)} of {len(self.images)} images cannot be read"
            first = "the first: " if len(self.problems) > 1 else ""
            raise ValueError(f"{count} and were left out; {first}{self.problems[0]}")


@dataclass(frozen=True)
class Found:
    """What was found in one image."""

    drawn: NDArray[np.uint8]  # (H, W, 3) RGB
    text: str
    results: list[dict[str, Any]]  # COCO results without image id
    mask: NDArray[np.uint8] | NDArray[np.uint16] | None = None  # (H, W) values of a mask file
    palette: Any = None  # (256, 3) their colours, or (M, 3) those of M objects, from 1 on
    objects: Any = None  # the `Results` that are drawn, of a detector


def write_found(found: Found, target: Path) -> None:
    """Write the drawing to `target` and the mask, if there is one, beside it as PNG."""
    write_image(target, found.drawn, COMMENT)
    if found.mask is None:
        return
    if found.mask.dtype == np.uint16:
        write_object_png(target.with_suffix(".png"), found.mask, found.palette)
    else:
        write_index_png(target.with_suffix(".png"), found.mask, found.palette)


def refuse_taken(targets: Sequence[Path], endings: Iterable[str], *, segments: bool) -> None:
    """Raise ValueError where a file would be overwritten that no earlier prediction wrote.

    Drawings have a `COMMENT`. Those of early versions had none, but `DETECTIONS` beside them, or a segmenter's a mask.
    """
    for target in targets:
        mask = target.with_suffix(".png")
        taken = [file for file in map(target.with_suffix, endings) if file.exists()]
        earlier = len(taken) == 2 if segments else (target.parent / DETECTIONS).exists()
        earlier = earlier or _is_drawing(target)
        foreign = [file for file in taken if not earlier or (file == mask and not _holds_numbers(mask))]
        if foreign:
            raise ValueError(
                f"{foreign[0]}: is there already, and not from an earlier prediction; name another --output"
            )


def _is_drawing(path: Path) -> bool:
    """Whether `write_found` has written a file: there is as yet nothing else of a prediction that was stopped."""
    try:
        with open_image(path) as image:
            return image.info.get("comment") == COMMENT
    except (OSError, ValueError):
        return False


def _holds_numbers(path: Path) -> bool:
    """Whether a file is an image with a palette, or of 16 bits, as written masks and label images are."""
    try:
        with open_image(path) as image:
            return image.mode in ("P", "I;16")
    except UnidentifiedImageError:
        return False


def batch_of(model: Any) -> int:
    """Images at a time: those that are looked at in tiles are large."""
    return 1 if isinstance(model, Tiled) else BATCH


def find_in(images: Iterable[Numbered], model: Any, config: Predict) -> Iterator[tuple[int, Found]]:
    """What a model finds in each image, with its position, in order."""
    return (find_classes if model.task == "segment" else find_objects)(model, images, config)


def find_objects(detector: Any, images: Iterable[Numbered], config: Predict) -> Iterator[tuple[int, Found]]:
    """Boxes, and masks of detectors that find them; see `find_in`."""
    threshold = SCORE_THRESHOLD if config.score_threshold is None else config.score_threshold
    exact = config.image_ids is not None
    # What is written for mAP holds also what nobody wants to see drawn.
    lowest = 0.0 if exact else threshold
    # With a tree of classes what is drawn is sure, and mAP is of the leaves.
    tree = getattr(detector.model, "tree", None) if exact else None
    looking = detector if tree is None else _by_level(detector)
    cap = AtTheCap(detector.max_detections, threshold)
    options = given_only(size=config.size, tta=config.tta or None)
    for batch in in_batches(images, batch_of(detector)):
        pixels = [image for _, image in batch]
        every = looking.stream(pixels, score_threshold=lowest, batch_size=BATCH, run_lengths=True, **options)
        for (position, image), seen in zip(batch, every, strict=True):
            found, listed = (seen, seen) if tree is None else _sure_and_leaves(seen, tree)
            cap.add(found.scores)
            if config.classes:
                found, listed = (one.of_classes(config.classes) for one in (found, listed))
            clear = found.select(found.scores >= threshold)
            mask = number_map(clear.masks, image.shape) if config.label_images else None
            shades = None if mask is None else instance_colors(clear.labels.tolist())
            results = listed.to_coco(exact=exact, polygons=config.polygons)
            yield position, Found(clear.plot(), str(clear), results, mask, shades, clear)
    cap.warn()


def _sure_and_leaves(seen: Results, tree: Any) -> tuple[Results, Results]:
    """Of detections at every level of a tree those that are sure, and those at the leaves."""
    from detseg.metrics.detection.levels import at_level

    sure, leaves = (Results(at_level(seen, k), seen.source, seen.categories) for k in (SURE, tree.shape.levels))
    return sure, leaves


def _by_level(detector: Any) -> Any:
    """The detector, finding objects at every level of its tree."""
    from detseg.detect.tree import ByLevel
    from detseg.predict import Detector

    return Detector(ByLevel(detector.model), detector.description)


def segmenter_options(config: Predict) -> dict[str, Any]:
    """Options of a segmenter's `stream`."""
    scales = None if config.scales == (1.0,) else config.scales
    return given_only(flip=config.flip or None, scales=scales, long_side=config.long_side)


def find_classes(segmenter: Any, numbered: Iterable[Numbered], config: Predict) -> Iterator[tuple[int, Found]]:
    """Masks; see `find_in`."""
    names = segmenter.names
    values = mask_values([number for number, _ in segmenter.categories])
    palette = np.zeros((IGNORE + 1, 3), np.uint8)
    palette[values] = mask_palette(names)[: len(values)]
    options = segmenter_options(config)
    # Those who look at an image in windows have large ones.
    for batch in in_batches(numbered, BATCH if config.long_side is None else 1):
        every = segmenter.stream([image for _, image in batch], BATCH, **options)
        for (position, image), seen in zip(batch, every, strict=True):
            results = []
            if config.boxes:
                found = Results(objects_in(seen, names, config.min_area), image, segmenter.categories)
                results = found.to_coco(exact=config.image_ids is not None)
            yield position, Found(seen.plot(), str(seen), results, values[seen.mask], palette)


def given_only(**options: Any) -> dict[str, Any]:
    """Options that are not None: models that were exported have fewer."""
    return {name: value for name, value in options.items() if value is not None}


def mask_values(ids: Sequence[int]) -> NDArray[np.uint8]:
    """(K,) the value of each label in written masks: its category id, as in the masks that were learnt from; or, if not
    all of the ids fit into 8 bits, its place among the ids as they rise, which no order of the classes changes.

    255 fits: a written mask has a class for every pixel, so it has no need of a value for "ignore".
    """
    fits = all(0 <= number <= 255 for number in ids)
    return np.array(ids if fits else np.argsort(np.argsort(ids)), np.uint8)


def objects_in(seen: Segmentation, names: Sequence[str], min_area: int) -> dict[str, NDArray[Any]]:
    """What hangs together in a class, as detections; neither the background nor fewer than `min_area` pixels are."""
    import torch

    from detseg.segment import masks_to_boxes

    background = 0 if is_background(names[0]) else None
    # Within a component the probability of its class is the confidence, whatever the class.
    chances = torch.from_numpy(seen.confidence).expand(len(names), *seen.confidence.shape)
    found = masks_to_boxes(torch.from_numpy(seen.mask), chances, background=background, min_area=min_area)
    return {name: value.numpy() for name, value in found.items()}
