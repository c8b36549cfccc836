"""`detseg predict`: find objects in pictures, draw them, write them down."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro


@dataclass(frozen=True)
class Predict:
    """Find objects in pictures: writes each picture with its boxes, and detections.json in COCO's form.

    Example: detseg predict runs/detector-1 garden.jpg meadow.png --output found
    """

    run: Annotated[Path, tyro.conf.Positional]
    """Folder of a training run."""
    pictures: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Pictures, or folders of pictures."""
    output: Path = Path("predictions")
    """Folder for the drawn pictures and detections.json."""
    score_threshold: float = 0.3
    """Detections below this score are left out; 0.001 gives all that mAP is computed from."""
    image_ids: Path | None = None
    """Annotations of the same pictures: detections.json then carries their image ids, for `detseg evaluate`.
    Otherwise the pictures are numbered from 1."""
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

    from detseg.data.images import read_image
    from detseg.data.readers.files import list_pictures, write_atomically
    from detseg.predict import load
    from detseg.visualize import draw_boxes

    console = Console()
    pictures = [
        Path(p) for given in config.pictures for p in (list_pictures(given) if given.is_dir() else [str(given)])
    ]
    if not pictures:
        raise ValueError(f"no pictures in {', '.join(map(str, config.pictures)) or 'the command'}")
    ids = _image_ids(pictures, config.image_ids)
    detector = load(config.run)
    detector.to(PartialState().device if config.device == "auto" else config.device)
    config.output.mkdir(parents=True, exist_ok=True)
    results: list[dict[str, Any]] = []
    for picture, image_id, target in zip(
        track(pictures, "predicting", console=console, transient=True),
        ids,
        _targets(pictures, config.output),
        strict=True,
    ):
        image = read_image(picture)
        (found,) = detector.predict([image], score_threshold=config.score_threshold)
        drawn = draw_boxes(image, found["boxes"], found["labels"], detector.names, found["scores"])
        if not cv2.imwrite(str(target), cv2.cvtColor(drawn, cv2.COLOR_RGB2BGR)):
            raise ValueError(f"{target}: could not be written")
        results += _results(found, image_id, picture, [i for i, _ in detector.categories])
        counts = Counter(detector.names[label] for label in found["labels"])
        text = ", ".join(f"{count} {name}" for name, count in counts.most_common()) or "nothing"
        console.print(f"{picture}: {text}", markup=False, highlight=False, soft_wrap=True)
    path = config.output / "detections.json"
    write_atomically(path, json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    console.print(f"pictures with boxes and detections.json are in {config.output}", markup=False, highlight=False)
    return 0


def _image_ids(pictures: Sequence[Path], annotations: Path | None) -> list[int]:
    """The id of each picture: from an annotation file, by path, or 1, 2, 3, …"""
    if annotations is None:
        return list(range(1, len(pictures) + 1))
    from detseg.data.readers import read_annotations

    data = read_annotations(annotations)
    known = {Path(path).resolve(): int(i) for path, i in zip(data.paths, data.image_ids, strict=True)}
    missing = [picture for picture in pictures if picture.resolve() not in known]
    if missing:
        raise ValueError(f"{annotations}: does not list {missing[0]} ({len(missing)} pictures are not in it)")
    return [known[picture.resolve()] for picture in pictures]


def _targets(pictures: Sequence[Path], folder: Path) -> list[Path]:
    """A free name in the output folder for each picture; equal names from several folders are numbered."""
    taken: set[str] = set()
    targets = []
    for picture in pictures:
        name, number = f"{picture.stem}.jpg", 2
        while name.lower() in taken:
            name, number = f"{picture.stem}-{number}.jpg", number + 1
        taken.add(name.lower())
        targets.append(folder / name)
        if targets[-1].resolve() == picture.resolve():
            raise ValueError(f"{picture} would be overwritten by its own drawing; give another --output")
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
