"""`detseg predict`: find objects in pictures, draw them, write them down."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import tyro
from numpy.typing import NDArray

if TYPE_CHECKING:
    from detseg.predict import Detector

# Pictures at a time: enough for a GPU, few enough for the memory of a laptop.
BATCH = 8


@dataclass(frozen=True)
class Predict:
    """Find objects in pictures: writes each picture with its boxes, and detections.json in COCO's form.

    Two pictures; a folder; a validation set, to measure mAP:

        detseg predict runs/detector-1 garden.jpg meadow.png --output found
        detseg predict runs/detector-1 photos/ --score-threshold 0.5
        detseg predict runs/detector-1 --image-ids flowers/val.json
        detseg evaluate --ground-truth flowers/val.json --detections predictions/detections.json
    """

    run: Annotated[Path, tyro.conf.Positional]
    """Folder of a training run."""
    pictures: Annotated[tuple[Path, ...], tyro.conf.Positional] = ()
    """Pictures, or folders of pictures."""
    output: Path = Path("predictions")
    """Folder for the drawn pictures and detections.json."""
    score_threshold: float = 0.3
    """Detections below this score are left out."""
    image_ids: Path | None = None
    """Annotations of the pictures, to measure mAP with `detseg evaluate`: detections.json then carries their image
    ids and every detection, however low its score (the drawings keep to --score-threshold). Without pictures in
    the command all that the annotations list are taken. Otherwise pictures are numbered from 1."""
    device: str = "auto"
    """Where to run: auto, cpu, cuda, cuda:1, mps, …"""


def run(config: Predict) -> int:
    """Predict as `config` says; returns the exit code.

    Raises:
        ValueError: the run holds no model, or a picture cannot be read; pictures before it are written.
    """
    import cv2
    from accelerate import PartialState
    from rich.console import Console
    from rich.progress import track

    from detseg.data.readers.files import write_atomically
    from detseg.predict import load
    from detseg.visualize import draw_boxes

    console = Console()
    pictures, ids = _pictures(config)
    targets = _targets(pictures, config.output)
    detector = load(config.run).to(PartialState().device if config.device == "auto" else config.device)
    config.output.mkdir(parents=True, exist_ok=True)
    category_ids = [number for number, _ in detector.categories]
    # What is written for mAP holds also what nobody wants to see drawn.
    lowest = 0.0 if config.image_ids is not None else config.score_threshold
    results: list[dict[str, Any]] = []
    shown = track(pictures, "predicting", console=console, transient=True, disable=not console.is_terminal)
    seen = _found(detector, pictures, lowest)
    for picture, image_id, target, (image, found) in zip(shown, ids, targets, seen, strict=True):
        results += _results(found, image_id, picture, category_ids)
        clear = {name: value[found["scores"] >= config.score_threshold] for name, value in found.items()}
        drawn = draw_boxes(image, clear["boxes"], clear["labels"], detector.names, clear["scores"])
        if not cv2.imwrite(str(target), cv2.cvtColor(drawn, cv2.COLOR_RGB2BGR)):
            raise OSError(f"{target}: could not be written")
        counts = Counter(detector.names[label] for label in clear["labels"])
        text = ", ".join(f"{count} {name}" for name, count in counts.most_common()) or "nothing"
        console.print(f"{picture}: {text}", markup=False, highlight=False, soft_wrap=True)
    path = config.output / "detections.json"
    write_atomically(path, json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    console.print(
        f"pictures with boxes and detections.json are in {config.output}", markup=False, highlight=False, soft_wrap=True
    )
    return 0


def _found(
    detector: Detector, pictures: Sequence[Path], lowest: float
) -> Iterator[tuple[NDArray[np.uint8], dict[str, NDArray[Any]]]]:
    """Pixels and detections of each picture, in order; those before a picture that cannot be read come first."""
    from detseg.data.images import read_image

    for start in range(0, len(pictures), BATCH):
        images: list[NDArray[np.uint8]] = []
        problem = None
        for picture in pictures[start : start + BATCH]:
            try:
                images.append(read_image(picture))
            except ValueError as error:
                problem = error
                break
        yield from zip(images, detector.predict(images, score_threshold=lowest, batch_size=BATCH), strict=True)
        if problem is not None:
            raise problem


def _pictures(config: Predict) -> tuple[list[Path], list[int]]:
    """The pictures to look at and the image id of each: from an annotation file, by path, or 1, 2, 3, …"""
    from detseg.data.readers import read_annotations
    from detseg.data.readers.files import list_pictures

    pictures = [
        Path(p) for given in config.pictures for p in (list_pictures(given) if given.is_dir() else [str(given)])
    ]
    if config.pictures and not pictures:
        raise ValueError(f"no pictures in {', '.join(map(str, config.pictures))}")
    if config.image_ids is None:
        if not pictures:
            raise ValueError("name the pictures, or folders of pictures, after the run")
        return pictures, list(range(1, len(pictures) + 1))
    data = read_annotations(config.image_ids)
    if not pictures:
        return [Path(path) for path in data.paths.tolist()], data.image_ids.tolist()
    known = {Path(path).resolve(): int(i) for path, i in zip(data.paths, data.image_ids, strict=True)}
    missing = [picture for picture in pictures if picture.resolve() not in known]
    if missing:
        raise ValueError(f"{config.image_ids}: does not list {missing[0]} ({len(missing)} pictures are not in it)")
    return pictures, [known[picture.resolve()] for picture in pictures]


def _targets(pictures: Sequence[Path], folder: Path) -> list[Path]:
    """A free name in the output folder for each picture; equal names from several folders are numbered."""
    originals = {picture.resolve() for picture in pictures}
    taken: set[str] = set()
    targets = []
    for picture in pictures:
        name, number = f"{picture.stem}.jpg", 2
        while name.lower() in taken:  # some file systems take A.jpg and a.jpg for the same
            name, number = f"{picture.stem}-{number}.jpg", number + 1
        taken.add(name.lower())
        targets.append(folder / name)
        if targets[-1].resolve() in originals:
            raise ValueError(f"{targets[-1]} would be overwritten by a drawing; give another --output")
    return targets


def _results(found: dict[str, Any], image_id: int, picture: Path, category_ids: Sequence[int]) -> list[dict[str, Any]]:
    """COCO results of one picture, with its file name for readers that have no image list."""
    return [
        {
            "image_id": image_id,
            "file_name": str(picture),
            "category_id": category_ids[label],
            "bbox": [round(v, 2) for v in (x1, y1, x2 - x1, y2 - y1)],
            "score": round(score, 5),
        }
        for (x1, y1, x2, y2), score, label in zip(
            found["boxes"].tolist(), found["scores"].tolist(), found["labels"].tolist(), strict=True
        )
    ]
