"""The detections that `detseg doctor` compares with an annotation: of a run, or of a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from os.path import realpath
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from detseg.console import print_line, track
from detseg.data.annotations import Annotations, Category, category_difference
from detseg.data.checks.doubts import Doubt
from detseg.data.checks.problems import AnnotationError, Problem
from detseg.json_text import parse_json, read_bytes
from detseg.metrics.detection.inputs import Detections, read_found, read_truth
from detseg.metrics.detection.label_errors import WEAK, label_errors

if TYPE_CHECKING:
    from rich.console import Console

    from detseg.cli.doctor import Doctor

BATCH = 8  # images
UNREADABLE = ("missing-image", "damaged-image")


def find_label_errors(
    config: Doctor, splits: Mapping[str, Any], problems: Mapping[str, Sequence[Problem]], console: Console
) -> list[Doubt]:
    """What is probably wrong with the labels of all splits together.

    Raises:
        ValueError: they are no boxes, the run is no detector or knows other classes, or the file has other images.
    """
    if not all(isinstance(data, Annotations) for data in splits.values()):
        raise ValueError(f"{config.source}: --run and --detections are compared with boxes, of which it has none")
    first = next(iter(splits.values()))
    readable = {}
    for split, data in splits.items():
        lost = {p.image_index for p in problems[split] if p.kind in UNREADABLE}
        readable[split] = np.array([row for row in range(len(data)) if row not in lost], np.int64)
    chosen = {split: data.match(first.categories).subset(readable[split]) for split, data in splits.items()}
    if config.run is not None:
        whole = joined(list(chosen.values()))
        whole = replace(whole, image_ids=np.arange(len(whole)))
        detections: Any = _predict(config.run, whole, config.device, console)
        _tell_seen(config.run, whole, console)
    else:
        assert config.detections is not None
        detections = config.detections
        numbered = _of_folds(config.detections, chosen)
        if numbered:
            readable = {split: readable[split][rows] for split, (rows, _) in numbered.items()}
            chosen = {split: data for split, (_, data) in numbered.items()}
        else:
            chosen = _split_of(config.detections, chosen)
        whole = joined(list(chosen.values()))
        if numbered:
            detections = _in_images(config.detections, set(whole.image_ids.tolist()))
    images = [(split, int(row)) for split in chosen for row in readable[split]]
    found = label_errors(whole, detections)
    return [_placed(doubt, images, whole, splits) for doubt in found]


def _placed(
    doubt: Doubt, images: Sequence[tuple[str, int]], whole: Annotations, splits: Mapping[str, Annotations]
) -> Doubt:
    """A doubt about the joined splits as one about the split that it came from."""
    split, image = images[doubt.image]
    row = doubt.object
    if row >= 0:
        row += splits[split].objects(image).start - whole.objects(doubt.image).start
    return replace(doubt, split=split, image=image, object=row)


def joined(parts: Sequence[Annotations]) -> Annotations:
    """Splits with one list of categories as one set, without polygons."""
    starts = np.cumsum([0, *map(len, parts)])

    def together(name: str) -> Any:
        return np.concatenate([getattr(part, name) for part in parts])

    index = [part.image_index + start for part, start in zip(parts, starts[:-1], strict=True)]
    names = ("image_ids", "paths", "sizes", "boxes", "labels", "iscrowd", "ids", "areas")
    return Annotations(
        categories=parts[0].categories,
        source=parts[0].source,
        image_index=np.concatenate(index).astype(np.int32),
        **{name: together(name) for name in names},
    )


def _of_folds(path: Path, splits: Mapping[str, Annotations]) -> dict[str, tuple[NDArray[np.int64], Annotations]] | None:
    """The images that a file of `detseg train detector --folds` is of: of each split their rows, and the part of it
    that they are, with the ids of annotations.json beside the file; None if it is no such file, or of other images.

    Those ids need not be the splits' own: where two splits count from 1, images were numbered anew.
    """
    from detseg.data.formats import read_coco

    beside = path.with_name("annotations.json")
    if path.name != "detections.json" or not beside.is_file():
        return None
    listed = read_coco(beside)
    ids = {
        realpath(name): number for name, number in zip(listed.paths.tolist(), listed.image_ids.tolist(), strict=True)
    }
    found = {}
    for split, data in splits.items():
        numbers = [ids.get(realpath(name)) for name in data.paths.tolist()]
        rows = np.array([row for row, number in enumerate(numbers) if number is not None], np.int64)
        if len(rows):
            part = replace(data.subset(rows), image_ids=np.array([numbers[row] for row in rows], np.int64))
            found[split] = rows, part
    known = [number for _, part in found.values() for number in part.image_ids.tolist()]
    return found if len(set(known)) == len(known) else None


def _in_images(path: Path, ids: set[int]) -> Any:
    """The COCO results of a file that are of these images; what is no result is left for its reader to name."""
    results = parse_json(read_bytes(path), path)
    if not isinstance(results, list):
        return path
    numbers = [result.get("image_id") if isinstance(result, dict) else None for result in results]
    pairs = zip(results, numbers, strict=True)
    return [result for result, number in pairs if not isinstance(number, int) or number in ids]


def _split_of(path: Path, splits: Mapping[str, Annotations]) -> dict[str, Annotations]:
    """What a file of detections is of: all splits, if their image ids differ, else the only one that has its ids."""
    ids = np.concatenate([data.image_ids for data in splits.values()])
    if len(np.unique(ids)) == len(ids):
        return dict(splits)
    fitting = {}
    message = ""
    for split, data in splits.items():
        try:
            read_found(path, read_truth(replace(data, **data.take_objects(np.zeros(0, np.int64))), "bbox"), "bbox")
            fitting[split] = data
        except ValueError as error:
            message = message or str(error)
    if len(fitting) == 1:
        return fitting
    if not fitting:
        raise ValueError(message)
    raise ValueError(
        f"{path}: the image ids are those of {' and '.join(fitting)}; give the annotations of the split that was "
        "detected in as SOURCE, such as train.json"
    )


def _predict(run: Path, whole: Annotations, device: str, console: Console) -> Detections:
    """What the detector of a run finds in the images."""
    from detseg.cli.devices import chosen_device
    from detseg.predict import Detector, load

    detector = load(run)
    if not isinstance(detector, Detector) or type(detector.model).task != "detect":  # type: ignore[attr-defined]
        raise ValueError(f"{run}: holds no detector; --run is for those of `detseg train detector`")
    by_name = {category.name: category.id for category in whole.categories}
    unknown = [name for name in detector.names if name not in by_name]
    if unknown:
        known = [Category(*pair) for pair in detector.categories]
        raise AnnotationError(category_difference(known, whole.categories, whole.source))
    detector.to(chosen_device(device))
    paths = whole.paths.tolist()
    starts = range(0, len(paths), BATCH)
    predictions = []
    for start in track(starts, len(starts), what="detecting", console=console):
        predictions += detector.predict(paths[start : start + BATCH], score_threshold=WEAK, batch_size=BATCH)
    return Detections.from_predictions(
        predictions, whole.image_ids.tolist(), [by_name[name] for name in detector.names]
    )


def _tell_seen(run: Path, whole: Annotations, console: Console) -> None:
    """Say how many of the images the run was trained on, for their labels it has learnt as they are."""
    seen = _training_images(run)
    if seen is None:
        print_line(console, f"{run}: on which images it was trained cannot be told, as its data are not there any more")
        return
    count = sum(realpath(path) in seen for path in whole.paths.tolist())
    if count:
        print_line(
            console,
            f"{run}: was trained on {count} of these {len(whole)} images and has learnt their labels, wrong ones "
            "too: detections of images that a run has not seen (cross-validation) find more, see --detections",
        )


def _training_images(run: Path) -> set[str] | None:
    """The files that a run was trained on; None if that cannot be told."""
    from detseg.data.formats import read_dataset
    from detseg.train.config import load_config
    from detseg.train.data import read_split

    try:
        settings = load_config(run)
        if settings.data is None:
            data = read_split(settings.train, "train", settings.images)
        else:
            data = read_dataset(settings.data, settings.images, settings.val_share)["train"]
    except (ValueError, OSError):
        return None
    return {realpath(path) for path in data.paths.tolist()}
