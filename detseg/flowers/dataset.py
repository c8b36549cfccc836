"""Embedded images: annotated flower scenes drawn from a seed, for demos, tests and scaling benchmarks.

`draw_scene(seed)` gives one image with exact boxes, instance masks and a semantic map of what is visible;
`write_flowers(folder)` writes a train/val set as JPEG files with COCO annotations. An object is the flower
head only: stems and leaves belong to the background. The same seed gives the same pixels on every machine.
"""

import json
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from pycocotools import mask as coco_mask

from detseg.files import inner_folder, write_atomically
from detseg.flowers.heads import SPECIES
from detseg.flowers.scenes import FlowerScene, draw_scene

__all__ = ["SPECIES", "FlowerScene", "draw_scene", "scene_seed", "write_flowers"]

VERSION = 1  # raise it when the drawn images change, so that older folders are written again
MARKER = "flowers.json"
_PER_SPLIT = 500_000


def scene_seed(seed: int, split: str, index: int) -> int:
    """The seed of `draw_scene` for image `index` of a split: no two images of a data set share one."""
    return seed * 2 * _PER_SPLIT + (0 if split == "train" else _PER_SPLIT) + index


def write_flowers(
    folder: str | Path,
    *,
    train: int = 400,
    val: int = 100,
    size: tuple[int, int] = (320, 320),
    seed: int = 0,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write `train` + `val` images of `size` (width, height) into a folder and return it.

    The folder holds train.json, val.json (COCO, masks as RLE), images/ and a marker file with these settings.
    A complete set with the same settings is left as it is; one with other settings is replaced. `progress` is
    called with (images done, images in all). `workers` threads draw, by default one per usable core.

    Raises ValueError for counts out of range, FileExistsError when the folder holds something else.
    """
    for name, count in (("train", train), ("val", val)):
        if not 1 <= count <= _PER_SPLIT:
            raise ValueError(f"write_flowers: {name}={count}; give a number of images from 1 to {_PER_SPLIT}")
    if seed < 0:
        raise ValueError(f"write_flowers: seed={seed}; give 0 or more")
    folder = Path(folder)
    settings = {"version": VERSION, "train": train, "val": val, "size": list(size), "seed": seed}
    jobs = [(split, index) for split, count in (("train", train), ("val", val)) for index in range(count)]
    if _is_complete(folder, settings, jobs):
        return folder
    _clear(folder)
    write_atomically(folder / MARKER, json.dumps({**settings, "complete": False}))
    inner_folder(folder / "images")
    info = {"description": "detseg's embedded flower images (drawn, not photographed)"}
    categories = [{"id": k, "name": name} for k, name in enumerate(SPECIES, 1)]
    contents: dict[str, dict[str, Any]] = {
        split: {"info": info, "images": [], "annotations": [], "categories": categories} for split in ("train", "val")
    }
    for done, (split, name, scene) in enumerate(_drawn(folder, jobs, seed, size, workers), 1):
        _add_to_coco(contents[split], name, scene)
        if progress is not None:
            progress(done, len(jobs))
    for split, content in contents.items():
        write_atomically(folder / f"{split}.json", json.dumps(content))
    write_atomically(folder / MARKER, json.dumps({**settings, "complete": True}))
    return folder


def _drawn(
    folder: Path, jobs: list[tuple[str, int]], seed: int, size: tuple[int, int], workers: int | None
) -> Iterator[tuple[str, str, FlowerScene]]:
    """Draw and save the jobs on several threads, in order; the drawing kernels run without the GIL."""

    def work(job: tuple[str, int]) -> tuple[str, str, FlowerScene]:
        split, index = job
        scene = draw_scene(scene_seed(seed, split, index), size)
        name = f"{split}_{index:06d}.jpg"
        quality = [cv2.IMWRITE_JPEG_QUALITY, scene.jpeg_quality]
        content = cv2.imencode(".jpg", scene.image[..., ::-1], quality)[1].tobytes()
        write_atomically(folder / "images" / name, content)
        return split, name, scene

    with ThreadPoolExecutor(workers or os.cpu_count()) as pool:
        for start in range(0, len(jobs), 64):  # in pieces: finished scenes must not pile up in memory
            yield from pool.map(work, jobs[start : start + 64])


def _add_to_coco(content: dict[str, Any], name: str, scene: FlowerScene) -> None:
    """Append the records of one image, in place."""
    images, annotations = content["images"], content["annotations"]
    height, width, _ = scene.image.shape
    images.append({"id": len(images) + 1, "file_name": name, "width": width, "height": height})
    for (x1, y1, x2, y2), label, mask in zip(scene.boxes.tolist(), scene.labels.tolist(), scene.masks, strict=True):
        code = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
        annotations.append(
            {
                "id": len(annotations) + 1,
                "image_id": len(images),
                "category_id": label + 1,
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "area": int(mask.sum()),
                "iscrowd": 0,
                "segmentation": {"size": list(code["size"]), "counts": code["counts"].decode("ascii")},
            }
        )


def _is_complete(folder: Path, settings: dict[str, Any], jobs: list[tuple[str, int]]) -> bool:
    marker = folder / MARKER
    if not marker.is_file() or json.loads(marker.read_text()) != {**settings, "complete": True}:
        return False
    present = {path.name for path in (folder / "images").glob("*.jpg")}
    wanted = {f"{split}_{index:06d}.jpg" for split, index in jobs}
    return wanted <= present and all((folder / f"{split}.json").is_file() for split in ("train", "val"))


def _clear(folder: Path) -> None:
    """Remove an earlier set of ours; refuse to touch a folder with anything else in it."""
    if not folder.exists():
        return
    if not folder.is_dir() or (any(folder.iterdir()) and not (folder / MARKER).is_file()):
        raise FileExistsError(f"{folder}: holds something other than embedded flowers; give a new or empty folder")
    for split in ("train", "val"):
        (folder / f"{split}.json").unlink(missing_ok=True)
        for path in (folder / "images").glob(f"{split}_*.jpg"):
            path.unlink()
